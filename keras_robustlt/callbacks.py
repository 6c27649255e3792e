"""Callbacks: looking at the schedule, and going on after an interruption."""

import json
import pathlib

import keras
import numpy as np
from keras import ops

from keras_robustlt import summaries
from keras_robustlt.backend import replicas
from keras_robustlt.files import read_rows, replacing, write_rows
from keras_robustlt.skew_and_drift import SkewAndDrift, skewed_objective

__all__ = [
    "Checkpoint",
    "HistoryCSV",
    "ScheduleInspector",
    "SkewAndDrift",
    "skewed_objective",
]


class ScheduleInspector(keras.callbacks.Callback):
    """Shows the budget of each epoch: `w_t` and epsilon of each class.

    Adds to the logs of each epoch, and so to the history, to `CSVLogger` and to the
    progress display, `iteration_weight`, `epsilon_mean` (over the training data),
    `epsilon_min` and `epsilon_max` (over the classes). With a directory it also keeps
    `schedule.csv` (all classes, one line an epoch) and draws `schedule.png` when
    training ends. With `granularity="step"` the values are those of the epoch's last
    step.

    Args:
        directory: String or path. Where to write; `None` writes no files. Defaults
            to `None`.
        class_names: List of strings for the columns and the plot. Defaults to the
            class indices.
        tensorboard: Boolean. Also write TensorBoard summaries to
            `directory/tensorboard`; needs TensorFlow and the extra `tensorboard`.
            Defaults to `False`.

    Example:

    >>> inspector = krl.callbacks.ScheduleInspector("runs/a")
    >>> history = model.fit(train, epochs=40, callbacks=[inspector])
    >>> history.history["iteration_weight"]

    Reference:
        Zhang et al., CVPR 2026: epsilon_y and w_t.
    """

    def __init__(self, directory=None, class_names=None, tensorboard=False):
        super().__init__()
        if tensorboard:
            summaries.check(directory)
        self.directory = None if directory is None else pathlib.Path(directory)
        self.class_names = class_names
        self.tensorboard = tensorboard

    def on_train_begin(self, logs=None):
        names = self.class_names or range(self.model.num_classes)
        self.names = [str(name) for name in names]
        self.epochs, self.weights, self.class_epsilon = None, [], []
        self.writes = self.directory is not None and replicas.is_chief(self.model)
        if self.writes:
            self.directory.mkdir(parents=True, exist_ok=True)
        self.summaries = None
        if self.writes and self.tensorboard:
            self.summaries = summaries.Summaries(self.directory)

    def on_epoch_begin(self, epoch, logs=None):
        if self.epochs is None:
            self._read_back(epoch)

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        weight = float(model.budget.iteration_weight(model.schedule))
        epsilon = ops.convert_to_numpy(model.budget.class_epsilon(model.schedule))

        self.epochs.append(epoch)
        self.weights.append(weight)
        self.class_epsilon.append(epsilon)
        values = {
            "iteration_weight": weight,
            "epsilon_mean": float(np.average(epsilon, weights=model.class_counts)),
            "epsilon_min": float(epsilon.min()),
            "epsilon_max": float(epsilon.max()),
        }
        if logs is not None:
            logs.update(values)
        if self.writes:
            self._write()
        if self.summaries:
            named = {f"schedule/{name}": value for name, value in values.items()}
            of_classes = zip(self.names, epsilon, strict=True)
            named.update((f"epsilon/{name}", value) for name, value in of_classes)
            self.summaries.write(epoch, named)

    def on_train_end(self, logs=None):
        if self.epochs is None:  # an earlier run had done them all
            self._read_back()
        if self.writes and self.epochs:
            from keras_robustlt import plots

            figure = plots.schedule(
                self.class_epsilon, self.names, self.weights, self.epochs
            )
            plots.save(figure, self.directory / "schedule.png")
        if self.summaries:
            self.summaries.close()

    def _read_back(self, before=None):
        """What an interrupted run wrote about the epochs that are not done again."""
        path = self.directory and self.directory / "schedule.csv"
        rows = read_rows(path, before)
        self.epochs = [int(row[0]) for row in rows]
        self.weights = [float(row[1]) for row in rows]
        self.class_epsilon = [np.array(row[2:], "float32") for row in rows]

    def _write(self):
        rows = zip(self.epochs, self.weights, self.class_epsilon, strict=True)
        lines = [["epoch", "iteration_weight", *self.names]]
        lines += [[epoch, weight, *epsilon] for epoch, weight, epsilon in rows]
        write_rows(self.directory / "schedule.csv", lines)


