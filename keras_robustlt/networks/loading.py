"""Reading networks from files."""

import pathlib
import re
import zipfile

import keras

# What Keras says of what only the code of one's own can make.
OWN_CODE = re.compile(
    r"(?:Could not (?:locate|deserialize)) (class '[^']*'|function '[^']*')"
    r"|a `Lambda` layer"
)


def load(path):
    """The network in a .keras file; it is not compiled.

    Args:
        path: String or path.

    Returns:
        A `keras.Model`.

    Raises:
        ImportError: If it has layers of keras-hub or keras-cv, and that package is not
            installed.
        OSError: If the file may not be read.
        ValueError: If the file is damaged, or has no weights, or code of one's own.
    """
    open(path, "rb").close()
    # Keras says of such a file that it is not there.
    if pathlib.Path(path).suffix == ".keras" and not zipfile.is_zipfile(path):
        raise ValueError("it is cut short, or something else than a .keras file")
    # So that the package's own layers and models are known.
    import keras_robustlt.layers
    import keras_robustlt.model  # noqa: F401

    try:
        network = keras.saving.load_model(path, compile=False)
    except (TypeError, ValueError) as error:
        _explain(error)
        raise
    _check_built(network)
    return network


def _explain(error):
    """Raises an error of one line for what Keras says with the whole configuration."""
    missing = re.search(r"parent module (keras_hub|keras_cv)\b", str(error))
    if missing:
        package = missing[1].replace("_", "-")
        raise ImportError(
            f"it has layers of the package {package}: pip install {package}"
        ) from error
    own = OWN_CODE.search(str(error))
    if own:
        raise ValueError(
            f"it has a {own[1] or 'Lambda layer'}, which is code of one's own: only "
            "networks of the layers of Keras and of this package can be read from "
            "files here"
        ) from error


def _check_built(network):
    """Raises if weights would be made, at random, when the network is called."""
    if network.built:
        return
    lacking = [
        layer.name
        for layer in network._flatten_layers(include_self=False)
        # The parts of a model are among them, and others make no weights.
        if not (layer.built or isinstance(layer, keras.Model))
        and type(layer).build is not keras.Layer.build
    ]
    if lacking:
        raise ValueError(
            f"it has no weights of its layer {lacking[0]!r}: it was saved before it "
            "was built. Call it on an image, or train it, before it is saved"
        )
