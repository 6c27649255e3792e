import keras
import numpy as np

from keras_robustlt import checks, losses
from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class TRADES(Method):
    """TRADES: clean accuracy and smoothness, with a factor between them.

    `CE(clean) + beta KL(p_clean || p_adversarial)`; the attack raises the second term.
    It starts from the random start of the model's attack, as the gradient of the
    divergence is zero at the image itself.

    Args:
        beta: Float, not negative. Weight of the divergence. Defaults to `6`.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="trades")

    Reference:
        Zhang et al., "Theoretically Principled Trade-off between Robustness and
        Accuracy", ICML 2019.
    """

    inputs = ("adversarial", "clean")
    attack_compares = True
    soft_labels = True

    def __init__(self, beta=6.0):
        self.beta = checks.in_range("beta", beta, 0, np.inf)

    def check_attack(self, attack):
        if not getattr(attack, "random_start", True):
            raise ValueError(
                f"`attack` must start at random with {self}: what it raises is the "
                "divergence from the clean logits, which has no gradient at the clean "
                f"image. Received: attack={attack!r}"
            )

    def attack_loss(self, targets, logits, clean_logits=None):
        return losses.kl_divergence(clean_logits, logits)

    def loss(self, targets, logits, criterion):
        divergence = losses.kl_divergence(logits["clean"], logits["adversarial"])
        return criterion(targets, logits["clean"]) + self.beta * divergence

    def get_config(self):
        return {"beta": self.beta}
