import json
import pathlib

import pytest

from keras_robustlt.evaluation.results import SUMMARY
from keras_robustlt.experiments import comparison, measured, summary
from keras_robustlt.experiments.presets import DIGITSLT

RAW = pathlib.Path(__file__).parents[1] / "docs" / "results"


def settings(**given):
    return {**DIGITSLT.settings("default", given), "seed": 1, "initial_weights": None}


def test_the_demo_is_what_was_measured():
    text = measured.beside(settings())
    kept = json.loads((measured.FOLDER / "digits.json").read_text())
    (line,) = (
        line
        for line in kept["lines"]
        if (line["attack"], line["group"]) == ("pgd20", "tail")
    )
    assert "over 10 other seeds" in text
    (row,) = (row for row in text.splitlines() if row.startswith("pgd20"))
    assert comparison.cell(line) in row


@pytest.mark.parametrize("changed", [{"alpha": 0.5}, {"epochs": 3}, {"keep": "best"}])
def test_nothing_is_said_of_other_settings(changed):
    assert measured.beside(settings(**changed)) is None


def test_what_was_measured_follows_from_the_runs():
    if not (RAW / "runs").is_dir():
        pytest.skip("the runs are in the repository, and this is no checkout")
    lines = comparison.compare(summary.collect(RAW / "runs"))
    kept = json.loads((measured.FOLDER / "digits.json").read_text())
    assert kept["lines"] == [line for line in lines if line["group"] in SUMMARY]
