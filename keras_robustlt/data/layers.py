"""Augmentation by layers of Keras and keras-cv, and by functions.

What such a layer does to a batch is to be a function of the batch and of a seed, as
everything in a training that can be interrupted: so it does not draw from the state
that it has, but from numbers that follow from the seed of the batch. `Seeds` gives
them where the layer runs on the backend of Keras, and `HostSeeds` inside `tf.data`,
where layers of keras-cv draw in loops of TensorFlow and by functions of `tf.random`.
"""

import contextlib
import functools
import importlib
import inspect
import random

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.data.augmentation import KERAS_CV

# Layers that mix images, and their labels with them.
MIXES = {"CutMix", "FourierMix", "MixUp", "Mosaic"}
# By which a layer of one's own changes labels.
CHANGES_LABELS = {
    "_batch_augment",
    "augment_label",
    "augment_labels",
    "augment_target",
    "augment_targets",
    "transform_labels",
}
# Interpolation overshoots a little; a layer for pixels from 0 to 255 goes far beyond.
LOW, HIGH = -1.0, 2.0
# Noise makes fewer pixels negative.
MOST_BELOW = 0.4
# So many grey images show whether their order stays.
ORDERED = 4


class Seeds(keras.random.SeedGenerator):
    """Seeds of one batch, one after another, that follow from that of the batch.

    Args:
        seed: Two integers, a tensor or an array.
    """

    def __init__(self, seed):
        # No state of Keras's: it would be one more variable.
        self._seed, self._count = seed, 0

    def next(self, ordered=True):
        self._count += 1
        return ops.add(self._seed, ops.cast([self._count, 0], self._seed.dtype))


class HostSeeds(keras.random.SeedGenerator):
    """The same inside `tf.data`, and with the methods of a `tf.random.Generator`.

    In a loop the numbers of one turn must not be those of the next, so the count is
    kept in a resource, which each call of the function has for itself.

    Args:
        seed: int64 tensor of shape `(2,)`.
    """

    SCOPE = "seeds_of_a_batch"

    def __init__(self, seed):
        import tensorflow as tf

        self._tf, self._seed = tf, seed
        with tf.name_scope(self.SCOPE):
            self._count = tf.raw_ops.VarHandleOp(
                dtype=tf.int64, shape=(), shared_name=ANONYMOUS
            )
            self._assign("AssignVariableOp", 0)

    def next(self, ordered=True):
        tf = self._tf
        with tf.name_scope(self.SCOPE):
            count = tf.raw_ops.ReadVariableOp(resource=self._count, dtype=tf.int64)
            with tf.control_dependencies([count]):
                self._assign("AssignAddVariableOp", 1)
        return tf.random.experimental.stateless_fold_in(self._seed, count)

    def _assign(self, operation, value):
        value = self._tf.constant(value, self._tf.int64)
        getattr(self._tf.raw_ops, operation)(resource=self._count, value=value)

    # As `tf.random` has them; their own seeds have no meaning here.

    def uniform(self, shape, minval=0, maxval=None, dtype="float32", **_):
        return self._tf.random.stateless_uniform(
            shape, self.next(), minval, maxval, self._tf.as_dtype(dtype)
        )

    def normal(self, shape, mean=0.0, stddev=1.0, dtype="float32", **_):
        return self._tf.random.stateless_normal(
            shape, self.next(), mean, stddev, self._tf.as_dtype(dtype)
        )

    def gamma(self, shape, alpha, beta=None, dtype="float32", **_):
        tf = self._tf
        alpha = tf.convert_to_tensor(alpha, dtype)
        shape = tf.concat([tf.cast(shape, tf.int32), tf.shape(alpha)], axis=0)
        return tf.random.stateless_gamma(shape, self.next(), alpha, beta, alpha.dtype)

    def shuffle(self, value, **_):
        return self._tf.random.experimental.stateless_shuffle(value, self.next())


# By which TensorFlow knows a resource that no other call shares.
ANONYMOUS = "cd2c89b7-88b7-44c8-ad83-06c2a9158347"


