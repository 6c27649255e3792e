"""Whether a robust accuracy can be trusted: PGD under conditions that leave no excuse.

What counts as too many is settled as in `sanity_checks`.
"""

import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.attacks import PGD, Square, active_set, norms
from keras_robustlt.data.batches import Batches
from keras_robustlt.data.class_balanced import class_balanced_subset
from keras_robustlt.evaluation import inputs
from keras_robustlt.evaluation.sanity_checks import (
    PROBED,
    TOLERATED,
    Run,
    after_probe,
    broken_gradients,
    outdone,
    outdone_by_black_box,
    percent,
    random_network,
    right_in_mode,
    statistics_that_do_not_fit,
    stronger_probe,
    tiny_budget,
    too_many,
    vanishing_gradients,
    without_class,
    zero_gradients,
)

__all__ = ["Diagnosis", "diagnose"]

# The share of the images whose result may depend on the random start.
TOLERATED_WAVERING = 0.1
# What a usual scale of the logits may gain.
TOLERATED_BY_SCALE = 0.03


def diagnose(
    model,
    x,
    y=None,
    epsilon=None,
    norm=None,
    examples=256,
    starts=5,
    steps=20,
    queries=500,
    batch_size=250,
    seed=0,
):
    """Whether the robust accuracy of a classifier can be trusted.

    Some images go through PGD again and again, under conditions that leave it no
    excuse, and what comes out is compared. `evaluate` looks for such signs in the
    results that it has; this function makes the results that show more. It costs about
    `starts + 4` runs of PGD and `queries` classifications of these images. What it
    looks for:

    - `"not_a_number"`: logits are infinite or no numbers, which is not right.
    - `"tiny_budget"`: `epsilon` is next to nothing: below half a grey level of 8 bits,
      or below 0.05 in L2.
    - `"zero_gradients"`: the cross-entropy is flat at more than 1% of the images.
    - `"infinite_gradients"`: the logits have infinite slopes, or none that is a number,
      at more than 1% of the images.
    - `"stopped_gradients"`: no gradient reaches some of the pixels, of which the logits
      of more than 1% of the images depend.
    - `"random_network"`: logits change from one call to the next.
    - `"random_start"`: the result depends on the start for more than 10% of the images.
    - `"logit_scale"`: PGD is outdone, by more than 3% of the images, by PGD on logits
      that are brought to a usual scale.
    - `"double_epsilon"`: with twice the budget PGD misses more than 1% of the images,
      of those that it broke with the budget itself.
    - `"large_epsilon"`: a budget that can turn every image into the same plain grey
      leaves more right than the largest class has images.
    - `"black_box"`: Square breaks more than 1% of the images, of those that PGD leaves.
    - `"stronger_attack"`: of what PGD leaves, a short run of APGD with the margin loss
      breaks more than 30%, or more than 10% of all images.
    - `"batch_normalization"`: with the statistics of the batch more than 10% of the
      images are classified right that are not with those of training.

    All but `"not_a_number"`, `"tiny_budget"` and `"large_epsilon"`, which are exact,
    allow for chance, with a significance of 1%.

    Args:
        model: See `evaluate`.
        x: See `evaluate`.
        y: See `evaluate`.
        epsilon: Float. The budget, in pixel units. Defaults to that of a
            `RobustLTModel` in this norm, and to `8 / 255` for others, in the norm
            `"l2"` to `128 / 255`.
        norm: `"linf"` or `"l2"`. Defaults to that of a `RobustLTModel`'s attack, and to
            `"linf"` for others.
        examples: Integer. How many images to look at, drawn from all classes as evenly
            as they come. Defaults to `256`.
        starts: Integer, at least 2. How many random starts. Defaults to `5`.
        steps: Integer. Steps of PGD, of `epsilon / 8` each, or of as much more as it
            takes to cross the ball. Defaults to `20`.
        queries: Integer. Queries of Square; `0` leaves it out, as do data that are
            not images of shape `(height, width, channels)`. Defaults to `500`.
        batch_size: Integer. Images that are attacked at once. Defaults to `250`.
        seed: Integer. Seed of all that is random. Defaults to `0`.

    Returns:
        A `Diagnosis`. Printed, it is a table and what was found.

    Raises:
        ValueError: If images, labels or another argument are out of range.

    Example:

    >>> diagnosis = krl.diagnose(model, x, y, steps=5, queries=50)
    >>> [finding["check"] for finding in diagnosis.findings]
    []
    """
    known = inputs.norm_of(model)
    norm = known if norm is None else norm
    if norm != known:  # a budget that is known is none in it
        epsilon = norms.epsilon(epsilon, norm)
    epsilon = checks.in_range("epsilon", inputs.budget_of(model, epsilon), 0, np.inf)
    steps = checks.positive_integer("steps", steps)
    queries = checks.integer("queries", queries, 0)
    pgd = PGD(epsilon, steps, max(1 / 8, 2 / steps) * epsilon, norm)
    if pgd.epsilon == 0:
        raise ValueError("`epsilon` must be more than 0. Received: epsilon=0")
    starts = checks.positive_integer("starts", starts)
    if starts < 2:
        raise ValueError(f"`starts` must be at least 2. Received: starts={starts}")
    subject = Subject(model, x, y, pgd, examples, batch_size, seed)
    images, labels, clean = subject.images, subject.labels, subject.clean
    numbers = {
        "examples": len(images),
        "epsilon": pgd.epsilon,
        "norm": norm,
        "steps": pgd.steps,
        "clean": float(clean.mean()),
    }
    found = [without_class({"clean": subject.predicted})]
    found.append(tiny_budget({f"pgd{steps}": pgd}))

    zero, saturated = vanishing_gradients(
        subject.network, images[:PROBED], labels[:PROBED]
    )
    numbers["zero_gradients"] = float(zero.mean())
    numbers["saturated"] = float(saturated.mean())
    found.append(zero_gradients(zero))
    found.append(random_network(subject.network, images[:PROBED]))
    found.append(broken_gradients(subject.network, images[:PROBED]))

    by_start = np.stack([subject.attacked(start=start) for start in range(starts)])
    worst = by_start.all(axis=0)
    numbers["starts"] = by_start.mean(axis=1).tolist()
    numbers["worst_start"] = float(worst.mean())
    found.append(_depends_on_start(by_start))

    scale = subject.usual_scale()
    rescaled = subject.attacked(scale=scale)
    numbers["logit_scale"] = scale
    numbers["rescaled"] = float(rescaled.mean())
    found.append(_depends_on_scale(by_start[0], rescaled, scale))

    doubled = subject.attacked(epsilon=2 * pgd.epsilon)
    numbers["double_epsilon"] = float(doubled.mean())
    found.append(_misses_at_double(by_start[0], doubled, pgd))

    large = _grey_radius(images, norm)
    at_large = subject.attacked(epsilon=large)
    numbers["large_epsilon"] = large
    numbers["at_large_epsilon"] = float(at_large.mean())
    numbers["largest_class"] = float(np.bincount(labels).max() / len(labels))
    found.append(_survives_grey(numbers))

    left = np.flatnonzero(worst)
    if left.size:
        still_right = after_probe(
            subject.network, pgd, pgd.epsilon, images[left], labels[left]
        )
        numbers["margin"] = float(still_right.sum() / len(images))
        found.append(stronger_probe(f"pgd{steps}", still_right, worst.mean()))

    if queries and images.ndim == 4:
        square = Square(pgd.epsilon, queries, norm, batch_size=batch_size)
        left = subject.attacked_by(square, worst)
        numbers["square"] = float(left.mean())
        runs = [Run(f"pgd{steps}", pgd, worst), Run("square", square, left)]
        found.append(outdone_by_black_box(runs[1], runs))

    in_training = right_in_mode(subject.network, images, labels, training=True)
    numbers["clean_training_mode"] = float(in_training.mean())
    found.append(statistics_that_do_not_fit(clean, in_training))
    return Diagnosis(numbers, [finding for finding in found if finding])


