"""Pictures: the budget over training, and what each class gained."""

import unicodedata
import warnings

import numpy as np

from keras_robustlt import files
from keras_robustlt.class_names import check as check_class_names
from keras_robustlt.class_names import one_line, wrapped
from keras_robustlt.evaluation.results import EvaluationResults

__all__ = ["accuracy_per_class", "contact_sheet", "save", "schedule"]

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
# Where a line of a class's name ends, in columns.
WIDEST_NAME = 28
# With more classes, only those at the ends are in the legend.
MOST_NAMES = 12


def _axes(width, height):
    # A figure without pyplot: no global state and no display needed.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


class Labels:
    """What a picture calls classes: their names, where there are fonts for them.

    A class whose name has letters that no font on this machine has is called by its
    number, and a line under the picture says why.

    Args:
        names: Sequence of the names of all classes.
    """

    def __init__(self, names):
        self.names = [one_line(name) for name in names]
        self.fonts, missing = _fonts_for(set("".join(self.names)))
        self.unknown = {
            index
            for index, name in enumerate(self.names)
            if not name or not missing.isdisjoint(name)
        }

    def __getitem__(self, index):
        """The label of the class `index`, of one line or several."""
        if index in self.unknown:
            return f"class {index}"
        return "\n".join(wrapped(self.names[index], WIDEST_NAME))

    def write(self, texts):
        """Makes texts of a picture look as the names in them need it."""
        for text in texts:
            text.set_fontfamily(self.fonts)
            text.set_parse_math(False)  # names may have "_" and "$"

    def note(self, figure):
        """Says under a picture why some classes in it have numbers."""
        if any(self.names[index] for index in self.unknown):
            figure.supxlabel(
                "No font on this machine has the letters of the names of classes that "
                "have a number, from 0.",
                fontsize=8,
            )


def _fonts_for(letters):
    """Families of fonts, the usual one first, and the letters that none of them has."""
    import matplotlib
    from matplotlib import font_manager, ft2font

    if not hasattr(ft2font, "__libraqm_version__"):
        # Before Matplotlib 3.11, Arabic came out backwards, and marks beside letters.
        unreadable = {letter for letter in letters if _needs_layout(letter)}
    else:
        unreadable = set()
    usual = font_manager.FontProperties()
    fonts = usual.get_family()
    missing = letters - unreadable - _letters_of(font_manager.findfont(usual))
    # Those that come with Matplotlib are for mathematics, but for the usual one.
    others = {
        font.name: font.fname
        for font in font_manager.fontManager.ttflist
        if (font.style, font.weight) == ("normal", 400)
        and not font.fname.startswith(matplotlib.get_data_path())
    }
    for name in sorted(others, key=lambda name: ("Sans" not in name, name)):
        found = missing and missing & _letters_of(others[name])
        if found:
            fonts = [*fonts, name]
            missing -= found
    return fonts, missing | unreadable


def _letters_of(path):
    from matplotlib.font_manager import get_font

    return set(map(chr, get_font(path).get_charmap()))


def _needs_layout(letter):
    is_mark = unicodedata.category(letter) in ("Mn", "Mc")
    return is_mark or unicodedata.bidirectional(letter) in ("R", "AL")


