"""Signs that an attack failed, where a network looks robust.

An attack that fails is easily taken for a network that is robust. What gives it away
are results that cannot be if the attack works: another attack, which knows less or may
do less, breaks images that it leaves; a budget that turns every image into plain grey
leaves some right; the gradient that it follows is zero.

All comparisons are of attacks on the same images, image by image, so that what the
images have in common cancels. What counts as too many is settled by exact tests, each
with a chance of at most 1% to be wrong on images drawn at random:

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
- *overstated*: that stronger attacks break some images which an attack leaves is what
  they are for. Of the `n` images that it leaves they break `b`. It is a finding, by the
  same binomial test, if that is more than 30% of the `n`, or more than 10% of all.

Where no stronger attack has run, a short one tries its hand at some images.
"""

import warnings

import numpy as np
from keras import ops

from keras_robustlt import backend
from keras_robustlt.attacks import (
    APGD,
    PGD,
    Attack,
    AutoAttack,
    Square,
    active_set,
    gradients,
    norms,
)
from keras_robustlt.attacks.active_set import NO_CLASS
from keras_robustlt.attacks.base import LOSSES

__all__ = ["RobustnessWarning"]

SIGNIFICANCE = 0.01
# The share of the images in which an attack may fall short of another one.
TOLERATED = 0.01
# The same of several attacks of many steps taken together, as in AutoAttack.
TOLERATED_IN_ENSEMBLE = 0.002
# The share that stronger attacks may break of what an attack leaves, and of all images;
# and the share of all images that is of consequence.
TOLERATED_OF_LEFT = 0.3
TOLERATED_OVERSTATEMENT = 0.1
OF_CONSEQUENCE = 0.05
# The share of the images that only the statistics of the batch classify right.
TOLERATED_BY_STATISTICS = 0.1
# Of a single gradient step, or of a few, Square can well be the better.
FEW_STEPS = 5
MANY_STEPS = 20
# So many images are kept to look at, and at so many of them it is looked here. Of fewer
# than the least, no attack is worth compiling for.
LOOKED_AT = 256
PROBED = 64
LEAST_PROBED = 16
# In so many batches it is looked for gradients, and so many calls are compared.
BATCHES = 4
CALLS = 4
# By how much pixels are moved to see whether the logits depend on them, and what
# counts as a change, as a share of the largest logit.
NUDGE = 0.01
CHANGED = 1e-3
# Of the budget of the evaluation an attack should use at least so much for some image.
LEAST_USED = 0.1
# Losses that attacks climb, in words.
FLAT = {"cross_entropy": "cross-entropy", "margin": "margin loss"}


class RobustnessWarning(UserWarning):
    """What `evaluate` warns with if a robust accuracy cannot be trusted.

    Args:
        message: String.
        finding: Dictionary: `"check"`, the name of what was looked for, `"message"`,
            and the numbers that it goes by. Defaults to `None`.

    Attributes:
        finding: As given.

    Example:

    ```python
    import warnings

    with warnings.catch_warnings():
        # A script that is not to go on with a number in doubt.
        warnings.simplefilter("error", krl.RobustnessWarning)
        results = krl.evaluate(model, test)
    ```
    """

    def __init__(self, message, finding=None):
        super().__init__(message)
        self.finding = finding


