"""How fast the convolutions of a network are, one by one, beside PyTorch.

    python benchmarks/convolutions.py
    python benchmarks/convolutions.py --sides tensorflow jax --threads=1
    python benchmarks/convolutions.py --network=resnet18 --batch_size=32

Each convolution of the network is timed alone, on a CPU in float32: forward, the
gradient of its inputs and that of its weights, in TensorFlow, in JAX and in both memory
formats of PyTorch. Multiplied by how often a step has them, this is what a step takes
on each side if nothing but convolutions cost time.

The sides take turns as in `step.py`. TensorFlow repeats an operation inside a graph, as
a step does: a call from Python costs a millisecond. A time is the best of a turn, and
of these the median over the turns. Padding of strided convolutions, an operation of its
own on TensorFlow, is not part of it.
"""

import argparse
import collections
import dataclasses
import functools
import json
import statistics
import sys

import compare
import sides
import step
import tables
import workers

KINDS = ("forward", "gradient of the inputs", "gradient of the weights")
SIDES = {
    "tensorflow": "TensorFlow",
    "jax": "JAX",
    "torch": "PyTorch",
    "torch-channels-last": "PyTorch, channels last",
}
# Of an operation in a measurement, and measurements in a turn.
REPEATS, MEASUREMENTS = 5, 4


@dataclasses.dataclass(frozen=True)
class Convolution:
    """One without bias, that pads `(kernel_size - 1) // 2` pixels on every side.

    Args:
        image_size: Integer, height and width of the inputs.
        channels: Integer, of the inputs.
        filters: Integer, channels of the outputs.
        kernel_size: Integer.
        strides: Integer.
    """

    image_size: int
    channels: int
    filters: int
    kernel_size: int
    strides: int

    @property
    def padding(self):
        return (self.kernel_size - 1) // 2

    @property
    def output_size(self):
        padded = self.image_size + 2 * self.padding
        return (padded - self.kernel_size) // self.strides + 1

    def flops(self, batch_size):
        """Operations of each of `KINDS`: an addition and a multiplication are two."""
        area = (self.output_size * self.kernel_size) ** 2
        return 2 * batch_size * area * self.channels * self.filters

    def __str__(self):
        strides = f", stride {self.strides}" if self.strides > 1 else ""
        return (
            f"{self.kernel_size}x{self.kernel_size}, {self.channels} to {self.filters} "
            f"channels, {self.image_size}x{self.image_size}{strides}"
        )


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    cell = sides.Cell()
    parser.add_argument("--network", type=step.network_name, default=cell.network)
    for name in ("batch_size", "image_size", "attack_steps", "threads"):
        default = getattr(cell, name)
        parser.add_argument(f"--{name}", type=workers.positive, default=default)
    # What the others time is taken from the first.
    parser.add_argument("--sides", nargs="+", choices=list(SIDES), default=list(SIDES))
    parser.add_argument("--rounds", type=workers.positive, default=9)
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--document", metavar="FILE", help="put the table there too, in its place"
    )
    return parser.parse_args()


def convolutions_of(network):
    """Those of a network on square images, in order, and how often each occurs."""
    import keras

    found = collections.Counter()
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D):
            convolution = Convolution(
                # Where the network itself pads, the layer's input is padded already.
                image_size=layer.output.shape[1] * layer.strides[0],
                channels=layer.input.shape[-1],
                filters=layer.filters,
                kernel_size=layer.kernel_size[0],
                strides=layer.strides[0],
            )
            found[convolution] += 1
    return found


def tensorflow_operations(convolution, batch_size):
    """Functions that compute each of `KINDS`, `REPEATS` times."""
    import tensorflow as tf

    padding = convolution.padding if convolution.strides > 1 else 0
    size, outputs = convolution.image_size + 2 * padding, convolution.output_size
    x = tf.random.normal((batch_size, size, size, convolution.channels))
    dy = tf.random.normal((batch_size, outputs, outputs, convolution.filters))
    kernel_shape = [convolution.kernel_size] * 2
    kernel_shape += [convolution.channels, convolution.filters]
    kernel = tf.random.normal(kernel_shape)
    arguments = {
        "strides": [1, convolution.strides, convolution.strides, 1],
        "padding": "SAME" if convolution.strides == 1 else "VALID",
    }

    def forward(x, kernel):
        return tf.nn.conv2d(x, kernel, **arguments)

    def inputs(kernel, dy):
        return tf.raw_ops.Conv2DBackpropInput(
            input_sizes=x.shape, filter=kernel, out_backprop=dy, **arguments
        )

    def weights(x, dy):
        return tf.raw_ops.Conv2DBackpropFilter(
            input=x, filter_sizes=kernel_shape, out_backprop=dy, **arguments
        )

    def repeated(function, *arguments):
        @tf.function
        def run(*arguments):
            result = function(*arguments)
            for _ in tf.range(REPEATS - 1):
                result = function(*arguments)
            return result

        return functools.partial(run, *arguments)

    return [
        repeated(forward, x, kernel),
        repeated(inputs, kernel, dy),
        repeated(weights, x, dy),
    ]


