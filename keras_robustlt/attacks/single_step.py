"""Training attacks of one step, in a quarter to a third of the time of ten."""

import keras
from keras import ops

from keras_robustlt import checks
from keras_robustlt.attacks.pgd import PGD

__all__ = ["FGSMRS", "NFGSM", "FGSMBernoulli"]


class SingleStep(PGD):
    """One step of a share of the budget from a random start that the budget scales.

    Args:
        epsilon: Float, in pixel units of images in `[0, 1]`. Defaults to `8 / 255`.
    """

    starts_within = "own"
    step = 1.0  # of epsilon

    def __init__(self, epsilon=8 / 255):
        super().__init__(checks.epsilon(epsilon), steps=1)
        self.step_size = self.step * self.epsilon

    def get_config(self):
        return {"epsilon": self.epsilon}


@keras.saving.register_keras_serializable(package="keras_robustlt")
class FGSMRS(SingleStep):
    """FGSM from a random start: one step of 1.25 of the budget, back into the ball.

    Starts uniformly drawn in the ball. In a `RobustLTModel` that is the ball of the
    image's own budget, and so is the step. Two passes forward and backward a step of
    training where `PGD` has eleven. With attacks of one step training can collapse:
    see `callbacks.CollapseGuard`.

    Args:
        epsilon: Float, in pixel units of images in `[0, 1]`. Defaults to `8 / 255`.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, attack="fgsm-rs")

    Reference:
        Wong, Rice and Kolter, "Fast is better than free: Revisiting adversarial
        training", ICLR 2020, algorithm 3.
    """

    step = 1.25


@keras.saving.register_keras_serializable(package="keras_robustlt")
class FGSMBernoulli(SingleStep):
    """FGSM from half the budget, up or down by a fair coin for each pixel.

    One step of the budget, back into the ball: the attack of `methods.NuAT`. In a
    `RobustLTModel` start and step follow the image's own budget.

    Args:
        epsilon: Float, in pixel units of images in `[0, 1]`. Defaults to `8 / 255`.

    Example:

    >>> x_adv = krl.attacks.FGSMBernoulli(epsilon=8 / 255)(network, x, y, seed=0)

    Reference:
        Sriramanan et al., "Towards Efficient and Effective Adversarial Training",
        NeurIPS 2021, algorithm 1.
    """

    def noise(self, shape, seed):
        return 0.5 * ops.sign(super().noise(shape, seed))


@keras.saving.register_keras_serializable(package="keras_robustlt")
class NFGSM(SingleStep):
    """FGSM from a noisy image: one step of the budget, without a projection.

    The noise is uniform, of up to twice the budget, and only `[0, 1]` is clipped, so
    that images may end three budgets away. Training is steadier for it; to evaluate
    with such images would be to evaluate with others than `epsilon` says, which is
    refused. In a `RobustLTModel` the step follows the image's own budget, and the noise
    that or the mean of the classes' budgets. Where the budgets of classes are far
    apart, as with `budget="auto"`, noise of each class's own tells the network the
    class: it learns to take noise for a rare one.

    Args:
        epsilon: Float, in pixel units of images in `[0, 1]`. Defaults to `8 / 255`.
        noise_of: `"own"` or `"mean"`: the budget that noise is twice of in training.
            Defaults to `"own"`; `"mean"` is the attack called `"n-fgsm-mean"`.

    Raises:
        ValueError: If an argument is out of range.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, attack="n-fgsm")
    >>> model = krl.RobustLTModel(
    ...     network, class_counts, attack="n-fgsm-mean", budget="auto"
    ... )

    Reference:
        de Jorge et al., "Make Some Noise: Reliable and Efficient Single-Step
        Adversarial Training", NeurIPS 2022, algorithm 1.
    """

    reach = 3.0

    def __init__(self, epsilon=8 / 255, noise_of="own"):
        super().__init__(epsilon)
        self.noise_of = checks.one_of("noise_of", noise_of, ("own", "mean"))

    @property
    def starts_within(self):
        return self.noise_of

    def get_config(self):
        return {**super().get_config(), "noise_of": self.noise_of}

    def noise(self, shape, seed):
        return 2.0 * super().noise(shape, seed)

    def project(self, perturbation, epsilon):
        return perturbation
