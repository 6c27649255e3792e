import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import ops

from keras_robustlt import layers, networks


def count(variables):
    return sum(int(np.prod(variable.shape)) for variable in variables)


@pytest.mark.parametrize(
    "name, parameters",
    [
        ("wrn-10-1", 77_850),
        pytest.param("wrn-28-10", 36_479_194, marks=pytest.mark.slow),
        # Much the same as the one before; tracing takes JAX long.
        pytest.param("wrn-34-10", 46_160_474, marks=pytest.mark.tensorflow),
        ("resnet18", 11_173_962),
        ("resnet34", 21_282_122),
        pytest.param("resnet50", 23_520_842, marks=pytest.mark.tensorflow),
        ("preact_resnet18", 11_172_170),
        ("small_resnet", 308_074),
        ("small_resnet-16", 77_754),
    ],
)
def test_parameter_counts(name, parameters):
    # The initial values do not matter here, and drawing them takes most of the time.
    with keras.StatelessScope():
        network = networks.get(name)
    assert count(network.trainable_variables) == parameters


@pytest.mark.parametrize(
    "name, arguments",
    [
        ("wrn-10-1", {}),
        ("resnet18", {"input_shape": (8, 8, 3)}),
        pytest.param(
            "resnet50",
            {"input_shape": (None, None, 3), "classes": 3},
            marks=pytest.mark.slow,
        ),
        ("preact_resnet18", {"input_shape": (8, 8, 3)}),
        ("small_resnet", {"classes": 7}),
    ],
)
def test_initial_weights_follow_pytorch(name, arguments):
    network = networks.get(name, **arguments)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            check_initial_kernel(layer, normal=name.startswith("wrn"))


def check_initial_kernel(layer, normal):
    kernel = layer.kernel.numpy()
    fan_in = kernel[..., 0].size
    if normal and isinstance(layer, keras.layers.Conv2D):
        area, filters = kernel.shape[0] * kernel.shape[1], kernel.shape[3]
        std = np.sqrt(2 / (area * filters))
        # Four standard errors of the estimate.
        assert abs(kernel.std() / std - 1) < 4 / np.sqrt(2 * kernel.size)
        # A truncated normal would end at two standard deviations.
        assert kernel.size < 1000 or np.abs(kernel).max() > 2.5 * std
        return
    bound = 1 / np.sqrt(fan_in)
    assert np.abs(kernel).max() <= bound * 1.000001  # float32
    assert kernel.size < 1000 or np.abs(kernel).max() > 0.98 * bound
    if layer.use_bias:
        assert 0 < np.abs(layer.bias.numpy()).max() <= bound * 1.000001


def test_the_global_seed_governs_the_weights():
    def draw(seed):
        keras.utils.set_random_seed(seed)
        return networks.SmallResNet().get_weights()

    first, same, other = draw(1), draw(1), draw(2)
    for a, b in zip(first, same, strict=True):
        np.testing.assert_array_equal(a, b)
    assert np.abs(first[0] - other[0]).max() > 0


def convolve(x, kernel, strides=1):
    """Convolution in NumPy, padding (size - 1) / 2 on every side."""
    size = kernel.shape[0]
    pad = (size - 1) // 2
    x = np.pad(x, [(0, 0), (pad, pad), (pad, pad), (0, 0)])
    out = 0.0
    for i in range(size):
        for j in range(size):
            rows = slice(i, x.shape[1] - size + i + 1, strides)
            columns = slice(j, x.shape[2] - size + j + 1, strides)
            out = out + x[:, rows, columns] @ kernel[i, j]
    return out


class Restatement:
    """The layers in NumPy, in inference mode, taking the weights in their order."""

    def __init__(self, weights):
        self.weights = iter(weights)

    def conv(self, x, strides=1):
        return convolve(x, next(self.weights), strides)

    def bn(self, x):
        gamma, beta, mean, variance = (next(self.weights) for _ in range(4))
        return (x - mean) / np.sqrt(variance + 1e-5) * gamma + beta

    def dense(self, x):
        return x @ next(self.weights) + next(self.weights)