def jax_operations(convolution, batch_size):
    """Functions that compute each of `KINDS`, `REPEATS` times."""
    import jax
    import numpy as np

    def random(*shape):
        return jax.numpy.asarray(np.random.default_rng(0).normal(size=shape), "float32")

    size, outputs = convolution.image_size, convolution.output_size
    x = random(batch_size, size, size, convolution.channels)
    dy = random(batch_size, outputs, outputs, convolution.filters)
    kernel = random(
        *[convolution.kernel_size] * 2, convolution.channels, convolution.filters
    )

    def forward(x, kernel):
        return jax.lax.conv_general_dilated(
            x,
            kernel,
            window_strides=[convolution.strides] * 2,
            padding=[[convolution.padding] * 2] * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )

    def gradient(argument, x, kernel, dy):
        of_argument = functools.partial(forward, **{"x": x, "kernel": kernel})
        value = {"x": x, "kernel": kernel}[argument]
        return jax.vjp(lambda v: of_argument(**{argument: v}), value)[1](dy)[0]

    def repeated(function, *arguments):
        function = jax.jit(function)

        def run():
            for _ in range(REPEATS):
                # Without waiting for each they would run side by side.
                result = function(*arguments).block_until_ready()
            return result

        return run

    return [
        repeated(forward, x, kernel),
        repeated(functools.partial(gradient, "x"), x, kernel, dy),
        repeated(functools.partial(gradient, "kernel"), x, kernel, dy),
    ]


def torch_operations(convolution, batch_size, channels_last):
    """Functions that compute each of `KINDS`, `REPEATS` times."""
    import torch

    formats = {False: torch.contiguous_format, True: torch.channels_last}

    def random(*shape):
        return torch.randn(shape).to(memory_format=formats[channels_last])

    size, kernel_size = convolution.image_size, convolution.kernel_size
    x = random(batch_size, convolution.channels, size, size)
    kernel = random(convolution.filters, convolution.channels, kernel_size, kernel_size)
    strides, padding = [convolution.strides] * 2, [convolution.padding] * 2

    def forward():
        return torch.conv2d(x, kernel, None, strides, padding)

    dy = torch.empty_like(forward()).normal_()

    def gradient(index):
        outputs = [index == 0, index == 1, False]
        geometry = strides, padding, [1, 1], False, [0, 0], 1
        return torch.ops.aten.convolution_backward(
            dy, x, kernel, None, *geometry, outputs
        )[index]

    def repeated(function, *arguments):
        def run():
            for _ in range(REPEATS):
                result = function(*arguments)
            return result

        return run

    return [repeated(forward), repeated(gradient, 0), repeated(gradient, 1)]


class Side:
    """The convolutions of one side, as `workers.serve` runs them."""

    def __init__(self, side, network, image_size, batch_size, threads, convolutions):
        if side == "tensorflow":
            import tensorflow as tf

            # It would find that the repetitions are all the same.
            tf.config.optimizer.set_experimental_options({"loop_optimization": False})
            operations_of = tensorflow_operations
        elif side == "jax":
            operations_of = jax_operations
        else:
            import torch

            torch.set_num_threads(threads)
            last = side == "torch-channels-last"
            operations_of = functools.partial(torch_operations, channels_last=last)
        self.convolutions = convolutions
        if convolutions is None:
            import keras_robustlt as krl

            network = krl.networks.get(network, input_shape=(image_size, image_size, 3))
            found = convolutions_of(network)
            self.convolutions = [[*dataclasses.astuple(c), found[c]] for c in found]
        self.operations = []
        for *fields, _ in self.convolutions:
            operations = operations_of(Convolution(*fields), batch_size)
            for run in operations:  # compiled, and warm
                run()
            self.operations.append(operations)

    def describe(self):
        return {"convolutions": self.convolutions}

    def round(self, steps):
        """Seconds by convolution and kind, the best of `steps` each."""
        stopwatch = workers.Stopwatch()
        seconds = [
            [_fastest(run, steps) for run in operations]
            for operations in self.operations
        ]
        return {"seconds": seconds, "cpu_seconds": stopwatch.read()[1] / steps}


