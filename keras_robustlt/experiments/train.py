"""Trains a robust classifier and measures how robust it is, class by class.

    python -m keras_robustlt train --data=digits
    python -m keras_robustlt train --data=cifar10 --preset=cpu --data_dir=DATA
    python -m keras_robustlt train --data=photos --workdir=runs/photos

The first is a matter of a minute and downloads nothing. Data that have a name
(digits, cifar10, cifar100, tinyimagenet, imagenet) are made long-tailed, with the
settings of the paper; --data_dir is where they are. Otherwise --data is a folder with
a sub-folder of images for each class, an .npz file of x_train, y_train, x_test and
y_test, or another data set by its name: mnist, fashion_mnist, tfds:svhn_cropped. Those
keep the imbalance that they have, unless --imbalance_ratio says another.
Then what is noteworthy about the images is shown first, and the settings that follow
from them, and the base method is trained beside what RobustLT makes of it.

    --preset=cpu              a small network; smoke: whether it runs
    --method=at --norobustlt  adversarial training alone
    --compare                 without RobustLT and with it, side by side
    --backbone=mobilenet_v2   a pretrained network
    --dry_run                 only say what would be done

Files go to --workdir. Started again, the same command goes on where it was
interrupted.
"""

import contextlib
import json
import os
import pathlib
import sys
import types
import warnings

# Before the backend is loaded. TensorFlow's messages about itself are not wanted, and
# it leaves oneDNN off on CPUs without AVX-512, where it is faster all the same.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import app, flags, logging

from keras_robustlt.data import named, sources
from keras_robustlt.experiments import presets
from keras_robustlt.experiments.flags import (
    OF_ROBUSTLT,
    given_flags,
    settings_from_flags,
)
from keras_robustlt.experiments.flags import (
    define_flags as define_flags_of_a_run,
)
from keras_robustlt.experiments.interruption import (
    end_with_parent,
    ends_in_one_line,
)
from keras_robustlt.files import at_home

# Set in the environment of processes whose parent has shown what it found.
SHOWN = "KERAS_ROBUSTLT_DATA_SHOWN"
# What another start of the same command meets too.
NOT_AGAIN = (
    FileExistsError,
    FileNotFoundError,
    IsADirectoryError,
    NotADirectoryError,
)
# One run: without a flag, images of one's own are compared.
COMMAND = [sys.executable, "-m", "keras_robustlt", "train", "--nocompare"]


def define_flags(values):
    """Defines the flags in `values`, an `absl.flags.FlagValues`."""
    flags.DEFINE_string(
        "data",
        None,
        f"{', '.join([*presets.BY_NAME, *named.KERAS])}, tfds:NAME (a data set of "
        "tensorflow-datasets), a folder of images or an .npz file. Required.",
        flag_values=values,
    )
    tables = {**presets.BY_NAME, "one's own": presets.OWN}
    define_flags_of_a_run(values, tables, workdir=None)


def main(argv, values):
    """Trains and evaluates, or says why not.

    Args:
        argv: List of strings, the name of the program.
        values: The `absl.flags.FlagValues` of `define_flags`, parsed.

    Raises:
        UsageError: If a flag is missing or wrong.
        SystemExit: If something else is.
    """
    if values.data is None:
        raise app.UsageError("give --data, such as --data=digits.")
    with _mistakes_of_usage():
        table = presets.table_of(values.data, values.data_dir)
    if values.workdir is None:
        values.workdir = f"runs/{presets.file_name_of(values.data)}"
    start(argv, values, table, values.data)


