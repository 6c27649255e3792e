"""Robust classification of long-tailed Tiny-ImageNet.

    python recipes/tinyimagenetlt.py --preset=cpu --data_dir=DATA --workdir=runs/tiny

trains, evaluates and draws, and goes on where it was interrupted when it is started
again with the same words. DATA holds `tiny-imagenet-200` as its zip file
(http://cs231n.stanford.edu/tiny-imagenet-200.zip, 240 MB) is unpacked:

    tiny-imagenet-200/wnids.txt, words.txt
    tiny-imagenet-200/train/n01443537/images/n01443537_0.JPEG, ...
    tiny-imagenet-200/val/val_annotations.txt
    tiny-imagenet-200/val/images/val_0.JPEG, ...

or with the images of `val` sorted into class folders. The test set is `val`.

Presets, by network: paper (WRN-28-10, 100 epochs: for a large GPU), strong (the same
with averaged weights and more), resnet18 (a tenth of its operations), fast (ResNet-18,
attacks of one step), cpu (a small network, 16 epochs: an hour or two on two cores),
smoke (two minutes: whether it runs).

The method brings its own hyper-parameters, those of the paper for this data set:

    --method=at_bsl --robustlt     AT-BSL with RobustLT, which is what runs by default
    --method=awp --norobustlt      AWP alone
    --method=at --budget=cfa       AT with CFA's budgets, for comparison

Any setting can be changed by its flag. --num_classes=200 takes all classes, in place of
the first 20 of the paper.
"""

from keras_robustlt.experiments import train
from keras_robustlt.experiments.presets import TINYIMAGENETLT

if __name__ == "__main__":
    train.recipe(TINYIMAGENETLT, workdir="runs/tiny", help=__doc__)
