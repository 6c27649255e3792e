import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_robustlt as krl
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


COUNTS = np.array([160, 32, 10])


def numeric_gradient(loss, logits, step=1e-2):
    """Differences of the sum of a loss, entry by entry."""
    slopes = np.zeros(logits.shape)
    for index in np.ndindex(*logits.shape):
        moved = np.zeros(logits.shape, "float32")
        moved[index] = step
        difference = np.float64(loss(logits + moved)) - np.float64(loss(logits - moved))
        slopes[index] = difference.sum() / (2 * step)
    return slopes


LONG_TAIL_LOSSES = {
    "ldam": lambda t, z: krl.losses.ldam(t, z, COUNTS, scale=2.0),
    "focal": krl.losses.focal,
    "class_balanced": lambda t, z: krl.losses.class_balanced(t, z, COUNTS, 0.99),
    "logit_adjusted": lambda t, z: krl.losses.logit_adjusted(t, z, COUNTS),
}


@pytest.mark.parametrize("name", LONG_TAIL_LOSSES)
def test_gradients_of_the_long_tail_losses(name):
    loss = LONG_TAIL_LOSSES[name]
    logits = np.random.default_rng(1).normal(size=(4, 3)).astype("float32")
    slope = gradient(lambda z: loss(TARGETS, z), logits)
    expected = numeric_gradient(lambda z: loss(TARGETS, z), logits)
    np.testing.assert_allclose(slope, expected, atol=2e-3)
    # Also where the network is sure, rightly or wrongly.
    sure = 500 * np.float32([[1, 0, 0], [0, 0, 1], [0, 0, 1], [0, 1, 0]])
    assert np.all(np.isfinite(gradient(lambda z: loss(TARGETS, z), sure)))
    assert np.all(np.isfinite(keras.ops.convert_to_numpy(loss(TARGETS, sure))))


def test_ldam_by_hand():
    margins = krl.losses.label_distribution_margins([160, 10, 160 * 81], 0.6)
    np.testing.assert_allclose(margins, [0.3, 0.6, 0.1], 1e-3, 1e-3)
    logits = np.float32([[0.9, 0.1, 0.0]])
    actual = krl.losses.ldam([[1, 0, 0]], logits, [160, 10, 10], 0.6, scale=5.0)
    shifted = 5 * np.array([0.9 - 0.3, 0.1, 0.0])
    expected = -np.log(np.exp(shifted[0]) / np.exp(shifted).sum())
    np.testing.assert_allclose(actual, [expected], 1e-5)


def test_focal_by_hand():
    logits = np.log(np.float32([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]))
    targets = np.eye(3)[[0, 2]]
    actual = krl.losses.focal(targets, logits, gamma=2.0)
    expected = [0.25 * np.log(2), 0.09 * -np.log(0.7)]
    np.testing.assert_allclose(actual, expected, 1e-5)
    plain = krl.losses.focal(targets, logits, gamma=0.0)
    np.testing.assert_allclose(plain, cross_entropy(targets, logits), 1e-6)
    half = gradient(lambda z: krl.losses.focal([[1.0, 0]], z, 0.5), [[400.0, 0.0]])
    assert np.all(np.isfinite(half))


def test_class_balanced_by_hand():
    # Effective numbers 1 + 0.9 + 0.81 and 1.
    weights = krl.losses.effective_number_weights([3, 1], beta=0.9)
    expected = np.array([1 / 2.71, 1.0])
    np.testing.assert_allclose(weights, 2 * expected / expected.sum(), 1e-6)
    targets, logits = np.eye(2), np.log(np.float32([[0.5, 0.5], [0.75, 0.25]]))
    actual = krl.losses.class_balanced(targets, logits, [3, 1], beta=0.9)
    np.testing.assert_allclose(actual, weights * np.log([2, 4]), 1e-5)
    equal = krl.losses.effective_number_weights([3, 1], beta=0.0)
    np.testing.assert_array_equal(equal, [1, 1])
    inverse = krl.losses.effective_number_weights([300, 100], beta=1 - 1e-9)
    np.testing.assert_allclose(inverse, [0.5, 1.5], 1e-5)


