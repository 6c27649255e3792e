"""What is wrong with the input, said in words that tell the user what to do."""

import inspect
import itertools
import numbers
import random
import reprlib
import warnings

import keras
import numpy as np
from keras import ops

from keras_robustlt.data.arguments import check_no_mask
from keras_robustlt.data.arrays import as_array


def in_range(name, value, low, high):
    """The number `value`, if it is finite and in `[low, high]`."""
    number = _number(value)
    if not (low <= number <= high and np.isfinite(number)):
        expected = f"in [{low}, {high}]" if np.isfinite(high) else f"at least {low}"
        raise ValueError(
            f"`{name}` must be a number {expected}. Received: {_short(value)}"
        )
    return number


def not_all_zero(**weights):
    """Raises if no part of a loss has a weight above 0."""
    if not any(weights.values()):
        names = ", ".join(f"`{name}`" for name in weights)
        raise ValueError(
            f"Of {names} one must be above 0, or there is no loss. Received: {weights}"
        )


def share(name, value):
    """The number `value`, if it is above 0 and at most 1."""
    number = in_range(name, value, 0, 1)
    if not number:
        raise ValueError(
            f"`{name}` must be a number above 0 and at most 1. Received: "
            f"{_short(value)}"
        )
    return number


def positive(name, value):
    """The number `value`, if it is finite and above 0."""
    number = _number(value)
    if not 0 < number < np.inf:
        raise ValueError(
            f"`{name}` must be a number above 0. Received: {_short(value)}"
        )
    return number


def _number(value):
    """`value` as a float; NaN, which is in no range, for what is not a number."""
    try:
        if isinstance(value, (bool, np.bool_, str, bytes, np.datetime64)):
            return np.nan
        return np.nan if np.ndim(value) else float(value)
    except (TypeError, ValueError, OverflowError):
        return np.nan


def _short(value):
    """`value` as a message shows it: arrays and long lists not in full."""
    return reprlib.repr(value.tolist() if isinstance(value, np.ndarray) else value)


def one_of(name, value, choices):
    """The string `value`, if it is one of `choices`."""
    if not isinstance(value, str) or value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise ValueError(f"`{name}` must be one of {known}. Received: {_short(value)}")
    return value


def string(name, value):
    """The string `value`."""
    if not isinstance(value, str):
        raise ValueError(f"`{name}` must be a string. Received: {_short(value)}")
    return value


