"""What a GPU must show, on JAX and without TensorFlow.

    python benchmarks/gpu_suite.py correctness
    python benchmarks/gpu_suite.py speed
    python benchmarks/gpu_suite.py train --data=cifar10lt.npz
    python benchmarks/gpu_suite.py report

- correctness: one training step on the GPU beside the same on the CPU;
- speed: seconds a step of WRN-28-10 and ResNet-18, batch 128, in float32, TensorFloat32
  and bfloat16, beside plain and compiled PyTorch where it is installed, with peak
  memory and the share of the device's peak;
- train: `python -m keras_robustlt train`, on data that `pack_cifar10.py` packed;
- report: the tables of what is there.

Each ends within `--minutes` and goes on where it stopped when it is started again: the
results are JSON files in `--output`, written after every measurement. `--dry_run` does
all of it on the CPU, with tiny networks, to see that it runs.
"""

import argparse
import dataclasses
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import time

# Before a side asks: on this suite's machines there need be no TensorFlow.
os.environ["KERAS_BACKEND"] = "jax"

import compare
import numpy as np
import one_step
import sides
import step
import tables
import workers

from keras_robustlt.experiments import jobs

NETWORKS = ("wrn-28-10", "resnet18")
SEED = 102  # of the data, the network and training
# In float32 with the highest precision of products. TensorFlow's and JAX's steps on one
# CPU are 1e-6 apart in the gradient and in the update, and agree in all signs; a GPU's
# algorithms round more. Where a sign differs the attacks part, so a whole step may
# differ more than training on the same adversarial images.
TOLERANCES = {
    "gradient": 1e-3,
    "signs": 1e-3,
    "adversarial_pixels": 0.02,
    "loss": 1e-5,
    "update": 1e-3,
    "step_loss": 1e-3,
    "step_update": 0.05,
}
MEANINGS = {
    "gradient": "gradient of the images, relative error",
    "signs": "share of its signs that differ",
    "adversarial_pixels": "share of pixels that differ after the attack",
    "loss": "loss on the same adversarial images, relative",
    "update": "the update there, relative error",
    "step_loss": "loss of a whole step, relative",
    "step_update": "update of a whole step, relative error",
}
# Dense operations a second by the vendors' data sheets, for float32, TensorFloat32 and
# bfloat16, by a word of the device's name.
NOMINAL = {
    "H100": (67e12, 495e12, 990e12),
    "H200": (67e12, 495e12, 990e12),
    "A100": (19.5e12, 156e12, 312e12),
    "L4": (30e12, 60e12, 121e12),
    "T4": (8.1e12, 8.1e12, 8.1e12),
}


