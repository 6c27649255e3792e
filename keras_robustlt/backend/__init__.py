"""The only code that differs between TensorFlow, JAX and PyTorch.

Each backend's module has the same names:

- `gradient(function, x)`: the gradient of a scalar function;
- `on_accelerator()`: whether the backend computes on something else than a CPU;
- `compiled(function, variables)`: `function` compiled, reading `variables` anew at
  each call;
- `StepAdapter`: what `RobustLTModel` must do before Keras's own training and test
  step, in the form in which the backend hands the state over.

`frozen` and `repeat` are written once, in Keras's terms.
"""

import keras
from keras import ops

if keras.backend.backend() == "tensorflow":
    from keras_robustlt.backend.tensorflow import (
        StepAdapter,
        compiled,
        gradient,
        on_accelerator,
    )
elif keras.backend.backend() == "jax":
    from keras_robustlt.backend.jax import (
        StepAdapter,
        compiled,
        gradient,
        on_accelerator,
    )
elif keras.backend.backend() == "torch":
    from keras_robustlt.backend.torch import (
        StepAdapter,
        compiled,
        gradient,
        on_accelerator,
    )
else:
    raise ImportError(
        "keras_robustlt needs gradients: use the tensorflow, jax or torch backend of "
        f"Keras. Received: KERAS_BACKEND={keras.backend.backend()}"
    )

__all__ = [
    "StepAdapter",
    "compiled",
    "frozen",
    "gradient",
    "on_accelerator",
    "repeat",
    "unless_idle",
]


def frozen(network):
    """`network` as a function that reads the network's variables and moves none.

    Batch normalisation in training mode then uses the statistics of the batch and
    leaves its moving statistics alone, and a dropout mask stays the same from one
    call to the next.
    """
    # Inside another stateless scope (a JAX step), what that scope holds.
    values = [(variable, variable.value) for variable in network.variables]

    def forward(x, training=False):
        # A scope for each call: one that recorded the updates of a call would hand
        # them to the next.
        with keras.StatelessScope(values):
            return network(x, training=training)

    return forward


def control_flow_is_slow():
    """Whether convolutions inside of loops and conditionals run far slower.

    They do in JAX on a CPU. Elsewhere a loop costs nothing, and compiling many copies
    of a network, as without one, takes long.
    """
    return keras.backend.backend() == "jax" and not on_accelerator()


def repeat(times, step, state):
    """`state = step(state)`, `times` times over."""
    if control_flow_is_slow():
        for _ in range(times):
            state = step(state)
        return state
    return ops.fori_loop(0, times, lambda _, state: step(state), state)


def unless_idle(needed, work, otherwise):
    """`work()`, or `otherwise`, which is the same, where it is not `needed`."""
    if control_flow_is_slow():
        return work()
    return ops.cond(needed, work, lambda: otherwise)
