"""Projected gradient descent, the attack of adversarial training, and FGSM."""

import functools
import warnings

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.attacks import arguments, base, gradients, norms
from keras_robustlt.backend import replicas

__all__ = ["FGSM", "PGD"]

# So many of the usual steps cross the ball, from the image to its border.
USUAL_STEPS = 4


@keras.saving.register_keras_serializable(package="keras_robustlt")
class PGD(base.Attack):
    """Projected gradient descent within a ball around each image.

    Each step moves every image by `step_size` in the direction that raises its loss
    most, then back into the ball of radius `epsilon` around the original and into
    `[0, 1]`.

    Args:
        epsilon: Float. Radius of the ball, in pixel units of images in `[0, 1]`.
            Defaults to `8 / 255`, and in the norm `"l2"` to `128 / 255`.
        steps: Integer. Number of steps. Defaults to `10`.
        step_size: Float above 0, in the units of `epsilon`. Defaults to `epsilon / 4`,
            and where fewer than 4 steps of that would not cross from the image to the
            border of the ball, to `epsilon / steps`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        random_start: Boolean. Whether to start from a uniformly drawn point of the
            ball instead of the image itself. Defaults to `True`.
        loss: `"cross_entropy"`, `"margin"` (with which PGD is the attack known as
            CW), `"dlr"` (difference of logits ratio), a `keras.losses.Loss` of
            logits, or a function of `(targets, logits)` that gives one value for each
            example. Defaults to `"cross_entropy"`.
        restarts: Integer. Number of runs of a call, each from another random start.
            Of each image the result is kept that is misclassified, or else that of
            the highest loss. (`perturb`, as training uses it, is one run.) Defaults
            to `1`.

    Example:

    >>> attack = krl.attacks.PGD(epsilon=8 / 255, steps=20, step_size=1 / 255)
    >>> x_adv = attack(network, x, y, seed=0)

    Reference:
        Madry et al., "Towards Deep Learning Models Resistant to Adversarial
        Attacks", 2018, equation 2.1 and section 2.1.
    """

    runs_compiled = True

    def __init__(
        self,
        epsilon=None,
        steps=10,
        step_size=None,
        norm="linf",
        random_start=True,
        loss="cross_entropy",
        restarts=1,
    ):
        super().__init__(epsilon, norm)
        self.steps = checks.positive_integer("steps", steps)
        usual = self.epsilon / min(self.steps, USUAL_STEPS)
        self.step_size = checks.in_range(
            "step_size", usual if step_size is None else step_size, 0, 1e9
        )
        if norm == "linf" and self.step_size > 1:
            raise ValueError(
                "`step_size` must be at most 1, the distance from black to white, in "
                f"the units of pixels in [0, 1]: 2 / 255. Received: {step_size}"
            )
        if step_size is not None and not self.step_size and self.epsilon:
            raise ValueError(
                "`step_size` must be above 0: without a step the attack stays where it "
                f"starts. Received: step_size={step_size}"
            )
        self.random_start = checks.boolean("random_start", random_start)
        # A single step from a random start may be meant so: as random noise.
        is_noise = self.steps == 1 and self.random_start
        if self.leads_nowhere() and not is_noise:
            warnings.warn(
                f"steps={self.steps} of step_size={self.step_size:.3g} lead "
                f"{self.steps * self.step_size:.3g} far, of epsilon={self.epsilon:.3g}:"
                " the attack hardly leaves where it starts, and what it leaves is no "
                "robustness. Both are in the same units, and the usual step_size is "
                "epsilon / 4.",
                stacklevel=2,
            )
        self.loss = arguments.check_loss(loss)
        self.restarts = checks.positive_integer("restarts", restarts)
        if self.restarts > 1 and not self.random_start:
            raise ValueError(
                "`restarts` above 1 need `random_start=True`: without it all runs are "
                f"the same. Received: restarts={restarts}"
            )

    def leads_nowhere(self):
        """Whether all steps together are next to nothing, measured by the budget."""
        return self.steps * self.step_size < self.epsilon / 10

    def __call__(
        self,
        network,
        x,
        y,
        epsilon=None,
        step_size=None,
        start=None,
        training=False,
        seed=None,
        loss=None,
    ):
        """Adversarial examples for the images `x`.

        Args:
            network: A Keras model that gives logits, or a function of a batch of
                images that does.
            x: Float tensor of shape `(batch, ...)`, images in `[0, 1]`.
            y: Labels, integers `(batch,)` or one-hot `(batch, num_classes)`.
            epsilon: Float or tensor of shape `(batch,)`: another budget than the
                attack's own, the same for all images or one for each.
            step_size: Likewise. Defaults to the attack's own, scaled as the budget
                is.
            start: Tensor of the shape of `x`: where to start, in place of the random
                start of the first run. It need not be in the ball; the first step
                brings it there.
            training: Boolean. Batch normalisation uses the statistics of the batch
                (`True`, as in adversarial training; its moving statistics stay as
                they are) or its moving statistics (`False`).
            seed: Integer or `keras.random.SeedGenerator` for the random start.
            loss: As the constructor takes it, in place of its `loss`.

        Returns:
            A float32 tensor of the shape of `x`, in the ball and in `[0, 1]`.

        Raises:
            ValueError: If images, labels or budgets are out of range, or the network
                has too few classes. Inside of compiled code they have no values yet,
                so that only their types are looked at.
        """
        arguments.check_call(
            network, x, y, epsilon=epsilon, step_size=step_size, start=start
        )
        training = checks.boolean("training", training or False)
        if seed is not None and not isinstance(seed, keras.random.SeedGenerator):
            seed = checks.seed(seed)
        named = self.loss if loss is None else arguments.check_loss(loss)
        loss = None if loss is None else base.loss_function(loss)
        x = x if hasattr(x, "dtype") else ops.convert_to_tensor(x)
        checks.image_dtype(x)  # of objects, no backend makes a tensor
        x = ops.cast(ops.convert_to_tensor(x), "float32")
        self._check_values(network, x, y, epsilon, step_size, start, named)
        draws_start = start is None
        if draws_start:
            start = self.starting_point(x, epsilon, seed)

        def run(start):
            return self.perturb(
                network, x, y, start, epsilon, step_size, training, loss
            )

        best = run(start)
        if draws_start:
            self._warn_if_it_stays(network, x, y, start, best, epsilon, training)
        for number in range(1, self.restarts):
            start = self.starting_point(x, epsilon, _another_seed(seed, number))
            best = self._better(network, best, run(start), y, training, loss)
        return best

    def _warn_if_it_stays(self, network, x, y, start, x_adv, epsilon, training):
        """Warns if images are where they started, all of them, and still right."""
        if checks.known(x_adv) is None or not len(x_adv):
            return
        radius = self.epsilon if epsilon is None else epsilon
        radius = ops.broadcast_to(ops.cast(radius, "float32"), (len(x),))
        if np.any(ops.convert_to_numpy(base.moved(x, x_adv, start, radius, self))):
            return  # or there is no budget, for some
        logits = gradients.logits_of(network, training)(x_adv)
        labels = ops.argmax(losses.one_hot(y, logits.shape[-1]), -1)
        are_right = ops.argmax(logits, -1) == labels
        # Where logits are no numbers, that is what is said.
        are_right = ops.logical_and(are_right, ops.all(ops.isfinite(logits), axis=-1))
        right = np.mean(ops.convert_to_numpy(are_right))
        if right:
            warnings.warn(
                f"The attack has left all {len(x)} images where it started, and "
                f"{right:.0%} of them right, which is no robustness: no gradient of "
                "its loss reaches them. A layer may stop the gradient or round, the "
                "logits may be very large, or the units of the network may be dead. "
                "`attacks.Square` needs no gradient.",
                stacklevel=3,
            )

    def _check_values(self, network, x, y, epsilon, step_size, start, loss):
        """Raises if what is known of the arguments of a call is out of range."""
        images, labels = checks.known(x), checks.known(y)
        if images is None or not len(images):
            return
        checks.images(images)
        if isinstance(network, keras.Layer) and not network.built:
            network(x[:1])
        first = x[:2]
        logits = ops.convert_to_numpy(gradients.logits_of(network)(first))
        arguments.check_logits(logits, len(first))
        arguments.warn_of_no_numbers(logits)
        num_classes = logits.shape[-1]
        self.check_classes(num_classes)
        start = checks.known(start)
        if start is not None:
            arguments.check_start(start, images.shape)
        if labels is not None:
            arguments.check_labels(labels, len(images), num_classes, loss)
        epsilon, step_size = checks.known(epsilon), checks.known(step_size)
        if epsilon is not None:
            arguments.check_each("epsilon", epsilon, len(images))
            for extreme in (np.min(epsilon), np.max(epsilon)):
                checks.epsilon(float(extreme), self.norm)
        if step_size is not None:
            arguments.check_each("step_size", step_size, len(images))
            attacked = (self.epsilon if epsilon is None else epsilon) > 0
            for extreme in (np.min(step_size), np.max(step_size)):
                checks.in_range("step_size", float(extreme), 0, 1e9)
            # Without a budget there is no way to go.
            longest = np.max(np.where(attacked, step_size, 0.0))
            if np.any(attacked):
                checks.positive("step_size", float(longest))

    def starting_point(self, x, epsilon=None, seed=None):
        """Where the attack starts: in the ball around `x` and in `[0, 1]`.

        Args:
            x: See `__call__`.
            epsilon: See `__call__`.
            seed: See `__call__`.

        Returns:
            A float32 tensor of the shape of `x`.
        """
        if not self.random_start or x.shape[0] == 0:
            return x
        seed = int(seed) if isinstance(seed, np.integer) else seed
        draw = functools.partial(self.noise, seed=seed)
        noise = self._per_image(epsilon, x) * replicas.drawn(draw, ops.shape(x))
        return ops.clip(x + noise, 0.0, 1.0)

    def noise(self, shape, seed):
        """What the random start adds to images, in units of their budgets.

        Args:
            shape: The shape of the images.
            seed: See `__call__`.

        Returns:
            A float32 tensor of that shape.
        """
        return self._norm.random(shape, seed=seed)

    def perturb(
        self,
        network,
        x,
        y,
        start,
        epsilon=None,
        step_size=None,
        training=False,
        loss=None,
        steps=None,
    ):
        """The attack from a given start: no randomness. See `__call__`.

        `steps` is an integer scalar, from 1 to the attack's own steps: so many steps,
        that are longer by as much as there are fewer.
        """
        if step_size is None:
            step_size = self.step_size
            if epsilon is not None:
                step_size = ops.multiply(epsilon, self._share_of_a_step())
        epsilon = self._per_image(epsilon, x)
        if steps is not None:
            step_size = step_size * self.steps / ops.cast(steps, "float32")
        step_size = self._per_image(step_size, x)
        loss = self._loss(loss)
        gradient_of = gradients.gradient_of(network, training)

        def values(logits):
            found = loss(losses.one_hot(y, logits.shape[-1]), logits)
            # The mean over the images has the same directions.
            found = arguments.check_loss_values(found, loss, (0, 1))
            return arguments.one_of_each(found, logits, loss)

        def step(x_adv):
            gradient, *_ = gradient_of(values, x_adv)
            direction = self._norm.steepest(gradient)
            moved = x_adv + step_size * direction - x
            return ops.clip(x + self.project(moved, epsilon), 0.0, 1.0)

        start = ops.cast(start, "float32")
        if steps is None:
            return backend.repeat(self.steps, step, start)
        return backend.repeat(steps, step, start, at_most=self.steps)

    def _share_of_a_step(self):
        """The length of a step, in units of the budget."""
        if not self.epsilon:  # of calls with a budget of their own
            return 1 / min(self.steps, USUAL_STEPS)
        return self.step_size / self.epsilon

    def project(self, perturbation, epsilon):
        """The perturbation back in the ball, after a step.

        Args:
            perturbation: Float32 tensor of the shape of the images.
            epsilon: Float, or a tensor that multiplies with it: radius of the ball.

        Returns:
            A float32 tensor of the shape of the images.
        """
        return self._norm.project(perturbation, epsilon)

    def _better(self, network, first, second, y, training, loss):
        """For each image the one that is misclassified, or has the higher loss."""
        logits_of = gradients.logits_of(network, training)

        def judge(x_adv):
            logits = logits_of(x_adv)
            targets = losses.one_hot(y, logits.shape[-1])
            right = ops.equal(ops.argmax(logits, -1), ops.argmax(targets, -1))
            values = self._loss(loss)(targets, logits)
            return right, arguments.check_loss_values(values, self._loss(loss), (1,))

        (right1, loss1), (right2, loss2) = judge(first), judge(second)
        better = ops.where(ops.equal(right1, right2), loss2 > loss1, right1)
        return backend.choose(better, second, first)

    def _loss(self, loss):
        """`loss`, or the attack's own, as a function."""
        return loss or base.loss_function(self.loss)

    def _per_image(self, value, x):
        """`value` (the attack's epsilon if None) in a shape that fits `x`."""
        if value is None:
            return self.epsilon
        value = ops.cast(value, "float32")
        return gradients.per_image(value, x) if len(value.shape) else value

    def check_classes(self, num_classes):
        super().check_classes(num_classes)
        arguments.check_dlr(self.loss, num_classes)

    def get_config(self):
        return {
            **super().get_config(),
            "steps": self.steps,
            "step_size": self.step_size,
            "random_start": self.random_start,
            "loss": self.loss,
            "restarts": self.restarts,
        }


