"""The AutoAugment policy found for CIFAR-10, on whole batches.

A policy is a list of sub-policies of two steps each; a step is an operation, its
probability and its level from 0 to 9. Each image draws one sub-policy, and for each
of its two steps whether it happens and with which sign.

Reference:
    - [Cubuk et al., 2019](https://arxiv.org/abs/1805.09501), table 7.
"""

import numpy as np

from keras_robustlt.data.operations import OPERATIONS, apply_operations

POLICY = (
    (("invert", 0.1, 7), ("contrast", 0.2, 6)),
    (("rotate", 0.7, 2), ("translate_x", 0.3, 9)),
    (("sharpness", 0.8, 1), ("sharpness", 0.9, 3)),
    (("shear_y", 0.5, 8), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.5, 8), ("equalize", 0.9, 2)),
    (("shear_y", 0.2, 7), ("posterize", 0.3, 7)),
    (("color", 0.4, 3), ("brightness", 0.6, 7)),
    (("sharpness", 0.3, 9), ("brightness", 0.7, 9)),
    (("equalize", 0.6, 5), ("equalize", 0.5, 1)),
    (("contrast", 0.6, 7), ("sharpness", 0.6, 5)),
    (("color", 0.7, 7), ("translate_x", 0.5, 8)),
    (("equalize", 0.3, 7), ("auto_contrast", 0.4, 8)),
    (("translate_y", 0.4, 3), ("sharpness", 0.2, 6)),
    (("brightness", 0.9, 6), ("color", 0.2, 8)),
    (("solarize", 0.5, 2), ("invert", 0.0, 3)),
    (("equalize", 0.2, 0), ("auto_contrast", 0.6, 0)),
    (("equalize", 0.2, 8), ("equalize", 0.6, 4)),
    (("color", 0.9, 9), ("equalize", 0.6, 6)),
    (("auto_contrast", 0.8, 4), ("solarize", 0.2, 8)),
    (("brightness", 0.1, 3), ("color", 0.7, 0)),
    (("solarize", 0.4, 5), ("auto_contrast", 0.9, 3)),
    (("translate_y", 0.9, 9), ("translate_y", 0.7, 9)),
    (("auto_contrast", 0.9, 2), ("solarize", 0.8, 3)),
    (("equalize", 0.8, 8), ("invert", 0.1, 3)),
    (("translate_y", 0.7, 9), ("auto_contrast", 0.9, 1)),
)
MAX_LEVEL = 9
# A sub-policy; for each of its two steps, whether it happens, and the sign.
NUM_DRAWS = 5


def autoaugment(xp, images, draws):
    """Applies one random sub-policy of `POLICY` to each image.

    Args:
        xp: The array functions, see `array_ops.py`.
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        draws: float32 tensor of shape `(batch, NUM_DRAWS)`, uniform in `[0, 1)`: the
            sub-policy, then for each step whether it happens (below its
            probability) and its sign (negative below one half).

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    chosen = xp.cast(draws[:, 0] * len(POLICY), "int32")

    def of_chosen(values, dtype):
        return xp.take(np.array(values, dtype), chosen, axis=0)

    operations, strengths = [], []
    for step in (0, 1):
        names, probabilities, levels = zip(
            *(pair[step] for pair in POLICY), strict=True
        )
        happens = draws[:, 1 + 2 * step] < of_chosen(probabilities, "float32")
        negative = draws[:, 2 + 2 * step] < 0.5
        operation = of_chosen([OPERATIONS.index(name) for name in names], "int32")
        strength = of_chosen(levels, "float32") / MAX_LEVEL
        operations.append(xp.where(happens, operation, OPERATIONS.index("identity")))
        strengths.append(xp.where(negative, -strength, strength))
    return apply_operations(xp, images, operations, strengths)
