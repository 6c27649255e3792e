"""What is wrong with the input, said in words that tell the user what to do."""

import keras
import numpy as np


def in_range(name, value, low, high):
    """The number `value`, if it is in `[low, high]`."""
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not low <= number <= high:
        expected = f"in [{low}, {high}]" if np.isfinite(high) else f"at least {low}"
        raise ValueError(f"`{name}` must be a number {expected}. Received: {value!r}")
    return number


def one_of(name, value, choices):
    """The string `value`, if it is one of `choices`."""
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {known}. Received: {value!r}")
    return value


def positive_integer(name, value):
    """The integer `value`, if it is at least 1."""
    if isinstance(value, bool) or int(value) != value or value < 1:
        raise ValueError(
            f"`{name}` must be an integer of at least 1. Received: {value}"
        )
    return int(value)


def epsilon(value, norm="linf"):
    """The budget `value`, if it makes sense for images in `[0, 1]`."""
    if norm == "linf" and isinstance(value, (int, float)) and value > 1:
        raise ValueError(
            "`epsilon` is in pixel units of images in [0, 1], so at most 1: write "
            f"8 / 255 for the usual budget. Received: epsilon={value}"
        )
    return in_range("epsilon", value, 0, 1 if norm == "linf" else np.inf)


def equal_parts(num_images, batch_size):
    """Raises a ValueError if a batch cannot be cut into equal parts, as JAX needs."""
    distribution = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or distribution is None:
        return
    import jax

    mesh = distribution.device_mesh
    parts = mesh.shape[mesh.axis_names.index(distribution.batch_dim_name)]
    parts = max(parts // jax.process_count(), 1)
    if batch_size % parts or num_images % batch_size % parts:
        raise ValueError(
            f"`batch_size` and the number of images must be multiples of {parts}, the "
            "number of this process's devices: JAX gives each an equal part of every "
            "batch, of the last one too. "
            f"Received: {num_images} images and batch_size={batch_size}"
        )


def class_counts(counts):
    """`counts` as an int64 array of shape `(num_classes,)`, all positive."""
    if isinstance(counts, dict):
        if sorted(counts) != list(range(len(counts))):
            raise ValueError(
                "`class_counts` as a dictionary must have the class indices 0, 1, ... "
                f"as its keys. Received keys: {sorted(counts)}"
            )
        counts = [counts[index] for index in range(len(counts))]
    array = np.asarray(counts)
    if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "iuf":
        raise ValueError(
            "`class_counts` must be a list of the number of training images of each "
            f"class, of at least two classes. Received: {counts!r}"
        )
    if not np.all(np.isfinite(array)) or np.any(array != np.floor(array)):
        raise ValueError(f"`class_counts` must be whole numbers. Received: {counts!r}")
    if np.any(array < 0):
        raise ValueError(
            "`class_counts` must not be negative. Received a negative count for class "
            f"{np.flatnonzero(array < 0).tolist()}: {array.tolist()}"
        )
    if np.any(array == 0):
        raise ValueError(
            "`class_counts` must be positive: class "
            f"{np.flatnonzero(array == 0).tolist()} has no training image. Leave the "
            "class out (and renumber the labels) or add images of it. "
            f"Received: {array.tolist()}"
        )
    return array.astype("int64")


def images(x, name="x"):
    """Raises if the array `x` is not a batch of float images in `[0, 1]`."""
    x = np.asarray(x)
    if x.dtype.kind != "f":
        raise ValueError(_wrong_dtype(name, x.dtype))
    spoilt = np.isnan(x).any(axis=tuple(range(1, x.ndim)))
    no_nan(name, int(spoilt.sum()))
    if x.size:
        pixel_range(name, x.min(), x.max())


def labels(y, num_classes, name="y"):
    """Raises if the array `y` holds no labels of `num_classes` classes."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == num_classes:
        if np.isnan(y).any() or not np.allclose(y.sum(axis=1), 1, atol=1e-3):
            raise ValueError(
                f"`{name}` has the shape of one-hot labels, {y.shape}, but its rows do "
                "not sum to 1."
            )
        return
    if y.ndim not in (1, 2) or (y.ndim == 2 and y.shape[1] != 1):
        raise ValueError(
            f"`{name}` must hold integer labels, of shape (batch,), or one-hot labels, "
            f"of shape (batch, {num_classes}). Received shape: {y.shape}"
        )
    if (
        y.dtype.kind == "f"
        and not np.all(y == np.floor(y))
        or y.dtype.kind not in "iuf"
    ):
        raise ValueError(
            f"`{name}` must hold integer labels. Received dtype {y.dtype} with values "
            f"such as {y.ravel()[:3].tolist()}"
        )
    if y.size:
        label_range(name, y.min(), y.max(), num_classes)


def image_dtype(x):
    """Raises if the tensor `x` is not of a floating-point type."""
    dtype = keras.backend.standardize_dtype(x.dtype)
    if not keras.backend.is_float_dtype(dtype):
        raise ValueError(_wrong_dtype("x", dtype))


def logits_not_probabilities(network):
    """Raises if the last layer of `network` ends in a softmax or sigmoid."""
    last = network
    while isinstance(last, keras.Model) and last.layers:
        last = last.layers[-1]
    activation = getattr(last, "activation", None)
    name = getattr(activation, "__name__", "")
    if isinstance(last, keras.layers.Softmax) or name in ("softmax", "sigmoid"):
        refuse_probabilities(f"its last layer, {last.name!r},")


def pixel_range(name, low, high):
    """Raises if pixels from `low` to `high` are not in `[0, 1]`."""
    if low >= -1e-6 and high <= 1 + 1e-6:
        return
    advice = (
        f" These look like pixels from 0 to 255: divide {name} by 255."
        if high > 2
        else " Normalisation (mean, standard deviation) belongs inside the network, so "
        "that epsilon is in pixel units."
    )
    raise ValueError(
        f"`{name}` must hold images in [0, 1]. Received values from {low:.4g} to "
        f"{high:.4g}.{advice}"
    )


def no_nan(name, num_images):
    """Raises if there are images with pixels that are not a number."""
    if num_images:
        raise ValueError(
            f"`{name}` holds pixels that are not a number (NaN), in {num_images} "
            "image(s). Find them with numpy.isnan and leave those images out."
        )


def label_range(name, low, high, num_classes):
    """Raises if labels from `low` to `high` are not those of `num_classes` classes."""
    if low < 0 or high > num_classes - 1:
        raise ValueError(
            f"`{name}` must hold labels from 0 to {num_classes - 1}, as `class_counts` "
            f"has {num_classes} classes. Received labels from {low:.0f} to {high:.0f}."
        )


def refuse_probabilities(where):
    """Raises the error of a network that gives probabilities."""
    raise ValueError(
        f"`network` must give logits, but {where} gives probabilities. Remove the "
        "softmax (activation=None in the last layer): the losses and attacks apply it "
        "themselves, in a numerically safe way."
    )


def _wrong_dtype(name, dtype):
    return (
        f"`{name}` must hold floating-point images in [0, 1]. Received dtype: {dtype}. "
        f"If these are pixels from 0 to 255, pass {name}.astype('float32') / 255."
    )
