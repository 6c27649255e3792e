"""Signs that an attack failed, where a network looks robust.

An attack that fails is easily taken for a network that is robust. What gives it away
are results that cannot be if the attack works: another attack, which knows less or may
do less, breaks images that it leaves; a budget that turns every image into plain grey
leaves some right; the gradient that it follows is zero.

All comparisons are of two attacks on the same images, image by image, so that what the
images have in common cancels. What counts as too many is settled by two exact tests,
each with a chance of at most 1% to be wrong on images drawn at random:

- *missed*: an attack should break nearly all that another one breaks. Of `n` images it
  leaves `b` that the other breaks, and may leave a share `t` by bad luck with its
  random start and its last few steps. It is a finding if a binomial variable of `n`
  trials with probability `t` reaches `b` with a probability below 1%: with `t` = 1%
  from 8 of 256 images or 19 of 1000 on.
- *outdone*: an attack should break at least as many images as another one. Of the
  images that just one of them breaks, `b` and `c`, each is as likely to be the one's as
  the other's if they are equally strong. It is a finding if `b` out of `b + c` fair
  coins come up with a probability below 1% (the sign test), and if `b - c` is more than
  1% of all images, for a difference of no consequence is no finding.
"""

import warnings

import numpy as np
from keras import ops

from keras_robustlt import backend, losses
from keras_robustlt.attacks import APGD, APGDT, FAB, PGD, AutoAttack, Square, active_set

__all__ = ["RobustnessWarning"]

SIGNIFICANCE = 0.01
# The share of the images in which an attack may fall short of another one.
TOLERATED = 0.01
# The same of several attacks of many steps taken together, as in AutoAttack.
TOLERATED_IN_ENSEMBLE = 0.002
# Of a single gradient step, or of a few, Square can well be the better.
FEW_STEPS = 5
# So many images are kept to look at, and at so many at a time where no attack runs.
LOOKED_AT = 256
PROBED = 64


class RobustnessWarning(UserWarning):
    """What `evaluate` warns with if a robust accuracy cannot be trusted.

    Attributes:
        finding: Dictionary: `"check"`, the name of what was looked for, `"message"`,
            and the numbers that it goes by.
    """

    def __init__(self, message, finding=None):
        super().__init__(message)
        self.finding = finding


def examine(network, attacks, outcomes, labels, sample):
    """What the results of an evaluation say against themselves.

    Args:
        network: A Keras layer that gives logits.
        attacks: Dictionary from names to attacks.
        outcomes: Dictionary from names to `Outcome`s.
        labels: Integer array of shape `(examples,)`.
        sample: `ClassBalancedSubset` of the images.

    Returns:
        List of findings, dictionaries with `"check"`, `"message"` and numbers.
    """
    runs = []
    for name, attack in attacks.items():
        of_stages = [(p == labels) for _, p, _ in outcomes[name].rows()]
        if not isinstance(attack, AutoAttack):
            runs.append(Run(name, attack, of_stages[-1]))
            continue
        ensemble = []
        for (stage, part), right in zip(
            attack.attacks.items(), of_stages[1:], strict=True
        ):
            # The parts of an ensemble have its budget, whatever their own is.
            run = Run(f"{name}/{stage}", part, right, attack.epsilon, ensemble[:])
            ensemble.append(run)
            runs.append(run)
    found = [outdone_by_black_box(run, runs) for run in runs]
    found += [_outdone_by_weaker(run, runs) for run in runs]
    found.append(_vanishing(network, runs, sample))
    found.append(random_network(network, sample.images[:PROBED]))
    return [finding for finding in found if finding]


def warn(findings):
    """A warning for each finding, in the name of the caller of the caller."""
    for finding in findings:
        message = RobustnessWarning(finding["message"], finding)
        warnings.warn(message, stacklevel=3)


