"""Base methods of adversarial training, each usable with any budget."""

import keras

from keras_robustlt.methods.at import AT
from keras_robustlt.methods.at_bsl import ATBSL
from keras_robustlt.methods.base import Method
from keras_robustlt.methods.standard import Standard

__all__ = ["AT", "ATBSL", "Method", "Standard", "get"]

BY_NAME = {"at": AT, "at_bsl": ATBSL, "standard": Standard}


def get(method):
    """A method from its name, its configuration or itself.

    Args:
        method: `"at"`, `"at_bsl"`, `"standard"`, a `Method`, or the dictionary that
            `keras.saving.serialize_keras_object` makes of one.

    Returns:
        A `Method`.

    Raises:
        ValueError: If there is no such method.

    Example:

    >>> krl.methods.get("at_bsl")
    ATBSL(tau=1.0)
    """
    if isinstance(method, Method):
        return method
    if isinstance(method, dict):
        return keras.saving.deserialize_keras_object(method)
    if method in BY_NAME:
        return BY_NAME[method]()
    raise ValueError(
        f"`method` must be one of {', '.join(map(repr, BY_NAME))} or an object of a "
        f"subclass of keras_robustlt.methods.Method. Received: {method!r}"
    )
