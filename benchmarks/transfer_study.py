"""Robust fine-tuning from a pretrained network on a long tail, against from scratch.

    python benchmarks/transfer_study.py --data_dir=DATA --seeds 1 2 3
    python benchmarks/transfer_study.py --data_dir=DATA --quick    # whether it runs

For each seed a small network is trained normally on the first five classes of CIFAR-10,
all images, whose sides are halved (the mean of each 2x2 pixels), so that two CPU cores
can do it. Four arms then train robustly on a long tail of the other five (imbalance
50), with AdamW and a cosine rate, as people fine-tune; all for as many epochs, so that
each has the same time:

    scratch     CPB + AIW, without the pretrained weights
    at          fine-tuned, the whole budget for every class from the first step on
    aiw         fine-tuned, the budget grows from zero
    cpb_aiw     fine-tuned, RobustLT: it grows, and rare classes have more

Each is measured on the same test images: clean, PGD-20, AutoAttack, and expected
robustness, the mean of robust accuracy over epsilon from 0 to 8/255.

A run is one of `python -m keras_robustlt train`, whose files go to `--output`. A cell,
which is an arm of a seed, has a JSON file there, and is not run again: the same command
goes on where it was interrupted. The table, `transfer.md`, is made of all cells that
are there: means over the seeds, and 95% intervals of the paired differences.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import time

import compare
import numpy as np
import workers

import keras_robustlt as krl
from keras_robustlt.experiments import comparison

ARMS = {
    "scratch": "from scratch, AT + CPB + AIW",
    "at": "fine-tuned, AT",
    "aiw": "fine-tuned, AT + AIW",
    "cpb_aiw": "fine-tuned, AT + CPB + AIW",
}
RULES = {"at": ["--budget=uniform"], "aiw": ["--alpha=0"]}
PAIRS = [("at", "aiw"), ("at", "cpb_aiw"), ("aiw", "cpb_aiw"), ("scratch", "cpb_aiw")]
GROUPS = ("all", "tail", "worst")
# What the tables show; the cells have more.
SHOWN = [
    (attack, group)
    for attack in ("clean", "pgd20", "autoattack", "expected")
    for group in ("all", "tail")
]
CLASSES = 5
EPSILON = 8 / 255
EPSILONS = [k / 255 for k in range(9)]
COMMON = [
    "--nocompare",
    "--preset=cpu",
    "--model=wrn-10-1",
    "--optimizer=adamw",
    "--schedule=cosine",
    "--warmup=0.05",
    "--epsilon=8/255",
    "--precision=float32",
]


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--data", default="cifar10", help="a name or path that krl.data.load takes")
    add("--data_dir", help="where the data with a name are")
    add("--seeds", nargs="+", type=int, default=[1, 2, 3])
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    add("--epochs", type=workers.positive, default=40, help="of every arm")
    add("--pretraining_epochs", type=workers.positive, default=10)
    add("--learning_rate", type=float, default=2e-3, help="of every run")
    add("--largest_class", type=workers.positive, default=500)
    add("--test_examples", type=workers.positive, default=500)
    add("--threads", type=workers.positive, default=1, help="CPU threads of a run")
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/transfer"))
    add(
        "--quick",
        action="store_true",
        help="an epoch each, a few images, no AutoAttack",
    )
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.epochs, arguments.pretraining_epochs = 2, 1
        arguments.largest_class, arguments.test_examples = 60, 40
        arguments.output = arguments.output.with_name(f"{arguments.output.name}-quick")
    return arguments


def write_halves(arguments):
    """Writes the data of pretraining and of the arms, an .npz file each."""
    paths = [arguments.output / name for name in ("pretraining.npz", "transfer.npz")]
    if all(path.exists() for path in paths):
        return paths
    source = krl.data.load(arguments.data, data_dir=arguments.data_dir, download=False)
    arguments.output.mkdir(parents=True, exist_ok=True)
    most = arguments.largest_class if arguments.quick else None
    for path, first in zip(paths, (0, CLASSES), strict=True):
        arrays = half(source, first, most)
        with path.with_suffix(".tmp").open("wb") as file:
            np.savez(file, **arrays)
        path.with_suffix(".tmp").replace(path)
    return paths


def half(source, first, most=None):
    """The arrays of so many classes, from `first` on.

    Args:
        source: A `krl.data.Source`.
        first: Integer, a class.
        most: Integer, at most so many images a class. Defaults to `None`, all.

    Returns:
        A dictionary of arrays.
    """
    arrays = {"class_names": np.array(source.class_names[first : first + CLASSES])}
    for part in ("train", "test"):
        x, y = getattr(source, f"x_{part}"), getattr(source, f"y_{part}")
        of_classes = [
            np.flatnonzero(y == k)[:most] for k in range(first, first + CLASSES)
        ]
        chosen = np.sort(np.concatenate(of_classes))
        arrays |= {f"x_{part}": halved(x[chosen]), f"y_{part}": y[chosen] - first}
    return arrays


def halved(images):
    """The images with half of their height and width, of the same dtype."""
    n, height, width, channels = images.shape
    images = images[:, : height // 2 * 2, : width // 2 * 2]
    blocks = images.reshape(n, height // 2, 2, width // 2, 2, channels)
    return np.round(blocks.mean(axis=(2, 4), dtype="float32")).astype(images.dtype)


def train(folder, flags, arguments):
    """Runs the command, unless it has ended already."""
    if (folder / "results.json").exists():
        return
    command = [sys.executable, "-m", "keras_robustlt", "train", f"--workdir={folder}"]
    environment = compare.environment_of("tensorflow", arguments.threads)
    environment["TF_NUM_INTEROP_THREADS"] = "1"
    start = time.perf_counter()
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{folder} ...", flush=True)
    with log.open("a") as file:
        ended = subprocess.run(
            [*command, *COMMON, *flags],
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if ended.returncode:
        raise SystemExit(f"{folder} failed. See {log}.")
    print(f"  {time.perf_counter() - start:.0f} s", flush=True)


def pretrain(data, seed, arguments):
    """The normally trained network of a seed."""
    folder = arguments.output / f"seed{seed}" / "pretrained"
    flags = [
        f"--data={data}",
        f"--seed={seed}",
        "--method=standard",
        f"--epochs={arguments.pretraining_epochs}",
        f"--learning_rate={arguments.learning_rate}",
        f"--test_examples={arguments.test_examples}",
        "--attacks=clean",
    ]
    train(folder, flags, arguments)
    return folder / "network.keras"


def run_cell(arm, data, seed, arguments):
    """Trains and measures an arm of a seed, and writes its JSON."""
    path = arguments.output / "cells" / f"seed{seed}-{arm}.json"
    if path.exists():
        return
    folder = arguments.output / f"seed{seed}" / arm
    attacks = "clean,pgd20" if arguments.quick else "clean,pgd20,autoattack"
    flags = [
        f"--data={data}",
        f"--seed={seed}",
        "--method=at",
        "--imbalance_ratio=50",
        f"--largest_class={arguments.largest_class}",
        f"--epochs={arguments.epochs}",
        f"--learning_rate={arguments.learning_rate}",
        f"--test_examples={arguments.test_examples}",
        f"--attacks={attacks}",
        *RULES.get(arm, []),
    ]
    if arm != "scratch":
        pretrained = arguments.output / f"seed{seed}" / "pretrained" / "network.keras"
        flags += [f"--initial_weights={pretrained}", "--new_head"]
    train(folder, flags, arguments)
    results = krl.EvaluationResults.from_json(folder / "results.json")
    cell = {
        "arm": arm,
        "seed": seed,
        "seconds_of_training": seconds_of_training(folder),
        "class_counts": results.settings["class_counts"],
        "examples": results.settings["examples"],
        "accuracy": {
            attack: {group: results[attack][group] for group in GROUPS}
            for attack in results
        },
    }
    expected = curve(folder, data, results, seed, arguments).expected_robustness()
    cell["accuracy"]["expected"] = {group: expected[group] for group in GROUPS}
    path.parent.mkdir(exist_ok=True)
    workers.write_json(path, cell)


def curve(folder, data, results, seed, arguments):
    """Accuracy by budget, on the test images of the evaluation."""
    import keras

    source = krl.data.load(data)
    return krl.robustness_curve(
        keras.saving.load_model(folder / "network.keras", compile=False),
        source.x_test.astype("float32") / 255,
        source.y_test,
        epsilons=EPSILONS,
        attack=krl.attacks.PGD(EPSILON, steps=20),
        examples=arguments.test_examples,
        class_counts=results.settings["class_counts"],
        seed=seed,
        verbose=0,
    )


def seconds_of_training(folder):
    """From the start to the trained network; an interruption counts as well."""
    begun, ended = (folder / name for name in ("config.json", "network.keras"))
    return ended.stat().st_mtime - begun.stat().st_mtime


def load_cells(folder):
    """The cells that are there: a dictionary from arm and seed."""
    cells = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    return {(cell["arm"], cell["seed"]): cell for cell in cells}


def markdown(cells):
    """The tables of means and of paired differences."""
    heads = [f"{attack} {group}" for attack, group in SHOWN]

    def values(arm, column, seeds):
        attack, group = column
        return [cells[arm, seed]["accuracy"][attack][group] for seed in seeds]

    def seeds_of(*arms):
        seeds = sorted({seed for _, seed in cells})
        return [s for s in seeds if all((arm, s) in cells for arm in arms)]

    means, changes = [], []
    for arm in ARMS:
        seeds = seeds_of(arm)
        if seeds:
            shown = [100 * np.mean(values(arm, column, seeds)) for column in SHOWN]
            means.append([ARMS[arm], str(len(seeds)), *(f"{v:.1f}" for v in shown)])
    for base, arm in PAIRS:
        seeds = seeds_of(base, arm)
        if not seeds:
            continue
        row = [f"{ARMS[arm]}, minus {ARMS[base]}", str(len(seeds))]
        for column in SHOWN:
            pairs = np.subtract(values(arm, column, seeds), values(base, column, seeds))
            mean, low, high = comparison.interval(pairs)
            line = {"difference": mean, "low": low, "high": high}
            row.append(comparison.cell(line))
        changes.append(row)
    parts = [comparison.markdown_table(["accuracy in %", "seeds", *heads], means)]
    if changes:
        parts.append(comparison.markdown_table(["points", "seeds", *heads], changes))
    return "\n\n".join(parts) + "\n"


def main():
    arguments = parse_arguments()
    pretraining, transfer = write_halves(arguments)
    cells = arguments.output / "cells"
    for seed in arguments.seeds:
        pretrain(pretraining, seed, arguments)
        for arm in arguments.arms:
            run_cell(arm, transfer, seed, arguments)
            text = markdown(load_cells(cells))
            (arguments.output / "transfer.md").write_text(text, encoding="utf-8")
    print(f"\n{text}")


if __name__ == "__main__":
    main()
