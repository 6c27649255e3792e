"""Batches for training: seeded, re-iterable, and the same after a restart.

The images stay in memory once, as uint8. Each epoch begins with two tables that are
pure functions of `(seed, epoch)`: the order of the images, and the uniform numbers
that augment each of them. So what a batch holds depends neither on the number of
threads nor on what the process did before, and an interrupted training can go on
exactly where it was.

`tf.data` makes the batches, on every backend, or NumPy where TensorFlow is not
installed (`array_pipeline.py`), with other random numbers.
"""

import dataclasses
import os
from collections.abc import Callable

import numpy as np

from keras_robustlt.data.arguments import check_flag, is_whole
from keras_robustlt.data.arrays import MAX_CLASSES, check_images, check_labels
from keras_robustlt.data.augmentation import TRIED, get_augmentation, split
from keras_robustlt.data.resumption import draws_by_itself, fingerprint


def pipeline(
    images,
    labels,
    batch_size,
    augmentation="none",
    shuffle=True,
    seed=0,
    balanced_sampling=False,
    num_classes=None,
    drop_remainder=False,
    shard=None,
):
    """Makes a data set of batches from arrays: a `tf.data.Dataset`.

    Every iteration is one epoch, and the next one shuffles and augments anew. The
    attribute `epoch` of the dataset, a `tf.Variable`, is the number of the epoch that
    the next iteration yields: `dataset.epoch.assign(7)` makes that epoch 7, exactly
    as an uninterrupted run would see it. `fit` of a `RobustLTModel` assigns it.

    Where TensorFlow is not installed, it is a `keras.utils.PyDataset` for the JAX
    backend, with the same attribute `epoch` and another order, by NumPy.

    Args:
        images: uint8 array of shape `(num_images, height, width, channels)`, or floats
            in `[0, 1]`, which are stored in steps of 1/255.
        labels: Integer array of shape `(num_images,)`.
        batch_size: Positive integer.
        augmentation: What happens to the images of a batch, at random:

            - a key of `data.AUGMENTATIONS`;
            - a layer of keras-cv by name, `"augmix"`, `"cutmix"`, `"fourier_mix"`,
              `"grid_mask"` or `"mixup"`, or behind one of the former: `"base+cutmix"`;
            - a `keras.layers.Layer`, of Keras, keras-cv or your own;
            - a function of `images`, and, if it has parameters of these names, of
              `labels`, a float32 tensor `(batch, num_classes)`, and of `seed`, a
              `keras.random.SeedGenerator`. With `labels` it gives a pair, the images
              and soft labels.

            Layers and functions get float32 images in `[0, 1]` and must give such, of
            the same shape; what leaves `[0, 1]` a little is clipped. They run on
            TensorFlow, in `tf.data`, on any backend, and on that of Keras where
            TensorFlow is not installed. The random numbers of layers, and those drawn
            from `seed`, follow from the seed and the number of the epoch. Defaults to
            `"none"`.
        shuffle: Boolean. Defaults to `True`.
        seed: Integer, of the order and of the augmentation. Defaults to `0`.
        balanced_sampling: Boolean: draw each image by first drawing its class, all
            classes alike, then an image of it, with replacement. An epoch keeps its
            length. Defaults to `False`.
        num_classes: Integer, or `None` for the largest label plus one. Only
            `balanced_sampling` and soft labels use it. Defaults to `None`.
        drop_remainder: Boolean, whether to leave out a last batch that is smaller.
            Defaults to `False`, so that an epoch is the whole data set; `True` spares
            XLA and JAX compiling the step for a second batch size.
        shard: Tuple of two integers, `(index, count)`: of `count` processes that train
            together, each makes its own part of every batch, all of one size: the last
            batch, if smaller, is left out. For JAX on several devices; `tf.distribute`
            splits batches itself. Defaults to `None`, whole batches.

    Returns:
        A `tf.data.Dataset` of known cardinality, or a `keras.utils.PyDataset`. Its
        elements are `(images, labels)`: float32 in `[0, 1]` of shape
        `(batch, height, width, channels)`, and int64 of shape `(batch,)`, or, where
        the augmentation mixes labels, float32 of shape `(batch, num_classes)`. The
        attribute `soft_labels` says whether it does.

    Raises:
        ImportError: If `augmentation` is of keras-cv, which cannot be imported.
        ValueError: If an argument is out of range.

    Example:

    >>> images = np.zeros((10, 8, 8, 1), "uint8")
    >>> dataset = krl.data.pipeline(images, np.arange(10) % 2, batch_size=4)
    >>> [len(y) for x, y in dataset]
    [4, 4, 2]
    """
    images, labels = check_images(images, "images"), check_labels(labels, "labels")
    num_images = len(images)
    if len(labels) != num_images or num_images == 0:
        raise ValueError(
            "`images` and `labels` must have one label an image, and not be empty. "
            f"Received: {num_images} images and {len(labels)} labels."
        )
    batch_size, seed, balanced_sampling, drop_remainder, part = checked_options(
        batch_size, seed, balanced_sampling, drop_remainder, shard
    )
    shuffle = check_flag("shuffle", shuffle)
    most = int(labels.max())
    if num_classes is None:
        num_classes = most + 1
    elif not is_whole(num_classes, most + 1) or num_classes > MAX_CLASSES:
        raise ValueError(
            f"`num_classes` must be an integer above every label, and at most "
            f"{MAX_CLASSES}. Received: {num_classes=}, and a label {most}"
        )
    num_classes = int(num_classes)
    drop_remainder = drop_remainder or shard is not None
    if drop_remainder and batch_size > num_images:
        raise ValueError(
            f"With `drop_remainder` or `shard`, {num_images} images make no batch of "
            f"batch_size={batch_size}. Use a smaller batch."
        )
    if balanced_sampling and not shuffle:
        raise ValueError("`balanced_sampling` draws at random: it needs shuffle=True.")
    full, rest = divmod(num_images, batch_size)
    first, layer = split(augmentation)
    augment = get_augmentation(first, images.shape[1:])
    if layer is not None:
        from keras_robustlt.data import layers  # which need Keras

        layer = layers.get(layer)
        if not isinstance(augmentation, str):
            augmentation = layer.description()
    plan = Plan(
        images,
        labels,
        batch_size,
        augment=augment,
        layer=layer,
        num_classes=num_classes,
        shuffle=shuffle,
        seed=seed,
        class_table=_class_table(labels, num_classes) if balanced_sampling else None,
        drop_remainder=drop_remainder,
        num_batches=full + (rest > 0 and not drop_remainder),
        part=part,
        part_index=0 if shard is None else int(shard[0]),
        # By which a checkpoint knows the data again.
        made_of={
            "images": fingerprint(images),
            "labels": fingerprint(labels),
            "batch_size": batch_size,
            "augmentation": augmentation,
            "shuffle": shuffle,
            "seed": seed,
            "balanced_sampling": balanced_sampling,
        },
    )
    try:
        import tensorflow  # noqa: F401
    except ImportError:
        from keras_robustlt.data.array_pipeline import ArrayPipeline

        return ArrayPipeline(plan)
    return _with_tensorflow(plan)


