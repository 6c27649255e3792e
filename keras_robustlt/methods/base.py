"""What a base method is."""

from keras_robustlt import losses


class Method:
    """A base method: which images its loss looks at, and the loss.

    A method does not know about budgets: `RobustLTModel` perturbs the images within
    whatever the budget allows, runs the network, and hands the logits over. With its
    hyper-parameters as attributes and in `get_config`, a subclass is complete with
    `loss`.

    Attributes:
        inputs: The images that `loss` needs the logits of: `"adversarial"`,
            `"clean"`, or both. The network runs on no others.
    """

    inputs = ("adversarial",)

    def build(self, model):
        """Prepares what depends on the model: called once, with the `RobustLTModel`.

        A method with state makes it here, with `model.add_weight(...)`.
        """

    def attack_loss(self, targets, logits):
        """What the training attack raises, one value for each example.

        The plain cross-entropy unless overridden, also for methods that train with
        another loss.
        """
        return losses.cross_entropy(targets, logits)

    def loss(self, targets, logits, criterion):
        """What training lowers, one value for each example.

        Args:
            targets: Float32 tensor `(batch, num_classes)`, one-hot labels.
            logits: Dictionary with a float32 tensor `(batch, num_classes)` for each
                of `inputs`.
            criterion: The loss given to `compile`, or the cross-entropy: a function
                of `(targets, logits)` with one value for each example.

        Returns:
            A float32 tensor of shape `(batch,)`.
        """
        raise NotImplementedError(f"{type(self).__name__} must define `loss`.")

    def get_config(self):
        return {}

    @classmethod
    def from_config(cls, config):
        return cls(**config)

    def __repr__(self):
        arguments = ", ".join(f"{k}={v!r}" for k, v in self.get_config().items())
        return f"{type(self).__name__}({arguments})"
