"""The losses and training steps of the authors' implementation, method by method."""

import keras
import numpy as np
import pytest
from tiny_cnn import group, named_variables, tiny_cnn
from tiny_models import tiny_model

import keras_robustlt as krl
from keras_robustlt import backend


@pytest.fixture(autouse=True)
def loop_on_jax(monkeypatch):
    """Loops on JAX too, which compiles an unrolled attack for long."""
    if keras.backend.backend() == "jax":
        monkeypatch.setattr(backend, "control_flow_is_slow", lambda: False)


def built(method, arrays):
    """The method in a model of the classes that the arrays have."""
    counts = arrays["counts"]
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(len(counts))])
    return tiny_model(network, counts, method=method).method


def value_and_gradient(function, x):
    x = keras.ops.convert_to_tensor(x)
    mean = lambda z: keras.ops.mean(function(z))  # noqa: E731
    return mean(x), backend.gradient(mean, x)


@pytest.mark.parametrize("prefix", ["robal", "robal_nomargin", "robal_smooth"])
def test_robal(golden, prefix):
    arrays = golden("losses")
    hyper = {
        key: float(arrays[f"{prefix}.{key}"]) for key in ("tau_b", "tau_m", "beta")
    }
    method = krl.methods.RoBal(
        margin=float(arrays[f"{prefix}.m"]),
        scale=float(arrays[f"{prefix}.s"]),
        beta_adversarial=float(arrays[f"{prefix}.beta_adv"]),
        label_smoothing=float(arrays.get(f"{prefix}.label_smoothing", 0.0)),
        **hyper,
    )
    method = built(method, arrays)
    targets = krl.losses.one_hot(arrays["labels"], int(arrays["num_classes"]))
    images = {
        "adversarial": keras.ops.convert_to_tensor(arrays["robal.logits_adv"]),
        "clean": keras.ops.convert_to_tensor(arrays["robal.logits_nat"]),
    }
    for name, suffix in (("adversarial", "adv"), ("clean", "nat")):

        def loss(z, name=name):
            logits = {**images, name: z}
            return method.loss(targets, logits, krl.losses.cross_entropy)

        value, gradient = value_and_gradient(loss, images[name])
        if prefix == "robal_nomargin":
            # The reference scales the logits in place there, by accident.
            expected = arrays[f"{prefix}.total_unmutated64"]
            np.testing.assert_allclose(value, expected, 1e-5)
        else:
            np.testing.assert_allclose(value, arrays[f"{prefix}.total64"], 1e-5)
            expected = arrays[f"{prefix}.grad_logits_{suffix}"]
            np.testing.assert_allclose(gradient, expected, atol=1e-5)


