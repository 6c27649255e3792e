"""Loss values, one for each example; who calls them takes the mean.

All take `targets`, float one-hot (or soft) labels of shape `(batch, num_classes)`,
and `logits` of the same shape, and compute in float32.
"""

import functools
import inspect

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks

__all__ = [
    "balanced_softmax",
    "class_balanced",
    "cross_entropy",
    "dlr",
    "effective_number_weights",
    "focal",
    "kl_divergence",
    "label_distribution_margins",
    "ldam",
    "logit_adjusted",
    "margin",
    "nuclear_norm_shares",
    "one_hot",
    "targeted_dlr",
]


def one_hot(labels, num_classes):
    """Labels as float32 targets of shape `(batch, num_classes)`.

    Args:
        labels: Integers (of any numeric dtype) of shape `(batch,)` or `(batch, 1)`,
            or one-hot or soft labels of shape `(batch, num_classes)`.
        num_classes: Integer. The number of classes.

    Returns:
        A float32 tensor of shape `(batch, num_classes)`.

    Raises:
        ValueError: If the shape of `labels` is none of these.

    Example:

    >>> krl.losses.one_hot([1, 0], num_classes=2)
    array([[0., 1.], [1., 0.]], dtype=float32)
    """
    num_classes = checks.positive_integer("num_classes", num_classes)
    if isinstance(labels, (list, tuple)):
        checks.labels(labels, num_classes, "labels")  # which may be of any lengths
    try:
        labels = ops.convert_to_tensor(labels)
    except Exception:  # each backend has its own for what it makes no tensor of
        checks.refuse_numbers("labels", f"a {type(labels).__name__}")
    values = checks.known(labels)
    if values is not None:
        checks.labels(values, num_classes, "labels")
    if len(labels.shape) not in (1, 2):
        raise ValueError(
            "`labels` must be integers of shape (batch,), or one-hot of shape "
            f"(batch, {num_classes}). Received shape: {tuple(labels.shape)}. A data "
            "set must give batches of labels: `.batch(...)`."
        )
    if len(labels.shape) == 2:
        if labels.shape[-1] == num_classes:
            return ops.cast(labels, "float32")
        if labels.shape[-1] != 1:
            raise ValueError(
                f"`labels` of shape {tuple(labels.shape)} do not fit {num_classes} "
                "classes, the number of outputs of the network. Labels and "
                "`class_counts` must be of as many classes as the network."
            )
        labels = ops.squeeze(labels, axis=-1)
    return ops.one_hot(ops.cast(labels, "int32"), num_classes, dtype="float32")


def largest_part(targets):
    """Soft labels as one-hot ones, of the class that has the largest part.

    Args:
        targets: Float tensor `(batch, num_classes)`. Of equal parts, the first counts.

    Returns:
        A float32 tensor of shape `(batch, num_classes)`.
    """
    classes = ops.argmax(targets, axis=-1)
    return ops.one_hot(classes, targets.shape[-1], dtype="float32")


def _pair(targets, logits, of_one_class=False):
    """Both as float32 tensors of one shape; raises if known values are no targets."""
    logits = checks.floats("logits", logits, ("batch", "num_classes"))
    targets = checks.floats("targets", targets, tuple(logits.shape), "logits")
    values = None if isinstance(targets, keras.KerasTensor) else checks.known(targets)
    if values is not None:
        if not np.all((values >= 0) & np.isfinite(values)):
            raise ValueError(
                "`targets` must be finite numbers of at least 0, such as one-hot rows. "
                f"Received: values from {values.min():g} to {values.max():g}"
            )
        if of_one_class and checks.are_soft(values, values.shape[1]):
            checks.refuse_soft_labels("`targets` holds", "this loss is of one class")
    return targets, logits


