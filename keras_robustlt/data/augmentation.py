"""Random changes of training images, drawn for each image on its own.

An augmentation is a deterministic function of a batch of images and of uniform
numbers, `num_draws` for each image: whoever calls it does the drawing, so the same
numbers give the same images, here:

- on the host, on uint8 images, inside `tf.data` or in NumPy: `get_augmentation`;
- on the device, on float images, inside the training step and on every backend:
  `on_device`;
- by hand: `augment`.

All three run the same code. Which array functions it runs with is what they differ in,
and `array_ops.py` says how.
"""

import dataclasses
import operator
from collections.abc import Callable

import numpy as np

from keras_robustlt.data import array_ops, autoaugment, randaugment
from keras_robustlt.data.arrays import check_images
from keras_robustlt.data.operations import pixels_at, rotate

PADDING = 4
MAX_DEGREES = 15.0
# How many images tell whether a layer does what it should.
TRIED = 8


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A named augmentation; see `AUGMENTATIONS`.

    Calling it, with uint8 images `(batch, height, width, channels)` and draws
    `(batch, num_draws)`, gives uint8 images: in NumPy for NumPy arrays, else inside
    `tf.data`.

    Args:
        apply: Function of the array functions (`array_ops.py`), images and float32
            draws in `[0, 1)`, to images of the same dtype.
        num_draws: Integer, how many uniform numbers an image takes.
        channels: The number of channels it needs, or `None` for any.
        min_size: Integer, the smallest height and width that it suits.
        moves_only: Boolean, whether every new pixel is an old one (or black).
            Otherwise `apply` needs uint8.
    """

    apply: Callable
    num_draws: int
    channels: int | None = None
    min_size: int = 1
    moves_only: bool = True

    def __call__(self, images, draws):
        is_array = isinstance(images, np.ndarray)
        xp = array_ops.arrays() if is_array else array_ops.host()
        return self.apply(xp, images, draws)


class DeviceAugmentation:
    """An augmentation for the training step; see `on_device`."""

    def __init__(self, augmentation, image_shape):
        self.augmentation, self.image_shape = augmentation, tuple(image_shape)
        self.num_draws = augmentation.num_draws

    def __call__(self, images, draws):
        from keras_robustlt import checks  # which need Keras

        checks.image_dtype(images, "images")
        checks.floats("images", images, ("batch", *self.image_shape))
        if getattr(getattr(draws, "shape", None), "rank", 0) is not None:
            checks.floats("draws", draws, (images.shape[0], self.num_draws))
        xp, augmentation = array_ops.device(), self.augmentation
        if augmentation.moves_only:
            return augmentation.apply(xp, xp.cast(images, "float32"), draws)
        levels = xp.cast(xp.round(xp.cast(images, "float32") * 255.0), "uint8")
        return xp.cast(augmentation.apply(xp, levels, draws), "float32") / 255.0


def unchanged(xp, images, draws):
    """Leaves the images as they are."""
    return images


def crop_and_flip(xp, images, draws):
    """Pads with `PADDING` black pixels, crops at random, mirrors every second image.

    Args:
        xp: The array functions.
        images: Tensor of shape `(batch, height, width, channels)`.
        draws: float32 tensor of shape `(batch, 3)`, uniform in `[0, 1)`: top and left
            of the crop, and mirrored below one half.

    Returns:
        Tensor of the same shape and dtype as `images`.
    """
    height, width = images.shape[1:3]
    top_left = xp.cast(draws[:, :2] * (2 * PADDING + 1), "int32") - PADDING
    rows = top_left[:, :1] + xp.arange(height)
    columns = xp.arange(width)
    columns = xp.where(draws[:, 2:3] < 0.5, width - 1 - columns, columns)
    columns = top_left[:, 1:] + columns
    return pixels_at(xp, images, rows[:, :, None], columns[:, None, :])


def crop_flip_and_rotate(xp, images, draws):
    """`crop_and_flip`, then a turn of up to `MAX_DEGREES` to either side.

    Args:
        xp: The array functions.
        images: Tensor of shape `(batch, height, width, channels)`.
        draws: float32 tensor of shape `(batch, 4)`, uniform in `[0, 1)`; the last is
            the angle.

    Returns:
        Tensor of the same shape and dtype as `images`.
    """
    cropped = crop_and_flip(xp, images, draws[:, :3])
    return rotate(xp, cropped, (2.0 * draws[:, 3] - 1.0) * MAX_DEGREES)


def crop_flip_and_autoaugment(xp, images, draws):
    """`crop_and_flip`, then the AutoAugment policy of CIFAR-10.

    Args:
        xp: The array functions.
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        draws: float32 tensor of shape `(batch, 8)`, uniform in `[0, 1)`.

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    cropped = crop_and_flip(xp, images, draws[:, :3])
    return autoaugment.autoaugment(xp, cropped, draws[:, 3:])


