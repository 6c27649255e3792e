"""A collapse is undone, and training goes on with more steps."""

import keras
import numpy as np
import pytest
from tiny_models import FIT, tiny_model

import keras_robustlt as krl
from keras_robustlt.callbacks import Checkpoint, CollapseGuard, HistoryCSV


@pytest.mark.parametrize(
    "accuracies, collapses",
    [
        ([(0.6, 0.5), (0.9, 0.1)], [1]),
        ([(0.9, 0.9), (0.5, 0.3)], []),  # the growing budget, not a collapse
        ([(0.6, 0.5), (0.9, 0.3), (0.9, 0.3)], []),  # more than half of what it was
        ([(0.6, 0.5), (0.12, 0.04)] * 4, []),  # few images
        # It has never been robust: that may come, for two epochs.
        ([(0.9, 0.0)] * 2 + [(0.6, 0.5), (0.9, 0.3), (0.9, 0.3)], []),
        ([(0.3, 0.05)] * 7, [2, 5]),
        ([(0.6, 0.5), (0.9, 0.3), (0.9, 0.3), (0.9, 0.3)], [3]),
    ],
)
def test_the_rule(accuracies, collapses, capsys):
    class Told(CollapseGuard):
        def accuracies(self):
            return accuracies[self.epoch]

    model = model_with()
    guard = Told(np.zeros((3, 6, 6, 3), "float32"), np.arange(3))
    guard.set_model(model)
    guard.on_train_begin()
    for guard.epoch in range(len(accuracies)):
        guard.on_epoch_begin(guard.epoch)
        guard.on_epoch_end(guard.epoch)
    lines = capsys.readouterr().out.splitlines()
    epochs = [f"Training collapsed in epoch {epoch + 1}: " for epoch in collapses]
    assert [line[: len(start)] for line, start in zip(lines, epochs, strict=True)] == (
        epochs
    )


def rough_network():
    """Class 1 is what is not smooth."""
    x = keras.Input((6, 6, 1))
    unevenness = keras.ops.mean(
        keras.ops.square(x - keras.ops.mean(x, axis=(1, 2), keepdims=True)), axis=(1, 2)
    )
    network = keras.Model(x, keras.layers.Dense(2)(unevenness))
    network.set_weights([np.array([[-1e5, 1e5]]), np.array([600.0, -600.0])])
    return network


@pytest.mark.parametrize("alpha", [0.1, 0.0])
def test_classes_that_are_told_by_their_noise(capsys, alpha):
    network, y = rough_network(), np.arange(120) % 2
    attack = krl.attacks.FGSMRS(0.1)
    model = tiny_model(network, [90, 10], attack=attack, alpha=alpha, beta=0)
    guard = CollapseGuard(np.full((120, 6, 6, 1), 0.5, "float32"), y)
    guard.set_model(model)
    guard.on_train_begin()
    for epoch in range(2):
        guard.on_epoch_begin(epoch)
        guard.on_epoch_end(epoch)
    lines = [line for line in capsys.readouterr().out.splitlines() if "noise" in line]
    if alpha:
        assert len(lines) == 1 and "after epoch 1 is 0.500 as images are" in lines[0]
        assert "1.000 with the noise" in lines[0]
    else:
        assert not lines


class Forced(CollapseGuard):
    """Sees a collapse in epoch 1, from 0."""

    def accuracies(self):
        return 0.8, 0.1 if int(self.model.schedule.epoch) == 1 else 0.7


class Watch(keras.callbacks.Callback):
    """What the model is like when epochs begin and end."""

    def on_train_begin(self, logs=None):
        self.begun, self.ended, self.steps = [], [], []
        model = self.model
        self.variables = [*model.variables, *model.optimizer.variables]

    def values(self):
        return [keras.ops.convert_to_numpy(v).copy() for v in self.variables]

    def on_epoch_begin(self, epoch, logs=None):
        self.begun.append(self.values())
        self.steps.append(self.model.attack_in_use.steps)

    def on_epoch_end(self, epoch, logs=None):
        self.ended.append(self.values())

    def changed(self, epoch):
        """The ids of the variables that are not as they were."""
        pairs = zip(self.begun[epoch], self.ended[epoch], strict=True)
        return {
            id(variable)
            for variable, (before, after) in zip(self.variables, pairs, strict=True)
            if np.any(before != after)
        }


def model_with(**arguments):
    keras.utils.set_random_seed(3)
    rate = keras.optimizers.schedules.CosineDecay(0.1, 15)
    optimizer = krl.optimizers.SGD(rate, momentum=0.9)
    return tiny_model(optimizer=optimizer, attack="n-fgsm", beta=0, **arguments)


def ids(variables):
    return {id(variable) for variable in variables}


def test_an_epoch_is_undone(images, capsys):
    model = model_with(method="reat", averaging=0.5)
    guard, watch = Forced(*images), Watch()
    history = model.fit(*images, epochs=3, callbacks=[guard, watch], **FIT).history
    assert watch.steps == [1, 1, 2]
    assert history["guard_pgd_accuracy"] == [0.7, 0.1, 0.7]
    assert history["guard_attack_accuracy"] == [0.8] * 3
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("Training collapsed in epoch 2: accuracy 0.800 under its")
    assert line.endswith("from where the epoch began, with PGD of 2 steps.")
    optimizer = model.optimizer
    learns = ids(
        [
            *model.network.trainable_variables,
            *model.averaged_network.variables,
            model.averaging.updates,
            *optimizer.momentums,
            model.method.predictions,
        ]
    )
    goes_on = ids(
        [
            *model.schedule.variables,
            *model.metrics_variables,
            model.start_seed.state,
            optimizer.iterations,
        ]
    )
    assert learns <= watch.changed(0) and learns <= watch.changed(2)
    assert watch.changed(1) <= goes_on
    assert int(optimizer.iterations) == 9
    # What `fit` used is over with it.
    assert model.attack_in_use is model.attack