class LayerAugmentation:
    """A layer or a function as an augmentation of batches.

    Args:
        layer: A `keras.layers.Layer`, of Keras, keras-cv or one's own, or a function:
            `function(images)`, with `labels` and `seed` as further arguments if it has
            parameters of these names.
        name: String. What messages call it. Defaults to what `layer` is.

    Attributes:
        mixes_labels: Boolean. Whether it changes labels too, which are then soft.

    Raises:
        ValueError: If it is neither, or is for other images than those in `[0, 1]`.
    """

    def __init__(self, layer, name=None):
        self.layer, self.name = layer, name or _name(layer)
        self._parts, self._takes = [], set()
        if isinstance(layer, keras.layers.Layer):
            self._parts = list(layer._flatten_layers())
            self.mixes_labels = any(map(_mixes, self._parts))
            self._check_value_range(layer)
            if "training" in inspect.signature(layer.call).parameters:
                self.layer = functools.partial(layer, training=True)
        else:
            self._takes = _parameters(self.name, layer)
            self.mixes_labels = "labels" in self._takes

    def __repr__(self):
        return self.name

    def _check_value_range(self, layer):
        values = getattr(layer, "value_range", None)
        if values is None:
            for part in layer._flatten_layers(include_self=False, recursive=False):
                self._check_value_range(part)
        elif tuple(map(float, values)) != (0.0, 1.0):
            raise ValueError(
                f"`augmentation` gets images in [0, 1], and {self.name} is for others: "
                f"make {type(layer).__name__} with value_range=(0, 1). "
                f"Received: value_range={tuple(values)}"
            )

    @property
    def is_function(self):
        return not self._parts

    @property
    def of_keras_cv(self):
        """Whether it runs on TensorFlow alone."""
        return any(map(_of_keras_cv, self._parts))

    def description(self):
        """What tells it from others, as JSON can hold it."""
        if not self._parts:
            return self.name
        layer = self._parts[0]
        try:
            return _without_names(keras.saving.serialize_keras_object(layer))
        except (NotImplementedError, TypeError, ValueError):
            return self.name  # a layer of one's own without a configuration

    def __call__(self, images, targets, seed):
        """Augments a batch on the backend of Keras.

        Args:
            images: Float tensor `(batch, height, width, channels)` in `[0, 1]`.
            targets: Float tensor `(batch, num_classes)`, one-hot labels.
            seed: Two integers, which decide what happens.

        Returns:
            A pair of float32 tensors: images of the same shape, which may leave
            `[0, 1]` a little, and targets.
        """
        images, targets, seed = map(ops.convert_to_tensor, (images, targets, seed))
        if not all(part.built for part in self._parts):
            # What builds them draws as well.
            self._augmented(images, targets, Seeds(seed))
        augmented, mixed = self._augmented(images, targets, Seeds(seed))
        augmented = ops.cast(augmented, "float32")
        self._check_shape(images, augmented)
        self._check_shape(targets, mixed, "labels")
        return augmented, ops.cast(mixed, "float32")

    def on_host(self, image_shape, num_classes):
        """The same for `tf.data`, as a compiled function of tensors of TensorFlow."""
        import tensorflow as tf

        def augment(images, targets, seed):
            seeds = HostSeeds(seed)
            with _drawing_from(seeds, self._parts):
                augmented, mixed = self._augmented(images, targets, seeds)
            augmented = tf.cast(augmented, tf.float32)
            self._check_shape(images, augmented)
            self._check_shape(targets, mixed, "labels")
            mixed = tf.ensure_shape(tf.cast(mixed, tf.float32), (None, num_classes))
            return tf.ensure_shape(augmented, images.shape), mixed

        signature = (
            tf.TensorSpec((None, *image_shape), tf.float32),
            tf.TensorSpec((None, num_classes), tf.float32),
            tf.TensorSpec((2,), tf.int64),
        )
        # Layers of keras-cv leave conditions and loops to AutoGraph.
        function = tf.function(augment, signature, autograph=self.of_keras_cv)
        return function.get_concrete_function()

    def try_on(self, images, labels, num_classes):
        """Raises if what it makes of images and integer labels, arrays, is none."""
        targets = np.eye(num_classes, dtype="float32")[labels]
        seed = keras.random.SeedGenerator(0).next()
        first, mixed = map(ops.convert_to_numpy, self(images, targets, seed))
        again = ops.convert_to_numpy(self(images, targets, seed)[0])
        self.check_values(first)
        self.check_targets(mixed, len(images))
        self.check_repeats(first, again)
        self.check_order(
            lambda *batch: self(*batch, seed)[0], images.shape[1:], num_classes
        )
        self.check_not_divided(images, first)
        below = float(np.mean(first < 0)) if first.size else 0.0
        if below > MOST_BELOW:
            raise ValueError(
                f"`augmentation` must give images in [0, 1], and {self.name} makes "
                f"{below:.0%} of the pixels negative, which would be black. Normalise "
                "inside the network."
            )

    def check_not_divided(self, images, augmented):
        """Raises if images in [0, 1] were taken for images from 0 to 255."""
        if not images.size or images.max() < 0.1:
            return  # as good as black already
        if 255 * augmented.max() / images.max() < 2:
            raise ValueError(
                "`augmentation` gets images in [0, 1], and what it makes of some that "
                f"reach {images.max():.4g} is black: none of its pixels is above "
                f"{augmented.max():.4g}. Leave a division by 255 out of {self.name}, "
                "or whatever makes them black"
            )

    def check_order(self, augment, image_shape, num_classes):
        """Raises if it changes the order of the images, and leaves their labels.

        Args:
            augment: Function of images and one-hot labels, arrays, that gives what it
                makes of the images.
            image_shape: Tuple of integers.
            num_classes: Integer.
        """
        grey = np.linspace(0.15, 0.75, ORDERED, dtype="float32")
        images = np.ones((ORDERED, *image_shape), "float32")
        images *= grey.reshape(-1, *(1 for _ in image_shape))
        targets = np.eye(num_classes, dtype="float32")[np.arange(ORDERED) % num_classes]
        augmented = ops.convert_to_numpy(augment(images, targets))
        if len(augmented) != ORDERED:
            raise ValueError(
                f"`augmentation` must give as many images as it gets, {ORDERED}. "
                f"Received from {self.name}: {len(augmented)}"
            )
        if self.mixes_labels:
            return
        # What only turns or cuts an image leaves it as grey as it was.
        levels = augmented.reshape(ORDERED, -1)
        is_plain = np.all(levels == levels[:, :1])
        same = is_plain and np.array_equal(np.sort(levels[:, 0]), grey)
        if same and not np.array_equal(levels[:, 0], grey):
            raise ValueError(
                f"`augmentation` must give images in the order that it gets, as their "
                f"labels stay where they are, and {self.name} changes it. The first "
                "axis is that of the batch: turn images along the others."
            )

    def check_repeats(self, images, again):
        """Raises if images that it made twice, with one seed, differ."""
        if np.any(images != again):
            self._refuse_draws()

    def _refuse_draws(self):
        raise ValueError(
            f"`augmentation`: {self.name} draws random numbers of its own, perhaps "
            "once for all batches where it is compiled, and others after an "
            "interruption. A function has to draw from its argument `seed`, such as "
            "keras.random.uniform(shape, seed=seed)."
        )

    def _augmented(self, images, targets, seeds):
        before = _python_generators()
        augmented = self._called(images, targets, seeds)
        if _python_generators() != before:
            self._refuse_draws()
        return augmented

    def _called(self, images, targets, seeds):
        if not self._parts:
            given = {"labels": targets, "seed": seeds}
            given = {name: given[name] for name in self._takes & given.keys()}
            try:
                result = self.layer(images, **given)
            except NotImplementedError as error:  # of TensorFlow, about NumPy
                self._refuse_numpy(str(error))
            except TypeError as error:
                if "seed" not in given:
                    raise
                raise ValueError(
                    f"`augmentation`: {self.name} gets as `seed` a "
                    "keras.random.SeedGenerator, for keras.random.uniform(shape, "
                    "seed=seed) and the like; seed.next() is what functions of "
                    f"tf.random and tf.image take that are stateless. It fails: {error}"
                ) from error
            if not self.mixes_labels:
                self._check_tensor(result)
                return result, targets
            if not isinstance(result, (tuple, list)) or len(result) != 2:
                raise ValueError(
                    "`augmentation` that takes `labels` must give images and labels, a "
                    f"pair. Received a {type(result).__name__} from {self.name}"
                )
            self._check_tensor(result[0])
            self._check_tensor(result[1])
            return result
        with _seeded_by(seeds, self._parts):
            if not self.mixes_labels:
                return self.layer(images), targets
            result = self.layer({"images": images, "labels": targets})
            return result["images"], result["labels"]

    def _check_tensor(self, images):
        if isinstance(images, np.ndarray) or not hasattr(images, "shape"):
            self._refuse_numpy(f"a {type(images).__name__}")
        if "complex" in str(images.dtype):
            self._refuse_numpy(f"complex numbers, {images.dtype}")

    def _refuse_numpy(self, received):
        raise ValueError(
            "`augmentation` must give tensors of numbers, computed with the backend as "
            "keras.ops does, and not with NumPy: it is compiled. Received from "
            f"{self.name}: {received}"
        )

    def _check_shape(self, images, augmented, what="images"):
        received, fits = "an unknown shape", False  # not even its length is known
        if getattr(augmented.shape, "rank", 0) is not None:
            received, wanted = tuple(augmented.shape[1:]), tuple(images.shape[1:])
            known = what == "labels" and len(received) == len(wanted)
            fits = received == wanted or known and set(received) == {None}
        if not fits:
            raise ValueError(
                f"`augmentation` must give {what} of the shape that it gets, "
                f"{tuple(images.shape[1:])}. Received from {self.name}: {received}"
            )

    def check_targets(self, targets, num_images):
        """Raises if `targets` that it made, an array, are no soft labels."""
        fits = len(targets) == num_images and np.all(targets >= 0)
        if not fits or not np.allclose(targets.sum(axis=1), 1, atol=1e-3):
            raise ValueError(
                "`augmentation` must give labels as it gets them: for each of "
                f"{num_images} images a row of numbers of at least 0 that sum to 1. "
                f"Received from {self.name}: {len(targets)} rows, the first of them "
                f"{targets[:1].tolist()}"
            )

    def check_values(self, images):
        """Raises if `images` that it made, an array, are none in `[0, 1]`."""
        if not np.isfinite(images).all():
            raise ValueError(
                f"`augmentation` must give images, and {self.name} makes pixels that "
                "are not a number (NaN) or infinite."
            )
        if images.size and not LOW <= images.min() <= images.max() <= HIGH:
            raise ValueError(
                "`augmentation` gets images in [0, 1] and must give such. Received "
                f"values from {images.min():.4g} to {images.max():.4g} from {self.name}"
            )


