"""Attacks of other packages on a network of this one, or on any Keras classifier.

The Adversarial Robustness Toolbox (ART) and Foolbox see a network through an object of
theirs. The functions here make it: images in [0, 1], logits out, inference mode,
compiled, and with the gradients of the backend that Keras runs on. Both packages are
optional: `pip install adversarial-robustness-toolbox foolbox`.
"""

import functools
import importlib
import numbers

import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks
from keras_robustlt.attacks import active_set, arguments, base, gradients
from keras_robustlt.data.batches import arrays_of
from keras_robustlt.evaluation import inputs

__all__ = ["art_classifier", "foolbox_batch", "foolbox_model"]

# From the middle of the range, of pixels that an attack looks at.
FARTHEST = 1.0


def art_classifier(model, loss="cross_entropy", input_shape=None, batch_size=250):
    """A classifier for the attacks of the Adversarial Robustness Toolbox.

    It gives logits, the gradient of a loss and the gradients of single logits, all as
    NumPy arrays, on every backend. ART's attacks that need no more than that run on it:
    FGSM, PGD, Auto-PGD with `loss_type=None`, DeepFool, Carlini and Wagner, elastic
    net, Square, HopSkipJump, boundary and others. Attacks that ask for a classifier of
    one of ART's own frameworks do not: its AutoAttack with the default `attacks`, and
    Auto-PGD with a `loss_type` (give `loss` here instead).

    Args:
        model: A `RobustLTModel`, any Keras model or layer that gives logits, or a
            function of a batch of images that does.
        loss: What `loss_gradient` and `compute_loss` are of: `"cross_entropy"`,
            `"margin"`, `"dlr"`, or a function of `(targets, logits)` that gives one
            value for each example. Defaults to `"cross_entropy"`.
        input_shape: Tuple of integers, the shape of one image. Defaults to that of the
            model's input; needed where that is not known.
        batch_size: Integer. Images that are computed at once. Defaults to `250`.

    Returns:
        An `art.estimators.classification.classifier.ClassifierNeuralNetwork`.

    Raises:
        ImportError: If ART is not installed.
        ValueError: If an argument is out of range, or the model ends in a softmax.

    Example:

    ```
    classifier = krl.interop.art_classifier(model)
    attack = art.attacks.evasion.ProjectedGradientDescent(
        classifier, eps=8 / 255, eps_step=2 / 255, max_iter=20, verbose=False
    )
    x_adv = attack.generate(x, y)
    ```
    """
    network = inputs.network_of(model)
    loss = base.loss_function(arguments.check_loss(loss))
    batch_size = checks.positive_integer("batch_size", batch_size)
    input_shape = _input_shape(network, input_shape)
    arguments.check_output(network, input_shape)
    return _art_class()(network, loss, input_shape, batch_size)


def foolbox_model(model):
    """A model for the attacks of Foolbox, on TensorFlow and JAX.

    Args:
        model: See `art_classifier`.

    Returns:
        A `foolbox.TensorFlowModel` or `foolbox.JAXModel` with bounds `(0, 1)`.

    Raises:
        ImportError: If Foolbox is not installed.
        ValueError: If the model ends in a softmax, or Keras runs on another backend.

    Example:

    ```
    attacked = krl.interop.foolbox_model(model)
    images, labels = krl.interop.foolbox_batch(x, y)
    attack = foolbox.attacks.LinfPGD(abs_stepsize=2 / 255, steps=20)
    _, x_adv, is_fooled = attack(attacked, images, labels, epsilons=8 / 255)
    ```
    """
    name = keras.backend.backend()
    if name not in ("tensorflow", "jax"):
        raise ValueError(
            "`foolbox_model` needs the tensorflow or the jax backend of Keras. "
            f"Received: KERAS_BACKEND={name}"
        )
    foolbox = _imported("foolbox", "Foolbox")
    network = inputs.network_of(model)
    if not network.built:
        raise ValueError(
            "`model` must be built: call it on a batch of images first. "
            f"Received: model={model!r}"
        )
    arguments.check_output(network)
    logits = active_set.compiled_logits(network)
    if name == "jax":
        return foolbox.JAXModel(logits, bounds=(0, 1))
    # Foolbox would ask TensorFlow for the device in a deprecated way.
    device = "/GPU:0" if backend.on_accelerator() else "/CPU:0"
    return foolbox.TensorFlowModel(logits, bounds=(0, 1), device=device)


def foolbox_batch(x, y):
    """Images and labels as tensors of the types that Foolbox needs.

    Foolbox compares labels with the argmax of the logits. On TensorFlow that is int64,
    and where the labels are of another type Foolbox 3.3.4 calls a function that NumPy 2
    has no more.

    Args:
        x: Float array of shape `(examples, ...)`, images in `[0, 1]`.
        y: Integer labels of shape `(examples,)` or `(examples, 1)`.

    Returns:
        A pair of tensors: float32 of the shape of `x`, and integers `(examples,)`.

    Raises:
        ValueError: If the images are not in `[0, 1]` or the labels are no integers.

    Example:

    >>> images, labels = krl.interop.foolbox_batch(x, y)
    >>> tuple(images.shape), tuple(labels.shape)
    ((6, 4, 4, 1), (6,))
    """
    x, y = arrays_of(x, y)
    checks.images(x)
    if y.dtype.kind not in "iu" or y.size != len(x) or np.any(y < 0):
        raise ValueError(
            f"`y` must hold an integer label for each of {len(x)} images, from 0 on. "
            f"Received: shape {y.shape}, dtype {y.dtype}, {y.ravel()[:3].tolist()}..."
        )
    dtype = "int64" if keras.backend.backend() == "tensorflow" else "int32"
    return (
        ops.convert_to_tensor(x, "float32"),
        ops.convert_to_tensor(y.reshape(-1), dtype),
    )