def examine(network, attacks, outcomes, labels, sample, budget=None, norm="linf"):
    """What the results of an evaluation say against themselves.

    Args:
        network: A Keras layer that gives logits.
        attacks: Dictionary from names to attacks.
        outcomes: Dictionary from names to `Outcome`s.
        labels: Integer array of shape `(examples,)`.
        sample: `ClassBalancedSubset` of the images.
        budget: Float: that of the evaluation, if somebody has said it.
        norm: `"linf"` or `"l2"`: that of this budget.

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
        stages = outcomes[name].stages[1:], attack.attacks.values(), of_stages[1:]
        for stage, part, right in zip(*stages, strict=True):
            # The parts of an ensemble have its budget, whatever their own is.
            run = Run(f"{name}/{stage}", part, right, attack.epsilon, ensemble[:])
            ensemble.append(run)
            runs.append(run)
    n = len(sample.index)
    predicted = {name: outcome.predicted[-1] for name, outcome in outcomes.items()}
    found = [without_class(predicted), _beyond_budget(attacks, outcomes, budget)]
    found.append(_without_budget(attacks))
    found.append(tiny_budget(attacks))
    found.append(_short_of_budget(attacks, budget, norm))
    found.append(_hardly_moves(attacks, outcomes, labels, budget, norm))
    found.append(_short_steps(attacks))
    found += [outdone_by_black_box(run, runs) for run in runs]
    found += [_outdone_by_weaker(run, runs) for run in runs]
    overstated = [_overstated(run, runs) for run in runs]
    found += overstated if any(overstated) else [_probe(network, runs, sample)]
    found.append(_vanishing(network, runs, sample))
    looked_at = sample.images[some_of(np.arange(n))]
    found.append(random_network(network, looked_at))
    found.append(broken_gradients(network, looked_at))
    found.append(_like_probabilities(network, looked_at))
    found.append(_statistics(network, sample))
    return [finding for finding in found if finding]


def _like_probabilities(network, images):
    """All outputs are between 0 and 1, as after a sigmoid."""
    if len(images) < LEAST_PROBED:
        return None
    logits = gradients.logits_of(network)(ops.convert_to_tensor(images))
    logits = ops.convert_to_numpy(logits)
    if logits.min() < 0 or not 0 < logits.max() <= 1:
        return None
    return {
        "check": "like_probabilities",
        "message": f"All outputs of the network for {len(images)} images are between 0 "
        "and 1, as those of a sigmoid are. Logits are so by chance, where little has "
        "been learned. If the network ends in a sigmoid, evaluate it without: where "
        "that is nearly flat attacks lose their gradient, and the network looks more "
        "robust than it is.",
        "lowest": float(logits.min()),
        "highest": float(logits.max()),
        "examples": len(images),
    }


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
        self.norm = getattr(attack, "norm", None)
        self.before = before

    def follows_gradients(self):
        """Whether it should find nearly all that there is to find."""
        return getattr(self.attack, "steps", 0) >= FEW_STEPS

    def may_be_reported(self):
        """Whether it does enough for its accuracy to be taken for robustness."""
        known = self.epsilon and self.norm
        if self.before or not known or not self.follows_gradients():
            return False
        step_size = getattr(self.attack, "step_size", np.inf)
        return step_size * self.attack.steps >= self.epsilon

    def is_strong(self):
        """Whether it also finds its way where the cross-entropy is a bad guide."""
        loss = getattr(self.attack, "loss", None)
        other_loss = loss != "cross_entropy" and not callable(loss)
        return other_loss and getattr(self.attack, "steps", 0) >= MANY_STEPS

    def within(self, other):
        """Whether it stays in the ball of `other`, as far as that is known."""
        if not self.epsilon or self.norm != other.norm:
            return False
        return self.epsilon <= other.epsilon * (1 + 1e-6)

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


def _overstated(run, runs):
    """Stronger attacks break much of what an attack leaves that may be reported."""
    if not run.may_be_reported():
        return None
    others = [other for other in runs if other is not run and other.within(run)]
    if not others:
        return None
    missed = run.right & ~np.all([other.right for other in others], axis=0)
    examples, left, missed = len(missed), int(run.right.sum()), int(missed.sum())
    if not overstates(missed, left, left / examples):
        return None
    names = ", ".join(other.name for other in others)
    return {
        "check": "stronger_attack",
        "message": f"{run.name} leaves {left} of {examples} images right "
        f"({percent(left, examples)}), and {names} break {missed} of these with no "
        f"more budget: {percent(left - missed, examples)} are left. {run.name} "
        "overstates the robustness of this network. Report the union of all attacks, "
        "or 'autoattack'.",
        "attack": run.name,
        "others": [other.name for other in others],
        "missed": missed,
        "left": left,
        "examples": examples,
    }


def _probe(network, runs, sample):
    """The same where no strong attack has run: a short one, on a few images."""
    reported = [run for run in runs if run.may_be_reported()]
    if not reported or any(run.is_strong() for run in runs):
        return None
    largest = max(reported, key=lambda run: run.epsilon)
    reported = [run for run in reported if run.within(largest)]
    right = np.all([run.right for run in reported], axis=0)
    which = some_of(np.flatnonzero(right[sample.index]))
    if len(which) < LEAST_PROBED:
        return None
    images, labels = sample.images[which], sample.labels[which]
    still_right = after_probe(network, largest.attack, largest.epsilon, images, labels)
    names = ", ".join(run.name for run in reported)
    return stronger_probe(names, still_right, right.mean())


def after_probe(network, attack, epsilon, images, labels):
    """Which images are right after a short run of APGD with the margin loss."""
    probe = APGD(
        epsilon, MANY_STEPS, attack.norm, loss="margin", batch_size=len(images)
    )
    found = probe(network, images, labels, seed=0)
    logits = ops.convert_to_numpy(active_set.compiled_logits(network)(found))
    return active_set.classes(logits) == labels


def stronger_probe(names, still_right, share):
    """The finding, if any, of what the probe did to images that `names` leave."""
    left, missed = len(still_right), int((~still_right).sum())
    if not overstates(missed, left, share):
        return None
    estimate = share * still_right.mean()
    return {
        "check": "stronger_attack",
        "message": f"{names} leave {percent(share)} of the images right. Of {left} of "
        f"these, {MANY_STEPS} steps of APGD with the margin loss break {missed} within "
        f"the same budget, so that about {percent(estimate)} would be left of all. The "
        "cross-entropy misleads the attack, and the robustness of this network is "
        "lower than it says. Use 'autoattack', or at least 'cw20' and 'apgd-t'.",
        "attack": names,
        "missed": missed,
        "left": left,
        "share": float(share),
    }


def _vanishing(network, runs, sample):
    """The loss that an attack climbs has no slope at images it leaves."""
    for loss in FLAT:
        blind = [
            run
            for run in runs
            if getattr(run.attack, "loss", None) == loss and not run.before
        ]
        if not blind:
            continue
        left = np.all([run.right[sample.index] for run in blind], axis=0)
        which = some_of(np.flatnonzero(left))
        if not len(which):
            continue
        zero, _ = vanishing_gradients(
            network, sample.images[which], sample.labels[which], loss
        )
        names = ", ".join(run.name for run in blind)
        finding = zero_gradients(zero, f" that are still right after {names}", loss)
        of_all = np.mean([run.right for run in blind]) * zero.mean()
        if finding and of_all > TOLERATED:
            return finding
    return None


def zero_gradients(flags, which="", loss="cross_entropy"):
    """The finding, if any, of images where the gradient is zero, or none."""
    zero, examples = int(flags.sum()), len(flags)
    if not too_many(zero, examples, TOLERATED):
        return None
    return {
        "check": "zero_gradients",
        "message": f"The {FLAT[loss]} has a gradient of exactly zero at {zero} of "
        f"{examples} images{which}. An attack that follows it does not know where to "
        "go there: what it leaves is no robustness. If the logits are very large, use "
        "attacks that do not depend on their scale ('cw20', 'apgd-dlr', 'autoattack'); "
        "if a layer rounds, gradients cannot attack it, and 'square' can; if the "
        "network computes in float16, evaluate it in float32.",
        "zero_gradients": zero,
        "examples": examples,
    }


def broken_gradients(network, images):
    """Gradients are no finite numbers, or do not reach all pixels that matter."""
    logits = ops.convert_to_numpy(gradients.logits_of(network)(as_tensor(images)))
    images = images[np.isfinite(logits).all(axis=1)]  # of the others it is said anyway
    if not len(images):
        return None
    slope = ops.convert_to_numpy(gradients.of_logits(network, as_tensor(images)))
    finite = np.isfinite(slope)
    spoilt = int(np.sum(~finite.reshape(len(images), -1).all(axis=1)))
    if too_many(spoilt, len(images), TOLERATED):
        return {
            "check": "infinite_gradients",
            "message": f"At {spoilt} of {len(images)} images the logits have a "
            "gradient that is infinite or no number (NaN) at some pixels, of "
            f"{percent(np.mean(~finite))} of all. Attacks know little of "
            "where to go there, and what they leave may be no robustness. A power, a "
            "logarithm, a root or a division in the network may meet 0: keep it away "
            "from there, as by adding 1e-6. 'square' needs no gradients.",
            "images": spoilt,
            "examples": len(images),
        }
    return _stopped_gradients(network, images)


def _stopped_gradients(network, images):
    # With noise, and away from 0: of pixels that are equal max pooling has a gradient
    # for one alone, and of a plain border a unit may be just off.
    noise = np.random.default_rng(0).uniform(-0.05, 0.05, images.shape)
    images = (0.1 + 0.8 * images + noise).astype("float32")
    slope = ops.convert_to_numpy(gradients.of_logits(network, as_tensor(images)))
    reached = slope.reshape(len(images), -1).any(axis=1)
    blind = ~slope[reached].any(axis=0)
    if not blind.any() or reached.sum() < LEAST_PROBED:
        return None
    images, move = images[reached], NUDGE * blind.astype("float32")
    logits_of = gradients.logits_of(network)
    before, *after = (
        ops.convert_to_numpy(logits_of(as_tensor(images + step)))
        for step in (0 * move, move, -move)
    )
    scale = max(float(np.abs(before).max()), 1e-12)
    changed = [np.abs(each - before).max(axis=1) > CHANGED * scale for each in after]
    depends = int(np.sum(changed[0] & changed[1]))
    if not too_many(depends, len(images), TOLERATED):
        return None
    return {
        "check": "stopped_gradients",
        "message": f"No gradient reaches {percent(blind.mean())} of the pixels, the "
        f"same in all of {len(images)} images, and the logits of {depends} of these "
        "change if those pixels do. Attacks that follow gradients leave such pixels "
        "alone, and what they leave is no robustness. A layer may stop the gradient or "
        "round: take it out for the attack; 'square' needs no gradients.",
        "share_of_pixels": float(blind.mean()),
        "images": depends,
        "examples": len(images),
    }


def as_tensor(images):
    return ops.convert_to_tensor(images, "float32")


def random_network(network, images):
    """The network decides differently from one call to the next."""
    images = ops.convert_to_tensor(images)
    # Not frozen, as attacks have it: that would be the same draw again.
    calls = [
        np.nan_to_num(
            ops.convert_to_numpy(ops.cast(network(images, training=False), "float32"))
        )
        for _ in range(CALLS)
    ]
    first, others = calls[0], np.stack(calls[1:])
    # Parallel sums may differ in their last digits.
    scale = max(float(np.abs(first).max()), 1e-12)
    changed = (np.abs(first - others).max(axis=2) > 1e-3 * scale).any(axis=0)
    decided = (first.argmax(axis=1) != others.argmax(axis=2)).any(axis=0)
    if not changed.any():
        return None
    return {
        "check": "random_network",
        "message": f"The network is random in inference mode: the logits of "
        f"{int(changed.sum())} of {len(images)} images, and the class of "
        f"{int(decided.sum())}, change from one call to the next. An attack on one "
        "draw need not work on another, and the other way round. Use "
        "'autoattack-rand', which averages gradients over draws.",
        "changed": int(changed.sum()),
        "decided_otherwise": int(decided.sum()),
        "examples": len(images),
    }


def without_class(predicted):
    """Some logits are no numbers; `predicted` has the classes after each attack."""
    counts = {
        name: int((classes == NO_CLASS).sum()) for name, classes in predicted.items()
    }
    if not any(counts.values()):
        return None
    examples = len(next(iter(predicted.values())))
    listed = ", ".join(f"{name} ({count})" for name, count in counts.items() if count)
    return {
        "check": "not_a_number",
        "message": f"The network gives logits that are infinite or no numbers (NaN) "
        f"for some of {examples} images, after {listed}. They count as misclassified, "
        "and an attack cannot follow such a loss. The weights may have diverged, or "
        "numbers are too large for the precision of the network: see what it gives "
        "with keras.config.set_dtype_policy('float32').",
        "counts": counts,
        "examples": examples,
    }


def _beyond_budget(attacks, outcomes, budget):
    """A function that is an attack changes more than it may."""
    moved = {
        name: outcome.moved
        for name, outcome in outcomes.items()
        if not isinstance(attacks[name], Attack)  # which says its budget
    }
    beyond = {
        name: change
        for name, change in moved.items()
        if budget is not None and change > budget * (1 + 1e-3) + 1e-6
    }
    if not beyond:
        return None
    listed = ", ".join(f"{name} (by {change:.3g})" for name, change in beyond.items())
    return {
        "check": "beyond_budget",
        "message": f"Pixels are changed by more than epsilon={budget:.3g}: {listed}. "
        "What these attacks leave says nothing about robustness within this budget. "
        "Clip what they add, or call `evaluate` for them with an epsilon of their own.",
        "largest_change": beyond,
        "epsilon": budget,
    }


def _hardly_moves(attacks, outcomes, labels, budget, norm):
    """An attack of one's own leaves images alone, or changes next to nothing."""
    idle = {}
    for name, outcome in outcomes.items():
        attack, moved = attacks[name], outcome.moved
        if isinstance(attack, Attack):
            allowed, within = attack.epsilon, attack.norm
        else:
            allowed, within = budget, norm
        if np.isnan(moved) or allowed == 0:
            continue
        # In L2 no pixel need move far, and of a large Linf budget those that are
        # bright or dark already cannot use all.
        is_known = within == "linf" and allowed is not None
        least = LEAST_USED * min(allowed, 0.5) if is_known else 0.0
        left = int(np.sum(outcome.predicted[-1] == labels))
        if moved <= least and too_many(left, len(labels), TOLERATED):
            idle[name] = moved
    if not idle:
        return None
    listed = ", ".join(f"{name} (by {moved:.3g})" for name, moved in idle.items())
    allowed = "" if budget is None else f", of epsilon={budget:.3g}"
    return {
        "check": "hardly_moves",
        "message": f"Pixels are hardly changed, in no image by more than this: {listed}"
        f"{allowed}. What these attacks leave says nothing about robustness. Let them "
        "use the whole budget, or call `evaluate` for them with an epsilon of their "
        "own.",
        "largest_change": idle,
        "epsilon": budget,
    }


