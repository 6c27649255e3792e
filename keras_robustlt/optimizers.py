"""Stochastic gradient descent with the weight decay of the published recipes.

The recipes for adversarial training were tuned with a weight decay that is a part
of the gradient (an L2 penalty), so that it goes through the momentum: with a
momentum of 0.9 it acts about ten times as strongly as the decoupled decay of
`keras.optimizers.SGD`. Their momentum buffer also holds plain gradients, whereas
Keras's holds gradients times the learning rate of their time, which differs after
every change of the rate.
"""

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.backend import replicas

__all__ = ["SGD"]


@keras.saving.register_keras_serializable(package="keras_robustlt")
class SGD(keras.optimizers.Optimizer):
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
        **kwargs: Further arguments of `keras.optimizers.Optimizer`, such as
            `clipnorm`, `use_ema`, `gradient_accumulation_steps` and `name`.

    Raises:
        ValueError: If `momentum` or `weight_decay` is out of range, or if
            `nesterov=True` comes without momentum.

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
        weight_decay = checks.in_range("weight_decay", weight_decay, 0, np.inf)
        if nesterov and momentum == 0:
            raise ValueError(
                "`nesterov=True` needs a momentum above 0. Received: "
                f"momentum={momentum}. Set `momentum` (0.9 is the usual value) or "
                "`nesterov=False`."
            )
        super().__init__(
            learning_rate=learning_rate, weight_decay=float(weight_decay), **kwargs
        )
        self.momentum = float(momentum)
        self.nesterov = bool(nesterov)

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
        learning_rate = ops.cast(learning_rate, variable.dtype)
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

    def _clip_gradients(self, grads):
        if not (self.clipnorm or self.global_clipnorm or self.clipvalue):
            return grads
        # Keras would clip what each replica has, before it adds them up.
        clipped = super()._clip_gradients(replicas.summed(list(grads)))
        return [gradient / replicas.num_replicas() for gradient in clipped]

    def get_config(self):
        return {
            **super().get_config(),
            "momentum": self.momentum,
            "nesterov": self.nesterov,
        }