def checked_options(batch_size, seed, balanced_sampling, drop_remainder, shard):
    """Arguments of `pipeline` as plain values, and a function of `_part` or `None`."""
    if not is_whole(batch_size) or batch_size >= 2**63:
        raise ValueError(
            "`batch_size` must be a positive integer, of at most 64 bits. Received: "
            f"{batch_size=}"
        )
    if not is_whole(seed, low=-(2**63)) or seed >= 2**63:
        raise ValueError(f"`seed` must be an integer of 64 bits. Received: {seed=}")
    batch_size = int(batch_size)
    return (
        batch_size,
        int(seed),
        check_flag("balanced_sampling", balanced_sampling),
        check_flag("drop_remainder", drop_remainder),
        None if shard is None else _part(shard, batch_size),
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """What `pipeline` was asked for, checked.

    Args:
        images: uint8 array of shape `(num_images, height, width, channels)`.
        labels: int64 array of shape `(num_images,)`.
        batch_size: Integer.
        augment: An `augmentation.Augmentation`.
        layer: A `layers.LayerAugmentation` that comes after it, or `None`.
        num_classes: Integer.
        shuffle: Boolean.
        seed: Integer of 64 bits.
        class_table: What `_class_table` gives, for balanced sampling, or `None`.
        drop_remainder: Boolean.
        num_batches: Integer.
        part: Function from the rows of a batch to those of this process, or `None`.
        part_index: Integer, the number of this process.
        made_of: Dictionary that JSON can hold.
    """

    images: np.ndarray
    labels: np.ndarray
    batch_size: int
    augment: Callable
    layer: Callable | None
    num_classes: int
    shuffle: bool
    seed: int
    class_table: tuple | None
    drop_remainder: bool
    num_batches: int
    part: Callable | None
    part_index: int
    made_of: dict

    @property
    def soft_labels(self):
        return self.layer is not None and self.layer.mixes_labels


def _with_tensorflow(plan):
    import tensorflow as tf

    num_images = len(plan.images)
    # Not on an accelerator: tf.data runs on the host.
    with tf.device("CPU:0"):
        images = tf.constant(plan.images, tf.uint8)
        labels = tf.constant(plan.labels, tf.int64)
        epoch_variable = tf.Variable(0, dtype=tf.int64, trainable=False, name="epoch")
        own_draws, layer = False, None
        if plan.layer is not None:
            layer = plan.layer.on_host(plan.images.shape[1:], plan.num_classes)
            own_draws = _try_on_host(plan, layer)

    # There is nothing for AutoGraph to convert, and looking takes it seconds.
    @tf.autograph.experimental.do_not_convert
    def begin_epoch(_):
        epoch = epoch_variable.read_value()
        with tf.control_dependencies([epoch]):
            epoch_variable.assign_add(1)
        return epoch

    @tf.autograph.experimental.do_not_convert
    def tables(epoch):
        key = tf.stack([tf.constant(plan.seed, tf.int64), epoch])
        if plan.class_table:
            order = _balanced_order(plan.class_table, num_images, key)
        elif plan.shuffle:
            order = tf.random.experimental.stateless_shuffle(
                tf.range(num_images), seed=key
            )
        else:
            order = tf.range(num_images)
        # Another stream than the order's: the seed is folded once more.
        draws = tf.random.stateless_uniform(
            (num_images, plan.augment.num_draws),
            seed=tf.random.experimental.stateless_fold_in(key, 1),
        )
        rows = tf.data.Dataset.from_tensor_slices((order, draws))
        rows = rows.batch(plan.batch_size, drop_remainder=plan.drop_remainder)
        if layer is None:
            return rows
        seeds = tf.random.stateless_uniform(
            (plan.num_batches, 2),
            seed=tf.random.experimental.stateless_fold_in(key, 2 + plan.part_index),
            minval=None,
            maxval=None,
            dtype=tf.int64,
        )
        return tf.data.Dataset.zip(rows, tf.data.Dataset.from_tensor_slices(seeds))

    @tf.autograph.experimental.do_not_convert
    def make_batch(indices, draws):
        if plan.part is not None:
            indices, draws = plan.part(indices), plan.part(draws)
        batch = plan.augment(tf.gather(images, indices), draws)
        return tf.cast(batch, tf.float32) / 255.0, tf.gather(labels, indices)

    @tf.autograph.experimental.do_not_convert
    def make_layered_batch(row, seed):
        batch, classes = make_batch(*row)
        batch, targets = layer(batch, tf.one_hot(classes, plan.num_classes), seed)
        # NaN is not below anything.
        tf.debugging.assert_less_equal(
            tf.abs(batch - 0.5),
            1.5,
            message=f"`augmentation` must give images in [0, 1]: {plan.layer}",
        )
        batch = tf.clip_by_value(batch, 0.0, 1.0)
        return batch, targets if plan.soft_labels else classes

    dataset = tf.data.Dataset.from_tensors(0).map(begin_epoch).flat_map(tables)
    dataset = dataset.map(
        make_batch if layer is None else make_layered_batch,
        num_parallel_calls=max(2, min(8, os.cpu_count() or 2)),
        deterministic=True,
    )
    dataset = dataset.apply(tf.data.experimental.assert_cardinality(plan.num_batches))
    dataset = dataset.prefetch(4)
    options = tf.data.Options()
    options.deterministic = True
    # The tuner's thread can hold up the end of an epoch for seconds.
    options.autotune.enabled = False
    dataset = dataset.with_options(options)
    dataset.epoch = epoch_variable
    dataset.made_of = plan.made_of
    dataset.soft_labels = plan.soft_labels
    dataset.own_draws = own_draws
    return dataset


def _try_on_host(plan, layer):
    """Raises if what a layer makes of the first images is none.

    Returns:
        Boolean: whether it draws numbers that do not follow from the seed.
    """
    import tensorflow as tf

    images = tf.constant(plan.images[:TRIED].astype("float32") / 255)
    targets = tf.one_hot(plan.labels[:TRIED], plan.num_classes)
    seed = tf.constant([plan.seed, 0], tf.int64)
    augmented, mixed = (made.numpy() for made in layer(images, targets, seed))
    plan.layer.check_values(augmented)
    plan.layer.check_targets(mixed, len(images))
    own_draws = draws_by_itself(layer.graph)
    if not own_draws and plan.layer.is_function:
        again = plan.layer.on_host(plan.images.shape[1:], plan.num_classes)
        plan.layer.check_repeats(augmented, again(images, targets, seed)[0].numpy())
    plan.layer.check_not_divided(images.numpy(), augmented)
    plan.layer.check_order(
        lambda *batch: layer(*map(tf.constant, batch), seed)[0],
        plan.images.shape[1:],
        plan.num_classes,
    )
    return own_draws


def _part(shard, batch_size):
    """A function from what a batch holds to the part of it that `shard` says."""
    try:
        index, count = shard
    except (TypeError, ValueError):
        index = count = None
    if not (is_whole(count) and is_whole(index, low=0) and index < count):
        raise ValueError(
            "`shard` must be (index, count) with an index from 0 to count - 1. "
            f"Received: shard={shard}"
        )
    index, count = int(index), int(count)
    if batch_size % count:
        raise ValueError(
            f"`batch_size` must be a multiple of the {count} processes of `shard`. "
            f"Received: batch_size={batch_size}"
        )

    size = batch_size // count
    return lambda rows: rows[size * index : size * (index + 1)]


def _class_table(labels, num_classes):
    """Images grouped by class, where each class begins, and its number of images."""
    counts = np.bincount(labels, minlength=num_classes)
    if counts.min() == 0:
        raise ValueError(
            f"`balanced_sampling` draws every class, and class {int(counts.argmin())} "
            "has no images."
        )
    grouped = np.argsort(labels, kind="stable")
    return grouped, np.cumsum(counts) - counts, counts


def _balanced_order(class_table, num_images, key):
    import tensorflow as tf

    grouped, first, counts = class_table
    uniform = tf.random.stateless_uniform((2, num_images), seed=key, dtype=tf.float64)
    classes = tf.cast(uniform[0] * len(counts), tf.int64)
    within = uniform[1] * tf.gather(tf.cast(counts, tf.float64), classes)
    return tf.gather(grouped, tf.gather(first, classes) + tf.cast(within, tf.int64))
