import keras
import numpy as np
import pytest
from keras import ops
from tiny_cnn import group

from keras_robustlt import optimizers


def restate(w, gradients, rates, momentum, nesterov, weight_decay):
    """The update rule in NumPy, in float64."""
    w, buffer = np.float64(w), np.zeros(np.shape(w))
    for gradient, rate in zip(gradients, rates, strict=True):
        gradient = gradient + weight_decay * w
        buffer = momentum * buffer + gradient
        w = w - rate * (gradient + momentum * buffer if nesterov else buffer)
    return w, buffer


def draw(steps=5, shape=(3, 2)):
    generator = np.random.default_rng(0)
    start = generator.normal(size=shape).astype("float32")
    return start, generator.normal(size=(steps, *shape)).astype("float32")


@pytest.mark.parametrize(
    "momentum, nesterov", [(0.0, False), (0.9, False), (0.9, True)]
)
def test_follows_the_rule_through_a_rate_drop(momentum, nesterov):
    start, gradients = draw()
    rates = [0.1, 0.1, 0.01, 0.01, 0.001]
    variable = keras.Variable(start)
    optimizer = optimizers.SGD(0.1, momentum, nesterov, weight_decay=0.05)
    for gradient, rate in zip(gradients, rates, strict=True):
        optimizer.learning_rate = rate
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    expected, buffer = restate(start, gradients, rates, momentum, nesterov, 0.05)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)
    if momentum:
        np.testing.assert_allclose(
            optimizer.momentums[0].numpy(), buffer, rtol=1e-5, atol=1e-6
        )


def test_buffer_is_not_scaled_by_the_rate_unlike_stock():
    start, gradients = draw()
    rates = [1.0, 1.0, 0.1, 0.1, 0.1]
    results = []
    for optimizer in (
        optimizers.SGD(1.0, momentum=0.9),
        keras.optimizers.SGD(1.0, momentum=0.9),
    ):
        variable = keras.Variable(start)
        after = []
        for gradient, rate in zip(gradients, rates, strict=True):
            optimizer.learning_rate = rate
            optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
            after.append(variable.numpy())
        results.append(after)
    np.testing.assert_allclose(results[0][1], results[1][1], rtol=1e-5)
    assert np.abs(results[0][2] - results[1][2]).max() > 0.1


def test_decay_is_coupled_to_the_momentum():
    variable = keras.Variable(np.ones(1, "float32"))
    optimizer = optimizers.SGD(0.1, momentum=0.5, weight_decay=0.2)
    for _ in range(2):
        optimizer.apply([ops.zeros((1,))], [variable])
    # b1 = .2, w1 = .98; b2 = .5 * .2 + .2 * .98 = .296, w2 = .98 - .0296
    np.testing.assert_allclose(variable.numpy(), [0.9504], rtol=1e-6)


