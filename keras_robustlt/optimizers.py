"""Optimisers with the weight decay of the published recipes, and for fine-tuning.

The recipes for adversarial training were tuned with a weight decay that is a part
of the gradient (an L2 penalty), so that it goes through the momentum: with a
momentum of 0.9 it acts about ten times as strongly as the decoupled decay of
`keras.optimizers.SGD`. Their momentum buffer also holds plain gradients, whereas
Keras's holds gradients times the learning rate of their time, which differs after
every change of the rate.
"""

import numbers

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.backend import replicas

__all__ = ["SGD", "AdamW"]


class _TwoRates(keras.optimizers.Optimizer):
    """An optimiser with a learning rate of its own for all but the last layer.

    Its update must be proportional to the learning rate that `update_step` is given.
    """

    clips_the_sum = True  # of the gradients of replicas

    def __init__(self, backbone_rate=1.0, head="logits", **kwargs):
        schedules = keras.optimizers.schedules
        if isinstance(backbone_rate, dict):
            backbone_rate = schedules.deserialize(backbone_rate)
        if not isinstance(backbone_rate, schedules.LearningRateSchedule):
            backbone_rate = checks.in_range("backbone_rate", backbone_rate, 0, 1)
        if isinstance(kwargs["learning_rate"], (numbers.Number, str)):
            # Others are schedules and functions, which Keras looks at.
            rate = checks.in_range("learning_rate", kwargs["learning_rate"], 0, np.inf)
            kwargs["learning_rate"] = rate
        checks.no_class("learning_rate", kwargs["learning_rate"])
        checks.no_class("backbone_rate", backbone_rate)
        decay = checks.in_range("weight_decay", kwargs.pop("weight_decay"), 0, np.inf)
        for name in ("clipnorm", "clipvalue", "global_clipnorm"):
            if kwargs.get(name) is not None:
                checks.positive(name, kwargs[name])
        for name in {"beta_1", "beta_2", "ema_momentum"} & kwargs.keys():
            checks.in_range(name, kwargs[name], 0, np.nextafter(1, 0))
        for name in {"epsilon", "loss_scale_factor"} & kwargs.keys():
            if kwargs[name] is not None:
                checks.positive(name, kwargs[name])
        for name in {"amsgrad", "use_ema"} & kwargs.keys():
            checks.boolean(name, kwargs[name])
        for name in ("ema_overwrite_frequency", "gradient_accumulation_steps"):
            if kwargs.get(name) is not None:
                checks.positive_integer(name, kwargs[name])
        super().__init__(weight_decay=decay, **kwargs)
        self.backbone_rate = backbone_rate
        self.head = head

    def build(self, variables):
        """Creates the state of each variable, and tells the head's from the others."""
        named = self.head != "logits"
        if not self.built and (named or self.backbone_rate != 1):
            # Variables reach `update_step` as those of the backend, without a path.
            layers = [variable.path.split("/")[:-1] for variable in variables]
            self._is_head = [self.head in names for names in layers]
            if not any(self._is_head):
                raise ValueError(
                    "`head` must be the name of the layer that learns at the whole "
                    "rate, and no variable to train belongs to one of this name. "
                    f"Received: head={self.head!r}"
                )
        super().build(variables)

    def rate_of(self, variable, learning_rate):
        """The learning rate of one variable."""
        if self.backbone_rate == 1 or self._is_head[self._get_variable_index(variable)]:
            return learning_rate
        if callable(self.backbone_rate):
            return learning_rate * self.backbone_rate(self.iterations)
        return learning_rate * self.backbone_rate

    def _clip_gradients(self, grads):
        if not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return grads
        # Keras would clip what each replica has, before it adds them up.
        clipped = super()._clip_gradients(replicas.summed(list(grads)))
        return [gradient / replicas.num_replicas() for gradient in clipped]

    def get_config(self):
        rate = self.backbone_rate
        if callable(rate):
            rate = keras.optimizers.schedules.serialize(rate)
        return {**super().get_config(), "backbone_rate": rate, "head": self.head}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class SGD(_TwoRates):
    """Gradient descent with momentum and coupled weight decay.

    For a variable `w` with gradient `g` and momentum buffer `b` (0 at first), one
    step is

    ```
    g = g + weight_decay * w
    b = momentum * b + g
    w = w - learning_rate * (g + momentum * b)  # nesterov=True
    w = w - learning_rate * b  # nesterov=False
    ```

    The decay reaches every trainable variable, biases and normalization scales
    included; `exclude_from_weight_decay()` takes variables out. Clipping, where
    asked for, acts on the gradients of the loss, before the decay is added.

    Args:
        learning_rate: A float, a
            `keras.optimizers.schedules.LearningRateSchedule`, or a callable
            without arguments that returns the rate. Defaults to `0.1`.
        momentum: Float in [0, 1), the share of the buffer that is kept at each
            step. Defaults to `0.0`.
        nesterov: Boolean, whether to look ahead along the momentum; needs a
            momentum above 0. Defaults to `False`.
        weight_decay: Non-negative float, the coefficient of the L2 term in the
            gradient. Defaults to `0.0`.
        backbone_rate: What the learning rate of all layers but `head` is multiplied
            with, to fine-tune a network whose last layer is new: a float in [0, 1], or
            a `keras.optimizers.schedules.LearningRateSchedule` that is such a factor
            at each step. At 0 nothing but the last layer learns; what batch
            normalization knows of its inputs goes on moving. Defaults to `1.0`.
        head: String, the name of the layer with the whole rate. Defaults to
            `"logits"`, as it is called in the networks of this package.
        **kwargs: Further arguments of `keras.optimizers.Optimizer`, such as
            `clipnorm`, `use_ema`, `gradient_accumulation_steps` and `name`.

    Raises:
        ValueError: If an argument is out of range, or if `nesterov=True` comes without
            momentum; when training begins, if there is no layer called `head`.

    Example:

    ```python
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(
        krl.optimizers.SGD(0.1, momentum=0.9, weight_decay=5e-4),
        loss="mse",
    )
    ```

    Reference:

    - [Sutskever et al., 2013](https://proceedings.mlr.press/v28/sutskever13.html)
    """

    def __init__(
        self,
        learning_rate=0.1,
        momentum=0.0,
        nesterov=False,
        weight_decay=0.0,
        **kwargs,
    ):
        if checks.in_range("momentum", momentum, 0, 1) == 1:
            raise ValueError(
                "`momentum` must be in [0, 1); 0.9 is the usual value. "
                f"Received: momentum={momentum}"
            )
        nesterov = checks.boolean("nesterov", nesterov)
        if nesterov and momentum == 0:
            raise ValueError(
                "`nesterov=True` needs a momentum above 0. Received: "
                f"momentum={momentum}. Set `momentum` (0.9 is the usual value) or "
                "`nesterov=False`."
            )
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, **kwargs
        )
        self.momentum = float(momentum)
        self.nesterov = nesterov

    def build(self, variables):
        """Creates one momentum buffer a variable, if there is momentum."""
        if self.built:
            return
        super().build(variables)
        self.momentums = []
        if self.momentum > 0:
            self.momentums = self.add_optimizer_variables(variables, "momentum")

    def update_step(self, gradient, variable, learning_rate):
        """Updates one variable and its momentum buffer."""
        learning_rate = ops.cast(self.rate_of(variable, learning_rate), variable.dtype)
        update = ops.cast(gradient, variable.dtype)
        if self.weight_decay > 0 and self._use_weight_decay(variable):
            weight_decay = ops.cast(self.weight_decay, variable.dtype)
            update = ops.add(update, ops.multiply(weight_decay, variable))
        if self.momentum > 0:
            momentum = ops.cast(self.momentum, variable.dtype)
            buffer = self.momentums[self._get_variable_index(variable)]
            velocity = ops.add(ops.multiply(momentum, buffer), update)
            self.assign(buffer, velocity)
            if self.nesterov:
                update = ops.add(update, ops.multiply(momentum, velocity))
            else:
                update = velocity
        self.assign_sub(variable, ops.multiply(learning_rate, update))

    def _apply_weight_decay(self, variables):
        """Does nothing: the decay is a part of the gradient in `update_step`."""

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }


