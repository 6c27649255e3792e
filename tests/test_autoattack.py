import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_apgd import Noise, linear_problem, right, to_numpy
from test_attacks import assert_valid
from tiny_cnn import group, tiny_cnn
from tiny_models import dense_network

from keras_robustlt import backend
from keras_robustlt.attacks import APGD, APGDT, FAB, PGD, AutoAttack, Square

few = settings(max_examples=3, deadline=None)


@pytest.fixture(scope="module")
def ten():
    """Ten images of four classes that a network gets right, but for the last two."""
    network, x, y = linear_problem(classes=4)
    y[8:] = (y[8:] + 1) % 4
    return network, x, y


def short(norm):
    """An ensemble of attacks of all kinds, of a few steps each."""
    parts = [
        APGD(steps=3, norm=norm),
        APGDT(steps=3, norm=norm, targets=1),
        FAB(steps=2, norm=norm, targets=1),
        Square(queries=20, norm=norm),
    ]
    return AutoAttack(parts, norm=norm, seed=0)


ENSEMBLES = {norm: short(norm) for norm in ("linf", "l2")}
# So that some images of `ten` stay robust.
EPSILONS = {"linf": 0.012, "l2": 0.12}


@pytest.mark.parametrize("norm", ["linf", pytest.param("l2", marks=pytest.mark.slow)])
@settings(max_examples=3, deadline=None)
@given(seed=st.integers(0, 1000), size=st.sampled_from([0.5, 1.0, 2.0]))
def test_the_union_is_never_above_any_part(ten, norm, seed, size):
    network, x, y = ten
    ensemble, epsilon = ENSEMBLES[norm], size * EPSILONS[norm]
    stages = list(ensemble.stages(network, x, y, epsilon, seed))
    assert [stage.name for stage in stages] == ["clean", *ensemble.attacks]
    np.testing.assert_array_equal(stages[0].robust, right(network, x, y))
    union = stages[0].robust.copy()
    for number, attack in enumerate(ensemble.attacks.values()):
        alone = attack(network, x, y, epsilon, seed=seed + number)
        union &= right(network, alone, y)
        # All that an attack does to an image is the same with and without the others.
        np.testing.assert_array_equal(stages[number + 1].robust, union)
    for stage in stages:
        assert_valid(stage.x_adv, x, epsilon, norm)
        # The flags are those of the images that are returned.
        np.testing.assert_array_equal(right(network, stage.x_adv, y), stage.robust)
        kept = np.all(stage.x_adv == x, axis=(1, 2, 3))
        np.testing.assert_array_equal(kept, stage.robust | ~stages[0].robust)
        assert stage.seconds > 0


@few
@given(st.permutations(range(10)))
def test_neither_batches_nor_order_matter(ten, order):
    network, x, y = ten
    order = np.array(order)
    ensemble, epsilon = ENSEMBLES["linf"], EPSILONS["linf"]
    together = to_numpy(ensemble(network, x, y, epsilon))
    parts = [
        to_numpy(ensemble(network, x[part], y[part], epsilon))
        for part in (order[:4], order[4:])
    ]
    np.testing.assert_allclose(np.concatenate(parts), together[order], atol=1e-5)


@pytest.mark.slow_on_jax
def test_loops_of_the_graph_and_of_the_host_agree(ten, monkeypatch):
    network, x, y = ten
    results = []
    for slow in (False, True):
        monkeypatch.setattr(backend, "control_flow_is_slow", lambda slow=slow: slow)
        ensemble = short("linf")
        ensemble.attacks["fab"] = FAB(steps=2, targets=None)
        results.append(to_numpy(ensemble(network, x, y, EPSILONS["linf"])))
    np.testing.assert_allclose(*results, atol=1e-5)


def test_a_larger_budget_leaves_fewer(ten):
    network, x, y = ten
    left = []
    for size in (0.0, 0.5, 1.0, 2.0, 10.0):
        epsilon = size * EPSILONS["linf"]
        left.append(right(network, ENSEMBLES["linf"](network, x, y, epsilon), y).sum())
    assert left == sorted(left, reverse=True)
    assert left[0] == 8 and left[-1] == 0


def test_its_own_budget_goes_before_that_of_its_attacks(ten):
    network, x, y = ten
    attack = AutoAttack([APGD(0.0, steps=3)], epsilon=0.1)
    assert not right(network, attack(network, x, y, seed=0), y).any()


def test_a_budget_for_each_image(ten):
    network, x, y = ten
    epsilon = np.where(np.arange(10) % 2, 0.1, 0.0)
    x_adv = ENSEMBLES["linf"](network, x, y, epsilon)
    assert_valid(x_adv, x, epsilon, "linf")
    expected = (np.arange(10) % 2 == 0) & (np.arange(10) < 8)
    np.testing.assert_array_equal(right(network, x_adv, y), expected)


