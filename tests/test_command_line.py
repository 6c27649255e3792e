"""The commands of `python -m keras_robustlt`, without what they do."""

import io
import json
import subprocess
import sys
import types
import warnings

import pytest
from absl import app, flags

from keras_robustlt import __main__ as command_line
from keras_robustlt.flag_types import in_words_of_flags


@pytest.fixture
def command(monkeypatch):
    """A command `show` that prints its argument and its flag."""
    module = types.ModuleType("keras_robustlt.show", "Shows what it is given.")

    def define_flags(values):
        flags.DEFINE_integer("number", 1, "A number.", flag_values=values)

    def main(argv, values):
        if len(argv) != 2:
            raise app.UsageError("give one argument.")
        if argv[1] == "full":
            raise OSError(28, "No space left on device", "results.json")
        if argv[1] == "refused":
            raise SystemExit("error: `number` is 1, pass number='2'. f(number=1)")
        if argv[1] == "warned":
            warnings.warn("`number` is large. Received: number=9", stacklevel=1)
        if argv[1] == "interrupted":
            raise KeyboardInterrupt
        print(argv[1], values.number)

    module.define_flags, module.main = define_flags, main
    monkeypatch.setitem(sys.modules, "keras_robustlt.show", module)
    monkeypatch.setitem(command_line.COMMANDS, "show", ("show", "shows"))

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["robustlt", *arguments])
        command_line.run()

    return run


def test_runs_the_command_that_is_named(command, capsys):
    command("show", "this", "--number=3")
    assert capsys.readouterr().out == "this 3\n"


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"]])
def test_lists_the_commands(command, capsys, arguments):
    command(*arguments)
    printed = capsys.readouterr().out
    for name in ("check", "train", "sweep", "evaluate", "report", "show"):
        assert f"\n    {name} " in printed


@pytest.mark.parametrize("arguments", [["--help"], ["this", "-h"]])
def test_help_of_a_command(command, capsys, arguments):
    command("show", *arguments)
    printed = capsys.readouterr().out
    assert printed.startswith("Shows what it is given.\n")
    assert "--number: A number." in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["shwo"], "'shwo' is no command. There are: check, train, sweep, evaluate"),
        (["show", "--nubmer=3"], "Unknown command line flag 'nubmer'"),
        (["show", "--number=three", "this"], "flag --number=three"),
        (["show"], "give one argument."),
    ],
)
def test_what_is_called_wrongly_is_said_in_one_line(
    command, capsys, arguments, message
):
    with pytest.raises(SystemExit) as ended:
        command(*arguments)
    assert ended.value.code == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"error: {message}")
    assert printed.err.count("\n") == 1


def test_what_the_system_refuses_is_said_in_one_line(command):
    with pytest.raises(SystemExit) as ended:
        command("show", "full")
    assert str(ended.value).startswith("error: ")
    assert "No space left on device: 'results.json'" in str(ended.value)


def test_an_interruption_is_one_word(command, capsys):
    with pytest.raises(SystemExit) as ended:
        command("show", "interrupted")
    assert ended.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_prints_on_an_ascii_terminal(command, monkeypatch):
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, "ascii"))
    command("show", "Käse")
    assert written.getvalue() == b"K\\xe4se 1\n"


def test_a_pipe_that_is_closed_is_no_traceback():
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "keras_robustlt"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdout.close()
    assert process.wait() == 1
    assert process.stderr.read() == b""
    process.stderr.close()


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_a_stream_that_is_closed_is_no_error(command, monkeypatch, stream):
    monkeypatch.setattr(sys, stream, None)
    command("show", "this")
    getattr(sys, stream).close()


@pytest.mark.parametrize(
    ("arguments", "backend", "configuration", "message"),
    [
        (
            ("evaluate", "network.keras"),
            "foo",
            {},
            "Keras refuses how it is configured: Unable to import backend",
        ),
        (
            ("train", "--model=x"),
            "torch",
            {},
            "The backend of Keras is tensorflow, unless KERAS_BACKEND or its",
        ),
        (
            ("train", "--model=x"),
            "tensorflow",
            {"floatx": "float8"},
            "configured: Invalid `floatx`",
        ),
        (("train", "--model=x"), "tensorflow", [], "configured: 'list' object"),
    ],
)
def test_a_backend_that_is_none_is_said_in_one_line(
    tmp_path, monkeypatch, arguments, backend, configuration, message
):
    (tmp_path / "keras.json").write_text(json.dumps(configuration))
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_BACKEND", backend)
    code = (
        "import sys; sys.modules['torch'] = None\n"  # as where it is not installed
        "from keras_robustlt import __main__ as m; m.run()"
    )
    command = [sys.executable, "-c", code, *arguments, "--data=digits"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    (line,) = [each for each in done.stderr.splitlines() if "error" in each]
    assert line.startswith("error: ") and message in line
    assert "KERAS_BACKEND=tensorflow" in line and "Traceback" not in done.stderr


def test_asking_for_help_loads_no_backend():
    code = (
        "import sys, keras_robustlt.__main__ as m; m.main(['x', 'evaluate', '-h']); "
        "sys.exit(any(n in sys.modules for n in ('keras', 'tensorflow', 'jax')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Measures how robust a saved network is")


def test_the_package_speaks_of_flags(command, capsys, monkeypatch):
    """Whoever uses the command line has no arguments of Python to give."""
    with pytest.raises(SystemExit) as ended:
        command("show", "refused")
    assert ended.value.code == "error: --number is 1, pass --number=2. f(number=1)"
    shown = []
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        monkeypatch.setattr(
            warnings,
            "showwarning",
            lambda *given: shown.append(warnings.formatwarning(*given[:4])),
        )
        command("show", "warned")
    assert shown == ["warning: --number is large. Received: --number=9\n"]


def test_arguments_that_are_flags():
    values = flags.FlagValues()
    for name in ("num_classes", "on_bad", "imbalance_ratio", "model", "weights"):
        flags.DEFINE_string(name, None, "", flag_values=values)
    for text, expected in (
        ("pass on_bad='skip' to", "pass --on_bad=skip to"),
        ("`classes` is 9, classes=9.", "--num_classes is 9, --num_classes=9."),
        ("imbalance_ratio=None keeps all", "no --imbalance_ratio keeps all"),
        ("--on_bad=skip", "--on_bad=skip"),
        ("--options=on_bad=9,model=1", "--options=on_bad=9,model=1"),
        ("`weights` or weights=None", "--weights or --weights=none"),
        ("Rule(on_bad='x', imbalance_ratio=2)", "Rule(on_bad='x', imbalance_ratio=2)"),
        ("`model` and `x` on_bad=f(3)", "`model` and `x` on_bad=f(3)"),
    ):
        assert in_words_of_flags(text, values) == expected


def test_home_directory_behind_a_flag(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))

    def define(values):
        flags.DEFINE_string("workdir", None, "", flag_values=values)

    seen = []
    command_line.call(
        "train",
        ["--workdir=~/runs", "a=~b"],
        "",
        define,
        lambda argv, values: seen.append((argv[1:], values.workdir)),
    )
    assert seen == [(["a=~b"], f"{tmp_path}/runs")]
