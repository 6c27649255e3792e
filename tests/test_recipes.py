import csv
import json
import os
import pathlib
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.tensorflow

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
# A run of seconds: two epochs of five steps.
SHORT = (
    "--epochs=2",
    "--batch_size=64",
    "--model=small_resnet",
    "--attack_steps=1",
    "--attacks=clean,pgd2",
)


def start(recipe, *flags, **options):
    return subprocess.Popen(
        [sys.executable, str(RECIPES / f"{recipe}.py"), *flags],
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        **options,
    )


def run(recipe, *flags):
    """The exit code of a recipe and what it printed."""
    process = start(recipe, *flags)
    printed, _ = process.communicate()
    return process.returncode, printed


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """The directory of a run and what the run printed."""
    workdir = tmp_path_factory.mktemp("recipes") / "run"
    code, printed = run("digitslt", *SHORT, f"--workdir={workdir}")
    assert code == 0, printed
    return workdir, printed


def test_every_setting_of_a_preset_is_known(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    import presets

    keys = {
        key
        for group in (presets.CIFAR10LT, presets.DIGITSLT)
        for preset in group.values()
        for key in preset
    }
    # Run where nobody has defined flags yet; each has a flag or is used by its name.
    code = """
import runner
from absl import flags
from presets import CIFAR10LT
runner.define_flags(CIFAR10LT, "paper", "somewhere")
print(*flags.FLAGS)
"""
    printed = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{RECIPES}"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    source = (RECIPES / "runner.py").read_text()
    without_flag = keys - set(printed.split())
    assert without_flag == {"milestones", "momentum"}
    assert all(f'settings["{key}"]' in source for key in keys)
    for group in (presets.CIFAR10LT, presets.DIGITSLT):
        assert all(set(preset) == keys for preset in group.values())


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--preset=huge",), "unknown --preset=huge. Choose one of: paper, resnet18"),
        (("--preset=smoke", "--data_dir=nowhere"), "error: .*nowhere"),
        (("--method=magic",), "should be one of <at|at_bsl|standard>"),
        (("--epochs=many",), "--epochs"),
        (("smoke",), "what is 'smoke'"),
    ],
)
def test_mistakes(flags, message, tmp_path):
    code, printed = run("cifar10lt", *flags, f"--workdir={tmp_path / 'run'}")
    assert code != 0
    assert "Traceback" not in printed
    before, _, after = message.partition(".*")
    assert before in printed and after in printed
    assert not (tmp_path / "run").exists()


def test_help():
    code, printed = run("digitslt", "--help")
    assert "without and with RobustLT" in printed
    assert "Strength of class-wise perturbation balancing, 0 to 1. Default: 0.3" in (
        " ".join(printed.split())
    )


def test_run_says_what_it_does(finished):
    workdir, printed = finished
    assert "AT + RobustLT on LongTailData(digits, 314 training images" in printed
    assert "2 epochs of 5 steps of 64 images" in printed
    assert "Estimated time" in printed
    assert "epoch 2/2" in printed and "left: 0 s" in printed
    assert "attack" in printed and "pgd2" in printed
    assert f"Files: {workdir}" in printed


def test_files_of_a_run(finished):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["settings"]["epochs"] == 2
    assert config["settings"]["alpha"] == 0.3
    assert config["name"] == "AT + RobustLT"
    assert len(config["class_counts"]) == 10
    assert {"keras", "keras_robustlt", "tensorflow"} <= set(config["versions"])
    history = read_csv(workdir / "history.csv")
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert {"loss", "adversarial_accuracy", "iteration_weight"} <= set(history[0])
    schedule = read_csv(workdir / "schedule.csv")
    assert [float(row["iteration_weight"]) for row in schedule] == [0, 0.625]
    assert len(schedule[0]) == 12
    assert (workdir / "checkpoints" / "training_state.npz").exists()
    for name in ("schedule.png", "accuracy.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    results = json.loads((workdir / "results.json").read_text())
    assert list(results["attacks"]) == ["clean", "pgd2"]
    for entry in results["attacks"].values():
        assert {"all", "tail", "balanced", "worst", "per_class"} <= set(entry)
        assert len(entry["per_class"]) == 10
    assert results["settings"]["examples"] == 600
    assert results["training"] == config["settings"]
    assert results["seed"] == 102


def test_network_of_a_run_needs_only_keras(finished):
    workdir, _ = finished
    expected = json.loads((workdir / "results.json").read_text())
    code = f"""
import sys
import keras
import numpy as np
network = keras.saving.load_model({str(workdir / "network.keras")!r})
assert "keras_robustlt" not in sys.modules
import keras_robustlt as krl
_, (x, y), _ = krl.data.long_tail_arrays("digits", seed=102)
print(np.mean(network.predict(x, verbose=0).argmax(axis=1) == y))
"""
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": "tensorflow"},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    accuracy = float(result.stdout.splitlines()[-1])
    assert accuracy == pytest.approx(expected["attacks"]["clean"]["all"])


def test_other_settings_in_the_same_directory(finished):
    workdir, _ = finished
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    code, printed = run("digitslt", *SHORT, "--alpha=0.5", f"--workdir={workdir}")
    assert code != 0
    assert "holds a run with other settings" in printed
    assert "alpha: 0.3 there, 0.5 now" in printed
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


@pytest.mark.slow
def test_killed_run_goes_on(finished, tmp_path):
    workdir, _ = finished
    flags = (*SHORT, "--deterministic", f"--workdir={tmp_path}")
    with start("digitslt", *flags) as process:
        for line in process.stdout:
            if line.startswith("epoch 1/2"):
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    assert len(read_csv(tmp_path / "history.csv")) == 1
    assert not (tmp_path / "results.json").exists()
    code, printed = run("digitslt", *flags)
    assert code == 0, printed
    assert "epoch 1/2" not in printed
    assert [row["epoch"] for row in read_csv(tmp_path / "history.csv")] == ["0", "1"]
    first, second = (
        json.loads((folder / "results.json").read_text())["attacks"]["clean"]["all"]
        for folder in (workdir, tmp_path)
    )
    assert second == pytest.approx(first, abs=0.05)
