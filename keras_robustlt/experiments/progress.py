"""How a run goes and how long it will take."""

import math
import sys
import time

import keras
import numpy as np

import keras_robustlt as krl
from keras_robustlt.evaluation.progress import duration
from keras_robustlt.experiments import interruption


class TimeLeft:
    """Estimates the rest of the training time, in seconds.

    What an epoch costs is counted in forward passes over its images: a step of the
    attack is 2 (forward, backward to the images), an update 3 for each kind of images
    that the loss looks at. How long a pass takes is measured, on this machine: at
    first with the network alone, then with the last epoch.

    Args:
        settings: Dictionary, the settings of the run.
        model: The `RobustLTModel`.
        steps_per_epoch: Integer.
        validation_steps: Integer, batches of validation an epoch. Defaults to `0`.
    """

    def __init__(self, settings, model, steps_per_epoch, validation_steps=0):
        update, attack = passes_of_update(model), passes_of_attack(model)
        # Of an epoch: evaluation runs the clean images, the attack and its result.
        validation = 2 + 2 * model.evaluation_attack.steps
        validation *= validation_steps / steps_per_epoch
        self.costs = [
            update + attack * attacks_in_epoch(epoch, settings, model) + validation
            for epoch in range(settings["epochs"])
        ]
        forward = _forward_seconds(model, settings["batch_size"])
        self.seconds_of_pass = steps_per_epoch * forward

    def __call__(self, epochs_done=0):
        return self.seconds_of_pass * sum(self.costs[epochs_done:])

    def observe(self, epoch, seconds):
        """Takes in how long an epoch took."""
        self.seconds_of_pass = seconds / self.costs[epoch]


def passes_of_update(model):
    """What an update costs, in forward passes."""
    inputs = set(model.method.inputs)
    passes = 0
    if model.budget.uses_clean_loss:
        inputs.add("clean")
    elif model.batchnorm_statistics == "mixed" and "clean" not in inputs:
        passes = 1  # forward only
    passes += 3 * len(inputs)
    # AWP finds the worse weights by an update of its own.
    return 2 * passes if isinstance(model.method, krl.methods.AWP) else passes


def passes_of_attack(model):
    """What the training attack costs, in forward passes."""
    if "adversarial" not in model.method.inputs:
        return 0
    return 2 * model.attack.steps + model.method.attack_compares


def attacks_in_epoch(epoch, settings, model):
    """Whether there is an attack in an epoch, counted from 0."""
    # The first epoch of the paper's schedule has no perturbation.
    idle = epoch == 0 and (
        settings["budget"] == "auto"
        or settings["beta"] > 0
        and settings["granularity"] == "epoch"
        and settings["weighting"] != "loss"
    )
    method = getattr(model.method, "method", model.method)  # that of AWP
    return not idle and epoch + 1 >= getattr(method, "ce_epochs", 0)


def _forward_seconds(model, batch_size):
    few = min(batch_size, 16)
    x = np.zeros((few, *model.network.input_shape[1:]), "float32")
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        model.network.predict_on_batch(x)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) * batch_size / few


# What the line of an epoch shows of the logs, and of which images an accuracy is.
SHOWN = {
    "loss": None,
    "adversarial_accuracy": "training images under the training attack, within the "
    "budget of the epoch",
    "clean_accuracy": "training images without an attack",
    "val_robust_balanced_accuracy": "validation images within the whole budget, mean "
    "of the classes",
}


class Divergence(keras.callbacks.Callback):
    """Ends training whose loss is no number, before anything of it is kept."""

    def on_epoch_end(self, epoch, logs=None):
        if not math.isfinite(logs["loss"]):
            raise ValueError(
                f"training has diverged in epoch {epoch + 1}: its loss is "
                f"{logs['loss']}. Give a lower --learning_rate, --gradient_clipping=1, "
                "or --precision=float32, and another --workdir."
            )


class TrainingProgress(keras.callbacks.Callback):
    """One line: the epoch, the logs, the time left. In a log file, a line an epoch.

    And training stops here where it was asked to and a library has swallowed that.
    """

    def __init__(self, left):
        super().__init__()
        self.left = left
        self.terminal = sys.stdout.isatty()
        self.latest = ""

    def on_train_begin(self, logs=None):
        self.first = True

    def on_epoch_begin(self, epoch, logs=None):
        if self.first and epoch:
            left = duration(self.left(epoch))
            print(f"Going on after epoch {epoch}. Estimated time left: {left}.")
        self.first = False
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        interruption.check()
        steps = self.params["steps"]
        if self.terminal and steps and (batch + 1) % max(1, steps // 20) == 0:
            self._show(self.epoch_text(batch + 1, steps), end="")

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.began
        shown = [name for name in SHOWN if name in logs]
        if self.latest:  # the first epoch of a process also compiled
            self.left.observe(epoch, seconds)
        else:
            for name in filter(SHOWN.get, shown):
                self._show(f"{name}: {SHOWN[name]}", end="\n")
        done = epoch + 1
        parts = [
            f"epoch {done}/{self.params['epochs']}",
            *(f"{name} {logs[name]:.3f}" for name in shown),
            f"w {logs['iteration_weight']:.2f}",
            f"{seconds:.1f} s",
            f"left: {duration(self.left(done))}",
        ]
        self.latest = "  ".join(parts)
        last = done == self.params["epochs"]
        self._show(self.latest, end="\n" if last or not self.terminal else "")

    def epoch_text(self, step, steps):
        return f"{self.latest or 'first epoch'}  [{step}/{steps}]"

    def _show(self, text, end):
        start = "\r\033[K" if self.terminal else ""
        print(f"{start}{text}", end=end, flush=True)
