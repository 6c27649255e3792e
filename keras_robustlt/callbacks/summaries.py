"""What callbacks write for TensorBoard."""

import importlib.util

__all__ = ["Summaries", "check"]


def check(directory):
    """Raises if there is nowhere to write, or the package is not there."""
    if directory is None:
        raise ValueError("`tensorboard=True` needs a `directory` to write to.")
    if importlib.util.find_spec("tensorboard") is None:
        raise ImportError(
            "`tensorboard=True` needs the tensorboard package, which TensorFlow "
            "does not bring: pip install tensorboard"
        )


class Summaries:
    """A writer of numbers along the epochs.

    Args:
        directory: Path. The files go into its folder `tensorboard`.
    """

    def __init__(self, directory):
        import tensorflow as tf

        self._writer = tf.summary.create_file_writer(str(directory / "tensorboard"))

    def write(self, epoch, values):
        """Writes a dictionary from tags to numbers."""
        import tensorflow as tf

        with self._writer.as_default(step=epoch):
            for tag, value in values.items():
                tf.summary.scalar(tag, value)
        self._writer.flush()

    def close(self):
        self._writer.close()