def get(augmentation):
    """A `LayerAugmentation` from a name of `KERAS_CV`, a layer or a function.

    Raises:
        ImportError: If it is of keras-cv, which cannot be imported.
        ValueError: If it is none of these.
    """
    if not isinstance(augmentation, str):
        checks.no_class("augmentation", augmentation)
        return LayerAugmentation(augmentation)
    kind = KERAS_CV[augmentation]
    try:
        keras_cv = importlib.import_module("keras_cv")
    except ImportError as error:
        raise ImportError(
            f"{augmentation!r} is a layer of keras-cv, which needs TensorFlow, and "
            f"cannot be imported ({error}). Install both with: pip "
            "install tensorflow keras-cv"
        ) from error
    options = {"value_range": (0, 1)} if kind == "AugMix" else {}
    layer = getattr(keras_cv.layers, kind)(dtype="float32", **options)
    return LayerAugmentation(layer, f"{augmentation!r} of keras-cv")


def _name(layer):
    if isinstance(layer, keras.layers.Layer):
        return f"the layer {type(layer).__name__}"
    if isinstance(layer, functools.partial):
        return _name(layer.func)
    kind = layer if hasattr(layer, "__qualname__") else type(layer)
    return f"{kind.__module__}.{kind.__qualname__}"


def _python_generators():
    """The states of the generators that Python and NumPy have in common for all."""
    _, keys, position, *_ = np.random.get_state()
    return random.getstate(), keys.tobytes(), position


