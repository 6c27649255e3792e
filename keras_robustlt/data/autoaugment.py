"""The AutoAugment policy found for CIFAR-10, on whole batches.

A policy is a list of sub-policies of two steps each; a step is an operation, its
probability and its level from 0 to 9. Each image draws one sub-policy, and for each
of its two steps whether it happens and with which sign.

Operations take uint8 images `(batch, height, width, 3)` and one strength an image in
`[-1, 1]`, which they scale to their own range; those of the search space are Pillow's,
and so are the pixels, up to one grey level where a keras-cv layer does the work.
Pixels that move in from outside the image are black.

Reference:
    - [Cubuk et al., 2019](https://arxiv.org/abs/1805.09501): table 6 has the ranges
      of the operations, table 7 the policy.
"""

import functools
import math

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


def autoaugment(images, draws):
    """Applies one random sub-policy of `POLICY` to each image.

    Args:
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        draws: float32 tensor of shape `(batch, NUM_DRAWS)`, uniform in `[0, 1)`: the
            sub-policy, then for each step whether it happens (below its
            probability) and its sign (negative below one half).

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    import tensorflow as tf

    chosen = tf.cast(draws[:, 0] * len(POLICY), tf.int32)
    for step in (0, 1):
        names = [sub_policy[step][0] for sub_policy in POLICY]
        probabilities = tf.constant([sub_policy[step][1] for sub_policy in POLICY])
        levels = tf.constant([float(sub_policy[step][2]) for sub_policy in POLICY])
        happens, sign = draws[:, 1 + 2 * step], draws[:, 2 + 2 * step]
        strength = tf.gather(levels, chosen) / MAX_LEVEL
        strength = tf.where(sign < 0.5, -strength, strength)
        # Group the images by operation; group 0 stays as it is.
        used = sorted(set(names))
        group = tf.constant([1 + used.index(name) for name in names])
        group = tf.where(
            happens < tf.gather(probabilities, chosen), tf.gather(group, chosen), 0
        )
        count = len(used) + 1
        members = tf.dynamic_partition(images, group, count)
        strengths = tf.dynamic_partition(strength, group, count)
        places = tf.dynamic_partition(tf.range(tf.size(group)), group, count)
        changed = [members[0]]
        changed += [
            OPERATIONS[name](member, s)
            for name, member, s in zip(used, members[1:], strengths[1:], strict=True)
        ]
        shape = images.shape
        images = tf.ensure_shape(tf.dynamic_stitch(places, changed), shape)
    return images


# Geometry: each output pixel takes the nearest input pixel.


def shear_y(images, strength):
    """Slants the rows, by up to 0.3 pixels a pixel."""
    return _affine(images, yx=0.3 * strength)


def translate_x(images, strength):
    """Moves sideways, by up to 150/331 of the width."""
    return _affine(images, x=-_whole_pixels(strength, images.shape[2]))


def translate_y(images, strength):
    """Moves up or down, by up to 150/331 of the height."""
    return _affine(images, y=-_whole_pixels(strength, images.shape[1]))


def _whole_pixels(strength, size):
    import tensorflow as tf

    pixels = tf.cast(strength * (150 / 331 * size), tf.int32)  # towards zero
    return tf.cast(pixels, tf.float32)


def rotate(images, strength):
    """Turns counter-clockwise about the centre, by up to 30 degrees."""
    import tensorflow as tf

    angle = -strength * math.radians(30)
    cos, sin = tf.cos(angle), tf.sin(angle)
    height, width = images.shape[1:3]
    x = width / 2 * (1 - cos) - height / 2 * sin
    y = height / 2 * (1 - cos) + width / 2 * sin
    return _affine(images, xx=cos, xy=sin, x=x, yx=-sin, yy=cos, y=y)


def _affine(images, xx=1.0, xy=0.0, x=0.0, yx=0.0, yy=1.0, y=0.0):
    """Output `(u, v)` shows input `(xx u + xy v + x, yx u + yy v + y)`."""
    import tensorflow as tf

    # In these coordinates the centre of the first pixel is (.5, .5); the operation
    # below counts it as (0, 0).
    x = x + 0.5 * (xx + xy) - 0.5
    y = y + 0.5 * (yx + yy) - 0.5
    ones = tf.ones(tf.shape(images)[0])
    rows = [xx * ones, xy * ones, x * ones, yx * ones, yy * ones, y * ones]
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=tf.stack(rows + [0 * ones, 0 * ones], axis=1),
        output_shape=images.shape[1:3],
        fill_value=0.0,
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )


# Enhancement: the image and a plainer version of it, mixed or driven apart.


def brightness(images, strength):
    """Mixes with black."""
    import tensorflow as tf

    return _blend(tf.zeros_like(images), images, strength)


def contrast(images, strength):
    """Mixes with the mean grey of the image."""
    import tensorflow as tf

    weights = tf.constant([19595, 38470, 7471])  # Pillow's luma, in 1/65536
    gray = tf.reduce_sum(tf.cast(images, tf.int32) * weights, axis=-1)
    gray = tf.cast((gray + 2**15) // 2**16, tf.float32)
    mean = tf.floor(tf.reduce_mean(gray, axis=[1, 2], keepdims=True) + 0.5)
    return _blend(mean[..., None], images, strength)


def color(images, strength):
    """Mixes with the grey version of the image."""
    return _keras_cv("RandomColorDegeneration", images, -0.9 * strength)


def sharpness(images, strength):
    """Mixes with a smoothed version of the image."""
    return _keras_cv("RandomSharpness", images, -0.9 * strength)


def _blend(plain, images, strength):
    import tensorflow as tf

    plain, images = tf.cast(plain, tf.float32), tf.cast(images, tf.float32)
    factor = (1.0 + 0.9 * strength)[:, None, None, None]
    mixed = plain + factor * (images - plain)
    return tf.cast(tf.clip_by_value(mixed, 0.0, 255.0), tf.uint8)


# Grey values, each on its own. The sign of the strength has no meaning here.


def invert(images, strength):
    """Turns every grey value `v` into `255 - v`."""
    return 255 - images


def solarize(images, strength):
    """Inverts the grey values from `256 (1 - |strength|)` on."""
    import tensorflow as tf

    thresholds = 256.0 * (1.0 - tf.abs(strength))[:, None, None, None]
    draw = {"thresholds": thresholds, "additions": tf.zeros_like(thresholds)}
    return _keras_cv("Solarization", images, draw)


def posterize(images, strength):
    """Keeps the 8 to 4 highest bits of every grey value."""
    import tensorflow as tf

    dropped = tf.cast(tf.round(4.0 * tf.abs(strength)), tf.uint8)[:, None, None, None]
    return tf.bitwise.left_shift(tf.bitwise.right_shift(images, dropped), dropped)


def auto_contrast(images, strength):
    """Stretches the grey values of each channel to 0 to 255."""
    return _keras_cv("AutoContrast", images, None)


def equalize(images, strength):
    """Spreads the grey values of each channel evenly over 0 to 255.

    The layers of Keras and keras-cv take the rarest grey value where Pillow takes the
    brightest, which shows on images with a white background.
    """
    import tensorflow as tf

    height, width = images.shape[1:3]
    pixels = height * width
    # One row for each channel of each image.
    rows = tf.reshape(
        tf.transpose(tf.cast(images, tf.int32), [0, 3, 1, 2]), [-1, pixels]
    )
    histogram = tf.math.bincount(rows, minlength=256, maxlength=256, axis=-1)
    brightest = tf.reduce_max(rows, axis=-1)
    rarer = tf.gather(histogram, brightest, batch_dims=1)[:, None]
    step = (pixels - rarer) // 255
    below = tf.cumsum(histogram, axis=-1, exclusive=True)
    spread = tf.minimum((below + step // 2) // tf.maximum(step, 1), 255)
    # Too few grey values to spread: the image stays.
    table = tf.where(step > 0, spread, tf.range(256))
    rows = tf.cast(tf.gather(table, rows, batch_dims=1), tf.uint8)
    channels = tf.reshape(rows, [-1, images.shape[3], height, width])
    return tf.transpose(channels, [0, 2, 3, 1])


@functools.cache
def _keras_cv_layer(name):
    from keras_cv import layers

    # float32 also where training is in mixed precision.
    options = {
        "AutoContrast": {"value_range": (0, 255)},
        "RandomColorDegeneration": {"factor": 0.0},
        "RandomSharpness": {"value_range": (0, 255), "factor": 0.0},
        "Solarization": {"value_range": (0, 255)},
    }[name]
    return getattr(layers, name)(dtype="float32", **options)


def _keras_cv(name, images, draw):
    """Applies a keras-cv layer with a draw of ours in place of its own."""
    import tensorflow as tf

    if isinstance(draw, tf.Tensor):
        draw = draw[:, None, None, None]
    changed = _keras_cv_layer(name).augment_images(
        tf.cast(images, tf.float32), transformations=draw
    )
    return tf.cast(changed, tf.uint8)


OPERATIONS = {
    "shear_y": shear_y,
    "translate_x": translate_x,
    "translate_y": translate_y,
    "rotate": rotate,
    "brightness": brightness,
    "contrast": contrast,
    "color": color,
    "sharpness": sharpness,
    "invert": invert,
    "solarize": solarize,
    "posterize": posterize,
    "auto_contrast": auto_contrast,
    "equalize": equalize,
}