def recipe(table, workdir, help):
    """Runs the command line of a recipe: `train` with data that are chosen.

    Args:
        table: A `presets.DataSet`; `presets.OWN` is for images of one's own.
        workdir: String, the default of `--workdir`.
        help: String, what the recipe says of itself.
    """
    from keras_robustlt import __main__ as command_line

    is_own = table is presets.OWN

    def define(values):
        tables = {"one's own" if is_own else table.source: table}
        define_flags_of_a_run(values, tables, workdir)

    def begin(argv, values):
        chosen = _own_images(values) if is_own else (table, table.source)
        start(argv, values, *chosen)

    command_line.run(
        lambda argv: command_line.call(argv[0], argv[1:], help, define, begin)
    )


def _own_images(values):
    """The table for the images in `--data_dir`, and what `--data` is for `train`."""
    if not values.data_dir:
        raise app.UsageError("give --data_dir, such as --data_dir=my_images.")
    data = values.data_dir
    values["data_dir"].unparse()
    try:
        return presets.table_of(data), data
    except ValueError as error:
        said = str(error).replace("--data=", "--data_dir=", 1)
        raise app.UsageError(said) from None


def start(argv, values, table, data):
    """Does what parsed flags say.

    Args:
        argv: List of strings: the program, and what is no flag.
        values: The parsed `absl.flags.FlagValues`.
        table: The `presets.DataSet`.
        data: String, what `--data` is for it.
    """
    _check_rest(argv)
    with _mistakes_of_usage():
        settings = settings_from_flags(values, table)
    if values.print_settings:
        print(json.dumps(settings))
        return
    # Without a rule for the budget there is nothing to compare.
    compares = table.compares and settings["budget"] != "uniform"
    compares = compares if values.compare is None else values.compare
    if settings["preset"] == "suggested" and SHOWN not in os.environ:
        proposal = table.proposal({k: values[k].value for k in presets.OF_IMAGES})
        print(f"{proposal.check}\n\n{proposal.text(settings)}\n", flush=True)
        os.environ[SHOWN] = "1"  # for the processes of a comparison
    folder = pathlib.Path(values.workdir)
    check_outside(folder, data)
    if values.dry_run:
        runs = {"": settings}
        if compares:
            runs, _ = _compared(settings, given_flags(values), data)
        _check_names(runs)
        with mistakes():
            _check_without_training(runs, folder, table, values.data_dir)
        _say_what_would_be_done(runs, settings, folder)
        return
    logging.set_verbosity(logging.WARNING)  # tensorflow-datasets reports each file
    end_with_parent()
    with ends_in_one_line(), mistakes(folder):
        if compares:
            _compare(settings, given_flags(values), data, folder, table)
        else:
            from keras_robustlt.experiments.run import run

            devices = values.distribute, values.cpu_devices
            run(settings, folder, values.data_dir, *devices)


def check_outside(folder, data):
    """Raises if files would be written among the images."""
    images = at_home(data)
    inside = at_home(folder).resolve().is_relative_to(images.resolve())
    if not presets.has_name(data) and images.is_dir() and inside:
        raise app.UsageError(
            f"--workdir={folder} is inside of the data, {data}, whose classes its "
            "folders would be. Give another --workdir."
        )


def _check_names(runs):
    names = list(map(presets.name_of, runs.values()))
    if len(set(names)) < len(names):
        raise app.UsageError(
            "--compare trains without and with a rule for the budget, and with these "
            f"flags there is no difference: both are {names[0]}."
        )


def _check_without_training(runs, folder, table, data_dir):
    """Raises what the runs would, of their directories and of images that are here."""
    from keras_robustlt.experiments import workdir

    if len(runs) > 1:
        workdir.check_comparison(folder, runs)
    else:
        workdir.check(folder, *runs.values())
    if table.uses_data_dir and not isinstance(table, presets.OwnImages):
        sources.data_root(table.source, data_dir)
        return  # the images may be on another machine, or be downloaded
    from keras_robustlt.experiments.network import build_network
    from keras_robustlt.experiments.run import load_data

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what was shown
        settings = next(iter(runs.values()))  # a comparison has one for both
        data = load_data(settings, data_dir)
        to_download = (
            settings["backbone"] and settings["backbone_weights"] == "imagenet"
        )
        if settings["initial_weights"] or not to_download:
            build_network(settings, data)


