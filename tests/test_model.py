import itertools
import unittest.mock
import warnings

import keras
import numpy as np
import pytest
from tiny_models import (
    COUNTS,
    FIT,
    ONE_EPOCH,
    conv_network,
    dense_network,
    eager_model,
    threshold_network,
    tiny_model,
    trained,
    trainer,
    weights_of,
)

import keras_robustlt as krl
from keras_robustlt import backend, fit_arguments
from keras_robustlt.callbacks.training_watch import TrainingWatch

# Labels, weights and forms of data


@pytest.mark.usefixtures("eagerly")
def test_all_forms_of_labels_give_the_same_training(images, same_network):
    x, y = images
    expected = trained(images, tiny_model(same_network()))
    for labels in (y[:, None].astype("uint8"), np.eye(3)[y], y.astype("float32")):
        model = tiny_model(same_network())
        np.testing.assert_allclose(trained((x, labels), model), expected, atol=1e-6)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.tensorflow
def test_datasets_train_as_arrays_do(images):
    import tensorflow as tf

    model = tiny_model()
    train = trainer(model)
    expected = train(images)
    dataset = tf.data.Dataset.from_tensor_slices(images).batch(4)
    actual = train((dataset, None), batch_size=None, validation_data=dataset)
    np.testing.assert_allclose(actual, expected, atol=1e-6)
    history = model.history.history
    assert len(history["val_robust_accuracy"]) == 2
    logs = model.evaluate(dataset, verbose=0, return_dict=True)
    assert logs["clean_accuracy"] == history["val_clean_accuracy"][-1]


def test_an_example_of_weight_zero_is_ignored(images):
    x, y = images
    weight = np.ones(12)
    weight[5] = 0
    other_x, other_y = x.copy(), y.copy()
    other_x[5], other_y[5] = 1 - x[5], (y[5] + 1) % 3

    train = trainer(tiny_model(beta=0))
    first = train(images, sample_weight=weight)
    second = train((other_x, other_y), sample_weight=weight)
    np.testing.assert_allclose(first, second, atol=1e-6)
    assert abs(first - train(images, sample_weight=np.ones(12))).max() > 1e-3


@pytest.mark.usefixtures("eagerly")
def test_sample_weight_multiplies_the_loss_and_counts_in_the_accuracy(images):
    x, y = images
    model = tiny_model(optimizer=keras.optimizers.SGD(0.0), method="standard")
    losses = krl.losses.cross_entropy(np.eye(3)[y], model.predict(x, verbose=0))
    weight = np.arange(12.0)
    logs = model.evaluate(x, y, 12, sample_weight=weight, verbose=0, return_dict=True)
    hits = model.predict(x, verbose=0).argmax(axis=1) == y
    assert float(logs["clean_accuracy"]) == pytest.approx(
        np.average(hits, weights=weight)
    )
    history = model.fit(x, y, 12, verbose=0, sample_weight=weight)
    expected = np.mean(weight * keras.ops.convert_to_numpy(losses))
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-5)


def test_vectors_are_images_too():
    rng = np.random.default_rng(0)
    x = rng.random((20, 5), "float32")
    y = (x[:, 0] > 0.5).astype(int)
    model = tiny_model(dense_network(2, (5,)), [12, 8], method="at_bsl", epsilon=0.02)
    model.compile(krl.optimizers.SGD(1.0, momentum=0.9))
    history = model.fit(x, y, epochs=15, batch_size=10, verbose=0)
    assert history.history["loss"][-1] < 0.7 * history.history["loss"][0]


# Loss and metrics


def trained_with(loss, images, network):
    """The weights after a short training, on clean images for they do not matter."""
    model = tiny_model(network, method="standard")
    model.compile(krl.optimizers.SGD(0.1), loss=loss, run_eagerly=True)
    return trained(images, model, epochs=1)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.slow_on_jax
def test_the_loss_as_a_name_an_object_and_a_function(images, same_network):
    expected = trained_with(None, images, same_network())
    for loss in (
        "categorical_crossentropy",
        "sparse_categorical_crossentropy",
        keras.losses.CategoricalCrossentropy(from_logits=True),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        krl.losses.cross_entropy,
    ):
        weights = trained_with(loss, images, same_network())
        np.testing.assert_allclose(weights, expected, atol=1e-6)


@pytest.mark.usefixtures("eagerly")
@pytest.mark.slow_on_jax
def test_another_loss_is_another_training(images, same_network):
    expected = trained_with(None, images, same_network())
    for loss in (
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.5),
        "categorical_focal_crossentropy",
        lambda targets, logits: keras.ops.sum((targets - logits) ** 2, axis=-1),
    ):
        weights = trained_with(loss, images, same_network())
        assert np.all(np.isfinite(weights))
        assert abs(weights - expected).max() > 1e-3


@ONE_EPOCH
@pytest.mark.usefixtures("eagerly")
def test_the_loss_goes_through_the_method(images):
    x, y = images
    model = tiny_model(method="at_bsl", optimizer=keras.optimizers.SGD(0.0))

    def squared(targets, logits):
        return keras.ops.sum((targets - logits) ** 2, axis=-1)

    model.compile(keras.optimizers.SGD(0.0), loss=squared)
    # With beta above 0 the first epoch trains on clean images.
    history = model.fit(x, y, 12, verbose=0)
    shifted = model.predict(x, verbose=0) + np.log(COUNTS)
    expected = np.mean(np.sum((np.eye(3)[y] - shifted) ** 2, axis=1))
    assert history.history["loss"][0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    "loss",
    [
        keras.losses.CategoricalCrossentropy(),
        keras.losses.SparseCategoricalCrossentropy(),
        "binary_crossentropy",
        keras.losses.categorical_crossentropy,
    ],
)
def test_loss_of_probabilities(loss):
    with pytest.raises(ValueError, match=r"Crossentropy\(from_logits=True\)"):
        tiny_model().compile(loss=loss)


