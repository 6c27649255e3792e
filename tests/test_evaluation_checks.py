import json
import math
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import ops
from tiny_models import COUNTS, dense_network, tiny_model

import keras_robustlt as krl
from keras_robustlt.evaluation import sanity_checks
from keras_robustlt.evaluation.diagnose import _depends_on_start
from keras_robustlt.evaluation.sanity_checks import (
    Run,
    _outdone_by_weaker,
    _short_of_budget,
    _short_steps,
    broken_gradients,
    chance_of_reaching,
    outdone,
    outdone_by_black_box,
    overstates,
    too_many,
)
from keras_robustlt.evaluation.sanity_checks import (
    _overstated as overstated,
)

EPSILON = 0.1
ATTACKS = ["clean", "fgsm", "pgd16"]


@pytest.fixture(scope="module")
def digits():
    """Images and labels that a network was not trained on."""
    _, test, _ = krl.data.long_tail_arrays("digits", imbalance_ratio=1)
    return test


@pytest.fixture(scope="module")
def network():
    """A small network after adversarial training: nothing is wrong with it."""
    keras.utils.set_random_seed(0)
    (x, y), _, counts = krl.data.long_tail_arrays("digits", imbalance_ratio=1)
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input(x.shape[1:]),
            layers.Flatten(),
            layers.Dense(64, use_bias=False),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.Dense(10),
        ]
    )
    attack = krl.attacks.PGD(EPSILON, steps=3, step_size=EPSILON / 2)
    model = krl.RobustLTModel(network, counts, EPSILON, attack=attack, alpha=0, beta=0)
    model.compile(krl.optimizers.SGD(0.1, momentum=0.9))
    model.fit(x, y, batch_size=64, epochs=8, verbose=0)
    return network


class Noise(keras.layers.Layer):
    """Random in inference mode too."""

    def __init__(self, size):
        super().__init__()
        self.size = size
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        noise = keras.random.uniform(ops.shape(x), -1.0, 1.0, seed=self.seed)
        return x + self.size * noise


def very_sure(network):
    """So large logits that the softmax is exactly 0 or 1."""
    return lambda x: 1e4 * network(x)


def overflowing(network):
    """No number for any image."""
    return lambda x: float("nan") * network(x)


def rounding(network):
    """Four levels of grey, and no gradient to the images."""

    def function(x):
        return network(0.0 * x + ops.stop_gradient(ops.round(4 * x) / 4))

    return function


def misleading(network):
    """What the network sees is the image; the gradient is turned around."""
    return lambda x: network(ops.stop_gradient(2.0 * x) - x)


def noisy(network):
    inputs = keras.Input(network.input_shape[1:])
    return keras.Model(inputs, network(Noise(0.5)(inputs)))


def half_stopped(network):
    def function(x):
        return network(ops.concatenate([ops.stop_gradient(x[:, :4]), x[:, 4:]], axis=1))

    return function


def with_a_root(network):
    """Infinite slopes at black pixels."""
    return lambda x: network(ops.sqrt(x))


def tensorflow(*values):
    """A case that is the same on JAX, where compiling takes long."""
    return pytest.param(*values, marks=pytest.mark.tensorflow)


def checks_of(findings):
    return {finding["check"] for finding in findings}


# The tests


@pytest.mark.parametrize("trials", [1, 5, 30])
@pytest.mark.parametrize("probability", [0.01, 0.5])
def test_chance_is_the_binomial_sum(trials, probability):
    for least in range(trials + 1):
        expected = sum(
            math.comb(trials, k) * probability**k * (1 - probability) ** (trials - k)
            for k in range(least, trials + 1)
        )
        found = chance_of_reaching(least, trials, probability)
        assert found == pytest.approx(expected, rel=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3000), st.data())
def test_chance_falls_with_what_is_to_be_reached(trials, data):
    least = data.draw(st.integers(0, trials - 1))
    smaller, larger = (chance_of_reaching(k, trials, 0.01) for k in (least + 1, least))
    assert 0 <= smaller <= larger <= 1 + 1e-9


