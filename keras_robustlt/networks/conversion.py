"""Conversion of networks to layers that need nothing but Keras."""

import keras
from keras import ops

from keras_robustlt import checks
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
        network: Functional or sequential `keras.Model`, possibly with other models
            inside. Layers of others, such as those of KerasHub or your own, stay what
            they are: to load the copy one needs them.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If `network` is neither functional nor sequential, or has a layer
            that cannot be copied, or one of this package without a counterpart in
            Keras, such as a `CosPlusClassifier` with an `eta` other than 1.

    Example:

    ```python
    network = krl.networks.SmallResNet()
    krl.networks.plain(network).save("robust.keras")
    ```
    """
    checks.classifier_alone("network", network)
    if not _is_graph(network):
        foreign = isinstance(network, keras.Model) and not _own_layers(network)
        advice = (
            "It has no layer of this package: save it as it is."
            if foreign
            else "Pass the functional model inside it."
        )
        raise ValueError(
            "`network` must be a functional or sequential keras.Model, whose layers "
            "can be replaced one by one. Received: network of type "
            f"{type(network).__name__}. {advice}"
        )
    copies = {}  # by the layer's identity: what is shared stays so
    pairs = []

    def copy_of(layer):
        if id(layer) not in copies:
            if _is_graph(layer) and (_own_layers(layer) or is_default(layer)):
                copies[id(layer)] = keras.models.clone_model(
                    layer, clone_function=copy_of
                )
            else:
                copies[id(layer)] = _stock_layer(layer)
                pairs.append((layer, copies[id(layer)]))
        return copies[id(layer)]

    copy = copy_of(network)
    for layer, stock in pairs:
        if isinstance(layer, keras.layers.Layer):
            _copy_weights(layer, stock)
    return copy


def _is_graph(layer):
    is_functional = isinstance(layer, keras.Model) and hasattr(layer, "operations")
    return is_functional or isinstance(layer, keras.Sequential)


def is_default(model):
    """Whether the configuration is a list of layers, not that of a class of its own."""
    return type(model).get_config.__module__.startswith("keras.")


def _is_own(layer):
    return type(layer).__module__.partition(".")[0] == _PACKAGE


def _own_layers(layer):
    if not isinstance(layer, keras.layers.Layer):
        return []
    inside = layer._flatten_layers(include_self=False)
    return [each for each in inside if _is_own(each)]


def _stock_layer(layer):
    """The layer of Keras, or the few in a row, that can do the same."""
    layer_class = type(layer)
    if layer_class is BatchNormalization:
        return keras.layers.BatchNormalization.from_config(layer.get_config())
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
    own = [layer] if _is_own(layer) else _own_layers(layer)
    if own:
        where = "" if own[0] is layer else f" inside of {layer.name}"
        raise ValueError(
            "`network` must only have layers that Keras has too. Received: layer "
            f"{own[0].name} of type {type(own[0]).__name__}{where}. Save the network "
            f"as it is, and import {_PACKAGE}.layers before loading it."
        )
    return copied(layer)


def copied(layer):
    """A layer of the same configuration, with weights of its own."""
    try:
        return type(layer).from_config(layer.get_config())
    except Exception as error:  # whatever a layer of somebody else raises
        raise ValueError(
            f"`network` has a layer that cannot be copied: {layer.name} of type "
            f"{type(layer).__name__}. Give it a `get_config` with which `from_config` "
            f"makes the same layer. The copy failed with {type(error).__name__}: "
            f"{error}"
        ) from error


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
