import csv
import importlib.util
import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_models import (
    COUNTS,
    ONE_EPOCH,
    conv_network,
    dense_network,
    tiny_model,
    weights_of,
)

import keras_robustlt as krl
from keras_robustlt.backend import replicas
from keras_robustlt.callbacks import Checkpoint, HistoryCSV, ScheduleInspector

pytestmark = ONE_EPOCH
TESTS = pathlib.Path(__file__).resolve().parent
FIT = {"batch_size": 4, "verbose": 0, "shuffle": False}
EPSILON = krl.budget.classwise_epsilon(COUNTS, 0.1, 0.3)
WEIGHTS = krl.budget.iteration_weight(np.arange(1, 5), 4, 0.8)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Looking at the schedule


def test_schedule_in_the_history(images):
    x, y = images
    inspector = ScheduleInspector()
    history = tiny_model().fit(x, y, epochs=4, callbacks=[inspector], **FIT).history
    assert history["iteration_weight"] == pytest.approx(WEIGHTS)
    # The mean over the training data is that of the uniform budget.
    assert history["epsilon_mean"] == pytest.approx(0.1 * WEIGHTS)
    assert history["epsilon_min"] == pytest.approx(WEIGHTS * EPSILON.min())
    assert history["epsilon_max"] == pytest.approx(WEIGHTS * EPSILON.max())


def test_files_of_the_schedule(images, tmp_path):
    x, y = images
    inspector = ScheduleInspector(tmp_path / "new", class_names=["a", "b", "c"])
    tiny_model().fit(x, y, epochs=4, callbacks=[inspector], **FIT)
    rows = read_csv(tmp_path / "new" / "schedule.csv")
    assert list(rows[0]) == ["epoch", "iteration_weight", "a", "b", "c"]
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    for row, weight in zip(rows, WEIGHTS, strict=True):
        assert float(row["iteration_weight"]) == pytest.approx(weight)
        actual = [float(row[name]) for name in "abc"]
        np.testing.assert_allclose(actual, weight * EPSILON, 1e-6)
    picture = (tmp_path / "new" / "schedule.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert {path.suffix for path in (tmp_path / "new").iterdir()} == {".csv", ".png"}


def test_schedule_under_the_uniform_budget(images):
    x, y = images
    model = tiny_model(budget=krl.budget.Budget())
    inspector = ScheduleInspector()
    history = model.fit(x, y, epochs=2, callbacks=[inspector], **FIT).history
    assert history["iteration_weight"] == [1, 1]
    assert history["epsilon_max"] == pytest.approx([0.1, 0.1])


@pytest.mark.tensorflow
def test_schedule_in_tensorboard(images, tmp_path):
    import tensorflow as tf

    x, y = images
    inspector = ScheduleInspector(tmp_path, ["a", "b", "c"], tensorboard=True)
    tiny_model().fit(x, y, epochs=2, callbacks=[inspector], **FIT)
    (path,) = (tmp_path / "tensorboard").glob("*tfevents*")
    events = tf.compat.v1.train.summary_iterator(str(path))
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"schedule/iteration_weight", "epsilon/a", "epsilon/c"} <= tags


def test_tensorboard_needs_a_directory_and_its_package(monkeypatch):
    with pytest.raises(ValueError, match="needs a `directory`"):
        ScheduleInspector(tensorboard=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"pip install 'keras-robustlt\[tensorboard"):
        ScheduleInspector("a", tensorboard=True)


def test_history_csv_starts_anew_with_a_new_training(images, tmp_path):
    x, y = images
    path = tmp_path / "new" / "history.csv"
    for epochs in (3, 2):
        model = tiny_model()
        history = model.fit(x, y, epochs=epochs, callbacks=[HistoryCSV(path)], **FIT)
        rows = read_csv(path)
        assert [row["epoch"] for row in rows] == [str(e) for e in range(epochs)]
        for name, values in history.history.items():
            assert [float(row[name]) for row in rows] == pytest.approx(values)
    # And goes on where training starts later.
    model.fit(x, y, epochs=4, initial_epoch=1, callbacks=[HistoryCSV(path)], **FIT)
    assert [row["epoch"] for row in read_csv(path)] == ["0", "1", "2", "3"]


# Going on after an interruption