def schedule(class_epsilon, class_names, weights=None, epochs=None):
    """The budget of each class over the epochs.

    Args:
        class_epsilon: Floats of shape `(epochs, num_classes)`, in pixel units.
        class_names: List of strings.
        weights: Floats of shape `(epochs,)`: `w_t`, whose first and last value the
            title says. Defaults to `None`.
        epochs: Integers of shape `(epochs,)`, from 0. Defaults to `0, 1, ...`.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ValueError: If these are not of the same epochs and classes.

    Example:

    >>> figure = krl.plots.schedule([[0.0, 0.0], [0.02, 0.04]], ["head", "tail"])
    >>> krl.plots.save(figure, "schedule.png")
    """
    check_class_names(class_names)
    class_epsilon = _numbers("class_epsilon", class_epsilon)
    if class_epsilon.ndim != 2 or class_epsilon.shape[1] != len(class_names):
        raise ValueError(
            "`class_epsilon` must have the shape (epochs, num_classes), and "
            f"`class_names` has {len(class_names)} names. Received: class_epsilon of "
            f"shape {class_epsilon.shape}"
        )
    if not len(class_epsilon):
        raise ValueError(
            "`class_epsilon` must hold the budgets of at least one epoch. Received: "
            f"class_epsilon of shape {class_epsilon.shape}"
        )
    for name, values in (("weights", weights), ("epochs", epochs)):
        if values is None:
            continue
        array = _numbers(name, values)
        unknown = name == "epochs" and np.any(np.isnan(array))
        if array.shape != class_epsilon.shape[:1] or unknown:
            raise ValueError(
                f"`{name}` must have a value for each of the {len(class_epsilon)} "
                f"epochs. Received: {name}={values!r}"
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
    last = class_epsilon[-1]
    named = range(len(class_names))
    if len(class_names) > MOST_NAMES:
        named = sorted({0, len(last) - 1, int(last.argmin()), int(last.argmax())})
    labels = Labels(class_names)
    legend = axes.legend(
        # With the lines at hand, as they are: names may begin with "_".
        [lines[index] for index in named],
        [labels[index] for index in named],
        loc="center left",
        bbox_to_anchor=(1, 0.5),
        frameon=False,
    )
    labels.write(legend.get_texts())
    labels.note(figure)
    return figure


def _numbers(name, values):
    """`values` as a float array, if they are numbers; NaN is for what is not known."""
    try:
        array = np.asarray(values)
    except ValueError:  # lists of different lengths
        array = np.asarray(None)
    if array.dtype.kind not in "iuf" or np.any(np.isinf(array) | (array < 0)):
        raise ValueError(
            f"`{name}` must hold finite numbers that are not negative. Received: "
            f"{name}={values!r:.200}"
        )
    return array.astype("float64")


def accuracy_per_class(results, attack="pgd20", title=None):
    """Accuracy of each class, for one run or side by side for several.

    Args:
        results: A dictionary from the name of a run to its `EvaluationResults`.
        attack: String. The attack whose robust accuracy is shown under the clean one.
            Defaults to `"pgd20"`.
        title: String. Defaults to `None`.

    Returns:
        A `matplotlib.figure.Figure`: clean accuracy as pale bars, accuracy under the
        attack as full ones, classes from the most to the fewest training images.

    Raises:
        ValueError: If the results are not of the same classes, with `class_counts`, or
            lack `"clean"` or `attack`.

    Example:

    >>> figure = krl.plots.accuracy_per_class({"AT": at, "AT + RobustLT": ours})
    """
    _check_results(results, attack)
    if title is not None and not isinstance(title, str):
        raise ValueError(f"`title` must be a string. Received: title={title!r}")
    runs = list(results)
    settings = results[runs[0]].settings
    counts = np.asarray(settings["class_counts"])
    order = np.argsort(-counts, kind="stable")
    places = np.arange(len(order))
    labels = Labels(settings["class_names"])
    ticks = [f"{labels[c]} ({counts[c]:,})" for c in order]
    lines = 1 + max(tick.count("\n") for tick in ticks)
    row = max(0.18 * lines, 0.16 * len(runs)) + 0.08
    figure, axes = _axes(8, 1.5 + row * len(order))
    height = 0.8 / len(runs)
    bars, legend = [], []
    for index, run in enumerate(runs):
        offset = places + (index - (len(runs) - 1) / 2) * height
        colour = COLOURS[index % len(COLOURS)]
        for name, alpha in (("clean", 0.35), (attack, 1.0)):
            widths = [results[run][name]["per_class"][c] or 0.0 for c in order]
            bars.append(
                axes.barh(offset, widths, 0.92 * height, color=colour, alpha=alpha)
            )
            legend.append(f"{run}: {name}")
    axes.set_yticks(places, ticks, fontsize=9)
    labels.write(axes.get_yticklabels())
    axes.set(
        xlabel="accuracy of each class (and its number of training images)",
        xlim=(0, 1),
        ylim=(len(order) - 0.5, -0.5),
        title=title or "",
    )
    where = {"loc": "outside upper center", "ncols": len(runs), "frameon": False}
    labels.write(figure.legend(bars, legend, **where).get_texts())
    labels.note(figure)
    return figure


def _check_results(results, attack):
    """Raises if there are no accuracies of the same classes to put side by side."""
    if isinstance(results, EvaluationResults) or not isinstance(results, dict):
        raise ValueError(
            "`results` must be a dictionary from the name of a run to its "
            f"EvaluationResults. Received: {type(results).__name__}"
        )
    if not results:
        raise ValueError("`results` must be of at least one run. Received: none")
    first = next(iter(results))
    for run, result in results.items():
        counted = isinstance(result, EvaluationResults) and result.settings.get(
            "class_counts"
        )
        if not counted:
            raise ValueError(
                f"`results[{run!r}]` must be EvaluationResults with the training "
                "images of each class, evaluate(..., class_counts=...). Received: "
                f"{type(result).__name__} without"
            )
        if not isinstance(attack, str) or not {"clean", attack} <= set(result):
            raise ValueError(
                f"`results[{run!r}]` must have what is shown, 'clean' and "
                f"`attack`={attack!r}. Received: {', '.join(map(repr, result))}"
            )
        for key in ("class_names", "class_counts"):
            if list(result.settings[key]) != list(results[first].settings[key]):
                raise ValueError(
                    "`results` must be of runs with the same classes and training "
                    f"images. Received: another {key} for {run!r} than for {first!r}"
                )
        attacks = [each[attack].get("attack") for each in (result, results[first])]
        if None not in attacks and attacks[0] != attacks[1]:
            warnings.warn(
                f"`results` are of unlike attacks, and not to be compared: {attack} of "
                f"{run!r} is another one than that of {first!r}. Received: {attacks}",
                stacklevel=3,
            )


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
    if not isinstance(rows, (list, tuple, np.ndarray)):
        raise ValueError(
            f"`rows` must be a list of arrays. Received: {type(rows).__name__}"
        )
    try:
        rows = [np.asarray(images) for images in rows]
    except ValueError:  # lists of different lengths
        rows = [np.asarray(None)]
    shapes = sorted({images.shape for images in rows})
    if len(shapes) != 1 or len(shapes[0]) != 4 or not all(shapes[0]):
        raise ValueError(
            "`rows` must hold images of one shape (num_images, height, width, "
            f"channels). Received shapes: {shapes}"
        )
    if shapes[0][-1] not in (1, 3):
        raise ValueError(
            "`rows` must hold grey or colour images, of 1 or 3 channels. "
            f"Received shapes: {shapes}"
        )
    for index, images in enumerate(rows):
        are_floats = images.dtype.kind == "f" and np.all((images >= 0) & (images <= 1))
        if images.dtype != np.uint8 and not are_floats:
            raise ValueError(
                f"`rows[{index}]` must be uint8, or floats in [0, 1]. Received: dtype "
                f"{images.dtype}, or other values"
            )
    named = isinstance(labels, (list, tuple)) and len(labels) == len(rows)
    if not named or not all(isinstance(label, str) for label in labels):
        raise ValueError(
            f"`labels` must be a list that names each of the {len(rows)} rows. "
            f"Received: {labels}"
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
    """Writes a figure as a file of the kind that the path ends in.

    Args:
        figure: A `matplotlib.figure.Figure`.
        path: String or path of the file, such as `"figure.png"` or `"figure.pdf"`.

    Returns:
        The path of the file.

    Raises:
        ValueError: If `figure` is none, or Matplotlib writes no files of this kind.

    Example:

    >>> figure = krl.plots.schedule([[0.0, 0.0], [0.02, 0.04]], ["head", "tail"])
    >>> krl.plots.save(figure, "schedule.png")
    """
    path = files.local_path("path", path)
    if not hasattr(figure, "savefig"):
        raise ValueError(
            "`figure` must be a matplotlib Figure, as the functions of this module "
            f"give them. Received: {type(figure).__name__}"
        )
    kind = path.suffix.lower().removeprefix(".") or "png"
    known = figure.canvas.get_supported_filetypes()
    if kind not in known:
        raise ValueError(
            f"`path` must end in one of {', '.join('.' + each for each in known)}. "
            f"Received: path={str(path)!r}"
        )
    with files.replacing(path) as file:
        figure.savefig(file, dpi=120, format=kind)
    return path
