import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import dense_network, threshold_network, tiny_model

import keras_robustlt as krl
from keras_robustlt.budget import Budget, classwise_epsilon, iteration_weight

counts_of_classes = st.lists(st.integers(1, 10_000), min_size=2, max_size=20)
share = st.floats(0, 1)
few = settings(max_examples=50, deadline=None)


def test_classwise_epsilon_by_hand():
    # K = 1, 4; P = .8, .2; E[sqrt(log K)] = .2 sqrt(log 4), so the tail has 5 times
    # the mean of the second term and the head nothing of it.
    actual = classwise_epsilon([80, 20], epsilon=0.1, alpha=0.3)
    np.testing.assert_allclose(actual, [0.07, 0.07 + 0.3 * 0.1 * 5])
    # sqrt(log 2) and sqrt(log 16) are in the ratio 1 to 2.
    actual = classwise_epsilon([16, 8, 1], epsilon=0.1, alpha=1.0)
    np.testing.assert_allclose(actual, [0, 0.25, 0.5])
    assert actual.dtype == np.float64


def test_alpha_zero_is_uniform_and_alpha_one_spares_the_largest_class():
    np.testing.assert_array_equal(classwise_epsilon([9, 4, 1], 0.1, 0), [0.1] * 3)
    assert classwise_epsilon([9, 4, 1], 0.1, 1)[0] == 0


@few
@given(counts_of_classes, share, share)
def test_mean_over_the_training_data_is_epsilon(counts, epsilon, alpha):
    budget = classwise_epsilon(counts, epsilon, alpha, norm="l2")
    np.testing.assert_allclose(np.average(budget, weights=counts), epsilon, 1e-9)
    assert budget.min() >= 0


@few
@given(st.integers(1, 10_000), st.integers(2, 20), share)
def test_balanced_counts_give_the_uniform_budget(count, classes, alpha):
    actual = classwise_epsilon([count] * classes, 8 / 255, alpha)
    np.testing.assert_array_equal(actual, [8 / 255] * classes)


@few
@given(counts_of_classes, st.randoms(use_true_random=False))
def test_order_of_the_classes_does_not_matter(counts, random):
    order = list(range(len(counts)))
    random.shuffle(order)
    shuffled = classwise_epsilon(np.array(counts)[order], 1e-4, 0.3)
    np.testing.assert_allclose(shuffled, classwise_epsilon(counts, 1e-4, 0.3)[order])


@few
@given(counts_of_classes, st.floats(0.01, 1))
def test_rarer_classes_get_more(counts, alpha):
    counts = np.unique(counts + [10_001])
    assert np.all(np.diff(classwise_epsilon(counts, 1e-4, alpha)) < 0)


def test_a_budget_that_makes_all_images_the_same():
    with pytest.warns(UserWarning, match="budget of 0.55.* times `epsilon`"):
        tiny_model(dense_network(2), [150, 10], epsilon=0.1)
    # In the Euclidean norm, 1 is not much.
    attack = krl.attacks.PGD(0.5, norm="l2")
    model = tiny_model(dense_network(2), [150, 10], epsilon=0.5, attack=attack)
    assert model.budget.class_epsilon(model.schedule).shape == (2,)


def test_counts_as_a_dictionary():
    expected = classwise_epsilon([80, 20], 0.1, 0.3)
    actual = classwise_epsilon({1: 20, 0: 80}, 0.1, 0.3)
    np.testing.assert_array_equal(actual, expected)
    with pytest.raises(ValueError, match=r"Received keys: \[1, 2\]"):
        classwise_epsilon({1: 20, 2: 80}, 0.1, 0.3)


