"""Auto-PGD: projected gradient descent that chooses its own step sizes."""

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.attacks import active_set, arguments, base, gradients

__all__ = ["APGD", "APGDT"]

# Steps after which it is seen which images are fooled, besides the checkpoints: most
# are at once.
LOOKS = (1, 4, 9, 16)


class Climber(active_set.TargetedAttack):
    """What the attacks of this module share: one run of Auto-PGD.

    The state of a run, an entry for each image: `x` and `previous`, the last two
    points; `gradient` at `x`; `best`, `best_gradient` and `best_loss`, where the loss
    was highest; `last_loss`; `increases`, the steps of this period that raised the
    loss; `adversarial`, the last point that fooled the network, and `fooled`.
    """

    def __init__(self, epsilon, steps, norm, targets, restarts, eot, rho, batch_size):
        super().__init__(epsilon, norm, targets, restarts, batch_size)
        self.steps = checks.positive_integer("steps", steps)
        self.eot = checks.positive_integer("eot", eot)
        self.rho = checks.in_range("rho", rho, 0, 1)

    def maximize(self, network, x, y, epsilon=None, start=None, seed=None, watch=None):
        """The highest loss found around each image, by one run through all steps.

        Other than a call it goes on with images that are misclassified.

        Args:
            network: See `__call__`.
            x: See `__call__`.
            y: See `__call__`.
            epsilon: See `__call__`.
            start: Array of the shape of `x`: where to start. Defaults to `None`, a
                random point on the surface of the ball.
            seed: See `__call__`.
            watch: Function of the number of steps done and of the state of the run, a
                dictionary of arrays (copy what you keep), called after each step.
                Defaults to `None`.

        Returns:
            A dictionary of arrays: `"best"`, the points of the shape of `x`;
            `"best_loss"`, `(examples,)`; `"fooled"`, `(examples,)`, whether any point
            on the way was misclassified; `"adversarial"`, the last such points.
        """
        if watch is not None:
            checks.function("watch", watch, ("steps", "state"))
        problem = self._problem(network, x, y, epsilon, seed)
        arguments.warn_of_no_numbers(problem.logits)
        target_class = self._target_classes(problem.logits)[0]
        return self._climb(
            problem, target_class, 0, start, until_fooled=False, watch=watch
        )

    def _attempt(self, problem, target_class, trial):
        result = self._climb(problem, target_class, trial, None, until_fooled=True)
        return result["adversarial"], result["fooled"]

    def _climb(self, problem, target_class, trial, start, until_fooled, watch=None):
        """One run. With `until_fooled` images leave as soon as they are fooled."""
        if start is None:
            start = self._random_start(problem, trial)
        else:
            start = active_set.to_array(start, "start")
            arguments.check_start(start, problem.image.shape)
            start = self._in_ball(problem, np.clip(start, 0, 1).astype("float32"))
        # Of a network that is itself random, no two evaluations see the same draw.
        draw = (problem.seed + trial * self.steps * self.eot) % 2**30
        shared = {"draw": np.int32(draw)}
        constants = {
            "image": problem.image,
            "label": problem.label,
            "epsilon": problem.epsilon,
            "step_size": 2 * problem.epsilon,
        }
        if target_class is not None:
            constants["target_class"] = target_class
        state = self._first_state(problem, start, constants, shared)
        memory = {
            "reviewed_loss": state["best_loss"].copy(),
            "was_halved": np.ones(len(start), bool),
        }
        loop = problem.functions["loop"]
        result = {key: state[key].copy() for key in RESULTS}
        left = np.arange(len(start))
        reviews = checkpoints(self.steps)
        period_began = 0
        for first, last in self._stretches(reviews, watch, until_fooled):
            if until_fooled:
                keep = ~state["fooled"]
                left = left[keep]
                state, constants, memory = active_set.kept(
                    keep, state, constants, memory
                )
            if not left.size:
                break
            loop.advance(first, last, state, constants, shared, self.batch_size)
            if watch is not None:
                watch(last, {**state, "step_size": constants["step_size"]})
            if last - 1 in reviews:
                review(state, constants, memory, last - period_began, self.rho)
                period_began = last
            for key in RESULTS:
                result[key][left] = state[key]
        return result

    def _first_state(self, problem, start, constants, shared):
        evaluate = problem.functions["evaluate"]
        values = active_set.in_batches(
            lambda x, constants: evaluate(x, constants, shared),
            self.batch_size,
            start,
            constants,
        )
        return {
            "x": start,
            "previous": start.copy(),
            "gradient": values["gradient"],
            "best": start.copy(),
            "best_gradient": values["gradient"].copy(),
            "best_loss": values["loss"],
            # As in the authors' code the loss of the first step is compared with 0,
            # not with that of the start.
            "last_loss": np.zeros(len(start), "float32"),
            "increases": np.zeros(len(start), "int32"),
            "adversarial": start.copy(),
            "fooled": values["fooled"],
        }

    def _stretches(self, reviews, watch, until_fooled):
        """Ranges of steps, after each of which the host has something to do."""
        stops = {0, self.steps, *(index + 1 for index in reviews)}
        if watch is not None:
            stops |= set(range(self.steps))
        elif until_fooled:
            stops |= {step for step in LOOKS if step < reviews[0]}
        stops = sorted(stops)
        return zip(stops[:-1], stops[1:], strict=True)

    def _random_start(self, problem, trial):
        """A point on the surface of the ball, clipped to [0, 1]."""
        generators, _ = problem.generators(trial)
        noise = [self._norm.draw(g, problem.image.shape[1:]) for g in generators]
        return np.clip(problem.image + problem.epsilon * np.stack(noise), 0, 1)

    def _in_ball(self, problem, start):
        """`start`, with what is outside of the ball brought to its border."""
        moved = start - problem.image
        length = ops.convert_to_numpy(self._norm.length(moved))
        nearest = ops.convert_to_numpy(self._norm.project(moved, problem.epsilon))
        is_outside = length > problem.epsilon * (1 + 1e-6)
        return np.where(is_outside, np.clip(problem.image + nearest, 0, 1), start)

    def _compile(self, network):
        def evaluation(constants, shared):
            gradient_of = gradients.gradient_of(network)

            def values(x, index):
                gradient, loss, logits = gradient_of(
                    lambda logits: self._loss(constants, logits),
                    x,
                    draw=shared["draw"] + index,
                )
                fooled = active_set.misclassified(logits, constants["label"])
                return gradient, loss, fooled

            return values

        def evaluate(x, constants, shared):
            values = self._averaged(evaluation(constants, shared))
            gradient, loss, fooled = values(x, np.int32(0))
            return {"gradient": gradient, "loss": loss, "fooled": fooled}

        def make_step(constants, shared):
            values = self._averaged(evaluation(constants, shared))
            confined = self._norm.confine(constants["image"], constants["epsilon"])

            def step(index, state):
                x, previous = state["x"], state["previous"]
                direction = self._norm.steepest(state["gradient"])
                moved = confined(x + constants["step_size"] * direction)
                weight = 1.0 - 0.25 * ops.cast(index > 0, "float32")
                moved = confined(
                    x + (moved - x) * weight + (x - previous) * (1.0 - weight)
                )
                gradient, loss, fooled = values(moved, index + 1)
                return next_state(state, moved, gradient, loss, fooled)

            return step

        variables = active_set.variables_of(network)
        return {
            "evaluate": backend.compiled(evaluate, variables),
            "loop": active_set.Loop(network, make_step),
        }

    def _averaged(self, values):
        """The mean gradient of several draws of a random network, and the last loss."""
        if self.eot == 1:
            return values

        def average(x, index):
            index = index * self.eot

            def add(state):
                total, draw, *_ = state
                gradient, loss, fooled = values(x, index + draw)
                return total + gradient, draw + 1, loss, fooled

            first, loss, fooled = values(x, index)
            state = (first, np.int32(1), loss, fooled)
            total, _, loss, fooled = backend.repeat(self.eot - 1, add, state)
            return total / self.eot, loss, fooled

        return average

    def get_config(self):
        config = super().get_config()
        return {**config, "steps": self.steps, "eot": self.eot, "rho": self.rho}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class APGD(Climber):
    """Auto-PGD: no step size to choose.

    Steps with momentum, of twice the budget at first. At fixed checkpoints the step of
    an image is halved, and the image put back to its best point, where the loss has
    not risen often enough or not at all. Images leave as soon as they are fooled.

    Args:
        epsilon: Float. Radius of the ball, in pixel units of images in `[0, 1]`.
            Defaults to `8 / 255`, and in the norm `"l2"` to `128 / 255`.
        steps: Integer. Number of steps. Defaults to `100`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        loss: `"cross_entropy"`, `"dlr"` (difference of logits ratio, for at least
            three classes), `"margin"`, a `keras.losses.Loss` of logits, or a function
            of `(targets, logits)` that gives one value for each example. Defaults to
            `"cross_entropy"`.
        restarts: Integer. Number of runs, each from another random start and on the
            images that are left. Defaults to `1`.
        eot: Integer. Of how many evaluations the gradient is the mean, for a network
            that is itself random (expectation over transformation). Defaults to `1`.
        rho: Float. The share of steps of a period that must raise the loss for the
            step size to stay. Defaults to `0.75`.
        batch_size: Integer. Images that are computed at once. Defaults to `250`.

    Raises:
        ValueError: If an argument is out of range; on a call also if the DLR loss
            meets a network of fewer than three classes.

    Example:

    >>> attack = krl.attacks.APGD(epsilon=8 / 255, steps=10)
    >>> x_adv = attack(network, x, y, seed=0)

    Reference:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
        Ensemble of Diverse Parameter-free Attacks", ICML 2020, algorithm 1.
    """

    def __init__(
        self,
        epsilon=None,
        steps=100,
        norm="linf",
        loss="cross_entropy",
        restarts=1,
        eot=1,
        rho=0.75,
        batch_size=250,
    ):
        super().__init__(epsilon, steps, norm, None, restarts, eot, rho, batch_size)
        self.loss = arguments.check_loss(loss)

    def check_classes(self, num_classes):
        super().check_classes(num_classes)
        arguments.check_dlr(self.loss, num_classes)

    def _loss(self, constants, logits):
        loss = base.loss_function(self.loss)
        values = loss(active_set.one_hot(constants["label"], logits), logits)
        values = arguments.check_loss_values(values, self.loss, (1,))
        return arguments.one_of_each(values, logits, loss)

    def get_config(self):
        config = {**super().get_config(), "loss": self.loss}
        del config["targets"]
        return config


