"""The model that an evaluation is given, as what it works on."""

import keras
from keras import ops

from keras_robustlt import checks
from keras_robustlt.attacks import gradients
from keras_robustlt.attacks.arguments import PROBES, check_logits
from keras_robustlt.model import RobustLTModel

EPSILON = 8 / 255
TAIL_FRACTION = 0.8


class FunctionLayer(keras.Layer):
    """A function as a layer, so that what is compiled for it can be kept."""

    def __init__(self, function):
        super().__init__(dtype="float32", name="function")
        self.function = gradients.with_tensors(function)
        self.built = True

    def call(self, x, training=False):
        del training
        return self.function(x)


def network_of(model):
    """The Keras layer that gives the logits of `model`."""
    if isinstance(model, RobustLTModel):
        model = model.inference_network
    if isinstance(getattr(model, "__self__", None), keras.Model):
        raise ValueError(
            "`model` must be the Keras model itself, and not its method "
            f"{model.__name__!r}, whose results have no gradient. Received: "
            f"model={model!r}"
        )
    if isinstance(model, keras.Layer):
        if len(getattr(model, "inputs", None) or ()) > 1:
            checks.one_input_and_output(model)  # one in a dictionary may be
        checks.network(model)
        return model
    if not callable(model) or isinstance(model, type):
        raise ValueError(
            "`model` must be a RobustLTModel, a Keras model that gives logits, or a "
            f"function of a batch of images that does. Received: model={model!r}"
        )
    return FunctionLayer(checks.function("model", model, ("x",)))


def budget_of(model, epsilon=None, otherwise=EPSILON):
    """`epsilon`, or else that of a `RobustLTModel`, or else the usual one.

    An `epsilon` of another model is something else, such as that of a normalisation.
    """
    if epsilon is not None:
        return epsilon
    return model.epsilon if isinstance(model, RobustLTModel) else otherwise


def norm_of(model):
    """The norm of the budget that `budget_of` gives."""
    return model.norm if isinstance(model, RobustLTModel) else "linf"


def tail_of(model, class_counts=None, tail_fraction=None):
    """Training images of each class, or `None`, and the share of classes in the tail.

    What is not given is that of a `RobustLTModel`.
    """
    if isinstance(model, RobustLTModel):
        class_counts = model.class_counts if class_counts is None else class_counts
        tail_fraction = model.tail_fraction if tail_fraction is None else tail_fraction
    if class_counts is not None:
        class_counts = checks.class_counts(class_counts)
    elif tail_fraction is not None:
        raise ValueError(
            "`tail_fraction` needs `class_counts`, which say how rare a class is. "
            f"Received: tail_fraction={tail_fraction!r}, class_counts=None"
        )
    if tail_fraction is None:
        tail_fraction = TAIL_FRACTION
    return class_counts, checks.share("tail_fraction", tail_fraction)


def num_classes_of(network, images, class_counts=None):
    """How many logits the network gives, which `class_counts` must fit."""
    checks.finite_weights(network)
    logits = gradients.logits_of(network)(ops.convert_to_tensor(images[:PROBES]))
    check_logits(ops.convert_to_numpy(logits), len(images[:PROBES]))
    num_classes = int(logits.shape[1])
    if num_classes < 2:
        raise ValueError(
            "`model` must give a logit for each of at least 2 classes. Two classes "
            "need two outputs: Dense(2) without an activation, and labels 0 and 1. "
            f"Received: {num_classes} output(s)"
        )
    if class_counts is not None and len(class_counts) != num_classes:
        raise ValueError(
            f"`class_counts` must have {num_classes} entries, as many as the network "
            f"has outputs. Received: {class_counts.tolist()}"
        )
    return num_classes
