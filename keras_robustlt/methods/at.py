import keras

from keras_robustlt import checks
from keras_robustlt.losses import smoothed
from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class AT(Method):
    """Adversarial training: the cross-entropy on adversarial images.

    Args:
        label_smoothing: Float in `[0, 1]`. Defaults to `0`. With a loss of your own
            in `compile`, smooth there.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="at")

    Reference:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial
        Attacks", 2018.
    """

    soft_labels = True

    def __init__(self, label_smoothing=0.0):
        self.label_smoothing = checks.in_range("label_smoothing", label_smoothing, 0, 1)

    def loss(self, targets, logits, criterion):
        criterion = smoothed(criterion, self.label_smoothing)
        return criterion(targets, logits["adversarial"])

    def get_config(self):
        return {"label_smoothing": self.label_smoothing}
