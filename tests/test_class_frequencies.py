"""Labels that contradict `class_counts` are noticed, and honest sampling is not."""

import collections
import warnings

import numpy as np
import pytest
from tiny_models import FIT, ONE_EPOCH, dense_network, tiny_model

import keras_robustlt as krl
from keras_robustlt import checks
from keras_robustlt.class_frequencies import check_split, compare

COUNTS = np.array([40, 20, 10, 6])


def long_tail(classes, largest, imbalance):
    share = np.arange(classes) / (classes - 1)
    return np.maximum(1, largest * imbalance**-share).astype(int)


def alarms(counts, seen, **given):
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        compare(counts, seen, **given)
    return [str(warning.message) for warning in heard]


@pytest.mark.parametrize(
    "classes, largest", [(2, 500), (4, 40), (10, 5000), (100, 500)]
)
@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_subsets_and_balanced_sampling_are_in_order(classes, largest, power):
    rng = np.random.default_rng(0)
    counts = long_tail(classes, largest, 10)
    weights = counts**power / np.sum(counts**power)
    for images in (16, 128, counts.sum() // 2, 5 * counts.sum()):
        for _ in range(20):
            seen = rng.multinomial(images, weights)
            assert not alarms(counts, seen)
            assert not alarms(counts, 1000 * seen)  # a few batches, repeated


def test_other_orders_are_noticed():
    rng = np.random.default_rng(0)
    for counts in (long_tail(10, 500, 50), long_tail(100, 500, 100)):
        for order in (np.arange(len(counts))[::-1], rng.permutation(len(counts))):
            part = rng.multinomial(counts.sum() // 2, counts[order] / counts.sum())
            assert "contradict each other" in alarms(counts, part)[0]
            for times in (1, 3):
                with pytest.raises(ValueError, match="in another order than the label"):
                    compare(counts, times * counts[order])


def test_a_class_that_is_never_seen():
    seen = [401, 0, 100, 60]
    assert "no label of class [1], of which" in alarms(10 * COUNTS, seen)[0]
    assert not alarms(COUNTS, [8, 4, 2, 0])  # it may be chance
    found = alarms(COUNTS, [8, 4, 2, 0], are_all=True)
    assert "no label of class [3], of which" in found[0]


def test_arrays_of_which_the_counts_say_something_else():
    even = np.array([100, 100])
    assert "what they are not" in alarms(even, [190, 10], are_all=True)[0]
    assert not alarms(even, [190, 10])  # of a data set, that may sample so
    # Balanced sampling, and few images.
    assert not alarms(np.array([190, 10]), [100, 100], are_all=True)
    assert not alarms(even, [4, 2], are_all=True)


def test_arrays_in_another_order(images):
    x, _ = images
    y = np.repeat([2, 0, 1], [8, 3, 1])
    with pytest.raises(ValueError, match="class 0: 8 by `class_counts`, 3 seen"):
        tiny_model().fit(x, y, epochs=2, **FIT)


@pytest.mark.tensorflow
@pytest.mark.parametrize("validate", [False, True])
def test_data_sets_in_another_order(images, validate):
    import tensorflow as tf

    x, _ = images
    data = tf.data.Dataset.from_tensor_slices((x, np.repeat([2, 0, 1], [8, 3, 1])))
    model = tiny_model()
    with pytest.raises(ValueError, match="class 0: 8 by `class_counts`, 3 seen"):
        model.fit(
            data.batch(4),
            epochs=3,
            shuffle=False,
            verbose=0,
            validation_data=images if validate else None,
        )
    assert int(model.optimizer.iterations) == 3  # after the first epoch


class Series:
    """What matters of a pandas Series: names of the entries, in an order of its own."""

    def __init__(self, entries, index):
        self.entries, self.index = entries, index

    def __len__(self):
        return len(self.entries)

    def items(self):
        return zip(self.index, self.entries, strict=True)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.entries, dtype)


@pytest.mark.parametrize(
    "counts",
    [
        Series([40, 20, 10, 6], [2, 0, 3, 1]),
        Series(np.array([20, 6, 40, 10]), np.arange(4)),
        collections.Counter({2: 40, 0: 20, 3: 10, 1: 6}),
        {np.int64(3): 10, 1.0: 6, 0: 20, 2: 40},
    ],
)
def test_counts_with_their_classes(counts):
    assert checks.class_counts(counts).tolist() == [20, 6, 40, 10]


@pytest.mark.parametrize("names", [["a", "b", "c"], [1, 2, 3], [0, 1, 1], [0, (1,), 2]])
def test_counts_with_other_names(names):
    with pytest.raises(ValueError, match="must have the classes 0, 1, .*Received keys"):
        checks.class_counts(Series([8, 3, 1], names))


def test_validation_split_of_images_in_the_order_of_their_classes(images):
    x, _ = images
    y = np.repeat([0, 1, 2], [6, 3, 3])
    model = tiny_model(class_counts=[6, 3, 3])
    with pytest.raises(ValueError, match=r"class \[2\] alone, and training.* \[2\]"):
        model.fit(x, y, validation_split=0.25, **FIT)
    with pytest.warns(UserWarning, match=r"all those of class \[2\]: training"):
        check_split(np.array([0, 1, 1, 0, 1, 0, 2, 0]), 0.25)
    check_split(np.arange(12) % 3, 0.25)


@ONE_EPOCH
def test_classes_that_validation_leaves_out(images):
    x, y = images
    model = tiny_model()
    for data in ((x[y > 0], y[y > 0]), (x[y == 2], y[y == 2])):
        with pytest.warns(UserWarning, match=r"`validation_data` has no .*class \[0"):
            model.fit(x, y, validation_data=data, **FIT)
    with pytest.warns(UserWarning, match=r"`evaluate` is given has no .*class \[0\]"):
        model.evaluate(x[y > 0], y[y > 0], verbose=0)
    model.evaluate(x[y == 2], y[y == 2], verbose=0)  # one class, chosen on purpose


@ONE_EPOCH
def test_two_classes(images):
    x, _ = images
    labels = np.arange(12) % 2 == 1
    model = tiny_model(dense_network(2), [8, 4])
    model.fit(x, labels, validation_data=(x, labels), **FIT)
    with pytest.raises(ValueError, match="Received dtype bool"):
        tiny_model().fit(x, labels, **FIT)


def test_reversed_sampling_is_said_to_be_so():
    text = alarms(COUNTS, [60, 110, 190, 401])[0]
    assert "class 0: 40 by `class_counts`, 60 seen" in text


def test_data_of_the_package_fit_their_counts():
    train, test, counts = krl.data.long_tail("digits", 10, augmentation="none")
    labels = np.concatenate([np.asarray(y) for _, y in train])
    labels = labels.argmax(-1) if labels.ndim == 2 else labels
    compare(counts, np.bincount(labels, minlength=10))
