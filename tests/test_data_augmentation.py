import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from keras_robustlt.data.augmentation import AUGMENTATIONS, PADDING, crop_and_flip
from keras_robustlt.data.autoaugment import (
    MAX_LEVEL,
    NUM_DRAWS,
    OPERATIONS,
    POLICY,
    autoaugment,
)

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow


@pytest.fixture(scope="module")
def photographs():
    """Real pixels: crops of the photographs that come with scikit-learn."""
    from sklearn.datasets import load_sample_images

    crops = []
    for picture in load_sample_images().images:
        small = np.asarray(Image.fromarray(picture).resize((320, 213)))
        crops += [
            small[i : i + 32, j : j + 32]
            for i in range(0, 160, 40)
            for j in range(0, 280, 40)
        ]
    return np.stack(crops)


def uniform(num_images, num_draws, seed=0):
    generator = np.random.default_rng(seed)
    return tf.constant(generator.random((num_images, num_draws), np.float32))


# Crop and flip


def test_crop_and_flip_of_a_fixed_draw(photographs):
    images = photographs[:3]
    # The corner of the padding; the middle; the other corner, mirrored.
    draws = [[0.0, 0.0, 0.9], [0.5, 0.5, 0.9], [0.999, 0.999, 0.1]]
    out = crop_and_flip(images, tf.constant(draws)).numpy()
    assert (out[0, PADDING:, PADDING:] == images[0, :-PADDING, :-PADDING]).all()
    assert (out[0, :PADDING] == 0).all()
    assert (out[1] == images[1]).all()
    mirrored = images[2, PADDING:, PADDING:][:, ::-1]
    assert (out[2, :-PADDING, PADDING:] == mirrored).all()
    assert (out[2, :, :PADDING] == 0).all()


def test_every_crop_is_as_likely_as_any_other():
    # One white pixel shows where each image went.
    images = np.zeros((4000, 16, 16, 1), np.uint8)
    images[:, 8, 8] = 255
    out = crop_and_flip(images, uniform(4000, 3)).numpy()[..., 0]
    _, rows, columns = np.nonzero(out)
    assert np.bincount(rows, minlength=16)[4:13].min() > 4000 / 9 * 0.8
    # Mirrored or not: the pixel in column 8 lands in 4 to 12 or in 3 to 11.
    assert set(columns) == set(range(3, 13))
    assert set(rows) == set(range(4, 13))


# AutoAugment: each operation against Pillow


def with_pillow(name, image, strength):
    image = Image.fromarray(image)
    width, height = image.size
    affine = Image.Transform.AFFINE

    def moved(x, y):
        return image.transform(image.size, affine, (1, 0, -x, 0, 1, -y))

    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "color": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhancers:
        return enhancers[name](image).enhance(1 + 0.9 * strength)
    level = round(abs(strength) * MAX_LEVEL)
    return {
        "shear_y": lambda: image.transform(
            image.size, affine, (1, 0, 0, 0.3 * strength, 1, 0)
        ),
        "translate_x": lambda: moved(int(strength * 150 / 331 * width), 0),
        "translate_y": lambda: moved(0, int(strength * 150 / 331 * height)),
        "rotate": lambda: image.rotate(30 * strength),
        "invert": lambda: ImageOps.invert(image),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - abs(strength))),
        "posterize": lambda: ImageOps.posterize(image, 8 - round(level * 4 / 9)),
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


