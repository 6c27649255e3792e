import keras
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from keras_robustlt import plots
from keras_robustlt.backend import compiled
from keras_robustlt.data import AUGMENTATIONS, array_ops, augment
from keras_robustlt.data.autoaugment import MAX_LEVEL, NUM_DRAWS, POLICY
from keras_robustlt.data.operations import OPERATIONS, apply_operations
from keras_robustlt.data.randaugment import CHOICES

PADDING = 4
# The middle of the padding, not mirrored: the image as it is.
IN_PLACE = [0.5, 0.5, 0.9]


@pytest.fixture(scope="module")
def photographs():
    """Real pixels: parts of a photograph that comes with scikit-learn."""
    from sklearn.datasets import load_sample_image

    picture = load_sample_image("china.jpg")[:320, :320]
    small = np.asarray(Image.fromarray(picture).resize((160, 160)))
    crops = small.reshape(5, 32, 5, 32, 3).swapaxes(1, 2)
    return crops.reshape(25, 32, 32, 3)


def uniform(num_images, num_draws, seed=0):
    return np.random.default_rng(seed).random((num_images, num_draws), np.float32)


@pytest.fixture(scope="module")
def applied():
    """One operation on one image, `applied(image, name, strength)`."""

    def operate(image, operation, strength):
        xp = array_ops.device()
        return apply_operations(xp, image[None], [operation[None]], [strength[None]])

    operate = compiled(operate, [])

    def applied(image, name, strength):
        arguments = (image, np.int32(OPERATIONS.index(name)), np.float32(strength))
        tensors = [keras.ops.convert_to_tensor(argument) for argument in arguments]
        return keras.ops.convert_to_numpy(operate(*tensors))[0]

    return applied


# Crop, flip, rotate


def test_base_of_a_fixed_draw(photographs):
    images = photographs[:3]
    # The corner of the padding; the middle; the other corner, mirrored.
    draws = [[0.0, 0.0, 0.9], IN_PLACE, [0.999, 0.999, 0.1]]
    out = augment(images, "base", draws=np.array(draws))
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
    out = augment(images, "base", draws=uniform(4000, 3))[..., 0]
    _, rows, columns = np.nonzero(out)
    assert np.bincount(rows, minlength=16)[4:13].min() > 4000 / 9 * 0.8
    # Mirrored or not: the pixel in column 8 lands in 4 to 12 or in 3 to 11.
    assert set(columns) == set(range(3, 13))
    assert set(rows) == set(range(4, 13))


def test_base_rotation_turns_what_base_gives(photographs):
    turns = np.array([0.0, 0.2, 0.5, 0.999])
    draws = np.concatenate([uniform(4, 3), turns[:, None]], axis=1)
    base = augment(photographs[:4], "base", draws=draws[:, :3])
    out = augment(photographs[:4], "base_rotation", draws=draws)
    for i, degrees in enumerate(30 * turns - 15):
        expected = Image.fromarray(base[i]).rotate(degrees, fillcolor=0)
        assert (out[i] == np.asarray(expected)).all()


# AutoAugment


def test_policy_is_whole():
    assert len(POLICY) == 25
    for sub_policy in POLICY:
        assert len(sub_policy) == 2
        for name, probability, level in sub_policy:
            assert name in OPERATIONS
            assert 0 <= probability <= 1
            assert 0 <= level <= MAX_LEVEL


def sub_policy_draw(index, *others):
    return [*IN_PLACE, (index + 0.5) / len(POLICY), *others]


@pytest.mark.slow_on_jax
def test_sub_policies_apply_their_steps_in_order(photographs, applied):
    # Draws of zero: both steps happen, with negative sign. A probability of zero never
    # does.
    draws = [sub_policy_draw(i, *[0.0] * (NUM_DRAWS - 1)) for i in range(len(POLICY))]
    out = augment(photographs, "aua", draws=np.array(draws))
    for i, sub_policy in enumerate(POLICY):
        expected = photographs[i]
        for name, probability, level in sub_policy:
            if probability > 0:
                expected = applied(expected, name, -level / MAX_LEVEL)
        assert (out[i] == expected).all(), sub_policy


def test_sign_and_probability_are_drawn_for_each_step(photographs, applied):
    # Rotate with probability .7 and level 2, translate_x with .3 and 9.
    steps = [
        (0.71, 0.0, 0.31, 0.0),
        (0.69, 0.5, 0.31, 0.0),
        (0.69, 0.4, 0.31, 0.0),
        (0.69, 0.4, 0.29, 0.6),
    ]
    draws = np.array([sub_policy_draw(1, *step) for step in steps])
    image = photographs[0]
    out = augment(np.stack([image] * 4), "aua", draws=draws)
    turned = applied(image, "rotate", -2 / 9)
    assert (out[0] == image).all()
    assert (out[1] == applied(image, "rotate", 2 / 9)).all()
    assert (out[2] == turned).all()
    assert (out[3] == applied(turned, "translate_x", 1.0)).all()


# RandAugment: torchvision's numbers for magnitude 8 of 31, written out


