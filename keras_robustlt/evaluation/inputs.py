"""What an evaluation is given, as what it works on: a network, batches and labels.

Whatever looks at some of the images only takes the same ones: a class-balanced subset
that a seed draws, from all there are, in whatever order they come.
"""

import itertools

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.attacks import active_set, gradients
from keras_robustlt.class_names import check as check_class_names
from keras_robustlt.model import RobustLTModel

__all__ = [
    "Batches",
    "ClassBalancedSubset",
    "budget_of",
    "check_weights",
    "class_balanced_indices",
    "class_balanced_subset",
    "class_names_of",
    "network_of",
    "norm_of",
    "num_classes_of",
    "tail_of",
]

EPSILON = 8 / 255
TAIL_FRACTION = 0.8
NONE_TO_CHOOSE = "`x` has no images to choose from."


# The model


class FunctionLayer(keras.Layer):
    """A function as a layer, so that what is compiled for it can be kept."""

    def __init__(self, function):
        super().__init__(dtype="float32", name="function")
        self.function = function
        self.built = True

    def call(self, x, training=False):
        del training
        return self.function(x)


def network_of(model):
    """The Keras layer that gives the logits of `model`."""
    if isinstance(model, RobustLTModel):
        model = model.inference_network
    if isinstance(model, keras.Layer):
        checks.network(model)
        return model
    if not callable(model) or isinstance(model, type):
        raise ValueError(
            "`model` must be a RobustLTModel, a Keras model that gives logits, or a "
            f"function of a batch of images that does. Received: model={model!r}"
        )
    return FunctionLayer(model)


def budget_of(model, epsilon=None, otherwise=EPSILON):
    """`epsilon`, or else that of a `RobustLTModel`, or else the usual one.

    An `epsilon` of another model is something else, such as that of a normalisation.
    """
    if epsilon is not None:
        return epsilon
    return model.epsilon if isinstance(model, RobustLTModel) else otherwise


def norm_of(model):
    """The norm of the budget that `budget_of` gives."""
    if isinstance(model, RobustLTModel):
        return getattr(model.attack, "norm", "linf")
    return "linf"


def tail_of(model, class_counts=None, tail_fraction=None):
    """Training images of each class, or `None`, and the share of classes in the tail.

    What is not given is that of a `RobustLTModel`.
    """
    if isinstance(model, RobustLTModel):
        class_counts = model.class_counts if class_counts is None else class_counts
        tail_fraction = model.tail_fraction if tail_fraction is None else tail_fraction
    if class_counts is not None:
        class_counts = checks.class_counts(class_counts)
    if tail_fraction is None:
        tail_fraction = TAIL_FRACTION
    return class_counts, checks.in_range("tail_fraction", tail_fraction, 0, 1)


def num_classes_of(network, images, class_counts=None):
    """How many logits the network gives, which `class_counts` must fit."""
    check_weights(network)
    logits = gradients.logits_of(network)(ops.convert_to_tensor(images[:1]))
    num_classes = int(logits.shape[1])
    if num_classes < 2:
        raise ValueError(
            "`model` must give a logit for each of at least 2 classes. Two classes "
            "need two outputs: Dense(2) without an activation, and labels 0 and 1. "
            f"Received: {num_classes} output(s)"
        )
    if class_counts is not None and len(class_counts) != num_classes:
        raise ValueError(
            f"`class_counts` must have {num_classes} entries, as many as the network "
            f"has outputs. Received: {class_counts.tolist()}"
        )
    return num_classes


def check_weights(network):
    """Raises if the network has weights that are no finite numbers."""
    for variable in network.weights:
        value = ops.convert_to_numpy(ops.cast(variable, "float32"))
        if not np.isfinite(value).all():
            raise ValueError(
                "`model` must have weights that are finite numbers: its training has "
                "diverged. Take weights from before, or train with a lower learning "
                f"rate. Received: {variable.path!r} with "
                f"{int(np.sum(~np.isfinite(value)))} of {value.size} values that are "
                "infinite or no numbers (NaN)"
            )


def class_names_of(class_names, num_classes):
    """`class_names` as a list of strings; the indices of the classes without any."""
    names = range(num_classes) if class_names is None else class_names
    check_class_names(names)
    names = [str(name) for name in names]
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must have {num_classes} names, as many as the network has "
            f"outputs. Received: {names!r}"
        )
    return names


# The data


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
        while batches := list(itertools.islice(self._batches, per_chunk)):
            batches = [(x, integer_labels(x, y, num_classes)) for x, y in batches]
            for x, _ in batches:
                if x.shape[1:] != self.first.shape[1:]:
                    raise ValueError(
                        "`x` must have images of one size: evaluate those of each "
                        "size by themselves. Received: batches of shapes "
                        f"{self.first.shape} and {x.shape}"
                    )
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
    x, y = _pair(x, y)
    if y is not None:
        x, y = _arrays(x, y)
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


def _pair(x, y):
    return x if y is None and isinstance(x, tuple) and len(x) == 2 else (x, y)


