"""Classifiers on cosines, as layers and as the heads of networks."""

import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops

import keras_robustlt as krl
from keras_robustlt import backend, layers, networks

# One of each network, small where it can be.
BUILDERS = {
    "preact_resnet18": lambda **arguments: networks.PreActResNet18(**arguments),
    "resnet18": lambda **arguments: networks.ResNet18(**arguments),
    "small_resnet": lambda **arguments: networks.SmallResNet(
        widths=(4, 8), **arguments
    ),
    "vit": lambda **arguments: networks.ViT(width=12, depth=1, **arguments),
    "wide_resnet": lambda **arguments: networks.WideResNet(10, 1, **arguments),
}


def with_kernel(layer, kernel):
    layer.build((None, len(kernel)))
    layer.set_weights([kernel])
    return layer


def gradients(layer, features, cotangent):
    """Gradients of sum(outputs * cotangent) for the features and the kernel."""

    def total(pair):
        features, kernel = pair
        with keras.StatelessScope([(layer.kernel, kernel)]):
            return ops.sum(layer(features) * cotangent)

    pair = [ops.convert_to_tensor(features), ops.convert_to_tensor(layer.kernel.value)]
    return [ops.convert_to_numpy(g) for g in backend.gradient(total, pair)]


def small(network_name, **arguments):
    return BUILDERS[network_name](input_shape=(8, 8, 3), classes=5, **arguments)


def as_numpy(tensor):
    return ops.convert_to_numpy(tensor)


@pytest.mark.parametrize("index", range(7))
def test_golden(golden, index):
    arrays = golden("classifiers")
    kind, scale, gamma, eta = (
        arrays[key][index].item() for key in ("type", "scale", "gamma", "eta")
    )
    if kind == "cos":
        layer = layers.CosineClassifier(10, scale=scale)
    else:
        layer = layers.CosPlusClassifier(10, scale=scale, gamma=gamma, eta=eta)
    with_kernel(layer, arrays["kernel"][index])
    features = arrays["features"]
    np.testing.assert_allclose(
        as_numpy(layer(features)), arrays["outputs"][index], rtol=2e-5, atol=1e-5
    )
    of_features, of_kernel = gradients(layer, features, arrays["cotangent"])
    for gradient, expected in (
        (of_features, arrays["grad_features"][index]),
        (of_kernel, arrays["grad_kernel"][index]),
    ):
        largest = np.abs(expected).max(axis=1, keepdims=True)
        assert np.all(np.abs(gradient - expected) <= 1e-4 * largest)


@pytest.mark.parametrize(
    "layer",
    [
        layers.CosineClassifier(2),
        layers.CosPlusClassifier(2),
        layers.CosPlusClassifier(2, eta=0.5, gamma=0.0),
    ],
    ids=["cosine", "cosplus", "eta"],
)
def test_zero_rows_and_columns_stay_finite(layer):
    with_kernel(layer, np.array([[0.0, 3.0], [0.0, 4.0]], "float32"))
    # The squares of the second row are zero in float32, those of the third are not.
    features = np.array([[0, 0], [3e-30, 4e-30], [3e-11, 4e-11], [3, 4]], "float32")
    logits = as_numpy(layer(features))
    np.testing.assert_array_equal(logits[0], [0, 0])
    np.testing.assert_array_equal(logits[:, 0], 0)
    assert np.all(np.isfinite(logits)) and logits[3, 1] > 0.9
    for gradient in gradients(layer, features, np.ones((4, 2), "float32")):
        assert np.all(np.isfinite(gradient))


@settings(max_examples=25, deadline=None)
@given(factor=st.floats(1e-3, 1e3), seed=st.integers(0, 100))
def test_the_length_of_the_features_does_not_matter(factor, seed):
    generator = np.random.default_rng(seed)
    features = generator.normal(size=(3, 4)).astype("float32")
    kernel = generator.normal(size=(4, 2))
    cosine = with_kernel(layers.CosineClassifier(2, scale=7.0), kernel)
    logits = as_numpy(cosine(features))
    assert np.abs(logits).max() <= 7.0001
    np.testing.assert_allclose(as_numpy(cosine(factor * features)), logits, atol=1e-4)
    cosplus = with_kernel(layers.CosPlusClassifier(2, eta=0.5), kernel)
    np.testing.assert_allclose(
        as_numpy(cosplus(factor * features)),
        factor**0.5 * as_numpy(cosplus(features)),
        rtol=1e-3,
        atol=1e-4,
    )


def test_cosplus_without_gamma_is_cosine():
    kernel = np.random.default_rng(0).normal(size=(4, 3))
    features = np.random.default_rng(1).normal(size=(2, 4)).astype("float32")
    cosine = with_kernel(layers.CosineClassifier(3, scale=2.0), kernel)
    cosplus = with_kernel(layers.CosPlusClassifier(3, scale=2.0, gamma=0), kernel)
    np.testing.assert_allclose(
        as_numpy(cosplus(features)), as_numpy(cosine(features)), rtol=1e-6
    )


def test_float32_under_every_policy():
    keras.config.set_dtype_policy("mixed_bfloat16")
    for layer in (layers.CosineClassifier(2), layers.CosPlusClassifier(2)):
        logits = layer(ops.ones((1, 3), "bfloat16"))
        assert keras.backend.standardize_dtype(logits.dtype) == "float32"
        assert layer.compute_dtype == "float32"


def test_initial_kernels_follow_pytorch():
    layer = layers.CosineClassifier(50)
    layer.build((None, 100))
    kernel = as_numpy(layer.kernel)
    assert 0.098 < np.abs(kernel).max() <= 0.1000001
    assert abs(kernel.mean()) < 4 * 0.1 / np.sqrt(3 * kernel.size)