def cross_entropy(targets, logits, label_smoothing=0.0, towards=None):
    """Cross-entropy of each example.

    With smoothing `s`: `(1 - s) * -log p_y + s * mean_c(-log p_c)`.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot or soft labels.
        logits: Float tensor `(batch, num_classes)`.
        label_smoothing: Float in `[0, 1]`. Defaults to `0`.
        towards: Floats of shape `(num_classes,)` that sum to 1: the weights of the
            classes in the mean. Defaults to `None`, equal ones.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:

    >>> krl.losses.cross_entropy([[1.0, 0.0]], [[0.0, 0.0]])
    array([0.6931472], dtype=float32)
    """
    targets, logits = _pair(targets, logits)
    label_smoothing = checks.in_range("label_smoothing", label_smoothing, 0, 1)
    if label_smoothing:
        if towards is None:
            towards = 1.0 / logits.shape[-1]
        else:
            towards = checks.floats("towards", towards, (logits.shape[-1],))
        targets = (1.0 - label_smoothing) * targets + label_smoothing * towards
    return -ops.sum(targets * ops.log_softmax(logits, axis=-1), axis=-1)


def _counts(class_counts, logits=None):
    """Training images of each class as a float64 array, all of them above 0."""
    try:
        counts = np.asarray(class_counts)
    except ValueError:  # lists of different lengths
        counts = np.asarray(None)
    good = counts.ndim == 1 and counts.size and counts.dtype.kind in "iuf"
    if not good or not np.all((counts > 0) & (counts < np.inf)):
        raise ValueError(
            "`class_counts` must be a positive number for each class. Received: "
            f"{class_counts!r}"
        )
    if logits is not None and np.shape(logits)[-1] != len(counts):
        raise ValueError(
            "`class_counts` must have a number for each logit. Received: "
            f"{len(counts)} of them and logits of shape {tuple(np.shape(logits))}"
        )
    return counts.astype("float64")


def balanced_softmax(targets, logits, class_counts, tau=1.0):
    """Cross-entropy of logits shifted by the class prior, `logits + tau log(n)`.

    A network trained with it has logits that suit balanced test data.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot or soft labels.
        logits: Float tensor `(batch, num_classes)`.
        class_counts: Numbers `(num_classes,)`, the training images of each class.
        tau: Float. Strength of the shift; `0` is the plain cross-entropy. Defaults
            to `1`.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:

    >>> krl.losses.balanced_softmax([[0.0, 1.0]], [[0.0, 0.0]], [300, 100])
    array([1.3862944], dtype=float32)

    Reference:
        Ren et al., "Balanced Meta-Softmax for Long-Tailed Visual Recognition",
        NeurIPS 2020, equation 3.
    """
    targets, logits = _pair(targets, logits)
    tau = checks.in_range("tau", tau, 0, np.inf)
    prior = np.log(_counts(class_counts, logits)).astype("float32")
    return cross_entropy(targets, logits + tau * prior)


def logit_adjusted(targets, logits, class_counts, tau=1.0):
    """Cross-entropy of logits shifted by the class prior, `logits + tau log(P)`.

    `P` are the shares of the classes in the training images. The softmax does not see
    that `P` and the counts differ by a factor: it is `balanced_softmax`, which came to
    the same loss in another way.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot or soft labels.
        logits: Float tensor `(batch, num_classes)`.
        class_counts: Numbers `(num_classes,)`, the training images of each class.
        tau: Float. Strength of the shift; `0` is the plain cross-entropy. Defaults
            to `1`.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:

    >>> krl.losses.logit_adjusted([[0.0, 1.0]], [[0.0, 0.0]], [300, 100])
    array([1.3862944], dtype=float32)

    Reference:
        Menon et al., "Long-tail Learning via Logit Adjustment", ICLR 2021,
        equation 10.
    """
    return balanced_softmax(targets, logits, class_counts, tau)


def label_distribution_margins(class_counts, max_margin=0.5):
    """Margins that are larger for rarer classes, `max_margin (n_min / n_y)^(1/4)`.

    Args:
        class_counts: Numbers `(num_classes,)`, the training images of each class.
        max_margin: Float. The margin of the rarest class. Defaults to `0.5`.

    Returns:
        A float32 array of shape `(num_classes,)`.

    Example:

    >>> krl.losses.label_distribution_margins([160, 10])
    array([0.25, 0.5 ], dtype=float32)

    Reference:
        Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
        Loss", NeurIPS 2019, equation 10.
    """
    counts = _counts(class_counts)
    max_margin = checks.in_range("max_margin", max_margin, 0, np.inf)
    return (max_margin * (counts.min() / counts) ** 0.25).astype("float32")


