"""Batch normalization as the published recipes have it, and fast on TensorFlow.

Adversarial training passes each batch through the network a dozen times in
training mode, so that normalization costs as much time as the convolutions where it
is not one fused operation. Its statistics also enter every evaluation: the recipes
average the unbiased variance of the batches, Keras the biased one.
"""

import keras
from keras import ops

from keras_robustlt import checks

__all__ = ["BatchNormalization"]


@keras.saving.register_keras_serializable(package="keras_robustlt")
class BatchNormalization(keras.layers.BatchNormalization):
    """Batch normalization with an unbiased moving variance.

    A training pass normalizes with the mean and the biased variance of the batch,
    and moves the averages as

    ```
    moving_mean = momentum * moving_mean + (1 - momentum) * mean
    moving_variance = (
        momentum * moving_variance + (1 - momentum) * n / (n - 1) * variance
    )
    ```

    with `n` values a channel. `keras.layers.BatchNormalization` leaves out the
    factor `n/(n-1)` and has other defaults (momentum 0.99, epsilon 0.001);
    everything else is the same: weights and their order, arguments, and the meaning
    of `training` and `trainable`. Weights can be exchanged between the two.

    On TensorFlow, training passes over batches of images with the channels last use
    TensorFlow's fused operation, in float32, bfloat16 and float16. With a mask,
    `renorm=True` or `synchronized=True` the layer does what the stock layer does,
    biased moving variance included.

    Args:
        axis: Integer, the axis of the channels. Defaults to `-1`.
        momentum: Float, the share of the moving averages that is kept at each
            step. Defaults to `0.9`.
        epsilon: Float, added to the variance before its root is taken. Defaults to
            `1e-5`.
        **kwargs: Further arguments of `keras.layers.BatchNormalization`.

    Call arguments:
        inputs: Tensor of any rank.
        training: Boolean, whether to normalize with the statistics of this batch
            and to update the moving averages. Defaults to `False`.
        mask: Boolean tensor with one dimension less than `inputs`, or `None`.

    Returns:
        A tensor like `inputs`, in the compute dtype of the layer.

    Example:

    ```python
    layer = krl.layers.BatchNormalization()
    outputs = layer(keras.random.normal((8, 4, 4, 3)), training=True)
    ```

    Reference:

    - [Ioffe and Szegedy, 2015](https://arxiv.org/abs/1502.03167), Algorithms 1, 2.
    """

    def __init__(self, axis=-1, momentum=0.9, epsilon=1e-5, **kwargs):
        momentum = checks.in_range("momentum", momentum, 0, 1)
        epsilon = checks.positive("epsilon", epsilon)
        super().__init__(axis=axis, momentum=momentum, epsilon=epsilon, **kwargs)

    def call(self, inputs, training=None, mask=None):
        uses_batch_statistics = training and self.trainable
        renorm = getattr(self, "renorm", False)  # Keras has it from 3.14 on
        if not uses_batch_statistics or (
            mask is not None or renorm or self.synchronized
        ):
            return super().call(inputs, training=training, mask=mask)
        if self._can_be_fused(inputs):
            outputs, mean, unbiased_variance = self._normalize_fused(inputs)
        else:
            outputs, mean, unbiased_variance = self._normalize(inputs)
        for moving, value in (
            (self.moving_mean, mean),
            (self.moving_variance, unbiased_variance),
        ):
            previous = ops.cast(moving, value.dtype)
            moving.assign(self.momentum * previous + (1 - self.momentum) * value)
        return ops.cast(outputs, self.compute_dtype)

    def _can_be_fused(self, inputs):
        """Whether TensorFlow's fused operation covers these inputs."""
        return (
            keras.backend.backend() == "tensorflow"
            and len(inputs.shape) == 4
            and self.axis in (-1, 3)
            and keras.backend.standardize_dtype(inputs.dtype)
            in ("float32", "bfloat16", "float16")
        )

    def _normalize_fused(self, inputs):
        """Returns outputs, batch mean and unbiased batch variance, fused."""
        import tensorflow as tf

        channels = (inputs.shape[-1],)
        gamma = self.gamma if self.scale else ops.ones(channels, "float32")
        beta = self.beta if self.center else ops.zeros(channels, "float32")
        return tf.compat.v1.nn.fused_batch_norm(
            inputs,
            scale=ops.cast(gamma, "float32"),
            offset=ops.cast(beta, "float32"),
            epsilon=self.epsilon,
            is_training=True,
        )

    def _normalize(self, inputs):
        """Returns outputs, batch mean and unbiased batch variance."""
        dtype = keras.backend.result_type(inputs.dtype, "float32")
        inputs = ops.cast(inputs, dtype)
        rank = len(inputs.shape)
        axes = [axis for axis in range(rank) if axis != self.axis % rank]
        mean, variance = ops.moments(inputs, axes=axes)
        outputs = ops.batch_normalization(
            inputs,
            mean,
            variance,
            axis=self.axis,
            offset=ops.cast(self.beta, dtype) if self.center else None,
            scale=ops.cast(self.gamma, dtype) if self.scale else None,
            epsilon=self.epsilon,
        )
        count = ops.cast(ops.size(inputs), dtype) / inputs.shape[self.axis]
        # A single value has variance 0, with any factor.
        unbiased_variance = variance * count / ops.maximum(count - 1, 1)
        return outputs, mean, unbiased_variance