@ONE_EPOCH
def test_a_loss_with_more_than_a_value_for_each_example(images):
    model = tiny_model()
    model.compile("sgd", loss=lambda targets, logits: (targets - logits) ** 2)
    with pytest.raises(ValueError, match=r"one value for each.*shape \(.*, 3\)"):
        model.fit(*images, **FIT)


@pytest.mark.slow_on_jax
def test_label_smoothing_of_the_method(images, same_network):
    smooth = krl.methods.AT(label_smoothing=0.5)
    model = eager_model(same_network(), method=smooth, beta=0)
    expected = trained(images, model, epochs=1)
    model = tiny_model(same_network(), beta=0)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.5)
    model.compile(krl.optimizers.SGD(0.1), loss=loss, run_eagerly=True)
    np.testing.assert_allclose(trained(images, model, epochs=1), expected, atol=1e-6)


@ONE_EPOCH
def test_label_smoothing_and_a_loss_that_does_not_smooth(images):
    model = tiny_model(method=krl.methods.AT(label_smoothing=0.5))
    model.compile("sgd", loss="categorical_hinge")
    with pytest.raises(ValueError, match="`label_smoothing` of a method"):
        model.fit(*images, **FIT)


@pytest.mark.slow_on_jax
@ONE_EPOCH
def test_metrics_as_names_and_as_objects(images):
    x, y = images
    model = tiny_model()
    top2 = keras.metrics.SparseTopKCategoricalAccuracy(2, name="top2")
    model.compile("sgd", metrics=["accuracy", top2], run_eagerly=True)
    history = model.fit(x, y, epochs=1, validation_data=images, **FIT).history
    # What the metrics see: the images trained on in `fit`, clean ones in `evaluate`.
    assert history["accuracy"] == history["adversarial_accuracy"]
    assert history["val_accuracy"] == history["val_clean_accuracy"]
    assert 0 <= history["top2"][0] <= 1
    logits = model.predict(x, verbose=0)
    rank = np.sum(logits > logits[np.arange(12), y][:, None], axis=1)
    assert history["val_top2"][0] == pytest.approx(np.mean(rank < 2))


@ONE_EPOCH
@pytest.mark.parametrize(
    "rows, metric, others",
    [
        (False, "categorical_accuracy", "integer here.*one-hot"),
        (False, keras.metrics.F1Score(), "integer here.*one-hot"),
        (True, "sparse_categorical_accuracy", "one-hot here.*integer"),
    ],
)
def test_metrics_of_keras_that_take_other_labels_are_refused(
    images, rows, metric, others
):
    x, y = images
    model = tiny_model()
    model.compile("sgd", metrics=["accuracy", metric])
    with pytest.raises(ValueError, match=f"`metrics`.*{others}"):
        model.fit(x, keras.utils.to_categorical(y, 3) if rows else y, **FIT)


PURPOSES = ("start", "evaluation", "augmentation")
EVALUATION = {
    f"{kind}_{which}accuracy"
    for kind in ("clean", "robust")
    for which in ("", "tail_", "balanced_", "worst_")
} | {"loss"}


@ONE_EPOCH
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        ({}, {"adversarial_accuracy"}),
        ({"weighting": "loss"}, {"adversarial_accuracy", "clean_accuracy"}),
        (
            {"batchnorm_statistics": "mixed"},
            {"adversarial_accuracy", "clean_accuracy"},
        ),
        ({"method": "standard"}, {"clean_accuracy"}),
    ],
)
def test_names_in_the_logs(images, arguments, names):
    x, y = images
    model = eager_model(**arguments)
    history = model.fit(x, y, epochs=1, validation_data=images, **FIT).history
    validation = {f"val_{name}" for name in EVALUATION}
    assert set(history) == names | {"loss"} | validation
    logs = model.evaluate(x, y, verbose=0, return_dict=True)
    assert set(logs) == EVALUATION


@pytest.mark.usefixtures("eagerly")
def test_evaluation_in_closed_form():
    # Bright pixels are class 0; right under attack where the margin exceeds 0.1.
    attack = krl.attacks.PGD(0.1, steps=8, step_size=0.05)
    model = tiny_model(threshold_network(0.5), [5, 4], evaluation_attack=attack)
    x = np.array([[0.9], [0.7], [0.55], [0.45], [0.05], [0.42], [0.58]], "float32")
    y = np.array([0, 0, 0, 0, 1, 1, 1])
    for size in (7, 3):
        logs = model.evaluate(x, y, batch_size=size, verbose=0, return_dict=True)
        assert float(logs["clean_accuracy"]) == pytest.approx(5 / 7)
        assert float(logs["clean_balanced_accuracy"]) == pytest.approx(
            (3 / 4 + 2 / 3) / 2
        )
        assert float(logs["robust_accuracy"]) == pytest.approx(3 / 7)
        assert float(logs["robust_balanced_accuracy"]) == pytest.approx(
            (2 / 4 + 1 / 3) / 2
        )
        assert float(logs["robust_tail_accuracy"]) == pytest.approx(1 / 3)


