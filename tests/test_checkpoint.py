"""An interrupted training goes on as if nothing had been, or says why it cannot."""

import errno
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_models import (
    FIT,
    ONE_EPOCH,
    conv_network,
    dense_network,
    tiny_model,
    weights_of,
)

import keras_robustlt as krl
from keras_robustlt import files
from keras_robustlt.backend import replicas
from keras_robustlt.callbacks import Checkpoint, HistoryCSV, ScheduleInspector
from keras_robustlt.callbacks.checkpoint import prepared
from keras_robustlt.callbacks.training_state import KEPT, TrainingState
from keras_robustlt.data import resumption

TESTS = pathlib.Path(__file__).resolve().parent
RNG = np.random.default_rng(0)
X, Y = RNG.random((12, 6, 6, 3), "float32"), np.arange(12) % 3
# As large as augmentation needs.
LARGE = RNG.random((12, 16, 16, 3), "float32")


class Interruption(Exception):
    pass


class Interrupt(keras.callbacks.Callback):
    """Stops training in the middle of an epoch, as a kill would."""

    def __init__(self, epoch):
        super().__init__()
        self.interrupted_epoch = epoch

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if self.epoch == self.interrupted_epoch and batch == 1:
            raise Interruption


class Score(keras.callbacks.Callback):
    """Logs a score, one value an epoch."""

    def __init__(self, *scores):
        super().__init__()
        self.scores = scores

    def on_epoch_end(self, epoch, logs=None):
        logs["score"] = self.scores[epoch]


def quick_model(**arguments):
    ours = {} if "budget" in arguments else {"beta": 0}
    return tiny_model(**{"method": "at", **ours, **arguments})


def fit(directory, *others, model=None, x=X, y=Y, **arguments):
    """The same command again: new objects, the files of the directory."""
    keras.utils.set_random_seed(3)
    model = model if isinstance(model, keras.Model) else (model or quick_model)()
    arguments = {**FIT, "epochs": 2, **arguments}
    listed = [*others, Checkpoint(directory)]
    return model, model.fit(x, y, callbacks=listed, **arguments)


# Going on


config_of = keras.saving.serialize_keras_object  # each model makes its own