@keras.saving.register_keras_serializable(package="keras_robustlt")
class APGDT(Climber):
    """Auto-PGD with the targeted DLR loss, one class after the other as the target.

    The targets of an image are the classes that the network finds likeliest for it,
    other than the right one; each is aimed at by a run of its own.

    Args:
        epsilon: Float. Radius of the ball, in pixel units of images in `[0, 1]`.
            Defaults to `8 / 255`, and in the norm `"l2"` to `128 / 255`.
        steps: Integer. Number of steps for each target. Defaults to `100`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        targets: Integer. Number of targets, at most one less than there are classes.
            Defaults to `9`.
        restarts: Integer. Number of runs for each target. Defaults to `1`.
        eot: See `APGD`. Defaults to `1`.
        rho: See `APGD`. Defaults to `0.75`.
        batch_size: Integer. Images that are computed at once. Defaults to `250`.

    Raises:
        ValueError: If an argument is out of range; on a call also if the network has
            fewer than four classes, for which the loss is not defined.

    Example:

    >>> network = keras.Sequential(
    ...     [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(5)]
    ... )
    >>> attack = krl.attacks.APGDT(epsilon=8 / 255, steps=10, targets=2)
    >>> x_adv = attack(network, x, y, seed=0)

    Reference:
        Croce and Hein, "Reliable Evaluation of Adversarial Robustness with an
        Ensemble of Diverse Parameter-free Attacks", ICML 2020, equation 7.
    """

    def __init__(
        self,
        epsilon=None,
        steps=100,
        norm="linf",
        targets=9,
        restarts=1,
        eot=1,
        rho=0.75,
        batch_size=250,
    ):
        targets = checks.positive_integer("targets", targets)
        super().__init__(epsilon, steps, norm, targets, restarts, eot, rho, batch_size)

    def check_classes(self, num_classes):
        if num_classes < 4:
            raise ValueError(
                "Targeted APGD needs at least 4 classes, for its loss is the targeted "
                "DLR. With fewer use 'apgd-ce', 'fab' and 'square'. "
                f"Received: a network of {num_classes} classes"
            )

    def _loss(self, constants, logits):
        label = active_set.one_hot(constants["label"], logits)
        target = active_set.one_hot(constants["target_class"], logits)
        return losses.targeted_dlr(label, logits, target)


