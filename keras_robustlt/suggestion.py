"""Settings for data that nobody has tuned: what to begin with, and why."""

import dataclasses
import inspect
import os
import reprlib

import numpy as np

from keras_robustlt import checks, plots
from keras_robustlt.budget import classwise_epsilon, largest_alpha
from keras_robustlt.data.arguments import check_seed

__all__ = ["Suggestion", "suggest"]

# The budgets that the literature uses, in steps of 1/255: of images up to this side,
# and of larger ones.
SMALL_SIDE, SMALL_BUDGET, LARGE_BUDGET = 64, 8, 4
LARGEST_BUDGET = 16
# The paper's settings, of imbalance up to this ratio and of stronger imbalance.
MILD_RATIO, MILD_BETA, STRONG_BETA = 10, 0.6, 0.8
ALPHA = 0.3
BALANCED_RATIO = 2
# Steps after which small networks change little, and bounds on passes over the data.
STEPS, FEWEST_EPOCHS, MOST_EPOCHS = 2000, 30, 200
BATCH_SIZES = (16, 32, 64, 128)
# Images that are looked at; each is compared with each.
EXAMPLES = 600
# Of images that have one of another class so near, such a share is left out: they may
# be labelled wrongly.
OUTLIERS = 0.02


@dataclasses.dataclass(frozen=True)
class Suggestion:
    """Settings to begin with, each with its reason.

    `print` shows them; `model_arguments` are for a `RobustLTModel`.

    Args:
        epsilon: Float, the base budget in pixel units of images in `[0, 1]`.
        alpha: Float, the strength of class-wise perturbation balancing.
        beta: Float, the share of training over which the budget grows.
        epochs: Integer, the length of training.
        batch_size: Integer.
        class_epsilon: Floats of shape `(num_classes,)`, the full budget of each class.
        class_counts: Integers of shape `(num_classes,)`.
        class_names: Tuple of strings.
        reasons: Dictionary from the names of settings to a line each.
        rarest: Float array of shape `(examples, height, width, channels)`: images of
            the rarest class, in `[0, 1]`.

    Example:

    >>> suggestion = krl.suggest("digits")
    >>> network = krl.networks.SmallResNet(classes=10)
    >>> model = krl.RobustLTModel(network, **suggestion.model_arguments)
    >>> krl.plots.save(suggestion.plot(), "rarest.png")
    """

    epsilon: float
    alpha: float
    beta: float
    epochs: int
    batch_size: int
    class_epsilon: np.ndarray
    class_counts: np.ndarray
    class_names: tuple
    reasons: dict
    rarest: np.ndarray

    @property
    def model_arguments(self):
        """`class_counts`, `epsilon`, `alpha` and `beta`, for a `RobustLTModel`."""
        names = ("class_counts", "epsilon", "alpha", "beta")
        return {name: getattr(self, name) for name in names}

    def __str__(self):
        shown = {
            "epsilon": f"{255 * self.epsilon:.3g}/255",
            "alpha": f"{self.alpha:.3g}",
            "beta": f"{self.beta:.2g}",
            "epochs": str(self.epochs),
            "batch_size": str(self.batch_size),
        }
        return "\n".join(
            f"{name:<11}{value:<8}{self.reasons[name]}" for name, value in shown.items()
        )

    def plot(self, images=6, seed=0):
        """The rarest class at its budget: can a person still recognise it?

        Above, images as they are; below, with as much noise as the budget allows,
        each pixel moved by all of it, up or down.

        Args:
            images: Integer, how many at most. Defaults to `6`.
            seed: Integer, of the noise. Defaults to `0`.

        Returns:
            A `matplotlib.figure.Figure`; `krl.plots.save` writes it.
        """
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        seed = check_seed(seed)
        clean = self.rarest[: checks.positive_integer("images", images)]
        if not len(clean) or clean.shape[-1] not in (1, 3):
            raise ValueError(
                "`rarest` must hold grey or colour images to plot, of 1 or 3 channels. "
                f"Received: shape {self.rarest.shape}"
            )
        rare = int(np.argmin(self.class_counts))
        budget = self.class_epsilon[rare]
        signs = np.random.default_rng(seed).choice([-1.0, 1.0], clean.shape)
        moved = np.clip(clean + budget * signs, 0.0, 1.0)
        figure = Figure(figsize=(1.6 * max(len(clean), 3), 3.9), layout="constrained")
        FigureCanvasAgg(figure)
        every = figure.subplots(2, len(clean), squeeze=False)
        grey = clean.shape[-1] == 1
        for axes, image in zip(every.ravel(), [*clean, *moved], strict=True):
            axes.imshow(
                image.squeeze(-1) if grey else image, cmap="gray", vmin=0, vmax=1
            )
            axes.set_axis_off()
        label = plots.Labels(self.class_names)
        title = figure.suptitle(
            f"{label[rare]}: above as it is, below at its budget of "
            f"{255 * budget:.3g}/255",
            wrap=True,
        )
        label.write([title])
        return figure


