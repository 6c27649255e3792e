"""The numbers of the authors' implementation, from the reference arrays."""

import keras
import numpy as np
import pytest
from tiny_cnn import group, named_variables, tiny_cnn

import keras_robustlt as krl
from keras_robustlt import backend


@pytest.fixture(autouse=True)
def loop_on_jax(monkeypatch):
    """Loops on JAX too, which compiles an unrolled attack for long."""
    if keras.backend.backend() == "jax":
        monkeypatch.setattr(backend, "control_flow_is_slow", lambda: False)


def fraction_off(actual, expected, tolerance=1e-5):
    difference = np.abs(keras.ops.convert_to_numpy(actual) - expected)
    return np.mean(difference > tolerance)


def test_classwise_epsilon(golden):
    arrays = golden("cpb")
    for index in range(len(arrays["names"])):
        counts = arrays[f"counts_{index}"]
        for row, alpha in enumerate(arrays["alphas"]):
            ours = krl.budget.classwise_epsilon(counts, float(arrays["epsilon"]), alpha)
            if len(set(counts)) == 1:
                np.testing.assert_allclose(ours, arrays["epsilon"])
            else:
                np.testing.assert_allclose(ours, arrays[f"eps64_{index}"][row], 1e-12)
                np.testing.assert_allclose(ours, arrays[f"eps_{index}"][row], 2e-6)


def test_iteration_weight(golden):
    arrays = golden("aiw")
    full = krl.budget.classwise_epsilon(
        arrays["counts"], float(arrays["epsilon"]), float(arrays["alpha"])
    )
    for index, (beta, epochs) in enumerate(
        zip(arrays["beta"], arrays["num_epochs"], strict=True)
    ):
        t = np.arange(1, epochs + 1)
        weight = krl.budget.iteration_weight(t, epochs, beta)
        np.testing.assert_allclose(weight, arrays[f"intensity_{index}"], atol=1e-12)
        np.testing.assert_allclose(
            weight[:, None] * full, arrays[f"classwise_epsilon_{index}"], 2e-6
        )


def test_schedule_inside_the_graph(golden):
    arrays = golden("aiw")
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(10)])
    for index, (beta, epochs) in enumerate(
        zip(arrays["beta"], arrays["num_epochs"], strict=True)
    ):
        model = krl.RobustLTModel(
            network,
            arrays["counts"],
            epsilon=float(arrays["epsilon"]),
            alpha=float(arrays["alpha"]),
            beta=float(beta),
        )
        model.schedule.start(int(epochs))
        for epoch in range(epochs):
            model.schedule.begin_epoch(epoch)
            np.testing.assert_allclose(
                model.budget.class_epsilon(model.schedule),
                arrays[f"classwise_epsilon_{index}"][epoch],
                2e-6,
            )


CONFIGS = (
    "uniform",
    "cpb",
    pytest.param("cpb_quarter", marks=pytest.mark.slow_on_jax),
    pytest.param("cpb_zero", marks=pytest.mark.slow_on_jax),
)


@pytest.mark.parametrize("config", CONFIGS)
def test_training_attack(golden, config):
    arrays = golden("pgd")
    network = tiny_cnn(group(arrays, "init."))
    epsilon = float(arrays["epsilon"])
    attack = krl.attacks.PGD(epsilon, step_size=float(arrays["step_size"]))
    x = keras.ops.convert_to_tensor(arrays["x"])
    y = arrays["y"]
    np.testing.assert_allclose(
        np.clip(arrays["x"] + arrays["start_noise"], 0, 1), arrays["x0"]
    )
    epsilon = arrays[f"{config}.sample_epsilon"]
    for steps in (1, 2, int(arrays["num_steps"])):
        attack.steps = steps

        def run(x, x0):
            return attack(network, x, y, epsilon, start=x0, training=True)

        x_adv = backend.compiled(run, network.variables)(x, arrays["x0"])
        expected = arrays[f"{config}.iterates"][steps - 1]
        assert fraction_off(x_adv, expected) <= 0.005
    for name, variable in named_variables(network).items():
        if name.startswith("bn"):
            np.testing.assert_array_equal(variable, arrays[f"init.{name}"])


