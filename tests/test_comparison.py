"""Paired differences and their intervals, against numbers made by hand."""

import csv
import io

import pytest

from keras_robustlt.evaluation.results import EvaluationResults
from keras_robustlt.experiments import comparison
from keras_robustlt.reporting import intervals
from keras_robustlt.reporting.runs import Run

SETTINGS = {"method": "at", "epochs": 3, "alpha": 0.3}


def results(per_class, counts=(200, 50, 5), **settings):
    mean = sum(per_class) / len(per_class)
    entry = {"all": mean, "tail": sum(per_class[1:]) / 2, "balanced": mean}
    entry |= {"worst": min(per_class), "per_class": list(per_class)}
    settings = {"class_names": list("abc"), "class_counts": list(counts), **settings}
    return {"attacks": {"pgd20": entry}, "settings": settings}


def row(name, budget, runs, data="fakelt", **settings):
    settings = {**SETTINGS, "budget": budget, **settings}
    if budget == "uniform":
        settings["alpha"] = 0.0
    accuracy = {"pgd20": None}
    row = {"data": data, "name": name, "settings": settings, "accuracy": accuracy}
    return {**row, "seeds": sorted(runs), "runs": runs}


BASE = row("AT", "uniform", {s: results([0.6, 0.4, s / 100]) for s in (1, 2, 3)})
# The third class gains 1, 4 and 4 points in the seeds that both have.
OURS = row(
    "AT + RobustLT",
    "robustlt",
    {
        1: results([0.6, 0.4, 0.02]),
        2: results([0.6, 0.4, 0.06]),
        3: results([0.6, 0.4, 0.07]),
        4: results([0.9, 0.9, 0.9]),
    },
)


def line_of(lines, name):
    (line,) = [line for line in lines if name in (line["group"], line["class"])]
    return line


def test_interval_by_hand():
    # t of 2 degrees of freedom is 4.3027, s is sqrt(3).
    mean, low, high = comparison.interval([1.0, 4.0, 4.0])
    assert (mean, low, high) == pytest.approx((3.0, -1.30265, 7.30265), abs=1e-4)
    assert comparison.interval([2.0]) == (2.0, None, None)
    assert comparison.interval([1.0, 1.0]) == (1.0, 1.0, 1.0)
    narrow = comparison.interval([1.0, 4.0, 4.0], confidence=0.5)
    assert narrow[1] == pytest.approx(3 - 0.81650, abs=1e-4)


def test_differences_are_paired_by_seed():
    lines = comparison.compare([BASE, OURS])
    rare = line_of(lines, "c")
    assert rare["seeds"] == [1, 2, 3]
    assert rare["differences"] == pytest.approx([0.01, 0.04, 0.04])
    assert rare["without"] == pytest.approx(0.02)
    assert rare["with"] == pytest.approx(0.05)
    values = rare["difference"], rare["low"], rare["high"]
    assert values == pytest.approx((0.03, -0.0130265, 0.0730265), abs=1e-6)
    assert rare["training_images"] == 5 and rare["group"] == "class"
    assert (rare["name"], rare["baseline"]) == ("AT + RobustLT", "AT")
    # What the seeds share is no uncertainty.
    assert line_of(lines, "a")["low"] == line_of(lines, "a")["high"] == 0
    assert line_of(lines, "tail")["difference"] == pytest.approx(0.015)
    assert line_of(lines, "few")["differences"] == rare["differences"]
    assert line_of(lines, "worst")["differences"] == rare["differences"]


@pytest.mark.parametrize(
    ("count", "name"),
    [(101, "many"), (100, "medium"), (20, "medium"), (19, "few"), (1, "few")],
)
def test_many_medium_few(count, name):
    assert comparison.size_of(count) == name


def test_groups_by_size_weigh_their_test_images():
    run = results([0.5, 0.2, 0.8], (300, 10, 5), examples_per_class=[7, 3, 1])
    accuracy = comparison.group_accuracy(run, "pgd20")
    assert (accuracy["many"], accuracy["medium"]) == (0.5, None)
    assert accuracy["few"] == pytest.approx((3 * 0.2 + 0.8) / 4)
    assert accuracy["worst"] == 0.2
    # Without test images of a class, and without training images.
    run["attacks"]["pgd20"]["per_class"][1] = None
    assert comparison.group_accuracy(run, "pgd20")["few"] == 0.8
    del run["settings"]["class_counts"]
    assert comparison.group_accuracy(run, "pgd20")["many"] is None


def test_pairs_differ_in_the_budget_alone():
    longer = row("AT (epochs 9)", "uniform", BASE["runs"], epochs=9)
    elsewhere = row("AT", "uniform", BASE["runs"], data="other")
    assert comparison.compare([longer, elsewhere, OURS, BASE][:3]) == []
    lines = comparison.compare([longer, elsewhere, OURS, BASE])
    assert {line["baseline"] for line in lines} == {"AT"}
    other_seeds = row("AT", "uniform", {9: BASE["runs"][1]})
    assert comparison.compare([other_seeds, OURS]) == []


def test_table():
    lines = comparison.compare([BASE, OURS])
    text = comparison.markdown(lines)
    head, _, cells = text.split("## fakelt\n\n")[1].splitlines()
    assert head.replace(" ", "") == (
        "||attack|seeds|all|tail|balanced|worst|many|medium|few|"
    )
    assert "| AT + RobustLT |  pgd20 |     3 |" in cells
    assert cells.endswith("| +0.0 [+0.0, +0.0] | +3.0 [-1.3, +7.3] |")
    one = comparison.compare([BASE, {**OURS, "seeds": [1]}])
    assert comparison.cell(line_of(one, "few")) == "+1.0"
    sure = {"difference": 0.02, "low": 0.01, "high": 0.03}
    assert comparison.cell(sure) == "+2.0* [+1.0, +3.0]"
    rows = list(csv.DictReader(io.StringIO(comparison.csv_text(lines))))
    assert len(rows) == len(lines) == 7 + 3
    assert float(rows[-1]["difference"]) == pytest.approx(0.03)
    assert (rows[-1]["class"], rows[-1]["seeds"]) == ("c", "3")


def test_nothing_to_compare_leaves_no_files(tmp_path):
    assert comparison.write([BASE], tmp_path) is None
    assert list(tmp_path.iterdir()) == []


def runs_of(row):
    return [
        Run(
            row["name"],
            EvaluationResults(run["attacks"], run["settings"]),
            {"settings": {**row["settings"], "data": "fakelt", "seed": seed}},
        )
        for seed, run in row["runs"].items()
    ]


def test_report_draws_the_intervals():
    note, charts = intervals.changes([*runs_of(BASE), *runs_of(OURS)])
    assert "95% interval" in note
    assert "<figcaption>AT + RobustLT against AT, pgd20</figcaption>" in charts
    assert "few: +3.0 [-1.3, +7.3]. " not in charts  # the last one ends the text
    assert "few: +3.0 [-1.3, +7.3].</title>" in charts
    assert charts.count("<circle") == len(comparison.GROUPS)
    # One seed has no interval, and one budget no difference.
    assert intervals.changes(runs_of(BASE)) is None
    assert intervals.changes([runs_of(BASE)[0], runs_of(OURS)[0]]) is None


def test_intervals_share_an_axis():
    line = {"group": "all", "difference": 0.02, "low": 0.01, "high": 0.03}
    chart = intervals.interval_chart([line], (-1.0, 4.0))
    # From the left, 112, to the right, 348, are five points.
    assert 'd="M206.4 18.0L300.8 18.0"' in chart and 'cx="253.6"' in chart