def suggest(data, y=None, class_names=None, seed=0, **options):
    """Settings to begin with for a data set, from what its images and classes are.

    The budget is the one that is usual for images of this size; not below their own
    noise, which a network must bear anyway; and not so large that images of different
    classes could be turned into each other. `alpha` keeps the budget of the rarest
    class at no more than twice epsilon, and `beta` is the paper's for such an
    imbalance. They are where to begin: look at `plot()`, and at validation accuracy.

    Args:
        data: What `keras_robustlt.data.load` reads: the path of a folder or an `.npz`
            file, a name, or the `Source` that it gives; or images, an array of shape
            `(examples, height, width, channels)`, uint8 or floats in `[0, 1]`.
        y: Integer labels of shape `(examples,)`, where `data` is an array.
        class_names: List of strings, where `data` is an array. Defaults to the class
            indices.
        seed: Integer, of the sample of images that is looked at. Defaults to `0`.
        **options: Further arguments of `keras_robustlt.data.load`, such as
            `on_bad="skip"` and `image_size`, where `data` is a path or a name.

    Returns:
        A `Suggestion`.

    Raises:
        ValueError: If the data cannot be used.

    Example:

    >>> suggestion = krl.suggest("digits")
    >>> suggestion.alpha  # about as many images of each class: nothing to balance
    0.0

    Reference:
        Yang et al., "A Closer Look at Accuracy vs. Robustness", NeurIPS 2020, for the
        distance between classes; Immerkaer, "Fast Noise Variance Estimation", 1996.
    """
    seed = check_seed(seed)
    x, y, class_names = _images_and_labels(data, y, class_names, options)
    counts = np.bincount(y, minlength=len(class_names))
    sample = _class_balanced(y, EXAMPLES, np.random.default_rng(seed))
    images, labels = x[sample].astype("float32") / 255, y[sample]

    reasons = {}
    epsilon, reasons["epsilon"] = _epsilon(images, labels)
    alpha, reasons["alpha"] = _alpha(counts, epsilon, class_names)
    beta, reasons["beta"] = _beta(counts)
    batch_size, steps = _batch_size(len(y))
    epochs, reasons["epochs"] = _epochs(len(y), batch_size)
    reasons["batch_size"] = steps
    rare = np.flatnonzero(y == np.argmin(counts))[:12]
    return Suggestion(
        epsilon=epsilon,
        alpha=alpha,
        beta=beta,
        epochs=epochs,
        batch_size=batch_size,
        class_epsilon=classwise_epsilon(counts, epsilon, alpha),
        class_counts=counts,
        class_names=class_names,
        reasons=reasons,
        rarest=x[rare].astype("float32") / 255,
    )


def _images_and_labels(data, y, class_names, options):
    """uint8 images, their labels, and the names of the classes."""
    from keras_robustlt.data import Source, load

    if isinstance(data, (str, os.PathLike)):
        inspect.signature(load).bind(data, **options)  # names unknown ones
        data = load(data, **options)
    elif options:
        raise ValueError(
            f"`{next(iter(options))}` is for `data` that is a path or a name. "
            f"Received: data of type {type(data).__name__}"
        )
    if isinstance(data, Source):
        given = {"y": y, "class_names": class_names}
        for name in [name for name, value in given.items() if value is not None]:
            raise ValueError(
                f"`{name}` is for `data` that is an array of images: a folder, a file "
                f"or a Source has its own. Received: {name} of type "
                f"{type(given[name]).__name__}"
            )
        return _checked(
            data.x_train, data.y_train, data.class_names, "data.x_train", "data.y_train"
        )
    if y is None:
        raise ValueError(
            "`y` must hold the labels of the images. Received: y=None with `data` of "
            f"type {type(data).__name__}, which is neither a path nor a Source."
        )
    return _checked(data, y, class_names, "data", "y")