def test_logit_adjustment_is_the_balanced_softmax():
    logits = np.random.default_rng(2).normal(size=(4, 3)).astype("float32")
    shares = COUNTS / COUNTS.sum()
    expected = cross_entropy(TARGETS, logits + 1.5 * np.log(shares))
    actual = krl.losses.logit_adjusted(TARGETS, logits, COUNTS, tau=1.5)
    np.testing.assert_allclose(actual, expected, 1e-5)
    assert isinstance(krl.methods.get("logit_adjusted", tau=1.5), krl.methods.ATBSL)


@pytest.mark.parametrize(
    "matrix",
    [
        np.random.default_rng(0).normal(size=(7, 3)),
        np.random.default_rng(1).normal(size=(3, 7)),
        np.outer([1.0, -2.0, 0.0, 3.0], [1.0, 0.5, -1.0]),  # of rank 1
        np.eye(4)[:, :3] * -2.0,  # equal singular values
        np.zeros((4, 3)),
    ],
)
def test_shares_of_the_nuclear_norm(matrix):
    shares = keras.ops.convert_to_numpy(krl.losses.nuclear_norm_shares(matrix))
    u, singular, v = np.linalg.svd(matrix, full_matrices=False)
    np.testing.assert_allclose(shares.sum(), singular.sum(), rtol=1e-5)
    polar = (u * (singular > 1e-9)) @ v
    np.testing.assert_allclose(shares, np.sum(matrix * polar, axis=1), atol=1e-5)
    assert np.all(shares >= -1e-6)
    slope = backend.gradient(
        lambda d: keras.ops.sum(krl.losses.nuclear_norm_shares(d)),
        keras.ops.convert_to_tensor(matrix.astype("float32")),
    )
    np.testing.assert_allclose(slope, polar, atol=1e-5)


@pytest.mark.parametrize("name", ["ldam", "focal", "class_balanced"])
def test_methods_of_the_long_tail_losses(name):
    method = krl.methods.get(name)

    class Model:
        class_counts, network = COUNTS, None

    method.build(Model)
    logits = np.random.default_rng(3).normal(size=(4, 3)).astype("float32")
    # Criteria of `compile` take the place of the cross-entropy, which is the default.
    actual = method.loss(TARGETS, {"adversarial": logits}, cross_entropy)
    counts = () if name == "focal" else (COUNTS,)
    options = method.get_config()
    expected = getattr(krl.losses, name)(TARGETS, logits, *counts, **options)
    np.testing.assert_allclose(actual, expected, 1e-5)


@pytest.mark.parametrize(
    ("loss", "arguments", "argument"),
    [
        ("cross_entropy", {"label_smoothing": 2}, "label_smoothing"),
        ("balanced_softmax", {"class_counts": [5, 3]}, "class_counts"),
        ("balanced_softmax", {"class_counts": [5, 3, 0]}, "class_counts"),
        ("logit_adjusted", {"class_counts": [5, 3, 1], "tau": "1"}, "tau"),
        ("ldam", {"class_counts": [5, 3, 1], "max_margin": -1}, "max_margin"),
        ("ldam", {"class_counts": [5, 3, 1], "scale": 0}, "scale"),
        ("ldam", {"class_counts": [5, 3, np.nan]}, "class_counts"),
        ("focal", {"gamma": -1}, "gamma"),
        ("class_balanced", {"class_counts": [5, 3, 1], "beta": 1}, "beta"),
        ("class_balanced", {"class_counts": "531"}, "class_counts"),
    ],
)
def test_settings_that_make_no_loss(loss, arguments, argument):
    with pytest.raises(ValueError, match=f"`{argument}` must"):
        getattr(krl.losses, loss)(np.eye(3), np.zeros((3, 3), "float32"), **arguments)