@pytest.mark.parametrize(
    ("counts", "epsilon", "alpha", "message"),
    [
        ([5, 0, 3, 0], 0.1, 0.3, r"class \[1, 3\] has no training image"),
        ([5, -1], 0.1, 0.3, r"must not be negative.*class \[1\]"),
        ([5, 2.5], 0.1, 0.3, "must be whole numbers"),
        ([5, float("nan")], 0.1, 0.3, "must be whole numbers"),
        ([5], 0.1, 0.3, "at least two classes"),
        ([[5, 3]], 0.1, 0.3, "must be a list"),
        (["a", "b"], 0.1, 0.3, "must be a list"),
        ([5, 3], 0.1, 1.1, r"`alpha` must be a number in \[0, 1\]. Received: 1.1"),
        ([5, 3], 0.1, -0.1, r"`alpha` must be a number in \[0, 1\]"),
        ([5, 3], 8, 0.3, r"8 / 255.*Received: epsilon=8"),
        ([5, 3], -0.1, 0.3, "`epsilon` must be a number"),
        ([5, 3], "0.1x", 0.3, "`epsilon` must be a number"),
        ([5, 3], "0.1", 0.3, "`epsilon` must be a number"),
        ([5, 3], True, 0.3, "`epsilon` must be a number"),
        ([10_000, 10], 8 / 255, 0.3, "class 1, of 10 images.*budget of 9.44.*Lower it"),
    ],
)
def test_bad_class_budgets(counts, epsilon, alpha, message):
    with pytest.raises(ValueError, match=message):
        classwise_epsilon(counts, epsilon, alpha)


def test_iteration_weight_by_hand():
    actual = [iteration_weight(t, total=10, beta=0.5) for t in (1, 2, 3, 6, 7, 10)]
    np.testing.assert_allclose(actual, [0, 0.2, 0.4, 1, 1, 1])
    # Beyond 1, training ends before the whole budget is reached.
    np.testing.assert_allclose(iteration_weight(10, total=10, beta=2), 0.45)
    np.testing.assert_array_equal(iteration_weight([1, 2, 3], 3, beta=0), [1, 1, 1])


@few
@given(st.integers(1, 200), st.just(0) | st.floats(0.001, 3))
def test_iteration_weight_grows_from_zero_within_zero_and_one(total, beta):
    weight = iteration_weight(np.arange(1, total + 1), total, beta)
    assert weight[0] == (beta == 0)
    assert np.all(np.diff(weight) >= 0)
    assert weight.max() <= 1


@pytest.mark.parametrize(
    ("t", "total", "beta", "message"),
    [
        (0, 5, 0.8, r"`t` counts iterations from 1.*t=0, total=5"),
        (6, 5, 0.8, r"`t` counts iterations from 1"),
        ([1, 9], 5, 0.8, r"`t` counts iterations from 1"),
        (1, 0, 0.8, "`total` must be an integer of at least 1"),
        (1, 5, -0.1, "`beta` must be a number at least 0"),
    ],
)
def test_bad_iterations(t, total, beta, message):
    with pytest.raises(ValueError, match=message):
        iteration_weight(t, total, beta)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"alpha": 2}, "`alpha`"),
        ({"beta": -1}, "`beta`"),
        ({"granularity": "batch"}, "`granularity` must be one of 'epoch', 'step'"),
        ({"weighting": "none"}, "`weighting` must be one of 'perturbation', 'loss'"),
    ],
)
def test_bad_rule(arguments, message):
    with pytest.raises(ValueError, match=message):
        krl.budget.RobustLT(**arguments)


# One bright pixel z = 0.5 and fixed weights: the gradient's sign is known, so that a
# step's loss says in closed form which budget the compiled step used.

EPSILON = 0.1
COUNTS = [6, 2]
LABELS = np.array([0, 1, 0, 0, 1, 0, 0, 0])


def loss_within(label, epsilon):
    """Cross-entropy of the pixel moved by `epsilon` against its label."""
    return np.log1p(np.exp(-2 * (0.5 - epsilon) if label == 0 else 2 * (0.5 + epsilon)))


class StepLosses(keras.callbacks.Callback):
    """The loss of each step, from the running means that Keras logs."""

    def __init__(self):
        super().__init__()
        self.losses = []

    def on_epoch_begin(self, epoch, logs=None):
        self.sum = 0.0

    def on_train_batch_end(self, batch, logs=None):
        total = logs["loss"] * (batch + 1)
        self.losses.append(total - self.sum)
        self.sum = total


def step_losses(epochs=3, **arguments):
    """The loss of each step of a fit that changes no weights, batch size 1."""
    model = tiny_model(
        threshold_network(),
        COUNTS,
        optimizer=keras.optimizers.SGD(0.0),
        epsilon=EPSILON,
        attack=krl.attacks.FGSM(EPSILON),
        **arguments,
    )
    recorder = StepLosses()
    x = np.full((8, 1), 0.5, "float32")
    model.fit(
        x,
        LABELS,
        batch_size=1,
        epochs=epochs,
        shuffle=False,
        verbose=0,
        callbacks=[recorder],
    )
    return np.reshape(recorder.losses, (epochs, 8))


