"""Base methods: losses in closed form, state, and what a step does with them."""

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import (
    COUNTS,
    FIT,
    conv_network,
    dense_network,
    eager_model,
    tiny_model,
    trained,
    weights_of,
)

import keras_robustlt as krl
from keras_robustlt import backend

# Each class by one name.
NAMES = [*{kind: name for name, kind in krl.methods.BY_NAME.items()}.values()]
NAMES += ["at_bsl+awp"]
TARGETS = np.eye(3, dtype="float32")[[0, 1]]
CLEAN = np.log(np.array([[0.5, 0.25, 0.25], [0.2, 0.4, 0.4]], "float32"))
ADVERSARIAL = np.log(np.array([[0.25, 0.5, 0.25], [0.4, 0.4, 0.2]], "float32"))
DIVERGENCE = np.array(
    [
        0.5 * np.log(2) + 0.25 * np.log(0.5),
        0.2 * np.log(0.5) + 0.4 * np.log(1) + 0.4 * np.log(2),
    ]
)


def loss_of(method):
    logits = {"clean": CLEAN, "adversarial": ADVERSARIAL}
    return method.loss(TARGETS, logits, krl.losses.cross_entropy)


def test_trades():
    method = krl.methods.TRADES(beta=3.0)
    expected = -np.log([0.5, 0.4]) + 3 * DIVERGENCE
    np.testing.assert_allclose(loss_of(method), expected, 1e-5)
    attack = method.attack_loss(TARGETS, ADVERSARIAL, clean_logits=CLEAN)
    np.testing.assert_allclose(attack, DIVERGENCE, 1e-5)


def test_mart():
    boosted = -np.log([0.25, 0.4]) - np.log([1.0001 - 0.5, 1.0001 - 0.4])
    expected = boosted + 2 * DIVERGENCE * (1 - np.array([0.5, 0.4]))
    np.testing.assert_allclose(loss_of(krl.methods.MART(beta=2.0)), expected, 1e-5)


def test_nuat():
    method = krl.methods.NuAT(strength=2.0, growth=0.5)
    model = tiny_model(method=method, attack=None)
    assert isinstance(model.attack, krl.attacks.FGSMBernoulli)
    u, singular, v = np.linalg.svd(CLEAN - ADVERSARIAL, full_matrices=False)
    shares = np.sum((u * singular) @ v * (u @ v), axis=1)
    assert shares.sum() == pytest.approx(singular.sum())
    # Before the schedule is known it is all there; then it grows to half of training.
    for length, epoch, weight in [(0, 0, 2.0), (10, 0, 0.0), (10, 2, 0.8), (10, 7, 2)]:
        model.schedule.start(length)
        model.schedule.begin_epoch(epoch)
        expected = -np.log([0.5, 0.4]) + weight * shares
        np.testing.assert_allclose(loss_of(method), expected, 1e-5)
        for compares in (0.0, 1.0, 0.0):  # from step 1 on
            model.schedule.advance()
            attack = method.attack_loss(TARGETS, ADVERSARIAL, clean_logits=CLEAN)
            expected = -np.log([0.25, 0.4]) + compares * weight * shares
            np.testing.assert_allclose(attack, expected, 1e-5)


# Of these there are training steps in test_golden_methods.py.
GOLDEN = ("at", "at_bsl", "awp", "at_bsl+awp", "robal", "reat", "taet")


# These are losses, which test_losses.py has on JAX too.
LOSSES = ("standard", "class_balanced", "focal", "ldam", "logit_adjusted")


def graded(name):
    marks = [pytest.mark.slow] if name in GOLDEN else []
    marks += [pytest.mark.slow_on_jax] if name in LOSSES else []
    return pytest.param(name, marks=marks)