def test_decay_reaches_biases_and_scales_but_not_excluded_variables():
    model = keras.Sequential(
        [keras.Input((2,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    variables = model.trainable_variables
    for variable in variables:
        variable.assign(ops.ones(variable.shape))
    optimizer = optimizers.SGD(1.0, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_list=[variables[-1]])
    optimizer.apply([ops.zeros(v.shape) for v in variables], variables)
    np.testing.assert_allclose([v.numpy().flat[0] for v in variables], [0.5] * 3 + [1])


def test_clips_before_the_decay():
    variable = keras.Variable(np.full(1, 10.0, "float32"))
    optimizer = optimizers.SGD(1.0, weight_decay=0.1, clipvalue=0.5)
    optimizer.apply([ops.full((1,), 7.0)], [variable])
    np.testing.assert_allclose(variable.numpy(), [10 - 0.5 - 1.0], rtol=1e-6)


def test_takes_a_schedule():
    start, gradients = draw(steps=3)
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.05])
    variable = keras.Variable(start)
    optimizer = optimizers.SGD(schedule, momentum=0.9, nesterov=True)
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
    expected, _ = restate(start, gradients, [0.5, 0.5, 0.05], 0.9, True, 0.0)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_accumulates_gradients_and_decays_once():
    variable = keras.Variable(np.ones(1, "float32"))
    optimizer = optimizers.SGD(1.0, weight_decay=0.5, gradient_accumulation_steps=2)
    optimizer.apply([ops.full((1,), 0.1)], [variable])
    np.testing.assert_allclose(variable.numpy(), [1.0])
    optimizer.apply([ops.full((1,), 0.3)], [variable])
    np.testing.assert_allclose(variable.numpy(), [1 - 0.2 - 0.5], rtol=1e-6)


def test_averages_weights():
    start, gradients = draw(steps=2, shape=(1,))
    variable = keras.Variable(start)
    optimizer = optimizers.SGD(0.1, weight_decay=0.1, use_ema=True, ema_momentum=0.5)
    values = []
    for gradient in gradients:
        optimizer.apply([ops.convert_to_tensor(gradient)], [variable])
        values.append(variable.numpy())
    optimizer.finalize_variable_values([variable])
    np.testing.assert_allclose(variable.numpy(), np.mean(values, axis=0), rtol=1e-6)


def step_statelessly(optimizer, gradient, variable):
    """One step by `stateless_apply`, its results put into the variables."""
    values, state = optimizer.stateless_apply(
        [v.value for v in optimizer.variables],
        [ops.convert_to_tensor(gradient)],
        [variable.value],
    )
    variable.assign(values[0])
    for target, value in zip(optimizer.variables, state, strict=True):
        target.assign(value)


def test_works_inside_loss_scaling():
    start, gradients = draw(steps=2)
    variable = keras.Variable(start)
    inner = optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.05)
    optimizer = keras.optimizers.LossScaleOptimizer(inner, initial_scale=8.0)
    optimizer.build([variable])
    for gradient in gradients:
        if keras.backend.backend() == "jax":  # Keras has no other way on JAX.
            step_statelessly(optimizer, 8 * gradient, variable)
        else:
            # In Keras 3.10 nothing happens without the variables.
            optimizer.apply([ops.convert_to_tensor(8 * gradient)], [variable])
    expected, _ = restate(start, gradients, [0.1, 0.1], 0.9, True, 0.05)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="Keras has no stateless_apply on TensorFlow",
)
def test_stateless_apply():
    start, gradients = draw(steps=3)
    variable = keras.Variable(start)
    optimizer = optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.05)
    optimizer.build([variable])
    for gradient in gradients:
        step_statelessly(optimizer, gradient, variable)
    expected, buffer = restate(start, gradients, [0.1] * 3, 0.9, True, 0.05)
    np.testing.assert_allclose(variable.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(
        optimizer.momentums[0].numpy(), buffer, rtol=1e-5, atol=1e-6
    )


def test_two_golden_steps(golden):
    """The gradients follow from the reference's momentum, the weights from ours."""
    arrays = golden("train_step")
    momentum, weight_decay = float(arrays["momentum"]), float(arrays["weight_decay"])
    weights = group(arrays, "pgdat.init.")
    names = list(group(arrays, "pgdat.step1.momentum."))
    variables = [keras.Variable(weights[name]) for name in names]
    buffers = dict.fromkeys(names, 0.0)
    optimizer = optimizers.SGD(
        float(arrays["learning_rate"]),
        momentum,
        nesterov=bool(arrays["nesterov"]),
        weight_decay=weight_decay,
    )
    for step in ("step1", "step2"):
        after = group(arrays, f"pgdat.{step}.momentum.")
        gradients = [
            after[name] - momentum * buffers[name] - weight_decay * weights[name]
            for name in names
        ]
        optimizer.apply(list(map(ops.convert_to_tensor, gradients)), variables)
        weights, buffers = group(arrays, f"pgdat.{step}.after."), after
        for name, variable in zip(names, variables, strict=True):
            np.testing.assert_allclose(variable.numpy(), weights[name], atol=1e-6)


def test_serialization_keeps_every_argument():
    optimizer = optimizers.SGD(
        0.2, momentum=0.8, nesterov=True, weight_decay=5e-4, clipnorm=1.0
    )
    copy = keras.optimizers.deserialize(keras.optimizers.serialize(optimizer))
    assert isinstance(copy, optimizers.SGD)
    assert copy.get_config() == optimizer.get_config()
    assert copy.get_config()["weight_decay"] == 5e-4


def test_momentum_survives_saving_a_model(tmp_path):
    generator = np.random.default_rng(1)
    x, y = generator.normal(size=(2, 8, 3)).astype("float32")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(3)])
    model.compile(optimizers.SGD(0.1, 0.9, True, 1e-3), loss="mse")
    model.train_on_batch(x, y)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    model.train_on_batch(x, y)
    loaded.train_on_batch(x, y)
    for ours, theirs in zip(model.weights, loaded.weights, strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-6)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"momentum": 1.0}, r"`momentum` must be in \[0, 1\).*momentum=1.0"),
        ({"momentum": -0.1}, "`momentum` must be.*Received: -0.1"),
        ({"weight_decay": -1e-4}, "`weight_decay` must be.*Received: -0.0001"),
        ({"weight_decay": None}, "`weight_decay` must be.*Received: None"),
        ({"nesterov": True}, "`nesterov=True` needs a momentum above 0"),
        ({"nesterov": "no", "momentum": 0.9}, "`nesterov` must be True or False"),
        ({"learning_rate": -0.1}, "`learning_rate` must be.*Received: -0.1"),
        ({"learning_rate": np.nan}, "`learning_rate` must be.*Received: nan"),
        ({"clipnorm": -1}, "`clipnorm` must be a number above 0. Received: -1"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        optimizers.SGD(**{"learning_rate": 0.1, **arguments})
    if not {"momentum", "nesterov"} & set(arguments):
        with pytest.raises(ValueError, match=message):
            optimizers.AdamW(**arguments)


HEAD_FIRST = keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.0, 0.25])


