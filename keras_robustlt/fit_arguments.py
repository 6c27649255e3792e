"""What `fit` and `evaluate` are given, looked at before the first step."""

import numbers

import keras
import numpy as np

from keras_robustlt import checks, class_frequencies, losses

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
    _check_numbers(arguments)
    _check_ends(arguments)
    num_classes = len(class_counts)
    batch_size = arguments.get("batch_size") or 32
    validation = arguments.get("validation_data")
    if isinstance(validation, (tuple, list)) and len(validation) in (2, 3):
        size = arguments.get("validation_batch_size") or batch_size
        names = "validation_data[0]", "validation_data[1]"
        _check_pair(*validation[:2], *names, size, network, num_classes)
        _check_weights(*validation[2:], name="validation_data[2]")
    elif isinstance(validation, NO_DATA):
        raise ValueError(
            "`validation_data` must be (x, y), (x, y, sample_weight), or a data set of "
            f"pairs (images, labels). Received a {type(validation).__name__}"
        )
    x, y = arguments.get("x"), arguments.get("y")
    if x is None or isinstance(x, (str, numbers.Number)):
        raise ValueError(
            "`x` must be an array of images, or a data set of pairs (images, labels). "
            f"Received: x={x!r}"
        )
    if isinstance(x, (list, tuple)):
        refuse_list("x", x)
    _check_weights(arguments.get("sample_weight"))
    return _check_pair(x, y, "x", "y", batch_size, network, num_classes)


def check_classes(labels, class_counts, validation_split):
    """Raises or warns if the labels that training will see contradict `class_counts`.

    Args:
        labels: Integers of shape `(examples,)`.
        class_counts: Integers of shape `(num_classes,)`.
        validation_split: Float, as `fit` takes it.
    """
    split = checks.in_range("validation_split", validation_split or 0, 0, 1)
    if split:
        class_frequencies.check_split(labels, split)
        labels = labels[: class_frequencies.training_part(labels, split)]
    seen = np.bincount(labels, minlength=len(class_counts))
    class_frequencies.compare(class_counts, seen)


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
        checks.in_range(f"class_weight[{name}]", weight, 0, np.inf)
    weights = {index: float(value.get(index, 1.0)) for index in range(num_classes)}
    if not any(weights.values()):
        raise ValueError(
            "`class_weight` must have a weight above 0, or nothing is learned. "
            f"Received: class_weight={value}"
        )
    return weights


def check_to_predict(x, network):
    """Raises if `x` is an array, or a tensor, that holds no images for `network`.

    To other images the network would have an answer too, and say it with confidence.

    Args:
        x: What `keras.Model.predict` takes.
        network: The Keras model that is to take the images.
    """
    if isinstance(x, (list, tuple)):
        refuse_list("x", x)
    if isinstance(x, np.ndarray) or keras.ops.is_tensor(x):
        x = keras.ops.convert_to_numpy(x)
        _check_images(x, "x", network)


def refuse_list(name, value):
    """Raises the error of a list, which Keras would take for several inputs."""
    raise ValueError(
        f"`{name}` must be one array: numpy.asarray makes one of a list. Received: a "
        f"{type(value).__name__} of {len(value)} entries"
    )


def _check_numbers(arguments):
    for name in COUNTS:
        if arguments.get(name) is not None:
            checks.positive_integer(name, arguments[name])
    if "epochs" in arguments:
        checks.integer("epochs", arguments["epochs"], 0)
    if arguments.get("initial_epoch") is not None:
        # A schedule that begins before its first epoch would have budgets below 0.
        first = checks.integer("initial_epoch", arguments["initial_epoch"], 0)
        epochs = arguments.get("epochs", 1)
        if first > epochs:
            raise ValueError(
                "`initial_epoch` must be at most `epochs`, which is the number of the "
                "last epoch and not how many are to come. Received: "
                f"initial_epoch={first}, epochs={epochs}"
            )
    every = arguments.get("validation_freq", 1)
    if not isinstance(every, (list, tuple, set)):
        checks.positive_integer("validation_freq", every)


def _check_ends(arguments):
    """Raises if an epoch would never end."""
    data = {"x": ("steps_per_epoch", "steps"), "validation_data": ("validation_steps",)}
    for name, of_steps in data.items():
        found = arguments.get(name)
        told = any(arguments.get(steps) is not None for steps in of_steps)
        if not told and _is_endless(found):
            raise ValueError(
                f"`{name}` repeats itself for ever, and an epoch must end: leave out "
                f"`repeat()`, or pass `{'` or `'.join(of_steps)}`. "
                f"Received: {name}={found!r}"
            )


def _is_endless(data):
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    cardinality = getattr(data, "cardinality", None)
    return callable(cardinality) and int(cardinality()) == -1  # of tf.data: infinite


def _check_weights(weights=None, name="sample_weight"):
    if isinstance(weights, (list, tuple, str)):
        refuse_list(name, weights)
    if isinstance(weights, np.ndarray):
        checks.sample_weights(weights, name)


def _check_pair(x, y, x_name, y_name, batch_size, network, num_classes):
    if isinstance(x, np.ndarray):
        _check_images(x, x_name, network)
        checks.equal_parts(len(x), batch_size)
        if y is None:
            checks.label_type(y, num_classes, y_name)
    if not isinstance(y, (np.ndarray, list)):
        return None
    classes = checks.labels(y, num_classes, y_name)
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
