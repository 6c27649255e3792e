"""What a norm means to an attack: where it starts, how it steps, where it may be.

All take and give perturbations of shape `(batch, ...)`; budgets and lengths have the
shape `(batch, 1, ...)`. `draw` alone is of NumPy, and of one image.
"""

import math

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks


class Linf:
    """Every pixel moves by at most epsilon."""

    epsilon = 8 / 255  # what is usual
    least = 0.5 / 255  # what pixels of 8 bits are rounded by

    def random(self, shape, seed):
        """Perturbations of length 1 or less, uniform among these."""
        return keras.random.uniform(shape, -1.0, 1.0, "float32", seed)

    def draw(self, generator, shape):
        """A random perturbation of one image, of length 1."""
        noise = generator.uniform(-1.0, 1.0, shape).astype("float32")
        return noise / np.abs(noise).max()

    def steepest(self, gradient):
        """The perturbation of length 1 that raises the loss most."""
        return ops.sign(gradient)

    def project(self, perturbation, epsilon):
        """The nearest perturbation in the ball."""
        return ops.clip(perturbation, -epsilon, epsilon)

    def confine(self, x, epsilon):
        """A function that brings points into the ball around `x` and into [0, 1]."""
        low = ops.maximum(x - epsilon, 0.0)
        high = ops.minimum(x + epsilon, 1.0)
        return lambda point: ops.minimum(ops.maximum(point, low), high)

    def length(self, perturbation):
        return ops.max(ops.abs(perturbation), axis=pixels(perturbation), keepdims=True)

    def pace(self, weights):
        """How fast each pixel moves on the way to a plane, see `fab.to_plane`."""
        return ops.ones_like(weights)


class L2:
    """The Euclidean length over all pixels of an image is at most epsilon."""

    epsilon = 128 / 255
    least = 0.05  # what is usual for each pixel in Linf is below

    def random(self, shape, seed):
        noise = keras.random.normal(shape, dtype="float32", seed=seed)
        direction = self.steepest(noise)
        dimensions = math.prod(shape[1:])
        radii_shape = (shape[0],) + (1,) * (len(shape) - 1)
        radii = keras.random.uniform(radii_shape, 0.0, 1.0, "float32", seed)
        return direction * radii ** (1.0 / dimensions)

    def draw(self, generator, shape):
        noise = generator.standard_normal(shape, "float32")
        return noise / np.sqrt(np.sum(np.square(noise)))

    def steepest(self, gradient):
        # The squares of very large and of very small gradients leave float32.
        largest = ops.max(ops.abs(gradient), axis=pixels(gradient), keepdims=True)
        gradient = gradient / ops.maximum(largest, 1e-30)
        return gradient / ops.maximum(self.length(gradient), 1e-12)

    def project(self, perturbation, epsilon):
        length = ops.maximum(self.length(perturbation), 1e-12)
        return perturbation * ops.minimum(1.0, epsilon / length)

    def confine(self, x, epsilon):
        # Clipping moves no pixel away from that of `x`.
        return lambda point: ops.clip(x + self.project(point - x, epsilon), 0.0, 1.0)

    def length(self, perturbation):
        squares = ops.square(perturbation)
        return ops.sqrt(ops.sum(squares, axis=pixels(perturbation), keepdims=True))

    def pace(self, weights):
        return ops.abs(weights)


NORMS = {"linf": Linf(), "l2": L2()}


def get(norm):
    """The norm called `norm`."""
    return NORMS[checks.one_of("norm", norm, tuple(NORMS))]


def epsilon(value, norm):
    """The radius `value`, or that which is usual in this norm where it is `None`."""
    return checks.epsilon(get(norm).epsilon if value is None else value, norm)


def doubt(epsilon, norm):
    """What speaks against a radius that is nothing or next to it, or `None`."""
    if epsilon >= get(norm).least:
        return None
    if epsilon == 0:
        return (
            "epsilon=0 is no budget: nothing is attacked, and accuracy under attack is "
            "that on clean images. (In Python 8 // 255 is 0; write 8 / 255.)"
        )
    what = (
        "less than half a grey level of images of 8 bits: is it divided by 255 twice?"
        if norm == "linf"
        else "next to nothing in L2, over all pixels together, where 128/255 is usual."
    )
    return (
        f"epsilon={epsilon:.3g} ({norm}) is {what} What survives it says nothing about "
        "robustness."
    )


def pixels(x):
    return tuple(range(1, len(x.shape)))
