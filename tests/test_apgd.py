import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_attacks import assert_valid, gradients, lengths
from tiny_cnn import group, tiny_cnn
from tiny_models import conv_network, dense_network, threshold_network

import keras_robustlt as krl
from keras_robustlt import backend, losses
from keras_robustlt.attacks import APGD, APGDT, apgd

few = settings(max_examples=3, deadline=None)
SOME = slice(50)  # of the images of the reference


def to_numpy(x):
    return keras.ops.convert_to_numpy(x)


def right(network, x, y):
    return to_numpy(network(x)).argmax(axis=1) == y


def linear_problem(classes):
    """A network, the same on all backends, and ten images that it gets right."""
    rng = np.random.default_rng(1)
    network = dense_network(classes)
    x = rng.random((10, 6, 6, 3), "float32")
    kernel = rng.normal(size=(108, classes)) / 6
    # So that no class is the choice for all.
    network.set_weights([kernel, -np.mean(x, axis=0).ravel() @ kernel])
    return network, x, to_numpy(network(x)).argmax(axis=1)


# The losses


def test_dlr_against_the_reference(golden):
    arrays = golden("autoattack")
    targets = losses.one_hot(arrays["dlr.y"], 10)
    classes = losses.one_hot(arrays["dlr.target"], 10)
    logits = keras.ops.convert_to_tensor(arrays["dlr.logits"])
    for prefix, loss in {
        "": lambda logits: losses.dlr(targets, logits),
        "targeted_": lambda logits: losses.targeted_dlr(targets, logits, classes),
    }.items():
        np.testing.assert_allclose(loss(logits), arrays[f"dlr.{prefix}loss"], 1e-4)
        gradient = backend.gradient(lambda z, f=loss: keras.ops.sum(f(z)), logits)
        expected = arrays[f"dlr.{prefix}grad"]
        np.testing.assert_allclose(gradient, expected, 1e-4, 1e-6)


def test_dlr_knows_neither_shift_nor_scale():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(20, 5)).astype("float32")
    targets = losses.one_hot(rng.integers(0, 5, 20), 5)
    classes = losses.one_hot(rng.integers(0, 5, 20), 5)
    for changed in (logits + 3, logits * 100, logits * 1e-6):
        np.testing.assert_allclose(
            losses.dlr(targets, changed), losses.dlr(targets, logits), 1e-3
        )
        np.testing.assert_allclose(
            losses.targeted_dlr(targets, changed, classes),
            losses.targeted_dlr(targets, logits, classes),
            2e-3,
            1e-5,
        )


def test_dlr_of_tied_logits_is_finite():
    targets = losses.one_hot([0, 1, 0], 4)
    logits = keras.ops.convert_to_tensor([[1.0] * 4, [1.0] * 4, [0.0, 1, 1, 1]])

    def total(logits):
        values = losses.dlr(targets, logits)
        return keras.ops.sum(values + losses.targeted_dlr(targets, logits, targets))

    assert np.isfinite(total(logits))
    assert np.all(np.isfinite(backend.gradient(total, logits)))


def test_dlr_of_few_classes():
    with pytest.raises(ValueError, match="at least 3 classes.*of 2 classes"):
        losses.dlr([[1.0, 0.0]], [[1.0, 2.0]])
    three = np.eye(3, dtype="float32")
    with pytest.raises(ValueError, match="at least 4 classes.*of 3 classes"):
        losses.targeted_dlr(three, three, three)


# The schedule of the step size


def test_checkpoints(golden):
    np.testing.assert_array_equal(
        apgd.checkpoints(100), golden("autoattack")["apgd.checkpoints"]
    )


@pytest.mark.parametrize("steps", [1, 2, 5, 10, 33, 500])
def test_checkpoints_of_any_number_of_steps(steps):
    found = apgd.checkpoints(steps)
    assert found[0] == max(int(0.22 * steps), 1) - 1
    assert found == sorted(set(found)) and found[-1] < steps
    lengths = np.diff([-1, *found])
    assert np.all(np.diff(lengths) <= 0) and lengths.min() >= int(0.06 * steps)


def test_oscillation(golden):
    arrays = group(golden("autoattack"), "oscillation.")
    j, k = int(arrays["j"]), int(arrays["k"])
    rises = np.diff(arrays["loss_steps"], axis=0)[j - k : j] > 0
    np.testing.assert_array_equal(rises.sum(axis=0), arrays["increases"])
    flags = apgd.oscillates(arrays["increases"], k, float(arrays["rho"]))
    np.testing.assert_array_equal(flags, arrays["flags"])


