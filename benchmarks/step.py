"""Times a step of adversarial training, ours beside plain eager PyTorch.

    python benchmarks/step.py                            # WideResNet-10-2, batch 64
    python benchmarks/step.py --model=resnet18 --json=resnet18.json
    python benchmarks/step.py --backend=jax --rounds=3

Both sides train the same architecture on the same fixed batch: PGD-10 in the Linf ball
of 8/255 with the batch's own BatchNorm statistics, then SGD with Nesterov momentum and
weight decay. Ours is a whole `RobustLTModel` step with RobustLT and its metrics, as
`fit` calls it, without an input pipeline; theirs is `torch_baseline.py`.

Each side lives in a process of its own, so that two thread pools never share the cores.
They take turns: a round is a few steps of the one, then a few of the other, and the
one that waits is idle. The figures are medians over the rounds, after a warm-up, and
the ratio is the median of the rounds' own ratios.

Measure on an idle machine: beside other work the two sides lose unequally, and the
ratio can come out many times too high. The run says so when others were at work.
"""

import argparse
import importlib.util
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time

import numpy as np

CLASSES = 10
EPSILON = 8 / 255
STEP_SIZE = 2 / 255
ATTACK_STEPS = 10
WARM_UP_STEPS = 2
# Share of the cores' time that other processes take, from which a machine is not idle.
BUSY = 0.05


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--model",
        type=model_name,
        default="wrn-10-2",
        help="wrn-DEPTH-WIDTH, resnet18 or resnet34",
    )
    parser.add_argument(
        "--backend",
        choices=("tensorflow", "jax"),
        default="tensorflow",
        help="the Keras backend of our side",
    )
    parser.add_argument("--batch_size", type=positive, default=64)
    parser.add_argument(
        "--rounds", type=positive, default=7, help="rounds that are timed"
    )
    parser.add_argument(
        "--steps", type=positive, default=3, help="steps of each side in a round"
    )
    parser.add_argument(
        "--threads",
        type=positive,
        default=available_cores(),
        help="CPU threads of each side",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    # What the two processes are started with.
    parser.add_argument("--worker", choices=("ours", "torch"), help=argparse.SUPPRESS)
    return parser.parse_args()


def positive(text):
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more. Received: {text}")
    return value


def model_name(text):
    wide = re.fullmatch(r"wrn-(\d+)-(\d+)", text)
    if wide and int(wide[1]) >= 10 and int(wide[1]) % 6 == 4 and int(wide[2]) >= 1:
        return text
    if text in ("resnet18", "resnet34"):
        return text
    raise argparse.ArgumentTypeError(
        "expected wrn-DEPTH-WIDTH with a depth of 10, 16, 22, 28, ... "
        f"(such as wrn-28-10), resnet18 or resnet34. Received: {text}"
    )


def available_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def fixed_batch(batch_size):
    generator = np.random.default_rng(0)
    x = generator.random((batch_size, 32, 32, 3), dtype="float32")
    y = generator.integers(0, CLASSES, batch_size)
    return x, y


class OurTrainer:
    """Our side: a compiled `RobustLTModel` and a batch on its device."""

    def __init__(self, arguments, x, y):
        import keras

        import keras_robustlt as krl

        if wide := re.fullmatch(r"wrn-(\d+)-(\d+)", arguments.model):
            network = krl.networks.WideResNet(
                int(wide[1]), int(wide[2]), classes=CLASSES
            )
        elif arguments.model == "resnet18":
            network = krl.networks.ResNet18(classes=CLASSES)
        else:
            network = krl.networks.ResNet34(classes=CLASSES)
        # Any long-tailed counts do; beta=0 gives every step its whole budget.
        class_counts = [int(5000 * 50 ** (-i / 9)) for i in range(CLASSES)]
        attack = krl.attacks.PGD(
            epsilon=EPSILON, steps=ATTACK_STEPS, step_size=STEP_SIZE
        )
        self.model = krl.RobustLTModel(
            network,
            class_counts=class_counts,
            epsilon=EPSILON,
            alpha=0.3,
            beta=0.0,
            method="at",
            attack=attack,
        )
        self.model.compile(
            optimizer=krl.optimizers.SGD(
                0.1, momentum=0.9, nesterov=True, weight_decay=5e-4
            )
        )
        self.x = keras.ops.convert_to_tensor(x)
        self.y = keras.ops.convert_to_tensor(y)
        self.parameters = sum(
            int(np.prod(weight.shape)) for weight in network.trainable_weights
        )

    def step(self):
        return self.model.train_on_batch(self.x, self.y, return_dict=True)["loss"]

    def describe(self):
        import keras

        if keras.backend.backend() == "tensorflow":
            import tensorflow

            version = f"TensorFlow {tensorflow.__version__}"
            on_gpu = bool(tensorflow.config.list_physical_devices("GPU"))
        else:
            import jax

            version = f"JAX {jax.__version__}"
            on_gpu = jax.default_backend() == "gpu"
        return {
            "framework": f"Keras {keras.__version__}, {version}",
            "device": "gpu" if on_gpu else "cpu",
            "parameters": self.parameters,
        }


def run_worker(arguments):
    """Builds one side, then runs as many steps as each line of the input says."""
    # The answers go to the real standard output; what the libraries print does not.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Every thread pool sizes itself by the cores that it may use.
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: arguments.threads])
    x, y = fixed_batch(arguments.batch_size)

    start = time.perf_counter()
    if arguments.worker == "ours":
        trainer = OurTrainer(arguments, x, y)
    else:
        import torch
        import torch_baseline

        torch.set_num_threads(arguments.threads)
        trainer = torch_baseline.Trainer(
            arguments.model, x, y, CLASSES, EPSILON, STEP_SIZE, ATTACK_STEPS
        )
    trainer.step()
    start_seconds = time.perf_counter() - start
    for _ in range(WARM_UP_STEPS):
        trainer.step()
    ready = {**trainer.describe(), "start_seconds": start_seconds}
    print(json.dumps(ready), file=answers, flush=True)

    for line in sys.stdin:
        steps = int(line)
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(steps):
            loss = trainer.step()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if not np.isfinite(loss):
            raise SystemExit(f"The loss of {arguments.worker} became {loss}.")
        print(json.dumps([wall / steps, cpu / steps]), file=answers, flush=True)


