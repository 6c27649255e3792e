"""The small network that the reference arrays were made with."""

import keras
import numpy as np

MEAN = (0.4914, 0.4822, 0.4465)
STD = (0.2023, 0.1994, 0.2010)


def tiny_cnn(weights, num_classes=10, head=None):
    """The network with the weights `{name: array}`, named as in the arrays.

    `head` is a layer in place of the dense one, or `None`.
    """
    from keras_robustlt.layers import BatchNormalization

    layers = keras.layers
    inputs = keras.Input((12, 12, 3))
    x = layers.Normalization(mean=MEAN, variance=np.square(STD))(inputs)
    x = layers.Conv2D(8, 3, padding="same", use_bias=False, name="conv1")(x)
    x = layers.ReLU()(BatchNormalization(name="bn1")(x))
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False, name="conv2")(x)
    x = layers.ReLU()(BatchNormalization(name="bn2")(x))
    x = layers.GlobalAveragePooling2D(name="features")(x)
    head = head or layers.Dense(num_classes, name="dense")
    network = keras.Model(inputs, head(x))
    for name, variable in named_variables(network).items():
        variable.assign(weights[name])
    return network


def named_variables(network):
    """The variables by the names that the reference arrays give them."""
    return {
        f"{layer.name}_{variable.name}": variable
        for layer in network.layers
        if layer.name in ("conv1", "bn1", "conv2", "bn2", "dense", "head")
        for variable in layer.variables
    }


def group(arrays, prefix):
    """The arrays whose names start with `prefix`, without it."""
    return type(arrays)(
        (key.removeprefix(prefix), value)
        for key, value in arrays.items()
        if key.startswith(prefix)
    )
