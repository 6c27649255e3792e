"""The operations of AutoAugment and RandAugment against Pillow, where they run."""

import keras
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from keras_robustlt.data import array_ops
from keras_robustlt.data.operations import OPERATIONS, TABLES, apply_operations

PLACES = [pytest.param("host", marks=pytest.mark.tensorflow), "device"]


@pytest.fixture(params=PLACES)
def apply(request):
    """Applies the operation called `name`, on NumPy arrays, on the host or device."""
    if request.param == "host":
        pytest.importorskip("tensorflow")
    xp = getattr(array_ops, request.param)()

    def apply(name, images, strength):
        strength = xp.cast(np.asarray(strength, "float32"), "float32")
        index = OPERATIONS.index(name)
        operation = xp.cast(np.full(len(images), index), "int32")
        images = xp.cast(np.array(images), "uint8")
        out = apply_operations(xp, images, [operation], [strength])
        return keras.ops.convert_to_numpy(out)

    return apply


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


def with_pillow(name, image, strength):
    image = Image.fromarray(image)
    width, height = image.size

    def affine(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix)

    enhancers = {
        "brightness": ImageEnhance.Brightness,
        "contrast": ImageEnhance.Contrast,
        "color": ImageEnhance.Color,
        "sharpness": ImageEnhance.Sharpness,
    }
    if name in enhancers:
        return enhancers[name](image).enhance(1 + 0.9 * strength)
    pixels_x = int(strength * 150 / 331 * width)
    pixels_y = int(strength * 150 / 331 * height)
    bits = 8 - round(4 * abs(strength))
    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, 0.3 * strength, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, 0.3 * strength, 1, 0),
        "translate_x": lambda: affine(1, 0, -pixels_x, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -pixels_y),
        "rotate": lambda: image.rotate(30 * strength),
        "invert": lambda: ImageOps.invert(image),
        "solarize": lambda: ImageOps.solarize(image, 256 * (1 - abs(strength))),
        "posterize": lambda: ImageOps.posterize(image, bits),
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


# In grey levels: where the exact result is a whole number, Pillow's floating-point
# arithmetic can fall short of it, and then it cuts off one more.
TOLERANCE = {"brightness": 1, "contrast": 1, "color": 1, "auto_contrast": 1}


@pytest.mark.parametrize("name", OPERATIONS)
def test_operation_equals_pillows(name, photographs, apply):
    # One strength an image: over all images, the 10 levels of AutoAugment with both
    # signs, that of RandAugment, and others.
    levels = np.linspace(-1, 1, 19)
    others = np.random.default_rng(0).uniform(-1, 1, len(photographs) - 21)
    strength = np.concatenate([levels, [8 / 30, -8 / 30], others])
    out = apply(name, photographs, strength)
    assert out.dtype == np.uint8
    expected = [
        with_pillow(name, image, s)
        for image, s in zip(photographs, strength, strict=True)
    ]
    difference = np.abs(out.astype(int) - np.stack(expected))
    assert difference.max() <= TOLERANCE.get(name, 0)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if n not in TABLES])
def test_strength_of_zero_changes_nothing(name, photographs, apply):
    assert (apply(name, photographs[:9], np.zeros(9)) == photographs[:9]).all()


@pytest.mark.parametrize("name", ["solarize", "posterize"])
def test_table_of_strength_zero_changes_nothing(name, photographs, apply):
    assert (apply(name, photographs[:4], np.zeros(4)) == photographs[:4]).all()


@pytest.mark.parametrize("name", ["auto_contrast", "equalize", "contrast"])
def test_flat_image_stays(name, apply):
    flat = np.full((1, 16, 16, 3), 93, np.uint8)
    assert (apply(name, flat, [1.0]) == flat).all()


def test_closed_forms(apply):
    ramp = np.broadcast_to(np.arange(16)[:, None], (16, 16))
    image = np.stack([ramp, 2 * ramp, 100 + ramp], axis=-1)[None].astype("uint8")
    assert (apply("auto_contrast", image, [1]) == 17 * ramp[None, ..., None]).all()
    assert (apply("invert", image, [1]) == 255 - image).all()
    assert (apply("posterize", image, [1]) == image // 16 * 16).all()
    moved = apply("translate_y", image, [-0.5])  # 3.6 pixels, so 3
    assert (moved[:, :13] == image[:, 3:]).all()
    assert (moved[:, 13:] == 0).all()
    # Half of the distance to black.
    darker = apply("brightness", image, [-0.5 / 0.9])
    assert (darker == image // 2).all()


def test_images_need_not_be_square(photographs, apply):
    wide = photographs[:3, :20]
    for name in ("rotate", "sharpness", "equalize"):
        out = apply(name, wide, [0.5, -0.5, 1])
        assert (out[0] == np.asarray(with_pillow(name, wide[0], 0.5))).all()


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "layer", "options", "draw"),
    [
        ("auto_contrast", "AutoContrast", {"value_range": (0, 255)}, None),
        ("color", "RandomColorDegeneration", {"factor": 0.0}, 0.9),
        (
            "sharpness",
            "RandomSharpness",
            {"value_range": (0, 255), "factor": 0.0},
            0.9,
        ),
        ("solarize", "Solarization", {"value_range": (0, 255)}, None),
    ],
)
def test_agrees_with_keras_cv(name, layer, options, draw, photographs):
    """Where keras-cv means the same operation, also for its full strength."""
    import tensorflow as tf
    from keras_cv import layers

    images = tf.constant(photographs[:8])
    strength = tf.fill([8], 1.0 if draw is None else -draw / 0.9)
    operation = tf.fill([8], OPERATIONS.index(name))
    ours = apply_operations(array_ops.host(), images, [operation], [strength])
    if draw is not None:
        draw = tf.fill([8, 1, 1, 1], draw)
    if name == "solarize":
        zero = tf.zeros([8, 1, 1, 1])
        draw = {"additions": zero, "thresholds": zero}
    theirs = getattr(layers, layer)(dtype="float32", **options).augment_images(
        tf.cast(images, tf.float32), transformations=draw
    )
    # Theirs are not rounded, in between nor in the end.
    assert np.abs(ours.numpy() - theirs.numpy()).max() < 2
    assert np.any(ours.numpy() != photographs[:8])