def crop_flip_and_randaugment(xp, images, draws):
    """`crop_and_flip`, then RandAugment(2, 8).

    Args:
        xp: The array functions.
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        draws: float32 tensor of shape `(batch, 7)`, uniform in `[0, 1)`.

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    cropped = crop_and_flip(xp, images, draws[:, :3])
    return randaugment.randaugment(xp, cropped, draws[:, 3:])


AUGMENTATIONS = {
    "none": Augmentation(unchanged, num_draws=0),
    "base": Augmentation(crop_and_flip, num_draws=3, min_size=4 * PADDING),
    "aua": Augmentation(
        crop_flip_and_autoaugment,
        num_draws=3 + autoaugment.NUM_DRAWS,
        min_size=4 * PADDING,
        channels=3,
        moves_only=False,
    ),
    "ra": Augmentation(
        crop_flip_and_randaugment,
        num_draws=3 + randaugment.NUM_DRAWS,
        min_size=4 * PADDING,
        channels=3,
        moves_only=False,
    ),
    "base_rotation": Augmentation(
        crop_flip_and_rotate, num_draws=4, min_size=4 * PADDING
    ),
}


# Layers of keras-cv by name. They run after an augmentation from above: "base+cutmix".
KERAS_CV = {
    "augmix": "AugMix",
    "cutmix": "CutMix",
    "fourier_mix": "FourierMix",
    "grid_mask": "GridMask",
    "mixup": "MixUp",
}
# Those that mix images of a batch, and their labels with them.
MIXES_LABELS = ("cutmix", "fourier_mix", "mixup")


def pipeline_names():
    """The names of all augmentations that a pipeline takes."""
    first = [name for name in AUGMENTATIONS if name != "none"]
    both = [f"{name}+{layer}" for name in first for layer in KERAS_CV]
    return [*AUGMENTATIONS, *KERAS_CV, *both]


def mixes_labels(name):
    """Whether the augmentation of this name gives soft labels."""
    return name.rpartition("+")[2] in MIXES_LABELS


def split(augmentation):
    """An augmentation of a pipeline as a key of `AUGMENTATIONS`, and what comes after.

    Args:
        augmentation: A name of `pipeline_names`, a layer or a function.

    Returns:
        A pair: a key of `AUGMENTATIONS`, and a key of `KERAS_CV`, the layer or the
        function, or `None`.

    Raises:
        ValueError: If there is no such name.
    """
    if callable(augmentation):
        return "none", augmentation
    if not isinstance(augmentation, str) or augmentation not in pipeline_names():
        raise ValueError(
            f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}, one of "
            f"{', '.join(KERAS_CV)}, such a one behind another (base+cutmix), a Keras "
            f"layer or a function. Received: augmentation={augmentation!r}"
        )
    first, _, last = augmentation.rpartition("+")
    return (first or "none", last) if last in KERAS_CV else (last, None)


def get_augmentation(name, image_shape):
    """Looks up an augmentation by its name and checks that it suits the images.

    Args:
        name: String, a key of `AUGMENTATIONS`.
        image_shape: Tuple `(height, width, channels)`.

    Returns:
        An `Augmentation`.

    Raises:
        ValueError: If there is no such augmentation, or it does not suit the images.
    """
    if not isinstance(name, str) or name not in AUGMENTATIONS:
        raise ValueError(
            f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}. "
            f"Received: augmentation={name!r}"
        )
    augmentation = AUGMENTATIONS[name]
    try:
        height, width, channels = map(operator.index, image_shape)
    except (TypeError, ValueError):
        height = width = channels = 0
    if min(height, width, channels) < 1:
        raise ValueError(
            "`image_shape` must be (height, width, channels), integers of at least 1. "
            f"Received: image_shape={image_shape!r}"
        )
    if min(height, width) < augmentation.min_size:
        raise ValueError(
            f"augmentation={name!r} shifts images by up to {PADDING} pixels, too much "
            f"for images of {height}x{width}. Use augmentation='none' or larger images."
        )
    if augmentation.channels not in (None, channels):
        raise ValueError(
            f"augmentation={name!r} needs images of {augmentation.channels} channels. "
            f"Received: {channels}. Use another augmentation, or repeat the channel."
        )
    return augmentation


def on_device(name, image_shape):
    """An augmentation to call inside a training step, on any backend of Keras.

    The result is a function of float images in `[0, 1]`, of shape
    `(batch, height, width, channels)`, and of float32 draws, uniform in `[0, 1)`, of
    shape `(batch, num_draws)`, where `num_draws` is an attribute of the function. It
    gives float32 images in `[0, 1]`: those that `data.pipeline` makes of the same
    draws. It can be compiled, and no image depends on the others.

    `"aua"` and `"ra"` are defined on images of 256 grey levels, and take each pixel for
    the nearest of them.

    Args:
        name: String, a key of `AUGMENTATIONS`.
        image_shape: Tuple `(height, width, channels)`.

    Returns:
        A function with the attribute `num_draws`.

    Raises:
        ValueError: If there is no such augmentation, or it does not suit the images.

    Example:

    >>> crop_and_flip = krl.data.on_device("base", image_shape=(32, 32, 3))
    >>> images = keras.random.uniform((8, 32, 32, 3))
    >>> draws = keras.random.uniform((8, crop_and_flip.num_draws))
    >>> crop_and_flip(images, draws).shape == images.shape
    True
    """
    return DeviceAugmentation(get_augmentation(name, image_shape), image_shape)


def augment(images, augmentation, draws=None, seed=None):
    """Augments a batch of images once, to look at them.

    Args:
        images: Array of shape `(batch, height, width, channels)`: uint8, or floats in
            `[0, 1]`, which count in steps of 1/255.
        augmentation: String, a key of `AUGMENTATIONS`.
        draws: Floats in `[0, 1)` of shape `(batch, num_draws)`, the numbers that decide
            what happens to each image. Defaults to `None`: drawn.
        seed: Integer or `keras.random.SeedGenerator`, of the numbers to draw. Defaults
            to `None`, others in every call.

    Returns:
        NumPy array of the shape of `images`: uint8 for uint8, else float32 in `[0, 1]`.

    Raises:
        ValueError: If an argument is not as described.

    Example:

    >>> images = np.zeros((4, 32, 32, 3), "uint8")
    >>> augmented = krl.data.augment(images, "ra", seed=0)
    >>> augmented.shape, augmented.dtype
    ((4, 32, 32, 3), dtype('uint8'))
    """
    from keras import ops, random

    from keras_robustlt import checks

    levels = check_images(images, "images")
    apply = get_augmentation(augmentation, levels.shape[1:])
    shape = (len(levels), apply.num_draws)
    if draws is None:
        if not isinstance(seed, random.SeedGenerator):
            seed = checks.seed(seed)
        draws = random.uniform(shape, dtype="float32", seed=seed)
    else:
        if seed is not None:
            raise ValueError(
                "`seed` is of the numbers to draw, and `draws` are such: give one of "
                f"the two. Received: {seed=}"
            )
        draws = ops.convert_to_numpy(checks.floats("draws", draws, shape))
        if not np.all((0 <= draws) & (draws < 1)):
            raise ValueError(
                "`draws` must be numbers in [0, 1). Received: values from "
                f"{np.min(draws):g} to {np.max(draws):g}"
            )
    draws, levels = ops.convert_to_tensor(draws), ops.convert_to_tensor(levels)
    levels = ops.convert_to_numpy(apply.apply(array_ops.device(), levels, draws))
    if np.asarray(images).dtype == np.uint8:
        return levels
    return levels.astype("float32") / 255
