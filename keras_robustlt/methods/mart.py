import keras
import numpy as np
from keras import ops

from keras_robustlt import checks, losses
from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class MART(Method):
    """Misclassification-aware adversarial training.

    The boosted cross-entropy of the adversarial images,
    `-log p_y - log(1 - max_{c != y} p_c)`, plus `beta` times the divergence
    `KL(p_clean || p_adversarial)`, which counts the more the less the network believes
    in the right class of the clean image: times `1 - p_clean,y`. The loss of `compile`
    takes the place of `-log p_y`.

    Args:
        beta: Float, not negative. Weight of the divergence. Defaults to `5`.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="mart")

    Reference:
        Wang et al., "Improving Adversarial Robustness Requires Revisiting
        Misclassified Examples", ICLR 2020.
    """

    inputs = ("adversarial", "clean")
    smooths_labels = False

    def __init__(self, beta=5.0):
        self.beta = checks.in_range("beta", beta, 0, np.inf)

    def loss(self, targets, logits, criterion):
        adversarial, clean = logits["adversarial"], logits["clean"]
        wrong = (1.0 - targets) * ops.softmax(adversarial)
        # Not quite 1, so that the logarithm of a hopeless image stays finite.
        boost = -ops.log(1.0001 - ops.max(wrong, axis=-1))
        doubt = 1.0 - ops.sum(targets * ops.softmax(clean), axis=-1)
        divergence = losses.kl_divergence(clean, adversarial)
        boosted = criterion(targets, adversarial) + boost
        return boosted + self.beta * divergence * doubt

    def get_config(self):
        return {"beta": self.beta}
