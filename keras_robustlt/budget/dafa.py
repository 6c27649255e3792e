import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.budget.base import Budget


def class_distance_weights(confusion, strength=1.0):
    """Weights that move from easy classes to the hard ones that resemble them.

    For each pair of classes, the one that is recognised less (`p_i(i) < p_j(j)`) gains
    `strength p_i(j)` and the other one loses as much: the mean stays 1.

    Args:
        confusion: Float tensor `(num_classes, num_classes)`: row `i` holds the mean
            probabilities that the network gives to images of class `i`.
        strength: Float. Defaults to `1`.

    Returns:
        A float32 tensor of shape `(num_classes,)`.

    Example:

    >>> krl.budget.class_distance_weights([[0.5, 0.5], [0.1, 0.9]])
    array([1.5, 0.5], dtype=float32)

    Reference:
        Lee et al., "DAFA: Distance-Aware Fair Adversarial Training", ICLR 2024.
    """
    confusion = ops.cast(confusion, "float32")
    recognised = ops.diagonal(confusion)
    harder = ops.cast(recognised[:, None] < recognised[None, :], "float32")
    gain = strength * harder * confusion
    return 1.0 + ops.sum(gain, axis=1) - ops.sum(gain, axis=0)


@keras.saving.register_keras_serializable(package="keras_robustlt")
class DAFA(Budget):
    """Distance-aware fair adversarial training: class weights from confusions.

    Training begins with the uniform budget. In the last epoch of that warm-up the
    probabilities that the network gives to the adversarial images of each class are
    averaged, and from then on `class_distance_weights` of these multiply the budget
    and the loss of each class.

    Args:
        strength: Float, not negative. Defaults to `1`.
        start: Float in `[0, 1]`. Share of training that is warm-up, of one epoch at
            least. Defaults to `0.64`, 70 epochs of 110.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, budget="dafa")

    Reference:
        Lee et al., "DAFA: Distance-Aware Fair Adversarial Training", ICLR 2024.
    """

    def __init__(self, strength=1.0, start=0.64):
        self.strength = checks.in_range("strength", strength, 0, np.inf)
        self.start = checks.in_range("start", start, 0, 1)

    def build(self, model):
        super().build(model)
        self._schedule = model.schedule
        classes = model.num_classes

        def weight(name, shape):
            return model.add_weight(
                shape, "zeros", trainable=False, name=f"dafa_{name}"
            )

        self.probabilities = weight("probabilities", (classes, classes))
        self.seen = weight("seen", (classes,))

    def update(self, targets, logits):
        t, _ = self._schedule.position("epoch")
        watching = ops.cast(ops.equal(t, self._warmup(self._schedule)), "float32")
        self.probabilities.assign_add(
            watching * ops.matmul(ops.transpose(targets), ops.softmax(logits))
        )
        self.seen.assign_add(watching * ops.sum(targets, axis=0))

    def class_weight(self, schedule):
        seen = ops.maximum(self.seen.value, 1.0)
        weights = class_distance_weights(
            self.probabilities / seen[:, None], self.strength
        )
        t, _ = schedule.position("epoch")
        active = t > self._warmup(schedule)
        return ops.where(active, weights, ops.ones_like(weights))

    def class_epsilon(self, schedule):
        return self.class_weight(schedule) * super().class_epsilon(schedule)

    def _warmup(self, schedule):
        """The number of epochs of the warm-up."""
        _, total = schedule.position("epoch")
        return ops.maximum(ops.ceil(self.start * total), 1.0)

    def get_config(self):
        return {"strength": self.strength, "start": self.start}
