"""Budgets other than RobustLT's, in closed form and in training."""

import keras
import numpy as np
import pytest
from tiny_models import FIT, eager_model, tiny_model

import keras_robustlt as krl


def at(model, epoch, epochs=10):
    model.schedule.start(epochs)
    model.schedule.begin_epoch(epoch)
    return keras.ops.convert_to_numpy(model.budget.class_epsilon(model.schedule))


def test_names():
    for name in ("uniform", "robustlt", "auto", "cfa", "dafa"):
        model = tiny_model(budget=name)
        assert type(model.budget) is type(krl.budget.get(name))
    assert krl.budget.get("cfa", base=0.3).base == 0.3
    with pytest.raises(ValueError, match="must be one of 'uniform', 'robustlt'"):
        tiny_model(budget="cpb")


def test_cfa_follows_the_accuracy_of_the_epoch_before():
    model = tiny_model(budget=krl.budget.CFA(base=0.5, start=0.1))
    np.testing.assert_allclose(at(model, 0), 0.1)
    rule = model.budget
    targets = np.eye(3, dtype="float32")[[0, 0, 1, 1]]
    logits = np.eye(3, dtype="float32")[[0, 0, 1, 0]]
    rule.update(targets, logits)
    np.testing.assert_allclose(at(model, 1), 0.1)  # its first step has not begun

    def begin_step():
        model.schedule.advance()
        rule.begin_step(model.schedule)
        return keras.ops.convert_to_numpy(rule.class_epsilon(model.schedule))

    # Accuracies 1 and 1/2; the third class was never seen.
    np.testing.assert_allclose(begin_step(), [0.15, 0.1, 0.1], 1e-6)
    np.testing.assert_allclose(begin_step(), [0.15, 0.1, 0.1], 1e-6)
    rule.update(targets[:1], logits[2:3])
    at(model, 2)
    begin_step()
    np.testing.assert_allclose(at(model, 2), [0.05, 0.1, 0.1], 1e-6)


CONFUSION = np.array([[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.3, 0.1, 0.6]], "float32")
# The first class is the hardest, the second the easiest.
WEIGHTS = np.array(
    [
        1 + 0.3 * 0.8 + 0.2 * 0.6,
        1 - 0.1 * 0.5 - 0.1 * 0.6,
        1 - 0.3 * 0.5 + 0.1 * 0.8,
    ]
)


def test_weights_from_class_distances():
    weights = krl.budget.class_distance_weights(CONFUSION)
    np.testing.assert_allclose(weights, WEIGHTS, 1e-6)
    half = krl.budget.class_distance_weights(CONFUSION, 0.5)
    np.testing.assert_allclose(half, (WEIGHTS + 1) / 2, 1e-6)


def test_dafa_watches_the_last_epoch_of_the_warm_up():
    model = tiny_model(budget=krl.budget.DAFA(start=0.2))
    targets = np.eye(3, dtype="float32")
    logits = np.log(CONFUSION)
    for epoch in (0, 1, 2):
        expected = 0.1 * (WEIGHTS if epoch == 2 else np.ones(3))
        np.testing.assert_allclose(at(model, epoch), expected, 1e-5)
        # What the network says matters in the second of ten epochs only.
        model.budget.update(targets, logits if epoch == 1 else logits[::-1])
    np.testing.assert_allclose(at(model, 9), 0.1 * WEIGHTS, 1e-5)
    weight = model.budget.class_weight(model.schedule)
    np.testing.assert_allclose(weight, WEIGHTS, 1e-5)


def test_dafa_watches_anew_in_another_training():
    model = tiny_model(budget=krl.budget.DAFA(start=0.2))
    seen = []
    for _ in range(2):
        at(model, 1)
        for _ in range(2):
            model.schedule.advance()
            model.budget.begin_step(model.schedule)
            model.budget.update(np.eye(3, dtype="float32"), np.log(CONFUSION))
        seen.append(keras.ops.convert_to_numpy(model.budget.seen))
    np.testing.assert_array_equal(seen, [[2, 2, 2], [2, 2, 2]])