def check_images(settings):
    """Raises a ValueError if images that are here are none for these settings."""
    from keras_robustlt.data.long_tailed import long_tail_arrays
    from keras_robustlt.experiments.run import selection

    if presets.table_of(settings["data"]).uses_data_dir:
        return  # they may be downloaded
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which each run says
        long_tail_arrays(**selection(settings))


def _say_what_would_be_done(runs, settings, folder):
    print(
        f"Would train {' and '.join(map(presets.name_of, runs.values()))}: "
        f"{settings['backbone'] or settings['model']}, "
        f"{presets.counted(settings['epochs'], 'epoch')} of batches of "
        f"{presets.counted(settings['batch_size'], 'image')}, "
        f"{settings['optimizer']} with the schedule {settings['schedule']}, into "
        f"{folder}.\n{json.dumps(settings)}"
    )
    from keras_robustlt.experiments import run

    run.warn_of_parts(settings, types.SimpleNamespace(**run.parts(settings)))


def given_of(arguments):
    """The flags among the arguments of `train`, by their names.

    Raises:
        UsageError: If one of them is no flag.
    """
    return given_flags(_parsed(arguments))


def settings_of(arguments):
    """The settings of the run that the arguments of `train` stand for.

    Raises:
        UsageError: If there is none.
    """
    values = _parsed(arguments)
    with _mistakes_of_usage():
        table = presets.table_of(values.data, values.data_dir)
        return settings_from_flags(values, table)


def _parsed(arguments):
    values = flags.FlagValues()
    define_flags(values)
    _check_rest(values(["train", *arguments]))
    return values


def _check_rest(argv):
    if argv[1:]:
        raise app.UsageError(f"what is {argv[1]!r}? Flags start with --.")


def _compare(settings, given, data, folder, table):
    """The base method and what the flags say, each in a process of its own."""
    from keras_robustlt.experiments.compare import compare

    settings, arguments = _compared(settings, given, data)
    commands = {key: [*COMMAND, *each] for key, each in arguments.items()}
    compare(settings, commands, folder, table.compare_threads)


def _compared(settings, given, data):
    """The settings of the two runs of a comparison, and the arguments of `train`."""
    own = ("compare", "data", "workdir", "dry_run")
    of_both = {k: v for k, v in given.items() if k not in own}
    of_budget = ("budget", "robustlt", *OF_ROBUSTLT)
    of_base = [v for k, v in of_both.items() if k not in of_budget]
    arguments = {
        "base": [f"--data={data}", *of_base, "--budget=uniform"],
        settings["budget"]: [f"--data={data}", *of_both.values()],
    }
    runs = {"base": settings_of(arguments["base"]), settings["budget"]: settings}
    return runs, arguments


@contextlib.contextmanager
def _mistakes_of_usage():
    try:
        yield
    except ValueError as error:
        raise app.UsageError(str(error)) from None


@contextlib.contextmanager
def mistakes(folder=None):
    """What is wrong with data, directories or the disk is said without a traceback.

    Args:
        folder: Path, where the command goes on from. Defaults to `None`, where it
            writes nothing.
    """
    try:
        yield
    except (*NOT_AGAIN, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    except BrokenPipeError:
        raise
    except OSError as error:
        begun = folder is not None and folder.exists()
        goes_on = (
            f". Started again, the same command goes on from what is done in {folder}."
        )
        raise SystemExit(f"error: {error}{goes_on if begun else ''}") from None
    except Exception as error:
        from keras_robustlt.experiments import memory

        if not memory.is_exhausted(error):
            raise
        said = str(error).strip().partition("\n")[0][:300]
        raise SystemExit(
            "error: there is not enough memory. Choose a smaller --batch_size, network "
            f"or --image_size. {said}"
        ) from None
