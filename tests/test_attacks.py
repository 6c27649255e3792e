import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_models import conv_network, dense_network, threshold_network, tiny_model

import keras_robustlt as krl
from keras_robustlt import backend
from keras_robustlt.attacks import FGSM, PGD
from keras_robustlt.evaluation.runners import settings_of

NORMS = ("linf", "l2")
few = settings(max_examples=10, deadline=None)


def lengths(x_adv, x, norm):
    """How far each image moved, in the norm."""
    moved = np.reshape(keras.ops.convert_to_numpy(x_adv) - x, (len(x), -1))
    return abs(moved).max(axis=1) if norm == "linf" else np.linalg.norm(moved, axis=1)


def assert_valid(x_adv, x, epsilon, norm):
    x_adv = keras.ops.convert_to_numpy(x_adv)
    assert x_adv.dtype == np.float32
    assert np.all(lengths(x_adv, x, norm) <= np.asarray(epsilon) + 1e-6)
    assert x_adv.min() >= -1e-6 and x_adv.max() <= 1 + 1e-6


def cross_entropy(network, x, y):
    logits = network(x, training=False)
    values = krl.losses.cross_entropy(krl.losses.one_hot(y, 3), logits)
    return keras.ops.convert_to_numpy(values)


def gradients(network, x, y):
    """Of the cross-entropy of a network of one dense layer, by its formula."""
    kernel, bias = network.get_weights()
    logits = x.reshape(len(x), -1) @ kernel + bias
    exponentials = np.exp(logits)
    probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
    return ((probabilities - np.eye(3)[y]) @ kernel.T).reshape(x.shape)


@pytest.mark.parametrize("norm", NORMS)
@few
@given(epsilon=st.floats(0, 1), seed=st.integers(0, 1000))
def test_never_outside_the_ball_or_the_pixel_range(norm, epsilon, seed):
    rng = np.random.default_rng(seed)
    # Black and white pixels too, where a step leads out of the range.
    x = rng.integers(0, 5, (12, 6, 6, 3)).astype("float32") / 4
    y = rng.integers(0, 3, 12)
    x_adv = PGD(epsilon, steps=3, norm=norm)(dense_network(), x, y, seed=seed)
    assert_valid(x_adv, x, epsilon, norm)


@pytest.mark.parametrize("norm", NORMS)
def test_a_budget_for_each_image(images, norm):
    x, y = images
    epsilon = np.linspace(0, 0.3, len(x), dtype="float32")
    attack = PGD(0.1, steps=4, norm=norm)
    x_adv = attack(dense_network(), x, y, epsilon)
    assert_valid(x_adv, x, epsilon, norm)
    np.testing.assert_array_equal(x_adv[0], x[0])
    # Each has used its own budget, so the step was scaled with it.
    assert np.all(lengths(x_adv, x, norm)[1:] > 0.9 * epsilon[1:])


def test_a_step_size_for_each_image(images):
    x, y = images
    step_size = np.linspace(0, 0.1, len(x), dtype="float32")
    attack = PGD(0.1, steps=1, random_start=False)
    moved = lengths(attack(dense_network(), x, y, step_size=step_size), x, "linf")
    np.testing.assert_allclose(moved, step_size, atol=1e-6)


