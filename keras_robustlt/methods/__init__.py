"""Base methods of adversarial training, each usable with any budget."""

from keras_robustlt import configurable
from keras_robustlt.methods.at import AT
from keras_robustlt.methods.at_bsl import ATBSL
from keras_robustlt.methods.awp import AWP
from keras_robustlt.methods.base import Method
from keras_robustlt.methods.cgr import (
    CGR,
    confusion_graph,
    feedback_scores,
    feedback_weights,
)
from keras_robustlt.methods.long_tail_losses import LDAM, ClassBalanced, Focal
from keras_robustlt.methods.mart import MART
from keras_robustlt.methods.nuat import NuAT
from keras_robustlt.methods.reat import REAT
from keras_robustlt.methods.robal import RoBal
from keras_robustlt.methods.standard import Standard
from keras_robustlt.methods.taet import TAET
from keras_robustlt.methods.trades import TRADES

__all__ = [
    "AT",
    "ATBSL",
    "AWP",
    "CGR",
    "LDAM",
    "MART",
    "REAT",
    "TAET",
    "TRADES",
    "ClassBalanced",
    "Focal",
    "Method",
    "NuAT",
    "RoBal",
    "Standard",
    "confusion_graph",
    "feedback_scores",
    "feedback_weights",
    "get",
]

BY_NAME = {
    "at": AT,
    "at_bsl": ATBSL,
    "awp": AWP,
    "cgr": CGR,
    "class_balanced": ClassBalanced,
    "focal": Focal,
    "ldam": LDAM,
    # The balanced softmax and the adjustment of logits in training are one loss.
    "logit_adjusted": ATBSL,
    "mart": MART,
    "nuat": NuAT,
    "reat": REAT,
    "robal": RoBal,
    "standard": Standard,
    "taet": TAET,
    "trades": TRADES,
}


def with_soft_labels():
    """The names of the methods that take soft labels."""
    return [name for name, kind in BY_NAME.items() if get(name).soft_labels]


def get(method, **options):
    """A method from its name, its configuration or itself.

    Args:
        method: A name (`"at"`, `"at_bsl"`, `"awp"`, `"cgr"`, `"class_balanced"`,
            `"focal"`, `"ldam"`, `"logit_adjusted"`, which is `"at_bsl"`, `"mart"`,
            `"nuat"`, `"reat"`, `"robal"`, `"standard"`, `"taet"`, `"trades"`), one
            with `"+awp"` behind it for AWP over that method, a `Method`, or the
            dictionary that `keras.saving.serialize_keras_object` makes of one.
        **options: Hyper-parameters, where `method` is a name; with `"+awp"`, those of
            the method before it.

    Returns:
        A `Method`.

    Raises:
        ValueError: If there is no such method, or `options` are given with an object.

    Example:

    >>> krl.methods.get("at_bsl")
    ATBSL(tau=1.0, label_smoothing=0.0)
    >>> krl.methods.get("trades", beta=4)
    TRADES(beta=4.0)
    """
    if isinstance(method, str) and method.removesuffix("+awp") in BY_NAME:
        base, *over = method.split("+")
        method = BY_NAME[base](**options)
        return AWP(method) if over else method
    return configurable.get(
        "method", method, Method, BY_NAME, options, "one with '+awp' behind it"
    )
