"""TensorFlow: variables are read and assigned inside the graph."""

import tensorflow as tf


def gradient(function, x):
    # Watching `x` alone keeps the gradients of the weights from being computed.
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value = function(x)
    return tape.gradient(value, x)


def gradient_and_outputs(function, x):
    with tf.GradientTape(watch_accessed_variables=False) as tape:
        tape.watch(x)
        value, outputs = function(x)
    return tape.gradient(value, x), outputs


def on_accelerator():
    return bool(tf.config.list_logical_devices("GPU")) or bool(
        tf.config.list_logical_devices("TPU")
    )


def compiled(function, variables):
    del variables  # a graph reads them at each call
    return tf.function(function, jit_compile=on_accelerator(), reduce_retracing=True)


class StepAdapter:
    def train_step(self, data):
        batch, shift = self.begin_step(data)
        for weight, change in shift:
            weight.assign_add(change)
        logs = super().train_step(batch)
        for weight, change in shift:
            weight.assign_sub(change)
        self.end_step()
        return logs

    def test_step(self, data):
        return super().test_step(self.evaluation_batch(data))
