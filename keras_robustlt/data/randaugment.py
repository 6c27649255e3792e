"""RandAugment(2, 8), on whole batches.

Two operations in a row, each drawn from 14 with equal probability, for each image on
its own. All have the same magnitude, the 8 of torchvision's 31 from 0 to 30, and those
that have a direction draw it.

Reference:
    - [Cubuk et al., 2020](https://arxiv.org/abs/1909.13719)
    - [torchvision's RandAugment](https://docs.pytorch.org/vision/main/generated/torchvision.transforms.RandAugment.html),
      whose operations and ranges these are.
"""

import numpy as np

from keras_robustlt.data.operations import OPERATIONS, apply_operations

NUM_OPERATIONS = 2
MAGNITUDE = 8
MAX_MAGNITUDE = 30
CHOICES = tuple(name for name in OPERATIONS if name != "invert")
# For each step, an operation and a sign.
NUM_DRAWS = 2 * NUM_OPERATIONS


def randaugment(xp, images, draws):
    """Applies `NUM_OPERATIONS` random operations to each image.

    Args:
        xp: The array functions, see `array_ops.py`.
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        draws: float32 tensor of shape `(batch, NUM_DRAWS)`, uniform in `[0, 1)`: for
            each step the operation and its sign (negative below one half).

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    indices = np.array([OPERATIONS.index(name) for name in CHOICES], "int32")
    table = np.array([strength_of(name) for name in CHOICES], "float32")
    operations, strengths = [], []
    for step in range(NUM_OPERATIONS):
        choice = xp.cast(draws[:, 2 * step] * len(CHOICES), "int32")
        operations.append(xp.take(indices, choice, axis=0))
        strength = xp.take(table, choice, axis=0)
        negative = draws[:, 2 * step + 1] < 0.5
        strengths.append(xp.where(negative, -strength, strength))
    return apply_operations(xp, images, operations, strengths)


def strength_of(name):
    """The strength, from 0 to 1, that `MAGNITUDE` means for an operation."""
    part = MAGNITUDE / MAX_MAGNITUDE
    if name == "solarize":
        # Its threshold goes down from 255 here, from 256 in the paper on AutoAugment.
        return 1 - 255 * (1 - part) / 256
    return part
