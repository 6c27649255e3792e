"""Classifiers adjusted after training, against arithmetic on their logits."""

import keras
import numpy as np
import pytest
from tiny_models import conv_network, dense_network

import keras_robustlt as krl

COUNTS = [80, 15, 5]
PRIOR = np.log(np.array(COUNTS) / 100)


def functional(network):
    inputs = keras.Input(network.input_shape[1:])
    return keras.Model(inputs, network(inputs))


@pytest.mark.parametrize(
    "make", [dense_network, conv_network, lambda: functional(conv_network())]
)
def test_logit_adjustment_subtracts_the_prior(make, images, tmp_path):
    x, _ = images
    network = make()
    adjusted = krl.networks.logit_adjusted(network, COUNTS, tau=1.5)
    expected = network(x) - 1.5 * PRIOR
    np.testing.assert_allclose(adjusted(x), expected, 1e-5, 1e-5)
    same = krl.networks.logit_adjusted(network, COUNTS, tau=0)
    np.testing.assert_allclose(same(x), network(x), 1e-6)
    # It comes back from its file, and keeps weights of its own.
    adjusted.save(tmp_path / "adjusted.keras")
    network.set_weights([0 * weight for weight in network.get_weights()])
    loaded = keras.saving.load_model(tmp_path / "adjusted.keras")
    np.testing.assert_allclose(loaded(x), expected, 1e-5, 1e-5)
    plain = krl.networks.plain(adjusted)
    np.testing.assert_allclose(plain(x), expected, 1e-4, 1e-4)


def test_logit_adjustment_of_a_network_that_begins_with_normalization(images):
    x, _ = images
    shape = x.shape[1:]
    keras.backend.clear_session(free_memory=False)  # the names begin anew
    network = krl.networks.SmallResNet(classes=3, input_shape=shape, widths=(2,))
    once = krl.networks.logit_adjusted(network, COUNTS)
    twice = krl.networks.logit_adjusted(once, COUNTS)
    np.testing.assert_allclose(twice(x), network(x) - 2 * PRIOR, 1e-5, 1e-5)


@pytest.mark.parametrize("nested", [False, True])
def test_tau_normalization_divides_by_the_lengths(nested, images, tmp_path):
    x, _ = images
    network = dense_network()
    kernel = np.random.default_rng(0).normal(size=(108, 3)).astype("float32")
    network.set_weights([kernel, np.float32([1, 2, 3])])
    given = functional(network) if nested else network
    lengths = np.sqrt((kernel**2).sum(axis=0))
    for tau in (0.0, 0.5, 1.0):
        normalized = krl.networks.tau_normalized(given, tau)
        expected = x.reshape(12, -1) @ (kernel / lengths**tau)
        np.testing.assert_allclose(normalized(x), expected, 1e-4, 1e-4)
    np.testing.assert_array_equal(network.get_weights()[0], kernel)
    normalized.save(tmp_path / "normalized.keras")
    loaded = keras.saving.load_model(tmp_path / "normalized.keras")
    np.testing.assert_allclose(loaded(x), expected, 1e-4, 1e-4)


def test_what_cannot_be_adjusted_says_so():
    for adjust in (
        krl.networks.tau_normalized,
        lambda network: krl.networks.logit_adjusted(network, COUNTS),
    ):
        with pytest.raises(ValueError, match="functional or .built. sequential"):
            adjust(lambda x: x)
        with pytest.raises(ValueError, match="give logits"):
            adjust(dense_network(activation="softmax"))
        with pytest.raises(ValueError, match="must give one tensor of logits"):
            two = dense_network()
            adjust(keras.Model(two.inputs, [two.outputs[0], two.outputs[0]]))
        with pytest.raises(ValueError, match="cannot be copied: twice of type Lambda"):
            twice = keras.layers.Lambda(lambda x: 2 * x, name="twice")
            adjust(keras.Sequential([keras.Input((6, 6, 3)), twice, *two.layers]))
    cosine = keras.Sequential(
        [keras.Input((4,)), krl.layers.CosPlusClassifier(3, name="head")]
    )
    with pytest.raises(ValueError, match="layer head of type CosPlusClassifier"):
        krl.networks.tau_normalized(cosine)
    of_low_rank = dense_network()
    of_low_rank.layers[-1].enable_lora(2)
    with pytest.raises(ValueError, match="one matrix of floats: normalize it before"):
        krl.networks.tau_normalized(of_low_rank)
    with pytest.raises(ValueError, match="each of the 3 outputs of the network"):
        krl.networks.logit_adjusted(dense_network(), [3, 2])


def test_logits_of_two_layers_have_no_single_one_to_normalize():
    images = keras.Input((2, 2, 1))
    flat = keras.layers.Flatten()(images)
    heads = [keras.layers.Dense(3)(flat), keras.layers.Dense(3)(flat)]
    network = keras.Model(images, keras.layers.Add()(heads))
    for model in (network, keras.Sequential([images, keras.layers.Flatten()])):
        with pytest.raises(ValueError, match="a keras.layers.Dense as its last layer"):
            krl.networks.tau_normalized(model)