class Diagnosis(dict):
    """What `diagnose` measured: a dictionary of numbers, accuracies from 0 to 1.

    Printed, it is a table in percent and the messages of what was found.

    Args:
        numbers: Dictionary, the numbers.
        findings: List of dictionaries with `"check"`, the name of the check,
            `"message"`, what it means and what to do, and the numbers it goes by.

    Attributes:
        findings: As given.

    Example:

    >>> diagnosis = krl.diagnose(model, x, y, steps=5, queries=50)
    >>> diagnosis["examples"], diagnosis.findings
    (6, [])
    """

    def __init__(self, numbers, findings):
        super().__init__(numbers)
        self.findings = findings

    def __str__(self):
        attack = f"pgd{self['steps']}"
        starts = self["starts"]
        rows = {
            "clean": self["clean"],
            "clean, training mode": self["clean_training_mode"],
            f"{attack}, mean of {len(starts)} starts": np.mean(starts),
            f"{attack}, worst of {len(starts)} starts": self["worst_start"],
            f"{attack}, logits x {self['logit_scale']:.3g}": self["rescaled"],
            f"{attack}, 2 x epsilon": self["double_epsilon"],
            f"{attack}, epsilon {self['large_epsilon']:.3g}": self["at_large_epsilon"],
        }
        if "margin" in self:
            rows["apgd, margin loss, on what is left"] = self["margin"]
        if "square" in self:
            rows["square on what is left"] = self["square"]
        rows["images without gradient"] = self["zero_gradients"]
        width = max(map(len, rows))
        lines = [f"{name:{width}}  {100 * value:5.1f}" for name, value in rows.items()]
        heading = (
            f"{self['examples']} images, epsilon {self['epsilon']:.4g}, in percent"
        )
        found = [
            f"! {finding['check']}: {finding['message']}" for finding in self.findings
        ]
        return "\n".join(
            [heading, *lines, *(found or ["Nothing suspicious was found."])]
        )

    __repr__ = __str__


