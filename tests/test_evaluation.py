import functools
import io
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from tiny_models import (
    COUNTS,
    conv_network,
    dense_network,
    threshold_network,
    tiny_model,
)

import keras_robustlt as krl
from keras_robustlt.evaluation.progress import Progress, duration

# One pixel, bright is class 0, dark class 1: an image is right under an attack of
# epsilon 0.1 where its distance from the threshold 0.5 is larger.
X = np.array([[0.9], [0.7], [0.55], [0.45], [0.05], [0.42], [0.58]], "float32")
Y = np.array([0, 0, 0, 0, 1, 1, 1])
CLEAN = {"all": 5 / 7, "per_class": [3 / 4, 2 / 3]}
ROBUST = {"all": 3 / 7, "per_class": [2 / 4, 1 / 3]}
# Attacks that are as good as noise, to see their seeds and starts.
NOISE = pytest.mark.filterwarnings("ignore:All steps of")
# From any start it reaches the border of the ball.
PGD = krl.attacks.PGD(0.1, steps=4, step_size=0.05)


def evaluate(x=X, y=Y, model=None, **arguments):
    arguments = {
        "attacks": {"clean": None, "pgd": PGD},
        "epsilon": 0.1,
        "class_counts": [9, 2],
        "verbose": 0,
        **arguments,
    }
    return krl.evaluate(model or threshold_network(0.5), x, y, **arguments)


def test_accuracy_in_closed_form():
    names = ["clean", "fgsm", "pgd16"]
    results = evaluate(attacks=names, tail_fraction=0.5)
    assert list(results) == [*names, "union"]
    for name, entry in results.items():
        expected = CLEAN if name == "clean" else ROBUST
        per_class = expected["per_class"]
        assert entry["all"] == pytest.approx(expected["all"])
        assert entry["per_class"] == pytest.approx(per_class)
        assert entry["balanced"] == pytest.approx(np.mean(per_class))
        assert entry["tail"] == pytest.approx(per_class[1])
        assert entry["worst"] == pytest.approx(min(per_class))


@pytest.mark.slow_on_jax
def test_another_epsilon():
    results = evaluate(attacks=["fgsm"], epsilon=0.3)
    # Only those farther than 0.3 from the threshold: 0.9 and 0.05.
    assert results["fgsm"]["per_class"] == pytest.approx([1 / 4, 1 / 3])


@pytest.mark.slow_on_jax
def test_attack_objects():
    attacks = {
        "no attack": None,
        "small": krl.attacks.PGD(0.06, steps=8),
        "large": krl.attacks.PGD(0.1, steps=8, norm="l2"),
    }
    with pytest.warns(krl.RobustnessWarning, match="0.1 at most .l2: all pixels toge"):
        results = evaluate(attacks=attacks)
    assert results["no attack"]["all"] == pytest.approx(CLEAN["all"])
    assert results["small"]["all"] == pytest.approx(4 / 7)
    assert results["large"]["all"] == pytest.approx(ROBUST["all"])
    assert results["no attack"]["attack"] is None
    assert results["large"]["attack"]["norm"] == "l2"


@pytest.mark.parametrize("size", [1, 3, 7, 100])
def test_batch_size_does_not_matter(size):
    results = evaluate(batch_size=size)
    assert results["clean"]["per_class"] == pytest.approx(CLEAN["per_class"])
    assert results["pgd"]["per_class"] == pytest.approx(ROBUST["per_class"])


@pytest.mark.slow_on_jax
def test_forms_of_the_data():
    batches = [(X[:4], Y[:4]), (X[4:], Y[4:, None])]
    for x, y in (
        (X, np.eye(2)[Y]),
        (X.astype("float64"), Y[:, None]),
        ((X, Y), None),
        (batches, None),
    ):
        results = evaluate(x, y)
        assert results["clean"]["per_class"] == pytest.approx(CLEAN["per_class"])
        assert results["pgd"]["per_class"] == pytest.approx(ROBUST["per_class"])


@NOISE
@pytest.mark.tensorflow
def test_arrays_and_datasets_give_the_same(images):
    import tensorflow as tf

    network = conv_network()
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(5)
    attacks = {"clean": None, "start": krl.attacks.PGD(0.1, 1, 1e-6)}
    arguments = {"model": network, "class_counts": COUNTS, "attacks": attacks}
    first = evaluate(*images, batch_size=5, **arguments)
    second = evaluate(dataset, None, **arguments)
    for name in attacks:
        assert first[name]["per_class"] == second[name]["per_class"]