def test_step_size_is_scaled_as_the_budget_is(images):
    x, y = images
    attack = PGD(0.2, steps=1, step_size=0.05, random_start=False)
    half = attack(dense_network(), x, y, epsilon=0.1)
    np.testing.assert_allclose(lengths(half, x, "linf"), 0.025, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_zero_budget_gives_the_images_themselves(images, norm):
    x, y = images
    network = dense_network()
    np.testing.assert_array_equal(PGD(0.0, steps=2, norm=norm)(network, x, y), x)
    attack = PGD(0.1, steps=2, norm=norm)
    np.testing.assert_array_equal(attack(network, x, y, epsilon=0.0), x)


@pytest.mark.parametrize("norm", NORMS)
def test_raises_the_loss_from_its_start(images, norm):
    x, y = images
    network = conv_network()
    attack = PGD({"linf": 0.1, "l2": 0.5}[norm], steps=3, norm=norm)
    start = attack.starting_point(keras.ops.convert_to_tensor(x), seed=1)
    assert_valid(start, x, attack.epsilon, norm)
    x_adv = attack(network, x, y, start=start)
    assert np.all(cross_entropy(network, x_adv, y) > cross_entropy(network, start, y))


@pytest.mark.parametrize("norm", NORMS)
def test_start_outside_the_ball_is_brought_in(images, norm):
    x, y = images
    attack = PGD(0.1, steps=1, norm=norm)
    assert_valid(attack(dense_network(), x, y, start=x + 3), x, 0.1, norm)


def test_a_start_must_be_of_the_images(images):
    x, y = images
    climber = krl.attacks.APGD(0.1, steps=2)
    for attack in (PGD(0.1, steps=1), climber.maximize):
        for start in (x[:1], x[..., 0], np.full_like(x, np.nan)):
            with pytest.raises(ValueError, match="`start` must"):
                attack(dense_network(), x, y, start=start)


def test_the_given_start_is_used(images):
    x, y = images
    network = dense_network()
    attack = PGD(0.1, steps=2, step_size=0.005)
    x_adv = attack(network, x, y, start=np.clip(x + 0.05, 0, 1))
    np.testing.assert_allclose(x_adv, np.clip(x + 0.05, 0, 1), atol=0.0101)


def test_random_starts_follow_the_seed(images):
    x, y = images
    network = dense_network()
    attack = PGD(0.1, steps=1)

    def run(seed):
        return keras.ops.convert_to_numpy(attack(network, x, y, seed=seed))

    np.testing.assert_array_equal(run(3), run(3))
    assert abs(run(3) - run(4)).max() > 0.01
    generator = keras.random.SeedGenerator(3)
    assert abs(run(generator) - run(generator)).max() > 0.01


def test_random_starts_fill_the_ball():
    # Two pixels: the starts fill a square and a disc of radius 0.2.
    x = np.full((2000, 2), 0.5, "float32")
    for norm in NORMS:
        start = PGD(0.2, norm=norm).starting_point(x, seed=0)
        length = lengths(start, x, norm)
        assert 0.19 < length.max() <= 0.2 + 1e-6
        # A quarter of the area is within half the radius.
        assert abs(np.mean(length < 0.1) - 0.25) < 0.03
        assert abs(np.mean(keras.ops.convert_to_numpy(start)) - 0.5) < 0.01


def test_without_random_start_it_starts_at_the_image(images):
    x, _ = images
    np.testing.assert_array_equal(PGD(random_start=False).starting_point(x), x)


def test_fgsm_on_a_linear_network(images):
    x, y = images
    network = dense_network()
    expected = np.clip(x + 0.1 * np.sign(gradients(network, x, y)), 0, 1)
    np.testing.assert_allclose(FGSM(0.1)(network, x, y), expected, atol=1e-6)


def test_l2_on_a_linear_network(images):
    x, y = images
    x = 0.4 + 0.2 * x  # away from black and white
    network = dense_network()
    gradient = gradients(network, x, y)
    length = np.sqrt(np.sum(gradient**2, axis=(1, 2, 3), keepdims=True))
    attack = FGSM(0.2, norm="l2")
    x_adv = attack(network, x, y)
    np.testing.assert_allclose(x_adv, x + 0.2 * gradient / length, atol=1e-5)


def test_many_steps_find_the_worst_point_of_a_linear_network():
    x = np.array([[0.3], [0.6], [0.6]], "float32")
    for norm in NORMS:
        x_adv = PGD(0.1, steps=10, norm=norm)(threshold_network(), x, [0, 0, 1])
        np.testing.assert_allclose(x_adv, [[0.2], [0.5], [0.7]], atol=1e-6)


def test_margin_stops_once_an_image_is_misclassified():
    network = threshold_network(0.5)
    x = np.array([[0.53], [0.9]], "float32")
    attack = PGD(0.2, 8, step_size=0.05, random_start=False, loss="margin")
    # The first crosses the threshold with its first step and stays there.
    np.testing.assert_allclose(attack(network, x, [0, 0]), [[0.48], [0.7]], atol=1e-6)


def test_loss_of_ones_own(images):
    x, y = images
    network = dense_network()

    def reversed_loss(targets, logits):
        return -krl.losses.cross_entropy(targets, logits)

    expected = np.clip(x - 0.1 * np.sign(gradients(network, x, y)), 0, 1)
    by_constructor = FGSM(0.1, loss=reversed_loss)(network, x, y)
    np.testing.assert_allclose(by_constructor, expected, atol=1e-6)
    by_call = FGSM(0.1)(network, x, y, loss=reversed_loss)
    np.testing.assert_allclose(by_call, expected, atol=1e-6)


@keras.saving.register_keras_serializable(package="tests")
class Amplified(PGD):
    """An attack as somebody might write it, without `get_config`."""

    def __init__(self, radius, gain=2.0, loss="cross_entropy"):
        super().__init__(radius, steps=2, loss=loss)
        self.gain = gain


def test_an_attack_without_get_config_is_saved_as_it_was_made(tmp_path):
    model = tiny_model(attack=Amplified(0.1, gain=3.0), epsilon=0.1)
    model.save(tmp_path / "model.keras")
    attack = keras.saving.load_model(tmp_path / "model.keras").attack
    assert (attack.epsilon, attack.gain, attack.steps) == (0.1, 3.0, 2)
    assert repr(attack) == "Amplified(radius=0.1, gain=3.0, loss='cross_entropy')"
    settings = settings_of(Amplified(0.1, loss=krl.losses.dlr))
    assert settings == {"class": "Amplified", "radius": 0.1, "gain": 2.0, "loss": "dlr"}


class Private(krl.budget.Budget):
    """Arguments that are kept under other names, as Keras's layers may keep theirs."""

    def __init__(self, threshold=1):
        self._threshold = threshold

    def get_config(self):
        return {"threshold": self._threshold}


def test_arguments_may_be_kept_under_other_names():
    assert repr(tiny_model(budget=Private(2)).budget) == "Private(threshold=2)"


def test_integer_and_one_hot_labels_are_the_same(images):
    x, y = images
    network = dense_network()
    attack = PGD(0.1, steps=2)
    integer = attack(network, x, y, seed=0)
    for labels in (np.eye(3, dtype="float32")[y], y[:, None], y.astype("float32")):
        np.testing.assert_array_equal(attack(network, x, labels, seed=0), integer)


@pytest.mark.parametrize(
    "batchnorm", [keras.layers.BatchNormalization, krl.layers.BatchNormalization]
)
def test_batch_normalisation(images, batchnorm):
    x, y = images
    network = conv_network(batchnorm)
    network(x, training=True)  # statistics that are neither 0 and 1 nor the batch's
    before = network.get_weights()
    attack = PGD(0.1, steps=2)
    inference = attack(network, x, y, seed=0)
    training = attack(network, x, y, seed=0, training=True)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert abs(np.subtract(inference, training)).max() > 0.01
    # In inference mode an image's attack does not depend on the others.
    alone = attack(network, x[:3], y[:3], start=x[:3])
    together = attack(network, x, y, start=x)[:3]
    np.testing.assert_allclose(alone, together, atol=1e-6)


@pytest.mark.parametrize("norm", NORMS)
def test_loop_and_unrolled_steps_agree(images, norm, monkeypatch):
    x, y = images
    network = conv_network()
    attack = PGD(0.1, steps=3, norm=norm)
    results = []
    for slow in (False, True):
        monkeypatch.setattr(backend, "control_flow_is_slow", lambda slow=slow: slow)
        run = backend.compiled(
            lambda x: attack(network, x, y, start=x, training=True), network.variables
        )
        results.append(keras.ops.convert_to_numpy(run(x)))
    np.testing.assert_allclose(*results, atol=1e-6)


def test_bfloat16_network_is_attacked_in_float32(images):
    x, y = images
    keras.config.set_dtype_policy("mixed_bfloat16")
    x_adv = PGD(1 / 255, steps=2)(dense_network(), x, y, seed=0)
    assert_valid(x_adv, x, 1 / 255, "linf")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 8}, r"8 / 255.*Received: epsilon=8"),
        ({"epsilon": -0.1}, "`epsilon`"),
        ({"steps": 0}, "`steps` must be an integer of at least 1. Received: 0"),
        ({"steps": 2.5}, "`steps`"),
        ({"step_size": -1}, "`step_size`"),
        ({"step_size": float("nan")}, "`step_size`"),
        ({"step_size": 0}, "`step_size` must be above 0.*Received: step_size=0"),
        ({"norm": "l1"}, "`norm` must be one of 'linf', 'l2'. Received: 'l1'"),
        ({"loss": "hinge"}, "`loss` must be one of 'cross_entropy', 'dlr', 'margin'"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        PGD(**arguments)


def test_l2_budget_may_exceed_one():
    assert PGD(2.5, norm="l2").epsilon == 2.5


def bumpy_network(x):
    """Of one pixel: class 0, but for a narrow dip of its logit around 0.3."""
    dip = keras.ops.exp(-keras.ops.square((x - 0.3) / 0.02))
    return keras.ops.concatenate([2 - 2 * dip, keras.ops.ones_like(x)], axis=1)


@pytest.mark.filterwarnings("ignore:The attack has left all")
def test_restarts_keep_what_is_misclassified_or_else_has_the_highest_loss():
    x, y = np.full((400, 1), 0.5, "float32"), np.zeros(400, "int32")

    def fooled(x_adv):
        logits = keras.ops.convert_to_numpy(bumpy_network(x_adv))
        return logits.argmax(axis=1) == 1

    once = PGD(0.25, steps=1, step_size=1e-9)(bumpy_network, x, y, seed=0)
    many = PGD(0.25, steps=1, step_size=1e-9, restarts=6)
    often = many(bumpy_network, x, y, seed=0)
    assert_valid(often, x, 0.25, "linf")
    # One start in 15 is in the dip, one of six starts for a third of the images.
    assert 10 < fooled(once).sum() < 50
    assert 100 < fooled(often).sum() < 180
    assert np.all(fooled(often) | ~fooled(once))
    # Those that are not fooled came as near to the dip as any run did.
    losses = [cross_entropy_of_one(bumpy_network, a) for a in (once, often)]
    assert np.all((losses[1] >= losses[0]) | fooled(often))
    np.testing.assert_array_equal(often, many(bumpy_network, x, y, seed=0))
    generator = keras.random.SeedGenerator(0)
    assert 100 < fooled(many(bumpy_network, x, y, seed=generator)).sum() < 180


def cross_entropy_of_one(network, x):
    targets = krl.losses.one_hot(np.zeros(len(x)), 2)
    values = krl.losses.cross_entropy(targets, network(x))
    return keras.ops.convert_to_numpy(values)


def test_restarts_need_random_starts():
    with pytest.raises(ValueError, match="`restarts` above 1 need `random_start=True`"):
        PGD(restarts=2, random_start=False)
    with pytest.raises(ValueError, match="`restarts` must be an integer"):
        PGD(restarts=0)


@pytest.mark.parametrize("scale", [1e-25, 1e25])
def test_l2_step_of_gradients_of_any_size(scale):
    gradient = np.array([[3.0, 4.0], [0.0, 0.0]], "float32") * np.float32(scale)
    direction = krl.attacks.PGD(norm="l2")._norm.steepest(gradient)
    np.testing.assert_allclose(direction, [[0.6, 0.8], [0.0, 0.0]], rtol=1e-5)


def test_a_function_is_attacked_as_its_network_is(images):
    x, y = images
    network = dense_network()
    expected = PGD(0.1, steps=2)(network, x, y, seed=0)
    by_function = PGD(0.1, steps=2)(lambda x: network(x), x, y, seed=0)
    np.testing.assert_allclose(by_function, expected, atol=1e-6)


# By name


@pytest.mark.parametrize(
    ("name", "kind", "expected"),
    [
        ("fgsm", FGSM, {"steps": 1, "random_start": False}),
        ("pgd20", PGD, {"steps": 20, "step_size": 0.0125, "loss": "cross_entropy"}),
        ("cw10", PGD, {"steps": 10, "step_size": 0.0125, "loss": "margin"}),
        ("apgd-dlr", krl.attacks.APGD, {"loss": "dlr", "batch_size": 3}),
        ("fab", krl.attacks.FAB, {"targets": None, "batch_size": 3}),
        ("square", krl.attacks.Square, {"batch_size": 3}),
        ("autoattack-rand", krl.attacks.AutoAttack, {"version": "rand"}),
    ],
)
def test_attacks_by_name(name, kind, expected):
    attack = krl.attacks.get(name, epsilon=0.1, batch_size=3)
    assert type(attack) is kind and isinstance(attack, krl.attacks.Attack)
    assert attack.epsilon == 0.1
    assert attack.runs_compiled is (kind in (PGD, FGSM))
    assert {key: getattr(attack, key) for key in expected} == expected


def test_an_attack_that_is_one_already():
    attack = PGD(0.2)
    assert krl.attacks.get(attack) is attack

    def none(network, x, y, *, seed):
        return x

    assert krl.attacks.get(none) is none
    assert krl.attacks.get("clean") is krl.attacks.get(None) is None


@pytest.mark.parametrize("attack", ["pgd", "20", "pgd-20", "apgd", "", 20, PGD, [PGD]])
def test_unknown_attacks(attack):
    message = "'clean', 'fgsm', 'fgsm-rs', 'pgdN'.*'square', .*Receiv"
    with pytest.raises(ValueError, match=message):
        krl.attacks.get(attack)


def test_shown_as_it_was_made():
    expected = (
        "PGD(epsilon=0.1, norm='l2', steps=3, step_size=0.05, random_start=True, "
        "loss='margin', restarts=1)"
    )
    assert repr(PGD(0.1, 3, 0.05, "l2", loss="margin")) == expected


# What a call is given


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: {"x": 255 * x}, "pixels from 0 to 255"),
        (lambda x, y: {"x": (255 * x).astype("uint8")}, "floating-point images"),
        (lambda x, y: {"x": np.where(x > 0.5, np.nan, x)}, "not a number"),
        (lambda x, y: {"y": y + 1}, "`y` must hold labels from 0 to 2"),
        (lambda x, y: {"y": y[:3]}, "12 images and 3 labels"),
        (lambda x, y: {"y": y + 0.5}, "`y` must hold integer labels"),
        (lambda x, y: {"epsilon": [0.1, 0.2]}, "one for each of the 12 images"),
        (lambda x, y: {"epsilon": np.full(12, np.nan)}, "`epsilon`"),
        (lambda x, y: {"epsilon": -0.1}, "`epsilon`"),
        (lambda x, y: {"step_size": np.full(12, -1.0)}, "`step_size`"),
        (lambda x, y: {"epsilon": [[0.1], [0.1, 0.2]]}, "`epsilon`.*lengths"),
        (lambda x, y: {"x": x.astype(object)}, "`x`.*object"),
        (
            lambda x, y: {"x": np.ma.masked_less(x, 0.5)},
            "`x`.*without a mask",
        ),
        (
            lambda x, y: {"y": np.ma.masked_less(y, 1)},
            "`y`.*without a mask",
        ),
        (lambda x, y: {"y": [[0], [1, 2]]}, "`y` must be the labels"),
        (lambda x, y: {"network": dense_network(1)}, "at least 2 classes.*Dense.2"),
        (lambda x, y: {"network": of_integers()}, "dtype uint8"),
        (lambda x, y: {"network": of_the_batch()}, "of each image its own"),
        (lambda x, y: {"network": np.asarray}, "`network` must give one tensor|NumPy"),
        (lambda x, y: {"network": lambda x: None}, "`network` must give one tensor"),
        (lambda x, y: {"network": very_sure()}, "gives probabilities"),
        (lambda x, y: {"loss": lambda targets, logits: 0.0}, "one value for each"),
        (lambda x, y: {"loss": lambda t, z: np.ones(12)}, "one value for each"),
        (lambda x, y: {"seed": -1}, "`seed`"),
        (lambda x, y: {"training": "no"}, "`training`"),
    ],
)
@pytest.mark.parametrize("kind", [PGD, krl.attacks.APGD])
def test_bad_calls(images, change, message, kind):
    x, y = images
    arguments = {"network": dense_network(), "x": x, "y": y, **change(x, y)}
    made = {"loss": arguments.pop("loss")} if "loss" in arguments else {}
    if kind is not PGD and arguments.keys() & {"step_size", "training"}:
        pytest.skip("it takes none")
    with pytest.raises(ValueError, match=message):
        kind(0.1, steps=1, **made)(**arguments)


