"""What `fit` and `evaluate` are given, looked at before the first step."""

import numbers
import types
import warnings

import keras
import numpy as np

from keras_robustlt import checks, class_frequencies, losses, methods
from keras_robustlt.backend import replicas
from keras_robustlt.data import resumption
from keras_robustlt.data.long_tailed import refuse_whole

COUNTS = (
    "batch_size",
    "validation_batch_size",
    "steps",
    "steps_per_epoch",
    "validation_steps",
)
# By name: the inverse of the number of images, and of their effective number.
CLASS_WEIGHTS = {
    "balanced": lambda counts: 1.0 / counts,
    "effective": losses.effective_number_weights,
}
# Types that are neither pairs nor data sets.
NO_DATA = (str, dict, tuple, list, numbers.Number, np.ndarray)


def check(arguments, network, class_counts):
    """Raises if arrays are no images and labels.

    Args:
        arguments: Dictionary of the arguments of `keras.Model.fit` or `evaluate`.
        network: The Keras model that is to take the images.
        class_counts: Integers of shape `(num_classes,)`.

    Returns:
        The classes of `y` if it is an array, `None` if it is within a data set.
    """
    for name in ("x", "validation_data"):
        refuse_whole(name, arguments.get(name))
    _check_settings(arguments)
    _check_numbers(arguments)
    _check_ends(arguments)
    num_classes = len(class_counts)
    batch_size = arguments.get("batch_size") or 32
    validation = arguments.get("validation_data")
    if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
        size = arguments.get("validation_batch_size") or batch_size
        names = "validation_data[0]", "validation_data[1]"
        _check_is_array(names[0], validation[0])
        _check_pair(*validation[:2], *names, size, network, num_classes)
        _check_weights(*validation[2:], name="validation_data[2]")
        if len(validation) == 3 and validation[2] is not None:
            _check_length(validation[2], "validation_data[2]", validation[0], names[0])
    elif isinstance(validation, NO_DATA) or not _can_be_read_again(validation):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or a data set of "
            f"pairs (images, labels). Received a {type(validation).__name__}"
        )
    else:
        _check_elements(validation, "validation_data", network, num_classes)
    x, y = arguments.get("x"), arguments.get("y")
    if not _holds_data(x):
        raise ValueError(
            "`x` must be an array of images, or a data set of pairs (images, labels). "
            f"Received: x={x!r}"
        )
    if isinstance(x, (list, tuple)):
        refuse_list("x", x)
    weights = arguments.get("sample_weight")
    _check_weights(weights)
    if weights is not None:
        _check_length(weights, "sample_weight", x, "x")
    return _check_pair(x, y, "x", "y", batch_size, network, num_classes)


def check_classes(labels, class_counts, validation_split):
    """Raises or warns if the labels that training will see contradict `class_counts`.

    Args:
        labels: Integers of shape `(examples,)`.
        class_counts: Integers of shape `(num_classes,)`.
        validation_split: Float, as `fit` takes it.
    """
    if validation_split is None:
        validation_split = 0
    split = checks.in_range("validation_split", validation_split, 0, np.nextafter(1, 0))
    if split:
        class_frequencies.check_split(labels, split)
        labels = labels[: class_frequencies.training_part(labels, split)]
    seen = np.bincount(labels, minlength=len(class_counts))
    class_frequencies.compare(class_counts, seen, are_all=True)


def class_weight(value, class_counts):
    """The weight of each class, of what `fit` is given for it.

    Args:
        value: Dictionary from classes to weights, in which those that are missing have
            a weight of 1; or one of `CLASS_WEIGHTS`.
        class_counts: Integers of shape `(num_classes,)`.

    Returns:
        A dictionary of floats, with all classes.
    """
    num_classes = len(class_counts)
    if isinstance(value, str):
        checks.one_of("class_weight", value, tuple(CLASS_WEIGHTS))
        weights = CLASS_WEIGHTS[value](np.asarray(class_counts, "float64"))
        # A mean of 1 over the images, so that learning rates keep their meaning.
        weights = weights / np.average(weights, weights=class_counts)
        return dict(enumerate(weights.tolist()))
    if not isinstance(value, dict):
        names = ", ".join(map(repr, CLASS_WEIGHTS))
        raise ValueError(
            f"`class_weight` must be {names} or a dictionary from classes to weights, "
            "such as dict(enumerate(weights)). Received: a "
            f"{type(value).__name__}"
        )
    for name, weight in value.items():
        is_class = isinstance(name, numbers.Integral) and 0 <= name < num_classes
        if not is_class:
            raise ValueError(
                f"`class_weight` must have integers from 0 to {num_classes - 1} for "
                f"keys, as labels are. Received: {name!r}"
            )
        checks.in_range(f"class_weight[{name}]", weight, 0, checks.LARGEST)
    weights = {index: float(value.get(index, 1.0)) for index in range(num_classes)}
    if not any(weights.values()):
        raise ValueError(
            "`class_weight` must have a weight above 0, or nothing is learned. "
            f"Received: class_weight={value}"
        )
    return weights