@pytest.mark.usefixtures("eagerly")
def test_adversarial_accuracy_is_that_of_the_images_trained_on():
    model = tiny_model(
        threshold_network(0.5),
        [5, 4],
        optimizer=keras.optimizers.SGD(0.0),
        alpha=0,
        beta=0,
        attack=krl.attacks.FGSM(0.1),
    )
    x = np.array([[0.9], [0.55], [0.05], [0.42]], "float32")
    history = model.fit(x, np.array([0, 0, 1, 1]), verbose=0).history
    assert history["adversarial_accuracy"] == [0.5]


# The schedule


def test_first_epoch_of_the_growing_budget_is_ordinary_training(images, same_network):
    adversarial = trainer(tiny_model(same_network(), total_epochs=4))
    standard = trainer(tiny_model(same_network(), method="standard"))
    np.testing.assert_allclose(
        adversarial(images, epochs=1), standard(images, epochs=1), atol=1e-6
    )
    # The second is not.
    assert abs(adversarial(images) - standard(images)).max() > 1e-4


def test_images_of_each_epoch_are_within_their_budget(images):
    x, y = images
    model = tiny_model()
    budget = krl.budget.classwise_epsilon(COUNTS, 0.1, 0.3)[y]
    model.schedule.start(4)
    for epoch in range(4):
        model.schedule.begin_epoch(epoch)
        batch, _, _ = model.training_batch((x, y))
        assert set(batch) == {"clean", "adversarial", "moved"}
        moved = abs(np.subtract(batch["adversarial"], x)).max(axis=(1, 2, 3))
        weight = krl.budget.iteration_weight(epoch + 1, 4, 0.8)
        assert np.all(moved <= weight * budget + 1e-6)
        assert np.all(moved >= 0.5 * weight * budget)


def weights_of_epochs(model, images, **fit_arguments):
    inspector = krl.callbacks.ScheduleInspector()
    arguments = {"x": images[0], "y": images[1], **FIT, **fit_arguments}
    history = model.fit(callbacks=[inspector], **arguments)
    return history.history["iteration_weight"]


def test_fit_knows_how_long_it_trains(images):
    expected = krl.budget.iteration_weight(np.arange(1, 6), 5, 0.8)
    model = tiny_model()
    assert weights_of_epochs(model, images, epochs=5) == pytest.approx(expected)
    # Another fit is another training, from its beginning.
    again = weights_of_epochs(model, images, epochs=5)
    assert again == pytest.approx(expected)
    later = weights_of_epochs(model, images, epochs=5, initial_epoch=3)
    assert later == pytest.approx(expected[3:])
    longer = weights_of_epochs(tiny_model(total_epochs=10), images, epochs=3)
    assert longer == pytest.approx([0, 0.125, 0.25])


@pytest.mark.usefixtures("eagerly")
def test_step_granularity_counts_the_steps(images):
    model = tiny_model(granularity="step")
    actual = weights_of_epochs(model, images, epochs=2)
    # Of each epoch's last step: 3 and 6 of 6.
    assert actual == pytest.approx([2 / 4.8, 1])
    assert int(model.schedule.step) == 3


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({}, 1),
        ({"weighting": "loss"}, 1),
        ({"granularity": "step"}, 1),
        ({"method": krl.methods.TAET(ce_epochs=4)}, 3),
    ],
)
def test_training_without_any_attack(images, arguments, epochs):
    x, y = images
    model = eager_model(**arguments)
    with pytest.warns(UserWarning, match="no attack.*total_epochs=.*initial_epoch="):
        model.fit(x, y, batch_size=12, epochs=epochs, verbose=0)


# What begins in some epoch; the longest training that ends before, and a longer one.
LATE = [
    ({"method": krl.methods.CGR(start=4)}, 4, 5),
    ({"method": krl.methods.CGR(start=0)}, 1, 2),
    ({"method": krl.methods.AWP("cgr", warmup_epochs=3)}, 10, 11),
    ({"method": krl.methods.AWP(warmup_epochs=3)}, 3, 4),
    ({"method": "nuat", "attack": krl.attacks.FGSM(0.1)}, 1, 2),
    ({"budget": krl.budget.CFA(start=0.41)}, 1, 2),
    ({"budget": krl.budget.CFA(start=1.0)}, 100, None),
    ({"budget": krl.budget.DAFA(start=0.81)}, 5, 6),
    ({"averaging": krl.averaging.FAWA(start=1.0)}, 100, None),
]


@pytest.mark.parametrize("restarts", [1, 2])
def test_evaluation_of_images_that_cannot_be_moved(images, restarts):
    """Logits so far apart that the cross-entropy has no gradient in float32."""
    x, _ = images
    network = dense_network()
    y = network.predict(x, verbose=0).argmax(axis=1)
    attack = krl.attacks.PGD(0.1, 3, restarts=restarts)
    model = tiny_model(network, method="standard", evaluation_attack=attack)

    def warned():
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            results = model.evaluate(x, y, verbose=0, return_dict=True)
        said = [str(each.message) for each in caught]
        return results["robust_accuracy"], any("no gradient" in text for text in said)

    assert warned()[1] is False
    network.set_weights([1e5 * weight for weight in network.get_weights()])
    # Of several runs it is not known where they began.
    robust, said = warned()
    assert robust > 0.8 and said == (restarts == 1)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(("arguments", "too_short", "longer"), LATE)
