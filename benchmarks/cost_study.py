"""What attacks to train with cost, and how robust the rare classes are in the end.

    python benchmarks/cost_study.py run --data_dir=DATA       # hours; goes on
    python benchmarks/cost_study.py time --data_dir=DATA      # minutes, idle machine
    python benchmarks/cost_study.py noise --data_dir=DATA     # of what has been trained
    python benchmarks/cost_study.py table

An arm is an attack to train with, of AT-BSL on CIFAR10-LT; `-uniform` is without
RobustLT, `-auto` with the budget that sets itself, `-cpb` with CPB alone. `run` trains
a network for each arm and seed, one after the other (several of these commands may
share an `--output`, each with other seeds or arms), and measures two networks of each:
with the weights of the last epoch, and with their exponential moving average. What is
finished is left out. `time` trains a few epochs of each arm, in turns and in processes
of their own, for what an epoch costs. `noise` asks the networks of the last epoch about
test images with random noise, which is no attack: whether the more noise there is, the
rarer the classes that they see. `table` makes a table and a picture of what the others
have written; they end with it too. What is asked stands in docs/results/protocol.md.
"""

import argparse
import json
import os
import pathlib
import re
import subprocess
import sys

import compare
import numpy as np
import workers

import keras_robustlt as krl
from keras_robustlt.experiments import comparison

# Beside --method=at_bsl.
ARMS = {
    "pgd-10": ["--attack=pgd", "--pgd_steps=10"],
    "pgd-10-adaptive": ["--attack=pgd", "--pgd_steps=10", "--adaptive_steps"],
    "pgd-2": ["--attack=pgd", "--pgd_steps=2"],
    "nuat": ["--method=nuat"],
    "fgsm-rs": ["--attack=fgsm-rs"],
    "n-fgsm": ["--attack=n-fgsm"],
    "n-fgsm-uniform": ["--attack=n-fgsm", "--budget=uniform"],
    "n-fgsm-auto": ["--attack=n-fgsm", "--budget=auto"],
    "n-fgsm-mean-auto": ["--attack=n-fgsm-mean", "--budget=auto"],
    "n-fgsm-cpb": ["--attack=n-fgsm", "--beta=0"],
    "pgd-10-uniform": ["--attack=pgd", "--pgd_steps=10", "--budget=uniform"],
    "n-fgsm-float32": ["--attack=n-fgsm", "--precision=float32"],
}
# Shown where there are cells of it, and not run again: PGD with two steps of a quarter
# of the budget, the default of an earlier version.
EARLIER = ["pgd-2-short"]
COMMON = [
    "--data=cifar10lt",
    "--method=at_bsl",
    "--preset=cpu",
    "--model=wrn-10-2",
    "--largest_class=1000",
    "--augmentation=base",
    "--precision=mixed_bfloat16",
    "--averaging=0.995",
    "--attacks=clean",
    "--test_examples=1000",
]
# Between which arms there is a question.
PAIRS = [
    ("pgd-10-adaptive", "pgd-10"),
    ("pgd-2", "pgd-10"),
    ("pgd-2-short", "pgd-10"),
    ("nuat", "pgd-10"),
    ("fgsm-rs", "pgd-10"),
    ("n-fgsm", "pgd-10"),
    ("pgd-10", "pgd-10-uniform"),
    ("n-fgsm", "n-fgsm-uniform"),
    ("n-fgsm-auto", "n-fgsm-uniform"),
    ("n-fgsm-mean-auto", "n-fgsm-uniform"),
    ("n-fgsm-mean-auto", "n-fgsm-auto"),
    ("n-fgsm-cpb", "n-fgsm-uniform"),
    ("n-fgsm-uniform", "pgd-10-uniform"),
    ("n-fgsm", "n-fgsm-float32"),
]
WEIGHTS = {"last": "last epoch", "average": "average"}
# Attacks, on how many test images, and of which weights: AutoAttack takes ten minutes
# of a core, as long as training with an attack of one step. In float32 it would be
# twice that, and only the first are run.
MEASURED = [
    (("clean", "pgd20", "cw20"), 1000, ("last", "average")),
    (("autoattack",), 500, ("last",)),
]
ATTACKS = [attack for attacks, _, _ in MEASURED for attack in attacks]
GROUPS = ("all", "tail")
# The ends of the arms' names, and what they are in the picture: name, colour, and how
# far beside the place of the attack.
BUDGETS = {
    "": ("RobustLT", "#0072B2", 0.15),
    "-auto": ('budget="auto"', "#009E73", 0.0),
    "-cpb": ("CPB alone", "#CC79A7", 0.3),
    "-uniform": ("uniform budget", "#D55E00", -0.15),
}
# Of 255, up or down.
NOISE = (0, 8, 16, 24, 32, 48)
# An arm of fewer seeds is not in the picture.
FEWEST = 3
# A round of `time`, and how many count, after one that does not.
TIMED_EPOCHS, ROUNDS = 3, 3


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("command", choices=("run", "time", "noise", "table"))
    add("--data_dir", help="where CIFAR-10 is")
    add("--arms", nargs="+", choices=list(ARMS), default=list(ARMS))
    add("--seeds", nargs="+", type=int, default=[2, 3, 4])
    add("--epochs", type=workers.positive, default=60)
    add("--threads", type=workers.positive, default=workers.available_cores())
    add("--output", type=pathlib.Path, default=pathlib.Path("runs/cost"))
    return parser.parse_args()


