"""The budget that sets itself, against numbers made by hand from its rule."""

import keras
import numpy as np
import pytest
from tiny_models import COUNTS, FIT, tiny_model, trained

import keras_robustlt as krl

SHARES = np.array([8, 3, 1]) / 12
RARITY = np.sqrt(np.log([1, 8 / 3, 8]))


def alpha_of(skew):
    mean = SHARES @ RARITY
    return skew * mean / (RARITY.mean() - mean)


class Epochs:
    """Steps of a training of ten epochs whose errors are chosen."""

    def __init__(self, counts=COUNTS, **arguments):
        self.model = tiny_model(class_counts=counts, budget="auto", **arguments)
        self.rule, self.schedule = self.model.budget, self.model.schedule
        self.schedule.start(10)

    def begin(self, epoch):
        """Begins an epoch, from 1; the alpha and the growth in it."""
        self.schedule.begin_epoch(epoch - 1)
        self.schedule.advance()
        self.rule.begin_step(self.schedule)
        alpha = self.rule.alpha(self.schedule)
        return float(alpha), float(self.rule.iteration_weight(self.schedule))

    def see(self, errors, images=4):
        """So many images of each class, and of them a share that is wrong."""
        classes = self.model.num_classes
        for label, error in enumerate(errors):
            wrong = np.arange(images) < round(error * images)
            predicted = np.where(wrong, (label + 1) % classes, label)
            targets = np.eye(classes, dtype="float32")[[label] * images]
            self.rule.update(targets, np.eye(classes, dtype="float32")[predicted])


def test_alpha_and_growth_follow_the_errors():
    epochs = Epochs()
    assert epochs.begin(1) == (0, 0)
    epochs.see([0, 0.5, 1])
    # R = (1/3, 7/12, 5/6), from 2/3 for all: in the mean 7/12, over the data 7/16.
    expected = alpha_of(7 / 12 - 7 / 16), 4 / 8
    assert epochs.begin(2) == pytest.approx(expected, 1e-6)
    # A second step of the epoch changes nothing.
    epochs.schedule.advance()
    epochs.rule.begin_step(epochs.schedule)
    assert float(epochs.rule.alpha(epochs.schedule)) == pytest.approx(expected[0])
    budgets = keras.ops.convert_to_numpy(epochs.model.class_epsilon())
    whole = krl.budget.classwise_epsilon(COUNTS, 0.1, expected[0])
    np.testing.assert_allclose(budgets, 4 / 8 * whole, 1e-5)
    # 13/24 of the data are wrong, more than 7/16: one epoch further, not four.
    epochs.see([0.5, 0.5, 1])
    second = 45 / 72 - SHARES @ [5 / 12, 13 / 24, 11 / 12]
    skew = 7 / 12 - 7 / 16 + second
    assert epochs.begin(3) == pytest.approx((alpha_of(skew), 5 / 8), 1e-6)
    # A class that an epoch has not is as it was.
    before = keras.ops.convert_to_numpy(epochs.rule.risk)
    epochs.see([0, 0])
    epochs.begin(4)
    after = keras.ops.convert_to_numpy(epochs.rule.risk)
    np.testing.assert_allclose(after, before / [2, 2, 1], 1e-6)


def test_the_slowest_growth_is_that_of_the_paper():
    epochs = Epochs()
    epochs.begin(1)
    weights = []
    for epoch in range(2, 11):
        epochs.see([1, 1, 1])  # worse than guessing, and than any average of it
        weights.append(epochs.begin(epoch)[1])
    assert weights == pytest.approx(
        krl.budget.iteration_weight(np.arange(2, 11), 10, 0.8)
    )


@pytest.mark.parametrize("errors", [[0.5, 0.5, 0.5], [1, 0.5, 0], [0, 0, 0]])
def test_without_skew_the_budget_is_uniform(errors):
    epochs = Epochs()
    epochs.begin(1)
    for epoch in range(2, 11):
        epochs.see(errors)
        assert epochs.begin(epoch)[0] == pytest.approx(0, abs=1e-6)
    np.testing.assert_allclose(epochs.model.class_epsilon(), 0.1, 1e-5)