def _checked(x, y, class_names, x_name, y_name):
    """Images as uint8, labels as int64 and names as strings, that fit together."""
    from keras_robustlt.data import arrays

    x, y = arrays.check_images(x, x_name), arrays.check_labels(y, y_name)
    if len(x) != len(y):
        raise ValueError(
            f"`{x_name}` and `{y_name}` must have the same length. Received: "
            f"{len(x)} images and {len(y)} labels"
        )
    if not len(x):
        raise ValueError(f"`{x_name}` must hold images. Received: none")
    classes = int(y.max()) + 1
    names = range(classes) if class_names is None else class_names
    names = arrays.check_class_names(names)
    counts = np.bincount(y, minlength=len(names))
    if len(names) < max(classes, 2) or not counts.min():
        raise ValueError(
            f"`{y_name}` must hold labels of at least two classes, from 0 without "
            "gaps, and of all that have a name in `class_names`. Received: "
            f"{len(names)} names, and {reprlib.repr(counts.tolist())} images of each "
            "class"
        )
    return x, y, names


def _class_balanced(y, examples, rng):
    """Indices of at most `examples` images, of all classes alike."""
    classes = np.unique(y)
    share = max(examples // len(classes), 1)
    chosen = [rng.permutation(np.flatnonzero(y == k))[:share] for k in classes]
    return np.sort(np.concatenate(chosen))


def _epsilon(images, labels):
    side = min(images.shape[1:3])
    small = side <= SMALL_SIDE
    budget = SMALL_BUDGET if small else LARGE_BUDGET
    reason = f"usual for images of {'up to' if small else 'more than'} {SMALL_SIDE} px"
    noise = 255 * noise_level(images)
    if noise > budget:
        budget = int(min(np.ceil(noise), LARGEST_BUDGET))
        reason = f"the images have noise of {noise:.1f}/255 themselves"
    apart = 255 * distance_between_classes(images, labels)
    if budget > apart / 2:
        budget = max(int(apart / 2), 1)
        reason = (
            f"images of different classes are {apart:.0f}/255 apart, and half of that "
            "is what can be told apart"
        )
    return budget / 255, reason


def noise_level(images):
    """The standard deviation of the pixels' noise, in the units of the images.

    Args:
        images: Float array of shape `(examples, height, width, channels)`.

    Returns:
        The median over the images of what a second difference in both directions, which
        is blind to ramps, leaves of them; `0` for images below 3 pixels.
    """
    if min(images.shape[1:3]) < 3:
        return 0.0
    rows = images[:, :-2] - 2 * images[:, 1:-1] + images[:, 2:]
    both = rows[:, :, :-2] - 2 * rows[:, :, 1:-1] + rows[:, :, 2:]
    # The weights 1 -2 1 in both directions have squares that sum to 36; the median
    # absolute value of a normal variable is 0.6745 of its deviation.
    deviations = np.median(np.abs(both), axis=(1, 2, 3)) / (6 * 0.6745)
    return float(np.median(deviations))


def distance_between_classes(images, labels):
    """How far images are from the nearest of another class, in the largest norm.

    Args:
        images: Float array of shape `(examples, height, width, channels)`.
        labels: Integers of shape `(examples,)`.

    Returns:
        The distance that all but the nearest 2% of the images keep.
    """
    flat = images.reshape(len(images), -1)
    nearest = []
    for image, label in zip(flat, labels, strict=True):
        others = flat[labels != label]
        if len(others):
            nearest.append(np.abs(others - image).max(axis=1).min())
    return float(np.quantile(nearest, OUTLIERS)) if nearest else 1.0


def _alpha(counts, epsilon, class_names):
    # Class-wise budgets look at the order of the classes more than at how far apart
    # they are: of nearly equal classes they would make unequal ones.
    if counts.max() < BALANCED_RATIO * counts.min():
        return 0.0, "the classes are about equally large: there is nothing to balance"
    alpha = min(ALPHA, largest_alpha(counts, epsilon))
    alpha = np.floor(1000 * alpha + 1e-9) / 1000
    rarest = classwise_epsilon(counts, epsilon, alpha).max() / epsilon
    return float(alpha), (
        f"the rarest class, {class_names[counts.argmin()]}, gets {rarest:.2f} times "
        f"epsilon, the largest {1 - alpha:.2f} times"
    )


def _beta(counts):
    ratio = counts.max() / counts.min()
    beta = MILD_BETA if ratio <= MILD_RATIO else STRONG_BETA
    return beta, f"the budget grows over {beta:.0%} of training; imbalance {ratio:.3g}"


def _batch_size(images):
    fits = [size for size in BATCH_SIZES if images // size >= 20]
    size = max(fits, default=BATCH_SIZES[0])
    return size, f"{-(-images // size)} steps an epoch"


def _epochs(images, batch_size):
    steps = -(-images // batch_size)
    epochs = int(np.clip(round(STEPS / steps), FEWEST_EPOCHS, MOST_EPOCHS))
    return epochs, f"{epochs * steps} steps in all"
