import keras
import numpy as np
from keras import ops

from keras_robustlt import backend, checks
from keras_robustlt.backend import replicas
from keras_robustlt.methods.base import OnTop

PROXIES = ("optimizer", "gradient")


@keras.saving.register_keras_serializable(package="keras_robustlt")
class AWP(OnTop):
    """Adversarial weight perturbation, on top of another method.

    Each step takes its gradient where the loss is worse: at weights moved by
    `gamma |w| v / |v|`, layer by layer, in a direction `v` that raises the method's
    loss. The update is then made from the weights as they were. Kernels move, weights
    with one dimension (biases, batch normalisation) do not. Costs one more forward
    and backward pass a step.

    The names `"awp"` and, over another method, `"at_bsl+awp"` stand for it.

    Args:
        method: The method whose loss it is, by name or as an object. Defaults to
            `"at"`.
        gamma: Float, not negative. Size of the perturbation relative to the weights.
            Defaults to `0.005`.
        warmup_epochs: Integer. Epochs without it. Defaults to `0`.
        proxy: Where `v` comes from. `"optimizer"`: the change that a step of the
            model's optimiser on the negated loss makes, with its momentum and weight
            decay. `"gradient"`: the gradient of the loss, as in the original method.
            Defaults to `"optimizer"`, as in the paper of RobustLT.

    Example:

    >>> method = krl.methods.AWP("at_bsl", gamma=0.005)
    >>> model = krl.RobustLTModel(network, class_counts, method=method)

    Reference:
        Wu et al., "Adversarial Weight Perturbation Helps Robust Generalization",
        NeurIPS 2020.
    """

    def __init__(self, method="at", gamma=0.005, warmup_epochs=0, proxy="optimizer"):
        super().__init__(method)
        self.gamma = checks.in_range("gamma", gamma, 0, np.inf)
        self.warmup_epochs = checks.integer("warmup_epochs", warmup_epochs, 0)
        self.proxy = checks.one_of("proxy", proxy, PROXIES)

    @property
    def moves_weights(self):
        return True

    def begins(self, epochs):
        return self.warmup_epochs

    def weight_shift(self, model, batch):
        kernels = [v for v in model.trainable_variables if _is_kernel(v)]
        if not self.warmup_epochs:
            changes = self._ascent(model, batch)
        else:
            needed = model.schedule.epoch >= self.warmup_epochs

            def ascent():
                # It is computed all the same where conditionals are slow.
                changes = self._ascent(model, batch)
                return [change * ops.cast(needed, change.dtype) for change in changes]

            none = [ops.zeros_like(kernel.value) for kernel in kernels]
            changes = backend.run_if(needed, ascent, none, communicates=True)
        return list(zip(kernels, changes, strict=True))

    def _ascent(self, model, batch):
        """The change of each kernel."""
        variables = model.trainable_variables
        directions = self._gradients(model, batch)
        if self.proxy == "optimizer":
            optimizer = getattr(model.optimizer, "inner_optimizer", model.optimizer)
            # It adds up the gradients of the replicas.
            directions = backend.trial_update(
                optimizer, [-gradient for gradient in directions], variables
            )
        else:
            directions = replicas.summed(directions)
        return [
            self.gamma * _norm(weight) / (_norm(direction) + 1e-20) * direction
            for weight, direction in zip(variables, directions, strict=True)
            if _is_kernel(weight)
        ]

    def _gradients(self, model, batch):
        """Of the loss at the weights as they are; moves no state."""
        x, y, sample_weight = batch
        variables = model.trainable_variables
        others = [(v, v.value) for v in model.non_trainable_variables]

        def scaled_loss(values):
            mapping = [*zip(variables, values, strict=True), *others]
            with keras.StatelessScope(mapping, collect_losses=True):
                y_pred = model(x, training=True)
                loss = model.compute_loss(x, y, y_pred, sample_weight)
            return model.optimizer.scale_loss(loss)

        values = [ops.copy(variable.value) for variable in variables]
        scale = model.optimizer.scale_loss(1.0)
        return [
            ops.cast(gradient, "float32") / scale
            for gradient in backend.gradient(scaled_loss, values)
        ]

    def get_config(self):
        return {
            "method": keras.saving.serialize_keras_object(self.method),
            "gamma": self.gamma,
            "warmup_epochs": self.warmup_epochs,
            "proxy": self.proxy,
        }


def _is_kernel(variable):
    # Keras's attention has biases with an axis of heads.
    return len(variable.shape) > 1 and variable.name != "bias"


def _norm(values):
    return ops.sqrt(ops.sum(ops.square(ops.convert_to_tensor(values))))