@pytest.mark.parametrize("name", [graded(name) for name in NAMES])
@pytest.mark.parametrize(
    "robustlt", [pytest.param(False, marks=pytest.mark.slow), True]
)
def test_every_method_trains(images, name, robustlt):
    budget = "robustlt" if robustlt and name != "standard" else "uniform"
    # LDAM's factor is one for cosines.
    options = {
        "taet": {"ce_epochs": 2},
        "ldam": {"scale": 1.0},
        "cgr": {"start": 2},
        # While it grows, so does the loss.
        "nuat": {"strength": 1.0, "growth": 0.0},
    }.get(name, {})
    model = tiny_model(
        conv_network(),
        method=krl.methods.get(name, **options),
        budget=budget,
        epsilon=0.02,
        optimizer=krl.optimizers.SGD(0.05),
    )
    x, y = images
    history = model.fit(x, y, epochs=8, **FIT).history
    losses = history["loss"][2:] if name == "taet" else history["loss"]
    assert np.all(np.isfinite(losses))
    assert losses[-1] < losses[0]
    accuracy = "clean" if name == "standard" else "adversarial"
    # TAET's loss is a tenth of the cross-entropy: it is slow here.
    assert history[f"{accuracy}_accuracy"][-1] > (0.3 if name == "taet" else 0.5)


def test_names_and_objects():
    assert repr(krl.methods.get("taet")) == (
        "TAET(ce_epochs=40, alpha=0.1, beta=0.1, gamma=0.1)"
    )
    assert repr(krl.methods.get("at_bsl+awp", tau=0.5)).startswith(
        "AWP(method=ATBSL(tau=0.5, label_smoothing=0.0), gamma=0.005"
    )
    for wrong in ("at_bsl+", "adv", "awp+at", 3):
        with pytest.raises(ValueError, match="must be one of 'at', 'at_bsl', 'awp'"):
            krl.methods.get(wrong)
    with pytest.raises(ValueError, match="`method` is of AWP already"):
        krl.methods.AWP("awp")
    with pytest.raises(ValueError, match="`proxy` must be one of 'optimizer'"):
        krl.methods.AWP(proxy="sgd")


# Weight perturbation


@pytest.mark.parametrize("proxy", ["optimizer", "gradient"])
def test_weights_move_in_each_step_of_gathered_gradients(images, same_network, proxy):
    x, y = images
    optimizer = keras.optimizers.SGD(0.1, gradient_accumulation_steps=3)
    model = tiny_model(
        same_network(),
        method=krl.methods.AWP(gamma=0.1, proxy=proxy),
        beta=0,
        optimizer=optimizer,
    )
    before = weights_of(model)
    for step in range(3):
        np.testing.assert_allclose(weights_of(model), before, atol=1e-6)
        batch = {"adversarial": x, "clean": x}, y, None
        gathered = [keras.ops.copy(v.value) for v in optimizer.variables]
        ((kernel, change),) = model.method.weight_shift(model, batch)
        for value, variable in zip(gathered, optimizer.variables, strict=step > 0):
            np.testing.assert_array_equal(value, variable)
        norms = [float(keras.ops.norm(value)) for value in (change, kernel)]
        assert norms[0] == pytest.approx(0.1 * norms[1], rel=1e-4)
        model.train_on_batch(x, y)
    assert abs(weights_of(model) - before).max() > 1e-3


def test_weights_move_alike_where_the_loss_is_scaled(images, same_network):
    x, y = images

    def kernel_change(**scale):
        optimizer = krl.optimizers.SGD(0.1, weight_decay=0.1, **scale)
        model = tiny_model(same_network(), method="awp", beta=0, optimizer=optimizer)
        batch = {"adversarial": x, "clean": x}, y, None
        ((_, change),) = model.method.weight_shift(model, batch)
        return keras.ops.convert_to_numpy(change)

    expected = kernel_change()
    actual = kernel_change(loss_scale_factor=1024.0)
    np.testing.assert_allclose(actual, expected, atol=1e-6)


def test_trial_updates_leave_an_optimiser_as_it_is(images):
    x, y = images
    optimizer = krl.optimizers.SGD(0.1, momentum=0.9)
    model = tiny_model(method="awp", beta=0, optimizer=optimizer)
    batch = {"adversarial": x, "clean": x}, y, None
    model.method.weight_shift(model, batch)  # the first of all, eagerly
    assert not any(keras.ops.any(v.value) for v in optimizer.momentums)


