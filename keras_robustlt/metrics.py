"""Accuracy as it matters on long-tailed data: all, tail, balanced, per class."""

import contextlib

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.losses import one_hot

__all__ = ["ClasswiseAccuracy", "summarize", "tail_classes"]

RESULTS = "accuracy", "tail_accuracy", "balanced_accuracy", "worst_accuracy"
# By which Keras means the metric that fits the labels.
AS_LABELS_ARE = "accuracy", "acc"
# Metrics of Keras, without case and underscores, by the labels that they take.
OF_INTEGERS = {
    "sparsecategoricalaccuracy",
    "sparsecategoricalcrossentropy",
    "sparsetopkcategoricalaccuracy",
}
OF_ROWS = {
    "auc",
    "binaryaccuracy",
    "binarycrossentropy",
    "categoricalaccuracy",
    "categoricalcrossentropy",
    "categoricalhinge",
    "concordancecorrelation",
    "cosinesimilarity",
    "f1score",
    "fbetascore",
    "hinge",
    "huber",
    "logcosh",
    "logcosherror",
    "meanabsoluteerror",
    "meansquarederror",
    "pearsoncorrelation",
    "precision",
    "r2score",
    "recall",
    "rootmeansquarederror",
    "squaredhinge",
    "topkcategoricalaccuracy",
}
# Those of classes, and not of logits, unless they have `sparse_y_pred=False`.
OF_CLASSES = (
    keras.metrics.Accuracy,
    keras.metrics.BinaryIoU,
    keras.metrics.IoU,
    keras.metrics.MeanIoU,
)


def tail_classes(class_counts, fraction=0.8):
    """The classes with the fewest training images.

    Args:
        class_counts: Integers of shape `(num_classes,)`.
        fraction: Float in `(0, 1]`. The share of classes that is the tail. Defaults
            to `0.8`, as in the paper.

    Returns:
        An int64 array of class indices in ascending order. Of classes with equally
        many images, the one with the higher index counts as rarer.

    Example:

    >>> krl.metrics.tail_classes([50, 10, 30, 20, 40])
    array([1, 2, 3, 4])

    Reference:
        Zhang et al., CVPR 2026: the tail is the 80% of classes with fewest samples.
    """
    counts = checks.class_counts(class_counts)
    fraction = checks.share("fraction", fraction)
    # A part of the classes, of however few, leaves the most frequent one out.
    most = len(counts) if fraction == 1 else len(counts) - 1
    size = max(1, min(round(fraction * len(counts)), most))
    head_first = np.argsort(-counts, kind="stable")
    return np.sort(head_first[len(counts) - size :])


def summarize(correct, total, tail):
    """Accuracies from per-class counts.

    Args:
        correct: Numbers of shape `(num_classes,)`: correctly classified examples.
        total: Numbers of shape `(num_classes,)`: examples.
        tail: Integers: the indices of the tail classes.

    Returns:
        A dictionary of floats: `"all"` (of all examples), `"tail"` (of the examples of
        the tail classes), `"balanced"` (mean over the classes that have examples),
        `"worst"` (lowest class) and the list `"per_class"` (`None` for a class without
        examples).

    Raises:
        ValueError: If the numbers cannot be of the same classes.

    Example:

    >>> krl.metrics.summarize([9, 1], [10, 5], tail=[1])
    {'all': 0.6666666666666666, 'tail': 0.2, 'balanced': 0.55, 'worst': 0.2, 'per_class': [0.9, 0.2]}
    """  # noqa: E501
    correct, total = _numbers("correct", correct), _numbers("total", total)
    if correct.shape != total.shape or not np.all((correct >= 0) & (correct <= total)):
        raise ValueError(
            "`correct` must hold a number for each class, at most that of `total`. "
            f"Received: correct={correct.tolist()}, total={total.tolist()}"
        )
    if not np.any(total) or not np.isfinite(total).all():
        raise ValueError(f"`total` must count examples. Received: {total.tolist()}")
    tail = _numbers("tail", tail)
    are_classes = np.all((tail >= 0) & (tail < len(total)) & (tail == np.floor(tail)))
    if not are_classes or len(set(tail)) < len(tail):
        raise ValueError(
            f"`tail` must be classes from 0 to {len(total) - 1}, each once. "
            f"Received: {tail.tolist()}"
        )
    tail = tail.astype("int64")
    present = total > 0
    per_class = correct[present] / total[present]
    tail_total = total[tail].sum()
    return {
        "all": float(correct.sum() / total.sum()),
        "tail": float(correct[tail].sum() / tail_total) if tail_total else None,
        "balanced": float(per_class.mean()),
        "worst": float(per_class.min()),
        "per_class": [
            float(c / n) if n else None for c, n in zip(correct, total, strict=True)
        ],
    }


