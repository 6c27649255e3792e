import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.budget.base import Budget, first_epoch
from keras_robustlt.configurable import add_state


def class_distance_weights(confusion, strength=1.0):
    """Weights that are larger for classes harder than those they resemble.

    With the mean probability `p_i(j)` that the network gives class `j` on images of
    class `i`, each class `j` that is recognised better than `i` raises the weight of
    `i` by `strength p_i(j) p_j(j)`, and each other one lowers it by as much.

    Args:
        confusion: Float tensor `(num_classes, num_classes)`: row `i` holds the mean
            probabilities of images of class `i`.
        strength: Float. Defaults to `1`.

    Returns:
        A float32 tensor of shape `(num_classes,)`.

    Example:

    >>> krl.budget.class_distance_weights([[0.5, 0.5], [0.25, 0.75]])
    array([1.375, 0.875], dtype=float32)

    Reference:
        Lee et al., "DAFA: Distance-Aware Fair Adversarial Training", ICLR 2024, as
        its authors' code has it.
    """
    strength = checks.in_range("strength", strength, 0, np.inf)
    confusion = checks.confusion(confusion)
    recognised = ops.diagonal(confusion)
    harder = recognised[:, None] < recognised[None, :]
    others = 1.0 - ops.eye(confusion.shape[0], dtype="float32")
    resemblance = confusion * recognised[None, :] * others
    sign = 2.0 * ops.cast(harder, "float32") - 1.0
    return 1.0 + strength * ops.sum(sign * resemblance, axis=1)


@keras.saving.register_keras_serializable(package="keras_robustlt")
class DAFA(Budget):
    """Distance-aware fair adversarial training: class weights from confusions.

    Training begins with the uniform budget. In the last epoch of that warm-up the
    probabilities that the network gives to the adversarial images of each class are
    averaged, and from then on `class_distance_weights` of these multiply the budget
    and the loss of each class.

    Args:
        strength: Float in `[0, 4]`. Defaults to `1`.
        start: Float in `[0, 1]`. Share of training that is warm-up, of one epoch at
            least. Defaults to `0.64`, 70 epochs of 110.

    Attributes:
        probabilities: Variable of shape `(num_classes, num_classes)`, once a model has
            it: row `i` sums the probabilities of adversarial images of class `i`.
        seen: Variable of shape `(num_classes,)`: how many images it has summed.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, budget="dafa")

    Reference:
        Lee et al., "DAFA: Distance-Aware Fair Adversarial Training", ICLR 2024.
    """

    # What is mixed into an image is no class that its own is taken for.
    soft_labels = False

    def __init__(self, strength=1.0, start=0.64):
        # Above, a class may have weights below 0: what it resembles takes up to 1 / 4.
        self.strength = checks.in_range("strength", strength, 0, 4)
        self.start = checks.in_range("start", start, 0, 1)

    def build(self, model):
        super().build(model)
        self._schedule = model.schedule
        none = np.zeros(model.num_classes)
        self.probabilities = add_state(
            model, "dafa_probabilities", np.outer(none, none)
        )
        self.seen = add_state(model, "dafa_seen", none)

    def begins(self, epochs):
        return first_epoch(self.start, epochs)

    def begin_step(self, schedule):
        # What an earlier training has left, or a first try of the same epoch.
        t, _ = schedule.position("epoch")
        anew = ops.logical_and(
            schedule.begins_epoch, ops.equal(t, self._warmup(schedule))
        )
        for sums in (self.probabilities, self.seen):
            sums.assign(ops.where(anew, 0.0, sums.value))

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