def ldam(targets, logits, class_counts, max_margin=0.5, scale=30.0):
    """Cross-entropy with a margin for each class, of `scale (logits - margin_y at y)`.

    The margins are `label_distribution_margins`. The logits are meant to be cosines,
    as those of a network with `head="cosplus"` nearly are.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot labels.
        logits: Float tensor `(batch, num_classes)`.
        class_counts: Numbers `(num_classes,)`, the training images of each class.
        max_margin: Float. The margin of the rarest class. Defaults to `0.5`.
        scale: Float. Factor of the logits. Defaults to `30`.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:

    >>> krl.losses.ldam([[0.0, 1.0]], [[0.0, 0.5]], [16, 1])
    array([0.6931472], dtype=float32)

    Reference:
        Cao et al., "Learning Imbalanced Datasets with Label-Distribution-Aware Margin
        Loss", NeurIPS 2019, equation 13.
    """
    targets, logits = _pair(targets, logits)
    scale = checks.positive("scale", scale)
    margins = label_distribution_margins(_counts(class_counts, logits), max_margin)
    return cross_entropy(targets, scale * (logits - targets * margins))


def focal(targets, logits, gamma=2.0):
    """Cross-entropy with less weight for what is right already, `(1 - p_y)^gamma`.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot labels.
        logits: Float tensor `(batch, num_classes)`.
        gamma: Float, not negative. `0` is the plain cross-entropy. Defaults to `2`.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:

    >>> krl.losses.focal([[1.0, 0.0]], [[0.0, 0.0]], gamma=2.0)
    array([0.1732868], dtype=float32)

    Reference:
        Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017, equation 4.
    """
    gamma = checks.in_range("gamma", gamma, 0, np.inf)
    return focal_factor(targets, logits, gamma) * cross_entropy(targets, logits)


def focal_factor(targets, logits, gamma):
    """`(1 - p_y)^gamma` of each example. Its gradient is finite at `p_y = 1` too."""
    targets, logits = _pair(targets, logits)
    wrong = ops.sum((1.0 - targets) * ops.softmax(logits, axis=-1), axis=-1)
    return ops.maximum(wrong, 1e-12) ** gamma


def effective_number_weights(class_counts, beta=0.9999):
    """Class weights `(1 - beta) / (1 - beta^n_y)`, scaled to a mean of 1.

    The inverse of the effective number of images, which grows with the number `n_y` of
    them the slower, the more there are: up to `1 / (1 - beta)`.

    Args:
        class_counts: Numbers `(num_classes,)`, the training images of each class.
        beta: Float in `[0, 1)`. `0` gives all classes the same weight; close to 1 the
            weights are those of inverse frequency. Defaults to `0.9999`.

    Returns:
        A float32 array of shape `(num_classes,)`.

    Example:

    >>> krl.losses.effective_number_weights([2, 1], beta=0.5)
    array([0.8, 1.2], dtype=float32)

    Reference:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
        CVPR 2019, equation 2.
    """
    counts = _counts(class_counts)
    beta = checks.in_range("beta", beta, 0, np.nextafter(1, 0))
    with np.errstate(divide="ignore"):  # beta 0: of any number of images, one counts
        weights = -1.0 / np.expm1(counts * np.log(beta))
    return (weights / weights.mean()).astype("float32")


def class_balanced(targets, logits, class_counts, beta=0.9999):
    """Cross-entropy weighted by `effective_number_weights` of the classes.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot labels.
        logits: Float tensor `(batch, num_classes)`.
        class_counts: Numbers `(num_classes,)`, the training images of each class.
        beta: Float in `[0, 1)`. Defaults to `0.9999`.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:

    >>> krl.losses.class_balanced([[0.0, 1.0]], [[0.0, 0.0]], [2, 1], beta=0.5)
    array([0.8317767], dtype=float32)

    Reference:
        Cui et al., "Class-Balanced Loss Based on Effective Number of Samples",
        CVPR 2019, equation 4.
    """
    targets, logits = _pair(targets, logits)
    weights = effective_number_weights(_counts(class_counts, logits), beta)
    return ops.sum(targets * weights, axis=-1) * cross_entropy(targets, logits)


