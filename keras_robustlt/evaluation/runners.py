"""How each kind of attack runs on a chunk of images.

Those that draw their start apart, such as PGD, are one compiled function that takes
batches. Those that drop images once they are fooled, such as AutoAttack, take the chunk
whole. What counts is decided here, for all of them alike: the class that the network
takes the very image for that the attack returns. Where logits are no numbers that is
none.
"""

import functools
import json
import time
import warnings

import numpy as np
from keras import ops

from keras_robustlt import attacks as known_attacks
from keras_robustlt import backend, checks
from keras_robustlt.attacks import active_set, gradients, norms
from keras_robustlt.attacks.active_set import NO_CLASS
from keras_robustlt.attacks.arguments import check_stays_within
from keras_robustlt.attacks.base import is_called_as, outside
from keras_robustlt.configurable import is_of_this_package
from keras_robustlt.evaluation.cache import Outcome
from keras_robustlt.evaluation.results import in_json

__all__ = ["UNION", "attacks_of", "runners", "settings_of"]

UNION = "union"
# What these names are for in the files of the results.
RESERVED = {
    UNION: "the worst case over all attacks",
    "labels": "the labels",
    "file": "the file itself",
}
CLEAN = "clean"


def attacks_of(attacks, num_classes, image_shape, epsilon, batch_size, norm="linf"):
    """The attacks as a dictionary, with `None` for none.

    Args:
        attacks: See `evaluate`.
        num_classes: Integer, which each of them must be able to deal with.
        image_shape: Tuple of integers, likewise.
        epsilon: Float: the budget of those that are given by name.
        batch_size: Integer, likewise.
        norm: `"linf"` or `"l2"`, likewise.
    """
    if isinstance(attacks, str):
        attacks = [attacks]
    if not hasattr(attacks, "__iter__"):
        raise ValueError(
            "`attacks` must be a list of names, or a dictionary from names to attacks. "
            f"Received: attacks={attacks!r}"
        )
    if not isinstance(attacks, dict):
        names = list(attacks)
        attacks = {
            name: known_attacks.get(name, epsilon, batch_size, norm) for name in names
        }
        if len(attacks) < len(names):
            raise ValueError(
                f"`attacks` names an attack more than once. Received: attacks={names}"
            )
    if not attacks:
        raise ValueError(f"`attacks` names no attack. Received: attacks={attacks}")
    for name, attack in attacks.items():
        if not isinstance(name, str) or attack is not None and not callable(attack):
            raise ValueError(
                "`attacks` must be a list of names, or a dictionary from names to "
                "attacks, functions or None. Received: "
                f"{name!r}: {attack!r}"
            )
        if attack is not None:
            _check_call(f"attacks[{name!r}]", attack)
        if name in RESERVED:
            raise ValueError(
                f"`attacks` must not call an attack {name!r}: that is the name of "
                f"{RESERVED[name]}. Received: {list(attacks)}"
            )
        if (attack is None) != (name == CLEAN) and _is_known(name):
            what = "no attack" if attack is None else "an attack"
            raise ValueError(
                f"`attacks` must not call {what} {name!r}, for what that name stands "
                f"for is another. Received: {name!r}: {attack!r}"
            )
        check_stays_within(f"attacks[{name!r}]", attack)
        if hasattr(attack, "check_classes"):
            attack.check_classes(num_classes)
        if hasattr(attack, "check_image_shape"):
            attack.check_image_shape(image_shape)
    return attacks


def _check_call(name, attack):
    """Raises if an attack cannot be called as `evaluate` does."""
    if isinstance(attack, known_attacks.Attack):
        kind = type(attack).__name__
        if is_called_as(attack, known_attacks.Attack):
            raise ValueError(f"`{name}` must define `__call__`, which {kind} does not.")
        if not hasattr(attack, "epsilon"):
            raise ValueError(
                f"`{name}` must have an epsilon and a norm: its constructor must call "
                f"super().__init__(epsilon). Received: an object of {kind} without"
            )
        attack = attack.__call__
    checks.function(name, attack, ("network", "x", "y"), ("seed",))