def test_seed(ten):
    network, x, y = ten
    attack = AutoAttack([Square(queries=30)], epsilon=0.1)

    def run(seed):
        return to_numpy(attack(network, x, y, seed=seed))

    np.testing.assert_array_equal(run(1), run(1))
    assert abs(run(1) - run(2)).max() > 0.01
    seeded = AutoAttack(attack.version, epsilon=0.1, seed=1)
    np.testing.assert_array_equal(seeded(network, x, y), run(1))
    # Seeds are numbers like any other, also 0.
    np.testing.assert_array_equal(seeded(network, x, y, seed=0), run(0))


def test_what_an_attack_says_is_checked(ten):
    """An image counts as fooled only if the network is wrong on what is returned."""
    network, x, y = ten

    class Boaster(APGD):
        def __call__(self, network, x, y, epsilon, seed):
            return np.clip(x + 1e-9, 0, 1)

    stages = list(AutoAttack([Boaster()]).stages(network, x, y))
    np.testing.assert_array_equal(stages[1].robust, stages[0].robust)
    np.testing.assert_array_equal(stages[1].x_adv, x)


def test_logits_that_are_no_numbers_are_no_robustness(ten):
    network, x, y = ten
    limit = float(np.median(x[:, 0, 0, 0]))

    def spoilt(images):
        is_bright = images[:, :1, 0, 0] > limit
        return keras.ops.where(is_bright, np.nan, network(images))

    clean, *_ = AutoAttack(["square"], 0.001, seed=0).stages(spoilt, x, y)
    np.testing.assert_array_equal(clean.predicted == -1, x[:, 0, 0, 0] > limit)
    assert not clean.robust[clean.predicted == -1].any() and clean.robust.any()


def test_soft_labels_are_of_no_class(ten):
    network, x, _ = ten
    with pytest.raises(ValueError, match="`y` holds soft labels"):
        AutoAttack(["square"], 0.1)(network, x, np.full((len(x), 4), 0.25))


def test_a_random_network(ten):
    linear, x, _ = ten
    network = keras.Sequential([keras.Input((6, 6, 3)), Noise(0.01), linear])
    y = to_numpy(linear(x)).argmax(axis=1)
    attack = AutoAttack([APGD(steps=3, eot=3)], epsilon=0.1)
    clean, attacked = attack.stages(network, x, y, seed=0)
    assert clean.robust.mean() > 0.7
    assert attacked.robust.mean() < 0.3


def test_versions():
    standard = AutoAttack(epsilon=0.05, norm="l2", batch_size=7).attacks
    assert list(standard) == ["apgd-ce", "apgd-t", "fab-t", "square"]
    for attack in standard.values():
        assert (attack.epsilon, attack.norm, attack.batch_size) == (0.05, "l2", 7)
        assert attack.restarts == 1
    assert [standard[name].steps for name in list(standard)[:3]] == [100] * 3
    assert standard["apgd-t"].targets == standard["fab-t"].targets == 9
    assert standard["apgd-ce"].loss == "cross_entropy"
    assert standard["square"].queries == 5000
    assert not standard["square"].rescale_schedule

    plus = AutoAttack("plus").attacks
    names = ["apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"]
    assert list(plus) == names
    assert [plus[name].restarts for name in names] == [5, 5, 5, 1, 1, 1]
    assert plus["fab"].targets is None and plus["fab-t"].targets == 9
    assert plus["apgd-dlr"].loss == "dlr"

    random = AutoAttack("rand").attacks
    assert {name: attack.eot for name, attack in random.items()} == {
        "apgd-ce": 20,
        "apgd-dlr": 20,
    }

    own = AutoAttack(["fab-t", APGD(steps=3), APGD(loss="dlr")]).attacks
    assert list(own) == ["fab-t", "apgd", "apgd-3"]


def test_few_classes():
    x, y = np.full((2, 6, 6, 3), 0.5, "float32"), [0, 1]
    for version, classes, message in [
        (["apgd-t"], 3, "at least 4 classes.*'apgd-ce', 'fab' and 'square'"),
        (["apgd-dlr"], 2, "at least 3 classes"),
        ("standard", 1, r"at least 2 classes.*end it in Dense\(2\)"),
    ]:
        with pytest.raises(ValueError, match=message):
            AutoAttack(version)(dense_network(classes), x, y)
    stages = AutoAttack(["apgd-ce", "fab-t"], 0.5).stages(dense_network(2), x, y)
    assert [stage.robust.sum() for stage in stages][-1] == 0


def test_versions_for_two_and_three_classes():
    def names(version, classes):
        return list(AutoAttack(version)._for_classes(classes))

    standard = ["apgd-ce", "apgd-t (margin)", "fab-t", "square"]
    assert names("standard", 2) == names("standard", 3) == standard
    assert names("rand", 2) == ["apgd-ce", "apgd-dlr (margin)"]
    for version in ("standard", "plus", "rand"):
        AutoAttack(version).check_classes(2)
        assert names(version, 4) == list(AutoAttack(version).attacks)
    assert names("rand", 3) == ["apgd-ce", "apgd-dlr"]
    attack = AutoAttack("rand", 0.05, "l2", batch_size=7)
    margin = attack._for_classes(2)["apgd-dlr (margin)"]
    expected = {**attack.attacks["apgd-dlr"].get_config(), "loss": "margin"}
    assert margin.get_config() == expected and margin.eot == 20
    # The same object again, with what is compiled for it.
    assert attack._for_classes(2)["apgd-dlr (margin)"] is margin


