"""UDR: its projection and its lambda against numbers made by hand."""

import keras
import numpy as np
import pytest
from tiny_models import dense_network, tiny_model, trained

import keras_robustlt as krl


def model_with(attack, **arguments):
    keras.utils.set_random_seed(3)
    return tiny_model(attack=attack, budget="uniform", **arguments)


def test_with_lambda_1_it_is_pgd(images):
    x, y = images
    network = dense_network()
    start = np.clip(x + 0.05, 0, 1)
    soft, hard = (
        attack(0.1, steps=3, step_size=0.07)(network, x, y, start=start)
        for attack in (krl.attacks.UDR, krl.attacks.PGD)
    )
    np.testing.assert_allclose(soft, hard, atol=1e-6)


def test_the_projection_goes_a_share_of_the_way():
    attack = krl.attacks.UDR(0.1)
    attack.softness = 0.25
    # 0.2 and 0.1 too far out, one inside; with another budget all are inside.
    outside = np.float32([[0.3, -0.2, 0.05], [0.3, -0.2, 0.05]])
    epsilon = np.float32([[0.1], [0.3]])
    expected = [[0.25, -0.175, 0.05], outside[1]]
    np.testing.assert_allclose(attack.project(outside, epsilon), expected, 1e-6)


def test_pixels_stay_in_range_and_may_leave_the_ball(images):
    x, y = images
    attack = krl.attacks.UDR(0.1, steps=4)
    attack.softness = 0.1
    x_adv = keras.ops.convert_to_numpy(attack(dense_network(), x, y, seed=0))
    assert x_adv.min() >= 0 and x_adv.max() <= 1
    assert 0.1 < np.abs(x_adv - x).max() < 0.3


def test_lambda_moves_by_the_mean_of_a_period():
    attack = krl.attacks.UDR(0.1, rate=0.5, period=2)
    model = model_with(attack)
    x = np.zeros((2, 1, 2, 1), "float32")
    budgets = np.float32([0.1, 0.3])
    first = np.float32([0.1, 0.0, -0.4, 0.0]).reshape(x.shape)
    # What is left of the budgets: 0.1 - 0.05 and 0.3 - 0.2, then -0.3 and -0.1.
    attack.update(x, first, budgets)
    assert float(attack.softness) == 1
    attack.update(x, x + 0.4, budgets)
    expected = 1 - 0.5 * (0.075 - 0.2) / 2
    np.testing.assert_allclose(float(attack.softness), expected, 1e-5)
    attack.update(x, first, budgets)
    np.testing.assert_allclose(float(attack.softness), expected, 1e-5)
    attack.update(x, first, budgets)
    expected -= 0.5 * 0.075
    np.testing.assert_allclose(float(attack.softness), expected, 1e-5)
    assert any(v is attack.softness for v in model.variables)


def test_the_guard_sees_lambda_move(images):
    """What is compiled of the attack reads its variables at each call."""
    x, y = images
    attack = krl.attacks.UDR(0.2, steps=2, step_size=0.2)
    model = model_with(attack, epsilon=0.2)
    model.compile(krl.optimizers.SGD(0.0))
    guard = krl.callbacks.CollapseGuard(x, y)
    model.fit(x, y, epochs=1, verbose=0, callbacks=[guard])
    found = []
    for softness in (1.0, 0.0):
        attack.softness.assign(softness)
        adversarial = attack(model.network, x, y, seed=0)
        found.append(np.abs(adversarial - x).max())
        expected = attack.perturb(
            model.network, x, y, *guard._start_of(guard._under_attack)
        )
        right = np.argmax(model.network(expected), -1) == y
        assert guard.accuracies()[0] == pytest.approx(right.mean())
    assert found[1] > found[0] + 0.1


def test_training_cannot_go_on_with_an_attack_of_another_state():
    model = model_with(krl.attacks.PGD(0.1, steps=2))
    with pytest.raises(ValueError, match="`attack` has a state, which UDR makes"):
        model.use_attack(krl.attacks.UDR(0.1))


def test_lambda_goes_on_after_an_interruption(images, tmp_path):
    def model():
        attack = krl.attacks.UDR(0.1, steps=2, rate=3.0, period=4)
        return model_with(attack, total_epochs=4)

    first = model()
    whole = trained(images, first, epochs=4)
    for epochs in (2, 4):
        part = model()
        callbacks = [krl.callbacks.Checkpoint(tmp_path)]
        weights = trained(images, part, epochs=epochs, callbacks=callbacks)
    np.testing.assert_array_equal(weights, whole)
    # Twelve steps are three moves. Much of the budget is never used by most pixels.
    assert float(first.attack.softness) == float(part.attack.softness) < 0.99
    assert float(part.attack.count) == 0