class Interruption(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Stops training in the middle of an epoch."""

    def __init__(self, epoch):
        super().__init__()
        self.interrupted_epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.interrupted_epoch and batch == 1:
            raise Interruption


def run(directory, images, network_weights, *extra, epochs=4, every=1, **arguments):
    """A run of the same command: new objects, the files of the directory."""
    network = conv_network()
    network.set_weights(network_weights)
    optimizer = krl.optimizers.SGD(0.1, momentum=0.9)
    model = tiny_model(network, optimizer=optimizer, **arguments)
    callbacks = [
        ScheduleInspector(directory),
        HistoryCSV(directory / "history.csv"),
        Checkpoint(directory / "state", every=every),
        *extra,
    ]
    x, y = images
    history = model.fit(x, y, epochs=epochs, callbacks=callbacks, **FIT)
    return model, history


def assert_same_run(first, second, directories):
    np.testing.assert_array_equal(weights_of(first[0]), weights_of(second[0]))
    assert first[1].epoch == second[1].epoch
    assert first[1].history == second[1].history
    for name in ("history.csv", "schedule.csv"):
        texts = [(directory / name).read_text() for directory in directories]
        assert texts[0] == texts[1]


@pytest.mark.parametrize(("epoch", "every"), [(0, 1), (2, 1), (3, 2)])
def test_interrupted_training_ends_as_an_uninterrupted_one(
    images, tmp_path, epoch, every
):
    weights = conv_network().get_weights()
    folders = [tmp_path / "whole", tmp_path / "interrupted"]
    whole = run(folders[0], images, weights)
    with pytest.raises(Interruption):
        run(folders[1], images, weights, Interrupt(epoch), every=every)
    resumed = run(folders[1], images, weights, every=every)
    assert resumed[1].history["iteration_weight"] == pytest.approx(WEIGHTS)
    assert_same_run(whole, resumed, folders)


def test_finished_run_does_nothing_more_and_keeps_its_history(images, tmp_path):
    weights = conv_network().get_weights()
    first = run(tmp_path, images, weights)
    files = {p: p.read_bytes() for p in tmp_path.rglob("*.csv")}
    again = run(tmp_path, images, weights)
    assert int(again[0].optimizer.iterations) == 12
    assert again[1].epoch == [0, 1, 2, 3]
    assert again[1].history == first[1].history
    np.testing.assert_array_equal(weights_of(first[0]), weights_of(again[0]))
    assert {p: p.read_bytes() for p in tmp_path.rglob("*.csv")} == files


def test_finished_run_can_be_made_longer(images, tmp_path):
    weights = conv_network().get_weights()
    arguments = {"total_epochs": 4}
    folders = [tmp_path / "whole", tmp_path / "in parts"]
    whole = run(folders[0], images, weights, **arguments)
    run(folders[1], images, weights, epochs=2, **arguments)
    longer = run(folders[1], images, weights, **arguments)
    assert_same_run(whole, longer, folders)


def test_early_stop_is_remembered(images, tmp_path):
    class Stop(keras.callbacks.Callback):
        # Before `Checkpoint`, whose file then says so.
        def on_train_batch_end(self, batch, logs=None):
            if int(self.model.optimizer.iterations) == 6:
                self.model.stop_training = True

    weights = conv_network().get_weights()
    first = run(tmp_path, images, weights, Stop())
    assert first[1].epoch == [0, 1]
    again = run(tmp_path, images, weights)
    assert int(again[0].optimizer.iterations) == 6
    assert again[1].epoch == [0, 1]


def test_state_of_another_model(images, tmp_path):
    x, y = images
    run(tmp_path, images, conv_network().get_weights(), epochs=1)
    path = tmp_path / "state" / Checkpoint.FILE
    before = path.read_bytes()
    model = tiny_model(dense_network())
    with pytest.raises(ValueError, match="state of another model or optimiser"):
        model.fit(x, y, callbacks=[Checkpoint(tmp_path / "state")], **FIT)
    assert path.read_bytes() == before


def test_only_the_chief_writes(images, tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "is_chief", lambda model: False)
    folder = tmp_path / "run"
    model = tiny_model()
    callbacks = [
        ScheduleInspector(folder),
        HistoryCSV(folder / "history.csv"),
        Checkpoint(folder),
    ]
    model.fit(*images, epochs=1, callbacks=callbacks, **FIT)
    assert not folder.exists()


def test_processes_must_share_the_checkpoints(images, tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "of_all_processes", lambda model, value: [value, 3])
    with pytest.raises(ValueError, match=r"they find \[0, 3\] epochs done"):
        tiny_model().fit(*images, callbacks=[Checkpoint(tmp_path)], **FIT)


def test_state_of_another_optimiser(images, tmp_path):
    x, y = images
    callbacks = [Checkpoint(tmp_path)]
    tiny_model().fit(x, y, callbacks=callbacks, **FIT)
    model = tiny_model(optimizer=keras.optimizers.Adam())
    with pytest.raises(ValueError, match="state of another model or optimiser"):
        model.fit(x, y, callbacks=callbacks, **FIT)


def test_file_cut_short_by_a_kill_does_no_harm(images, tmp_path):
    weights = conv_network().get_weights()
    run(tmp_path, images, weights, epochs=2, total_epochs=4)
    path = tmp_path / "state" / Checkpoint.FILE
    stray = path.with_name(path.name + ".tmp")
    stray.write_bytes(path.read_bytes()[:100])
    (tmp_path / "history.csv.tmp").write_text("epoch,lo")
    _, history = run(tmp_path, images, weights, total_epochs=4)
    assert history.epoch == [0, 1, 2, 3]
    assert len(read_csv(tmp_path / "history.csv")) == 4
    assert not stray.exists()


def test_second_fit_of_a_resumed_model_is_a_new_training(images, tmp_path):
    x, y = images
    weights = conv_network().get_weights()
    run(tmp_path, images, weights, epochs=2)
    model, _ = run(tmp_path, images, weights, epochs=2)
    history = model.fit(x, y, epochs=1, **FIT)
    assert history.epoch == [0]


@pytest.mark.tensorflow
def test_killed_training_ends_as_an_uninterrupted_one(tmp_path):
    def run_script(*arguments):
        environment = {
            **os.environ,
            "KERAS_BACKEND": "tensorflow",
            "PYTHONPATH": str(TESTS.parent),
        }
        command = [sys.executable, TESTS / "resume_script.py", *arguments]
        return subprocess.run(
            list(map(str, command)), env=environment, capture_output=True, text=True
        )

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    result = run_script(whole)
    assert result.returncode == 0, result.stderr
    steps = len(np.load(whole / "end.npz")["loss"])
    assert steps == 3
    # In the middle of the second epoch, of eight steps each.
    assert run_script(killed, 12).returncode == -signal.SIGKILL
    assert not (killed / "end.npz").exists()
    assert len(read_csv(killed / "history.csv")) == 1
    result = run_script(killed)
    assert result.returncode == 0, result.stderr
    with np.load(whole / "end.npz") as expected, np.load(killed / "end.npz") as actual:
        assert set(actual) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    for name in ("history.csv", "schedule.csv"):
        assert (whole / name).read_text() == (killed / name).read_text()
