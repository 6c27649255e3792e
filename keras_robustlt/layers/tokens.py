"""What a vision transformer learns beside its blocks: one token, and positions."""

import keras
from keras import ops

__all__ = ["ClassToken", "PositionEmbedding"]


class _OfTokens(keras.layers.Layer):
    """A layer that takes sequences, `(batch, length, width)`, and nothing else."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.input_spec = keras.layers.InputSpec(ndim=3)


@keras.saving.register_keras_serializable(package="keras_robustlt")
class ClassToken(_OfTokens):
    """Puts a learned token before each sequence.

    Attention collects there what the classifier needs. The token starts normally
    distributed with standard deviation 0.02.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        tokens: Float tensor `(batch, length, width)`.

    Returns:
        A tensor `(batch, 1 + length, width)`.

    Example:

    >>> layer = krl.layers.ClassToken()
    >>> layer.build((None, 1, 2))
    >>> layer.set_weights([np.array([[[1.0, 2.0]]])])
    >>> layer(np.array([[[7.0, 8.0]]]))
    array([[[1., 2.],
            [7., 8.]]], dtype=float32)

    Reference:

    - [Dosovitskiy et al., 2020](https://arxiv.org/abs/2010.11929), equation 1.
    """

    def build(self, input_shape):
        self.token = self.add_weight(
            shape=(1, 1, input_shape[-1]),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="token",
        )

    def call(self, tokens):
        token = ops.cast(self.token, tokens.dtype)
        token = ops.tile(token, (ops.shape(tokens)[0], 1, 1))
        return ops.concatenate([token, tokens], axis=1)

    def compute_output_shape(self, input_shape):
        batch, length, width = input_shape
        return (batch, None if length is None else 1 + length, width)


@keras.saving.register_keras_serializable(package="keras_robustlt")
class PositionEmbedding(_OfTokens):
    """Adds a learned vector to each token, another one at each position.

    The vectors start normally distributed with standard deviation 0.02.

    Args:
        **kwargs: Arguments of `keras.layers.Layer`.

    Call arguments:
        tokens: Float tensor `(batch, length, width)`; its length is the one that the
            layer is built with.

    Returns:
        A tensor like `tokens`.

    Raises:
        ValueError: If the length of the sequences is not known.

    Example:

    >>> layer = krl.layers.PositionEmbedding()
    >>> layer.build((None, 2, 1))
    >>> layer.set_weights([np.array([[[10.0], [20.0]]])])
    >>> layer(np.array([[[1.0], [2.0]]]))
    array([[[11.],
            [22.]]], dtype=float32)

    Reference:

    - [Dosovitskiy et al., 2020](https://arxiv.org/abs/2010.11929), equation 1.
    """

    def build(self, input_shape):
        length, width = input_shape[1:]
        if length is None:
            raise ValueError(
                "The length of the sequences must be known, since each position has a "
                f"weight of its own. Received: input_shape={tuple(input_shape)}"
            )
        self.embedding = self.add_weight(
            shape=(1, length, width),
            initializer=keras.initializers.RandomNormal(stddev=0.02),
            name="embedding",
        )

    def call(self, tokens):
        # Added to tokens of another number, it would be repeated without a word.
        if tuple(tokens.shape[1:]) != tuple(self.embedding.shape[1:]):
            raise ValueError(
                f"The sequences must have the shape {tuple(self.embedding.shape[1:])} "
                f"that the layer was built for. Received: {tuple(tokens.shape[1:])}"
            )
        return tokens + ops.cast(self.embedding, tokens.dtype)

    def compute_output_shape(self, input_shape):
        return input_shape