def flags_of(arm, arguments):
    """The flags of `train`, without the seed and the directory."""
    where = [f"--data_dir={arguments.data_dir}"] if arguments.data_dir else []
    return [
        *COMMON,
        *where,
        f"--epochs={arguments.epochs}",
        *ARMS[arm],
    ]


def run_cell(arm, seed, arguments):
    """Trains an arm with a seed, and measures it in a process of its own."""
    folder = arguments.output / "runs" / arm / f"seed{seed}"
    train = ["-m", "keras_robustlt", "train", "--nocompare", f"--seed={seed}"]
    train += [f"--workdir={folder}", *flags_of(arm, arguments)]
    cell = cell_of(arguments.output, arm, seed)
    if cell.exists():
        return
    cell.parent.mkdir(parents=True, exist_ok=True)
    if not (folder / "results.json").exists():
        call(train, folder, arguments)
    settings = [str(folder), str(cell), arguments.data_dir or ""]
    call([__file__, "--measure", *settings], folder, arguments)


def call(command, folder, arguments):
    log = folder.with_suffix(".log")
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"{folder}: {command[0]} ...", flush=True)
    environment = compare.environment_of("tensorflow", arguments.threads)
    environment["TF_NUM_INTEROP_THREADS"] = "1"
    with log.open("a") as file:
        ended = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, **environment},
            stdout=file,
            stderr=subprocess.STDOUT,
        )
    if ended.returncode:
        raise SystemExit(f"{folder} failed. See {log}.")


def cell_of(output, arm, seed):
    return output / "cells" / f"{arm}-seed{seed}.json"


