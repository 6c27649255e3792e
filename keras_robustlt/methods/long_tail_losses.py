"""Adversarial training with the losses that are usual on long-tailed data."""

import keras
import numpy as np

from keras_robustlt import checks, losses
from keras_robustlt.methods.base import Method, of_each, warn_unless_cosines


@keras.saving.register_keras_serializable(package="keras_robustlt")
class LDAM(Method):
    """Adversarial training with label-distribution-aware margins.

    `losses.ldam` on adversarial images, without the deferred re-weighting that its
    authors combine it with. The logits are meant to be cosines: networks with
    `head="cosplus"`.

    Args:
        max_margin: Float, not negative. The margin of the rarest class. Defaults to
            `0.5`.
        scale: Float, positive. Factor of the logits. Defaults to `30`.

    Example:

    >>> network = krl.networks.SmallResNet(classes=2, head="cosplus")
    >>> model = krl.RobustLTModel(network, class_counts, method="ldam")

    Reference:
        Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
        Loss", NeurIPS 2019.
    """

    def __init__(self, max_margin=0.5, scale=30.0):
        self.max_margin = checks.in_range("max_margin", max_margin, 0, np.inf)
        self.scale = checks.in_range("scale", scale, 1e-6, np.inf)

    def build(self, model):
        warn_unless_cosines(self, model.network)
        self._margins = losses.label_distribution_margins(
            model.class_counts, self.max_margin
        )

    def loss(self, targets, logits, criterion):
        shifted = logits["adversarial"] - targets * self._margins
        return criterion(targets, self.scale * shifted)

    def get_config(self):
        return {"max_margin": self.max_margin, "scale": self.scale}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class Focal(Method):
    """Adversarial training with the focal loss: less weight for what is right.

    Args:
        gamma: Float, not negative. Exponent of the weight `(1 - p_y)^gamma`. Defaults
            to `2`.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="focal")

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    smooths_labels = False

    def __init__(self, gamma=2.0):
        self.gamma = checks.in_range("gamma", gamma, 0, np.inf)

    def loss(self, targets, logits, criterion):
        factor = losses.focal_factor(targets, logits["adversarial"], self.gamma)
        return factor * of_each(criterion(targets, logits["adversarial"]), self)

    def get_config(self):
        return {"gamma": self.gamma}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class ClassBalanced(Method):
    """Adversarial training with class weights from effective numbers of images.

    Args:
        beta: Float in `[0, 1)`. Of `losses.effective_number_weights`. Defaults to
            `0.9999`.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="class_balanced")

    Reference:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
        CVPR 2019.
    """

    balances = True

    def __init__(self, beta=0.9999):
        self.beta = checks.in_range("beta", beta, 0, np.nextafter(1, 0))

    def build(self, model):
        self._weights = losses.effective_number_weights(model.class_counts, self.beta)

    def loss(self, targets, logits, criterion):
        weights = keras.ops.sum(targets * self._weights, axis=-1)
        return weights * of_each(criterion(targets, logits["adversarial"]), self)

    def get_config(self):
        return {"beta": self.beta}
