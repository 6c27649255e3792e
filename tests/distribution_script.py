"""Trains a small network on one device or several, for test_distribution.

    distribution_script.py OUTPUT KIND=CASE...

KIND is `one`, `mirrored` (TensorFlow), `worker` (TensorFlow, one of the processes of
TF_CONFIG), `parallel` (JAX) or `process` (JAX, one of the processes of
KERAS_DISTRIBUTION_*). A case is a method, `at`, or a method and a budget, `at/cfa`.
The weights and logs of each go to OUTPUT, an .npz. All is done in one process, for
most of its time goes to importing the backend.

Environment: KILL_AT_STEP: the process kills itself there. CHECKPOINTS: a directory.
"""

import contextlib
import os
import signal
import sys

import keras
import numpy as np

import keras_robustlt as krl

# Two devices get unequal parts of each batch, and the last one is smaller.
EXAMPLES, BATCH = 21, 9


class Kill(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        step = keras.ops.convert_to_numpy(self.model.optimizer.iterations)
        if step == int(os.environ["KILL_AT_STEP"]):
            os.kill(os.getpid(), signal.SIGKILL)


def distribution(kind):
    """The context managers under which models are made and trained."""
    if kind == "one":
        return contextlib.nullcontext, contextlib.nullcontext
    if kind in ("mirrored", "worker"):
        import tensorflow as tf

        if kind == "worker":
            return tf.distribute.MultiWorkerMirroredStrategy().scope, None
        tf.config.set_logical_device_configuration(
            tf.config.list_physical_devices("CPU")[0],
            [tf.config.LogicalDeviceConfiguration()] * 2,
        )
        return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope, None
    import jax

    # Two steps at once can wait for each other where there are few threads.
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    if kind == "process":
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        keras.distribution.initialize()
    else:
        jax.config.update("jax_num_cpu_devices", 2)
    parallel = keras.distribution.DataParallel(auto_shard_dataset=False)
    return parallel.scope, parallel.scope


def data(kind):
    """Training and validation data."""
    rng = np.random.default_rng(0)
    even = keras.backend.backend() == "jax"  # whose devices need equal parts
    size = BATCH - even
    x = rng.random((EXAMPLES + even * 3, 16, 16, 3), "float32")
    y = np.arange(len(x)) % 3
    x = (255 * x).astype("uint8")
    shard = None
    if kind == "process":
        import jax

        shard = jax.process_index(), jax.process_count()

    def batches(**options):
        return krl.data.pipeline(x, y, batch_size=size, shard=shard, **options)

    return batches(seed=3), batches(shuffle=False)


def make_model(case):
    method, _, budget = case.partition("/")
    keras.utils.set_random_seed(1)
    layers = keras.layers
    # On JAX the statistics of a batch are those of all devices, and change nothing.
    has_batch_norm = method == "mart" or keras.backend.backend() == "jax"
    batch_norm = [krl.layers.BatchNormalization()] if has_batch_norm else []
    network = keras.Sequential(
        [
            keras.Input((16, 16, 3)),
            layers.Conv2D(4, 3, strides=4),
            *batch_norm,
            layers.ReLU(),
            layers.Flatten(),
            layers.Dense(3),
        ]
    )
    model = krl.RobustLTModel(
        network,
        [12, 6, 4],
        epsilon=0.1,
        method=method,
        budget=budget or None,
        attack=krl.attacks.PGD(0.1, steps=2),
        evaluation_attack=krl.attacks.PGD(0.1, steps=2),
        augmentation="base",
        averaging=krl.averaging.FAWA(0.0) if case == "at/cfa" else 0.9,
        seed=3,
    )
    optimizer = krl.optimizers.SGD(
        0.1, momentum=0.9, weight_decay=5e-4, global_clipnorm=0.5
    )
    model.compile(optimizer, metrics=["accuracy"])
    return model


def train(kind, case, making, training):
    train_data, test_data = data(kind)
    with making():
        model = make_model(case)
    callbacks = []
    if "CHECKPOINTS" in os.environ:
        directory = os.environ["CHECKPOINTS"]
        callbacks += [
            krl.callbacks.HistoryCSV(f"{directory}/history.csv"),
            krl.callbacks.Checkpoint(directory),
        ]
    if "KILL_AT_STEP" in os.environ:
        callbacks.append(Kill())
    with (training or contextlib.nullcontext)():
        history = model.fit(
            train_data,
            epochs=2,
            validation_data=test_data,
            verbose=0,
            callbacks=callbacks,
        )
    weights = [*model.network.get_weights(), *model.averaged_network.get_weights()]
    weights = {f"w{index}": value for index, value in enumerate(weights)}
    return {**weights, **history.history}


def main(output, *arguments):
    todo = [argument.split("=") for argument in arguments]
    # Devices are set up before any of them is used.
    managers = {kind: distribution(kind) for kind, _ in todo}
    results = {}
    for kind, case in todo:
        found = train(kind, case, *managers[kind])
        results |= {f"{kind}={case}:{name}": value for name, value in found.items()}
    np.savez(output, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