def test_reat_attack_loss(golden):
    arrays = golden("losses")
    method = built("reat", arrays)
    targets = krl.losses.one_hot(arrays["labels"], int(arrays["num_classes"]))
    for row, counts in enumerate(arrays["reat.at_counts"]):
        counts = keras.ops.cast(counts, "float32")
        weights = method.attack_weights(counts)
        np.testing.assert_allclose(weights, arrays["reat.rbl_weights64"][row], 2e-6)
        method.last_predictions.assign(counts)
        # The reference divides by the weights of the batch; the attack takes the sign.
        batch = keras.ops.mean(keras.ops.matmul(targets, weights[:, None]))

        def loss(z, batch=batch):
            return method.attack_loss(targets, z) / batch

        value, gradient = value_and_gradient(loss, arrays["logits_adv"])
        np.testing.assert_allclose(value, arrays["reat.rbl_loss64"][row], 1e-5)
        expected = arrays["reat.rbl_grad_logits"][row]
        np.testing.assert_allclose(gradient, expected, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("prefix", ["reat", "reat_no_tail"])
def test_reat_loss(golden, prefix):
    arrays = golden("losses")
    method = built("reat", arrays)
    labels = arrays["labels" if prefix == "reat" else "labels_no_tail"]
    targets = krl.losses.one_hot(labels, int(arrays["num_classes"]))
    np.testing.assert_array_equal(
        np.flatnonzero(method._is_tail), arrays["reat.tail_classes"]
    )
    parts = {
        "adversarial": keras.ops.convert_to_tensor(arrays["logits_adv"]),
        "adversarial_features": keras.ops.convert_to_tensor(arrays["features_adv"]),
    }
    for name, suffix in (("", "logits_adv"), ("_features", "features_adv")):

        def loss(z, name=name):
            outputs = {**parts, f"adversarial{name}": z}
            return method.loss(targets, outputs, krl.losses.cross_entropy)

        value, gradient = value_and_gradient(loss, arrays[suffix])
        np.testing.assert_allclose(value, arrays[f"{prefix}.total"], 1e-5)
        expected = arrays[f"{prefix}.grad_{suffix}"]
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
    np.testing.assert_allclose(
        method.repulsion(targets, parts["adversarial_features"]),
        arrays[f"{prefix}.tail64"],
        1e-5,
        1e-7,
    )


def test_taet(golden):
    arrays = golden("losses")
    targets = krl.losses.one_hot(arrays["labels"], int(arrays["num_classes"]))
    for case in range(len(arrays["taet.alpha"])):
        hyper = {
            key: float(arrays[f"taet.{key}"][case])
            for key in ("alpha", "beta", "gamma")
        }
        ce_epochs = int(arrays["taet.ce_epochs"])
        method = built(krl.methods.TAET(ce_epochs, **hyper), arrays)

        def loss(z, method=method):
            logits = {"adversarial": z}
            return method.loss(targets, logits, krl.losses.cross_entropy)

        method._schedule.begin_epoch(ce_epochs - 1)
        value, gradient = value_and_gradient(loss, arrays["logits_adv"])
        np.testing.assert_allclose(value, arrays["taet.stage2_loss"][case], 1e-5)
        expected = arrays["taet.stage2_grad_logits_adv"][case]
        np.testing.assert_allclose(gradient, expected, atol=1e-6)
        method._schedule.begin_epoch(ce_epochs - 2)
        value, gradient = value_and_gradient(loss, arrays["logits_nat"])
        np.testing.assert_allclose(value, arrays["taet.stage1_loss"], 1e-5)
        expected = arrays["taet.stage1_grad_logits_nat"]
        np.testing.assert_allclose(gradient, expected, atol=1e-6)


def scenario_method(arrays, scenario):
    hyper = group(arrays, f"{scenario}.hp.")
    hyper = {key: float(value) for key, value in hyper.items()}
    kind = scenario.partition("_")[0]
    if kind == "pgdat":
        return krl.methods.AT(hyper["label_smoothing"])
    if kind == "atbsl":
        return krl.methods.ATBSL(hyper["tau_b"])
    if kind == "awp":
        return krl.methods.AWP("at", hyper["awp_gamma"], hyper["awp_warmup"])
    if kind == "robal":
        return krl.methods.RoBal(
            hyper["m"],
            hyper["s"],
            hyper["tau_b"],
            hyper["tau_m"],
            hyper["beta"],
            hyper["beta_adv"],
        )
    if kind == "taet":
        return krl.methods.TAET(**hyper)
    return krl.methods.REAT()


def scenario_model(arrays, scenario, batchnorm_statistics):
    """The model of a scenario, at its epoch, ready for `train_on_batch`."""
    head = None
    if arrays[f"{scenario}.head"] == "cosplus":
        head = krl.layers.CosPlusClassifier(
            len(arrays["counts"]),
            scale=float(arrays[f"{scenario}.head_scale"]),
            gamma=float(arrays[f"{scenario}.head_gamma"]),
            eta=float(arrays[f"{scenario}.head_eta"]),
            name="head",
        )
    epsilon = float(arrays["epsilon"])
    model = krl.RobustLTModel(
        tiny_cnn(group(arrays, f"{scenario}.init."), head=head),
        arrays["counts"],
        epsilon=epsilon,
        alpha=float(arrays["alpha"]),
        beta=float(arrays["beta"]),
        method=scenario_method(arrays, scenario),
        attack=krl.attacks.PGD(
            epsilon, int(arrays["num_steps"]), float(arrays["step_size"])
        ),
        batchnorm_statistics=batchnorm_statistics,
        total_epochs=int(arrays["num_epochs"]),
    )
    model.compile(
        krl.optimizers.SGD(
            float(arrays["learning_rate"]),
            momentum=float(arrays["momentum"]),
            nesterov=bool(arrays["nesterov"]),
            weight_decay=float(arrays["weight_decay"]),
        )
    )
    model.schedule.start(int(arrays["num_epochs"]))
    model.schedule.begin_epoch(int(arrays[f"{scenario}.epoch"]) - 1)
    if f"{scenario}.at_counts_before" in arrays:
        model.method.last_predictions.assign(arrays[f"{scenario}.at_counts_before"])
    return model


def steps_of(arrays, scenario):
    """The choice of arrays that comes with the repository has one of the two steps."""
    return [k for k in (1, 2) if f"{scenario}.step{k}.loss" in arrays]


def slow(*values):
    """The others are enough where each is compiled for many seconds."""
    return pytest.param(*values, marks=pytest.mark.slow_on_jax)


def slower(*values):
    """Each of these has a near relative among the others."""
    return pytest.param(*values, marks=pytest.mark.slow)


# The scenario, the setting, and which of the reference's passes through the network
# then are those that move our moving statistics.
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("scenario", "statistics", "passes"),
    [
        # The reference's pgdat makes no clean pass before the update to compare with.
        slower("pgdat", "adversarial", ["loss1:adv"]),
        slow("atbsl", "adversarial", ["loss1:adv"]),
        slower("atbsl", "mixed", ["loss1:adv", "loss1:clean"]),
        slower("robal", "adversarial", ["loss1:adv"]),
        ("robal", "mixed", ["loss1:adv", "loss1:clean"]),
        slower("reat", "adversarial", ["loss1:adv"]),
        slow("reat_mid", "adversarial", ["loss1:adv"]),
        slow("taet", "adversarial", ["loss1:adv"]),
        slower("taet_stage1", "adversarial", ["loss1:clean"]),
        ("awp", "adversarial", ["loss2:adv"]),
        slower("awp_warmup", "adversarial", ["loss2:adv"]),
    ],
)
def test_two_training_steps(golden, monkeypatch, scenario, statistics, passes):
    arrays = golden("train_step")
    model = scenario_model(arrays, scenario, statistics)
    variables = named_variables(model.network)
    counted = np.zeros(model.num_classes)
    for k in steps_of(arrays, scenario):
        step = group(arrays, f"{scenario}.step{k}.")
        np.testing.assert_allclose(
            model.budget.class_epsilon(model.schedule), step["class_epsilon"], 2e-6
        )
        # The random start is the only thing handed in.
        monkeypatch.setattr(
            model.attack, "starting_point", lambda x, *_, k=step: k.get("x0", x)
        )
        model.train_function = None
        before = {name: keras.ops.copy(v) for name, v in variables.items()}
        x, y = step["x"], step["y"]

        def craft(x, y):
            return model.training_batch((x, y))[0]["adversarial"]

        x_adv = backend.compiled(craft, model.variables)(x, y)
        assert fraction_off(x_adv, step["x_adv"]) <= 0.01
        with monkeypatch.context() as patch:
            if scenario.startswith("reat"):
                # The reference's class weights, of float32 powers, are off by up to
                # 1e-4, which turns the signs of a few gradients.
                patch.setattr(model, "_perturbed", lambda *_, k=step: k["x_adv"])
            logs = model.train_on_batch(x, y, return_dict=True)
        model.reset_metrics()
        np.testing.assert_allclose(logs["loss"], step["loss"], 5e-6, 5e-6)
        for name, variable in variables.items():
            if "moving" not in name:
                np.testing.assert_allclose(
                    variable, step[f"after.{name}"], atol=5e-6, err_msg=name
                )
        for bn in ("bn1", "bn2"):
            mean = np.asarray(before[f"{bn}_moving_mean"])
            variance = np.asarray(before[f"{bn}_moving_variance"])
            n = float(step[f"bn_pass_size.{bn}"])
            for name in passes:
                index = list(step["bn_passes"]).index(name)
                batch = step[f"bn_pass_variance.{bn}"][index] * n / (n - 1)
                mean = 0.9 * mean + 0.1 * step[f"bn_pass_mean.{bn}"][index]
                variance = 0.9 * variance + 0.1 * batch
            np.testing.assert_allclose(variables[f"{bn}_moving_mean"], mean, atol=5e-6)
            np.testing.assert_allclose(
                variables[f"{bn}_moving_variance"], variance, 1e-5
            )
        if "next_at_counts" in step:
            # The reference counts what the updated network says of the same images.
            logits = backend.frozen(model.network)(step["x_adv"], training=True)
            counted += np.bincount(np.argmax(logits, axis=-1), minlength=len(counted))
            if scenario == "reat_mid":
                np.testing.assert_array_equal(counted, step["next_at_counts"])
            assert float(keras.ops.sum(model.method.predictions)) == k * len(y)


def fraction_off(actual, expected, tolerance=1e-5):
    difference = np.abs(keras.ops.convert_to_numpy(actual) - expected)
    return np.mean(difference > tolerance)
