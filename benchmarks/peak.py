"""How fast the machine's convolutions are at best: what the floor of a step stands on.

A side of the comparison like the others (`compare.py` starts it): a round times 3x3
convolutions of a few shapes, on their own, and gives the rate of the fastest; and that
of a matrix product, which is what an accelerator's nominal rate is about.
"""

import json
import sys

import workers

# Channels, in and out, and the size of the image.
SHAPES = ((64, 32), (128, 16), (256, 8), (320, 16))
REPEATS = 3


class TensorFlow:
    def __init__(self, precision):
        import tensorflow as tf

        self.convolve = tf.function(
            lambda x, kernel: tf.nn.conv2d(x, kernel, strides=1, padding="SAME")
        )
        self.random = tf.random.normal
        self.dtype = tf.bfloat16 if precision == "bfloat16" else tf.float32
        self.on_gpu = bool(tf.config.list_physical_devices("GPU"))
        self.name = f"TensorFlow {tf.__version__}"

    def convolution(self, x_shape, kernel_shape):
        x = self.random(x_shape, dtype=self.dtype)
        kernel = self.random(kernel_shape, dtype=self.dtype)

        def run(times):
            for _ in range(times):
                y = self.convolve(x, kernel)
            return float(y[0, 0, 0, 0])  # waits for it

        return run

    def product(self, size):
        import tensorflow as tf

        a = self.random((size, size), dtype=self.dtype)

        def run(times):
            for _ in range(times):
                b = tf.matmul(a, a)
            return float(b[0, 0])

        return run


class Jax:
    def __init__(self, precision):
        import jax
        import jax.numpy as jnp

        self.jax, self.on_gpu = jax, jax.default_backend() != "cpu"
        self.dtype = jnp.bfloat16 if precision == "bfloat16" else jnp.float32
        self.name = f"JAX {jax.__version__}"

    def convolution(self, x_shape, kernel_shape):
        key = self.jax.random.key(0)
        x = self.jax.random.normal(key, x_shape, self.dtype)
        kernel = self.jax.random.normal(key, kernel_shape, self.dtype)

        @self.jax.jit
        def convolve(x, kernel):
            layout = ("NHWC", "HWIO", "NHWC")
            return self.jax.lax.conv_general_dilated(
                x, kernel, (1, 1), "SAME", dimension_numbers=layout
            )

        def run(times):
            for _ in range(times):
                y = convolve(x, kernel)
            y.block_until_ready()

        return run

    def product(self, size):
        a = self.jax.random.normal(self.jax.random.key(0), (size, size), self.dtype)
        multiply = self.jax.jit(lambda a: a @ a)

        def run(times):
            for _ in range(times):
                b = multiply(a)
            b.block_until_ready()

        return run


class Torch:
    def __init__(self, precision):
        import torch

        torch.backends.cudnn.benchmark = True
        self.torch, self.on_gpu = torch, torch.cuda.is_available()
        self.device = "cuda" if self.on_gpu else "cpu"
        self.dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
        self.name = f"PyTorch {torch.__version__}"

    def convolution(self, x_shape, kernel_shape):
        batch, height, width, channels = x_shape
        shapes = ((batch, channels, height, width), kernel_shape[2:] + kernel_shape[:2])
        x, kernel = (
            self.torch.randn(shape, device=self.device)
            .to(self.dtype)
            .contiguous(memory_format=self.torch.channels_last)
            for shape in shapes
        )

        def run(times):
            with self.torch.no_grad():
                for _ in range(times):
                    self.torch.nn.functional.conv2d(x, kernel, padding=1)
            self._wait()

        return run

    def product(self, size):
        a = self.torch.randn((size, size), device=self.device).to(self.dtype)

        def run(times):
            for _ in range(times):
                a @ a
            self._wait()

        return run

    def _wait(self):
        if self.on_gpu:
            self.torch.cuda.synchronize()


FRAMEWORKS = {"tensorflow": TensorFlow, "jax": Jax, "torch": Torch}


class Peak:
    """The convolutions of one framework, as `workers.serve` runs them."""

    def __init__(self, framework, precision, threads, quick=False):
        import sides

        if framework == "torch":
            import torch

            torch.set_num_threads(threads)
        sides.set_precision(framework, precision)
        self.framework = FRAMEWORKS[framework](precision)
        # An accelerator is busy with large ones only.
        batch_size, rows = (512, 8192) if self.framework.on_gpu else (32, 1024)
        shapes = SHAPES
        if quick:
            batch_size, rows, shapes = 2, 16, ((8, 8),)
        self.product = self.framework.product(rows), 2 * rows**3
        self.convolutions = [
            (
                self.framework.convolution(
                    (batch_size, size, size, channels), (3, 3, channels, channels)
                ),
                2 * (3 * channels * size) ** 2 * batch_size,
            )
            for channels, size in shapes
        ]
        for run, _ in [self.product, *self.convolutions]:
            run(2)

    def describe(self):
        return {"framework": self.framework.name}

    def round(self, steps):
        """The best rates of `steps` times `REPEATS` of each."""
        stopwatch = workers.Stopwatch()
        convolutions = max(_rate(*each, steps) for each in self.convolutions)
        product = _rate(*self.product, steps)
        return {
            "flops_per_second": convolutions,
            "product_flops_per_second": product,
            "cpu_seconds": stopwatch.read()[1] / steps,
        }


def _rate(run, flops, steps):
    fastest = float("inf")
    for _ in range(steps):
        stopwatch = workers.Stopwatch()
        run(REPEATS)
        fastest = min(fastest, stopwatch.read()[0])
    return REPEATS * flops / fastest


def main():
    settings = json.loads(sys.argv[1])
    workers.serve(lambda: Peak(**settings), settings["threads"])


if __name__ == "__main__":
    main()
