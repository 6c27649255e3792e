"""The budget of RobustLT: class-wise balancing times iteration weighting."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.budget.base import Budget

GRANULARITIES = ("epoch", "step")
# From here on all images can be moved to one and the same.
HOPELESS = 0.5
WEIGHTINGS = ("perturbation", "loss", "both")


def classwise_epsilon(class_counts, epsilon, alpha, norm="linf"):
    """Perturbation budget of each class (CPB).

    With `K_y = max(n) / n_y` and `P(y) = n_y / sum(n)`:

    `epsilon_y = (1 - alpha) epsilon + alpha epsilon sqrt(log K_y) / E_P[sqrt(log K)]`

    The mean over the training data, `sum(P(y) epsilon_y)`, is `epsilon` for every
    `alpha`. Balanced counts, for which the second term is 0 / 0, give the uniform
    budget.

    Args:
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class, all positive, in any order.
        epsilon: Float. The base budget, in pixel units of images in `[0, 1]`.
        alpha: Float in `[0, 1]`. `0` is the uniform budget; with `1` the largest
            class is not perturbed at all.
        norm: `"linf"` or `"l2"`: the norm in which `epsilon` is measured. Defaults
            to `"linf"`.

    Returns:
        A float64 array of shape `(num_classes,)`, in the units of `epsilon`.

    Raises:
        ValueError: If a count is not positive, `epsilon` or `alpha` is out of range,
            or a class would get more than the whole range of a pixel.

    Example:

    >>> krl.budget.classwise_epsilon([100, 100, 100], epsilon=0.1, alpha=0.3)
    array([0.1, 0.1, 0.1])
    >>> krl.budget.classwise_epsilon(
    ...     [5000, 500, 100], epsilon=8 / 255, alpha=0.3
    ... ).round(4)
    array([0.022 , 0.1056, 0.1309])

    Reference:
        Zhang et al., CVPR 2026, class-wise perturbation balancing.
    """
    counts = checks.class_counts(class_counts).astype("float64")
    norm = checks.one_of("norm", norm, ("linf", "l2"))
    epsilon = checks.epsilon(epsilon, norm)
    alpha = checks.in_range("alpha", alpha, 0, 1)
    rarity = np.sqrt(np.log(counts.max() / counts))
    mean_rarity = np.average(rarity, weights=counts)
    if mean_rarity == 0:
        return np.full(counts.shape, epsilon)
    budget = epsilon * ((1 - alpha) + alpha * rarity / mean_rarity)
    if norm == "linf" and budget.max() > 1:
        raise ValueError(
            f"`alpha` gives class {budget.argmax()}, of {counts.min():.0f} images of "
            f"{counts.sum():.0f}, a budget of {budget.max():.3g}, beyond the whole "
            f"range [0, 1] of a pixel. Lower it. Received: alpha={alpha}, "
            f"epsilon={epsilon:.4g}"
        )
    return budget


def iteration_weight(t, total, beta):
    """Share of the budget in use at iteration `t` (AIW).

    `w_t = min((t - 1) / (beta * total), 1)`: nothing at the first iteration, all of
    it once the share `beta` of training is over. `beta = 0` is all of it from the
    start.

    Args:
        t: Integer or array of integers from 1 to `total`: the iteration (an epoch or
            a training step, as `total` counts them).
        total: Integer. The number of iterations of the whole training.
        beta: Float, not negative. The share of training over which the budget grows.
            With `1` or more the full budget is never reached.

    Returns:
        A float64 scalar or array of the shape of `t`, in `[0, 1]`.

    Raises:
        ValueError: If `t` is outside `1..total`, `total` is not positive or `beta` is
            negative.

    Example:

    >>> krl.budget.iteration_weight(np.arange(1, 6), total=5, beta=0.8)
    array([0.  , 0.25, 0.5 , 0.75, 1.  ])

    Reference:
        Zhang et al., CVPR 2026, adversarial iteration weighting.
    """
    beta = checks.in_range("beta", beta, 0, np.inf)
    total = checks.positive_integer("total", total)
    given = t
    try:
        t = np.asarray(t)
    except ValueError:  # lists of different lengths
        t = np.asarray(None)
    t = t.astype("float64") if t.dtype.kind in "iuf" else np.asarray(np.nan)
    whole = np.all((t >= 1) & (t <= total) & (t == np.floor(t)))
    if not whole:
        raise ValueError(
            "`t` counts iterations from 1 to `total`, as integers. "
            f"Received: t={given!r:.200}, total={total}"
        )
    if beta == 0:
        return np.ones_like(t)[()]
    return np.minimum((t - 1) / (beta * total), 1.0)[()]


@keras.saving.register_keras_serializable(package="keras_robustlt")
class RobustLT(Budget):
    """CPB times AIW: `epsilon_y^(t) = w_t epsilon_y`.

    Args:
        alpha: Float in `[0, 1]`. Strength of CPB; `0` switches it off. Defaults to
            `0.3`, the paper's value for CIFAR10-LT.
        beta: Float, not negative. Share of training over which AIW raises the
            budget; `0` switches it off. Defaults to `0.8`.
        granularity: `"epoch"` or `"step"`: what AIW counts. With `"epoch"`, as in
            the paper, the first epoch sees no perturbation at all. Defaults to
            `"epoch"`.
        weighting: What `w_t` multiplies. `"perturbation"`: the budget, as in the
            paper. `"loss"`: the budget is `epsilon_y` throughout and the loss is
            `w_t` times the adversarial one plus `1 - w_t` times the clean one.
            `"both"`: both. Defaults to `"perturbation"`.

    Example:

    >>> budget = krl.budget.RobustLT(alpha=0.3, beta=0.8, granularity="step")
    >>> model = krl.RobustLTModel(network, class_counts, budget=budget)

    Reference:
        Zhang et al., CVPR 2026.
    """

    def __init__(
        self, alpha=0.3, beta=0.8, granularity="epoch", weighting="perturbation"
    ):
        self.alpha = checks.in_range("alpha", alpha, 0, 1)
        self.beta = checks.in_range("beta", beta, 0, np.inf)
        if self.beta > 1:
            warnings.warn(
                f"With beta={beta} the budget is still growing when training ends, and "
                f"never more than 1 / {beta} of what it is meant to be. `beta` is a "
                "share of training, from 0 to 1.",
                stacklevel=2,
            )
        self._granularity = checks.one_of("granularity", granularity, GRANULARITIES)
        self.weighting = checks.one_of("weighting", weighting, WEIGHTINGS)

    @property
    def granularity(self):
        return self._granularity

    @property
    def grows(self):
        return self.beta > 0

    @property
    def uses_clean_loss(self):
        return self.weighting != "perturbation" and self.beta > 0

    def build(self, model):
        epsilon = classwise_epsilon(
            model.class_counts, model.epsilon, self.alpha, model.norm
        )
        if model.norm == "linf" and model.epsilon < HOPELESS <= epsilon.max():
            warnings.warn(
                f"`alpha={self.alpha}` gives class {epsilon.argmax()} a budget of "
                f"{epsilon.max():.3g}, {epsilon.max() / model.epsilon:.0f} times "
                "`epsilon`: every image can become the same grey, and the class "
                "cannot be learned. Lower alpha.",
                stacklevel=2,
            )
        self._epsilon = epsilon.astype("float32")

    def iteration_weight(self, schedule):
        if self.beta == 0:
            return ops.ones((), "float32")
        t, total = schedule.position(self.granularity)
        return ops.minimum((t - 1.0) / (self.beta * total), 1.0)

    def class_epsilon(self, schedule):
        epsilon = super().class_epsilon(schedule)
        if self.weighting == "loss":
            return epsilon
        return self.iteration_weight(schedule) * epsilon

    def loss_weight(self, schedule):
        return self.iteration_weight(schedule) if self.uses_clean_loss else None

    def get_config(self):
        return {
            "alpha": self.alpha,
            "beta": self.beta,
            "granularity": self.granularity,
            "weighting": self.weighting,
        }
