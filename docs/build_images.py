"""Draws pictures of docs/images that are computed.

    python docs/build_images.py                    # all of them
    python docs/build_images.py --data_dir=PATH    # where CIFAR-10 is, if not default
    python docs/build_images.py collapse           # this one, which needs no CIFAR-10

augmentation.png: what each augmentation does to CIFAR-10 images. The same images stand
in every column, and each row is another draw. The draws are fixed, so the picture is
the same each time.

collapse.png: training on digits with a fast attack that collapses, without
`CollapseGuard` and with it. Training rounds otherwise on another machine.

theory.png: what `SkewAndDrift` saw in the runs of docs/results/runs-theory, the mean of
the seeds.
"""

import argparse
import csv
from pathlib import Path

import keras
import numpy as np

import keras_robustlt as krl

IMAGES = Path(__file__).with_name("images")
RUNS = Path(__file__).with_name("results") / "runs-theory/digits"
BUDGETS = {
    "at_bsl": ("uniform", "#000000"),
    "at_bsl-cpb": ("CPB", "#E69F00"),
    "at_bsl-aiw": ("AIW", "#009E73"),
    "at_bsl-robustlt": ("RobustLT", "#0072B2"),
}
ROWS = {"none": 1, "base": 2, "base_rotation": 2, "ra": 3, "aua": 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    pictures = {"augmentation": augmentation, "collapse": collapse, "theory": theory}
    parser.add_argument("pictures", nargs="*", help=f"of {', '.join(pictures)}")
    parser.add_argument("--data_dir", help="as for krl.data.load")
    arguments = parser.parse_args()
    for name in arguments.pictures or pictures:
        figure = pictures[name](arguments.data_dir)
        print(f"Wrote {krl.plots.save(figure, IMAGES / f'{name}.png')}.")


def augmentation(data_dir):
    data = krl.data.load("cifar10", data_dir=data_dir, download=False)
    # The first image of each class.
    images = data.x_train[np.unique(data.y_train, return_index=True)[1]]
    rows, labels = [], []
    for name, count in ROWS.items():
        labels += [name] + [""] * (count - 1)
        shape = (len(images), krl.data.AUGMENTATIONS[name].num_draws)
        for draw in range(count):
            # NumPy draws: what Keras draws differs between its backends.
            draws = np.random.default_rng(draw).random(shape)
            rows.append(krl.data.augment(images, name, draws=draws))
    return krl.plots.contact_sheet(rows, labels)


class Onlooker(krl.callbacks.CollapseGuard):
    """Measures, and leaves things as they are."""

    def is_collapse(self, under_pgd, best, epochs_apart):
        return False


def collapse(data_dir):
    del data_dir  # the digits come with scikit-learn
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    guards = {"without the guard": Onlooker, "with CollapseGuard": None}
    for axes, (title, guard) in zip(
        figure.subplots(1, 2, sharey=True), guards.items(), strict=True
    ):
        history = train(guard or krl.callbacks.CollapseGuard)
        epochs = 1 + np.arange(len(history["loss"]))
        for name, colour in (("attack", "#D55E00"), ("pgd", "#0072B2")):
            values = 100 * np.array(history[f"guard_{name}_accuracy"])
            label = {"attack": "training attack", "pgd": "PGD-10"}[name]
            axes.plot(epochs, values, color=colour, label=label)
        axes.set(xlabel="epoch", title=title, ylim=(0, 100))
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.axes[0].set_ylabel("accuracy in % under attack")
    return figure


def train(guard, epsilon=0.35, epochs=25):
    """The history of training that collapses, if nothing is done about it."""
    (x, y), _, class_counts = krl.data.long_tail_arrays("digits", imbalance_ratio=10)
    x = x.repeat(4, axis=1).repeat(4, axis=2)
    keras.utils.set_random_seed(1)
    layers = [keras.Input(x.shape[1:])]
    for filters, strides in ((16, 2), (32, 1), (64, 2), (64, 2)):
        layers += [
            keras.layers.Conv2D(filters, 3, strides=strides, padding="same"),
            krl.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.Flatten(), keras.layers.Dense(10)]
    model = krl.RobustLTModel(
        keras.Sequential(layers),
        class_counts,
        epsilon=epsilon,
        # One step twice as long as the budget.
        attack=krl.attacks.PGD(epsilon, steps=1, step_size=2 * epsilon),
        budget="uniform",
        seed=1,
    )
    model.compile(krl.optimizers.SGD(0.05, momentum=0.9))
    options = {"batch_size": 32, "epochs": epochs, "verbose": 0}
    return model.fit(x, y, callbacks=[guard(x, y)], **options).history


def theory(data_dir):
    del data_dir  # the runs are kept
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    titles = {
        "skew": "skewed objective, training images",
        "drift_linf": "drift of the adversarial images",
    }
    panels = figure.subplots(1, 2)
    for axes, (column, title) in zip(panels, titles.items(), strict=True):
        for name, (label, colour) in BUDGETS.items():
            values = np.mean([seen(run, column) for run in runs_of(name)], axis=0)
            axes.plot(1 + np.arange(len(values)), values, color=colour, label=label)
        axes.set(xlabel="epoch", title=title)
        axes.spines[["top", "right"]].set_visible(False)
    panels[0].axhline(0, color="#bbbbbb", linewidth=0.8, zorder=0)
    panels[1].set(ylabel="Linf, pixel units", ylim=(0, None))
    panels[1].legend(frameon=False)
    return figure


def runs_of(name):
    return sorted((RUNS / name).glob("seed*/skew_and_drift.csv"))


def seen(path, column):
    """What a run's epochs have in a column; the first has no drift: nan."""
    with path.open(newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


if __name__ == "__main__":
    main()
