"""The sides of the comparison: what computes a step, each in a process of its own.

`compare.py` starts this file as a worker; it is no command. A `Cell` says what is
computed, and all sides do the same work.
"""

import dataclasses
import json
import math
import sys
import time

import numpy as np
import workers

EPSILON = 8 / 255
STEP_SIZE = 2 / 255
# What a side is, and the backend of Keras that it needs.
SIDES = {
    "tensorflow": ("ours, TensorFlow", "tensorflow"),
    "tensorflow-xla": ("ours, TensorFlow with XLA", "tensorflow"),
    "jax": ("ours, JAX", "jax"),
    "torch": ("plain eager PyTorch", None),
    "torch-best": ("PyTorch, compiled, channels last", None),
}
OURS = tuple(side for side, (_, backend) in SIDES.items() if backend)
METHODS = ("at", "at_bsl", "robal", "awp")
PRECISIONS = ("float32", "tensorfloat32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Cell:
    """What a step computes.

    Args:
        network: String, `"wrn-{depth}-{width}"`, `"resnet18"` or `"resnet34"`.
        method: String, one of `METHODS`.
        batch_size: Integer.
        classes: Integer.
        image_size: Integer, height and width of the images.
        attack_steps: Integer, steps of PGD.
        precision: String. `"float32"`, on a GPU too; `"tensorfloat32"`, what a GPU's
            float32 is by default; or `"bfloat16"`, in the network, with float32
            weights and attack.
        threads: Integer, CPU threads. Defaults to all cores.
    """

    network: str = "wrn-10-2"
    method: str = "at"
    batch_size: int = 64
    classes: int = 10
    image_size: int = 32
    attack_steps: int = 10
    precision: str = "float32"
    threads: int = dataclasses.field(default_factory=workers.available_cores)

    @property
    def name(self):
        return f"{self.network}/{self.method}/{self.precision}"

    @property
    def passes(self):
        """What a step costs, in forward passes of the network over the batch.

        A step of the attack is a forward pass and the gradient of the images. Training
        is a forward pass and the gradients of activations and of weights: once, and
        once more for RoBal's clean images and for AWP's worse weights.
        """
        return 2 * self.attack_steps + (6 if self.method in ("robal", "awp") else 3)

    @property
    def attack(self):
        """The arguments of PGD."""
        return {
            "epsilon": EPSILON,
            "step_size": STEP_SIZE,
            "steps": self.attack_steps,
        }

    def batch(self):
        """A fixed batch of random images in [0, 1], and labels."""
        generator = np.random.default_rng(0)
        shape = (self.batch_size, self.image_size, self.image_size, 3)
        x = generator.random(shape, dtype="float32")
        return x, generator.integers(0, self.classes, self.batch_size)

    def class_counts(self):
        """Any long-tailed counts do: they change the budgets, not the work."""
        last = self.classes - 1
        return [int(5000 * 50 ** (-i / last)) for i in range(self.classes)]


class Ours:
    """A compiled `RobustLTModel`, and a batch on its device."""

    def __init__(self, cell, jit_compile="auto"):
        import keras

        import keras_robustlt as krl

        self.cell = cell
        self.backend = keras.backend.backend()
        set_precision(self.backend, cell.precision)
        if cell.precision == "bfloat16":
            keras.config.set_dtype_policy("mixed_bfloat16")
        keras.utils.set_random_seed(0)
        self.network = krl.networks.get(
            cell.network,
            classes=cell.classes,
            input_shape=(cell.image_size, cell.image_size, 3),
            head="cosplus" if cell.method == "robal" else "linear",
        )
        # beta=0: every step has its whole budget, where the first epoch of a real run
        # has none and skips the attack.
        self.model = krl.RobustLTModel(
            self.network,
            class_counts=cell.class_counts(),
            epsilon=EPSILON,
            alpha=0.3,
            beta=0.0,
            method=cell.method,
            attack=krl.attacks.PGD(**cell.attack),
        )
        self.model.compile(
            krl.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
            jit_compile=jit_compile,
        )
        self.batches = {1: tuple(map(keras.ops.convert_to_tensor, cell.batch()))}

    def run(self, steps):
        """Trains so many steps, and gives the loss."""
        if self.backend == "jax":
            return self._fit(steps)
        for _ in range(steps):
            logs = self.model.train_on_batch(*self.batches[1], return_dict=True)
        return logs["loss"]

    def _fit(self, steps):
        """As `fit` does on arrays that are on the device: it waits at the end only."""
        from keras import ops

        if steps not in self.batches:
            x, y = self.batches[1]
            tiled = ops.tile(x, (steps, 1, 1, 1)), ops.tile(y, (steps,))
            self.batches[steps] = tiled
        history = self.model.fit(
            *self.batches[steps],
            batch_size=self.cell.batch_size,
            shuffle=False,
            verbose=0,
        )
        return history.history["loss"][-1]

    def device_peak(self):
        """Peak memory of the accelerator in bytes; `None` on a CPU."""
        if self.backend == "jax":
            import jax

            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
        import tensorflow as tf

        if not tf.config.list_physical_devices("GPU"):
            return None
        return tf.config.experimental.get_memory_info("GPU:0")["peak"]

    def describe(self):
        import keras

        if self.backend == "tensorflow":
            import tensorflow

            version = f"TensorFlow {tensorflow.__version__}"
            on_gpu = bool(tensorflow.config.list_physical_devices("GPU"))
        else:
            import jax

            version = f"JAX {jax.__version__}"
            on_gpu = jax.default_backend() == "gpu"
        weights = self.network.trainable_weights
        return {
            "framework": f"Keras {keras.__version__}, {version}",
            "device": "gpu" if on_gpu else "cpu",
            "xla": bool(self.model.jit_compile),
            "parameters": sum(math.prod(weight.shape) for weight in weights),
            "forward_flops_per_image": forward_flops(self.network),
        }


def forward_flops(network):
    """Operations of the convolutions and dense layers for one image, a pass forward.

    An addition and a multiplication are two.
    """
    layers = [layer for layer in network.layers if hasattr(layer, "kernel")]
    return sum(
        2 * math.prod(layer.kernel.shape) * math.prod(layer.output.shape[1:-1])
        for layer in layers
    )


def set_precision(framework, precision):
    """Chooses what float32 means on a GPU; on a CPU it is itself."""
    exact = precision == "float32"
    if framework == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_tensor_float_32_execution(not exact)
    elif framework == "jax":
        import jax

        value = "highest" if exact else "default"
        jax.config.update("jax_default_matmul_precision", value)
    else:
        import torch

        torch.set_float32_matmul_precision("highest" if exact else "high")
        torch.backends.cudnn.allow_tf32 = not exact


class Side:
    """A side that trains, as `workers.serve` runs it."""

    def __init__(self, name, cell):
        start = time.perf_counter()
        if name.startswith("torch"):
            import torch
            import torch_baseline
            import torch_best

            torch.set_num_threads(cell.threads)
            set_precision("torch", cell.precision)
            module = torch_baseline if name == "torch" else torch_best
            self.trainer = module.Trainer(cell)
        else:
            jit_compile = True if name == "tensorflow-xla" else "auto"
            self.trainer = Ours(cell, jit_compile)
        before = workers.resident_bytes()
        self.trainer.run(1)
        self.start_seconds = time.perf_counter() - start
        # What compiling took for a moment is not a step's.
        self.before = before if workers.forget_peak() else None
        stopwatch = workers.Stopwatch()
        self.trainer.run(1)
        self.step_seconds = stopwatch.read()[0]

    def describe(self):
        return {
            **self.trainer.describe(),
            "start_seconds": self.start_seconds,
            "second_step_seconds": self.step_seconds,
        }

    def round(self, steps):
        stopwatch = workers.Stopwatch()
        loss = float(self.trainer.run(steps))
        wall, cpu = stopwatch.read()
        if not math.isfinite(loss):
            raise ArithmeticError(f"the loss became {loss}")
        return {
            "seconds": wall / steps,
            "cpu_seconds": cpu / steps,
            "peak_memory_bytes": self._peak(),
        }

    def _peak(self):
        on_device = self.trainer.device_peak()
        if on_device is not None:
            return on_device
        if self.before is None:
            return None
        return workers.resident_bytes(peak=True) - self.before


def main():
    settings = json.loads(sys.argv[1])
    cell = Cell(**settings["cell"])
    workers.serve(lambda: Side(settings["side"], cell), cell.threads)


if __name__ == "__main__":
    main()