def test_what_begins_after_training_says_so(arguments, too_short, longer):
    model = tiny_model(**arguments, **({} if "budget" in arguments else {"beta": 0}))

    def says_so(epochs):
        model.schedule.start(model.total_epochs or epochs, 3)
        watch = TrainingWatch()
        watch.set_model(model)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            watch.on_train_begin()
        said = [str(each.message) for each in caught]
        return [text for text in said if "does not do its part" in text]

    (text,) = says_so(too_short)
    assert "total_epochs=" in text and "initial_epoch=" in text
    assert longer is None or not says_so(longer)
    model.total_epochs = longer  # of which `fit` is a part
    assert longer is None or not says_so(too_short)


@pytest.mark.slow_on_jax
@pytest.mark.parametrize(
    ("arguments", "epochs"),
    [
        ({"beta": 0}, 1),
        ({"granularity": "step"}, 1),
        ({"total_epochs": 2}, 1),
        ({"method": "standard"}, 1),
        ({"method": krl.methods.TAET(ce_epochs=2)}, 3),
        ({"method": krl.methods.TAET(ce_epochs=4), "total_epochs": 5}, 2),
        ({"budget": "cfa"}, 2),
        ({"budget": "dafa"}, 3),
    ],
)
def test_first_epochs_of_a_longer_training_and_training_without_attack(
    images, arguments, epochs
):
    x, y = images  # a warning would be an error
    model = eager_model(**arguments)
    model.fit(x, y, batch_size=6, epochs=epochs, verbose=0)
    assert int(model.schedule.epoch) == epochs - 1


class Rounding(keras.layers.Layer):
    def call(self, x):
        return keras.ops.round(8 * x) / 8


@pytest.mark.usefixtures("eagerly")
@pytest.mark.filterwarnings("ignore:.* of the images count for `robust_accuracy`")
@pytest.mark.filterwarnings("ignore:The attack has left all")
def test_a_layer_that_cuts_the_gradient(images):
    x, y = images
    network = keras.Sequential([keras.Input((6, 6, 3)), Rounding(), dense_network()])
    for validation in (None, images):
        model = eager_model(network)
        with pytest.warns(UserWarning, match="hardly any of 12 images.*rounding"):
            # Of the first epoch with a budget, once.
            model.fit(x, y, 12, epochs=3, validation_data=validation, verbose=0)


def test_which_images_the_attack_moves(images):
    x, y = images
    model = tiny_model(alpha=1, class_counts=(8, 4, 4), beta=0)
    model.network.layers[-1].kernel.assign(np.zeros((108, 3)))
    batch, _, _ = model.training_batch((x, y))
    # The largest class has no budget with alpha=1.
    np.testing.assert_array_equal(batch["moved"], np.where(y == 0, -1, 0))
    model = tiny_model(alpha=1, class_counts=(8, 4, 4), beta=0)
    batch, _, _ = model.training_batch((x, y))
    np.testing.assert_array_equal(batch["moved"], np.where(y == 0, -1, 1))


# Batches by hand


def test_train_on_batch_and_test_on_batch(images, same_network):
    x, y = images
    model = tiny_model(same_network(), beta=0)
    expected = trained(images, tiny_model(same_network(), beta=0), epochs=1)
    for batch in (slice(0, 4), slice(4, 8), slice(8, 12)):
        logs = model.train_on_batch(x[batch], y[batch], return_dict=True)
    assert set(logs) == {"loss", "adversarial_accuracy"}
    np.testing.assert_allclose(weights_of(model), expected, atol=1e-6)
    expected = model.evaluate(x, y, batch_size=12, verbose=0, return_dict=True)
    assert set(expected) == EVALUATION
    assert model.test_on_batch(x, y, return_dict=True) == expected
    assert sorted(model.test_on_batch(x, y)) == sorted(expected.values())
    # Neither knows of the other: the first of all test steps may be by hand.
    other = tiny_model(model.network, beta=0)
    assert other.test_on_batch(x, y, return_dict=True) == expected
    logs = model.train_on_batch(x, y, return_dict=True)
    assert set(logs) == {"loss", "adversarial_accuracy"}
    np.testing.assert_allclose(model.predict_on_batch(x), model(x), 1e-5, 1e-6)


@pytest.mark.usefixtures("eagerly")
def test_batches_by_hand_are_looked_at(images):
    x, y = images
    model = tiny_model(beta=0)
    for use in (model.train_on_batch, model.test_on_batch):
        with pytest.raises(ValueError, match="divide x by 255"):
            use(255 * x, y)
        with pytest.raises(ValueError, match="Received labels from 0 to 7"):
            use(keras.ops.convert_to_tensor(x), keras.ops.convert_to_tensor(y % 2 * 7))


@pytest.mark.slow_on_jax
def test_train_on_batch_needs_to_know_the_schedule(images):
    for arguments in (
        {},
        {"weighting": "loss"},
        {"granularity": "step"},
        {"method": krl.methods.TAET(ce_epochs=2), "beta": 0},
        {"budget": "cfa"},
    ):
        model = eager_model(**arguments)
        with pytest.raises(ValueError, match=r"model.schedule.start\(epochs, steps"):
            model.train_on_batch(*images)
        model.schedule.start(2, steps_per_epoch=3)
        logs = model.train_on_batch(*images, return_dict=True)
        assert np.isfinite(logs["loss"])


