"""What there is to report of a run."""

import dataclasses
import json
import os
import pathlib
import re

import numpy as np

from keras_robustlt.class_names import are_numbers, as_text, composed
from keras_robustlt.evaluation.results import AdversarialExamples, EvaluationResults
from keras_robustlt.files import read_rows
from keras_robustlt.run_config import check_entries

__all__ = ["Run", "load"]

# What `ScheduleInspector` adds to the later of two equal names of classes.
NUMBER_OF_CLASS = re.compile(r"( \(class \d+\))*$")
FILES = ("config.json", "results.json", "history.csv", "schedule.csv", "examples.npz")


@dataclasses.dataclass
class Schedule:
    """The budget of each class along the epochs.

    Args:
        class_names: List of strings, of which some may be the same.
        epochs: List of integers.
        budgets: List of a list of floats for each class.
    """

    class_names: list
    epochs: list
    budgets: list


@dataclasses.dataclass(eq=False)
class Run:
    """A run, as far as it is known; what is not is `None`.

    Args:
        name: String.
        results: `EvaluationResults`.
        config: Dictionary, the `config.json` of a recipe.
        history: Dictionary from the columns of `history.csv` to lists of floats.
        schedule: `Schedule`.
        examples: `AdversarialExamples`.
        index: Integer: which of the runs of a page it is, from 0.
    """

    name: str
    results: EvaluationResults = None
    config: dict = None
    history: dict = None
    schedule: "Schedule" = None
    examples: AdversarialExamples = None
    index: int = 0

    @property
    def colour(self):
        return f"var(--run-{self.index % 6})"

    @property
    def class_names(self):
        if self.results is not None:
            return list(self.results.settings["class_names"])
        if self.config is not None and self.config.get("class_names"):
            return list(self.config["class_names"])
        return None if self.schedule is None else self.schedule.class_names

    @property
    def is_attacked(self):
        """Whether images were attacked in training, as far as is known."""
        return self.settings.get("method") != "standard"

    @property
    def settings(self):
        """Those of its training."""
        return (self.config or {}).get("settings", {})

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


def what_differs(runs):
    """How the evaluations of runs differ, which makes their numbers incomparable.

    Args:
        runs: List of `Run`, of which some may have no results.

    Returns:
        List of strings, empty where all were measured alike as far as is known.
    """
    measured = [run for run in runs if run.results]
    attacks = dict.fromkeys(name for run in measured for name in run.results)
    sides = {
        f"attack {name}": [
            run.results[name].get("attack") for run in measured if name in run.results
        ]
        for name in attacks
    }
    sides["test images"] = [
        run.results.settings.get("examples_per_class") for run in measured
    ]
    for key in ("data", "image_size"):
        sides[key] = [run.settings.get(key) for run in measured if run.settings]
    known = {
        name: [each for each in found if each is not None]
        for name, found in sides.items()
    }
    return [
        name for name, found in known.items() if any(each != found[0] for each in found)
    ]


def load(source, index):
    """The `Run` of an argument of `report`."""
    if isinstance(source, EvaluationResults):
        run = Run(f"run {index + 1}", source, examples=source.examples, index=index)
        _check_classes(f"EvaluationResults of {run.name}", run)
        return run
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
        "config": _if_there(_config, path / "config.json"),
        "results": _if_there(EvaluationResults.from_json, path / "results.json"),
        "history": _if_there(_history, path / "history.csv"),
        "schedule": _if_there(_schedule, path / "schedule.csv"),
        "examples": _if_there(AdversarialExamples.from_npz, path / "examples.npz"),
    }
    name = (read["config"] or {}).get("name") or path.resolve().name
    run = Run(str(name), **read, index=index)
    _check_classes(path, run)
    return run


def _check_classes(path, run):
    """Raises if the files of a run are not of the same classes."""
    names = {
        "config.json": run.config and run.config.get("class_names"),
        "results.json": run.results and run.results.settings["class_names"],
        "schedule.csv": run.schedule and run.schedule.class_names,
    }
    names = {file: list(map(_bare, each)) for file, each in names.items() if each}
    sizes = {file: len(each) for file, each in names.items()}
    if run.examples:
        sizes["examples.npz"] = run.examples.probabilities.shape[1]
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{file} of {size}" for file, size in sizes.items())
        raise _of_another_run(path, f"{listed} classes")
    # Who evaluates or watches a training may leave the names out.
    known = {
        file: each
        for file, each in names.items()
        if file == "config.json" or not are_numbers(each)
    }
    for index, called in enumerate(zip(*known.values(), strict=True)):
        if len(set(called)) > 1:
            pairs = zip(known, called, strict=True)
            listed = ", ".join(f"{name!r} in {file}" for file, name in pairs)
            raise _of_another_run(path, f"class {index} called {listed}")


def _bare(name):
    """The name of a class, however a file has it."""
    return NUMBER_OF_CLASS.sub("", composed(as_text(name)))


def _of_another_run(path, found):
    return ValueError(
        "`runs` must have files of the same classes: those of another run are "
        f"among them. Received: {str(path)!r} with {found}"
    )


def check_tables(path):
    """Raises a ValueError if the tables in the directory of a run are damaged."""
    _if_there(_history, path / "history.csv")
    _if_there(_schedule, path / "schedule.csv")


def _if_there(read, path):
    return read(path) if path.is_file() else None


def _config(path):
    try:
        config = json.loads(path.read_text("utf-8"))
        if not {"settings", "class_names", "class_counts"} & config.keys():
            raise ValueError("it has nothing of a run")
        for key in ("settings", "versions"):
            config[key] = dict(config.get(key) or {})
        check_entries(config)
        return config
    except (AttributeError, TypeError, ValueError) as error:
        raise _unreadable(path, error) from None


def _history(path):
    """The columns by their names, with that of the epochs; `None` without rows."""
    names, epochs, columns = _numbers(path)
    by_name = dict(zip(names, columns, strict=True))
    return {**by_name, "epoch": epochs} if epochs else None


def _schedule(path):
    names, epochs, columns = _numbers(path)
    if not epochs:
        return None
    if names[:1] != ["iteration_weight"] or not names[1:]:
        raise _unreadable(path, "its columns are not those of `ScheduleInspector`")
    if any(value < 0 or np.isinf(value) for column in columns for value in column):
        raise _unreadable(path, "it has values that are infinite or negative")
    return Schedule(names[1:], epochs, columns[1:])


def _numbers(path):
    """The names of the columns but the first, the epochs, and the columns as floats."""
    names, rows = read_rows(path)
    try:
        rows = [[epoch, *map(_number, row)] for epoch, *row in rows]
    except ValueError as error:
        raise _unreadable(path, error) from None
    if not rows:
        return names, [], [[] for _ in names]
    epochs, *columns = map(list, zip(*rows, strict=True))
    return names, epochs, columns


def _number(cell):
    """A cell as a float; of an empty one, and of an array's, NaN."""
    return float(cell) if cell and not cell.startswith("[") else np.nan


def _unreadable(path, error):
    return ValueError(f"`runs` has a file that cannot be read: {str(path)!r} ({error})")
