"""Watching for the collapse of training with attacks of few steps, and answering it."""

import sys

import keras
import numpy as np
from keras import ops

from keras_robustlt import attacks, backend, checks
from keras_robustlt.attacks import active_set
from keras_robustlt.attacks.base import budget_of_start
from keras_robustlt.attacks.compiled import CompiledAttack
from keras_robustlt.backend import replicas
from keras_robustlt.callbacks.training_state import KEPT
from keras_robustlt.data.batches import labels_to_watch
from keras_robustlt.data.class_balanced import class_balanced_subset

__all__ = ["CollapseGuard"]

BATCH_SIZE = 250
# Of what the training attack leaves, and of the most that PGD left before.
SHARE = 0.5
# By how much the two attacks must differ, so that it is not a matter of few images.
GAP = 0.1
# So many images are enough for noise to be told from chance.
MANY = 100
# For so many epochs in a row they do where the network has not been robust before.
PATIENCE = 3
# What a step back leaves as it is: where training stands, and its random numbers.
NOT_UNDONE = ("iteration", "learning_rate", "seed_generator_state")


class CollapseGuard(keras.callbacks.Callback):
    """Undoes an epoch in which training with a fast attack collapsed.

    Attacks of a single step can be learned by heart: within an epoch or two the
    accuracy under the training attack stays high or rises, and that under PGD falls to
    nothing (catastrophic overfitting). At the end of each epoch this callback attacks
    the same few images with the training attack and with PGD of 10 steps, both within
    the budgets that training has then, and adds to the logs the accuracies
    `guard_attack_accuracy` and `guard_pgd_accuracy`. It is a collapse if the second is
    less than half of the first, and by at least 0.1, and either

    - less than half of the highest that it has been, or
    - so for the third epoch in a row: the network has learned the training attack
      before it has ever been robust.

    Then weights, their average, optimiser and the state of method and budget go back
    to what they were when the epoch began; schedule and learning rate go on. From
    there on the training attack is PGD of twice as many steps as it had, of
    `max(epsilon / steps, epsilon / 4)` each, and a line says so. The epoch is not done
    again. When `fit` ends the model has its own attack again.

    Another way of learning an attack by heart goes with budgets that differ by class:
    the larger the noise, the rarer the class. A line says so once the noise that the
    training attack starts from leaves 0.1 more of the images right, of 100 or more,
    than are right as they are; nothing is undone.

    What it knows is kept by `Checkpoint`, so that an interrupted training goes on as
    it would have. Put it behind callbacks that save what an epoch has made, such as
    `ModelCheckpoint`, and before `HistoryCSV`.

    Args:
        x: Images that nothing is tested on, of training or of validation: a float
            array of shape `(images, ...)`, a `tf.data.Dataset` or another iterable of
            batches `(x, y)`.
        y: Labels of the array `x`, integers or one-hot. Defaults to `None`.
        examples: Integer. So many of them are taken, of all classes as evenly as they
            come. Defaults to `200`.
        seed: Integer. Seed of the choice of images and of the random starts. Defaults
            to `0`.

    Raises:
        ValueError: If an argument is out of range or, in `fit`, if the model makes no
            attacks.

    Example:

    >>> model = krl.RobustLTModel(network, class_counts, attack="fgsm-rs")
    >>> model.compile(krl.optimizers.SGD(0.1))
    >>> guard = krl.callbacks.CollapseGuard(x, y)
    >>> history = model.fit(x, y, epochs=3, verbose=0, callbacks=[guard])
    >>> history.history["guard_pgd_accuracy"]

    Reference:
        Wong, Rice and Kolter, "Fast is better than free: Revisiting adversarial
        training", ICLR 2020, section 5.4, who stop training at a collapse.
    """

    PGD_STEPS = 10

    def __init__(self, x, y=None, examples=200, seed=0):
        super().__init__()
        examples = checks.positive_integer("examples", examples)
        images, self._given_labels = class_balanced_subset(x, y, examples, seed)
        checks.images(images)
        self.images = images.astype("float32")
        self.seed = seed
        self._forget()

    @property
    def attack_steps(self):
        """How many steps the training attack has; to set it changes the attack."""
        checks.robust_model(self)
        return getattr(self.model.attack_in_use, "steps", 1)

    @attack_steps.setter
    def attack_steps(self, steps):
        model = self.model
        if steps != self.attack_steps:
            norm = model.norm
            model.use_attack(attacks.PGD(model.epsilon, steps, norm=norm))
            self._under_attack = self._compiled(model.attack_in_use)

    def on_train_begin(self, logs=None):
        checks.robust_model(self)
        model = self.model
        if "adversarial" not in model.method.inputs:
            raise ValueError(
                "CollapseGuard watches the training attack, and there is none. "
                f"Received: a model with method={model.method!r}"
            )
        self.labels = labels_to_watch(self.images, self._given_labels, model)
        self._y = self.labels.astype("int32")
        if not model.optimizer.built:  # it has its variables from the first step on
            model.optimizer.build(model.trainable_variables)
        self._forget()
        model.use_attack(model.attack)
        pgd = attacks.PGD(model.epsilon, self.PGD_STEPS, norm=model.norm)
        self._under_pgd = self._compiled(pgd)
        self._under_attack = self._compiled(model.attack)

    def on_epoch_begin(self, epoch, logs=None):
        self._before = [ops.convert_to_numpy(v) for v in self._undone()]

    def on_epoch_end(self, epoch, logs=None):
        under_attack, under_pgd = self.accuracies()
        if logs is not None:
            logs["guard_attack_accuracy"] = under_attack
            logs["guard_pgd_accuracy"] = under_pgd
        apart = self.is_apart(under_attack, under_pgd)
        self.epochs_apart = self.epochs_apart + 1 if apart else 0
        if self._agreed(self.is_collapse(under_pgd, self.best, self.epochs_apart)):
            self._go_back()
            self._say(epoch, under_attack, under_pgd)
            self.epochs_apart = 0
        self.best = max(self.best, under_pgd)
        self._look_at_noise(epoch)

    def on_train_end(self, logs=None):
        self._before = None
        self.model.use_attack(self.model.attack)

    def is_apart(self, under_attack, under_pgd):
        """Whether the training attack leaves much more than PGD does.

        Args:
            under_attack: Float. Accuracy under the training attack.
            under_pgd: Float. Accuracy under PGD.
        """
        return under_attack - under_pgd >= GAP and under_pgd < SHARE * under_attack

    def is_collapse(self, under_pgd, best, epochs_apart):
        """Whether an epoch is one in which training collapsed.

        Args:
            under_pgd: Float. Accuracy under PGD.
            best: Float. The highest that it has been in the epochs before.
            epochs_apart: Integer. For how many epochs in a row, this one included, the
                two accuracies have been apart, see `is_apart`.
        """
        if not epochs_apart:
            return False
        return under_pgd < SHARE * best or epochs_apart >= PATIENCE

    def _look_at_noise(self, epoch):
        """Says once that the network takes noise for a class."""
        if self._noise_tells or len(self.images) < MANY:
            return
        clean, noisy = self.accuracies_without_steps()
        self._noise_tells = noisy - clean >= GAP
        if self._noise_tells and replicas.is_chief(self.model):
            self._print(
                f"Accuracy after epoch {epoch + 1} is {clean:.3f} as images are, and "
                f"{noisy:.3f} with the noise that the training attack starts from: the "
                "network tells classes by the size of their budgets. Use PGD, N-FGSM "
                "with noise of one size ('n-fgsm-mean'), or budgets less apart."
            )

    def accuracies_without_steps(self):
        """Accuracy on the images as they are, and where the training attack starts."""
        checks.robust_model(self)
        if self._right is None:
            variables = active_set.variables_of(self.model.network)
            self._right = backend.compiled(self._are_right, variables)
        start, _ = self._start_of(self._under_attack)
        return tuple(
            float(np.mean(active_set.in_batches(self._right, BATCH_SIZE, x, self._y)))
            for x in (self.images, start)
        )

    def accuracies(self):
        """Accuracy under the training attack and under PGD, within today's budgets."""
        checks.robust_model(self)
        return self._accuracy(self._under_attack), self._accuracy(self._under_pgd)

    def _accuracy(self, compiled):
        start, epsilon = self._start_of(compiled)
        return float(compiled(self.images, self._y, start, epsilon).mean())

    def _start_of(self, compiled):
        """Where an attack starts, and the budgets of the images."""
        class_epsilon = ops.convert_to_numpy(self.model.class_epsilon())
        epsilon = class_epsilon[self.labels]
        within = budget_of_start(
            compiled.attack, self.model.epsilon, class_epsilon, epsilon
        )
        return compiled.start(self.images, within, self.seed), epsilon

    def _compiled(self, attack):
        """The attack, which images are right under it."""
        return CompiledAttack(attack, self.model.network, self._are_right)

    def _are_right(self, x, y):
        predicted = ops.argmax(backend.frozen(self.model.network)(x), axis=-1)
        return ops.cast(ops.equal(predicted, ops.cast(y, predicted.dtype)), "float32")

    def _agreed(self, collapsed):
        # Where several processes train, each may look at images of its own.
        return any(replicas.of_all_processes(self.model, int(collapsed)))

    def _undone(self):
        """The variables that go back."""
        model = self.model
        stays = {id(v) for v in model.metrics_variables}
        stays |= {id(v) for v in model.schedule.variables}
        return [
            variable
            for variable in [*model.variables, *model.optimizer.variables]
            if id(variable) not in stays and variable.name not in NOT_UNDONE
        ]

    def _forget(self):
        self.best, self.epochs_apart = 0.0, 0
        self._noise_tells, self._right = False, None

    def _go_back(self):
        for variable, value in zip(self._undone(), self._before, strict=True):
            variable.assign(value)
        self.attack_steps = 2 * self.attack_steps

    def _say(self, epoch, under_attack, under_pgd):
        if replicas.is_chief(self.model):
            self._print(
                f"Training collapsed in epoch {epoch + 1}: accuracy "
                f"{under_attack:.3f} under its attack, {under_pgd:.3f} under PGD-10. "
                "It goes on from where the epoch began, with PGD of "
                f"{self.attack_steps} steps."
            )

    def _print(self, text):
        start = "\r\033[K" if sys.stdout.isatty() else ""
        print(f"{start}{text}", flush=True)


# It goes back and on like Keras's callbacks that learn along training.
KEPT[CollapseGuard] = ("best", "epochs_apart", "attack_steps")
