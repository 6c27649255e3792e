import json
import pathlib
import runpy

import pytest

from keras_robustlt.experiments import comparison, measured
from keras_robustlt.experiments.presets import DIGITSLT

BUILD = pathlib.Path(__file__).parents[1] / "docs" / "build_measured.py"


def settings(**given):
    return {**DIGITSLT.settings("default", given), "seed": 1, "initial_weights": None}


def kept():
    return json.loads((measured.FOLDER / "digits.json").read_text())


def test_the_demo_is_what_was_measured():
    text = measured.beside(settings())
    (line,) = (
        line
        for line in kept()["lines"]
        if (line["attack"], line["group"]) == ("pgd20", "tail")
    )
    assert "by 10 seeds (6 to 15)" in text
    (row,) = (row for row in text.splitlines() if row.startswith("pgd20"))
    assert comparison.cell(line) in row


@pytest.mark.parametrize("changed", [{"alpha": 0.5}, {"epochs": 3}, {"keep": "best"}])
def test_nothing_is_said_of_other_settings(changed):
    assert measured.beside(settings(**changed)) is None


def test_what_was_measured_follows_from_the_runs():
    assert kept() == runpy.run_path(str(BUILD))["content"]()