def of_integers():
    images = keras.Input((6, 6, 3), dtype="uint8")
    return keras.Model(images, dense_network()(keras.ops.cast(images, "float32")))


def of_the_batch():
    """One row of logits for all images."""
    network = dense_network()
    return lambda x: keras.ops.mean(network(x), axis=0, keepdims=True)


def very_sure():
    """Probabilities, which no layer says."""
    network = dense_network()
    return lambda x: keras.ops.softmax(30 * network(x))


@pytest.mark.parametrize("kind", [PGD, krl.attacks.Square])
def test_logits_that_are_no_numbers_are_said(images, kind):
    network = dense_network()
    network.set_weights([np.full_like(each, np.nan) for each in network.get_weights()])
    with pytest.warns(UserWarning, match="no numbers") as found:
        kind(0.1)(network, *images)
    assert len(found) == 1


def test_no_gradient_is_said(images):
    x, _ = images
    network = dense_network()
    y = keras.ops.convert_to_numpy(network(x)).argmax(axis=1)
    with pytest.warns(UserWarning, match="left all 12 images where it started"):
        PGD(0.1, steps=1)(lambda x: network(keras.ops.stop_gradient(x)), x, y)
    # Where all are misclassified, losses may be flat.
    PGD(0.1, steps=1, loss="margin")(network, x, (y + 1) % 3)