def parse_arguments():
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--output", default="runs/gpu", help="folder of the results")
    shared.add_argument(
        "--minutes", type=float, default=9.0, help="begin nothing that ends later"
    )
    shared.add_argument("--dry_run", action="store_true", help="on the CPU, tiny")

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    commands = parser.add_subparsers(dest="command", required=True)

    def command(name, text):
        return commands.add_parser(
            name,
            parents=[shared],
            description=text,
            help=text,
            formatter_class=argparse.ArgumentDefaultsHelpFormatter,
        )

    correctness = command("correctness", "One step, on the GPU and on the CPU.")
    correctness.add_argument(
        "--networks", nargs="+", type=step.network_name, default=["wrn-10-2"]
    )
    correctness.add_argument("--batch_size", type=workers.positive, default=16)

    speed = command("speed", "Seconds a step, beside PyTorch.")
    speed.add_argument(
        "--networks", nargs="+", type=step.network_name, default=list(NETWORKS)
    )
    speed.add_argument("--methods", nargs="+", choices=sides.METHODS, default=["at"])
    speed.add_argument(
        "--precisions",
        nargs="+",
        choices=sides.PRECISIONS,
        default=["tensorfloat32", "bfloat16", "float32"],
    )
    speed.add_argument(
        "--sides",
        nargs="+",
        choices=tuple(sides.SIDES),
        default=["jax", "torch", "torch-best"],
    )
    speed.add_argument("--batch_size", type=workers.positive, default=128)
    speed.add_argument("--rounds", type=workers.positive, default=5)
    speed.add_argument("--steps", type=workers.positive, default=10)

    train = command("train", "Training, and evaluation of what is trained.")
    train.add_argument("--data", help="what pack_cifar10.py wrote")
    train.add_argument(
        "--workdir", help="folder of the run; --output and /train if not given"
    )
    train.add_argument("--method", choices=sides.METHODS, default="at_bsl")
    train.add_argument("--robustlt", action="store_true", default=True)
    train.add_argument("--norobustlt", dest="robustlt", action="store_false")
    train.add_argument("--network", type=step.network_name, default="wrn-28-10")
    train.add_argument(
        "--epochs", type=workers.positive, help="the recipe's if not given"
    )
    train.add_argument("--augmentation", help="the recipe's if not given")
    train.add_argument(
        "--precision", choices=("float32", "bfloat16"), default="bfloat16"
    )
    train.add_argument("--attacks", nargs="+", default=["clean", "pgd20", "cw20"])
    train.add_argument("--test_images", type=workers.positive, help="all if not given")

    report = command("report", "The tables of what was measured.")
    report.add_argument("--document", help="put them there too, in their place")
    return parser.parse_args()


class Results:
    """A JSON file of rows by name, written after each."""

    def __init__(self, folder, name, **settings):
        self.path = pathlib.Path(folder) / f"{name}.json"
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.content = {"settings": settings, "rows": {}}
        if self.path.exists():
            self.content["rows"] = json.loads(self.path.read_text("utf-8"))["rows"]

    def __contains__(self, name):
        return name in self.content["rows"]

    def has_failure(self, name):
        """Whether a side of this cell failed."""
        rows = self.content["rows"].get(name, {}).get("sides", {})
        return any("failed" in row for row in rows.values())

    def add(self, name, row):
        self.content["rows"][name] = row
        workers.write_json(self.path, self.content)


class TimeLimit:
    """Whether another piece of work, as long as the longest so far, ends in time."""

    def __init__(self, minutes):
        self.began, self.seconds, self.longest = time.perf_counter(), 60 * minutes, 0.0

    def allows_another(self):
        return 1.1 * self.longest < self.left()

    def left(self):
        return self.seconds - (time.perf_counter() - self.began)

    def did(self, seconds):
        self.longest = max(self.longest, seconds)


def on_cpu():
    """What keeps a process on the CPU."""
    return {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}


def device_name(dry_run):
    """The name of the GPU, asked in another process: this one needs no device."""
    if dry_run:
        return workers.machine()
    code = "import jax; d = jax.devices()[0]; print(d.platform, d.device_kind, sep='|')"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True
    )
    platform, _, kind = result.stdout.strip().partition("|")
    if platform not in ("gpu", "cuda", "rocm"):
        raise SystemExit(
            "JAX sees no GPU here. Install JAX for it (pip install 'jax[cuda13]'), or "
            f"try --dry_run. Received: {result.stdout.strip() or result.stderr[-500:]}"
        )
    return kind


def correctness(arguments, device):
    results = Results(arguments.output, "correctness", device=device)
    limit = TimeLimit(arguments.minutes)
    networks = ["wrn-10-1"] if arguments.dry_run else arguments.networks
    right = True
    for network in networks:
        if not limit.allows_another():
            print(f"No time is left for {network}: start this again.")
            break
        cell = sides.Cell(network=network, batch_size=arguments.batch_size)
        if arguments.dry_run:
            cell = sides.Cell(
                network=network, batch_size=2, image_size=8, attack_steps=1
            )
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            reference = run_step(cell, f"{folder}/cpu.npz", None, on_cpu())
            there = on_cpu() if arguments.dry_run else {}
            on_device = run_step(cell, f"{folder}/gpu.npz", f"{folder}/cpu.npz", there)
        found = one_step.differences(reference, on_device)
        limit.did(time.perf_counter() - start)
        rows = {
            name: {"difference": float(value), "tolerance": TOLERANCES[name]}
            for name, value in found.items()
        }
        for name, row in rows.items():
            row["within"] = row["difference"] <= row["tolerance"]
            right &= row["within"]
            print(
                f"{network}: {MEANINGS[name]}: {row['difference']:.2e} "
                f"(tolerance {row['tolerance']:.0e}){'' if row['within'] else ' WRONG'}"
            )
        results.add(network, rows)
    return right