def test_train_on_batch_is_told_of_each_epoch(images):
    model = eager_model()
    model.schedule.start(2, steps_per_epoch=1)
    model.train_on_batch(*images)
    with pytest.raises(ValueError, match=r"model.schedule.begin_epoch\(1\)"):
        model.train_on_batch(*images)
    model.schedule.begin_epoch(1)  # the last one may be as long as one likes
    for _ in range(2):
        model.train_on_batch(*images)
    model.schedule.begin_epoch(2)
    with pytest.raises(ValueError, match="epoch 2 of 2, which are counted from 0"):
        model.train_on_batch(*images)


def test_another_fit_is_another_training(images):
    model = eager_model()
    for _ in range(3):
        model.fit(*images, epochs=2, **FIT)
    with pytest.warns(UserWarning, match="training of its own.*total_epochs"):
        model.fit(*images, epochs=2, **FIT)


def test_predict_gives_the_logits_of_the_network(images):
    model = tiny_model()
    expected = model.network.predict(images[0], verbose=0)
    np.testing.assert_allclose(model.predict(images[0], verbose=0), expected, 1e-6)
    np.testing.assert_allclose(model(images[0]), expected, 1e-5, 1e-6)


# Precision


def test_mixed_bfloat16_trains(images):
    keras.config.set_dtype_policy("mixed_bfloat16")
    x, y = images
    model = tiny_model(conv_network(), epsilon=0.02)
    assert not isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    arguments = {"validation_data": images, "validation_freq": 12, **FIT}
    history = model.fit(x, y, epochs=12, **arguments).history
    assert np.all(np.isfinite(weights_of(model)))
    assert history["loss"][-1] < 0.8 * history["loss"][0]
    assert np.isfinite(history["val_loss"][-1])


def test_attacks_on_float16_networks_that_are_sure(images):
    # The gradient of the cross-entropy of logits 40 apart is beyond float16.
    keras.config.set_dtype_policy("mixed_float16")
    x, y = images
    model = tiny_model(dense_network(), beta=0)
    model.network.layers[-1].bias.assign([20.0, -20.0, -20.0])
    batch, _, _ = model.training_batch((x, 0 * y))
    np.testing.assert_array_equal(batch["moved"], np.ones(12))


def test_mixed_float16_scales_the_loss(images):
    keras.config.set_dtype_policy("mixed_float16")
    x, y = images
    model = tiny_model(epsilon=0.02)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    before = weights_of(model)
    history = model.fit(x, y, epochs=8, **FIT).history
    assert history["loss"][-1] < history["loss"][0]
    assert np.all(np.isfinite(weights_of(model)))
    assert abs(weights_of(model) - before).max() > 1e-3
    # One scaling, also where the user has chosen it.
    model.compile(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1)))
    inner = model.optimizer.inner_optimizer
    assert not isinstance(inner, keras.optimizers.LossScaleOptimizer)


# Networks


@pytest.mark.usefixtures("eagerly")
def test_regularisation_of_the_network_is_part_of_the_loss(images):
    x, y = images

    def loss(regularizer):
        network = dense_network()
        network.layers[-1].kernel_regularizer = regularizer
        network.layers[-1].kernel.regularizer = regularizer
        network.set_weights([np.full((108, 3), 0.5), np.zeros(3)])
        model = tiny_model(network, beta=0)
        return model.train_on_batch(x, y, return_dict=True)["loss"]

    # 0.01 times the sum of 324 squares of 0.5.
    difference = loss(keras.regularizers.L2(0.01)) - loss(None)
    assert difference == pytest.approx(0.81, rel=1e-4)


def test_dropout(images):
    x, y = images
    network = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5, seed=1),
            keras.layers.Dense(3),
        ]
    )
    model = tiny_model(network, epsilon=0.02, beta=0)
    generator = network.layers[1].seed_generator.state
    before = keras.ops.convert_to_numpy(generator).copy()
    history = model.fit(x, y, epochs=6, **FIT).history
    assert np.all(np.isfinite(history["loss"]))
    # The masks change from step to step: the attack did not freeze them for good.
    assert np.any(keras.ops.convert_to_numpy(generator) != before)
    np.testing.assert_array_equal(
        model.predict(x, verbose=0), model.predict(x, verbose=0)
    )


@pytest.mark.usefixtures("eagerly")
def test_frozen_layers_stay(images):
    network = conv_network()
    network.layers[0].trainable = network.layers[1].trainable = False
    before = network.get_weights()
    trained(images, tiny_model(network, beta=0))
    changed = [
        bool(np.any(old != new))
        for old, new in zip(before, network.get_weights(), strict=True)
    ]
    # Kernel; gamma, beta and the moving statistics; the last layer's two.
    assert changed == [False, *[False] * 4, True, True]


@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(("statistics", "moves"), [("adversarial", 1), ("mixed", 2)])
def test_batchnorm_statistics_move_once_for_each_kind_of_image(
    images, statistics, moves
):
    x, y = images
    network = conv_network()
    x[:] = 0.5  # all images alike, so that the batch's mean is the image's
    model = tiny_model(
        network,
        batchnorm_statistics=statistics,
        total_epochs=2,
        optimizer=keras.optimizers.SGD(0.0),
    )
    moving_mean = network.layers[1].moving_mean
    model.fit(x, y, batch_size=12, verbose=0)  # the first epoch: clean images
    features = np.asarray(keras.ops.convert_to_numpy(network.layers[0](x)))
    expected = (1 - 0.9**moves) * features.mean(axis=(0, 1, 2))
    np.testing.assert_allclose(moving_mean, expected, 1e-4, 1e-6)


