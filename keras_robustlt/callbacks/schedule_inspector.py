"""The schedule of a training, shown."""

import numpy as np
from keras import ops

from keras_robustlt import checks, files, plots
from keras_robustlt.callbacks.recorder import Recorder
from keras_robustlt.class_names import as_text

__all__ = ["ScheduleInspector"]


class ScheduleInspector(Recorder):
    """Shows the budget of each epoch: `w_t` and epsilon of each class.

    Adds to the logs of each epoch, and so to the history, to `CSVLogger` and to the
    progress display, `iteration_weight`, `epsilon_mean` (over the training data),
    `epsilon_min` and `epsilon_max` (over the classes), and what the rule for the budget
    chose by itself, `alpha` of `budget="auto"`. With a directory it also keeps
    `schedule.csv` (all classes, one line an epoch) and draws `schedule.png` when
    training ends. With `granularity="step"` the values are those of the epoch's last
    step.

    Args:
        directory: String or path. Where to write; `None` writes no files. Defaults
            to `None`.
        class_names: List of strings, one a class, for the columns and the plot; of
            names that are there twice, the later ones are told apart by the number of
            the class. Defaults to the class indices.
        tensorboard: Boolean. Also write TensorBoard summaries to
            `directory/tensorboard`; needs TensorFlow and the extra `tensorboard`.
            Defaults to `False`.

    Raises:
        ValueError: If `class_names` has not one name a class, or training goes on and
            `schedule.csv` is damaged.
        OSError: In `fit`, if the directory cannot be written to.

    Example:

    >>> inspector = krl.callbacks.ScheduleInspector("runs/a")
    >>> history = model.fit(train, epochs=40, callbacks=[inspector])
    >>> history.history["iteration_weight"]

    Reference:
        Zhang et al., CVPR 2026: epsilon_y and w_t.
    """

    def __init__(self, directory=None, class_names=None, tensorboard=False):
        super().__init__(directory, class_names, tensorboard)
        self._forget()

    def on_train_begin(self, logs=None):
        checks.robust_model(self)
        self.names = _column_names(self.class_names, self.model.num_classes)
        self._forget()
        self._open("schedule.csv", "schedule.png")

    def on_epoch_begin(self, epoch, logs=None):
        if self.epochs is None:
            self._read_back(epoch)

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        weight = float(model.budget.iteration_weight(model.schedule))
        epsilon = ops.convert_to_numpy(model.class_epsilon())

        self.epochs.append(epoch)
        self.weights.append(weight)
        self.class_epsilon.append(epsilon)
        values = {
            "iteration_weight": weight,
            "epsilon_mean": float(np.average(epsilon, weights=model.class_counts)),
            "epsilon_min": float(epsilon.min()),
            "epsilon_max": float(epsilon.max()),
            **{k: float(v) for k, v in model.budget.chosen(model.schedule).items()},
        }
        if logs is not None:
            logs.update(values)
        if self.writes:
            self._write()
        of_classes = dict(zip(self.names, epsilon, strict=True))
        self._write_summaries(epoch, schedule=values, epsilon=of_classes)

    def on_train_end(self, logs=None):
        if self.epochs is None:  # an earlier run had done them all
            self._read_back()
        if self.writes and self.epochs:
            figure = plots.schedule(
                self.class_epsilon, self.names, self.weights, self.epochs
            )
            plots.save(figure, self.directory / "schedule.png")
        super().on_train_end(logs)

    def _forget(self):
        self.epochs, self.weights, self.class_epsilon = None, [], []

    def _read_back(self, before=None):
        """What an interrupted run wrote about the epochs that are not done again."""
        rows = []
        if self.directory is not None:
            path = self.directory / "schedule.csv"
            columns, rows = files.read_rows(path, before)
        if rows and len(columns) != len(self.names) + 1:
            raise files.damaged(path, f"it has not {len(self.names)} classes")
        try:
            values = np.array([row[1:] for row in rows], "float64")
            if np.any(np.isinf(values) | (values < 0)):
                raise ValueError("it has values that are infinite or negative")
        except ValueError as error:
            raise files.damaged(path, error) from None
        self.epochs = [epoch for epoch, *_ in rows]
        self.weights = [float(weight) for weight, *_ in values]
        self.class_epsilon = [row[1:].astype("float32") for row in values]

    def _write(self):
        rows = zip(self.epochs, self.weights, self.class_epsilon, strict=True)
        lines = [["epoch", "iteration_weight", *self.names]]
        lines += [[epoch, weight, *epsilon] for epoch, weight, epsilon in rows]
        files.write_rows(self.directory / "schedule.csv", lines)


def _column_names(names, num_classes):
    """A name for the column of each class, none of them twice."""
    names = list(range(num_classes)) if names is None else names
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must be a list of {num_classes} names, one a class. "
            f"Received: class_names={names!r}"
        )
    columns = ["epoch", "iteration_weight"]
    for index, name in enumerate(names):
        name = as_text(name)
        while name in columns:
            name = f"{name} (class {index})"
        columns.append(name)
    return columns[2:]
