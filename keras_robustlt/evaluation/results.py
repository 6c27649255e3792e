"""What evaluations give: as a table, as rows, to and from files. Needs no backend."""

import json
import numbers
import pathlib
import re
import zipfile

import numpy as np

from keras_robustlt.class_names import display_width, ljust, rjust, wrapped
from keras_robustlt.data.arguments import is_number, is_whole
from keras_robustlt.files import local_path, replacing, write_atomically

__all__ = ["AdversarialExamples", "EvaluationResults", "RobustnessCurve"]

SUMMARY = ("all", "tail", "balanced", "worst")
# In a table as text. The name of a class may be longer, and then has several lines.
WIDEST_HEAD = 14
PROBABILITIES = ("probabilities", "adversarial_probabilities")
# Strings in JSON have no line breaks.
INNERMOST_LIST = re.compile(r"\[\n\s*([^\[\]{}]*?)\n\s*\]")


class EvaluationResults(dict):
    """Accuracies by attack, as `summarize` gives them, with the attack's settings.

    A dictionary from the attack's name to a dictionary with `"all"`, `"tail"`,
    `"balanced"`, `"worst"`, `"per_class"`, `"confusion"` and `"attack"`. Printed, it is
    a table.

    Args:
        accuracies: Dictionary, as above.
        settings: Dictionary: what the numbers were measured with.

    Raises:
        ValueError: If what is there of what `evaluate` gives is of another kind, or
            not for each of the classes.

    Attributes:
        settings: As given, with lists for arrays, and with `"class_names"`.
        robust: Dictionary from the attack's name to a boolean array of shape
            `(examples,)`: which images are robust, in the order of the data. `None`
            unless `evaluate` was asked for them by `per_example=True`.
        labels: Integer array of shape `(examples,)`, likewise.
        curve: What `robustness_curve` gives, if it is put here. Defaults to `None`.
        examples: What `adversarial_examples` gives, likewise.

    Example:

    >>> results = krl.evaluate(model, test, attacks=["clean", "pgd20"])
    >>> results["pgd20"]["balanced"] == np.mean(results["pgd20"]["per_class"])
    np.True_
    """

    def __init__(self, accuracies, settings):
        for name, value in (("accuracies", accuracies), ("settings", settings)):
            if not isinstance(value, dict):
                raise ValueError(
                    f"`{name}` must be a dictionary. Received: {type(value).__name__}"
                )
        for attack, entry in accuracies.items():
            _check_entry(attack, entry)
        super().__init__(accuracies)
        settings = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in settings.items()
        }
        sizes = {len(entry["per_class"]) for entry in accuracies.values()}
        if "class_names" not in settings:
            settings["class_names"] = [*map(str, range(max(sizes, default=0)))]
        names = settings["class_names"]
        is_list = isinstance(names, (list, tuple)) and sizes <= {len(names)}
        if not is_list or not all(isinstance(name, str) for name in names):
            raise ValueError(
                "`settings['class_names']` must be a list of strings, one for each of "
                f"the {', '.join(map(str, sorted(sizes)))} classes of `accuracies`. "
                f"Received: {names!r}"
            )
        _check_values("settings", settings, OF_SETTINGS, len(names))
        for attack, entry in accuracies.items():
            _check_values(f"accuracies[{attack!r}]", entry, OF_ENTRIES, len(names))
        self.settings = settings
        self.robust = None
        self.labels = None
        self.curve = None
        self.examples = None

    def __setattr__(self, name, value):
        kinds = {"curve": RobustnessCurve, "examples": AdversarialExamples}
        if name in kinds and not isinstance(value, (kinds[name], type(None))):
            raise ValueError(
                f"`{name}` must be a keras_robustlt.{kinds[name].__name__}. Received: "
                f"{value!r}"
            )
        super().__setattr__(name, value)

    def to_json(self, path=None, **extra):
        """The results as a JSON string, written to `path` if given.

        Args:
            path: String or path of the file to write. Defaults to `None`.
            **extra: Further entries for the top level.

        Returns:
            The string.
        """
        path = path if path is None else local_path("path", path)
        taken = sorted({"attacks", "settings", "curve"} & extra.keys())
        if taken:
            raise ValueError(
                f"`extra` must not have entries that are the results' own. Received: "
                f"{', '.join(taken)}"
            )
        content = {"attacks": dict(self), "settings": self.settings, **extra}
        if self.curve is not None:
            content["curve"] = self.curve
        text = json.dumps(content, indent=2, default=in_json)
        text = INNERMOST_LIST.sub(_on_one_line, text) + "\n"
        if path is not None:
            write_atomically(path, text.encode())
        return text

    def to_npz(self, path):
        """Writes which images are robust, with their labels, for `numpy.load`.

        Args:
            path: String or path of the file to write. It gets an array for each
                attack, by its name, and `labels`.

        Raises:
            ValueError: If the results have no flags of single images.

        Example:

        >>> results = krl.evaluate(model, test, per_example=True)
        >>> results.to_npz("results.npz")
        >>> np.load("results.npz")["pgd20"].mean() == results["pgd20"]["all"]
        np.True_
        """
        if self.robust is None:
            raise ValueError(
                "These results have no flags of single images: call `evaluate` with "
                "per_example=True."
            )
        with replacing(local_path("path", path)) as file:
            np.savez_compressed(file, labels=self.labels, **self.robust)

    def to_rows(self):
        """The results as a flat list, for `pandas.DataFrame` or `csv.DictWriter`.

        Returns:
            A list of dictionaries, one for each attack and group of images: `"attack"`,
            `"group"` (`"all"`, `"tail"`, `"balanced"`, `"worst"`, or `"class"` for a
            single class), `"class"` (its name, or `None`), `"accuracy"`, `"examples"`
            and `"training_images"` of the class (`None` where they are not known).
            The stages of AutoAttack come after it, as `"autoattack/apgd-ce"`.

        Example:

        >>> rows = krl.evaluate(model, test, attacks=["clean"]).to_rows()
        >>> [row["group"] for row in rows]
        ['all', 'tail', 'balanced', 'worst', 'class', 'class']
        """
        names = self.settings["class_names"]
        nothing = [None] * len(names)
        examples = self.settings.get("examples_per_class") or nothing
        training = self.settings.get("class_counts") or nothing
        entries = {}
        for attack, entry in self.items():
            entries[attack] = entry
            for stage, at_stage in entry.get("stages", {}).items():
                entries[f"{attack}/{stage}"] = at_stage

        def row(attack, group, accuracy, name=None, examples=None, training=None):
            return {
                "attack": attack,
                "group": group,
                "class": name,
                "accuracy": accuracy,
                "examples": examples,
                "training_images": training,
            }

        rows = []
        for attack, entry in entries.items():
            rows += [row(attack, group, entry[group]) for group in SUMMARY]
            of_classes = zip(entry["per_class"], names, examples, training, strict=True)
            rows += [row(attack, "class", *values) for values in of_classes]
        return rows

    @classmethod
    def from_json(cls, path):
        """The results that `to_json` wrote to a file.

        Args:
            path: String or path of the file, such as the `results.json` of a recipe.

        Returns:
            An `EvaluationResults`, with its `curve`. Further entries of the file are
            left out.

        Raises:
            ValueError: If the file is not one of `to_json`.

        Example:

        >>> results = krl.evaluate(model, test)
        >>> text = results.to_json("results.json")
        >>> krl.EvaluationResults.from_json("results.json") == results
        True
        """
        local_path("path", path)
        try:
            content = json.loads(pathlib.Path(path).read_text("utf-8"))
            results = cls(content["attacks"], content["settings"])
            if content.get("curve") is not None:
                results.curve = RobustnessCurve(**content["curve"])
            return results
        except (KeyError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(
                "`path` must be a file that `EvaluationResults.to_json` wrote, whole. "
                f"Received: path={str(path)!r} ({type(error).__name__}: {error})"
            ) from None

    def table(self, per_class=True):
        """The results as lines of text, in percent.

        Args:
            per_class: Boolean, whether to show each class too. Defaults to `True`.

        Returns:
            A string.
        """
        if not isinstance(per_class, (bool, np.bool_)):
            raise ValueError(
                f"`per_class` must be True or False. Received: {per_class!r}"
            )
        classes = self.settings["class_names"] if per_class else []
        head = ["attack", *SUMMARY, *classes]
        rows = [[name, *self.row(name)][: len(head)] for name in self]
        return text_table(head, rows)

    def row(self, attack):
        """The cells of an attack in `table`: the summary, then each class.

        Args:
            attack: String, its name.

        Returns:
            A list of strings, `"-"` where there is no accuracy.
        """
        if not isinstance(attack, str) or attack not in self:
            raise ValueError(
                f"`attack` must be one of {', '.join(map(repr, self))}. "
                f"Received: {attack!r}"
            )
        entry = self[attack]
        values = [*(entry[key] for key in SUMMARY), *entry["per_class"]]
        return ["-" if value is None else f"{100 * value:.1f}" for value in values]

    def __str__(self):
        return self.table()

    __repr__ = __str__


class RobustnessCurve(dict):
    """Accuracy by budget, as `robustness_curve` gives it.

    A dictionary with the lists `"epsilons"`, `"all"`, `"tail"` (`None` where there is
    no tail), `"balanced"` and `"worst"`, one value for each budget; the number of
    `"examples"` and the settings of the `"attack"`.

    Args:
        **values: These. `"examples"` and `"attack"` may be missing.

    Raises:
        ValueError: If others are missing, there is not an accuracy in `[0, 1]` for
            each budget, or `"examples"` or `"attack"` is none.

    Example:

    >>> curve = krl.robustness_curve(model, test, epsilons=[0.0, 0.05, 0.1])
    >>> curve["epsilons"]
    [0.0, 0.05, 0.1]
    """

    def __init__(self, **values):
        unknown = values.keys() - {"epsilons", *SUMMARY, "examples", "attack"}
        if unknown:
            raise ValueError(
                f"A curve has `epsilons`, `{'`, `'.join(SUMMARY)}`, `examples` and "
                f"`attack`. Received: {', '.join(sorted(unknown))}"
            )
        budgets = values.get("epsilons")
        if not _all_numbers(budgets, most=np.inf) or not len(budgets):
            raise ValueError(
                "The curve must have a list of budgets, `epsilons`, numbers of at "
                "least 0, and an accuracy for each of them. Received: "
                f"epsilons={budgets!r}"
            )
        for name in SUMMARY:
            group = values.get(name)
            missing = group is None and name not in values
            known = [] if group is None else group
            if isinstance(known, (list, tuple)):
                known = [value for value in known if value is not None]
            if (
                missing
                or not _all_numbers(known)
                or (group is not None and len(group) != len(budgets))
            ):
                raise ValueError(
                    f"`{name}` must be a list with an accuracy for each of them, the "
                    f"{len(budgets)} `epsilons`: a number in [0, 1], or None. "
                    f"Received: {name}={group!r}"
                )
        if not is_whole(values.get("examples", 1)):
            raise ValueError(
                "`examples` must be a whole number of at least 1. Received: "
                f"examples={values['examples']!r}"
            )
        attack = values.get("attack", {"class": ""})
        if not isinstance(attack, dict) or not isinstance(attack.get("class"), str):
            raise ValueError(
                "`attack` must be a dictionary of the attack's settings, with the name "
                f"of its 'class'. Received: attack={attack!r}"
            )
        super().__init__(values)

    def expected_robustness(self, epsilon=None):
        """The mean of robust accuracy over the budgets from 0 to `epsilon`.

        Each budget counts alike. Between those of the curve accuracy is taken as
        linear, so that the mean is the area under the curve, by trapezoids, over
        `epsilon`.

        Args:
            epsilon: Float, the largest budget, in pixel units. Defaults to the
                attack's own.

        Returns:
            A dictionary with a float, or `None`, for `"all"`, `"tail"`, `"balanced"`
            and `"worst"`.

        Raises:
            ValueError: If the budgets of the curve do not reach from 0 to `epsilon`.

        Example:

        >>> curve = krl.RobustnessCurve(
        ...     epsilons=[0, 0.02, 0.04],
        ...     all=[0.9, 0.5, 0.2],
        ...     tail=None,
        ...     balanced=[0.9, 0.5, 0.2],
        ...     worst=[0.6, 0.2, 0.0],
        ... )
        >>> round(curve.expected_robustness(0.04)["all"], 3)
        0.525

        Reference:
            Used to compare robust fine-tuning in arXiv 2509.23325, ICLR 2026.
        """
        if epsilon is None:
            epsilon = self.get("attack", {}).get("epsilon")
        if isinstance(epsilon, bool) or not isinstance(epsilon, numbers.Real):
            raise ValueError(
                "`epsilon` must be a number, or the curve tell that of its `attack`. "
                f"Received: epsilon={epsilon!r}"
            )
        order = np.argsort(self["epsilons"], kind="stable")
        budgets = np.asarray(self["epsilons"], "float64")[order]
        if not (budgets[0] == 0 and 0 < epsilon <= budgets[-1]):
            raise ValueError(
                "The budgets of the curve must reach from 0 to `epsilon`. Received: "
                f"epsilon={epsilon} and budgets from {budgets[0]} to {budgets[-1]}"
            )
        grid = np.union1d(budgets[budgets < epsilon], epsilon)

        def mean(accuracies):
            if accuracies is None or None in accuracies:
                return None
            values = np.asarray(accuracies, "float64")[order]
            values = np.interp(grid, budgets, values)
            return float(np.diff(grid) @ (values[1:] + values[:-1]) / (2 * epsilon))

        return {group: mean(self[group]) for group in SUMMARY}


class AdversarialExamples:
    """Images before and after an attack.

    As the attribute `examples` of an `EvaluationResults` they are shown by `report`,
    and so are those in the file `examples.npz` of the directory of a run.

    Args:
        images: Float array of shape `(examples, height, width, channels)`.
        adversarial: Float array of the same shape.
        labels: Integer array of shape `(examples,)`.
        probabilities: Float array of shape `(examples, num_classes)`: what the network
            says of `images`.
        adversarial_probabilities: The same of `adversarial`.
        epsilon: Float. The budget of the attack.

    Raises:
        ValueError: If these do not fit each other.

    Example:

    >>> results = krl.evaluate(model, test)
    >>> results.examples = krl.adversarial_examples(model, test, examples=2)
    >>> results.examples.images.shape
    (2, 4, 4, 1)
    """

    def __init__(
        self,
        images,
        adversarial,
        labels,
        probabilities,
        adversarial_probabilities,
        epsilon,
    ):
        self.images = images
        self.adversarial = adversarial
        self.labels = labels
        self.probabilities = probabilities
        self.adversarial_probabilities = adversarial_probabilities
        self._check(epsilon)
        self.epsilon = float(epsilon)

    def __len__(self):
        return len(self.labels)

    def to_npz(self, path):
        """Writes them to a file.

        Args:
            path: String or path of the file.
        """
        with replacing(local_path("path", path)) as file:
            np.savez_compressed(file, **vars(self))

    @classmethod
    def from_npz(cls, path):
        """Those that `to_npz` wrote to a file.

        Args:
            path: String or path of the file.

        Returns:
            `AdversarialExamples`.

        Raises:
            ValueError: If it did not.
        """
        local_path("path", path)
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return cls(**arrays)
        except (
            AttributeError,
            EOFError,
            MemoryError,
            TypeError,
            ValueError,
            zipfile.BadZipFile,
        ) as error:
            raise ValueError(
                "`path` must be a file that `AdversarialExamples.to_npz` wrote, whole. "
                f"Received: path={str(path)!r} ({type(error).__name__}: {error})"
            ) from None

    def _check(self, epsilon):
        """Raises a ValueError if there are no arrays that fit each other."""
        for name, dtype in {**dict.fromkeys(vars(self), "f"), "labels": "iu"}.items():
            array = getattr(self, name)
            found = getattr(getattr(array, "dtype", None), "kind", "")
            if not found or found not in dtype:
                kind = "floats" if dtype == "f" else "integers"
                raise ValueError(
                    f"`{name}` must be an array of {kind}. Received: "
                    f"{array.dtype if found else type(array).__name__}"
                )
        labels, classes = self.labels, self.probabilities.shape[-1:]
        shapes = {
            "labels": (len(self.images) if self.images.ndim else 0,),
            "adversarial": self.images.shape,
            "probabilities": (*labels.shape[:1], *classes),
            "adversarial_probabilities": (*labels.shape[:1], *classes),
        }
        for name, shape in shapes.items():
            found = getattr(self, name).shape
            if found != shape:
                raise ValueError(
                    f"`{name}` must have the shape {shape}, for images of the shape "
                    f"{self.images.shape}. Received: {found}"
                )
        for name in ("images", "adversarial", *PROBABILITIES):
            if not np.all((getattr(self, name) >= 0) & (getattr(self, name) <= 1)):
                raise ValueError(f"`{name}` must be in [0, 1]. Received: other values")
        if not all(
            np.allclose(getattr(self, name).sum(axis=1), 1, atol=0.01)
            for name in PROBABILITIES
        ):
            raise ValueError(
                f"{' and '.join(f'`{name}`' for name in PROBABILITIES)} must sum to 1 "
                "for each image, as keras.ops.softmax makes them of logits. Received: "
                "other sums"
            )
        if np.any(labels < 0) or np.any(labels >= self.probabilities.shape[1]):
            raise ValueError(
                "`labels` must be of the classes of `probabilities`, from 0 to "
                f"{self.probabilities.shape[1] - 1}. Received: {labels.tolist()}"
            )
        number = np.asarray(epsilon)
        if number.shape or number.dtype.kind not in "iuf" or not 0 <= number < np.inf:
            raise ValueError(
                f"`epsilon` must be a number of at least 0. Received: {epsilon!r}"
            )


def _all_numbers(values, most=1.0):
    """Whether `values` are a list of numbers from 0 to `most`, and finite."""
    if not isinstance(values, (list, tuple, np.ndarray)) or np.ndim(values) != 1:
        return False
    return all(is_number(value, 0, most) for value in values)


def _is_list(values, fits, size=None):
    """Whether `values` are a list, of `size` entries if that is known, that all fit."""
    is_array = isinstance(values, np.ndarray) and values.ndim
    if not is_array and not isinstance(values, (list, tuple)):
        return False
    return size in (None, len(values)) and all(map(fits, values))


def _is_accuracy(value):
    return value is None or is_number(value, 0, 1)


def _is_amount(value):
    return is_number(value, 0)


def _is_finding(value):
    return isinstance(value, dict) and isinstance(value.get("message"), str)


def _of_classes(values, size):
    return values is None or _is_list(values, _is_amount, size)


def _are_classes(values, size):
    return values is None or _is_list(values, lambda i: is_whole(i, 0) and i < size)


def _is_matrix(rows, size):
    return _is_list(rows, lambda row: _is_list(row, _is_amount, size), size)


def _are_stages(stages, size):
    if not isinstance(stages, dict):
        return False
    for name, entry in stages.items():
        _check_entry(name, entry)
        _check_values(f"stages[{name!r}]", entry, OF_ENTRIES, size)
    return True


# What is read of settings and entries, if it is there: whether a value is what it may
# be with so many classes, and that in words.
OF_CLASSES = (_of_classes, "a list with a number for each of the {} classes")
OF_SETTINGS = {
    "class_counts": OF_CLASSES,
    "epsilon": (
        lambda value, _: value is None or _is_amount(value),
        "a number of at least 0",
    ),
    "examples": (lambda value, _: is_whole(value, 0), "a whole number"),
    "examples_per_class": OF_CLASSES,
    "findings": (
        lambda value, _: value is None or _is_list(value, _is_finding),
        "a list of dictionaries with a 'message'",
    ),
    "tail_classes": (_are_classes, "a list of some of the {} classes"),
    "versions": (lambda value, _: isinstance(value, dict), "a dictionary"),
}
OF_ENTRIES = {
    "attack": (lambda value, _: isinstance(value, (dict, type(None))), "a dictionary"),
    "confusion": (_is_matrix, "a list with a number for each two of the {} classes"),
    "per_class": (
        lambda value, size: len(value) == size,
        "a list with an accuracy for each of the {} classes",
    ),
    "stages": (_are_stages, "a dictionary of entries"),
}


def _check_values(where, values, kinds, size):
    """Raises a ValueError if what is read of an entry or of settings is none of it."""
    for key, (fits, expected) in kinds.items():
        if key in values and not fits(values[key], size):
            raise ValueError(
                f"`{where}[{key!r}]` must be {expected.format(size)}. "
                f"Received: {values[key]!r:.200}"
            )


def _check_entry(attack, entry):
    """Raises a ValueError if an entry of results has no name or no accuracies."""
    named = isinstance(attack, str) and isinstance(entry, dict)
    if not named or not {*SUMMARY, "per_class"} <= entry.keys():
        raise ValueError(
            f"`accuracies[{attack!r}]` must be a dictionary with "
            f"{', '.join(map(repr, SUMMARY))} and 'per_class', by the name of an "
            f"attack, a string. Received: {entry!r:.200}"
        )
    for key in (*SUMMARY, "per_class"):
        found = entry[key] if key == "per_class" else [entry[key]]
        if not _is_list(found, _is_accuracy):
            raise ValueError(
                f"`accuracies[{attack!r}][{key!r}]` must be in [0, 1], or None where "
                f"there is no accuracy{', for each class' * (key == 'per_class')}. "
                f"Received: {entry[key]!r}"
            )


def in_json(value):
    """A number or an array of NumPy as JSON can hold it."""
    if isinstance(value, (np.generic, np.ndarray)):
        return value.tolist()
    raise ValueError(
        "Results must hold what JSON can: numbers, strings, lists, dictionaries. "
        f"Received: {value!r} of type {type(value).__name__}"
    )


def _on_one_line(match):
    return "[" + re.sub(r",\n\s*", ", ", match[1]) + "]"


def text_table(head, rows):
    """Lines of right-aligned columns, the first one left-aligned; long heads wrap."""
    heads = [wrapped(cell, WIDEST_HEAD) for cell in head]
    height = max(map(len, heads))
    heads = [[""] * (height - len(lines)) + lines for lines in heads]
    lines = [*map(list, zip(*heads, strict=True)), *rows]
    widths = [max(map(display_width, column)) for column in zip(*lines, strict=True)]

    def line(row):
        first, *rest = zip(row, widths, strict=True)
        return "  ".join([ljust(*first), *(rjust(*cell) for cell in rest)]).rstrip()

    lines.insert(height, ["-" * width for width in widths])
    return "\n".join(map(line, lines))
