"""AutoAttack: an ensemble of attacks without parameters to choose."""

import functools
import time

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.attacks import active_set
from keras_robustlt.attacks.apgd import APGD, APGDT
from keras_robustlt.attacks.base import Attack
from keras_robustlt.attacks.fab import FAB
from keras_robustlt.attacks.square import Square

__all__ = ["AutoAttack"]

# The one place that knows an attack of these by its name, see `attacks.get`.
PARTS = {
    "apgd-ce": APGD,
    "apgd-dlr": functools.partial(APGD, loss="dlr"),
    "apgd-t": APGDT,
    "fab": functools.partial(FAB, targets=None),
    "fab-t": FAB,
    "square": Square,
}
# Classes for which the difference of logits ratio that they climb is defined.
FEWEST_CLASSES = {"apgd-dlr": 3, "apgd-t": 4}
# The attacks of each version, with what differs from their defaults.
VERSIONS = {
    "standard": {"apgd-ce": {}, "apgd-t": {}, "fab-t": {}, "square": {}},
    "plus": {
        "apgd-ce": {"restarts": 5},
        "apgd-dlr": {"restarts": 5},
        "fab": {"restarts": 5},
        "square": {},
        "apgd-t": {},
        "fab-t": {},
    },
    "rand": {"apgd-ce": {"eot": 20}, "apgd-dlr": {"eot": 20}},
}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class AutoAttack(Attack):
    """The standard ensemble for robust accuracy: gradient-based and black-box attacks.

    Each attack works on what the ones before it have left. An image is robust if the
    network classifies it right and no attack changes that.

    Args:
        version: `"standard"`: APGD with the cross-entropy, targeted APGD, targeted FAB
            and Square, with 100 steps, 9 targets and 5000 queries. `"plus"`: five
            restarts of APGD with the cross-entropy, of APGD with the DLR loss and of
            FAB, then Square, targeted APGD and targeted FAB. `"rand"`, for networks
            that are themselves random: APGD with both losses and gradients that are
            means of 20. Or a list of `"apgd-ce"`, `"apgd-dlr"`, `"apgd-t"`, `"fab"`,
            `"fab-t"`, `"square"` (as in `"standard"`) and of attacks, whose own
            `epsilon` is not used. Defaults to `"standard"`. With two or three classes,
            for which the loss of `"apgd-dlr"` or `"apgd-t"` is not defined, a version
            runs APGD with the margin loss in its place, and adds `" (margin)"` to the
            name of the stage.
        epsilon: Float. Radius of the ball, in pixel units of images in `[0, 1]`.
            Defaults to `8 / 255`, and in the norm `"l2"` to `128 / 255`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        seed: Integer: what is drawn for an image depends on it and on the image
            alone. Defaults to `None`, which draws it from
            `keras.utils.set_random_seed`.
        batch_size: Integer. Images that are computed at once. Defaults to `250`.

    Raises:
        ValueError: If an argument is out of range; on a call also if the network has
            too few classes for one of a list of attacks.

    Example:

    >>> attack = krl.attacks.AutoAttack(["apgd-ce", "fab-t"], epsilon=8 / 255, seed=0)
    >>> x_adv = attack(network, x, y)

    Reference:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
        Ensemble of Diverse Parameter-free Attacks", ICML 2020, section 5.
    """

    _fixed = ("version", *Attack._fixed)

    def __init__(
        self,
        version="standard",
        epsilon=None,
        norm="linf",
        seed=None,
        batch_size=250,
    ):
        if isinstance(version, str):
            checks.one_of("version", version, tuple(VERSIONS))
        elif not isinstance(version, (tuple, list)):
            raise ValueError(
                f"`version` must be one of {', '.join(map(repr, VERSIONS))}, or a list "
                f"of attacks. Received: {version!r}"
            )
        elif not version:
            raise ValueError(f"`version` names no attack. Received: {version!r}")
        super().__init__(epsilon, norm)
        self.version = version if isinstance(version, str) else list(version)
        self.seed = None if seed is None else checks.integer_seed(seed)
        self.batch_size = checks.positive_integer("batch_size", batch_size)
        listed = VERSIONS[version] if isinstance(version, str) else self.version
        self.attacks = {}
        for attack in listed:
            name = attack if isinstance(attack, str) else type(attack).__name__.lower()
            if name in self.attacks:
                name = f"{name}-{len(self.attacks) + 1}"
            self.attacks[name] = self._get(attack)
        # What runs in their place with few classes: kept, for what is compiled.
        self._margin_attacks = {}

    def __call__(self, network, x, y, epsilon=None, seed=None):
        """Adversarial examples for the images `x`.

        Args:
            network: A Keras model that gives logits, or a function of a batch of
                images that does.
            x: Float array or tensor of shape `(examples, ...)`, images in `[0, 1]`.
            y: Labels, integers `(examples,)` or one-hot `(examples, num_classes)`.
            epsilon: Float or array of shape `(examples,)`: another budget than the
                attack's own, the same for all images or one for each.
            seed: Integer, in place of the attack's own.

        Returns:
            A float32 tensor of the shape of `x`. Images that stay robust, and those
            that the network gets wrong anyway, are returned as they are.
        """
        *_, last = self.stages(network, x, y, epsilon, seed)
        return ops.convert_to_tensor(last.x_adv)

    def stages(self, network, x, y, epsilon=None, seed=None):
        """The same one attack at a time: a generator of what is robust so far.

        Args:
            network: See `__call__`.
            x: See `__call__`.
            y: See `__call__`.
            epsilon: See `__call__`.
            seed: See `__call__`.

        Yields:
            A `Stage` for the images as they are, called `"clean"`, and one after each
            attack.

        Example:

        >>> attack = krl.attacks.AutoAttack(["apgd-ce", "square"], epsilon=0.01)
        >>> accuracy = {
        ...     stage.name: stage.robust.mean()
        ...     for stage in attack.stages(network, x, y, seed=0)
        ... }
        """
        began = time.perf_counter()
        first = next(iter(self.attacks.values()))
        epsilon = self.epsilon if epsilon is None else epsilon
        seed = self.seed if seed is None else seed
        problem = first._problem(network, x, y, epsilon, seed)
        self.check_image_shape(problem.image.shape[1:])
        logits_of = problem.functions["logits"]
        num_classes = problem.logits.shape[1]
        self.check_classes(num_classes)
        attacks = self._for_classes(num_classes)
        for attack in attacks.values():
            # One compilation does for all of them.
            attack._functions(network)["logits"] = logits_of
        predicted = active_set.classes(problem.logits)
        x_adv = problem.image.copy()

        def stage(name):
            seconds = time.perf_counter() - began
            robust = predicted == problem.label
            return Stage(name, robust, predicted.copy(), x_adv.copy(), seconds)

        yield stage("clean")
        for number, (name, attack) in enumerate(attacks.items()):
            began = time.perf_counter()
            active = np.flatnonzero(predicted == problem.label)
            if active.size:
                found = attack(
                    network,
                    problem.image[active],
                    problem.label[active],
                    problem.epsilon[active].ravel(),
                    # Attacks of the same kind do not start from the same points.
                    problem.seed + number,
                )
                found = ops.convert_to_numpy(found)
                # Whatever the attack says: what counts is the image that it returns.
                logits = active_set.in_batches(logits_of, self.batch_size, found)
                taken_for = active_set.classes(logits)
                fooled = taken_for != problem.label[active]
                predicted[active[fooled]] = taken_for[fooled]
                x_adv[active[fooled]] = found[fooled]
            yield stage(name)

    def check_classes(self, num_classes):
        super().check_classes(num_classes)
        for attack in self._for_classes(num_classes).values():
            attack.check_classes(num_classes)

    def check_image_shape(self, shape):
        for attack in self.attacks.values():
            attack.check_image_shape(shape)

    def _for_classes(self, num_classes):
        """The attacks, with the margin loss where the version's own is not defined."""
        if not isinstance(self.version, str):
            return self.attacks
        attacks = {}
        for name, attack in self.attacks.items():
            if num_classes < FEWEST_CLASSES.get(name, 2):
                attack = self._with_margin(name, attack)
                name = f"{name} (margin)"
            attacks[name] = attack
        return attacks

    def _with_margin(self, name, attack):
        if name not in self._margin_attacks:
            config = {**attack.get_config(), "loss": "margin"}
            config.pop("targets", None)
            self._margin_attacks[name] = APGD(**config)
        return self._margin_attacks[name]

    def _get(self, attack):
        if not isinstance(attack, str):
            if not isinstance(attack, active_set.ActiveSetAttack):
                raise ValueError(
                    "`version` as a list must hold names of attacks, or attacks of "
                    f"the kind of APGD, FAB and Square. Received: {attack!r}"
                )
            if attack.norm != self.norm:
                raise ValueError(
                    "`norm` must be that of the attacks in `version`. Received: "
                    f"norm={self.norm!r} and an attack with norm={attack.norm!r}"
                )
            return attack
        options = {}
        if isinstance(self.version, str):
            options = VERSIONS[self.version][attack]
        return PARTS[checks.one_of("version", attack, tuple(PARTS))](
            epsilon=self.epsilon,
            norm=self.norm,
            batch_size=self.batch_size,
            **options,
        )

    def get_config(self):
        version = self.version
        if not isinstance(version, str):
            version = [
                attack
                if isinstance(attack, str)
                else keras.saving.serialize_keras_object(attack)
                for attack in version
            ]
        return {
            "version": version,
            **super().get_config(),
            "seed": self.seed,
            "batch_size": self.batch_size,
        }

    @classmethod
    def from_config(cls, config):
        version = config.get("version", "standard")
        if not isinstance(version, str):
            version = [
                attack
                if isinstance(attack, str)
                else keras.saving.deserialize_keras_object(attack)
                for attack in version
            ]
        return cls(**{**config, "version": version})


class Stage:
    """What is robust after an attack of `AutoAttack` and all those before it.

    Attributes:
        name: String. The name of the attack.
        robust: Boolean array of shape `(examples,)`.
        predicted: Integer array of shape `(examples,)`: the classes that the network
            takes `x_adv` for, -1 where its logits are no finite numbers.
        x_adv: Array of the shape of the images: for those that are not robust an
            image that fools the network, the image itself for the others.
        seconds: Float. How long the attack took.
    """

    def __init__(self, name, robust, predicted, x_adv, seconds):
        self.name = name
        self.robust = robust
        self.predicted = predicted
        self.x_adv = x_adv
        self.seconds = seconds
