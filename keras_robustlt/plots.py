"""Pictures: the budget over training, and what each class gained."""

import numpy as np

from keras_robustlt import files

__all__ = ["accuracy_per_class", "contact_sheet", "save", "schedule"]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
LONGEST_NAME = 30


def _axes(width, height):
    # A figure without pyplot: no global state and no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def as_text(name):
    """The name of a class, which need not be text or UTF-8, as text that is."""
    if not isinstance(name, bytes):
        name = str(name).encode("utf-8", "backslashreplace")
    return name.decode("utf-8", "backslashreplace")


def _label(name, index):
    """What a picture calls the class `index`: its name, where the font has it."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    name = " ".join(as_text(name).split())
    known = get_font(findfont(FontProperties())).get_charmap()
    if not name or any(ord(letter) not in known for letter in name):
        return f"class {index}"
    return name if len(name) <= LONGEST_NAME else name[: LONGEST_NAME - 1] + "…"


def _legend(axes, lines, labels, **where):
    # With the lines at hand, as they are, and no mathematics: names may have "_", "$".
    for text in axes.legend(lines, labels, frameon=False, **where).get_texts():
        text.set_parse_math(False)


def schedule(class_epsilon, class_names, weights=None, epochs=None):
    """The budget of each class over the epochs.

    Args:
        class_epsilon: Floats of shape `(epochs, num_classes)`, in pixel units.
        class_names: List of strings.
        weights: Floats of shape `(epochs,)`: `w_t`, for the axis on top. Defaults to
            `None`.
        epochs: Integers of shape `(epochs,)`, from 0. Defaults to `0, 1, ...`.

    Returns:
        A `matplotlib.figure.Figure`.

    Example:

    >>> figure = krl.plots.schedule([[0.0, 0.0], [0.02, 0.04]], ["head", "tail"])
    >>> krl.plots.save(figure, "schedule.png")
    """
    class_epsilon = np.asarray(class_epsilon, "float64")
    if class_epsilon.ndim != 2 or class_epsilon.shape[1] != len(class_names):
        raise ValueError(
            "`class_epsilon` must have the shape (epochs, num_classes), and "
            f"`class_names` has {len(class_names)} names. Received: class_epsilon of "
            f"shape {class_epsilon.shape}"
        )
    epochs = np.arange(len(class_epsilon)) if epochs is None else np.asarray(epochs)
    figure, axes = _axes(8, 4.5)
    from matplotlib import colormaps

    colours = colormaps["viridis"](np.linspace(0, 0.9, len(class_names)))
    lines = [
        axes.plot(
            epochs + 1,
            255 * class_epsilon[:, index],
            color=colours[index],
            marker="o" if len(epochs) == 1 else None,
        )[0]
        for index in range(len(class_names))
    ]
    title = "Perturbation budget of each class"
    if weights is not None:
        title += f" ($w_t$ from {weights[0]:.2f} to {weights[-1]:.2f})"
    axes.set(xlabel="epoch", ylabel="epsilon × 255", title=title)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.set_ylim(bottom=0)
    axes.set_xlim(1, max(epochs[-1] + 1, 2))
    if len(class_names) <= 12:
        labels = [_label(name, index) for index, name in enumerate(class_names)]
        _legend(axes, lines, labels, loc="center left", bbox_to_anchor=(1, 0.5))
    return figure


def accuracy_per_class(results, attack="pgd20", title=None):
    """Accuracy of each class, for one run or side by side for several.

    Args:
        results: A dictionary from the name of a run to its `EvaluationResults`.
        attack: String. The attack whose robust accuracy is shown under the clean one.
            Defaults to `"pgd20"`.
        title: String. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`: clean accuracy as pale bars, accuracy under the
        attack as full ones, classes in order of their number of training images.

    Example:

    >>> figure = krl.plots.accuracy_per_class({"AT": at, "AT + RobustLT": ours})
    """
    runs = list(results)
    settings = results[runs[0]].settings
    counts = np.asarray(settings["class_counts"])
    order = np.argsort(-counts, kind="stable")
    places = np.arange(len(order))
    figure, axes = _axes(max(8, 0.45 * len(order) * len(runs)), 4.5)
    width = 0.8 / len(runs)
    bars, labels = [], []
    for index, run in enumerate(runs):
        offset = places + (index - (len(runs) - 1) / 2) * width
        colour = COLOURS[index % len(COLOURS)]
        for name, alpha in (("clean", 0.35), (attack, 1.0)):
            heights = [results[run][name]["per_class"][c] or 0.0 for c in order]
            bars.append(
                axes.bar(offset, heights, 0.92 * width, color=colour, alpha=alpha)
            )
            labels.append(f"{run}: {name}")
    names = settings["class_names"]
    ticks = [f"{_label(names[c], c)}\n{counts[c]}" for c in order]
    axes.set_xticks(places, ticks, fontsize=8, parse_math=False)
    axes.set(
        ylabel="accuracy",
        xlabel="class and its number of training images",
        ylim=(0, 1),
        title=title or "",
    )
    where = {"loc": "lower center", "bbox_to_anchor": (0.5, 1.08)}
    _legend(axes, bars, labels, ncols=len(runs), **where)
    return figure


def contact_sheet(rows, labels):
    """Images side by side in rows, to look at what an augmentation does.

    Args:
        rows: List of arrays of shape `(num_images, height, width, channels)`, uint8 or
            floats in `[0, 1]`, all of the same shape.
        labels: List of strings, one a row.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If the rows are not of one shape, or have not one label each.

    Example:

    >>> images = np.zeros((4, 32, 32, 3), "uint8")
    >>> augmented = krl.data.augment(images, "ra", seed=0)
    >>> figure = krl.plots.contact_sheet([images, augmented], ["original", "ra"])
    """
    rows = [np.asarray(images) for images in rows]
    shapes = sorted({images.shape for images in rows})
    if len(shapes) != 1 or len(shapes[0]) != 4:
        raise ValueError(
            "`rows` must hold images of one shape (num_images, height, width, "
            f"channels). Received shapes: {shapes}"
        )
    if len(labels) != len(rows):
        raise ValueError(
            f"`labels` must name each of the {len(rows)} rows. Received: {labels}"
        )
    num_images, height, width, channels = shapes[0]
    gap = height // 16
    sheet = np.ones(
        (len(rows) * (height + gap) - gap, num_images * (width + gap) - gap, channels)
    )
    for row, images in enumerate(rows):
        top = row * (height + gap)
        for column, image in enumerate(images):
            left = column * (width + gap)
            values = image / 255 if image.dtype == np.uint8 else image
            sheet[top : top + height, left : left + width] = values
    if channels == 1:
        sheet = np.repeat(sheet, 3, axis=-1)
    beside = 0.1 * max(len(label) for label in labels)
    figure, axes = _axes(8 + beside, 8 * sheet.shape[0] / sheet.shape[1])
    axes.imshow(sheet, interpolation="nearest")
    axes.set_anchor("E")  # the labels need the room on the left
    axes.set_yticks((height + gap) * np.arange(len(rows)) + height / 2, labels)
    axes.set_xticks([])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    return figure


def save(figure, path):
    """Writes `figure` as a PNG file."""
    path = files.local_path("path", path)
    with files.replacing(path) as file:
        figure.savefig(file, dpi=120, format="png")
    return path
