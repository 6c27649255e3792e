"""Images and labels, in whatever form they come, as batches of NumPy arrays."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.data.arguments import check_no_mask
from keras_robustlt.data.long_tailed import refuse_whole


class Batches:
    """Images and labels as batches of NumPy arrays, each of which is checked.

    Args:
        x: An array of images, or a `tf.data.Dataset`, a `keras.utils.PyDataset` or
            another iterable of batches `(x, y)`, or a pair of arrays `(x, y)`.
        y: Labels of an array `x`.
        batch_size: Integer: the size of the batches of arrays.

    Attributes:
        first: Float32 array, the images of the first batch.
        count: Integer, how many batches there are; `None` if that is not known.
    """

    def __init__(self, x, y=None, batch_size=250):
        batches, self.count = as_batches(x, y, batch_size)
        self._labels = pair_of(x, y)[1]  # those of an array
        self._batches = _checked(batches)
        first = next(self._batches, None)
        if first is None:
            raise ValueError("`x` has no images to evaluate on.")
        self.first = first[0]
        self._largest = 0
        self._batches = itertools.chain([first], self._batches)

    def batches_per_chunk(self, examples):
        """How many batches it takes for so many examples."""
        return -(-examples // len(self.first))

    def chunks(self, per_chunk, num_classes):
        """A generator of `Chunk`s of so many batches, to be used once."""
        done = 0
        if self._labels is not None:  # all of them, before the first is attacked
            integer_labels(self.first, np.asarray(self._labels), num_classes)
        while batches := list(itertools.islice(self._batches, per_chunk)):
            batches = [(x, integer_labels(x, y, num_classes)) for x, y in batches]
            self._largest = max(self._largest, *(len(y) for _, y in batches))
            yield Chunk(done, batches, self._largest)
            done += len(batches)


class Chunk:
    """Some batches, and their images and labels in one piece each.

    Attributes:
        first: Integer: the number of its first batch.
        batches: List of pairs of images and labels.
        batch_size: Integer: the size of the largest batch up to here.
        images: Float32 array, those of all batches.
        labels: Int64 array.
    """

    def __init__(self, first, batches, batch_size):
        self.first = first
        self.batches = batches
        self.batch_size = batch_size
        self.images, self.labels = (
            np.concatenate(parts) for parts in zip(*batches, strict=True)
        )


def as_batches(x, y=None, batch_size=250):
    """An iterator of pairs, and how many there are; `None` if that is not known."""
    x, y = pair_of(x, y)
    if y is not None:
        x, y = arrays_of(x, y)
        checks.images(x)  # all of them, before the first is attacked
        starts = range(0, len(x), batch_size)
        batches = ((x[i : i + batch_size], y[i : i + batch_size]) for i in starts)
        return batches, len(starts)
    if isinstance(x, keras.utils.PyDataset):
        count = x.num_batches
        if count is None:
            raise ValueError(_endless(x))
        return (x[index] for index in range(count)), count
    if isinstance(x, np.ndarray) or not hasattr(x, "__iter__"):
        raise ValueError(
            "`y` is needed where `x` is an array. Received: y=None and x of type "
            f"{type(x).__name__}"
        )
    if hasattr(x, "cardinality"):
        import tensorflow as tf

        count = int(x.cardinality())
        if count == tf.data.INFINITE_CARDINALITY:
            raise ValueError(_endless(x))
        return iter(x), count if count >= 0 else None  # where it is not known
    return iter(x), len(x) if hasattr(x, "__len__") else None


def pair_of(x, y):
    refuse_whole("x", x)
    checks.no_class("x", x)
    return x if y is None and isinstance(x, tuple) and len(x) == 2 else (x, y)


def arrays_of(x, y):
    check_no_mask("x", x)
    given = f"{_described(x)} and {_described(y)}"
    try:
        x, y = np.asarray(x), np.asarray(y)
    except ValueError:  # lists of several lengths, or a pair as `x`
        x = y = np.asarray(None)
    if not x.ndim or not y.ndim:
        raise ValueError(
            "`x` and `y` must be arrays of images and of labels. A data set, or a pair "
            "(x, y), has its labels in itself and takes no `y` beside it. "
            f"Received: {given}"
        )
    if len(x) != len(y):
        raise ValueError(
            "`x` and `y` must have the same length. "
            f"Received: {len(x)} images and {len(y)} labels"
        )
    return x, y


def _endless(data):
    return (
        "`x` must come to an end, and this data set repeats itself for ever. Leave out "
        f"`repeat()`, or give it as x.take(number of batches). Received: x={data!r}"
    )


def pairs_of(batches):
    """Batches as pairs of NumPy arrays of some images and as many labels."""
    first = None
    for batch in batches:
        is_pair = isinstance(batch, (tuple, list)) and len(batch) == 2
        if not is_pair or any(each is None or isinstance(each, dict) for each in batch):
            raise ValueError(
                "`x` must give batches that are pairs (x, y) of images and labels. "
                f"Received: {_described(batch)}"
            )
        images, labels = map(ops.convert_to_numpy, batch)
        if not labels.ndim or not images.ndim:
            raise ValueError(
                "`x` must give batches of images, not single ones: use its method "
                f"`batch`. Received: an image of shape {images.shape} and its label"
            )
        if len(labels) != len(images):
            raise ValueError(
                "`x` must give batches of as many images as labels. "
                f"Received: {len(images)} images and {len(labels)} labels"
            )
        if not len(images):
            continue
        first = first or images.shape
        if images.shape[1:] != first[1:]:
            raise ValueError(
                "`x` must have images of one size: evaluate those of each size by "
                f"themselves. Received: batches of shapes {first} and {images.shape}"
            )
        yield images, labels


def _described(batch):
    if isinstance(batch, dict):
        return f"a dictionary of {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        kinds = ", ".join(type(each).__name__ for each in batch[:5])
        return f"a {type(batch).__name__} of {len(batch)} ({kinds})"
    if hasattr(batch, "shape"):
        return f"a {type(batch).__name__} of shape {tuple(batch.shape)}"
    return f"a {type(batch).__name__}"


def _checked(batches):
    for images, labels in pairs_of(batches):
        checks.images(images)
        yield images.astype("float32"), labels


def integer_labels(images, labels, num_classes):
    """The labels as integers of shape `(examples,)`."""
    checks.labels(labels, num_classes)
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        if checks.are_soft(labels, num_classes):
            checks.refuse_soft_labels("`y` holds", "each image is to be of one class.")
        labels = labels.argmax(axis=1)
    return labels.reshape(-1).astype("int64")


def labels_to_watch(images, labels, model):
    """`integer_labels` of images that training is watched on: none is to be mixed."""
    checks.image_shape(model.network, images.shape)
    if checks.are_soft(labels, model.num_classes):
        checks.refuse_soft_labels(
            "`y` holds", "training is watched on images as they are, each of one class."
        )
    return integer_labels(images, labels, model.num_classes)
