"""Averages of the weights along training, as networks of their own."""

import math
import numbers

import keras
from keras import ops

from keras_robustlt import checks, configurable
from keras_robustlt.configurable import add_state

__all__ = ["EMA", "FAWA", "WeightAveraging", "get"]


class WeightAveraging(configurable.Part):
    """A rule for averaging the network's weights along training.

    `RobustLTModel(averaging=...)` then has an `averaged_network` beside its `network`,
    and evaluates and predicts with it. All floating-point variables are averaged, the
    moving statistics of batch normalisation like the weights that they belong to.

    Attributes:
        validates: `"average"` or `"network"`: which of the two `fit` validates.

    Example:

    >>> class LastThird(krl.averaging.WeightAveraging):
    ...     def keep(self, schedule):
    ...         t, total = schedule.position("epoch")
    ...         return keras.ops.where(t > 2 * total / 3, 0.999, 0.0)
    >>> model = krl.RobustLTModel(network, class_counts, averaging=LastThird())
    """

    validates = "average"

    def build(self, model):
        """Prepares the state: called once, with the `RobustLTModel`."""

    def keep(self, schedule):
        """Share of the average that stays in a training step, a scalar tensor.

        Called in each step, inside the compiled graph. `None`: steps leave the average
        alone, as they do where there is an `end_epoch` in its place.
        """
        return None

    def check_fit(self, arguments):
        """Raises a ValueError if `fit` is called without what the rule needs.

        Args:
            arguments: Dictionary of the arguments of `keras.Model.fit`.
        """

    @property
    def looks_at_epochs(self):
        """Whether the rule has an `end_epoch`, which `fit` alone calls."""
        return type(self).end_epoch is not WeightAveraging.end_epoch

    def end_epoch(self, model, logs):
        """Looks at the logs of an epoch when it ends, validation included."""


@keras.saving.register_keras_serializable(package="keras_robustlt")
class EMA(WeightAveraging):
    """Exponential moving average of the weights, step by step.

    In step `n` the average keeps the share `min(momentum, n / (n + 10))`, with `n`
    from 0, so that it forgets the initial weights soon.

    Args:
        momentum: Float in `[0, 1]`. Defaults to `0.999`.

    Example:

    >>> averaging = krl.averaging.EMA(0.995)
    >>> model = krl.RobustLTModel(network, class_counts, averaging=averaging)
    >>> model.compile(krl.optimizers.SGD(0.1))
    >>> history = model.fit(train, epochs=2, verbose=0)
    >>> model.averaged_network.save("robust.keras")

    Reference:
        Gowal et al., "Uncovering the Limits of Adversarial Training against
        Norm-Bounded Adversarial Examples", 2020, section 4.3.
    """

    def __init__(self, momentum=0.999):
        self.momentum = checks.in_range("momentum", momentum, 0, 1)

    def build(self, model):
        self.updates = add_state(model, "averaging_updates")

    def keep(self, schedule):
        n = self.updates.value
        keep = ops.minimum(self.momentum, n / (n + 10.0))
        self.updates.assign_add(1.0)
        return keep

    def get_config(self):
        return {"momentum": self.momentum}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class FAWA(WeightAveraging):
    """Fairness-aware weight averaging: only weights that are fair enough count.

    At the end of an epoch in which the worst class has at least `threshold` robust
    accuracy in validation, the average moves towards the network's weights. Up to the
    first epoch that qualifies, the average is the network itself. `fit` needs
    `validation_data`, and validates the network.

    Args:
        threshold: Float in `[0, 1]`. Defaults to `0.2`.
        momentum: Float in `[0, 1]`. Share of the average that stays. Defaults to
            `0.85`.
        start: Float in `[0, 1]`. Share of training before which no epoch qualifies.
            Defaults to `0`.

    Example:

    >>> averaging = krl.averaging.FAWA(threshold=0.1)
    >>> model = krl.RobustLTModel(
    ...     network, class_counts, budget="cfa", averaging=averaging
    ... )

    Reference:
        Wei et al., "CFA: Class-wise Calibrated Fair Adversarial Training", CVPR 2023.
    """

    validates = "network"
    MONITOR = "val_robust_worst_accuracy"

    def __init__(self, threshold=0.2, momentum=0.85, start=0.0):
        self.threshold = checks.in_range("threshold", threshold, 0, 1)
        self.momentum = checks.in_range("momentum", momentum, 0, 1)
        self.start = checks.in_range("start", start, 0, 1)

    def build(self, model):
        self.begun = add_state(model, "averaging_begun")

    def begins(self, epochs):
        return math.floor(self.start * epochs)

    def check_fit(self, arguments):
        data = arguments.get("validation_data")
        split = arguments.get("validation_split")
        every = arguments.get("validation_freq", 1)
        if (data is None and not split) or every != 1:
            self._refuse(
                f"validation_data of type {type(data).__name__}, "
                f"validation_split={split}, validation_freq={every}"
            )

    def end_epoch(self, model, logs):
        if self.MONITOR not in logs:
            self._refuse(f"logs: {', '.join(logs)}")
        epoch = int(ops.convert_to_numpy(model.schedule.epoch))
        started = epoch >= self.begins(model.schedule.length)
        fair = started and logs[self.MONITOR] >= self.threshold
        if not ops.convert_to_numpy(self.begun):
            model.update_average(0.0)
        elif fair:
            model.update_average(self.momentum)
        if fair:
            self.begun.assign(1.0)

    def _refuse(self, received):
        raise ValueError(
            "FAWA looks at the worst class in validation: give `fit` "
            "`validation_data`, and validate every epoch. Received " + received
        )

    def get_config(self):
        return {
            "threshold": self.threshold,
            "momentum": self.momentum,
            "start": self.start,
        }


