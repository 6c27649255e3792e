"""Trains: `resume_script.py DIRECTORY [KILLED_DIRECTORY STEP]`, for test_checkpoint.

Trains to the end, going on where an interrupted run stopped, and writes the weights;
then, if asked to, begins the same in another directory and kills itself at a step.
"""

import os
import pathlib
import signal
import sys

import keras
import numpy as np

import keras_robustlt as krl


class Kill(keras.callbacks.Callback):
    def __init__(self, step):
        super().__init__()
        self.step = step

    def on_train_batch_end(self, batch, logs=None):
        if int(self.model.optimizer.iterations) == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def train(directory, kill_at_step=None):
    keras.utils.set_random_seed(1)
    labels = np.repeat([0, 1, 2], [16, 12, 4])
    images = np.random.default_rng(0).random((32, 16, 16, 1), "float32")
    data = krl.data.pipeline(images, labels, 8, augmentation="base", seed=1)
    network = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            keras.layers.Conv2D(4, 3, strides=4),
            krl.layers.BatchNormalization(),
            keras.layers.ReLU(),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model = krl.RobustLTModel(
        network,
        np.bincount(labels),
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
    history = model.fit(data, epochs=3, verbose=0, callbacks=callbacks)
    arrays = {f"w{i}": w for i, w in enumerate(network.get_weights())}
    np.savez(directory / "end.npz", **arrays, **history.history)


if __name__ == "__main__":
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    train(pathlib.Path(sys.argv[1]))
    if len(sys.argv) > 2:
        train(pathlib.Path(sys.argv[2]), int(sys.argv[3]))