class Run:
    """An attack and which images are right after it.

    Those of AutoAttack's parts are what `before`, the parts that ran first, have left
    too; the first part of all has none before it.
    """

    def __init__(self, name, attack, right, epsilon=None, before=()):
        self.name = name
        self.attack = attack
        self.right = right
        self.epsilon = getattr(attack, "epsilon", None) if epsilon is None else epsilon
        self.before = before

    def follows_gradients(self):
        """Whether it should find nearly all that there is to find."""
        many = getattr(self.attack, "steps", 0) >= FEW_STEPS
        return isinstance(self.attack, (APGD, APGDT, FAB, PGD)) and many

    def should_outdo(self, other):
        """Whether it is `other` with a larger budget, more steps or adapted steps."""
        mine, others = self.attack, other.attack
        if self.before or other.before or not isinstance(others, (APGD, PGD)):
            return False
        # PGD of however many steps need not reach what APGD does.
        kinds = (APGD, PGD) if isinstance(others, PGD) else APGD
        if not isinstance(mine, kinds) or not reaches_all(mine):
            return False
        if (mine.norm, mine.loss) != (others.norm, others.loss):
            return False
        strength = (self.epsilon, mine.steps, mine.restarts, isinstance(mine, APGD))
        against = (other.epsilon, others.steps, others.restarts)
        against += (isinstance(others, APGD),)
        at_least = all(a >= b for a, b in zip(strength, against, strict=True))
        return at_least and strength != against


def reaches_all(attack):
    """Whether its steps lead from anywhere in the ball to anywhere else in it."""
    if not isinstance(attack, PGD):
        return True
    diameter = (2 if attack.random_start else 1) * attack.epsilon
    return attack.steps * attack.step_size >= diameter * (1 - 1e-6)


def outdone_by_black_box(square, runs):
    """Square breaks what attacks with gradients leave."""
    if not isinstance(square.attack, Square):
        return None
    if square.before:
        others, tolerated = square.before, TOLERATED_IN_ENSEMBLE
    else:
        others, tolerated = [run for run in runs if not run.before], TOLERATED
    others = [
        run
        for run in others
        if run.follows_gradients()
        and run.attack.norm == square.attack.norm
        and run.epsilon >= square.epsilon
    ]
    if not others:
        return None
    left = np.all([run.right for run in others], axis=0)
    missed = int(np.sum(left & ~square.right))
    if not too_many(missed, len(left), tolerated):
        return None
    names = ", ".join(run.name for run in others)
    return {
        "check": "black_box",
        "message": f"{square.name}, which needs no gradients, breaks {missed} of "
        f"{len(left)} images ({percent(missed, len(left))}) that are still right after "
        f"{names}; up to {percent(tolerated)} would be usual. The gradients of the "
        "network mislead the attacks, and its robustness is lower than they say. Trust "
        "the union of all attacks at most; see `keras_robustlt.diagnose`.",
        "attack": square.name,
        "others": [run.name for run in others],
        "missed": missed,
        "examples": len(left),
    }


def _outdone_by_weaker(strong, runs):
    """An attack breaks fewer images than a weaker form of itself."""
    excesses = []
    for weak in runs:
        if strong.should_outdo(weak):
            only_weak = int(np.sum(strong.right & ~weak.right))
            only_strong = int(np.sum(weak.right & ~strong.right))
            if outdone(only_weak, only_strong, len(weak.right)):
                excesses.append((only_weak - only_strong, only_weak, only_strong, weak))
    if not excesses:
        return None
    _, only_weak, only_strong, weak = max(excesses, key=lambda entry: entry[0])
    examples = len(weak.right)
    what = "has a larger budget" if strong.epsilon > weak.epsilon else "does more"
    return {
        "check": "weaker_attack",
        "message": f"{weak.name} breaks {only_weak} of {examples} images that "
        f"{strong.name} leaves right, and {strong.name}, which {what}, only "
        f"{only_strong} that {weak.name} leaves. An attack that works does not get "
        "weaker so: the gradients may mislead it, or its step size does not fit its "
        f"budget. Do not trust {strong.name}; see `keras_robustlt.diagnose`.",
        "attack": strong.name,
        "weaker": weak.name,
        "only_weaker": only_weak,
        "only_stronger": only_strong,
        "examples": examples,
    }