def test_review():
    """Of four images: rising, stuck, stuck but halved before, oscillating."""
    image = np.arange(4.0, dtype="float32")[:, None]
    state = {
        "x": image.copy(),
        "best": image + 10,
        "gradient": image.copy(),
        "best_gradient": image + 20,
        "best_loss": np.array([2.0, 1.0, 1.0, 2.0]),
        "increases": np.array([9, 9, 9, 7]),
    }
    constants = {"step_size": np.ones((4, 1), "float32")}
    memory = {
        "reviewed_loss": np.ones(4),
        "was_halved": np.array([False, False, True, False]),
    }
    apgd.review(state, constants, memory, steps=10, rho=0.75)
    np.testing.assert_array_equal(constants["step_size"].ravel(), [1, 0.5, 1, 0.5])
    np.testing.assert_array_equal(state["x"].ravel(), [0, 11, 2, 13])
    np.testing.assert_array_equal(state["gradient"].ravel(), [0, 21, 2, 23])
    np.testing.assert_array_equal(memory["was_halved"], [False, True, False, True])
    np.testing.assert_array_equal(memory["reviewed_loss"], state["best_loss"])
    assert not state["increases"].any()


# Against the official implementation


@pytest.fixture(scope="module")
def official(golden):
    arrays = golden("autoattack")
    return arrays, tiny_cnn(group(arrays, "weights."))


def test_the_run_of_the_reference(official):
    arrays, network = official
    expected = group(arrays, "apgd_ce.")
    sizes, points, traces = [], [], []

    def watch(steps, state):
        assert steps == len(sizes) + 1
        sizes.append(state["step_size"].ravel())
        traces.append(state["last_loss"].copy())
        points.append(state["x"][:8].copy())

    attack = APGD(float(arrays["epsilon"]), steps=int(expected["n_iter"]))
    x, y, start = (arrays[key][SOME] for key in ("x", "y", "apgd.start"))
    found = attack.maximize(network, x, y, start=start, watch=watch)
    off = abs(found["best_loss"] - expected["loss_best"][SOME])
    assert np.median(off) <= 1e-5
    assert np.mean(off > 1e-3) <= 0.01
    assert np.sum(found["fooled"] == expected["robust"][SOME]) <= 1
    steps = expected["step_size_trace"][-1, SOME]
    assert np.sum(~np.isclose(sizes[-1], steps)) <= 3
    trace = abs(np.array(traces) - expected["loss_trace"][1:, SOME])
    assert np.mean(trace > 1e-3) <= 0.01
    first = expected["iterates_first8"][1:]
    assert np.mean(abs(np.array(points[: len(first)]) - first) > 1e-5) <= 0.005
    assert np.median(abs(found["best"] - expected["x_best"][SOME])) <= 1e-5
    # What fooled the network does so again.
    fooled = found["fooled"]
    assert not np.any(right(network, found["adversarial"], y)[fooled])


@pytest.mark.parametrize(
    "row", [0, *(pytest.param(r, marks=pytest.mark.slow) for r in range(1, 9))]
)
def test_a_target_of_the_reference(official, row):
    arrays, network = official
    expected = group(arrays, "apgd_t.")
    attack = APGDT(float(arrays["epsilon"]))
    problem = attack._problem(
        network, arrays["x"][SOME], arrays["y"][SOME], None, seed=0
    )
    target_class = expected["targets"][row, SOME].astype("int32")
    np.testing.assert_array_equal(
        attack._target_classes(problem.logits)[row][arrays["clean_correct"][SOME]],
        target_class[arrays["clean_correct"][SOME]],
    )
    start = arrays["apgd.start"][SOME]
    found = attack._climb(problem, target_class, 0, start, until_fooled=False)
    assert np.sum(found["fooled"] == expected["robust"][row, SOME]) <= 1
    meaningful = target_class != arrays["y"][SOME]
    off = abs(found["best_loss"] - expected["loss_best"][row, SOME])[meaningful]
    assert np.median(off) <= 1e-4
    # The same flags where images leave as soon as they are fooled.
    leaving = attack._climb(problem, target_class, 0, start, until_fooled=True)
    np.testing.assert_array_equal(leaving["fooled"], found["fooled"])


# What it finds


@pytest.fixture(scope="module")
def ten():
    return linear_problem(classes=5)


def test_finds_the_worst_point_of_a_linear_network():
    x = np.array([[0.3], [0.6], [0.6]], "float32")
    for norm in ("linf", "l2"):
        attack = APGD(0.1, steps=20, norm=norm)
        found = attack.maximize(threshold_network(), x, [0, 0, 1], seed=0)
        np.testing.assert_allclose(found["best"], [[0.2], [0.5], [0.7]], atol=1e-6)