# In grey levels. Those of 1 round where Pillow cuts off, or the other way round.
TOLERANCE = {"color": 1, "sharpness": 1, "auto_contrast": 1, "brightness": 1}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_pillows(name, photographs):
    # One strength an image; over all images, all levels of both signs.
    levels = np.arange(len(photographs)) % (2 * MAX_LEVEL + 1) - MAX_LEVEL
    strength = (levels / MAX_LEVEL).astype(np.float32)
    out = OPERATIONS[name](tf.constant(photographs), tf.constant(strength)).numpy()
    assert out.dtype == np.uint8
    # A turn or slant that hits the border of two pixels exactly may take either, as
    # Pillow does for angles next to each other.
    nudges = (0, -1e-4, 1e-4) if name in ("rotate", "shear_y") else (0,)
    for image, ours, level in zip(photographs, out, levels, strict=True):
        differences = [
            ours.astype(int) - with_pillow(name, image, level / MAX_LEVEL + nudge)
            for nudge in nudges
        ]
        assert np.abs(differences).min(axis=0).max() <= TOLERANCE.get(name, 0), level


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_takes_no_images(name, photographs):
    out = OPERATIONS[name](tf.constant(photographs[:0]), tf.zeros([0]))
    assert out.shape == (0, 32, 32, 3)


@pytest.mark.parametrize("name", ["auto_contrast", "equalize", "contrast"])
def test_flat_image(name):
    flat = np.full((1, 16, 16, 3), 93, np.uint8)
    out = OPERATIONS[name](tf.constant(flat), tf.constant([1.0])).numpy()
    assert (out == flat).all()


# AutoAugment: the policy


def test_policy_is_whole():
    assert len(POLICY) == 25
    for sub_policy in POLICY:
        assert len(sub_policy) == 2
        for name, probability, level in sub_policy:
            assert name in OPERATIONS
            assert 0 <= probability <= 1
            assert 0 <= level <= MAX_LEVEL


@pytest.mark.parametrize("sub_policy", range(len(POLICY)))
def test_sub_policy_applies_its_steps_in_order(sub_policy, photographs):
    images = photographs[:8]
    expected = tf.constant(images)
    for name, _, level in POLICY[sub_policy]:
        expected = OPERATIONS[name](expected, tf.fill([8], -level / MAX_LEVEL))
    # Draws of zero: both steps happen, with negative sign. A probability of zero
    # never does.
    if POLICY[sub_policy] == (("solarize", 0.5, 2), ("invert", 0.0, 3)):
        expected = OPERATIONS["solarize"](tf.constant(images), tf.fill([8], -2 / 9))
    draws = np.zeros((8, NUM_DRAWS), np.float32)
    draws[:, 0] = (sub_policy + 0.5) / len(POLICY)
    out = autoaugment(tf.constant(images), tf.constant(draws))
    assert (out.numpy() == expected.numpy()).all()


def test_sign_and_probability_are_drawn_for_each_step(photographs):
    image = photographs[:1]
    chosen = (1 + 0.5) / len(POLICY)  # rotate .7 2, translate_x .3 9

    def augmented(*draws):
        return autoaugment(tf.constant(image), tf.constant([[chosen, *draws]])).numpy()

    def expected(angle, shift):
        picture = with_pillow("rotate", image[0], angle)
        return np.asarray(with_pillow("translate_x", np.asarray(picture), shift))

    assert (augmented(0.71, 0.0, 0.31, 0.0) == image).all()
    assert (augmented(0.69, 0.5, 0.31, 0.0) == expected(2 / 9, 0)).all()
    assert (augmented(0.69, 0.4, 0.31, 0.0) == expected(-2 / 9, 0)).all()
    assert (augmented(0.69, 0.4, 0.29, 0.6) == expected(-2 / 9, 1)).all()


def test_images_do_not_mix(photographs):
    images = photographs[:24]
    augment = AUGMENTATIONS["aua"]
    draws = uniform(24, augment.num_draws, seed=3)
    together = augment(tf.constant(images), draws).numpy()
    for i in range(24):
        alone = augment(tf.constant(images[i : i + 1]), draws[i : i + 1]).numpy()
        assert (together[i] == alone[0]).all()


def test_mixed_precision_leaves_augmentation_alone(photographs):
    import keras

    images, strength = tf.constant(photographs[:4]), tf.fill([4], 0.7)
    before = OPERATIONS["sharpness"](images, strength).numpy()
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        assert (OPERATIONS["sharpness"](images, strength).numpy() == before).all()
    finally:
        keras.config.set_dtype_policy(policy)
