import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.budget.base import Budget, first_epoch
from keras_robustlt.configurable import add_state


@keras.saving.register_keras_serializable(package="keras_robustlt")
class CFA(Budget):
    """Class-wise calibrated margins: more budget for classes that stand it.

    `epsilon_y = (base + accuracy_y) epsilon`, with the robust accuracy of class `y` on
    the training images of the epoch before, as training itself saw it. The weight
    averaging that goes with it is `keras_robustlt.averaging.FAWA`.

    Args:
        base: Float, not negative. The budget of a class without any robust accuracy,
            as a share of epsilon. Defaults to `0.5`.
        start: Float in `[0, 1]`. Share of training after which the rule takes over
            from the uniform budget. Defaults to `0.05`.

    Attributes:
        accuracy: Variable of shape `(num_classes,)`, once a model has it: the robust
            accuracy of each class in the epoch before.
        hits: Variable of the same shape: images of this epoch that are right so far.
        seen: Variable of the same shape: images of this epoch so far.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, budget="cfa")

    Reference:
        Wei et al., "CFA: Class-wise Calibrated Fair Adversarial Training", CVPR 2023.
    """

    def __init__(self, base=0.5, start=0.05):
        self.base = checks.in_range("base", base, 0, np.inf)
        self.start = checks.in_range("start", start, 0, 1)

    def build(self, model):
        super().build(model)
        most = (self.base + 1.0) * model.epsilon
        if model.norm == "linf" and most > 1:
            raise ValueError(
                f"`base` gives a class a budget of up to {most:.3g}, beyond the whole "
                f"range [0, 1] of a pixel. Lower it. Received: base={self.base}, "
                f"epsilon={model.epsilon:.4g}"
            )

        none = np.zeros(model.num_classes)
        # Until a class has been seen: as much as makes its budget the uniform one.
        self.accuracy = add_state(model, "cfa_accuracy", none + 1.0 - self.base)
        self.hits = add_state(model, "cfa_hits", none)
        self.seen = add_state(model, "cfa_seen", none)

    def begins(self, epochs):
        return first_epoch(self.start, epochs)

    def begin_step(self, schedule):
        _, (hits, seen) = schedule.close_epoch(self.hits, self.seen)
        latest = hits / ops.maximum(seen, 1.0)
        self.accuracy.assign(ops.where(seen > 0, latest, self.accuracy.value))

    def update(self, targets, logits):
        predicted = ops.one_hot(ops.argmax(logits, axis=-1), targets.shape[-1])
        self.hits.assign_add(ops.sum(targets * ops.cast(predicted, "float32"), axis=0))
        self.seen.assign_add(ops.sum(targets, axis=0))

    def class_epsilon(self, schedule):
        uniform = super().class_epsilon(schedule)
        t, total = schedule.position("epoch")
        active = t - 1.0 >= self.start * total
        return ops.where(active, (self.base + self.accuracy.value) * uniform, uniform)

    def get_config(self):
        return {"base": self.base, "start": self.start}