def test_budgets_that_are_none():
    with pytest.raises(ValueError, match="`base` gives a class a budget of up to 1.1"):
        tiny_model(budget=krl.budget.CFA(base=10))
    assert tiny_model(budget=krl.budget.CFA(base=9))
    # With more, a class that is recognised half the time may have less than nothing.
    with pytest.raises(ValueError, match=r"`strength` must be a number in \[0, 4\]"):
        krl.budget.DAFA(strength=4.1)
    half = krl.budget.class_distance_weights(np.full((2, 2), 0.5), 4.0)
    np.testing.assert_allclose(half, [0, 0], atol=1e-6)


@pytest.mark.parametrize("name", ["cfa", "dafa"])
def test_training_changes_the_budget(images, name):
    x, y = images
    inspector = krl.callbacks.ScheduleInspector()
    model = tiny_model(budget=krl.budget.get(name, start=0.25), epsilon=0.02)
    model.fit(x, y, epochs=4, callbacks=[inspector], **FIT)
    assert np.all(np.isfinite(inspector.class_epsilon))
    np.testing.assert_allclose(inspector.class_epsilon[0], 0.02)
    assert np.ptp(inspector.class_epsilon[-1]) > 1e-4


def test_class_weights_multiply_the_losses(images, same_network):
    class Weighted(krl.budget.Budget):
        def class_weight(self, schedule):
            return keras.ops.convert_to_tensor([2.0, 2.0, 2.0])

    x, y = images
    losses = [
        tiny_model(same_network(), budget=budget).train_on_batch(x, y)
        for budget in (krl.budget.Budget(), Weighted())
    ]
    losses = [loss if np.isscalar(loss) else loss[0] for loss in losses]
    assert losses[1] == pytest.approx(2 * losses[0], rel=1e-5)


def test_a_loss_weight_needs_the_loss_of_clean_images(images):
    class Half(krl.budget.Budget):
        def loss_weight(self, schedule):
            return keras.ops.convert_to_tensor(0.5)

    with pytest.raises(ValueError, match="`uses_clean_loss` must be True"):
        tiny_model(budget=Half()).fit(*images, **FIT)


@pytest.mark.parametrize(
    "arguments, counts",
    [
        ({"budget": "cfa"}, lambda model: model.budget.seen),
        ({"budget": "auto"}, lambda model: model.budget.seen),
        ({"budget": krl.budget.DAFA(start=0)}, lambda model: model.budget.seen),
        ({"method": "cgr"}, lambda model: model.method.taken_for),
        ({"method": "reat"}, lambda model: model.method.predictions),
    ],
)
def test_images_without_weight_do_not_count(images, arguments, counts):
    x, y = images
    model = eager_model(**arguments)
    model.schedule.start(10, 1)
    model.train_on_batch(x, y, sample_weight=(y != 0).astype("float32"))
    assert np.sum(counts(model)) == np.sum(y != 0) < len(y)


def test_images_that_are_not_attacked_yet_do_not_count(images):
    x, y = images
    model = eager_model(budget="auto", method=krl.methods.TAET(ce_epochs=2))
    model.schedule.start(10, 1)
    for epoch, seen in enumerate((0, len(y))):
        model.schedule.begin_epoch(epoch)
        model.train_on_batch(x, y)
        assert np.sum(model.budget.seen) == seen


def test_a_share_of_training_is_at_most_all_of_it():
    with pytest.warns(UserWarning, match="never more than 1 / 3 of what"):
        krl.budget.RobustLT(beta=3)


@pytest.mark.parametrize(
    "name, value",
    [
        *(("alpha", 0.9), ("beta", 0.5), ("weighting", "loss"), ("attack", "n-fgsm")),
        *(("budget", "auto"), ("budget", krl.budget.RobustLT())),
    ],
)
def test_what_is_of_attacks_does_nothing_without_one(name, value):
    with pytest.warns(UserWarning, match=f"`{name}` will do nothing: .*Standard"):
        model = tiny_model(method="standard", **{name: value})
    assert repr(model.budget) == "Budget()"
    krl.RobustLTModel.from_config(model.get_config())  # and of what was saved, nothing
