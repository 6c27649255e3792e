"""Which images of a data set form its long-tailed version.

A balanced data set becomes long-tailed by keeping fewer and fewer images a class:
class 0 stays the largest, the last class becomes the smallest. Everything here is
NumPy and a pure function of its arguments, so a seed names a split for good.
"""

import numpy as np

from keras_robustlt.class_names import composed
from keras_robustlt.data.arguments import (
    check_choice,
    check_seed,
    is_number,
    is_whole,
)
from keras_robustlt.data.arrays import as_array, check_labels

TEST_FRACTION = 0.2  # of data without a test set
MOST_CLASSES = 10_000_000  # beyond all data sets, and counted within seconds


def chosen_classes(classes, names):
    """Which classes a choice means.

    Args:
        classes: Integer, the first so many classes; or a list of class indices or
            class names; or `None`, all.
        names: Sequence of strings, the names of all classes.

    Returns:
        A list of class indices, in the order of the classes' new labels.

    Raises:
        ValueError: If fewer than two classes are chosen, one twice, or one that is
            not there.
    """
    names = list(map(_composed, names))
    if classes is None:
        return list(range(len(names)))
    if isinstance(classes, (int, np.integer)) and not isinstance(classes, bool):
        wanted = range(min(classes, len(names) + 1))
    else:
        listed = np.atleast_1d(np.asarray(classes, object)).tolist()
        wanted = map(_composed, listed)
    chosen = [names.index(c) if c in names else c for c in wanted]
    unknown = [c for c in chosen if not is_whole(c, 0) or c >= len(names)]
    if unknown or len(chosen) < 2 or len(set(chosen)) != len(chosen):
        known = ", ".join(map(repr, names[:3]))
        raise ValueError(
            f"`classes` must be an integer from 2 to {len(names)} (the first so many), "
            "or a list of at least two different class indices, from 0 to "
            f"{len(names) - 1}, or class names, such as {known}. "
            f"Received: classes={classes!r}"
        )
    return [int(c) for c in chosen]


def _composed(name):
    return composed(name) if isinstance(name, str) else name


def long_tail_counts(largest, num_classes, imbalance_ratio, imbalance_type="exp"):
    """Number of images each class keeps in a long-tailed data set.

    With `n` the largest class, `C` classes and ratio `r`, the types are

    - `"exp"`: class `i` keeps `int(n * (1 / r) ** (i / (C - 1)))`,
    - `"step"`: the first half of the classes keep `n`, the others `int(n / r)`.

    Args:
        largest: Positive integer, the number of images of class 0.
        num_classes: Integer, at least 2.
        imbalance_ratio: Number, at least 1: the largest class over the smallest.
        imbalance_type: `"exp"` or `"step"`. Defaults to `"exp"`.

    Returns:
        Integer array of shape `(num_classes,)`, each entry at least 1.

    Raises:
        ValueError: If an argument is out of range, or a class would keep no image.

    Example:

    >>> krl.data.long_tail_counts(5000, 10, 50).tolist()
    [5000, 3237, 2096, 1357, 878, 568, 368, 238, 154, 100]

    Reference:
        - [Cui et al., 2019](https://arxiv.org/abs/1901.05555), section 5.1.
    """
    if not is_whole(largest) or largest > 2**53:
        raise ValueError(
            f"`largest` must be a positive number of images. Received: {largest=}"
        )
    if not is_whole(num_classes, low=2) or num_classes > MOST_CLASSES:
        raise ValueError(
            f"`num_classes` must be an integer from 2 to {MOST_CLASSES}. Received: "
            f"{num_classes=}"
        )
    check_imbalance(imbalance_ratio, imbalance_type)
    if imbalance_type == "exp":
        counts = [
            int(largest * (1 / imbalance_ratio) ** (i / (num_classes - 1)))
            for i in range(int(num_classes))
        ]
    else:
        head = int(num_classes) // 2
        counts = [int(largest)] * head
        counts += [int(largest / imbalance_ratio)] * (int(num_classes) - head)
    if min(counts) == 0:
        raise ValueError(
            f"Class {counts.index(0)} would keep 0 of its images: with {largest} "
            f"images in the largest class, `imbalance_ratio` can be at most {largest}, "
            f"and it is {imbalance_ratio:g}."
        )
    return np.array(counts, dtype=np.int64)


