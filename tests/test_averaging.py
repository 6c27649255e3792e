"""Averages of the weights along training."""

import keras
import numpy as np
import pytest
from tiny_models import FIT, ONE_EPOCH, conv_network, tiny_model, trained, weights_of

import keras_robustlt as krl

pytestmark = ONE_EPOCH


def averages(model):
    weights = model.averaged_network.get_weights()
    return np.concatenate([w.ravel() for w in weights])


class Remember(keras.callbacks.Callback):
    def on_train_begin(self, logs=None):
        self.weights = []

    def on_epoch_end(self, epoch, logs=None):
        self.weights.append(weights_of(self.model))


def test_moving_average_of_each_step(images):
    x, y = images
    model = tiny_model(conv_network(), averaging=0.2)
    np.testing.assert_array_equal(averages(model), weights_of(model))
    remember = Remember()
    model.fit(x, y, epochs=4, batch_size=12, verbose=0, callbacks=[remember])
    expected = 0.0
    for n, weights in enumerate(remember.weights):
        keep = min(0.2, n / (n + 10))
        expected = keep * expected + (1 - keep) * weights
    # Batch normalisation's statistics are among them.
    np.testing.assert_allclose(averages(model), expected, 1e-5, 1e-6)


@pytest.mark.slow_on_jax
def test_training_is_the_same_and_evaluation_is_of_the_average(images, same_network):
    plain = tiny_model(same_network())
    model = tiny_model(same_network(), averaging=0.9)
    arguments = {"validation_data": images}
    expected = trained(images, plain, **arguments)
    np.testing.assert_array_equal(trained(images, model, **arguments), expected)
    x, y = images
    average = model.averaged_network
    np.testing.assert_allclose(
        model.predict(x, verbose=0), average.predict(x, verbose=0), atol=1e-6
    )
    assert abs(model.predict(x, verbose=0) - plain.predict(x, verbose=0)).max() > 1e-6
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    hits = average.predict(x, verbose=0).argmax(axis=1) == y
    assert float(logs["clean_accuracy"]) == pytest.approx(hits.mean())
    results = krl.evaluate(model, x, y, attacks=["clean"], verbose=0)
    assert results["clean"]["all"] == pytest.approx(hits.mean())


def test_save_and_load(images, tmp_path):
    whole = tiny_model(conv_network(), averaging=krl.averaging.EMA(0.5))
    trained(images, whole)
    whole.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(averages(loaded), averages(whole))
    np.testing.assert_array_equal(weights_of(loaded), weights_of(whole))
    whole.averaged_network.save(tmp_path / "network.keras")
    network = keras.saving.load_model(tmp_path / "network.keras")
    x, _ = images
    np.testing.assert_allclose(
        network.predict(x, verbose=0), whole.predict(x, verbose=0), atol=1e-6
    )


def test_only_fair_epochs_are_averaged():
    model = tiny_model(averaging=krl.averaging.FAWA(0.3, momentum=0.5, start=0.25))
    rule, seen = model.averaging, []
    model.schedule.start(8)
    for epoch, worst in enumerate((0.9, 0.9, 0.1, 0.5, 0.2, 0.3)):
        model.network.set_weights(
            [np.full_like(w, epoch) for w in model.network.get_weights()]
        )
        model.schedule.begin_epoch(epoch)
        rule.end_epoch(model, {rule.MONITOR: worst})
        seen.append(averages(model)[0])
    # The first two are too early; the third is not fair, so still the network itself.
    np.testing.assert_allclose(seen, [0, 1, 2, 3, 3, 4])


def test_fawa_in_fit(images):
    x, y = images
    model = tiny_model(averaging=krl.averaging.FAWA(0.0, momentum=0.5, start=0.0))
    seldom = {"validation_data": images, "validation_freq": 2, "epochs": 2}
    for arguments in ({}, seldom):
        with pytest.raises(ValueError, match="give `fit` `validation_data`"):
            model.fit(x, y, **arguments, **FIT)
    assert int(model.optimizer.iterations) == 0
    remember = Remember()
    history = model.fit(
        x, y, epochs=3, validation_data=images, callbacks=[remember], **FIT
    )
    first, second, third = remember.weights
    expected = 0.5 * (0.5 * first + 0.5 * second) + 0.5 * third
    np.testing.assert_allclose(averages(model), expected, atol=1e-6)
    # Training validates the network, evaluation is of the average.
    hits = model.network.predict(x, verbose=0).argmax(axis=1) == y
    assert history.history["val_clean_accuracy"][-1] == pytest.approx(hits.mean())
    hits = model.averaged_network.predict(x, verbose=0).argmax(axis=1) == y
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert float(logs["clean_accuracy"]) == pytest.approx(hits.mean())


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    "averaging",
    [pytest.param(0.5, marks=pytest.mark.slow), krl.averaging.FAWA(0.0)],
)
def test_averaging_goes_with_methods_that_need_features(images, averaging):
    model = tiny_model(method="reat", averaging=averaging)
    history = model.fit(*images, epochs=1, validation_data=images, **FIT)
    assert np.isfinite(history.history["loss"]).all()


def test_batches_of_their_own_have_no_epochs_to_average(images):
    model = tiny_model(averaging=krl.averaging.FAWA(0.0))
    model.schedule.start(1, 1)
    with pytest.raises(ValueError, match="train_on_batch.*averaging=FAWA"):
        model.train_on_batch(*images)


def test_bad_averaging():
    with pytest.raises(ValueError, match="`averaging` must be None, a float"):
        tiny_model(averaging="ema")
    with pytest.raises(ValueError, match="`averaging` must be .*1.5"):
        tiny_model(averaging=1.5)


class Uncopied(keras.Model):
    """A network that says nothing of what it was made with."""

    def __init__(self, units):
        super().__init__()
        self.dense = keras.layers.Dense(units)

    def call(self, x, training=False):
        return self.dense(keras.ops.reshape(x, (-1, 108)))

    def get_config(self):
        return {}


def test_an_average_needs_a_network_that_can_be_copied():
    flat = [keras.layers.Flatten(), keras.layers.Dense(3)]
    with pytest.raises(ValueError, match="`averaging` needs a network that has its"):
        tiny_model(keras.Sequential(flat), averaging=0.9)
    network = Uncopied(3)
    network(np.zeros((1, 6, 6, 3), "float32"))
    with pytest.raises(ValueError, match="`averaging` needs a network that can be cop"):
        tiny_model(network, averaging=0.9)
