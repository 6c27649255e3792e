"""Runs as one table: mean and standard deviation over the seeds."""

import csv
import io
import json
import pathlib
import statistics
import warnings

from keras_robustlt.evaluation.results import SUMMARY, EvaluationResults
from keras_robustlt.experiments import comparison, workdir
from keras_robustlt.experiments.comparison import (
    MOST_CLASSES,
    class_heads,
    markdown_table,
)

# What `write` writes.
FILES = tuple(
    f"{name}.{kind}"
    for name in ("table", "comparison")
    for kind in ("md", "csv", "json")
)

TEXT = """# Accuracy in %

Mean ± standard deviation (of the sample, n - 1) over so many seeds; with one seed, its
value. clean: without an attack. tail: the classes with the fewest training images.
"""


def collect(folder):
    """What the finished runs under a directory have in common and how they spread.

    A run whose files cannot be read is left out, with a warning.

    Args:
        folder: Path. Its runs are in `<data>/<method and budget>/seed<n>`.

    Returns:
        A list with a dictionary for each group of runs whose settings differ in
        nothing but the seed, and that were evaluated alike. Under `"accuracy"`, by
        attack and by `"all"`, `"tail"`, `"balanced"` and `"worst"`, are `"mean"` and
        `"std"` (`None` for one seed), as shares of one, and the `"values"` in the
        order of `"seeds"`; under `"per_class"`, by attack, a list of the same for the
        classes of `"class_names"`. Under `"runs"`, by seed, is what their
        `results.json` hold.
    """
    groups = {}
    for path in sorted(pathlib.Path(folder).glob("*/*/seed*/results.json")):
        try:
            config, results = _read(path)
        except (OSError, ValueError) as error:
            warnings.warn(
                f"{path.parent} is left out of the table: {error}. Put the file back, "
                "or delete results.json, and the same sweep makes it again.",
                stacklevel=2,
            )
            continue
        settings = dict(config["settings"])
        seed = settings.pop("seed")
        key = settings, comparison.measured_on(results)
        key = (*path.parts[-4:-2], json.dumps(key))
        groups.setdefault(key, {})[seed] = config, results
    rows = [_row(key[0], runs) for key, runs in groups.items()]
    _tell_apart(rows)
    return sorted(rows, key=_order)


def _read(path):
    """The config.json and the results.json of a finished run.

    Raises:
        ValueError: If they are not those of one run, whole.
    """
    EvaluationResults.from_json(path)  # raises if it is something else
    results = json.loads(path.read_text("utf-8"))
    config = workdir.read_config(path.with_name("config.json"))
    if config is None:
        raise ValueError("its config.json is not there")
    training = results.get("training")
    if not isinstance(training, dict) or workdir.changed(training, config["settings"]):
        raise ValueError("results.json is of other settings than config.json")
    lacking = {"seed", "method", "budget"} - config["settings"].keys()
    if lacking or not isinstance(config.get("name"), str):
        raise ValueError(f"config.json has no {', '.join(sorted(lacking)) or 'name'}")
    return config, results


def _row(data, runs):
    seeds = sorted(runs)
    config, first = runs[seeds[0]]
    settings = {k: v for k, v in config["settings"].items() if k != "seed"}
    accuracy, per_class = {}, {}
    for attack in first["attacks"]:
        entries = [runs[seed][1]["attacks"][attack] for seed in seeds]
        accuracy[attack] = {
            group: _spread([entry[group] for entry in entries]) for group in SUMMARY
        }
        of_classes = zip(*(entry["per_class"] for entry in entries), strict=True)
        per_class[attack] = [_spread(values) for values in of_classes]
    return {
        "data": data,
        "name": config["name"],
        "seeds": seeds,
        "accuracy": accuracy,
        "per_class": per_class,
        "class_names": first["settings"]["class_names"],
        "class_counts": first["settings"].get("class_counts"),
        "settings": settings,
        "runs": {seed: runs[seed][1] for seed in seeds},
    }


def _spread(values):
    """Mean and standard deviation; `None` where a run has no value."""
    values = list(values)
    mean = std = None
    if None not in values:
        mean = statistics.fmean(values)
        std = statistics.stdev(values) if len(values) > 1 else None
    return {"mean": mean, "std": std, "values": values}