def check_imbalance(imbalance_ratio, imbalance_type):
    """Raises a `ValueError` if they are none that `long_tail_counts` takes."""
    if not is_number(imbalance_ratio, low=1):
        raise ValueError(
            "`imbalance_ratio` is the largest class over the smallest and must be at "
            "least 1 (1 keeps the classes balanced). "
            f"Received: {imbalance_ratio=}"
        )
    check_choice("imbalance_type", imbalance_type, ("exp", "step"))


def check_test_fraction(fraction):
    """Raises a `ValueError` if it is no part of each class to hold out."""
    if not is_number(fraction) or not 0 < fraction < 1:
        raise ValueError(
            "`test_fraction` must be between 0 and 1. "
            f"Received: test_fraction={fraction!r}"
        )


def hold_out(labels, class_names, fraction, seed, groups=None):
    """Draws the test images of a data set that has none of its own.

    Args:
        labels: Integer array of shape `(num_images,)`.
        class_names: Sequence of strings, one a class.
        fraction: Float in `(0, 1)`, the part of each class. Of two images or more, at
            least one is held out and one is left.
        seed: Integer.
        groups: Array of shape `(num_images,)`, or `None`; a group is not divided.

    Returns:
        A pair of ascending integer arrays `(train_indices, test_indices)`.

    Raises:
        ValueError: If a class cannot be divided.
    """
    counts = np.bincount(labels, minlength=len(class_names))
    for name, count in zip(class_names, counts, strict=True):
        if count < 2:
            raise ValueError(
                f"Class {name!r} has {'one image' if count else 'no image'}, and "
                "training and testing need one each. Add images, or give separate "
                "folders `train` and `test`."
            )
    generator = np.random.default_rng(check_seed(seed))
    wanted = [min(max(1, round(fraction * n)), n - 1) for n in counts.tolist()]
    if groups is not None:
        held = _hold_out_groups(labels, groups, wanted, generator)
        lacking = _without_images(labels[held], class_names)
        if lacking:
            raise ValueError(
                "The `groups` of these classes cannot be divided into training and "
                f"test images: {', '.join(lacking)}. Each class needs two groups."
            )
        return np.flatnonzero(~held), np.flatnonzero(held)
    held = np.zeros(len(labels), bool)
    for c, count in enumerate(wanted):
        held[generator.permutation(np.flatnonzero(labels == c))[:count]] = True
    return np.flatnonzero(~held), np.flatnonzero(held)


def _without_images(labels, class_names):
    counts = np.bincount(labels, minlength=len(class_names))
    return [name for name, n in zip(class_names, counts, strict=True) if n == 0]


def _hold_out_groups(labels, groups, wanted, generator):
    """Which images to hold out, whole groups of about `wanted` images a class.

    Rare classes choose first. A class keeps at least one image that is not held out.
    """
    groups = np.unique(groups, return_inverse=True)[1]
    images = np.zeros((groups.max() + 1, len(wanted)), np.int64)
    np.add.at(images, (groups, labels), 1)
    order = generator.permutation(len(images))
    chosen = np.zeros(len(images), bool)
    held, total = np.zeros(len(wanted), np.int64), images.sum(axis=0)
    for c in np.argsort(total, kind="stable"):
        # Groups first that are not too large.
        for group in sorted(order, key=lambda g: images[g, c] > wanted[c]):
            missing, size = wanted[c] - held[c], images[group, c]
            if missing <= 0:
                break
            nearer = held[c] == 0 or size - missing < missing
            spared = (held + images[group] < total) | (images[group] == 0)
            if size and not chosen[group] and nearer and spared.all():
                chosen[group] = True
                held += images[group]
    return chosen[groups]