def kl_divergence(logits_p, logits_q):
    """Kullback-Leibler divergence `sum(p log(p / q))` of each example.

    Args:
        logits_p: Float tensor `(batch, num_classes)`, whose softmax is `p`.
        logits_q: Likewise for `q`.

    Returns:
        A float32 tensor of shape `(batch,)`. Gradients flow to both.

    Example:

    >>> krl.losses.kl_divergence([[0.0, 0.0]], [[0.0, 0.0]])
    array([0.], dtype=float32)
    """
    logits_p = checks.floats("logits_p", logits_p, ("batch", "num_classes"))
    logits_q = checks.floats("logits_q", logits_q, tuple(logits_p.shape), "logits_p")
    log_p = ops.log_softmax(logits_p, axis=-1)
    log_q = ops.log_softmax(logits_q, axis=-1)
    return ops.sum(ops.exp(log_p) * (log_p - log_q), axis=-1)


def nuclear_norm_shares(matrix):
    """What each row has of the nuclear norm, the sum of the singular values.

    With the singular value decomposition `U S V^T` the norm is the sum of the products
    of the elements of the matrix and of `U V^T`, row by row. Singular values that are
    0 but for rounding have no part in that.

    Args:
        matrix: Float tensor `(rows, columns)`.

    Returns:
        A float32 tensor of shape `(rows,)`, none of them negative. The gradient of
        their sum is `U V^T`, the subgradient of least length, which stays finite where
        singular values are equal or 0.

    Example:

    >>> krl.losses.nuclear_norm_shares([[3.0, 0.0], [0.0, -4.0]])
    array([3., 4.], dtype=float32)
    """
    matrix = checks.floats("matrix", matrix, ("rows", "columns"))
    u, singular, v = ops.svd(ops.stop_gradient(matrix), full_matrices=False)
    smallest = 1e-6 * ops.max(singular)
    kept = ops.cast(singular > smallest, "float32")
    return ops.sum(matrix * ops.matmul(u * kept, v), axis=-1)


def margin(targets, logits):
    """By how much each example is misclassified: at most 0, and 0 from there on.

    `-max(z_y - max_{c != y} z_c, 0)`. Once an example is misclassified its gradient is
    zero, so that an attack stops moving it.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot labels.
        logits: Float tensor `(batch, num_classes)`.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Example:

    >>> targets = np.array([[1.0, 0.0], [0.0, 1.0]], "float32")
    >>> krl.losses.margin(targets, np.array([[3.0, 1.0], [3.0, 1.0]]))
    array([-2., -0.], dtype=float32)

    Reference:
        Carlini and Wagner, "Towards Evaluating the Robustness of Neural Networks",
        2017, equation 6 of section V, with zero confidence.
    """
    targets, logits = _pair(targets, logits, of_one_class=True)
    return -ops.relu(logit_margin(targets, logits))


def dlr(targets, logits):
    """Difference of logits ratio: the margin in units of the spread of the logits.

    `-(z_y - max_{c != y} z_c) / (z_(1) - z_(3))`, with `z_(k)` the `k`-th largest
    logit. It is positive where the example is misclassified. Neither a shift nor a
    scale of the logits changes it, so that its gradient does not vanish for a network
    that is very sure of itself, as that of the cross-entropy does.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot labels.
        logits: Float tensor `(batch, num_classes)`, of at least three classes.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Raises:
        ValueError: If there are fewer than three classes.

    Example:

    >>> krl.losses.dlr([[1.0, 0.0, 0.0]], [[5.0, 3.0, 1.0]])
    array([-0.5], dtype=float32)

    Reference:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
        Ensemble of Diverse Parameter-free Attacks", ICML 2020, equation 6.
    """
    targets, logits = _pair(targets, logits, of_one_class=True)
    if logits.shape[-1] < 3:
        raise ValueError(
            "`logits` of the DLR loss must be of at least 3 classes: it compares the "
            'largest with the third. Use the loss "cross_entropy" or "margin". '
            f"Received: logits of {logits.shape[-1]} classes"
        )
    largest = ops.top_k(logits, 3)[0]
    spread = largest[:, 0] - largest[:, 2]
    return -logit_margin(targets, logits) / (spread + 1e-12)


