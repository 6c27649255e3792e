import keras
import numpy as np
from keras import ops

from keras_robustlt import checks, losses
from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class NuAT(Method):
    """Nuclear-norm adversarial training, from attacks of a single step.

    `CE(clean) + lambda |clean logits - adversarial logits|_* / batch`, where `|D|_*` is
    the sum of the singular values of the matrix `D` of a batch: the logits of its
    images must not change in many directions at once. `lambda` grows with the epochs,
    linearly from 0. In every other step the attack raises the sum of these two terms,
    of the image where it starts, and in the others the cross-entropy alone.

    Where no attack is given, the model's is `attacks.FGSMBernoulli`. Each image has its
    share of the norm (`losses.nuclear_norm_shares`), so that class and sample weights
    have their meaning. Where several replicas share a batch, the attack compares the
    images of one, and the loss all of them.

    Args:
        strength: Float, not negative. `lambda` once it is grown; larger for larger
            batches. Defaults to `4.5`, the authors' for batches of 64 images of
            CIFAR-10.
        growth: Float, not negative. The share of training over which it grows.
            Defaults to `0.9`, their 90 of 100 epochs.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="nuat")

    Reference:
        Sriramanan et al., "Towards Efficient and Effective Adversarial Training",
        NeurIPS 2021, equations 2 and 3, and its released code.
    """

    inputs = ("adversarial", "clean")
    attack_compares = True
    default_attack = "fgsm-bernoulli"
    soft_labels = True

    def __init__(self, strength=4.5, growth=0.9):
        self.strength = checks.in_range("strength", strength, 0, np.inf)
        self.growth = checks.in_range("growth", growth, 0, np.inf)

    def build(self, model):
        self._schedule = model.schedule

    def begins(self, epochs):
        # In the first epoch `lambda` is 0, and this the training of clean images.
        return int(self.growth > 0 and epochs > 0)

    def weight(self):
        """`lambda` in the current epoch, a scalar."""
        epoch = ops.cast(self._schedule.epoch, "float32")
        length = self.growth * ops.cast(self._schedule.epochs, "float32")
        grown = ops.minimum(epoch / ops.maximum(length, 1e-6), 1.0)
        # Without growth, or outside of a schedule, it is all there.
        return self.strength * ops.where(length > 0, grown, 1.0)

    def scheduled(self, schedule):
        return [self.weight()]

    def attack_loss(self, targets, logits, clean_logits=None):
        compares = ops.cast(self._schedule.step % 2 == 0, "float32")
        shares = losses.nuclear_norm_shares(clean_logits - logits)
        cross_entropy = losses.cross_entropy(targets, logits)
        return cross_entropy + compares * self.weight() * shares

    def loss(self, targets, logits, criterion):
        shares = losses.nuclear_norm_shares(logits["clean"] - logits["adversarial"])
        return criterion(targets, logits["clean"]) + self.weight() * shares

    def get_config(self):
        return {"strength": self.strength, "growth": self.growth}
