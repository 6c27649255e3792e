"""Square attack: random search with squares, from the logits alone."""

import math

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.attacks import active_set, gradients

__all__ = ["Square"]

# So many queries are between two looks at which images are fooled.
LOOK = 50


@keras.saving.register_keras_serializable(package="keras_robustlt")
class Square(active_set.ActiveSetAttack):
    """Square attack: changes squares of the image at random, without gradients.

    What lowers the margin of the right class is kept, and an image leaves as soon as
    it is fooled. As it needs no gradient, it shows where other attacks are weak only
    because the network hides its gradients.

    Args:
        epsilon: Float. Radius of the ball, in pixel units of images in `[0, 1]`.
            Defaults to `8 / 255`, and in the norm `"l2"` to `128 / 255`.
        queries: Integer. How many changes are tried for each image. Defaults to
            `5000`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        initial_fraction: Float in `(0, 1]`. The share of the pixels in the first
            squares; later ones are smaller. Defaults to `0.8`.
        rescale_schedule: Boolean. Whether the squares shrink to their smallest size
            within `queries`, instead of within 10000. Defaults to `False`.
        restarts: Integer. Number of runs, each on the images that are left. Defaults
            to `1`.
        batch_size: Integer. Images that are computed at once. Defaults to `250`.

    Example:

    >>> attack = krl.attacks.Square(epsilon=8 / 255, queries=100)
    >>> x_adv = attack(network, x, y, seed=0)

    Reference:
        Andriushchenko et al., "Square Attack: a Query-Efficient Black-Box Adversarial
        Attack via Random Search", ECCV 2020, algorithms 1 to 3.
    """

    def __init__(
        self,
        epsilon=None,
        queries=5000,
        norm="linf",
        initial_fraction=0.8,
        rescale_schedule=False,
        restarts=1,
        batch_size=250,
    ):
        super().__init__(epsilon, norm, restarts, batch_size)
        self.queries = checks.positive_integer("queries", queries)
        self.initial_fraction = checks.share("initial_fraction", initial_fraction)
        self.rescale_schedule = checks.boolean("rescale_schedule", rescale_schedule)
        self._search = {"linf": Stripes(), "l2": Hills()}[norm]

    def check_image_shape(self, shape):
        if len(shape) != 3:
            raise ValueError(
                "The Square attack needs images, `x` of shape (examples, height, "
                "width, channels), to have squares. Of other data leave it out, such "
                "as AutoAttack(['apgd-ce', 'apgd-t', 'fab-t']). Received: x of shape "
                f"{(None, *shape)}"
            )

    def _attempt(self, problem, target_class, trial):
        del target_class
        generators, shared_generator = problem.generators(trial)
        image = problem.image
        shape = image.shape[1:]
        start = np.stack([self._search.start(g, shape) for g in generators])
        start = np.clip(image + problem.epsilon * start, 0, 1).astype("float32")
        constants = {
            "image": image,
            "label": problem.label,
            "epsilon": problem.epsilon,
        }
        functions = problem.functions
        state = {"x": start} | active_set.in_batches(
            functions["margin"], self.batch_size, start, problem.label
        )
        found, fooled = start.copy(), state["fooled"].copy()
        left = np.arange(len(image))
        for first in range(0, self.queries, LOOK):
            keep = ~state["fooled"]
            left = left[keep]
            generators = [g for g, kept in zip(generators, keep, strict=True) if kept]
            state, constants = active_set.kept(keep, state, constants)
            if not left.size:
                break
            sides = [self._side(query, shape) for query in range(first, first + LOOK)]
            shared = self._search.windows(shared_generator, sides, shape)
            signs = [random_signs(g, (LOOK, shape[-1])) for g in generators]
            queries = min(LOOK, self.queries - first)
            functions["loop"].advance(
                0,
                queries,
                state,
                constants | {"signs": np.stack(signs)},
                shared,
                self.batch_size,
            )
            found[left], fooled[left] = state["x"], state["fooled"]
        return found, fooled

    def _side(self, query, shape):
        fraction = fraction_of_pixels(
            query, self.initial_fraction, self.rescale_schedule and self.queries
        )
        return self._search.side(fraction, *shape[:2])

    def _compile(self, network):
        def margin(x, label):
            logits = gradients.logits_of(network)(x)
            return {
                "margin": losses.logit_margin(
                    active_set.one_hot(label, logits), logits
                ),
                "fooled": active_set.misclassified(logits, label),
            }

        def make_step(constants, shared):
            confined = self._norm.confine(constants["image"], constants["epsilon"])

            def step(query, state):
                windows = {key: value[query] for key, value in shared.items()}
                signs = constants["signs"][:, query][:, None, None, :]
                candidate = confined(
                    self._search.candidate(state["x"], constants, windows, signs)
                )
                new = margin(candidate, constants["label"])
                better = ops.logical_or(new["fooled"], new["margin"] < state["margin"])
                better = ops.logical_and(better, ops.logical_not(state["fooled"]))
                return {
                    "x": backend.choose(better, candidate, state["x"]),
                    "margin": backend.choose(better, new["margin"], state["margin"]),
                    "fooled": ops.logical_or(new["fooled"], state["fooled"]),
                }

            return step

        variables = active_set.variables_of(network)
        return {
            "margin": backend.compiled(margin, variables),
            "loop": active_set.Loop(network, make_step),
        }

    def get_config(self):
        return {
            **super().get_config(),
            "queries": self.queries,
            "initial_fraction": self.initial_fraction,
            "rescale_schedule": self.rescale_schedule,
        }