def test_thresholds_are_those_of_the_docstring():
    for examples, first in ((256, 8), (1000, 19)):
        assert too_many(first, examples, 0.01)
        assert not too_many(first - 1, examples, 0.01)
    assert not too_many(0, 0, 0.01)


def test_outdone_needs_significance_and_size():
    assert outdone(30, 5, 1000)
    assert not outdone(30, 25, 1000)  # by chance
    assert not outdone(30, 5, 100_000)  # of no consequence
    assert not outdone(5, 30, 1000)


def flags(*broken, examples=500):
    right = np.ones(examples, bool)
    for part in broken:
        right[part] = False
    return right


def test_black_box_against_the_union_of_the_others():
    square = Run("square", krl.attacks.Square(0.1), flags(slice(0, 60)))
    first = Run("pgd20", krl.attacks.PGD(0.1, 20), flags(slice(0, 30)))
    second = Run("cw20", krl.attacks.PGD(0.1, 20, loss="margin"), flags(slice(30, 58)))
    finding = outdone_by_black_box(square, [square, first])
    assert finding["missed"] == 30
    assert (
        "breaks 30 of 500 images (6.0%) that are still right after pgd20;"
        in finding["message"]
    )
    assert outdone_by_black_box(square, [square, first, second]) is None
    assert outdone_by_black_box(first, [square, first]) is None


def test_black_box_is_compared_with_what_may_do_as_much():
    square = Run("square", krl.attacks.Square(0.1), flags(slice(0, 60)))
    weaker = [
        krl.attacks.FGSM(0.1),
        krl.attacks.PGD(0.05, 20),
        krl.attacks.PGD(0.1, 20, norm="l2"),
        None,
    ]
    for attack in weaker:
        assert outdone_by_black_box(square, [square, Run("a", attack, flags())]) is None


def test_black_box_after_an_ensemble_may_find_less():
    before = [Run("apgd-ce", krl.attacks.APGD(0.1), flags(slice(0, 30)))]
    square = krl.attacks.Square(0.1)
    for found, expected in ((3, None), (6, 6)):
        run = Run("square", square, flags(slice(0, 30 + found)), before=before)
        finding = outdone_by_black_box(run, [*before, run])
        assert (finding and finding["missed"]) == expected


def test_somebody_has_the_whole_budget():
    """An attack object has its own epsilon, not that of the evaluation."""
    pgd = krl.attacks.PGD

    def found(*attacks, norm="linf"):
        named = {str(index): attack for index, attack in enumerate(attacks)}
        return _short_of_budget(named, 0.1, norm)

    finding = found(None, pgd(0.03), krl.attacks.AutoAttack(epsilon=0.05))
    assert (finding["largest"], finding["epsilon"]) == (0.05, 0.1)
    assert "may change pixels by 0.05 at most" in finding["message"]
    assert found(pgd(0.03, norm="l2"), norm="l2")
    # The L2 ball of as small a radius is smaller still.
    assert "(l2: all pixels together)" in found(pgd(0.1, norm="l2"))["message"]
    # Budgets below it beside it, in other norms and those of functions are all right.
    whole = [pgd(0.1), pgd(0.1, norm="l2")]
    for attacks in ([None], [pgd(0.03), pgd(0.1)], whole, [pgd(0.5, norm="l2")], [len]):
        assert found(*attacks) is None
    assert _short_of_budget({"a": pgd(0.03)}, None, "linf") is None


def test_steps_that_lead_nowhere():
    with pytest.warns(UserWarning, match="lead 0.002 far, of epsilon=0.1"):
        short = krl.attacks.PGD(0.1, 20, step_size=1e-4)
    attacks = {"clean": None, "short": short, "pgd1": krl.attacks.get("pgd1")}
    assert _short_steps(attacks)["attacks"] == ["short"]
    assert _short_steps({"fgsm": krl.attacks.FGSM(0.1), "own": len}) is None


