import keras
import numpy as np
import pytest
from keras import ops
from tiny_cnn import group, tiny_cnn

from keras_robustlt import layers

BACKEND = keras.backend.backend()
SETTINGS = {"momentum": 0.9, "epsilon": 1e-5}


def images(shape=(4, 3, 5, 2), dtype="float32"):
    generator = np.random.default_rng(0)
    values = generator.normal(1.0, 2.0, size=shape).astype("float32")
    return ops.cast(values, dtype)


def build_pair(shape, **arguments):
    """Our layer and the stock one, with the same random weights."""
    ours = layers.BatchNormalization(**arguments)
    stock = keras.layers.BatchNormalization(**{**SETTINGS, **arguments})
    generator = np.random.default_rng(1)
    for layer in (ours, stock):
        layer.build(shape)
    stock.set_weights([generator.uniform(0.5, 2, w.shape) for w in stock.weights])
    ours.set_weights(stock.get_weights())
    return ours, stock


def as_numpy(tensor):
    return ops.convert_to_numpy(ops.cast(tensor, "float32"))


def gradients(layer, x, training):
    """Gradients of sum(outputs * fixed) with respect to inputs and weights."""
    fixed = ops.cast(np.random.default_rng(2).normal(size=x.shape), "float32")
    if BACKEND == "tensorflow":
        import tensorflow as tf

        variables = [v.value for v in layer.trainable_variables]
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = ops.sum(ops.cast(layer(x, training=training), "float32") * fixed)
        return tape.gradient(total, [x, *variables])
    if BACKEND == "jax":
        import jax

        trainable = [v.value for v in layer.trainable_variables]
        rest = [v.value for v in layer.non_trainable_variables]

        def total(x, trainable):
            outputs, _ = layer.stateless_call(trainable, rest, x, training=training)
            return ops.sum(ops.cast(outputs, "float32") * fixed)

        of_x, of_weights = jax.grad(total, argnums=(0, 1))(x, trainable)
        return [of_x, *of_weights]
    pytest.skip(f"no gradient helper for {BACKEND}")


