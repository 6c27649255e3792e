import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_robustlt import backend
from keras_robustlt.losses import balanced_softmax, cross_entropy, margin, one_hot

logits_arrays = hnp.arrays("float32", (4, 3), elements=st.floats(-20, 20, width=32))
few = settings(max_examples=20, deadline=None)
TARGETS = np.eye(3, dtype="float32")[[0, 2, 1, 0]]


def gradient(loss, logits):
    logits = keras.ops.convert_to_tensor(np.asarray(logits, "float32"))
    return backend.gradient(lambda z: keras.ops.sum(loss(z)), logits)


def softmax(logits):
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)


def test_one_hot():
    expected = [[0, 1, 0], [0, 0, 1]]
    for labels in ([1, 2], [[1], [2]], [1.0, 2.0], np.uint8([1, 2]), expected):
        actual = one_hot(np.asarray(labels), 3)
        np.testing.assert_array_equal(actual, expected)
        assert keras.backend.standardize_dtype(actual.dtype) == "float32"
    # Soft labels pass as they are.
    np.testing.assert_allclose(one_hot([[0.9, 0.1]], 2), [[0.9, 0.1]])


def test_cross_entropy_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).astype("float32")
    actual = cross_entropy([[1, 0, 0], [0, 1, 0]], logits)
    np.testing.assert_allclose(actual, [np.log(2), np.log(5)], 1e-6)
    # (1 - s) -log p_y + s mean(-log p)
    smooth = cross_entropy([[1, 0, 0]], logits[:1], label_smoothing=0.3)
    expected = 0.7 * np.log(2) + 0.3 * (np.log(2) + 2 * np.log(4)) / 3
    np.testing.assert_allclose(smooth, [expected], 1e-6)


def test_cross_entropy_of_large_logits_is_finite():
    actual = cross_entropy([[1.0, 0.0], [0.0, 1.0]], [[1e4, -1e4], [1e4, -1e4]])
    np.testing.assert_allclose(actual, [0, 2e4])


def test_losses_compute_in_float32():
    logits = keras.ops.cast([[3.0, 1.0]], "bfloat16")
    targets = [[1.0, 0.0]]
    np.testing.assert_allclose(cross_entropy(targets, logits), [0.126928], 1e-5)
    np.testing.assert_allclose(margin(one_hot([0], 2), logits), [-2])


@few
@given(logits_arrays)
def test_gradient_of_the_cross_entropy(logits):
    actual = gradient(lambda z: cross_entropy(TARGETS, z), logits)
    np.testing.assert_allclose(actual, softmax(logits) - TARGETS, atol=1e-5)


def test_balanced_softmax_by_hand():
    # Equal logits: the probabilities are the class shares.
    counts = [60, 30, 10]
    actual = balanced_softmax(np.eye(3), np.zeros((3, 3)), counts)
    np.testing.assert_allclose(actual, -np.log([0.6, 0.3, 0.1]), 1e-5)


@few
@given(logits_arrays)
def test_balanced_softmax_is_cross_entropy_of_shifted_logits(logits):
    counts = np.array([60, 30, 10])
    for tau in (0.0, 0.5, 1.0):
        shifted = logits + tau * np.log(counts)
        actual = balanced_softmax(TARGETS, logits, counts, tau)
        expected = -np.sum(TARGETS * np.log(softmax(shifted) + 1e-30), axis=1)
        np.testing.assert_allclose(actual, expected, 1e-4, 1e-4)
        slope = gradient(
            lambda z, t=tau: balanced_softmax(TARGETS, z, counts, t), logits
        )
        np.testing.assert_allclose(slope, softmax(shifted) - TARGETS, atol=1e-5)
    even = balanced_softmax(TARGETS, logits, [7, 7, 7])
    np.testing.assert_allclose(even, cross_entropy(TARGETS, logits), 1e-4, 1e-4)


def test_margin_by_hand():
    logits = np.array([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5]], "float32")
    targets = np.eye(3, dtype="float32")[[0, 1]]
    np.testing.assert_allclose(margin(targets, logits), [-0.5, 0.0], atol=1e-6)
    slope = gradient(lambda z: margin(targets, z), logits)
    # Towards the strongest other class; nothing once it is misclassified.
    np.testing.assert_array_equal(slope, [[-1, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize("loss", [cross_entropy, margin])
def test_one_value_for_each_example(loss):
    logits = np.random.default_rng(0).normal(size=(4, 3)).astype("float32")
    together = loss(TARGETS, logits)
    assert together.shape == (4,)
    for index in range(4):
        alone = loss(TARGETS[index : index + 1], logits[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], 1e-6)
