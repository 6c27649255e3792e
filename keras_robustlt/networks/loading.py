"""Reading networks from files."""

import re

import keras


def load(path):
    """The network in a .keras file; it is not compiled.

    Args:
        path: String or path.

    Returns:
        A `keras.Model`.

    Raises:
        ImportError: If it has layers of keras-hub or keras-cv, and that package is not
            installed.
    """
    # So that the package's own layers and models are known.
    import keras_robustlt.layers
    import keras_robustlt.model  # noqa: F401

    try:
        return keras.saving.load_model(path, compile=False)
    except TypeError as error:
        missing = re.search(r"parent module (keras_hub|keras_cv)\b", str(error))
        if missing is None:
            raise
        package = missing[1].replace("_", "-")
        raise ImportError(
            f"it has layers of the package {package}: pip install {package}"
        ) from error
