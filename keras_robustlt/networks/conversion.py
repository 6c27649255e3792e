"""Conversion of networks to layers that need nothing but Keras."""

import keras

from keras_robustlt.layers import BatchNormalization

_PACKAGE = __name__.partition(".")[0]


def plain(network):
    """Returns the same network built from Keras's own layers only.

    The copy has the weights of `network` and gives the same outputs; saved, it loads
    wherever Keras is installed, without this package. It is meant for inference: in
    further training its `keras.layers.BatchNormalization` would average the biased
    variance of the batches.

    Args:
        network: Functional or sequential `keras.Model`, possibly with other such
            models inside.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If `network` is neither functional nor sequential, or has a layer
            of this package without a counterpart in Keras.

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
    copy = keras.models.clone_model(
        network, clone_function=_stock_layer, recursive=True
    )
    copy.set_weights(network.get_weights())
    return copy


def _stock_layer(layer):
    layer_class = type(layer)
    if layer_class is BatchNormalization:
        layer_class = keras.layers.BatchNormalization
    elif layer_class.__module__.partition(".")[0] == _PACKAGE:
        raise ValueError(
            "`network` must only have layers that Keras has too. Received: layer "
            f"{layer.name} of type {layer_class.__name__}. Save the network as it is, "
            f"and import {_PACKAGE} before loading it."
        )
    return layer_class.from_config(layer.get_config())