def classifier():
    """A body and a head, with all weights 1."""
    network = keras.Sequential(
        [
            keras.Input((2,)),
            keras.layers.Dense(2, name="body"),
            keras.layers.Dense(2, name="logits"),
        ]
    )
    network.set_weights([np.ones(w.shape, "float32") for w in network.weights])
    return network


def weights_after(optimizer, gradients):
    variables = classifier().trainable_variables
    for gradient in gradients:
        every = [ops.full(v.shape, gradient) for v in variables]
        optimizer.apply(every, variables)
    return [ops.convert_to_numpy(variable) for variable in variables]


def sgd(rate, **options):
    return optimizers.SGD(rate, 0.9, nesterov=True, weight_decay=0.1, **options)


def adamw(rate, **options):
    return optimizers.AdamW(rate, weight_decay=0.1, **options)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_rates_of_backbone_and_head(make):
    gradients = [0.5, -1.0, 2.0]
    rates = keras.optimizers.schedules.PiecewiseConstantDecay
    slow = {
        0.25: 0.025,  # another rate from beginning to end
        HEAD_FIRST: rates([1], [0.0, 0.025]),
    }
    head = weights_after(make(0.1), gradients)[2:]
    for factor, rate in slow.items():
        mixed = weights_after(make(0.1, backbone_rate=factor), gradients)
        for found, expected in zip(mixed[2:], head, strict=True):
            np.testing.assert_array_equal(found, expected)
        body = weights_after(make(rate), gradients)[:2]
        for found, expected in zip(mixed[:2], body, strict=True):
            np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_adamw_is_that_of_keras():
    def options():
        return {"weight_decay": 0.1, "global_clipnorm": 1.0, "beta_1": 0.8}

    ours = weights_after(optimizers.AdamW(0.01, **options()), [0.5, -1.0])
    theirs = weights_after(keras.optimizers.AdamW(0.01, **options()), [0.5, -1.0])
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-7)


@pytest.mark.parametrize("make", [sgd, adamw])
def test_rates_are_saved(make):
    optimizer = make(0.1, backbone_rate=HEAD_FIRST)
    config = keras.saving.serialize_keras_object(optimizer)
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == optimizer.get_config()
    assert again.backbone_rate(5) == 0.25


def test_a_head_that_is_not_there():
    optimizer = optimizers.AdamW(backbone_rate=0.1, head="classifier")
    with pytest.raises(ValueError, match="`head` must.*Received: head='classifier'"):
        optimizer.build(classifier().trainable_variables)
