"""Robust classification of long-tailed ImageNet at 64x64 pixels.

    python recipes/imagenetlt.py --preset=cpu --data_dir=DATA --workdir=runs/imagenet

trains, evaluates and draws, and goes on where it was interrupted when it is started
again with the same words. DATA holds `imagenet_resized/64x64` as TensorFlow Datasets
prepares it (14 GB to download, for which image-net.org may want you to log in):

    python -c "import tensorflow_datasets as tfds
    tfds.load('imagenet_resized/64x64', data_dir='DATA')"

The test set are its validation images.

Presets, by network: paper (WRN-28-10, 100 epochs: for a large GPU), strong (the same
with averaged weights and more), resnet18 (a tenth of its operations), fast (ResNet-18,
attacks of one step), cpu (a small network, 16 epochs: an hour or two on two cores),
smoke (three minutes: whether it runs).

The method brings its own hyper-parameters; the paper gives no alpha and beta for this
data set, so alpha is that of CIFAR10-LT and beta that of TinyImageNet-LT:

    --method=at_bsl --robustlt     AT-BSL with RobustLT, which is what runs by default
    --method=awp --norobustlt      AWP alone
    --method=at --budget=cfa       AT with CFA's budgets, for comparison

Any setting can be changed by its flag. --num_classes=1000 takes all classes, in place
of the authors' first 20, and 16 GB of memory more.
"""

from keras_robustlt.experiments import train
from keras_robustlt.experiments.presets import IMAGENETLT

if __name__ == "__main__":
    train.recipe(IMAGENETLT, workdir="runs/imagenet", help=__doc__)
