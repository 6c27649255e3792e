"""One training step, and all in it that two devices could disagree about.

`gpu_suite.py` runs this file on the CPU, for reference, and on the device: the same
weights, images and starts of the attack, float32 in its highest precision.
"""

import dataclasses
import json
import sys

import numpy as np
import sides


def run(cell, reference):
    """The arrays of a step.

    Args:
        cell: A `sides.Cell`.
        reference: The arrays of another device, whose weights and adversarial images
            are taken; or `None`.

    Returns:
        A dictionary of arrays: `weights`, as they are at first; `gradient`, of the
        images at the start of the attack; `adversarial`, the images that the attack
        makes; `loss` and `updated`, the weights after training on the reference's
        adversarial images; `step_loss` and `step_updated` after a whole step.
    """
    from keras import ops

    from keras_robustlt import backend, losses

    ours = sides.Ours(cell)
    model, network = ours.model, ours.network
    if reference is not None:
        network.set_weights(_arrays(reference, "weights"))
    weights = network.get_weights()
    x, y = ours.batches[1]
    noise = np.random.default_rng(1).uniform(-1, 1, x.shape).astype("float32")
    start = ops.clip(x + sides.EPSILON * noise, 0.0, 1.0)
    targets = losses.one_hot(y, cell.classes)

    def gradient(start):
        def loss(images):
            logits = backend.frozen(network)(images, training=True)
            return ops.sum(losses.cross_entropy(targets, logits))

        return backend.gradient(loss, start)

    def attack(start):
        return model.attack.perturb(network, x, targets, start, training=True)

    result = {
        "gradient": backend.compiled(gradient, network.variables)(start),
        "adversarial": backend.compiled(attack, network.variables)(start),
    }
    images = (reference or result)["adversarial"]
    # Training on given images: what the step does once the attack is done.
    trained = sides.Ours(dataclasses.replace(cell, method="standard"))
    trained.network.set_weights(weights)
    logs = trained.model.train_on_batch(
        ops.convert_to_tensor(images), y, return_dict=True
    )
    result["loss"] = logs["loss"]
    result["step_loss"] = model.train_on_batch(x, y, return_dict=True)["loss"]
    result = {key: np.asarray(ops.convert_to_numpy(v)) for key, v in result.items()}
    for name, values in (
        ("weights", weights),
        ("updated", trained.network.get_weights()),
        ("step_updated", network.get_weights()),
    ):
        result.update({f"{name}_{i}": value for i, value in enumerate(values)})
    return result


def differences(reference, device):
    """How far the arrays of two devices are from each other.

    Returns:
        A dictionary of floats: see `TOLERANCES` of `gpu_suite.py`.
    """
    before = _flat(reference, "weights")

    def update_error(name):
        expected = _flat(reference, name) - before
        return _relative(_flat(device, name) - before, expected)

    moved = np.abs(device["adversarial"] - reference["adversarial"])
    return {
        "gradient": _relative(device["gradient"], reference["gradient"]),
        "signs": np.mean(np.sign(device["gradient"]) != np.sign(reference["gradient"])),
        "adversarial_pixels": np.mean(moved > 1e-3 * sides.EPSILON),
        "loss": _relative(device["loss"], reference["loss"]),
        "update": update_error("updated"),
        "step_loss": _relative(device["step_loss"], reference["step_loss"]),
        "step_update": update_error("step_updated"),
    }


def _arrays(stored, name):
    count = sum(key.rpartition("_")[0] == name for key in stored)
    return [stored[f"{name}_{index}"] for index in range(count)]


def _flat(stored, name):
    return np.concatenate([value.ravel() for value in _arrays(stored, name)])


def _relative(value, expected):
    value, expected = np.float64(value), np.float64(expected)
    return np.linalg.norm(value - expected) / np.linalg.norm(expected)


def main():
    settings = json.loads(sys.argv[1])
    reference = None
    if settings["reference"]:
        with np.load(settings["reference"]) as stored:
            reference = dict(stored)
    arrays = run(sides.Cell(**settings["cell"]), reference)
    np.savez(settings["output"], **arrays)


if __name__ == "__main__":
    main()