def _arrays(x, y):
    x, y = np.asarray(x), np.asarray(y)
    if not x.ndim or not y.ndim:
        raise ValueError(
            "`x` and `y` must be arrays of images and of labels. "
            f"Received: arrays of shapes {x.shape} and {y.shape}"
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


def _pairs(batches):
    """Batches as pairs of NumPy arrays of some images and as many labels."""
    for batch in batches:
        if not isinstance(batch, (tuple, list)) or len(batch) != 2:
            raise ValueError(
                "`x` must give batches that are pairs (x, y) of images and labels. "
                f"Received: {_described(batch)}"
            )
        images, labels = map(ops.convert_to_numpy, batch)
        if not labels.ndim:
            raise ValueError(
                "`x` must give batches of images, not single ones: use its method "
                f"`batch`. Received: an image of shape {images.shape} and its label"
            )
        if len(labels) != len(images):
            raise ValueError(
                "`x` must give batches of as many images as labels. "
                f"Received: {len(images)} images and {len(labels)} labels"
            )
        if len(images):
            yield images, labels


def _described(batch):
    if isinstance(batch, dict):
        return f"a dictionary of {', '.join(map(repr, batch))}"
    if isinstance(batch, (tuple, list)):
        return f"a {type(batch).__name__} of {len(batch)}"
    return f"a {type(batch).__name__}"


def _checked(batches):
    for images, labels in _pairs(batches):
        checks.images(images)
        yield images.astype("float32"), labels


def integer_labels(images, labels, num_classes):
    """The labels as integers of shape `(examples,)`."""
    checks.labels(labels, num_classes)
    if labels.ndim == 2 and labels.shape[1] == num_classes:
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


# Some of the data


def class_balanced_subset(x, y=None, examples=100, seed=0):
    """Images drawn from all classes as evenly as they come, as arrays.

    Classes have equally many, or one more than others, as far as there are images. The
    same data give the same images as arrays and in batches of whatever size. At no
    time are more in memory than these and a batch.

    Args:
        x: See `evaluate`.
        y: See `evaluate`.
        examples: Integer: how many images, if there are so many. Defaults to `100`.
        seed: Integer. Defaults to `0`.

    Returns:
        A pair of arrays: the images, and their labels, both as they come and in the
        order in which they come.

    Raises:
        ValueError: If there are no images, or `x` and `y` do not fit.
    """
    x, y = _pair(x, y)
    if y is not None:
        x, y = _arrays(x, y)
        if not len(x):
            raise ValueError(NONE_TO_CHOOSE)
        chosen = class_balanced_indices(y, examples, seed)
        return x[chosen], y[chosen]
    subset = ClassBalancedSubset(examples, seed)
    for images, labels in _pairs(as_batches(x)[0]):
        subset.add(images, labels)
    return subset.images, subset.labels


class ClassBalancedSubset:
    """The images of `class_balanced_subset`, of those that were added so far.

    Each image draws a number. Within its class it has a rank by that number, and those
    with the lowest ranks are in. As images come, ranks only rise, so that an image
    that is out stays so.

    Attributes:
        images: Array.
        labels: Array, in the form in which they were added.
        index: Int64 array: which of all images these are, in ascending order.
    """

    def __init__(self, examples, seed=0):
        self.examples = checks.positive_integer("examples", examples)
        self._generator = np.random.default_rng(active_set.integer_seed(seed))
        self._added = 0
        self._kept = None

    def add(self, images, labels):
        """Takes a batch of NumPy arrays into account."""
        index = self._added + np.arange(len(images))
        self._added += len(images)
        new = images, labels, index, self._generator.random(len(images))
        kept = self._kept or [array[:0] for array in new]
        labels, draws = (np.concatenate([kept[i], new[i]]) for i in (1, 3))
        chosen = _lowest_ranks(labels, draws, self.examples)
        stay, come = np.split(chosen, [np.searchsorted(chosen, len(kept[1]))])
        come = come - len(kept[1])
        # Only what is chosen is copied: batches may be large.
        pairs = zip(kept, new, strict=True)
        self._kept = [np.concatenate([old[stay], add[come]]) for old, add in pairs]

    @property
    def images(self):
        return self._array(0)

    @property
    def labels(self):
        return self._array(1)

    @property
    def index(self):
        return self._array(2)

    def _array(self, number):
        if self._kept is None:
            raise ValueError(NONE_TO_CHOOSE)
        return self._kept[number]


def class_balanced_indices(labels, examples, seed=0):
    """Where in an array of `labels` the images of `class_balanced_subset` are."""
    examples = checks.positive_integer("examples", examples)
    generator = np.random.default_rng(active_set.integer_seed(seed))
    labels = np.asarray(labels)
    return _lowest_ranks(labels, generator.random(len(labels)), examples)


def _lowest_ranks(labels, draws, examples):
    """The indices of those with the lowest ranks in their class, in ascending order."""
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1)
    by_class = np.lexsort((draws, labels))
    first = np.searchsorted(labels[by_class], labels[by_class])
    rank = np.empty(len(labels), int)
    rank[by_class] = np.arange(len(labels)) - first
    return np.sort(np.lexsort((draws, rank))[:examples])