def _without_budget(attacks):
    """An attack may change nothing, and leaves the clean accuracy."""
    budgets = {name: getattr(each, "epsilon", None) for name, each in attacks.items()}
    idle = [name for name, each in budgets.items() if np.all(np.equal(each, 0))]
    if not idle:
        return None
    return {
        "check": "no_budget",
        "message": f"{', '.join(idle)} may change nothing, as epsilon is 0: what they "
        "leave is the accuracy on clean images and says nothing about robustness. "
        "Give an epsilon above 0, such as 8/255.",
        "attacks": idle,
    }


def tiny_budget(attacks):
    """No attack may change more than next to nothing."""
    doubts = {
        name: norms.doubt(attack.epsilon, attack.norm)
        for name, attack in attacks.items()
        if isinstance(attack, Attack) and attack.epsilon  # 0 has a finding of its own
    }
    # Beside one with a whole budget, one with a small budget is meant so.
    if not doubts or not all(doubts.values()):
        return None
    return {
        "check": "tiny_budget",
        "message": f"{', '.join(doubts)}: {next(iter(doubts.values()))}",
        "attacks": list(doubts),
    }


def _short_of_budget(attacks, budget, norm):
    """No attack has the whole budget of the evaluation."""
    own = {name: attack for name, attack in attacks.items() if attack is not None}
    # One whose budget is not known may have it. The L2 ball of a radius is within the
    # Linf ball of the same, and next to nothing.
    is_known = all(
        getattr(attack, "epsilon", None) is not None
        and getattr(attack, "norm", None) in (norm, "l2")
        for attack in own.values()
    )
    if not own or not is_known or budget is None:
        return None
    for attack in own.values():
        share = 1 - 1e-3 if attack.norm == norm else 1 + 1e-3
        if attack.epsilon >= budget * share:
            return None
    largest = max(attack.epsilon for attack in own.values())
    in_l2 = any(attack.norm != norm for attack in own.values())
    return {
        "check": "short_of_budget",
        "message": f"{', '.join(own)} may change pixels by {largest:.3g} at most"
        f"{' (l2: all pixels together)' if in_l2 else ''}, and the epsilon of this "
        f"evaluation is {budget:.3g} ({norm}): what they leave says nothing about "
        "robustness within it. Give the attacks this epsilon, or name them "
        "('pgd20', 'autoattack'); or call `evaluate` with the epsilon that they have.",
        "largest": float(largest),
        "epsilon": budget,
    }


