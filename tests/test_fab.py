import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_apgd import SOME, linear_problem, right, to_numpy
from test_attacks import assert_valid, lengths
from tiny_cnn import group, tiny_cnn
from tiny_models import threshold_network

from keras_robustlt.attacks import FAB, fab, norms

NORMS = ("linf", "l2")
few = settings(max_examples=3, deadline=None)


# The projection


def to_plane(points, normal, values, norm):
    arguments = (np.asarray(a, "float32") for a in (points, normal, values[:, None]))
    return to_numpy(fab.to_plane(*arguments, norms.get(norm)))


def test_projection_against_the_reference(golden):
    arrays = group(golden("autoattack"), "projection.")
    points, normal = arrays["points"], arrays["w"]
    values = np.sum(normal.astype("float64") * points, axis=1) - arrays["b"]
    found = to_plane(points, normal, values, "linf")
    np.testing.assert_allclose(found, arrays["delta"], atol=1e-5)


@pytest.mark.parametrize(
    "norm", [pytest.param("linf", marks=pytest.mark.slow_on_jax), "l2"]
)
@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-12, 1e-3, 1.0, 1e12]))
def test_projection_is_the_shortest_way_within_the_box(norm, seed, scale):
    rng = np.random.default_rng(seed)
    points = rng.integers(0, 9, (6, 7)) / 8
    normal = rng.normal(size=(6, 7)) * (rng.random((6, 7)) > 0.2)
    values = rng.normal(size=6)
    way = to_plane(points, normal * scale, values * scale, norm)
    end = points + way
    assert end.min() >= -1e-6 and end.max() <= 1 + 1e-6
    for i in range(6):
        reached = values[i] + normal[i] @ way[i]
        # The other side of the equation, solved by halving intervals.
        toward = -np.sign(values[i]) * np.sign(normal[i])
        room = np.where(toward > 0, 1 - points[i], points[i])
        pace = abs(normal[i]) if norm == "l2" else np.ones(7)
        low, high = 0.0, 1e6
        for _ in range(200):
            time = (low + high) / 2
            covered = np.sum(abs(normal[i]) * np.minimum(time * pace, room))
            low, high = (time, high) if covered < abs(values[i]) else (low, time)
        expected = toward * np.minimum(high * pace, room)
        np.testing.assert_allclose(way[i], expected, atol=1e-5)
        if abs(normal[i]) @ room > abs(values[i]):
            assert abs(reached) < 1e-5


def test_projection_of_a_constant_function_goes_nowhere():
    for norm in NORMS:
        way = to_plane(np.full((1, 3), 0.5), np.zeros((1, 3)), np.ones(1), norm)
        np.testing.assert_array_equal(way, 0)


# Against the official implementation


@pytest.fixture(scope="module")
def official(golden):
    arrays = golden("autoattack")
    return arrays, tiny_cnn(group(arrays, "weights."))


@pytest.mark.parametrize(
    "row", [0, *(pytest.param(r, marks=pytest.mark.slow) for r in range(1, 9))]
)
def test_a_target_of_the_reference(official, row):
    arrays, network = official
    correct = np.flatnonzero(arrays["clean_correct"][SOME])
    attack = FAB(float(arrays["epsilon"]))
    x, y = arrays["x"][correct], arrays["y"][correct]
    problem = attack._problem(network, x, y, None, seed=0)
    targets = arrays["fab_t.targets"][row, correct].astype("int32")
    np.testing.assert_array_equal(attack._target_classes(problem.logits)[row], targets)
    found = attack._run(problem, targets, 0, until_fooled=False)
    expected = arrays["fab_t.distance"][row, correct]
    np.testing.assert_array_equal(np.isinf(found["distance"]), np.isinf(expected))
    finite = np.isfinite(expected)
    off = abs(found["distance"][finite] / expected[finite] - 1)
    assert np.mean(off <= 1e-3) >= 0.95
    assert off.max() <= 0.05
    measured = lengths(found["adversarial"], x, "linf")[finite]
    np.testing.assert_allclose(measured, found["distance"][finite], 1e-5)
    # The same flags where images leave as soon as they are fooled.
    leaving = attack._run(problem, targets, 0, until_fooled=True)["distance"]
    budget = attack.epsilon
    np.testing.assert_array_equal(leaving <= budget, found["distance"] <= budget)


@pytest.mark.slow
def test_all_targets_of_the_reference(official):
    arrays, network = official
    attack = FAB(float(arrays["epsilon"]))
    distance = attack.minimize(network, arrays["x"], arrays["y"])["distance"]
    correct = arrays["clean_correct"]
    assert not distance[~correct].any()
    off = abs(distance / arrays["fab_t.min_distance"] - 1)[correct]
    assert np.mean(off <= 1e-3) >= 0.95
    assert off.max() <= 0.05
    x_adv = attack(network, arrays["x"], arrays["y"])
    flags = right(network, x_adv, arrays["y"])
    assert np.sum(flags != arrays["aa.individual.fab-t"]) <= 3


# What it finds