def _vanishing(network, runs, sample):
    """The cross-entropy, which an attack climbs, has no slope at images it leaves."""
    blind = [
        run
        for run in runs
        if isinstance(run.attack, (APGD, PGD))
        and run.attack.loss == "cross_entropy"
        and not run.before
    ]
    if not blind:
        return None
    left = np.all([run.right[sample.index] for run in blind], axis=0)
    left = np.flatnonzero(left)[:PROBED]
    if not left.size:
        return None
    zero, _ = vanishing_gradients(network, sample.images[left], sample.labels[left])
    names = ", ".join(run.name for run in blind)
    return zero_gradients(zero, f" that are still right after {names}")


def zero_gradients(flags, which=""):
    """The finding, if any, of images where the gradient is zero."""
    zero, examples = int(flags.sum()), len(flags)
    if not too_many(zero, examples, TOLERATED):
        return None
    return {
        "check": "zero_gradients",
        "message": f"The cross-entropy has a gradient of exactly zero at {zero} of "
        f"{examples} images{which}. An attack that follows it does not know where to "
        "go there: what it leaves is no robustness. If the logits are very large, use "
        "attacks that do not depend on their scale ('cw20', 'apgd-dlr', 'autoattack'); "
        "if a layer rounds, gradients cannot attack it, and 'square' can.",
        "zero_gradients": zero,
        "examples": examples,
    }


def random_network(network, images):
    """The network decides differently from one call to the next."""
    images = ops.convert_to_tensor(images)
    # Not frozen, as attacks have it: that would be the same draw again.
    first, second = (
        ops.convert_to_numpy(ops.cast(network(images, training=False), "float32"))
        for _ in range(2)
    )
    # Parallel sums may differ in their last digits.
    scale = max(float(np.abs(first).max()), 1e-12)
    changed = np.abs(first - second).max(axis=1) > 1e-3 * scale
    decided = int(np.sum(first.argmax(axis=1) != second.argmax(axis=1)))
    if not changed.any():
        return None
    return {
        "check": "random_network",
        "message": f"The network is random in inference mode: the logits of "
        f"{int(changed.sum())} of {len(images)} images, and the class of {decided}, "
        "change from one call to the next. An attack on one draw need not work on "
        "another, and the other way round. Use 'autoattack-rand', which averages "
        "gradients over draws.",
        "changed": int(changed.sum()),
        "decided_otherwise": decided,
        "examples": len(images),
    }


def vanishing_gradients(network, images, labels):
    """Where the cross-entropy is flat, and where it is zero, in float32.

    Returns:
        Two boolean arrays of shape `(examples,)`.
    """
    logits_of = active_set.logits_of(network)
    images = ops.convert_to_tensor(images)

    def loss(x):
        logits = logits_of(x)
        values = losses.cross_entropy(active_set.one_hot(labels, logits), logits)
        return ops.sum(values), values

    gradient, values = backend.gradient_and_outputs(loss, images)
    saturated = ops.convert_to_numpy(values) == 0
    if gradient is None:  # TensorFlow, where no path leads to the images
        return np.ones(len(images), bool), saturated
    gradient = ops.convert_to_numpy(gradient).reshape(len(images), -1)
    return ~gradient.any(axis=1), saturated


# Tests


def too_many(successes, trials, probability):
    """Whether a binomial variable hardly ever reaches `successes`, see above."""
    return chance_of_reaching(successes, trials, probability) < SIGNIFICANCE


def outdone(only_other, only_this, examples, tolerated=TOLERATED):
    """Whether the other attack is the stronger one, see above."""
    by_chance = chance_of_reaching(only_other, only_other + only_this, 0.5)
    share = (only_other - only_this) / examples
    return by_chance < SIGNIFICANCE and share > tolerated


def chance_of_reaching(successes, trials, probability):
    """The probability that a binomial variable is at least `successes`."""
    if successes <= 0:
        return 1.0
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, trials + 1)))])
    k = np.arange(successes, trials + 1)
    log_chances = (
        log_factorial[trials]
        - log_factorial[k]
        - log_factorial[trials - k]
        + k * np.log(probability)
        + (trials - k) * np.log1p(-probability)
    )
    return min(float(np.exp(log_chances).sum()), 1.0)


def percent(part, whole=1):
    return f"{100 * part / whole:.1f}%"
