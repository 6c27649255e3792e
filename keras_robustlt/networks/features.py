"""The features that a network classifies."""

import keras

from keras_robustlt import checks


def with_features(network, layer=None):
    """The same network, of the same weights, with its features as a second output.

    Args:
        network: Functional or sequential `keras.Model`.
        layer: String. The name of the layer whose output the features are. Defaults
            to `None`: what enters the last layer that has weights, also where that
            is inside another model.

    Returns:
        A `keras.Model` from the inputs of `network` to the pair of its output and its
        features. It shares the layers of `network`.

    Raises:
        ValueError: If `network` is neither functional nor sequential.

    Example:

    >>> network = krl.networks.SmallResNet()
    >>> logits, features = krl.networks.with_features(network)(np.zeros((1, 8, 8, 1)))
    >>> features.shape
    TensorShape([1, 128])
    """
    checks.classifier_alone("network", network)
    functional = network
    if isinstance(network, keras.Sequential) and network.built:
        functional = network._functional
    if not hasattr(functional, "operations"):
        raise ValueError(
            "`network` must be a functional or (built) sequential keras.Model, in "
            "which the features can be found. Received: network of type "
            f"{type(network).__name__}"
        )
    if layer is not None:
        checks.one_of("layer", layer, tuple(each.name for each in functional.layers))
        features = functional.get_layer(layer).output
    else:
        weighted = [each for each in functional.layers if each.weights]
        if not weighted:
            raise ValueError(
                "`network` must have a layer with weights, whose inputs are the "
                f"features. Received: network={network!r}"
            )
        if isinstance(weighted[-1], keras.Model):
            return _with_features_inside(functional, weighted[-1])
        features = weighted[-1].input
    inputs = functional.inputs
    inputs = inputs[0] if len(inputs) == 1 else inputs
    return keras.Model(inputs, [functional.outputs[0], features])


def _with_features_inside(functional, model):
    """The same of a network in which `model` is what has the last layer."""
    inner, found = with_features(model), []

    def call(layer, *args, **kwargs):
        if layer is not model:
            return layer(*args, **kwargs)
        logits, features = inner(*args, **kwargs)
        found.append(features)
        return logits

    same = keras.models.clone_model(
        functional, call_function=call, clone_function=lambda layer: layer
    )
    inputs = same.inputs[0] if len(same.inputs) == 1 else same.inputs
    return keras.Model(inputs, [same.outputs[0], found[-1]])