def torchvision_reference(name, image, sign):
    image = Image.fromarray(image)

    def affine(*matrix):
        return image.transform(image.size, Image.Transform.AFFINE, matrix)

    return {
        "identity": lambda: image,
        "shear_x": lambda: affine(1, 0.08 * sign, 0, 0, 1, 0),
        "shear_y": lambda: affine(1, 0, 0, 0.08 * sign, 1, 0),
        "translate_x": lambda: affine(1, 0, -3 * sign, 0, 1, 0),
        "translate_y": lambda: affine(1, 0, 0, 0, 1, -3 * sign),
        "rotate": lambda: image.rotate(8 * sign),
        "brightness": lambda: ImageEnhance.Brightness(image).enhance(1 + 0.24 * sign),
        "contrast": lambda: ImageEnhance.Contrast(image).enhance(1 + 0.24 * sign),
        "color": lambda: ImageEnhance.Color(image).enhance(1 + 0.24 * sign),
        "sharpness": lambda: ImageEnhance.Sharpness(image).enhance(1 + 0.24 * sign),
        "posterize": lambda: ImageOps.posterize(image, 7),
        "solarize": lambda: ImageOps.solarize(image, 187),
        "auto_contrast": lambda: ImageOps.autocontrast(image),
        "equalize": lambda: ImageOps.equalize(image),
    }[name]()


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.slow_on_jax
def test_randaugment_of_each_operation(sign, photographs):
    assert len(CHOICES) == 14
    images = photographs[:14].copy()
    images[:, 0, 0] = [186, 187, 188]  # about the threshold of solarize
    identity = (CHOICES.index("identity") + 0.5) / 14
    signed = 0.5 if sign > 0 else 0.49
    draws = [[*IN_PLACE, (i + 0.5) / 14, signed, identity, 0.0] for i in range(14)]
    out = augment(images, "ra", draws=np.array(draws))
    for i, name in enumerate(CHOICES):
        expected = np.asarray(torchvision_reference(name, images[i], sign))
        tolerance = 1 if name == "auto_contrast" else 0
        assert np.abs(out[i].astype(int) - expected).max() <= tolerance, name


def test_randaugment_applies_two_operations(photographs, applied):
    draws = uniform(25, 7, seed=5)
    draws[:, :3] = IN_PLACE
    out = augment(photographs, "ra", draws=draws)
    for i in range(25):
        expected = photographs[i]
        for choice, sign in draws[i, 3:].reshape(2, 2):
            name = CHOICES[int(choice * 14)]
            strength = 1 - 187 / 256 if name == "solarize" else 8 / 30
            expected = applied(expected, name, -strength if sign < 0.5 else strength)
        assert (out[i] == expected).all()


# By hand


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_floats_and_uint8_are_the_same_images(name, photographs):
    draws = uniform(25, AUGMENTATIONS[name].num_draws)
    out = augment(photographs, name, draws=draws)
    floats = augment(photographs / 255, name, draws=draws)
    assert out.dtype == np.uint8
    assert out.shape == floats.shape == photographs.shape
    assert floats.dtype == np.float32
    assert (floats == out / np.float32(255)).all()


def test_seed_repeats_the_draws(photographs):
    first, again = (augment(photographs, "base", seed=1) for _ in range(2))
    assert (first == again).all()
    assert (first != augment(photographs, "base", seed=2)).any()
    assert (augment(photographs, "none") == photographs).all()


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"augmentation": "all"}, "must be one of none, base, .*'all'"),
        ({"draws": np.zeros((2, 3))}, r"shape \(4, 3\)\. .*shape \(2, 3\)"),
        ({"draws": np.ones((4, 3))}, r"in \[0, 1\)\. .* to 1$"),
        ({"draws": []}, r"`draws` must hold numbers, .*shape \(0,\)"),
        ({"draws": np.zeros((4, 3)), "seed": 1}, "give one of the two"),
        ({"seed": True}, "`seed` must be None or an integer"),
        ({"images": np.zeros((4, 8, 8, 3), "uint8")}, "too much for images of 8x8"),
        ({"images": np.full((4, 32, 32, 3), 255.0)}, r"must be in \[0, 1\]"),
        (
            {"images": np.zeros((4, 32, 32, 1), "uint8"), "augmentation": "ra"},
            "needs images of 3 channels",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    defaults = {"images": np.zeros((4, 32, 32, 3), "uint8"), "augmentation": "base"}
    with pytest.raises(ValueError, match=message):
        augment(**{**defaults, **arguments})


# To look at


def test_contact_sheet_has_every_image_in_its_place():
    rows = np.random.default_rng(0).random((3, 2, 32, 16, 1))  # 3 rows of 2 images
    figure = plots.contact_sheet(rows, ["a", "", "b"])
    (axes,) = figure.axes
    (sheet,) = (image.get_array() for image in axes.images)
    assert sheet.shape == (3 * 32 + 2 * 2, 2 * 16 + 2, 3)
    assert (sheet[68:, 18:] == rows[2, 1]).all()
    assert (sheet[32:34] == 1).all()
    assert [label.get_text() for label in axes.get_yticklabels()] == ["a", "", "b"]
    with pytest.raises(ValueError, match="each of the 3 rows.*Received: .'a'"):
        plots.contact_sheet(rows, ["a"])
    with pytest.raises(ValueError, match="images of one shape"):
        plots.contact_sheet([rows[0], rows[1, :1]], ["a", "b"])
