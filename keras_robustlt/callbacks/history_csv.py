"""The logs of a training, kept in a file."""

import keras

from keras_robustlt import files
from keras_robustlt.backend import replicas

__all__ = ["HistoryCSV"]


class HistoryCSV(keras.callbacks.Callback):
    """Keeps the logs in a CSV file, a line an epoch, also over interruptions.

    Unlike `keras.callbacks.CSVLogger`, it starts a new file when training starts at
    epoch 0, and after a resumption has each epoch once. What is logged in some epochs
    only, such as validation every other epoch, has empty cells in the others. `fit`
    moves it behind this package's callbacks that add to the logs; put it after others.

    Args:
        path: String or path of the file.

    Raises:
        ValueError: In `fit`, if training goes on and the file is damaged.
        OSError: In `fit`, if the file cannot be written.

    Example:

    >>> model.fit(train, epochs=40, callbacks=[krl.callbacks.HistoryCSV("history.csv")])
    """

    def __init__(self, path):
        super().__init__()
        self.path = files.local_path("path", path)

    def on_train_begin(self, logs=None):
        self.rows = None
        self.writes = replicas.is_chief(self.model)
        if self.writes:
            files.make_folder(self.path.parent)
            files.refuse_other_than_file(self.path)

    def on_epoch_begin(self, epoch, logs=None):
        if self.rows is None:
            self.names, self.rows = files.read_rows(self.path, epoch)

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        self.names += [name for name in logs if name not in self.names]
        self.rows.append([epoch, *(logs.get(name, "") for name in self.names)])
        if self.writes:
            width = len(self.names) + 1
            rows = [row + [""] * (width - len(row)) for row in self.rows]
            files.write_rows(self.path, [["epoch", *self.names], *rows])
