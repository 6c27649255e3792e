"""How robust a classifier is, class by class."""

import time

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks
from keras_robustlt.attacks import FGSM, PGD
from keras_robustlt.metrics import summarize, tail_classes
from keras_robustlt.results import EvaluationResults

__all__ = ["EvaluationResults", "evaluate"]


def evaluate(
    model,
    x,
    y=None,
    attacks=("clean", "pgd20"),
    epsilon=None,
    class_counts=None,
    tail_fraction=0.8,
    class_names=None,
    batch_size=250,
    seed=0,
    verbose=1,
):
    """Accuracy of a classifier under attacks: all, tail, balanced, worst, per class.

    The network runs in inference mode; each attack has the whole budget `epsilon` for
    every class.

    Args:
        model: A `RobustLTModel`, or any `keras.Model` that gives logits.
        x: Images, an array of shape `(examples, ...)` with values in `[0, 1]`, or a
            `tf.data.Dataset` (or other iterable) of batches `(x, y)`, or a pair of
            arrays `(x, y)`.
        y: Labels of an array `x`: integers or one-hot.
        attacks: List of names, or a dictionary from names to attacks. Names are
            `"clean"`, `"fgsm"`, `"pgdN"` (`N` steps of `epsilon / 8` from a random
            start) and `"cwN"` (the same with the margin loss). Defaults to
            `("clean", "pgd20")`.
        epsilon: Float. The budget of the attacks given by name, in pixel units.
            Defaults to that of a `RobustLTModel`, and to `8 / 255` for others.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class, which say what the tail is. Defaults to those of a
            `RobustLTModel`.
        tail_fraction: Float. See `metrics.tail_classes`. Defaults to `0.8`.
        class_names: List of strings. Defaults to the class indices.
        batch_size: Integer. Batch size for arrays. Defaults to `250`.
        seed: Integer. Seed of the random starts. Defaults to `0`.
        verbose: `0` or `1`: whether to show progress. Defaults to `1`.

    Returns:
        An `EvaluationResults`.

    Raises:
        ValueError: If an attack is unknown, images or labels are out of range, or
            `class_counts` is missing.

    Example:

    >>> results = krl.evaluate(model, test, attacks=["clean", "pgd20", "cw20"])
    >>> results["pgd20"]["tail"]
    >>> results.to_json("results.json")
    """
    network = getattr(model, "inference_network", model)
    if epsilon is None:
        epsilon = getattr(model, "epsilon", 8 / 255)
    if class_counts is None:
        if not hasattr(model, "class_counts"):
            raise ValueError(
                "`class_counts` is needed to say which classes are the tail: pass the "
                "number of training images of each class. Received: class_counts=None"
            )
        class_counts = model.class_counts
        tail_fraction = model.tail_fraction
    class_counts = checks.class_counts(class_counts)
    num_classes = len(class_counts)
    if not isinstance(attacks, dict):
        attacks = {name: _attack_by_name(name, epsilon) for name in attacks}
    class_names = [str(name) for name in class_names or range(num_classes)]
    if len(class_names) != num_classes:
        raise ValueError(
            f"`class_names` must have {num_classes} names, as many as `class_counts`. "
            f"Received: {class_names}"
        )
    checks.logits_not_probabilities(network)

    is_right = {name: _compiled(network, attack) for name, attack in attacks.items()}
    correct = {name: np.zeros(num_classes) for name in attacks}
    total = np.zeros(num_classes)
    seconds = dict.fromkeys(attacks, 0.0)
    batches, length = _batches(x, y, batch_size)
    progress = keras.utils.Progbar(length and length * len(attacks), verbose=verbose)
    for number, (images, labels) in enumerate(batches):
        images, labels = _checked(images, labels, num_classes)
        total += np.bincount(labels, minlength=num_classes)
        for index, name in enumerate(attacks):
            began = time.perf_counter()
            # Seeds that say which draw it is do not depend on what ran before.
            draw = np.random.SeedSequence([seed, index, number]).generate_state(1)[0]
            right = is_right[name](images, labels, int(draw >> 1))
            correct[name] += np.bincount(labels, right, minlength=num_classes)
            seconds[name] += time.perf_counter() - began
            progress.add(1)
    if not total.sum():
        raise ValueError("`x` has no images to evaluate on.")
    tail = tail_classes(class_counts, tail_fraction)
    accuracies = {
        name: {
            **summarize(correct[name], total, tail),
            "attack": attack and _settings(attack),
            "seconds": round(seconds[name], 3),
        }
        for name, attack in attacks.items()
    }
    settings = {
        "epsilon": float(epsilon),
        "examples": int(total.sum()),
        "seed": seed,
        "class_counts": class_counts.tolist(),
        "class_names": class_names,
        "tail_classes": tail.tolist(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }
    return EvaluationResults(accuracies, settings)


def _attack_by_name(name, epsilon):
    """The attack that a name such as "pgd20" stands for; None for "clean"."""
    if name == "clean":
        return None
    if name == "fgsm":
        return FGSM(epsilon)
    kind, steps = name.rstrip("0123456789"), name.lstrip("abcdefghijklmnopqrstuvwxyz")
    losses = {"pgd": "cross_entropy", "cw": "margin"}
    if kind not in losses or not steps.isdigit():
        raise ValueError(
            "`attacks` must be of 'clean', 'fgsm', 'pgdN' or 'cwN' with a number of "
            f"steps N, or a dictionary of attack objects. Received: {name!r}"
        )
    return PGD(epsilon, int(steps), epsilon / 8, loss=losses[kind])


def _compiled(network, attack):
    """A function of images, labels and a seed: which images are classified right."""

    def attacked(images, labels, start):
        if attack is not None:
            images = attack.perturb(network, images, labels, start)
        predictions = ops.argmax(network(images, training=False), axis=-1)
        return ops.equal(predictions, ops.cast(labels, predictions.dtype))

    run = backend.compiled(attacked, network.variables)
    size = None

    def is_right(images, labels, seed):
        nonlocal size
        size = size or len(images)
        examples = len(images)
        if examples < size:  # the last batch: filled up, not compiled for anew
            fill = np.arange(size) % examples
            images, labels = images[fill], labels[fill]
        start = images
        if attack is not None:
            start = attack.starting_point(ops.convert_to_tensor(images), seed=seed)
        return ops.convert_to_numpy(run(images, labels, start))[:examples]

    return is_right


def _batches(x, y, batch_size):
    """An iterable of batches, and how many there are (None if that is not known)."""
    if y is not None:
        x, y = np.asarray(x), np.asarray(y)
        if len(x) != len(y):
            raise ValueError(
                "`x` and `y` must have the same length. "
                f"Received: {len(x)} images and {len(y)} labels"
            )
        starts = range(0, len(x), batch_size)
        return ((x[i : i + batch_size], y[i : i + batch_size]) for i in starts), len(
            starts
        )
    if isinstance(x, tuple) and len(x) == 2:
        return _batches(*x, batch_size)
    if not hasattr(x, "__iter__") or isinstance(x, np.ndarray):
        raise ValueError(
            "`y` is needed where `x` is an array. Received: y=None and x of type "
            f"{type(x).__name__}"
        )
    length = x.cardinality() if hasattr(x, "cardinality") else None
    return x, int(length) if length is not None and length > 0 else None


def _checked(images, labels, num_classes):
    """Images and integer labels as arrays."""
    images, labels = ops.convert_to_numpy(images), ops.convert_to_numpy(labels)
    checks.images(images)
    checks.labels(labels, num_classes)
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        labels = labels.argmax(axis=1)
    return images.astype("float32"), labels.reshape(-1).astype("int64")


def _settings(attack):
    config = attack.get_config()
    loss = config["loss"]
    return {
        "class": type(attack).__name__,
        **config,
        "loss": loss
        if isinstance(loss, str)
        else getattr(loss, "__name__", repr(loss)),
    }