def relu(x):
    return np.maximum(x, 0)


def randomize(network):
    generator = np.random.default_rng(4)
    for variable in network.weights:
        low = 0.5 if "variance" in variable.name or "gamma" in variable.name else -0.5
        variable.assign(generator.uniform(low, low + 1, variable.shape))


def layer_weights(network, kinds):
    """Weights of the layers, in the order of creation that `kinds` spells out."""

    def created(layer):
        """Keras numbers the names: conv2d, conv2d_1, conv2d_2, ..."""
        number = layer.name.rpartition("_")[2]
        return int(number) if number.isdigit() else 0

    found = {"conv": [], "bn": [], "dense": []}
    for layer in sorted(network.layers, key=created):
        if isinstance(layer, keras.layers.Conv2D):
            found["conv"].append(layer)
        elif isinstance(layer, layers.BatchNormalization):
            found["bn"].append(layer)
        elif isinstance(layer, keras.layers.Dense):
            found["dense"].append(layer)
    weights = []
    for kind in kinds:
        weights += found[kind].pop(0).get_weights()
    assert not any(found.values())
    return weights


def test_wide_resnet_equals_a_numpy_restatement():
    network = networks.WideResNet(
        10, 1, classes=3, input_shape=(6, 6, 2), mean=(0.4, 0.5), std=(0.2, 0.25)
    )
    randomize(network)
    block = ["bn", "conv", "bn", "conv"]
    n = Restatement(
        layer_weights(
            network,
            ["conv", *block] + 2 * [*block, "conv"] + ["bn", "dense"],
        )
    )
    images = np.random.default_rng(5).random((2, 6, 6, 2))
    x = n.conv((images - (0.4, 0.5)) / (0.2, 0.25))
    # With width 1, the first stage keeps its 16 channels: a plain identity.
    x = x + n.conv(relu(n.bn(n.conv(relu(n.bn(x))))))
    for _ in range(2):
        activated = relu(n.bn(x))
        residual = n.conv(relu(n.bn(n.conv(activated, strides=2))))
        x = n.conv(activated, strides=2) + residual
    expected = n.dense(relu(n.bn(x)).mean((1, 2)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(network(images)), expected, rtol=1e-4, atol=1e-3
    )


def test_small_resnet_equals_a_numpy_restatement():
    network = networks.SmallResNet(classes=3, input_shape=(6, 6, 1))
    randomize(network)
    block = ["conv", "bn", "conv", "bn"]
    n = Restatement(
        layer_weights(
            network, ["conv", "bn", *block] + 2 * [*block, "conv", "bn"] + ["dense"]
        )
    )
    images = np.random.default_rng(5).random((2, 6, 6, 1))
    x = relu(n.bn(n.conv(images)))
    x = relu(x + n.bn(n.conv(relu(n.bn(n.conv(x))))))
    for _ in range(2):
        residual = n.bn(n.conv(relu(n.bn(n.conv(x, strides=2)))))
        x = relu(residual + n.bn(n.conv(x, strides=2)))
    expected = n.dense(x.mean((1, 2)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(network(images)), expected, rtol=1e-4, atol=1e-3
    )


def test_preact_resnet18_equals_a_numpy_restatement():
    network = networks.PreActResNet18(
        classes=3, input_shape=(8, 8, 3), mean=(0.4, 0.5, 0.6), std=0.25
    )
    # Random kernels would let the values grow from layer to layer.
    generator = np.random.default_rng(4)
    for variable in network.weights:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(generator.uniform(0.5, 1.5, variable.shape))
        elif variable.name in ("beta", "moving_mean"):
            variable.assign(generator.uniform(-0.5, 0.5, variable.shape))
    block = ["bn", "conv", "bn", "conv"]
    n = Restatement(
        layer_weights(
            network,
            ["conv", *block, *block] + 3 * [*block, "conv", *block] + ["bn", "dense"],
        )
    )

    def identity_block(x):
        return x + n.conv(relu(n.bn(n.conv(relu(n.bn(x))))))

    images = np.random.default_rng(5).random((2, 8, 8, 3))
    x = identity_block(identity_block(n.conv((images - (0.4, 0.5, 0.6)) / 0.25)))
    for _ in range(3):
        activated = relu(n.bn(x))
        residual = n.conv(relu(n.bn(n.conv(activated, strides=2))))
        x = identity_block(n.conv(activated, strides=2) + residual)
    expected = n.dense(relu(n.bn(x)).mean((1, 2)))
    np.testing.assert_allclose(
        ops.convert_to_numpy(network(images)), expected, rtol=1e-4, atol=1e-4
    )


def test_bottleneck_blocks_stride_in_their_3x3_convolution():
    network = networks.ResNet50(input_shape=(8, 8, 3))
    strided = [
        layer.kernel_size[0]
        for layer in network.layers
        if isinstance(layer, keras.layers.Conv2D) and layer.strides == (2, 2)
    ]
    assert sorted(strided) == [1, 1, 1, 3, 3, 3]
    assert network.get_layer("features").input.shape == (None, 1, 1, 2048)


@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_logits_are_float32_under_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    network = networks.WideResNet(10, 1, input_shape=(8, 8, 3))
    assert network.output.dtype == "float32"
    assert network.get_layer("normalization").compute_dtype == "float32"
    convolutions = [x for x in network.layers if isinstance(x, keras.layers.Conv2D)]
    assert {x.compute_dtype for x in convolutions} == {policy.removeprefix("mixed_")}


def nested():
    inputs = keras.Input((8, 8, 1))
    inner = keras.Sequential([keras.layers.Rescaling(2.0), networks.SmallResNet()])
    return keras.Model(inputs, inner(inputs))


@pytest.mark.parametrize(
    "build",
    [lambda: networks.WideResNet(10, 1), networks.SmallResNet, nested],
    ids=["wide_resnet", "small_resnet", "nested"],
)
def test_plain_gives_the_same_outputs(build):
    network = build()
    copy = networks.plain(network)
    x = np.random.default_rng(6).random((2, *network.input_shape[1:]), "float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(copy(x)), ops.convert_to_numpy(network(x)), atol=1e-5
    )


@pytest.mark.slow_on_jax
def test_plain_networks_load_without_the_package(tmp_path):
    network = nested()
    x = np.random.default_rng(7).random((2, 8, 8, 1), "float32")
    network(x, training=True)  # moves the statistics
    networks.plain(network).save(tmp_path / "plain.keras")
    np.save(tmp_path / "x.npy", x)
    program = """
import sys
sys.modules["keras_robustlt"] = None  # importing it raises ImportError
import keras, numpy as np
network = keras.saving.load_model("plain.keras")
np.save("outputs.npy", keras.ops.convert_to_numpy(network(np.load("x.npy"))))
"""
    subprocess.run([sys.executable, "-c", program], cwd=tmp_path, check=True)
    np.testing.assert_allclose(
        np.load(tmp_path / "outputs.npy"),
        ops.convert_to_numpy(network(x)),
        atol=1e-5,
    )


def test_networks_survive_saving(tmp_path):
    network = networks.SmallResNet()
    x = np.random.default_rng(8).random((2, 8, 8, 1), "float32")
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(
        ops.convert_to_numpy(loaded(x)), ops.convert_to_numpy(network(x)), atol=1e-6
    )


def test_plain_refuses_what_it_cannot_replace():
    class Subclassed(keras.Model):
        pass

    class OwnLayer(keras.layers.Layer):
        __module__ = "keras_robustlt.heads"

    with pytest.raises(ValueError, match="functional or sequential.*type Subclassed"):
        networks.plain(Subclassed())
    with pytest.raises(ValueError, match="layer cosine of type OwnLayer"):
        networks.plain(keras.Sequential([keras.Input((2,)), OwnLayer(name="cosine")]))


def test_plain_keeps_layers_of_others():
    class Described(keras.Model):
        """A functional model with a configuration of its own, as KerasHub's have."""

        def __init__(self, units, **arguments):
            inputs = keras.Input((2,))
            super().__init__(inputs, Unknown(units)(inputs), **arguments)
            self.units = units

        def get_config(self):
            return {"units": self.units, "name": self.name}

        @classmethod
        def from_config(cls, config):
            return cls(**config)

    class Unknown(keras.layers.Dense):
        def __init__(self, units, **arguments):
            super().__init__(units)

        def get_config(self):
            raise NotImplementedError("no configuration")

    own, shared = layers.BatchNormalization(), keras.layers.Dense(2)
    inputs = keras.Input((2,))
    inner = keras.Sequential([keras.Input((2,)), own, shared])
    network = keras.Model(inputs, Described(3)(inner(shared(inner(inputs)))))
    copy = networks.plain(network)
    x = np.random.default_rng(0).random((4, 2), "float32")
    np.testing.assert_allclose(
        ops.convert_to_numpy(copy(x)), ops.convert_to_numpy(network(x)), atol=1e-6
    )
    assert copy.count_params() == network.count_params()
    assert type(copy.layers[-1]) is Described
    assert not {*map(id, copy.weights)} & {*map(id, network.weights)}
    with pytest.raises(
        ValueError, match="cannot be copied: .* of type Unknown.*no conf"
    ):
        networks.plain(keras.Sequential([keras.Input((2,)), Unknown(3)]))


def test_plain_finds_layers_of_this_package_inside_of_others():
    class Holder(keras.layers.Layer):
        def __init__(self, **arguments):
            super().__init__(**arguments)
            self.inner = layers.BatchNormalization(name="hidden")

        def call(self, x):
            return self.inner(x)

    network = keras.Sequential([keras.Input((2,)), Holder(name="holder")])
    with pytest.raises(ValueError, match="layer hidden of type .* inside of holder"):
        networks.plain(network)


@pytest.mark.parametrize(
    "build, message",
    [
        (lambda: networks.WideResNet(12, 1), r"`depth` must be 6 n \+ 4.*depth=12"),
        (lambda: networks.WideResNet(4, 1), "depth=4"),
        (lambda: networks.WideResNet(10, 0), "`width` must be.*Received: 0"),
        (
            lambda: networks.WideResNet(10, 1.5),
            "`width` must be an integer.*Received: 1.5",
        ),
        (lambda: networks.WideResNet(10, 1, classes=1), "`classes` must.*Received: 1"),
        (lambda: networks.ResNet18(input_shape=(32, 32)), "`input_shape` must be"),
        (lambda: networks.ResNet18(input_shape=(32, 32, 1)), "`mean` must be one num"),
        (lambda: networks.SmallResNet(std=0), "`std` must be a number above 0"),
        (lambda: networks.SmallResNet(widths=(16, 0)), "`widths` must.*Received: 0"),
        (lambda: networks.get("vgg"), "one of wrn-.*resnet18.*small_resnet.*'vgg'"),
        (lambda: networks.get("wrn-28"), "such as wrn-28-10"),
    ],
)
def test_bad_arguments(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_get_hands_arguments_through():
    network = networks.get("wrn-16-2", classes=5, input_shape=(8, 8, 3), name="mine")
    assert network.name == "mine"
    assert network.output_shape == (None, 5)
    assert networks.get("wrn-10-1").name == "wrn_10_1"
    small = networks.get("small_resnet", widths=(4, 8))
    assert small.get_layer("features").output.shape == (None, 8)


@pytest.mark.parametrize("channels", [4, 8, 12])
def test_strided_shortcuts_of_few_channels(channels):
    """The gradient of their kernels, where oneDNN's was wrong, is that of a sum."""
    x = np.random.default_rng(0).random((4, 8, 8, channels), "float32")
    inputs = keras.Input((8, 8, channels))
    layers = keras.Model(inputs, networks.parts.convolution(inputs, 8, 1, 2))
    (kernel,) = layers.trainable_weights
    outputs = ops.convert_to_numpy(layers(x))
    expected = np.einsum("nijc,cd->nijd", x[:, ::2, ::2], kernel.numpy()[0, 0])
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    convolutions = [a for a in layers.layers if isinstance(a, keras.layers.Conv2D)]
    assert [a.strides for a in convolutions] == [(1, 1)]
