"""The training attack of unified distributional robustness."""

import keras
import numpy as np
from keras import ops

from keras_robustlt import checks
from keras_robustlt.attacks.pgd import PGD
from keras_robustlt.backend import replicas
from keras_robustlt.configurable import add_state

__all__ = ["UDR"]


@keras.saving.register_keras_serializable(package="keras_robustlt")
class UDR(PGD):
    """Projected gradient descent whose projection is soft, for training.

    Where a pixel of the perturbation `d` is farther out than its budget after a step,
    it comes back by the share `lambda` of the way, `d - lambda (d - sign(d) epsilon)`;
    only `[0, 1]` holds strictly. With `lambda = 1`, as training begins, this is PGD.
    Every `period` steps of training `lambda` moves by `-rate (epsilon - mean |d|)`,
    with the mean over the pixels of all images since it moved last.

    As the images may leave the ball, this is no attack to evaluate with. In a
    `RobustLTModel`, `lambda` is a variable of the model, which is saved with it and
    goes on after an interruption; with a budget for each class, `epsilon` above is the
    image's own. Elsewhere it is 1.

    Args:
        epsilon: Float. Radius of the ball, in pixel units of images in `[0, 1]`.
            Defaults to `8 / 255`.
        steps: Integer. Number of steps. Defaults to `10`.
        step_size: Float, in the units of `epsilon`. Defaults as in `PGD`.
        rate: Float, not negative. Defaults to `0.02`.
        period: Integer. Defaults to `10`.

    Example:

    >>> attack = krl.attacks.UDR(epsilon=8 / 255)
    >>> model = krl.RobustLTModel(network, class_counts, attack=attack)

    Reference:
        Bui et al., "A Unified Wasserstein Distributional Robustness Framework for
        Adversarial Training", ICLR 2022, algorithm 1 and equation 19.
    """

    reach = np.inf

    def __init__(self, epsilon=8 / 255, steps=10, step_size=None, rate=0.02, period=10):
        super().__init__(checks.epsilon(epsilon), steps, step_size)
        self.rate = checks.in_range("rate", rate, 0, np.inf)
        self.period = checks.positive_integer("period", period)
        self.softness = 1.0  # lambda
        self.spare = self.count = None

    def build(self, model):
        self.softness = add_state(model, "udr_lambda", 1.0)
        # Since it moved last: the sum of what the steps had to spare, and the steps.
        self.spare = add_state(model, "udr_spare")
        self.count = add_state(model, "udr_count")

    @property
    def variables(self):
        return [] if self.spare is None else [self.softness, self.spare, self.count]

    def update(self, x, x_adv, epsilon):
        pixels = tuple(range(1, len(x.shape)))
        spare = epsilon - ops.mean(ops.abs(x_adv - x), axis=pixels)
        images = ops.cast(ops.shape(x)[0], "float32")
        total, images = replicas.summed([ops.sum(spare), images])
        spare = self.spare.value + total / images
        count = self.count.value + 1.0
        due = count >= self.period
        self.softness.assign_sub(ops.where(due, self.rate * spare / count, 0.0))
        self.spare.assign(ops.where(due, 0.0, spare))
        self.count.assign(ops.where(due, 0.0, count))

    def project(self, perturbation, epsilon):
        outside = perturbation - super().project(perturbation, epsilon)
        return perturbation - self.softness * outside

    def get_config(self):
        config = super().get_config()
        for fixed in ("norm", "random_start", "loss", "restarts"):
            del config[fixed]
        return {**config, "rate": self.rate, "period": self.period}