def check_some_weight(arguments):
    """Raises if all images of `fit` or `evaluate` have a weight of 0.

    Those of a single batch may have.

    Args:
        arguments: Dictionary of the arguments of `keras.Model.fit` or `evaluate`.
    """
    weights = {"sample_weight": arguments.get("sample_weight")}
    validation = arguments.get("validation_data")
    if isinstance(validation, (tuple, list)) and len(validation) == 3:
        weights["validation_data[2]"] = validation[2]
    for name, values in weights.items():
        values = _array_of(values)
        if isinstance(values, np.ndarray) and values.size and not np.any(values):
            raise ValueError(
                f"`{name}` must have a weight above 0, or nothing is learned and "
                "nothing measured. Received: zeros"
            )


def check_weighing(arguments, method):
    """Raises if there are weights of images, or of classes, that a loss cannot take.

    Args:
        arguments: Dictionary of the arguments of `keras.Model.fit`.
        method: A `Method`.
    """
    for name in ("sample_weight", "class_weight"):
        if method.loss_of_batch and arguments.get(name) is not None:
            raise ValueError(
                f"`{name}` has no meaning in {method}, whose loss is not a mean over "
                f"examples. Received: {name} of type {type(arguments[name]).__name__}"
            )
    weights = arguments.get("class_weight")
    if method.balances and isinstance(weights, str):
        warnings.warn(
            f"class_weight={weights!r} and the loss of {method} each make up for how "
            "rare a class is: together they favour rare classes as much as the data "
            "favour frequent ones.",
            stacklevel=4,
        )


def why_no_soft_labels(method, budget, criterion, loss):
    """What of a training needs images of one class, in words, or `None`.

    Args:
        method: A `Method`.
        budget: A `Budget`.
        criterion: What `losses.criterion` makes of `loss`.
        loss: What `compile` is given as the loss.
    """
    if not method.soft_labels:
        names = ", ".join(methods.with_soft_labels())
        return (
            f"the loss of method={method} is for images of one class. Methods that "
            f"take soft labels: {names}."
        )
    if not budget.soft_labels:
        return (
            f"budget={budget} looks at what the images of each class are taken for. "
            "Use another budget."
        )
    if getattr(criterion, "is_sparse", False):
        return f"loss={loss!r} is for integer labels. Use 'categorical_crossentropy'."
    return None


def check_soft_labels(arguments, augmenter, num_classes, why):
    """Raises if there are soft labels in what is known before the first step.

    Args:
        arguments: Dictionary of the arguments of `keras.Model.fit`.
        augmenter: What augments images inside the step, or `None`.
        num_classes: Integer.
        why: String, what `why_no_soft_labels` says.
    """
    if getattr(augmenter, "mixes_labels", False):
        checks.refuse_soft_labels(f"augmentation={augmenter} gives", why)
    if resumption.has_soft_labels(arguments.get("x")):
        checks.refuse_soft_labels("`x` is a pipeline that gives", why)
    if isinstance(arguments.get("y"), (np.ndarray, list)):
        if checks.are_soft(arguments["y"], num_classes):
            checks.refuse_soft_labels("`y` holds", why)


def check_to_predict(arguments, network):
    """Raises if `x` is or begins with what are no images for `network`.

    To other images the network would have an answer too, and say it with confidence.
    Of a data set that is the same when it is read again it is the first batch.

    Args:
        arguments: Dictionary of the arguments of `keras.Model.predict`.
        network: The Keras model that is to take the images.
    """
    _check_settings(arguments)
    _check_numbers(arguments)
    x = arguments["x"]
    refuse_whole("x", x)
    if not _holds_data(x):
        raise ValueError(
            "`x` must be an array of images, or a data set of them. Received: a "
            f"{type(x).__name__}"
        )
    if isinstance(x, (list, tuple)):
        refuse_list("x", x)
    _check_ends(arguments)
    x = _first_batch(x)
    if isinstance(x, (list, tuple)):  # with labels
        x = x[0]
    if isinstance(x, dict):
        checks.image_dtype(x)
    checks.dense(x, "x")
    x = _array_of(x)
    if isinstance(x, np.ndarray):
        _check_images(x, "x", network)