# So high a rate leaves some networks without a unit that is not dead.
@pytest.mark.filterwarnings("ignore:.* of the images count for `robust_accuracy`")
@pytest.mark.parametrize(
    ("epoch", "every", "options"),
    [
        (1, 1, {"method": "awp", "averaging": 0.5, "augmentation": "base"}),
        pytest.param(
            2,
            1,
            {"method": "reat", "averaging": config_of(krl.averaging.FAWA(0.0))},
            marks=pytest.mark.slow,
        ),
        pytest.param(
            2,
            2,
            {"budget": "cfa", "method": config_of(krl.methods.TAET(ce_epochs=2))},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_interrupted_training_ends_as_an_uninterrupted_one(
    tmp_path, epoch, every, options
):
    epochs = epoch + 1

    def run(name, *extra):
        keras.utils.set_random_seed(3)
        optimizer = krl.optimizers.SGD(0.1, momentum=0.9)
        network = conv_network(input_shape=LARGE.shape[1:])
        model = tiny_model(network, optimizer=optimizer, **options)
        folder = tmp_path / name
        listed = [
            ScheduleInspector(folder),
            HistoryCSV(folder / "history.csv"),
            Checkpoint(folder / "state", every=every),
            *extra,
        ]
        # Shuffled, by NumPy's or TensorFlow's random numbers.
        arguments = {**FIT, "shuffle": True}
        if model.averaging is not None:
            arguments["validation_data"] = (LARGE, Y)
        history = model.fit(LARGE, Y, epochs=epochs, callbacks=listed, **arguments)
        return model, history

    whole = run("whole")
    with pytest.raises(Interruption):
        run("parts", Interrupt(epoch))
    parts = run("parts")
    for left, right in zip(whole[0].variables, parts[0].variables, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=left.path)
    assert parts[1].epoch == list(range(epochs))
    assert parts[1].history == whole[1].history
    for name in ("history.csv", "schedule.csv"):
        texts = [(tmp_path / run / name).read_text() for run in ("whole", "parts")]
        assert texts[0] == texts[1]


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
    # In the middle of the second epoch, of four steps each.
    result = run_script(whole, killed, 6)
    assert result.returncode == -signal.SIGKILL, result.stderr
    assert not (killed / "end.npz").exists()
    assert len((killed / "history.csv").read_text().splitlines()) == 2
    result = run_script(killed)
    assert result.returncode == 0, result.stderr
    with np.load(whole / "end.npz") as expected, np.load(killed / "end.npz") as actual:
        assert set(actual) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)
    for name in ("history.csv", "schedule.csv"):
        assert (whole / name).read_text() == (killed / name).read_text()


def test_finished_run_does_nothing_more_and_can_be_made_longer(tmp_path):
    table_of = HistoryCSV(tmp_path / "history.csv")
    first, history = fit(tmp_path, table_of)
    table = (tmp_path / "history.csv").read_text()
    again, same = fit(tmp_path, table_of)
    assert int(again.optimizer.iterations) == 6
    assert (same.epoch, same.history) == (history.epoch, history.history)
    np.testing.assert_array_equal(weights_of(first), weights_of(again))
    assert (tmp_path / "history.csv").read_text() == table
    longer, history = fit(tmp_path, table_of, epochs=3)
    assert history.epoch == [0, 1, 2]
    assert int(longer.optimizer.iterations) == 9
    # Another `fit` of a resumed model is a new training.
    assert longer.fit(X, Y, epochs=1, **FIT).epoch == [0]


def test_length_of_the_schedule(tmp_path):
    fit(tmp_path, model=quick_model(beta=0.8))
    with pytest.raises(ValueError, match=r"total_epochs: 2 there, 4 now.*_epochs=2\)"):
        fit(tmp_path, model=quick_model(beta=0.8), epochs=4)
    model = quick_model(beta=0.8, total_epochs=2)
    assert fit(tmp_path, model=model, epochs=3)[1].epoch == [0, 1, 2]


@ONE_EPOCH
def test_length_of_a_schedule_that_has_hardly_begun(tmp_path):
    # The first epoch has no budget, however long training is to be.
    def model():
        return quick_model(budget=krl.budget.RobustLT(alpha=0.3, beta=1.0))

    fit(tmp_path, model=model, epochs=1)
    longer, history = fit(tmp_path, model=model, epochs=4)
    assert history.epoch == [0, 1, 2, 3]
    assert longer.schedule.length == 4


def test_length_by_which_a_method_goes(tmp_path):
    arguments = {"method": "nuat", "attack": krl.attacks.FGSM(0.1), "beta": 0}
    fit(tmp_path, model=quick_model(**arguments))
    with pytest.raises(ValueError, match="total_epochs: 2 there, 4 now"):
        fit(tmp_path, model=quick_model(**arguments), epochs=4)


def test_early_stop_is_remembered(tmp_path):
    class Stop(keras.callbacks.Callback):
        # Before `Checkpoint`, whose file then says so.
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    assert fit(tmp_path, Stop(), epochs=3)[1].epoch == [0]
    again, history = fit(tmp_path, epochs=3)
    assert int(again.optimizer.iterations) == 3
    assert history.epoch == [0]


def test_half_precision_goes_on(tmp_path):
    def model():
        keras.config.set_dtype_policy("bfloat16")
        network = dense_network()
        keras.config.set_dtype_policy("float32")
        return quick_model(network=network)

    first, _ = fit(tmp_path, model=model)
    again, _ = fit(tmp_path, model=model)
    assert {w.dtype for w in again.network.weights} == {"bfloat16"}
    np.testing.assert_array_equal(weights_of(first), weights_of(again))


# What other callbacks know


def test_best_weights_come_back(tmp_path):
    def run(*extra):
        stop = keras.callbacks.EarlyStopping(
            "score", mode="max", patience=2, restore_best_weights=True
        )
        best = keras.callbacks.ModelCheckpoint(
            tmp_path / "best.weights.h5",
            "score",
            mode="max",
            save_best_only=True,
            save_weights_only=True,
        )
        plateau = keras.callbacks.ReduceLROnPlateau("score", 0.5, 1, mode="max")
        score = Score(0.5, 1.0, 0.4, 0.3, 0.2)
        # Two after Checkpoint, which `fit` moves.
        listed = [score, plateau, *extra, Checkpoint(tmp_path), stop, best]
        keras.utils.set_random_seed(3)
        model = quick_model()
        history = model.fit(X, Y, epochs=5, callbacks=listed, **FIT)
        return weights_of(model), history.epoch, history.history

    with pytest.raises(Interruption):
        run(Interrupt(2))
    best = (tmp_path / "best.weights.h5").read_bytes()
    resumed, again = run(), run()
    assert (tmp_path / "best.weights.h5").read_bytes() == best
    (tmp_path / Checkpoint.FILE).unlink()
    for actual in (resumed, again, run()):
        np.testing.assert_array_equal(actual[0], resumed[0])
        assert actual[1:] == ([0, 1, 2, 3], resumed[2])


def test_keras_callbacks_still_have_what_is_kept():
    stop = keras.callbacks.EarlyStopping()
    stop.on_train_begin()
    others = (
        keras.callbacks.ModelCheckpoint("a.keras"),
        keras.callbacks.ReduceLROnPlateau(),
        keras.callbacks.SwapEMAWeights(),
    )
    for callback in (stop, *others):
        assert all(hasattr(callback, name) for name in KEPT[type(callback)])


@pytest.mark.parametrize(
    "rival", [Checkpoint, keras.callbacks.BackupAndRestore], ids=lambda c: c.__name__
)
def test_one_callback_goes_on(tmp_path, rival):
    with pytest.raises(ValueError, match=f"another {rival.__name__}"):
        fit(tmp_path, rival(tmp_path / "other"))
    twice = Checkpoint(tmp_path)
    with pytest.raises(ValueError, match="different objects, each once"):
        quick_model().fit(X, Y, callbacks=[twice, twice], **FIT)


class StopAtTheThird(keras.callbacks.Callback):
    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 3:
            raise Interruption


def test_a_schedule_is_as_long_as_this_training(tmp_path):
    """Keras's callback brings the length of the training before with the weights."""

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    def trained(epochs, *callbacks):
        model = quick_model(beta=0.8)
        model.fit(X, Y, epochs=epochs, callbacks=[backup(), *callbacks], verbose=0)

    with pytest.raises(Interruption):
        trained(100, StopAtTheThird())
    inspector = ScheduleInspector()
    trained(6, inspector)
    expected = [krl.budget.iteration_weight(t, 6, 0.8) for t in (4, 5, 6)]
    assert inspector.weights[-3:] == pytest.approx(expected)


def test_order_of_callbacks(tmp_path):
    model, checkpoint = quick_model(), Checkpoint(tmp_path)
    stop, score = keras.callbacks.EarlyStopping(), Score()
    given = keras.callbacks.CallbackList(
        [checkpoint, score, stop, Interrupt(3)], add_history=True, model=model, epochs=1
    )
    clock = keras.callbacks.Callback()
    listed = prepared(model, {"x": X, "callbacks": given}, [clock])
    assert listed is given
    assert listed.callbacks[:4] == [clock, score, stop, checkpoint]
    assert all(each.model is model for each in listed.callbacks)
    assert prepared(model, {}, [clock]) == [clock]
    assert prepared(model, {"callbacks": stop}, [clock]) == [clock, stop]


# Another training


@pytest.mark.slow
def test_training_of_the_head_first_goes_on(tmp_path):
    """Interrupted while the head learns alone, and while all layers do."""
    factor = keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.0, 0.1])
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)

    def run(folder, *extra):
        keras.utils.set_random_seed(3)
        layers = [keras.layers.Flatten(), keras.layers.Dense(4, "relu", name="body")]
        layers += [keras.layers.Dense(3, name="logits")]
        network = keras.Sequential([keras.Input(X.shape[1:]), *layers])
        before = network.get_weights()
        model = tiny_model(network, method="at")
        optimizer = krl.optimizers.AdamW(0.01, backbone_rate=factor)
        model.compile(optimizer, loss=loss, run_eagerly=True)
        listed = [*extra, Checkpoint(tmp_path / folder)]
        options = {**FIT, "epochs": 4, "class_weight": "effective"}
        model.fit(X, Y, callbacks=listed, **options)
        return before, network.get_weights()

    _, whole = run("whole")
    for epoch in (1, 3):
        with pytest.raises(Interruption):
            run("parts", Interrupt(epoch))
        if epoch == 1:  # of which the first is done
            state = TrainingState.read(tmp_path / "parts" / Checkpoint.FILE)
            shapes = [value.shape for value in state.variables]
            kernel = state.variables[shapes.index((108, 4))]
    before, parts = run("parts")
    np.testing.assert_array_equal(kernel, before[0])
    assert np.abs(whole[0] - before[0]).max() > 1e-4
    for left, right in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(left, right)
    with pytest.raises(ValueError, match="data.class_weight: .* there, null now"):
        fit(tmp_path / "parts", model=quick_model, epochs=4)