class Worker:
    """One side in a process of its own, seen from the process that compares."""

    def __init__(self, side, arguments):
        environment = {
            "TF_CPP_MIN_LOG_LEVEL": "2",
            # As the recipes have it: PyTorch uses oneDNN on every CPU, TensorFlow does
            # so by itself on those with AVX-512 only.
            "TF_ENABLE_ONEDNN_OPTS": "1",
            **os.environ,
            "KERAS_BACKEND": arguments.backend,
            "OMP_NUM_THREADS": str(arguments.threads),
            "TF_NUM_INTRAOP_THREADS": str(arguments.threads),
            # On a GPU the two sides share its memory.
            "TF_FORCE_GPU_ALLOW_GROWTH": "true",
            "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        }
        options = ("model", "backend", "batch_size", "threads")
        self.side = side
        self.process = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__), f"--worker={side}"]
            + [f"--{option}={getattr(arguments, option)}" for option in options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        self.description = self.read()

    def read(self):
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(
                f"The process of the side {self.side!r} ended with status "
                f"{self.process.wait()}; its own message stands above."
            )
        return json.loads(line)

    def seconds_per_step(self, steps):
        """Runs steps; returns the mean seconds of one, by the clock and of the CPU."""
        print(steps, file=self.process.stdin, flush=True)
        return self.read()

    def close(self):
        self.process.stdin.close()
        self.process.wait()


def busy_seconds():
    """CPU seconds that all processes have taken so far; None where nobody knows."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq = file.readline().split()[1:8]
    except FileNotFoundError:
        return None
    ticks = sum(map(int, (user, nice, system, irq, softirq)))
    return ticks / os.sysconf("SC_CLK_TCK")


def compare(arguments):
    """Returns the figures of both sides, measured in alternating rounds."""
    # One after the other, so that neither compiles while the other is timed.
    workers = {side: Worker(side, arguments) for side in ("ours", "torch")}
    ours, torch = (workers[side].description for side in ("ours", "torch"))
    for quantity in ("device", "parameters"):
        if ours[quantity] != torch[quantity]:
            raise SystemExit(
                f"The two sides differ in their {quantity}, so their times cannot be "
                f"compared. Received: ours={ours[quantity]}, torch={torch[quantity]}. "
                "Install both frameworks for the same device (CUDA_VISIBLE_DEVICES= "
                "keeps both on the CPU)."
            )
    seconds = {side: [] for side in workers}
    cpu_seconds = {side: [] for side in workers}
    began, busy = time.perf_counter(), busy_seconds()
    for number in range(arguments.rounds):
        # Who starts changes from round to round, so that a drift hits both.
        order = list(workers) if number % 2 == 0 else list(reversed(workers))
        for side in order:
            wall, cpu = workers[side].seconds_per_step(arguments.steps)
            seconds[side].append(wall)
            cpu_seconds[side].append(cpu)
    ours_and_theirs = sum(map(sum, cpu_seconds.values())) * arguments.steps
    available = (time.perf_counter() - began) * available_cores()
    others = busy and (busy_seconds() - busy - ours_and_theirs) / available
    for worker in workers.values():
        worker.close()

    ratios = [t / o for o, t in zip(seconds["ours"], seconds["torch"], strict=True)]
    sides = {}
    for side, rounds in seconds.items():
        median = statistics.median(rounds)
        sides[side] = {
            **workers[side].description,
            "seconds_per_step": median,
            "images_per_second": arguments.batch_size / median,
            "cpu_seconds_per_step": statistics.median(cpu_seconds[side]),
            "seconds_per_step_by_round": rounds,
        }
    return {
        "ratio": statistics.median(ratios),
        "ratio_by_round": ratios,
        "sides": sides,
        "settings": {
            "model": arguments.model,
            "backend": arguments.backend,
            "batch_size": arguments.batch_size,
            "attack": f"PGD-{ATTACK_STEPS}, Linf, 8/255, step 2/255",
            "precision": "float32",
            "rounds": arguments.rounds,
            "steps_per_round": arguments.steps,
            "threads": arguments.threads,
            "machine": f"{platform.machine()}, {available_cores()} cores",
            "share_of_other_processes": others,
            "python": platform.python_version(),
        },
    }


def report(figures):
    ratios = figures["ratio_by_round"]
    print(
        f"\nOurs is {figures['ratio']:.2f} times as fast as plain eager PyTorch "
        f"(rounds: {min(ratios):.2f} to {max(ratios):.2f})\n"
    )
    print(f"{'':6}{'s/step':>9}{'images/s':>10}{'CPU s':>8}{'start, s':>10}  framework")
    for side, row in figures["sides"].items():
        print(
            f"{side:6}{row['seconds_per_step']:9.3f}{row['images_per_second']:10.1f}"
            f"{row['cpu_seconds_per_step']:8.3f}{row['start_seconds']:10.1f}"
            f"  {row['framework']}"
        )
    settings = figures["settings"]
    others = settings["share_of_other_processes"]
    if others is not None and others > BUSY:
        print(
            f"\nNOT VALID: other processes took {others:.0%} of the cores meanwhile.\n"
            "Measure again when the machine is idle; the ratio says nothing as it is."
        )
    print(
        f"\n{settings['model']} ({figures['sides']['ours']['parameters']:,} "
        f"parameters), batch {settings['batch_size']}, {settings['attack']}, "
        f"{settings['precision']}\n{figures['sides']['ours']['device'].upper()}, "
        f"{settings['threads']} threads; medians of {settings['rounds']} rounds of "
        f"{settings['steps_per_round']} steps, the sides in turn"
    )


def main():
    arguments = parse_arguments()
    if arguments.worker:
        run_worker(arguments)
        return
    if importlib.util.find_spec("torch") is None:
        sys.exit(
            "The comparison needs PyTorch, which nothing else in this project uses. "
            "Install it with: pip install -e '.[bench]'"
        )
    figures = compare(arguments)
    report(figures)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(figures, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
