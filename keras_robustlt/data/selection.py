"""Which images of a data set form its long-tailed version.

A balanced data set becomes long-tailed by keeping fewer and fewer images a class:
class 0 stays the largest, the last class becomes the smallest. Everything here is
NumPy and a pure function of its arguments, so a seed names a split for good.
"""

import numpy as np


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
    names = list(names)
    if classes is None:
        return list(range(len(names)))
    if isinstance(classes, (int, np.integer)):
        wanted = range(classes)
    else:
        wanted = np.atleast_1d(np.asarray(classes, object))
    chosen = [names.index(c) if c in names else c for c in wanted]
    unknown = [c for c in chosen if c not in range(len(names))]
    if unknown or len(set(chosen)) != len(chosen) or len(chosen) < 2:
        known = ", ".join(map(repr, names[:3]))
        raise ValueError(
            f"`classes` must be an integer from 2 to {len(names)} (the first so many), "
            "or a list of at least two different class indices, from 0 to "
            f"{len(names) - 1}, or class names, such as {known}. "
            f"Received: classes={classes!r}"
        )
    return [int(c) for c in chosen]


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
    if largest < 1 or int(largest) != largest:
        raise ValueError(
            f"`largest` must be a positive number of images. Received: {largest=}"
        )
    if num_classes < 2 or int(num_classes) != num_classes:
        raise ValueError(
            "`num_classes` must be an integer of at least 2. "
            f"Received: num_classes={num_classes}"
        )
    if not (np.isfinite(imbalance_ratio) and imbalance_ratio >= 1):
        raise ValueError(
            "`imbalance_ratio` is the largest class over the smallest and must be at "
            "least 1 (1 keeps the classes balanced). "
            f"Received: imbalance_ratio={imbalance_ratio}"
        )
    if imbalance_type == "exp":
        counts = [
            int(largest * (1 / imbalance_ratio) ** (i / (num_classes - 1)))
            for i in range(num_classes)
        ]
    elif imbalance_type == "step":
        head = num_classes // 2
        counts = [int(largest)] * head
        counts += [int(largest / imbalance_ratio)] * (num_classes - head)
    else:
        raise ValueError(
            "`imbalance_type` must be 'exp' or 'step'. "
            f"Received: imbalance_type={imbalance_type!r}"
        )
    if min(counts) == 0:
        raise ValueError(
            f"Class {counts.index(0)} would keep 0 of its images. With {largest} "
            f"images in the largest class, `imbalance_ratio` can be at most {largest}; "
            "if the data are already imbalanced, imbalance_ratio=None keeps every "
            f"image. Received: imbalance_ratio={imbalance_ratio}"
        )
    return np.array(counts, dtype=np.int64)


def long_tail_indices(labels, class_counts, seed, validation_fraction=0.0):
    """Draws the images of each class, and sets some aside for validation.

    One random generator serves all classes: it shuffles the ascending indices of each
    class, in class order, and the first `class_counts[c]` of them are kept. The last
    `int(validation_fraction * class_counts[c])` of those are for validation. The
    published CIFAR-10-LT splits of seeds 102 to 104 come out index for index.

    Args:
        labels: Integer array of shape `(num_images,)`.
        class_counts: Integer array of shape `(num_classes,)`: images to keep of each
            class, the validation images included. `None` keeps every image.
        seed: Integer, names the split.
        validation_fraction: Float in `[0, 1)`. Defaults to `0.0`.

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
    if not 0.0 <= validation_fraction < 1.0:
        raise ValueError(
            "`validation_fraction` must be in [0, 1): the part of each class that is "
            f"set aside. Received: validation_fraction={validation_fraction}"
        )
    labels = np.asarray(labels)
    present = np.bincount(labels)
    class_counts = present if class_counts is None else np.asarray(class_counts)
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
                f"Class {c} has {there} images, and class_counts[{c}]={wanted} asks "
                "for another number than 1 to that. Ask for fewer images."
            )
    generator = np.random.default_rng(seed)
    train, validation = [], []
    for c, count in enumerate(class_counts):
        indices = np.flatnonzero(labels == c)
        generator.shuffle(indices)
        num_train = count - int(count * validation_fraction)
        train.append(indices[:num_train])
        validation.append(indices[num_train:count])
    return np.concatenate(train), np.concatenate(validation)
