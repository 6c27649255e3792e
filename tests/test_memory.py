import keras
import numpy as np
import pytest

import keras_robustlt as krl
from keras_robustlt.experiments import memory, train


def step_mib(name, batch_size, **options):
    network = krl.networks.get(name, classes=10, input_shape=(32, 32, 3))
    model = krl.RobustLTModel(network, class_counts=[10] * 10, **options)
    return memory.step_bytes(model, batch_size) / 2**20


# The peaks of docs/performance.md.
@pytest.mark.parametrize(
    "name, batch_size, measured", [("wrn-10-2", 64, 183), ("resnet18", 32, 494)]
)
def test_a_step_takes_what_was_measured(name, batch_size, measured):
    assert step_mib(name, batch_size) == pytest.approx(measured, rel=0.1)


class ResourceExhaustedError(Exception):
    """As TensorFlow has one."""


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 9 TiB"),
        ResourceExhaustedError("OOM when allocating"),
        RuntimeError("RESOURCE_EXHAUSTED: Out of memory"),
    ],
)
def test_too_little_memory_is_said_in_one_line(error):
    with pytest.raises(SystemExit, match="error: there is not enough memory. Choose"):
        with train.mistakes("runs/a"):
            raise error
    with pytest.raises(RuntimeError, match="^another$"):
        with train.mistakes("runs/a"):
            raise RuntimeError("another")


def test_what_a_step_takes_more_memory_for():
    base = step_mib("wrn-10-1", 32)
    assert step_mib("wrn-10-1", 64) > 1.9 * base
    assert step_mib("wrn-10-1", 32, method="trades") > 1.9 * base
    assert base < step_mib("wrn-10-1", 32, averaging=0.99) < 1.1 * base
    keras.config.set_dtype_policy("mixed_bfloat16")
    assert step_mib("wrn-10-1", 32) == pytest.approx(base / 2, rel=0.1)


def test_nothing_is_said_of_networks_whose_layers_nobody_knows():
    class Own(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(2)

        def call(self, x):
            return self.dense(keras.ops.reshape(x, (-1, 4)))

    network = Own()
    network(np.zeros((1, 2, 2, 1), "float32"))
    model = krl.RobustLTModel(network, class_counts=[2, 1])
    assert memory.step_bytes(model, 2) is None
    assert memory.of_device() is None or memory.of_device() > 2**20
