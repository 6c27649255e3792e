"""Going on after an interruption."""

import warnings

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks, files, provenance
from keras_robustlt.backend import replicas
from keras_robustlt.callbacks.collapse_guard import CollapseGuard
from keras_robustlt.callbacks.history_csv import HistoryCSV
from keras_robustlt.callbacks.recorder import Recorder
from keras_robustlt.callbacks.training_state import (
    KEPT,
    TrainingState,
    callback_states,
    generators,
    set_callback_states,
)
from keras_robustlt.data import resumption
from keras_robustlt.methods.base import layers_of

__all__ = ["Checkpoint"]

# Callbacks that add to the logs of an epoch.
LOGGING = (CollapseGuard, Recorder)


class Checkpoint(keras.callbacks.Callback):
    """Makes `fit` go on where an interrupted run stopped.

    Writes the whole state of training at the end of each epoch: weights, optimiser,
    schedule, seeds, history, Python's and NumPy's global random numbers, and what
    `CollapseGuard` and Keras's `EarlyStopping`, `ModelCheckpoint`, `ReduceLROnPlateau`
    and `SwapEMAWeights` know. When `fit` starts and there is such a state, it is read,
    the epochs that are done are skipped, and the history goes on. An epoch cut short is
    done again from its beginning, from the same state; with deterministic operations,
    the weights in the end are those of a run that nobody interrupted. Where the data do
    not allow that, because they are shuffled by something that starts anew, a warning
    says so.

    The state also says what made it. `fit` of another model, method, budget, attack,
    optimiser, or on other data raises an error that names what differs. Free to change
    are the other callbacks, metrics, `jit_compile`, the devices and, upwards, `epochs`:
    with a budget that grows along training give `RobustLTModel(total_epochs=...)` the
    length that the schedule had. Training that a callback had stopped is over.

    Put it after the callbacks that add to the logs; `fit` moves it behind those whose
    state it keeps. Where several processes train one model, the first of them writes,
    and all read.

    Args:
        directory: String or path. Where the state is kept, in one file, which is
            replaced in one operation: a kill leaves the old or the new.
        every: Positive integer. Write at the end of every so many epochs, and of the
            last. Defaults to `1`.

    Raises:
        ValueError: In `fit`, if the directory holds the state of another training, or
            the file is damaged.
        OSError: In `fit`, if the directory cannot be written to.

    Example:

    >>> model.fit(train, epochs=100, callbacks=[krl.callbacks.Checkpoint("runs/a")])
    """

    FILE = "training_state.npz"

    def __init__(self, directory, every=1):
        super().__init__()
        self.path = files.local_path("directory", directory) / self.FILE
        self.every = checks.positive_integer("every", every)
        self.epochs, self.history = [], {}
        # What `_prepare` finds out; nothing where Keras's own `fit` does not call it.
        self._others, self._initial_epoch = [], 0
        self._data, self._unknown_order = None, None

    def _prepare(self, model, arguments, others):
        """Takes in what `fit` of a `RobustLTModel` is called with.

        Args:
            model: The model.
            arguments: Dictionary of the arguments of `fit`.
            others: List of the other callbacks.
        """
        rivals = (Checkpoint, keras.callbacks.BackupAndRestore)
        for other in others:
            if isinstance(other, rivals):
                raise ValueError(
                    "`callbacks` must have one callback that makes `fit` go on. "
                    f"Received: a Checkpoint of {self.path.parent} and another "
                    f"{type(other).__name__}"
                )
        self._others = others
        self._initial_epoch = arguments.get("initial_epoch") or 0
        if replicas.is_chief(model):  # the other processes may have data of their own
            self._data = resumption.described(arguments)
            self._unknown_order = resumption.unknown_order(arguments)

    def on_train_begin(self, logs=None):
        model = self.model
        if not model.optimizer.built:
            model.optimizer.build(model.trainable_variables)
        self.epochs, self.history, self._state = [], {}, None
        self._made = self._description()
        if replicas.is_chief(model):
            files.make_folder(self.path.parent)
        if self.path.exists():
            self._load()
        done = replicas.of_all_processes(model, len(self.epochs))
        if len(set(done)) > 1:
            raise ValueError(
                f"The processes that train together must see the same {self.path}, "
                f"and they find {done} epochs done. Give a directory that all share."
            )

    def _load(self):
        state = TrainingState.read(self.path)
        self._check(state)
        length = self._length()
        for variable, value in zip(self._variables(), state.variables, strict=True):
            variable.assign(value)
        for variable, value in length:  # of this `fit`, which may be a longer one
            variable.assign(value)
        self._state, self.epochs, self.history = state, state.epochs, state.history
        # Training that a callback had stopped is over.
        epochs = self.params["epochs"]
        first = epochs if state.stopped else self.epochs[-1] + 1
        # Keras's own way of starting later, which its BackupAndRestore uses too.
        self.model._initial_epoch = first
        if self._unknown_order and first < epochs:
            warnings.warn(
                f"Epoch {first + 1} and the following will not see the training data "
                f"as without the interruption: {self._unknown_order}. To go on "
                "exactly, train on a pipeline of keras_robustlt.data, also with `map` "
                "behind it, or on arrays.",
                stacklevel=2,
            )

    def _all_have_begun(self):
        """Gives the other callbacks their state back, which they begin without."""
        if self._state is not None:
            set_callback_states(self._others, self._state.callbacks)

    def on_epoch_begin(self, epoch, logs=None):
        self.model._initial_epoch = None  # `fit` has read it; the next one starts anew
        if self._state is not None:
            self._state.set_generators()
            self._state = None
        # History empties itself when training begins, after this callback.
        if self.epochs and not self.model.history.epoch:
            self.model.history.epoch = list(self.epochs)
            self.model.history.history = {k: list(v) for k, v in self.history.items()}

    def on_epoch_end(self, epoch, logs=None):
        self.epochs.append(epoch)
        for name, value in (logs or {}).items():
            # Of some metrics it is an array, a number for each class.
            value = np.asarray(ops.convert_to_numpy(value)).tolist()
            self.history.setdefault(name, []).append(value)
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
        self._state, self._others = None, []

    def _save(self):
        state = TrainingState(
            made=self._made,
            total_epochs=self._total_epochs(),
            epochs=self.epochs,
            history=self.history,
            stopped=bool(self.model.stop_training),
            variables=[ops.convert_to_numpy(v) for v in self._variables()],
            callbacks=callback_states(self._others),
            generators=generators(),
        )
        state.write(self.path)

    def _length(self):
        """The variables that say how long training is, with their values."""
        schedule = getattr(self.model, "schedule", None)
        length = [schedule.epochs, schedule.steps_per_epoch] if schedule else []
        return [(variable, ops.convert_to_numpy(variable)) for variable in length]

    def _variables(self):
        model = self.model
        metrics = {id(variable) for variable in model.metrics_variables}
        kept = [variable for variable in model.variables if id(variable) not in metrics]
        return [*kept, *model.optimizer.variables]

    def _description(self):
        """What makes the state that will be saved."""
        return {
            **provenance.describe_model(self.model),
            "optimizer": provenance.describe_optimizer(self.model.optimizer),
            "steps_per_epoch": self.params.get("steps"),
            "data": self._data,
        }

    def _total_epochs(self):
        schedule = getattr(self.model, "schedule", None)
        return schedule.length if schedule else self.params["epochs"]

    def _check(self, state):
        """Raises if `state` is not one from which this training can go on."""
        made = dict(self._made)
        if not replicas.is_chief(self.model):
            made["data"] = state.made.get("data")  # the first process knows its own
        lines = provenance.differences(state.made, made)
        before = [[*value.shape] for value in state.variables]
        now = [[*variable.shape] for variable in self._variables()]
        if not lines and before != now:
            lines = [f"variables: {len(before)} there, {len(now)} now, or other shapes"]
        done, epochs = state.epochs[-1] + 1, self.params["epochs"]
        if done > epochs:
            lines.append(f"epochs: {done} are done there, `fit` is to do {epochs} now")
        if done < self._initial_epoch:
            lines.append(
                f"epochs: {done} are done there, `fit` is to start with "
                f"initial_epoch={self._initial_epoch} now"
            )
        if not lines and self._schedule_differs(state):
            total = state.total_epochs
            lines = [
                f"total_epochs: {total} there, {self._total_epochs()} now, and the "
                "epochs that are done would have had another budget or loss: "
                f"RobustLTModel(total_epochs={total}) goes on as the schedule was"
            ]
        if lines:
            listed = "".join(f"\n- {line}" for line in lines)
            raise ValueError(
                f"{self.path} holds the state of another training.{listed}\n"
                "Use another directory, or delete the file to start over."
            )

    def _schedule_differs(self, state):
        """Whether what the epochs done were like depends on the schedule's length."""
        lengths = state.total_epochs, self._total_epochs()
        if lengths[0] == lengths[1] or not hasattr(self.model, "schedule"):
            return False
        values = list(zip(self._variables(), state.variables, strict=True))
        before, now = (
            [_budget_in(self.model, epoch, length, values) for epoch in state.epochs]
            for length in lengths
        )
        return not np.array_equal(before, now)


