import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.budget.base import Budget
from keras_robustlt.budget.robustlt import HOPELESS, classwise_epsilon
from keras_robustlt.configurable import add_state

# The budget of the rarest class in units of epsilon, at most.
MOST_OF_RAREST = 2.0
# The growth is between those of the paper's largest beta, TAET's apart, and of its
# smallest, which is a fourth of it.
SLOWEST, PACE = 0.8, 4.0
# Parts of training: after one of them, a skew that stays has all of its effect once.
PARTS = 10.0


def largest_alpha(class_counts, epsilon, norm="linf"):
    """The `alpha` with which the rarest class gets twice epsilon, at most 1.

    In the norm `"linf"` its budget also stays within 0.5, from where on all images can
    be made one and the same.

    Args:
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class, all positive.
        epsilon: Float. The base budget, in pixel units.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.

    Returns:
        A float in `[0, 1]`.

    Example:

    >>> round(krl.budget.largest_alpha([5000, 500, 100], epsilon=8 / 255), 3)
    0.095
    """
    norm = checks.one_of("norm", norm, ("linf", "l2"))
    epsilon = checks.epsilon(epsilon, norm)
    most = MOST_OF_RAREST
    if norm == "linf" and epsilon > 0:
        most = max(min(most, HOPELESS / epsilon), 1.0)
    gain = tilt(class_counts).max()
    return 1.0 if gain <= most - 1.0 else float((most - 1.0) / gain)


def tilt(class_counts):
    """What `alpha` multiplies: class `y` gets `1 + alpha tilt_y` times epsilon.

    Args:
        class_counts: Integers of shape `(num_classes,)`.

    Returns:
        A float64 array of shape `(num_classes,)`; zeros for balanced counts.
    """
    # In a norm whose budgets have no end, however rare a class is.
    return classwise_epsilon(class_counts, 1.0, alpha=1.0, norm="l2") - 1.0


@keras.saving.register_keras_serializable(package="keras_robustlt")
class Auto(Budget):
    """RobustLT's budget with an `alpha` and a growth that follow training.

    `epsilon_y^(t) = w_t epsilon_y(alpha_t)` as with `RobustLT`, without numbers to
    choose. What decides is the robust error `r_y` of each class in an epoch: the share
    of its images that the network, trained on their adversarial examples, took for
    another class. `R_y` is its running average: `1 - 1 / C`, which is guessing, before
    the first epoch, and `(R_y + r_y) / 2` after each.

    - `alpha` starts at 0 and moves on with each epoch, by what is left of the skewed
      objective `S = mean(R) - sum(P(y) R_y)`, with the shares `P(y)` of the training
      data. Such an `S` have errors that rise by `S / (mean(rarity) - E_P[rarity])` with
      each unit of `rarity_y = sqrt(log K_y)`. The `alpha` with which the budgets, in
      units of epsilon, rise as much is what a tenth of training adds. So budgets grow
      apart while rare classes err more, stay when all err alike, as they do once their
      images are known by heart, and come together when frequent ones err more. The
      rarest class gets no more than twice epsilon.
    - `w` is that of `RobustLT` with `beta = 0.8`, `w_t = min(s_t / (0.8 T), 1)`, by a
      clock `s` that starts at 0 and moves on by 1 an epoch; but by 4 after an epoch
      in which the network kept up with its own attack, with `sum(P(y) r_y)` not above
      what `sum(P(y) R_y)` was before. So the growth is between those of `beta = 0.2`
      and `beta = 0.8`, and over when a fifth of training is left.

    In training, rare classes are seen at their own, larger budgets, which raises what
    is measured of them, and so `alpha`: where they stay hard it ends at the most.

    Attributes:
        risk: Variable of shape `(num_classes,)`, once a model has it: `R_y`.
        strength: Variable, a scalar: `alpha`.
        lead: Variable, a scalar: by how many epochs the clock is ahead.
        errors: Variable of shape `(num_classes,)`: images of this epoch that are
            wrong so far.
        seen: Variable of the same shape: images of this epoch so far.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, budget="auto")

    Reference:
        Zhang et al., CVPR 2026: the skewed-objective term and the drift that this
        follows. The rule is of this package.
    """

    def build(self, model):
        super().build(model)
        counts, epsilon = model.class_counts, model.epsilon
        shares = counts / counts.sum()
        self._shares = shares.astype("float32")
        self._tilt = (epsilon * tilt(counts)).astype("float32")
        self._largest_alpha = largest_alpha(counts, epsilon, model.norm)
        rarity = np.sqrt(np.log(counts.max() / counts))
        mean_rarity = np.sum(shares * rarity)
        spread = rarity.mean() - mean_rarity
        # 0 / 0 for balanced counts, whose tilt is 0.
        self._alpha_of_skew = mean_rarity / spread if spread > 0 else 0.0
        self._guessing = 1.0 - 1.0 / model.num_classes

        none = np.zeros(model.num_classes)
        self.risk = add_state(model, "auto_risk", none + self._guessing)
        self.strength = add_state(model, "auto_strength")
        self.lead = add_state(model, "auto_lead")
        self.errors = add_state(model, "auto_errors", none)
        self.seen = add_state(model, "auto_seen", none)

    def begin_step(self, schedule):
        # Another training, after one that is over, starts anew.
        is_first = ops.equal(schedule.epoch, 0)
        self._reset_if(ops.logical_and(schedule.begins_epoch, is_first))
        measured, (errors, seen) = schedule.close_epoch(self.errors, self.seen)
        before = self.risk.value
        latest = ops.where(seen > 0, errors / ops.maximum(seen, 1.0), before)
        keeps_up = self._of_training(latest) <= self._of_training(before)
        gained = ops.where(ops.logical_and(measured, keeps_up), PACE - 1.0, 0.0)
        risk = ops.where(measured, (before + latest) / 2.0, before)
        skew = ops.mean(risk) - self._of_training(risk)
        _, total = schedule.position("epoch")
        change = PARTS / total * self._alpha_of_skew * skew
        strength = ops.clip(self.strength + change, 0.0, self._largest_alpha)
        self.strength.assign(ops.where(measured, strength, self.strength.value))
        self.risk.assign(risk)
        self.lead.assign_add(gained)

    def _reset_if(self, first):
        self.risk.assign(ops.where(first, self._guessing, self.risk.value))
        for state in (self.strength, self.lead, self.errors, self.seen):
            state.assign(ops.where(first, 0.0, state.value))

    def update(self, targets, logits):
        predicted = ops.one_hot(ops.argmax(logits, axis=-1), targets.shape[-1])
        wrong = 1.0 - ops.cast(predicted, "float32")
        self.errors.assign_add(ops.sum(targets * wrong, axis=0))
        self.seen.assign_add(ops.sum(targets, axis=0))

    def alpha(self, schedule):
        """The strength of class-wise balancing at this point of training.

        Returns:
            A float32 scalar tensor.
        """
        return self.strength.value

    def iteration_weight(self, schedule):
        t, total = schedule.position("epoch")
        # Also where training is so short that 0.8 of it is its last epoch.
        whole = ops.minimum(SLOWEST * total, ops.maximum(total - 1.0, 1.0))
        return ops.minimum((t - 1.0 + self.lead.value) / whole, 1.0)

    def class_epsilon(self, schedule):
        uniform = super().class_epsilon(schedule)
        balanced = uniform + self.alpha(schedule) * self._tilt
        return self.iteration_weight(schedule) * balanced

    def chosen(self, schedule):
        return {"alpha": self.alpha(schedule)}

    def _of_training(self, risk):
        """The mean over the training data of what the classes have."""
        return ops.sum(self._shares * risk)
