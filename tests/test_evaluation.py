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

# One pixel, bright is class 0, dark class 1: an image is right under an attack of
# epsilon 0.1 where its distance from the threshold 0.5 is larger.
X = np.array([[0.9], [0.7], [0.55], [0.45], [0.05], [0.42], [0.58]], "float32")
Y = np.array([0, 0, 0, 0, 1, 1, 1])
CLEAN = {"all": 5 / 7, "per_class": [3 / 4, 2 / 3]}
ROBUST = {"all": 3 / 7, "per_class": [2 / 4, 1 / 3]}
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
    assert list(results) == names
    for name, entry in results.items():
        expected = CLEAN if name == "clean" else ROBUST
        per_class = expected["per_class"]
        assert entry["all"] == pytest.approx(expected["all"])
        assert entry["per_class"] == pytest.approx(per_class)
        assert entry["balanced"] == pytest.approx(np.mean(per_class))
        assert entry["tail"] == pytest.approx(per_class[1])
        assert entry["worst"] == pytest.approx(min(per_class))


def test_another_epsilon():
    results = evaluate(attacks=["fgsm"], epsilon=0.3)
    # Only those farther than 0.3 from the threshold: 0.9 and 0.05.
    assert results["fgsm"]["per_class"] == pytest.approx([1 / 4, 1 / 3])


def test_attack_objects():
    attacks = {
        "no attack": None,
        "small": krl.attacks.PGD(0.06, steps=8),
        "large": krl.attacks.PGD(0.1, steps=8, norm="l2"),
    }
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
    assert logs["clean_accuracy"] == pytest.approx(expected["clean"]["all"])
    assert logs["clean_tail_accuracy"] == pytest.approx(expected["clean"]["tail"])
    balanced = expected["clean"]["balanced"]
    assert logs["clean_balanced_accuracy"] == pytest.approx(balanced)


def test_evaluation_leaves_the_network_as_it_is(images):
    network = conv_network()
    before = network.get_weights()
    evaluate(*images, network, class_counts=COUNTS)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


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


def test_a_class_without_examples():
    results = evaluate(X[:4], Y[:4], tail_fraction=0.5)
    assert results["clean"]["per_class"] == [0.75, None]
    assert results["clean"]["tail"] is None
    assert results.row("clean") == ["75.0", "-", "75.0", "75.0", "75.0", "-"]


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
    assert (attack["steps"], attack["step_size"]) == (2, 0.0125)
    attack = content["attacks"]["cw3"]["attack"]
    assert (attack["steps"], attack["loss"]) == (3, "margin")
    settings = content["settings"]
    assert settings["seed"] == 3
    assert settings["examples"] == 7
    assert settings["class_counts"] == [9, 2]
    assert settings["class_names"] == ["bright", "dark"]
    assert settings["backend"] == keras.backend.backend()


def test_json_with_a_loss_of_ones_own():
    def my_loss(targets, logits):
        return krl.losses.cross_entropy(targets, logits)

    results = evaluate(attacks={"mine": krl.attacks.PGD(0.1, 1, loss=my_loss)})
    assert json.loads(results.to_json())["attacks"]["mine"]["attack"]["loss"] == (
        "my_loss"
    )


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


@pytest.mark.parametrize("content", ["", '{"attacks": {}}', "[1]"])
def test_not_results(content, tmp_path):
    path = tmp_path / "other.json"
    path.write_text(content)
    with pytest.raises(ValueError, match="`path` must be a file .*other.json"):
        krl.EvaluationResults.from_json(path)


def test_results_need_no_backend():
    code = "import sys, keras_robustlt as krl; krl.EvaluationResults({}, {})"
    code += "; sys.exit('keras' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attacks": ["clean", "autoattack9"]}, "`attacks` must be of.*'autoattack9'"),
        ({"attacks": ["pgd"]}, "`attacks` must be of 'clean', 'fgsm', 'pgdN'"),
        ({"epsilon": 8, "attacks": ["fgsm"]}, "8 / 255"),
        ({"class_counts": None}, "`class_counts` is needed"),
        ({"class_names": ["one"]}, "`class_names` must have 2 names"),
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
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        evaluate(**arguments)