def hinge(targets, logits):
    right = keras.ops.sum(targets * logits, -1)
    other = keras.ops.max(logits - 1e9 * targets, -1)
    return -keras.ops.relu(right - other)


@pytest.mark.parametrize("kind", [PGD, krl.attacks.APGD])
def test_losses_of_the_batch_or_of_some_images(images, kind):
    x, y = images
    network = dense_network()
    clean = keras.ops.softmax(network(x))

    def divergence(targets, logits):
        return -keras.ops.sum(clean * keras.ops.log_softmax(logits), -1)

    for loss in (hinge, lambda t, z: -t[:, 2] * z[:, 2], divergence):
        if loss is divergence and kind is not PGD:  # which computes part by part
            continue
        x_adv = kind(0.1, steps=3, loss=loss)(network, x, y, seed=0)
        assert_valid(x_adv, x, 0.1, "linf")


def test_an_infinite_slope_is_followed():
    """The root has one at 0, where it still rises."""

    def network(x):
        bright = keras.ops.sum(keras.ops.sqrt(x), axis=(1, 2, 3))
        return keras.ops.stack([-bright, bright], axis=1)

    x = np.zeros((2, 3, 3, 1), "float32")
    x_adv = PGD(0.1, 3, random_start=False)(network, x, [0, 0])
    np.testing.assert_allclose(x_adv, 0.1, atol=1e-6)


