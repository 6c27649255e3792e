"""The two terms of the theory, measured while a model trains."""

import numpy as np
from keras import ops

from keras_robustlt import attacks, backend, checks, files, losses
from keras_robustlt.attacks.arguments import (
    check_no_smaller_ball,
    check_one_run,
    check_stays_within,
)
from keras_robustlt.attacks.compiled import CompiledAttack
from keras_robustlt.callbacks.recorder import Recorder
from keras_robustlt.class_names import of_classes as class_names_of
from keras_robustlt.data.batches import labels_to_watch
from keras_robustlt.data.class_balanced import class_balanced_subset

__all__ = ["SkewAndDrift", "skewed_objective"]

VALUES = ("skew", "robust_risk", "robust_risk_change", "drift_linf", "drift_l2")


def skewed_objective(class_risks, class_counts):
    """By how much the training objective is too optimistic on balanced data.

    `sum_{y >= 2} (1 / C - P(y)) (R_y - R_1)` with the risks `R_y` of the `C` classes,
    their shares `P(y)` of the training images, and the largest class as class 1. It is
    the mean of the risks minus their mean over the training data.

    Args:
        class_risks: Floats of shape `(num_classes,)`.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class.

    Returns:
        A float: positive where rare classes have the larger risks.

    Raises:
        ValueError: If there is not a number for each class.

    Example:

    >>> krl.callbacks.skewed_objective([0.5, 1.5], class_counts=[90, 10])
    0.4

    Reference:
        Zhang et al., CVPR 2026: the skewed-objective term.
    """
    counts = checks.class_counts(class_counts)
    risks = np.asarray(class_risks)
    fit = risks.shape == counts.shape and risks.dtype.kind in "iuf"
    if not fit or not np.isfinite(risks).all():
        raise ValueError(
            f"`class_risks` must be {len(counts)} numbers, one for each class of "
            f"`class_counts`. Received: class_risks={class_risks!r}"
        )
    risks = risks.astype("float64")
    excess = risks - risks[counts.argmax()]  # 0 of the largest class itself
    return float(np.sum((1 / len(counts) - counts / counts.sum()) * excess))