def test_the_rarest_class_gets_at_most_twice_epsilon():
    for epsilon, most in ((0.1, 0.2), (0.3, 0.5), (0.6, 0.6)):
        epochs = Epochs([1000, 10, 1], epsilon=epsilon)
        epochs.begin(1)
        epochs.rule.risk.assign([0.0, 1.0, 1.0])
        epochs.see([0, 1, 1])
        epochs.begin(9)
        budgets = keras.ops.convert_to_numpy(epochs.model.class_epsilon())
        assert budgets.max() == pytest.approx(most, 1e-5)
        assert budgets @ [1000, 10, 1] / 1011 == pytest.approx(epsilon, 1e-5)


def test_alpha_stays_without_skew_and_falls_where_frequent_classes_err_more():
    epochs = Epochs()
    epochs.begin(1)
    alphas, frequent = [], [1, 0, 0]
    for epoch, errors in enumerate(([0, 0.25, 0.5], [0] * 3, frequent, frequent), 2):
        epochs.rule.risk.assign(errors)
        epochs.see(errors)
        alphas.append(epochs.begin(epoch)[0])
    assert alphas[0] == alphas[1] > alphas[2]
    assert alphas[3] == 0


def test_a_tenth_of_training_has_the_same_effect_in_a_longer_one():
    alphas = []
    for total in (10, 20):
        epochs = Epochs()
        epochs.schedule.start(total)
        epochs.begin(1)
        for epoch in range(2, 2 + total // 10):
            epochs.rule.risk.assign([0, 0.1, 0.2])
            epochs.see([0, 0.1, 0.2], images=10)
            alpha, _ = epochs.begin(epoch)
        alphas.append(alpha)
    assert alphas[0] == pytest.approx(alphas[1]) and alphas[0] > 0


def test_balanced_classes_have_nothing_to_balance():
    epochs = Epochs([4, 4, 4])
    epochs.begin(1)
    epochs.see([0, 0.5, 1])
    assert epochs.begin(2)[0] == 0
    assert krl.budget.largest_alpha([4, 4, 4], 0.1) == 1


@pytest.mark.parametrize(
    ("head", "tail", "alpha"), [(0.184, 0.863, 0.28), (0.245, 0.714, 0.19)]
)
def test_errors_of_the_paper_give_about_the_alpha_of_the_paper(head, tail, alpha):
    # CIFAR10-LT at ratio 50, AT and AT-BSL: the two largest classes are no tail.
    counts = krl.data.long_tail_counts(5000, 10, 50)
    epochs = Epochs(counts, network=ten_classes())
    epochs.begin(1)
    errors = [head] * 2 + [tail] * 8
    epochs.rule.risk.assign(errors)
    epochs.see(errors, images=1000)
    assert epochs.begin(2)[0] == pytest.approx(alpha, abs=0.005)


def ten_classes():
    layers = keras.layers
    return keras.Sequential([keras.Input((2,)), layers.Dense(10)])


def test_training_goes_on_after_an_interruption_and_anew_after_its_end(
    images, tmp_path
):
    # So that the classes that this random network knows least are the rare ones.
    counts = COUNTS if keras.backend.backend() == "jax" else COUNTS[::-1]

    def model():
        keras.utils.set_random_seed(3)
        return tiny_model(None, counts, budget="auto", total_epochs=4)

    first = model()
    inspector = krl.callbacks.ScheduleInspector()
    whole = trained(images, first, epochs=4, callbacks=[inspector])
    alphas = first.history.history["alpha"]
    assert alphas[0] == 0 and len(set(alphas)) == 4
    assert alphas[-1] == pytest.approx(float(first.budget.alpha(first.schedule)))
    assert inspector.weights[0] == 0 and inspector.weights[-1] == 1
    for epochs in (2, 4):
        part = model()
        callbacks = [krl.callbacks.Checkpoint(tmp_path)]
        weights = trained(images, part, epochs=epochs, callbacks=callbacks)
    np.testing.assert_array_equal(weights, whole)
    assert float(part.budget.lead) == float(first.budget.lead)
    x, y = images
    first.fit(x, y, epochs=1, **FIT)
    assert float(first.budget.lead) == float(first.budget.strength) == 0


def test_other_lengths_are_other_trainings(images, tmp_path):
    def fit(epochs):
        model = tiny_model(budget="auto")
        callbacks = [krl.callbacks.Checkpoint(tmp_path)]
        trained(images, model, epochs=epochs, callbacks=callbacks)

    fit(2)
    with pytest.raises(ValueError, match="total_epochs: 2 there, 6 now"):
        fit(6)
