"""From a data set's name to long-tailed training data, in one call."""

import dataclasses
import hashlib
import inspect
import warnings
from typing import Any

import numpy as np

from keras_robustlt.data.arguments import check_choice, is_number, is_whole
from keras_robustlt.data.augmentation import AUGMENTATIONS, pipeline_names, split
from keras_robustlt.data.pipeline import checked_options, pipeline
from keras_robustlt.data.selection import (
    check_imbalance,
    check_validation,
    long_tail_counts,
    long_tail_indices,
)
from keras_robustlt.data.sources import Source, load

# Of the largest class to the smallest, where nothing else is said.
RATIO = 50
# A source whose largest class has so many times the images of its smallest.
IMBALANCED = 2


@dataclasses.dataclass(frozen=True, repr=False)
class LongTailData:
    """Long-tailed training data, with what a model needs to know about them.

    Unpacks as `train, test, class_counts`.

    Args:
        train: The long-tailed training set: what `data.pipeline` makes from
            `long_tail`, a pair of arrays `(x, y)` from `long_tail_arrays`.
        validation: Like `train`, held out of it, just as long-tailed; or the whole
            validation set of the source, if it has one and none is held out; or `None`.
        test: Like `train`: the whole test set of the source.
        class_counts: int64 array of shape `(num_classes,)`, training images a class.
        class_names: Tuple of strings.
        input_shape: Tuple `(height, width, channels)`.
        name: String, the source.
        fingerprint: String that changes with every image and label, so that a
            training can tell whether it goes on with its data.

    Example:

    >>> data = krl.data.long_tail("digits", imbalance_ratio=50)
    >>> train, test, class_counts = data
    >>> data.input_shape, data.num_classes
    ((8, 8, 1), 10)
    """

    train: Any
    validation: Any
    test: Any
    class_counts: np.ndarray
    class_names: tuple
    input_shape: tuple
    name: str
    fingerprint: str = None

    def __post_init__(self):
        if np.shape(self.class_counts) != (len(self.class_names),):
            raise ValueError(
                f"`class_counts` must have a number for each of the "
                f"{len(self.class_names)} `class_names`. Received: "
                f"{self.class_counts!r}"
            )

    @property
    def num_classes(self):
        return len(self.class_names)

    def __iter__(self):
        return iter((self.train, self.test, self.class_counts))

    def __repr__(self):
        counts = [
            f"{name}: {count}"
            for name, count in zip(self.class_names, self.class_counts, strict=True)
        ]
        if len(counts) > 20:
            counts[3:-3] = [f"... ({len(counts)} classes)"]
        counts = ", ".join(counts)
        return (
            f"LongTailData({self.name}, {int(sum(self.class_counts))} training images "
            f"of shape {self.input_shape}, {counts})"
        )


def refuse_whole(name, data):
    """Raises if `data` is all of a data set where a part of it is meant.

    Args:
        name: String, what the data are called.
        data: Anything.
    """
    if isinstance(data, LongTailData):
        advice = "pass data.train, data.validation or data.test"
    elif isinstance(data, Source):
        advice = "pass data.pipeline(source.x_train, source.y_train, batch_size)"
    else:
        return
    raise ValueError(
        f"`{name}` must be one part of the data: {advice}. Received: {name}={data!r}"
    )


