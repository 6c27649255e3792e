import keras
import numpy as np

from keras_robustlt import checks, losses
from keras_robustlt.losses import smoothed
from keras_robustlt.methods.base import Method, warn_unless_cosines


@keras.saving.register_keras_serializable(package="keras_robustlt")
class RoBal(Method):
    """RoBal: class-aware margins on a cosine classifier, and a divergence.

    The cross-entropy of `scale (z - margin_y at y) + tau_b log P`, with
    `margin_y = tau_m log(n_y / n_min) / scale + margin`, on the adversarial images,
    plus `beta KL(p_clean || p_adversarial)` of the logits as they are. The logits are
    meant to be those of a cosine classifier: networks with `head="cosplus"`.

    Args:
        margin: Float. The margin of all classes. Defaults to `0.1`.
        scale: Float, positive. Factor of the logits. Defaults to `10`.
        tau_b: Float. Strength of the class prior. Defaults to `1.5`.
        tau_m: Float. Strength of the class-aware margin. Defaults to `0.3`.
        beta: Float. Weight of the divergence. Defaults to `6`.
        beta_adversarial: Float. Weight of the cross-entropy. Defaults to `1`.
        label_smoothing: Float in `[0, 1]`. Spread evenly over the classes, as its
            authors do, which beside the prior prefers rare classes. Defaults to `0`.

    Example:

    >>> network = krl.networks.SmallResNet(classes=2, head="cosplus")
    >>> model = krl.RobustLTModel(network, class_counts, method="robal")

    Reference:
        Wu et al., "Adversarial Robustness under Long-Tailed Distribution", CVPR 2021.
    """

    inputs = ("adversarial", "clean")

    balances = True
    adds_prior = True

    def __init__(
        self,
        margin=0.1,
        scale=10.0,
        tau_b=1.5,
        tau_m=0.3,
        beta=6.0,
        beta_adversarial=1.0,
        label_smoothing=0.0,
    ):
        self.margin = checks.in_range("margin", margin, 0, np.inf)
        self.scale = checks.in_range("scale", scale, 1e-6, np.inf)
        self.tau_b = checks.in_range("tau_b", tau_b, 0, np.inf)
        self.tau_m = checks.in_range("tau_m", tau_m, 0, np.inf)
        self.beta = checks.in_range("beta", beta, 0, np.inf)
        self.beta_adversarial = checks.in_range(
            "beta_adversarial", beta_adversarial, 0, np.inf
        )
        checks.not_all_zero(beta=beta, beta_adversarial=beta_adversarial)
        self.label_smoothing = checks.in_range("label_smoothing", label_smoothing, 0, 1)

    def build(self, model):
        warn_unless_cosines(self, model.network)
        counts = model.class_counts.astype("float64")
        margins = self.tau_m * np.log(counts / counts.min()) / self.scale + self.margin
        self._margins = margins.astype("float32")
        self._prior = (self.tau_b * np.log(counts / counts.sum())).astype("float32")

    def loss(self, targets, logits, criterion):
        adversarial = logits["adversarial"]
        shifted = self.scale * (adversarial - targets * self._margins) + self._prior
        margin_loss = smoothed(criterion, self.label_smoothing)(targets, shifted)
        divergence = losses.kl_divergence(logits["clean"], adversarial)
        return self.beta_adversarial * margin_loss + self.beta * divergence

    def get_config(self):
        return {
            "margin": self.margin,
            "scale": self.scale,
            "tau_b": self.tau_b,
            "tau_m": self.tau_m,
            "beta": self.beta,
            "beta_adversarial": self.beta_adversarial,
            "label_smoothing": self.label_smoothing,
        }
