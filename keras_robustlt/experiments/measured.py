"""What many seeds have shown, to stand beside a run of one.

    python -m keras_robustlt.experiments.measured runs/seeds digits

keeps what a sweep has found of a data set's own settings.
"""

import json
import pathlib
import sys

from keras_robustlt.evaluation.results import SUMMARY, text_table
from keras_robustlt.experiments import comparison, presets, summary

FOLDER = pathlib.Path(__file__).parent / "measured"
# Those of a single run.
NOT_SHARED = ("seed", "initial_weights", "deterministic")


def beside(settings):
    """What many seeds have shown of a comparison's settings.

    Args:
        settings: Dictionary, the settings of the run with a rule for the budget.

    Returns:
        A text, or `None` if nothing was measured with these settings.
    """
    found = FOLDER / f"{settings['data']}.json"
    if not found.is_file():
        return None
    measured = json.loads(found.read_text(encoding="utf-8"))
    if not _same(settings, measured["settings"]):
        return None
    return text(measured["lines"])


def _same(settings, measured):
    """Whether settings are those that were measured; later ones had their default."""
    table = presets.table_of(settings["data"])
    then = {**table.settings(table.default_preset), **measured}
    return all(
        settings[key] == then.get(key, settings[key])
        for key in settings
        if key not in NOT_SHARED
    )


def text(lines):
    """A table of differences with their intervals."""
    first, rows = lines[0], {}
    for line in lines:
        rows.setdefault(line["attack"], {})[line["group"]] = comparison.cell(line)
    cells = [[name, *(row[group] for group in SUMMARY)] for name, row in rows.items()]
    return (
        f"What {first['name']} adds to {first['baseline']} over {len(first['seeds'])} "
        "other seeds,\nin percentage points: mean [95% interval], * where that leaves "
        f"out 0\n{text_table(['', *SUMMARY], cells)}"
    )


def keep(workdir, data):
    """Writes what a sweep has found, as `beside` reads it.

    Args:
        workdir: Path, the directory of a sweep that has one method with one rule.
        data: String, its data set.

    Returns:
        The path of what was written.
    """
    rows = [row for row in summary.collect(workdir) if row["data"] == data]
    lines = [line for line in comparison.compare(rows) if line["group"] in SUMMARY]
    (row,) = (row for row in rows if row["settings"]["budget"] != "uniform")
    content = {"settings": row["settings"], "lines": lines}
    path = FOLDER / f"{row['settings']['data']}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


if __name__ == "__main__":
    print(keep(pathlib.Path(sys.argv[1]), sys.argv[2]))
