"""The directory of a run: who may work in it, and what is left of what was refused."""

import contextlib
import json
import os
import pathlib
import signal
import subprocess
import sys

import numpy as np
import pytest

import keras_robustlt as krl
from keras_robustlt.experiments import compare, interruption, train, workdir
from keras_robustlt.experiments.progress import TrainingProgress

pytestmark = pytest.mark.tensorflow  # of one backend is enough

ROOT = pathlib.Path(__file__).resolve().parents[1]
SETTINGS = {"data": "digits", "alpha": 0.3}


def begin(folder, **content):
    content = {"settings": SETTINGS, **content}
    workdir.write_config(folder, content)


def test_one_at_a_time(tmp_path):
    with workdir.held(tmp_path / "run"):
        message = f"run is in use, by process {os.getpid()} on .* Wait for its end"
        with pytest.raises(ValueError, match=message):
            with workdir.held(tmp_path / "run"):
                pass
        assert (tmp_path / "run" / "lock").exists()  # still
    with workdir.held(tmp_path / "run"):
        pass


def test_a_dead_process_holds_nothing(tmp_path):
    code = (
        "import pathlib, time\n"
        "from keras_robustlt.experiments import workdir\n"
        "with workdir.held(pathlib.Path('run')):\n"
        "    print('held', flush=True)\n"
        "    time.sleep(60)\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", code]
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"held\n"
        with pytest.raises(ValueError, match=f"process {process.pid} "):
            with workdir.held(tmp_path / "run"):
                pass
        process.kill()
    assert (tmp_path / "run" / "lock").exists()
    with workdir.held(tmp_path / "run"):
        pass
    assert not (tmp_path / "run" / "lock").exists()


def test_what_came_to_nothing_leaves_nothing(tmp_path):
    folder = tmp_path / "runs" / "digits"
    with pytest.raises(ValueError, match="^no$"):
        with workdir.held(folder):
            begin(folder)
            raise ValueError("no")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("said", ["no data", ""])
def test_a_refused_comparison_says_so_once_and_leaves_nothing(tmp_path, said):
    code = f"raise SystemExit('error: {said}' if '{said}' else 1)"
    run = [sys.executable, "-c", code]
    common = train.settings_of(["--data=digits"])
    settings = {key: {**common, "budget": key} for key in ("uniform", "dafa")}
    commands = dict.fromkeys(settings, run)
    with pytest.raises(SystemExit) as ended:
        compare.compare(settings, commands, tmp_path / "new" / "runs")
    assert (str(ended.value) == "error: no data") == bool(said)
    assert (tmp_path / "new").exists() == (not said)  # a log that has to be read


def test_what_was_done_stays(tmp_path):
    with pytest.raises(ValueError, match="^no$"):
        with workdir.held(tmp_path / "run"):
            begin(tmp_path / "run")
            (tmp_path / "run" / "checkpoints").mkdir()
            raise ValueError("no")
    assert workdir.is_begun(tmp_path / "run", SETTINGS)
    # A run that was begun before, too.
    (tmp_path / "run" / "checkpoints").rmdir()
    with workdir.held(tmp_path / "run"):
        pass
    assert workdir.is_begun(tmp_path / "run", SETTINGS)


@pytest.mark.parametrize("name", ["config.json", "results.json", "accuracy.png"])
def test_a_folder_in_the_place_of_a_file(tmp_path, name):
    begin(tmp_path)
    (tmp_path / name).unlink(missing_ok=True)
    (tmp_path / name).mkdir()
    with pytest.raises((OSError, ValueError), match=name):
        workdir.check(tmp_path, SETTINGS)


def test_a_damaged_config_is_noticed_first(tmp_path):
    begin(tmp_path, class_names=5)
    with pytest.raises(ValueError, match="config.json is damaged .*class_names is 5"):
        workdir.check(tmp_path, SETTINGS)


def test_what_was_trained_without_its_config_stays_as_it_is(tmp_path):
    state = tmp_path / workdir.STATE
    state.parent.mkdir()
    state.write_text("of another seed")
    with pytest.raises(ValueError, match="^no$"):
        with workdir.held(tmp_path):
            begin(tmp_path)
            raise ValueError("no")
    assert not (tmp_path / "config.json").exists()
    with pytest.raises(KeyboardInterrupt):
        with workdir.held(tmp_path):
            begin(tmp_path)
            state.write_text("an epoch more")
            os.utime(state, (1, 1))
            raise KeyboardInterrupt
    assert workdir.is_begun(tmp_path, SETTINGS)


