"""Models and all their parts go into files and configurations, and come back."""

import json

import keras
import numpy as np
import pytest
from tiny_models import (
    conv_network,
    dense_network,
    tiny_model,
    trained,
    weights_of,
)

import keras_robustlt as krl


def test_save_and_load_in_mid_schedule(images, tmp_path):
    model = tiny_model(
        conv_network(),
        method="at_bsl",
        granularity="step",
        total_epochs=4,
        optimizer=krl.optimizers.SGD(0.1, momentum=0.9),
    )
    trained(images, model)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    for old, new in zip(model.variables, loaded.variables, strict=True):
        if "metric" not in old.path:
            np.testing.assert_array_equal(old, new, err_msg=old.path)
    state = zip(model.optimizer.variables, loaded.optimizer.variables, strict=True)
    for old, new in state:
        np.testing.assert_array_equal(old, new, err_msg=old.path)
    position = [float(value) for value in model.schedule.position("step")]
    assert position == [6, 12]
    assert [float(v) for v in loaded.schedule.position("step")] == position
    actual = trained(images, loaded, epochs=4, initial_epoch=2)
    expected = trained(images, model, epochs=4, initial_epoch=2)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_loss_and_metrics_are_saved(images, tmp_path):
    model = tiny_model()
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.5)
    model.compile("sgd", loss=loss, metrics=["accuracy"], run_eagerly=True)
    expected = model.evaluate(*images, verbose=0, return_dict=True)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    actual = loaded.evaluate(*images, verbose=0, return_dict=True)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        assert float(actual[name]) == pytest.approx(float(value))


def test_weights_alone(images, tmp_path):
    model, other = tiny_model(), tiny_model()
    trained(images, model)
    model.save_weights(tmp_path / "model.weights.h5")
    other.load_weights(tmp_path / "model.weights.h5")
    np.testing.assert_array_equal(weights_of(model), weights_of(other))


def objects():
    """One object of each serialisable class, with arguments that are no defaults."""
    fall = keras.optimizers.schedules.CosineDecay(0.5, 7)
    return [
        krl.attacks.APGD(0.1, 7, "l2", "dlr", 2, 3, 0.7, 20),
        krl.attacks.APGDT(0.1, 7, "l2", 3, 2, 3, 0.7, 20),
        krl.attacks.AutoAttack("rand", 0.1, "l2", 3, 20),
        krl.attacks.FAB(0.1, 7, "l2", 3, 2, 20),
        krl.attacks.FGSM(0.1, norm="l2", random_start=True, loss="margin"),
        krl.attacks.FGSMBernoulli(0.1),
        krl.attacks.FGSMRS(0.1),
        krl.attacks.NFGSM(0.1),
        krl.attacks.PGD(0.1, 3, 0.02, norm="l2", random_start=False, loss="margin"),
        krl.attacks.UDR(0.1, 3, 0.02, 0.5, 4),
        krl.attacks.Square(0.1, 70, "l2", 0.5, True, 2, 20),
        krl.averaging.EMA(0.9),
        krl.averaging.FAWA(0.1, 0.8, 0.5),
        krl.budget.Auto(),
        krl.budget.Budget(),
        krl.budget.CFA(0.3, 0.1),
        krl.budget.DAFA(0.5, 0.1),
        krl.budget.RobustLT(0.2, 0.5, granularity="step", weighting="both"),
        krl.layers.BatchNormalization(momentum=0.8, epsilon=1e-3),
        krl.layers.ClassToken(),
        krl.layers.CosPlusClassifier(3, scale=2.0, gamma=0.1, eta=0.5),
        krl.layers.CosineClassifier(3, scale=2.0),
        krl.layers.PositionEmbedding(),
        krl.methods.AT(label_smoothing=0.1),
        krl.methods.ATBSL(tau=0.5),
        krl.methods.AWP("at_bsl", 0.01, 3, "gradient"),
        krl.methods.CGR("at_bsl", 0.1, 3, 0.5),
        krl.methods.ClassBalanced(0.9),
        krl.methods.Focal(1.5),
        krl.methods.LDAM(0.4, 16.0),
        krl.methods.MART(4.0),
        krl.methods.NuAT(3.0, 0.5),
        krl.methods.REAT(),
        krl.methods.RoBal(0.2, 9.0, 1.0, 0.2, 5.0, 2.0, 0.1),
        krl.methods.Standard(),
        krl.methods.TAET(5, 0.2, 0.3, 0.4),
        krl.methods.TRADES(4.0),
        krl.metrics.ClasswiseAccuracy([3, 2], 0.5, "clean_", "accuracies"),
        krl.optimizers.AdamW(0.2, 0.1, backbone_rate=fall, head="last"),
        krl.optimizers.SGD(0.2, momentum=0.9, nesterov=True, weight_decay=0.1),
        tiny_model(
            dense_network(input_shape=(16, 16, 3)),
            method="at_bsl+awp",
            alpha=0.2,
            beta=0.5,
            granularity="step",
            weighting="loss",
            averaging=0.9,
            augmentation="base",
            batchnorm_statistics="mixed",
            total_epochs=7,
            tail_fraction=0.5,
            seed=3,
            name="robust",
            attack=krl.attacks.PGD(0.1, 3, norm="l2"),
        ),
    ]


def test_serialisation():
    for original in objects():
        comes_back(original)


def comes_back(original):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(original)))
    copy = keras.saving.deserialize_keras_object(config)
    assert type(copy) is type(original)
    assert copy is not original
    again = json.loads(json.dumps(keras.saving.serialize_keras_object(copy)))
    assert again["config"] == config["config"]


def test_every_serialisable_class_is_in_the_harness():
    for module in krl.__all__:
        getattr(krl, module)
    registered = {
        value.__name__
        for name, value in keras.saving.get_custom_objects().items()
        if name.startswith("keras_robustlt>")
        and value.__module__.startswith("keras_robustlt")
    }
    internal = {"BatchCheck"}  # created by the model
    assert registered - internal == {type(each).__name__ for each in objects()}
