"""What there is to report of a run."""

import csv
import dataclasses
import json
import os
import pathlib
import zipfile

import numpy as np

from keras_robustlt.evaluation.results import AdversarialExamples, EvaluationResults

__all__ = ["Run", "load"]

FILES = ("config.json", "results.json", "history.csv", "schedule.csv", "examples.npz")


@dataclasses.dataclass(eq=False)
class Run:
    """A run, as far as it is known; what is not is `None`.

    Args:
        name: String.
        results: `EvaluationResults`.
        config: Dictionary, the `config.json` of a recipe.
        history: Dictionary from the columns of `history.csv` to lists of floats.
        schedule: The same of `schedule.csv`, whose columns after the first two are the
            classes.
        examples: `AdversarialExamples`.
        index: Integer: which of the runs of a page it is, from 0.
    """

    name: str
    results: EvaluationResults = None
    config: dict = None
    history: dict = None
    schedule: dict = None
    examples: AdversarialExamples = None
    index: int = 0

    @property
    def colour(self):
        return f"var(--run-{self.index % 6})"

    @property
    def class_names(self):
        if self.results is not None:
            return list(self.results.settings["class_names"])
        if self.config is not None:
            return list(self.config["class_names"])
        return None if self.schedule is None else list(self.schedule)[2:]

    @property
    def class_counts(self):
        """Training images of each class."""
        counts = self.results and self.results.settings.get("class_counts")
        return counts or (self.config or {}).get("class_counts")

    @property
    def tail(self):
        """The indices of the tail classes."""
        return (self.results and self.results.settings.get("tail_classes")) or []

    @property
    def curve(self):
        return None if self.results is None else self.results.curve

    def head_first(self):
        """The indices of the classes, from the most to the fewest training images."""
        counts = self.class_counts or [0] * len(self.class_names)
        return sorted(range(len(counts)), key=lambda index: -counts[index])


def load(source, index):
    """The `Run` of an argument of `report`."""
    if isinstance(source, EvaluationResults):
        return Run(f"run {index + 1}", source, examples=source.examples, index=index)
    if not isinstance(source, (str, os.PathLike)):
        raise ValueError(
            "`runs` must be directories of runs, results.json files or "
            f"EvaluationResults. Received: {source!r} of type {type(source).__name__}"
        )
    path = pathlib.Path(source)
    if path.is_file():
        results = EvaluationResults.from_json(path)
        return Run(path.stem, results, index=index)
    there = [name for name in FILES if (path / name).is_file()]
    if not there:
        raise ValueError(
            "`runs` must be directories with some of the files "
            f"{', '.join(FILES)}, as recipes write them. Received: {str(path)!r}, "
            f"which {'has none of these' if path.is_dir() else 'does not exist'}"
        )
    read = {
        "config": _json(path / "config.json"),
        "results": _if_there(EvaluationResults.from_json, path / "results.json"),
        "history": _columns(path / "history.csv"),
        "schedule": _columns(path / "schedule.csv"),
        "examples": _if_there(_examples, path / "examples.npz"),
    }
    name = (read["config"] or {}).get("name") or path.resolve().name
    return Run(name, **read, index=index)


def _if_there(read, path):
    return read(path) if path.is_file() else None


def _json(path):
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text("utf-8"))
    except json.JSONDecodeError as error:
        raise _unreadable(path, error) from None


def _columns(path):
    """The columns of a CSV file of numbers by their names; `None` without rows."""
    if not path.is_file():
        return None
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    if len(rows) < 2:
        return None
    try:
        values = [[float(cell) if cell else np.nan for cell in row] for row in rows[1:]]
        return {
            name: [row[column] for row in values] for column, name in enumerate(rows[0])
        }
    except (IndexError, ValueError) as error:
        raise _unreadable(path, error) from None


def _examples(path):
    try:
        return AdversarialExamples.from_npz(path)
    except (EOFError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise _unreadable(path, error) from None


def _unreadable(path, error):
    return ValueError(
        f"`runs` has a file that cannot be read: {str(path)!r} "
        f"({type(error).__name__}: {error})"
    )
