"""Runs as one table: mean and standard deviation over the seeds."""

import csv
import io
import json
import pathlib
import statistics

from keras_robustlt.evaluation.results import SUMMARY
from keras_robustlt.experiments import comparison
from keras_robustlt.experiments.comparison import (
    MOST_CLASSES,
    class_heads,
    markdown_table,
)

TEXT = """# Accuracy in %

Mean ± standard deviation (of the sample, n - 1) over so many seeds; with one seed, its
value. clean: without an attack. tail: the classes with the fewest training images.
"""


def collect(workdir):
    """What the finished runs under a directory have in common and how they spread.

    Args:
        workdir: Path. Its runs are in `<data>/<method and budget>/seed<n>`.

    Returns:
        A list with a dictionary for each group of runs whose settings differ in
        nothing but the seed. Under `"accuracy"`, by attack and by `"all"`, `"tail"`,
        `"balanced"` and `"worst"`, are `"mean"` and `"std"` (`None` for one seed), as
        shares of one, and the `"values"` in the order of `"seeds"`; under
        `"per_class"`, by attack, a list of the same for the classes of
        `"class_names"`. Under `"runs"`, by seed, is what their `results.json` hold.
    """
    groups = {}
    for path in pathlib.Path(workdir).glob("*/*/seed*/results.json"):
        try:
            results = json.loads(path.read_text())
            settings = dict(results["training"])
        except (KeyError, TypeError, ValueError):
            continue  # cut short, so not finished, or not what the run wrote
        seed = settings.pop("seed")
        key = (*path.parts[-4:-2], json.dumps(settings))
        groups.setdefault(key, {})[seed] = path.parent, results
    rows = [_row(key[0], runs) for key, runs in groups.items()]
    _tell_apart(rows)
    return sorted(rows, key=_order)


def _row(data, runs):
    seeds = sorted(runs)
    workdir, first = runs[seeds[0]]
    config = json.loads((workdir / "config.json").read_text())
    del config["settings"]["seed"]
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
        "settings": config["settings"],
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
    """Adds to names that several rows have the settings in which these differ."""
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
            differing = ", ".join(f"{key} {row['settings'].get(key)}" for key in keys)
            row["name"] += f" ({differing})"


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