def test_weights_move_up_the_loss_by_gamma_and_come_back(images, same_network):
    x, y = images
    model = tiny_model(
        same_network(), method=krl.methods.AWP(gamma=0.1, proxy="gradient"), beta=0
    )
    batch = {"adversarial": x, "clean": x}, y, None
    before = weights_of(model)
    ((kernel, change),) = model.method.weight_shift(model, batch)
    assert kernel is model.network.layers[-1].kernel
    np.testing.assert_array_equal(weights_of(model), before)
    change = keras.ops.convert_to_numpy(change)
    norm = np.linalg.norm(keras.ops.convert_to_numpy(kernel))
    assert np.linalg.norm(change) == pytest.approx(0.1 * norm, rel=1e-5)

    def loss():
        logits = model(batch[0], training=True)
        return float(model.compute_loss(batch[0], y, logits))

    plain = loss()
    kernel.assign_add(change)
    assert loss() > plain + 1e-3


def test_the_update_is_made_from_the_weights_as_they_were(images, same_network):
    x, y = images
    rate = 0.1
    model = tiny_model(
        same_network(),
        method=krl.methods.AWP(gamma=0.1, proxy="gradient"),
        beta=0,
        optimizer=krl.optimizers.SGD(rate),
        attack=krl.attacks.PGD(0.1, 2, random_start=False),
    )
    images_of_step = backend.compiled(
        lambda x, y: model.training_batch((x, y))[0], model.variables
    )(x, y)
    batch = images_of_step, y, None
    ((kernel, change),) = model.method.weight_shift(model, batch)
    bias = model.network.layers[-1].bias
    values = [keras.ops.copy(kernel.value) + change, keras.ops.copy(bias.value)]

    def loss(values):
        with keras.StatelessScope(list(zip((kernel, bias), values, strict=True))):
            logits = model(images_of_step, training=True)
            return model.compute_loss(images_of_step, y, logits)

    gradients = backend.gradient(loss, values)
    expected = [
        keras.ops.convert_to_numpy(v) - rate * keras.ops.convert_to_numpy(g)
        for v, g in zip((kernel, bias), gradients, strict=True)
    ]
    model.train_on_batch(x, y)
    for actual, value in zip((kernel, bias), expected, strict=True):
        np.testing.assert_allclose(actual, value, atol=1e-6)


def test_a_trial_update_changes_nothing(images, same_network):
    model = tiny_model(same_network(), optimizer=keras.optimizers.Adam(0.1))
    trained(images, model)
    optimizer, variables = model.optimizer, model.trainable_variables
    state = [*variables, *optimizer.variables]
    before = [keras.ops.convert_to_numpy(v).copy() for v in state]
    gradients = [keras.ops.ones_like(v.value) for v in variables]
    changes = backend.trial_update(optimizer, gradients, variables)
    for variable, value in zip(state, before, strict=True):
        np.testing.assert_array_equal(variable, value)
    optimizer.apply(gradients, variables)
    for variable, value, change in zip(variables, before, changes, strict=False):
        change = keras.ops.convert_to_numpy(change)
        np.testing.assert_allclose(variable, value + change, atol=1e-6)
        assert np.abs(change).max() > 1e-3


@pytest.mark.slow_on_jax
def test_awp_without_gamma_is_the_method_itself(images, same_network):
    def run(method):
        return trained(images, tiny_model(same_network(), method=method, beta=0))

    expected = run("at_bsl")
    awp = krl.methods.AWP("at_bsl", gamma=0)
    np.testing.assert_allclose(run(awp), expected, atol=1e-6)
    warming_up = krl.methods.AWP("at_bsl", gamma=1.0, warmup_epochs=5)
    with pytest.warns(UserWarning, match="AWP.* begins with epoch 6"):
        np.testing.assert_allclose(run(warming_up), expected, atol=1e-6)
    assert abs(run(krl.methods.AWP("at_bsl", gamma=1.0)) - expected).max() > 1e-3


