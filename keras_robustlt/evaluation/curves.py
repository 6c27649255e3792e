"""A network under one attack: over a range of budgets, and on single images.

Both use PGD, which takes a budget for each image: one compiled function does for all.
"""

import numpy as np
from keras import ops

from keras_robustlt import attacks, checks
from keras_robustlt.attacks import PGD, active_set
from keras_robustlt.attacks.arguments import check_stays_within
from keras_robustlt.attacks.base import is_called_as
from keras_robustlt.attacks.compiled import CompiledAttack
from keras_robustlt.data.batches import Batches
from keras_robustlt.data.class_balanced import (
    ClassBalancedSubset,
    class_balanced_subset,
)
from keras_robustlt.evaluation import inputs, runners
from keras_robustlt.evaluation.evaluate import evaluate
from keras_robustlt.evaluation.results import (
    SUMMARY,
    AdversarialExamples,
    RobustnessCurve,
)

__all__ = ["adversarial_examples", "robustness_curve"]

# The budgets of a curve, in units of that of the attack.
MULTIPLES = (0, 0.5, 1, 1.5, 2)


def robustness_curve(
    model,
    x,
    y=None,
    epsilons=None,
    attack="pgd20",
    examples=None,
    class_counts=None,
    tail_fraction=None,
    batch_size=250,
    seed=0,
    verbose=1,
):
    """Accuracy as the budget of the attack grows: all, tail, balanced, worst.

    Each budget is attacked for itself, with a step size in proportion. A curve that
    does not fall, or does not reach zero for large budgets, says that the attack is
    too weak for this network, and so are the numbers from it.

    Args:
        model: See `evaluate`.
        x: See `evaluate`.
        y: See `evaluate`.
        epsilons: List of floats: the budgets, in pixel units. Defaults to five from
            0 to twice the attack's.
        attack: Name of an attack of `evaluate` that is PGD (`"pgdN"`, `"cwN"` or
            `"fgsm"`), with the budget of a `RobustLTModel`, or `8 / 255`; or a
            `keras_robustlt.attacks.PGD` of one run. Defaults to `"pgd20"`.
        examples: Integer. Only so many images, drawn from all classes as evenly as
            they come. Defaults to `None`, for all.
        class_counts: See `evaluate`.
        tail_fraction: See `evaluate`.
        batch_size: See `evaluate`.
        seed: See `evaluate`.
        verbose: See `evaluate`.

    Returns:
        A `RobustnessCurve`, a dictionary with the lists `"epsilons"`, `"all"`,
        `"tail"` (`None` without `class_counts`), `"balanced"` and `"worst"`, one value
        for each budget; the number of `"examples"` and the settings of the `"attack"`.
        Its `expected_robustness()` is the mean over the budgets. As the attribute
        `curve` of an `EvaluationResults` it is part of its JSON and of `report`.

    Raises:
        ValueError: If `attack` is not PGD, or an argument is out of range.

    Example:

    >>> results = krl.evaluate(model, test)
    >>> results.curve = krl.robustness_curve(model, test, epsilons=[0, 0.02, 0.04])
    >>> results.curve["all"]
    """
    attack = _attack(attack, model)
    if epsilons is None:
        most = 1.0 if attack.norm == "linf" else np.inf
        epsilons = [min(multiple * attack.epsilon, most) for multiple in MULTIPLES]
    if np.ndim(epsilons) != 1 or not len(epsilons):
        raise ValueError(
            "`epsilons` must be a list of at least one budget. "
            f"Received: epsilons={epsilons!r}"
        )
    epsilons = [
        checks.epsilon(epsilon, attack.norm, f"epsilons[{index}]")
        for index, epsilon in enumerate(epsilons)
    ]
    if examples is not None:
        x, y = class_balanced_subset(x, y, examples, seed)
    perturb = _Perturb(attack, checks.positive_integer("batch_size", batch_size))
    names = {epsilon: f"epsilon {epsilon:.6g}" for epsilon in epsilons}
    results = evaluate(
        model,
        x,
        y,
        attacks={name: perturb.within(epsilon) for epsilon, name in names.items()},
        epsilon=attack.epsilon,
        class_counts=class_counts,
        tail_fraction=tail_fraction,
        batch_size=batch_size,
        seed=seed,
        verbose=verbose,
        # The budgets that are not those of the evaluation may well be too large.
        diagnose=False,
    )
    curve = {key: [results[names[e]][key] for e in epsilons] for key in SUMMARY}
    if results.settings["class_counts"] is None:
        curve["tail"] = None
    return RobustnessCurve(
        epsilons=epsilons,
        **curve,
        examples=results.settings["examples"],
        attack=runners.settings_of(attack),
    )