@pytest.mark.tensorflow  # whose AutoGraph converts it
def test_a_function_with_control_flow_of_python_is_a_network():
    network = threshold_network()

    def function(x):
        logits = network(x)
        if keras.ops.max(logits) > 0:
            logits = 2 * logits
        return logits

    x = np.array([[0.3], [0.6], [0.6]], "float32")
    found = APGD(0.1, steps=20).maximize(function, x, [0, 0, 1], seed=0)
    np.testing.assert_allclose(found["best"], [[0.2], [0.5], [0.7]], atol=1e-6)


def test_stronger_than_one_step(ten):
    network, x, y = ten
    corner = krl.attacks.FGSM(0.05)(network, x, y)
    values = losses.cross_entropy(losses.one_hot(y, 5), network(corner))
    found = APGD(0.05, steps=20).maximize(network, x, y, seed=0)
    assert np.all(found["best_loss"] >= to_numpy(values) - 1e-4)


@pytest.mark.parametrize("norm", ["linf", "l2"])
@few
@given(st.integers(0, 1000))
def test_stays_in_the_ball(ten, norm, seed):
    network, _, _ = ten
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 5, (10, 6, 6, 3)).astype("float32") / 4
    y = to_numpy(network(x)).argmax(axis=1)
    epsilon = np.linspace(0, 0.3, 10)
    for attack in attacks_of(norm):
        x_adv = attack(network, x, y, epsilon, seed)
        assert_valid(x_adv, x, epsilon, norm)
        # Fooled, or as it was.
        moved = lengths(x_adv, x, norm) > 0
        np.testing.assert_array_equal(moved, ~right(network, x_adv, y))


ATTACKS = {
    norm: [APGD(steps=6, norm=norm), APGDT(steps=6, norm=norm, targets=2)]
    for norm in ("linf", "l2")
}


def attacks_of(norm):
    """The same objects again and again, so that nothing is compiled anew."""
    return ATTACKS[norm]


@few
@given(st.permutations(range(10)))
def test_neither_batches_nor_order_matter(ten, order):
    network, x, y = ten
    for attack in attacks_of("linf"):
        together = to_numpy(attack(network, x, y, 0.02, seed=3))
        order = np.array(order)
        parts = [
            to_numpy(attack(network, x[part], y[part], 0.02, seed=3))
            for part in (order[:3], order[3:])
        ]
        np.testing.assert_allclose(np.concatenate(parts), together[order], atol=1e-5)


@pytest.mark.slow_on_jax
def test_batch_size_does_not_matter(ten):
    network, x, y = ten
    results = [
        to_numpy(APGD(0.02, 10, batch_size=size)(network, x, y, seed=0))
        for size in (4, 10)
    ]
    np.testing.assert_allclose(*results, atol=1e-5)


def test_a_convolutional_network(images):
    x, _ = images
    network = conv_network()
    y = to_numpy(network(x)).argmax(axis=1)
    attack = APGD(0.1, steps=10, loss="dlr")
    assert not right(network, attack(network, x, y, seed=0), y).any()
    found = attack.maximize(network, x, y, start=x)
    direct = losses.dlr(losses.one_hot(y, 3), network(found["best"]))
    np.testing.assert_allclose(direct, found["best_loss"], 1e-3, 1e-5)


def test_misclassified_images_are_returned_as_they_are(ten):
    network, x, y = ten
    wrong = (y + 1) % 5
    for attack in attacks_of("linf"):
        np.testing.assert_array_equal(attack(network, x, wrong), x)


@keras.layers.Lambda
def flat_network(x):
    """Class 0, but for a dip of its logit around 0.3; the gradient elsewhere is 0."""
    dip = keras.ops.relu(1 - keras.ops.abs(x - 0.3) / 0.05)
    return keras.ops.concatenate([2 - 2 * dip, keras.ops.ones_like(x)], axis=1)


def test_restarts_go_on_with_what_is_left():
    # Starts are on the surface, so at 0.3 or at 0.7: half of them see the dip.
    x = np.linspace(0.495, 0.505, 20, dtype="float32")[:, None]
    y = np.zeros(20, "int32")
    left = []
    for restarts in (1, 10):
        attack = APGD(0.2, steps=1, restarts=restarts)
        left.append(right(flat_network, attack(flat_network, x, y, seed=0), y).sum())
    assert 4 <= left[0] <= 16
    assert left[1] == 0


