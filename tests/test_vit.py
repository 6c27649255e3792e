"""The vision transformer, and the layers that only it has."""

import math
import re

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import tiny_model, weights_of

from keras_robustlt import backend, layers, networks

pytestmark = pytest.mark.slow_on_jax
BACKEND = keras.backend.backend()


def tiny_vit(**arguments):
    settings = {"input_shape": (6, 6, 3), "patch_size": 3, "classes": 3}
    settings |= {"width": 8, "depth": 2, "heads": 2, "mlp_ratio": 2}
    return networks.ViT(**{**settings, **arguments})


def as_numpy(tensor):
    return ops.convert_to_numpy(tensor)


def count(network):
    return sum(int(np.prod(v.shape)) for v in network.trainable_variables)


def expected_count(tokens, patch, width, depth, hidden, classes):
    """Weights of a vision transformer: patches, token, positions, blocks, head."""
    norm = 2 * width
    attention = 4 * (width * width + width)
    mlp = width * hidden + hidden + hidden * width + width
    ends = (patch * width + width) + width + (tokens + 1) * width
    return ends + depth * (2 * norm + attention + mlp) + norm + (width + 1) * classes


@pytest.mark.parametrize(
    "arguments, shape, expected",
    [
        ({}, (64, 48, 192, 12, 768, 10), 5_362_762),
        (
            {"input_shape": (64, 64, 3), "classes": 20},
            (64, 192, 192, 12, 768, 20),
            5_392_340,
        ),
    ],
)
def test_the_default_is_of_the_shape_of_deit_tiny(arguments, shape, expected):
    # The initial values do not matter here, and drawing them takes most of the time.
    with keras.StatelessScope():
        network = networks.get("vit-tiny", **arguments)
    assert count(network) == expected_count(*shape) == expected
    assert network.get_layer("features").output.shape == (None, 192)


def test_small_variants():
    network = tiny_vit(input_shape=(6, 9, 1), mean=0.5, std=0.2)
    assert count(network) == expected_count(6, 9, 8, 2, 16, 3)
    assert network.output_shape == (None, 3)


def test_equals_a_numpy_restatement():
    network = tiny_vit(mean=0.4, std=0.25)
    generator = np.random.default_rng(0)
    for variable in network.weights:
        variable.assign(generator.uniform(-0.5, 0.5, variable.shape))
    images = generator.random((2, 6, 6, 3))

    def norm(x, gamma, beta):
        x = x - x.mean(-1, keepdims=True)
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) * gamma + beta

    def attention(x, wq, bq, wk, bk, wv, bv, wo, bo):
        q, k, v = (
            np.einsum("btd,dhk->bhtk", x, w) + b[:, None]
            for w, b in ((wq, bq), (wk, bk), (wv, bv))
        )
        scores = np.exp(q @ k.transpose(0, 1, 3, 2) / np.sqrt(4))  # 4 channels a head
        probabilities = scores / scores.sum(-1, keepdims=True)
        return np.einsum("bhtk,hkd->btd", probabilities @ v, wo) + bo

    gelu = np.vectorize(lambda z: z * (1 + math.erf(z / math.sqrt(2))) / 2)
    weights = {layer.name: layer.get_weights() for layer in network.layers}
    in_order = iter(
        layer.get_weights()
        for layer in network.layers
        if re.match("layer_norm|multi_head|dense", layer.name)
    )
    kernel, bias = weights["patches"]
    patches = (images - 0.4) / 0.25
    patches = patches.reshape(2, 2, 3, 2, 3, 3).transpose(0, 1, 3, 2, 4, 5)
    x = patches.reshape(2, 4, 27) @ kernel.reshape(27, 8) + bias
    token = np.broadcast_to(*weights["class_token"], (2, 1, 8))
    x = np.concatenate([token, x], axis=1) + weights["position_embedding"][0]
    for _ in range(2):
        x = x + attention(norm(x, *next(in_order)), *next(in_order))
        normalized = norm(x, *next(in_order))
        (w1, b1), (w2, b2) = next(in_order), next(in_order)
        x = x + gelu(normalized @ w1 + b1) @ w2 + b2
    features = norm(x[:, 0], *weights["features"])
    kernel, bias = weights["logits"]
    np.testing.assert_allclose(
        as_numpy(network(images)), features @ kernel + bias, rtol=1e-4, atol=1e-5
    )


