"""Augmentation by layers and functions, and training on the soft labels they give."""

import sys

import keras
import numpy as np
import pytest
from test_methods import NAMES
from tiny_models import FIT, dense_network, eager_model, tiny_model, weights_of

import keras_robustlt as krl
from keras_robustlt.data import resumption
from keras_robustlt.data.array_pipeline import ArrayPipeline
from keras_robustlt.data.augmentation import KERAS_CV, MIXES_LABELS, pipeline_names

COUNTS = [6, 4, 2]
# Each image has the colour of its class: red, green or blue.
Y = np.repeat([0, 1, 2], COUNTS)
X = np.broadcast_to(np.eye(3)[Y][:, None, None], (12, 8, 8, 3)).astype("float32")
SOFT = np.array([[0.75, 0.25, 0.0], [0.0, 0.5, 0.5]], "float32")
LINEAR = {"at", "awp", "logit_adjusted", "nuat", "standard", "trades", "at_bsl+awp"}
PLACES = ("tf.data", "arrays", "step")


@pytest.fixture
def without_tensorflow(monkeypatch):
    """`data.pipeline` as it is without TensorFlow, whatever the backend."""
    module = sys.modules[krl.data.pipeline.__module__]

    def make(*arguments, **options):
        with monkeypatch.context() as patched:
            patched.setattr(module, "_with_tensorflow", ArrayPipeline)
            return krl.data.pipeline(*arguments, **options)

    return make


def epoch_of(dataset, number=0):
    dataset.epoch.assign(number)
    batches = [map(keras.ops.convert_to_numpy, batch) for batch in dataset]
    return [np.concatenate(part) for part in zip(*batches, strict=True)]


def mixed(images, labels, seed):
    """A mix of each image with the one before it, and of their labels."""
    ops = keras.ops
    share = keras.random.uniform((ops.shape(images)[0], 1), seed=seed)
    wide = share[:, :, None, None]
    return (
        wide * images + (1.0 - wide) * ops.roll(images, 1, axis=0),
        share * labels + (1.0 - share) * ops.roll(labels, 1, axis=0),
    )


