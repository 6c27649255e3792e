"""Attacks that drop images once they are fooled: NumPy outside, compiled code inside.

Which images an attack still works on changes while it runs. So its state lives in
NumPy arrays; every few steps those of the images that are left go through a compiled
function in full batches. All that is random about an image is drawn from the seed and
the image itself, so that neither the batches nor the order of the images matter.
"""

import math
import operator
import zlib

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks, losses
from keras_robustlt.attacks import arguments
from keras_robustlt.attacks.base import Attack
from keras_robustlt.attacks.gradients import logits_of

# In the place of a class, where a network gives logits that are no finite numbers.
NO_CLASS = -1


class ActiveSetAttack(Attack):
    """Restarts and targets, each on the images that are still classified right.

    A subclass gives `_compile(network)`, a dictionary of what it calls with a batch,
    and `_attempt`, one run on some images.
    """

    def __init__(self, epsilon, norm, restarts, batch_size):
        super().__init__(epsilon, norm)
        self.restarts = checks.positive_integer("restarts", restarts)
        self.batch_size = checks.positive_integer("batch_size", batch_size)
        self._compiled_for = (None, None)

    def __call__(self, network, x, y, epsilon=None, seed=None):
        """Adversarial examples for the images `x`.

        Args:
            network: A Keras model that gives logits, or a function of a batch of
                images that does.
            x: Float array or tensor of shape `(examples, ...)`, images in `[0, 1]`.
            y: Labels, integers `(examples,)` or one-hot `(examples, num_classes)`.
            epsilon: Float or array of shape `(examples,)`: another budget than the
                attack's own, the same for all images or one for each.
            seed: Integer or `keras.random.SeedGenerator`. The same seed gives an image
                the same result, whatever images come with it. Defaults to `None`,
                which draws it from `keras.utils.set_random_seed`.

        Returns:
            A float32 tensor of the shape of `x`, in the ball and in `[0, 1]`. Images
            that the network gets wrong as they are, or that the attack does not fool
            it with, are returned as they are.

        Raises:
            ValueError: If images or labels are out of range, or the network has too
                few classes for the attack.
        """
        problem = self._problem(network, x, y, epsilon, seed)
        arguments.warn_of_no_numbers(problem.logits)
        x_adv = problem.image.copy()
        left = classes(problem.logits) == problem.label
        for trial, target_class in enumerate(self._target_classes(problem.logits)):
            active = np.flatnonzero(left)
            if not active.size:
                break
            targets = None if target_class is None else target_class[active]
            found, fooled = self._attempt(problem.of(active), targets, trial)
            x_adv[active[fooled]] = found[fooled]
            left[active[fooled]] = False
        return ops.convert_to_tensor(x_adv)

    def _target_classes(self, logits):
        """For each run the class to turn each image into, or None for any."""
        self.check_classes(logits.shape[1])
        return [None] * self.restarts

    def _problem(self, network, x, y, epsilon, seed):
        arguments.check_call(network, x, y, epsilon=epsilon)
        image = images_to_array(x, "x")
        checks.images(image)
        checks.image_shape(network, image.shape)
        self.check_image_shape(image.shape[1:])
        label = to_array(y, "y")
        if not len(image):
            raise ValueError("`x` has no images to attack.")
        if len(label) != len(image):
            raise ValueError(
                "`x` and `y` must have the same length. "
                f"Received: {len(image)} images and {len(label)} labels"
            )
        if isinstance(network, keras.Layer) and not network.built:
            network(image[:1])  # compiled code may not make variables
        functions = self._functions(network)
        logits = in_batches(functions["logits"], self.batch_size, image)
        self.check_classes(logits.shape[1])
        arguments.check_logits(logits, len(image))
        checks.labels(label, logits.shape[1])
        if checks.are_soft(label, logits.shape[1]):
            checks.refuse_soft_labels("`y` holds", "this attack is of one class.")
        if label.ndim == 2 and label.shape[1] == logits.shape[1] > 1:
            label = label.argmax(axis=1)
        return Problem(
            functions,
            image,
            label.reshape(-1).astype("int32"),
            self._epsilon_of_each(epsilon, image),
            logits,
            checks.integer_seed(seed),
        )

    def _epsilon_of_each(self, epsilon, image):
        """The budgets as an array of shape `(examples, 1, ...)`."""
        epsilon = self.epsilon if epsilon is None else to_array(epsilon, "epsilon")
        arguments.check_each("epsilon", epsilon, len(image))
        for value in (np.min(epsilon), np.max(epsilon)):
            checks.epsilon(float(value), self.norm)
        epsilon = np.broadcast_to(epsilon, len(image)).astype("float32")
        return epsilon.reshape((-1,) + (1,) * (image.ndim - 1))

    def _functions(self, network):
        """What `_compile` gives for the network, kept until another one comes."""
        if self._compiled_for[0] is network:
            return self._compiled_for[1]
        if isinstance(network, keras.Model):
            checks.logits_not_probabilities(network)
        functions = {"logits": compiled_logits(network), **self._compile(network)}
        # JAX would keep the weights that a plain function has at its first call.
        if isinstance(network, keras.Layer):
            self._compiled_for = (network, functions)
        return functions

    def get_config(self):
        return {
            **super().get_config(),
            "restarts": self.restarts,
            "batch_size": self.batch_size,
        }


