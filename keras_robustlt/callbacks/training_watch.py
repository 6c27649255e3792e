"""What of a training is wrong or in vain, said as soon as it can be known."""

import numbers
import warnings

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks, class_frequencies
from keras_robustlt.configurable import is_of_this_package
from keras_robustlt.methods.base import layers_of

# More than so many trainings, each of so few epochs, are parts of one, in a loop.
MANY, SHORT = 3, 2
# Share of the images below which an attack is taken for one without a gradient.
FEW = 0.001
# The share of its budget below which an attack is none.
IDLE = 0.1
# In so many epochs at most a rule of one's own is looked at.
MOST_EPOCHS = 300


class TrainingWatch(keras.callbacks.Callback):
    """Looks at budgets, labels and attacks while a `RobustLTModel` trains.

    Args:
        labels_compared: Boolean. Whether the labels are known to fit the class counts.
            Those in arrays are looked at before training, others after an epoch.
            Defaults to `False`.
    """

    def __init__(self, labels_compared=False):
        super().__init__()
        self.labels_compared = labels_compared

    def on_train_begin(self, logs=None):
        model = self.model
        self.checked = self.warned = self.warned_of_weights = False
        check_rules(model)
        wants_attacks = "adversarial" in model.method.inputs and model.epsilon > 0
        if not wants_attacks or makes_attacks(model):
            _warn_of_what_never_begins(model)
        else:
            warnings.warn(
                f"In all of this training, of {model.schedule.length} epoch(s), "
                "there is no attack, so the network will not be robust: with "
                f"budget={model.budget} and method={model.method} the budget is 0 in "
                "each of them. If this is a part of a longer training, say how long "
                "all of it is, RobustLTModel(..., total_epochs=...), and where in it "
                "this part begins, fit(..., initial_epoch=...). Otherwise train for "
                "more epochs, let the budget grow with each step (granularity='step') "
                "or have all of it from the start (beta=0).",
                stacklevel=2,
            )

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == 0:
            self._warn_of_a_new_beginning()

    def on_train_batch_end(self, batch, logs=None):
        # After the first step of all, so that a mistake costs no more, and at the end
        # of each epoch. Looking more often would make the host wait for steps.
        if not self.checked:
            self.checked = True
            self.model.batch_check.raise_if_wrong()
            self._warn_if_diverged(logs)

    def on_test_begin(self, logs=None):
        self._look_at_epoch()  # before validation resets what is known of it

    def on_test_end(self, logs=None):
        self.model.batch_check.raise_if_wrong()

    def on_epoch_end(self, epoch, logs=None):
        self._warn_if_diverged(logs)
        self._look_at_epoch()

    def _warn_if_diverged(self, logs):
        loss = ops.convert_to_numpy((logs or {}).get("loss", 0.0))
        if not np.all(np.isfinite(loss)):
            found = checks.has_diverged(self.model.network)
            self._warn_of_divergence(found or f"a loss of {loss}")

    def _warn_of_divergence(self, found):
        if not self.warned:
            self.warned = True
            warnings.warn(
                "Training has diverged. Train with a lower learning rate, with "
                f"gradient clipping, or from weights of before. Received: {found}",
                stacklevel=2,
            )

    def _warn_of_a_new_beginning(self):
        model = self.model
        model.trainings += 1
        grows = model.budget.grows and model.total_epochs is None
        if grows and model.trainings > MANY and model.schedule.length <= SHORT:
            warnings.warn(
                "Each `fit` is a training of its own, and this is the "
                f"{model.trainings}. of the same model: in each the budget of "
                f"budget={model.budget} grows anew, from 0. If they are parts of one "
                "training, say how long all of it is, RobustLTModel(..., "
                "total_epochs=...), and where in it each begins, fit(..., "
                "initial_epoch=...).",
                stacklevel=2,
            )

    def _look_at_epoch(self):
        model = self.model
        model.batch_check.raise_if_wrong()
        if model.batch_check.is_weightless and not self.warned_of_weights:
            self.warned_of_weights = True
            warnings.warn(
                "`sample_weight` is 0 for all images of an epoch, in which nothing is "
                "learned.",
                stacklevel=2,
            )
        if not self.labels_compared:
            self.labels_compared = True
            labels = ops.convert_to_numpy(model.batch_check.labels)
            if not labels.any():
                raise ValueError(
                    "`x` must hold images to train on. Received: a data set without one"
                )
            class_frequencies.compare(model.class_counts, labels)
        tried = float(ops.convert_to_numpy(model.attack_moves.count))
        moved = float(ops.convert_to_numpy(model.attack_moves.result()))
        idle = tried and moved < FEW
        diverged = idle and checks.has_diverged(model.network)
        if diverged:
            self._warn_of_divergence(diverged)
        used = model.batch_check.share_used
        if not self.warned and used < IDLE:
            self.warned = True
            warnings.warn(
                f"The training attack changes images by {used:.1%} of their budgets at "
                "most, so that this is hardly adversarial training: look at what its "
                f"`perturb` returns. Received: attack={model.attack_in_use!r}",
                stacklevel=2,
            )
        if not self.warned and idle:
            self.warned = True
            warnings.warn(
                f"The training attack has moved hardly any of {tried:.0f} images from "
                "where it started: no gradient of its loss reaches the images, so this "
                "is training on random noise. A layer may stop the gradient, by "
                "rounding, `stop_gradient`, a cast to integers or a comparison, or the "
                "units of the network may be dead. `keras_robustlt.diagnose(network, "
                "x, y)` tells more.",
                stacklevel=2,
            )