def long_tail_indices(labels, class_counts, seed, validation_fraction=0.0, groups=None):
    """Draws the images of each class, and sets some aside for validation.

    One random generator serves all classes: it shuffles the ascending indices of each
    class, in class order, and the first `class_counts[c]` of them are kept. The last
    `int(validation_fraction * class_counts[c])` of those are for validation, and at
    least one where the class keeps two or more. The published CIFAR-10-LT splits of
    seeds 102 to 104 come out index for index.

    Args:
        labels: Integer array of shape `(num_images,)`.
        class_counts: Integer array of shape `(num_classes,)`: images to keep of each
            class, the validation images included. `None` keeps every image.
        seed: Integer, names the split.
        validation_fraction: Float in `[0, 1)`. Defaults to `0.0`.
        groups: Array of shape `(num_images,)`, integers or strings: images of one
            group, such as a patient, are all for training or all for validation, and
            the numbers of validation images are met as nearly as that allows. Defaults
            to `None`.

    Returns:
        A pair of integer arrays `(train_indices, validation_indices)`, grouped by
        class. They do not overlap.

    Raises:
        ValueError: If a class has no images, or fewer than `class_counts` asks for.

    Example:

    >>> train, validation = krl.data.long_tail_indices(
    ...     np.array([0, 1, 0, 1, 0, 1]),
    ...     class_counts=[3, 2],
    ...     seed=102,
    ...     validation_fraction=0.5,
    ... )
    >>> len(train), len(validation)
    (3, 2)
    """
    if not is_number(validation_fraction, 0) or validation_fraction >= 1:
        raise ValueError(
            "`validation_fraction` must be in [0, 1): the part of each class that is "
            f"set aside. Received: {validation_fraction=}"
        )
    seed = check_seed(seed)
    labels = check_labels(labels, "labels")
    if not len(labels):
        raise ValueError("`labels` must not be empty: no images can be drawn of none.")
    if groups is not None:
        groups = check_groups(groups, len(labels))
    if class_counts is None:
        class_counts = np.bincount(labels)
    class_counts = _whole_numbers("class_counts", class_counts)
    available = np.bincount(labels, minlength=len(class_counts))
    if len(available) > len(class_counts):
        raise ValueError(
            f"`labels` go up to {len(available) - 1}, but `class_counts` has only "
            f"{len(class_counts)} classes."
        )
    for c, (wanted, there) in enumerate(zip(class_counts, available, strict=True)):
        if there == 0:
            raise ValueError(
                f"Class {c} has no images. Remove it and number the classes without "
                "gaps, from 0, or add images."
            )
        if not 1 <= wanted <= there:
            raise ValueError(
                f"`class_counts[{c}]` must be from 1 to {there}, as many images as "
                f"class {c} has. Received: class_counts[{c}]={wanted}"
            )
    generator = np.random.default_rng(seed)
    train, validation = [], []
    for c, count in enumerate(class_counts):
        indices = np.flatnonzero(labels == c)
        generator.shuffle(indices)
        num_held_out = int(count * validation_fraction)
        if validation_fraction and count > 1:
            num_held_out = max(num_held_out, 1)
        train.append(indices[: count - num_held_out])
        validation.append(indices[count - num_held_out : count])
    if groups is not None and validation_fraction:
        wanted = [len(indices) for indices in validation]
        both = [*zip(train, validation, strict=True)]
        kept = np.concatenate([np.concatenate(pair) for pair in both])
        held = _hold_out_groups(labels[kept], groups[kept], wanted, generator)
        return kept[~held], kept[held]
    return np.concatenate(train), np.concatenate(validation)


def check_validation(indices, validation_fraction):
    """Raises if no image was held out where some should be."""
    if validation_fraction and not len(indices):
        raise ValueError(
            "Each class has one image, or group, and none can be held out for "
            "validation. Pass validation_fraction=0, or add images. Received: "
            f"{validation_fraction=}"
        )


def _whole_numbers(name, values):
    array = as_array(values, name, "whole numbers, one a class")
    is_list = array.ndim == 1 and array.dtype.kind in "iuf"
    if not is_list or np.any((array % 1 != 0) | (abs(array) > 2.0**53)):
        raise ValueError(
            f"`{name}` must be a list of whole numbers, one a class. "
            f"Received: {name}={values!r}"
        )
    return array.astype(np.int64)


def check_groups(groups, num_images):
    """Group ids as an array, or a `ValueError`."""
    groups = as_array(groups, "groups", "integers or strings")
    if groups.shape != (num_images,) or groups.dtype.kind not in "iuSU":
        raise ValueError(
            "`groups` must be integers or strings, one for each training image, of "
            f"shape ({num_images},). Received: shape {groups.shape} and dtype "
            f"{groups.dtype}"
        )
    return groups
