"""Attacks on networks that compute in half precision find what they find in float32."""

import functools

import keras
import numpy as np
import pytest
from tiny_models import tiny_model

import keras_robustlt as krl
from keras_robustlt.attacks import APGD, FAB, FGSM, PGD, gradients

ATTACKS = {
    "pgd": PGD(0.03, steps=4),
    "pgd-l2": PGD(0.25, steps=4, norm="l2"),
    "training": functools.partial(PGD(0.03, steps=4), training=True),
    "fgsm": FGSM(0.03),
    "cw": PGD(0.03, steps=4, loss="margin"),
    "apgd": APGD(0.03, steps=4),
    "fab": FAB(0.03, steps=4, targets=1),
}


def untrained(dtype, head=None):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Flatten(dtype=dtype),
            layers.Dense(32, activation="relu", use_bias=False, dtype=dtype),
            layers.Dense(4, use_bias=False, dtype=head or dtype),
        ]
    )


def logits_of(network, x):
    return keras.ops.convert_to_numpy(keras.ops.cast(network(x), "float32"))


@pytest.fixture(scope="module")
def problem():
    """Images, the classes that a network takes them for, and its weights.

    It is so sure of most of them that float16 cannot hold the gradients of their
    cross-entropies.
    """
    rng = np.random.default_rng(0)
    x = rng.random((60, 6, 6, 3), "float32")
    first, last = rng.normal(size=(108, 32)), rng.normal(size=(32, 4))
    features = np.maximum(x.reshape(60, 108) @ first, 0)
    # No class is the choice for all.
    mean = features.mean(axis=0, keepdims=True)
    last -= mean.T @ (mean @ last) / np.sum(mean**2)
    network = untrained("float32")
    network.set_weights([first, 4 * last])
    logits = logits_of(network, x)
    second, first = np.sort(logits, axis=1)[:, -2:].T
    assert np.median(first - second) > 25
    return x, logits.argmax(axis=1), network


def right(network, attack, x, y):
    """Which images are still right after the attack."""
    x_adv = keras.ops.convert_to_numpy(attack(network, x, y, seed=0))
    return logits_of(network, x_adv).argmax(axis=1) == y


def in_precision(reference, dtype, head=None):
    network = untrained(dtype, head)
    network.set_weights(reference.get_weights())
    return network


@pytest.mark.parametrize("name", ATTACKS)
def test_what_float16_finds(problem, name):
    x, y, reference = problem
    expected = right(reference, ATTACKS[name], x, y)
    assert 10 < expected.sum() < 30
    network = in_precision(reference, "mixed_float16")
    found = right(network, ATTACKS[name], x, y)
    assert np.sum(found != expected) <= 2


@pytest.mark.parametrize(
    ("dtype", "head"),
    [("mixed_float16", "float32"), ("float16", None), ("mixed_bfloat16", None)],
)
def test_half_precisions(problem, dtype, head):
    x, y, reference = problem
    network = in_precision(reference, dtype, head)
    # In a block, and as a function that does not say what it computes in.
    block = keras.Sequential([keras.Input((6, 6, 3)), network], name="block")
    expected = right(reference, ATTACKS["pgd"], x, y)
    for victim in (network, block, lambda x: network(x)):
        assert np.sum(right(victim, ATTACKS["pgd"], x, y) != expected) <= 3


def test_gradients_of_float16_are_those_of_float32(problem):
    x, y, reference = problem
    x = keras.ops.convert_to_tensor(x)
    found = []
    for dtype in ("float32", "mixed_float16"):
        network = in_precision(reference, dtype)
        gradient_of = gradients.gradient_of(network)
        gradient, values, logits = gradient_of(
            lambda z: krl.losses.cross_entropy(krl.losses.one_hot(y, 4), z), x
        )
        np.testing.assert_allclose(logits, logits_of(reference, x), 0.01, 0.2)
        assert tuple(values.shape) == (60,)
        found.append(keras.ops.convert_to_numpy(gradient).reshape(60, -1))
    sizes = [np.linalg.norm(gradient, axis=1) for gradient in found]
    held = sizes[0] > 0  # float32 cannot hold that of logits 90 apart
    np.testing.assert_array_equal(sizes[1] > 0, held)
    assert sizes[0][held].min() < 1e-20
    first, second = (g[held] / s[held, None] for g, s in zip(found, sizes, strict=True))
    # The logits are rounded, so that the sizes differ; the directions do not.
    assert np.sum(first * second, axis=1).min() > 0.99


def test_training_in_float16(problem):
    x, y, reference = problem
    network = in_precision(reference, "mixed_float16")
    attack = PGD(0.03, steps=8)
    model = tiny_model(
        network, [20, 20, 10, 10], epsilon=0.03, attack=attack, alpha=0.0, beta=0.0
    )
    images, *_ = model.training_batch((x, y))
    moved = np.abs(keras.ops.convert_to_numpy(images["adversarial"]) - x)
    # Hardly one was left at its random start, which is inside the ball.
    assert np.sum(np.mean(moved > 0.99 * 0.03, axis=(1, 2, 3)) > 0.6) > 50


def test_deep_inside_a_network_is_float16():
    class Block(keras.layers.Layer):
        def __init__(self, dtype):
            super().__init__()
            self.inner = [keras.layers.Dense(2, dtype=dtype)]

    for dtype in ("float32", "float16", "mixed_float16", "bfloat16"):
        network = keras.Sequential([keras.layers.Flatten(), Block(dtype)])
        expected = dtype.endswith("float16") and "b" not in dtype
        assert gradients.computes_in_float16(network) is expected, (
            "Keras keeps layers in another way: see `computes_in_float16`"
        )


@pytest.mark.parametrize("cut", [keras.ops.round, keras.ops.stop_gradient])
def test_a_layer_that_cuts_the_gradient(images, cut):
    """The attack stays where it started, on every backend."""
    x, y = images
    network = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Lambda(cut),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    y = keras.ops.convert_to_numpy(network(x)).argmax(axis=1)
    with pytest.warns(UserWarning, match="has left all 12 images where it started"):
        np.testing.assert_array_equal(FGSM(0.1)(network, x, y), x)
    assert APGD(0.1, steps=2)(network, x, y, seed=0).shape == x.shape