@pytest.mark.parametrize("config", CONFIGS)
def test_training_attack_gradients_and_single_steps(golden, config):
    arrays = golden("pgd")
    network = tiny_cnn(group(arrays, "init."))
    targets = krl.losses.one_hot(arrays["y"], 10)
    iterates = np.concatenate([arrays["x0"][None], arrays[f"{config}.iterates"]])

    forward = backend.frozen(network)

    def loss(x):
        logits = forward(x, training=True)
        return keras.ops.mean(krl.losses.cross_entropy(targets, logits))

    epsilon = arrays[f"{config}.sample_epsilon"][:, None, None, None]
    step = arrays[f"{config}.sample_step"][:, None, None, None]
    norm = krl.attacks.PGD()._norm
    for k, expected in enumerate(arrays[f"{config}.grads"]):
        x = keras.ops.convert_to_tensor(iterates[k])
        gradient = backend.gradient(loss, x)
        np.testing.assert_allclose(gradient, expected, atol=1e-5 * abs(expected).max())
        moved = iterates[k] + step * norm.steepest(expected) - arrays["x"]
        after = np.clip(arrays["x"] + norm.project(moved, epsilon), 0, 1)
        np.testing.assert_allclose(after, iterates[k + 1], atol=1e-6)


def test_forward_pass(golden):
    arrays = golden("pgd")
    network = tiny_cnn(group(arrays, "init."))
    logits = backend.frozen(network)(arrays["x"], training=True)
    np.testing.assert_allclose(logits, arrays["logits_batchstats"], atol=1e-5)
    logits = network(arrays["x"], training=False)
    np.testing.assert_allclose(logits, arrays["logits_inference"], atol=1e-5)


def loss_and_gradient(loss, logits):
    """The mean loss and its gradient."""
    logits = keras.ops.convert_to_tensor(logits)
    gradient = backend.gradient(lambda z: keras.ops.mean(loss(z)), logits)
    return keras.ops.mean(loss(logits)), gradient


def test_cross_entropy_with_label_smoothing(golden):
    arrays = golden("losses")
    targets = krl.losses.one_hot(arrays["labels"], int(arrays["num_classes"]))
    logits = arrays["logits_adv"]
    for index, smoothing in enumerate(arrays["ce.smoothing"]):
        method = krl.methods.AT(label_smoothing=float(smoothing))

        def loss(z, method=method):
            return method.loss(targets, {"adversarial": z}, krl.losses.cross_entropy)

        np.testing.assert_allclose(
            loss(keras.ops.convert_to_tensor(logits)),
            arrays["ce.per_sample"][index],
            1e-5,
        )
        value, gradient = loss_and_gradient(loss, logits)
        np.testing.assert_allclose(value, arrays["ce.loss64"][index], 1e-5)
        np.testing.assert_allclose(gradient, arrays["ce.grad_logits"][index], atol=1e-6)
        value, gradient = loss_and_gradient(
            lambda z, method=method: method.attack_loss(targets, z), logits
        )
        np.testing.assert_allclose(value, arrays["ce.attack_loss"], 1e-5)
        np.testing.assert_allclose(gradient, arrays["ce.attack_grad_logits"], atol=1e-6)


def test_balanced_softmax(golden):
    arrays = golden("losses")
    targets = krl.losses.one_hot(arrays["labels"], int(arrays["num_classes"]))
    logits = arrays["logits_adv"]
    for index, tau in enumerate(arrays["bsl.tau_b"]):

        def loss(z, tau=float(tau)):
            return krl.losses.balanced_softmax(targets, z, arrays["counts"], tau)

        per_sample = loss(keras.ops.convert_to_tensor(logits))
        np.testing.assert_allclose(per_sample, arrays["bsl.per_sample"][index], 1e-5)
        value, gradient = loss_and_gradient(loss, logits)
        np.testing.assert_allclose(value, arrays["bsl.loss64"][index], 1e-5)
        np.testing.assert_allclose(
            gradient, arrays["bsl.grad_logits"][index], atol=1e-6
        )


@pytest.mark.parametrize(
    "name", ["pgd", pytest.param("cw", marks=pytest.mark.slow_on_jax)]
)
def test_evaluation_attacks(golden, name):
    arrays = golden("attacks_eval")
    network = tiny_cnn(group(arrays, "weights."))
    attack = krl.attacks.PGD(
        float(arrays["epsilon"]),
        steps=int(arrays["num_steps"]),
        step_size=float(arrays["step_size"]),
        loss={"pgd": "cross_entropy", "cw": "margin"}[name],
    )
    y = arrays["y"]
    for steps in (1, 10, int(arrays["num_steps"])):
        attack.steps = steps

        def run(x, x0):
            return attack(network, x, y, start=x0)

        x_adv = backend.compiled(run, network.variables)(arrays["x"], arrays["x0"])
        key = f"{name}.x_after_{steps}"
        assert fraction_off(x_adv, arrays.get(key, arrays[f"{name}.x_adv"])) <= 0.005
    predictions = np.argmax(network.predict(x_adv, verbose=0), axis=-1)
    np.testing.assert_array_equal(predictions, arrays[f"{name}.predictions"])
    np.testing.assert_array_equal(predictions == y, arrays[f"{name}.robust"])
