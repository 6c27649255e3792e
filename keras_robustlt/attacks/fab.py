"""Fast adaptive boundary attack: the smallest perturbation that fools the network."""

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks
from keras_robustlt.attacks import active_set, arguments, gradients, norms

__all__ = ["FAB"]

# How far a point may move towards the original image, how far it goes beyond the
# boundary, and how much of its way it keeps once it is there: the authors' choice.
ALPHA_MAX = 0.1
ETA = 1.05
BETA = 0.9
# So many steps are between two looks at which images are fooled.
LOOK = 10


@keras.saving.register_keras_serializable(package="keras_robustlt")
class FAB(active_set.TargetedAttack):
    """Fast adaptive boundary attack: looks for the smallest perturbation.

    Each step goes to where the decision boundary would be if the network were linear,
    biased towards the original image; a point beyond the boundary is drawn back to the
    image. A perturbation counts if it is within `epsilon`. With one restart nothing is
    random.

    Args:
        epsilon: Float. The largest perturbation that counts, in pixel units of images
            in `[0, 1]`. Defaults to `8 / 255`.
        steps: Integer. Number of steps for each target. Defaults to `100`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        targets: Integer: the attack goes for the boundary to the likeliest, second
            likeliest, ... other class, one after the other. Or `None`: each step goes
            for the nearest boundary, at the price of a gradient for each class.
            Defaults to `9`.
        restarts: Integer. Number of runs for each target, the first from the image
            itself, the others from random points around it. Defaults to `1`.
        batch_size: Integer. Images that are computed at once. Defaults to `250`.

    Example:

    >>> attack = krl.attacks.FAB(epsilon=8 / 255, steps=10, targets=1)
    >>> x_adv = attack(network, x, y)
    >>> distance = attack.minimize(network, x, y)["distance"]

    Reference:
        Croce and Hein, "Minimally Distorted Adversarial Examples with a Fast Adaptive
        Boundary Attack", ICML 2020, algorithm 1.
    """

    def __init__(
        self,
        epsilon=None,
        steps=100,
        norm="linf",
        targets=9,
        restarts=1,
        batch_size=250,
    ):
        super().__init__(epsilon, norm, targets, restarts, batch_size)
        self.steps = checks.positive_integer("steps", steps)

    def minimize(self, network, x, y, epsilon=None, seed=None):
        """The smallest perturbations found, within `epsilon` or not.

        From them follows the robust accuracy for every budget at once.

        Args:
            network: See `__call__`.
            x: See `__call__`.
            y: See `__call__`.
            epsilon: Float or array. Only the random starts of restarts depend on it.
            seed: See `__call__`.

        Returns:
            A dictionary of arrays: `"distance"`, `(examples,)`, the lengths of the
            perturbations: 0 where the network gets the image wrong as it is, infinite
            where the attack found nothing; `"adversarial"`, the images, of the shape
            of `x`.
        """
        problem = self._problem(network, x, y, epsilon, seed)
        arguments.warn_of_no_numbers(problem.logits)
        right = np.flatnonzero(active_set.classes(problem.logits) == problem.label)
        adversarial = problem.image.copy()
        distance = np.zeros(len(adversarial), "float32")
        distance[right] = np.inf
        for trial, target_class in enumerate(self._target_classes(problem.logits)):
            if not right.size:
                break
            targets = None if target_class is None else target_class[right]
            found = self._run(problem.of(right), targets, trial, until_fooled=False)
            closer = found["distance"] < distance[right]
            distance[right[closer]] = found["distance"][closer]
            adversarial[right[closer]] = found["adversarial"][closer]
        return {"adversarial": adversarial, "distance": distance}

    def _attempt(self, problem, target_class, trial):
        result = self._run(problem, target_class, trial, until_fooled=True)
        return result["adversarial"], result["distance"] <= problem.epsilon.ravel()

    def _run(self, problem, target_class, trial, until_fooled):
        """One run: the closest adversarial images and their distances."""
        constants = {"image": problem.image, "label": problem.label}
        if target_class is not None:
            constants["target_class"] = target_class
        state = {
            "x": self._start(problem, trial),
            "adversarial": problem.image.copy(),
            "distance": np.full(len(problem.image), np.inf, "float32"),
        }
        loop = problem.functions["loop"]
        result = {key: state[key].copy() for key in ("adversarial", "distance")}
        left = np.arange(len(problem.image))
        look = LOOK if until_fooled else self.steps
        for first in range(0, self.steps, look):
            last = min(first + look, self.steps)
            loop.advance(first, last, state, constants, {}, self.batch_size)
            for key in result:
                result[key][left] = state[key]
            if until_fooled:
                keep = state["distance"] > problem.epsilon.ravel()[left]
                left = left[keep]
                state, constants = active_set.kept(keep, state, constants)
            if not left.size:
                break
        return result

    def _start(self, problem, trial):
        """The images themselves at first, then points halfway to the surface."""
        if trial % self.restarts == 0:
            return problem.image.copy()
        generators, _ = problem.generators(trial)
        noise = [self._norm.draw(g, problem.image.shape[1:]) for g in generators]
        start = problem.image + problem.epsilon / 2 * np.stack(noise)
        return np.clip(start, 0, 1).astype("float32")

    def _compile(self, network):
        def make_step(constants, shared):
            del shared
            logits_of = gradients.logits_of(network)
            gradient_of = gradients.gradient_of(network)
            image, label = constants["image"], constants["label"]

            def boundary(x, target_class):
                """That to a class: its logit minus that of the right one."""

                def difference(logits):
                    target = active_set.one_hot(target_class, logits)
                    sign = target - active_set.one_hot(label, logits)
                    return ops.sum(sign * logits, axis=-1)

                normal, values, _ = gradient_of(difference, x)
                return gradients.per_image(values, x), normal

            def nearest_boundary(x):
                """That to the class with the nearest one."""
                classes = logits_of(x).shape[-1]

                def compare(state):
                    target, distance, values, normal = state
                    new_values, new_normal = boundary(x, ops.full_like(label, target))
                    # The length that a perturbation must have in a linear network.
                    new = ops.abs(new_values) / (self._dual(new_normal) + 1e-12)
                    nearer = ops.reshape(new < distance, (-1,))
                    nearer = ops.logical_and(nearer, ops.not_equal(label, target))
                    return (
                        target + 1,
                        backend.choose(nearer, new, distance),
                        backend.choose(nearer, new_values, values),
                        backend.choose(nearer, new_normal, normal),
                    )

                nothing = ops.zeros_like(self._norm.length(x))
                state = (np.int32(0), nothing + np.inf, nothing, ops.zeros_like(x))
                _, _, values, normal = backend.repeat(classes, compare, state)
                return values, normal

            def step(index, state):
                del index
                x = state["x"]
                if "target_class" in constants:
                    values, normal = boundary(x, constants["target_class"])
                else:
                    values, normal = nearest_boundary(x)
                of_image = values + _inner(normal, image - x)
                # Both from the same plane: the linear network's boundary at `x`.
                from_x = to_plane(x, normal, values, self._norm)
                from_image = to_plane(image, normal, of_image, self._norm)
                far_x = ops.maximum(self._norm.length(from_x), 1e-8)
                far_image = ops.maximum(self._norm.length(from_image), 1e-8)
                alpha = ops.minimum(far_x / (far_x + far_image), ALPHA_MAX)
                x = (x + ETA * from_x) * (1 - alpha)
                x = ops.clip(x + (image + ETA * from_image) * alpha, 0.0, 1.0)

                fooled = active_set.misclassified(logits_of(x), label)
                distance = ops.reshape(self._norm.length(x - image), (-1,))
                closer = ops.logical_and(fooled, distance < state["distance"])
                return {
                    "x": backend.choose(fooled, image + (x - image) * BETA, x),
                    "adversarial": backend.choose(closer, x, state["adversarial"]),
                    "distance": backend.choose(closer, distance, state["distance"]),
                }

            return step

        return {"loop": active_set.Loop(network, make_step)}

    def _dual(self, normal):
        return _inner(ops.abs(normal), self._norm.steepest(ops.abs(normal)))

    def get_config(self):
        return {**super().get_config(), "steps": self.steps}