def _short_steps(attacks):
    """The steps of an attack lead nowhere."""
    short = [
        name
        for name, attack in attacks.items()
        if isinstance(attack, PGD) and attack.leads_nowhere()
    ]
    if not short:
        return None
    return {
        "check": "short_steps",
        "message": f"All steps of {', '.join(short)} together lead less than a tenth "
        "of its epsilon far: what it leaves is no robustness. Give it a step_size of "
        "epsilon / 4 or so, or name it ('pgd20').",
        "attacks": short,
    }


def _statistics(network, sample):
    """Batch normalisation is not ready for inference."""
    if not getattr(network, "non_trainable_variables", None):
        return None
    which = some_of(np.arange(len(sample.index)), LOOKED_AT)
    images, labels = sample.images[which], sample.labels[which]
    right = [right_in_mode(network, images, labels, mode) for mode in (False, True)]
    return statistics_that_do_not_fit(*right)


def right_in_mode(network, images, labels, training):
    """Which images are right with the statistics of the batch, or of training."""
    logits = backend.frozen(network)(ops.convert_to_tensor(images), training=training)
    return active_set.classes(ops.convert_to_numpy(logits)) == labels


def statistics_that_do_not_fit(clean, in_training):
    """The finding, if any, of images that are right in the one mode and the other."""
    only_training = int(np.sum(in_training & ~clean))
    only_evaluation = int(np.sum(clean & ~in_training))
    if not outdone(only_training, only_evaluation, len(clean), TOLERATED_BY_STATISTICS):
        return None
    return {
        "check": "batch_normalization",
        "message": "Clean images are classified better with the statistics of the "
        f"batch ({percent(in_training.mean())} right) than in evaluation mode "
        f"({percent(clean.mean())}): the moving statistics of batch normalisation do "
        "not fit the weights. Train on for some epochs, with a smaller momentum, or "
        "with batchnorm_statistics='mixed'.",
        "training_mode": float(in_training.mean()),
        "evaluation_mode": float(clean.mean()),
        "examples": len(clean),
    }