@pytest.mark.parametrize("name", workdir.OF_A_RUN)
def test_files_of_something_else_are_not_replaced(tmp_path, name):
    for harmless in ("notes.txt", "run.log", "config.yaml"):
        (tmp_path / harmless).write_text("")
    workdir.check(tmp_path, SETTINGS)
    (tmp_path / name).write_text("of something else")
    message = f"holds no config.json of a run, but {name}, of something else"
    with pytest.raises(ValueError, match=message):
        workdir.check(tmp_path, SETTINGS)
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(ValueError, match=message):
        workdir.check(tmp_path, SETTINGS)
    # A run that has lost its config.json can go on.
    for own in (workdir.STATE, "network.keras"):
        (tmp_path / own).write_text("")
    workdir.check(tmp_path, SETTINGS)


def test_an_evaluation_of_something_else_is_seen_before_training(tmp_path):
    begin(tmp_path)
    (tmp_path / "evaluation.npz").write_text("of something else")
    for name in (workdir.STATE, "network.keras"):
        with pytest.raises(ValueError, match="no trained network .* evaluation.npz"):
            workdir.check(tmp_path, SETTINGS)
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    workdir.check(tmp_path, SETTINGS)


def test_a_comparison_replaces_nothing_either(tmp_path):
    settings = {"base": SETTINGS, "robustlt": SETTINGS}
    for name in workdir.OF_A_COMPARISON:
        (tmp_path / name).write_text("of something else")
        with pytest.raises(ValueError, match=f"no comparison, but {name}"):
            workdir.check_comparison(tmp_path, settings)
        for own in (workdir.COMPARISON, "base/config.json"):
            (tmp_path / "base").mkdir(exist_ok=True)
            (tmp_path / own).write_text(json.dumps({"settings": SETTINGS}))
            workdir.check_comparison(tmp_path, settings)
            (tmp_path / own).unlink()
        (tmp_path / name).unlink()


def test_a_sweep_is_no_place_for_another_run(tmp_path):
    run = tmp_path / "digits" / "at" / "seed1"
    run.mkdir(parents=True)
    begin(run)
    with pytest.raises(ValueError, match="holds the runs of a sweep"):
        workdir.check(tmp_path, SETTINGS)
    with pytest.raises(ValueError, match="holds the runs of a sweep"):
        workdir.check_comparison(tmp_path, {"base": SETTINGS})
    workdir.check(run, SETTINGS)


def test_other_settings(tmp_path):
    begin(tmp_path)
    message = "(?s)holds a run with other settings.*alpha: 0.3 there, 0.5 now"
    with pytest.raises(ValueError, match=message):
        workdir.is_begun(tmp_path, {**SETTINGS, "alpha": 0.5})


def test_settings_that_follow_from_images_which_have_changed(tmp_path):
    suggested = {"data": "photos", "preset": "suggested", "alpha": 0.3}
    workdir.write_config(tmp_path, {"settings": suggested})
    with pytest.raises(ValueError, match="0.3 there, 0.0 now\n.*images: they may"):
        workdir.is_begun(tmp_path, {**suggested, "alpha": 0.0})


def test_a_path_may_be_written_differently(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "run"
    for key in workdir.PATHS:
        before = {"data": "digits", key: "x.npz"}
        workdir.write_config(folder, {"settings": before})
        (folder / "results.json").write_text(json.dumps({"training": before}))
        for path in ("./x.npz", str(tmp_path / "x.npz"), "run/../x.npz"):
            assert workdir.is_finished(folder, {**before, key: path})
        for other in ("y.npz", None, "run/x.npz"):
            with pytest.raises(ValueError, match=f"{key}: x.npz there, {other} now"):
                workdir.is_finished(folder, {**before, key: other})
    # A data set is no folder that is called like it.
    workdir.write_config(folder, {"settings": {"data": "digits"}})
    with pytest.raises(ValueError, match="data: digits there, ./digits now"):
        workdir.is_begun(folder, {"data": "./digits"})


def test_other_data(tmp_path):
    begin(tmp_path, fingerprint="a1")
    assert workdir.is_begun(tmp_path, SETTINGS, "a1")
    with pytest.raises(ValueError, match="on other data: .* of digits have changed"):
        workdir.is_begun(tmp_path, SETTINGS, "b2")
    begin(tmp_path)  # of a version that did not write it
    assert workdir.is_begun(tmp_path, SETTINGS, "b2")


def test_fingerprint_of_data():
    x = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), "uint8")
    y = np.arange(12) % 2

    def fingerprint(x, y):
        data = krl.data.long_tail_arrays(((x, y), (x, y)), imbalance_ratio=None)
        return data.fingerprint

    assert fingerprint(x, y) == fingerprint(x.copy(), y.copy())
    other = x.copy()
    other[7, 1, 2, 0] ^= 1
    labels = y.copy()
    labels[:2] = labels[1::-1]
    found = {fingerprint(x, y), fingerprint(other, y), fingerprint(x, labels)}
    assert len(found) == 3