@pytest.mark.slow_on_jax
def test_any_classifier_and_its_model_agree(images):
    x, y = images
    sequential = conv_network()
    inputs = keras.Input((6, 6, 3))
    functional = keras.Model(inputs, sequential(inputs))
    model = tiny_model(sequential, tail_fraction=0.4)
    expected = evaluate(x, y, sequential, class_counts=COUNTS, tail_fraction=0.4)
    for each in (functional, model):
        counts = {} if each is model else {"tail_fraction": 0.4}
        counts["class_counts"] = None if each is model else COUNTS
        results = evaluate(x, y, each, **counts)
        for name in expected:
            for key in ("all", "tail", "balanced", "worst", "per_class"):
                assert results[name][key] == expected[name][key]
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert float(logs["clean_accuracy"]) == pytest.approx(expected["clean"]["all"])
    assert float(logs["clean_tail_accuracy"]) == pytest.approx(
        expected["clean"]["tail"]
    )
    balanced = expected["clean"]["balanced"]
    assert float(logs["clean_balanced_accuracy"]) == pytest.approx(balanced)


def test_evaluation_leaves_the_network_as_it_is(images):
    network = conv_network()
    before = network.get_weights()
    evaluate(*images, network, class_counts=COUNTS)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@NOISE
def test_same_seed_same_result(images):
    x = np.tile(images[0], (20, 1, 1, 1))
    y = np.tile(images[1], 20)
    network = dense_network()

    def per_class(seed, **attacks):
        attacks["start"] = krl.attacks.PGD(0.5, 1, 1e-6)
        results = evaluate(
            x, y, network, class_counts=COUNTS, attacks=attacks, seed=seed
        )
        return results["start"]["per_class"]

    assert per_class(0) == per_class(0)
    assert per_class(0) != per_class(1)


def test_random_starts_of_batches_differ():
    starts = []

    class Recorder(krl.attacks.PGD):
        def starting_point(self, x, epsilon=None, seed=None):
            starts.append(super().starting_point(x, epsilon, seed))
            return starts[-1]

    x = np.full((4, 1), 0.5, "float32")
    evaluate(x, np.zeros(4, int), attacks={"a": Recorder(0.1, 1)}, batch_size=2)
    first, second = (keras.ops.convert_to_numpy(start) for start in starts)
    assert abs(first - second).min() > 0


@pytest.mark.slow_on_jax
def test_table():
    results = evaluate(class_names=["bright", "dark"], tail_fraction=0.5)
    assert str(results).splitlines() == [
        "attack   all  tail  balanced  worst  bright  dark",
        "------  ----  ----  --------  -----  ------  ----",
        "clean   71.4  66.7      70.8   66.7    75.0  66.7",
        "pgd     42.9  33.3      41.7   33.3    50.0  33.3",
    ]
    assert results.table(per_class=False).splitlines()[2] == (
        "clean   71.4  66.7      70.8   66.7"
    )


@pytest.mark.slow_on_jax
def test_a_class_without_examples():
    results = evaluate(X[:4], Y[:4], tail_fraction=0.5)
    assert results["clean"]["per_class"] == [0.75, None]
    assert results["clean"]["tail"] is None
    assert results.row("clean") == ["75.0", "-", "75.0", "75.0", "75.0", "-"]


@pytest.mark.slow_on_jax
def test_json(tmp_path):
    names = ["bright", "dark"]
    results = evaluate(class_names=names, attacks=["clean", "pgd2", "cw3"], seed=3)
    text = results.to_json(tmp_path / "results.json", training={"epochs": 2})
    assert (tmp_path / "results.json").read_text() == text
    content = json.loads(text)
    assert content["training"] == {"epochs": 2}
    assert content["attacks"]["clean"]["per_class"] == CLEAN["per_class"]
    attack = content["attacks"]["pgd2"]["attack"]
    assert attack["class"] == "PGD"
    assert (attack["steps"], attack["step_size"]) == (2, 0.05)
    attack = content["attacks"]["cw3"]["attack"]
    assert (attack["steps"], attack["loss"]) == (3, "margin")
    settings = content["settings"]
    assert settings["seed"] == 3
    assert settings["examples"] == 7
    assert settings["class_counts"] == [9, 2]
    assert settings["class_names"] == ["bright", "dark"]
    assert settings["backend"] == keras.backend.backend()
    assert settings["versions"]["keras_robustlt"] == krl.__version__
    assert set(settings["versions"]) >= {"keras", "python", settings["backend"]}


@pytest.mark.slow_on_jax
def test_json_with_a_loss_of_ones_own():
    def my_loss(targets, logits):
        return krl.losses.cross_entropy(targets, logits)

    results = evaluate(attacks={"mine": krl.attacks.PGD(0.1, 1, loss=my_loss)})
    assert json.loads(results.to_json())["attacks"]["mine"]["attack"]["loss"] == (
        "my_loss"
    )


@pytest.mark.slow_on_jax
def test_read_back_from_json(tmp_path):
    results = evaluate(X[:4], Y[:4], class_names=["bright", "dark"])
    path = tmp_path / "results.json"
    text = results.to_json(path, seed=3)
    for each in (path, str(path)):
        again = krl.EvaluationResults.from_json(each)
        assert again == results
        assert again.settings == results.settings
        assert str(again) == str(results)
        assert again.to_json(seed=3) == text


