"""Augmentation inside the training step beside the same in `tf.data`."""

import functools

import keras
import numpy as np
import pytest

from keras_robustlt.backend import compiled
from keras_robustlt.data import AUGMENTATIONS, on_device
from keras_robustlt.data.augmentation import get_augmentation

SHAPE = (20, 24, 3)
COUNT = 128


def smooth_images(count, seed=0):
    """Coloured waves: many grey levels, edges and flat parts."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[: SHAPE[0], : SHAPE[1]]
    frequency = rng.uniform(-0.4, 0.4, (2, count, 1, 1, 3))
    phase = rng.uniform(0, 6, (count, 1, 1, 3))
    waves = np.sin(
        frequency[0] * rows[..., None] + frequency[1] * columns[..., None] + phase
    )
    return np.clip(140 + 150 * waves, 0, 255).astype("uint8")


@functools.cache
def on_device_compiled(name):
    return compiled(on_device(name, SHAPE), [])


def run(function, images, draws):
    images = keras.ops.convert_to_tensor(images.astype("float32") / 255)
    draws = keras.ops.convert_to_tensor(draws)
    return keras.ops.convert_to_numpy(function(images, draws))


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow_on_jax] * (name == "aua"))
        for name in AUGMENTATIONS
    ],
)
def test_same_draws_give_the_images_of_tf_data(name):
    tf = pytest.importorskip("tensorflow")
    images = smooth_images(COUNT)
    augment = on_device(name, SHAPE)
    assert augment.num_draws == AUGMENTATIONS[name].num_draws
    draws = np.random.default_rng(1).random((COUNT, augment.num_draws), "float32")
    arrays = tf.data.Dataset.from_tensors((images, draws))
    (expected,) = arrays.map(get_augmentation(name, SHAPE)).as_numpy_iterator()
    out = run(on_device_compiled(name), images, draws)
    assert out.dtype == np.float32
    assert out.shape == expected.shape
    assert out.min() >= 0
    assert out.max() <= 1
    levels = np.round(255 * out)
    # Grey levels over 255, up to one rounding of float32.
    np.testing.assert_allclose(255 * out, levels, atol=2e-5)
    # A continuous angle can round to the other of two neighbouring steps of 1/65536.
    assert (levels != expected).mean() <= (1e-4 if name == "base_rotation" else 0)


@pytest.mark.parametrize("name", ["base_rotation", "aua", "ra"])
def test_images_do_not_mix(name):
    images, num_draws = smooth_images(COUNT), AUGMENTATIONS[name].num_draws
    draws = np.random.default_rng(3).random((COUNT, num_draws), "float32")
    together = run(on_device_compiled(name), images, draws)
    # The first half in another place, among other images with other draws.
    moved = np.roll(np.arange(COUNT), COUNT // 4)
    others = COUNT // 2
    images[others:], draws[others:] = smooth_images(others, seed=7), draws[:others]
    out = run(on_device_compiled(name), images[moved], draws[moved])
    assert (out[moved < others] == together[moved[moved < others]]).all()


@pytest.mark.parametrize("name", ["none", "base", "base_rotation"])
def test_moves_keep_floats_as_they_are(name):
    # Not on the scale of 256 grey levels.
    image = np.full((1, *SHAPE), 0.1234567, "float32")
    augment = on_device(name, SHAPE)
    draws = keras.ops.full((1, augment.num_draws), 0.3)
    out = keras.ops.convert_to_numpy(augment(keras.ops.convert_to_tensor(image), draws))
    assert set(np.unique(out)) <= {np.float32(0), np.float32(0.1234567)}


def test_operations_need_grey_levels():
    image = keras.ops.full((1, *SHAPE), 100.4 / 255)
    draws = keras.ops.full((1, 7), 0.0)  # twice the identity
    out = keras.ops.convert_to_numpy(on_device("ra", SHAPE)(image, draws))
    np.testing.assert_allclose(out.max(), 100 / 255, rtol=1e-6)


def test_half_precision_images_are_augmented_in_float32():
    augment = on_device("base", SHAPE)
    image = keras.ops.full((1, *SHAPE), 0.5, dtype="bfloat16")
    out = augment(image, keras.ops.full((1, 3), 0.5))
    assert keras.backend.standardize_dtype(out.dtype) == "float32"


@pytest.mark.tensorflow
def test_batch_of_unknown_size():
    tf = pytest.importorskip("tensorflow")
    augment = on_device("ra", SHAPE)
    spec = tf.TensorSpec([None, *SHAPE]), tf.TensorSpec([None, augment.num_draws])
    function = tf.function(augment, input_signature=spec)
    for count in (5, 3):
        draws = tf.random.uniform([count, augment.num_draws])
        assert run(function, smooth_images(count), draws).shape == (count, *SHAPE)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_xla_on_tensorflow():
    tf = pytest.importorskip("tensorflow")
    images = smooth_images(64)
    augment = on_device("ra", SHAPE)
    draws = np.random.default_rng(1).random((64, augment.num_draws), "float32")
    function = tf.function(augment, jit_compile=True)
    expected = get_augmentation("ra", SHAPE)(tf.constant(images), draws)
    assert (np.round(255 * run(function, images, draws)) == expected.numpy()).all()


@pytest.mark.parametrize(
    "images, draws, message",
    [
        (np.zeros((2, *SHAPE), "uint8"), np.zeros((2, 3)), "floating-point images"),
        (None, np.zeros((2, 3)), "`images` must hold the images alone"),
        (np.zeros((2, 20, 24, 1)), np.zeros((2, 3)), "`images` must hold numbers"),
        (np.zeros((2, *SHAPE)), np.zeros((1, 3)), r"`draws` must .* shape \(2, 3\)"),
        (np.zeros((2, *SHAPE)), None, "`draws` must hold numbers"),
    ],
)
def test_what_is_no_batch(images, draws, message):
    with pytest.raises(ValueError, match=message):
        on_device("base", SHAPE)(images, draws)


def test_what_does_not_suit_the_images():
    with pytest.raises(ValueError, match="images of 3 channels.*Received: 1"):
        on_device("aua", (32, 32, 1))
    with pytest.raises(ValueError, match="images of 8x8"):
        on_device("base_rotation", (8, 8, 3))
    with pytest.raises(ValueError, match="must be one of none, base, .*'mixup'"):
        on_device("mixup", (32, 32, 3))