RESULTS = ("best", "best_loss", "adversarial", "fooled")


def checkpoints(steps):
    """The steps, counted from 0, at whose end the step sizes are reviewed.

    Periods of 22% of all steps, then each 3% shorter than the one before, down to 6%.
    """
    length = max(int(0.22 * steps), 1)
    shortest = max(int(0.06 * steps), 1)
    shortening = max(int(0.03 * steps), 1)
    found, index = [], length - 1
    while index < steps:
        found.append(index)
        length = max(length - shortening, shortest)
        index += length
    return found


def next_state(state, x, gradient, loss, fooled):
    """The state after a step to `x`, with the values there."""
    better = loss > state["best_loss"]
    rose = ops.cast(loss > state["last_loss"], "int32")
    return {
        "x": x,
        "previous": state["x"],
        "gradient": gradient,
        "best": backend.choose(better, x, state["best"]),
        "best_gradient": backend.choose(better, gradient, state["best_gradient"]),
        "best_loss": backend.choose(better, loss, state["best_loss"]),
        "last_loss": loss,
        "increases": state["increases"] + rose,
        "adversarial": backend.choose(fooled, x, state["adversarial"]),
        "fooled": ops.logical_or(fooled, state["fooled"]),
    }


def oscillates(increases, steps, rho):
    """Whether the loss rose in too few of the `steps` of a period."""
    return increases <= rho * steps


def review(state, constants, memory, steps, rho):
    """Halves step sizes at the end of a period of `steps` steps, in place."""
    no_better = memory["reviewed_loss"] >= state["best_loss"]
    halve = oscillates(state["increases"], steps, rho)
    halve |= no_better & ~memory["was_halved"]
    memory["was_halved"] = halve
    memory["reviewed_loss"] = state["best_loss"].copy()
    constants["step_size"] = constants["step_size"].copy()
    constants["step_size"][halve] /= 2
    state["x"][halve] = state["best"][halve]
    state["gradient"][halve] = state["best_gradient"][halve]
    state["increases"][:] = 0
