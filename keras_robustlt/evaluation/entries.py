"""What attacks did to the images, as the entries and settings of the results."""

import importlib
import platform

import keras
import numpy as np

import keras_robustlt
from keras_robustlt.evaluation.runners import UNION
from keras_robustlt.metrics import summarize

__all__ = ["Entries", "versions"]

# With more classes the matrix of confusions would be most of the results.
MOST_CLASSES_CONFUSED = 200


class Entries(dict):
    """The entries of `EvaluationResults`, by the names of the attacks.

    Args:
        outcomes: Dictionary from names to `Outcome`s.
        described: Dictionary from names to the settings of attacks, `None` for none.
        labels: Integer array of shape `(examples,)`.
        num_classes: Integer.
        tail: Integers: the indices of the tail classes.

    Attributes:
        total: Integer array of shape `(num_classes,)`: how many images a class has.
        robust: Dictionary from names to boolean arrays of shape `(examples,)`.
    """

    def __init__(self, outcomes, described, labels, num_classes, tail):
        super().__init__()
        self._labels, self._num_classes, self._tail = labels, num_classes, tail
        self.total = np.bincount(labels, minlength=num_classes)
        self.robust = {}
        for name, outcome in outcomes.items():
            self.robust[name] = outcome.predicted[-1] == labels
            self[name] = self._entry(outcome, described[name])
        if sum(attack is not None for attack in described.values()) > 1:
            self.robust[UNION] = np.all(list(self.robust.values()), axis=0)
            seconds = sum(entry["seconds"] for entry in self.values())
            self[UNION] = {
                **self._accuracies(self.robust[UNION], seconds),
                "attack": None,
                "of": list(outcomes),
            }

    def _entry(self, outcome, described):
        predicted, seconds = outcome.predicted[-1], outcome.seconds.sum()
        entry = {
            **self._accuracies(predicted == self._labels, seconds),
            "attack": described,
        }
        if np.isfinite(outcome.moved):
            entry["largest_change"] = outcome.moved
        if self._num_classes <= MOST_CLASSES_CONFUSED:
            entry["confusion"] = self._confusion(predicted).tolist()
        if len(outcome.stages) > 1:
            entry["stages"] = {
                stage: self._accuracies(predicted == self._labels, seconds)
                for stage, predicted, seconds in outcome.rows()
            }
        return entry

    def _accuracies(self, robust, seconds):
        right = np.bincount(self._labels, robust, self._num_classes)
        return {
            **summarize(right, self.total, self._tail),
            "seconds": round(float(seconds), 3),
        }

    def _confusion(self, predicted):
        confusion = np.zeros((self._num_classes, self._num_classes), int)
        known = predicted >= 0  # the others are taken for no class
        np.add.at(confusion, (self._labels[known], predicted[known]), 1)
        return confusion


def versions():
    """The versions of all that has a part in the numbers."""
    name = keras.backend.backend()
    return {
        "keras_robustlt": keras_robustlt.__version__,
        "keras": keras.__version__,
        name: importlib.import_module(name).__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
