"""Accuracies by attack: as a table, and to and from JSON. Needs no backend."""

import json
import pathlib

__all__ = ["EvaluationResults"]

SUMMARY = ("all", "tail", "balanced", "worst")


class EvaluationResults(dict):
    """Accuracies by attack, as `summarize` gives them, with the attack's settings.

    A dictionary from the attack's name to a dictionary with `"all"`, `"tail"`,
    `"balanced"`, `"worst"`, `"per_class"` and `"attack"`. Printed, it is a table.

    Attributes:
        settings: Dictionary: what the numbers were measured with.
    """

    def __init__(self, accuracies, settings):
        super().__init__(accuracies)
        self.settings = settings

    def to_json(self, path=None, **extra):
        """The results as a JSON string, written to `path` if given.

        Args:
            path: String or path of the file to write. Defaults to `None`.
            **extra: Further entries for the top level.

        Returns:
            The string.
        """
        content = {"attacks": dict(self), "settings": self.settings, **extra}
        text = json.dumps(content, indent=2) + "\n"
        if path is not None:
            pathlib.Path(path).write_text(text)
        return text

    @classmethod
    def from_json(cls, path):
        """The results that `to_json` wrote to a file.

        Args:
            path: String or path of the file, such as the `results.json` of a recipe.

        Returns:
            An `EvaluationResults`. Further entries of the file are left out.

        Raises:
            ValueError: If the file is not one of `to_json`.

        Example:

        >>> results = krl.evaluate(model, test)
        >>> text = results.to_json("results.json")
        >>> krl.EvaluationResults.from_json("results.json") == results
        True
        """
        try:
            content = json.loads(pathlib.Path(path).read_text())
            return cls(content["attacks"], content["settings"])
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                "`path` must be a file that `EvaluationResults.to_json` wrote, whole. "
                f"Received: path={str(path)!r} ({type(error).__name__}: {error})"
            ) from None

    def table(self, per_class=True):
        """The results as lines of text, in percent."""
        classes = self.settings["class_names"] if per_class else []
        head = ["attack", *SUMMARY, *classes]
        rows = [[name, *self.row(name)][: len(head)] for name in self]
        return text_table(head, rows)

    def row(self, attack):
        """The cells of `attack` in `table`: the summary, then each class."""
        entry = self[attack]
        values = [*(entry[key] for key in SUMMARY), *entry["per_class"]]
        return ["-" if value is None else f"{100 * value:.1f}" for value in values]

    def __str__(self):
        return self.table()

    __repr__ = __str__


def text_table(head, rows):
    """Lines of right-aligned columns, the first one left-aligned."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]

    def line(row):
        cells = [row[0].ljust(widths[0])]
        cells += [
            cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True)
        ]
        return "  ".join(cells)

    return "\n".join([line(head), "  ".join("-" * w for w in widths), *map(line, rows)])
