"""Writes one page on runs of the recipes, side by side.

    python -m keras_robustlt report DIR [DIR ...] --output=report.html

DIR is the `--workdir` of a recipe, or another directory with some of its files, or a
results.json. The page is one file that needs no network.

    --names=AT,RobustLT        what the runs are called on the page
    --title="Digits, seed 1"   its title
"""

import pathlib

from absl import app, flags

from keras_robustlt.files import local_path
from keras_robustlt.reporting import report


def define_flags(values):
    """Defines the flags in `values`, an `absl.flags.FlagValues`."""
    flags.DEFINE_string(
        "output", "report.html", "The page to write.", flag_values=values
    )
    flags.DEFINE_list(
        "names", None, "What the runs are called, in their order.", flag_values=values
    )
    flags.DEFINE_string("title", None, "Title of the page.", flag_values=values)


def main(argv, values):
    """Writes the page and says where.

    Args:
        argv: List of strings: the name of the program and the runs.
        values: The `absl.flags.FlagValues` of `define_flags`, parsed.

    Raises:
        SystemExit: If something is wrong with what was given.
    """
    if len(argv) < 2 or "" in argv:
        raise app.UsageError("give one run or more, such as runs/cifar10lt.")
    if pathlib.Path(values.output).suffix.lower() not in (".html", ".htm"):
        raise app.UsageError(
            "--output must be the path of an .html file to write. Received: "
            f"--output={values.output}"
        )
    try:
        local_path("output", values.output)
        path = report(*argv[1:], values.output, names=values.names, title=values.title)
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    print(f"Report: {path}")
