"""Logits, and the gradients of losses by the images, of networks of any precision.

All of it is float32, whatever the network computes in. That alone is not enough for
float16: where a network is sure of an image the gradient of the cross-entropy by the
logits is tiny, `1e-22` for logits 50 apart. float32 holds that, and most attacks ask
for its sign alone. float16 ends at `6e-8`, so that nothing would come back through the
network, and the image would look robust. What goes back into a network with float16
layers is therefore scaled for each image, and its gradient scaled back in float32.
"""

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend

# What goes back from the logits, at most. It leaves float16, which reaches from 6e-8
# to 65504, room on both sides for what the layers make of it.
LARGEST = 16.0
# In training, where batch normalisation mixes the gradients of the images, they keep
# their weights relative to each other, unless they are smaller than this share.
SMALLEST_SHARE = 1 / 256
# What stands for an infinite slope, which has a direction all the same. The squares of
# so many of it as an image has pixels can still be added up.
STEEPEST = 1e15


def logits_of(network, training=False):
    """`network` as a function of images, for use inside of compiled code.

    Args:
        network: A Keras model that gives logits, or a function of a batch of images
            that does.
        training: Boolean. Whether batch normalisation uses the statistics of the
            batch. Nothing in the network changes by it.

    Returns:
        A function of images and, for networks that are themselves random, of an
        integer `draw`. It gives float32 logits of shape `(batch, num_classes)`.
    """
    forward = backend.frozen(network)
    if not isinstance(network, keras.Layer):
        forward = with_tensors(forward)

    def logits(x, draw=None):
        x = backend.images_for(network, x)
        values = forward(x, training=training, draw=draw)
        if not ops.is_tensor(values):
            raise ValueError(
                "`network` must give one tensor of logits. One that is a function must "
                "compute with tensors of the backend, as keras.ops does: NumPy's "
                f"functions have no gradients. Received: outputs of type "
                f"{type(values).__name__}"
            )
        values = ops.cast(values, "float32")
        if len(values.shape) != 2:
            raise ValueError(
                "`network` must give logits of shape (batch, num_classes). "
                f"Received: outputs of shape {tuple(values.shape)}"
            )
        return values

    return logits


def with_tensors(function):
    """`function`, with an error in words where it meets tensors and knows arrays alone.

    Args:
        function: A function of images, plain and of a user's own.
    """

    def call(*args, **kwargs):
        try:
            return function(*args, **kwargs)
        except (AttributeError, NotImplementedError, TypeError) as error:
            is_of_numpy = "numpy" in str(error).lower() or "Tracer" in str(error)
            if not is_of_numpy:
                raise
            raise ValueError(
                "A network that is a function must compute with tensors of the "
                "backend, as keras.ops does: NumPy's functions have no gradients. "
                f"Received one that ends in {type(error).__name__}: {error}"
            ) from error

    return call


def gradient_of(network, training=False):
    """How a loss of the logits changes with the images.

    Args:
        network: See `logits_of`.
        training: See `logits_of`.

    Returns:
        A function of a loss, which gives a value for each row of float32 logits, of
        images and of a `draw`. It gives the gradient of the sum of the values by the
        images, 0 where that is no number; the values, `(batch,)`; and the logits.
    """
    logits_at = logits_of(network, training)
    in_float16 = computes_in_float16(network)

    def gradient(loss, x, draw=None):
        def total(x):
            logits = logits_at(x, draw)
            values = loss(logits)
            # The sum, so that the gradient of an image does not shrink with the batch.
            return ops.sum(values), (values, logits)

        found, outputs = backend.gradient_and_outputs(total, x)
        return _finite(found, x), *outputs

    def scaled_gradient(loss, x, draw=None):
        def total(x):
            logits = logits_at(x, draw)
            slope = backend.gradient(
                lambda logits: ops.sum(loss(logits)), ops.stop_gradient(logits)
            )
            scale = _scale(slope, SMALLEST_SHARE if training else 1.0)
            going_back = ops.stop_gradient(scale * slope)
            return ops.sum(going_back * logits), (scale, loss(logits), logits)

        found, (scale, *outputs) = backend.gradient_and_outputs(total, x)
        return per_image(1.0 / scale, x) * _finite(found, x), *outputs

    return scaled_gradient if in_float16 else gradient


def of_logits(network, x):
    """How much each pixel matters to the logits, and so to any loss of them.

    Args:
        network: See `logits_of`.
        x: Float32 tensor of shape `(batch, ...)`, images.

    Returns:
        A float32 tensor of that shape: the gradient of a fixed mix of an image's
        logits, as the backend gives it, infinities and NaN included.
    """
    logits_at = logits_of(network)

    def scaled(scale):
        def mixed(x):
            logits = logits_at(x)
            mix = np.cos(1.0 + np.arange(logits.shape[-1]), dtype="float32")
            return scale * ops.sum(logits * mix)

        return backend.gradient(mixed, x) / scale

    found = scaled(1.0)
    if not computes_in_float16(network):
        return found
    return ops.where(found == 0, scaled(LARGEST**2), found)  # what is too small for it


def computes_in_float16(network):
    """Whether a layer of `network`, however deep inside, computes in float16.

    What a plain function computes in cannot be known, so it counts as one.
    """
    if not isinstance(network, keras.Layer):
        return True
    return any(layer.compute_dtype == "float16" for layer in network._flatten_layers())


def per_image(values, x):
    """Values of shape `(batch,)` or `(batch, 1)` in a shape that fits images."""
    return ops.reshape(values, (-1,) + (1,) * (len(x.shape) - 1))


def _scale(slope, smallest_share):
    """For each image the factor that brings its slope by the logits to `LARGEST`."""
    largest = ops.max(ops.abs(slope), axis=-1, keepdims=True)
    weight = ops.minimum(largest / smallest_share, ops.max(largest))
    return LARGEST / ops.maximum(weight, 1e-37)


def _finite(gradient, x):
    if gradient is None:  # TensorFlow, where no path leads to the images
        return ops.zeros_like(x)
    gradient = ops.clip(gradient, -STEEPEST, STEEPEST)
    # `ops.where` takes several times as long in TensorFlow's CPU kernels.
    is_number = ops.cast(ops.isfinite(gradient), gradient.dtype)
    return ops.divide_no_nan(gradient, is_number)