def short_attacks(epsilon=0.1):
    """One of each kind: in batches, on the host, in stages, a function."""
    first = krl.attacks.APGD(epsilon, steps=2, loss="margin", batch_size=4)
    second = krl.attacks.APGD(epsilon, steps=3, batch_size=4)
    return {
        "clean": None,
        "pgd": krl.attacks.PGD(epsilon, steps=2),
        "apgd": first,
        "autoattack": krl.attacks.AutoAttack([first, second], epsilon),
        "darker": lambda network, x, y, seed: np.maximum(x - epsilon, 0),
    }


def test_attacks_of_all_kinds():
    # The starts are random, but each of these attacks ends on the border here.
    results = evaluate(attacks=short_attacks(), per_example=True)
    for name in ("apgd", "autoattack", "union"):
        assert results[name]["per_class"] == pytest.approx(ROBUST["per_class"])
    assert results["darker"]["per_class"] == pytest.approx([2 / 4, 1])
    stages = results["autoattack"]["stages"]
    assert list(stages) == ["clean", "apgd", "apgd-2"]
    assert stages["clean"]["per_class"] == pytest.approx(CLEAN["per_class"])
    assert stages["apgd-2"]["all"] == results["autoattack"]["all"]
    assert results["autoattack"]["attack"]["class"] == "AutoAttack"
    assert results["union"]["of"] == list(short_attacks())
    json.loads(results.to_json())


@pytest.mark.slow_on_jax
def test_the_union_is_image_by_image():
    attacks = {
        "darker": lambda network, x, y, seed: np.maximum(x - 0.1, 0),
        "brighter": lambda network, x, y, seed: np.minimum(x + 0.1, 1),
    }
    results = evaluate(attacks=attacks, per_example=True)
    assert results.robust["darker"].tolist() == [1, 1, 0, 0, 1, 1, 1]
    # The image that was wrong and is right once it is attacked counts as right.
    assert results.robust["brighter"].tolist() == [1, 1, 1, 1, 1, 0, 0]
    assert results.robust["union"].tolist() == [1, 1, 0, 0, 1, 0, 0]
    assert results["union"]["all"] == pytest.approx(3 / 7)
    assert results.labels.tolist() == Y.tolist()
    with_clean = evaluate(attacks={"clean": None, **attacks}, per_example=True)
    assert np.all(with_clean.robust["union"] <= with_clean.robust["clean"])
    assert "union" not in evaluate()
    assert evaluate().robust is None


@pytest.mark.slow_on_jax
def test_an_image_is_judged_as_it_is_returned():
    # It says nothing of success, and its float64 is the wrong side of the threshold.
    just_below = np.nextafter(np.float64(0.5), 0)
    attacks = {"mine": lambda network, x, y, seed: np.full(x.shape, just_below)}
    x, y = np.array([[0.9]], "float32"), np.array([0])
    results = evaluate(x, y, attacks=attacks, epsilon=0.5)
    assert np.float32(just_below) == 0.5
    assert results["mine"]["per_class"] == [1.0, None]


@NOISE
def test_restarts_of_pgd_count(images):
    x, y = np.tile(images[0], (4, 1, 1, 1)), np.tile(images[1], 4)
    network = dense_network()
    y = keras.ops.convert_to_numpy(network(x)).argmax(axis=1)

    def left(restarts):
        attack = {"start": krl.attacks.PGD(0.3, 1, 1e-6, restarts=restarts)}
        arguments = {"attacks": attack, "class_counts": COUNTS, "per_example": True}
        return evaluate(x, y, network, **arguments).robust["start"]

    assert left(8).sum() < left(1).sum()
    assert np.all(left(8) <= left(1))


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(("batch_size", "chunk_size"), [(5, 3), (3, 100)])
def test_chunks_do_not_matter_on_the_host(images, batch_size, chunk_size):
    x, _ = images
    network = dense_network()
    y = keras.ops.convert_to_numpy(network(x)).argmax(axis=1)
    attacks = {k: v for k, v in short_attacks(0.05).items() if k != "pgd"}
    sizes = {"batch_size": batch_size, "chunk_size": chunk_size}
    arguments = {"attacks": attacks, "class_counts": COUNTS, "per_example": True}
    expected = evaluate(x, y, network, **arguments).robust
    robust = evaluate(x, y, network, **arguments, **sizes).robust
    assert 0 < expected["autoattack"].sum() < len(x)
    for name in expected:
        np.testing.assert_array_equal(robust[name], expected[name])


def test_a_function_is_a_network():
    network = threshold_network(0.5)
    attacks = short_attacks()
    results = evaluate(model=lambda x: network(x), attacks=attacks, chunk_size=4)
    expected = evaluate(model=network, attacks=attacks, chunk_size=4)
    for name in ("clean", "apgd", "autoattack", "union"):
        assert results[name]["per_class"] == expected[name]["per_class"]


