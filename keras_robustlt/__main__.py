"""Adversarial training that is fair to rare classes, from the command line.

    python -m keras_robustlt COMMAND ...

The commands; `python -m keras_robustlt COMMAND --help` says more of each:
"""

import contextlib
import importlib
import os
import re
import sys
import traceback
import warnings

from absl import app, flags

from keras_robustlt.flag_types import in_words_of_flags

# Each is a module whose docstring is its help, with `define_flags(values)`, which
# defines its flags in an `absl.flags.FlagValues`, and `main(argv, values)`.
COMMANDS = {
    "check": ("data.check_command", "what is noteworthy in a folder of images"),
    "train": ("experiments.train", "trains and evaluates a network"),
    "sweep": ("experiments.sweep", "trains with each of several settings"),
    "evaluate": ("evaluation.command", "attacks a saved network, class by class"),
    "predict": ("deployment.command", "says what a network takes images for"),
    "report": ("reporting.command", "writes a page on runs, side by side"),
}
# What to do where there is no backend.
BACKEND = (
    "The backend of Keras is tensorflow, unless KERAS_BACKEND or its configuration "
    "file, keras.json, names another, and must be tensorflow or jax: install what it "
    "is, or set KERAS_BACKEND=jax or KERAS_BACKEND=tensorflow in the environment."
)

# What absl says of --dry_run=maybe.
NO_BOOLEAN = re.compile(r"\('Non-boolean argument to boolean flag', .*\)")


def main(argv):
    """Runs the command that `argv`, as `sys.argv`, names.

    Args:
        argv: List of strings: the program, the command and its arguments.

    Raises:
        SystemExit: If something is wrong with them, or the command fails.
    """
    command, arguments = argv[1] if argv[1:] else "--help", argv[2:]
    if _asks_for_help(command):
        print(__doc__, *_listed(), sep="\n")
        return
    if command not in COMMANDS:
        _exit(f"{command!r} is no command. There are: {', '.join(COMMANDS)}")
    # Before the backend is loaded: TensorFlow's messages about itself are not wanted.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    module = importlib.import_module(f"keras_robustlt.{COMMANDS[command][0]}")
    name = f"{argv[0]} {command}"
    hint = getattr(module, "UNKNOWN_FLAG", "")
    call(name, arguments, module.__doc__, module.define_flags, module.main, hint)


def call(name, arguments, help, define_flags, main, of_unknown_flags=""):
    """Calls a command, or shows its help.

    Args:
        name: String, what the command is called.
        arguments: List of strings.
        help: String, what it says of itself.
        define_flags: Function that defines flags in an `absl.flags.FlagValues`.
        main: Function of the name with what is no flag, and of the parsed flags.
        of_unknown_flags: String, to say of flags that are not defined. Defaults to
            `""`.
    """
    values = flags.FlagValues()
    define_flags(values)
    if any(map(_asks_for_help, arguments)):
        print(help)
        print(values.get_help(include_special_flags=False).strip("\n"))
        return
    with _in_words_of_flags(values):
        try:
            argv = values([name, *map(_at_home, arguments)])
        except flags.UnrecognizedFlagError as error:
            raise app.UsageError(f"{error}. {of_unknown_flags}".rstrip(". ")) from None
        except UnicodeDecodeError as error:
            raise app.UsageError(
                f"--flagfile must be a text file, with a flag on each line ({error})."
            ) from None
        except ValueError as error:  # of --noflag=value, as absl says it
            raise app.UsageError(str(error)) from None
        main(argv, values)


@contextlib.contextmanager
def _in_words_of_flags(values):
    """Messages of the package name flags, and warnings no line of its code."""
    format_before = warnings.formatwarning

    def in_one_line(message, category, *where, **options):
        if not issubclass(category, UserWarning):
            return format_before(message, category, *where, **options)
        return f"warning: {in_words_of_flags(str(message), values)}\n"

    warnings.formatwarning = in_one_line
    try:
        yield
    except (app.UsageError, flags.Error) as error:
        said = NO_BOOLEAN.sub("it must be true or false.", str(error))
        _exit(in_words_of_flags(said, values))
    except SystemExit as error:
        if isinstance(error.code, str):
            error.code = in_words_of_flags(error.code, values)
        raise
    finally:
        warnings.formatwarning = format_before


def _at_home(argument):
    """An argument with the home directory for a `~` that shells leave behind a `=`."""
    flag, is_flag, value = argument.partition("=")
    if is_flag and flag.startswith("-") and value.startswith("~"):
        return f"{flag}={os.path.expanduser(value)}"
    return argument


def _asks_for_help(argument):
    return argument in ("-h", "-help", "--help", "--helpfull", "--helpshort")


def _listed():
    return [f"    {name:10}{said}" for name, (_, said) in COMMANDS.items()]


def _exit(message):
    """Ends as a shell expects it of a command that was called wrongly."""
    print(f"error: {message}", file=sys.stderr)
    sys.exit(2)


def run(main=main):
    """Runs `main` with `sys.argv`; whatever ends it early is said in one line."""
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:  # closed by who started this, as by >&-
            setattr(sys, name, open(os.devnull, "w"))
    # A name that the terminal cannot show is no reason to fail.
    sys.stdout.reconfigure(errors="backslashreplace")
    try:
        main(sys.argv)
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads on, as after `| head`: Python shall not complain at its exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        sys.exit(f"error: {error}")
    except (AttributeError, ImportError, ValueError) as error:
        is_missing = isinstance(error, ModuleNotFoundError)
        if _is_of_the_backend(error):
            why = "" if is_missing else "Keras refuses how it is configured: "
            sys.exit(f"error: {why}{str(error).rstrip('. ')}. {BACKEND}")
        if is_missing or not isinstance(error, ImportError):
            raise  # a fault of this package, or of an installation
        sys.exit(f"error: {error}")  # the package's own, which says what to install
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _is_of_the_backend(error):
    """Whether there is no backend, or Keras refuses the one that is set."""
    if isinstance(error, ModuleNotFoundError) and error.name in ("jax", "tensorflow"):
        return True
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    return any(
        frame.f_code.co_name == "<module>"
        and frame.f_globals["__name__"].startswith("keras.src.backend")
        for frame in frames
    )


if __name__ == "__main__":
    run()