def measure(folder, path, data_dir):
    """Writes the accuracies of the two networks of a run."""
    from keras_robustlt.data.class_balanced import class_balanced_subset

    folder = pathlib.Path(folder)
    config = json.loads((folder / "config.json").read_text())
    seed = config["settings"]["seed"]
    data = krl.data.load("cifar10", data_dir=data_dir or None, download=False)
    networks = networks_of(folder)
    accuracy = {name: {} for name in networks}
    in_float32 = config["settings"]["precision"] == "float32"
    for attacks, examples, weights in MEASURED[: 1 if in_float32 else None]:
        images, labels = class_balanced_subset(
            data.x_test, data.y_test, examples=examples, seed=seed
        )
        for name in weights:
            results = krl.evaluate(
                networks[name],
                images.astype("float32") / 255,
                labels,
                attacks=attacks,
                epsilon=config["settings"]["epsilon"],
                class_counts=config["class_counts"],
                class_names=config["class_names"],
                seed=seed,
                verbose=0,
            )
            print(f"{name}:\n{results.table()}", flush=True)
            accuracy[name] |= {
                attack: {key: results[attack][key] for key in (*GROUPS, "worst")}
                | {"per_class": results[attack]["per_class"]}
                for attack in results
            }
    workers.write_json(
        path,
        {
            "arm": folder.parent.name,
            "seed": seed,
            "accuracy": accuracy,
            **{key: config[key] for key in ("command", "versions", "class_counts")},
        },
    )


def networks_of(folder):
    """The networks with the last epoch's weights and with their average."""
    import keras

    files = {"last": "network-last.keras", "average": "network.keras"}
    return {
        name: keras.saving.load_model(folder / file) for name, file in files.items()
    }


def measure_noise(arguments):
    """Writes how accurate networks are on images with uniform noise, and what they see.

    Of 60 test images a class, in percent, those of the two largest classes and those of
    the four smallest.
    """
    from keras_robustlt.data.class_balanced import class_balanced_subset

    data = krl.data.load("cifar10", data_dir=arguments.data_dir, download=False)
    x, y = class_balanced_subset(data.x_test, data.y_test, examples=600)
    x = x.astype("float32") / 255
    groups = {"head": y < 2, "rarest4": y >= 6}
    found = {}
    for arm in arguments.arms:
        runs = arguments.output / "runs" / arm
        for file in sorted(runs.glob("seed*/network-last.keras")):
            network = networks_of(file.parent)["last"]
            rows = found.setdefault(arm, {})[file.parent.name] = []
            generator = np.random.default_rng(0)
            for amplitude in NOISE:
                noise = generator.uniform(-amplitude / 255, amplitude / 255, x.shape)
                noisy = np.clip(x + noise.astype("float32"), 0, 1)
                seen = network.predict(noisy, batch_size=200, verbose=0).argmax(-1)
                row = {"noise": amplitude}
                for name, chosen in groups.items():
                    row[name] = 100 * float((seen == y)[chosen].mean())
                rows.append({**row, "seen_rarest4": 100 * float((seen >= 6).mean())})
    workers.write_json(arguments.output / "noise.json", found)


def noise_table(found):
    """What `measure_noise` wrote, as Markdown: a row for each network."""
    noises = (0, 16, 24, 48)
    lines = [
        f"| training, seed | {' | '.join(f'noise {n}/255' for n in noises)} |",
        "|---" * (1 + len(noises)) + "|",
    ]
    for arm, seeds in found.items():
        for seed, rows in seeds.items():
            of = {row["noise"]: row for row in rows}
            cells = [f"{of[n]['head']:.0f} / {of[n]['rarest4']:.0f}" for n in noises]
            name = f"{arm}, {seed.removeprefix('seed')}"
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


class Training:
    """An arm that trains, as `workers.serve` runs it."""

    def __init__(self, flags, data_dir):
        import keras

        from keras_robustlt.experiments import run, train

        settings = {**train.settings_of(flags), "seed": 1}
        if settings["budget"] == "robustlt":
            # All of the budget in every epoch: in the first of a run there is none, and
            # no attack, which would be too large a share of so few epochs.
            settings["beta"] = 0.0
        keras.config.set_dtype_policy(settings["precision"])
        keras.utils.set_random_seed(1)
        self.data = run.load_data(settings, data_dir)
        self.model = run.build_model(settings, self.data, len(self.data.train))
        guarded = settings["collapse_guard"]
        self.callbacks = [run.collapse_guard(settings, self.data)] if guarded else []

    def describe(self):
        import keras
        import tensorflow

        return {"framework": f"Keras {keras.__version__}, TF {tensorflow.__version__}"}

    def round(self, epochs):
        stopwatch = workers.Stopwatch()
        self.model.fit(
            self.data.train, epochs=epochs, callbacks=self.callbacks, verbose=0
        )
        wall, cpu = stopwatch.read()
        return {"seconds": wall / epochs, "cpu_seconds": cpu / epochs}


