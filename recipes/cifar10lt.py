"""Robust classification of long-tailed CIFAR-10.

    python recipes/cifar10lt.py --preset=cpu --data_dir=DATA --workdir=runs/cifar10lt

trains, evaluates and draws, and goes on where it was interrupted when it is started
again with the same words. DATA holds CIFAR-10 as TensorFlow Datasets prepares it, the
official `cifar-10-batches-py`, or `cifar10.npz`. Without --data_dir, TensorFlow
Datasets' own directory is used, and CIFAR-10 downloaded into it.

Presets, by network: paper (WRN-28-10, 100 epochs: for a large GPU), strong (the same
with averaged weights and more), resnet18 (a tenth of its operations), fast (ResNet-18,
attacks of one step), cpu (a small network, 16 epochs: an hour or two on two cores),
smoke (two minutes: whether it runs).

The method brings its own hyper-parameters, those of the paper for this data set:

    --method=at_bsl --robustlt     AT-BSL with RobustLT, which is what runs by default
    --method=awp --norobustlt      AWP alone
    --method=at --budget=cfa       AT with CFA's budgets, for comparison

Any setting can be changed by its flag.
"""

from keras_robustlt.experiments import train
from keras_robustlt.experiments.presets import CIFAR10LT

if __name__ == "__main__":
    train.recipe(CIFAR10LT, workdir="runs/cifar10lt", help=__doc__)
