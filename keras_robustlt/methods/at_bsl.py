import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class ATBSL(Method):
    """Adversarial training with the balanced softmax loss.

    The cross-entropy of `logits + tau * log(class_counts)` on adversarial images. The
    attack, and the trained network, use the logits as they are.

    Args:
        tau: Float. Strength of the class prior. Defaults to `1`.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="at_bsl")

    Reference:
        Yue et al., "Revisiting Adversarial Training under Long-Tailed
        Distributions", CVPR 2024.
    """

    soft_labels = True
    balances = True

    def __init__(self, tau=1.0):
        self.tau = checks.in_range("tau", tau, 0, np.inf)

    def build(self, model):
        self._prior = (self.tau * np.log(model.class_counts)).astype("float32")

    def loss(self, targets, logits, criterion):
        return criterion(targets, ops.add(logits["adversarial"], self._prior))

    def get_config(self):
        return {"tau": self.tau}