@pytest.fixture(scope="module")
def begun(tmp_path_factory):
    """The state after two epochs of the quick model."""
    folder = tmp_path_factory.mktemp("begun")
    fit(folder)
    return folder


def optimizer(make=keras.optimizers.SGD, rate=0.1, **options):
    return {"model": lambda: quick_model(optimizer=make(rate, **options))}


def made(**arguments):
    return {"model": lambda: quick_model(**arguments)}


def decay():
    return keras.optimizers.schedules.CosineDecay(0.1, 6)


OTHERS = {
    "method": (made(method="at_bsl"), "method: AT there, ATBSL now"),
    "epsilon": (made(epsilon=0.2), "epsilon: 0.1 there, 0.2 now"),
    "alpha": (made(alpha=0.5), "budget.alpha: 0.3 there, 0.5 now"),
    "budget": (made(budget="cfa"), "budget: RobustLT there, CFA now"),
    "attack": (made(attack=krl.attacks.PGD(0.1, steps=3)), "attack.steps: 2 there, 3"),
    "class counts": (made(class_counts=[8, 3, 2]), "class_counts: .8, 3, 1. there"),
    "seed": (made(seed=1), "seed: 0 there, 1 now"),
    "network": (
        made(network=dense_network(activation="relu")),
        r"network.layers\[2\].activation: .linear. there, .relu. now",
    ),
    "layers": (made(network=conv_network()), "layers: 3 entries there, 6 entries now"),
    "optimiser": (optimizer(keras.optimizers.Adam), "optimizer: SGD there, Adam now"),
    "momentum": (optimizer(krl.optimizers.SGD, momentum=0.9), "momentum: 0.0 there"),
    "rate": (optimizer(krl.optimizers.SGD, 0.2), "learning_rate: 0.1.* there, 0.2"),
    "decay": (optimizer(krl.optimizers.SGD, decay()), "there, CosineDecay now"),
    "images": ({"x": X / 2}, "data.images.content:"),
    "number": ({"x": X[:9], "y": Y[:9]}, r"data.images.shape: \[12, 6, 6, 3\] there"),
    "labels": ({"y": Y[::-1].copy()}, "data.labels.content:"),
    "shuffle": ({"shuffle": True}, "data.shuffle: false there, true now"),
    "batch size": ({"batch_size": 6}, "steps_per_epoch: 3 there, 2 now"),
    "fewer epochs": ({"epochs": 1}, "epochs: 2 are done there, `fit` is to do 1 now"),
    "later": ({"epochs": 4, "initial_epoch": 3}, "initial_epoch=3 now"),
}


