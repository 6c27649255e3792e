import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_apgd import linear_problem, right, to_numpy
from test_attacks import assert_valid, lengths
from tiny_cnn import group, tiny_cnn
from tiny_models import dense_network

import keras_robustlt as krl
from keras_robustlt.attacks import Square, square

few = settings(max_examples=3, deadline=None)


# Schedules and patterns


def test_schedules_against_the_reference(golden):
    arrays = group(golden("autoattack"), "square.")
    fractions = [square.fraction_of_pixels(q, 0.8) for q in range(len(arrays["p"]))]
    np.testing.assert_array_equal(fractions, arrays["p"])
    for side in (12, 32):
        sides = [square.Stripes().side(f, side, side) for f in fractions]
        np.testing.assert_array_equal(sides, arrays[f"side_{side}"])


def test_rescaled_schedule():
    rescaled = [square.fraction_of_pixels(q, 0.8, 1000) for q in range(1000)]
    full = [square.fraction_of_pixels(q, 0.8) for q in range(0, 10000, 10)]
    np.testing.assert_array_equal(rescaled, full)
    assert rescaled[-1] == 0.8 / 512


def test_windows_are_squares_inside_the_image():
    rng = np.random.default_rng(0)
    places = set()
    for _ in range(200):
        mask = square.window(rng, 3, (6, 5, 1))
        assert mask.sum() == 9
        rows, columns = np.nonzero(mask)
        assert np.ptp(rows) == np.ptp(columns) == 2
        places.add((rows.min(), columns.min()))
    # The last row and column are never used.
    assert places == {(row, column) for row in range(3) for column in range(2)}
    assert square.window(rng, 5, (5, 5, 1)).all()


def test_sides_fit_into_any_image():
    for search in (square.Stripes(), square.Hills()):
        assert search.side(0.8, 2, 40) == 2
        assert search.side(1e-6, 1, 1) == 1
    assert [square.Hills().side(f, 12, 12) for f in (0.8, 0.1, 1e-4)] == [11, 5, 3]


def test_hills():
    # Rings of 1 + 1/4 + 1/9, 1/4 + 1/9 and 1/9.
    high, middle, low = 49 / 36, 13 / 36, 1 / 9
    expected = np.full((5, 5), low)
    expected[1:4, 1:4] = middle
    expected[2, 2] = high
    found = square.hill(5, 5)
    np.testing.assert_allclose(found, expected / np.linalg.norm(expected), rtol=1e-6)
    rng = np.random.default_rng(0)
    standing = 0
    for side in (1, 2, 3, 6, 7):
        for _ in range(10):
            pattern = square.two_hills(rng, side)
            assert pattern.shape == (side, side)
            assert np.linalg.norm(pattern) == pytest.approx(1)
            if side == 6:
                upper, left = pattern[:3], pattern[:, :3]
                assert np.all(upper > 0) or np.all(left > 0)
                assert abs(pattern.sum()) < 1e-5
                standing += np.all(left > 0)
    assert 0 < standing < 10


def test_starts():
    rng = np.random.default_rng(0)
    stripes = square.Stripes().start(rng, (6, 8, 3))
    assert set(np.unique(stripes)) == {-1, 1}
    assert np.all(stripes == stripes[:1])
    for shape in ((32, 32, 3), (12, 12, 1), (4, 9, 3), (7, 5, 2)):
        hills = square.Hills().start(rng, shape)
        assert hills.shape == shape
        assert np.linalg.norm(hills) == pytest.approx(1, rel=1e-5)


@few
@given(st.integers(0, 1000))
def test_an_l2_candidate_uses_the_whole_budget(seed):
    rng = np.random.default_rng(seed)
    x = np.full((3, 10, 10, 2), 0.5, "float32")
    perturbed = x + 0.01 * rng.normal(size=x.shape).astype("float32")
    epsilon = np.array([0.1, 0.5, 1.0], "float32").reshape(3, 1, 1, 1)
    hills = square.Hills()
    windows = hills.windows(rng, [3], (10, 10, 2))
    found = hills.candidate(
        perturbed,
        {"image": x, "epsilon": epsilon},
        {key: value[0] for key, value in windows.items()},
        square.random_signs(rng, (3, 1, 1, 2)),
    )
    np.testing.assert_allclose(lengths(found, x, "l2"), epsilon.ravel(), 1e-4)
    # Outside of both windows nothing but the scale changes.
    outside = (windows["window"][0] + windows["emptied"][0]) == 0
    ratio = (to_numpy(found) - x)[:, outside] / (perturbed - x)[:, outside]
    assert np.all(np.ptp(ratio, axis=(1, 2)) < 2e-2 * ratio.mean(axis=(1, 2)))
    emptied = (windows["emptied"][0] > 0) & (windows["window"][0] == 0)
    assert abs(to_numpy(found) - x)[:, emptied].sum() == 0


