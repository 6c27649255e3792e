"""What an attack is."""

import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.attacks import gradients, norms
from keras_robustlt.configurable import Configurable, is_of_this_package

# What projections into the ball change by themselves, in float32.
ROUNDING = 5e-7
# What an attack is taken to be that is no `Attack`, where it does not say.
TRAITS = {
    "norm": "linf",
    "runs_compiled": True,
    "reach": 1.0,
    "starts_within": "base",
    "restarts": 1,
    "loss": "cross_entropy",
    "variables": (),
}
LOSSES = {
    "cross_entropy": losses.cross_entropy,
    "dlr": losses.dlr,
    "margin": losses.margin,
}


class Attack(Configurable):
    """What an adversary does to images, within a ball around each of them.

    A subclass is complete with `__call__`. One with a constructor of its own is saved
    with what that was called with, or with what its `get_config` says.

    Args:
        epsilon: Float. Radius of the ball, in pixel units of images in `[0, 1]`.
        norm: `"linf"` or `"l2"`. Defaults to `"linf"`.

    Attributes:
        runs_compiled: Boolean. Whether the attack is one computation, that can be part
            of a compiled step such as that of a `RobustLTModel`. Attacks that decide
            on the host what to compute next cannot. Defaults to `False`.
        reach: Float. How far from an image its results may be, in units of `epsilon`.
            Above 1 it is an attack to train with, and evaluation refuses it. Defaults
            to `1`.
        starts_within: In which ball training starts it: `"base"`, that of the base
            budget, `"own"`, that of the image's own, or `"mean"`, that of the mean of
            the classes' budgets. Defaults to `"base"`.

    Example:

    >>> class Brighter(krl.attacks.Attack):
    ...     runs_compiled = True
    ...
    ...     def __call__(self, network, x, y, epsilon=None, seed=None):
    ...         return keras.ops.clip(x + (epsilon or self.epsilon), 0.0, 1.0)
    >>> Brighter(0.1)
    Brighter(epsilon=0.1, norm='linf')
    >>> x_adv = Brighter(0.1)(network, x, y)
    """

    runs_compiled = False
    reach = 1.0
    starts_within = "base"
    # The steps of most attacks are made from these.
    _fixed = ("epsilon", "norm")

    def __init__(self, epsilon, norm="linf"):
        self._norm = norms.get(norm)
        self.norm = norm
        self.epsilon = norms.epsilon(epsilon, norm)

    def __setattr__(self, name, value):
        # A class of one's own may have another norm than that it began with.
        fixed = self._fixed if is_of_this_package(type(self)) else ("epsilon",)
        if name in fixed and value != vars(self).get(name, value):
            raise AttributeError(
                f"`{name}` of {self!r} is what it was made with. Make a new "
                f"{type(self).__name__}; a call takes another epsilon: attack(network, "
                f"x, y, epsilon=...). Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def __call__(self, network, x, y, epsilon=None, seed=None):
        """Adversarial examples for the images `x`.

        Args:
            network: A Keras model that gives logits, or a function of a batch of
                images that does.
            x: Float array or tensor of shape `(examples, ...)`, images in `[0, 1]`.
            y: Labels, integers `(examples,)` or one-hot `(examples, num_classes)`.
            epsilon: Float or array of shape `(examples,)`: another budget than the
                attack's own, the same for all images or one for each.
            seed: Integer or `keras.random.SeedGenerator`. Seed of all that is random.

        Returns:
            A float32 tensor of the shape of `x`, in the ball and in `[0, 1]`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `__call__`.")

    def build(self, model):
        """Prepares what depends on the model that is trained with the attack.

        Called once, with the `RobustLTModel`. An attack with state makes it here, with
        `model.add_weight(...)`.
        """

    def update(self, x, x_adv, epsilon):
        """Takes in what it gave in a training step, inside the compiled graph.

        Args:
            x: Float32 tensor of shape `(batch, ...)`, the images.
            x_adv: Float32 tensor of the same shape, what training goes on with.
            epsilon: Float32 tensor of shape `(batch,)`, their budgets.
        """

    @property
    def variables(self):
        """What of a model's variables `build` has made: a list."""
        return []

    def check_classes(self, num_classes):
        """Raises a ValueError if the attack needs another number of classes.

        Args:
            num_classes: Integer. The number of logits of the network.
        """
        if num_classes < 2:
            raise ValueError(
                "`network` must give a logit for each of at least 2 classes: for a "
                "yes or no, end it in Dense(2) and label the images 0 and 1. "
                f"Received: {num_classes} output(s)"
            )

    def check_image_shape(self, shape):
        """Raises a ValueError if the attack needs images of another shape.

        Args:
            shape: Tuple of integers, the shape of one image.
        """

    def get_config(self):
        return {"epsilon": self.epsilon, "norm": self.norm}


def trait(attack, name):
    """What an attack says of itself by an attribute, or what is taken for it.

    Args:
        attack: The attack, of any kind.
        name: String, one of `TRAITS`.
    """
    return getattr(attack, name, TRAITS[name])


def images_from(attack, method, value, x):
    """What a method of an attack gives, as float32, if it is as many images as `x`."""
    name = f"{method} of {type(attack).__name__}"
    value = checks.floats(name, value, tuple(x.shape), like="x")
    if is_of_this_package(type(attack)):
        return value
    message = f"`{name}` must give as many images as `x` has."
    return backend.as_many(value, x, message)


def moved(x, x_adv, start, epsilon, attack):
    """Which images an attack has moved from where it started.

    Args:
        x: Float32 tensor of shape `(batch, ...)`, the images.
        x_adv: Float32 tensor of the same shape, what the attack made of them.
        start: Float32 tensor of the same shape, where it started.
        epsilon: Float32 tensor of shape `(batch,)`, their budgets.
        attack: The attack.

    Returns:
        A float32 tensor of shape `(batch,)`: 1 for each image that is not where it
        started, 0 for others, and -1 for those without a budget, or with one too small
        to tell.
    """
    per_pixel = gradients.per_image(epsilon, x)
    # A step that leads nowhere still brings the start into the image's own ball.
    norm = norms.get(trait(attack, "norm"))
    project = getattr(attack, "project", norm.project)
    stays = ops.clip(x + project(start - x, per_pixel), 0.0, 1.0)
    distance = ops.max(ops.abs(x_adv - stays), axis=range(1, len(x.shape)))
    changed = ops.cast(distance > ROUNDING, "float32")
    return ops.where(epsilon > 200 * ROUNDING, changed, -1.0)


def outside(x, x_adv, epsilon, attack):
    """By how much what an attack returns is not what it may be.

    Args:
        x: Float32 tensor of shape `(batch, ...)`, the images.
        x_adv: Float32 tensor of the same shape, what the attack made of them.
        epsilon: Float32 tensor of shape `(batch,)`, their budgets.
        attack: The attack.

    Returns:
        A float32 tensor of shape `(batch,)`: how far each image is from the ball, or a
        pixel from `[0, 1]`; infinite for images that are no numbers.
    """
    norm = norms.get(trait(attack, "norm"))
    radius = trait(attack, "reach") * epsilon
    distance = ops.reshape(norm.length(x_adv - x), (-1,)) - radius
    pixels = ops.reshape(ops.maximum(x_adv - 1.0, -x_adv), (ops.shape(x)[0], -1))
    excess = ops.maximum(distance, ops.max(pixels, axis=1))
    return ops.where(ops.isfinite(excess), ops.maximum(excess, 0.0), np.inf)


def share_used(x, x_adv, epsilon, attack):
    """Which share of its budget an attack uses for some image of a batch.

    Args:
        x: Float32 tensor of shape `(batch, ...)`, the images.
        x_adv: Float32 tensor of the same shape, what the attack made of them.
        epsilon: Float32 tensor of shape `(batch,)`, their budgets.
        attack: The attack.

    Returns:
        A float32 scalar tensor, 1 where no image has a budget.
    """
    norm = trait(attack, "norm")
    length = ops.reshape(norms.get(norm).length(x_adv - x), (-1,))
    # Of a large Linf budget those pixels that are bright or dark cannot use all.
    most = ops.minimum(epsilon, 0.5) if norm == "linf" else epsilon
    has_budget = epsilon > 200 * ROUNDING
    shares = ops.where(has_budget, length / ops.maximum(most, ROUNDING), 0.0)
    return ops.where(ops.any(has_budget), ops.max(shares), 1.0)


def budget_of_start(attack, base, class_epsilon, own):
    """The budget in whose ball training starts an attack.

    Args:
        attack: The attack.
        base: Float, the base budget.
        class_epsilon: Float32 tensor of shape `(num_classes,)`, those of the classes.
        own: Float32 tensor of shape `(batch,)`, those of the images.

    Returns:
        One of them, or the mean of the classes'.
    """
    budgets = {"base": base, "own": own, "mean": ops.mean(class_epsilon)}
    within = trait(attack, "starts_within")
    return budgets[checks.one_of("starts_within", within, tuple(budgets))]


def is_called_as(attack, kind):
    """Whether to call `attack` is what the class `kind` says, and no subclass else.

    Only then are the methods that `kind` calls, one by one, the attack.
    """
    return isinstance(attack, kind) and type(attack).__call__ is kind.__call__


def loss_function(loss):
    """`loss`, a name or a function, as a function of `(targets, logits)`."""
    return losses.of_targets(loss) if callable(loss) else LOSSES[loss]