@pytest.mark.slow_on_jax
def test_without_class_counts():
    results = evaluate(class_counts=None)
    assert results["clean"]["tail"] is None
    assert results["clean"]["all"] == pytest.approx(CLEAN["all"])
    assert str(results).splitlines()[2].split()[:3] == ["clean", "71.4", "-"]
    assert results.settings["tail_classes"] is None


# What attacks of one's own may give


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("give", "message"),
    [
        (lambda x: x * np.nan, "not a number"),
        (lambda x: x + 1, r"must hold images in \[0, 1\]"),
        (lambda x: np.uint8(255 * x), "must hold floating-point images"),
        (lambda x: x[:3], r"must return images of the shape \(7, 1\).*\(3, 1\)"),
        (lambda x: None, "must return images"),
    ],
)
def test_what_an_attack_of_ones_own_gives_is_checked(give, message):
    attacks = {"mine": lambda network, x, y, seed: give(x)}
    with pytest.raises(ValueError, match=rf"`attacks\['mine'\]` .*{message}"):
        evaluate(attacks=attacks)


@pytest.mark.slow_on_jax
def test_an_attack_that_leaves_its_ball():
    class Brighter(krl.attacks.Attack):
        def __call__(self, network, x, y, epsilon=None, seed=None):
            return np.minimum(x + 0.2, 1)

    with pytest.raises(ValueError, match="within its epsilon=0.1 .* of 0.2"):
        evaluate(attacks={"mine": Brighter(0.1)})
    assert evaluate(attacks={"mine": Brighter(0.2)})["mine"]["all"] < 1


@pytest.mark.slow_on_jax
def test_a_function_that_leaves_the_budget_is_found():
    attacks = {"mine": lambda network, x, y, seed: np.maximum(x - 0.2, 0)}
    with pytest.warns(krl.RobustnessWarning, match=r"mine \(by 0.2\)"):
        results = evaluate(attacks=attacks, epsilon=0.1)
    assert results["mine"]["largest_change"] == pytest.approx(0.2)
    evaluate(attacks=attacks, epsilon=0.2)
    # Nobody has said which budget it shall have.
    evaluate(attacks=attacks, epsilon=None)


@pytest.mark.slow_on_jax
def test_an_attack_cannot_change_the_data():
    def darken(network, x, y, seed):
        x *= 0.5
        return x

    x = X.copy()
    results = evaluate(x, attacks={"dark": darken, "clean": None}, epsilon=1)
    assert results["clean"]["per_class"] == pytest.approx(CLEAN["per_class"])
    np.testing.assert_array_equal(x, X)


# Numbers that are none


