"""Shows what is noteworthy about a data set: bad files, duplicates, odd names.

    python -m keras_robustlt check FOLDER

FOLDER has one sub-folder of images a class, in train/ and test/ or directly; an .npz
file or a name such as cifar10 will do, too. Errors are what training would refuse,
warnings what it would warn of, notes what it does without a word. The exit status is
1 if there are errors. Files that cannot be read are errors, which `train` leaves out
of a folder of one's own with a warning, as --on_bad=skip does here.
"""

import json

from absl import app, flags

from keras_robustlt.data.checking import check
from keras_robustlt.data.sources import source_of
from keras_robustlt.flag_types import COUNT, define_number, in_words_of_flags


def define_flags(values):
    """Defines the flags in `values`, an `absl.flags.FlagValues`."""
    flags.DEFINE_string(
        "data_dir", None, "Where data sets that have a name are.", flag_values=values
    )
    define_number(
        values,
        COUNT,
        "image_size",
        None,
        "Height and width that images of several sizes will be resized to.",
    )
    flags.DEFINE_enum(
        "on_bad",
        "error",
        ["error", "skip"],
        "What files that cannot be read as images are: an error, or left out.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "json",
        False,
        "Print the findings as JSON, with all files.",
        flag_values=values,
    )


def main(argv, values):
    """Prints the table.

    Args:
        argv: List of strings: the name of the program and the source.
        values: The `absl.flags.FlagValues` of `define_flags`, parsed.

    Raises:
        SystemExit: If the source is not there, and of status 1 if there are errors.
    """
    if len(argv) != 2:
        raise app.UsageError(f"give one folder, file or name. Received: {argv[1:]}")
    try:
        checked = check(
            source_of(argv[1]),
            data_dir=values.data_dir,
            image_size=values.image_size,
            on_bad=values.on_bad,
        )
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}") from None
    if values.json:
        print(json.dumps(checked.findings, indent=1))
    else:
        print(in_words_of_flags(str(checked), values))
    if not checked.ok:
        raise SystemExit(1)
