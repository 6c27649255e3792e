"""How a run goes and how long it will take."""

import sys
import time

import keras
import numpy as np


class TimeLeft:
    """Estimates the rest of the training time, in seconds.

    Before there is anything to measure: a step costs what 3 forward passes cost, and 2
    more for each step of the attack. The forward pass is measured on this machine.
    """

    def __init__(self, settings, model, steps_per_epoch):
        self.epochs = settings["epochs"]
        # With the paper's schedule the first epoch has no perturbation, so no attack.
        self.first_is_clean = (
            settings["beta"] > 0
            and settings["granularity"] == "epoch"
            and settings["weighting"] != "loss"
        )
        attacked = settings["method"] != "standard"
        passes = 3 + 2 * settings["attack_steps"] * attacked
        epoch = steps_per_epoch * _forward_seconds(model, settings["batch_size"])
        self.clean_epoch, self.full_epoch = 3 * epoch, passes * epoch

    def __call__(self, epochs_done=0):
        clean = self.first_is_clean and epochs_done == 0
        full = self.epochs - epochs_done - clean
        return full * self.full_epoch + clean * self.clean_epoch

    def observe(self, seconds):
        """Takes in how long an epoch took."""
        self.full_epoch = seconds


def _forward_seconds(model, batch_size):
    few = min(batch_size, 16)
    x = np.zeros((few, *model.network.input_shape[1:]), "float32")
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        model.network.predict_on_batch(x)
        seconds.append(time.perf_counter() - began)
    return min(seconds[1:]) * batch_size / few


class Progress(keras.callbacks.Callback):
    """One line: the epoch, the logs, the time left. In a log file, a line an epoch."""

    def __init__(self, left):
        super().__init__()
        self.left = left
        self.terminal = sys.stdout.isatty()
        self.latest = ""

    def on_epoch_begin(self, epoch, logs=None):
        self.began = time.perf_counter()

    def on_train_batch_end(self, batch, logs=None):
        steps = self.params["steps"]
        if self.terminal and steps and (batch + 1) % max(1, steps // 20) == 0:
            self._show(self.epoch_text(batch + 1, steps), end="")

    def on_epoch_end(self, epoch, logs=None):
        seconds = time.perf_counter() - self.began
        if self.latest:  # the first epoch of a process also compiled
            self.left.observe(seconds)
        done = epoch + 1
        shown = [
            f"{name} {logs[name]:.3f}"
            for name in ("loss", "adversarial_accuracy", "clean_accuracy")
            if name in logs
        ]
        parts = [
            f"epoch {done}/{self.params['epochs']}",
            *shown,
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


def duration(seconds):
    """A duration in words: "40 s", "12 min", "3.5 h", "5 days"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 90 * 60:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.0f} days"