def _of_keras_cv(layer):
    """Whether a layer derives from one of keras-cv."""
    return hasattr(layer, "_random_generator")


def _mixes(layer):
    """Whether a layer changes labels, or may: one of one's own that says how."""
    return any(
        kind.__name__ in MIXES
        or not kind.__module__.startswith(("keras.", "keras_cv."))
        and CHANGES_LABELS & vars(kind).keys()
        for kind in type(layer).__mro__
    )


def _parameters(name, function):
    """The names of what a function takes."""
    if not callable(function):
        raise ValueError(
            "`augmentation` must be a name, a Keras layer or a function of images. "
            f"Received: augmentation={function!r}"
        )
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):  # a built-in function
        return set()
    lacking = [
        parameter.name
        for parameter in parameters[1:]
        if parameter.default is parameter.empty
        and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
        and parameter.name not in ("labels", "seed")
    ]
    no_images = not parameters or parameters[0].kind is parameters[0].KEYWORD_ONLY
    if no_images or lacking:
        raise ValueError(
            "`augmentation` must be a function of images, and, if it likes, of "
            f"`labels` and `seed`. Received: {name}{inspect.signature(function)}"
        )
    return {parameter.name for parameter in parameters[1:]}


def _without_names(config):
    """A configuration without the names of layers, which count the layers made."""
    if isinstance(config, dict):
        return {k: _without_names(v) for k, v in config.items() if k != "name"}
    if isinstance(config, (list, tuple)):
        return [_without_names(value) for value in config]
    return config