def test_weights_that_are_no_numbers_are_refused():
    network = threshold_network(0.5)
    network.layers[-1].bias.assign([np.nan, 0.0])
    for work in (krl.evaluate, krl.diagnose, krl.robustness_curve):
        with pytest.raises(ValueError, match="bias' with 1 of 2 values"):
            work(network, X, Y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_logits_that_are_no_numbers_are_no_robustness(value):
    def network(x):
        logits = keras.ops.concatenate([x - 0.5, 0.5 - x], axis=1)
        return keras.ops.where(x > 0.8, value, logits)

    attacks = {"clean": None, "pgd": PGD}
    if np.isnan(value):
        apgd = krl.attacks.APGD(0.1, steps=2, loss="margin")
        attacks["auto"] = krl.attacks.AutoAttack([apgd], 0.1)
    after = ", ".join(rf"{name} \(1\)" for name in attacks)
    with pytest.warns(krl.RobustnessWarning, match=f"after {after}") as warned:
        results = evaluate(model=network, attacks=attacks, per_example=True)
    assert not any(each.category is UserWarning for each in warned)
    for name in attacks:
        assert not results.robust[name][0]
    assert np.sum(results["clean"]["confusion"]) == 6


def test_logits_beyond_float16_are_found():
    network = keras.Sequential(
        [keras.Input((1,)), keras.layers.Dense(2, dtype="float16")]
    )
    network.set_weights([np.array([[6e4, -6e4]]), np.array([2e4, 0.0])])
    with pytest.warns(krl.RobustnessWarning, match="too large for the precision"):
        results = evaluate(model=network, attacks={"clean": None}, per_example=True)
    assert not results.robust["clean"][0]


# Going on


class Stopped(Exception):
    pass


class Counting:
    """The function of `short_attacks`, that stops at a call and counts the others."""

    def __init__(self, stop_at=None):
        self.calls = 0
        self.stop_at = stop_at

    def get_config(self):
        return {}  # what it counts does not make another attack of it

    def __call__(self, network, x, y, seed):
        if self.calls == self.stop_at:
            raise Stopped
        self.calls += 1
        return np.maximum(x - 0.1, 0)


def interrupted(path, **arguments):
    """The chunks are of 3, 3 and 1 images, and the second one is not done."""
    arguments = {"cache": path, "batch_size": 3, "chunk_size": 3, **arguments}
    attacks = {**short_attacks(), "last": Counting(stop_at=1)}
    with pytest.raises(Stopped):
        evaluate(attacks=attacks, **arguments)
    return arguments


@pytest.mark.slow_on_jax
def test_goes_on_where_it_was_interrupted(tmp_path):
    path = tmp_path / "new" / "cache.npz"
    arguments = interrupted(path, per_example=True)
    content = path.read_bytes()
    again = {**short_attacks(), "last": Counting()}
    results = evaluate(attacks=again, **arguments)
    assert again["last"].calls == 2
    del arguments["cache"]
    expected = evaluate(attacks={**short_attacks(), "last": Counting()}, **arguments)
    for name in expected:
        assert results[name]["per_class"] == expected[name]["per_class"]
        np.testing.assert_array_equal(results.robust[name], expected.robust[name])
    stages = results["autoattack"]["stages"]
    assert list(stages) == list(expected["autoattack"]["stages"])
    # All of it is there now: nothing is computed again, and the file stays.
    assert path.read_bytes() != content
    content = path.read_bytes()
    assert evaluate(attacks=again, cache=path, **arguments) == results
    assert again["last"].calls == 2
    assert path.read_bytes() == content
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"seed": 1}, r"differs: seed \(0 there, 1 now\)"),
        ({"epsilon": 0.2}, "differs: epsilon"),
        ({"model": threshold_network(0.4)}, "differs: network"),
        # The same weights, and something else made of them.
        ({"model": "scaled"}, r"network \(other logits"),
        ({"x": X[::-1]}, "data .* chunk 0"),
        ({"x": X + np.eye(7)[:, 6:] / 100}, "data .* chunk 2"),
        ({"y": 1 - Y}, "data"),
        ({"batch_size": 1}, "data"),
        ({"attacks": {"clean": None}}, "differs: attacks"),
    ],
)
def test_another_evaluation_is_refused(tmp_path, changed, message):
    path = tmp_path / "cache.npz"
    attacks = {"clean": None, "darker": short_attacks()["darker"]}
    arguments = {"attacks": attacks, "batch_size": 3, "chunk_size": 3, "cache": path}
    evaluate(**arguments)
    if changed.get("model") == "scaled":
        network = threshold_network(0.5)
        inputs = keras.Input((1,))
        outputs = network(keras.layers.Rescaling(0.5)(inputs))
        changed = {"model": keras.Model(inputs, outputs)}
    if "x" in changed:
        changed = {"x": np.float32(changed["x"])}
    before = path.read_bytes()
    with pytest.raises(ValueError, match=f"`cache` holds what .*{message}"):
        evaluate(**{**arguments, **changed})
    assert path.read_bytes() == before


def by(change, network, x, y, seed):
    return np.maximum(x - change, 0)


def edited(change):
    return lambda network, x, y, seed: by(change, network, x, y, seed)


def flat(scale):
    scale = 1 + scale
    return krl.attacks.PGD(0.3, 2, loss=lambda t, z: scale * krl.losses.margin(t, z))


@pytest.mark.parametrize(
    "make", [edited, flat, lambda change: functools.partial(by, change)]
)
def test_a_function_of_the_same_name_is_another_attack(tmp_path, make):
    """What was found with the one would be said of the other."""
    path = tmp_path / "cache.npz"
    before = evaluate(attacks={"mine": make(0.0)}, cache=path, diagnose=False)
    content = path.read_bytes()
    again = evaluate(attacks={"mine": make(0.0)}, cache=path, diagnose=False)
    assert again["mine"] == before["mine"] and path.read_bytes() == content
    with pytest.raises(ValueError, match="`cache` holds what .*differs: functions"):
        evaluate(attacks={"mine": make(0.3)}, cache=path, diagnose=False)


LEVEL = [0.0]


def by_a_list(change):
    LEVEL[0] = change

    def shift(network, x, y, seed):
        def inside():
            return np.clip(x + LEVEL[0], 0, 1)

        return inside()

    return shift


def by_an_object(change):
    class Shift:
        def __init__(self):
            self.change = change

        def __call__(self, network, x, y, seed):
            return np.clip(x + self.change, 0, 1)

    return Shift()


def by_an_attribute(change):
    attack = moved_by(0.0)
    attack.extra = change
    return attack


@pytest.mark.parametrize(
    "make",
    ["by_a_list", "by_an_object", "by_an_attribute", "by_a_method", "by_a_keras_loss"],
)
def test_what_an_attack_reads_tells_it_from_another(tmp_path, make):
    make = globals()[make]
    arguments = {"cache": tmp_path / "cache.npz", "diagnose": False}
    before = evaluate(attacks={"mine": make(0.0)}, **arguments)
    assert evaluate(attacks={"mine": make(0.0)}, **arguments)["mine"] == before["mine"]
    with pytest.raises(ValueError, match="`cache` holds what .*differs: functions"):
        evaluate(attacks={"mine": make(0.3)}, **arguments)


