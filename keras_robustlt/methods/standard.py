import keras

from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class Standard(Method):
    """Ordinary training, without an attack: the yardstick for clean accuracy.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="standard")
    """

    inputs = ("clean",)
    soft_labels = True

    def loss(self, targets, logits, criterion):
        return criterion(targets, logits["clean"])