def slow(*values):
    return pytest.param(*values, marks=pytest.mark.slow)


@pytest.mark.parametrize(
    ("granularity", "weighting"),
    [
        ("epoch", "perturbation"),
        slow("epoch", "loss"),
        slow("epoch", "both"),
        slow("step", "perturbation"),
        ("step", "loss"),
        ("step", "both"),
    ],
)
def test_each_step_of_fit_uses_the_budget_of_its_time(granularity, weighting):
    actual = step_losses(
        alpha=0.6, beta=0.5, granularity=granularity, weighting=weighting
    )
    epsilon = classwise_epsilon(COUNTS, EPSILON, 0.6)
    expected = np.zeros((3, 8))
    for epoch in range(3):
        for step, label in enumerate(LABELS):
            if granularity == "epoch":
                weight = iteration_weight(epoch + 1, 3, 0.5)
            else:
                weight = iteration_weight(8 * epoch + step + 1, 24, 0.5)
            clean = loss_within(label, 0)
            expected[epoch, step] = {
                "perturbation": loss_within(label, weight * epsilon[label]),
                "loss": weight * loss_within(label, epsilon[label])
                + (1 - weight) * clean,
                "both": weight * loss_within(label, weight * epsilon[label])
                + (1 - weight) * clean,
            }[weighting]
    np.testing.assert_allclose(actual, expected, 1e-5)


def test_without_growth_the_whole_budget_is_there_from_the_start():
    expected = [loss_within(label, EPSILON) for label in LABELS]
    for weighting in ("perturbation", "loss"):
        actual = step_losses(epochs=1, alpha=0, beta=0, weighting=weighting)
        np.testing.assert_allclose(actual[0], expected, 1e-5)


def test_plain_budget_is_uniform_and_constant():
    expected = [loss_within(label, EPSILON) for label in LABELS]
    np.testing.assert_allclose(step_losses(budget=Budget()), [expected] * 3, 1e-5)


def test_a_rule_of_ones_own():
    class SecondClassOnly(Budget):
        def build(self, model):
            self.epsilon = np.array([0.0, model.epsilon], "float32")

        def class_epsilon(self, schedule):
            t, _ = schedule.position("epoch")
            return t * keras.ops.convert_to_tensor(self.epsilon) / 3

    actual = step_losses(budget=SecondClassOnly())
    for epoch in range(3):
        expected = [loss_within(y, y * EPSILON * (epoch + 1) / 3) for y in LABELS]
        np.testing.assert_allclose(actual[epoch], expected, 1e-5)


def test_step_granularity_needs_the_number_of_steps():
    def batches():
        while True:
            yield np.zeros((2, 6, 6, 3), "float32"), np.zeros(2, "int64")

    model = tiny_model(dense_network(), granularity="step")
    with pytest.raises(ValueError, match="Pass `steps_per_epoch`"):
        model.fit(batches(), epochs=1, shuffle=False, verbose=0)


@keras.saving.register_keras_serializable()
class Given(krl.budget.Budget):
    """Budgets as somebody might write them."""

    def __init__(self, values):
        self.values = values

    def class_epsilon(self, schedule):
        return self.values


def test_budgets_of_ones_own_are_numbers_of_any_kind():
    for values in ([0.05, 0.1, 0.1], np.array([0.05, 0.1, 0.1])):
        epsilon = tiny_model(budget=Given(values)).class_epsilon()
        assert keras.backend.standardize_dtype(epsilon.dtype) == "float32"
        np.testing.assert_allclose(epsilon, [0.05, 0.1, 0.1])
    for values in (0.1, [0.1, 0.1]):
        with pytest.raises(ValueError, match="must give 3 numbers, one for each class"):
            tiny_model(budget=Given(values)).class_epsilon()


def test_a_rule_without_get_config_is_saved_as_it_was_made(tmp_path):
    values = np.float32([0.05, 0.1, 0.1])
    model = tiny_model(budget=Given(values))
    model.save(tmp_path / "model.keras")
    found = keras.saving.load_model(tmp_path / "model.keras").budget
    np.testing.assert_array_equal(found.values, values)
    assert "values=array([0.05, 0.1" in repr(found)


def test_auto_of_a_very_long_tail():
    assert 0 < krl.budget.largest_alpha([10**7, 1], 8 / 255) < 1e-3
