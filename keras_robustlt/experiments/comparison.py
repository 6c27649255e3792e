"""What a rule for the budget changes: paired differences, with intervals over seeds.

Runs of one seed have the same images, the same initial weights and the same order of
the data, whatever their budget. What the seed does to accuracy therefore cancels in
the difference between a run with a rule for the budget and the run without one, and
the difference is known more precisely than either accuracy.
"""

import csv
import io
import json
import math
import re

import numpy as np

from keras_robustlt.class_names import display_width, ljust, one_line, rjust
from keras_robustlt.evaluation.results import SUMMARY

__all__ = ["compare", "group_accuracy", "interval", "write"]

CONFIDENCE = 0.95
# As in the literature on long-tailed data, by the training images of a class.
MANY_ABOVE = 100
FEW_BELOW = 20
BY_SIZE = ("many", "medium", "few")
GROUPS = (*SUMMARY, *BY_SIZE)
# What may differ between a run and the one without a rule for the budget.
OF_THE_BUDGET = ("budget", "alpha", "beta", "granularity", "weighting")
MOST_CLASSES = 20
# What ends a cell of a table, or starts a tag.
MARKDOWN = re.compile(r"[|<]")

TEXT = f"""# What the budget changes

Accuracy with a rule for the budget minus accuracy without, in percentage points: mean
over the seeds of the paired differences, and the {CONFIDENCE:.0%} interval of Student's
t. An interval that leaves 0 out is marked with *. Of many intervals, one in twenty
does so by chance: decide beforehand which one answers the question. With one seed
there is no interval. tail: the classes with the fewest training images. many, medium
and few: the classes with more than {MANY_ABOVE}, {FEW_BELOW} to {MANY_ABOVE}, and fewer
than {FEW_BELOW} training images.
"""


def interval(differences, confidence=CONFIDENCE):
    """The mean of a sample and the interval of Student's t around it.

    `mean ± t s / sqrt(n)`, with the standard deviation `s` of the sample and the
    quantile `t` of `n - 1` degrees of freedom. It holds the mean of the population
    with the given probability if the values are normally distributed.

    Args:
        differences: Numbers of shape `(n,)`.
        confidence: Float in `(0, 1)`. Defaults to `0.95`.

    Returns:
        Mean, low end and high end as floats; the ends are `None` for one value.
    """
    from scipy import stats

    values = np.asarray(differences, "float64")
    mean = float(values.mean())
    if len(values) < 2:
        return mean, None, None
    quantile = stats.t.ppf((1 + confidence) / 2, len(values) - 1)
    half = float(quantile * values.std(ddof=1) / math.sqrt(len(values)))
    return mean, mean - half, mean + half


def size_of(training_images):
    """`"many"`, `"medium"` or `"few"`: what the class counts as."""
    if training_images > MANY_ABOVE:
        return "many"
    return "few" if training_images < FEW_BELOW else "medium"


def group_accuracy(results, attack):
    """Accuracy of each of `GROUPS` under an attack.

    Args:
        results: Dictionary, the content of a `results.json`.
        attack: String.

    Returns:
        A dictionary from the groups to floats, or `None` for a group without test
        images or training images that are not known.
    """
    entry, settings = results["attacks"][attack], results["settings"]
    accuracy = {group: entry[group] for group in SUMMARY}
    per_class = entry["per_class"]
    counts = settings.get("class_counts")
    sizes = [size_of(count) for count in counts] if counts else [None] * len(per_class)
    # As many of each class, unless said otherwise.
    examples = settings.get("examples_per_class") or [1] * len(per_class)
    for group in BY_SIZE:
        members = [
            (value, number)
            for value, number, size in zip(per_class, examples, sizes, strict=True)
            if size == group and value is not None
        ]
        accuracy[group] = None
        if members:
            values, weights = zip(*members, strict=True)
            accuracy[group] = float(np.average(values, weights=weights))
    return accuracy


def compare(rows):
    """What each rule for the budget changes, method by method.

    Args:
        rows: List of dictionaries, what `summary.collect` gives.

    Returns:
        A flat list with a dictionary for each rule, attack and group of classes, or
        class, in which the two have a value for some seed that both were run with:
        `"data"`; `"name"` and `"baseline"`, what the two are called; `"method"`,
        `"budget"`, `"attack"`, `"group"` (`"class"` for a single class), `"class"`
        and `"training_images"` (`None` for groups); the `"seeds"` that count and
        their `"differences"`; and the means `"without"`, `"with"` and `"difference"`
        with the ends of its interval, `"low"` and `"high"`. Accuracies are shares of
        one.
    """
    lines = []
    for row in rows:
        baseline = _without_rule(row, rows)
        if baseline is not None:
            lines += _compare_pair(baseline, row)
    return lines


def _without_rule(row, rows):
    """The row of the same runs without a rule for the budget."""
    if row["settings"]["budget"] == "uniform":
        return None
    for other in rows:
        if other["settings"]["budget"] == "uniform" and _rest(other) == _rest(row):
            return other
    return None


def _rest(row):
    settings = row["settings"]
    rest = {key: settings[key] for key in settings if key not in OF_THE_BUDGET}
    measured = [measured_on(results) for results in row["runs"].values()]
    return row["data"], json.dumps([rest, measured[:1]], sort_keys=True)


def measured_on(results):
    """The classes, attacks and number of test images of what a `results.json` holds.

    How many are of which class depends on the seed, where --test_examples chooses.
    """
    settings = results["settings"]
    counts = settings.get("examples_per_class")
    return settings["class_names"], list(results["attacks"]), counts and sum(counts)


