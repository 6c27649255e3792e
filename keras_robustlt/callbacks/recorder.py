"""What callbacks keep of each epoch, in a directory and for TensorBoard."""

import importlib.util

import keras

from keras_robustlt import checks, files
from keras_robustlt.backend import replicas
from keras_robustlt.class_names import check as check_class_names


class Recorder(keras.callbacks.Callback):
    """A callback with a directory to write to, and names of the classes.

    Of several processes that train one model the first writes.

    Args:
        directory: String or path, or `None` for no files.
        class_names: List of strings, or `None`.
        tensorboard: Boolean. Whether to write TensorBoard summaries too.
    """

    def __init__(self, directory, class_names, tensorboard):
        super().__init__()
        if checks.boolean("tensorboard", tensorboard):
            _check_tensorboard(directory)
        self.directory = (
            None if directory is None else files.local_path("directory", directory)
        )
        if class_names is not None:
            check_class_names(class_names)
        self.class_names = class_names
        self.tensorboard = tensorboard

    def _open(self, *names):
        """Makes the directory ready for files of these names, of the model's training.

        Raises:
            OSError: If they could not be written.
        """
        self.writes = self.directory is not None and replicas.is_chief(self.model)
        if self.writes:
            files.make_folder(self.directory)
            for name in names:
                files.refuse_other_than_file(self.directory / name)
        self._summaries = None
        if self.writes and self.tensorboard:
            import tensorflow as tf

            folder = str(self.directory / "tensorboard")
            self._summaries = tf.summary.create_file_writer(folder)

    def _write_summaries(self, epoch, **groups):
        """Writes TensorBoard summaries, if they are wanted.

        Args:
            epoch: Integer.
            **groups: Of each group of numbers a dictionary from names to them.
        """
        if self._summaries is None:
            return
        import tensorflow as tf

        with self._summaries.as_default(step=epoch):
            for group, values in groups.items():
                for name, value in values.items():
                    tf.summary.scalar(f"{group}/{name}", value)
        self._summaries.flush()

    def on_train_end(self, logs=None):
        if self._summaries is not None:
            self._summaries.close()


def _check_tensorboard(directory):
    """Raises if there is nowhere to write, or the package is not there."""
    if directory is None:
        raise ValueError("`tensorboard=True` needs a `directory` to write to.")
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "`tensorboard=True` needs the tensorboard package, which TensorFlow "
            "does not bring: pip install tensorboard"
        )