@pytest.mark.parametrize(
    "layer",
    [
        layers.CosineClassifier(3, scale=2.0, name="mine"),
        layers.CosPlusClassifier(3, scale=2.0, gamma=0.25, eta=0.5, name="mine"),
    ],
    ids=["cosine", "cosplus"],
)
def test_serialization(layer):
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is type(layer)
    assert copy.get_config() == layer.get_config()


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: layers.CosineClassifier(0), "`units` must be.*Received: 0"),
        (lambda: layers.CosineClassifier(2, scale=0), "`scale` must be pos.*scale=0"),
        (lambda: layers.CosineClassifier(2, scale=-1), "`scale` must.*Received: -1"),
        (lambda: layers.CosineClassifier(2).class_vectors(), "once it is built"),
        (lambda: layers.CosPlusClassifier(2, gamma=-1), "`gamma` must.*Received: -1"),
        (lambda: layers.CosPlusClassifier(2, eta=-1), "`eta` must.*Received: -1"),
        (lambda: small("resnet18", head="dense"), "`head` must be one of.*'dense'"),
        (lambda: networks.ResNet34(head="dense"), "`head` must be one of.*'dense'"),
        (lambda: networks.ResNet50(head="dense"), "`head` must be one of.*'dense'"),
        (lambda: small("vit", head=["cosine"]), "`head` must be one of.*'cosine'"),
        (
            lambda: small("small_resnet", head=keras.layers.Dense(4, name="four")),
            r"\(batch, 5\).*layer 'four' with outputs of shape \(None, 4\)",
        ),
        (
            lambda: small("small_resnet", head=keras.layers.Dense(5, dtype="bfloat16")),
            "dtype='float32'.*dtype bfloat16",
        ),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises((ValueError, AttributeError), match=message):
        build()


@pytest.mark.parametrize(
    "name, head, kind",
    [
        *[(name, "cosplus", layers.CosPlusClassifier) for name in BUILDERS],
        ("small_resnet", "cosine", layers.CosineClassifier),
        ("small_resnet", "linear", keras.layers.Dense),
        ("vit", "linear", keras.layers.Dense),
    ],
)
@pytest.mark.slow_on_jax
def test_every_network_takes_a_head(name, head, kind):
    # The initial values do not matter, and drawing them takes most of the time.
    with keras.StatelessScope():
        network = small(name, head=head)
    logits = network.layers[-1]
    assert (type(logits), logits.name) == (kind, "logits")
    assert logits.input is network.get_layer("features").output
    assert network.output_shape == (None, 5)


def test_a_layer_of_ones_own_is_the_head():
    head = layers.CosPlusClassifier(5, scale=10.0, eta=0.5, name="mine")
    network = small("small_resnet", head=head)
    assert network.layers[-1] is head
    assert network(np.zeros((2, 8, 8, 3))).shape == (2, 5)


@pytest.mark.parametrize("head", ["cosine", "cosplus"])
def test_plain_gives_the_same_outputs(head, tmp_path):
    network = small("small_resnet", head=head)
    x = np.random.default_rng(0).random((4, 8, 8, 3), "float32")
    network(x, training=True)  # moves the statistics
    networks.plain(network).save(tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    np.testing.assert_allclose(as_numpy(loaded(x)), as_numpy(network(x)), atol=1e-5)
    for layer in loaded._flatten_layers(include_self=False):
        assert type(layer).__module__.startswith("keras.")


def test_plain_keeps_zero_features_at_zero():
    head = layers.CosineClassifier(2)
    network = keras.Sequential([keras.Input((3,)), head])
    features = np.array([[0, 0, 0], [1, 2, 3]], "float32")
    outputs = as_numpy(networks.plain(network)(features))
    np.testing.assert_allclose(outputs, as_numpy(network(features)), atol=1e-5)
    np.testing.assert_array_equal(outputs[0], 0)


def test_plain_refuses_a_head_without_a_counterpart():
    network = small("small_resnet", head=layers.CosPlusClassifier(5, eta=0.5))
    with pytest.raises(ValueError, match="type CosPlusClassifier.*keras_robustlt.lay"):
        networks.plain(network)


@pytest.mark.parametrize("head", ["cosine", "cosplus"])
def test_networks_with_heads_survive_saving(head, tmp_path):
    network = small("small_resnet", head=head)
    x = np.random.default_rng(0).random((2, 8, 8, 3), "float32")
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    assert type(loaded.layers[-1]) is type(network.layers[-1])
    np.testing.assert_allclose(as_numpy(loaded(x)), as_numpy(network(x)), atol=1e-6)


def test_a_step_from_zero_features_is_finite(images):
    x, y = images
    network = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(4, kernel_initializer="zeros"),
            layers.CosineClassifier(3),
        ]
    )
    model = krl.RobustLTModel(network, [4, 4, 4], epsilon=0.1)
    model.compile(krl.optimizers.SGD(0.1))
    history = model.fit(x, y, batch_size=12, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    assert all(np.all(np.isfinite(w)) for w in network.get_weights())


@pytest.mark.parametrize("method", ["robal", "ldam"])
def test_methods_for_cosines_warn_of_other_logits(method):
    def warned(network):
        with warnings.catch_warnings(record=True) as found:
            warnings.simplefilter("always")
            krl.RobustLTModel(network, [8, 4, 2], method=method)
        return ["cosine classifier" in str(each.message) for each in found]

    def network(head):
        return networks.SmallResNet(widths=(4,), classes=3, head=head)

    inside = keras.Sequential([keras.Input((8, 8, 1)), network("linear")])
    assert warned(network("linear")) == warned(inside) == [True]
    assert warned(network("cosplus")) == warned(network("cosine")) == []
    assert warned(networks.plain(network("cosine"))) == []
