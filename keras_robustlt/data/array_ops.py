"""The array functions of the augmentations, for the three places where they run.

Augmentations are written once, as functions whose first argument is one of these:

- `device()`: functions of `keras.ops`, for the training step. Every image goes
  through everything, and shapes are static, as compilers for accelerators want it.
- `host()`: the same names from TensorFlow, for `tf.data`. There `keras.ops` works only
  if TensorFlow is the backend of Keras, and shapes may depend on the data, so that
  nothing is computed for images that do not need it.
- `arrays()`: the same from NumPy, for pipelines without TensorFlow; that nothing is
  computed in vain holds here too.

All but one are functions of `keras.ops` or do the same under its name. The one more is
`put_where(mask, result, function, *arguments)`: `function(*arguments)` for the images
in `mask`, `result` for the others. It is what lets a batch of images that all need
something else be computed fast in both places.
"""

import functools
import types

import numpy as np


@functools.cache
def device():
    """The functions on the backend of Keras; `put_where` computes all and selects."""
    from keras import ops

    def put_where(mask, result, function, *arguments):
        values = function(*arguments)
        over_pixels = (slice(None),) + (None,) * (len(result.shape) - 1)
        return ops.where(mask[over_pixels], values, result)

    return types.SimpleNamespace(**vars(ops), put_where=put_where)


@functools.cache
def host():
    """The functions in TensorFlow; `put_where` computes only what it puts."""
    import tensorflow as tf

    def put_where(mask, result, function, *arguments):
        places = tf.where(mask)
        values = function(*(tf.gather_nd(argument, places) for argument in arguments))
        return tf.tensor_scatter_nd_update(result, places, values)

    return types.SimpleNamespace(
        abs=tf.abs,
        arange=tf.range,
        cast=tf.cast,
        clip=tf.clip_by_value,
        cos=tf.cos,
        cumsum=tf.cumsum,
        floor=tf.floor,
        fori_loop=_fori_loop,
        left_shift=tf.bitwise.left_shift,
        max=tf.reduce_max,
        maximum=tf.maximum,
        min=tf.reduce_min,
        minimum=tf.minimum,
        ones_like=tf.ones_like,
        pad=tf.pad,
        put_where=put_where,
        reshape=tf.reshape,
        right_shift=tf.bitwise.right_shift,
        round=tf.round,
        segment_sum=tf.math.unsorted_segment_sum,
        shape=tf.shape,
        sin=tf.sin,
        stack=tf.stack,
        sum=tf.reduce_sum,
        take=tf.gather,
        where=tf.where,
    )


@functools.cache
def arrays():
    """The functions in NumPy; `put_where` computes only what it puts."""

    def cast(values, dtype):
        return np.asarray(values).astype(dtype)

    def put_where(mask, result, function, *arguments):
        places = np.flatnonzero(mask)
        if len(places):
            result = result.copy()
            result[places] = function(*(argument[places] for argument in arguments))
        return result

    def segment_sum(values, segments, num_segments):
        sums = np.bincount(segments, weights=values, minlength=num_segments)
        return sums.astype(values.dtype)

    names = (
        "abs arange clip cos cumsum floor left_shift max maximum min minimum ones_like "
        "pad reshape right_shift round shape sin stack sum take where"
    )
    return types.SimpleNamespace(
        **{name: getattr(np, name) for name in names.split()},
        cast=cast,
        fori_loop=_fori_loop,
        put_where=put_where,
        segment_sum=segment_sum,
    )


def _fori_loop(lower, upper, body, value):
    for index in range(lower, upper):
        value = body(index, value)
    return value