def by_a_method(change):
    class Shift:
        def __init__(self):
            self.change = change

        def attack(self, network, x, y, seed):
            return np.clip(x + self.change, 0, 1)

    return Shift().attack


def by_a_keras_loss(change):
    class Loss(keras.losses.Loss):
        def call(self, targets, logits):
            return (1 + change) * krl.losses.margin(targets, logits)

    return krl.attacks.PGD(0.3, 2, loss=Loss())


def test_a_cache_knows_what_stops_the_gradient(tmp_path):
    network = threshold_network(0.5)
    arguments = {"cache": tmp_path / "cache.npz", "diagnose": False}
    evaluate(model=lambda x: network(keras.ops.stop_gradient(x)), **arguments)
    with pytest.raises(ValueError, match="network .other slopes for the same images"):
        evaluate(model=lambda x: network(x), **arguments)


@pytest.mark.slow_on_jax
def moved_by(change):
    class Shift(krl.attacks.Attack):
        def __call__(self, network, x, y, epsilon=None, seed=None):
            return np.clip(x + change, 0, 1)

    return Shift(0.3)


def pgd_with(loss_scale):
    class Scaled(krl.attacks.PGD):
        def perturb(self, network, x, y, start, *arguments):
            return super().perturb(network, x + loss_scale, y, start, *arguments)

    return Scaled(0.3, 2)


@pytest.mark.parametrize("make", [moved_by, pgd_with])
def test_an_edited_class_is_another_attack(tmp_path, make):
    path = tmp_path / "cache.npz"
    before = evaluate(attacks={"mine": make(0.0)}, cache=path, diagnose=False)
    again = evaluate(attacks={"mine": make(0.0)}, cache=path, diagnose=False)
    assert again["mine"] == before["mine"]
    with pytest.raises(ValueError, match="`cache` holds what .*differs: functions"):
        evaluate(attacks={"mine": make(0.1)}, cache=path, diagnose=False)


@pytest.mark.parametrize("kind", [krl.attacks.PGD, krl.attacks.AutoAttack])
def test_what_a_subclass_says_of_a_call_is_the_attack(kind):
    class Darker(kind):
        def __call__(self, network, x, y, epsilon=None, seed=None):
            return np.clip(x - 0.1, 0, 1)

    arguments = {"version": ["apgd-ce"]} if kind is krl.attacks.AutoAttack else {}
    attack = Darker(epsilon=0.1, **arguments)
    results = evaluate(attacks={"mine": attack}, diagnose=False)
    # Of the bright images 0.55 falls below the threshold, and the dark 0.58 too.
    assert results["mine"]["per_class"] == pytest.approx([2 / 4, 1])
    if kind is krl.attacks.PGD:
        with pytest.raises(ValueError, match="Darker defines `__call__` alone"):
            tiny_model(attack=Darker(0.1))
        with pytest.raises(ValueError, match="`attack` must be 'pgdN'"):
            krl.robustness_curve(
                threshold_network(0.5), X, Y, attack=Darker(0.1), epsilons=[0, 0.1]
            )


def test_a_seed_of_the_attack_is_its_own(monkeypatch):
    seeds = []
    stages = krl.attacks.AutoAttack.stages

    def spy(self, *arguments, seed=None):
        seeds.append(seed)
        return stages(self, *arguments, seed=seed)

    monkeypatch.setattr(krl.attacks.AutoAttack, "stages", spy)
    for own in (5, None):
        attack = krl.attacks.AutoAttack(["apgd-ce"], epsilon=0.1, seed=own)
        evaluate(attacks={"mine": attack}, seed=3, diagnose=False)
    assert seeds == [5, 3]


def test_not_a_cache(tmp_path):
    path = tmp_path / "cache.npz"
    path.write_text("something else")
    with pytest.raises(ValueError, match="`cache` is damaged.*cache.npz"):
        evaluate(cache=path)
    np.savez(path, x=X)
    with pytest.raises(ValueError, match="`cache` is damaged.*cache.npz"):
        evaluate(cache=path)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize("part", ["predicted", "seconds", "stages"])
def test_a_damaged_cache_is_named(tmp_path, part):
    path = tmp_path / "cache.npz"
    evaluate(cache=path)
    with np.load(path) as arrays:
        arrays = dict(arrays)
    key = f"chunk/0/pgd/{part}"
    for change in (arrays[key][..., :0], arrays[key].astype("O"), None):
        changed = {**arrays, key: change}
        if change is None:
            del changed[key]
        np.savez(path, **changed)
        with pytest.raises(ValueError, match="`cache` is damaged.*cache.npz"):
            evaluate(cache=path)


