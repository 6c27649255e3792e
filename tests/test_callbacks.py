import csv
import errno
import importlib.util
import os

import numpy as np
import pytest
from matplotlib import font_manager
from tiny_models import COUNTS, FIT, ONE_EPOCH, dense_network, tiny_model

import keras_robustlt as krl
from keras_robustlt import files
from keras_robustlt.backend import replicas
from keras_robustlt.callbacks import HistoryCSV, ScheduleInspector
from keras_robustlt.callbacks.checkpoint import prepared

pytestmark = ONE_EPOCH
EPSILON = krl.budget.classwise_epsilon(COUNTS, 0.1, 0.3)
WEIGHTS = krl.budget.iteration_weight(np.arange(1, 5), 4, 0.8)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


# Looking at the schedule


def test_schedule_in_the_history_and_in_files(images, tmp_path):
    x, y = images
    inspector = ScheduleInspector(tmp_path / "new", class_names=["a", "b", "c"])
    history = tiny_model().fit(x, y, epochs=4, callbacks=[inspector], **FIT).history
    assert history["iteration_weight"] == pytest.approx(WEIGHTS)
    # The mean over the training data is that of the uniform budget.
    assert history["epsilon_mean"] == pytest.approx(0.1 * WEIGHTS)
    assert history["epsilon_min"] == pytest.approx(WEIGHTS * EPSILON.min())
    assert history["epsilon_max"] == pytest.approx(WEIGHTS * EPSILON.max())
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


def test_schedule_under_the_uniform_budget():
    inspector, logs = ScheduleInspector(), {}
    inspector.set_model(tiny_model(budget=krl.budget.Budget()))
    inspector.on_train_begin()
    inspector.on_epoch_begin(0)
    inspector.on_epoch_end(0, logs)
    assert logs["iteration_weight"] == 1
    assert logs["epsilon_max"] == pytest.approx(0.1)


@pytest.mark.parametrize("method", ["standard", krl.methods.TAET(ce_epochs=2)])
def test_schedule_where_there_is_no_attack(method):
    inspector, logs = ScheduleInspector(), {}
    inspector.set_model(tiny_model(method=method, beta=0))
    inspector.on_train_begin()
    inspector.on_epoch_begin(0)
    inspector.on_epoch_end(0, logs)
    assert logs["epsilon_mean"] == logs["epsilon_max"] == 0


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
    with pytest.raises(ImportError, match="pip install tensorboard"):
        ScheduleInspector("a", tensorboard=True)


def test_history_csv_starts_anew_with_a_new_training(images, tmp_path):
    x, y = images
    path = tmp_path / "new" / "history.csv"
    for epochs in (3, 2):
        model = tiny_model(method="standard")
        history = model.fit(x, y, epochs=epochs, callbacks=[HistoryCSV(path)], **FIT)
        rows = read_csv(path)
        assert [row["epoch"] for row in rows] == [str(e) for e in range(epochs)]
        for name, values in history.history.items():
            assert [float(row[name]) for row in rows] == pytest.approx(values)
    # And goes on where training starts later, with what is logged now.
    validation = {"validation_data": images, "validation_freq": 2}
    callbacks = [HistoryCSV(path)]
    model.fit(x, y, epochs=4, initial_epoch=1, callbacks=callbacks, **validation, **FIT)
    rows = read_csv(path)
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [bool(row["val_loss"]) for row in rows] == [False, True, False, True]


def test_history_csv_is_behind_what_adds_to_the_logs(images, tmp_path):
    x, y = images
    callbacks = [
        krl.callbacks.Checkpoint(tmp_path),
        HistoryCSV(tmp_path / "history.csv"),
        krl.callbacks.SkewAndDrift(x, y),
    ]
    model = tiny_model(beta=0)
    given = prepared(model, {"callbacks": callbacks}, [])
    kinds = [type(each).__name__ for each in given]
    assert kinds == ["SkewAndDrift", "HistoryCSV", "Checkpoint", "_Begun"]
    assert prepared(model, {"callbacks": callbacks[1:2]}, []) == callbacks[1:2]