@pytest.mark.usefixtures("eagerly")
def test_a_budget_of_nothing(images):
    """What attacks leave looks robust, and is the clean accuracy."""
    with pytest.warns(krl.RobustnessWarning, match="pgd2 may change nothing"):
        krl.evaluate(dense_network(), *images, ["clean", "pgd2"], epsilon=0, verbose=0)


@pytest.mark.usefixtures("eagerly")
def test_a_default_epsilon_in_the_evaluation_of_a_model_of_another(images):
    with pytest.warns(krl.RobustnessWarning, match="epsilon of this evaluation is 0.1"):
        krl.evaluate(
            tiny_model(), *images, attacks={"pgd": krl.attacks.PGD(steps=2)}, verbose=0
        )


def test_names_of_attacks_are_in_the_norm_of_the_model(images):
    """Its epsilon is, so that another norm's ball would be another budget."""
    attack = krl.attacks.PGD(2.0, steps=2, norm="l2")
    model = krl.RobustLTModel(dense_network(), COUNTS, epsilon=2.0, attack=attack)
    names = ["pgd2", "fgsm", "apgd-ce"]
    results = krl.evaluate(model, *images, attacks=names, verbose=0, diagnose=False)
    for name in names:
        described = results[name]["attack"]
        assert (described["norm"], described["epsilon"]) == ("l2", 2.0)
    curve = krl.robustness_curve(model, *images, attack="pgd2", verbose=0)
    assert (curve["attack"]["norm"], curve["epsilons"][-1]) == ("l2", 4.0)
    arguments = {"starts": 2, "steps": 2, "queries": 0}
    diagnosis = krl.diagnose(model, *images, **arguments)
    assert (diagnosis["norm"], diagnosis["epsilon"]) == ("l2", 2.0)
    with pytest.raises(ValueError, match="'fgsm-rs' is an attack in the norm 'linf'"):
        krl.evaluate(model, *images, attacks=["fgsm-rs"], verbose=0)


def test_which_attack_should_outdo_which():
    pgd, apgd = krl.attacks.PGD, krl.attacks.APGD
    order = [krl.attacks.FGSM(0.1), pgd(0.1, 8), pgd(0.1, 20), pgd(0.2, 20), apgd(0.2)]
    runs = [Run(str(i), attack, flags()) for i, attack in enumerate(order)]
    for i, first in enumerate(runs):
        for j, second in enumerate(runs):
            assert first.should_outdo(second) == (i > j), (i, j)
    base = Run("base", pgd(0.1, 20), flags())
    for other in (pgd(0.1, 10, loss="margin"), pgd(0.1, 10, norm="l2"), None):
        assert not base.should_outdo(Run("other", other, flags()))
    # From a start at one end of the ball it cannot get to the other.
    short = Run("short", pgd(0.1, 20, 0.005), flags())
    assert not short.should_outdo(runs[0])


def test_a_larger_budget_that_breaks_less():
    pgd = krl.attacks.PGD
    small = Run("small", pgd(0.1, 20), flags(slice(0, 40)))
    middle = Run("middle", pgd(0.15, 20), flags(slice(0, 42)))
    large = Run("large", pgd(0.2, 20), flags(slice(40, 45)))
    runs = [small, middle, large]
    finding = _outdone_by_weaker(large, runs)
    assert (finding["attack"], finding["weaker"]) == ("large", "middle")
    assert (finding["only_weaker"], finding["only_stronger"]) == (40, 3)
    assert "which has a larger budget, only 3 that middle leaves" in finding["message"]
    assert _outdone_by_weaker(middle, runs) is None
    assert _outdone_by_weaker(small, runs) is None


