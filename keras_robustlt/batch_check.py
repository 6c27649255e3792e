"""What a compiled step has seen of its input, looked at from outside."""

import warnings

import keras
from keras import ops

from keras_robustlt import checks
from keras_robustlt.backend import replicas

# What is kept of all steps, each as the highest value: of pixels, labels and logits.
EXTREMES = (
    "nan",
    "dark",
    "bright",
    "lit",
    "off_label",
    "low_label",
    "high_label",
    "negative",
    "logit",
    "off_one",
    "soft",
    "bad_weight",
    "outside",
    "share_used",
    "weighed",
    "seen",
)
# What float32 makes of the radius of a ball.
ROUNDING = 1e-4
# Of so many images one would not expect all logits to be in (0, 1).
CONVINCING = 32


@keras.saving.register_keras_serializable(package="keras_robustlt")
class BatchCheck(keras.metrics.Metric):
    """Watches what a compiled step cannot refuse: pixels, labels and logits.

    Raising is not possible inside a compiled step. This metric keeps the extremes of
    what the steps have seen since its reset, and counts the labels, for the price of
    a reduction over the batch; `raise_if_wrong` looks at the extremes from outside.
    """

    def __init__(self, num_classes, name="batch_check", **kwargs):
        super().__init__(name=name, dtype="float32", **kwargs)
        self.num_classes = num_classes
        # Why training does not take soft labels, in words.
        self.no_soft_labels = None

        def variable(name, size):
            return self.add_variable(
                shape=(size,),
                initializer="zeros",
                aggregation="only_first_replica",
                name=name,
            )

        self.extremes = variable("extremes", len(EXTREMES))
        self.labels = variable("labels", num_classes)

    def update_state(
        self,
        images,
        labels,
        logits,
        weights=None,
        trains=False,
        outside=None,
        share_used=None,
    ):
        """Looks at a batch, of training or not.

        Args:
            images: Tensor of shape `(batch, ...)`.
            labels: Tensor of shape `(batch,)` or `(batch, num_classes)`.
            logits: Tensor of shape `(batch, num_classes)`.
            weights: Tensor of shape `(batch,)`, or `None`. Defaults to `None`.
            trains: Boolean. Defaults to `False`.
            outside: Tensor of shape `(batch,)`, what `attacks.base.outside` says of
                the attack, or `None`. Defaults to `None`.
            share_used: Scalar tensor, likewise what `attacks.base.share_used` says.
        """
        images = ops.cast(images, "float32")
        logits = ops.cast(logits, "float32")
        labels, off, soft = self._classes(ops.cast(labels, "float32"))
        none, brightest = ops.zeros((), "float32"), ops.max(images)
        extremes = {
            "nan": ops.sum(ops.cast(ops.isnan(images), "float32")),
            "dark": -ops.min(images),
            "bright": brightest - 1.0,
            "lit": brightest,
            "off_label": ops.max(ops.where(ops.isnan(off), 1.0, off)),
            "low_label": -ops.min(labels),
            "high_label": ops.max(labels) - (self.num_classes - 1.0),
            "negative": -ops.min(logits),
            "logit": ops.max(logits),
            "off_one": ops.max(ops.abs(ops.sum(logits, axis=-1) - 1.0)),
            "soft": ops.max(soft) if trains and self.no_soft_labels else none,
            "bad_weight": none if weights is None else _bad_weight(weights),
            "outside": none if outside is None else ops.max(outside),
            "share_used": none + 1.0 if share_used is None else share_used,
            "weighed": none + 1.0 if weights is None else _some_weight(weights),
            # Of no images nothing can be said.
            "seen": none + ops.cast(ops.shape(images)[0] > 0, "float32"),
        }
        extremes = ops.stack([extremes[name] for name in EXTREMES])
        members = ops.one_hot(ops.cast(labels, "int32"), self.num_classes)
        counts = ops.sum(ops.cast(members, "float32"), axis=0)
        # One exchange between replicas.
        seen = replicas.gathered(ops.concatenate([extremes, counts])[None])
        extremes = ops.max(seen[:, : len(EXTREMES)], axis=0)
        self.extremes.assign(ops.maximum(self.extremes, extremes))
        self.labels.assign_add(ops.sum(seen[:, len(EXTREMES) :], axis=0))

    def _classes(self, labels):
        """The classes of a batch, and how far its labels are from labels, and hard."""
        if len(labels.shape) == 2 and labels.shape[-1] == self.num_classes:
            off_one = ops.abs(ops.sum(labels, axis=-1) - 1.0)
            off = ops.maximum(off_one, -ops.min(labels, axis=-1))
            soft = 1.0 - ops.max(labels, axis=-1)
            return ops.cast(ops.argmax(labels, axis=-1), "float32"), off, soft
        labels = ops.reshape(labels, (-1,))
        return labels, ops.abs(labels - ops.round(labels)), ops.zeros_like(labels)

    def result(self):
        return ops.sum(self.extremes)

    def raise_if_wrong(self):
        """Raises a ValueError if a step since the last reset saw bad input."""
        seen = self._seen()
        if not seen["seen"]:
            return
        checks.no_nan("x", "a batch of" if seen["nan"] else 0)
        checks.pixel_range("x", 0 - seen["dark"], seen["bright"] + 1)
        many = ops.convert_to_numpy(self.labels).sum() >= CONVINCING
        if many:
            checks.warn_of_black("x", seen["lit"])
        if seen["off_label"] > 1e-3:
            checks.refuse_labels("y", self.num_classes)
        highest = seen["high_label"] + self.num_classes - 1
        checks.label_range("y", 0 - seen["low_label"], highest, self.num_classes)
        if seen["soft"] > checks.HARD:
            checks.refuse_soft_labels("`y` holds", self.no_soft_labels)
        if seen["bad_weight"]:
            checks.refuse_weights("sample_weight")
        if seen["outside"] > ROUNDING:
            raise ValueError(
                "`attack` and `evaluation_attack` must return images in [0, 1], within "
                "their epsilon of the images that they are given (times `reach`, of "
                "one to train with). Received from an attack of your own: images "
                f"{seen['outside']:.4g} outside, or no numbers"
            )
        if seen["negative"] <= 0 and seen["off_one"] < 1e-3:
            checks.refuse_probabilities("its output")
        if seen["negative"] <= 0 and 0 < seen["logit"] < 1 and many:
            # So are those of two in ten new networks for two classes.
            warnings.warn(
                "All outputs of `network` are between 0 and 1. Logits are so by "
                "chance, where little has been learned; if `network` ends in a "
                "sigmoid, remove it: the losses and attacks want logits.",
                stacklevel=2,
            )

    @property
    def is_weightless(self):
        """Whether all images since the last reset had a weight of 0."""
        seen = self._seen()
        return bool(seen["seen"] and not seen["weighed"])

    @property
    def share_used(self):
        """The share of its budget that an attack used for some image, 1 if unknown."""
        seen = self._seen()
        return float(seen["share_used"]) if seen["seen"] else 1.0

    def _seen(self):
        values = ops.convert_to_numpy(self.extremes)
        return dict(zip(EXTREMES, values, strict=True))

    def get_config(self):
        return {**super().get_config(), "num_classes": self.num_classes}


def _some_weight(weights):
    return ops.cast(ops.any(ops.cast(weights, "float32") > 0), "float32")


def _bad_weight(weights):
    """1 if there is a weight that a loss cannot be multiplied with, 0 otherwise."""
    weights = ops.cast(weights, "float32")
    good = ops.logical_and(weights >= 0, weights < float("inf"))
    return 1.0 - ops.cast(ops.all(good), "float32")
