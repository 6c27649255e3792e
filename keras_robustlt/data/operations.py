"""The operations that AutoAugment and RandAugment choose from, on whole batches.

Each image has an operation of its own, with a strength of its own in `[-1, 1]` that
the operation scales to its range. Operations are of three kinds, and those of a kind
share their work, with other numbers for each image:

- moves: each pixel takes the nearest pixel of a slanted, shifted or turned image, all
  of them given by a matrix;
- blends: the image is mixed with a plainer version of itself, or driven away from it;
- tables: each grey value of a channel becomes another one.

Pixels are uint8 and the results are Pillow's, to the last pixel for moves and up to
one grey level elsewhere. They are whole numbers throughout, or are rounded with room
to spare, so that they do not depend on what a compiler does to the last digit of a
floating-point number. Pixels that move in from outside the image are black.

Functions take the array functions `xp` first; `array_ops.py` says why.

Reference:
    - [Cubuk et al., 2019](https://arxiv.org/abs/1805.09501): table 6 has the
      operations and their ranges.
"""

import functools
import math

import numpy as np

MOVES = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
BLENDS = ("brightness", "contrast", "color", "sharpness")
# The sign of the strength has no meaning for tables.
TABLES = ("invert", "solarize", "posterize", "auto_contrast", "equalize")
OPERATIONS = ("identity", *MOVES, *BLENDS, *TABLES)

MAX_SHEAR = 0.3  # pixels a pixel
MAX_TRANSLATION = 150 / 331  # of the width or height
MAX_DEGREES = 30.0
MAX_BLEND = 0.9  # from a factor of 1 to both sides
MAX_DROPPED_BITS = 4


def apply_operations(xp, images, operations, strengths):
    """Does to each image the operations chosen for it, one after the other.

    Args:
        xp: The array functions.
        images: uint8 tensor of shape `(batch, height, width, 3)`.
        operations: List of int32 tensors of shape `(batch,)`, indices into
            `OPERATIONS`.
        strengths: List of as many float32 tensors of shape `(batch,)`, from -1 to 1.

    Returns:
        uint8 tensor of the same shape as `images`.
    """
    operations, strengths = xp.stack(operations), xp.stack(strengths)

    def step(index, images):
        operation, strength = operations[index], strengths[index]
        result = images
        for names, function in ((MOVES, _move), (BLENDS, _blend), (TABLES, _look_up)):
            # Each from `images`: of a chain, compilers compute the first links anew
            # for each use.
            chosen = _one_of(operation, names)
            function = functools.partial(function, xp)
            result = xp.put_where(chosen, result, function, images, operation, strength)
        return result

    # A loop is compiled once for all steps.
    return xp.fori_loop(0, operations.shape[0], step, images)


def pixels_at(xp, images, rows, columns):
    """The pixels at `rows` and `columns`, black where these are outside the image.

    Args:
        xp: The array functions.
        images: Tensor of shape `(batch, height, width, channels)`.
        rows: int32 tensor of shape `(batch, height, width)`, or one that broadcasts.
        columns: The same.

    Returns:
        Tensor of the same shape and dtype as `images`.
    """
    _, height, width, channels = images.shape
    batch = xp.shape(images)[0]
    first = xp.reshape(xp.arange(batch) * (height * width), (-1, 1, 1))
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    index = first + xp.where(inside, rows * width + columns, 0)
    found = xp.take(xp.reshape(images, (-1, channels)), index, axis=0)
    return xp.where(inside[..., None], found, xp.cast(0, images.dtype))


def rotate(xp, images, degrees):
    """Turns each image counter-clockwise about its centre.

    Args:
        xp: The array functions.
        images: Tensor of shape `(batch, height, width, channels)`.
        degrees: float32 tensor of shape `(batch,)`.

    Returns:
        Tensor of the same shape and dtype as `images`.
    """
    return _affine(xp, images, *_rotation(xp, images, degrees))


def _is(operation, name):
    return operation == OPERATIONS.index(name)


def _one_of(operation, names):
    first = OPERATIONS.index(names[0])
    return (operation >= first) & (operation < first + len(names))


def _each(values):
    """A number an image, shaped to go with its pixels."""
    return values[:, None, None, None]


# Moves


def _move(xp, images, operation, strength):
    height, width = images.shape[1:3]

    def strength_of(name):
        return xp.where(_is(operation, name), strength, 0.0)

    def whole_pixels(name, size):
        pixels = xp.cast(strength_of(name) * (MAX_TRANSLATION * size), "int32")
        return xp.cast(pixels, "float32")  # cut off towards zero

    # What the other moves add to this matrix is zero.
    degrees = MAX_DEGREES * strength_of("rotate")
    xx, xy, x, yx, yy, y = _rotation(xp, images, degrees)
    xy += MAX_SHEAR * strength_of("shear_x")
    yx += MAX_SHEAR * strength_of("shear_y")
    x -= whole_pixels("translate_x", width)
    y -= whole_pixels("translate_y", height)
    return _affine(xp, images, xx, xy, x, yx, yy, y)


def _rotation(xp, images, degrees):
    height, width = images.shape[1:3]
    angle = degrees * (math.pi / 180)
    cos, sin = xp.cos(angle), xp.sin(angle)
    x = width / 2 * (1 - cos) + height / 2 * sin
    y = height / 2 * (1 - cos) - width / 2 * sin
    return cos, -sin, x, sin, cos, y


