"""Times AutoAttack's first part, APGD-CE, ours beside a plain eager PyTorch loop.

    python benchmarks/autoattack.py                      # tiny network, WideResNet-10-1
    python benchmarks/autoattack.py --models wrn-10-1 --threads=1 --json=autoattack.json
    python benchmarks/autoattack.py --backend=jax

Both sides attack the same random images, which count as right, on networks of the same
random weights, with 100 steps of APGD on the cross-entropy in the Linf ball. The ratio
compares equal work: all steps for all images on both sides. As `AutoAttack` runs it,
images leave once they are fooled; what that saves depends on how many are, so this
figure stands apart. The shares of robust images must agree, up to the random starts.

Each side lives in a process of its own; they take turns, round by round, and the one
that waits is idle. The figures are medians over the rounds, after a warm-up, and the
ratio is the median of the rounds' own ratios. CPU seconds are those of all threads.

Measure on an idle machine: beside other work the threads of the two sides lose
unequally. The run says so when it finds a load; `--threads=1` and the CPU seconds
suffer least from it.
"""

import argparse
import importlib.util
import json
import multiprocessing
import os
import platform
import statistics
import sys
import time

import numpy as np

CLASSES = 10
STEPS = 100
# Image size, number of images, and budget. The tiny network is two convolutions; all
# its images stay robust, of those of the other a part.
PROBLEMS = {"tiny": (12, 200, 12 / 255), "wrn-10-1": (32, 64, 4 / 255)}
# Runnable processes per core, before we start any, from which a machine is not idle.
BUSY = 0.25


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--models", nargs="+", choices=tuple(PROBLEMS), default=list(PROBLEMS)
    )
    parser.add_argument(
        "--backend",
        choices=("tensorflow", "jax"),
        default="tensorflow",
        help="the Keras backend of our side",
    )
    parser.add_argument("--rounds", type=int, default=5, help="rounds that are timed")
    parser.add_argument(
        "--threads",
        type=int,
        default=len(os.sched_getaffinity(0)),
        help="CPU threads of each side",
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def problem(model):
    """The images and the budget."""
    side, count, epsilon = PROBLEMS[model]
    shape = (count, side, side, 3)
    return np.random.default_rng(0).random(shape, dtype="float32"), epsilon


class Ours:
    """Our attack on a network of the package, or of two layers."""

    def __init__(self, model, mean, std, weights):
        import keras

        import keras_robustlt as krl

        if model == "tiny":
            normalization = keras.layers.Normalization(
                mean=mean, variance=np.square(std)
            )
            self.network = self.tiny(normalization, krl.layers.BatchNormalization)
        else:
            self.network = krl.networks.WideResNet(
                10, 1, classes=CLASSES, mean=mean, std=std
            )
        # Of each shape in the order of the layers; the others are as new.
        for weight in self.network.trainable_weights:
            shapes = [value.shape for value in weights]
            if tuple(weight.shape) in shapes:
                weight.assign(weights.pop(shapes.index(tuple(weight.shape))))
        if weights:
            sys.exit("The networks of the two sides differ in their weights.")
        self.x, epsilon = problem(model)
        self.y = keras.ops.convert_to_numpy(self.network(self.x)).argmax(axis=1)
        self.attack = krl.attacks.APGD(epsilon, STEPS)
        self.convert = keras.ops.convert_to_numpy
        self.framework = f"Keras {keras.__version__}, {keras.backend.backend()}"
        weights = self.network.trainable_weights
        self.parameters = sum(int(np.prod(weight.shape)) for weight in weights)

    @staticmethod
    def tiny(normalization, batchnorm):
        import keras
        from keras import layers

        return keras.Sequential(
            [
                keras.Input((12, 12, 3)),
                normalization,
                layers.Conv2D(8, 3, padding="same", use_bias=False),
                batchnorm(),
                layers.ReLU(),
                layers.ZeroPadding2D(1),
                layers.Conv2D(16, 3, strides=2, use_bias=False),
                batchnorm(),
                layers.ReLU(),
                layers.GlobalAveragePooling2D(),
                layers.Dense(CLASSES),
            ]
        )

    def run(self):
        """All steps for all images; the share of them that stayed robust."""
        result = self.attack.maximize(self.network, self.x, self.y, seed=0)
        return 1 - float(np.mean(result["fooled"]))

    def run_leaving(self):
        """As AutoAttack does it: images leave once they are fooled."""
        x_adv = self.attack(self.network, self.x, self.y, seed=0)
        predictions = self.convert(self.network(x_adv)).argmax(axis=1)
        return float(np.mean(predictions == self.y))


class Torch:
    """A plain eager loop on the same architecture."""

    def __init__(self, model):
        import torch
        import torch_baseline
        from torch import nn

        torch.manual_seed(0)
        if model == "tiny":
            self.network = nn.Sequential(
                torch_baseline.Normalize(),
                torch_baseline.conv3x3(3, 8),
                nn.BatchNorm2d(8),
                nn.ReLU(),
                torch_baseline.conv3x3(8, 16, stride=2),
                nn.BatchNorm2d(16),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(16, CLASSES),
            )
        else:
            self.network = torch_baseline.build_network(model, CLASSES)
        self.network.eval()
        x, self.epsilon = problem(model)
        self.x = torch.from_numpy(x).permute(0, 3, 1, 2).contiguous()
        self.y = self.network(self.x).argmax(1)
        self.framework = f"PyTorch {torch.__version__}"
        self.parameters = sum(p.numel() for p in self.network.parameters())
        self.normalization = torch_baseline.CIFAR10_MEAN, torch_baseline.CIFAR10_STD

    def weights(self):
        """What a network of ours is to have: normalization, kernels and bias."""
        from torch import nn

        kernels = []
        for module in self.network.modules():
            if isinstance(module, nn.Conv2d):
                kernels.append(module.weight.detach().permute(2, 3, 1, 0).numpy())
            elif isinstance(module, nn.Linear):
                kernels += [
                    module.weight.detach().T.numpy(),
                    module.bias.detach().numpy(),
                ]
        return [*self.normalization, kernels]

    def run(self):
        right = torch_apgd(self.network, self.x, self.y, self.epsilon)
        return float(right.float().mean())


def torch_apgd(network, x, y, epsilon):
    """APGD-CE as one writes it in PyTorch; which images are never misclassified."""
    import torch
    import torch.nn.functional as F

    def evaluate(point):
        point = point.detach().requires_grad_()
        logits = network(point)
        loss = F.cross_entropy(logits, y, reduction="none")
        (gradient,) = torch.autograd.grad(loss.sum(), point)
        return gradient, loss.detach(), logits.detach().argmax(1) == y

    low, high = (x - epsilon).clamp(0, 1), (x + epsilon).clamp(0, 1)
    noise = 2 * torch.rand_like(x) - 1
    noise /= noise.abs().amax((1, 2, 3), keepdim=True)
    point = (x + epsilon * noise).clamp(0, 1)
    previous, best, adversarial = point.clone(), point.clone(), point.clone()
    gradient, loss, right = evaluate(point)
    best_gradient, best_loss = gradient.clone(), loss.clone()
    step_size = torch.full((len(x), 1, 1, 1), 2 * epsilon)
    losses = torch.zeros(STEPS, len(x))
    period, done = int(0.22 * STEPS), 0
    reviewed, halved = best_loss.clone(), torch.ones(len(x), dtype=torch.bool)
    for step in range(STEPS):
        weight = 0.75 if step else 1.0
        moved = torch.min(torch.max(point + step_size * gradient.sign(), low), high)
        moved = point + weight * (moved - point) + (1 - weight) * (point - previous)
        previous, point = point, torch.min(torch.max(moved, low), high)
        gradient, loss, still_right = evaluate(point)
        right &= still_right
        adversarial[~still_right] = point[~still_right]
        losses[step] = loss
        better = loss > best_loss
        best[better], best_gradient[better] = point[better], gradient[better]
        best_loss[better] = loss[better]
        done += 1
        if done == period:
            rises = [losses[step - i] > losses[step - i - 1] for i in range(period)]
            halve = torch.stack(rises).sum(0) <= 0.75 * period
            halve |= (reviewed >= best_loss) & ~halved
            reviewed, halved = best_loss.clone(), halve
            step_size[halve] /= 2
            point, gradient = point.clone(), gradient.clone()
            point[halve], gradient[halve] = best[halve], best_gradient[halve]
            period, done = max(period - int(0.03 * STEPS), int(0.06 * STEPS)), 0
    return right


def serve(side, model, arguments, weights, connection):
    """One side: runs what it is asked for, and answers with times and results."""
    os.environ |= {
        "KERAS_BACKEND": arguments.backend,
        "OMP_NUM_THREADS": str(arguments.threads),
        "TF_NUM_INTRAOP_THREADS": str(arguments.threads),
        "TF_NUM_INTEROP_THREADS": str(arguments.threads),
        "TF_ENABLE_ONEDNN_OPTS": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "CUDA_VISIBLE_DEVICES": "",
    }
    # Every thread pool sizes itself by the cores that it may use.
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, cores[: arguments.threads])
    if side == "torch":
        import torch

        torch.set_num_threads(arguments.threads)
    runner = Torch(model) if side == "torch" else Ours(model, *weights)
    connection.send([runner.framework, runner.parameters])
    while method := connection.recv():
        if method == "weights":
            connection.send(runner.weights())
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        robust = getattr(runner, method)()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        connection.send([wall, cpu, robust])


