"""Whether the labels that are seen fit what `class_counts` says of them.

Labels rarely come in the proportions of `class_counts`: subsets, balanced sampling,
a few steps of an epoch. All these draw class `c` with a probability that grows with
its count, `n_c ** p` for some power `p` from 0 (balanced) on. What does not occur is
another order: that a class called rare is the most frequent. It happens where counts
are sorted and labels are not, as `value_counts` of pandas gives them, and head and
tail would change places without a word.
"""

import math
import warnings

import numpy as np

# Balanced sampling, proportional sampling, and more of the head than there is.
POWERS = np.linspace(0.0, 2.0, 21)
# Standard deviations from what chance does, and the share of images that is wrong.
SIGNIFICANT, LARGE = 4.0, 0.15
# Of a class of which so many images were to be expected, chance does not leave out all.
SURE = 20


def compare(class_counts, seen, are_all=False):
    """Raises or warns if labels of which `seen` were seen contradict `class_counts`.

    Args:
        class_counts: Integers of shape `(num_classes,)`.
        seen: Numbers of the same shape: labels of each class that training has seen.
        are_all: Boolean. Whether training will see no others. Defaults to `False`.

    Raises:
        ValueError: If `seen` are exactly the numbers of `class_counts`, in another
            order.
    """
    seen = np.asarray(seen, "float64")
    counts, labels = _in_lowest_terms(class_counts), _in_lowest_terms(seen)
    all_seen = seen.sum() >= class_counts.sum()
    if all_seen and np.array_equal(np.sort(counts), np.sort(labels)):
        if not np.array_equal(counts, labels):
            raise ValueError(
                "`class_counts` has the right numbers in another order than the "
                "labels: entry c must be the count of label c, as "
                f"numpy.bincount(labels) gives it. {_beside(class_counts, seen)}"
            )
        return
    once = _once(class_counts, seen)
    _, expected = _best_fit(class_counts, once)
    absent = np.flatnonzero((seen == 0) & (are_all | (expected > SURE)))
    if len(absent):
        warnings.warn(
            f"Training sees no label of class {_few(absent)}, of which `class_counts` "
            f"has {_few(class_counts[absent])} images: a data set without them, or one "
            "that is ordered by class and not read to its end.",
            stacklevel=3,
        )
    elif _contradict(class_counts, once):
        warnings.warn(
            "`class_counts` and the labels contradict each other: classes that it "
            f"calls rare are frequent. {_beside(class_counts, seen)} Entry c must be "
            "the count of label c; numpy.bincount(labels) gives them so.",
            stacklevel=3,
        )
    elif are_all and _are_far_from(class_counts, once):
        warnings.warn(
            "`class_counts` says of the labels that are trained on what they are not, "
            "by no way of sampling, and budgets and weights of the classes follow it. "
            f"{_beside(class_counts, seen)} numpy.bincount(labels) gives the counts.",
            stacklevel=3,
        )


def _contradict(class_counts, seen):
    """Whether no sampling by `class_counts`, but by their other order, gives `seen`."""
    in_order_of_seen = np.empty_like(class_counts)
    in_order_of_seen[np.argsort(seen, kind="stable")] = np.sort(class_counts)
    misfit, _ = _best_fit(class_counts, seen)
    other_misfit, _ = _best_fit(in_order_of_seen, seen)
    return _are_far_from(class_counts, seen) and other_misfit < misfit / 4


def _are_far_from(class_counts, seen):
    """Whether no sampling by `class_counts` gives `seen`."""
    misfit, expected = _best_fit(class_counts, seen)
    wrong_share = np.abs(seen - expected).sum() / 2 / max(seen.sum(), 1.0)
    return misfit > _chance(len(seen) - 1) and wrong_share > LARGE


def _once(class_counts, seen):
    """What was seen, without repetitions: they say no more than the data themselves."""
    seen = _in_lowest_terms(seen).astype("float64")
    return seen * min(1.0, class_counts.sum() / max(seen.sum(), 1.0))


def _in_lowest_terms(numbers):
    numbers = np.asarray(numbers).astype("int64")
    return numbers // max(np.gcd.reduce(numbers), 1)


def _best_fit(class_counts, seen):
    """The G statistic of the power that fits best, and what that expects to see."""
    weights = (class_counts / class_counts.max()) ** POWERS[:, None]
    expected = seen.sum() * weights / weights.sum(axis=1, keepdims=True)
    ratio = np.where(seen > 0, seen, 1.0) / expected
    misfits = 2 * np.sum(seen * np.log(np.where(seen > 0, ratio, 1.0)), axis=1)
    best = misfits.argmin()
    return misfits[best], expected[best]


def _chance(degrees):
    """What a chi-squared variable hardly exceeds (Wilson and Hilferty, 1931)."""
    spread = 2 / (9 * degrees)
    return degrees * (1 - spread + SIGNIFICANT * np.sqrt(spread)) ** 3


def _beside(class_counts, seen):
    """Counts and labels of the classes in which they differ most."""
    share = seen / seen.sum() - class_counts / class_counts.sum()
    worst = np.sort(np.argsort(-np.abs(share), kind="stable")[:6])
    counts = ", ".join(
        f"class {c}: {class_counts[c]} by `class_counts`, {seen[c]:.0f} seen"
        for c in worst
    )
    return f"Received {counts}."


def training_part(labels, fraction):
    """How many labels `fit(validation_split=fraction)` leaves for training."""
    return math.floor(len(labels) * (1.0 - fraction))


def check_split(labels, fraction):
    """Raises or warns if `fit(validation_split=fraction)` takes classes as a whole.

    Keras takes the last images for validation, before it shuffles.
    """
    first = training_part(labels, fraction)
    present = np.unique(labels)
    grouped = np.count_nonzero(np.diff(labels)) == len(present) - 1 < len(labels) - 1
    lost = np.setdiff1d(present, labels[:first])
    if grouped and len(present) > 1:
        raise ValueError(
            "`validation_split` takes the last images, and these are grouped by class: "
            f"validation would see class {_few(np.unique(labels[first:]))} alone"
            + (f", and training nothing of class {_few(lost)}" * (len(lost) > 0))
            + ". Shuffle images and labels together first, or pass `validation_data`."
        )
    if len(lost):
        warnings.warn(
            "`validation_split` takes the last images, and with them all those of "
            f"class {_few(lost)}: training sees none. Shuffle images and labels "
            "together first, or pass `validation_data`.",
            stacklevel=3,
        )


def check_evaluated(seen, in_fit):
    """Warns if no image of some class is among those that metrics are about.

    Args:
        seen: Numbers of shape `(num_classes,)`: the images of each class.
        in_fit: Boolean. Whether this is validation. Who calls `evaluate` may well have
            chosen a few classes; a set with most of the classes is meant to have all.
    """
    absent = np.flatnonzero(seen == 0)
    if len(absent) and (in_fit or 2 * len(absent) < len(seen)):
        what = "`validation_data`" if in_fit else "What `evaluate` is given"
        warnings.warn(
            f"{what} has no image of class {_few(absent)}: the accuracies of the "
            "tail, of the average and of the worst class leave them out.",
            stacklevel=3,
        )


def _few(classes, at_most=10):
    shown = ", ".join(map(str, classes[:at_most]))
    return f"[{shown}{', ...' if len(classes) > at_most else ''}]"