@pytest.mark.parametrize("method", ["class_balanced", "focal", "taet"])
def test_weights_of_images_need_a_loss_of_each(images, method):
    def mean(targets, logits):
        return keras.ops.mean(krl.losses.cross_entropy(targets, logits))

    model = tiny_model(method=method, beta=0)
    model.compile(krl.optimizers.SGD(0.1), loss=mean)
    batch = {"adversarial": np.zeros((4, 3), "float32")}
    targets = np.eye(3, dtype="float32")[[0, 1, 2, 0]]
    with pytest.raises(ValueError, match="must give one value for each example.*mean"):
        model.method.loss(targets, batch, model._criterion)


def test_awp_and_what_holds_after_an_update(images):
    network = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(3, kernel_constraint=keras.constraints.UnitNorm()),
        ]
    )
    model = tiny_model(network, method=krl.methods.AWP(gamma=0.3), beta=0)
    model.fit(*images, epochs=1, **FIT)
    norms = np.linalg.norm(network.get_weights()[0], axis=0)
    np.testing.assert_allclose(norms, 1, atol=1e-5)
    # The optimiser's average would be of weights that are moved.
    optimizer = keras.optimizers.SGD(0.1, use_ema=True)
    with pytest.raises(ValueError, match="`use_ema`.*averaging"):
        tiny_model(method="at_bsl+awp", optimizer=optimizer)
    with pytest.raises(ValueError, match="`use_ema`.*averaging"):
        tiny_model(method=krl.methods.CGR("awp"), optimizer=optimizer)
    assert tiny_model(method="cgr", optimizer=optimizer)


@pytest.mark.slow
def test_awp_in_half_precision(images):
    keras.config.set_dtype_policy("mixed_float16")
    for proxy in ("optimizer", "gradient"):
        method = krl.methods.AWP(gamma=0.01, proxy=proxy)
        model = tiny_model(conv_network(), method=method, beta=0, epsilon=0.02)
        x, y = images
        history = model.fit(x, y, epochs=8, **FIT).history
        assert history["loss"][-1] < history["loss"][0]
        assert np.all(np.isfinite(weights_of(model)))


# REAT


def test_predictions_of_an_epoch_weigh_the_attack_of_the_next(images):
    x, y = images
    model = tiny_model(method="reat", beta=0)
    method = model.method
    np.testing.assert_array_equal(method.last_predictions, COUNTS)
    model.fit(x, y, epochs=1, **FIT)
    np.testing.assert_array_equal(method.last_predictions, COUNTS)
    counted = keras.ops.convert_to_numpy(method.predictions).copy()
    assert counted.sum() == len(y)
    model.fit(x, y, epochs=2, initial_epoch=1, **FIT)
    np.testing.assert_array_equal(method.last_predictions, counted)
    assert float(keras.ops.sum(method.predictions)) == len(y)


def test_features_of_networks(images):
    x, _ = images
    network = conv_network()
    for each in (network, keras.Model(network.inputs[0], network.outputs[0])):
        logits, features = krl.networks.with_features(each)(x)
        np.testing.assert_allclose(logits, network(x), atol=1e-6)
        np.testing.assert_allclose(network.layers[-1](features), logits, atol=1e-6)
    named = krl.networks.with_features(network, layer=network.layers[0].name)
    np.testing.assert_allclose(named(x)[1], network.layers[0](x), atol=1e-6)

    # As part of another network, here twice.
    half = keras.layers.Rescaling(0.5)
    outer = keras.Sequential([keras.Input(x.shape[1:]), half, network])
    outer = keras.Sequential([keras.Input(x.shape[1:]), outer])
    for found, expected in zip(
        krl.networks.with_features(outer)(x),
        krl.networks.with_features(network)(x / 2),
        strict=True,
    ):
        np.testing.assert_allclose(found, expected, atol=1e-6)

    class Subclassed(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="must be a functional or"):
        krl.networks.with_features(Subclassed())


# TAET