class Subject:
    """The images, and a network that is attacked again and again."""

    def __init__(self, model, x, y, pgd, examples, batch_size, seed):
        examples = checks.positive_integer("examples", examples)
        self.batch_size = checks.positive_integer("batch_size", batch_size)
        self.seed = checks.integer_seed(seed)
        self.pgd = pgd
        self.network = inputs.network_of(model)
        subset = class_balanced_subset(x, y, examples, self.seed)
        data = Batches(*subset, batch_size=examples)
        num_classes = inputs.num_classes_of(self.network, data.first)
        (chunk,) = data.chunks(1, num_classes)
        self.images, self.labels = chunk.images, chunk.labels
        self._logits = active_set.compiled_logits(self.network)
        variables = active_set.variables_of(self.network)
        self._attack = backend.compiled(self._one_run, variables)
        self.logits = self._logits_of(self.images)
        self.predicted = active_set.classes(self.logits)
        self.clean = self.predicted == self.labels

    def attacked(self, epsilon=None, scale=1.0, start=0):
        """Which images PGD leaves right; it multiplies the logits by `scale`."""
        size = len(self.images)
        epsilon = np.full(size, epsilon or self.pgd.epsilon, "float32")
        seed = np.random.SeedSequence([self.seed, start]).generate_state(1)[0] >> 1
        start = self.pgd.starting_point(
            ops.convert_to_tensor(self.images),
            ops.convert_to_tensor(epsilon),
            int(seed),
        )
        x_adv = active_set.in_batches(
            self._attack,
            self.batch_size,
            self.images,
            self.labels,
            ops.convert_to_numpy(start),
            epsilon,
            np.full(size, scale, "float32"),
        )
        return self._right(x_adv)

    def attacked_by(self, attack, right):
        """Which of the images that are `right` another attack leaves so."""
        right = right.copy()
        left = np.flatnonzero(right)
        if left.size:
            x_adv = self.images.copy()
            found = attack(
                self.network, self.images[left], self.labels[left], seed=self.seed
            )
            x_adv[left] = ops.convert_to_numpy(found)
            right &= self._right(x_adv)
        return right

    def usual_scale(self):
        """The factor that makes the lead of the first logit over the second one 1."""
        known = self.logits[self.predicted != active_set.NO_CLASS]
        if not len(known):
            return 1.0
        second, first = np.sort(known, axis=1)[:, -2:].T
        return 1 / max(float(np.median(first - second)), 1e-12)

    def _one_run(self, images, labels, start, epsilon, scale):
        def loss(targets, logits):
            return losses.cross_entropy(targets, logits * scale[:, None])

        return self.pgd.perturb(self.network, images, labels, start, epsilon, loss=loss)

    def _right(self, images):
        return active_set.classes(self._logits_of(images)) == self.labels

    def _logits_of(self, images):
        return active_set.in_batches(self._logits, self.batch_size, images)