@contextlib.contextmanager
def _replaced(owner, **values):
    """Has other attributes in an object or a module for a while."""
    attributes = vars(owner)
    before = {name: attributes[name] for name in values if name in attributes}
    # Not by setattr, by which Keras keeps account of what a layer has.
    attributes.update(values)
    try:
        yield
    finally:
        for name in values:
            del attributes[name]
        attributes.update(before)


@contextlib.contextmanager
def _seeded_by(seeds, layers):
    """Keras's generators inside of layers give `seeds` in place of their own."""
    with contextlib.ExitStack() as stack:
        for layer in layers:
            for generator in layer._seed_generators:
                stack.enter_context(_replaced(generator, next=seeds.next))
            if hasattr(layer, "_get_seed_generator"):  # has others, for `tf.data`
                stack.enter_context(
                    _replaced(layer, _get_seed_generator=lambda backend=None: seeds)
                )
        yield


@contextlib.contextmanager
def _drawing_from(seeds, layers):
    """What keras-cv draws in the graph that is now made follows from `seeds`.

    Its layers have generators of TensorFlow and call functions of `tf.random`. Turns
    of a loop draw in their order, one image after the other.
    """
    of_keras_cv = list(filter(_of_keras_cv, layers))
    with contextlib.ExitStack() as stack:
        for layer in of_keras_cv:
            own = {"_random_generator": seeds, "_auto_vectorize": False}
            stack.enter_context(_replaced(layer, **own))
        if of_keras_cv:
            import tensorflow as tf

            names = "gamma", "normal", "shuffle", "uniform"
            functions = {name: getattr(seeds, name) for name in names}
            stack.enter_context(_replaced(tf.random, **functions))
            in_order = {
                name: functools.partial(getattr(tf, name), parallel_iterations=1)
                for name in ("map_fn", "while_loop")
            }
            stack.enter_context(_replaced(tf, **in_order))
        yield