# What it finds


@pytest.fixture(scope="module")
def ten():
    return linear_problem(classes=3)


ATTACKS = {norm: Square(0.1, queries=60, norm=norm) for norm in ("linf", "l2")}


@pytest.mark.parametrize("norm", ["linf", "l2"])
@few
@given(st.integers(0, 1000))
def test_stays_in_the_ball(ten, norm, seed):
    network, _, _ = ten
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (10, 6, 6, 3)).astype("float32") / 4
    y = to_numpy(network(x)).argmax(axis=1)
    epsilon = np.linspace(0, 0.2, 10) * (1 if norm == "linf" else 10)
    x_adv = ATTACKS[norm](network, x, y, np.minimum(epsilon, 1), seed)
    assert_valid(x_adv, x, np.minimum(epsilon, 1), norm)
    # Fooled, or as it was.
    moved = lengths(x_adv, x, norm) > 0
    np.testing.assert_array_equal(moved, ~right(network, x_adv, y))


def test_fools_a_linear_network(ten):
    network, x, y = ten
    for norm, epsilon in (("linf", 0.3), ("l2", 5.0)):
        x_adv = Square(epsilon, queries=300, norm=norm)(network, x, y, seed=0)
        assert not right(network, x_adv, y).any()


@few
@given(st.permutations(range(10)))
def test_neither_batches_nor_order_matter(ten, order):
    network, x, y = ten
    order = np.array(order)
    for norm, attack in ATTACKS.items():
        epsilon = {"linf": 0.05, "l2": 0.8}[norm]
        together = to_numpy(attack(network, x, y, epsilon, seed=3))
        parts = [
            to_numpy(attack(network, x[part], y[part], epsilon, seed=3))
            for part in (order[:3], order[3:])
        ]
        np.testing.assert_allclose(np.concatenate(parts), together[order], atol=1e-5)


def test_more_queries_go_on_from_fewer(ten):
    network, x, y = ten
    left = [
        right(network, Square(0.03, queries=n)(network, x, y, seed=0), y)
        for n in (1, 40, 130)
    ]
    assert np.all(left[0] | ~left[1]) and np.all(left[1] | ~left[2])
    assert left[2].sum() < left[0].sum()


def test_tied_logits_are_not_yet_misclassified():
    """The query goes on at a tie, where the first class is still the choice."""

    def network(x):
        bright = keras.ops.mean(x, axis=(1, 2, 3))[:, None]
        logits = [bright, keras.ops.minimum(bright, 0.5)]
        return 1 + keras.ops.concatenate(logits, axis=1)

    x = np.full((2, 4, 4, 1), 0.5, "float32")
    x_adv = Square(0.1, queries=20)(network, x, [0, 0], seed=0)
    np.testing.assert_array_equal(x_adv, x)


def test_needs_images():
    network = dense_network(input_shape=(4,))
    x, y = np.zeros((2, 4), "float32"), [0, 1]
    # AutoAttack says so before its other parts begin, and so does an evaluation.
    autoattack = krl.attacks.AutoAttack(["apgd-ce", "square"])
    for attack in (Square(), autoattack):
        message = r"\(examples, height, width, channels\)"
        with pytest.raises(ValueError, match=message):
            attack(network, x, y)
        with pytest.raises(ValueError, match=message):
            krl.evaluate(network, x, y, {"pgd": krl.attacks.PGD(), "late": attack})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 8}, "`epsilon`"),
        ({"queries": 0}, "`queries`"),
        ({"norm": "l1"}, "`norm`"),
        ({"initial_fraction": 2}, "`initial_fraction`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        Square(**arguments)


def test_configuration():
    attack = Square(0.1, 7, "l2", 0.5, True, 3, 16)
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(attack)))
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is Square
    assert again.get_config() == attack.get_config()
    assert again.queries == 7 and again.rescale_schedule


@pytest.mark.slow
def test_against_the_official_implementation(golden):
    arrays = golden("autoattack")
    network = tiny_cnn(group(arrays, "weights."))
    x, y = arrays["x"], arrays["y"]
    expected = arrays["square.robust_by_seed"]
    flags = right(network, Square(float(arrays["epsilon"]))(network, x, y, seed=0), y)
    assert abs(flags.mean() - expected.mean()) <= 0.02
    assert np.all(np.sum(flags != expected, axis=1) <= 15)
