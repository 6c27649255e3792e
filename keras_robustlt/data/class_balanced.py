"""A few images of all classes, for what looks at some of them only.

Whatever does so takes the same ones: a class-balanced subset that a seed draws, from
all there are, in whatever order they come.
"""

import numpy as np

from keras_robustlt import checks
from keras_robustlt.data.batches import arrays_of, as_batches, pair_of, pairs_of

NONE_TO_CHOOSE = "`x` has no images to choose from."


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
    x, y = pair_of(x, y)
    if y is not None:
        x, y = arrays_of(x, y)
        if not len(x):
            raise ValueError(NONE_TO_CHOOSE)
        chosen = class_balanced_indices(y, examples, seed)
        return x[chosen], y[chosen]
    subset = ClassBalancedSubset(examples, seed)
    for images, labels in pairs_of(as_batches(x)[0]):
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
        self._generator = np.random.default_rng(checks.integer_seed(seed))
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
    generator = np.random.default_rng(checks.integer_seed(seed))
    labels = np.asarray(labels)
    return _lowest_ranks(labels, generator.random(len(labels)), examples)


def _lowest_ranks(labels, draws, examples):
    """The indices of those with the lowest ranks in their class, in ascending order."""
    checks.label_shape(labels.shape)
    if labels.ndim == 2 and labels.shape[1] > 1:
        labels = labels.argmax(axis=1)
    labels = labels.reshape(-1)
    by_class = np.lexsort((draws, labels))
    first = np.searchsorted(labels[by_class], labels[by_class])
    rank = np.empty(len(labels), int)
    rank[by_class] = np.arange(len(labels)) - first
    return np.sort(np.lexsort((draws, rank))[:examples])