def makes_attacks(model):
    """Whether the schedule of `model`, as long as it is, has a step with an attack."""
    schedule = model.schedule
    last_step = ops.convert_to_numpy(schedule.steps_per_epoch)
    # Backwards, as budgets grow.
    for epoch in reversed(range(schedule.length)):
        there = [(schedule.epoch, epoch), (schedule.step, last_step)]
        with keras.StatelessScope(there):
            weight = model.budget.loss_weight(schedule)
            strength = ops.max(model.class_epsilon())
            if weight is not None:
                strength = weight * strength
        if float(ops.convert_to_numpy(strength)) > 0:
            return True
    return False


def check_rules(model):
    """Raises if budget, method or average give what is none of it, in some epoch."""
    schedule, rule = model.schedule, model.budget
    length, count = schedule.length, model.num_classes
    if not length:
        return
    for part in parts_of(model):
        begins = part.begins(length)  # or never, at infinity
        if not isinstance(begins, numbers.Real) or not begins >= 0:
            raise ValueError(
                f"`begins({length})` of {part} must give the number of an epoch. "
                f"Received: {begins!r}"
            )
    most = 1.0 if model.norm == "linf" else np.inf
    hooks = [
        (rule, "class_epsilon", f"{count} numbers, from 0 to {most:g}", (count,), most),
        (rule, "class_weight", f"None or {count} numbers, not negative", (count,)),
        (rule, "loss_weight", "None or a number from 0 to 1", (), 1.0),
        (rule, "iteration_weight", "a number, not negative", None),
        (model.method, "attacks", "None, or whether this step attacks", (), 1.0),
        (model.averaging, "keep", "None or a number from 0 to 1", (), 1.0),
    ]
    hooks = [hook for hook in hooks if hook[0] is not None]
    if not is_of_this_package(type(rule)):  # of which anything may be expected
        epochs = np.linspace(0, length - 1, min(length, MOST_EPOCHS)).round()
    else:
        epochs = {0, length // 2, length - 1}
    weighed = []
    for epoch in sorted(map(int, epochs)):
        with keras.StatelessScope([(schedule.epoch, epoch), (schedule.step, 1)]):
            given = [getattr(part, name)(schedule) for part, name, *_ in hooks]
            chosen = rule.chosen(schedule)
        for (part, name, words, *within), values in zip(hooks, given, strict=True):
            is_left_out = values is None and words.startswith("None")
            fits = is_left_out or _are_within(values, *within)
            if name == "class_weight":
                weighed.append(is_left_out or np.any(_numbers(values)))
            if not fits:
                raise ValueError(
                    f"`{name}` of {part} must give {words}. Received in epoch {epoch}: "
                    f"{values!r}"
                )
        taken = {"loss", *model._accuracies()}
        if not _are_scalars(chosen) or taken & set(chosen):
            raise ValueError(
                f"`chosen` of {rule} must give a dictionary of numbers, none of them "
                f"called {', '.join(sorted(taken))}. Received in epoch {epoch}: "
                f"{chosen!r}"
            )
    if not any(weighed):
        raise ValueError(
            f"`class_weight` of {rule} must give some class a weight above 0 in some "
            "epoch. Received zeros: nothing would be learned"
        )


def _are_scalars(values):
    return isinstance(values, dict) and all(
        isinstance(name, str) and np.size(_numbers(value)) == 1
        for name, value in values.items()
    )


def _numbers(values):
    """`values` as an array, an empty one if they are no numbers."""
    try:
        return np.asarray(ops.convert_to_numpy(values), "float64")
    except (TypeError, ValueError):
        return np.empty(0)


def _are_within(values, shape, most=np.inf):
    """Whether there is a number for each entry of `shape`, `None` for one, in range."""
    values = _numbers(values)
    fits = values.size == 1 if shape is None else values.shape == shape
    within = (values >= 0) & (values <= most) & np.isfinite(values)
    return fits and bool(within.all())


def parts_of(model):
    """What may begin in some epoch of training, see `Part.begins`."""
    parts = *layers_of(model.method), model.budget, model.averaging
    return [part for part in parts if part is not None]


def never_begin(model, epochs):
    """Pairs of a part that begins only after so many epochs, and of its first one.

    Args:
        model: A `RobustLTModel`, or what else has its `method`, `budget` and
            `averaging`.
        epochs: Integer, the length of training.
    """
    first = [(part, part.begins(epochs)) for part in parts_of(model)]
    return [(part, epoch) for part, epoch in first if epoch >= epochs > 0]


def _warn_of_what_never_begins(model):
    length = model.schedule.length
    for part, first in never_begin(model, length):
        warnings.warn(
            f"In all of this training, of {length} epoch(s), {part} does not do its "
            f"part: that begins with epoch {first + 1}, and this is training without "
            "it. Train for more epochs, or let it begin sooner. If this is a part of a "
            "longer training, say how long all of it is, RobustLTModel(..., "
            "total_epochs=...), and where in it this part begins, fit(..., "
            "initial_epoch=...).",
            stacklevel=3,
        )