def boolean(name, value):
    """The boolean `value`."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"`{name}` must be True or False. Received: {_short(value)}")
    return bool(value)


def verbose(value):
    """Raises if `value` is none of what Keras has for what to show."""
    if not isinstance(value, (str, bool, numbers.Integral)) or value not in VERBOSE:
        raise ValueError(
            f"`verbose` must be 'auto', 0, 1 or 2. Received: {_short(value)}"
        )


VERBOSE = ("auto", 0, 1, 2)


def callbacks(given):
    """The callbacks in what `fit` is given for them, as a list."""
    is_list = isinstance(given, keras.callbacks.CallbackList)
    listed = given.callbacks if is_list else keras.tree.flatten(given)
    listed = [each for each in listed if each is not None]
    for each in listed:
        if isinstance(each, type) or not hasattr(each, "set_model"):
            raise ValueError(
                "`callbacks` must be a list of objects such as "
                f"keras_robustlt.callbacks.ScheduleInspector(). Received: {each!r}"
            )
    if len({id(each) for each in listed}) < len(listed):
        raise ValueError(
            f"`callbacks` must be different objects, each once. Received: {listed!r}"
        )
    return listed


def positive_integer(name, value):
    """The integer `value`, if it is at least 1, and one that backends count to."""
    number = integer(name, value, 1)
    if number > MOST:
        raise ValueError(f"`{name}` must be at most {MOST}. Received: {_short(value)}")
    return number


MOST = 2**31 - 1
# Beyond it, a number is infinite where losses are computed.
LARGEST = float(np.finfo("float32").max)


def integer(name, value, low):
    """The integer `value`, if it is at least `low`."""
    number = _number(value)
    if not (low <= number < np.inf and number.is_integer()):
        raise ValueError(
            f"`{name}` must be an integer of at least {low}. Received: {_short(value)}"
        )
    return int(value)


def seed(value, name="seed"):
    """The seed `value`: `None`, or an integer that a `SeedGenerator` takes."""
    if value is None:
        return None
    number = _number(value)
    if not (0 <= number < 2**31 and number.is_integer()):
        raise ValueError(
            f"`{name}` must be None or an integer from 0 to 2**31 - 1. "
            f"Received: {_short(value)}"
        )
    return int(value)


def integer_seed(seed):
    """An integer from what attacks and subsets take as `seed`; of `None`, any."""
    if seed is None:
        return random.randrange(2**31)
    if isinstance(seed, keras.random.SeedGenerator):
        return int(np.sum(ops.convert_to_numpy(seed.next()).astype("int64"))) % 2**31
    return integer("seed", seed, 0)


def known(value):
    """`value` as an array, or None where it has none yet: inside of compiled code."""
    if value is None:
        return None
    try:
        return np.asarray(ops.convert_to_numpy(value))
    except (NotImplementedError, TypeError):
        return None


def epsilon(value, norm="linf", name="epsilon"):
    """The budget `value`, if it makes sense for images in `[0, 1]`."""
    if norm == "linf" and 1 < _number(value) < np.inf:
        raise ValueError(
            f"`{name}` is in pixel units of images in [0, 1], so at most 1: write "
            f"8 / 255 for the usual budget. Received: {name}={value}"
        )
    return in_range(name, value, 0, 1 if norm == "linf" else np.inf)


def function(name, value, arguments, keywords=()):
    """`value`, if it is a function that can be called with these arguments.

    Args:
        name: String, what the value is called.
        value: What should be a function.
        arguments: Tuple of strings, what to call its arguments by position.
        keywords: Tuple of strings, the names of those given by name.
    """
    # These can be called too, and what they give is something else.
    others = type, keras.Layer, keras.metrics.Metric
    fits = callable(value) and not isinstance(value, others)
    try:
        if fits:
            inspect.signature(value).bind(*arguments, **dict.fromkeys(keywords))
    except TypeError:
        fits = False
    except ValueError:  # one without a signature
        pass
    if not fits:
        raise ValueError(
            f"`{name}` must be a function of ({', '.join((*arguments, *keywords))}). "
            f"Received: {_short(value)}"
        )
    return value


def no_class(name, value):
    """Raises if `value` is a class where an object of the class is meant."""
    if isinstance(value, type):
        raise ValueError(
            f"`{name}` must be an object, not its class: write {value.__name__}(...). "
            f"Received: {value!r}"
        )


def floats(name, value, shape, like=""):
    """`value` as a float32 tensor, if it holds numbers and has the shape.

    Sizes that are not known yet, inside compiled code, may be any.

    Args:
        name: String, what the value is called.
        value: A tensor, an array or lists of numbers.
        shape: Tuple with the size of each dimension, an integer, or a name for one
            that may be any; the same in all dimensions of that name.
        like: String, what else has this shape.
    """
    try:
        if not isinstance(value, keras.KerasTensor):
            value = ops.convert_to_tensor(value)
        found, dtype = tuple(value.shape), _dtype(value)
    except Exception:  # each backend has its own for what it makes no tensor of
        found, dtype = type(value).__name__, ""
    fits = dtype.startswith(NUMBERS)
    if not fits or not _has_shape(found, shape):
        sizes = f"({', '.join(map(str, shape))}{',' * (len(shape) == 1)})"
        raise ValueError(
            f"`{name}` must hold numbers, in the shape {sizes}"
            + (f" of `{like}`. Received: " if like else ". Received: ")
            + (f"shape {found} and dtype {dtype}" if dtype else found)
        )
    return ops.cast(value, "float32")


def confusion(value, num_classes="num_classes"):
    """`value` as a float32 tensor, if it may hold mean probabilities of the classes.

    A class without an image has a row of zeros.

    Args:
        value: A tensor, an array or lists of numbers.
        num_classes: Integer, if it is known.
    """
    value = floats("confusion", value, (num_classes, num_classes))
    array = known(value)
    if array is not None:
        rows = array.sum(axis=1)
        good = np.abs(rows - 1) < 0.02  # as they are printed
        received = f"rows that sum to {_short(rows)}"
        if not np.all(array >= 0):
            received = "some that are negative or no numbers (NaN)"
        elif np.all(good | (rows == 0)):
            return value
        raise ValueError(
            "`confusion` must hold mean probabilities, in rows that sum to 1: divide "
            f"counts by the images of each class. Received: {received}"
        )
    return value


# How the names of their dtypes begin.
NUMBERS = ("float", "bfloat", "int", "uint", "bool")


def _has_shape(found, shape):
    if len(found) != len(shape):
        return False
    sizes = {}
    for name, size in zip(shape, found, strict=True):
        expected = sizes.setdefault(name, size) if isinstance(name, str) else name
        if None not in (size, expected) and size != expected:
            return False
    return True


def robust_model(callback):
    """Raises if a callback that looks at budgets and attacks is on another model."""
    model = callback.model
    if not hasattr(model, "schedule"):
        received = "no model" if model is None else f"a {type(model).__name__}"
        raise ValueError(
            f"{type(callback).__name__} must be among the `callbacks` of `fit` of a "
            "keras_robustlt.RobustLTModel, and knows nothing before. Received: "
            f"{received}"
        )


def class_counts(counts):
    """`counts` as an int64 array of shape `(num_classes,)`, all positive."""
    check_no_mask("class_counts", counts)
    array = _in_order_of_classes(counts)
    if array.ndim != 1 or array.size < 2 or array.dtype.kind not in "iuf":
        raise ValueError(
            "`class_counts` must be a list of the number of training images of each "
            f"class, of at least two classes. Received: {_short(counts)}"
        )
    if not np.all(np.isfinite(array)) or np.any(array != np.floor(array)):
        raise ValueError(
            f"`class_counts` must be whole numbers. Received: {_short(array)}"
        )
    if np.any(array < 0) or np.any(array > 2**53):
        raise ValueError(
            "`class_counts` must not be negative, nor beyond all numbers of images. "
            f"Received such a count for class {_classes((array < 0) | (array > 2**53))}"
            f": {_short(array)}"
        )
    if np.any(array == 0):
        raise ValueError(
            f"`class_counts` must be positive: class {_classes(array == 0)} has no "
            "training image. Leave the class out (and renumber the labels) or add "
            f"images of it. Received: {_short(array)}"
        )
    return array.astype("int64")


def _in_order_of_classes(counts):
    """Counts that come with their classes, as an array in the order of the labels."""
    if hasattr(counts, "items"):  # a dictionary, a Counter, a pandas Series
        pairs = list(counts.items())
        keys = [key for key, _ in pairs]
        if not all(key in range(len(keys)) for key in keys) or len(set(keys)) < len(
            keys
        ):
            raise ValueError(
                "`class_counts` with names of its entries (a dictionary, a pandas "
                "Series) must have the classes 0, 1, ... as these names, so that "
                "each count belongs to a label. With other names, pass a list in the "
                f"order of the labels. Received keys: {_short(keys)}"
            )
        by_class = dict(pairs)
        counts = [by_class[index] for index in range(len(keys))]
    try:
        return np.asarray(counts)
    except ValueError:  # lists of different lengths
        return np.asarray(None)


def _classes(chosen):
    return _short(np.flatnonzero(chosen))


def images(x, name="x"):
    """Raises if the array `x` is not a batch of float images in `[0, 1]`."""
    check_no_mask(name, x)
    x = np.asarray(x)
    if x.dtype.kind != "f" or x.dtype.itemsize > 8:
        raise ValueError(_wrong_dtype(name, x.dtype))
    spoilt = np.isnan(x).any(axis=tuple(range(1, x.ndim)))
    no_nan(name, int(spoilt.sum()))
    if x.size:
        pixel_range(name, x.min(), x.max())
        warn_of_black(name, x.max())


def image_shape(network, shape, name="x"):
    """Raises if `network` is not for a batch of images of this shape.

    A `Sequential` does not look at the shape itself: images with their channels first
    go through flattening and dense layers as if nothing were wrong.

    Args:
        network: A Keras model, or a function of images, of which nothing is known.
        shape: Tuple of integers, and `None` where one is not known.
        name: String, what the images are called.
    """
    expected = getattr(network, "input_shape", None)
    if not isinstance(expected, tuple):
        return
    if len(expected) != len(shape):
        # A last dimension of 1 Keras adds or takes away itself.
        longer = max(expected, shape, key=len)
        differs = abs(len(expected) - len(shape)) > 1 or longer[-1] != 1
    else:
        pairs = zip(expected[1:], shape[1:], strict=True)
        differs = any(None not in pair and pair[0] != pair[1] for pair in pairs)
    if differs:
        raise ValueError(
            f"`{name}` must hold images of shape {tuple(expected[1:])}, as the network "
            f"takes them. Received: images of shape {tuple(shape[1:])}"
        )


def labels(y, num_classes, name="y"):
    """The class of each image, if `y` holds labels of `num_classes` classes."""
    y = as_array(y, name, "one label an image")
    label_type(y, num_classes, name)
    if y.ndim == 2 and y.shape[1] == num_classes:
        if not np.all(y >= 0) or not np.allclose(y.sum(axis=1), 1, atol=1e-3):
            refuse_rows(name, num_classes)
        return y.argmax(axis=1)
    y = y.reshape(-1)
    if not np.all(y == np.floor(y)):  # a NaN is not equal to itself
        refuse_numbers(name, f"dtype {y.dtype} with values such as {y[:3].tolist()}")
    if y.size:
        label_range(name, y.min(), y.max(), num_classes)
    return y.astype("int64")


def sample_weights(weights, name="sample_weight"):
    """Raises if the array `weights` is not a weight of each image."""
    check_no_mask(name, weights)
    weights = np.asarray(weights)
    weight_type(weights, name)
    if not np.all((weights >= 0) & (weights <= LARGEST)):
        refuse_weights(name)


def weight_type(weights, name="sample_weight"):
    """Raises if shape and dtype are not those of a number for each image."""
    dense(weights, name)
    shape, dtype = tuple(weights.shape), _dtype(weights)
    if not dtype.startswith(NUMBERS):
        raise ValueError(f"`{name}` must hold numbers. Received dtype: {dtype}")
    if len(shape) != 1 and shape[1:] != (1,):
        raise ValueError(
            f"`{name}` must have one weight for each image, a shape of (images,). "
            f"Received: a shape of {shape}"
        )


def refuse_weights(name):
    """Raises the error of weights that a loss cannot be multiplied with."""
    raise ValueError(
        f"`{name}` must hold finite numbers that are at least 0. Received: some that "
        "are negative, infinite or no numbers (NaN)"
    )


def are_soft(y, num_classes):
    """Whether labels, an array, are a mix of classes in an image or more."""
    y = np.asarray(y)
    rows = y.ndim == 2 and y.shape[1] == num_classes
    return bool(rows and np.any(y.max(axis=1) < 1 - HARD))


# Below 1 by so much, the part of a class is that of a mix.
HARD = 1e-3


def label_type(y, num_classes, name="y"):
    """Raises if shape and dtype of `y`, an array or a tensor, are not of labels."""
    if y is None:
        raise ValueError(
            f"`{name}` is missing: training and evaluation need the labels of the "
            "images. Pass arrays x and y, or a data set of pairs (x, y)."
        )
    if isinstance(y, (dict, tuple, list)):
        raise ValueError(
            f"`{name}` must be labels of one kind, an array or a tensor. Received a "
            f"{type(y).__name__} of {len(y)} entries"
        )
    dense(y, name)
    if getattr(y.shape, "rank", 0) is None:
        # TensorFlow traces a step again for labels of any rank, when it met several.
        raise ValueError(
            f"`{name}` must hold labels of one kind in all calls of a model: integers "
            f"of shape (batch,), or one-hot, (batch, {num_classes}). Received several "
            "kinds, one after another: convert them, or call `compile` again before "
            "labels of another kind"
        )
    shape, dtype = tuple(y.shape), _dtype(y)
    label_shape(shape, num_classes, name)
    boolean = dtype == "bool" and (num_classes == 2 or shape[1:] == (num_classes,))
    if not dtype.startswith(("int", "uint", "float", "bfloat")) and not boolean:
        refuse_numbers(name, f"dtype {dtype}")


def label_shape(shape, num_classes=None, name="y"):
    """Raises if `shape` is not of labels, of however many classes if that is `None`."""
    is_of_classes = num_classes is None or shape[1:] in ((), (1,), (num_classes,))
    if len(shape) not in (1, 2) or not is_of_classes:
        raise ValueError(
            f"`{name}` must hold integer labels, of shape (batch,), or one-hot labels, "
            f"of shape (batch, {num_classes or 'num_classes'}). Received shape: {shape}"
        )


def _dtype(x):
    """The name of the dtype of an array or a tensor, also of strings and objects."""
    try:
        return keras.backend.standardize_dtype(x.dtype)
    except ValueError:
        return str(x.dtype)


def image_dtype(x, name="x"):
    """Raises if `x` is no tensor of a floating-point type."""
    if not hasattr(x, "dtype"):
        raise ValueError(
            f"`{name}` must hold the images alone; a data set must give pairs (images, "
            f"labels). Received a {type(x).__name__}: {_short(x)}"
        )
    dense(x, name)
    dtype = _dtype(x)
    if not dtype.startswith(("float", "bfloat")):
        raise ValueError(_wrong_dtype(name, dtype))


def dense(value, name):
    """Raises if `value` is a sparse or ragged array or tensor, of whichever library."""
    kind = type(value).__name__
    if kind.startswith(("Ragged", "Sparse")) or hasattr(value, "toarray"):
        raise ValueError(f"`{name}` must be a dense array. Received: a {kind}")


def known_rank(x):
    """Raises if `x`, a tensor, is of a shape of which not even the length is known."""
    if getattr(x.shape, "rank", 0) is None or not hasattr(x.shape, "__len__"):
        raise ValueError(
            "`x` must hold images of a known number of dimensions, the same in all "
            "batches and calls: tell them, with output_signature in "
            "tf.data.Dataset.from_generator, or `set_shape`. Received: a "
            f"{type(x).__name__} of unknown shape"
        )


def one_input_and_output(network):
    """Raises if a network takes or gives more than one tensor, or a dictionary."""
    if not network.built:
        return
    for name in ("input_shape", "output_shape"):
        shape = getattr(network, name, None)
        if isinstance(shape, (list, dict)):
            raise ValueError(
                "`network` must take one tensor of images and give one of logits. "
                f"Received: {name}={shape}"
            )


def classifier_alone(name, network):
    """Raises if a `RobustLTModel` is given where the classifier in it is meant."""
    if isinstance(network, keras.Model) and hasattr(network, "inference_network"):
        raise ValueError(
            f"`{name}` must be the classifier alone, and not a RobustLTModel that has "
            "one: give its `network`, or its `averaged_network`. Received: "
            f"{name}={network!r}"
        )


def network(network):
    """Raises or warns if `network` is none that maps images in [0, 1] to logits.

    Raises a ValueError if the last layer gives probabilities, or one output. Warns if
    the network's own preprocessing is for images from 0 to 255, or is not a part of
    it.
    """
    logits_not_probabilities(network)
    takes_floats(network)
    if isinstance(network, keras.Model):
        own_preprocessing(network)


def finite_weights(network):
    """Raises if the network has weights that are no finite numbers."""
    said = has_diverged(network)
    if said:
        raise ValueError(
            "`model` must have weights that are finite numbers: its training has "
            "diverged. Take weights from before, or train with a lower learning rate. "
            f"Received: {said}"
        )


def has_diverged(network):
    """Which weights of a network are no finite numbers, in words, or `None`."""
    for variable in network.weights:
        value = ops.convert_to_numpy(ops.cast(variable, "float32"))
        if not np.isfinite(value).all():
            return (
                f"{variable.path!r} with {int(np.sum(~np.isfinite(value)))} of "
                f"{value.size} values that are infinite or no numbers (NaN)"
            )
    return None


def takes_floats(network):
    """Raises if `network` takes integers, to which images in [0, 1] would be 0."""
    inputs = getattr(network, "inputs", None) or []
    for tensor in keras.tree.flatten(inputs):
        dtype = str(getattr(tensor, "dtype", "float32"))
        if not dtype.startswith(("float", "bfloat")):
            raise ValueError(
                "`network` must take images as floating-point numbers in [0, 1]. "
                f"Received: a network with an input of dtype {dtype}"
            )


def logits_not_probabilities(network, meant=()):
    """Raises if the last layer of `network` ends in a softmax or sigmoid.

    Args:
        network: A Keras network.
        meant: Strings, the names of those that it may end in.
    """
    last = network
    while isinstance(last, keras.Model) and last.layers:
        last = last.layers[-1]
    activation = getattr(last, "activation", None)
    name = getattr(activation, "__name__", "")
    name = "softmax" if isinstance(last, keras.layers.Softmax) else name
    if name in PROBABILITIES and name not in meant:
        one = getattr(last, "units", None) == 1
        refuse_probabilities(f"its last layer, {last.name!r},", TWO_OUTPUTS * one)


PROBABILITIES = ("softmax", "sigmoid", "hard_sigmoid", "sparsemax", "sparse_sigmoid")
TWO_OUTPUTS = (
    " One output for two classes has to become two outputs, one logit a class: "
    "Dense(2) in place of Dense(1), with integer labels 0 and 1."
)


def outputs(shape, num_classes):
    """Raises if `shape` is not that of logits of `num_classes` classes."""
    if len(shape) != 2 or shape[-1] != num_classes:
        advice = TWO_OUTPUTS if num_classes == 2 and shape[-1:] == (1,) else ""
        raise ValueError(
            "`network` must give logits of shape (batch, num_classes), and "
            f"`class_counts` has {num_classes} classes. Received a network "
            f"with outputs of shape {tuple(shape)}.{advice}"
        )


def own_preprocessing(network):
    """Warns if the preprocessing of `network` is not for images in [0, 1]."""
    # KerasHub's classifiers apply theirs in `fit` and `predict`, not in `call`.
    preprocessor = getattr(network, "preprocessor", None)
    converter = getattr(preprocessor, "image_converter", None)
    scale = getattr(converter, "scale", None)
    offset = getattr(converter, "offset", None)
    if preprocessor is not None and not _divides_by_255(scale, offset):
        warnings.warn(
            f"`network` has a preprocessor, {type(preprocessor).__name__}, that is not "
            "a part of its `call`: here the network gets the images in [0, 1] as they "
            f"are. The preprocessor, for images from 0 to 255, has scale={scale} and "
            f"offset={offset}. Put this into the network, keras.Sequential(["
            "keras.Input(shape), keras.layers.Rescaling(255 * scale, offset), network])"
            ", or set network.preprocessor = None if the network has learned from "
            "images in [0, 1].",
            stacklevel=4,
        )
    spread = _spread_after_preprocessing(network)
    if spread is not None and spread < SMALLEST_SPREAD:
        warnings.warn(
            "`network` begins with preprocessing for images from 0 to 255 (such as "
            "Rescaling(1 / 255)), and here it gets images in [0, 1]: black and white "
            f"are only {spread:.2g} apart after it. Leave that preprocessing out "
            "(include_preprocessing=False in keras.applications) or undo the division "
            "first: keras.Sequential([keras.Input(shape), "
            "keras.layers.Rescaling(255.0), network]).",
            stacklevel=4,
        )


# Of what images from 0 to 255 are made for, black and white in [0, 1] are 1/58 (the
# standard deviation of ImageNet) apart or less, and more than 1 of what suits [0, 1].
SMALLEST_SPREAD = 0.05


def _divides_by_255(scale, offset):
    scale = 1.0 if scale is None else np.asarray(scale, "float64")
    offset = 0.0 if offset is None else np.asarray(offset, "float64")
    return np.allclose(255 * scale, 1, atol=0.01) and np.allclose(offset, 0)


def _spread_after_preprocessing(network):
    """How far apart black and white are where they meet the first weights.

    `None` where that cannot be told: without weights, or with several inputs.
    """
    if network.built and not network.weights:
        return None
    shape = getattr(network, "input_shape", (None, 1, 1, 1))
    if not isinstance(shape, tuple):
        return None
    shape = [size or 32 for size in shape[1:]]
    images = np.stack([np.zeros(shape, "float32"), np.ones(shape, "float32")])
    black, white = ops.convert_to_numpy(_preprocessed(network, images))
    return float(np.max(np.abs(white - black)))


def _preprocessed(network, images):
    """The images as they are where they meet the first weights of the network."""
    for operation in _operations(network):
        if isinstance(operation, keras.Model):
            if operation.weights:
                return _preprocessed(operation, images)
            images = operation(images)
        elif not isinstance(operation, keras.layers.Layer):
            # One like `x / 255`, whose arguments are in the graph.
            images = keras.Model(operation.input, operation.output)(images)
        elif isinstance(operation, keras.layers.Normalization) or not operation.weights:
            images = operation(images)
        else:
            break
    return images


def _operations(network):
    """What a network does one after another, as far as it is a plain chain."""
    if network.built and isinstance(network, keras.Sequential):
        yield from network.layers
    elif not hasattr(network, "operations"):
        # Of a `call` written by hand only the order of the layers is known.
        yield from itertools.takewhile(_is_fixed, network.layers)
    else:
        tensor = network.inputs[0]
        for operation in network.operations[len(network.inputs) :]:
            inner = isinstance(operation, keras.Model)
            if not inner and tensor is not None and operation.input is not tensor:
                return
            tensor = None if inner else operation.output
            yield operation


def _is_fixed(layer):
    normalization = isinstance(layer, keras.layers.Normalization) and layer.built
    return normalization or isinstance(layer, keras.layers.Rescaling)


def pixel_range(name, low, high):
    """Raises if pixels from `low` to `high` are not in `[0, 1]`."""
    if low >= -1e-6 and high <= 1 + 1e-6:
        return
    advice = (
        f" These look like pixels from 0 to 255: divide {name} by 255, and leave a "
        "Rescaling(1 / 255) of the network's own out, or they are divided twice."
        if high > 2
        else " Normalisation (mean, standard deviation) belongs inside the network, so "
        "that epsilon is in pixel units."
    )
    raise ValueError(
        f"`{name}` must hold images in [0, 1]. Received values from {low:.4g} to "
        f"{high:.4g}.{advice}"
    )


def warn_of_black(name, high):
    """Warns if pixels reach up to `high`, and are so dark that something is wrong."""
    if 0 < high < 1.01 / 255:
        warnings.warn(
            f"`{name}` holds images that are as good as black, with no pixel above "
            f"{high:.3g}: those in [0, 1] reach 1. Are they divided by 255 twice?",
            stacklevel=4,
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
            f"`{name}` must hold labels from 0 to {num_classes - 1}, for {num_classes} "
            f"classes. Received labels from {low:.0f} to {high:.0f}."
        )


def refuse_rows(name, num_classes):
    """Raises the error of one-hot labels that are none."""
    raise ValueError(
        f"`{name}` has the shape of one-hot labels, (batch, {num_classes}), but its "
        "rows do not sum to 1, or hold numbers outside [0, 1]. Each image must have "
        "one class: several classes an image (multi-hot labels) are not supported."
    )


def refuse_labels(name, num_classes):
    """Raises the error of labels, of whatever shape, that are no classes."""
    raise ValueError(
        f"`{name}` must hold integer labels from 0 to {num_classes - 1}, or one-hot "
        "labels whose rows sum to 1: one class for each image. Received labels with "
        "fractions or NaN, or rows that do not sum to 1 (multi-hot labels, or one-hot "
        "times 255)."
    )


def refuse_soft_labels(where, why):
    """Raises the error of labels that are mixed where each must be of one class."""
    raise ValueError(
        f"{where} soft labels, each a mix of classes, as mixing augmentations and "
        f"smoothing make them, and {why}"
    )


def refuse_numbers(name, received):
    """Raises the error of labels that are no integers."""
    raise ValueError(
        f"`{name}` must hold integer labels. Received {received}. Each image has one "
        "class, a number from 0 on."
    )


def refuse_probabilities(where, advice=""):
    """Raises the error of a network that gives probabilities."""
    raise ValueError(
        f"`network` must give logits, but {where} gives probabilities. Remove the "
        "softmax (activation=None in the last layer): the losses and attacks apply it "
        f"themselves, in a numerically safe way.{advice}"
    )


def _wrong_dtype(name, dtype):
    return (
        f"`{name}` must hold floating-point images in [0, 1]. Received dtype: {dtype}. "
        f"If these are pixels from 0 to 255, pass {name}.astype('float32') / 255 (to a "
        "network that does not divide by 255 itself)."
    )