@pytest.mark.parametrize("attack", [PGD(0.0, 5, random_start=False), FGSM(0.0)])
def test_a_call_with_a_budget_of_an_attack_without_one(images, attack):
    x, y = images
    x_adv = np.asarray(attack(dense_network(), x, y, epsilon=0.1))
    assert np.abs(x_adv - x).max() == pytest.approx(0.1, abs=1e-6)


def test_a_keras_loss_is_that_of_each_example(images):
    x, y = images
    network = dense_network()
    for kind in (PGD, krl.attacks.APGD):
        ours, *keras_own = (
            kind(0.1, 3, loss=each)(network, x, y, seed=0)
            for each in (
                "cross_entropy",
                keras.losses.CategoricalCrossentropy(from_logits=True),
                keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            )
        )
        for each in keras_own:
            np.testing.assert_allclose(ours, each, atol=1e-6)


@pytest.mark.parametrize(
    "kind",
    [
        krl.attacks.PGD,
        krl.attacks.FGSM,
        krl.attacks.APGD,
        krl.attacks.APGDT,
        krl.attacks.FAB,
        krl.attacks.Square,
        krl.attacks.AutoAttack,
    ],
)
def test_the_usual_budget_is_that_of_the_norm(kind):
    """That of Linf would be next to nothing in L2, and all networks robust."""
    assert kind().epsilon == pytest.approx(8 / 255)
    assert kind(norm="l2").epsilon == pytest.approx(128 / 255)
    assert kind(norm="l2", epsilon=0.1).epsilon == 0.1


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10])
def test_the_usual_steps_lead_to_the_border(steps):
    """Training with two steps of a quarter would be training with half the budget."""
    named = krl.attacks.get(f"pgd{steps}", epsilon=0.2)
    assert named.step_size == pytest.approx(0.2 / min(steps, 8))
    attack = PGD(0.2, steps)
    assert attack.step_size == pytest.approx(0.2 / min(steps, 4))
    x = np.full((1, 1), 0.5, "float32")
    x_adv = attack.perturb(threshold_network(0.1), x, np.array([0]), start=x)
    np.testing.assert_allclose(x_adv, 0.3, atol=1e-6)