def test_seed():
    x, y = np.linspace(0.5, 0.6, 20, dtype="float32")[:, None], np.zeros(20)
    attack = APGD(0.1, steps=1)

    def run(seed):
        return attack.maximize(flat_network, x, y, seed=seed)["best"]

    np.testing.assert_array_equal(run(1), run(1))
    assert abs(run(1) - run(2)).max() > 0.1
    generator = keras.random.SeedGenerator(0)
    assert abs(run(generator) - run(generator)).max() > 0.1
    keras.utils.set_random_seed(5)
    first = run(None)
    keras.utils.set_random_seed(5)
    np.testing.assert_array_equal(run(None), first)
    with pytest.raises(ValueError, match="`seed` must be an integer"):
        run(-1)


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_random_starts_are_on_the_surface(norm):
    x = np.full((50, 4, 4, 1), 0.5, "float32")
    attack = APGD(0.1, norm=norm)
    problem = attack._problem(dense_network(2, (4, 4, 1)), x, np.zeros(50), None, 0)
    start = attack._random_start(problem, 0)
    np.testing.assert_allclose(lengths(start, x, norm), 0.1, atol=1e-6)
    # The same image has the same start, in every position.
    np.testing.assert_array_equal(start[0], start[1])


@pytest.mark.slow_on_jax
def test_constant_and_spoilt_networks_do_no_harm(images):
    x, _ = images
    y = np.zeros(len(x), "int32")

    def constant(x):
        return keras.ops.zeros((keras.ops.shape(x)[0], 3)) * x[:, 0, 0, :1]

    for attack in (APGD(steps=5), APGD(steps=5, loss="dlr"), APGD(steps=5, norm="l2")):
        found = attack.maximize(constant, x, y, seed=0)
        assert_valid(found["best"], x, attack.epsilon, attack.norm)

    def broken(x):
        """Its gradient is not a number wherever the first pixel is 0."""
        root = keras.ops.sqrt(x[:, 0, 0, :1])
        return keras.ops.concatenate([2 + root, x[:, 1, 1, :1], root], axis=1)

    x[:, 0, 0] = 0
    found = APGD(0.0, steps=5).maximize(broken, x, y, seed=0)
    np.testing.assert_array_equal(found["best"], x)


def test_agrees_with_a_closed_form_in_one_step(ten):
    _, x, _ = ten
    x = 0.3 + 0.4 * x
    attack = APGD(0.05, steps=1)
    three = dense_network()
    labels = to_numpy(three(x)).argmax(axis=1)
    found = attack.maximize(three, x, labels, start=x)
    # The step is twice the budget, so it ends on the surface.
    expected = x + 0.05 * np.sign(gradients(three, x, labels))
    np.testing.assert_allclose(found["best"], expected, atol=1e-6)


class Noise(keras.layers.Layer):
    """Adds noise in inference too."""

    def __init__(self, scale):
        super().__init__()
        self.scale = scale
        self.seed_generator = keras.random.SeedGenerator(0)

    def call(self, x):
        shape = keras.ops.shape(x)
        return x + self.scale * keras.random.normal(shape, seed=self.seed_generator)


def test_gradients_of_a_random_network_are_averaged():
    """The logit difference is `(x + noise)**2`, so its gradient is `2 x + 2 noise`."""
    square = keras.layers.Lambda(keras.ops.square)
    network = keras.Sequential([keras.Input((1,)), Noise(1.0), square])
    network.add(keras.layers.Dense(2, use_bias=False))
    network.set_weights([np.array([[0.0, 1.0]])])
    x, y = np.full((200, 1), 0.25, "float32"), np.zeros(200, "int32")
    spread = {}
    for eot in (1, 8):
        attack = APGD(0.1, steps=1, loss=lambda t, z: z[:, 1], eot=eot)
        problem = attack._problem(network, x, y, None, 0)
        values = problem.functions["evaluate"](
            x, {"label": y, "image": x}, {"draw": np.int32(3)}
        )
        gradient = to_numpy(values["gradient"])
        spread[eot] = gradient.std()
        assert abs(gradient.mean() - 0.5) < 5 * spread[eot] / np.sqrt(200)
    assert spread[1] / spread[8] == pytest.approx(np.sqrt(8), rel=0.25)
    # From one step to the next the noise is another one.
    losses_seen = []
    attack = APGD(0.0, steps=3, loss=lambda t, z: z[:, 1])
    attack.maximize(
        network, x, y, seed=0, watch=lambda _, s: losses_seen.append(s["last_loss"])
    )
    assert abs(losses_seen[0] - losses_seen[1]).min() > 0


