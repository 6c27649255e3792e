"""An attack with a start of its own, on arrays: compiled once, for any budgets."""

from keras import ops

from keras_robustlt import backend
from keras_robustlt.attacks import active_set
from keras_robustlt.attacks.base import trait


class CompiledAttack:
    """PGD, or another attack with `starting_point` and `perturb`, on arrays.

    Args:
        attack: The attack.
        network: A Keras layer that gives logits.
        then: Function of adversarial images and labels, compiled with the attack: what
            a call gives in place of the images. Defaults to `None`.
        batch_size: Integer. Images that are attacked at once. Defaults to `250`.
    """

    def __init__(self, attack, network, then=None, batch_size=250):
        def run(x, y, start, epsilon):
            x_adv = attack.perturb(network, x, y, start, epsilon)
            return x_adv if then is None else then(x_adv, y)

        self.attack = attack
        self._batch_size = batch_size
        variables = [*active_set.variables_of(network), *trait(attack, "variables")]
        self._run = backend.compiled(run, variables)

    def start(self, x, epsilon, seed):
        """Where the attack starts.

        Args:
            x: Float32 array of shape `(examples, ...)`.
            epsilon: Float, or an array of shape `(examples,)`: in which ball.
            seed: Integer.

        Returns:
            A float32 array of the shape of `x`.
        """
        x = ops.convert_to_tensor(x)
        return ops.convert_to_numpy(self.attack.starting_point(x, epsilon, seed))

    def __call__(self, x, y, start, epsilon):
        """What the attack makes of images from a start, within a budget for each.

        Args:
            x: Float32 array of shape `(examples, ...)`.
            y: Labels, int32 `(examples,)` or float32 `(examples, num_classes)`.
            start: Float32 array of the shape of `x`.
            epsilon: Float32 array of shape `(examples,)`.

        Returns:
            Adversarial images, or what `then` gives, as arrays.
        """
        return active_set.in_batches(self._run, self._batch_size, x, y, start, epsilon)