@keras.saving.register_keras_serializable(package="keras_robustlt")
class AdamW(_TwoRates, keras.optimizers.AdamW):
    """`keras.optimizers.AdamW`, with a learning rate for the backbone of its own.

    That rate scales its weight decay too, as it does in PyTorch.

    Args:
        learning_rate: As in Keras. Defaults to `0.001`.
        weight_decay: Float. Defaults to `0.004`.
        backbone_rate: As in `SGD`. Defaults to `1.0`.
        head: As in `SGD`. Defaults to `"logits"`.
        **kwargs: Further arguments of `keras.optimizers.AdamW`.

    Raises:
        ValueError: If an argument is out of range; when training begins, if there is
            no layer called `head`.

    Example:

    ```python
    steps = 100  # of an epoch
    head_first = keras.optimizers.schedules.PiecewiseConstantDecay(
        [2 * steps - 1], [0.0, 0.1]
    )
    optimizer = krl.optimizers.AdamW(5e-4, backbone_rate=head_first)
    ```

    Reference:

    - [Loshchilov and Hutter, 2019](https://openreview.net/forum?id=Bkg6RiCqY7)
    - [Howard and Ruder, 2018](https://aclanthology.org/P18-1031/): a rate for each
      part of a network
    """

    def __init__(self, learning_rate=0.001, weight_decay=0.004, **kwargs):
        super().__init__(
            learning_rate=learning_rate, weight_decay=weight_decay, **kwargs
        )

    def update_step(self, gradient, variable, learning_rate):
        """Decays and updates one variable."""
        learning_rate = self.rate_of(variable, learning_rate)
        if self._use_weight_decay(variable):
            rate = ops.cast(learning_rate, variable.dtype)
            decay = ops.cast(self.weight_decay, variable.dtype)
            self.assign_sub(variable, ops.multiply(ops.multiply(variable, decay), rate))
        super().update_step(gradient, variable, learning_rate)

    def _apply_weight_decay(self, variables):
        """Does nothing: `update_step` does, with the rate of each variable."""
