"""Random changes of training images, drawn for each image on its own.

An augmentation is a deterministic function of a batch of uint8 images and of uniform
numbers, `num_draws` for each image: whoever calls it does the drawing, so the same
numbers give the same images.
"""

import dataclasses
from collections.abc import Callable

from keras_robustlt.data.autoaugment import NUM_DRAWS, autoaugment

PADDING = 4


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """A named augmentation; see `AUGMENTATIONS`.

    Args:
        apply: Function of uint8 images `(batch, height, width, channels)` and float32
            draws in `[0, 1)` of shape `(batch, num_draws)`, to uint8 images.
        num_draws: Integer, how many uniform numbers an image takes.
        channels: The number of channels it needs, or `None` for any.
    """

    apply: Callable
    num_draws: int
    channels: int | None = None
    min_size: int = 1

    def __call__(self, images, draws):
        return self.apply(images, draws)


def unchanged(images, draws):
    """Leaves the images as they are."""
    return images


def crop_and_flip(images, draws):
    """Pads with `PADDING` black pixels, crops at random, mirrors every second image.

    Args:
        images: uint8 tensor of shape `(batch, height, width, channels)`.
        draws: float32 tensor of shape `(batch, 3)`, uniform in `[0, 1)`: top and left
            of the crop, and mirrored below one half.

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    import tensorflow as tf

    height, width = images.shape[1:3]
    offsets = tf.cast(draws[:, :2] * (2 * PADDING + 1), tf.int32)
    rows = offsets[:, :1] + tf.range(height)
    columns = offsets[:, 1:2] + tf.range(width)
    columns = tf.where(draws[:, 2:] < 0.5, columns[:, ::-1], columns)
    edges = [[0, 0], [PADDING, PADDING], [PADDING, PADDING], [0, 0]]
    padded = tf.pad(images, edges)
    return tf.gather(
        tf.gather(padded, rows, axis=1, batch_dims=1), columns, axis=2, batch_dims=1
    )


def crop_flip_and_autoaugment(images, draws):
    """`crop_and_flip`, then the AutoAugment policy of CIFAR-10.

    Args:
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        draws: float32 tensor of shape `(batch, 8)`, uniform in `[0, 1)`.

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    return autoaugment(crop_and_flip(images, draws[:, :3]), draws[:, 3:])


AUGMENTATIONS = {
    "none": Augmentation(unchanged, num_draws=0),
    "base": Augmentation(crop_and_flip, num_draws=3, min_size=4 * PADDING),
    "aua": Augmentation(
        crop_flip_and_autoaugment,
        num_draws=3 + NUM_DRAWS,
        min_size=4 * PADDING,
        channels=3,
    ),
}


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
    if name not in AUGMENTATIONS:
        raise ValueError(
            f"`augmentation` must be one of {', '.join(AUGMENTATIONS)}. "
            f"Received: augmentation={name!r}"
        )
    augmentation = AUGMENTATIONS[name]
    height, width, channels = image_shape
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
