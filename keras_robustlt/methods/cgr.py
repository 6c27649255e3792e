import keras
import numpy as np
from keras import ops

from keras_robustlt import checks, networks
from keras_robustlt.configurable import add_state
from keras_robustlt.methods.base import OnTop

LARGEST_EDGE = 5.0
WEIGHTS = (0.25, 3.0)
MARGIN = 0.5


def feedback_scores(confusion):
    """How much more than others each class needs, from what it is taken for.

    Of the accuracies `a_y`, the diagonal: `max(mean(a) - a_y, 0) + (1 - a_y) / 2`,
    divided by the mean over the classes.

    Args:
        confusion: Float tensor `(num_classes, num_classes)`: row `y` holds the shares
            of the images of class `y` that are taken for each class.

    Returns:
        A float32 tensor of shape `(num_classes,)`; zeros where all is right.

    Example:

    >>> krl.methods.feedback_scores([[1.0, 0.0], [0.5, 0.5]])
    array([0., 2.], dtype=float32)
    """
    confusion = checks.confusion(confusion)
    accuracy = ops.diagonal(confusion)
    scores = ops.relu(ops.mean(accuracy) - accuracy) + 0.5 * (1.0 - accuracy)
    return ops.divide_no_nan(scores, ops.mean(scores))


def feedback_weights(scores):
    """Weights of the classes: `1 + score`, divided by the mean, from 0.25 to 3.

    Args:
        scores: Float tensor `(num_classes,)`.

    Returns:
        A float32 tensor of shape `(num_classes,)`.

    Example:

    >>> krl.methods.feedback_weights([0.0, 2.0])
    array([0.5, 1.5], dtype=float32)
    """
    scores = checks.floats("scores", scores, ("num_classes",))
    array = checks.known(scores)
    if array is not None and not (
        array.size and np.all((array >= 0) & (array < np.inf))
    ):
        raise ValueError(
            "`scores` must hold a finite number for each class that is at least 0. "
            f"Received: {array.tolist()}"
        )
    weights = 1.0 + scores
    return ops.clip(weights / ops.mean(weights), *WEIGHTS)


def confusion_graph(confusion, centres, class_counts, neighbours=3):
    """Which classes each class has to be kept apart from, and how much.

    Of each class `y` the others `k` that it is most taken for, with
    `confusion[y, k] sqrt(n_k / n_max) / |centre_y - centre_k|`, divided by the mean of
    these, at most 5.

    Args:
        confusion: Float tensor `(num_classes, num_classes)`, see `feedback_scores`.
        centres: Float tensor `(num_classes, num_features)`, the mean features of each
            class.
        class_counts: Numbers `(num_classes,)`, the training images of each class.
        neighbours: Integer. How many others. Defaults to `3`.

    Returns:
        A float32 tensor `(num_classes, num_classes)`; zeros but at these.

    Example:

    >>> confusion, centres = [[0.5, 0.5], [0.25, 0.75]], [[0.0, 1.0], [1.0, 1.0]]
    >>> krl.methods.confusion_graph(confusion, centres, class_counts=[8, 8])
    array([[0.       , 1.3333334],
           [0.6666667, 0.       ]], dtype=float32)
    """
    counts = checks.class_counts(class_counts).astype("float32")
    num_classes = len(counts)
    neighbours = checks.positive_integer("neighbours", neighbours)
    confusion = checks.confusion(confusion, num_classes)
    centres = checks.floats("centres", centres, (num_classes, "num_features"))
    values = checks.known(centres)
    if values is not None and not np.isfinite(values).all():
        raise ValueError(
            "`centres` must be finite numbers. Received: infinite ones, or NaN"
        )
    others = 1.0 - ops.eye(num_classes, dtype="float32")
    shares = confusion * others
    _, nearest = ops.top_k(shares, min(neighbours, num_classes - 1))
    kept = ops.sum(ops.one_hot(nearest, num_classes, dtype="float32"), axis=1)
    differences = centres[:, None] - centres[None, :]
    distances = ops.sqrt(ops.sum(ops.square(differences), axis=-1))
    edges = kept * shares * np.sqrt(counts / counts.max())
    edges = edges / ops.maximum(distances, 1e-6)
    there = ops.sum(ops.cast(edges > 0, "float32"))
    mean = ops.divide_no_nan(ops.sum(edges), there)
    return ops.minimum(ops.divide_no_nan(edges, mean), LARGEST_EDGE)