@pytest.mark.parametrize("change", OTHERS)
def test_state_of_another_training(begun, change):
    arguments, message = OTHERS[change]
    path = begun / Checkpoint.FILE
    before = path.read_bytes()
    model = arguments.get("model", quick_model)()
    weights = weights_of(model)
    with pytest.raises(ValueError, match=message) as caught:
        fit(begun, **{**arguments, "model": model})
    assert str(caught.value).startswith(f"{path} holds the state of another training.")
    assert "Use another directory, or delete the file" in str(caught.value)
    assert path.read_bytes() == before
    np.testing.assert_array_equal(weights_of(model), weights)


def compiled(**options):
    def make():
        model = quick_model(name="another_name")
        model.compile(krl.optimizers.SGD(0.1), **options)
        return model

    return make


@pytest.mark.parametrize(
    "arguments",
    [
        {"model": compiled(metrics=["accuracy"])},
        {"model": compiled(run_eagerly=True)},
        {"x": X.astype("float64"), "y": Y.astype("uint8"), "verbose": 2},
        {"validation_data": (X, Y)},
    ],
)
def test_what_may_change(begun, arguments):
    _, history = fit(begun, **arguments)
    assert history.epoch == [0, 1]


def test_metrics_that_are_arrays_go_on(tmp_path):
    """A number for each class: kept, written, and left out of a report."""
    for epochs in (1, 2):
        model = quick_model()
        model.compile(krl.optimizers.SGD(0.1), metrics=[keras.metrics.F1Score()])
        history = HistoryCSV(tmp_path / "history.csv")
        one_hot = np.eye(3, dtype="float32")[Y]
        _, found = fit(tmp_path, history, model=model, y=one_hot, epochs=epochs)
    assert np.shape(found.history["f1_score"]) == (2, 3)
    krl.report(tmp_path, tmp_path / "report.html")


