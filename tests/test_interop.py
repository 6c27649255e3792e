import importlib
import sys
import warnings

import keras
import numpy as np
import pytest
from keras import ops
from tiny_models import dense_network, threshold_network, tiny_model

import keras_robustlt as krl

BACKEND = keras.backend.backend()
TOLERANCE = {"atol": 2e-6}
STEPS = {"steps": 4, "random_start": False}


def package(name):
    """The other package, or the reason why the test is skipped."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own imports
        return pytest.importorskip(name, reason=f"{name} is not installed")


@pytest.fixture
def art():
    package("art")
    return importlib.import_module("art.attacks.evasion")


@pytest.fixture
def foolbox():
    if BACKEND not in ("tensorflow", "jax"):
        pytest.skip("Foolbox's models are for TensorFlow and JAX")
    return package("foolbox")


@pytest.fixture
def network():
    """Not linear, so that each step has another gradient."""
    keras.utils.set_random_seed(3)
    return keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Flatten(),
            keras.layers.Dense(16, activation="tanh"),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(4),
        ]
    )


@pytest.fixture
def batch(network):
    """Images that the network gets right, some of them at the border of [0, 1]."""
    x = np.random.default_rng(0).random((24, 6, 6, 3), "float32")
    x[:8] = np.round(x[:8])
    return x, logits_of(network, x).argmax(axis=1)


def inner(x):
    """Images so far from 0 and 1 that no attack of these tests gets there."""
    return 0.3 + 0.4 * x


def logits_of(network, x):
    return ops.convert_to_numpy(network(ops.convert_to_tensor(x)))


def is_right(network, x, y):
    return logits_of(network, x).argmax(axis=1) == y


def test_pgd_is_that_of_art_linf(art, network, batch):
    x, y = batch
    ours = krl.attacks.PGD(0.1, step_size=0.03, **STEPS)(network, x, y)
    theirs = art.ProjectedGradientDescent(
        krl.interop.art_classifier(network),
        eps=0.1,
        eps_step=0.03,
        max_iter=4,
        batch_size=10,
        verbose=False,
    ).generate(x, y)
    np.testing.assert_allclose(ops.convert_to_numpy(ours), theirs, **TOLERANCE)
    right = is_right(network, theirs, y)
    np.testing.assert_array_equal(is_right(network, ours, y), right)
    assert 0 < right.sum() < len(x)


def test_pgd_is_that_of_art_l2(art, network, batch):
    # ART clips to [0, 1] before it projects: the same where nothing is clipped.
    x = inner(batch[0])
    y = logits_of(network, x).argmax(axis=1)
    ours = krl.attacks.PGD(0.25, step_size=0.1, norm="l2", **STEPS)(network, x, y)
    theirs = art.ProjectedGradientDescent(
        krl.interop.art_classifier(network),
        norm=2,
        eps=0.25,
        eps_step=0.1,
        max_iter=4,
        verbose=False,
    ).generate(x, y)
    np.testing.assert_allclose(ops.convert_to_numpy(ours), theirs, **TOLERANCE)
    np.testing.assert_array_equal(
        is_right(network, ours, y), is_right(network, theirs, y)
    )


@pytest.mark.parametrize(
    "norm, epsilon, attack",
    [
        ("linf", 0.1, "LinfProjectedGradientDescentAttack"),
        ("l2", 0.5, "L2ProjectedGradientDescentAttack"),
    ],
)
def test_pgd_is_that_of_foolbox(norm, epsilon, attack, foolbox, network, batch):
    x, y = batch
    step = epsilon / 4
    ours = krl.attacks.PGD(epsilon, step_size=step, norm=norm, **STEPS)(network, x, y)
    attack = getattr(foolbox.attacks, attack)(abs_stepsize=step, **STEPS)
    model = krl.interop.foolbox_model(network)
    images, labels = krl.interop.foolbox_batch(x, y)
    theirs, _, is_fooled = attack(model, images, labels, epsilons=epsilon)
    theirs = ops.convert_to_numpy(theirs)
    np.testing.assert_allclose(ops.convert_to_numpy(ours), theirs, **TOLERANCE)
    right = is_right(network, ours, y)
    np.testing.assert_array_equal(~ops.convert_to_numpy(is_fooled), right)
    assert 0 < right.sum() < len(x)


def test_foolbox_accuracy(foolbox, network, batch):
    model = krl.interop.foolbox_model(network)
    images, labels = krl.interop.foolbox_batch(*batch)
    assert foolbox.utils.accuracy(model, images, labels) == 1
    assert tuple(model.bounds) == (0, 1)


def test_art_sees_logits_losses_and_gradients(art, batch):
    x, y = batch[0], np.arange(24) % 3
    network = dense_network()
    classifier = krl.interop.art_classifier(network, batch_size=7)
    weights, _ = network.get_weights()
    logits = logits_of(network, x)
    assert (classifier.nb_classes, classifier.input_shape) == (3, (6, 6, 3))
    np.testing.assert_allclose(classifier.predict(x), logits, rtol=1e-5, atol=1e-6)
    # Gradients of a linear network in closed form.
    one_hot = np.eye(3, dtype="float32")[y]
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = ((probabilities - one_hot) @ weights.T).reshape(x.shape)
    for labels in (y, one_hot):
        gradient = classifier.loss_gradient(x, labels)
        np.testing.assert_allclose(gradient, expected, rtol=1e-4, atol=1e-6)
    loss = -np.log(probabilities[np.arange(24), y])
    for reduction, value in (
        ("none", loss),
        ("mean", loss.mean()),
        ("sum", loss.sum()),
    ):
        found = classifier.compute_loss(x, y, reduction=reduction)
        np.testing.assert_allclose(found, value, rtol=1e-4)
    of_classes = weights.T.reshape(3, 6, 6, 3)
    for label, classes in ((None, slice(None)), (1, [1]), (y, None)):
        found = classifier.class_gradient(x, label)
        wanted = np.broadcast_to(of_classes, (24, 3, 6, 6, 3))
        wanted = of_classes[y][:, None] if classes is None else wanted[:, classes]
        np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_other_attacks_of_art_run(art, network, batch):
    x, y = inner(batch[0][:6]), batch[1][:6]
    classifier = krl.interop.art_classifier(network, loss="margin")
    attacks = [
        art.AutoProjectedGradientDescent(
            classifier, eps=0.1, max_iter=5, nb_random_init=1, verbose=False
        ),
        art.DeepFool(classifier, max_iter=3, verbose=False),
        art.CarliniL2Method(
            classifier, max_iter=2, binary_search_steps=1, verbose=False
        ),
        art.SquareAttack(classifier, eps=0.1, max_iter=5, verbose=False),
    ]
    for attack in attacks:
        x_adv = attack.generate(x, y)
        assert x_adv.shape == x.shape
        assert np.isfinite(x_adv).all()
        assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_art_takes_models_and_functions(art, batch):
    x, _ = batch
    model = tiny_model()
    expected = logits_of(model.inference_network, x)
    function = krl.interop.art_classifier(
        lambda x: model.inference_network(x), input_shape=(6, 6, 3)
    )
    for classifier in (krl.interop.art_classifier(model), function):
        np.testing.assert_allclose(
            classifier.predict(x), expected, rtol=1e-5, atol=1e-6
        )


def test_art_classifier_follows_the_weights(art, batch):
    x, _ = batch
    network = dense_network()
    classifier = krl.interop.art_classifier(network)
    before = classifier.predict(x)
    network.set_weights([2 * weight for weight in network.get_weights()])
    np.testing.assert_allclose(classifier.predict(x), 2 * before, rtol=1e-5)


def test_art_classifier_takes_pixels_from_0_to_1(art, batch):
    x, _ = batch
    network = dense_network()
    network.inference_network = None  # only a RobustLTModel has one
    classifier = krl.interop.art_classifier(network)
    classifier.predict(1.01 * x)  # an attack on its way
    for pixels in (255 * x, x - 2, np.full_like(x, np.nan)):
        with pytest.raises(ValueError, match="`x` (must hold images|holds pixels)"):
            classifier.predict(pixels)


def test_art_classifier_is_not_for_training(art, tmp_path):
    classifier = krl.interop.art_classifier(dense_network())
    with pytest.raises(NotImplementedError, match="Train the Keras model itself"):
        classifier.fit(np.zeros((1, 6, 6, 3)), np.zeros(1))
    with pytest.raises(NotImplementedError, match="gives logits only"):
        classifier.get_activations(np.zeros((1, 6, 6, 3)), 0)
    classifier.save("network.keras", tmp_path)
    assert keras.saving.load_model(tmp_path / "network.keras").output_shape[-1] == 3


def test_labels_for_foolbox(foolbox):
    x = np.array([[0.9], [0.1]], "float32")
    model = krl.interop.foolbox_model(threshold_network(0.5))
    for y in (np.array([0, 1], "uint8"), np.array([[0], [1]])):
        images, labels = krl.interop.foolbox_batch(x, y)
        assert tuple(labels.shape) == (2,)
        assert foolbox.utils.accuracy(model, images, labels) == 1
        attack = foolbox.attacks.LinfFastGradientAttack()
        *_, is_fooled = attack(model, images, labels, epsilons=[0.3, 0.5])
        assert ops.convert_to_numpy(is_fooled).tolist() == [[False] * 2, [True] * 2]


@pytest.mark.parametrize(
    "x, y, message",
    [
        (np.full((2, 1), 3.0), [0, 1], r"`x` must hold images in \[0, 1\]"),
        (np.zeros((2, 1)), [0, -1], "`y` must hold an integer label.* from 0 on"),
        (np.zeros((2, 1)), [0.0, 1.0], "`y` must hold an integer label for each of 2"),
        (np.zeros((2, 1)), [0, 1, 2], "must have the same length"),
    ],
)
def test_foolbox_batch_checks_its_input(x, y, message):
    with pytest.raises(ValueError, match=message):
        krl.interop.foolbox_batch(x, np.array(y))


def test_wrong_models_are_refused(art, foolbox):
    softmax = dense_network(activation="softmax")
    without_shape = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(2)])
    for adapt in (krl.interop.art_classifier, krl.interop.foolbox_model):
        with pytest.raises(ValueError, match="must give logits"):
            adapt(softmax)
        with pytest.raises(ValueError, match="`model` must be a RobustLTModel"):
            adapt(3)
    with pytest.raises(ValueError, match="`input_shape` must be the shape of one"):
        krl.interop.art_classifier(without_shape)
    with pytest.raises(ValueError, match="`model` must be built"):
        krl.interop.foolbox_model(without_shape)
    with pytest.raises(ValueError, match="`loss` must be one of"):
        krl.interop.art_classifier(dense_network(), loss="hinge")
    of_all = krl.interop.art_classifier(dense_network(), loss=lambda t, logits: logits)
    with pytest.raises(ValueError, match="`loss` must give one value for each"):
        of_all.loss_gradient(np.zeros((2, 6, 6, 3), "float32"), np.array([0, 1]))
    classifier = krl.interop.art_classifier(without_shape, input_shape=(6, 6, 3))
    assert classifier.nb_classes == 2


@pytest.mark.parametrize(
    "module, adapt",
    [
        ("art.estimators.classification.classifier", "art_classifier"),
        ("foolbox", "foolbox_model"),
    ],
)
def test_a_package_that_is_not_there_is_named(module, adapt, monkeypatch):
    krl.interop._art_class.cache_clear()
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match="pip install adversarial-robustness"):
        getattr(krl.interop, adapt)(dense_network())