def vanishing_gradients(network, images, labels, loss="cross_entropy"):
    """Where a loss of an attack is flat, as attacks see it, and where it is zero.

    Returns:
        Two boolean arrays of shape `(examples,)`.
    """
    gradient_of = gradients.gradient_of(network)
    flat, zero = [], []
    # In some batches, for what a network does may depend on the draw.
    for number, part in enumerate(np.array_split(np.arange(len(images)), BATCHES)):
        if not part.size:
            continue

        def loss_of(logits, y=labels[part]):
            return LOSSES[loss](active_set.one_hot(y, logits), logits)

        x = ops.convert_to_tensor(images[part])
        draw = ops.convert_to_tensor(number, "int32")
        gradient, values, _ = map(ops.convert_to_numpy, gradient_of(loss_of, x, draw))
        flat.append(~gradient.reshape(part.size, -1).any(axis=1))
        zero.append(values == 0)
    return np.concatenate(flat), np.concatenate(zero)


def some_of(indices, most=PROBED):
    """At most so many of `indices`, from the first to the last."""
    if len(indices) <= most:
        return indices
    return indices[np.linspace(0, len(indices) - 1, most).round().astype(int)]


# Tests


def too_many(successes, trials, probability):
    """Whether a binomial variable hardly ever reaches `successes`, see above."""
    return chance_of_reaching(successes, trials, probability) < SIGNIFICANCE


def outdone(only_other, only_this, examples, tolerated=TOLERATED):
    """Whether the other attack is the stronger one, see above."""
    by_chance = chance_of_reaching(only_other, only_other + only_this, 0.5)
    share = (only_other - only_this) / examples
    return by_chance < SIGNIFICANCE and share > tolerated


def overstates(missed, left, share):
    """Whether an attack that leaves this share of the images overstates it, see above.

    Args:
        missed: Integer: how many images stronger attacks break.
        left: Integer: of how many that the attack leaves.
        share: Float: which share of all images it leaves.
    """
    if not left or share * missed / left <= OF_CONSEQUENCE:
        return False
    tolerated = min(TOLERATED_OF_LEFT, TOLERATED_OVERSTATEMENT / share)
    return too_many(missed, left, tolerated)


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
