"""Trains on digits: `resume_script.py DIRECTORY [KILL_AT_STEP]`, for test_callbacks.

Without a step it trains to the end, going on where an interrupted run stopped, and
writes the weights. With one it kills itself there.
"""

import os
import pathlib
import signal
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_robustlt as krl


class Kill(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(directory, kill_at_step=None):
    tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(1)
    data = krl.data.long_tail("digits", imbalance_ratio=10, batch_size=64)
    network = keras.Sequential(
        [
            keras.Input(data.input_shape),
            keras.layers.Conv2D(4, 3, strides=2),
            krl.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(10),
        ]
    )
    model = krl.RobustLTModel(
        network,
        data.class_counts,
        epsilon=0.1,
        beta=0.5,
        granularity="step",
        attack=krl.attacks.PGD(0.1, steps=2),
        seed=1,
    )
    model.compile(krl.optimizers.SGD(0.1, momentum=0.9, nesterov=True))
    callbacks = [
        krl.callbacks.ScheduleInspector(directory),
        krl.callbacks.HistoryCSV(directory / "history.csv"),
        krl.callbacks.Checkpoint(directory),
    ]
    if kill_at_step:
        callbacks.append(Kill(kill_at_step))
    history = model.fit(data.train, epochs=3, verbose=0, callbacks=callbacks)
    arrays = {f"w{i}": w for i, w in enumerate(network.get_weights())}
    np.savez(directory / "end.npz", **arrays, **history.history)


if __name__ == "__main__":
    train(pathlib.Path(sys.argv[1]), *map(int, sys.argv[2:]))