def _first_batch(data):
    """The first batch of a data set that is the same when read again; else `data`."""
    if isinstance(data, keras.utils.PyDataset):
        return data[0]
    if hasattr(data, "element_spec") and resumption.is_repeatable(data):
        return next(iter(data.take(1)), None)
    return data


def refuse_list(name, value):
    """Raises the error of a list, which Keras would take for several inputs."""
    advice = "numpy.asarray makes one of a list"
    if len(value) == 2 and len({getattr(each, "ndim", 0) for each in value}) == 2:
        advice = "images and labels are two arguments, as in fit(x, y)"
    raise ValueError(
        f"`{name}` must be one array: {advice}. Received: a {type(value).__name__} of "
        f"{len(value)} entries"
    )


def _check_is_array(name, value):
    if isinstance(value, (list, tuple)):
        refuse_list(name, value)
    if not hasattr(value, "shape"):
        raise ValueError(
            f"`{name}` must be an array of images. Received: a {type(value).__name__}"
        )


def _holds_data(x):
    """Whether `x` may be images or a data set, as far as its type says."""
    if hasattr(x, "shape"):
        return len(x.shape) > 0
    return x is not None and not isinstance(
        x, (str, bytes, numbers.Number, type, dict, keras.Layer)
    )


def _check_settings(arguments):
    """Raises if switches are none, which Keras takes for true or for false."""
    checks.verbose(arguments.get("verbose", "auto"))
    shuffle = arguments.get("shuffle", True)
    if not (isinstance(shuffle, str) and shuffle == "batch"):
        checks.boolean("shuffle", shuffle)
    if "return_dict" in arguments:
        checks.boolean("return_dict", arguments["return_dict"])
    checks.callbacks(arguments.get("callbacks"))


def _check_numbers(arguments):
    """Puts integers in the place of numbers such as 2.0, or raises if they are none."""
    for name in COUNTS:
        if arguments.get(name) is not None:
            arguments[name] = _counted(name, arguments[name], 1)
    if "epochs" in arguments:
        arguments["epochs"] = _counted("epochs", arguments["epochs"], 0)
    if "initial_epoch" in arguments:
        # A schedule that begins before its first epoch would have budgets below 0.
        first = _counted("initial_epoch", arguments["initial_epoch"], 0)
        arguments["initial_epoch"] = first
        epochs = arguments.get("epochs", 1)
        if first > epochs:
            raise ValueError(
                "`initial_epoch` must be at most `epochs`, which is the number of the "
                "last epoch and not how many are to come. Received: "
                f"initial_epoch={first}, epochs={epochs}"
            )
    every = arguments.get("validation_freq", 1)
    if isinstance(every, (list, tuple, set)):  # the epochs, from 1
        if not every:
            raise ValueError(
                "`validation_freq` must name an epoch to validate after, from 1. "
                f"Received: validation_freq={every!r}"
            )
        every = [_counted("validation_freq", each, 1) for each in every]
        first = min(every)
    else:
        every = first = _counted("validation_freq", every, 1)
    if "validation_freq" in arguments:
        arguments["validation_freq"] = every
    epochs = arguments.get("epochs", 1)
    validates = arguments.get("validation_data") is not None
    if first > epochs > 0 and (validates or arguments.get("validation_split")):
        warnings.warn(
            f"Nothing is validated in {epochs} epoch(s). Received: "
            f"validation_freq={every}, epochs={epochs}",
            stacklevel=4,
        )


def _counted(name, value, low):
    number = checks.integer(name, value, low)
    if number > checks.MOST:
        raise ValueError(f"`{name}` must be at most {checks.MOST}. Received: {value!r}")
    return number


def _check_ends(arguments):
    """Raises if an epoch would never end, or would have no step."""
    data = {"x": ("steps_per_epoch", "steps"), "validation_data": ("validation_steps",)}
    for name, of_steps in data.items():
        found = arguments.get(name)
        told = any(arguments.get(steps) is not None for steps in of_steps)
        if _num_batches(found) == 0:
            raise ValueError(
                f"`{name}` must hold images. Received: a data set without a batch, "
                f"{name}={found!r}"
            )
        if not told and _num_batches(found) == -1:
            raise ValueError(
                f"`{name}` repeats itself for ever, and an epoch must end: leave out "
                f"`repeat()`, or pass `{'` or `'.join(of_steps)}`. "
                f"Received: {name}={found!r}"
            )


def _can_be_read_again(data):
    """Whether `data`, if it is given, may be a data set, for each validation anew."""
    if data is None or isinstance(data, (types.GeneratorType, keras.utils.PyDataset)):
        return True  # a generator may go on for ever
    return not callable(data) and not hasattr(data, "__next__")