@keras.saving.register_keras_serializable(package="keras_robustlt")
class FGSM(PGD):
    """Fast gradient sign method: one step of the length of the budget.

    Args:
        epsilon: Float, in pixel units of images in `[0, 1]`. Defaults to
            `8 / 255`, and in the norm `"l2"` to `128 / 255`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.
        random_start: Boolean. Defaults to `False`.
        loss: See `PGD`. Defaults to `"cross_entropy"`.

    Example:

    >>> x_adv = krl.attacks.FGSM(epsilon=8 / 255)(network, x, y)

    Reference:
        Goodfellow et al., "Explaining and Harnessing Adversarial Examples", 2015,
        section 4.
    """

    def __init__(
        self, epsilon=None, norm="linf", random_start=False, loss="cross_entropy"
    ):
        epsilon = norms.epsilon(epsilon, norm)
        super().__init__(
            epsilon,
            steps=1,
            step_size=epsilon,
            norm=norm,
            random_start=random_start,
            loss=loss,
        )

    def get_config(self):
        config = super().get_config()
        fixed = ("steps", "step_size", "restarts")
        return {key: value for key, value in config.items() if key not in fixed}


def _another_seed(seed, number):
    """Integers start all over at each use; generators go on by themselves."""
    if not isinstance(seed, int):
        return seed
    return int(np.random.SeedSequence([seed, number]).generate_state(1)[0] >> 1)