def _input_shape(network, shape):
    if shape is None:
        shape = getattr(network, "input_shape", (None, None))[1:]
    sizes = shape if isinstance(shape, (tuple, list)) else [None]
    if not sizes or not all(
        isinstance(size, numbers.Integral) and size > 0 for size in sizes
    ):
        raise ValueError(
            "`input_shape` must be the shape of one image, such as (32, 32, 3), as the "
            f"model has no fixed one. Received: input_shape={shape!r}"
        )
    return tuple(int(size) for size in shape)


def _imported(module, title):
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ImportError(
            f"{title} is not installed, or does not work here ({error}). Install it "
            "with: pip install adversarial-robustness-toolbox foolbox"
        ) from error


@functools.cache
def _art_class():
    """The class of the adapter, made when ART is there to derive it from."""
    title = "The Adversarial Robustness Toolbox"
    # Not only "art": there is another package of that name.
    classifiers = _imported("art.estimators.classification.classifier", title)
    utils = _imported("art.utils", title)

    class KerasRobustLTClassifier(classifiers.ClassifierNeuralNetwork):
        """A Keras classifier with logits, for ART's attacks."""

        def __init__(self, network, loss, input_shape, batch_size):
            super().__init__(
                model=network,
                clip_values=(0.0, 1.0),
                channels_first=keras.config.image_data_format() == "channels_first",
                preprocessing=None,
            )
            self._input_shape = input_shape
            self._batch_size = batch_size
            self._loss = loss
            if not network.built:
                network(np.zeros((1, *input_shape), "float32"))
            self._functions = _functions(network, loss)
            self.nb_classes = self.predict(np.zeros((1, *input_shape))).shape[1]

        @property
        def input_shape(self):
            return self._input_shape

        def predict(self, x, batch_size=None, **kwargs):
            """Logits of shape `(examples, nb_classes)`."""
            return self._run("logits", x, batch_size=batch_size)

        def compute_loss(self, x, y, reduction="none", **kwargs):
            """The loss of each example, or its mean or sum over them."""
            values = self._run("loss", x, self._targets(y))
            reductions = {"none": np.asarray, "mean": np.mean, "sum": np.sum}
            checks.one_of("reduction", reduction, tuple(reductions))
            return reductions[reduction](values)

        def loss_gradient(self, x, y, **kwargs):
            """The gradient of the loss of each example by its own image."""
            return self._run("loss_gradient", x, self._targets(y))

        def class_gradient(self, x, label=None, **kwargs):
            """Gradients of logits by the images: `(examples, classes, ...)`.

            Of all classes, or of one, `label`: the same for all images or one for each.
            """
            wanted = range(self.nb_classes) if label is None else [label]
            gradients = []
            for one in wanted:
                chosen = np.broadcast_to(np.asarray(one, "int32"), len(x))
                targets = np.eye(self.nb_classes, dtype="float32")[chosen]
                gradients.append(self._run("class_gradient", x, targets))
            return np.stack(gradients, axis=1)

        def fit(self, x, y, batch_size=128, nb_epochs=20, **kwargs):
            raise NotImplementedError(
                "This classifier is there to be attacked. Train the Keras model itself."
            )

        def get_activations(self, x, layer, batch_size=128, framework=False):
            raise NotImplementedError(
                "This classifier gives logits only. For the output of a layer make a "
                "keras.Model of it."
            )

        def save(self, filename, path=None):
            """Writes the network to a file, as `keras.Model.save` does."""
            self.model.save(filename if path is None else f"{path}/{filename}")

        def _targets(self, y):
            y = utils.check_and_transform_label_format(np.asarray(y), self.nb_classes)
            return np.asarray(y, "float32")

        def _run(self, name, x, *targets, batch_size=None):
            x = np.asarray(x, "float32")
            # Attacks may leave the range a little on their way; what is far outside are
            # other pixels.
            if not np.all(np.abs(x - 0.5) < FARTHEST):
                checks.images(x)
            batch_size = batch_size or self._batch_size
            return active_set.in_batches(self._functions[name], batch_size, x, *targets)

    return KerasRobustLTClassifier


def _functions(network, loss):
    """Compiled functions of images, and of images and targets."""

    def of_each(targets, logits):
        return arguments.check_loss_values(loss(targets, logits), loss, (1,))

    def values(x, targets):
        return of_each(targets, gradients.logits_of(network)(x))

    def loss_gradient(x, targets):
        gradient_of = gradients.gradient_of(network)
        return gradient_of(lambda logits: of_each(targets, logits), x)[0]

    def class_gradient(x, targets):
        gradient_of = gradients.gradient_of(network)
        return gradient_of(lambda logits: ops.sum(targets * logits, axis=-1), x)[0]

    variables = active_set.variables_of(network)
    return {
        "logits": active_set.compiled_logits(network),
        "loss": backend.compiled(values, variables),
        "loss_gradient": backend.compiled(loss_gradient, variables),
        "class_gradient": backend.compiled(class_gradient, variables),
    }