@pytest.mark.parametrize("text", ["", '{"settings": {', "[1]", '{"settings": 3}', "\0"])
def test_damaged_config(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    message = "config.json is damaged .* another --workdir, or delete .* to start over"
    with pytest.raises(ValueError, match=message):
        workdir.check(tmp_path, SETTINGS)


@pytest.mark.parametrize("text", ["", '{"training": {', "\x80", "[]", "{}"])
def test_damaged_results_are_none(tmp_path, text):
    begin(tmp_path)
    (tmp_path / "results.json").write_text(text, "latin-1")
    assert not workdir.is_finished(tmp_path, SETTINGS)
    (tmp_path / "results.json").write_text(json.dumps({"training": SETTINGS}))
    assert workdir.is_finished(tmp_path, SETTINGS)


def test_a_trained_run_is_not_trained_over(tmp_path):
    begin(tmp_path)
    workdir.check(tmp_path, SETTINGS)  # interrupted in its first epoch
    (tmp_path / "network.keras").touch()
    with pytest.raises(ValueError, match="holds this run, trained, but not the check"):
        workdir.check(tmp_path, SETTINGS)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "training_state.npz").touch()
    workdir.check(tmp_path, SETTINGS)


@pytest.mark.parametrize("text", ["", "epoch;loss\n0;1", 'epoch,loss\n0,"0,5"\n'])
def test_damaged_tables_are_named_before_the_evaluation(tmp_path, text):
    for key in ("base", "ours"):
        begin(tmp_path / key)
        (tmp_path / key / "history.csv").write_text("epoch,loss\n0,1.5\n")
        (tmp_path / key / "checkpoints").mkdir()
        (tmp_path / key / "checkpoints" / "training_state.npz").touch()
    results = json.dumps({"training": SETTINGS})
    (tmp_path / "base" / "results.json").write_text(results)
    both = dict.fromkeys(("base", "ours"), SETTINGS)
    workdir.check_comparison(tmp_path, both)
    for key in both:
        before = (tmp_path / key / "history.csv").read_text()
        (tmp_path / key / "history.csv").write_text(text)
        with pytest.raises(ValueError, match="history.csv"):
            workdir.check_comparison(tmp_path, both)
        (tmp_path / key / "history.csv").write_text(before)


def test_places_that_cannot_be(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(ValueError, match="file is a file, not a directory"):
            workdir.check(folder, SETTINGS)
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match="no permission to write there"):
        workdir.check(tmp_path / "new" / "run", SETTINGS)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_classes_of_images_are_no_place_for_a_run(tmp_path):
    for name in ("train/cat", "train/dog", "test/cat", "test/dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "1.PNG").write_bytes(b"")
    for folder in (tmp_path, tmp_path / "train"):
        with pytest.raises(ValueError, match="is a folder of images, whose classes"):
            workdir.check(folder, SETTINGS)
        with pytest.raises(ValueError, match="is a folder of images, whose classes"):
            workdir.check_comparison(folder, {"base": SETTINGS, "robustlt": SETTINGS})
    begin(tmp_path / "train" / "cat")  # these folders are runs, with their pictures
    begin(tmp_path / "test" / "dog")
    workdir.check(tmp_path, SETTINGS)


def test_the_network_is_whole_at_any_time(tmp_path):
    class Network:
        def save(self, path):
            path.write_text("half")
            if full:
                raise OSError(28, "No space left on device")

    full = False
    workdir.save_network(Network(), tmp_path)
    (tmp_path / "network.keras").write_text("old")
    full = True
    with pytest.raises(OSError, match="No space left"):
        workdir.save_network(Network(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["network.keras"]
    assert (tmp_path / "network.keras").read_text() == "old"


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_being_told_to_end(name, capsys):
    number = getattr(signal, name)
    # What the tests were started by may ignore it.
    default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
    outside = signal.signal(number, default)
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as ended:
        with interruption.ends_in_one_line():
            os.kill(os.getpid(), number)
    assert ended.value.code == 128 + number
    assert capsys.readouterr().out == f"\n{interruption.MESSAGE}\n"
    assert signal.signal(number, outside) == before


def test_training_ends_where_a_library_swallows_the_interruption():
    progress = TrainingProgress(left=None)
    progress.set_params({"steps": 1})
    outside = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with pytest.raises(SystemExit) as ended:
            with interruption.ends_in_one_line():
                progress.on_train_batch_end(0)
                with contextlib.suppress(KeyboardInterrupt):
                    os.kill(os.getpid(), signal.SIGTERM)
                progress.on_train_batch_end(0)
        progress.on_train_batch_end(0)  # what is over is forgotten
    finally:
        signal.signal(signal.SIGTERM, outside)
    assert ended.value.code == 128 + signal.SIGTERM


def test_what_is_ignored_stays_so():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with interruption.ends_in_one_line():
            os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)