# What is shown and written


@pytest.mark.slow_on_jax
def test_progress(capsys):
    evaluate(attacks=["clean", "fgsm"], batch_size=3, chunk_size=4, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        "clean: chunk 1/2",
        "fgsm: chunk 1/2",
        "clean: chunk 2/2",
        "fgsm: chunk 2/2",
    ]
    assert lines[-1].endswith(" 0 s left")
    evaluate(((X[i : i + 3], Y[i : i + 3]) for i in (0, 3)), None, verbose=1)
    assert capsys.readouterr().out.startswith("clean: chunk 1, done in")
    evaluate(verbose=0)
    assert capsys.readouterr().out == ""


def test_time_left(monkeypatch):
    now = 100.0
    monkeypatch.setattr("time.perf_counter", lambda: now)
    progress = Progress(["clean", "pgd"], chunks=3, verbose=0)
    progress.begin("clean", 0)
    progress.end(1.0)
    progress.begin("pgd", 0)
    assert progress.time_left() == (2.0, False)
    now = 110.0
    assert progress.time_left(0.5) == (2 + 3 * 20 - 10, True)
    progress.end(24.0)
    assert progress.time_left() == (2 + 2 * 24, True)
    # The first chunk, with the time to compile, counts only as long as it is alone.
    progress.begin("pgd", 1)
    progress.end(20.0)
    assert progress.time_left() == (2 + 20, True)
    progress.skip("clean")
    assert progress.time_left() == (1 + 20, True)


def test_on_a_terminal_it_is_one_line():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    stream = Terminal()
    progress = Progress(["clean"], 1, 1, stream)
    progress.begin("clean", 0)
    progress.update(0.5, "after a stage")
    progress.end(3.0)
    progress.close()
    assert "\n" not in stream.getvalue()
    assert "clean: chunk 1/1, after a stage, 0 s left" in stream.getvalue()


def test_in_a_log_file_each_part_of_an_attack_has_a_line():
    stream = io.StringIO()
    progress = Progress(["autoattack"], 1, 1, stream)
    progress.begin("autoattack", 0)
    for fraction, part in ((0.2, "after clean"), (0.4, "after fab-t")):
        progress.update(fraction, part)
    progress.end(3.0)
    lines = [line.split(", ")[:2] for line in stream.getvalue().splitlines()]
    parts = ["after clean", "after fab-t", "done in 3 s"]
    assert lines == [["autoattack: chunk 1/1", part] for part in parts]


def test_nobody_reads_on():
    class Closed(io.StringIO):
        def write(self, text):
            raise BrokenPipeError

    progress = Progress(["clean"], 1, 1, Closed())
    progress.begin("clean", 0)
    progress.end(3.0)
    assert not progress.verbose


def test_durations():
    seconds = (0.4, 89, 90, 5000, 6000)
    expected = ["0 s", "89 s", "2 min", "83 min", "1 h 40 min"]
    assert [duration(each) for each in seconds] == expected


@pytest.mark.slow_on_jax
def test_rows():
    results = evaluate(attacks=short_attacks(), class_names=["bright", "dark"])
    rows = results.to_rows()
    names = list(dict.fromkeys(row["attack"] for row in rows))
    assert len(rows) == 6 * len(names)
    stages = [f"autoattack/{name}" for name in results["autoattack"]["stages"]]
    assert names == ["clean", "pgd", "apgd", "autoattack", *stages, "darker", "union"]
    assert rows[0] == {
        "attack": "clean",
        "group": "all",
        "class": None,
        "accuracy": results["clean"]["all"],
        "examples": None,
        "training_images": None,
    }
    assert rows[5] == {
        "attack": "clean",
        "group": "class",
        "class": "dark",
        "accuracy": results["clean"]["per_class"][1],
        "examples": 3,
        "training_images": 2,
    }
    counts = [row["training_images"] for row in evaluate(class_counts=None).to_rows()]
    assert set(counts) == {None}


@pytest.mark.slow_on_jax
def test_flags_in_a_file(tmp_path):
    results = evaluate(per_example=True)
    results.to_npz(tmp_path / "results.npz")
    with np.load(tmp_path / "results.npz") as arrays:
        assert sorted(arrays) == ["clean", "labels", "pgd"]
        np.testing.assert_array_equal(arrays["labels"], Y)
        assert arrays["pgd"].dtype == bool
        np.testing.assert_array_equal(arrays["pgd"], results.robust["pgd"])
    with pytest.raises(ValueError, match="per_example=True"):
        evaluate().to_npz(tmp_path / "none.npz")