def test_an_attack_that_overstates():
    pgd, margin = krl.attacks.PGD(0.1, 20), krl.attacks.PGD(0.1, 20, loss="margin")
    weak = Run("pgd20", pgd, flags(slice(0, 30), examples=150))
    for broken, expected in ((40, None), (60, 30)):
        strong = Run("cw20", margin, flags(slice(0, broken), examples=150))
        finding = overstated(weak, [weak, strong])
        assert (finding and finding["missed"]) == expected
        assert overstated(strong, [weak, strong]) is None
    assert "break 30 of these with no more budget: 60.0% are left" in finding["message"]
    # One with a larger budget may well do more, and so may any other than a few steps.
    larger = Run("cw20", krl.attacks.PGD(0.2, 20), flags(slice(0, 150), examples=150))
    assert overstated(weak, [weak, larger]) is None
    short = Run("pgd2", krl.attacks.PGD(0.1, 2), flags(slice(0, 30), examples=150))
    assert overstated(short, [short, strong]) is None


def test_overstating_is_relative_and_of_consequence():
    assert overstates(25, 121, 121 / 150)
    assert not overstates(20, 121, 121 / 150)
    assert overstates(20, 30, 0.3)  # three times as many as are robust
    assert not overstates(4, 4, 0.04)  # of no consequence
    assert not overstates(500, 3600, 0.36)  # as AutoAttack does to PGD anywhere


@pytest.mark.slow_on_jax
def test_evaluate_sees_that_pgd_overstates():
    """A network that learned to lead the cross-entropy astray."""
    keras.utils.set_random_seed(2)
    rng = np.random.default_rng(0)
    y = np.repeat(np.arange(4), 40)
    prototypes = rng.uniform(0.2, 0.8, (4, 8, 8, 1))
    x = np.clip(prototypes[y] + rng.normal(0, 0.15, (160, 8, 8, 1)), 0, 1)
    x = x.astype("float32")
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.Flatten(),
            layers.Dense(4),
        ]
    )
    # NumPy draws: with what JAX draws, no network of four seeds led it far astray.
    draws = np.random.default_rng(1)
    limits = {0: (6 / (9 + 72)) ** 0.5, 2: (6 / (288 + 4)) ** 0.5}  # Glorot's
    weights = network.get_weights()
    for index, limit in limits.items():
        weights[index] = draws.uniform(-limit, limit, weights[index].shape)
    network.set_weights(weights)
    attack = krl.attacks.PGD(0.14)
    model = krl.RobustLTModel(
        network, [40] * 4, 0.14, alpha=0, beta=0, attack=attack, seed=1
    )
    model.compile("adam")
    model.fit(x, y, epochs=10, verbose=0)
    with pytest.warns(krl.RobustnessWarning):
        alone = krl.evaluate(model, x, y, ["pgd20"], verbose=0)
        both = krl.evaluate(model, x, y, ["pgd20", "cw20"], verbose=0)
    assert both["pgd20"]["all"] > both["cw20"]["all"] + 0.1
    for results in (alone, both):
        findings = results.settings["findings"]
        (finding,) = [f for f in findings if f["check"] == "stronger_attack"]
        assert finding["attack"] == "pgd20"


@pytest.mark.slow_on_jax
def test_nothing_is_found_on_a_sane_network(network, digits):
    # Warnings are errors here.
    results = krl.evaluate(network, *digits, ATTACKS, EPSILON, verbose=0)
    assert results.settings["findings"] == []
    assert 0.3 < results["pgd16"]["all"] < results["clean"]["all"] - 0.05


@pytest.mark.slow_on_jax
def test_diagnosis_of_a_sane_network(network, digits):
    diagnosis = krl.diagnose(network, digits, epsilon=EPSILON, steps=10, queries=100)
    assert diagnosis.findings == []
    assert diagnosis["examples"] == 256
    assert len(diagnosis["starts"]) == 5
    assert diagnosis["worst_start"] <= min(diagnosis["starts"])
    assert diagnosis["square"] <= diagnosis["worst_start"]
    assert diagnosis["double_epsilon"] < min(diagnosis["starts"])
    assert diagnosis["at_large_epsilon"] == 0
    assert "Nothing suspicious" in str(diagnosis)
    assert json.loads(json.dumps(diagnosis)) == diagnosis