@keras.saving.register_keras_serializable(package="keras_robustlt")
class CGR(OnTop):
    """Class feedback over a base method: weights, and margins between classes.

    In each epoch it notes what the adversarial images of each class are taken for, as
    training itself sees them, and the mean of their normalised features. When the next
    epoch begins, `feedback_scores` and the `confusion_graph` `G` follow from these, as
    moving averages that begin with the first. After `start` epochs the loss of an
    image of class `y` with logits `z` is

    `w_y loss + strength w_y sum_k G[y, k] max(0, 0.5 - z_y + z_k)`

    with the weights `w` of `feedback_weights`. Before, it is that of the base method.
    No image but those trained on has a part in it. Its authors use it on top of
    RobustLT's budget.

    Args:
        method: The base method, as `RobustLTModel` takes it, whose loss has a value
            for each image. Defaults to `"at"`.
        strength: Float, not negative. Weight of the margins, 0.05 to 0.1 in the paper.
            Defaults to `0.05`.
        start: Integer, not negative. The epochs without feedback. Defaults to `10`.
        momentum: Float in `[0, 1)`. Of scores and graph from one epoch to the next.
            Defaults to `0.8`.

    Example:

    >>> method = krl.methods.CGR("at_bsl", start=5)
    >>> model = krl.RobustLTModel(network, class_counts, method=method)

    Reference:
        CGRm, arXiv 2608.09688, 2026.
    """

    def __init__(self, method="at", strength=0.05, start=10, momentum=0.8):
        super().__init__(method)
        if self.method.loss_of_batch:
            raise ValueError(
                "`method` must have a loss with a value for each image, for the "
                "weights of the classes, and not one of the whole batch. Received: "
                f"method={self.method!r}"
            )
        if "adversarial" not in self.method.inputs:
            raise ValueError(
                "`method` must train on adversarial images, which the feedback is "
                f"about. Received: method={self.method!r}"
            )
        self.strength = checks.in_range("strength", strength, 0, np.inf)
        self.start = checks.integer("start", start, 0)
        self.momentum = checks.in_range("momentum", momentum, 0, np.nextafter(1, 0))
        # Features are of one class, whatever the other method looks at.
        self.uses_features, self.soft_labels = True, False

    def build(self, model):
        super().build(model)
        self._schedule = model.schedule
        self._counts = model.class_counts
        classes = model.num_classes
        features = networks.with_features(model.network).outputs[1].shape[-1]

        self.scores = add_state(model, "cgr_scores", np.zeros(classes))
        self.graph = add_state(model, "cgr_graph", np.zeros((classes, classes)))
        self.epochs = add_state(model, "cgr_epochs")  # that these two are made of
        # Of the epoch so far: what is taken for what, and the features of each class.
        self.taken_for = add_state(model, "cgr_taken_for", np.zeros((classes, classes)))
        self.features = add_state(model, "cgr_features", np.zeros((classes, features)))

    def begins(self, epochs):
        return max(self.start, 1)  # the first epoch has nothing to go by

    def begin_step(self, schedule):
        super().begin_step(schedule)
        complete, (features, taken_for) = schedule.close_epoch(
            self.features, self.taken_for
        )
        seen = ops.sum(taken_for, axis=1, keepdims=True)
        confusion = taken_for / ops.maximum(seen, 1.0)
        centres = features / ops.maximum(seen, 1.0)
        latest = [
            (self.scores, feedback_scores(confusion)),
            (self.graph, confusion_graph(confusion, centres, self._counts)),
        ]
        keep = self.momentum * ops.cast(self.epochs.value > 0, "float32")
        for state, value in latest:
            moved = keep * state.value + (1.0 - keep) * value
            state.assign(ops.where(complete, moved, state.value))
        self.epochs.assign_add(ops.cast(complete, "float32"))

    def loss(self, targets, logits, criterion):
        values = super().loss(targets, logits, criterion)
        if len(values.shape) == 0:
            raise ValueError(
                "`method` of CGR must have a loss with a value for each image, for its "
                f"weights of the classes. Received: method={self.method!r}"
            )
        weights = ops.sum(targets * feedback_weights(self.scores.value), axis=-1)
        margins = self.margins(targets, logits["adversarial"])
        with_feedback = weights * (values + self.strength * margins)
        return ops.where(self._schedule.epoch >= self.start, with_feedback, values)

    def margins(self, targets, logits):
        """By how much each image misses its margins to the neighbours of its class."""
        true = ops.sum(targets * logits, axis=-1, keepdims=True)
        missing = ops.relu(MARGIN - true + logits)
        return ops.sum(ops.matmul(targets, self.graph.value) * missing, axis=-1)

    def update(self, targets, logits):
        super().update(targets, logits)
        predicted = ops.argmax(logits["adversarial"], axis=-1)
        predicted = ops.one_hot(predicted, targets.shape[-1], dtype="float32")
        features = ops.normalize(logits["adversarial_features"], axis=-1)
        members = ops.transpose(targets)
        self.taken_for.assign_add(ops.matmul(members, predicted))
        self.features.assign_add(ops.matmul(members, features))

    def get_config(self):
        return {
            "method": keras.saving.serialize_keras_object(self.method),
            "strength": self.strength,
            "start": self.start,
            "momentum": self.momentum,
        }
