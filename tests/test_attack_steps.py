"""Fewer steps of the training attack while the budget is small."""

import numpy as np
import pytest
from keras import ops

import keras_robustlt as krl


def test_fewer_steps_are_longer_ones(images, same_network):
    x, y = images
    network = same_network()
    attack = krl.attacks.PGD(0.1, steps=6)
    start = attack.starting_point(x, seed=1)
    for steps in (2, 3, 6):
        found = attack.perturb(network, x, y, start, steps=ops.convert_to_tensor(steps))
        alone = krl.attacks.PGD(0.1, steps=steps, step_size=6 * 0.025 / steps)
        expected = alone.perturb(network, x, y, start)
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_fewer_steps_reach_the_other_side_of_the_ball(images, same_network):
    # A linear network's gradient of the difference of two logits is one everywhere.
    x, _ = images
    network = same_network()
    x = np.full_like(x, 0.5)
    y = np.zeros(len(x), "int64")

    def difference(targets, logits):
        return logits[:, 1] - logits[:, 0]

    attack = krl.attacks.PGD(0.1, steps=10, loss=difference)
    full = ops.convert_to_numpy(attack.perturb(network, x, y, x - 0.1))
    few = ops.convert_to_numpy(attack.perturb(network, x, y, x - 0.1, steps=2))
    np.testing.assert_allclose(np.abs(few - x), 0.1, atol=1e-6)
    np.testing.assert_allclose(few, full, atol=1e-6)


def adaptive_model(network, **options):
    model = krl.RobustLTModel(
        network,
        [4, 4, 4],
        epsilon=0.1,
        attack=krl.attacks.PGD(0.1, steps=10),
        attack_steps="adaptive",
        **options,
    )
    model.compile(krl.optimizers.SGD(0.1))
    return model


def test_the_number_of_steps_follows_the_budget(same_network):
    model = adaptive_model(same_network(), beta=0.8)
    model.schedule.start(10)
    steps = []
    for epoch in range(10):
        model.schedule.begin_epoch(epoch)
        steps.append(int(model._fewer_steps()["steps"]))
    # w_t is 0, 1/8, ..., 7/8, 1, 1.
    assert steps == [2, 2, 3, 4, 5, 7, 8, 9, 10, 10]


def test_with_the_whole_budget_it_trains_as_without(images, same_network):
    x, y = images
    weights = []
    for attack_steps in ("full", "adaptive"):
        network = same_network()
        model = adaptive_model(network, beta=1e-9, seed=1)
        model.attack_steps = attack_steps
        start = {"initial_epoch": 1, "epochs": 2}  # where the growth is over
        model.fit(x, y, batch_size=6, **start, shuffle=False, verbose=0)
        weights.append(network.get_weights())
    for full, adaptive in zip(*weights, strict=True):
        np.testing.assert_allclose(adaptive, full, atol=1e-6)


def test_a_growing_budget_trains_and_is_saved(images, same_network, tmp_path):
    x, y = images
    model = adaptive_model(same_network(), beta=0.5)
    history = model.fit(x, y, batch_size=6, epochs=3, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    model.save(tmp_path / "model.keras")
    from keras.saving import load_model

    assert load_model(tmp_path / "model.keras").attack_steps == "adaptive"


def test_another_word_is_refused(same_network):
    with pytest.raises(ValueError, match="`attack_steps` must be .*'adaptive'"):
        krl.RobustLTModel(same_network(), [4, 4, 4], attack_steps="few")