@pytest.fixture(scope="module")
def ten():
    network, x, _ = linear_problem(classes=4)
    x = 0.2 + 0.6 * x  # away from black and white
    return network, x, to_numpy(network(x)).argmax(axis=1)


ATTACKS = {norm: FAB(0.02, steps=12, norm=norm, targets=3) for norm in NORMS}
NEAREST = {norm: FAB(0.02, steps=12, norm=norm, targets=None) for norm in NORMS}


def distances(network, x, y, norm):
    """To the nearest boundary of a network of one dense layer, by its formula."""
    kernel, bias = network.get_weights()
    logits = x.reshape(len(x), -1) @ kernel + bias
    found = []
    for i, label in enumerate(y):
        lead = logits[i, label] - np.delete(logits[i], label)
        normal = np.delete(kernel - kernel[:, label : label + 1], label, axis=1)
        dual = abs(normal).sum(0) if norm == "linf" else np.linalg.norm(normal, axis=0)
        found.append((lead / dual).min())
    return np.array(found)


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("attacks", [ATTACKS, NEAREST])
def test_distance_to_the_boundary_of_a_linear_network(ten, attacks, norm):
    network, x, y = ten
    found = attacks[norm].minimize(network, x, y)
    expected = distances(network, x, y, norm)
    # Beyond the boundary, by as little as its steps allow.
    assert np.all(found["distance"] >= expected * (1 - 1e-4))
    assert np.all(found["distance"] <= expected * 1.06)
    assert not right(network, found["adversarial"], y).any()


@pytest.mark.parametrize("norm", NORMS)
@few
@given(st.integers(0, 1000))
def test_stays_in_the_ball(ten, norm, seed):
    network, _, _ = ten
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (10, 6, 6, 3)).astype("float32") / 4
    y = to_numpy(network(x)).argmax(axis=1)
    epsilon = np.linspace(0, 0.1, 10)
    for attack in (ATTACKS[norm], NEAREST[norm]):
        x_adv = attack(network, x, y, epsilon)
        assert_valid(x_adv, x, epsilon, norm)
        # Fooled, or as it was.
        moved = lengths(x_adv, x, norm) > 0
        np.testing.assert_array_equal(moved, ~right(network, x_adv, y))


@few
@given(st.permutations(range(10)))
def test_neither_batches_nor_order_matter(ten, order):
    network, x, y = ten
    order = np.array(order)
    attack = ATTACKS["linf"]
    together = to_numpy(attack(network, x, y))
    # Nothing is random without restarts, so no seed is needed.
    parts = [
        to_numpy(attack(network, x[part], y[part])) for part in (order[:3], order[3:])
    ]
    np.testing.assert_allclose(np.concatenate(parts), together[order], atol=1e-5)


def test_restarts_begin_elsewhere(ten):
    network, x, y = ten
    attack = FAB(0.02, steps=2, targets=2, restarts=2)
    problem = attack._problem(network, x, y, None, seed=0)
    starts = [attack._start(problem, trial) for trial in range(4)]
    for first in (0, 2):  # one for each target
        np.testing.assert_array_equal(starts[first], x)
        np.testing.assert_allclose(
            lengths(starts[first + 1], x, "linf"), 0.01, atol=1e-6
        )
    assert len(attack._target_classes(problem.logits)) == 4
    left = [
        right(network, FAB(0.012, 2, targets=1, restarts=n)(network, x, y, seed=0), y)
        for n in (1, 3)
    ]
    assert np.all(left[0] | ~left[1])


def test_two_classes():
    x = np.array([[0.6], [0.3]], "float32")
    for targets in (9, None):
        attack = FAB(0.15, steps=10, targets=targets)
        found = attack.minimize(threshold_network(0.5), x, [0, 1])
        assert np.all(found["distance"] >= [0.1, 0.2])
        assert np.all(found["distance"] <= [0.105, 0.21])
        # The second is further away than the budget.
        x_adv = to_numpy(attack(threshold_network(0.5), x, [0, 1]))
        assert x_adv[0, 0] < 0.5 and x_adv[1, 0] == x[1, 0]


def test_what_cannot_be_found_is_infinitely_far_away():
    x = np.array([[0.6], [0.4]], "float32")
    found = FAB(1.0, steps=3).minimize(threshold_network(-1.0), x, [0, 1])
    np.testing.assert_array_equal(found["distance"], [np.inf, 0])
    np.testing.assert_array_equal(found["adversarial"], x)

    def constant(x):
        return keras.ops.concatenate([2 + 0 * x, 0 * x], axis=1)

    assert np.isinf(FAB(1.0, steps=3).minimize(constant, x, [0, 0])["distance"]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 8}, "`epsilon`"),
        ({"steps": 0}, "`steps`"),
        ({"norm": "l1"}, "`norm`"),
        ({"targets": -1}, "`targets`"),
        ({"restarts": 0}, "`restarts`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        FAB(**arguments)


@pytest.mark.parametrize("targets", [4, None])
def test_configuration(targets):
    attack = FAB(0.1, 7, "l2", targets, 3, 16)
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(attack)))
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is FAB
    assert again.get_config() == attack.get_config()
    assert again.targets == targets and again.steps == 7