def test_data_are_described_in_plain_values():
    options = {"seed": np.int64(3), "shuffle": np.bool_(True)}
    arguments = {"x": krl.data.pipeline(X, Y, np.int32(4), **options)}
    weights = {"class_weight": {0: np.float32(0.5), 1: 1, 2: 1}}
    for described in (
        resumption.described({**arguments, **weights}),
        resumption.described({"x": X, "y": Y, "batch_size": np.int64(4), **weights}),
    ):
        assert json.loads(json.dumps(described)) == described


def test_other_validation_data_are_refused(tmp_path):
    fit(tmp_path, validation_data=(X, Y))
    fit(tmp_path, validation_data=(X, Y), validation_batch_size=4)
    with pytest.raises(ValueError, match=r"validation_data.0..content: .* there"):
        fit(tmp_path, validation_data=(X / 2, Y))


def test_learning_rate_that_callbacks_change(tmp_path):
    model = quick_model()
    halve = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate / 2)
    with pytest.raises(Interruption):
        fit(tmp_path, halve, Interrupt(1), model=model, epochs=3)
    # Again in the same process, with the same objects, as in a notebook.
    fit(tmp_path, halve, model=model, epochs=3)
    assert float(model.optimizer.learning_rate) == pytest.approx(0.1 / 8)


# Data that go on exactly, or not


@pytest.mark.tensorflow
def test_pipelines_are_told_the_epoch_and_others_are_known():
    import tensorflow as tf

    labels = np.arange(12) % 3
    train = krl.data.pipeline(X, labels, batch_size=4, seed=1)
    mapped = train.map(lambda x, y: (x[:, ::-1], y)).prefetch(1)
    layer = keras.layers.RandomFlip()
    rows = tf.data.Dataset.from_tensor_slices((X, labels))

    class Ordered(keras.utils.PyDataset):
        epoch = 0
        num_batches = 3

        def __getitem__(self, index):
            return X[4 * index : 4 * index + 4], labels[:4]

    class Reordered(Ordered):
        def on_epoch_end(self):
            pass

    for dataset, variables in ((train, 1), (mapped, 1), (rows, 0), (Ordered(), 0)):
        assert len(resumption.epoch_variables(dataset)) == variables
        assert resumption.unknown_order({"x": dataset}) is None
    assert resumption.unknown_order({"x": X, "batch_size": 4}) is None
    once = rows.shuffle(12, reshuffle_each_iteration=False)
    assert resumption.unknown_order({"x": once}) is None
    unknown = {
        "`shuffle`": rows.shuffle(12).batch(4).map(lambda x, y: (x, y)),
        "`cache` after": mapped.cache(),
        "`repeat` after": train.repeat(2),
        "a random layer": train.map(lambda x, y: (layer(x, training=True), y)),
        "a function that": rows.map(lambda x, y: (x * tf.random.uniform([]), y)),
        "generator, which": (batch for batch in [(X, labels)]),
        "Reordered changes": Reordered(),
        "from a object": object(),
    }
    for reason, dataset in unknown.items():
        assert reason in resumption.unknown_order({"x": dataset})
    for dataset in (X, mapped, Ordered()):
        reason = resumption.unknown_order({"x": dataset, "steps_per_epoch": 2})
        assert "not one pass" in reason
    assert resumption.described({"x": mapped})["inside"][0]["seed"] == 1


