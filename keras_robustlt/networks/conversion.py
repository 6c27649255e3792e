"""Conversion of networks to layers that need nothing but Keras."""

import keras
from keras import ops

from keras_robustlt.layers import (
    BatchNormalization,
    ClassToken,
    CosineClassifier,
    CosPlusClassifier,
    PositionEmbedding,
)

_PACKAGE = __name__.partition(".")[0]


def plain(network):
    """Returns the same network built from Keras's own layers only.

    The copy has the weights of `network` and gives the same outputs; saved, it loads
    wherever Keras is installed, without this package. It is meant for inference: in
    further training its `keras.layers.BatchNormalization` would average the biased
    variance of the batches, and what a cosine head or a vision transformer learns
    would be partly constant.

    Args:
        network: Functional or sequential `keras.Model`, possibly with other such
            models inside.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If `network` is neither functional nor sequential, or has a layer
            of this package without a counterpart in Keras, such as a
            `CosPlusClassifier` with an `eta` other than 1.

    Example:

    ```python
    network = krl.networks.SmallResNet()
    krl.networks.plain(network).save("robust.keras")
    ```
    """
    is_functional = isinstance(network, keras.Model) and hasattr(network, "operations")
    if not is_functional and not isinstance(network, keras.Sequential):
        raise ValueError(
            "`network` must be a functional or sequential keras.Model, whose layers "
            "can be replaced one by one. Received: network of type "
            f"{type(network).__name__}. Pass the functional model inside it."
        )
    pairs = []

    def replace(layer):
        pairs.append((layer, _stock_layer(layer)))
        return pairs[-1][1]

    copy = keras.models.clone_model(network, clone_function=replace, recursive=True)
    for layer, stock in pairs:
        if isinstance(layer, keras.layers.Layer):
            _copy_weights(layer, stock)
    return copy


def _stock_layer(layer):
    """The layer of Keras, or the few in a row, that can do the same."""
    layer_class = type(layer)
    config = layer.get_config()
    if layer_class is BatchNormalization:
        return keras.layers.BatchNormalization.from_config(config)
    if layer_class is CosineClassifier or (
        layer_class is CosPlusClassifier and layer.eta == 1
    ):
        dtype = layer.dtype_policy
        unit = keras.layers.UnitNormalization(dtype=dtype)
        dense = keras.layers.Dense(layer.units, use_bias=False, dtype=dtype)
        return keras.Sequential([unit, dense], name=layer.name)
    if layer_class is ClassToken:
        padding = keras.layers.ZeroPadding1D((1, 0), dtype=layer.dtype_policy)
        return keras.Sequential([padding, _addition(layer)], name=layer.name)
    if layer_class is PositionEmbedding:
        return _addition(layer, name=layer.name)
    if layer_class.__module__.partition(".")[0] == _PACKAGE:
        raise ValueError(
            "`network` must only have layers that Keras has too. Received: layer "
            f"{layer.name} of type {layer_class.__name__}. Save the network as it is, "
            f"and import {_PACKAGE}.layers before loading it."
        )
    return layer_class.from_config(config)


def _addition(layer, **arguments):
    """A stock layer that adds a weight to tokens: it subtracts their "mean"."""
    return keras.layers.Normalization(
        axis=(1, 2), dtype=layer.dtype_policy, **arguments
    )


def _copy_weights(layer, stock):
    if isinstance(layer, CosineClassifier):
        stock.set_weights([layer.scale * layer.class_vectors()])
    elif isinstance(layer, ClassToken):
        length = stock.output_shape[1]
        _set_added(stock.layers[-1], ops.pad(layer.token[0], [(0, length - 1), (0, 0)]))
    elif isinstance(layer, PositionEmbedding):
        _set_added(stock, layer.embedding[0])
    else:
        stock.set_weights(layer.get_weights())


def _set_added(normalization, value):
    normalization.adapt_mean.assign(-value)
    normalization.finalize_state()