def targeted_dlr(targets, logits, target_class):
    """Difference of logits ratio towards one chosen class for each example.

    `-(z_y - z_t) / (z_(1) - (z_(3) + z_(4)) / 2)` with the class `t` that an attack
    turns the example into.

    Args:
        targets: Float tensor `(batch, num_classes)`, one-hot labels.
        logits: Float tensor `(batch, num_classes)`, of at least four classes.
        target_class: Float tensor `(batch, num_classes)`, one-hot: these classes.

    Returns:
        A float32 tensor of shape `(batch,)`.

    Raises:
        ValueError: If there are fewer than four classes.

    Example:

    >>> third = [[0.0, 0.0, 1.0, 0.0]]
    >>> krl.losses.targeted_dlr([[1.0, 0, 0, 0]], [[5.0, 3.0, 2.0, 0.0]], third)
    array([-0.75], dtype=float32)

    Reference:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
        Ensemble of Diverse Parameter-free Attacks", ICML 2020, equation 7.
    """
    targets, logits = _pair(targets, logits, of_one_class=True)
    if logits.shape[-1] < 4:
        raise ValueError(
            "`logits` of the targeted DLR loss must be of at least 4 classes, for the "
            'largest, the third and the fourth. Use the loss "dlr" (3 classes) or '
            '"cross_entropy", without targets. '
            f"Received: logits of {logits.shape[-1]} classes"
        )
    shape = tuple(logits.shape)
    target_class = checks.floats("target_class", target_class, shape, "logits")
    largest = ops.top_k(logits, 4)[0]
    spread = largest[:, 0] - (largest[:, 2] + largest[:, 3]) / 2.0
    return -ops.sum((targets - target_class) * logits, axis=-1) / (spread + 1e-12)


def logit_margin(targets, logits):
    """The logit of the right class minus the largest other one."""
    true = ops.sum(targets * logits, axis=-1)
    others = ops.where(targets > 0, -float("inf"), logits)
    return true - ops.max(others, axis=-1)


def criterion(loss):
    """What `compile` takes as a loss, as a function with a value for each example.

    Args:
        loss: `None` (the cross-entropy), the name of a Keras loss, a
            `keras.losses.Loss` of logits, or a function of `(targets, logits)`.

    Returns:
        A function of one-hot targets and logits, both `(batch, num_classes)`.

    Raises:
        ValueError: If the loss takes probabilities.
    """
    if loss is None or loss is cross_entropy:
        return cross_entropy
    by_name = {
        "categorical_crossentropy": cross_entropy,
        "sparse_categorical_crossentropy": cross_entropy,
        "categorical_focal_crossentropy": functools.partial(
            keras.losses.categorical_focal_crossentropy, from_logits=True
        ),
    }
    if isinstance(loss, str) and loss in by_name:
        return by_name[loss]
    is_config = isinstance(loss, dict) and "class_name" in loss
    if not (isinstance(loss, str) or is_config or callable(loss)):
        raise ValueError(
            "`loss` must be the name of a Keras loss, a keras.losses.Loss, or a "
            f"function of (targets, logits). Received: {loss!r}"
        )
    if isinstance(loss, keras.Layer):
        checks.function("loss", loss, ("targets", "logits"))
    function = keras.losses.get(loss)
    if not isinstance(function, keras.losses.Loss):
        checks.function("loss", function, ("targets", "logits"))
    refuse_probabilities("loss", function)
    if getattr(function, "reduction", None) == "sum":
        raise ValueError(
            "`loss` must not have reduction='sum': training takes the mean over the "
            "images, whatever the reduction. For larger steps raise the learning rate. "
            f"Received: {function!r}"
        )
    function = of_targets(function)

    def values(targets, logits):
        values = function(targets, logits)
        values = values if values is None else ops.convert_to_tensor(values)
        if values is None or len(values.shape) > 1:
            raise ValueError(
                "`loss` must give one value for each example, of shape (batch,), or "
                "their mean. Received: a loss of shape "
                f"{getattr(values, 'shape', None)}"
            )
        return values

    values.is_sparse = getattr(function, "is_sparse", False)
    return values