def test_initial_weights_are_those_of_deit():
    network = networks.ViT(width=96, depth=1, classes=50)
    for layer in network.layers:
        for variable in layer.weights:
            values = as_numpy(variable)
            if layer.name == "patches":
                assert 0.8 / math.sqrt(48) < np.abs(values).max()
                assert np.abs(values).max() <= 1.000001 / math.sqrt(48)
            elif variable.name in ("beta", "bias"):
                assert not values.any()
            elif variable.name == "gamma":
                assert np.all(values == 1)
            else:
                assert abs(values.std() / 0.02 - 1) < 4 / math.sqrt(2 * values.size)


def test_the_seed_governs_the_weights_and_no_two_are_alike():
    def draw(seed):
        keras.utils.set_random_seed(seed)
        return tiny_vit().get_weights()

    first, same, other = draw(1), draw(1), draw(2)
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first[0] - other[0]).max() > 0
    drawn = [w.ravel() for w in first if w.std() > 0 and w.size >= 8]
    assert len({values[:8].tobytes() for values in drawn}) == len(drawn)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_softmax_and_logits_are_float32_under_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    network = tiny_vit(dropout=0.1)
    assert network.output.dtype == "float32"
    x = ops.zeros((2, 6, 6, 3))
    if BACKEND == "tensorflow":
        import tensorflow as tf

        traced = tf.function(lambda x: network(x, training=True))
        operations = traced.get_concrete_function(x).graph.get_operations()
        types = [o.inputs[0].dtype.name for o in operations if o.type == "Softmax"]
        assert types == ["float32"] * 2
        # Everything else is in half precision, or this would say nothing.
        products = [o for o in operations if o.type in ("BatchMatMulV2", "Einsum")]
        half = policy.removeprefix("mixed_")
        assert half in {o.inputs[0].dtype.name for o in products}
    elif BACKEND == "jax":
        import jax

        program = str(jax.make_jaxpr(lambda x: network(x, training=True))(x))
        types = re.findall(r":(\w+)\[[\d,]*\] = exp\b", program)
        assert types == ["f32"] * 2
        assert {"mixed_bfloat16": "bf16[", "mixed_float16": "f16["}[policy] in program
    else:
        pytest.skip(f"no way to see the types on {BACKEND}")


