"""The only code that differs between TensorFlow and JAX.

Each backend's module has the same names:

- `choose(chosen, images, others)`: the images of which `chosen`, a boolean for each, is
  true, and the `others` else;
- `gradient(function, x)`: the gradient of a scalar function of a tensor or of a list
  of them;
- `gradient_and_outputs(function, x)`: the same of the first of two results of
  `function`, and the second, tensors, along with it;
- `on_accelerator()`: whether the backend computes on something else than a CPU;
- `compiled(function, variables)`: `function` compiled, reading `variables` anew at
  each call;
- `of_shape(images, shape)`: the images, of which the sizes that are not known while
  compiling are compared with those of `shape` that are not `None` once they come;
- `as_many(values, others, message)`: `values`, if there are as many as `others`, which
  may not be known before they come; else an error with the message;
- `traceable(function)`: a plain `function` of a tensor for use in compiled code, with
  Python's control flow over tensors where the backend can convert it;
- `StepAdapter`: what `RobustLTModel` must do before Keras's own training and test
  step, in the form in which the backend hands the state over.

The functions below are written once, in Keras's terms.
"""

import keras
from keras import ops

from keras_robustlt import checks
from keras_robustlt.backend import replicas

if keras.backend.backend() == "tensorflow":
    from keras_robustlt.backend.tensorflow import (
        StepAdapter,
        as_many,
        choose,
        compiled,
        gradient,
        gradient_and_outputs,
        of_shape,
        on_accelerator,
        traceable,
    )
elif keras.backend.backend() == "jax":
    from keras_robustlt.backend.jax import (
        StepAdapter,
        as_many,
        choose,
        compiled,
        gradient,
        gradient_and_outputs,
        of_shape,
        on_accelerator,
        traceable,
    )
else:
    raise ImportError(
        "keras_robustlt runs on the tensorflow and jax backends of Keras. Set "
        "KERAS_BACKEND to one of them before Keras is imported. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}"
    )

__all__ = [
    "StepAdapter",
    "as_many",
    "choose",
    "compiled",
    "frozen",
    "gradient",
    "gradient_and_outputs",
    "images_for",
    "on_accelerator",
    "repeat",
    "run_if",
    "shapes_are_static",
    "traceable",
    "trial_update",
]


def images_for(network, x):
    """The images `x`, if they are of the shape that `network` takes.

    What is not known of it while compiling is looked at when they come.
    """
    checks.image_shape(network, x.shape)
    shape = getattr(network, "input_shape", None)
    if isinstance(shape, tuple) and len(shape) == len(x.shape):
        return of_shape(x, (None, *shape[1:]))
    return x


def frozen(network):
    """`network` as a function that reads the network's variables and moves none.

    Batch normalisation in training mode then uses the statistics of the batch and
    leaves its moving statistics alone, and a dropout mask stays the same from one
    call to the next, or follows the integer `draw` where that is given. A plain
    function of a batch of images is taken as it is.
    """
    if not isinstance(network, keras.Layer):
        function = traceable(network)
        return lambda x, training=False, draw=None: function(x)
    # Inside another stateless scope (a JAX step), what that scope holds.
    values = [(variable, variable.value) for variable in network.variables]

    def forward(x, training=False, draw=None):
        # A scope for each call: one that recorded the updates of a call would hand
        # them to the next.
        with keras.StatelessScope(values if draw is None else reseeded(draw)):
            return network(x, training=training)

    def reseeded(draw):
        shift = ops.stack([draw, ops.zeros_like(draw)])
        return [
            (variable, value + ops.cast(shift, variable.dtype))
            if variable.name == "seed_generator_state"
            else (variable, value)
            for variable, value in values
        ]

    return forward


def trial_update(optimizer, gradients, variables):
    """The changes that an update by `optimizer` would make; nothing is changed.

    It is the update of these gradients alone, also where the optimiser would gather
    those of several steps, or expects them of a loss that was scaled.
    """
    if not optimizer.built:
        optimizer.build(variables)
    state = [*variables, *optimizer.variables]
    before = [ops.copy(variable.value) for variable in state]
    settings = ("gradient_accumulation_steps", "loss_scale_factor")
    kept = {name: getattr(optimizer, name) for name in settings}
    try:
        for name in settings:
            setattr(optimizer, name, None)
        optimizer.apply(gradients, variables)
    finally:
        for name, value in kept.items():
            setattr(optimizer, name, value)
    changes = [
        ops.subtract(variable.value, value)
        for variable, value in zip(variables, before[: len(variables)], strict=True)
    ]
    for variable, value in zip(state, before, strict=True):
        variable.assign(value)
    return changes


def control_flow_is_slow():
    """Whether convolutions inside of loops and conditionals run far slower.

    They do in JAX on a CPU. Elsewhere a loop costs nothing, and compiling many copies
    of a network, as without one, takes long.
    """
    return keras.backend.backend() == "jax" and not on_accelerator()


def shapes_are_static():
    """Whether `compiled` functions are compiled anew for each size of a batch."""
    return keras.backend.backend() == "jax" or on_accelerator()


def repeat(times, step, state, at_most=None):
    """`state = step(state)`, `times` times over.

    With `at_most`, an integer, `times` may be a tensor of no larger value.
    """
    if control_flow_is_slow():
        for number in range(times if at_most is None else at_most):
            moved = step(state)
            done = at_most is not None and number >= times
            state = moved if at_most is None else ops.where(done, state, moved)
        return state
    return ops.fori_loop(0, times, lambda _, state: step(state), state)


def run_if(needed, work, otherwise, communicates=False):
    """`work()` if it is `needed`, `otherwise` else, which must be what it would give.

    Work that `communicates` with other replicas is always done where there are some:
    they cannot wait for each other inside a conditional.
    """
    if control_flow_is_slow() or (communicates and replicas.num_replicas() > 1):
        return work()
    return ops.cond(needed, work, lambda: otherwise)
