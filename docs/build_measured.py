"""Writes what the demo shows of many seeds, from the runs in docs/results/runs.

    python docs/build_measured.py

To measure anew, copy results.json and config.json of each run of the sweep, whose
command docs/results/README.md has, and start this.
"""

import json
from pathlib import Path

from keras_robustlt.experiments import comparison, measured, summary

RUNS = Path(__file__).with_name("results") / "runs"
DATA = "digits"


def content():
    """The settings of the runs with a rule for the budget, and what it changes."""
    rows = [row for row in summary.collect(RUNS) if row["data"] == DATA]
    lines = [
        line for line in comparison.compare(rows) if line["group"] in measured.GROUPS
    ]
    (row,) = (row for row in rows if row["settings"]["budget"] != "uniform")
    return {"settings": row["settings"], "lines": lines}


if __name__ == "__main__":
    path = measured.FOLDER / f"{DATA}.json"
    path.write_text(json.dumps(content(), indent=1) + "\n", encoding="utf-8")
    print(f"Wrote {path}.")
