"""Residual networks for small images: the first layer keeps the resolution."""

import keras

from keras_robustlt import checks
from keras_robustlt.networks import parts


def ResNet18(
    classes=10,
    input_shape=(32, 32, 3),
    mean=parts.CIFAR10_MEAN,
    std=parts.CIFAR10_STD,
    head="linear",
    name="resnet18",
):
    """Builds a ResNet-18 for small images (11.2 million parameters).

    Its first layer is a 3x3 convolution with stride 1, without max-pooling. Initial
    weights follow `keras.utils.set_random_seed`.

    Args:
        classes: Integer, the number of classes. Defaults to `10`.
        input_shape: Tuple (height, width, channels). Defaults to `(32, 32, 3)`.
        mean: Float or one float a channel, subtracted from the images, which are
            expected in [0, 1]. Defaults to the mean of CIFAR-10.
        std: Float or one float a channel, by which the centered images are
            divided. Defaults to the standard deviation of CIFAR-10.
        head: String, `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer, which
            maps the features to logits; see `krl.layers.CosineClassifier` and
            `CosPlusClassifier`. Defaults to `"linear"`.
        name: String, the name of the model. Defaults to `"resnet18"`.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in
        [0, 1] to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    network = krl.networks.ResNet18(classes=100)
    ```

    Reference:

    - [He et al., 2015](https://arxiv.org/abs/1512.03385), Section 4.
    """
    return _resnet(
        _basic_block, (2, 2, 2, 2), _WIDTHS, classes, input_shape, mean, std, head, name
    )


def PreActResNet18(
    classes=10,
    input_shape=(32, 32, 3),
    mean=parts.CIFAR10_MEAN,
    std=parts.CIFAR10_STD,
    head="linear",
    name="preact_resnet18",
):
    """Builds a ResNet-18 with pre-activation blocks (11.2 million parameters).

    As `ResNet18`, but each convolution is normalized and rectified before it, not
    after, and so are the feature maps before they are pooled. Shortcuts that change
    the shape are 1x1 convolutions of the rectified maps, not normalized.

    Args:
        classes: Integer, the number of classes. Defaults to `10`.
        input_shape: Tuple (height, width, channels). Defaults to `(32, 32, 3)`.
        mean: Float or one float a channel, subtracted from the images, which are
            expected in [0, 1]. Defaults to the mean of CIFAR-10.
        std: Float or one float a channel, by which the centered images are
            divided. Defaults to the standard deviation of CIFAR-10.
        head: String, `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer, which
            maps the features to logits; see `krl.layers.CosineClassifier` and
            `CosPlusClassifier`. Defaults to `"linear"`.
        name: String, the name of the model. Defaults to `"preact_resnet18"`.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in
        [0, 1] to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    network = krl.networks.PreActResNet18(classes=100)
    ```

    Reference:

    - [He et al., 2016](https://arxiv.org/abs/1603.05027), Section 3.
    """
    parts.check_arguments(classes, input_shape, head)
    inputs, x = parts.normalized_input(input_shape, mean, std)
    x = parts.convolution(x, _WIDTHS[0], 3)
    for stage, width in enumerate(_WIDTHS):
        x = parts.preactivation_block(x, width, strides=1 if stage == 0 else 2)
        x = parts.preactivation_block(x, width)
    features = parts.pooled_features(parts.batchnorm_relu(x))
    logits = parts.classifier(features, classes, head)
    return keras.Model(inputs, logits, name=name)


def ResNet34(
    classes=10,
    input_shape=(32, 32, 3),
    mean=parts.CIFAR10_MEAN,
    std=parts.CIFAR10_STD,
    head="linear",
    name="resnet34",
):
    """Builds a ResNet-34 for small images (21.3 million parameters).

    As `ResNet18`, with 3, 4, 6 and 3 blocks in its four stages.

    Args:
        classes: Integer, the number of classes. Defaults to `10`.
        input_shape: Tuple (height, width, channels). Defaults to `(32, 32, 3)`.
        mean: Float or one float a channel, subtracted from the images, which are
            expected in [0, 1]. Defaults to the mean of CIFAR-10.
        std: Float or one float a channel, by which the centered images are
            divided. Defaults to the standard deviation of CIFAR-10.
        head: String, `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer, which
            maps the features to logits; see `krl.layers.CosineClassifier` and
            `CosPlusClassifier`. Defaults to `"linear"`.
        name: String, the name of the model. Defaults to `"resnet34"`.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in
        [0, 1] to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    network = krl.networks.ResNet34(classes=20, input_shape=(64, 64, 3))
    ```

    Reference:

    - [He et al., 2015](https://arxiv.org/abs/1512.03385), Section 4.
    """
    return _resnet(
        _basic_block, (3, 4, 6, 3), _WIDTHS, classes, input_shape, mean, std, head, name
    )