def _is_known(name):
    """Whether `name` stands for what only itself is: an attack, or none."""
    if name == CLEAN:
        return True
    try:
        return known_attacks.get(name) is not None
    except ValueError:
        return False


def settings_of(attack):
    """What an attack was made with, as JSON can hold it; `None` for none."""
    if attack is None:
        return None
    config = attack.get_config() if hasattr(attack, "get_config") else {}
    name = type(attack).__name__
    if name == "function":
        name = attack.__name__
    if not isinstance(config, dict):
        raise ValueError(
            f"`get_config` of {name}, an attack, must return a dictionary. Received: "
            f"{config!r:.200}"
        )
    return {"class": name, **{key: _in_short(value) for key, value in config.items()}}


def _in_short(value):
    """An argument of an attack, or the name of what takes more than a line to write."""
    if callable(value):
        return getattr(value, "__name__", type(value).__name__)
    if isinstance(value, dict) and "registered_name" in value:  # written by Keras
        name, config = value["class_name"], value["config"]
        return config if name == "function" else name
    try:
        json.dumps(value, default=in_json)
    except (TypeError, ValueError):
        return type(value).__name__
    return value


def runners(network, attacks, seed):
    """For each attack a function of a chunk, and of whom to tell how far it is.

    It gives the `Outcome` on the chunk.

    Args:
        network: A Keras layer that gives logits.
        attacks: Dictionary from names to attacks, or `None` for none.
        seed: Integer.
    """
    predict = _Predictions(network)
    return {
        name: functools.partial(
            _timed, _runner(network, predict, name, attack, seed, index)
        )
        for index, (name, attack) in enumerate(attacks.items())
    }


def _timed(stages_on, chunk, tell):
    """What an attack yields, with the seconds that each stage takes."""
    names, predictions, seconds = [], [], []
    began = time.perf_counter()
    for stage in stages_on(chunk, tell):
        name, predicted, *moved = stage
        names.append(name)
        predictions.append(predicted)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    predictions = np.stack(predictions).astype("int32")
    return Outcome(names, predictions, np.array(seconds), *moved)


# Functions of a chunk and of whom to tell, that yield the names of the attack's stages
# and the classes predicted after each, and how far a pixel has moved where that is not
# the attack's to say


def _runner(network, predict, name, attack, seed, index):
    if attack is None:
        return functools.partial(_clean, predict)
    if is_called_as(attack, known_attacks.PGD):
        return _InBatches(network, name, attack, seed, index)
    if is_called_as(attack, known_attacks.AutoAttack):
        return functools.partial(_in_stages, network, attack, seed)
    return functools.partial(_whole, network, predict, name, attack, seed)


def _clean(predict, chunk, tell):
    yield "clean", predict(chunk.images, chunk.batch_size)


def _whole(network, predict, name, attack, seed, chunk, tell):
    # Copies: what an attack does to its arguments is not done to the data.
    images, labels = chunk.images.copy(), chunk.labels.copy()
    with warnings.catch_warnings():
        # A finding says it.
        warnings.filterwarnings("ignore", "`network` gives logits that are infinite")
        found = attack(network, images, labels, seed=seed)
    found = _images_of(name, attack, found, chunk.images)
    predicted = predict(found, chunk.batch_size)
    if isinstance(attack, known_attacks.Attack) and is_of_this_package(type(attack)):
        yield "attacked", predicted
    else:
        yield "attacked", predicted, float(np.abs(found - chunk.images).max())


