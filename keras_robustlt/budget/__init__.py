"""How much perturbation each class gets, and when.

Adversarial training usually moves every image by at most the same epsilon, from
the first iteration to the last. On long-tailed data that hurts twice: the head
classes, which are easy, and the tail classes, which are not, are attacked alike;
and the adversarial distribution is far from the data before the network has
learned anything. RobustLT answers with two factors (Zhang et al., "Taming the Long
Tail: Rebalancing Adversarial Training via Adaptive Perturbation", CVPR 2026):

- class-wise perturbation balancing (CPB) redistributes epsilon over the classes,
  more for rare ones, with the mean over the training data unchanged;
- adversarial iteration weighting (AIW) raises it from zero along training.

Both are pure functions here, `classwise_epsilon` and `iteration_weight`. `RobustLT`
is their product, in the form in which a training step asks for it, and `Auto` the same
with strength and growth that follow training. Other rules, for comparison, come through
the same door: `CFA`, `DAFA`, and any subclass of `Budget`.
"""

from keras_robustlt import configurable
from keras_robustlt.budget.auto import Auto, largest_alpha
from keras_robustlt.budget.base import Budget
from keras_robustlt.budget.cfa import CFA
from keras_robustlt.budget.dafa import DAFA, class_distance_weights
from keras_robustlt.budget.robustlt import (
    RobustLT,
    classwise_epsilon,
    iteration_weight,
)

__all__ = [
    "Auto",
    "CFA",
    "DAFA",
    "Budget",
    "RobustLT",
    "class_distance_weights",
    "classwise_epsilon",
    "get",
    "iteration_weight",
    "largest_alpha",
]

BY_NAME = {
    "uniform": Budget,
    "robustlt": RobustLT,
    "auto": Auto,
    "cfa": CFA,
    "dafa": DAFA,
}


def get(budget, **options):
    """A budget from its name, its configuration or itself.

    Args:
        budget: `"uniform"`, `"robustlt"`, `"auto"`, `"cfa"`, `"dafa"`, a `Budget`, or
            the dictionary that `keras.saving.serialize_keras_object` makes of one.
        **options: Hyper-parameters, where `budget` is a name.

    Returns:
        A `Budget`.

    Raises:
        ValueError: If there is no such budget, or `options` are given with an object.

    Example:

    >>> krl.budget.get("cfa")
    CFA(base=0.5, start=0.05)
    """
    return configurable.get("budget", budget, Budget, BY_NAME, options)
