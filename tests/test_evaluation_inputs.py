"""Which images are looked at where not all are, and in which forms data come."""

import keras
import numpy as np
import pytest
from tiny_models import dense_network

import keras_robustlt as krl
from keras_robustlt.data.batches import Batches
from keras_robustlt.data.class_balanced import (
    ClassBalancedSubset,
    class_balanced_indices,
    class_balanced_subset,
)


def ordered(sizes=(40, 20, 6, 1)):
    """Images that tell their number, and their classes, one after the other."""
    y = np.repeat(np.arange(len(sizes)), sizes)
    return np.arange(len(y), dtype="float32")[:, None] / len(y), y


def batches(x, y, size):
    return [(x[i : i + size], y[i : i + size]) for i in range(0, len(x), size)]


@pytest.mark.parametrize(
    ("examples", "expected"),
    [(4, [1, 1, 1, 1]), (13, [4, 4, 4, 1]), (24, [9, 8, 6, 1]), (99, [40, 20, 6, 1])],
)
def test_subset_is_balanced_whatever_the_order(examples, expected):
    x, y = ordered()
    for order in (slice(None), np.random.default_rng(0).permutation(len(y))):
        images, labels = class_balanced_subset(x[order], y[order], examples)
        assert sorted(np.bincount(labels).tolist()) == sorted(expected)
        np.testing.assert_array_equal(
            y[(images[:, 0] * len(y)).round().astype(int)], labels
        )
        assert np.unique(images).size == len(images)


def test_subset_does_not_depend_on_the_form_of_the_data():
    x, y = ordered()
    expected = class_balanced_subset(x, y, 10, seed=3)
    for size in (1, 7, 100):
        found = class_balanced_subset(iter(batches(x, y, size)), examples=10, seed=3)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    one_hot = class_balanced_subset((x, np.eye(4)[y]), examples=10, seed=3)
    np.testing.assert_array_equal(one_hot[0], expected[0])
    assert one_hot[1].shape == (10, 4)
    chosen = class_balanced_indices(y, 10, seed=3)
    np.testing.assert_array_equal(x[chosen], expected[0])
    other_seed = class_balanced_subset(x, y, 10, seed=4)
    assert np.any(other_seed[0] != expected[0])


def test_subset_keeps_no_more_than_it_needs():
    subset = ClassBalancedSubset(5)
    for images, labels in batches(*ordered(), 8):
        subset.add(images, labels)
        assert len(subset.images) <= 5
    x, _ = ordered()
    np.testing.assert_array_equal(subset.images, x[subset.index])


def test_no_images_to_choose_from():
    with pytest.raises(ValueError, match="has no images to choose from"):
        class_balanced_subset([], examples=3)


def test_diagnosis_and_curve_see_all_classes():
    rng = np.random.default_rng(0)
    x, y = rng.random((60, 6, 6, 3), "float32"), np.repeat([0, 1, 2], 20)
    data = batches(x, y, 10)
    diagnosis = krl.diagnose(
        dense_network(), data, epsilon=0.01, examples=12, starts=2, steps=2, queries=0
    )
    assert diagnosis["examples"] == 12
    assert diagnosis["largest_class"] == pytest.approx(1 / 3)


class Sequence(keras.utils.PyDataset):
    def __init__(self, data, count):
        super().__init__()
        self.data, self.count = data, count

    @property
    def num_batches(self):
        return self.count

    def __getitem__(self, index):
        return self.data[index]


def test_py_datasets():
    rng = np.random.default_rng(0)
    x, y = rng.random((12, 6, 6, 3), "float32"), np.arange(12) % 3
    network = dense_network()
    expected = krl.evaluate(network, x, y, "clean", verbose=0)["clean"]["confusion"]
    data = Sequence(batches(x, y, 5), 3)
    results = krl.evaluate(network, data, attacks="clean", verbose=0)
    assert results["clean"]["confusion"] == expected
    with pytest.raises(ValueError, match="`x` must come to an end"):
        krl.evaluate(network, Sequence([], None), verbose=0)


@pytest.mark.tensorflow
def test_a_data_set_without_end_is_refused_at_once(images):
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices(images).batch(4).repeat()
    for work in (krl.evaluate, krl.diagnose, krl.robustness_curve):
        with pytest.raises(ValueError, match=r"come to an end.*repeat\(\)"):
            work(dense_network(), data)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([{"image": 1, "label": 2}], "pairs .* Received: a dictionary of 'image'"),
        ([(1, 2, 3)], "pairs .* Received: a tuple of 3"),
        ([np.zeros(3)], "pairs .* Received: a ndarray"),
        ([(np.zeros((6, 6, 3), "float32"), 1)], "use its method `batch`"),
        ((np.zeros(3), 1), r"takes no `y`.*of shape \(3,\) and a int"),
        ([(np.zeros(3), None)], r"pairs .* Received: a tuple of 2 \(ndarray, NoneType"),
    ],
)
def test_batches_that_are_none(data, message):
    with pytest.raises(ValueError, match=message):
        krl.evaluate(dense_network(), data, verbose=0)


def test_only_our_model_tells_its_budget(images):
    class Normalized(keras.Sequential):
        epsilon = 1e-6
        class_counts = "none of ours"
        tail_fraction = None

    network = Normalized([keras.Input((6, 6, 3)), *dense_network().layers])
    results = krl.evaluate(network, *images, "fgsm", verbose=0, diagnose=False)
    assert results.settings["epsilon"] == 8 / 255
    assert results.settings["class_counts"] is None
    curve = krl.robustness_curve(network, *images, attack="pgd1", verbose=0)
    assert curve["epsilons"][2] == 8 / 255
    diagnosis = krl.diagnose(network, *images, starts=2, steps=1, queries=0)
    assert diagnosis["epsilon"] == 8 / 255


def test_what_an_attack_does_to_its_arguments_is_not_done_to_the_data(images):
    def spoils(network, x, y, seed=None):
        x[:], y[:] = 0, (y + 1) % 3
        return x

    network = dense_network()
    clean = [
        krl.evaluate(network, *images, attacks=attacks, verbose=0)["clean"]
        for attacks in ({"clean": None}, {"spoils": spoils, "clean": None})
    ]
    assert clean[0] == {**clean[1], "seconds": clean[0]["seconds"]}


def test_images_of_several_sizes_are_refused():
    batches = [(np.zeros((2, n, n, 3), "float32"), np.array([0, 1])) for n in (6, 8)]
    data = Batches(batches)
    with pytest.raises(ValueError, match=r"one size.*\(2, 6, 6, 3\) and \(2, 8, 8, 3"):
        list(data.chunks(2, 2))
