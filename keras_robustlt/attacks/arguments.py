"""What attacks are made and called with, and what may be asked of them where.

Those of a training step, for instance, are one run from one start, and raise the loss
of the method.
"""

import warnings

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.attacks import base, gradients
from keras_robustlt.configurable import is_of_this_package
from keras_robustlt.data.arguments import check_no_mask

# So many images show what a network gives.
PROBES = 8


def check_stays_within(argument, attack):
    """Raises if `attack` says that it leaves the ball that its epsilon stands for."""
    if base.trait(attack, "reach") > 1:
        raise ValueError(
            f"`{argument}` must stay within its epsilon, and {type(attack).__name__} "
            "leaves that ball by design: it is an attack to train with. Evaluate with "
            f"PGD, 'pgd20' or 'autoattack'. Received: {argument}={attack!r}"
        )


def check_one_run(argument, attack):
    """Raises if `attack` asks for restarts where it is made step by step, once."""
    restarts = base.trait(attack, "restarts")
    if restarts > 1:
        raise ValueError(
            f"`{argument}` is one run from one random start here, so it must have "
            f"restarts=1. Received: {argument}={attack!r}"
        )


def check_is_perturb(argument, attack):
    """Raises if a subclass says anew what a call does, which training does not make."""
    call, perturb = (
        next(each for each in type(attack).__mro__ if name in vars(each))
        for name in ("__call__", "perturb")
    )
    if call is not perturb and issubclass(call, perturb):
        raise ValueError(
            f"`{argument}` attacks in training by its `starting_point` and `perturb`, "
            f"and {call.__name__} defines `__call__` alone, which would have no "
            f"effect: define `perturb`. Received: {argument}={attack!r}"
        )


def check_no_loss(argument, attack):
    """Raises if `attack` has a loss of its own where another one will be raised."""
    loss = base.trait(attack, "loss")
    if loss != "cross_entropy":
        raise ValueError(
            f"`{argument}` raises the `attack_loss` of the method in training, which "
            "is the cross-entropy for most, and a loss of its own has no effect. Leave "
            "`loss` out, or train with a `Method` whose `attack_loss` is another. "
            f"Received: {argument}={attack!r}"
        )


def check_no_smaller_ball(argument, attack, training):
    """Raises if an attack has the radius of another one, in a norm of smaller balls.

    The L2 ball of a radius that is meant for each pixel is next to no budget.

    Args:
        argument: String, what the attack is called.
        attack: The attack.
        training: The training attack, in whose norm the radius is meant.
    """
    norm, meant = (base.trait(each, "norm") for each in (attack, training))
    if (norm, meant) == ("l2", "linf"):
        raise ValueError(
            f"`{argument}` must have the norm of the model's training attack, in whose "
            f"units epsilon is. Received: norm={norm!r}, and {meant!r} of the training "
            "attack"
        )


def check_loss(loss):
    """`loss`, if it is the name of a loss or a function, or as Keras saves one."""
    if isinstance(loss, dict):
        loss = keras.saving.deserialize_keras_object(loss)
    if callable(loss):
        losses.refuse_probabilities("loss", loss)
        return checks.function("loss", loss, ("targets", "logits"))
    return checks.one_of("loss", loss, tuple(base.LOSSES))


def check_loss_values(values, loss, ranks):
    """`values` of a loss, if they are a tensor of one of these numbers of dimensions.

    Args:
        values: What the loss gives.
        loss: The loss, by name or a function.
        ranks: Tuple of integers.
    """
    if not ops.is_tensor(values) or len(values.shape) not in ranks:
        raise ValueError(
            "`loss` must give one value for each example, a tensor of shape (batch,) "
            "computed with the backend, as keras.ops does. Received: "
            f"{getattr(values, 'shape', type(values).__name__)}, from loss={loss!r}"
        )
    return values


def one_of_each(values, logits, loss):
    """`values`, if they are a scalar or there is one of each image."""
    # This package's are known to; of a partial it is the function inside.
    if len(values.shape) == 0 or is_of_this_package(getattr(loss, "func", loss)):
        return values
    message = f"`loss` must give one value for each example. Received: loss={loss!r}"
    return backend.as_many(values, logits, message)


def check_logits(logits, count):
    """Raises if what the network gives are probabilities, whatever makes them.

    Attacks would lose their gradient where the network is sure, and find it robust.

    Args:
        logits: Float array of shape `(examples, num_classes)`.
        count: Integer, the number of images that they are of.
    """
    if len(logits) != count:
        raise ValueError(
            "`network` must give logits of shape (batch, num_classes), of each image "
            f"its own. Received: outputs of shape {logits.shape} for {count} images"
        )
    with np.errstate(invalid="ignore"):  # of infinite logits
        sums = logits.sum(axis=1)
    are_probabilities = np.all(logits >= 0) and np.allclose(sums, 1, atol=1e-4)
    if len(logits) > 1 and are_probabilities:
        checks.refuse_probabilities("its output")


