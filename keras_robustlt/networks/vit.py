"""Vision transformers for small images."""

import math

import keras

from keras_robustlt import checks
from keras_robustlt.layers import ClassToken, PositionEmbedding
from keras_robustlt.networks import parts


def ViT(
    classes=10,
    input_shape=(32, 32, 3),
    patch_size=None,
    width=192,
    depth=12,
    heads=3,
    mlp_ratio=4,
    dropout=0.0,
    mean=parts.CIFAR10_MEAN,
    std=parts.CIFAR10_STD,
    head="linear",
    name="vit",
):
    """Builds a vision transformer; as it stands, one of the shape of DeiT-tiny.

    The image is cut into patches, each of which becomes a token. A class token and
    the positions are learned. Each block adds to the tokens what the attention finds
    and what two dense layers make of it, both after a layer normalization. The
    features are the class token after a last one. With the defaults there are 5.4
    million parameters. Initial weights follow `keras.utils.set_random_seed`.

    Transformers are usually trained with clipped gradients: give the optimizer
    `global_clipnorm=1.0`.

    Args:
        classes: Integer, the number of classes. Defaults to `10`.
        input_shape: Tuple (height, width, channels). Defaults to `(32, 32, 3)`.
        patch_size: Integer, the height and width of a patch in pixels, which divides
            those of the image. Defaults to an eighth of the height of the image: 4
            for 32x32 pixels, 8 for 64x64.
        width: Integer, the number of channels of a token. Defaults to `192`.
        depth: Integer, the number of blocks. Defaults to `12`.
        heads: Integer, the number of attention heads, which divides `width`.
            Defaults to `3`.
        mlp_ratio: Integer, how many times as wide as a token the layer between the
            two dense layers of a block is. Defaults to `4`.
        dropout: Float in [0, 1), the share of values dropped after the position
            embedding, the attention and each dense layer. The attention weights
            themselves are kept. Defaults to `0.0`.
        mean: Float or one float a channel, subtracted from the images, which are
            expected in [0, 1]. Defaults to the mean of CIFAR-10.
        std: Float or one float a channel, by which the centered images are
            divided. Defaults to the standard deviation of CIFAR-10.
        head: String, `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer, which
            maps the features to logits; see `krl.layers.CosineClassifier` and
            `CosPlusClassifier`. Defaults to `"linear"`.
        name: String, the name of the model. Defaults to `"vit"`.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in
        [0, 1] to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range.

    Example:

    ```python
    network = krl.networks.ViT(width=48, depth=2)
    ```

    Reference:

    - [Dosovitskiy et al., 2020](https://arxiv.org/abs/2010.11929), Section 3.1.
    - [Touvron et al., 2020](https://arxiv.org/abs/2012.12877), Table 1.
    """
    parts.check_arguments(classes, input_shape, head)
    patch_size = _check_patches(patch_size, input_shape)
    width = checks.positive_integer("width", width)
    depth = checks.positive_integer("depth", depth)
    heads = checks.positive_integer("heads", heads)
    mlp_ratio = checks.positive_integer("mlp_ratio", mlp_ratio)
    if width % heads != 0:
        raise ValueError(
            "`heads` must divide `width`, as each head takes its part of the channels. "
            f"Received: heads={heads}, width={width}"
        )
    if checks.in_range("dropout", dropout, 0, 1) == 1:
        raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout}")

    inputs, x = parts.normalized_input(input_shape, mean, std)
    x = _patch_tokens(x, patch_size, width)
    tokens = x.shape[1]
    x = PositionEmbedding(name="position_embedding")(ClassToken(name="class_token")(x))
    x = _dropped(x, dropout)
    for _ in range(depth):
        x = _block(x, heads, mlp_ratio * width, dropout)
    x = keras.layers.Flatten()(keras.layers.Cropping1D((0, tokens))(x))
    features = keras.layers.LayerNormalization(
        epsilon=1e-6, dtype="float32", name="features"
    )(x)
    if head == "linear":
        head = _dense(int(classes), dtype="float32", name="logits")
    return keras.Model(inputs, parts.classifier(features, classes, head), name=name)


def _check_patches(patch_size, input_shape):
    """Returns the size of the patches, if they cover the image."""
    height, width, _ = input_shape
    if height is None or width is None:
        raise ValueError(
            "`input_shape` must have a known height and width: each patch has a "
            f"position of its own. Received: input_shape={input_shape}"
        )
    if patch_size is None:
        patch_size = max(height // 8, 1)
    size = checks.positive_integer("patch_size", patch_size)
    if height % size or width % size:
        raise ValueError(
            "`patch_size` must divide the height and width of the image. Received: "
            f"patch_size={size}, input_shape={input_shape}"
        )
    return size


def _patch_tokens(x, patch_size, width):
    """Maps each patch to a token, row by row."""
    # PyTorch's initial weights of a convolution, which those of DeiT are too.
    bound = 1 / math.sqrt(patch_size**2 * x.shape[-1])
    x = keras.layers.Conv2D(
        width,
        patch_size,
        strides=patch_size,
        kernel_initializer=keras.initializers.VarianceScaling(**parts.UNIFORM_FAN_IN),
        bias_initializer=keras.initializers.RandomUniform(-bound, bound),
        name="patches",
    )(x)
    return keras.layers.Reshape((-1, width))(x)


def _block(x, heads, hidden, dropout):
    width = x.shape[-1]
    # Its softmax is in float32 under every policy, which would no longer be so if
    # the layer itself dropped attention weights.
    attention = keras.layers.MultiHeadAttention(
        heads, width // heads, kernel_initializer=_normal()
    )
    normalized = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    residual = attention(normalized, normalized)
    x = keras.layers.Add()([x, _dropped(residual, dropout)])

    residual = keras.layers.LayerNormalization(epsilon=1e-6)(x)
    residual = _dropped(_dense(hidden, activation="gelu")(residual), dropout)
    residual = _dropped(_dense(width)(residual), dropout)
    return keras.layers.Add()([x, residual])


def _dropped(x, rate):
    return keras.layers.Dropout(rate)(x) if rate else x


def _dense(units, **arguments):
    return keras.layers.Dense(units, kernel_initializer=_normal(), **arguments)


def _normal():
    # Truncated at 100 standard deviations in DeiT, which is not at all.
    return keras.initializers.RandomNormal(stddev=0.02)
