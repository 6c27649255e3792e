"""What a compiled step has seen of its input, looked at from outside."""

import keras
from keras import ops

from keras_robustlt import checks
from keras_robustlt.backend import replicas


@keras.saving.register_keras_serializable(package="keras_robustlt")
class BatchCheck(keras.metrics.Metric):
    """Watches what a compiled step cannot refuse: pixels, labels and logits.

    Raising is not possible inside a compiled step. This metric keeps the extremes of
    what the steps have seen since its reset, for the price of a reduction over the
    batch, and `raise_if_wrong` looks at them from outside.
    """

    def __init__(self, num_classes, name="batch_check", **kwargs):
        super().__init__(name=name, dtype="float32", **kwargs)
        self.num_classes = num_classes
        self.extremes = self.add_variable(
            shape=(8,),
            initializer="zeros",
            aggregation="only_first_replica",
            name="extremes",
        )

    def update_state(self, images, labels, logits, sample_weight=None):
        del sample_weight
        images = ops.cast(images, "float32")
        labels = ops.cast(labels, "float32")
        if len(labels.shape) == 2 and labels.shape[-1] == self.num_classes:
            labels = ops.cast(ops.argmax(labels, axis=-1), "float32")
        logits = ops.cast(logits, "float32")
        seen = ops.stack(
            [
                ops.sum(ops.cast(ops.isnan(images), "float32")),
                -ops.min(images),
                ops.max(images) - 1.0,
                -ops.min(labels),
                ops.max(labels) - (self.num_classes - 1.0),
                -ops.min(logits),
                ops.max(ops.abs(ops.sum(logits, axis=-1) - 1.0)),
                ops.ones(()),
            ]
        )
        seen = ops.max(replicas.gathered(seen[None]), axis=0)
        self.extremes.assign(ops.maximum(self.extremes, seen))

    def result(self):
        return ops.sum(self.extremes)

    def raise_if_wrong(self):
        """Raises a ValueError if a step since the last reset saw bad input."""
        extremes = ops.convert_to_numpy(self.extremes)
        nan, below, above, label_below, label_above, negative, off_one, seen = extremes
        if not seen:
            return
        checks.no_nan("x", "a batch of" if nan else 0)
        checks.pixel_range("x", 0 - below, above + 1)
        checks.label_range(
            "y", 0 - label_below, label_above + self.num_classes - 1, self.num_classes
        )
        if negative <= 0 and off_one < 1e-3:
            checks.refuse_probabilities("its output")

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}