def long_tail(
    source,
    imbalance_ratio=RATIO,
    imbalance_type="exp",
    batch_size=128,
    augmentation="auto",
    seed=102,
    validation_fraction=0.0,
    data_dir=None,
    balanced_sampling=False,
    drop_remainder=False,
    shard=None,
    largest_class=None,
    **source_options,
):
    """Loads a data set and makes long-tailed training batches of it.

    Each class keeps the number of images that `data.long_tail_counts` says, with the
    smallest class of the source as the largest that all can reach. `seed` draws which
    images, and the order and the augmentation of the batches.

    Args:
        source: `"cifar10"`, `"cifar100"`, `"tinyimagenet"`, `"imagenet64"`,
            `"digits"`, another name, a path or arrays; `data.load` says more.
        imbalance_ratio: Number, at least 1: the largest class over the smallest. `None`
            keeps every image, for data that are imbalanced already, of which the
            default makes another long tail with a warning. Defaults to `50`.
        imbalance_type: `"exp"` or `"step"`. Defaults to `"exp"`.
        batch_size: Integer. Defaults to `128`.
        augmentation: `"none"`, `"base"` (pad, crop, mirror), `"base_rotation"` (and
            turn by up to 15 degrees), `"aua"` or `"ra"` (as `"base"`, then CIFAR
            AutoAugment or RandAugment), or `"auto"`: `"base"`, but `"none"` for images
            that are too small to shift, such as the digits. Also a layer of keras-cv
            by name (`"cutmix"`, `"base+cutmix"`), a Keras layer or a function, see
            `data.pipeline`. Defaults to `"auto"`.
        seed: Integer. Defaults to `102`, that of the published CIFAR-LT splits.
        validation_fraction: Float in `[0, 1)`, the part of each class to hold out, at
            least one image where the class has two. Defaults to `0.0`.
        data_dir: Path to look in. Defaults to `None`.
        balanced_sampling: Boolean, whether training batches show all classes equally
            often. Defaults to `False`.
        drop_remainder: Boolean, whether training leaves out a last batch that is
            smaller. Defaults to `False`.
        shard: Tuple `(index, count)`, for JAX on several devices: training and
            validation batches are this process's part of them, see `data.pipeline`,
            and all of one size. Defaults to `None`.
        largest_class: Integer, the images of the largest class, for less data than
            there are. Defaults to `None`, as many as all classes have.
        **source_options: `classes`, `color_mode`, `download`, `groups`, `image_size`,
            `on_bad` and `test_fraction` of `data.load`.

    Returns:
        A `LongTailData` of `tf.data.Dataset`s, or of `keras.utils.PyDataset`s where
        TensorFlow is not installed; `data.pipeline` describes the batches.

    Raises:
        FileNotFoundError: If the source is not there.
        ImportError: If `augmentation` is of keras-cv, which cannot be imported.
        ValueError: If an argument or the data cannot be used.

    Warns:
        UserWarning: If data are suspicious (`data.check` shows more), or the validation
            images lack a class.

    Example:

    >>> train, test, class_counts = krl.data.long_tail("digits", imbalance_ratio=50)
    >>> class_counts.tolist()
    [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]

    Reference:
        - [Zhang et al., 2026](https://arxiv.org/abs/2605.13395)
    """
    # Before the data are read.
    is_auto = isinstance(augmentation, str) and augmentation == "auto"
    if isinstance(augmentation, str):
        check_choice("augmentation", augmentation, ("auto", *pipeline_names()))
    if not is_auto and split(augmentation)[1] is not None:
        from keras_robustlt.data import layers  # which need Keras

        layers.get(split(augmentation)[1])
    checked_options(batch_size, seed, balanced_sampling, drop_remainder, shard)
    found, train, validation, counts = _select(
        source,
        imbalance_ratio,
        imbalance_type,
        seed,
        validation_fraction,
        data_dir,
        largest_class,
        source_options,
    )
    if shard is not None and validation and len(validation[1]) < batch_size:
        raise ValueError(
            "With `shard`, which leaves out a smaller last batch, the validation "
            "images must fill a batch. Received: "
            f"validation_fraction={validation_fraction}, which holds out "
            f"{len(validation[1])} images, and batch_size={batch_size}"
        )
    if is_auto:
        too_small = min(found.x_train.shape[1:3]) < AUGMENTATIONS["base"].min_size
        augmentation = "none" if too_small else "base"

    def unaugmented(x, y, **options):
        return pipeline(x, y, batch_size, shuffle=False, **options)

    return LongTailData(
        train=pipeline(
            *train,
            batch_size,
            augmentation=augmentation,
            seed=seed,
            balanced_sampling=balanced_sampling,
            num_classes=found.num_classes,
            drop_remainder=drop_remainder,
            shard=shard,
        ),
        validation=validation and unaugmented(*validation, shard=shard),
        test=unaugmented(found.x_test, found.y_test),
        class_counts=counts,
        class_names=found.class_names,
        input_shape=found.x_train.shape[1:],
        name=found.name,
        fingerprint=_fingerprint(train, validation, (found.x_test, found.y_test)),
    )


def long_tail_arrays(
    source,
    imbalance_ratio=RATIO,
    imbalance_type="exp",
    seed=102,
    validation_fraction=0.0,
    data_dir=None,
    largest_class=None,
    **source_options,
):
    """The images that `long_tail` selects, as NumPy arrays.

    Args:
        source: As in `long_tail`, and so are the other arguments.
        imbalance_ratio: Number, at least 1, or `None`. Defaults to `50`.
        imbalance_type: `"exp"` or `"step"`. Defaults to `"exp"`.
        seed: Integer. Defaults to `102`.
        validation_fraction: Float in `[0, 1)`. Defaults to `0.0`.
        data_dir: Path to look in. Defaults to `None`.
        largest_class: Integer or `None`. Defaults to `None`.
        **source_options: `classes`, `color_mode`, `download`, `groups`, `image_size`,
            `on_bad` and `test_fraction` of `data.load`.

    Returns:
        A `LongTailData` whose `train`, `validation` and `test` are pairs `(x, y)`:
        float32 images in `[0, 1]` and int64 labels, grouped by class.

    Raises:
        FileNotFoundError: If the source is not there.
        ValueError: If an argument or the data cannot be used.

    Example:

    >>> (x, y), (x_test, y_test), counts = krl.data.long_tail_arrays("digits")
    >>> x.shape, x_test.shape
    ((314, 8, 8, 1), (600, 8, 8, 1))
    """
    found, train, validation, counts = _select(
        source,
        imbalance_ratio,
        imbalance_type,
        seed,
        validation_fraction,
        data_dir,
        largest_class,
        source_options,
    )

    def as_float(x, y):
        return x.astype(np.float32) / np.float32(255), y

    return LongTailData(
        train=as_float(*train),
        validation=validation and as_float(*validation),
        test=as_float(found.x_test, found.y_test),
        class_counts=counts,
        class_names=found.class_names,
        input_shape=found.x_train.shape[1:],
        name=found.name,
        fingerprint=_fingerprint(train, validation, (found.x_test, found.y_test)),
    )