def _fastest(run, times):
    fastest = float("inf")
    for _ in range(times):
        stopwatch = workers.Stopwatch()
        run()
        fastest = min(fastest, stopwatch.read()[0] / REPEATS)
    return fastest


def measure(arguments):
    """The figures, ready for JSON."""
    settings = {
        "network": arguments.network,
        "image_size": arguments.image_size,
        "batch_size": arguments.batch_size,
        "threads": arguments.threads,
    }
    running, failed, convolutions = {}, {}, None
    try:
        for side in arguments.sides:
            asked = {"side": side, "convolutions": convolutions, **settings}
            of_keras = "jax" if side == "jax" else "tensorflow"
            environment = compare.environment_of(of_keras, arguments.threads)
            environment |= {"CUDA_VISIBLE_DEVICES": ""}
            running[side] = workers.Worker("convolutions.py", asked, environment)
            convolutions = running[side].description["convolutions"]
        answers, others = compare.take_turns(
            running, arguments.rounds, MEASUREMENTS, failed, print
        )
    finally:
        for worker in running.values():
            worker.close()
    if failed:
        raise workers.Failure("; ".join(failed.values()))
    seconds = {
        side: [
            [statistics.median(times) for times in zip(*by_round, strict=True)]
            for by_round in zip(*(a["seconds"] for a in answers[side]), strict=True)
        ]
        for side in running
    }
    return {
        "settings": compare.settings(**settings, attack_steps=arguments.attack_steps),
        "share_of_other_processes": others,
        "convolutions": [
            {**dataclasses.asdict(Convolution(*fields)), "occurrences": occurrences}
            for *fields, occurrences in convolutions
        ],
        "seconds": seconds,
        "seconds_per_step": {
            side: seconds_of_step(
                seconds[side], [row[-1] for row in convolutions], arguments.attack_steps
            )
            for side in running
        },
    }


def seconds_of_step(seconds, occurrences, attack_steps):
    """What a step takes if nothing but its convolutions cost time.

    A step of the attack is a forward pass and the gradients of the inputs. Training is
    all three kinds, without the gradient of the images.
    """
    total = -seconds[0][1]
    for (forward, inputs, weights), times in zip(seconds, occurrences, strict=True):
        total += times * ((attack_steps + 1) * (forward + inputs) + weights)
    return total


def markdown(figures):
    settings = figures["settings"]
    header = ["milliseconds (GFLOP/s)", "times"]
    for side in figures["seconds"]:
        header += [f"{SIDES[side]}: {KINDS[0]}", *KINDS[1:]]
    rows = []
    for index, fields in enumerate(figures["convolutions"]):
        occurrences = fields["occurrences"]
        convolution = Convolution(
            **{key: value for key, value in fields.items() if key != "occurrences"}
        )
        flops = convolution.flops(settings["batch_size"])
        row = [str(convolution), occurrences]
        for seconds in figures["seconds"].values():
            for value in seconds[index]:
                row.append(f"{1000 * value:.2f} ({flops / value / 1e9:.0f})")
        rows.append(row)
    steps = ", ".join(
        f"{SIDES[side]} {tables.seconds(value)} s"
        for side, value in figures["seconds_per_step"].items()
    )
    text = (
        f"{settings['network']}, batch {settings['batch_size']}, float32; "
        f"{settings['machine']}.\n\n{tables.table(header, rows)}\n\n"
        f"A step of AT with {settings['attack_steps']} attack steps, if nothing but "
        f"these cost time: {steps}."
    )
    others = figures["share_of_other_processes"]
    if others is not None and others > workers.BUSY:
        text += (
            f"\n\nNot valid, to be measured again: other processes took {others:.0%} "
            "of the cores meanwhile."
        )
    return text


def main():
    if len(sys.argv) == 2 and sys.argv[1].startswith("{"):
        settings = json.loads(sys.argv[1])
        workers.serve(lambda: Side(**settings), settings["threads"])
        return
    arguments = parse_arguments()
    torch_sides = {side for side in arguments.sides if side.startswith("torch")}
    if torch_sides and not compare.is_installed("torch"):
        raise SystemExit(
            "The comparison needs PyTorch, which nothing else in this project uses. "
            "Install it with: pip install -e '.[bench]'"
        )
    try:
        figures = measure(arguments)
    except workers.Failure as failure:
        raise SystemExit(f"A side failed: {failure}") from failure
    text = markdown(figures)
    print(f"\n{text}")
    if arguments.json:
        workers.write_json(arguments.json, figures)
    if arguments.document:
        tables.insert(arguments.document, "convolutions", text)


if __name__ == "__main__":
    main()