def _compare_pair(baseline, row):
    seeds = [seed for seed in row["seeds"] if seed in baseline["seeds"]]
    if not seeds:
        return []
    pairs = [(baseline["runs"][seed], row["runs"][seed]) for seed in seeds]
    common = {
        "data": row["data"],
        "name": row["name"],
        "baseline": baseline["name"],
        "method": row["settings"]["method"],
        "budget": row["settings"]["budget"],
    }
    settings = pairs[0][1]["settings"]
    names = settings["class_names"]
    counts = settings.get("class_counts") or [None] * len(names)
    lines = []
    for attack in row["accuracy"]:
        if attack not in baseline["accuracy"]:
            continue
        groups = [[group_accuracy(run, attack) for run in pair] for pair in pairs]
        classes = [
            [run["attacks"][attack]["per_class"] for run in pair] for pair in pairs
        ]
        for group in GROUPS:
            values = [[run[group] for run in pair] for pair in groups]
            where = {"group": group, "class": None, "training_images": None}
            lines += _line({**common, "attack": attack, **where}, seeds, values)
        for index, (name, count) in enumerate(zip(names, counts, strict=True)):
            values = [[run[index] for run in pair] for pair in classes]
            where = {"group": "class", "class": name, "training_images": count}
            lines += _line({**common, "attack": attack, **where}, seeds, values)
    return lines


def _line(labels, seeds, values):
    """The line of a group, in a list; an empty one where no seed has both values.

    Args:
        labels: Dictionary.
        seeds: List of integers.
        values: List of pairs, without and with the rule, one for each seed.
    """
    there = [
        (seed, pair)
        for seed, pair in zip(seeds, values, strict=True)
        if None not in pair
    ]
    if not there:
        return []
    seeds, values = zip(*there, strict=True)
    without, with_rule = np.asarray(values, "float64").T
    differences = with_rule - without
    mean, low, high = interval(differences)
    return [
        {
            **labels,
            "seeds": list(seeds),
            "without": float(without.mean()),
            "with": float(with_rule.mean()),
            "difference": mean,
            "low": low,
            "high": high,
            "differences": differences.tolist(),
        }
    ]


def write(rows, workdir):
    """Writes `comparison.md`, `comparison.csv` and `comparison.json` into `workdir`.

    Args:
        rows: List of dictionaries, what `summary.collect` gives.
        workdir: Path.

    Returns:
        The text of `comparison.md`, without the single classes; `None`, and no file,
        if there is nothing to compare.
    """
    lines = compare(rows)
    if not lines:
        return None
    of_groups = markdown(lines)
    text = "\n".join([of_groups, *_class_tables(lines)])
    (workdir / "comparison.md").write_text(text, encoding="utf-8")
    (workdir / "comparison.csv").write_text(csv_text(lines), encoding="utf-8")
    content = json.dumps(lines, indent=2) + "\n"
    (workdir / "comparison.json").write_text(content, encoding="utf-8")
    return of_groups


def markdown(lines):
    """A table for each data set, a row for each rule and attack."""
    parts = [TEXT]
    for data in dict.fromkeys(line["data"] for line in lines):
        of_data = [
            line for line in lines if line["data"] == data and line["group"] in GROUPS
        ]
        there = {line["group"] for line in of_data}
        columns = [group for group in GROUPS if group in there]
        parts.append(f"## {data}\n\n{_table(of_data, 'group', columns)}\n")
    return "\n".join(parts)


def _class_tables(lines):
    """Tables of the single classes, of data sets that do not have too many."""
    for data in dict.fromkeys(line["data"] for line in lines):
        of_data = [
            line for line in lines if line["data"] == data and line["group"] == "class"
        ]
        images = {line["class"]: line["training_images"] for line in of_data}
        if not 0 < len(images) <= MOST_CLASSES:
            continue
        heads = class_heads(images, images.values())
        table = _table(of_data, "class", list(images), heads)
        yield f"## {data}, class by class (training images)\n\n{table}\n"


def class_heads(names, counts):
    """The names of classes, with their training images where these are known."""
    return [
        name if count is None else f"{name} ({count})"
        for name, count in zip(names, counts or [None] * len(names), strict=True)
    ]


def _table(lines, key, columns, heads=None):
    cells = {}
    for line in lines:
        start = (line["name"], line["attack"], str(len(line["seeds"])))
        cells.setdefault(start[:2], [*start, {}])[-1][line[key]] = cell(line)
    rows = [
        [name, attack, seeds, *(values.get(column, "-") for column in columns)]
        for name, attack, seeds, values in cells.values()
    ]
    return markdown_table(["", "attack", "seeds", *(heads or columns)], rows)


def cell(line):
    """A difference and its interval in percentage points."""
    text = f"{100 * line['difference']:+.1f}"
    if line["low"] is None:
        return text
    mark = "*" if line["low"] > 0 or line["high"] < 0 else ""
    return f"{text}{mark} [{100 * line['low']:+.1f}, {100 * line['high']:+.1f}]"


def markdown_table(head, rows):
    """A table in Markdown, padded so that it reads in a terminal too."""
    head, *rows = [[_in_markdown(cell) for cell in row] for row in [head, *rows]]
    widths = [max(map(display_width, cells)) for cells in zip(head, *rows, strict=True)]

    def line(cells):
        first, *rest = zip(cells, widths, strict=True)
        padded = [ljust(*first), *(rjust(*cell) for cell in rest)]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(head), line(rule), *map(line, rows)])


def _in_markdown(cell):
    """A cell, which may have the name of a class or of a folder in it."""
    return MARKDOWN.sub(r"\\\g<0>", one_line(cell))


def csv_text(lines):
    """A line for each difference; accuracies as shares of one."""
    keys = [key for key in lines[0] if key not in ("seeds", "differences")]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*keys, "seeds"])
    writer.writerows(
        [*(line[key] for key in keys), len(line["seeds"])] for line in lines
    )
    return text.getvalue()
