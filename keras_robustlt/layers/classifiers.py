"""Classifiers that look at the direction of the features, not at their length.

The logits of a dense layer are `|f| |w_c| cos(f, w_c)`. In long-tailed training the
class vectors `w_c` of frequent classes grow longer, which alone makes these classes
win, and an attack can gain by shortening the features `f`. Both lengths are divided
out here, and a fixed scale takes their place.

Logits of a fixed scale can look more robust to PGD than they are: report AutoAttack
for networks with such a head.
"""

import keras
from keras import ops

from keras_robustlt import checks

__all__ = ["CosPlusClassifier", "CosineClassifier"]


@keras.saving.register_keras_serializable(package="keras_robustlt")
class CosineClassifier(keras.layers.Layer):
    """Maps features to scaled cosines, one for each class.

    ```
    logits = scale * (f / |f|) . (w_c / |w_c|)
    ```

    There is no bias. Features that are all zero have no direction: their logits are 0,
    and the gradients finite. The layer computes in float32 under every policy.

    Args:
        units: Integer, the number of classes.
        scale: Float, the largest value that a logit can take. Defaults to `16.0`.
        dtype: Data type or policy of weights and computation. Defaults to
            `"float32"`.
        **kwargs: Further arguments of `keras.layers.Layer`.

    Call arguments:
        features: Float tensor `(batch, channels)`.

    Returns:
        A tensor of logits `(batch, units)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> layer = krl.layers.CosineClassifier(2, scale=10.0)
    >>> layer.build((None, 2))
    >>> layer.set_weights([np.array([[5.0, 0.0], [0.0, 1.0]])])
    >>> layer(np.array([[3.0, 4.0], [0.0, 0.0]]))
    array([[6., 8.],
           [0., 0.]], dtype=float32)

    Reference:

    - [Gidaris and Komodakis, 2018](https://arxiv.org/abs/1804.09458), Section 3.2.
    """

    def __init__(self, units, scale=16.0, dtype="float32", **kwargs):
        super().__init__(dtype=dtype, **kwargs)
        self.units = checks.positive_integer("units", units)
        self.scale = checks.in_range("scale", scale, 0, float("inf"))
        if self.scale == 0:
            raise ValueError(
                "`scale` must be positive: the logits are at most as large. "
                f"Received: scale={scale}"
            )

    def build(self, input_shape):
        self.input_spec = keras.layers.InputSpec(axes={-1: input_shape[-1]})
        self._kernel = self.add_weight(
            shape=(input_shape[-1], self.units),
            # Uniform in +-1/sqrt(channels).
            initializer=keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform"),
            name="kernel",
        )

    @property
    def kernel(self):
        if not self.built:
            raise AttributeError(
                f"{self.name!r} has class vectors once it is built: call it, or "
                "`build((None, channels))`. Received: a layer that is not built"
            )
        return self._kernel

    def class_vectors(self):
        """Returns the kernel as it enters the logits, one column a class."""
        return self.kernel / _length(self.kernel, axis=0)

    def directions(self, features):
        """Returns the features as they enter the logits."""
        return features / _length(features, axis=-1)

    def call(self, features):
        return self.scale * ops.matmul(self.directions(features), self.class_vectors())

    def compute_output_shape(self, input_shape):
        return (*input_shape[:-1], self.units)

    def get_config(self):
        return {**super().get_config(), "units": self.units, "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class CosPlusClassifier(CosineClassifier):
    """Maps features to nearly cosines: RoBal's scale-invariant classifier.

    ```
    logits = scale * (f / |f|**eta) . (w_c / (|w_c|**eta + gamma))
    ```

    With `gamma` above 0, a class vector gains from growing, and the more the shorter
    it is. Everything else is as in `CosineClassifier`, which this is with `gamma=0`
    and `eta=1`. RoBal's loss brings its own scale; for cross-entropy, logits within
    -1 and 1 are too small, and a scale like 16 is right.

    Args:
        units: Integer, the number of classes.
        scale: Float, the factor on the logits. Defaults to `1.0`.
        gamma: Float of at least 0, added to the length of the class vectors.
            Defaults to `1/32`.
        eta: Float of at least 0, the share of the length that is divided out: `1` is
            all of it, `0` none. Defaults to `1.0`.
        dtype: Data type or policy of weights and computation. Defaults to
            `"float32"`.
        **kwargs: Further arguments of `keras.layers.Layer`.

    Call arguments:
        features: Float tensor `(batch, channels)`.

    Returns:
        A tensor of logits `(batch, units)`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> layer = krl.layers.CosPlusClassifier(2, gamma=1.0)
    >>> layer.build((None, 2))
    >>> layer.set_weights([np.array([[1.0, 0.0], [0.0, 3.0]])])
    >>> layer(np.array([[3.0, 4.0]]))
    array([[0.3, 0.6]], dtype=float32)

    Reference:

    - [Wu et al., 2021](https://arxiv.org/abs/2104.02703), Section 4.
    """

    def __init__(
        self, units, scale=1.0, gamma=1 / 32, eta=1.0, dtype="float32", **kwargs
    ):
        super().__init__(units, scale=scale, dtype=dtype, **kwargs)
        self.gamma = checks.in_range("gamma", gamma, 0, float("inf"))
        self.eta = checks.in_range("eta", eta, 0, float("inf"))

    def class_vectors(self):
        return self.kernel / (_length(self.kernel, axis=0) ** self.eta + self.gamma)

    def directions(self, features):
        return features / _length(features, axis=-1) ** self.eta

    def get_config(self):
        return {**super().get_config(), "gamma": self.gamma, "eta": self.eta}


def _length(vectors, axis):
    """Euclidean length, or 1 for vectors too short to divide by it."""
    squared = ops.sum(ops.square(vectors), axis=axis, keepdims=True)
    # The gradient of the root at 0 is not finite; where nothing is to be divided, the
    # root is not taken. Below 1e-12 the gradient would leave the range of float32.
    return ops.sqrt(ops.where(squared > 1e-24, squared, 1.0))
