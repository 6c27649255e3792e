"""The terms of the theory, against what plain loops compute from saved weights."""

import csv
import importlib.util

import keras
import numpy as np
import pytest
from tiny_models import COUNTS, FIT, conv_network, dense_network, tiny_model

import keras_robustlt as krl
from keras_robustlt.callbacks import SkewAndDrift, skewed_objective

PGD = krl.attacks.PGD(0.1, steps=3)
NAMES = ("skew", "robust_risk", "robust_risk_change", "drift_linf", "drift_l2")


def test_skewed_objective_by_hand():
    # Classes 0 and 2 against class 1, the largest: (1/3 - 2/12) and (1/3 - 1/12).
    risks, counts = [1.0, 0.5, 3.0], [2, 9, 1]
    expected = (1 / 3 - 1 / 6) * 0.5 + (1 / 3 - 1 / 12) * 2.5
    assert skewed_objective(risks, counts) == pytest.approx(expected)
    difference = np.mean(risks) - np.average(risks, weights=counts)
    assert skewed_objective(risks, counts) == pytest.approx(difference)
    assert skewed_objective(risks, [4, 4, 4]) == 0
    assert skewed_objective([2.0, 2.0, 2.0], counts) == 0


class Keep(keras.callbacks.Callback):
    """The network's weights and the classes' budgets at the end of each epoch."""

    def on_train_begin(self, logs=None):
        self.kept = []

    def on_epoch_end(self, epoch, logs=None):
        model = self.model
        budget = model.budget.class_epsilon(model.schedule)
        weights = model.network.get_weights()
        self.kept.append((weights, keras.ops.convert_to_numpy(budget)))


def risk_and_images(network, x, y, start, budgets):
    """One image at a time: the mean cross-entropy of each class, and the images."""
    risks, images = [[] for _ in COUNTS], []
    for i, label in enumerate(y):
        image = PGD(
            network, x[i : i + 1], y[i : i + 1], budgets[label], start=start[i : i + 1]
        )
        images.append(keras.ops.convert_to_numpy(image)[0].astype("float64"))
        logits = keras.ops.convert_to_numpy(network(image))[0].astype("float64")
        risks[label].append(np.log(np.exp(logits).sum()) - logits[label])
    return [sum(values) / len(values) for values in risks], images


@pytest.mark.slow_on_jax
def test_against_brute_force(images, tmp_path):
    x, y = images[0][:6], images[1][:6]
    keep = Keep()
    probe = SkewAndDrift(
        *(x, y), examples=6, attack=PGD, directory=tmp_path, class_names=list("abc")
    )
    model = tiny_model(conv_network())
    history = model.fit(x, y, epochs=3, callbacks=[probe, keep], **FIT).history

    network = conv_network()
    start = PGD.starting_point(keras.ops.convert_to_tensor(x), 0.1, seed=0)
    start = keras.ops.convert_to_numpy(start)
    before = None
    with (tmp_path / SkewAndDrift.FILE).open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["0", "1", "2"]
    for epoch, (weights, budgets) in enumerate(keep.kept):
        network.set_weights(weights)
        risks, _ = risk_and_images(network, x, y, start, [0.1] * 3)
        _, adversarial = risk_and_images(network, x, y, start, budgets)
        share = np.array(COUNTS) / sum(COUNTS)
        skew = sum((1 / 3 - share[c]) * (risks[c] - risks[0]) for c in (1, 2))
        expected = {"skew": skew, "robust_risk": sum(risks) / 3}
        expected |= dict.fromkeys(NAMES[2:], np.nan)
        if before is not None:
            moved = [
                np.ravel(a - b) for a, b in zip(adversarial, before[1], strict=True)
            ]
            expected["robust_risk_change"] = sum(risks) / 3 - sum(before[0]) / 3
            expected["drift_linf"] = np.mean([max(abs(d)) for d in moved])
            expected["drift_l2"] = np.mean([np.sqrt(d @ d) for d in moved])
            assert expected["drift_l2"] > 0.01
        for name, value in expected.items():
            assert history[name][epoch] == pytest.approx(value, 1e-3, 1e-5, True)
            assert float(rows[epoch][name]) == pytest.approx(
                history[name][epoch], nan_ok=True
            )
        actual = [float(rows[epoch][name]) for name in "abc"]
        np.testing.assert_allclose(actual, risks, 1e-3)
        before = risks, adversarial