@pytest.mark.slow_on_jax
def test_two_classes():
    """All stages of the standard version, on a network whose answers are known."""
    x = np.array([0.6, 0.52, 0.47, 0.1], "float32")[:, None, None, None]
    x = np.broadcast_to(x, (4, 3, 3, 1))
    network = dense_network(2, (3, 3, 1))
    network.set_weights([np.array([[1.0, -1.0]] * 9), np.array([-4.5, 4.5])])
    attack = AutoAttack(epsilon=0.05, seed=0)
    for part in attack.attacks.values():
        part.steps = part.queries = 3
    clean, *stages = attack.stages(network, x, [0, 0, 1, 1])
    assert [stage.name for stage in stages][1] == "apgd-t (margin)"
    assert clean.robust.all()
    np.testing.assert_array_equal(stages[-1].robust, [True, False, False, True])


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ("quick", "`version` must be one of 'standard', 'plus', 'rand'"),
        ([], "`version` names no attack"),
        (0.1, "`version` must be one of 'standard'"),
        (["pgd"], "`version` must be one of 'apgd-ce', .*Received: 'pgd'"),
        ([PGD()], "attacks of the kind of APGD, FAB and Square. Received: PGD\\(eps"),
    ],
)
def test_unknown_versions(version, message):
    with pytest.raises(ValueError, match=message):
        AutoAttack(version)


def test_other_bad_arguments():
    for arguments, message in [
        ({"version": [FAB(norm="l2")]}, "norm='linf' and an attack with norm='l2'"),
        ({"epsilon": 8}, "8 / 255"),
        ({"norm": "l1"}, "`norm`"),
        ({"seed": -1}, "`seed`"),
        ({"batch_size": 0}, "`batch_size`"),
    ]:
        with pytest.raises(ValueError, match=message):
            AutoAttack(**arguments)


@pytest.mark.parametrize("version", ["plus", ["apgd-ce", Square(queries=7), FAB()]])
def test_configuration(version):
    attack = AutoAttack(version, 0.1, "linf", 3, 16)
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(attack)))
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is AutoAttack
    assert json.dumps(again.get_config()) == json.dumps(attack.get_config())
    assert list(again.attacks) == list(attack.attacks)
    for name, part in attack.attacks.items():
        assert again.attacks[name].get_config() == part.get_config()


# Against the official implementation


@pytest.mark.slow_on_jax
def test_some_images_of_the_reference(golden):
    arrays = golden("autoattack")
    network = tiny_cnn(group(arrays, "weights."))
    x, y = arrays["x"][:10], arrays["y"][:10]
    version = ["apgd-ce", "apgd-t", "fab-t", Square(queries=200)]
    attack = AutoAttack(version, float(arrays["epsilon"]), seed=0)
    *_, last = attack.stages(network, x, y)
    np.testing.assert_array_equal(last.robust, arrays["aa.robust"][:10])
    assert 0 < last.robust.sum() < 10


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_the_reference(golden, seed):
    arrays = golden("autoattack")
    network = tiny_cnn(group(arrays, "weights."))
    x, y, epsilon = arrays["x"], arrays["y"], float(arrays["epsilon"])
    clean, *stages = AutoAttack(epsilon=epsilon, seed=seed).stages(network, x, y)
    np.testing.assert_array_equal(clean.robust, arrays["clean_correct"])
    assert [stage.name for stage in stages] == list(arrays["aa.attacks"])
    apgd, *_, last = stages
    expected = arrays["aa.robust_after.apgd-ce"].mean()
    assert abs(apgd.robust.mean() - expected) <= 0.015
    assert np.sum(last.robust != arrays["aa.robust"]) <= 3
    assert abs(last.robust.mean() - arrays["aa.robust"].mean()) <= 0.005
    # No image that is known to have an adversarial one clearly inside of the ball.
    assert not np.any(last.robust & (arrays["fab_t.min_distance"] < 0.99 * epsilon))
    np.testing.assert_array_equal(right(network, last.x_adv, y), last.robust)
    assert_valid(last.x_adv, x, epsilon, "linf")


@pytest.mark.slow
def test_plus_finds_at_least_as_much(golden):
    arrays = golden("autoattack")
    network = tiny_cnn(group(arrays, "weights."))
    x, y, epsilon = arrays["x"][:60], arrays["y"][:60], float(arrays["epsilon"])
    *_, last = AutoAttack("plus", epsilon, seed=0).stages(network, x, y)
    assert np.sum(last.robust & ~arrays["aa.robust"][:60]) <= 1
    assert np.sum(last.robust != arrays["aa.robust"][:60]) <= 2