def run_step(cell, output, reference, environment):
    """The arrays of a step that another process does, on its device."""
    settings = {
        "cell": dataclasses.asdict(cell),
        "output": output,
        "reference": reference,
    }
    script = pathlib.Path(__file__).with_name("one_step.py")
    subprocess.run(
        [sys.executable, script, json.dumps(settings)],
        env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", **environment},
        check=True,
    )
    with np.load(output) as arrays:
        return dict(arrays)


def speed(arguments, device):
    results = Results(arguments.output, "speed", **compare.settings(device=device))
    limit = TimeLimit(arguments.minutes)
    there, missing = compare.available_sides()
    names = [name for name in arguments.sides if name in there]
    for name in set(arguments.sides) - set(names):
        print(f"{name} is left out: {missing[name]}")
    networks, rounds, steps = arguments.networks, arguments.rounds, arguments.steps
    options = {"batch_size": arguments.batch_size}
    if arguments.dry_run:
        os.environ.update(on_cpu())
        networks, rounds, steps = ["wrn-10-1"], 1, 1
        options = {"batch_size": 2, "image_size": 8, "attack_steps": 1}
    cells = [
        sides.Cell(network=network, method=method, precision=precision, **options)
        for network in networks
        for method in arguments.methods
        for precision in arguments.precisions
    ]
    # Those with a side that failed come last: perhaps it was only the time.
    unfinished = [cell for cell in cells if cell.name not in results]
    unfinished += [cell for cell in cells if results.has_failure(cell.name)]
    for cell in unfinished:
        if not limit.allows_another():
            print(f"No time is left for {cell.name}: start this again.")
            break
        print(f"{cell.name}, batch {cell.batch_size}", flush=True)
        start = time.perf_counter()
        figures = compare.measure(
            cell,
            names,
            rounds,
            steps,
            lambda line: print(line, flush=True),
            patience=max(limit.left(), 60.0),
            quick=arguments.dry_run,
        )
        results.add(cell.name, figures)
        limit.did(time.perf_counter() - start)
        for side, row in figures["sides"].items():
            if "failed" not in row:
                print(f"  {side}: {row['seconds_per_step']:.4f} s a step", flush=True)
    return True


def train(arguments, device):
    """The package's own `train`, which goes on where time ran out before."""
    workdir = pathlib.Path(arguments.workdir or f"{arguments.output}/train")
    command = [sys.executable, "-m", "keras_robustlt", "train", "--nocompare"]
    command += [f"--workdir={workdir}", *training_flags(arguments)]
    limit = TimeLimit(arguments.minutes)
    print(f"Training on {device}.", flush=True)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    began, stopped = None, False
    for line in process.stdout:
        print(line, end="", flush=True)
        if not stopped and jobs.EPOCH.match(line):
            if began is not None:  # the first epoch compiles
                limit.did(time.perf_counter() - began)
            began = time.perf_counter()
            if not limit.allows_another():
                stopped = True
                process.terminate()  # the epochs that are done are kept
    status = process.wait()
    if stopped:
        print("Time is up: start this again.")
    elif status:
        raise SystemExit(status)
    return True


