import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.methods.base import Method, of_each


@keras.saving.register_keras_serializable(package="keras_robustlt")
class TAET(Method):
    """Two-stage adversarial equalization training.

    Before epoch `ce_epochs`, counted from 1, the cross-entropy of clean images, without
    an attack. Then, of the mean adversarial losses `l_c` of the classes in the batch (0
    for a class that is not in it), their mean, variance and squared shares:

    `alpha mean(l) + beta mean((l - mean(l))^2) + gamma sum((l_c / sum(l))^2)`

    The loss is one of the whole batch: `fit` refuses sample weights in this method.

    Args:
        ce_epochs: Integer, not negative. The epoch, from 1, with which the second
            stage begins. Defaults to `40`, for training of 100.
        alpha: Float. Weight of the mean. Defaults to `0.1`.
        beta: Float. Weight of the variance. Defaults to `0.1`.
        gamma: Float. Weight of the squared shares. Defaults to `0.1`.

    Example:

    >>> method = krl.methods.TAET(ce_epochs=20)
    >>> model = krl.RobustLTModel(network, class_counts, method=method)

    Reference:
        Wang et al., "TAET: Two-Stage Adversarial Equalization Training on Long-Tailed
        Distributions", CVPR 2025.
    """

    loss_of_batch = True

    def __init__(self, ce_epochs=40, alpha=0.1, beta=0.1, gamma=0.1):
        self.ce_epochs = checks.integer("ce_epochs", ce_epochs, 0)
        self.alpha = checks.in_range("alpha", alpha, 0, np.inf)
        self.beta = checks.in_range("beta", beta, 0, np.inf)
        self.gamma = checks.in_range("gamma", gamma, 0, np.inf)
        checks.not_all_zero(alpha=alpha, beta=beta, gamma=gamma)

    def build(self, model):
        self._schedule = model.schedule

    def begins(self, epochs):
        return max(self.ce_epochs - 1, 0)

    def attacks(self, schedule):
        return schedule.epoch + 1 >= self.ce_epochs

    def loss(self, targets, logits, criterion):
        # Without an attack the adversarial images are the clean ones.
        values = of_each(criterion(targets, logits["adversarial"]), self)
        second_stage = self.attacks(self._schedule)
        return ops.where(
            second_stage, self.equalized(targets, values), ops.mean(values)
        )

    def equalized(self, targets, values):
        """The loss of the second stage from the losses of the examples."""
        per_class = ops.sum(targets * values[:, None], axis=0)
        per_class = per_class / (ops.sum(targets, axis=0) + 1e-10)
        mean = ops.mean(per_class)
        variance = ops.mean(ops.square(per_class - mean))
        shares = per_class / (ops.sum(per_class) + 1e-10)
        shares = ops.sum(ops.square(shares))
        return self.alpha * mean + self.beta * variance + self.gamma * shares

    def get_config(self):
        return {
            "ce_epochs": self.ce_epochs,
            "alpha": self.alpha,
            "beta": self.beta,
            "gamma": self.gamma,
        }