def test_first_stage_is_ordinary_training(images, same_network):
    method = krl.methods.TAET(ce_epochs=3)
    model = tiny_model(same_network(), method=method, beta=0, total_epochs=4)
    actual = trained(images, model)
    standard = trained(images, tiny_model(same_network(), method="standard"))
    np.testing.assert_allclose(actual, standard, atol=1e-6)
    method = krl.methods.TAET(ce_epochs=2)
    second = trained(images, tiny_model(same_network(), method=method, beta=0))
    assert abs(second - standard).max() > 1e-4


def test_losses_that_are_no_means_refuse_weights(images):
    x, y = images
    method = krl.methods.TAET(ce_epochs=1)
    with pytest.raises(ValueError, match="`sample_weight` has no meaning in TAET"):
        model = tiny_model(method=method, beta=0)
        model.fit(x, y, sample_weight=np.ones(12), **FIT)
    with pytest.raises(ValueError, match="weighs the losses of examples"):
        tiny_model(method=method, budget="dafa")


@pytest.mark.slow_on_jax
def test_any_network_serves_the_methods_with_two_forward_passes(images):
    x, y = images
    for method in ("trades", "mart", "robal"):
        model = eager_model(dense_network(), method=method, weighting="both")
        arguments = {"epochs": 2, "validation_data": images, "verbose": 0}
        logs = model.fit(x, y, 12, **arguments).history
        assert {"clean_accuracy", "adversarial_accuracy"} <= set(logs)
        assert np.all(np.isfinite(logs["val_loss"]))


# Label smoothing


def smooth_model(network, method, smoothing):
    loss = keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=smoothing
    )
    model = tiny_model(network, method=method)
    model.compile("sgd", loss=loss, run_eagerly=True)
    return model


@pytest.mark.parametrize("name", NAMES)
def test_label_smoothing(name):
    """A part of the cross-entropy is of all classes, with the budget of the label."""
    network = conv_network()
    options = {"ce_epochs": 9} if name == "taet" else {}
    method = krl.methods.get(name, **options)
    if not method.smooths_labels:
        with pytest.raises(ValueError, match="`label_smoothing` must be 0 with"):
            smooth_model(network, method, 0.3)
        smooth_model(network, method, 0.0)
        return
    if method.adds_prior:
        with pytest.warns(UserWarning, match="smooths labels uniformly"):
            model = smooth_model(network, method, 0.3)
    else:
        model = smooth_model(network, method, 0.3)
    targets = ops.convert_to_tensor(TARGETS)
    logits = {"clean": CLEAN, "adversarial": ADVERSARIAL}
    if method.uses_features:
        features = np.random.default_rng(0).random((2, 5), "float32")
        logits |= {f"{image}_features": features for image in ("clean", "adversarial")}
    logits = {key: ops.convert_to_tensor(value) for key, value in logits.items()}

    def value(criterion):
        return ops.convert_to_numpy(method.loss(targets, logits, criterion))

    def of_class(number):
        label = ops.one_hot([number] * 2, 3)
        return value(lambda _, z: krl.losses.cross_entropy(label, z))

    expected = 0.7 * value(krl.losses.cross_entropy)
    expected = expected + 0.1 * sum(map(of_class, range(3)))
    np.testing.assert_allclose(value(model._criterion), expected, rtol=1e-5)


@pytest.mark.parametrize("name, tau", [("at_bsl", 1.0), ("at_bsl", 0.5), ("reat", 1.0)])
def test_smoothing_beside_a_prior_prefers_no_class(name, tau):
    """Where the loss is lowest the logits of all wrong classes are the same."""
    options = {"tau": tau} if name == "at_bsl" else {}
    method = krl.methods.get(name, label_smoothing=0.1, **options)
    tiny_model(conv_network(), method=method)
    shares = np.array(COUNTS, "float64") ** tau
    shares /= shares.sum()
    lowest = np.diag(np.log(0.9 / (0.1 * shares) + 1)).astype("float32")
    features = np.zeros((3, 5), "float32")  # of which all are alike
    criterion = krl.losses.cross_entropy

    def loss(z):
        logits = {"adversarial": z, "adversarial_features": features}
        return ops.sum(method.loss(np.eye(3, dtype="float32"), logits, criterion))

    gradient = backend.gradient(loss, ops.convert_to_tensor(lowest))
    np.testing.assert_allclose(ops.convert_to_numpy(gradient), 0, atol=1e-6)
    # In figures: an image of class 0, where all logits are equal.
    expected = -0.9 * np.log(shares[0]) - 0.1 * np.sum(shares * np.log(shares))
    equal = {"adversarial": np.zeros((1, 3), "float32")}
    equal["adversarial_features"] = features[:1]
    value = method.loss(np.eye(3, dtype="float32")[:1], equal, criterion)
    np.testing.assert_allclose(ops.convert_to_numpy(value)[0], expected, rtol=1e-5)