def get(averaging):
    """A rule from a momentum, its configuration or itself.

    Args:
        averaging: `None`, a float (the momentum of an `EMA`), a `WeightAveraging`, or
            the dictionary that `keras.saving.serialize_keras_object` makes of one.

    Returns:
        A `WeightAveraging`, or `None`.

    Raises:
        ValueError: If it is something else.

    Example:

    >>> krl.averaging.get(0.9995)
    EMA(momentum=0.9995)
    """
    if averaging is None:
        return None
    if isinstance(averaging, numbers.Real) and not isinstance(averaging, bool):
        return EMA(checks.in_range("averaging", averaging, 0, 1))
    rule = configurable.get(
        "averaging",
        averaging,
        WeightAveraging,
        others="None, a float (the momentum of an exponential moving average)",
    )
    averages = type(rule).keep is not WeightAveraging.keep
    if not averages and not rule.looks_at_epochs:
        raise ValueError(
            f"{type(rule).__name__} must define `keep` or `end_epoch`, or the average "
            "stays what the network was before training. "
            f"Received: averaging={averaging!r}"
        )
    return rule


def copy_of(network):
    """A network of the same architecture and weights, which are not trained."""
    if not network.built:
        raise ValueError(
            "`averaging` needs a network that has its weights: give it a keras.Input, "
            f"or call it on an image first. Received: network={network!r}"
        )
    try:
        copy = network.__class__.from_config(
            {**network.get_config(), "name": f"{network.name}_average"}
        )
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            "`averaging` needs a network that can be copied, with `get_config` and "
            f"`from_config` that fit each other. Received: network={network!r} "
            f"({type(error).__name__}: {error})"
        ) from error
    copy.set_weights(network.get_weights())
    copy.trainable = False
    return copy


def move(average, network, keep):
    """Moves the network `average`, which keeps the share `keep`, towards `network`."""
    for old, new in zip(average.variables, network.variables, strict=True):
        if keras.backend.is_float_dtype(new.dtype):
            old.assign(keep * old + (1.0 - keep) * new)