def adversarial_examples(
    model,
    x,
    y=None,
    attack="pgd20",
    examples=6,
    class_counts=None,
    batch_size=250,
    seed=0,
):
    """A few images, what the attack makes of them, and what the network says of both.

    They are an image of each of some classes, from the one with the most training
    images to the one with the fewest: the same ones for every network.

    Args:
        model: See `evaluate`.
        x: See `evaluate`.
        y: See `evaluate`.
        attack: See `robustness_curve`.
        examples: Integer. How many images, of as many classes. Defaults to `6`.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class. Defaults to those of a `RobustLTModel`; without any the classes are
            in their own order.
        batch_size: See `evaluate`.
        seed: Integer. Seed of the choice of images and of the random start. Defaults
            to `0`.

    Returns:
        `AdversarialExamples`.

    Raises:
        ValueError: If `attack` is not PGD, an argument is out of range, or the network
            gives logits of these images that are no finite numbers.

    Example:

    >>> examples = krl.adversarial_examples(model, test)
    >>> np.abs(examples.adversarial - examples.images).max()
    """
    attack = _attack(attack, model)
    examples = checks.positive_integer("examples", examples)
    class_counts, _ = inputs.tail_of(model, class_counts)
    batch_size = checks.positive_integer("batch_size", batch_size)
    network = inputs.network_of(model)
    data = Batches(x, y, batch_size)
    x, y = _one_of_each_class(network, data, class_counts, seed)
    chosen = np.linspace(0, len(y) - 1, min(examples, len(y))).round().astype(int)
    x, y = x[chosen], y[chosen]
    adversarial = _Perturb(attack, len(x)).within(attack.epsilon)(network, x, y, seed)
    both = np.concatenate([x, adversarial])
    probabilities = ops.softmax(active_set.compiled_logits(network)(both))
    probabilities = ops.convert_to_numpy(probabilities)
    if not np.isfinite(probabilities).all():
        raise ValueError(
            "`model` must give logits that are finite numbers. Received: some that are "
            "infinite or no numbers (NaN)"
        )
    before, after = np.split(probabilities, 2)
    return AdversarialExamples(x, adversarial, y, before, after, attack.epsilon)


def _attack(attack, model):
    """The PGD that a name stands for, with the budget of the model, or is given."""
    if isinstance(attack, str) and attack != "clean":
        epsilon, norm = inputs.budget_of(model), inputs.norm_of(model)
        attack = attacks.get(attack, epsilon, norm=norm)
    if not is_called_as(attack, PGD) or attack.restarts > 1 or not attack.epsilon:
        raise ValueError(
            "`attack` must be 'pgdN' or 'cwN' with a number of steps N, 'fgsm', or a "
            "keras_robustlt.attacks.PGD with restarts=1 and an epsilon above 0. "
            f"Received: attack={attack!r}"
        )
    check_stays_within("attack", attack)
    return attack


def _one_of_each_class(network, data, class_counts, seed):
    """An image of each class that has any, those with more training images first."""
    num_classes = inputs.num_classes_of(network, data.first, class_counts)
    subset = ClassBalancedSubset(num_classes, seed)
    for chunk in data.chunks(1, num_classes):
        subset.add(chunk.images, chunk.labels)
    # Where some classes have none, others have more than one.
    classes, which = np.unique(subset.labels, return_index=True)
    if class_counts is not None:
        order = np.argsort(-class_counts[classes], kind="stable")
        classes, which = classes[order], which[order]
    return subset.images[which], classes


class _Perturb:
    """An attack, compiled once, for any budget."""

    def __init__(self, attack, batch_size):
        self.attack = attack
        self.batch_size = batch_size
        self._compiled = None

    def within(self, epsilon):
        """The attack with this budget, as `evaluate` takes a function; None for 0."""

        def attacked(network, x, y, seed):
            if self._compiled is None:
                self._compiled = CompiledAttack(
                    self.attack, network, batch_size=self.batch_size
                )
            budgets = np.full(len(x), epsilon, "float32")
            # Of any size for what is drawn by NumPy, but not for backends.
            start = self._compiled.start(x, budgets, checks.integer_seed(seed) % 2**31)
            return self._compiled(x, y.astype("int32"), start, budgets)

        return attacked if epsilon else None