def test_smoothed_labels_change_no_budget(images):
    x, y = images
    network = dense_network()
    batches = [
        smooth_model(network, "at", smoothing).training_batch((x, y))[0]
        for smoothing in (0.0, 0.3)
    ]
    adversarial = [ops.convert_to_numpy(each["adversarial"]) for each in batches]
    np.testing.assert_array_equal(*adversarial)


def test_compositions_smooth_as_their_method_does():
    for name, smooths in (("focal+awp", False), ("at_bsl+awp", True)):
        assert krl.methods.get(name).smooths_labels is smooths
    for name, smooths in (("mart", False), ("trades", True)):
        assert krl.methods.CGR(name).smooths_labels is smooths


@pytest.mark.parametrize(
    "arguments",
    [{}, {"method": "trades"}, {"batchnorm_statistics": "mixed"}],
    ids=["one pass", "frozen clean pass", "clean pass"],
)
def test_what_a_network_adds_to_the_loss_counts_once(images, arguments):
    x, y = images
    penalty = 100.0

    def losses_of(regularizer):
        keras.utils.set_random_seed(0)
        last = keras.layers.Dense(
            3, kernel_regularizer="l2", activity_regularizer=regularizer
        )
        network = keras.Sequential(
            [keras.Input(x.shape[1:]), keras.layers.Flatten(), last]
        )
        model = eager_model(network, beta=0, **arguments)
        logs = model.fit(x, y, batch_size=len(x), verbose=0).history
        return np.array(
            [logs["loss"][0], model.evaluate(x, y, verbose=0, return_dict=True)["loss"]]
        )

    def constant(outputs):
        return penalty + 0 * ops.sum(outputs)

    added = losses_of(constant) - losses_of(None)
    np.testing.assert_allclose(added, penalty / len(x), rtol=1e-4)


class OfAll(krl.methods.Method):
    """The loss of the images that `chosen` takes of all."""

    chosen = slice(None)

    def loss(self, targets, logits, criterion):
        return criterion(targets, logits["adversarial"])[self.chosen]


def test_a_method_with_a_value_for_some_images_only(images):
    method = OfAll()
    model = tiny_model(method=method, beta=0)
    model.fit(*images, **FIT)
    method.chosen = slice(2)
    with pytest.raises(Exception, match="must give one value for each example"):
        eager_model(method=method, beta=0).fit(*images, **FIT)


@pytest.mark.parametrize("inputs", [("adversarial"), ("robust",), ()])
def test_images_that_a_method_may_ask_for(inputs):
    method = OfAll()
    method.inputs = inputs
    with pytest.raises(ValueError, match="`inputs` of .* must be a tuple"):
        tiny_model(method=method)


class OfClean(krl.methods.Method):
    def loss(self, targets, logits, criterion):
        return criterion(targets, logits["clean"])


def test_a_method_that_looks_at_more_than_its_inputs(images):
    with pytest.raises(ValueError, match="`inputs` of a method must .* add 'clean'"):
        eager_model(method=OfClean(), beta=0).fit(*images, **FIT)


def test_a_loss_that_returns_nothing(images):
    model = tiny_model(beta=0)
    model.compile("sgd", loss=lambda targets, logits: None, run_eagerly=True)
    with pytest.raises(ValueError, match="`loss` must give one value.* None"):
        model.fit(*images, **FIT)