def to_plane(points, normal, values, norm):
    """The shortest ways from points in the unit box to a plane, within the box.

    The plane of each point is where `values + <normal, way>` is 0. Each pixel moves
    against the sign of the plane's function, until it meets the box: by
    `min(t * pace, room)`, with the pace 1 (Linf) or that of the gradient (L2) and the
    room there is. The time `t` at which the plane is reached solves an equation that
    is piecewise linear and concave, so Newton's method from 0 ends at its solution.
    Where the box does not meet the plane, the way ends in a corner of the box.

    Args:
        points: Tensor of shape `(batch, ...)`, in `[0, 1]`.
        normal: Tensor of the same shape.
        values: Tensor of shape `(batch, 1, ...)`.
        norm: A norm of `attacks.norms`.

    Returns:
        A tensor of the shape of `points`.
    """
    side = 2.0 * ops.cast(values >= 0, "float32") - 1.0
    # Gradients have any scale; without it float32 would run out.
    largest = ops.max(ops.abs(normal), axis=norms.pixels(normal), keepdims=True)
    scale = ops.maximum(largest, 1e-30)
    normal, distance = side * normal / scale, ops.abs(values) / scale
    weights = ops.abs(normal)
    room = ops.where(normal > 0, points, 1.0 - points)
    room = ops.where(weights > 0, room, 0.0)
    pace = norm.pace(weights)

    def improve(time, previous):
        del previous
        free = time * pace < room
        covered = _sum(ops.where(free, 0.0, weights * room))
        speed = _sum(ops.where(free, weights * pace, 0.0))
        better = (distance - covered) / ops.where(speed > 0, speed, 1.0)
        return ops.where(speed > 0, ops.maximum(better, time), 1e30), time

    def improves(time, previous):
        return ops.any(time > previous)

    start = ops.zeros_like(distance)
    time, _ = ops.while_loop(improves, improve, improve(start, start))
    return -ops.sign(normal) * ops.minimum(time * pace, room)


def _inner(a, b):
    return _sum(a * b)


def _sum(x):
    return ops.sum(x, axis=norms.pixels(x), keepdims=True)
