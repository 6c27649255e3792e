"""Wide residual networks, the usual architecture of adversarial training."""

import keras

from keras_robustlt import checks
from keras_robustlt.networks import parts


def WideResNet(
    depth,
    width,
    classes=10,
    input_shape=(32, 32, 3),
    mean=parts.CIFAR10_MEAN,
    std=parts.CIFAR10_STD,
    head="linear",
    name=None,
):
    """Builds a wide residual network with pre-activation blocks.

    A 3x3 convolution to 16 channels is followed by three stages of
    `(depth - 4) / 6` blocks with `16 * width`, `32 * width` and `64 * width`
    channels, of which the second and the third halve the resolution. WRN-28-10 has
    36.5 million parameters, WRN-34-10 has 46.2 million. Initial weights follow
    `keras.utils.set_random_seed`.

    Args:
        depth: Integer, `6 n + 4` with `n` blocks a stage, such as 28 or 34.
        width: Integer of at least 1, the factor on the number of channels.
        classes: Integer, the number of classes. Defaults to `10`.
        input_shape: Tuple (height, width, channels). Defaults to `(32, 32, 3)`.
        mean: Float or one float a channel, subtracted from the images, which are
            expected in [0, 1]. Defaults to the mean of CIFAR-10.
        std: Float or one float a channel, by which the centered images are
            divided. Defaults to the standard deviation of CIFAR-10.
        head: String, `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer, which
            maps the features to logits; see `krl.layers.CosineClassifier` and
            `CosPlusClassifier`. Defaults to `"linear"`.
        name: String, the name of the model. Defaults to `"wrn_{depth}_{width}"`.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in
        [0, 1] to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    network = krl.networks.WideResNet(28, 10, classes=100)
    ```

    Reference:

    - [Zagoruyko and Komodakis, 2016](https://arxiv.org/abs/1605.07146), Table 1.
    """
    depth, width = check_size(depth, width)
    parts.check_arguments(classes, input_shape, head)

    inputs, x = parts.normalized_input(input_shape, mean, std)
    x = parts.convolution(x, 16, 3, initializer=parts.NORMAL_FAN_OUT)
    for filters, strides in ((16 * width, 1), (32 * width, 2), (64 * width, 2)):
        x = parts.preactivation_block(x, filters, strides, parts.NORMAL_FAN_OUT)
        for _ in range((depth - 4) // 6 - 1):
            x = parts.preactivation_block(x, filters, 1, parts.NORMAL_FAN_OUT)
    features = parts.pooled_features(parts.batchnorm_relu(x))
    logits = parts.classifier(features, classes, head)
    return keras.Model(inputs, logits, name=name or f"wrn_{depth}_{width}")


def check_size(depth, width):
    """Depth and width as integers, or a `ValueError`."""
    depth = checks.positive_integer("depth", depth)
    width = checks.positive_integer("width", width)
    if depth < 10 or (depth - 4) % 6 != 0:
        raise ValueError(
            "`depth` must be 6 n + 4 with n >= 1 blocks a stage, such as 10, 16, 22, "
            f"28 or 34. Received: depth={depth}"
        )
    return depth, width