def test_each_collapse_doubles_the_steps():
    model = model_with()
    guard = Forced(np.zeros((3, 6, 6, 3), "float32"), np.arange(3))
    guard.set_model(model)
    sizes = []
    for steps in (2, 4, 8):
        guard.on_epoch_begin(0)
        guard._go_back()
        assert guard.attack_steps == model.attack_in_use.steps == steps
        sizes.append(model.attack_in_use.step_size)
    assert sizes == pytest.approx([0.05, 0.025, 0.025])


@pytest.mark.slow_on_jax
def test_it_goes_on_after_an_interruption(images, tmp_path):
    class Killed(Exception):
        pass

    class Kill(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 2:
                raise Killed

    def run(name, *others):
        model = model_with(averaging=0.9)
        listed = [
            Checkpoint(tmp_path / name),
            Forced(*images),
            HistoryCSV(tmp_path / name / "history.csv"),
            *others,
        ]
        model.fit(*images, epochs=3, callbacks=listed, **FIT)
        return model

    whole = run("whole")
    with pytest.raises(Killed):
        run("parts", Kill())
    parts = run("parts")
    for left, right in zip(whole.variables, parts.variables, strict=True):
        np.testing.assert_array_equal(left, right, err_msg=left.path)
    texts = [
        (tmp_path / name / "history.csv").read_text() for name in ("whole", "parts")
    ]
    assert texts[0] == texts[1]


def test_the_accuracies_are_those_of_the_two_attacks(images):
    x, y = images
    model = tiny_model(attack="n-fgsm", alpha=0.5, beta=1.0)
    guard = CollapseGuard(x, y, examples=9, seed=4)
    history = model.fit(x, y, epochs=3, callbacks=[guard], **FIT).history
    assert len(guard.images) == 9
    epsilon = keras.ops.convert_to_numpy(model.class_epsilon())[guard.labels]
    assert len(set(epsilon)) == 3 and epsilon.min() > 0
    found = []
    for attack in (model.attack, krl.attacks.PGD(0.1)):
        width = epsilon if attack is model.attack else 0.1
        clean = keras.ops.convert_to_tensor(guard.images)
        start = attack.starting_point(clean, width, seed=4)
        x_adv = attack(model.network, clean, guard.labels, epsilon, start=start)
        predicted = keras.ops.convert_to_numpy(model.network(x_adv)).argmax(axis=1)
        found.append(np.mean(predicted == guard.labels))
    assert history["guard_attack_accuracy"][-1] == pytest.approx(found[0])
    assert history["guard_pgd_accuracy"][-1] == pytest.approx(found[1])


def test_other_callbacks_may_watch_its_accuracies(images):
    guard = krl.callbacks.CollapseGuard(*images)
    stop = keras.callbacks.EarlyStopping("guard_pgd_accuracy", patience=5)
    model = tiny_model(beta=0)
    model.fit(*images, epochs=2, callbacks=[guard, stop], **FIT)
    assert stop.best >= 0 and stop.mode == "max"


def test_without_an_attack_there_is_nothing_to_guard(images):
    with pytest.raises(ValueError, match="watches the training attack, and there is"):
        model = tiny_model(method="standard", beta=0)
        model.fit(*images, callbacks=[CollapseGuard(*images)], **FIT)
    with pytest.raises(ValueError, match="`examples` must be"):
        CollapseGuard(*images, examples=0)


class Onlooker(CollapseGuard):
    """Measures, and leaves things as they are."""

    def is_collapse(self, under_pgd, best, epochs_apart):
        return False


@pytest.mark.slow
def test_a_collapse_that_happens_without_it_and_not_with_it():
    (x, y), _, class_counts = krl.data.long_tail_arrays("digits", imbalance_ratio=10)
    x = x.repeat(4, axis=1).repeat(4, axis=2)
    layers = keras.layers

    def block(filters, strides):
        convolution = layers.Conv2D(filters, 3, strides=strides, padding="same")
        return [convolution, krl.layers.BatchNormalization(), layers.ReLU()]

    def last_accuracies(guard):
        keras.utils.set_random_seed(1)
        blocks = [*block(16, 2), *block(32, 1), *block(64, 2), *block(64, 2)]
        head = [layers.Flatten(), layers.Dense(10)]
        network = keras.Sequential([keras.Input(x.shape[1:]), *blocks, *head])
        # One step twice as long as the budget, in a large ball.
        attack = krl.attacks.PGD(0.35, steps=1, step_size=0.7)
        model = krl.RobustLTModel(
            network, class_counts, epsilon=0.35, attack=attack, budget="uniform", seed=1
        )
        model.compile(krl.optimizers.SGD(0.05, momentum=0.9))
        options = {"batch_size": 32, "epochs": 25, "verbose": 0}
        history = model.fit(x, y, callbacks=[guard(x, y)], **options).history
        return [
            np.mean(history[f"guard_{name}_accuracy"][-3:])
            for name in ("attack", "pgd")
        ]

    under_attack, under_pgd = last_accuracies(Onlooker)
    assert under_attack > 0.7 and under_pgd < 0.05
    under_attack, under_pgd = last_accuracies(CollapseGuard)
    assert under_pgd > 0.25
