"""What a norm means to an attack: where it starts, how it steps, where it may be.

All take and give perturbations of shape `(batch, ...)`; budgets and lengths have the
shape `(batch, 1, ...)`.
"""

import math

import keras
from keras import ops

from keras_robustlt import checks


class Linf:
    """Every pixel moves by at most epsilon."""

    def random(self, shape, epsilon, seed):
        """Uniform in the ball."""
        return epsilon * keras.random.uniform(shape, -1.0, 1.0, seed=seed)

    def steepest(self, gradient):
        """The perturbation of length 1 that raises the loss most."""
        return ops.sign(gradient)

    def project(self, perturbation, epsilon):
        """The nearest perturbation in the ball."""
        return ops.clip(perturbation, -epsilon, epsilon)


class L2:
    """The Euclidean length over all pixels of an image is at most epsilon."""

    def random(self, shape, epsilon, seed):
        direction = self.steepest(keras.random.normal(shape, seed=seed))
        dimensions = math.prod(shape[1:])
        radii_shape = (shape[0],) + (1,) * (len(shape) - 1)
        radii = keras.random.uniform(radii_shape, seed=seed)
        return epsilon * direction * radii ** (1.0 / dimensions)

    def steepest(self, gradient):
        return gradient / ops.maximum(self._length(gradient), 1e-12)

    def project(self, perturbation, epsilon):
        length = ops.maximum(self._length(perturbation), 1e-12)
        return perturbation * ops.minimum(1.0, epsilon / length)

    def _length(self, x):
        axes = tuple(range(1, len(x.shape)))
        return ops.sqrt(ops.sum(ops.square(x), axis=axes, keepdims=True))


NORMS = {"linf": Linf(), "l2": L2()}


def get(norm):
    """The norm called `norm`."""
    return NORMS[checks.one_of("norm", norm, tuple(NORMS))]