class Side:
    """One side in a process of its own, seen from the process that compares."""

    def __init__(self, side, model, arguments, weights=None):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(
            target=serve, args=(side, model, arguments, weights, theirs), daemon=True
        )
        self.process.start()
        theirs.close()
        self.framework, self.parameters = self.connection.recv()

    def ask(self, method):
        self.connection.send(method)
        return self.connection.recv()

    def close(self):
        self.connection.send(None)
        self.process.join()


def compare(model, arguments):
    """The figures of one network, measured in alternating rounds."""
    sides = {"torch": Side("torch", model, arguments)}
    sides["ours"] = Side("ours", model, arguments, sides["torch"].ask("weights"))
    if sides["ours"].parameters != sides["torch"].parameters:
        sys.exit("The networks of the two sides differ in their number of parameters.")
    runs = [("ours", "run"), ("torch", "run"), ("ours", "run_leaving")]
    for side, method in runs:  # compiled, and warm
        sides[side].ask(method)
    measured = {run: [] for run in runs}
    for number in range(arguments.rounds):
        # Who starts changes from round to round, so that a drift hits both.
        for side, method in runs if number % 2 == 0 else reversed(runs):
            measured[side, method].append(sides[side].ask(method))
    for side in sides.values():
        side.close()

    def ratio(numerator, denominator, column):
        pairs = zip(measured[numerator], measured[denominator], strict=True)
        return statistics.median(a[column] / b[column] for a, b in pairs)

    def row(side, method):
        wall, cpu, robust = (
            statistics.median(column)
            for column in zip(*measured[side, method], strict=True)
        )
        return {
            "framework": sides[side].framework,
            "images_per_second": PROBLEMS[model][1] / wall,
            "seconds": wall,
            "cpu_seconds": cpu,
            "robust": robust,
            "seconds_by_round": [times[0] for times in measured[side, method]],
        }

    return {
        "ratio": ratio(runs[1], runs[0], 0),
        "ratio_of_cpu_seconds": ratio(runs[1], runs[0], 1),
        "ratio_where_fooled_images_leave": ratio(runs[1], runs[2], 0),
        "parameters": sides["ours"].parameters,
        "images": PROBLEMS[model][1],
        "epsilon": PROBLEMS[model][2],
        "ours": row(*runs[0]),
        "torch": row(*runs[1]),
        "ours_where_fooled_images_leave": row(*runs[2]),
    }