class TargetedAttack(ActiveSetAttack):
    """An attack that goes for one class after the other, the likeliest first."""

    def __init__(self, epsilon, norm, targets, restarts, batch_size):
        super().__init__(epsilon, norm, restarts, batch_size)
        if targets is not None:
            targets = checks.positive_integer("targets", targets)
        self.targets = targets

    def _target_classes(self, logits):
        untargeted = super()._target_classes(logits)
        if self.targets is None:
            return untargeted
        # The first is the class that the network chooses: the right one.
        ranked = np.argsort(-logits, axis=1, kind="stable")[:, 1 : self.targets + 1]
        return [target for target in ranked.T.astype("int32") for _ in untargeted]

    def get_config(self):
        return {**super().get_config(), "targets": self.targets}


class Problem:
    """Images with their labels and budgets, as arrays, and the network's functions."""

    def __init__(self, functions, image, label, epsilon, logits, seed):
        self.functions = functions
        self.image = image
        self.label = label
        self.epsilon = epsilon
        self.logits = logits
        self.seed = seed

    def of(self, which):
        """The same of the images with the indices `which`."""
        arrays = (self.image, self.label, self.epsilon, self.logits)
        return Problem(self.functions, *(a[which] for a in arrays), self.seed)

    def generators(self, trial):
        """A NumPy generator for each image, and one that all share."""
        of_images = [
            np.random.default_rng([self.seed, trial, zlib.crc32(image.tobytes())])
            for image in self.image
        ]
        return of_images, np.random.default_rng([self.seed, trial])


class Loop:
    """`state = step(index, state)` for the indices of a range, compiled.

    `make_step(constants, shared)`, called inside of the compiled code, gives the step.
    States and constants are dictionaries of arrays with an entry for each image,
    `shared` is one of arrays that all images share.
    """

    def __init__(self, network, make_step):
        # Where loops are slow one step is compiled and the host loops over it.
        self._unrolled = backend.control_flow_is_slow()

        def run(first, last, state, constants, shared):
            step = make_step(constants, shared)
            if self._unrolled:
                return step(first, state)
            return ops.fori_loop(first, last, step, state)

        self._run = backend.compiled(run, variables_of(network))

    def __call__(self, first, last, state, constants, shared):
        # Integers of Python would be compiled for one by one.
        if not self._unrolled:
            return self._run(np.int32(first), np.int32(last), state, constants, shared)
        state, constants, shared = keras.tree.map_structure(
            ops.convert_to_tensor, (state, constants, shared)
        )
        for index in range(first, last):
            state = self._run(np.int32(index), np.int32(last), state, constants, shared)
        return state

    def advance(self, first, last, state, constants, shared, batch_size):
        """The same for any number of images, in batches; changes `state`."""

        def run(state, constants):
            return self(first, last, state, constants, shared)

        state.update(in_batches(run, batch_size, state, constants))


def in_batches(function, batch_size, *arguments):
    """`function` of dictionaries of arrays, or of arrays, a batch at a time.

    A last batch that is not full is filled up to one of a few sizes where each size
    is compiled for.
    """
    tree_map = keras.tree.map_structure
    count = len(keras.tree.flatten(arguments)[0])
    if count <= batch_size and padded_size(count, batch_size) == count:
        return tree_map(ops.convert_to_numpy, function(*arguments))
    results = []
    for first in range(0, count, batch_size):
        size = min(batch_size, count - first)
        index = first + np.arange(padded_size(size, batch_size)) % size
        result = function(*tree_map(operator.itemgetter(index), arguments))
        results.append(tree_map(lambda t, n=size: ops.convert_to_numpy(t)[:n], result))
    return tree_map(lambda *parts: np.concatenate(parts), *results)


def kept(keep, *dictionaries):
    """The entries of the images to keep, of arrays with an entry for each image."""
    if keep.all():
        return dictionaries
    return [{key: a[keep] for key, a in arrays.items()} for arrays in dictionaries]


def padded_size(count, batch_size):
    """The size of the batch in which `count` images are computed."""
    if not backend.shapes_are_static():
        return count
    # Few sizes, for each is compiled for; and few images computed for nothing.
    sizes = (math.ceil(batch_size / 16), math.ceil(batch_size / 4), batch_size)
    return next(size for size in sizes if size >= count)


def compiled_logits(network):
    return backend.compiled(lambda x: logits_of(network)(x), variables_of(network))


def classes(logits):
    """The class of each image, `NO_CLASS` where not all logits are finite numbers."""
    is_known = np.isfinite(logits).all(axis=1)
    return np.where(is_known, logits.argmax(axis=1), NO_CLASS)


def misclassified(logits, label):
    return ops.not_equal(ops.cast(ops.argmax(logits, axis=-1), "int32"), label)


def one_hot(label, logits):
    return losses.one_hot(label, logits.shape[-1])


def variables_of(network):
    return network.variables if isinstance(network, keras.Layer) else []


def images_to_array(x, name):
    """The argument `name`, images, as a float32 array where they are of such a kind."""
    x = to_array(x, name)
    # bfloat16 is no float of NumPy's; of what is none at all it is said later.
    return x if x.dtype.kind in "biucOUSM" else x.astype("float32")


def to_array(value, name):
    """The argument `name` as a NumPy array."""
    try:
        return np.array(ops.convert_to_numpy(value))
    except (NotImplementedError, TypeError) as error:
        raise ValueError(
            f"`{name}` must have values. This attack decides on the host what to "
            "compute next, so it cannot run inside of compiled code, such as the step "
            f"of a model: use PGD there. Received: {name}={value!r}"
        ) from error