def _images_of(name, attack, found, images):
    """What an attack returns, as a float32 array, if these are images as it should."""
    argument = f"attacks[{name!r}]"
    several = isinstance(found, (tuple, list)) and len(found) != len(images)
    if several or isinstance(found, dict):
        raise ValueError(
            f"`{argument}` must return one array of images. Received: a "
            f"{type(found).__name__} of {len(found)} entries"
        )
    found = active_set.images_to_array(found, argument)
    if found.shape != images.shape:
        raise ValueError(
            f"`{argument}` must return images of the shape {images.shape} that it is "
            f"given. Received: an array of shape {found.shape}"
        )
    checks.images(found, argument)
    if isinstance(attack, known_attacks.Attack):
        distance = norms.get(attack.norm).length(found - images)
        distance = float(ops.convert_to_numpy(distance).max())
        _refuse_outside(argument, attack, distance - attack.epsilon)
    return found


def _refuse_outside(argument, attack, excess):
    """Raises if an attack has left its ball, but for rounding, by so much."""
    if not excess <= 1e-3 * attack.epsilon + 1e-6:
        raise ValueError(
            f"`{argument}` must return images in [0, 1], and within its epsilon="
            f"{attack.epsilon:.4g} of those that it is given ({attack.norm}). Received "
            f"an image at a distance of {attack.epsilon + excess:.4g}, or with a pixel "
            f"{excess:.4g} outside of [0, 1]"
        )


def _in_stages(network, attack, seed, chunk, tell):
    seed = seed if attack.seed is None else attack.seed
    found = attack.stages(network, chunk.images, chunk.labels, seed=seed)
    for number, stage in enumerate(found):
        tell(number / (len(attack.attacks) + 1), f"after {stage.name}")
        yield stage.name, stage.predicted


class _InBatches:
    """An attack that is one compiled function, with its restarts."""

    def __init__(self, network, name, attack, seed, index):
        def attacked(images, labels, start):
            x_adv = attack.perturb(network, images, labels, start)
            if is_of_this_package(type(attack)):
                excess, moved = 0.0, np.nan
            else:
                excess = ops.max(outside(images, x_adv, attack.epsilon, attack))
                moved = ops.max(ops.abs(x_adv - images))
            return _predicted(network, x_adv), excess, moved

        self._name = name
        self._attack = attack
        self._seed = (seed, index)
        self._run = backend.compiled(attacked, active_set.variables_of(network))

    def __call__(self, chunk, tell):
        parts, moved = [], []
        for number, (images, labels) in enumerate(chunk.batches):
            predicted, farthest = self._on_batch(images, labels, chunk, number)
            parts.append(predicted)
            moved.append(farthest)
            tell((number + 1) / len(chunk.batches))
        yield "attacked", np.concatenate(parts), max(moved)

    def _on_batch(self, images, labels, chunk, number):
        # A last, smaller batch is filled up: for its size nothing is compiled.
        size = len(labels)
        index = np.arange(chunk.batch_size) % size
        images, labels = images[index], labels[index]
        x = ops.convert_to_tensor(images)
        predicted, farthest = labels, []
        for restart in range(self._attack.restarts):
            # Seeds that say which draw it is do not depend on what ran before.
            draw = [*self._seed, chunk.first + number, restart]
            draw = int(np.random.SeedSequence(draw).generate_state(1)[0] >> 1)
            start = self._attack.starting_point(x, seed=draw)
            found = map(ops.convert_to_numpy, self._run(images, labels, start))
            again, excess, moved = found
            _refuse_outside(f"attacks[{self._name!r}]", self._attack, float(excess))
            # Once an image is misclassified, that is the result.
            predicted = np.where(predicted == labels, again, predicted)
            farthest.append(float(moved))
        return predicted[:size], max(farthest)


class _Predictions:
    """The classes that the network takes images for."""

    def __init__(self, network):
        def predicted(images):
            return _predicted(network, images)

        self._run = backend.compiled(predicted, active_set.variables_of(network))

    def __call__(self, images, batch_size):
        return active_set.in_batches(self._run, batch_size, images)


def _predicted(network, images):
    logits = gradients.logits_of(network)(images)
    known = ops.all(ops.isfinite(logits), axis=-1)
    return ops.where(known, ops.cast(ops.argmax(logits, axis=-1), "int32"), NO_CLASS)