@pytest.mark.parametrize(
    "mask, expected",
    [
        (very_sure, {"zero_gradients", "logit_scale"}),
        tensorflow(overflowing, {"not_a_number"}),
        tensorflow(rounding, {"zero_gradients", "large_epsilon"}),
        tensorflow(misleading, {"large_epsilon", "black_box"}),
        tensorflow(noisy, {"random_network"}),
        tensorflow(half_stopped, {"stopped_gradients"}),
        tensorflow(with_a_root, {"infinite_gradients"}),
    ],
)
def test_diagnosis_of_masked_gradients(mask, expected, network, digits):
    diagnosis = krl.diagnose(
        mask(network),
        digits,
        epsilon=EPSILON,
        steps=6,
        starts=2,
        queries=300 if "black_box" in expected else 0,
    )
    assert expected <= checks_of(diagnosis.findings)
    assert not checks_of(diagnosis.findings) & {"random_start", "batch_normalization"}
    assert all(f"! {check}: " in str(diagnosis) for check in expected)


@pytest.mark.parametrize("mask", [very_sure, tensorflow(rounding)])
def test_evaluate_warns_of_vanishing_gradients(mask, network, digits):
    attacks = {"pgd5": krl.attacks.PGD(EPSILON, 5, EPSILON / 8)}
    with pytest.warns(krl.RobustnessWarning, match="gradient of exactly zero at"):
        results = krl.evaluate(mask(network), *digits, attacks, EPSILON, verbose=0)
    findings = json.loads(results.to_json())["settings"]["findings"]
    (finding,) = [f for f in findings if f["check"] == "zero_gradients"]
    assert "images that are still right after pgd5." in finding["message"]
    assert finding["zero_gradients"] > 0.5 * finding["examples"]


@pytest.mark.tensorflow
def test_evaluate_warns_where_square_is_stronger(network, digits):
    x, y = digits[0][:100], digits[1][:100]
    square = krl.attacks.Square(EPSILON, queries=300)
    attacks = {"pgd5": krl.attacks.PGD(EPSILON, 5), "square": square}
    with pytest.warns(krl.RobustnessWarning, match="square, which needs no gradients"):
        krl.evaluate(misleading(network), x, y, attacks, verbose=0)


class Sometimes(keras.layers.Layer):
    """Lets no gradient through in half of the draws."""

    def __init__(self):
        super().__init__()
        self.seed = keras.random.SeedGenerator(0)

    def call(self, x):
        keep = ops.cast(keras.random.uniform((), seed=self.seed) < 0.5, x.dtype)
        return keep * x + (1.0 - keep) * ops.stop_gradient(x)


def test_gradients_that_are_there_for_some_draws_only(network, digits):
    inputs = keras.Input(network.input_shape[1:])
    partly = keras.Model(inputs, network(Sometimes()(inputs)))
    found = sanity_checks.vanishing_gradients(partly, digits[0][:64], digits[1][:64])
    assert 0 < found[0].sum() < 64


@pytest.mark.tensorflow
def test_evaluate_warns_of_margins_without_a_slope(network, digits):
    with pytest.warns(krl.RobustnessWarning, match="margin loss has a gradient of"):
        krl.evaluate(rounding(network), *digits, ["cw5"], EPSILON, verbose=0)


def test_evaluate_warns_of_random_networks(network, digits):
    random = noisy(network)
    for model in (random, lambda x: random(x)):
        with pytest.warns(krl.RobustnessWarning, match="random in inference mode"):
            results = krl.evaluate(model, *digits, ["clean"], verbose=0)
        (finding,) = results.settings["findings"]
        assert 0 < finding["decided_otherwise"] <= finding["changed"] == 64


def test_no_diagnosis_where_none_is_wanted(network, digits):
    results = krl.evaluate(
        noisy(network), *digits, ["clean"], verbose=0, diagnose=False
    )
    assert "findings" not in results.settings


def test_a_start_that_decides():
    by_start = np.ones((3, 100), bool)
    by_start[0, :30] = False
    finding = _depends_on_start(by_start)
    assert (finding["wavering"], finding["worst"]) == (30, 0.7)
    assert _depends_on_start(by_start[1:]) is None
    by_start[:, :30] = False
    assert _depends_on_start(by_start) is None