def _tell_apart(rows):
    """Adds to names that several rows have the settings in which these differ.

    Where the settings are the same, the classes, test images or attacks are not.
    """
    same = {}
    for row in rows:
        same.setdefault((row["data"], row["name"]), []).append(row)
    for group in same.values():
        keys = [
            key
            for key in group[0]["settings"]
            if len({json.dumps(row["settings"].get(key)) for row in group}) > 1
        ]
        for row in group if len(group) > 1 else []:
            differing = [f"{key} {row['settings'].get(key)}" for key in keys]
            if not keys:
                seeds = ", ".join(map(str, row["seeds"]))
                differing = [f"evaluated otherwise: seed {seeds}"]
            row["name"] += f" ({', '.join(differing)})"


def _order(row):
    """By data set and method; the method alone comes first, RobustLT last."""
    method, budget = row["settings"]["method"], row["settings"]["budget"]
    rank = {"uniform": 0, "robustlt": 2, "auto": 3}.get(budget, 1)
    return row["data"], method, rank, budget, row["name"]


def write(rows, workdir):
    """Writes `table.*` and, where runs compare, `comparison.*` into `workdir`.

    Returns:
        The text of `table.md` and of the comparison, without the single classes.
    """
    text = markdown(rows)
    whole = "\n".join([text, *_class_tables(rows)])
    (workdir / "table.md").write_text(whole, encoding="utf-8")
    (workdir / "table.csv").write_text(csv_text(rows), encoding="utf-8")
    content = [
        {key: value for key, value in row.items() if key != "runs"} for row in rows
    ]
    (workdir / "table.json").write_text(json.dumps(content, indent=2) + "\n")
    return "\n".join(filter(None, (text, comparison.write(rows, workdir))))


def markdown(rows):
    """A table for each data set, a row for each method with each budget."""
    parts = [TEXT]
    for data in dict.fromkeys(row["data"] for row in rows):
        of_data = [row for row in rows if row["data"] == data]
        attacks = dict.fromkeys(name for row in of_data for name in row["accuracy"])
        columns = [(attack, group) for attack in attacks for group in SUMMARY]
        head = ["", "seeds", *map(" ".join, columns)]
        cells = [
            [row["name"], str(len(row["seeds"]))]
            + [_cell(row["accuracy"].get(a, {}).get(g)) for a, g in columns]
            for row in of_data
        ]
        parts.append(f"## {data}\n\n{markdown_table(head, cells)}\n")
    return "\n".join(parts)


def _class_tables(rows):
    """Tables of the single classes, of data sets that do not have too many."""
    for data in dict.fromkeys(row["data"] for row in rows):
        of_data = [row for row in rows if row["data"] == data]
        heads = class_heads(of_data[0]["class_names"], of_data[0]["class_counts"])
        if len(heads) > MOST_CLASSES:
            continue
        cells = [
            [row["name"], attack, str(len(row["seeds"])), *map(_cell, spreads)]
            for row in of_data
            for attack, spreads in row["per_class"].items()
        ]
        table = markdown_table(["", "attack", "seeds", *heads], cells)
        yield f"## {data}, class by class (training images)\n\n{table}\n"


def _cell(spread):
    if spread is None or spread["mean"] is None:
        return "-"
    text = f"{100 * spread['mean']:.1f}"
    return text if spread["std"] is None else f"{text} ± {100 * spread['std']:.1f}"


def csv_text(rows):
    """A line for each number, as shares of one."""
    lines = [["data", "name", "method", "budget", "seeds"]]
    lines[0] += ["attack", "group", "class", "mean", "std"]
    for row in rows:
        settings = row["settings"]
        start = [row["data"], row["name"], settings["method"], settings["budget"]]
        start.append(len(row["seeds"]))
        for attack, groups in row["accuracy"].items():
            of_classes = zip(row["class_names"], row["per_class"][attack], strict=True)
            numbers = [(group, None, spread) for group, spread in groups.items()]
            numbers += [("class", name, spread) for name, spread in of_classes]
            lines += [
                [*start, attack, group, name, spread["mean"], spread["std"]]
                for group, name, spread in numbers
            ]
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
    return text.getvalue()