def _check_elements(data, name, network, num_classes):
    """Raises if a data set says, or begins with, what are no images and labels.

    What reading its first batch would change, or make a noise of, is left alone.
    """
    batch = data if _is_cached(data) else _first_batch(data)
    element = getattr(data, "element_spec", batch)
    if element is data or element is None:
        return
    if not isinstance(element, (tuple, list)) or len(element) not in (2, 3):
        raise ValueError(
            f"`{name}` must give pairs (images, labels), or these with weights. "
            f"Received: a data set of {element!r:.200}"
        )
    images, labels, *_ = element
    checks.image_dtype(images, name)
    if element is not batch:
        # What the pipeline does not know of them, the first step sees.
        if images.shape.rank:
            checks.image_shape(network, tuple(images.shape), name)
        if labels.shape.rank is not None:
            checks.label_type(labels, num_classes, name)
    if batch is not data and batch is not None and len(batch[0]):
        images, labels, *weights = batch
        images = keras.ops.convert_to_numpy(keras.ops.cast(images, "float32"))
        _check_images(images, name, network)
        checks.labels(_array_of(labels), num_classes, name)
        for each in weights:
            _check_weights(each, name)


def _is_cached(data):
    """Whether a `tf.data.Dataset` has a cache, which it complains of if it is cut."""
    inside = resumption.inputs_of(data)
    return "cache" in type(data).__name__.lower() or any(map(_is_cached, inside))


def _array_of(values):
    """`values` as an array, if it is a tensor that has them; else as it is."""
    return checks.known(values) if keras.ops.is_tensor(values) else values


def _num_batches(data):
    """How many batches a data set has; -1, as of tf.data, for one without an end."""
    if isinstance(data, keras.utils.PyDataset):
        return -1 if data.num_batches is None else data.num_batches
    cardinality = getattr(data, "cardinality", None)
    return int(cardinality()) if callable(cardinality) else None


def _check_weights(weights=None, name="sample_weight"):
    if weights is None:
        return
    if isinstance(weights, (list, tuple, str)):
        refuse_list(name, weights)
    checks.dense(weights, name)
    if not len(getattr(weights, "shape", ())):
        raise ValueError(
            f"`{name}` must be one array, with a weight for each image. Received: a "
            f"{type(weights).__name__}"
        )
    weights = _array_of(weights)
    if isinstance(weights, np.ndarray):
        checks.sample_weights(weights, name)


def _check_length(values, name, x, x_name):
    if not hasattr(x, "shape"):
        return
    # A variable of TensorFlow has a shape, and no length.
    images = x.shape[0]
    entries = values.shape[0] if hasattr(values, "shape") else len(values)
    if images != entries:
        raise ValueError(
            f"`{name}` must have an entry for each of the {images} images of "
            f"`{x_name}`. Received: {entries} of them"
        )


def _check_pair(x, y, x_name, y_name, batch_size, network, num_classes):
    checks.dense(x, x_name)
    checks.dense(y, y_name)
    x, y = _array_of(x), _array_of(y)
    if isinstance(x, np.ndarray):
        _check_images(x, x_name, network)
        replicas.check_equal_parts(len(x), batch_size)
        if y is None:
            checks.label_type(y, num_classes, y_name)
    is_array = isinstance(y, np.ndarray) or len(getattr(y, "shape", ())) > 0
    if hasattr(x, "shape") and not is_array and not isinstance(y, list):
        raise ValueError(
            f"`{y_name}` must be an array of labels. Received: a {type(y).__name__}"
        )
    if not isinstance(y, (np.ndarray, list)):
        return None
    classes = checks.labels(y, num_classes, y_name)
    # Of validation data, Keras would find it out after the first epoch.
    _check_length(y, y_name, x, x_name)
    if isinstance(y, list):
        refuse_list(y_name, y)
    return classes


def _check_images(x, name, network):
    checks.images(x, name)
    checks.image_shape(network, x.shape, name)
    if not len(x):
        raise ValueError(
            f"`{name}` must hold images. Received: an array of shape {x.shape}"
        )


def maximize(callbacks, accuracies):
    """Tells callbacks with `mode="auto"` that accuracies are better when higher.

    Keras looks for the direction among the metrics given to `compile`.

    Args:
        callbacks: What `fit` is given as `callbacks`: a list, or a `CallbackList`.
        accuracies: Set of strings, the names of the model's accuracies.
    """
    for callback in getattr(callbacks, "callbacks", callbacks):
        monitor = str(getattr(callback, "monitor", None)).removeprefix("val_")
        of_guard = monitor.startswith("guard_") and monitor.endswith("accuracy")
        is_ours = monitor in accuracies or of_guard
        if is_ours and getattr(callback, "mode", None) == "auto":
            callback.mode = "max"