def report(model, figures):
    print(
        f"\n{model}, epsilon {255 * figures['epsilon']:.3g}/255: at equal work ours is "
        f"{figures['ratio']:.2f} times as fast as\nplain eager PyTorch "
        f"({figures['ratio_of_cpu_seconds']:.2f} by CPU seconds; "
        f"{figures['ratio_where_fooled_images_leave']:.2f} where fooled images leave)\n"
    )
    print(f"{'':16}{'images/s':>10}{'s':>8}{'CPU s':>8}{'robust':>8}  framework")
    names = {
        "ours": "ours",
        "torch": "torch",
        "ours_where_fooled_images_leave": "ours, leaving",
    }
    for key, name in names.items():
        row = figures[key]
        print(
            f"{name:16}{row['images_per_second']:10.1f}{row['seconds']:8.2f}"
            f"{row['cpu_seconds']:8.2f}{100 * row['robust']:7.1f}%  {row['framework']}"
        )


def main():
    arguments = parse_arguments()
    if importlib.util.find_spec("torch") is None:
        sys.exit(
            "The comparison needs PyTorch, which nothing else in this project uses. "
            "Install it with: pip install -e '.[bench]'"
        )
    cores = len(os.sched_getaffinity(0))
    load = os.getloadavg()[0] / cores
    models = {}
    for model in arguments.models:
        models[model] = compare(model, arguments)
        report(model, models[model])
    if load > BUSY:
        print(
            f"\nNOT VALID: the machine was busy before the start (load {load:.2f} a "
            "core).\nMeasure again when it is idle; the ratios say little as they are."
        )
    settings = {
        "attack": f"APGD-CE, {STEPS} steps, Linf",
        "backend": arguments.backend,
        "rounds": arguments.rounds,
        "threads": arguments.threads,
        "machine": f"{platform.machine()}, {cores} cores",
        "load_per_core_before": load,
        "python": platform.python_version(),
    }
    print(
        f"\n{settings['attack']}, float32, "
        f"{arguments.threads} thread(s);\nmedians of {arguments.rounds} rounds, in turn"
    )
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump({"models": models, "settings": settings}, file, indent=2)
            file.write("\n")


if __name__ == "__main__":
    main()