def _depends_on_start(by_start):
    examples = by_start.shape[1]
    wavering = by_start.any(axis=0) & ~by_start.all(axis=0)
    wavering = int(wavering.sum())
    if not too_many(wavering, examples, TOLERATED_WAVERING):
        return None
    accuracies = by_start.mean(axis=1)
    worst = by_start.all(axis=0).mean()
    return {
        "check": "random_start",
        "message": f"Of {examples} images {wavering} are broken from some random "
        "starts of PGD and not from others: the accuracy from one start is "
        f"{percent(accuracies.min())} to {percent(accuracies.max())}, and "
        f"{percent(worst)} from the worst of {len(by_start)}. One start says little: "
        "use restarts (PGD(restarts=10)) and 'autoattack'.",
        "wavering": wavering,
        "accuracies": accuracies.tolist(),
        "worst": float(worst),
        "examples": examples,
    }


def _depends_on_scale(plain, rescaled, scale):
    only_rescaled = int(np.sum(plain & ~rescaled))
    only_plain = int(np.sum(rescaled & ~plain))
    if not outdone(only_rescaled, only_plain, len(plain), TOLERATED_BY_SCALE):
        return None
    return {
        "check": "logit_scale",
        "message": f"PGD breaks {only_rescaled} of {len(plain)} images only if the "
        f"logits are multiplied by {scale:.3g}, and {only_plain} only if they are not: "
        "the network looks robust because of the scale of its logits, at which the "
        "cross-entropy is a bad guide. Report attacks that do not depend on it "
        "('cw20', 'apgd-dlr', 'autoattack').",
        "only_rescaled": only_rescaled,
        "only_plain": only_plain,
        "scale": scale,
        "examples": len(plain),
    }


def _misses_at_double(right, doubled, pgd):
    missed = int(np.sum(doubled & ~right))
    if not too_many(missed, len(right), TOLERATED):
        return None
    return {
        "check": "double_epsilon",
        "message": f"PGD breaks {missed} of {len(right)} images "
        f"({percent(missed, len(right))}) with epsilon={pgd.epsilon:.4g} that it "
        "leaves right with twice that, although it could do the same again. It does "
        "not find what is there: try more steps and restarts, and 'autoattack'.",
        "missed": missed,
        "examples": len(right),
    }


def _survives_grey(numbers):
    # Exact: the grey image is of one class only, so no chance is to be allowed for.
    accuracy, most = numbers["at_large_epsilon"], numbers["largest_class"]
    if accuracy <= most:
        return None
    return {
        "check": "large_epsilon",
        "message": f"With epsilon={numbers['large_epsilon']:.3g} PGD can turn every "
        "image into the same plain grey, which leaves at most the largest class right, "
        f"{percent(most)} of the images, but {percent(accuracy)} stay right. It gets "
        "nowhere, so that its results for smaller budgets mean nothing either: its "
        "gradients vanish or mislead. Try 'square' and 'autoattack'.",
        "accuracy": accuracy,
        "largest_class": most,
        "epsilon": numbers["large_epsilon"],
    }


def _grey_radius(images, norm):
    """The budget with which every image can become grey, of value 1/2."""
    if norm == "linf":
        return 0.5
    return float(0.5 * np.sqrt(np.prod(images.shape[1:])))
