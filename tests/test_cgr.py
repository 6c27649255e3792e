"""Class feedback against numbers made by hand."""

import keras
import numpy as np
import pytest
from tiny_models import FIT, ONE_EPOCH, tiny_model

import keras_robustlt as krl

TARGETS = np.eye(3, dtype="float32")[[0, 0, 1, 1, 2]]
TAKEN_FOR = np.eye(3, dtype="float32")[[0, 1, 1, 1, 0]]
# Scores: accuracies 1/2, 1 and 0, whose mean is 1/2.
SCORES = np.array([0.25, 0.0, 1.0]) / (1.25 / 3)
WEIGHTS = np.array([0.8, 0.5, 1.7])
# Centres (1, 0), (0, 1) and (-1, 0), training images 8, 3 and 1.
EDGE = 0.5 * np.sqrt(3 / 8) / np.sqrt(2)
GRAPH = np.zeros((3, 3))
GRAPH[0, 1], GRAPH[2, 0] = EDGE, 1.0 / 2
GRAPH = GRAPH / ((EDGE + 0.5) / 2)


def features(size):
    """Of other lengths than 1."""
    values = np.zeros((5, size), "float32")
    values[[0, 1, 2, 3, 4], [0, 0, 1, 1, 0]] = [1, 3, 2, 2, -5]
    return values


def test_scores_and_weights():
    confusion = [[0.5, 0.5, 0], [0, 1, 0], [1, 0, 0]]
    scores = krl.methods.feedback_scores(confusion)
    np.testing.assert_allclose(scores, SCORES, 1e-6)
    np.testing.assert_allclose(krl.methods.feedback_weights(scores), WEIGHTS, 1e-6)
    np.testing.assert_array_equal(krl.methods.feedback_scores(np.eye(3)), [0, 0, 0])
    extreme = krl.methods.feedback_weights([0, 0, 0, 0, 0, 0, 100.0])
    np.testing.assert_allclose(extreme, [0.25] * 6 + [3.0])


def test_graph_keeps_three_neighbours_and_bounds_them():
    confusion = np.zeros((5, 5), "float32")
    confusion[0] = [0.1, 0.4, 0.3, 0.15, 0.05]
    confusion[1] = [0.02, 0.98, 0, 0, 0]
    centres = np.eye(5)
    graph = krl.methods.confusion_graph(confusion, centres, [16, 4, 16, 16, 16])
    edges = np.array([0.4 / 2, 0.3, 0.15, 0.02])  # over the distance, sqrt(2)
    expected = np.zeros((5, 5))
    expected[0, 1:4], expected[1, 0] = edges[:3], edges[3]
    np.testing.assert_allclose(graph, expected / edges.mean(), 1e-5)
    close = np.eye(5)
    close[1] = close[0] + [0, 1e-4, 0, 0, 0]
    graph = krl.methods.confusion_graph(confusion, close, [16] * 5)
    assert float(keras.ops.max(graph)) <= 5
    none = krl.methods.confusion_graph(np.eye(5), centres, [16] * 5)
    np.testing.assert_array_equal(none, np.zeros((5, 5)))


def begin_epoch(model, epoch):
    model.schedule.start(10)
    model.schedule.begin_epoch(epoch)
    model.schedule.advance()
    model.method.begin_step(model.schedule)
    scores, graph = model.method.scores, model.method.graph
    return keras.ops.convert_to_numpy(scores), keras.ops.convert_to_numpy(graph)


def test_feedback_of_the_epochs():
    method = krl.methods.CGR(momentum=0.75, start=2)
    model = tiny_model(method=method)
    size = method.features.shape[-1]
    scores, graph = begin_epoch(model, 0)
    assert not scores.any() and not graph.any()
    noted = {"adversarial": TAKEN_FOR, "adversarial_features": features(size)}
    # In two batches; a later step of the epoch changes nothing.
    for part in (slice(0, 3), slice(3, 5)):
        method.update(TARGETS[part], {key: v[part] for key, v in noted.items()})
        model.schedule.advance()
        method.begin_step(model.schedule)
    assert not keras.ops.convert_to_numpy(method.scores).any()
    scores, graph = begin_epoch(model, 1)
    np.testing.assert_allclose(scores, SCORES, 1e-5)
    np.testing.assert_allclose(graph, GRAPH, 1e-5, 1e-6)
    # All right in the second epoch.
    method.update(TARGETS, {**noted, "adversarial": TARGETS})
    scores, graph = begin_epoch(model, 2)
    np.testing.assert_allclose(scores, 0.75 * SCORES, 1e-5)
    np.testing.assert_allclose(graph, 0.75 * GRAPH, 1e-5, 1e-6)


def test_loss():
    method = krl.methods.CGR(strength=0.1, start=1)
    model = tiny_model(method=method)
    method.scores.assign(SCORES)
    method.graph.assign(GRAPH)
    logits = np.float32([[1.0, 0.8, 0.0], [0.0, 0.0, 2.0]])
    targets = np.eye(3, dtype="float32")[[0, 2]]

    def loss(epoch):
        begin_epoch(model, epoch)
        return method.loss(targets, {"adversarial": logits}, krl.losses.cross_entropy)

    plain = np.log(np.exp(logits).sum(axis=1)) - [1.0, 2.0]
    np.testing.assert_allclose(loss(0), plain, 1e-5)
    # 0.5 - 1 + 0.8 of the first, of the second nothing.
    margins = np.array([GRAPH[0, 1] * 0.3, 0.0])
    expected = WEIGHTS[[0, 2]] * (plain + 0.1 * margins)
    np.testing.assert_allclose(loss(1), expected, 1e-5)


def test_training_over_another_method(images):
    x, y = images
    method = krl.methods.CGR("trades", start=1)
    model = tiny_model(method=method, epsilon=0.2)
    history = model.fit(x, y, epochs=3, **FIT).history
    assert np.all(np.isfinite(history["loss"]))
    assert float(method.epochs) == 2
    np.testing.assert_allclose(keras.ops.sum(method.taken_for), len(y))
    np.testing.assert_allclose(keras.ops.sum(method.scores), 3, 1e-4)
    assert np.isfinite(model.evaluate(x, y, verbose=0)).all()


def test_methods_that_it_cannot_go_over():
    with pytest.raises(ValueError, match="must train on adversarial images"):
        krl.methods.CGR("standard")
    with pytest.raises(ValueError, match="a value for each image"):
        krl.methods.CGR(krl.methods.TAET(1))
    with pytest.raises(ValueError, match="is of CGR already"):
        krl.methods.CGR("cgr")


class OfTheBatch(krl.methods.Method):
    """One that does not say so."""

    def loss(self, targets, logits, criterion):
        return keras.ops.mean(criterion(targets, logits["adversarial"]))


@ONE_EPOCH
def test_a_loss_of_the_batch_that_does_not_say_so(images):
    model = tiny_model(method=krl.methods.CGR(OfTheBatch()), beta=0)
    with pytest.raises(ValueError, match="a value for each image"):
        model.fit(*images, **FIT)