class Stripes:
    """The Linf search: vertical stripes at first, then squares of one colour each."""

    def side(self, fraction, height, width):
        side = max(int(round(math.sqrt(fraction * height * width))), 1)
        return min(side, height, width)

    def start(self, generator, shape):
        _, width, channels = shape
        return np.broadcast_to(random_signs(generator, (1, width, channels)), shape)

    def windows(self, generator, sides, shape):
        return {"window": np.stack([window(generator, s, shape) for s in sides])}

    def candidate(self, x, constants, windows, signs):
        square = windows["window"][:, :, None]
        return x + 2 * constants["epsilon"] * signs * square


class Hills:
    """The L2 search: moves length of the perturbation from one window to another.

    What a window gets is a pattern of two hills, one up and one down.
    """

    def side(self, fraction, height, width):
        # Odd, and at least 3, unless the image itself is smaller.
        side = max(int(round(math.sqrt(fraction * height * width))), 3)
        return min(side + (side % 2 == 0), height, width)

    def start(self, generator, shape):
        """A pattern in each tile of the image."""
        height, width, channels = shape
        side = max(height // 5, 1)
        rows, columns = height // side, width // side
        top, left = (height - rows * side) // 2, (width - columns * side) // 2
        noise = np.zeros(shape, "float32")
        for row in range(rows):
            for column in range(columns):
                tile = noise[top + row * side :, left + column * side :][:side, :side]
                hills = two_hills(generator, side)[:, :, None]
                tile += hills * random_signs(generator, (channels,))
        return noise / np.sqrt(np.sum(np.square(noise)))

    def windows(self, generator, sides, shape):
        found = {"window": [], "emptied": [], "pattern": []}
        for side in sides:
            filled = window(generator, side, shape)
            found["window"].append(filled)
            found["emptied"].append(window(generator, side, shape))
            pattern = np.zeros(shape[:2], "float32")
            pattern[filled > 0] = two_hills(generator, side).ravel()
            found["pattern"].append(pattern)
        return {key: np.stack(values) for key, values in found.items()}

    def candidate(self, x, constants, windows, signs):
        image, epsilon = constants["image"], constants["epsilon"]
        filled, emptied, pattern = (
            windows[key][:, :, None] for key in ("window", "emptied", "pattern")
        )
        perturbation = x - image
        channels = image.shape[-1]

        def length(z, axes):
            return ops.sqrt(ops.sum(ops.square(z), axis=axes, keepdims=True))

        # What is left of the budget, for each channel, and what the windows hold.
        used = length(perturbation, (1, 2, 3))
        spare = ops.maximum(ops.square(epsilon) - ops.square(used), 0.0) / channels
        held = length(perturbation * ops.maximum(filled, emptied), (1, 2, 3))
        inside = perturbation * filled
        new = pattern * signs + inside / (length(inside, (1, 2)) + 1e-12)
        new = new / (length(new, (1, 2)) + 1e-12)
        new = new * ops.sqrt(spare + ops.square(held))
        kept = perturbation * (1.0 - ops.maximum(filled, emptied))
        moved = kept + new
        return image + epsilon * moved / (length(moved, (1, 2, 3)) + 1e-12)


# After so many of 10000 queries the fraction of the pixels in a square is halved.
HALVINGS = (10, 50, 200, 500, 1000, 2000, 4000, 6000, 8000)


def fraction_of_pixels(query, initial, rescaled_to=None):
    """The share of the pixels that the square of a query, counted from 0, covers.

    Args:
        query: Integer.
        initial: Float. The share of the first squares.
        rescaled_to: Integer: the number of queries that the whole schedule takes, in
            place of 10000.
    """
    if rescaled_to:
        query = int(query / rescaled_to * 10000)
    return initial / 2 ** sum(query > after for after in HALVINGS)


def window(generator, side, shape):
    """A square of ones at a random place in zeros of the shape of an image."""
    height, width, _ = shape
    # The last position is never drawn, as in the authors' code.
    top = int(generator.uniform(0, max(height - side, 0)))
    left = int(generator.uniform(0, max(width - side, 0)))
    mask = np.zeros((height, width), "float32")
    mask[top : top + side, left : left + side] = 1
    return mask


def two_hills(generator, side):
    """A pattern of length 1: one half a hill, the other a valley, lying or standing."""
    pattern = np.concatenate([hill(side // 2, side), -hill(side - side // 2, side)])
    pattern /= np.sqrt(np.sum(np.square(pattern)))
    return pattern.T if generator.uniform() > 0.5 else pattern


def hill(height, width):
    """Concentric rectangles: the sum of `1 / k**2` over those around a pixel."""
    if not height:
        return np.zeros((height, width), "float32")
    middle = height // 2, width // 2
    reach = max(middle) + 1
    rows = abs(np.arange(height) - middle[0])
    columns = abs(np.arange(width) - middle[1])
    ring = np.maximum(rows[:, None], columns[None, :])
    shares = 1.0 / np.arange(1, reach + 1) ** 2
    values = np.cumsum(shares[::-1])[::-1][ring]
    return (values / np.sqrt(np.sum(np.square(values)))).astype("float32")


def random_signs(generator, shape):
    return (2 * generator.integers(0, 2, shape) - 1).astype("float32")