@pytest.mark.parametrize(
    "shape, arguments",
    [
        ((4, 3, 5, 2), {}),
        ((4, 3, 5, 2), {"axis": 3}),
        ((4, 3, 5, 2), {"axis": 1}),
        ((4, 3, 5, 2), {"scale": False}),
        ((4, 3, 5, 2), {"center": False}),
        ((6, 3), {}),
        ((3, 2, 2, 2, 2), {}),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_outputs_and_gradients_equal_stock(shape, arguments, training):
    ours, stock = build_pair(shape, **arguments)
    x = images(shape)
    np.testing.assert_allclose(
        as_numpy(ours(x, training=training)),
        as_numpy(stock(x, training=training)),
        atol=1e-5,
    )
    for a, b in zip(
        gradients(ours, x, training), gradients(stock, x, training), strict=True
    ):
        np.testing.assert_allclose(as_numpy(a), as_numpy(b), atol=1e-4)


@pytest.mark.parametrize(
    "policy",
    [
        "mixed_bfloat16",
        "mixed_float16",
        pytest.param(
            "float64",
            marks=pytest.mark.skipif(BACKEND == "jax", reason="JAX has it off"),
        ),
    ],
)
@pytest.mark.parametrize("training", [True, False])
def test_other_precisions_equal_stock(policy, training):
    shape = (4, 3, 5, 2)
    ours, stock = build_pair(shape, dtype=policy)
    x = images(shape, ours.compute_dtype)
    a, b = ours(x, training=training), stock(x, training=training)
    assert keras.backend.standardize_dtype(a.dtype) == ours.compute_dtype
    # One unit in the last place at the size of the outputs.
    tolerance = {"mixed_bfloat16": 2**-6, "mixed_float16": 2**-9}.get(policy, 1e-6)
    np.testing.assert_allclose(as_numpy(a), as_numpy(b), atol=tolerance, rtol=0)
    for variable in ours.variables:
        assert keras.backend.standardize_dtype(variable.dtype) in (
            "float32",
            "float64",
        )
    of_ours, of_stock = gradients(ours, x, training), gradients(stock, x, training)
    for a, b in zip(of_ours, of_stock, strict=True):
        scale = np.abs(as_numpy(b)).max()
        np.testing.assert_allclose(as_numpy(a), as_numpy(b), atol=4 * tolerance * scale)


@pytest.mark.parametrize("shape", [(4, 3, 5, 2), (7, 2)])
def test_moving_variance_is_unbiased(shape):
    layer = layers.BatchNormalization()
    x = images(shape)
    layer(x, training=True)
    values = as_numpy(x).reshape(-1, 2)
    np.testing.assert_allclose(
        layer.moving_mean.numpy(), 0.1 * values.mean(0), rtol=1e-5
    )
    np.testing.assert_allclose(
        layer.moving_variance.numpy(), 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-5
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (1, 2)])
def test_a_single_value_has_no_variance(shape):
    layer = layers.BatchNormalization()
    layer(images(shape), training=True)
    np.testing.assert_allclose(layer.moving_variance.numpy(), [0.9, 0.9], rtol=1e-6)


@pytest.mark.parametrize(
    "training, trainable", [(False, True), (None, True), (True, False)]
)
def test_inference_moves_nothing(training, trainable):
    layer = layers.BatchNormalization(trainable=trainable)
    x = images()
    outputs = layer(x, training=training)
    np.testing.assert_allclose(as_numpy(outputs), as_numpy(x), rtol=1e-4)
    np.testing.assert_array_equal(layer.moving_mean.numpy(), [0, 0])
    np.testing.assert_array_equal(layer.moving_variance.numpy(), [1, 1])


@pytest.mark.parametrize("compiled", [False, True])
def test_stateless_scope_records_and_moves_nothing(compiled):
    layer = layers.BatchNormalization()
    layer.build((None, 3, 5, 2))
    x = images()

    def scoped(x):
        gamma = (layer.gamma, ops.full((2,), 3.0))
        with keras.StatelessScope(state_mapping=[gamma]) as scope:
            outputs = layer(x, training=True)
        return outputs, scope.get_current_value(layer.moving_variance)

    if compiled and BACKEND == "tensorflow":
        import tensorflow as tf

        scoped = tf.function(scoped, jit_compile=True)
    elif compiled and BACKEND == "jax":
        import jax

        scoped = jax.jit(scoped)
    outputs, recorded = scoped(x)
    np.testing.assert_array_equal(layer.moving_variance.numpy(), [1, 1])
    values = as_numpy(x).reshape(-1, 2)
    np.testing.assert_allclose(
        as_numpy(recorded), 0.9 + 0.1 * values.var(0, ddof=1), rtol=1e-5
    )
    normalized = (values - values.mean(0)) / np.sqrt(values.var(0) + 1e-5)
    np.testing.assert_allclose(
        as_numpy(outputs).reshape(-1, 2), 3 * normalized, atol=1e-4
    )


@pytest.mark.parametrize("jit_compile", [False, True])
def test_trains_compiled_with_a_varying_batch_size(jit_compile):
    model = keras.Sequential([keras.Input((3, 5, 2)), layers.BatchNormalization()])
    model.compile("sgd", loss="mse", jit_compile=jit_compile)
    x = as_numpy(images((5, 3, 5, 2)))
    model.fit(x, x, batch_size=3, shuffle=False, verbose=0)
    variance = np.ones(2)
    for batch in (x[:3], x[3:]):
        variance = 0.9 * variance + 0.1 * batch.reshape(-1, 2).var(0, ddof=1)
    np.testing.assert_allclose(
        model.layers[-1].moving_variance.numpy(), variance, rtol=1e-5
    )


def test_a_mask_takes_the_stock_path():
    ours, stock = build_pair((4, 3, 2))
    x = images((4, 3, 2))
    mask = np.random.default_rng(3).uniform(size=(4, 3)) < 0.6
    a = ours(x, training=True, mask=ops.convert_to_tensor(mask))
    b = stock(x, training=True, mask=ops.convert_to_tensor(mask))
    np.testing.assert_allclose(as_numpy(a), as_numpy(b), atol=1e-6)
    for ours_weight, stock_weight in zip(ours.weights, stock.weights, strict=True):
        np.testing.assert_allclose(ours_weight.numpy(), stock_weight.numpy(), rtol=1e-6)


def test_serialization():
    layer = layers.BatchNormalization(axis=1, momentum=0.7, scale=False, name="bn")
    copy = keras.layers.deserialize(keras.layers.serialize(layer))
    assert type(copy) is layers.BatchNormalization
    assert copy.get_config() == layer.get_config()
    default = layers.BatchNormalization()
    assert (default.momentum, default.epsilon) == (0.9, 1e-5)


@pytest.mark.skipif(BACKEND != "tensorflow", reason="TensorFlow's fused operation")
@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_training_is_fused_on_tensorflow(policy):
    import tensorflow as tf

    layer = layers.BatchNormalization(dtype=policy)
    layer.build((None, 3, 5, 2))
    traced = tf.function(lambda x: layer(x, training=True)).get_concrete_function(
        tf.TensorSpec((None, 3, 5, 2), layer.compute_dtype)
    )
    operations = {operation.type for operation in traced.graph.get_operations()}
    assert "FusedBatchNormV3" in operations


def test_golden_statistics_of_a_training_pass(golden):
    arrays = group(golden("train_step"), "atbsl.")
    start, step = group(arrays, "init."), group(arrays, "step1.")
    network = tiny_cnn(start)
    network(step["x_adv"], training=True)
    for name in ("bn1", "bn2"):
        layer = network.get_layer(name)
        size = step[f"bn_pass_size.{name}"]
        # The first pass is the one that trains, others follow for logging.
        mean = step[f"bn_pass_mean.{name}"][0]
        variance = step[f"bn_pass_variance.{name}"][0] * size / (size - 1)
        np.testing.assert_allclose(
            layer.moving_mean.numpy(),
            0.9 * start[f"{name}_moving_mean"] + 0.1 * mean,
            atol=5e-6,
        )
        np.testing.assert_allclose(
            layer.moving_variance.numpy(),
            0.9 * start[f"{name}_moving_variance"] + 0.1 * variance,
            rtol=1e-5,
        )