def _numbers(name, values):
    """`values` as a float64 array of one dimension."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    # An empty list has no integers, but floats.
    if array.ndim != 1 or array.dtype.kind not in "iuf":
        raise ValueError(
            f"`{name}` must be a list of numbers. Received: {name}={values!r:.200}"
        )
    return array.astype("float64")


def are_right(classes, logits):
    """Which of the logits are highest for the class of their image.

    Logits that are no finite numbers are so for no class.

    Args:
        classes: Integer tensor of shape `(batch,)`.
        logits: Float tensor of shape `(batch, num_classes)`.

    Returns:
        A boolean tensor of shape `(batch,)`.
    """
    known = ops.all(ops.isfinite(logits), axis=-1)
    return ops.logical_and(ops.equal(classes, ops.argmax(logits, axis=-1)), known)


def refuse_probabilities(argument, metric):
    """Raises a ValueError if a metric, by name or as an object, takes probabilities."""
    if metric in ("ce", "crossentropy"):
        raise ValueError(
            f"`{argument}` must be of logits: write keras.metrics.CategoricalCross"
            f"entropy(from_logits=True). Received: {metric!r}"
        )
    if metric is None or metric in AS_LABELS_ARE:
        return
    metric = keras.metrics.get(metric)
    losses.refuse_probabilities(argument, metric)
    if type(metric) in OF_CLASSES and getattr(metric, "sparse_y_pred", True):
        raise ValueError(
            f"`{argument}` must be of logits, and {type(metric).__name__} compares "
            'numbers as they are: write "accuracy", or '
            f"keras.metrics.SparseCategoricalAccuracy(). Received: {metric!r}"
        )
    if _cuts_probabilities(metric):
        raise ValueError(
            f"`{argument}` must be of logits, and {type(metric).__name__} asks which "
            "are above a threshold that is meant for probabilities. Precision and "
            "recall have `top_k=1`, which looks for the highest, and `thresholds`, "
            f"which may be of logits. Received: {metric!r}"
        )


def _cuts_probabilities(metric):
    """Whether a metric of Keras has the thresholds that it has by itself."""
    if type(metric).__module__.partition(".")[0] != "keras":
        return False  # one of the user's own, which may take logits
    if isinstance(metric, keras.metrics.BinaryAccuracy):
        return metric.get_config()["threshold"] == 0.5
    if hasattr(metric, "num_thresholds") and not hasattr(metric, "_from_logits"):
        return True
    given = getattr(metric, "init_thresholds", 0.5), getattr(metric, "top_k", None)
    return hasattr(metric, "init_thresholds") and given == (None, None)


def labels_of(metric):
    """The form of labels that a metric of Keras takes.

    Args:
        metric: What `compile` takes as one.

    Returns:
        Two strings, the metric's name and `"one-hot"` or `"integer"`, or `None` where
        it takes either, or it is not known what it takes.
    """
    if metric is None or metric in AS_LABELS_ARE:
        return None
    metric = keras.metrics.get(metric)
    name = getattr(metric, "__name__", type(metric).__name__)
    if not getattr(metric, "__module__", "").startswith("keras."):
        return None
    kind = name.lower().replace("_", "")
    if kind in OF_INTEGERS or getattr(metric, "sparse_y_true", False):
        return name, "integer"
    of_rows = kind in OF_ROWS or hasattr(metric, "sparse_y_true")
    return (name, "one-hot") if of_rows else None


def refuse_names(argument, metric, taken):
    """Raises a ValueError if a metric would take the place of another in the logs."""
    names = {getattr(metric, "name", None)}
    # One without variables gets them with the first batch.
    if isinstance(metric, keras.metrics.Metric) and metric.variables:
        with contextlib.suppress(Exception):  # some have none before the first batch
            result = metric.result()  # which may be several, by name
            names |= set(result) if isinstance(result, dict) else set()
    if names & taken:
        raise ValueError(
            f"`{argument}` must have other names than what the model itself logs, "
            f"whose place they would take. Received: {sorted(names & taken)}, of "
            f"{', '.join(sorted(taken))}"
        )


@keras.saving.register_keras_serializable(package="keras_robustlt")
class ClasswiseAccuracy(keras.metrics.Metric):
    """Accuracy over all examples and the tail's, and mean and lowest of the classes.

    Args:
        class_counts: Integers of shape `(num_classes,)`, the training images of each
            class: they say which classes are the tail.
        tail_fraction: Float. See `tail_classes`. Defaults to `0.8`.
        prefix: String put before the names of the results. Defaults to `""`.
        name: String. Defaults to `"classwise_accuracy"`.

    The result is a dictionary with `{prefix}accuracy`, `{prefix}tail_accuracy`,
    `{prefix}balanced_accuracy` and `{prefix}worst_accuracy`.

    Example:

    >>> metric = krl.metrics.ClasswiseAccuracy(class_counts=[90, 10], tail_fraction=0.5)
    >>> metric.update_state([0, 0, 1], [[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    >>> {name: float(value) for name, value in metric.result().items()}
    {'accuracy': 0.6666666865348816, 'tail_accuracy': 1.0, 'balanced_accuracy': 0.75, 'worst_accuracy': 0.5}
    """  # noqa: E501

    def __init__(
        self,
        class_counts,
        tail_fraction=0.8,
        prefix="",
        name="classwise_accuracy",
        **kwargs,
    ):
        super().__init__(name=name, **kwargs)
        self.class_counts = checks.class_counts(class_counts)
        self.tail_fraction = checks.share("tail_fraction", tail_fraction)
        self.prefix = checks.string("prefix", prefix)
        self.results = [f"{prefix}{name}" for name in RESULTS]
        self.tail = tail_classes(self.class_counts, tail_fraction)
        shape = self.class_counts.shape
        self.correct = self.add_variable(shape, initializer="zeros", name="correct")
        self.total = self.add_variable(shape, initializer="zeros", name="total")

    def update_state(self, y_true, y_pred, sample_weight=None):
        num_classes = len(self.class_counts)
        checks.floats("y_pred", y_pred, ("batch", num_classes))
        y_pred = ops.convert_to_tensor(y_pred)
        targets = one_hot(y_true, num_classes)
        message = "`{}` must have one entry for each image of `y_pred`"
        targets = backend.as_many(targets, y_pred, message.format("y_true"))
        classes = ops.argmax(targets, axis=-1)
        hits = ops.cast(are_right(classes, y_pred), self.total.dtype)
        weights = ops.ones_like(hits)
        if sample_weight is not None:
            known = checks.known(sample_weight)
            if known is not None:
                checks.sample_weights(known)
            weights = ops.reshape(ops.cast(sample_weight, self.total.dtype), (-1,))
            message = message.format("sample_weight")
            weights = backend.as_many(weights, y_pred, message)
        # In compiled code a label out of range is one of no class, not of class 0.
        weights = weights * ops.cast(ops.max(targets, axis=-1) > 0, self.total.dtype)
        members = ops.one_hot(classes, num_classes, dtype=self.total.dtype)
        members = members * weights[:, None]
        self.correct.assign_add(ops.sum(members * hits[:, None], axis=0))
        self.total.assign_add(ops.sum(members, axis=0))

    def result(self):
        tail = ops.convert_to_tensor(self.tail)

        def share(correct, total):
            return ops.divide_no_nan(ops.sum(correct), ops.sum(total))

        present = ops.cast(self.total > 0, self.total.dtype)
        per_class = ops.divide_no_nan(self.correct.value, self.total.value)
        seen = ops.take(self.total, tail)
        of_tail = share(ops.take(self.correct, tail), seen)
        # Of no image there is no accuracy; 0 as long as there are no examples at all.
        lacking = ops.logical_and(ops.sum(seen) == 0, ops.sum(self.total) > 0)
        values = (
            share(self.correct, self.total),
            ops.where(lacking, float("nan"), of_tail),
            share(per_class * present, present),
            ops.min(ops.where(self.total > 0, per_class, ops.max(per_class))),
        )
        return dict(zip(self.results, values, strict=True))

    def get_config(self):
        return {
            **super().get_config(),
            "class_counts": self.class_counts.tolist(),
            "tail_fraction": self.tail_fraction,
            "prefix": self.prefix,
        }