@pytest.mark.tensorflow
def test_data_that_do_not_go_on_exactly_are_told(tmp_path):
    import tensorflow as tf

    def run(epochs, data):
        arguments = {"batch_size": None, "epochs": epochs}
        return fit(tmp_path, x=data, y=None, **arguments)

    data = tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(12).batch(4)
    run(1, data)
    with pytest.warns(UserWarning, match="Epoch 2 and the following.*`shuffle`"):
        run(2, data)
    run(2, data)  # nothing is left to do
    pipeline = krl.data.pipeline(X, Y, batch_size=4)
    with pytest.raises(ValueError, match="data: tf.data.Dataset there, pipeline now"):
        run(3, pipeline)


# Files and processes


def spoilt(content):
    return content[: len(content) // 2]


def other_byte(content):
    place = content.index(b"\x93NUMPY") + 140
    return content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]


def larger(content):
    """An array that says that it has other sizes than it has."""
    return content.replace(b"'shape': (108, 3)", b"'shape': (900, 3)")


@pytest.mark.parametrize("damage", [lambda c: b"", spoilt, other_byte, larger])
def test_damaged_state(begun, tmp_path, damage):
    path = tmp_path / Checkpoint.FILE
    content = damage((begun / Checkpoint.FILE).read_bytes())
    path.write_bytes(content)
    model = quick_model()
    weights = weights_of(model)
    with pytest.raises(ValueError, match=f"{path} is damaged .*delete it"):
        fit(tmp_path, model=model)
    assert path.read_bytes() == content
    np.testing.assert_array_equal(weights_of(model), weights)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"text": "no JSON"},
        {"text": "{}"},
        {"text": np.array([{"a": 1}], object)},
        {"text": np.zeros(2, [("a", "i4")])},
    ],
    ids=range(5),
)
def test_files_of_others(tmp_path, arrays):
    path = tmp_path / Checkpoint.FILE
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="is damaged"):
        fit(tmp_path)


def test_file_cut_short_by_a_kill_does_no_harm(begun, tmp_path):
    shutil.copy(begun / Checkpoint.FILE, tmp_path)
    stray = tmp_path / f"{Checkpoint.FILE}.tmp"
    stray.write_bytes(b"PK")
    assert fit(tmp_path, epochs=3)[1].epoch == [0, 1, 2]
    assert not stray.exists()


def test_full_disk_leaves_the_old_state(begun, tmp_path, monkeypatch):
    shutil.copy(begun / Checkpoint.FILE, tmp_path)
    before = (tmp_path / Checkpoint.FILE).read_bytes()

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(OSError, match="Could not write .*No space left"):
        fit(tmp_path, epochs=3)
    assert (tmp_path / Checkpoint.FILE).read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [Checkpoint.FILE]


def test_bad_arguments():
    for every in (0, -1, 2.5):
        with pytest.raises(ValueError, match=f"`every` must be.*{every}"):
            Checkpoint("a", every)
    with pytest.raises(ValueError, match="`directory` must be a path of a file system"):
        Checkpoint("s3://bucket/a")


def test_processes_must_share_the_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "of_all_processes", lambda model, value: [value, 3])
    with pytest.raises(ValueError, match=r"they find \[0, 3\] epochs done"):
        fit(tmp_path)