def measure_time(arguments):
    """Writes the seconds of an epoch of each arm, the arms in turn."""
    environment = compare.environment_of("tensorflow", arguments.threads)
    # What depends on the growth of the budget is not timed at the whole of it.
    arms = [arm for arm in arguments.arms if arm != "pgd-10-adaptive"]
    running, rounds = {}, {arm: [] for arm in arms}
    try:
        for arm in arms:
            flags = flags_of(arm, arguments)
            settings = {"flags": flags, "data_dir": arguments.data_dir}
            settings["threads"] = arguments.threads
            running[arm] = workers.Worker("cost_study.py", settings, environment)
            running[arm].ask(TIMED_EPOCHS)  # compiles
            print(f"{arm} is compiled", flush=True)
        busy = workers.Busy()
        for _ in range(ROUNDS):
            for arm, worker in running.items():
                rounds[arm].append(worker.ask(TIMED_EPOCHS))
                print(f"{arm}: {rounds[arm][-1]['seconds']:.2f} s", flush=True)
        measured = sum(
            TIMED_EPOCHS * each["cpu_seconds"]
            for turns in rounds.values()
            for each in turns
        )
        figures = {
            "machine": workers.machine(),
            "threads": arguments.threads,
            "share_of_other_processes": busy.others(measured),
            "epochs_of_a_round": TIMED_EPOCHS,
            **next(iter(running.values())).description,
            "rounds": rounds,
        }
    finally:
        for worker in running.values():
            worker.close()
    arguments.output.mkdir(parents=True, exist_ok=True)
    workers.write_json(arguments.output / "time.json", figures)


def load(folder):
    """The cells, by arm and seed, and the seconds of an epoch, by arm."""
    paths = sorted((folder / "cells").glob("*.json"))
    cells = {(c["arm"], c["seed"]): c for c in map(read, paths)}
    path = folder / "time.json"
    rounds = read(path)["rounds"] if path.exists() else {}
    seconds = {
        arm: float(np.median([each["seconds"] for each in turns]))
        for arm, turns in rounds.items()
    }
    return cells, seconds


def read(path):
    return json.loads(path.read_text())


def values(cells, arm, weights, attack, group):
    """The accuracies of an arm: a dictionary by seed, of those that were measured."""
    return {
        seed: cell["accuracy"][weights][attack][group]
        for (name, seed), cell in cells.items()
        if name == arm and attack in cell["accuracy"][weights]
    }


def differences(cells, arm, base, weights, attack, group):
    """What an arm has more than another, of the seeds that both were run with."""
    ours, theirs = (values(cells, a, weights, attack, group) for a in (arm, base))
    return [ours[seed] - theirs[seed] for seed in sorted(set(ours) & set(theirs))]


def in_words(pairs):
    mean, low, high = comparison.interval(pairs)
    return comparison.cell({"difference": mean, "low": low, "high": high})


