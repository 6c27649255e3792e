"""Robust classification of long-tailed CIFAR-10.

    python recipes/cifar10lt.py --preset=cpu --data_dir=DATA --workdir=runs/cifar10lt

trains, evaluates and draws, and goes on where it was interrupted when it is started
again with the same words. DATA holds CIFAR-10 as TensorFlow Datasets prepares it, the
official `cifar-10-batches-py`, or `cifar10.npz`. Without --data_dir, TensorFlow
Datasets' own directory is used.

Presets: paper (WRN-28-10, AT-BSL + RobustLT, 100 epochs: for a large GPU), resnet18
(a quarter of that), cpu (a small network: within an hour on two cores), smoke (two
minutes: whether it runs). Any setting of a preset can be changed by its flag. The base
method alone, for comparison: --norobustlt.
"""

import runner
from absl import app, flags
from presets import CIFAR10LT

runner.define_flags(CIFAR10LT, default="paper", workdir="runs/cifar10lt")
flags.adopt_module_key_flags(runner)
flags.DEFINE_string("data_dir", None, "Where CIFAR-10 is.")


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"what is {argv[1]!r}? Flags start with --.")
    settings = runner.settings_from_flags(CIFAR10LT)
    flag = flags.FLAGS
    runner.run(settings, "cifar10", flag.workdir, flag.data_dir)


if __name__ == "__main__":
    app.run(main)
