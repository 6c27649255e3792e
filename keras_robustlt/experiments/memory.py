"""How much memory a training step takes, estimated before it is compiled."""

import math
import os

import keras
import ml_dtypes
import numpy as np

# Of what peaks showed on TensorFlow, within 6% for WRN-10-2, ResNet-18 and WRN-28-10
# in float32 (docs/performance.md): beside the outputs of the layers, gradients and the
# scratch space of operations; beside the weights, gradient, momentum and update.
OF_OUTPUTS = 1.3
OF_WEIGHTS = 4


def step_bytes(model, batch_size):
    """Bytes that a training step takes at its peak, or `None` where nothing says.

    `1.3 outputs + 4 weights`: the outputs of all layers for a batch of all images that
    the method looks at, in the type that the network computes in, and the weights. The
    steps of the attack come one after another and need no more. XLA, which fuses
    layers, takes less.

    Args:
        model: A `RobustLTModel`.
        batch_size: Integer.
    """
    network = model.network
    try:
        outputs = [tensor for layer in network.layers for tensor in _outputs(layer)]
    except (AttributeError, ValueError):  # no layers, or no outputs that are known
        return None
    if any(None in tensor.shape[1:] for tensor in outputs):
        return None
    bytes_of_outputs = sum(
        math.prod(tensor.shape[1:]) * _size(tensor.dtype) for tensor in outputs
    )
    bytes_of_weights = sum(
        math.prod(weight.shape) * _size(weight.dtype) for weight in network.weights
    )
    averaged = model.averaged_network is not None
    images = batch_size * len(model.method.inputs)
    return round(
        OF_OUTPUTS * images * bytes_of_outputs
        + (OF_WEIGHTS + averaged) * bytes_of_weights
    )


def of_device():
    """Bytes of memory of the device that trains, or `None` where nothing says."""
    accelerators = [d for d in keras.distribution.list_devices() if "cpu" not in d]
    if not accelerators:
        try:
            return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
        except (AttributeError, OSError, ValueError):  # not on Windows
            return None
    if keras.backend.backend() != "jax":
        return None
    import jax

    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


def is_exhausted(error):
    """Whether an exception says that memory was not enough.

    Backends have classes of their own for it, without a common one.
    """
    name = type(error).__name__
    said = "RESOURCE_EXHAUSTED" in str(error) or name == "ResourceExhaustedError"
    return said or isinstance(error, MemoryError)


def _outputs(layer):
    return keras.tree.flatten(layer.output)


def _size(dtype):
    """Bytes of a value."""
    name = keras.backend.standardize_dtype(dtype)
    return np.dtype(getattr(ml_dtypes, name, name)).itemsize
