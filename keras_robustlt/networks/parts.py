"""The parts that the networks share.

They follow the PyTorch networks that robustness papers report on, where these
differ from Keras's habits: a strided 3x3 convolution pads one pixel on every side,
and the initial weights come from PyTorch's distributions.
"""

import math
import numbers

import keras
import numpy as np

from keras_robustlt import checks
from keras_robustlt.layers import (
    BatchNormalization,
    CosineClassifier,
    CosPlusClassifier,
)

CIFAR10_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR10_STD = (0.2023, 0.1994, 0.2010)

# oneDNN, which TensorFlow computes with on CPUs, has wrong gradients for the kernel of
# a 1x1 convolution with a stride where fewer than 8 channels come in, on some of them;
# and in bfloat16, of fewer than 16 and an odd number of images, it writes beyond its
# memory.
FEW_CHANNELS = 16
# Uniform in +-1/sqrt(fan_in), PyTorch's default for convolutions and dense layers.
UNIFORM_FAN_IN = {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"}
# Normal with variance 2 / (kernel area * filters), of the original wide ResNet.
NORMAL_FAN_OUT = {
    "scale": 2.0,
    "mode": "fan_out",
    "distribution": "untruncated_normal",
}
_HEADS = ("linear", "cosine", "cosplus")


def check_arguments(classes, input_shape, head):
    """Raises a ValueError unless the arguments can make a classifier."""
    if keras.config.image_data_format() != "channels_last":
        raise ValueError(
            "Images of this package have their channels last, and Keras is told "
            "otherwise: call keras.config.set_image_data_format('channels_last'). "
            f"Received: {keras.config.image_data_format()!r}"
        )
    checks.integer("classes", classes, 2)
    if not _is_image_shape(input_shape):
        raise ValueError(
            "`input_shape` must be (height, width, channels) with a known number of "
            "channels, such as (32, 32, 3); height and width may be None. "
            f"Received: input_shape={input_shape}"
        )
    if not isinstance(head, keras.layers.Layer) and str(head) not in _HEADS:
        raise ValueError(
            f"`head` must be one of {', '.join(_HEADS)}, or a Keras layer that maps "
            f"features to logits. Received: head={head!r}"
        )
    if isinstance(head, keras.layers.Layer):
        checks.logits_not_probabilities(head)


def _is_image_shape(shape):
    def positive(size):
        return isinstance(size, numbers.Integral) and size > 0

    return (
        isinstance(shape, (tuple, list))
        and len(shape) == 3
        and all(size is None or positive(size) for size in shape[:2])
        and positive(shape[2])
    )


def normalized_input(input_shape, mean, std):
    """Returns the input tensor and its normalization, (input - mean) / std."""
    inputs = keras.Input(input_shape)
    channels = input_shape[2]
    mean = _per_channel("mean", mean, channels)
    std = _per_channel("std", std, channels)
    std = [checks.positive("std", value) for value in std]
    # In float32 under every policy: half precision would round the pixels, and with
    # them the perturbation, before they are centered.
    normalization = keras.layers.Normalization(
        mean=mean,
        variance=[value**2 for value in std],
        dtype="float32",
        name="normalization",
    )
    return inputs, normalization(inputs)


def convolution(x, filters, kernel_size, strides=1, initializer=None):
    """Convolves without bias, padding (kernel_size - 1) / 2 on every side."""
    padding = "same"
    if strides > 1:
        # "same" would pad even sizes at the bottom and on the right only.
        padding = "valid"
        if kernel_size > 1:
            x = keras.layers.ZeroPadding2D((kernel_size - 1) // 2)(x)
        elif x.shape[-1] < FEW_CHANNELS:
            x = keras.layers.MaxPooling2D(1, strides)(x)
            strides = 1
    return keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding=padding,
        use_bias=False,
        kernel_initializer=keras.initializers.VarianceScaling(
            **(initializer or UNIFORM_FAN_IN)
        ),
    )(x)


def batchnorm_relu(x):
    """Normalizes over the batch, then rectifies."""
    return keras.layers.ReLU()(BatchNormalization()(x))


def preactivation_block(x, filters, strides=1, initializer=None):
    """Adds two convolutions, each normalized and rectified before, to `x`."""
    activated = batchnorm_relu(x)
    residual = convolution(activated, filters, 3, strides, initializer)
    residual = convolution(batchnorm_relu(residual), filters, 3, 1, initializer)
    if strides > 1 or x.shape[-1] != filters:
        x = convolution(activated, filters, 1, strides, initializer)
    return keras.layers.Add()([x, residual])


def pooled_features(x):
    """Averages feature maps over the image, in float32."""
    return keras.layers.GlobalAveragePooling2D(dtype="float32", name="features")(x)


def classifier(features, classes, head):
    """Maps features to float32 logits with the layer that `head` stands for."""
    classes = int(classes)
    if head == "linear":
        head = _linear_head(features.shape[-1], classes)
    elif head == "cosine":
        head = CosineClassifier(classes, name="logits")
    elif head == "cosplus":
        head = CosPlusClassifier(classes, name="logits")
    try:
        logits = head(features)
    except Exception as error:  # whatever a layer of somebody else raises
        raise ValueError(
            "`head` must take features of the shape "
            f"{features.shape}. Received: layer {head.name!r} ({error})"
        ) from error
    if logits.shape != (None, classes) or logits.dtype != "float32":
        raise ValueError(
            "`head` must map the features to one float32 logit a class, of shape "
            f"(batch, {classes}); a layer of its own data type takes dtype='float32'. "
            f"Received: layer {head.name!r} with outputs of shape {logits.shape} and "
            f"dtype {logits.dtype}"
        )
    return logits


def _linear_head(channels, classes):
    bound = 1 / math.sqrt(channels)
    return keras.layers.Dense(
        classes,
        kernel_initializer=keras.initializers.VarianceScaling(**UNIFORM_FAN_IN),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound),
        dtype="float32",
        name="logits",
    )


def _per_channel(name, value, channels):
    """Returns a list with one float a channel."""
    values = np.atleast_1d(np.asarray(value, "object")).ravel().tolist()
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise ValueError(
            f"`{name}` must be one number, or one number a channel: the input shape "
            f"has {channels} channels. Received: {name}={value}"
        )
    return [checks.in_range(name, each, -1e9, 1e9) for each in values]