def _select(
    source,
    imbalance_ratio,
    imbalance_type,
    seed,
    validation_fraction,
    data_dir,
    largest_class,
    source_options,
):
    if not is_number(validation_fraction, 0) or validation_fraction >= 1:
        # Before the data are read.
        raise ValueError(
            "`validation_fraction` must be in [0, 1): the part of each class that is "
            f"set aside. Received: {validation_fraction=}"
        )
    if imbalance_ratio is not None:
        check_imbalance(imbalance_ratio, imbalance_type)
    elif largest_class is not None or imbalance_type != "exp":
        check_choice("imbalance_type", imbalance_type, ("exp", "step"))
        raise ValueError(
            "`largest_class` goes with an `imbalance_ratio`, and so does "
            "`imbalance_type`; imbalance_ratio=None keeps every image. Received: "
            f"{largest_class=}, {imbalance_type=}"
        )
    if largest_class is not None and not is_whole(largest_class):
        raise ValueError(
            "`largest_class` must be a number of images, of at least 1. Received: "
            f"{largest_class=}"
        )
    inspect.signature(load).bind(source, **source_options)  # names unknown ones
    found = load(source, data_dir=data_dir, seed=seed, **source_options)
    return found, *_divided(
        found,
        imbalance_ratio,
        imbalance_type,
        seed,
        validation_fraction,
        largest_class,
    )


def kept_counts(found, imbalance_ratio, imbalance_type, largest_class):
    """How many training images of a source each class keeps; `None` for all."""
    if imbalance_ratio is None:
        return None
    there = np.bincount(found.y_train, minlength=found.num_classes)
    largest = there.min() if largest_class is None else largest_class
    counts = long_tail_counts(
        largest, found.num_classes, imbalance_ratio, imbalance_type
    )
    for name, wanted, most in zip(found.class_names, counts, there, strict=True):
        if wanted > most:
            raise ValueError(
                f"`largest_class` asks for more images than there are: {wanted} of "
                f"class {name!r}, which has {most}. Received: {largest_class=}"
            )
    return counts


def fingerprint_of(found, **division):
    """The `fingerprint` of the data that `long_tail` makes of a source.

    Args:
        found: `Source`.
        **division: What `long_tail` was given of `imbalance_ratio`, `imbalance_type`,
            `seed`, `validation_fraction` and `largest_class`, all of them.

    Returns:
        A string.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a division that nobody trains with now
        train, validation, _ = _divided(found, **division)
    return _fingerprint(train, validation, (found.x_test, found.y_test))


def _divided(
    found, imbalance_ratio, imbalance_type, seed, validation_fraction, largest_class
):
    there = np.bincount(found.y_train, minlength=found.num_classes)
    if imbalance_ratio == RATIO and there.max() > IMBALANCED * max(there.min(), 1):
        warnings.warn(
            f"{found.name} is imbalanced already, with {there.min()} to {there.max()} "
            f"training images a class, and {imbalance_ratio=} makes another long tail "
            "of it, which has most images in its first classes. imbalance_ratio=None "
            "keeps every image.",
            stacklevel=4,
        )
    counts = kept_counts(found, imbalance_ratio, imbalance_type, largest_class)
    train, validation = long_tail_indices(
        found.y_train, counts, seed, validation_fraction, found.groups
    )
    check_validation(validation, validation_fraction)

    def rows(indices):
        return (found.x_train[indices], found.y_train[indices])

    train_counts = np.bincount(found.y_train[train], minlength=found.num_classes)
    held_out = None
    if validation_fraction:
        held_out = rows(validation)
        _warn_about_validation(found, held_out[1])
    elif found.x_validation is not None:
        held_out = found.x_validation, found.y_validation
    return rows(train), held_out, train_counts.astype(np.int64)


def _fingerprint(*parts):
    digest = hashlib.blake2b(digest_size=16)
    for array in (array for part in parts if part for array in part):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array))
    return digest.hexdigest()


def _warn_about_validation(found, labels):
    counts = np.bincount(labels, minlength=found.num_classes)
    lacking = [found.class_names[c] for c in np.flatnonzero(counts == 0)]
    if lacking:
        reason = "one image" if found.groups is None else "one image or group"
        warnings.warn(
            f"The validation images have none of the classes {', '.join(lacking[:10])}"
            f"{', ...' if len(lacking) > 10 else ''}, which have {reason} each: "
            "validation metrics leave them out.",
            stacklevel=5,
        )
    if found.x_validation is not None:
        warnings.warn(
            f"{found.name} has validation images of its own, and "
            "`validation_fraction` holds out others, of the training images. Leave "
            "it out to use those of the data.",
            stacklevel=5,
        )
