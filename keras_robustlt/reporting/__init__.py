"""One page, in one file, on one run or on several side by side. Needs no backend."""

import os
import pathlib
import warnings

from keras_robustlt.files import local_path, write_atomically
from keras_robustlt.reporting.page import page
from keras_robustlt.reporting.runs import load, what_differs

__all__ = ["report"]


def report(*arguments, names=None, title=None):
    """Writes a page on one run, or on several side by side.

    The page is one file that shows itself in any browser, without a network: accuracy
    under each attack, head against tail, each class, confusions under attack, budgets,
    training curves, robustness against epsilon, images with their perturbations, and
    all settings, versions and seeds. What a run has no data for is left out, and the
    page says at its end how to get it.

    Args:
        *arguments: The runs, and last the path of the `.html` file to write. A run is
            the directory of a recipe's run, or of your own with some of the files
            `results.json`, `history.csv` (`callbacks.HistoryCSV`), `schedule.csv`
            (`callbacks.ScheduleInspector`) and `examples.npz`
            (`adversarial_examples`); or the path of a single `results.json`; or an
            `EvaluationResults`, with what its attributes `curve` and `examples` hold.
        names: List of strings: what the runs are called. Defaults to the method of a
            recipe's run, the name of the directory or file, or `"run 1"`.
        title: String. Defaults to the names of the runs.

    Returns:
        The path of the page.

    Raises:
        ValueError: If there is no run or no path, a run has none of the files or a
            damaged one, or the runs are of different classes.

    Example:

    >>> path = krl.report(at, ours, "report.html", names=["AT", "AT + RobustLT"])
    """
    *sources, path = arguments or (None,)
    is_path = isinstance(path, (str, os.PathLike))
    if not is_path or pathlib.Path(path).suffix.lower() not in (".html", ".htm"):
        raise ValueError(
            "`path`, the last argument, must be that of an .html file to write. "
            f"Received: {path!r}"
        )
    local_path("path", path)
    path = pathlib.Path(path)
    if not sources:
        raise ValueError(
            "`runs` must come before the path: directories, results.json files or "
            "EvaluationResults. Received: none"
        )
    _check_apart(sources)
    runs = [load(source, index) for index, source in enumerate(sources)]
    for run in runs:
        if run.results is not None and not run.results:
            raise ValueError(f"`runs` must have results. Received: none of {run.name}")
    _name(runs, names)
    _check_classes(runs)
    differs = what_differs(runs)
    if differs:
        warnings.warn(
            "The runs were not evaluated alike, so that their numbers cannot be "
            f"compared: they differ in {', '.join(differs)}. The report says so.",
            stacklevel=2,
        )
    # Names of folders need not be UTF-8.
    write_atomically(path, page(runs, title).encode("utf-8", "backslashreplace"))
    return path


def _check_apart(sources):
    """Raises if a directory or file is there more than once, as runs to compare."""
    paths = {}
    for source in sources:
        if isinstance(source, (str, os.PathLike)):
            path = local_path("runs", source).resolve()
            first = paths.setdefault(path, source)
            if first is not source:
                raise ValueError(
                    "`runs` must be different ones. Received the same twice: "
                    f"{str(first)!r} and {str(source)!r}"
                )


def _name(runs, names):
    """Gives each run another name."""
    if names is not None:
        fits = isinstance(names, (list, tuple)) and len(names) == len(runs)
        if not fits or not all(
            isinstance(name, str) and name.strip() for name in names
        ):
            raise ValueError(
                "`names` must have a name for each of the "
                f"{len(runs)} runs, a list of strings. Received: names={names!r}"
            )
        for run, name in zip(runs, names, strict=True):
            run.name = name
    seen = set()
    for run in runs:
        name, number = run.name, 2
        while run.name in seen:
            run.name, number = f"{name} ({number})", number + 1
        seen.add(run.name)


def _check_classes(runs):
    known = [run for run in runs if run.class_names]
    for run in known[1:]:
        if run.class_names != known[0].class_names:
            raise ValueError(
                "`runs` must be of the same classes to be on one page. Received: "
                f"{known[0].class_names} in {known[0].name!r}, and {run.class_names} "
                f"in {run.name!r}"
            )
