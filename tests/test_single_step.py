"""Training attacks of one step, against their formulas."""

import keras
import numpy as np
import pytest
from tiny_models import (
    ONE_EPOCH,
    conv_network,
    dense_network,
    tiny_model,
    trained,
    weights_of,
)

import keras_robustlt as krl

BUDGETS = np.linspace(0, 0.2, 12, dtype="float32")[:, None, None, None]
ATTACKS = {
    "fgsm-rs": krl.attacks.FGSMRS,
    "n-fgsm": krl.attacks.NFGSM,
    "fgsm-bernoulli": krl.attacks.FGSMBernoulli,
}


def gradient_signs(network, x, y):
    """Of the cross-entropy of a network of one dense layer."""
    kernel, bias = network.get_weights()
    exponentials = np.exp(x.reshape(len(x), -1) @ kernel + bias)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return np.sign((probabilities - np.eye(3)[y]) @ kernel.T).reshape(x.shape)


@pytest.mark.parametrize("name", ATTACKS)
def test_one_step_by_its_formula(name, images):
    x, y = images
    network, attack = dense_network(), krl.attacks.get_training(name, epsilon=0.1)
    assert isinstance(attack, ATTACKS[name]) and attack.epsilon == 0.1
    start = attack.starting_point(keras.ops.convert_to_tensor(x), BUDGETS.ravel(), 1)
    start = keras.ops.convert_to_numpy(start)
    step = (1.25 if name == "fgsm-rs" else 1.0) * BUDGETS
    moved = start + step * gradient_signs(network, start, y) - x
    if name != "n-fgsm":
        moved = np.clip(moved, -BUDGETS, BUDGETS)
    found = attack(network, x, y, epsilon=BUDGETS.ravel(), start=start)
    np.testing.assert_allclose(found, np.clip(x + moved, 0, 1), atol=1e-6)


@pytest.mark.parametrize("name, width", [("fgsm-rs", 1), ("n-fgsm", 2)])
def test_the_start_is_uniform_in_a_multiple_of_the_own_budget(name, width):
    attack = krl.attacks.get_training(name, epsilon=0.5)
    x = keras.ops.full((12, 50, 50, 1), 0.5)
    start = keras.ops.convert_to_numpy(attack.starting_point(x, BUDGETS.ravel(), 3))
    noise = np.abs(start - 0.5).reshape(12, -1)
    limit = width * BUDGETS.ravel()
    np.testing.assert_allclose(noise.max(axis=1), limit, rtol=0.01)
    np.testing.assert_allclose(noise.mean(axis=1), limit / 2, rtol=0.05)


def test_noise_of_one_size_for_all_classes(images):
    _, y = images
    x = np.full((12, 6, 6, 3), 0.5, "float32")
    model = tiny_model(attack="n-fgsm-mean", alpha=1.0, beta=1.0)
    model.schedule.start(5)
    model.schedule.begin_epoch(2)
    class_epsilon = keras.ops.convert_to_numpy(model.class_epsilon())
    limit = 2 * class_epsilon.mean() + class_epsilon[y]
    batch, *_ = model.training_batch((x, y))
    moved = np.abs(keras.ops.convert_to_numpy(batch["adversarial"]) - x)
    moved = moved.reshape(12, -1).max(axis=1)
    assert np.all(moved <= limit + 1e-6) and np.all(moved >= 0.9 * limit)


def test_a_coin_tells_where_it_starts():
    attack = krl.attacks.FGSMBernoulli(epsilon=0.5)
    x = keras.ops.full((12, 50, 50, 1), 0.5)
    start = keras.ops.convert_to_numpy(attack.starting_point(x, BUDGETS.ravel(), 3))
    np.testing.assert_allclose(
        np.abs(start - 0.5), np.broadcast_to(BUDGETS / 2, start.shape), atol=1e-6
    )
    assert abs(np.mean(start[1:] > 0.5) - 0.5) < 0.02


@pytest.mark.parametrize("name, reach", [("fgsm-rs", 1), ("n-fgsm", 3)])
def test_training_gives_each_image_its_own_budget(name, reach, images):
    _, y = images
    x = np.full((12, 6, 6, 3), 0.5, "float32")
    model = tiny_model(attack=name, alpha=1.0, beta=1.0)
    model.schedule.start(5)
    model.schedule.begin_epoch(2)
    epsilon = keras.ops.convert_to_numpy(model.class_epsilon())[y]
    assert epsilon[0] == 0 and epsilon[1] < epsilon[2]  # half of alpha's
    batch, *_ = model.training_batch((x, y))
    moved = np.abs(keras.ops.convert_to_numpy(batch["adversarial"]) - x)
    moved = moved.reshape(12, -1).max(axis=1)
    assert np.all(moved <= reach * epsilon + 1e-6)
    # The farthest of 108 pixels is near the limit.
    assert np.all(moved >= 0.9 * reach * epsilon)
    flags = keras.ops.convert_to_numpy(batch["moved"])
    np.testing.assert_array_equal(flags, np.where(y == 0, -1, 1))


@pytest.mark.parametrize("name", ["fgsm-rs", "n-fgsm"])
def test_an_attack_without_a_gradient_is_noticed(name, images):
    blind = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Lambda(keras.ops.stop_gradient),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    model = tiny_model(blind, attack=name, beta=0.0)
    with pytest.warns(UserWarning, match="hardly any of 12 images"):
        trained(images, model, epochs=1)


# The others are slow: these two have all that differs.
METHODS = ["trades", "robal+awp"]
OTHERS = "at_bsl mart reat taet cgr focal".split()


@ONE_EPOCH
@pytest.mark.parametrize(
    "method",
    [*METHODS, *(pytest.param(name, marks=pytest.mark.slow) for name in OTHERS)],
)
def test_methods_take_them(method, images):
    options = {"ce_epochs": 0} if method == "taet" else {}
    model = tiny_model(
        conv_network(),
        method=krl.methods.get(method, **options),
        attack="n-fgsm",
        granularity="step",
    )
    before = weights_of(model)
    after = trained(images, model, epochs=1)
    assert np.isfinite(after).all()
    assert np.abs(after - before).max() > 1e-6


def test_what_leaves_the_ball_is_no_measure(images):
    x, y = images
    network = dense_network()
    leaves = "leaves that ball by design"
    for attack in (krl.attacks.NFGSM(0.1), krl.attacks.UDR(0.1)):
        with pytest.raises(ValueError, match=leaves):
            krl.evaluate(network, x, y, attacks={"mine": attack}, verbose=0)
        with pytest.raises(ValueError, match=leaves):
            krl.robustness_curve(network, x, y, attack=attack, verbose=0)
        with pytest.raises(ValueError, match=leaves):
            krl.callbacks.SkewAndDrift(x, y, attack=attack)
        with pytest.raises(ValueError, match=leaves):
            tiny_model(evaluation_attack=attack)
    with pytest.raises(ValueError, match="Received: 'n-fgsm'"):
        krl.evaluate(network, x, y, attacks=["n-fgsm"], verbose=0)
    results = krl.evaluate(network, x, y, attacks=["fgsm-rs"], verbose=0)
    assert results["fgsm-rs"]["attack"]["class"] == "FGSMRS"


def test_one_step_cannot_become_fewer():
    with pytest.raises(ValueError, match="`attack_steps='adaptive'` makes fewer"):
        tiny_model(attack="n-fgsm", attack_steps="adaptive")