# Ways of running


@pytest.mark.slow_on_jax
def test_run_eagerly_and_steps_per_execution(images, same_network):
    expected = trained(images, tiny_model(same_network()))
    for arguments in ({"run_eagerly": True}, {"steps_per_execution": 2}):
        model = tiny_model(same_network())
        model.compile(krl.optimizers.SGD(0.1), **arguments)
        actual = trained(images, model)
        np.testing.assert_allclose(actual, expected, atol=1e-5)
        assert int(model.schedule.step) == 3


@pytest.mark.tensorflow
def test_several_replicas_run_one_step_at_a_time():
    import tensorflow as tf

    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        tiny_model().compile(steps_per_execution=2)  # a single replica may
    strategy = unittest.mock.Mock(num_replicas_in_sync=2)
    model = tiny_model()
    with unittest.mock.patch.object(type(model), "distribute_strategy", strategy):
        with pytest.raises(ValueError, match="`steps_per_execution` must be 1"):
            model.compile(steps_per_execution=2)


def test_devices_need_equal_parts(images, monkeypatch):
    if keras.backend.backend() != "jax":
        pytest.skip("tf.distribute takes parts of any size")
    mesh = unittest.mock.Mock(shape=(2,), axis_names=["batch"])
    distribution = unittest.mock.Mock(device_mesh=mesh, batch_dim_name="batch")
    model = tiny_model()
    x, y = images
    monkeypatch.setattr(keras.distribution, "distribution", lambda: distribution)
    with pytest.raises(ValueError, match="multiples of 2.*12 images and batch_size=5"):
        model.fit(x, y, batch_size=5)
    with pytest.raises(ValueError, match="multiples of 2.*11 images and batch_size=4"):
        model.evaluate(x[:11], y[:11], batch_size=4)


METHODS = [name for name in krl.methods.BY_NAME if name != "awp"] + ["at+awp"]


class FixedStart(krl.attacks.PGD):
    """Without random numbers: on TensorFlow, XLA draws others.

    The images themselves will not do: TRADES's gradient is 0 there.
    """

    def starting_point(self, x, epsilon=None, seed=None):
        aside = 0.02 * np.cos(np.arange(np.prod(x.shape[1:]))).reshape(x.shape[1:])
        return keras.ops.clip(x + keras.ops.cast(aside, x.dtype), 0.0, 1.0)


@pytest.mark.parametrize(
    "method",
    [m if m == "at" else pytest.param(m, marks=pytest.mark.slow) for m in METHODS],
)
def test_xla(images, same_network, method):
    def run(jit_compile):
        attack = FixedStart(0.1, 2)
        model = tiny_model(same_network(), attack=attack, method=make(method))
        model.compile(krl.optimizers.SGD(0.1), jit_compile=jit_compile)
        return trained(images, model)

    np.testing.assert_allclose(run(True), run(False), atol=1e-5)


def make(method):
    """The method, so that all of it acts within two epochs."""
    if method == "cgr":
        return krl.methods.CGR(start=1)
    return krl.methods.TAET(ce_epochs=2) if method == "taet" else method


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments",
    [
        *({"method": method} for method in METHODS),
        *({"budget": budget} for budget in krl.budget.BY_NAME),
        {"averaging": krl.averaging.EMA()},
        {"averaging": krl.averaging.FAWA()},
        {"batchnorm_statistics": "mixed", "augmentation": "base"},
    ],
)
def test_no_variable_is_int32(arguments):
    # TensorFlow keeps these on the host: XLA's steps on a GPU could not read them.
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(0.1))
    network = conv_network(input_shape=(16, 16, 3))
    model = tiny_model(network, optimizer=optimizer, **arguments)
    model.optimizer.build(model.trainable_variables)
    variables = model.variables + model.metrics_variables + model.optimizer.variables
    assert "schedule_step" in {v.name for v in variables}
    assert [v.path for v in variables if v.dtype == "int32"] == []


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "arguments",
    [
        {"method": "reat", "budget": "dafa", "averaging": 0.9},
        {"method": "at+awp", "augmentation": "base"},
        *(
            pytest.param(given, marks=pytest.mark.slow)
            for given in (
                *({"method": method} for method in METHODS if method != "reat"),
                *({"budget": budget} for budget in krl.budget.BY_NAME),
                *({"attack": attack} for attack in krl.attacks.TRAINING),
                {"attack": krl.attacks.PGD(0.1), "attack_steps": "adaptive"},
                {"batchnorm_statistics": "mixed", "augmentation": "aua"},
            )
        ),
    ],
)
def test_all_of_a_step_can_run_on_a_gpu(arguments):
    import tensorflow as tf
    from tensorflow.python.framework import kernels

    def devices(operation):
        known = kernels.get_registered_kernels_for_op(operation).kernel
        return {kernel.device_type for kernel in known}

    assert devices("PyFunc") == {"CPU"}  # such must not be there
    if "GPU" not in devices("Conv2D"):
        pytest.skip("This TensorFlow knows nothing of GPUs.")
    model = tiny_model(conv_network(input_shape=(16, 16, 3)), **arguments)
    step = tf.function(lambda x, y: model.train_step((x, y)), autograph=False)
    images = tf.TensorSpec((4, 16, 16, 3)), tf.TensorSpec((4,), "int32")
    graph = step.get_concrete_function(*images).graph.as_graph_def()
    functions = {function.signature.name for function in graph.library.function}
    inner = (node for function in graph.library.function for node in function.node_def)
    operations = {node.op for node in (*graph.node, *inner)} - functions
    assert "Conv2D" in operations and "EagerPyFunc" not in operations
    # "DEFAULT" is any device: what has no computation of its own.
    assert [op for op in operations if not devices(op) & {"GPU", "DEFAULT"}] == []