class SkewAndDrift(Recorder):
    """Measures, each epoch, what RobustLT is meant to lower.

    The robust risk on balanced data exceeds what adversarial training lowers by a
    skewed-objective term, and by the drift of the adversarial distribution from one
    iteration to the next. Class-wise balancing acts on the first, the growth of the
    budget on the second. This callback attacks the same class-balanced images at the
    end of each epoch, from the same start, and adds to the logs, and so to the history
    and to what other callbacks write:

    - `skew`: `skewed_objective` of the robust risks of the classes. The risk of a class
      is the mean cross-entropy of its images under the attack with the whole base
      budget, as in evaluation, so that runs with and without RobustLT compare;
    - `robust_risk`: the mean of these risks over the classes, and
      `robust_risk_change`: that of this epoch minus that of the one before;
    - `drift_linf` and `drift_l2`: the mean largest and the mean Euclidean change of
      the adversarial images since the epoch before, in pixel units. These images are
      attacked within the budget that training has for their class in that epoch.

    Before epoch 1 there are no adversarial images, so that the changes of the first
    epoch are not a number. After an interruption those of the epoch before are made
    again by the network that the run goes on with. `fit` moves `HistoryCSV` and
    `Checkpoint` behind it.

    The network that trains is looked at, in inference mode.

    Args:
        x: Images that nothing is tested on, of training or of validation, not
            augmented: a float array of shape `(images, ...)`, a `tf.data.Dataset` or
            another iterable of batches `(x, y)`.
        y: Labels of the array `x`, integers or one-hot. Defaults to `None`.
        examples: Integer. So many of them are taken, of all classes as evenly as they
            come, the same ones for every network. Defaults to `200`.
        attack: A `keras_robustlt.attacks.PGD`, whose steps go along with the budgets.
            Defaults to 10 steps of a quarter of the budget.
        directory: String or path. Where to keep `skew_and_drift.csv`, with the risk
            of each class too, a line an epoch. Defaults to `None`, for no file.
        class_names: List of strings. Defaults to the class indices.
        tensorboard: Boolean. Also write TensorBoard summaries to
            `directory/tensorboard`; needs TensorFlow and the extra `tensorboard`.
            Defaults to `False`.
        seed: Integer. Seed of the choice of images and of the random start. Defaults
            to `0`.

    Raises:
        ValueError: If an argument is out of range or, in `fit`, if there are no images
            of some class.

    Example:

    >>> probe = krl.callbacks.SkewAndDrift(x, y, directory="runs/a")
    >>> history = model.fit(train, epochs=3, verbose=0, callbacks=[probe])
    >>> history.history["skew"]

    Reference:
        Zhang et al., CVPR 2026: the bound on the robust risk.
    """

    FILE = "skew_and_drift.csv"

    def __init__(
        self,
        x,
        y=None,
        examples=200,
        attack=None,
        directory=None,
        class_names=None,
        tensorboard=False,
        seed=0,
    ):
        super().__init__(directory, class_names, tensorboard)
        if attack is not None and not isinstance(attack, attacks.PGD):
            raise ValueError(
                "`attack` must be a keras_robustlt.attacks.PGD. "
                f"Received: attack={attack!r}"
            )
        check_stays_within("attack", attack)
        check_one_run("attack", attack)
        examples = checks.positive_integer("examples", examples)
        images, labels = class_balanced_subset(x, y, examples, seed)
        checks.images(images)
        self.images = images.astype("float32")
        self._given_labels = labels
        self.attack = attack
        self.seed = seed

    def on_train_begin(self, logs=None):
        checks.robust_model(self)
        model = self.model
        self.labels = labels_to_watch(self.images, self._given_labels, model)
        self.members = np.eye(model.num_classes)[self.labels]
        missing = np.flatnonzero(self.members.sum(axis=0) == 0)
        if len(missing):
            raise ValueError(
                f"`x` must have images of all {model.num_classes} classes. Received "
                f"none of: {', '.join(map(str, missing))}"
            )
        attack = self.attack or attacks.PGD(model.epsilon, norm=model.norm)
        check_no_smaller_ball("attack", attack, model.attack)
        self._attack = _with_risks(attack, model.network)
        self.start = self._attack.start(self.images, model.epsilon, self.seed)
        self.names = class_names_of(self.class_names, model.num_classes)
        self.rows = self.before = None
        self._open(self.FILE)

    def on_epoch_begin(self, epoch, logs=None):
        if self.rows is not None:
            return
        self.rows = []
        if self.directory is not None:
            path = self.directory / self.FILE
            columns, self.rows = files.read_rows(path, epoch)
            if self.rows and columns != [*VALUES, *self.names]:
                raise files.damaged(path, "its columns are others")
        if epoch:
            self.before = self._look_back(epoch)

    def _look_back(self, epoch):
        """What the end of the epoch before `epoch`, which now begins, had shown."""
        schedule = self.model.schedule
        schedule.begin_epoch(epoch - 1)
        schedule.step.assign(schedule.steps_per_epoch)
        seen = self._look()
        schedule.begin_epoch(epoch)
        return seen

    def on_epoch_end(self, epoch, logs=None):
        risks, adversarial = self._look()
        values = dict.fromkeys(VALUES, float("nan"))
        values["skew"] = skewed_objective(risks, self.model.class_counts)
        values["robust_risk"] = float(risks.mean())
        if self.before is not None:
            risks_before, adversarial_before = self.before
            values["robust_risk_change"] = float(risks.mean() - risks_before.mean())
            moved = np.abs(adversarial - adversarial_before, dtype="float64")
            moved = moved.reshape(len(moved), -1)
            values["drift_linf"] = self._balanced(moved.max(axis=1))
            values["drift_l2"] = self._balanced(np.sqrt(np.sum(moved**2, axis=1)))
        self.before = risks, adversarial
        if logs is not None:
            logs.update(values)
        self.rows.append([epoch, *values.values(), *risks.tolist()])
        if self.writes:
            head = ["epoch", *VALUES, *self.names]
            files.write_rows(self.directory / self.FILE, [head, *self.rows])
        of_classes = dict(zip(self.names, risks, strict=True))
        self._write_summaries(epoch, theory=values, robust_risk=of_classes)

    def _look(self):
        """The robust risk of each class, and the images within training's budget."""
        whole = np.full(self.model.num_classes, self.model.epsilon, "float32")
        adversarial, values = self._within(whole)
        budget = ops.convert_to_numpy(self.model.class_epsilon())
        if not np.array_equal(budget, whole):
            adversarial = self._within(budget)[0] if budget.any() else self.images
        return self._class_means(values), adversarial

    def _within(self, class_epsilon):
        epsilon = class_epsilon[self.labels]
        targets = self.members.astype("float32")
        return self._attack(self.images, targets, self.start, epsilon)

    def _class_means(self, values):
        return self.members.T @ values / self.members.sum(axis=0)

    def _balanced(self, values):
        return float(self._class_means(values).mean())


def _with_risks(attack, network):
    """The attack, compiled to give the images and their cross-entropy."""

    def with_risks(x_adv, targets):
        logits = backend.frozen(network)(x_adv)
        return x_adv, losses.cross_entropy(targets, logits)

    return CompiledAttack(attack, network, with_risks)