# What a pipeline makes


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow] * (name not in ("cutmix", "mixup")))
        for name in KERAS_CV
    ],
)
def test_layers_of_keras_cv(name):
    pytest.importorskip("keras_cv")
    first, again = (krl.data.pipeline(X, Y, 12, name, seed=3) for _ in range(2))
    x, y = epoch_of(first, 1)
    for ours, theirs in zip((x, y), epoch_of(again, 1), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert not np.array_equal(x, epoch_of(first, 2)[0])
    assert x.shape == X.shape and x.dtype == "float32"
    assert x.min() >= 0 and x.max() <= 1
    assert first.soft_labels == (name in MIXES_LABELS)
    assert resumption.unknown_order({"x": first}) is None
    assert first.made_of["augmentation"] == name
    if name in ("mixup", "fourier_mix"):
        # An image has of each colour what its label has of the class.
        assert y.dtype == "float32" and np.any((y > 0.01) & (y < 0.99))
        pixel = 0.5 / 64 + 1e-5 if name == "fourier_mix" else 1e-5
        np.testing.assert_allclose(x.mean(axis=(1, 2)), y, atol=pixel)
    elif name == "cutmix":
        np.testing.assert_allclose(y.sum(axis=1), 1, 1e-5)
        assert len(np.unique(y.max(axis=1))) > 3
    else:
        assert y.dtype == "int64" and sorted(y) == sorted(Y)
        # Each image has numbers of its own.
        black = x[y == 0, :, :, 0]
        assert len(np.unique(black, axis=0)) > 3


@pytest.mark.tensorflow
def test_layers_come_after_crop_and_flip():
    pytest.importorskip("keras_cv")
    images = np.random.default_rng(0).random((12, 16, 16, 3), "float32")
    both = epoch_of(krl.data.pipeline(images, Y, 12, "base+grid_mask", seed=3))[0]
    base = epoch_of(krl.data.pipeline(images, Y, 12, "base", seed=3))[0]
    kept = both == base
    assert kept.any() and not kept.all() and (both[~kept] == 0).all()
    assert "base+cutmix" in pipeline_names() and "none+cutmix" not in pipeline_names()


@pytest.mark.tensorflow
def test_shards_mix_with_numbers_of_their_own():
    layer = keras.layers.MixUp()
    options = {"augmentation": layer, "seed": 3, "shuffle": False}
    x = np.repeat(X[:1], 12, axis=0)
    parts = [
        krl.data.pipeline(x, np.tile([0, 1], 6), 12, shard=(i, 2), **options)
        for i in (0, 1)
    ]
    one, other = (epoch_of(part)[1] for part in parts)
    assert one.shape == other.shape == (6, 2) and not np.array_equal(one, other)


def test_layers_and_functions_without_tensorflow(without_tensorflow):
    # Keras's MixUp asks for integers that JAX does not have, which it warns of.
    for augmentation in (keras.layers.CutMix(), mixed):
        datasets = [without_tensorflow(X, Y, 5, augmentation) for _ in range(2)]
        x, y = epoch_of(datasets[0], 1)
        assert isinstance(datasets[0], keras.utils.PyDataset)
        assert datasets[0].soft_labels and y.dtype == x.dtype == "float32"
        if augmentation is mixed:
            np.testing.assert_allclose(x.mean(axis=(1, 2)), y, atol=1e-5)
        for ours, theirs in zip((x, y), epoch_of(datasets[1], 1), strict=True):
            np.testing.assert_array_equal(ours, theirs)
        assert not np.array_equal(y, epoch_of(datasets[0], 2)[1])
        assert resumption.unknown_order({"x": datasets[0]}) is None
    assert not without_tensorflow(X, Y, 5, keras.layers.RandomFlip()).soft_labels


def test_missing_keras_cv_is_named_before_data_are_read(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)
    for name in ("cutmix", "base+augmix"):
        with pytest.raises(
            ImportError, match=r"needs TensorFlow.*pip install tensorflow keras-cv"
        ):
            krl.data.long_tail("no such data", augmentation=name)


class Unknown(keras.layers.Layer):
    """A layer of one's own, which may be anything."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def call(self, images):
        return self.function(images)


def with_numpy(images):
    return images * np.float32(np.random.default_rng().random())


BAD = {
    "number": (3, "must be one of none, base"),
    "name": ("flip", "augmix, cutmix, .*a Keras layer or a function"),
    "twice": ("cutmix+mixup", "must be one of none, base"),
    "signature": (lambda images, strength: images, "and, if it likes, of `labels`"),
    "no pair": (lambda images, labels: images, "must give images and labels, a pair"),
    "range": (keras.layers.RandomBrightness(0.1), r"value_range=\(0, 1\)"),
    "shape": (keras.layers.CenterCrop(4, 4), r"\(8, 8, 3\).*CenterCrop: \(4, 4, 3\)"),
    "divided": (Unknown(lambda x: x / 255), "is black.*Leave a division by 255 out"),
    "pixels": (Unknown(lambda x: 255.0 * x), "values from .* from the layer Unknown"),
    "NaN": (Unknown(lambda x: x / (x - x)), "Unknown makes pixels that are not a"),
    "NumPy": (with_numpy, "with_numpy draws.*has to draw from its argument `seed`"),
    "Python": (keras.layers.AugMix(value_range=(0, 1)), "AugMix draws"),
    "black": (Unknown(lambda x: x * 0), "is black"),
    "complex": (
        lambda images: keras.ops.view_as_complex(keras.ops.stack(2 * [images], -1)),
        "comp",
    ),
    "by name alone": (lambda *, images: images, "must be a function of images"),
    "a seed of integers": (lambda images, seed: images * (seed % 2), "SeedGenerator"),
    "no labels": (lambda images, labels: (images, None), "a NoneType"),
    "classes": (
        lambda images, labels: (images, keras.ops.argmax(labels, -1)),
        r"give labels of the shape that it gets, \(3,\)",
    ),
    "fewer labels": (lambda images, labels: (images, labels[:2]), "8 images .* 2 rows"),
    "labels of 255": (lambda images, labels: (images, labels * 255), "that sum to 1"),
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.slow_on_jax] * (name == "Python"))
        for name in BAD
    ],
)
def test_what_is_no_augmentation_is_refused(name, without_tensorflow):
    augmentation, message = BAD[name]
    if keras.backend.backend() == "tensorflow":
        with pytest.raises(ValueError, match=message):
            krl.data.pipeline(X, Y, 4, augmentation)
    with pytest.raises(ValueError, match=message):
        without_tensorflow(X, Y, 4, augmentation)
    if callable(augmentation):
        with pytest.raises(ValueError, match=message):
            tiny_model(dense_network(input_shape=(8, 8, 3)), augmentation=augmentation)


@pytest.mark.tensorflow
def test_numbers_that_do_not_come_again_are_told(tmp_path):
    import tensorflow as tf

    def own(images):
        return images * tf.random.uniform(())

    data = krl.data.pipeline(X, Y, 6, own)
    assert "random numbers of its own" in resumption.unknown_order({"x": data})
    mapped = data.map(lambda x, y: (x, y))
    assert "random numbers of its own" in resumption.unknown_order({"x": mapped})


def test_layers_of_keras_cv_are_not_for_the_step():
    with pytest.raises(ValueError, match="run in pipelines.*augmentation='cutmix'"):
        tiny_model(augmentation="cutmix")
    keras_cv = pytest.importorskip("keras_cv")
    with pytest.raises(ValueError, match="run in pipelines"):
        tiny_model(augmentation=keras_cv.layers.RandomFlip())


# Training on soft labels


def test_budget_and_step_of_soft_labels():
    """One step of a linear network, against the formulas in NumPy."""
    network = dense_network(input_shape=(2, 2, 1))
    generator = np.random.default_rng(0)
    weights = generator.normal(size=(4, 3)).astype("float32")
    network.set_weights([weights, np.zeros(3)])
    x = generator.uniform(0.4, 0.6, (2, 2, 2, 1)).astype("float32")
    attack = krl.attacks.PGD(0.05, steps=1, step_size=1.0, random_start=False)
    model = tiny_model(
        network,
        class_counts=[20, 10, 5],
        epsilon=0.05,
        beta=0.0,
        attack=attack,
        optimizer=keras.optimizers.SGD(0.5),
    )
    model.schedule.start(epochs=1)
    logs = model.train_on_batch(x, SOFT, return_dict=True)

    # n = 20, 10, 5: sqrt(log K) = 0, .8326, 1.1774, whose mean over images is .4061.
    of_classes = 0.05 * (0.7 + 0.3 * np.array([0, 0.83256, 1.17741]) / 0.40606)
    epsilon = np.array(
        [
            0.75 * of_classes[0] + 0.25 * of_classes[1],
            0.5 * of_classes[1] + 0.5 * of_classes[2],
        ]
    )
    flat = x.reshape(2, 4)

    def softmax(logits):
        return np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)

    direction = np.sign((softmax(flat @ weights) - SOFT) @ weights.T)
    adversarial = flat + epsilon[:, None] * direction
    p = softmax(adversarial @ weights)
    loss = -np.sum(SOFT * np.log(p), axis=1).mean()
    assert float(logs["loss"]) == pytest.approx(loss, rel=1e-5)
    expected = weights - 0.5 * adversarial.T @ (p - SOFT) / 2
    np.testing.assert_allclose(network.get_weights()[0], expected, rtol=2e-4, atol=1e-6)
    # An image counts as right where its largest part is predicted, of equal ones the
    # first.
    hits = np.mean(p.argmax(axis=1) == [0, 1])
    assert float(logs["adversarial_accuracy"]) == pytest.approx(hits)


SCHEDULE_FREE = {"taet": {"ce_epochs": 0}, "cgr": {"start": 0}}


@pytest.mark.parametrize("name", NAMES)
def test_methods_of_linear_losses_take_soft_labels(name):
    """Where targets are mixed, the loss has to be the mix of the losses."""
    method = krl.methods.get(name, **SCHEDULE_FREE.get(name, {}))
    model = tiny_model(class_counts=COUNTS, method=method, attack=None)
    model.schedule.start(epochs=2)
    if name == "cgr":
        method.scores.assign([0.0, 1.0, 2.0])
    generator = np.random.default_rng(0)
    logits = {
        f"{images}{kind}": generator.normal(size=(2, 3)).astype("float32")
        for images in ("clean", "adversarial")
        for kind in ("", "_features")
    }
    first, second = np.eye(3, dtype="float32")[[[0, 1], [1, 2]]]
    share = np.array([[0.75], [0.5]], "float32")

    def values(targets):
        loss = method.loss(targets, logits, krl.losses.cross_entropy)
        options = {"clean_logits": logits["clean"]} if method.attack_compares else {}
        attacked = method.attack_loss(targets, logits["adversarial"], **options)
        both = [np.broadcast_to(np.asarray(each), 2) for each in (loss, attacked)]
        return np.stack(both, axis=1)

    np.testing.assert_array_equal(share * first + (1 - share) * second, SOFT)
    mix = share * values(first) + (1 - share) * values(second)
    assert np.allclose(values(SOFT), mix, 1e-5) == method.soft_labels
    assert method.soft_labels == (name in LINEAR)
    if name in krl.methods.BY_NAME:
        assert method.soft_labels == (name in krl.methods.with_soft_labels())


def test_soft_labels_are_refused_before_training(without_tensorflow):
    x, y = X[:2], SOFT
    smoothed = 0.9 * np.eye(3, dtype="float32")[Y] + 0.1 / 3
    options = {"class_counts": COUNTS, "epsilon": 0.1}
    network = dense_network(input_shape=(8, 8, 3))
    before = network.get_weights()
    pipeline = without_tensorflow(X, Y, 4, mixed)
    for changed, message in (
        ({"method": "mart"}, r"MART.* Methods that take soft labels: at, at_bsl"),
        ({"method": "cgr"}, "CGR.* is for images of one class"),
        ({"budget": "dafa"}, "DAFA.* Use another budget"),
    ):
        model = tiny_model(network, **options, **changed)
        with pytest.raises(ValueError, match=f"`y` holds soft labels.*{message}"):
            model.fit(x, y, **FIT)
        with pytest.raises(ValueError, match=f"`y` holds soft labels.*{message}"):
            model.fit(X, smoothed, **FIT)
        with pytest.raises(ValueError, match=f"pipeline that gives soft.*{message}"):
            model.fit(pipeline, verbose=0)
        with pytest.raises(ValueError, match=f"mixed gives soft labels.*{message}"):
            tiny_model(network, augmentation=mixed, **options, **changed)
    model = tiny_model(network, **options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(krl.optimizers.SGD(0.1), loss=loss)
    with pytest.raises(ValueError, match="is for integer labels"):
        model.fit(x, y, **FIT)
    model.schedule.start(epochs=1)
    with pytest.raises(ValueError, match="is for integer labels"):
        model.train_on_batch(x, y)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.slow_on_jax
def test_soft_labels_that_nobody_announced_are_refused_at_the_first_batch():
    class Batches(keras.utils.PyDataset):
        num_batches = 2

        def __getitem__(self, index):
            return X[:2], SOFT if index else np.eye(3, dtype="float32")[:2]

    for method, takes in (("trades", True), ("focal", False)):
        network = dense_network(input_shape=(8, 8, 3))
        model = eager_model(network, [2, 2, 1], method=method, beta=0.0)
        if takes:
            model.fit(Batches(), verbose=0)
        else:
            with pytest.raises(ValueError, match="`y` holds soft labels, each a mix"):
                model.fit(Batches(), verbose=0)


def test_mixed_images_are_not_to_watch_training_on():
    model = eager_model(dense_network(), [1, 1, 1], beta=0.0)
    x = np.random.default_rng(0).random((3, 6, 6, 3), "float32")
    y = np.concatenate([SOFT, [[0.1, 0.1, 0.8]]])
    for callback in (krl.callbacks.CollapseGuard, krl.callbacks.SkewAndDrift):
        with pytest.raises(ValueError, match="`y` holds soft labels.*as they are"):
            model.fit(x, np.arange(3), callbacks=[callback(x, y)], **FIT)


def test_rules_and_evaluation_count_the_largest_part():
    model = eager_model(dense_network(), COUNTS, budget="auto")
    model.schedule.start(epochs=4)
    x = np.random.default_rng(0).random((3, 6, 6, 3), "float32")
    soft = np.concatenate([SOFT, [[0.1, 0.1, 0.8]]]).astype("float32")
    model.train_on_batch(x, soft)
    np.testing.assert_array_equal(model.budget.seen, [1, 1, 1])
    for method in ("at", "mart"):
        model = eager_model(model.network, COUNTS, method=method)
        results = [
            model.evaluate(x, y, return_dict=True, verbose=0)
            for y in (soft, np.array([0, 1, 2]))
        ]
        assert results[0] == results[1]


# Interruption


@pytest.mark.parametrize(
    "place",
    [
        pytest.param(place, marks=[pytest.mark.slow_on_jax] * (place == "arrays"))
        for place in PLACES
    ],
)
def test_interrupted_training_ends_as_an_uninterrupted_one(
    place, without_tensorflow, tmp_path
):
    if place == "tf.data" and keras.backend.backend() != "tensorflow":
        pytest.skip("is the same there")

    def run(folder, stop_at=None):
        keras.utils.set_random_seed(3)
        layer = keras.layers.CutMix()
        options = {"augmentation": layer} if place == "step" else {}
        # What pipelines give does not depend on how the step runs.
        make_model = tiny_model if place == "step" else eager_model
        model = make_model(dense_network(input_shape=(8, 8, 3)), COUNTS, **options)
        arguments = {"x": X, "y": Y, "batch_size": 6}
        if place != "step":
            make = krl.data.pipeline if place == "tf.data" else without_tensorflow
            arguments = {"x": make(X, Y, 6, layer, seed=1)}
        stop = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: epoch == stop_at and 1 / 0
        )
        listed = [stop, krl.callbacks.Checkpoint(folder)]
        model.fit(**arguments, epochs=3, verbose=0, callbacks=listed)
        return weights_of(model)

    whole = run(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "parts", stop_at=2)
    np.testing.assert_array_equal(run(tmp_path / "parts"), whole)


def test_layers_of_the_step_are_saved_and_draw_anew_in_each():
    layer = keras.layers.RandomRotation(0.5)
    model = eager_model(dense_network(), COUNTS, augmentation=layer)
    model.schedule.start(epochs=4)
    x = np.random.default_rng(0).random((2, 6, 6, 3), "float32")
    first, second = (model.training_batch((x, Y[:2]))[0]["clean"] for _ in range(2))
    assert np.any(first != second) and np.any(first != x)
    copied = krl.RobustLTModel.from_config(model.get_config())
    assert isinstance(copied.augmentation, keras.layers.RandomRotation)
    assert copied.augmentation.factor == layer.factor