def test_another_epsilon_is_another_attack():
    attack = krl.attacks.FGSM(0.1)
    with pytest.raises(AttributeError, match="`epsilon` of FGSM.*Make a new FGSM"):
        attack.epsilon = 0.3
    with pytest.raises(AttributeError, match="`norm` of FGSM.*Make a new FGSM"):
        attack.norm = "l2"
    assert attack.epsilon == attack.step_size == 0.1


@pytest.mark.parametrize("kind", [PGD, krl.attacks.APGD])
def test_a_loss_of_keras_is_saved(kind):
    attack = kind(0.1, loss=keras.losses.CategoricalHinge())
    again = keras.saving.serialize_keras_object(attack)
    again = keras.saving.deserialize_keras_object(again)
    assert isinstance(again.loss, keras.losses.CategoricalHinge)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda x_adv, x: None, "`perturb of Changed` must hold numbers.*NoneType"),
        (lambda x_adv, x: x_adv[:3], "`perturb of Changed`.*(shape|as many)"),
        (lambda x_adv, x: (x_adv, x), "`perturb of Changed`.*shape"),
    ],
)
def test_what_an_attack_of_ones_own_gives_in_training_is_looked_at(change, message):
    class Changed(PGD):
        def perturb(self, network, x, *arguments, **keywords):
            return change(super().perturb(network, x, *arguments, **keywords), x)

    model = tiny_model(attack=Changed(0.1, steps=1), epsilon=0.1)
    x, y = np.full((6, 6, 6, 3), 0.5, "float32"), np.arange(6) % 3
    with pytest.raises(Exception, match=message):
        model.fit(x, y, epochs=2, verbose=0)