def test_only_the_chief_writes(images, tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "is_chief", lambda model: False)
    folder = tmp_path / "run"
    callbacks = [
        ScheduleInspector(folder),
        HistoryCSV(folder / "history.csv"),
        krl.callbacks.Checkpoint(folder),
    ]
    model = tiny_model(method="standard")
    model.fit(*images, epochs=1, callbacks=callbacks, **FIT)
    assert not folder.exists()


# Names of classes


NAMES = [
    "epoch",
    'a,\n"b" $x_$',
    b"caf\xe9",
    "_cat",
    "_cat",
    "\udce9",
    "猫",
    "",
    "é" * 90,
]


def test_any_names_of_classes(tmp_path):
    model = tiny_model(class_counts=[9] * 9, network=dense_network(9))
    inspector = ScheduleInspector(tmp_path, NAMES)
    inspector.set_model(model)
    inspector.on_train_begin()
    inspector.on_epoch_begin(0)
    inspector.on_epoch_end(0)
    inspector.on_train_end()
    (row,) = read_csv(tmp_path / "schedule.csv")
    assert list(row) == ["epoch", "iteration_weight", *inspector.names]
    assert len(set(row)) == 11
    assert inspector.names[0] == "epoch (class 0)"
    assert inspector.names[2:6] == ["caf\\xe9", "_cat", "_cat (class 4)", "\\udce9"]
    inspector.on_train_begin()
    inspector.on_epoch_begin(1)
    assert inspector.epochs == [0]


@pytest.mark.parametrize("names", [["a", "b"], "abc", {0: "a", 1: "b", 2: "c"}])
def test_wrong_names_of_classes(images, names):
    with pytest.raises(ValueError, match="`class_names` must be a list of"):
        tiny_model().fit(*images, callbacks=[ScheduleInspector(None, names)], **FIT)


def only_fonts(monkeypatch, *others):
    """Makes Matplotlib's usual font and these all that this machine has."""
    manager = font_manager.fontManager
    usual = [font for font in manager.ttflist if font.name == "DejaVu Sans"]
    monkeypatch.setattr(manager, "ttflist", [*usual, *others])


def test_labels_of_pictures(monkeypatch):
    only_fonts(monkeypatch)
    names = ["_a", "$x_$", "猫", "b" * 50]
    figure = krl.plots.schedule(np.ones((2, 4)), names)
    (axes,) = figure.axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["_a", "$x_$", "class 2", "b" * 28 + "\n" + "b" * 22]
    assert "No font" in figure.get_supxlabel()
    figure = krl.plots.schedule(np.ones((2, 2)), ["cafe\u0301", "two\nlines"])
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["café", "two lines"] and not figure.get_supxlabel()
    many = [f"c{index}" for index in range(30)]
    figure = krl.plots.schedule([range(30)], many)
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["c0", "c29"]
    with pytest.raises(ValueError, match="`class_names` has 3 names"):
        krl.plots.schedule(np.ones((2, 4)), names[:3])
    for arguments, argument in (
        ({"class_names": "ab"}, "class_names"),
        ({"class_epsilon": np.ones((0, 2))}, "class_epsilon"),
        ({"weights": []}, "weights"),
        ({"epochs": [1, 2]}, "epochs"),
    ):
        good = {"class_epsilon": [[0.1, 0.2]], "class_names": ["a", "b"]}
        with pytest.raises(ValueError, match=f"`{argument}` must"):
            krl.plots.schedule(**{**good, **arguments})


def test_a_font_that_has_the_letters(monkeypatch):
    fonts = {"A Sans": "ब", "Bold": "狗", "Dog": "狗", "Han": "猫", "Light": "狗"}
    weights = {"Bold": 700, "Light": 300}
    entries = [
        font_manager.FontEntry(
            fname=f"/{name}", name=name, weight=weights.get(name, 400)
        )
        for name in fonts
    ]
    only_fonts(monkeypatch, *entries)
    letters_of = {f"/{name}": set(letters) for name, letters in fonts.items()}
    usual = krl.plots._letters_of
    monkeypatch.setattr(
        krl.plots, "_letters_of", lambda path: letters_of.get(path) or usual(path)
    )
    labels = krl.plots.Labels(["cat 猫", "狗", "鸟"])
    assert labels.fonts[1:] == ["Dog", "Han"]
    assert [labels[index] for index in range(3)] == ["cat 猫", "狗", "class 2"]