class HistoryCSV(keras.callbacks.Callback):
    """Keeps the logs in a CSV file, a line an epoch, also over interruptions.

    Unlike `keras.callbacks.CSVLogger`, it starts a new file when training starts at
    epoch 0, and after a resumption has each epoch once. Put it after the callbacks
    that add to the logs.

    Args:
        path: String or path of the file.

    Example:

    >>> model.fit(train, epochs=40, callbacks=[krl.callbacks.HistoryCSV("history.csv")])
    """

    def __init__(self, path):
        super().__init__()
        self.path = pathlib.Path(path)

    def on_train_begin(self, logs=None):
        self.rows = None

    def on_epoch_begin(self, epoch, logs=None):
        if self.rows is None:
            self.rows = read_rows(self.path, epoch, header=True)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        if not self.rows:
            self.rows = [["epoch", *logs]]
        values = (logs.get(name, "") for name in self.rows[0][1:])
        self.rows.append([epoch, *values])
        if replicas.is_chief(self.model):
            write_rows(self.path, self.rows)


class Checkpoint(keras.callbacks.Callback):
    """Makes `fit` go on where an interrupted run stopped.

    Writes the whole state of training at the end of each epoch: weights, optimiser,
    schedule, seeds and history. When `fit` starts and there is such a state, it is
    read, the epochs that are done are skipped, and the history goes on. An epoch cut
    short is done again from its beginning, from the same state; with data whose order
    is a function of the epoch, as this package's pipelines have, and with
    deterministic operations, the weights in the end are those of a run that nobody
    interrupted.

    Put it after the callbacks that add to the logs. States of other callbacks
    (`EarlyStopping`, `ReduceLROnPlateau`) are not kept. Where several processes train
    one model, the first of them writes, and all read.

    Args:
        directory: String or path. Where the state is kept, in one file, which is
            replaced in one operation: a kill leaves the old or the new.
        every: Integer. Write at the end of every so many epochs, and of the last.
            Defaults to `1`.

    Raises:
        ValueError: In `fit`, if the directory holds the state of another model or
            optimiser.

    Example:

    >>> model.fit(train, epochs=100, callbacks=[krl.callbacks.Checkpoint("runs/a")])
    """

    FILE = "training_state.npz"

    def __init__(self, directory, every=1):
        super().__init__()
        self.path = pathlib.Path(directory) / self.FILE
        self.every = every
        self.history = {}

    def on_train_begin(self, logs=None):
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self.epochs, self.history = [], {}
        if self.path.exists():
            self._load()
        done = replicas.of_all_processes(model, len(self.epochs))
        if len(set(done)) > 1:
            raise ValueError(
                f"The processes that train together must see the same {self.path}, "
                f"and they find {done} epochs done. Give a directory that all share."
            )

    def _load(self):
        model = self.model
        with np.load(self.path) as state:
            meta = json.loads(state["meta"].item())
            variables = self._variables()
            self._check(meta["variables"])
            for index, variable in enumerate(variables):
                variable.assign(state[f"v{index}"])
        self.epochs, self.history = meta["epochs"], meta["history"]
        # Keras's own way of starting later, which its BackupAndRestore uses too.
        # Training that a callback had stopped is over.
        last = self.params["epochs"] if meta["stopped"] else self.epochs[-1] + 1
        model._initial_epoch = last

    def on_epoch_begin(self, epoch, logs=None):
        self.model._initial_epoch = None  # `fit` has read it; the next one starts anew
        # History empties itself when training begins, after this callback.
        if self.epochs and not self.model.history.epoch:
            self.model.history.epoch = list(self.epochs)
            self.model.history.history = {k: list(v) for k, v in self.history.items()}

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)
        for name, value in (logs or {}).items():
            self.history.setdefault(name, []).append(float(value))
        last = epoch + 1 == self.params["epochs"] or self.model.stop_training
        due = last or (epoch + 1) % self.every == 0
        if due and replicas.is_chief(self.model):
            self._save()

    def on_train_end(self, logs=None):
        # `fit` is over: another call of it is not a resumption unless it asks.
        self.model._initial_epoch = None
        history = self.model.history
        if self.epochs and not history.epoch:  # nothing was left to do
            history.epoch, history.history = list(self.epochs), dict(self.history)

    def _variables(self):
        return [*self.model.variables, *self.model.optimizer.variables]

    def _describe(self):
        return [[v.path, list(v.shape)] for v in self._variables()]

    def _check(self, saved):
        shapes = [shape for _, shape in saved]
        if shapes != [list(v.shape) for v in self._variables()]:
            raise ValueError(
                f"{self.path} holds the state of another model or optimiser: it has "
                f"{len(saved)} variables, this one has {len(self._variables())}, or "
                "their shapes differ. Use another directory, or delete the file to "
                "start over."
            )

    def _save(self):
        arrays = {
            f"v{index}": ops.convert_to_numpy(variable)
            for index, variable in enumerate(self._variables())
        }
        meta = {
            "variables": self._describe(),
            "epochs": self.epochs,
            "history": self.history,
            "stopped": bool(self.model.stop_training),
        }
        with replacing(self.path) as file:
            np.savez(file, meta=json.dumps(meta), **arrays)