def markdown(cells, seconds):
    """The means, and the paired differences with their intervals."""
    arms = [arm for arm in (*ARMS, *EARLIER) if any(name == arm for name, _ in cells)]
    columns = [(attack, group) for attack in ATTACKS for group in GROUPS]
    heads = [f"{attack} {group}" for attack, group in columns]
    means, changes = [], []
    for arm in arms:
        cost = ["-", "-"]
        if arm in seconds and "pgd-10" in seconds:
            share = seconds[arm] / seconds["pgd-10"]
            cost = [f"{seconds[arm]:.1f}", f"{share:.2f}"]
        for weights, title in WEIGHTS.items():
            found = [values(cells, arm, weights, *column) for column in columns]
            most = max(map(len, found))
            shown = [
                f"{100 * np.mean(list(each.values())):.1f}"
                if len(each) == most
                else "-"
                for each in found
            ]
            means.append([arm, title, str(most), *cost, *shown])
    for arm, base in PAIRS:
        for weights, title in WEIGHTS.items():
            found = [
                differences(cells, arm, base, weights, *column) for column in columns
            ]
            most = max(map(len, found))
            if most:
                shown = [in_words(each) if len(each) == most else "-" for each in found]
                changes.append([f"{arm} minus {base}", title, str(most), *shown])
    head = ["accuracy in %", "weights", "seeds", "s/epoch", "of pgd-10", *heads]
    parts = [comparison.markdown_table(head, means)]
    if changes:
        head = ["points", "weights", "seeds", *heads]
        parts.append(comparison.markdown_table(head, changes))
    return "\n\n".join(parts) + "\n"


def draw(cells, seconds):
    """Robustness of each attack, the fastest first, a point for each shared seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    FigureCanvasAgg(figure)
    # A budget costs nothing: the arms of an attack stand side by side.
    budgets = {arm: re.search("(-auto|-uniform)?$", arm)[0] for arm in ARMS}
    attacks = {arm: arm.removesuffix(budgets[arm]) for arm in ARMS}
    seeds = {arm: set(values(cells, arm, "last", "autoattack", "all")) for arm in ARMS}
    shown = [
        arm
        for arm in ARMS
        if {attacks[arm], "pgd-10"} <= set(seconds) and len(seeds[arm]) >= FEWEST
    ]
    # Seeds differ more than arms do: means are to be compared over the same ones alone.
    shared = set.intersection(*(seeds[arm] for arm in shown)) if shown else set()
    fastest_first = sorted({attacks[arm] for arm in shown}, key=seconds.get)
    ticks = [
        f"{attack.upper()}\n{100 * seconds[attack] / seconds['pgd-10']:.0f}"
        for attack in fastest_first
    ]
    for axes, group in zip(figure.subplots(1, 2), GROUPS, strict=True):
        for arm in shown:
            of_seed = values(cells, arm, "last", "autoattack", group)
            found = [of_seed[seed] for seed in sorted(shared)]
            _, colour, aside = BUDGETS[budgets[arm]]
            x = fastest_first.index(attacks[arm]) + aside
            axes.scatter([x] * len(found), 100 * np.array(found), color=colour, s=14)
            axes.scatter(x, 100 * np.mean(found), color=colour, marker="_", s=200)
        axes.set(xlabel="time of training, % of PGD-10's")
        axes.set(title=f"AutoAttack, {group}, %", xticks=range(len(ticks)))
        axes.set_xticklabels(ticks)
        axes.spines[["top", "right"]].set_visible(False)
    for budget in {budgets[arm]: None for arm in shown}:
        name, colour, _ = BUDGETS[budget]
        axes.scatter([], [], color=colour, s=14, label=name)
    figure.legend(frameon=False, loc="outside right center")
    return figure


def main():
    arguments = parse_arguments()
    if arguments.command == "run":
        for seed in arguments.seeds:
            for arm in arguments.arms:
                run_cell(arm, seed, arguments)
    elif arguments.command == "time":
        measure_time(arguments)
    elif arguments.command == "noise":
        measure_noise(arguments)
    cells, seconds = load(arguments.output)
    text = markdown(cells, seconds)
    (arguments.output / "cost.md").write_text(text, encoding="utf-8")
    krl.plots.save(draw(cells, seconds), arguments.output / "cost.png")
    print(f"\n{text}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(*sys.argv[2:])
    elif sys.argv[1:] and sys.argv[1].startswith("{"):
        side = json.loads(sys.argv[1])
        workers.serve(
            lambda: Training(side["flags"], side["data_dir"]), side["threads"]
        )
    else:
        main()
