"""What `fit` and `evaluate` are given, looked at before the first step."""

import numbers

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
    return {index: float(value.get(index, 1.0)) for index in range(num_classes)}


def _check_numbers(arguments):
    for name in COUNTS:
        if arguments.get(name) is not None:
            checks.positive_integer(name, arguments[name])
    if "epochs" in arguments:
        checks.integer("epochs", arguments["epochs"], 0)


def _check_weights(weights=None, name="sample_weight"):
    if isinstance(weights, np.ndarray):  # Keras refuses lists
        checks.sample_weights(weights, name)


def _check_pair(x, y, x_name, y_name, batch_size, network, num_classes):
    if isinstance(x, np.ndarray):
        checks.images(x, x_name)
        checks.image_shape(network, x.shape, x_name)
        checks.equal_parts(len(x), batch_size)
        if y is None:
            checks.label_type(y, num_classes, y_name)
    if isinstance(y, (np.ndarray, list)):
        return checks.labels(y, num_classes, y_name)
    return None