def ResNet50(
    classes=10,
    input_shape=(32, 32, 3),
    mean=parts.CIFAR10_MEAN,
    std=parts.CIFAR10_STD,
    head="linear",
    name="resnet50",
):
    """Builds a ResNet-50 for small images (23.5 million parameters).

    As `ResNet34`, with bottleneck blocks, whose outputs have four times as many
    channels as their 3x3 convolution.

    Args:
        classes: Integer, the number of classes. Defaults to `10`.
        input_shape: Tuple (height, width, channels). Defaults to `(32, 32, 3)`.
        mean: Float or one float a channel, subtracted from the images, which are
            expected in [0, 1]. Defaults to the mean of CIFAR-10.
        std: Float or one float a channel, by which the centered images are
            divided. Defaults to the standard deviation of CIFAR-10.
        head: String, `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer, which
            maps the features to logits; see `krl.layers.CosineClassifier` and
            `CosPlusClassifier`. Defaults to `"linear"`.
        name: String, the name of the model. Defaults to `"resnet50"`.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in
        [0, 1] to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    network = krl.networks.ResNet50()
    ```

    Reference:

    - [He et al., 2015](https://arxiv.org/abs/1512.03385), Section 4.
    """
    return _resnet(
        _bottleneck_block,
        (3, 4, 6, 3),
        _WIDTHS,
        classes,
        input_shape,
        mean,
        std,
        head,
        name,
    )


def SmallResNet(
    classes=10,
    input_shape=(8, 8, 1),
    mean=0.0,
    std=1.0,
    widths=(32, 64, 128),
    head="linear",
    name="small_resnet",
):
    """Builds a residual network for tiny images, such as 8x8 digits.

    As `ResNet18`, with one basic block a stage: 0.3 million parameters in three
    stages of 32, 64 and 128 channels. With half the channels it trains about three
    times as fast on a processor.

    Args:
        classes: Integer, the number of classes. Defaults to `10`.
        input_shape: Tuple (height, width, channels). Defaults to `(8, 8, 1)`.
        mean: Float or one float a channel, subtracted from the images, which are
            expected in [0, 1]. Defaults to `0.0`.
        std: Float or one float a channel, by which the centered images are
            divided. Defaults to `1.0`.
        widths: Tuple of integers, the channels of each stage; every stage but the
            first halves the resolution. Defaults to `(32, 64, 128)`.
        head: String, `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer, which
            maps the features to logits; see `krl.layers.CosineClassifier` and
            `CosPlusClassifier`. Defaults to `"linear"`.
        name: String, the name of the model. Defaults to `"small_resnet"`.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in
        [0, 1] to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    network = krl.networks.SmallResNet()
    ```

    Reference:

    - [He et al., 2015](https://arxiv.org/abs/1512.03385), Section 4.
    """
    if not isinstance(widths, (tuple, list)) or not widths:
        raise ValueError(
            "`widths` must be positive integers, one a stage, such as (16, 32, 64). "
            f"Received: widths={widths!r}"
        )
    widths = [checks.positive_integer("widths", width) for width in widths]
    repeats = (1,) * len(widths)
    return _resnet(
        _basic_block, repeats, widths, classes, input_shape, mean, std, head, name
    )


_WIDTHS = (64, 128, 256, 512)


def _resnet(block, repeats, widths, classes, input_shape, mean, std, head, name):
    parts.check_arguments(classes, input_shape, head)
    inputs, x = parts.normalized_input(input_shape, mean, std)
    x = parts.batchnorm_relu(parts.convolution(x, widths[0], 3))
    for stage, (count, width) in enumerate(zip(repeats, widths, strict=True)):
        x = block(x, width, strides=1 if stage == 0 else 2)
        for _ in range(count - 1):
            x = block(x, width, strides=1)
    logits = parts.classifier(parts.pooled_features(x), classes, head)
    return keras.Model(inputs, logits, name=name)


def _basic_block(x, width, strides):
    residual = parts.batchnorm_relu(parts.convolution(x, width, 3, strides))
    residual = parts.convolution(residual, width, 3)
    return _add_shortcut(x, residual, strides)


def _bottleneck_block(x, width, strides):
    residual = parts.batchnorm_relu(parts.convolution(x, width, 1))
    residual = parts.batchnorm_relu(parts.convolution(residual, width, 3, strides))
    residual = parts.convolution(residual, 4 * width, 1)
    return _add_shortcut(x, residual, strides)


def _add_shortcut(x, residual, strides):
    residual = parts.BatchNormalization()(residual)
    filters = residual.shape[-1]
    if strides > 1 or x.shape[-1] != filters:
        x = parts.BatchNormalization()(parts.convolution(x, filters, 1, strides))
    return keras.layers.ReLU()(keras.layers.Add()([x, residual]))
