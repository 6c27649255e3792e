"""Attacks by their names, and how each kind of them runs on a chunk of images.

Those that are one compiled function, such as PGD, take it in batches. Those that drop
images once they are fooled, such as AutoAttack, take it whole. What counts is decided
here, for all of them alike: the class that the network takes the very image for that
the attack returns. An image whose logits are no numbers is taken for none.
"""

import functools
import time

import numpy as np
from keras import ops

from keras_robustlt import backend
from keras_robustlt.attacks import (
    APGD,
    APGDT,
    FAB,
    FGSM,
    PGD,
    AutoAttack,
    Square,
    active_set,
)
from keras_robustlt.evaluation.cache import Outcome

__all__ = [
    "NO_CLASS",
    "UNION",
    "attack_by_name",
    "attacks_of",
    "runners",
    "settings_of",
]

UNION = "union"
# What these names are for in the files of the results.
RESERVED = {UNION: "the worst case over all attacks", "labels": "the labels"}
# Where logits are no numbers.
NO_CLASS = -1
NAMED_ATTACKS = {
    "clean": lambda **_: None,
    "fgsm": lambda epsilon, batch_size: FGSM(epsilon),
    "apgd-ce": APGD,
    "apgd-dlr": lambda **common: APGD(loss="dlr", **common),
    "apgd-t": APGDT,
    "fab-t": FAB,
    "square": Square,
    "autoattack": AutoAttack,
    "autoattack-plus": lambda **common: AutoAttack("plus", **common),
    "autoattack-rand": lambda **common: AutoAttack("rand", **common),
}


def attacks_of(attacks, epsilon, batch_size):
    """The attacks as a dictionary, with `None` for none."""
    if isinstance(attacks, str):
        attacks = [attacks]
    if not hasattr(attacks, "__iter__"):
        raise ValueError(
            "`attacks` must be a list of names, or a dictionary from names to attacks. "
            f"Received: attacks={attacks!r}"
        )
    if not isinstance(attacks, dict):
        attacks = {name: attack_by_name(name, epsilon, batch_size) for name in attacks}
    if not attacks:
        raise ValueError(f"`attacks` names no attack. Received: attacks={attacks}")
    for name, attack in attacks.items():
        if name in RESERVED:
            raise ValueError(
                f"`attacks` must not call an attack {name!r}: that is the name of "
                f"{RESERVED[name]}. Received: {list(attacks)}"
            )
        if not isinstance(name, str) or attack is not None and not callable(attack):
            raise ValueError(
                "`attacks` as a dictionary must hold attacks, functions or None, under "
                f"names that are strings. Received: {name!r}: {attack!r}"
            )
    return attacks


def attack_by_name(name, epsilon, batch_size):
    """The attack that a name such as "pgd20" stands for; None for "clean"."""
    if name in NAMED_ATTACKS:
        return NAMED_ATTACKS[name](epsilon=epsilon, batch_size=batch_size)
    text = str(name)
    kind, steps = text.rstrip("0123456789"), text.lstrip("abcdefghijklmnopqrstuvwxyz")
    losses = {"pgd": "cross_entropy", "cw": "margin"}
    if kind not in losses or not steps.isdigit():
        known = [name for name in NAMED_ATTACKS if name not in ("clean", "fgsm")]
        raise ValueError(
            "`attacks` must be of 'clean', 'fgsm', 'pgdN' or 'cwN' with a number of "
            f"steps N, {', '.join(map(repr, known))}, or a dictionary of attack "
            f"objects. Received: {name!r}"
        )
    return PGD(epsilon, int(steps), epsilon / 8, loss=losses[kind])


def settings_of(attack):
    """What an attack was made with, as JSON can hold it; `None` for none."""
    if attack is None:
        return None
    config = attack.get_config() if hasattr(attack, "get_config") else {}
    name = type(attack).__name__
    if name == "function":
        name = attack.__name__
    config = {
        key: getattr(value, "__name__", repr(value)) if callable(value) else value
        for key, value in config.items()
    }
    return {"class": name, **config}


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
        name: functools.partial(_timed, _runner(network, predict, attack, seed, index))
        for index, (name, attack) in enumerate(attacks.items())
    }


def _timed(stages_on, chunk, tell):
    """What an attack yields, with the seconds that each stage takes."""
    names, predictions, seconds = [], [], []
    began = time.perf_counter()
    for name, predicted in stages_on(chunk, tell):
        names.append(name)
        predictions.append(predicted)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return Outcome(names, np.stack(predictions).astype("int32"), np.array(seconds))


# Functions of a chunk and of whom to tell, that yield the names of the attack's stages
# and the classes predicted after each


def _runner(network, predict, attack, seed, index):
    if attack is None:
        return functools.partial(_clean, predict)
    if isinstance(attack, PGD):
        return _InBatches(network, attack, seed, index)
    if isinstance(attack, AutoAttack):
        return functools.partial(_in_stages, network, predict, attack, seed)
    return functools.partial(_whole, network, predict, attack, seed)


def _clean(predict, chunk, tell):
    yield "clean", predict(chunk.images, chunk.batch_size)


def _whole(network, predict, attack, seed, chunk, tell):
    found = attack(network, chunk.images, chunk.labels, seed=seed)
    found = active_set.to_array(found, "attack").astype("float32")
    yield "attacked", predict(found, chunk.batch_size)


def _in_stages(network, predict, attack, seed, chunk, tell):
    found = attack.stages(network, chunk.images, chunk.labels, seed=seed)
    for number, stage in enumerate(found):
        tell(number / (len(attack.attacks) + 1), f"after {stage.name}")
        yield stage.name, stage.predicted


class _InBatches:
    """An attack that is one compiled function, with its restarts."""

    def __init__(self, network, attack, seed, index):
        def attacked(images, labels, start):
            return _predicted(network, attack.perturb(network, images, labels, start))

        self._attack = attack
        self._seed = (seed, index)
        self._run = backend.compiled(attacked, active_set.variables_of(network))

    def __call__(self, chunk, tell):
        parts = []
        for number, (images, labels) in enumerate(chunk.batches):
            parts.append(self._on_batch(images, labels, chunk, number))
            tell((number + 1) / len(chunk.batches))
        yield "attacked", np.concatenate(parts)

    def _on_batch(self, images, labels, chunk, number):
        # A last, smaller batch is filled up: for its size nothing is compiled.
        size = len(labels)
        index = np.arange(max(size, chunk.batch_size)) % size
        images, labels = images[index], labels[index]
        predicted = labels
        for restart in range(self._attack.restarts):
            # Seeds that say which draw it is do not depend on what ran before.
            draw = [*self._seed, chunk.first + number, restart]
            draw = int(np.random.SeedSequence(draw).generate_state(1)[0] >> 1)
            start = self._attack.starting_point(
                ops.convert_to_tensor(images), seed=draw
            )
            again = ops.convert_to_numpy(self._run(images, labels, start))
            # Once an image is misclassified, that is the result.
            predicted = np.where(predicted == labels, again, predicted)
        return predicted[:size]


class _Predictions:
    """The classes that the network takes images for."""

    def __init__(self, network):
        def predicted(images):
            return _predicted(network, images)

        self._run = backend.compiled(predicted, active_set.variables_of(network))

    def __call__(self, images, batch_size):
        return active_set.in_batches(self._run, batch_size, images)


def _predicted(network, images):
    logits = active_set.logits_of(network)(images)
    known = ops.all(ops.isfinite(logits), axis=-1)
    return ops.where(known, ops.cast(ops.argmax(logits, axis=-1), "int32"), NO_CLASS)
