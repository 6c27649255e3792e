"""What a budget is."""

import math

import keras
import numpy as np
from keras import ops

from keras_robustlt.configurable import Part


def first_epoch(start, epochs):
    """The epoch, from 0, after a share `start` of training, and at least one epoch."""
    # Rounded as in the compiled step.
    return max(math.ceil(np.float32(start) * np.float32(epochs)), 1)


@keras.saving.register_keras_serializable(package="keras_robustlt")
class Budget(Part):
    """A rule for the perturbation budget, in the form that a training step asks for.

    `RobustLTModel` calls `build` once and, in every training step and inside the
    compiled graph, the other methods. A subclass overrides what it changes; as it
    stands, this class is the uniform, constant budget of ordinary adversarial training.

    Attributes:
        soft_labels: Whether the rule holds where training images are a mix of classes.
            `update` then gets each as one of the class that it has most of.

    Example:

    ```python
    class TailOnly(krl.budget.Budget):
        def build(self, model):
            tail = krl.metrics.tail_classes(model.class_counts)
            self.epsilon = np.zeros(model.num_classes, "float32")
            self.epsilon[tail] = model.epsilon

        def class_epsilon(self, schedule):
            return keras.ops.convert_to_tensor(self.epsilon)
    ```
    """

    soft_labels = True

    def build(self, model):
        """Prepares what does not change: called once, with the `RobustLTModel`.

        A rule with state makes it here, with `model.add_weight(...)`.
        """
        self._epsilon = np.full(model.num_classes, model.epsilon, "float32")

    def class_epsilon(self, schedule):
        """Budget of each class at this point of training.

        Args:
            schedule: The model's `Schedule`; its variables say where training is.

        Returns:
            A float32 tensor of shape `(num_classes,)`, in pixel units.
        """
        return ops.convert_to_tensor(self._epsilon)

    def class_weight(self, schedule):
        """Weights of the classes in the loss.

        Returns:
            `None` (all alike) or a float32 tensor of shape `(num_classes,)`.
        """
        return None

    def loss_weight(self, schedule):
        """Weight of the adversarial loss, the clean loss having the rest.

        A rule that has one also has `uses_clean_loss = True`.

        Returns:
            `None` (the adversarial loss alone) or a scalar float32 tensor.
        """
        return None

    def begin_step(self, schedule):
        """Changes the state when a training step begins, inside the compiled graph."""

    def update(self, targets, logits):
        """Takes in what the network said of the images trained on.

        Called in each training step, inside the compiled graph, for a rule that
        follows training.

        Args:
            targets: Float32 tensor `(batch, num_classes)`, one-hot labels; zeros for
                images that do not count: with a weight of 0, or not attacked yet.
            logits: Float32 tensor `(batch, num_classes)`, of the adversarial images.
        """

    def iteration_weight(self, schedule):
        """The factor that grows along training, for display. `1` where none does."""
        return ops.ones((), "float32")

    def chosen(self, schedule):
        """What the rule has set by itself, for display.

        Returns:
            A dictionary from names to scalars.
        """
        return {}

    @property
    def weighs_classes(self):
        """Whether the rule has a `class_weight`."""
        return type(self).class_weight is not Budget.class_weight

    @property
    def grows(self):
        """Whether `iteration_weight` is anything else than 1 all along."""
        return type(self).iteration_weight is not Budget.iteration_weight

    @property
    def uses_clean_loss(self):
        """Whether `loss_weight` will ask for the loss on clean images."""
        return False

    @property
    def granularity(self):
        """The unit in which the rule counts iterations: `"epoch"` or `"step"`."""
        return "epoch"
