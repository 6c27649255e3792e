"""What many seeds have shown, to stand beside a run of one.

`measured/` has what sweeps found of a data set's own settings; docs/build_measured.py
writes it.
"""

import json
import pathlib

from keras_robustlt.evaluation.results import text_table
from keras_robustlt.experiments import comparison, presets

FOLDER = pathlib.Path(__file__).parent / "measured"
# Those of a single run.
NOT_SHARED = ("seed", "initial_weights", "deterministic")
# What is gained in the tail, and what the classes of many images pay for it.
GROUPS = ("all", "tail", "worst", "many", "few")


def beside(settings):
    """What many seeds have shown of a comparison's settings.

    Args:
        settings: Dictionary, the settings of the run with a rule for the budget.

    Returns:
        A text, or `None` if nothing was measured with these settings.
    """
    found = FOLDER / f"{settings['data']}.json"
    # The data may be a path, and beside it a file of this name, of something else.
    if found.parent != FOLDER or not found.is_file():
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
    cells = [[name, *(row[group] for group in GROUPS)] for name, row in rows.items()]
    return (
        f"What {first['name']} adds to {first['baseline']}, by {len(first['seeds'])} "
        f"seeds ({first['seeds'][0]} to {first['seeds'][-1]}), in percentage points:\n"
        "mean [95% interval], * where that leaves out 0; many and few: classes of more "
        f"than {comparison.MANY_ABOVE}\nand fewer than {comparison.FEW_BELOW} training "
        f"images\n{text_table(['', *GROUPS], cells)}"
    )