def test_bfloat16_network_is_attacked_in_float32(images):
    x, _ = images
    keras.config.set_dtype_policy("mixed_bfloat16")
    network = dense_network()
    y = to_numpy(keras.ops.cast(network(x), "float32")).argmax(axis=1)
    x_adv = APGD(0.05, steps=5)(network, x, y, seed=0)
    assert_valid(x_adv, x, 0.05, "linf")


def test_one_hot_labels_and_tensors(ten):
    network, x, y = ten
    attack = attacks_of("linf")[0]
    expected = attack(network, x, y, 0.02, seed=0)
    one_hot = np.eye(5, dtype="float32")[y]
    tensor = keras.ops.convert_to_tensor(x)
    np.testing.assert_array_equal(attack(network, tensor, one_hot, 0.02, 0), expected)


def test_a_network_that_is_not_built_yet(images):
    x, y = images
    layers = [keras.layers.Flatten(), keras.layers.Dense(3)]
    network = keras.Sequential(layers)
    assert not network.built
    x_adv = APGD(0.1, steps=2)(network, x, y, seed=0)
    assert_valid(x_adv, x, 0.1, "linf")


def test_new_weights_are_seen(ten):
    network, x, y = ten
    attack = attacks_of("linf")[0]
    before = network.get_weights()
    attack(network, x, y, seed=0)
    network.set_weights([-w for w in before])
    # All are wrong now, so nothing is done.
    np.testing.assert_array_equal(attack(network, x, y, seed=0), x)
    network.set_weights(before)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epsilon": 8}, r"8 / 255.*Received: epsilon=8"),
        ({"steps": 0}, "`steps` must be an integer of at least 1"),
        ({"norm": "l1"}, "`norm` must be one of 'linf', 'l2'"),
        ({"loss": "hinge"}, "`loss` must be one of 'cross_entropy', 'dlr', 'margin'"),
        ({"restarts": 0}, "`restarts`"),
        ({"eot": 0}, "`eot`"),
        ({"rho": 1.5}, "`rho`"),
        ({"batch_size": 0}, "`batch_size`"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        APGD(**arguments)


def test_bad_number_of_targets():
    with pytest.raises(ValueError, match="`targets` must be an integer"):
        APGDT(targets=0)


def test_too_few_classes():
    x, y = np.full((2, 6, 6, 3), 0.5, "float32"), [0, 1]
    with pytest.raises(ValueError, match="at least 3 classes: use loss='cross_entr"):
        APGD(loss="dlr")(dense_network(2), x, y)
    with pytest.raises(ValueError, match="at least 4 classes.*network of 3 classes"):
        APGDT()(dense_network(3), x, y)
    with pytest.raises(ValueError, match="at least 2 classes"):
        APGD()(dense_network(1), x, [0, 0])


def test_bad_input(ten):
    network, x, y = ten
    attack = attacks_of("linf")[0]
    for arguments, message in [
        ((255 * x, y), "pixels from 0 to 255"),
        (((255 * x).astype("uint8"), y), "floating-point images"),
        ((x, y + 3), "labels from 0 to 4"),
        ((x, y[:3]), "10 images and 3 labels"),
        ((x[:0], y[:0]), "no images"),
        ((x, y, [0.1, 0.2]), "one for each of the 10 images. Received: shape"),
        ((x, y, 8), "at most 1: write 8 / 255"),
        ((x, y, -0.1), "`epsilon`"),
    ]:
        with pytest.raises(ValueError, match=message):
            attack(network, *arguments)
    with pytest.raises(ValueError, match="must give logits, but"):
        attack(dense_network(5, activation="softmax"), x, y)
    with pytest.raises(ValueError, match=r"logits of shape \(batch, num_classes\)"):
        attack(lambda x: x, x, y)


def test_inside_of_compiled_code(ten):
    network, x, y = ten
    run = backend.compiled(lambda x: APGD()(network, x, y), network.variables)
    with pytest.raises(ValueError, match="cannot run inside of compiled code"):
        run(x)


@pytest.mark.parametrize(
    "attack",
    [
        APGD(0.1, 7, "l2", "dlr", 3, 2, 0.5, 16),
        APGDT(0.1, 7, "l2", 4, 3, 2, 0.5, 16),
    ],
)
def test_configuration(attack):
    stored = json.loads(json.dumps(keras.saving.serialize_keras_object(attack)))
    again = keras.saving.deserialize_keras_object(stored)
    assert type(again) is type(attack)
    assert again.get_config() == attack.get_config()
    assert attack.get_config()["steps"] == 7 and attack.get_config()["rho"] == 0.5
