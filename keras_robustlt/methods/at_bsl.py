import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.losses import smoothed
from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class ATBSL(Method):
    """Adversarial training with the balanced softmax loss.

    The cross-entropy of `logits + tau * log(class_counts)` on adversarial images. The
    attack, and the trained network, use the logits as they are.

    Args:
        tau: Float. Strength of the class prior. Defaults to `1`.
        label_smoothing: Float in `[0, 1]`. Part of each label that is spread over the
            classes, in proportion to `class_counts ** tau`: where all of the network's
            logits are equal, that is what the loss takes it to predict, so that
            smoothing prefers no class. (Spread evenly, as a loss of Keras does, it
            would prefer the rare ones.) Defaults to `0`.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="at_bsl")

    Reference:
        Yue et al., "Revisiting Adversarial Training under Long-Tailed
        Distributions", CVPR 2024.
    """

    soft_labels = True
    balances = True
    adds_prior = True

    def __init__(self, tau=1.0, label_smoothing=0.0):
        self.tau = checks.in_range("tau", tau, 0, np.inf)
        self.label_smoothing = checks.in_range("label_smoothing", label_smoothing, 0, 1)

    def build(self, model):
        self._prior = (self.tau * np.log(model.class_counts)).astype("float32")
        self._shares = np.exp(self._prior - self._prior.max())
        self._shares /= self._shares.sum()

    def loss(self, targets, logits, criterion):
        criterion = smoothed(criterion, self.label_smoothing, self._shares)
        return criterion(targets, ops.add(logits["adversarial"], self._prior))

    def get_config(self):
        return {"tau": self.tau, "label_smoothing": self.label_smoothing}