def test_goes_on_after_an_interruption(images, tmp_path):
    x, y = images

    def run(directory, epochs):
        keras.utils.set_random_seed(5)
        model = tiny_model(
            dense_network(), total_epochs=4, budget=krl.budget.CFA(start=0.0)
        )
        callbacks = [
            SkewAndDrift(x, y, attack=PGD, directory=directory),
            krl.callbacks.HistoryCSV(directory / "history.csv"),
            krl.callbacks.Checkpoint(directory),
        ]
        model.fit(x, y, epochs=epochs, callbacks=callbacks, **FIT)
        return [
            np.genfromtxt(directory / name, delimiter=",", skip_header=1)
            for name in (SkewAndDrift.FILE, "history.csv")
        ]

    whole = run(tmp_path / "whole", 4)
    run(tmp_path / "parts", 2)
    parts = run(tmp_path / "parts", 4)
    assert parts[0].shape == (4, 1 + len(NAMES) + 3)
    for actual, expected in zip(parts, whole, strict=True):
        np.testing.assert_allclose(actual, expected, 1e-5, 1e-6)


@pytest.mark.parametrize("method", ["standard", krl.methods.TAET(ce_epochs=3)])
def test_without_an_attack_only_the_risk_moves(images, method):
    probe = SkewAndDrift(*images, attack=PGD)
    model = tiny_model(method=method, alpha=0, beta=0)
    history = model.fit(*images, epochs=3, callbacks=[probe], **FIT).history
    assert history["drift_linf"][1] == history["drift_l2"][1] == 0
    assert history["robust_risk_change"][1] != 0


@pytest.mark.parametrize("risks", [[0.5], [1, 2, 3], "ab", [True, False], None])
def test_a_risk_for_each_class(risks):
    with pytest.raises(ValueError, match="`class_risks` must be 2 numbers"):
        skewed_objective(risks, [90, 10])


def test_callbacks_of_this_package_on_another_model(images):
    x, y = images
    network = dense_network()
    network.compile("sgd", "mse", run_eagerly=True)
    for callback in (
        SkewAndDrift(x, y),
        krl.callbacks.CollapseGuard(x, y),
        krl.callbacks.ScheduleInspector(),
    ):
        with pytest.raises(ValueError, match="of `fit` of a keras_robustlt.RobustLTM"):
            network.fit(x, np.eye(3)[y], callbacks=[callback], verbose=0)


@pytest.mark.parametrize("kind", ["CollapseGuard", "SkewAndDrift"])
def test_no_images_to_watch(images, kind):
    with pytest.raises(ValueError, match="`x` has no images to choose from"):
        getattr(krl.callbacks, kind)(images[0][:0], images[1][:0])


def test_mistakes(images, monkeypatch):
    x, y = images
    probe = SkewAndDrift(x[y < 2], y[y < 2])
    with pytest.raises(ValueError, match="images of all 3 classes. Received none of"):
        tiny_model(beta=0).fit(x, y, callbacks=[probe], **FIT)
    with pytest.raises(ValueError, match="`attack` must be a keras_robustlt.attacks"):
        SkewAndDrift(x, y, attack="pgd10")
    with pytest.raises(ValueError, match="`attack` is one run .* restarts=1"):
        SkewAndDrift(x, y, attack=krl.attacks.PGD(0.1, restarts=2))
    probe = SkewAndDrift(x, y, attack=krl.attacks.PGD(0.1, norm="l2"))
    with pytest.raises(ValueError, match="`attack` must have the norm of the model's"):
        tiny_model(beta=0).fit(x, y, callbacks=[probe], **FIT)
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        SkewAndDrift(255 * x, y)
    with pytest.raises(ValueError, match="needs a `directory`"):
        SkewAndDrift(x, y, tensorboard=True)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        SkewAndDrift(x, y, tensorboard=True, directory="a")


@pytest.mark.tensorflow
def test_summaries(images, tmp_path):
    import tensorflow as tf

    probe = SkewAndDrift(*images, attack=PGD, directory=tmp_path, tensorboard=True)
    tiny_model(beta=0).fit(*images, epochs=1, callbacks=[probe], **FIT)
    (path,) = (tmp_path / "tensorboard").glob("*tfevents*")
    events = tf.compat.v1.train.summary_iterator(str(path))
    tags = {value.tag for event in events for value in event.summary.value}
    assert {"theory/skew", "theory/drift_l2", "robust_risk/2"} <= tags