def warn_of_no_numbers(logits):
    """Warns if not all logits are finite numbers, which no attack can follow."""
    spoilt = int(np.sum(~np.isfinite(logits).all(axis=1)))
    if spoilt:
        warnings.warn(
            "`network` gives logits that are infinite or no numbers (NaN) for "
            f"{spoilt} of {len(logits)} images. What an attack makes of such images "
            "says nothing of robustness: they count as misclassified.",
            stacklevel=3,
        )


def check_output(network, shape=None):
    """Raises if a network gives probabilities for noise, or has weights of NaN.

    Args:
        network: A Keras layer, or a function of images.
        shape: Tuple, that of an image. Defaults to what the network says; of one that
            does not say, nothing is known.
    """
    if isinstance(network, keras.Layer):
        checks.finite_weights(network)
    if shape is None:
        shape = getattr(network, "input_shape", None)
        shape = shape[1:] if isinstance(shape, tuple) else (None,)
    if None not in shape:
        noise = np.random.default_rng(0).random((PROBES, *shape), "float32")
        logits = gradients.logits_of(network)(ops.convert_to_tensor(noise))
        check_logits(ops.convert_to_numpy(logits), PROBES)


def check_call(network, x, y, **numbers):
    """Raises if an attack is not called with a network, with images and with labels.

    Args:
        network: See `Attack.__call__`.
        x: Likewise.
        y: Likewise.
        **numbers: Other arguments of the call that may be arrays.
    """
    if not callable(network) or isinstance(network, type):
        raise ValueError(
            "`network` must be a Keras model that gives logits, or a function of a "
            f"batch of images that does. Received: network={network!r}"
        )
    if isinstance(network, keras.Layer):
        checks.takes_floats(network)
    if x is None or isinstance(x, (str, bytes, dict)) or not _rank(x):
        raise ValueError(
            "`x` must be the images, one array of shape (batch, ...). Received: "
            f"x={x!r}"
        )
    if y is None or isinstance(y, (str, bytes)) or not _rank(y):
        raise ValueError(
            "`y` must be the labels of the images, an array with one for each. "
            f"Received: y={y!r}"
        )
    check_no_mask("x", x)
    check_no_mask("y", y)
    for name, value in numbers.items():
        if isinstance(value, (list, tuple)) and not _rank(value):
            raise ValueError(
                f"`{name}` must be a number or an array of numbers. Received: lists of "
                f"different lengths, {name}={value!r}"
            )


def _rank(value):
    """The number of dimensions, 0 of what is no array."""
    try:
        return np.ndim(value)
    except ValueError:  # lists of lists that differ in their lengths
        return 0


def check_each(name, value, count):
    """Raises if `value` is neither a number nor one for each of `count` images."""
    if np.asarray(value).dtype.kind not in "iufV":  # V is bfloat16, for NumPy
        raise ValueError(
            f"`{name}` must be a number, or an array of numbers. Received: {value!r}"
        )
    if np.size(value) not in (1, count) or np.ndim(value) > 1:
        raise ValueError(
            f"`{name}` must be a number, or an array with one for each of the {count} "
            f"images. Received: shape {np.shape(value)}"
        )


def check_start(start, shape):
    """Raises if `start` holds no points of the images' `shape` to start from."""
    if tuple(np.shape(start)) != tuple(shape):
        raise ValueError(
            f"`start` must have the shape of the images, {tuple(shape)}. Received: "
            f"shape {tuple(np.shape(start))}"
        )
    if np.asarray(start).dtype.kind not in "iufV":
        raise ValueError(
            f"`start` must hold numbers. Received: dtype {np.asarray(start).dtype}"
        )
    if not np.all(np.isfinite(start)):
        raise ValueError("`start` must be finite. Received: NaN or infinite pixels")


def check_labels(labels, count, num_classes, loss):
    """Raises if `labels` are not those of `count` images, for an attack's `loss`."""
    if len(np.atleast_1d(labels)) != count:
        raise ValueError(
            "`x` and `y` must have the same length. "
            f"Received: {count} images and {np.size(labels)} labels"
        )
    checks.labels(labels, num_classes)
    if loss in ("dlr", "margin") and checks.are_soft(labels, num_classes):
        checks.refuse_soft_labels("`y` holds", f"loss={loss!r} is of one class.")


def check_dlr(loss, num_classes):
    """Raises if `loss` is "dlr" and there are too few classes for it."""
    if loss == "dlr" and num_classes < 3:
        raise ValueError(
            "`loss='dlr'` needs at least 3 classes: use loss='cross_entropy' or "
            f"loss='margin'. Received: a network of {num_classes} classes"
        )