@pytest.mark.tensorflow
def test_statistics_that_do_not_fit(digits, network):
    other = keras.models.clone_model(network)
    other.set_weights(network.get_weights())
    other.layers[2].moving_mean.assign(other.layers[2].moving_mean + 3.0)
    diagnosis = krl.diagnose(other, digits, epsilon=0.01, steps=2, starts=2, queries=0)
    with pytest.warns(krl.RobustnessWarning, match="moving statistics"):
        results = krl.evaluate(other, *digits, ["clean"], verbose=0)
    for findings in (diagnosis.findings, results.settings["findings"]):
        (finding,) = [f for f in findings if f["check"] == "batch_normalization"]
        assert finding["training_mode"] > finding["evaluation_mode"] + 0.1
    assert "square" not in diagnosis


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"epsilon": 0}, "`epsilon` must be more than 0"),
        ({"epsilon": 8}, "`epsilon` is in pixel units"),
        ({"starts": 1}, "`starts` must be at least 2. Received: starts=1"),
        ({"examples": 0}, "`examples` must be an integer of at least 1"),
        ({"norm": "l1"}, "`norm` must be one of"),
    ],
)
def test_diagnose_checks_arguments(arguments, message, images):
    with pytest.raises(ValueError, match=message):
        krl.diagnose(dense_network(), *images, **arguments)


def test_images_outside_the_range_are_no_warning_but_an_error(images):
    x, y = images
    with pytest.raises(ValueError, match=r"must hold images in \[0, 1\]"):
        krl.diagnose(dense_network(), 2 * x - 1, y)


def test_warnings_name_the_line_of_the_caller():
    finding = {"check": "name", "message": "text"}

    def evaluate():
        sanity_checks.warn([finding])

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        evaluate()
    assert caught[0].filename == __file__
    assert str(caught[0].message) == "text"
    assert caught[0].message.finding == finding


@pytest.mark.tensorflow
@pytest.mark.parametrize("pools_first", [True, False])
def test_plain_borders_and_pooling_stop_no_gradient(pools_first):
    x = np.random.default_rng(0).random((64, 16, 16, 1), "float32")
    x[:, :4] = x[:, :, :4] = x[:, -4:] = x[:, :, -4:] = 0
    conv = keras.layers.Conv2D(4, 3, activation="relu")
    layers = [keras.layers.MaxPooling2D(), conv]
    network = keras.Sequential(
        [
            keras.Input((16, 16, 1)),
            *(layers if pools_first else layers[::-1]),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    assert broken_gradients(network, x) is None


class Idle(krl.attacks.Attack):
    def __call__(self, network, x, y, epsilon=None, seed=None):
        return x


@pytest.mark.parametrize(
    "attack, check",
    [
        (lambda network, x, y, seed: x, "hardly_moves"),
        (lambda network, x, y, seed: np.clip(x + 0.004, 0, 1), "hardly_moves"),
        (Idle(EPSILON), "hardly_moves"),
        (krl.attacks.PGD(EPSILON, norm="l2"), "short_of_budget"),
    ],
)
def test_attacks_that_do_next_to_nothing(attack, check, network, digits):
    with pytest.warns(krl.RobustnessWarning):
        results = krl.evaluate(
            network, *digits, {"mine": attack}, epsilon=EPSILON, verbose=0
        )
    assert check in checks_of(results.settings["findings"])


def test_outputs_of_a_sigmoid_are_seen():
    x = np.random.default_rng(0).random((40, 4, 4, 1), "float32")
    y = (x.mean(axis=(1, 2, 3)) > 0.5).astype(int)
    logits = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    through = keras.Sequential([logits, keras.layers.Lambda(keras.ops.sigmoid)])
    with pytest.warns(krl.RobustnessWarning, match="between 0 and 1, as those of a"):
        krl.evaluate(through, x, y, attacks=["pgd2"], epsilon=0.01, verbose=0)
