import keras
import numpy as np
from keras import ops

from keras_robustlt import checks, losses
from keras_robustlt.configurable import add_state
from keras_robustlt.methods.base import Method


@keras.saving.register_keras_serializable(package="keras_robustlt")
class REAT(Method):
    """REAT: attacks that reach all classes, and tail features kept apart.

    The attack raises a cross-entropy with class weights `1 / E_c`, scaled to a mean
    of 1, where `E_c = (1 - b^a) / (1 - b)`, `b = (n_c - 1) / n_c`, is the effective
    number of the `a` adversarial images that the network took for class `c` in the
    epoch before (at first: of the training images). A class that is rarely predicted
    gets more weight.

    Training lowers the balanced softmax loss of the adversarial images, plus, for the
    images of tail classes in the batch, the divergence of their features from those
    of the batch, with a sign that drives images of other classes away.

    The tail here is what the method calls so: the classes after the
    `2 floor(num_classes / 3) + 1` largest ones.

    Predictions are counted where training makes them anyway, in the forward pass
    before the update.

    Args:
        label_smoothing: See `ATBSL`. Defaults to `0`.

    Attributes:
        last_predictions: Variable of shape `(num_classes,)`, once a model has it: how
            many adversarial images the network took for each class in the epoch
            before.
        predictions: Variable of the same shape: how many so far in this epoch.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, method="reat")

    Reference:
        Li et al., "Alleviating the Effect of Data Imbalance on Adversarial Training",
        2023.
    """

    uses_features = True
    balances = True
    adds_prior = True

    def __init__(self, label_smoothing=0.0):
        self.label_smoothing = checks.in_range("label_smoothing", label_smoothing, 0, 1)

    def build(self, model):
        counts = model.class_counts.astype("float64")
        self._prior = np.log(counts).astype("float32")
        self._shares = (counts / counts.sum()).astype("float32")
        self._counts = counts.astype("float32")
        with np.errstate(divide="ignore"):  # one image: b is 0
            self._log_b = np.log1p(-1 / counts).astype("float32")
        self._rarity = np.sqrt(counts.sum() / counts).astype("float32")
        descending = np.argsort(-counts, kind="stable")
        self._is_tail = np.zeros(len(counts), "float32")
        self._is_tail[descending[2 * (len(counts) // 3) + 1 :]] = 1.0

        self.last_predictions = add_state(model, "reat_last_predictions", counts)
        self.predictions = add_state(model, "reat_predictions", 0 * counts)

    def begin_step(self, schedule):
        complete, (predictions,) = schedule.close_epoch(self.predictions)
        self.last_predictions.assign(
            ops.where(complete, predictions, self.last_predictions.value)
        )

    def attack_weights(self, predictions):
        """Weights of the classes in the attack from their numbers of predictions."""
        # 1 - b^a, exact also where b is nearly 1. Without predictions, log(0) * 0.
        exponent = ops.where(predictions > 0, predictions * self._log_b, 0.0)
        weights = 1.0 / (-self._counts * ops.expm1(exponent) + 1e-5)
        return weights * (len(self._counts) / ops.sum(weights))

    def attack_loss(self, targets, logits, clean_logits=None):
        weights = self.attack_weights(ops.convert_to_tensor(self.last_predictions))
        values = losses.cross_entropy(targets, logits)
        return ops.sum(targets * weights, axis=-1) * values

    def loss(self, targets, logits, criterion):
        criterion = losses.smoothed(criterion, self.label_smoothing, self._shares)
        balanced = criterion(targets, logits["adversarial"] + self._prior)
        return balanced + self.repulsion(targets, logits["adversarial_features"])

    def repulsion(self, targets, features):
        """The tail term of the loss.

        Args:
            targets: Float32 tensor `(batch, num_classes)`, one-hot labels.
            features: Float32 tensor `(batch, num_features)`, of the adversarial images.

        Returns:
            A float32 scalar tensor.
        """
        log_p = ops.log_softmax(features, axis=-1)
        fixed = ops.stop_gradient(log_p)
        p = ops.exp(fixed)
        # Of each image from the average of the batch: the mean over images, features.
        divergence = (
            ops.mean(p * fixed, axis=-1)
            - ops.mean(ops.matmul(p, ops.transpose(log_p)), axis=-1) / log_p.shape[-1]
        )
        rarity = ops.sum(targets * self._rarity, axis=-1)
        sign = 1.0 - 2.0 * ops.matmul(targets, ops.transpose(targets))
        push = ops.mean(sign * (rarity[:, None] + rarity[None, :]), axis=-1)
        tail = ops.sum(targets * self._is_tail, axis=-1)
        members = ops.maximum(ops.sum(tail), 1.0)
        return ops.sum(tail * divergence * push) / members

    def update(self, targets, logits):
        predicted = ops.argmax(logits["adversarial"], axis=-1)
        hits = ops.one_hot(predicted, logits["adversarial"].shape[-1], dtype="float32")
        counts = ops.sum(targets, axis=-1, keepdims=True)
        self.predictions.assign_add(ops.sum(counts * hits, axis=0))

    def get_config(self):
        return {"label_smoothing": self.label_smoothing}