def test_what_is_compiled_does_not_grow_with_the_attack(images, monkeypatch):
    """As long as loops are fast, which they are not under JAX on a CPU."""
    monkeypatch.setattr(backend, "control_flow_is_slow", lambda: False)
    calls = []

    class Counted(keras.layers.Layer):
        def call(self, inputs):
            calls.append(inputs.shape)
            return inputs

    counts = []
    for steps in (2, 9):
        layers = [keras.layers.Flatten(), keras.layers.Dense(3), Counted()]
        network = keras.Sequential([keras.Input((6, 6, 3)), *layers])
        model = tiny_model(network, attack=krl.attacks.PGD(0.1, steps))
        calls.clear()
        model.fit(*images, epochs=2, **FIT)
        counts.append(len(calls))
    assert 0 < counts[0] == counts[1]


def test_loops_of_the_graph(images, same_network, monkeypatch):
    monkeypatch.setattr(backend, "control_flow_is_slow", lambda: True)
    expected = trained(images, tiny_model(same_network()))
    monkeypatch.setattr(backend, "control_flow_is_slow", lambda: False)
    actual = trained(images, tiny_model(same_network()))
    np.testing.assert_allclose(actual, expected, atol=1e-5)


@pytest.mark.usefixtures("eagerly")
def test_validation_does_not_change_training(images):
    train = trainer(tiny_model())
    expected = train(images)
    np.testing.assert_array_equal(train(images, validation_data=images), expected)


def test_seed(images, same_network):
    def run(seed):
        model = eager_model(same_network(), beta=0, seed=seed)
        return trained(images, model, epochs=1)

    first = run(1)
    np.testing.assert_array_equal(run(1), first)
    assert abs(run(2) - first).max() > 1e-5


@pytest.mark.filterwarnings("ignore:All steps of")  # it is noise, to see the seed
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize("seed", [3, None])
def test_evaluate_gives_the_same_each_time(images, seed):
    x, y = images
    attack = krl.attacks.PGD(0.1, 1, 1e-5)
    model = tiny_model(evaluation_attack=attack, seed=seed)
    first = model.evaluate(x, y, verbose=0, return_dict=True)
    for batch_size in (32, 4, 32):
        again = model.evaluate(x, y, batch_size, verbose=0, return_dict=True)
        assert (again == first) == (batch_size == 32)


@pytest.mark.parametrize("seed", [3, None])
def test_no_numbers_serve_two_purposes(seed):
    model = tiny_model(seed=seed)
    generators = [getattr(model, f"{kind}_seed") for kind in PURPOSES]
    drawn = [keras.random.uniform((2,), seed=each) for each in generators]
    assert len({float(each[0]) for each in drawn}) == 3
    # That of the random start is the model's own seed.
    if seed is not None:
        expected = keras.random.uniform((2,), seed=keras.random.SeedGenerator(seed))
        np.testing.assert_array_equal(drawn[0], expected)


@pytest.mark.usefixtures("eagerly")
def test_standard_callbacks(images, tmp_path):
    x, y = images
    callbacks = [
        keras.callbacks.EarlyStopping("loss", patience=1, min_delta=100),
        keras.callbacks.ModelCheckpoint(tmp_path / "model.keras", monitor="val_loss"),
        keras.callbacks.CSVLogger(tmp_path / "log.csv"),
        keras.callbacks.ReduceLROnPlateau("loss", 0.5, patience=1, min_delta=100),
        keras.callbacks.LambdaCallback(),
        keras.callbacks.EarlyStopping("val_robust_tail_accuracy", patience=9),
    ]
    model = tiny_model()
    history = model.fit(
        x, y, epochs=5, validation_data=images, callbacks=callbacks, **FIT
    )
    assert len(history.epoch) == 2  # stopped early
    assert callbacks[-1].mode == "max"
    assert float(model.optimizer.learning_rate) == pytest.approx(0.05)
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(weights_of(loaded), weights_of(model))
    head, *rows = (tmp_path / "log.csv").read_text().splitlines()
    assert len(rows) == 2
    assert {"adversarial_accuracy", "val_robust_accuracy"} <= set(head.split(","))


@ONE_EPOCH
@pytest.mark.usefixtures("eagerly")
@pytest.mark.tensorflow
def test_tensorboard(images, tmp_path):
    x, y = images
    model = tiny_model()
    callback = keras.callbacks.TensorBoard(tmp_path)
    model.fit(x, y, epochs=1, callbacks=callback, **FIT)
    assert list(tmp_path.rglob("*tfevents*"))


@ONE_EPOCH
def test_a_method_of_ones_own_with_both_kinds_of_images(images):
    class Both(krl.methods.Method):
        inputs = ("adversarial", "clean")

        def loss(self, targets, logits, criterion):
            assert set(logits) == {"adversarial", "clean"}
            return criterion(targets, logits["clean"]) + criterion(
                targets, logits["adversarial"]
            )

    x, y = images
    model = eager_model(method=Both(), optimizer=keras.optimizers.SGD(0.0))
    standard = eager_model(
        model.network, method="standard", optimizer=keras.optimizers.SGD(0.0)
    )
    losses = [
        each.fit(x, y, epochs=1, **FIT).history["loss"][0] for each in (model, standard)
    ]
    # The first epoch's images are clean.
    assert losses[0] == pytest.approx(2 * losses[1], rel=1e-5)