def test_files_of_before_can_be_read(tmp_path):
    entry = {"all": 0.5, "tail": 0.5, "balanced": 0.5, "worst": 0.5}
    entry |= {"per_class": [0.5, 0.5], "attack": None, "seconds": 1.0}
    settings = {"epsilon": 0.1, "examples": 4, "seed": 0, "class_counts": [9, 2]}
    settings |= {"class_names": ["0", "1"], "tail_classes": [1], "keras": "3.15.1"}
    content = {"attacks": {"clean": entry}, "settings": settings, "seed": 102}
    (tmp_path / "results.json").write_text(json.dumps(content))
    results = krl.EvaluationResults.from_json(tmp_path / "results.json")
    assert "50.0" in str(results)
    assert [row["accuracy"] for row in results.to_rows()] == [0.5] * 6


@pytest.mark.parametrize("content", ["", '{"attacks": {}}', "[1]", 10**5 * "["])
def test_not_results(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="`path` must be a file .*other.json"):
        krl.EvaluationResults.from_json(path)


def test_results_need_no_backend():
    code = "import sys, keras_robustlt as krl; krl.EvaluationResults({}, {})"
    code += "; sys.exit('keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": ["clean", "autoattack9"]}, "An attack must be .*'autoattack9'"),
        ({"attacks": ["pgd"]}, "An attack must be 'clean', 'fgsm', 'fgsm-rs', 'pgdN'"),
        ({"epsilon": 8, "attacks": ["fgsm"]}, "8 / 255"),
        ({"attacks": []}, "`attacks` names no attack"),
        ({"attacks": {"union": PGD}}, "must not call an attack 'union'"),
        ({"attacks": {"labels": PGD}}, "must not call an attack 'labels'"),
        ({"attacks": {1: PGD}}, "a dictionary from names to attacks"),
        ({"attacks": [PGD]}, "a list of names"),
        ({"attacks": PGD}, "a list of names"),
        ({"attacks": ["clean", "apgd-t"], "cache": "never.txt"}, "classes"),
        ({"seed": -1}, "`seed` must be an integer of at least 0"),
        ({"seed": 0.5}, "`seed` must be an integer of at least 0"),
        ({"epsilon": "8/255"}, "`epsilon` must be a number"),
        ({"epsilon": -0.1}, "`epsilon` must be a number"),
        ({"epsilon": np.nan}, "`epsilon` must be a number"),
        ({"tail_fraction": 2}, "`tail_fraction` must be a number"),
        ({"attacks": {"mine": 3}}, "attacks, functions or None.*'mine': 3"),
        ({"attacks": ["apgd-t"]}, "at least 4 classes"),
        ({"class_counts": [3, 2, 1]}, "`class_counts` must have 2 entries"),
        ({"chunk_size": 0}, "`chunk_size` must be an integer of at least 1"),
        ({"cache": "progress.txt"}, "a file whose name ends in .npz"),
        ({"x": [(X, Y[:5])], "y": None}, "Received: 7 images and 5 labels"),
        ({"class_names": ["one"]}, "`class_names` must have 2 names"),
        ({"class_names": "ab"}, "`class_names` must be a list of names.*='ab'"),
        ({"seed": "a"}, "`seed` must be an integer of at least 0. Received: 'a'"),
        ({"diagnose": "no"}, "`diagnose` must be True or False. Received: 'no'"),
        ({"cache": 3}, "`cache` must be a path. Received: 3"),
        ({"x": X[:5]}, "Received: 5 images and 7 labels"),
        ({"y": None}, "`y` is needed where `x` is an array"),
        ({"x": X[:0], "y": Y[:0]}, "has no images"),
        ({"x": 255 * X}, "divide x by 255"),
        ({"x": np.uint8(255 * X)}, "floating-point images"),
        ({"x": X * np.nan}, "not a number"),
        ({"y": Y + 1}, "Received labels from 1 to 2"),
        (
            {"model": dense_network(2, (1,), activation="softmax")},
            "Remove the softmax",
        ),
        ({"model": lambda x: x}, r"Dense\(2\).*Received: 1 output"),
        ({"model": lambda x: x[:, 0]}, "must give logits of shape"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)


def test_a_pgd_of_ones_own_that_leaves_its_ball():
    class Far(krl.attacks.PGD):
        def perturb(self, *arguments, **options):
            return super().perturb(*arguments, **options) * 0 + 0.5

    with pytest.raises(ValueError, match=r"`attacks\['far'\]` must return images in"):
        evaluate(attacks={"far": Far(0.01, 2)})


def test_a_function_that_computes_with_numpy_is_refused():
    def network(x):
        return np.asarray(x).reshape(len(x), -1) @ np.ones((1, 2), "float32")

    with pytest.raises(ValueError, match="must compute with tensors of the backend"):
        evaluate(model=network)


def test_a_network_that_takes_integers_is_refused():
    whole = keras.Sequential([keras.Input((1,), dtype="uint8"), keras.layers.Dense(2)])
    with pytest.raises(ValueError, match="floating-point numbers.*dtype uint8"):
        evaluate(model=whole)