def test_a_frozen_forward_repeats_its_dropout_and_moves_nothing(images):
    x = images[0]
    network = tiny_vit(dropout=0.3)
    before = [as_numpy(v) for v in network.variables]
    forward = backend.frozen(network)
    first, second = (as_numpy(forward(x, training=True)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
    assert np.abs(first - as_numpy(forward(x))).max() > 1e-3
    for variable, value in zip(network.variables, before, strict=True):
        np.testing.assert_array_equal(as_numpy(variable), value)
    # Outside, each call draws anew.
    assert np.abs(first - as_numpy(network(x, training=True))).max() < 1e-6
    assert np.abs(first - as_numpy(network(x, training=True))).max() > 1e-3


def test_the_gradient_of_the_input_is_finite_and_right(images):
    x = ops.convert_to_tensor(images[0][:2])
    network = tiny_vit(dropout=0.1)
    forward = backend.frozen(network)
    direction = np.random.default_rng(0).normal(size=x.shape).astype("float32")

    def total(x):
        return ops.sum(forward(x, training=True)[:, 0])

    step = 1e-2 * ops.convert_to_tensor(direction)
    gradient, rise = backend.compiled(
        lambda x, step: (backend.gradient(total, x), total(x + step) - total(x - step)),
        network.variables,
    )(x, step)
    assert np.all(np.isfinite(as_numpy(gradient)))
    expected = float(rise) / 0.02
    np.testing.assert_allclose(np.sum(gradient * direction), expected, rtol=2e-2)


@pytest.mark.parametrize(
    "policy", ["float32", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_trains(images, policy):
    keras.config.set_dtype_policy(policy)
    network = tiny_vit(depth=1, dropout=0.1)
    model = tiny_model(network, [4, 4, 4])
    before = [w.copy() for w in network.get_weights()]
    history = model.fit(*images, batch_size=6, epochs=2, verbose=0)
    assert np.all(np.isfinite(history.history["loss"]))
    assert np.all(np.isfinite(weights_of(model)))
    # All that is trained moved, but the bias of the keys, of which the softmax knows
    # nothing.
    for variable, old in zip(network.weights, before, strict=True):
        if not variable.path.endswith("key/bias"):
            assert np.abs(as_numpy(variable) - old).max() > 0, variable.path


@pytest.mark.parametrize(
    "policy, head", [("float32", "cosplus"), ("mixed_bfloat16", "linear")]
)
def test_plain_gives_the_same_outputs(images, policy, head, tmp_path):
    keras.config.set_dtype_policy(policy)
    network = tiny_vit(head=head)
    networks.plain(network).save(tmp_path / "plain.keras")
    loaded = keras.saving.load_model(tmp_path / "plain.keras")
    for layer in loaded._flatten_layers(include_self=False):
        assert type(layer).__module__.startswith("keras.")
    outputs, x = as_numpy(network(images[0])), images[0]
    tolerance = 1e-5 if policy == "float32" else 1e-2 * np.abs(outputs).max()
    np.testing.assert_allclose(as_numpy(loaded(x)), outputs, atol=tolerance)


def test_survives_saving(images, tmp_path):
    network = tiny_vit(dropout=0.1)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    x = images[0]
    np.testing.assert_array_equal(as_numpy(loaded(x)), as_numpy(network(x)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("layer_class", [layers.ClassToken, layers.PositionEmbedding])
def test_token_layers(layer_class, dtype):
    layer = layer_class(dtype=dtype, name="mine")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is layer_class
    assert copy.get_config() == layer.get_config()
    outputs = layer(ops.zeros((2, 3, 4), dtype))
    assert keras.backend.standardize_dtype(outputs.dtype) == dtype
    assert tuple(outputs.shape) == layer.compute_output_shape((2, 3, 4))
    weight = as_numpy(ops.cast(layer.weights[0], "float32"))
    length = weight.shape[1]
    outputs = as_numpy(ops.cast(outputs, "float32"))
    np.testing.assert_allclose(outputs[:, :length], np.repeat(weight, 2, 0))
    np.testing.assert_array_equal(outputs[:, length:], 0)


def test_positions_need_a_known_length():
    assert layers.ClassToken().compute_output_shape((None, None, 4)) == (None, None, 4)
    with pytest.raises(ValueError, match=r"must be known.*input_shape=\(None, None, 4"):
        layers.PositionEmbedding()(keras.Input((None, 4)))


@pytest.mark.parametrize("layer_class", [layers.ClassToken, layers.PositionEmbedding])
@pytest.mark.parametrize("shape", [(2, 4), (2, 3, 3, 4)])
def test_token_layers_take_sequences(layer_class, shape):
    with pytest.raises(ValueError, match="expected ndim=3"):
        layer_class()(ops.zeros(shape))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"patch_size": 4}, r"`patch_size` must divide.*patch_size=4.*\(6, 6, 3\)"),
        ({"patch_size": 0}, "`patch_size` must be an integer.*Received: 0"),
        ({"input_shape": (None, 6, 3)}, "`input_shape` must have a known height"),
        ({"input_shape": (6, 6)}, "`input_shape` must be"),
        ({"heads": 3}, "`heads` must divide `width`.*heads=3, width=8"),
        ({"depth": 0}, "`depth` must be an integer.*Received: 0"),
        ({"width": 0}, "`width` must be an integer"),
        ({"heads": 0}, "`heads` must be an integer"),
        ({"mlp_ratio": 0}, "`mlp_ratio` must be an integer"),
        ({"dropout": 1.0}, r"`dropout` must be in \[0, 1\).*dropout=1.0"),
        ({"classes": 1}, "`classes` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_vit(**arguments)
