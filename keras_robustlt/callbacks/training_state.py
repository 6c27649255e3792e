"""What `Checkpoint` keeps of a training, as a file."""

import dataclasses
import json
import random

import keras
import ml_dtypes
import numpy as np
from keras import ops

from keras_robustlt import files

__all__ = ["KEPT", "TrainingState", "callback_states", "set_callback_states"]

# What Keras's callbacks, and those that add themselves, learn along training.
KEPT = {
    keras.callbacks.EarlyStopping: (
        "best",
        "best_epoch",
        "best_weights",
        "stopped_epoch",
        "wait",
    ),
    keras.callbacks.ModelCheckpoint: ("best",),
    keras.callbacks.ReduceLROnPlateau: ("best", "cooldown_counter", "wait"),
    keras.callbacks.SwapEMAWeights: ("_ema_weights_in_model",),
}
# What stands for an array in the text that says the rest.
ARRAY = "array in this file"


@dataclasses.dataclass
class TrainingState:
    """All that a training needs to go on.

    Args:
        made: Dictionary: what made the state, see `provenance`.
        total_epochs: Integer. The length of the schedule.
        epochs: List of integers: the epochs that are done.
        history: Dictionary from names to lists of floats.
        stopped: Boolean. Whether a callback has ended the training.
        variables: List of arrays.
        callbacks: Dictionary from the names of callbacks to their attributes.
        generators: List: the states of Python's and NumPy's global random numbers, by
            which Keras shuffles.
    """

    made: dict
    total_epochs: int
    epochs: list
    history: dict
    stopped: bool
    variables: list
    callbacks: dict
    generators: list

    def write(self, path):
        """Replaces the file at `path`."""
        arrays = {}

        def put_aside(value):
            array = np.asarray(ops.convert_to_numpy(value))
            if array.dtype.kind not in files.KINDS + "V":
                raise ValueError(
                    f"{path} keeps numbers and texts, for training to go on with. "
                    f"Received: {value!r}, in the logs or in a callback"
                )
            name = f"array_{len(arrays)}"
            # Files of NumPy have no bfloat16.
            is_plain = array.dtype.kind != "V"
            arrays[name] = array if is_plain else array.view(f"u{array.itemsize}")
            return {ARRAY: name, "shape": array.shape, "dtype": array.dtype.name}

        text = json.dumps(vars(self), default=put_aside)
        with files.replacing(path) as file:
            np.savez(file, text=text, **arrays)

    @classmethod
    def read(cls, path):
        """The state in the file at `path`; a `ValueError` if the file is damaged."""
        arrays = files.read_arrays(path)

        def taken_back(value):
            if ARRAY not in value:
                return value
            array, dtype = arrays[value[ARRAY]], value["dtype"]
            if list(array.shape) != value["shape"]:
                raise ValueError(f"{value[ARRAY]} has the shape {array.shape}")
            if array.dtype.name != dtype:
                array = array.view(getattr(ml_dtypes, dtype))
            return array

        try:
            text = arrays["text"].item()
            state = cls(**json.loads(text, object_hook=taken_back))
            state._check()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise files.damaged(path, f"{type(error).__name__}: {error}") from None
        return state

    def _check(self):
        for field in dataclasses.fields(self):
            if not isinstance(getattr(self, field.name), field.type):
                raise TypeError(f"no {field.name}")
        if not self.epochs or self.epochs != sorted(map(int, self.epochs)):
            raise ValueError(f"epochs={self.epochs}")
        if not all(isinstance(value, np.ndarray) for value in self.variables):
            raise TypeError("no arrays")
        _set_generators(self.generators, random.Random(), np.random.RandomState())

    def set_generators(self):
        """Gives the global random numbers of the process the state that is kept."""
        _set_generators(self.generators, random, np.random)


def generators():
    """The states of Python's and NumPy's global random numbers."""
    return [random.getstate(), np.random.get_state()]


def _set_generators(states, python, numpy):
    (version, internal, gauss), numpy_state = states
    python.setstate((version, tuple(internal), gauss))
    numpy.set_state(tuple(numpy_state))


def callback_states(callbacks):
    """What those of `callbacks` know that `KEPT` has, by their names."""
    return {
        name: {key: getattr(callback, key) for key in keys if hasattr(callback, key)}
        for name, callback, keys in _kept(callbacks)
    }


def set_callback_states(callbacks, states):
    """Gives `callbacks` what `callback_states` found."""
    for name, callback, _ in _kept(callbacks):
        for key, value in states.get(name, {}).items():
            setattr(callback, key, value)


def _kept(callbacks):
    counts = {}
    for callback in callbacks:
        for kind, keys in KEPT.items():
            if isinstance(callback, kind):
                name = f"{kind.__name__} of {getattr(callback, 'monitor', 'all')}"
                counts[name] = counts.get(name, 0) + 1
                yield f"{name} {counts[name]}", callback, keys