def training_flags(arguments):
    """The recipe's, with what the command line changes."""
    given = {
        "data": arguments.data or random_data(pathlib.Path(arguments.output)),
        "preset": "paper",
        "seed": SEED,
        "method": arguments.method,
        "model": arguments.network,
        "precision": "float32"
        if arguments.precision == "float32"
        else "mixed_bfloat16",
        "attacks": ",".join(arguments.attacks),
        "epochs": arguments.epochs,
        "augmentation": arguments.augmentation,
        "test_examples": arguments.test_images,
    }
    if arguments.dry_run:
        given |= {"model": "wrn-10-1", "batch_size": 4}
        given["epochs"] = arguments.epochs or 2
        given |= {"pgd_steps": 1, "attacks": "clean", "augmentation": "base"}
    flags = [f"--{name}={value}" for name, value in given.items() if value is not None]
    return flags if arguments.robustlt else [*flags, "--norobustlt"]


def random_data(workdir):
    """A file of random images, for a dry run."""
    generator = np.random.default_rng(0)
    workdir.mkdir(parents=True, exist_ok=True)
    path = workdir / "random.npz"
    arrays = {}
    for part, count in (("train", 8), ("test", 4)):
        arrays[f"x_{part}"] = generator.integers(0, 256, (count, 16, 16, 3), np.uint8)
        arrays[f"y_{part}"] = np.arange(count) % 2
    np.savez(path, **arrays)
    return path


def report(arguments):
    parts = []
    folder = pathlib.Path(arguments.output)
    for name, make in (("correctness", correctness_table), ("speed", speed_tables)):
        path = folder / f"{name}.json"
        if path.exists():
            parts.append(make(json.loads(path.read_text("utf-8"))))
    if not parts:
        raise SystemExit(f"{folder} has no results yet.")
    text = "\n\n".join(parts)
    print(text)
    if arguments.document:
        tables.insert(arguments.document, "gpu", text)


def correctness_table(content):
    networks = content["rows"]
    header = ["difference", *networks, "tolerance"]
    rows = [
        [
            meaning,
            *(f"{rows[name]['difference']:.1e}" for rows in networks.values()),
            f"{TOLERANCES[name]:.0e}",
        ]
        for name, meaning in MEANINGS.items()
    ]
    device = content["settings"]["device"]
    return f"One step on {device}, and on its CPU:\n\n{tables.table(header, rows)}"


def speed_tables(content):
    cells = list(content["rows"].values())
    device = content["settings"]["device"]
    header = ["network, method", "side", "TFLOP/s", "of convolutions at best"]
    header += ["of products at best", "of the nominal"]
    rows = []
    for figures in cells:
        floor = figures["floor"]
        if floor is None:
            continue
        products = max(floor["product_flops_per_second"].values())
        nominal = nominal_rate(device, figures["cell"]["precision"])
        for side, row in figures["sides"].items():
            if "failed" in row:
                continue
            rate = floor["flops_per_step"] / row["seconds_per_step"]
            rows.append(
                [
                    tables.label(figures["cell"]),
                    sides.SIDES[side][0],
                    tables.number(rate / 1e12, 1),
                    tables.percent(row["share_of_floor"]),
                    tables.percent(rate / products),
                    tables.percent(nominal and rate / nominal),
                ]
            )
    return "\n\n".join(
        [
            f"{device}:",
            tables.ratios(cells),
            tables.figures_of_sides(cells),
            tables.table(header, rows),
        ]
    )


def nominal_rate(device, precision):
    """Operations a second by the data sheet, or `None` for a device not listed."""
    for word, rates in NOMINAL.items():
        if word in device:
            return rates[sides.PRECISIONS.index(precision)]
    return None


def main():
    arguments = parse_arguments()
    if arguments.command == "report":
        return report(arguments)
    if arguments.command == "train" and not (arguments.data or arguments.dry_run):
        raise SystemExit("Give the training --data that pack_cifar10.py wrote.")
    if arguments.dry_run:
        os.environ.update(on_cpu())
    commands = {"correctness": correctness, "speed": speed, "train": train}
    device = device_name(arguments.dry_run)
    if not commands[arguments.command](arguments, device):
        sys.exit("The two devices differ by more than the tolerances.")


if __name__ == "__main__":
    main()
