"""Robust classification of long-tailed CIFAR-100.

    python recipes/cifar100lt.py --preset=cpu --data_dir=DATA --workdir=runs/cifar100lt

trains, evaluates and draws, and goes on where it was interrupted when it is started
again with the same words. DATA holds CIFAR-100 as TensorFlow Datasets prepares it, the
official `cifar-100-python`, or `cifar100.npz`. Without --data_dir, TensorFlow Datasets'
own directory is used, and CIFAR-100 downloaded into it.

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
from keras_robustlt.experiments.presets import CIFAR100LT

if __name__ == "__main__":
    train.recipe(CIFAR100LT, workdir="runs/cifar100lt", help=__doc__)