def of_targets(loss):
    """A loss of Keras or of one's own as a function of one-hot targets, without a mean.

    Args:
        loss: A `keras.losses.Loss` or a function of `(targets, logits)`.
    """
    is_sparse = _core(loss) is keras.losses.sparse_categorical_crossentropy
    if isinstance(loss, keras.losses.Loss):
        is_sparse = isinstance(loss, keras.losses.SparseCategoricalCrossentropy)
        loss = loss.call
    if not is_sparse:
        return loss

    def of_classes(targets, logits):
        return loss(ops.argmax(targets, axis=-1), logits)

    of_classes.is_sparse = True
    return of_classes


def smoothed(criterion, label_smoothing, towards=None):
    """`criterion` with label smoothing, which the cross-entropy alone has."""
    if not label_smoothing:
        return criterion
    if criterion is not cross_entropy:
        raise ValueError(
            "`label_smoothing` of a method smooths the labels of its cross-entropy, "
            "and `loss` of `compile` replaces that. Smooth in the loss: "
            "keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing="
            f"...). Received: label_smoothing={label_smoothing}"
        )
    return functools.partial(
        cross_entropy, label_smoothing=label_smoothing, towards=towards
    )


def label_smoothing_of(loss):
    """The label smoothing of what `compile` takes as a loss, 0 if it has none."""
    if isinstance(loss, dict):
        loss = keras.losses.get(loss)
    smoothing = None
    if isinstance(loss, functools.partial):
        smoothing = loss.keywords.get("label_smoothing")
        smoothing = smoothing or label_smoothing_of(loss.func)
    elif isinstance(loss, keras.losses.Loss):
        smoothing = loss.get_config().get("label_smoothing")
    return checks.in_range("label_smoothing", smoothing or 0.0, 0, 1)


def refuse_probabilities(argument, function):
    """Raises a ValueError if a loss or metric takes probabilities for logits.

    Args:
        argument: String. What the caller's argument is called.
        function: A Keras loss or metric, or a function of `(targets, logits)`.
    """
    core = _core(function)
    name = getattr(core, "__name__", type(core).__name__)
    of_keras = core.__module__.partition(".")[0] == "keras"
    ours = core.__module__ == __name__ and inspect.signature(core).parameters
    if ours and next(iter(ours)) != "targets":
        raise ValueError(
            f"`{argument}` must be a function of (targets, logits), and {name} is one "
            f"of ({', '.join(ours)}). Use 'categorical_crossentropy'."
        )
    if _from_logits(function) is False:
        call = f"functools.partial({name}, from_logits=True)"
        if of_keras:
            camel = name.title().replace("_", "") if name.islower() else name
            kind = "metrics" if argument == "metrics" else "losses"
            call = f"keras.{kind}.{camel}(from_logits=True)"
        raise ValueError(
            f"`{argument}` must take logits: write {call}. Received {name} with "
            "from_logits=False, which takes probabilities."
        )
    if of_keras and name.replace("_", "").lower() in OF_NO_LOGITS:
        raise ValueError(
            f"`{argument}` must be of one-hot targets and logits, which {name} is not. "
            'Use "categorical_crossentropy", another loss with from_logits=True, or a '
            "function of (targets, logits)."
        )


# Keras's losses of probabilities, counts, sequences and embeddings; no underscores.
OF_NO_LOGITS = {
    "categoricalgeneralizedcrossentropy",
    "circle",
    "ctc",
    "dice",
    "kldivergence",
    "meanabsolutepercentageerror",
    "meansquaredlogarithmicerror",
    "poisson",
    "tversky",
}


def _core(function):
    """The function of a `functools.partial`."""
    while isinstance(function, functools.partial):
        function = function.func
    return function


def _from_logits(function):
    """The `from_logits` of a loss or metric; `None` if it has none."""
    if isinstance(function, (keras.losses.Loss, keras.metrics.Metric)):
        return function.get_config().get("from_logits")
    try:
        parameter = inspect.signature(function).parameters.get("from_logits")
    except (TypeError, ValueError):  # a callable without a signature
        return None
    return None if parameter is None else bool(parameter.default)