def test_methods_by_name():
    for name, method in itertools.product(
        ("at", "at_bsl", "standard"), (str, krl.methods.get)
    ):
        model = tiny_model(method=method(name))
        assert model.method.get_config() == krl.methods.get(name).get_config()
    assert repr(krl.methods.get("ldam")) == "LDAM(max_margin=0.5, scale=30.0)"


@ONE_EPOCH
def test_augmentation_inside_the_step(images, same_network):
    x, y = images
    x = np.random.default_rng(1).random((12, 16, 16, 3), "float32")
    batches = {}
    for name in ("none", "base"):
        model = eager_model(dense_network(input_shape=(16, 16, 3)), augmentation=name)
        model.schedule.start(epochs=4)
        (batches[name], _, _), _ = model.prepare_step((x, y))
        (again, _, _), _ = model.prepare_step((x, y))
        # The first epoch's adversarial images are the clean ones, as augmented.
        clean = keras.ops.convert_to_numpy(batches[name]["clean"])
        np.testing.assert_array_equal(clean, batches[name]["adversarial"])
        assert np.any(clean != x) == np.any(clean != again["clean"]) == (name == "base")
        history = model.fit(x, y, 12, validation_data=(x, y), verbose=0).history
        assert np.isfinite(history["loss"][0])
    with pytest.raises(ValueError, match="shifts images by up to 4 pixels"):
        tiny_model(augmentation="base").fit(*images, **FIT)
    with pytest.raises(ValueError, match="`augmentation` must be one of 'none', 'base"):
        tiny_model(augmentation="flip")


@pytest.mark.slow_on_jax
@ONE_EPOCH
def test_batches_of_several_sizes():
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((None, None, 3)),
            layers.Conv2D(2, 3),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3),
        ]
    )
    model = tiny_model(network, [4, 4, 4])

    class Sizes(keras.utils.PyDataset):
        epoch = 3  # of its own, and no variable

        def __len__(self):
            return 2

        def __getitem__(self, index):
            size = (6, 8)[index]
            return np.full((6, size, size, 3), 0.5, "float32"), np.arange(6) % 3

    history = model.fit(Sizes(), verbose=0, validation_data=Sizes())
    assert "val_robust_accuracy" in history.history


@pytest.mark.slow_on_jax
def test_class_weights(images, same_network):
    x, y = images
    counts = np.array(COUNTS)
    effective = krl.losses.effective_number_weights(counts)
    expected = {
        "balanced": 12 / (3 * counts),
        "effective": effective / np.average(effective, weights=counts),
    }
    network = same_network()
    first = network.get_weights()

    def train(**arguments):
        network.set_weights(first)
        model = eager_model(network, method="standard")
        return trained(images, model, epochs=1, **arguments)

    for name, weights in expected.items():
        found = train(class_weight=name)
        np.testing.assert_allclose(found, train(sample_weight=weights[y]), atol=1e-6)
        as_dictionary = train(class_weight=dict(enumerate(weights)))
        np.testing.assert_allclose(found, as_dictionary, atol=1e-6)
    # A class that the dictionary leaves out has a weight of 1.
    found = fit_arguments.class_weight({0: 2}, COUNTS)
    assert found == {0: 2.0, 1: 1.0, 2: 1.0}


def test_class_weights_go_with_data_sets(images, same_network):
    tf = pytest.importorskip("tensorflow")
    network = same_network()
    first = network.get_weights()
    results = []
    for in_data_set in (False, True):
        network.set_weights(first)
        model = eager_model(network, method="standard")
        data = {"x": images[0], "y": images[1]}
        if in_data_set:
            batches = tf.data.Dataset.from_tensor_slices(images).batch(4)
            data = {"x": batches, "y": None, "batch_size": None}
        results.append(trained(images, model, class_weight={0: 2}, epochs=1, **data))
    np.testing.assert_allclose(*results, atol=1e-6)


@ONE_EPOCH
@pytest.mark.parametrize(
    "value, message",
    [
        ("even", "`class_weight` must be one of 'balanced', 'effective'"),
        ([1, 2, 1], "or a dictionary.*dict.enumerate.weights.*Received: a list"),
        ({"rare": 2}, "integers from 0 to 2 for keys.*'rare'"),
        ({3: 2.0}, "integers from 0 to 2 for keys.*3"),
        ({0: -1}, r"`class_weight\[0\]` must be"),
        ({0: float("nan")}, r"`class_weight\[0\]` must be"),
    ],
)
def test_class_weights_that_are_none(images, value, message):
    with pytest.raises(ValueError, match=message):
        tiny_model().fit(*images, class_weight=value, **FIT)


def test_an_evaluation_by_a_callback_changes_no_validation(images):
    x, y = images

    class Looks(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.evaluate(x[:5], y[:5], verbose=0)

    def validated(*callbacks):
        keras.utils.set_random_seed(0)
        model = eager_model(beta=0)
        options = {"validation_data": images, "callbacks": callbacks}
        return model.fit(x, y, epochs=2, **options, **FIT).history["val_loss"]

    assert validated(Looks()) == validated()