def _budget_in(model, epoch, total, values):
    """What depends on the length `total` of the schedule in an epoch, as floats."""
    schedule = model.schedule
    values = [*values, (schedule.epoch, epoch), (schedule.epochs, total)]
    with keras.StatelessScope(values):
        weights = model.budget.class_weight(schedule)
        parts = [
            model.budget.iteration_weight(schedule),
            *model.budget.class_epsilon(schedule),
            *([] if weights is None else weights),
            *(
                value
                for each in layers_of(model.method)
                for value in each.scheduled(schedule)
            ),
            model.averaging is not None and epoch >= model.averaging.begins(total),
        ]
        return [float(part) for part in parts]


def prepared(model, arguments, first):
    """The callbacks of a call of `fit`, in the order in which they must run.

    Args:
        model: The model.
        arguments: Dictionary of the arguments of `fit`.
        first: List of the callbacks that must be first: others look at what they set.

    Returns:
        What `fit` is to be given as `callbacks`.
    """
    given = arguments.get("callbacks")
    is_list = isinstance(given, keras.callbacks.CallbackList)
    listed = _history_behind_its_sources(checks.callbacks(given))
    last = []
    for checkpoint in [each for each in listed if isinstance(each, Checkpoint)][:1]:
        others = list(listed)
        others.remove(checkpoint)
        checkpoint._prepare(model, arguments, others)
        kept = (*KEPT, HistoryCSV, Recorder)
        places = [i for i, each in enumerate(others, 1) if isinstance(each, kept)]
        place = max([listed.index(checkpoint), *places])
        listed = [*others[:place], checkpoint, *others[place:]]
        last.append(_Begun(checkpoint))
    listed = [*first, *listed, *last]
    if not is_list:
        return listed
    given.callbacks = listed
    for callback in (*first, *last):
        callback.set_model(given.model)
        callback.set_params(given.params)
    return given


def _history_behind_its_sources(callbacks):
    """The callbacks, with each `HistoryCSV` behind those that add to the logs."""
    listed = list(callbacks)
    for history in [each for each in callbacks if isinstance(each, HistoryCSV)]:
        sources = [i for i, each in enumerate(listed) if isinstance(each, LOGGING)]
        place = listed.index(history)
        if sources and sources[-1] > place:
            listed.insert(sources[-1], listed.pop(place))
    return listed


class _Begun(keras.callbacks.Callback):
    """Tells `Checkpoint` that all callbacks before this one, the last, have begun."""

    def __init__(self, checkpoint):
        super().__init__()
        self.checkpoint = checkpoint

    def on_train_begin(self, logs=None):
        self.checkpoint._all_have_begun()