def test_pictures_of_accuracy_have_whole_names(monkeypatch):
    only_fonts(monkeypatch)
    entry = {"all": 0.5, "tail": None, "balanced": 0.5, "worst": 0.5}
    entry["per_class"] = [0.5, None]
    names = ["a long name of more than one line", "rare"]
    settings = {"class_counts": [3, 1200], "class_names": names}
    results = krl.EvaluationResults({"clean": entry, "pgd20": entry}, settings)
    with_other_names = {**settings, "class_names": ["a", "b"]}
    others = krl.EvaluationResults(results, with_other_names)
    without = krl.EvaluationResults(results, {**settings, "class_counts": None})
    for runs, attack, message in (
        ({}, "pgd20", "`results` must be of at least one run"),
        (results, "pgd20", "`results` must be a dictionary.*EvaluationResults"),
        ({"AT": results}, "cw20", "'clean' and `attack`='cw20'"),
        ({"AT": without}, "pgd20", r"evaluate\(..., class_counts"),
        ({"AT": results, "B": others}, "pgd20", "another class_names for 'B'"),
    ):
        with pytest.raises(ValueError, match=message):
            krl.plots.accuracy_per_class(runs, attack)
    attacked = {key: {**entry, "attack": {"epsilon": key}} for key in (0.1, 0.2)}
    runs = {
        key: krl.EvaluationResults({"clean": entry, "pgd20": each}, settings)
        for key, each in attacked.items()
    }
    with pytest.warns(UserWarning, match="unlike attacks"):
        krl.plots.accuracy_per_class(runs)
    figure = krl.plots.accuracy_per_class({"AT": results})
    ticks = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    # From the largest class at the top.
    assert ticks == ["rare (1,200)", "a long name of more than one\nline (3)"]
    assert figure.axes[0].get_ylim() == (1.5, -0.5)


# Files


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("history.csv", b"", "no first line"),
        ("history.csv", b"epoch,loss\nzero,1\n", "invalid literal"),
        ("history.csv", b"epoch,loss\n0\n", "line 2 has 1 columns"),
        ("history.csv", b"epoch,loss\n0,1\n0,1\n", "that of the epochs"),
        ("history.csv", b"epoch,l\xff\n0,1\n", "decode"),
        ("schedule.csv", b"epoch,iteration_weight,0,1\n0,1,1,1\n", "not 3 classes"),
        ("schedule.csv", b"epoch,iteration_weight,0,1,2\n0,1,1,x,1\n", "to float"),
        ("schedule.csv", b"epoch,iteration_weight,0,1,2\n0,1,1,inf,1\n", "infinite"),
    ],
)
def test_damaged_files(images, tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content)
    callback = (
        HistoryCSV(tmp_path / file) if "hist" in file else ScheduleInspector(tmp_path)
    )
    callback.set_model(tiny_model())
    callback.on_train_begin()
    with pytest.raises(ValueError, match=f"{file} is damaged .*({message}).*delete it"):
        callback.on_epoch_begin(1)
    assert (tmp_path / file).read_bytes() == content


def test_bad_places(images, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`path` must be a path of a file system"):
        HistoryCSV("gs://bucket/history.csv")
    with pytest.raises(ValueError, match="`directory` must be a path"):
        ScheduleInspector(3)
    assert "~" not in str(ScheduleInspector("~/runs").directory)
    for callback in (
        HistoryCSV(tmp_path / "file" / "history.csv"),
        ScheduleInspector(tmp_path / "file"),
        krl.callbacks.Checkpoint(tmp_path / "file"),
    ):
        with pytest.raises(OSError, match="Cannot write into the folder .*file"):
            tiny_model().fit(*images, callbacks=[callback], **FIT)


def test_what_is_no_file_is_not_replaced(images, tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(OSError, match="Cannot write the file .*pipe"):
        tiny_model().fit(*images, callbacks=[HistoryCSV(pipe)], **FIT)
    assert pipe.is_fifo()


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.csv"
    files.write_rows(path, [["epoch"], [0]])
    before = path.read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match=r"Could not write .*a\.csv: No space left"):
        files.write_rows(path, [["epoch"], [0], [1]])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]
