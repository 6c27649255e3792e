"""Attacks: what an adversary does to an image within a budget."""

import functools
import re

import keras

from keras_robustlt import checks
from keras_robustlt.attacks import norms
from keras_robustlt.attacks.apgd import APGD, APGDT
from keras_robustlt.attacks.autoattack import PARTS, AutoAttack
from keras_robustlt.attacks.base import Attack, trait
from keras_robustlt.attacks.fab import FAB
from keras_robustlt.attacks.pgd import FGSM, PGD
from keras_robustlt.attacks.single_step import FGSMRS, NFGSM, FGSMBernoulli
from keras_robustlt.attacks.square import Square
from keras_robustlt.attacks.udr import UDR

__all__ = [
    "APGD",
    "APGDT",
    "FAB",
    "FGSM",
    "FGSMRS",
    "NFGSM",
    "PGD",
    "UDR",
    "Attack",
    "AutoAttack",
    "FGSMBernoulli",
    "Square",
    "get",
    "get_training",
]

BY_NAME = {
    **PARTS,
    "autoattack": AutoAttack,
    "autoattack-plus": functools.partial(AutoAttack, "plus"),
    "autoattack-rand": functools.partial(AutoAttack, "rand"),
}
# Those to train with.
TRAINING = {
    "pgd": PGD,
    "fgsm-rs": FGSMRS,
    "n-fgsm": NFGSM,
    "n-fgsm-mean": functools.partial(NFGSM, noise_of="mean"),
    "fgsm-bernoulli": FGSMBernoulli,
    "udr": UDR,
}
# The losses of those with a number of steps behind their name.
STEPPED = {"pgd": "cross_entropy", "cw": "margin"}


def get(attack, epsilon=None, batch_size=250, norm="linf"):
    """An attack from its name or itself.

    Args:
        attack: A name: `"fgsm"`, `"fgsm-rs"`, `"pgdN"` (`N` steps of `epsilon / 8`, or
            of as much more as it takes to cross the ball, from a random start), `"cwN"`
            (the same with the margin loss), `"autoattack"` (the standard version),
            `"autoattack-plus"`,
            `"autoattack-rand"`, and its parts `"apgd-ce"`, `"apgd-dlr"`,
            `"apgd-t"`, `"fab"`, `"fab-t"` and `"square"`.
            Or an `Attack` or a function, `attack(network, x, y, seed=...)` that gives
            images. Or `None` or `"clean"`, for none.
        epsilon: Float. The budget of an attack given by name, in pixel units.
            Defaults to `8 / 255`, and in the norm `"l2"` to `128 / 255`.
        batch_size: Integer. Images that an attack given by name computes at once, if
            it decides that. Defaults to `250`.
        norm: `"linf"` or `"l2"`, of an attack given by name. Defaults to `"linf"`.

    Returns:
        An `Attack`, the object or function that `attack` is, or `None`.

    Raises:
        ValueError: If there is no such attack.

    Example:

    >>> krl.attacks.get("pgd20", epsilon=0.1).steps
    20
    """
    # Those that have no use for a number do not take a wrong one either.
    epsilon = norms.epsilon(epsilon, norm)
    batch_size = checks.positive_integer("batch_size", batch_size)
    if attack is None or isinstance(attack, str) and attack == "clean":
        return None
    if isinstance(attack, Attack):
        return attack
    if callable(attack) and not isinstance(attack, (type, keras.Layer)):
        return checks.function("attack", attack, ("network", "x", "y"), ("seed",))
    if isinstance(attack, str):
        name, steps = re.fullmatch(r"(.*?)(\d*)", attack, re.DOTALL).groups()
        if attack == "fgsm":
            return FGSM(epsilon, norm)
        if attack == "fgsm-rs":
            if norm != "linf":
                raise ValueError(
                    "'fgsm-rs' is an attack in the norm 'linf'; of 'l2' there is "
                    f"'fgsm'. Received: norm={norm!r}"
                )
            return FGSMRS(epsilon)
        if name in STEPPED and steps and steps == str(int(steps)):  # not "pgd020"
            size = epsilon / min(max(int(steps), 1), 8)
            return PGD(epsilon, int(steps), size, norm, loss=STEPPED[name])
        if attack in BY_NAME:
            return BY_NAME[attack](epsilon=epsilon, norm=norm, batch_size=batch_size)
    raise ValueError(
        "An attack must be 'clean', 'fgsm', 'fgsm-rs', 'pgdN' or 'cwN' with a number "
        f"of steps N, {', '.join(map(repr, BY_NAME))}, or an object such as "
        f"keras_robustlt.attacks.PGD(). Received: {attack!r}"
    )


def get_training(attack, epsilon=8 / 255):
    """A training attack from its name or itself.

    Args:
        attack: `"pgd"` (10 steps of `epsilon / 4`), `"fgsm-rs"`, `"n-fgsm"`,
            `"n-fgsm-mean"`, `"fgsm-bernoulli"`, `"udr"` (PGD with a soft projection),
            or an attack, which is given back.
        epsilon: Float. The budget of an attack given by name, in pixel units.
            Defaults to `8 / 255`.

    Returns:
        An attack.

    Raises:
        ValueError: If there is none of this name.

    Example:

    >>> krl.attacks.get_training("n-fgsm", epsilon=0.1)
    NFGSM(epsilon=0.1, noise_of='own')
    """
    epsilon = checks.epsilon(epsilon, trait(attack, "norm"))
    if callable(attack) and not isinstance(attack, type):
        return attack
    if not isinstance(attack, str) or attack not in TRAINING:
        raise ValueError(
            f"`attack` must be one of {', '.join(map(repr, TRAINING))}, or an attack "
            "such as keras_robustlt.attacks.PGD(epsilon, steps=10). "
            f"Received: attack={attack!r}"
        )
    return TRAINING[attack](epsilon)
