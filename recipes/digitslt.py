"""Robust classification of long-tailed handwritten digits: the quickstart.

    python recipes/digitslt.py --compare

trains AT-BSL (adversarial training with a balanced softmax) without and with RobustLT
on scikit-learn's digits, 114 images of the digit 0 down to 2 of the digit 9, side by
side, and compares them, in about a minute on two cores. No download. The difference
that ten other seeds have shown stands beside. Without --compare: one run, of the
settings that the flags say. Started again, it goes on where it was interrupted.
"""

from keras_robustlt.experiments import train
from keras_robustlt.experiments.presets import DIGITSLT

if __name__ == "__main__":
    train.recipe(DIGITSLT, workdir="runs/digits", help=__doc__)