def _affine(xp, images, xx, xy, x, yx, yy, y):
    """Output `(u, v)` shows input `(xx u + xy v + x, yx u + yy v + y)`, the nearest.

    In these coordinates the centre of the first pixel is (.5, .5). They are kept in
    steps of 1/65536, as Pillow does, so that which pixel is the nearest does not hang
    on rounding where two are equally near.
    """
    height, width = images.shape[1:3]

    def steps(value):
        return xp.cast(xp.floor(value * 65536 + 0.5), "int32")[:, None, None]

    u, v = xp.arange(width)[None, None, :], xp.arange(height)[None, :, None]
    columns = steps(x + 0.5 * xx + 0.5 * xy) + steps(xx) * u + steps(xy) * v
    rows = steps(y + 0.5 * yx + 0.5 * yy) + steps(yx) * u + steps(yy) * v
    rows, columns = xp.right_shift(rows, 16), xp.right_shift(columns, 16)
    return pixels_at(xp, images, rows, columns)


# Blends: whole numbers as float32, which is exact up to 2**24.


def _blend(xp, images, operation, strength):
    images = xp.cast(images, "float32")
    gray = _gray(xp, images)
    plain = xp.where(_each(_is(operation, "contrast")), _mean(xp, gray), 0.0)
    plain = xp.where(_each(_is(operation, "color")), gray, plain)
    smooth = _smooth(xp, images)
    plain = xp.where(_each(_is(operation, "sharpness")), smooth, plain)
    mixed = plain + _each(1.0 + MAX_BLEND * strength) * (images - plain)
    # What is whole but for rounding stays so when the fraction is cut off.
    return xp.cast(xp.clip(xp.floor(mixed + 1e-4), 0.0, 255.0), "uint8")


def _gray(xp, images):
    red, green, blue = images[..., :1], images[..., 1:2], images[..., 2:]
    # Pillow's weights, in 1/65536.
    return xp.floor((19595 * red + 38470 * green + 7471 * blue + 2**15) / 2**16)


def _mean(xp, gray):
    pixels = math.prod(gray.shape[1:3])
    total = xp.sum(xp.cast(gray, "int32"), axis=(1, 2, 3), keepdims=True)
    return xp.cast((2 * total + pixels) // (2 * pixels), "float32")


def _smooth(xp, images):
    """The average of 3x3 pixels with the middle one five times; the border stays."""
    height, width = images.shape[1:3]
    border = [[0, 0], [1, 1], [1, 1], [0, 0]]
    rows = images[:, :-2] + images[:, 1:-1] + images[:, 2:]
    sums = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    sums = xp.pad(sums + 4.0 * images[:, 1:-1, 1:-1], border)
    inside = np.pad(np.ones((1, height - 2, width - 2, 1), bool), border)
    return xp.where(inside, xp.floor(sums / 13 + 0.5), images)


# Tables: int32, of shape (batch, channels, 256)


def _look_up(xp, images, operation, strength):
    batch, channels = xp.shape(images)[0], images.shape[3]
    images = xp.cast(images, "int32")
    # Where in all tables, one after the other, each pixel has its entry.
    first = xp.arange(batch)[:, None, None, None] * channels + xp.arange(channels)
    entries = first * 256 + images
    tables = _tables(xp, images, entries, operation, strength)
    changed = xp.take(xp.reshape(tables, (-1,)), entries, axis=0)
    return xp.cast(changed, "uint8")


def _tables(xp, images, entries, operation, strength):
    values = xp.arange(256)[None, None, :]
    strength = xp.abs(strength)[:, None, None]
    low = xp.min(images, axis=(1, 2))[:, :, None]
    high = xp.max(images, axis=(1, 2))[:, :, None]
    tables = {
        "invert": 255 - values,
        "solarize": _solarized(xp, values, strength),
        "posterize": _posterized(xp, values, strength),
        "auto_contrast": _stretched(xp, values, low, high),
        "equalize": _equalized(xp, values, high, _histogram(xp, images, entries)),
    }
    result = values
    for name, table in tables.items():
        result = xp.where(_is(operation, name)[:, None, None], table, result)
    return result


def _solarized(xp, values, strength):
    """Inverts the grey values from `256 (1 - strength)` on."""
    inverted = xp.cast(values, "float32") >= 256.0 * (1.0 - strength)
    return xp.where(inverted, 255 - values, values)


def _posterized(xp, values, strength):
    """Keeps the 8 to 4 highest bits."""
    dropped = xp.cast(xp.round(MAX_DROPPED_BITS * strength), "int32")
    return xp.left_shift(xp.right_shift(values, dropped), dropped)


def _stretched(xp, values, low, high):
    """Takes `low` and `high` to 0 and 255; a channel of one grey value stays."""
    table = xp.clip((values - low) * 255 // xp.maximum(high - low, 1), 0, 255)
    return xp.where(high > low, table, values)


def _equalized(xp, values, high, histogram):
    """Spreads the grey values so that each part of the scale is as frequent.

    What is left out of the count is the brightest grey value of the channel, as in
    Pillow.
    """
    pixels = xp.sum(histogram, axis=-1, keepdims=True)
    brightest = xp.where(values == high, histogram, 0)
    step = (pixels - xp.sum(brightest, axis=-1, keepdims=True)) // 255
    below = xp.cumsum(histogram, axis=-1) - histogram
    table = xp.minimum((below + step // 2) // xp.maximum(step, 1), 255)
    # Too few grey values to spread: the channel stays.
    return xp.where(step > 0, table, values)


def _histogram(xp, images, entries):
    batch, channels = xp.shape(images)[0], images.shape[3]
    entries = xp.reshape(entries, (-1,))
    counts = xp.segment_sum(
        xp.ones_like(entries), entries, num_segments=batch * channels * 256
    )
    return xp.reshape(counts, (-1, channels, 256))
