"""The network of a run, and the weights that it starts from."""

import keras
import numpy as np

import keras_robustlt as krl
from keras_robustlt import checks
from keras_robustlt.networks.loading import load


def build_network(settings, data):
    """The network, with the weights to start from."""
    trained = _trained(settings) if settings["initial_weights"] else None
    if settings["backbone"] is not None:
        network = build_backbone(settings, data)
    else:
        network = _build_named(settings, data, trained)
    if trained is not None:
        set_initial_weights(network, trained, settings)
    return network


def build_backbone(settings, data):
    """A classifier on a pretrained network."""
    weights, freeze = settings["backbone_weights"], settings["freeze"]
    return krl.networks.from_backbone(
        settings["backbone"],
        classes=data.num_classes,
        input_shape=data.input_shape,
        weights=None if weights == "none" else weights,
        head=settings["head"],
        freeze=int(freeze) if freeze.isdecimal() else freeze,
    )


def _build_named(settings, data, trained=None):
    options = {"head": settings["head"]}
    normalization = _normalization_of(trained, data.input_shape[-1])
    if normalization is not None:  # the weights are for pixels that are scaled so
        options.update(normalization)
    elif settings["pixel_mean"] is not None:
        options.update(mean=settings["pixel_mean"], std=settings["pixel_std"])
    elif data.input_shape[-1] != 3:  # the networks' own are those of CIFAR-10
        options.update(mean=0.0, std=1.0)
    try:
        return krl.networks.get(
            settings["model"],
            classes=data.num_classes,
            input_shape=data.input_shape,
            **options,
        )
    except ValueError as error:
        if "input_shape" not in str(error):
            raise
        height, width, _ = data.input_shape
        raise ValueError(
            f"--model={settings['model']} cannot take images of {height}x{width}; "
            f"--image_size brings them to another size. {error}"
        ) from None


def _trained(settings):
    """The network in the file of weights that the settings name.

    Raises:
        ValueError: If it cannot be read.
    """
    try:
        trained = load(settings["initial_weights"])
    except (ImportError, OSError, TypeError, ValueError) as error:
        raise _no_initial_weights(settings, error) from None
    trained = getattr(trained, "inference_network", trained)  # of a RobustLTModel
    said = checks.has_diverged(trained)
    if said:
        raise ValueError(
            f"--initial_weights={settings['initial_weights']} must have weights that "
            f"are finite numbers: its training has diverged. Received: {said}"
        )
    return trained


def _normalization_of(network, channels):
    """How a network of this package scales pixels; `None` if it is none."""
    for layer in getattr(network, "layers", ()):
        if isinstance(layer, keras.layers.Normalization):
            config = layer.get_config()
            mean, std = np.ravel(config["mean"]), np.sqrt(np.ravel(config["variance"]))
            if layer.name == "normalization" and len(mean) == channels:
                return {"mean": mean.tolist(), "std": std.tolist()}
    return None


def set_initial_weights(network, trained, settings):
    """Gives the network the weights of another one.

    The last layer keeps its own where the settings say so, or the other's is of another
    number of classes.

    Raises:
        ValueError: If the other one does not fit.
    """
    ours, theirs = _with_weights(network), _with_weights(trained)
    anew = settings["new_head"] or _shapes(ours[-1:]) != _shapes(theirs[-1:])
    if anew:
        ours, theirs = ours[:-1], theirs[:-1]
    if _shapes(ours) != _shapes(theirs):
        raise _no_initial_weights(settings, "its layers are others")
    if anew:
        why = "is of other classes, or another --head, and begins anew"
        if settings["new_head"]:
            why = "stays out, as --new_head says: that layer begins anew"
        print(f"  The last layer of {settings['initial_weights']} {why}.")
    left_out = _after_weights(trained)[len(_after_weights(network)) :]
    if left_out:
        print(
            f"  What changes the logits of {settings['initial_weights']} behind its "
            f"last layer with weights, {' and '.join(left_out)}, is left out."
        )
    for layer, source in zip(ours, theirs, strict=True):
        layer.set_weights(source.get_weights())


def _no_initial_weights(settings, reason):
    reason = str(reason).strip().splitlines()[0]
    return ValueError(
        f"--initial_weights={settings['initial_weights']} must be the .keras file of a "
        f"{settings['backbone'] or settings['model']} of this size, with the same "
        f"--head: {reason}"
    )


def _with_weights(network):
    return [layer for layer in network.layers if layer.weights]


def _after_weights(network):
    """The names of the layers behind the last one with weights."""
    names = [layer.name if not layer.weights else None for layer in network.layers]
    return names[len(names) - names[::-1].index(None) :]


def _shapes(layers):
    return [[tuple(weight.shape) for weight in layer.weights] for layer in layers]
