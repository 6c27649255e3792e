import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_robustlt.metrics import ClasswiseAccuracy, summarize, tail_classes


def results(metric):
    return {name: float(value) for name, value in metric.result().items()}


def test_tail_is_the_share_of_classes_with_fewest_images():
    counts = [50, 10, 30, 20, 40]
    assert tail_classes(counts).tolist() == [1, 2, 3, 4]
    assert tail_classes(counts, 0.4).tolist() == [1, 3]
    assert tail_classes(counts, 1.0).tolist() == [0, 1, 2, 3, 4]
    # There is always a tail, and of two classes it is the rarer one.
    assert tail_classes(counts, 0.01).tolist() == [1]
    assert tail_classes([40, 6]).tolist() == [1]
    cifar = np.arange(10)[::-1] + 1
    assert tail_classes(cifar).tolist() == list(range(2, 10))


def test_of_equal_counts_the_higher_index_is_rarer():
    assert tail_classes([5, 5, 5, 5], 0.5).tolist() == [2, 3]
    assert tail_classes([5, 9, 5, 5], 0.5).tolist() == [2, 3]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=2, max_size=15), st.floats(0.01, 1))
def test_no_tail_class_has_more_images_than_a_head_class(counts, fraction):
    tail = tail_classes(counts, fraction)
    most = len(counts) if fraction == 1 else len(counts) - 1
    assert len(tail) == max(1, min(round(fraction * len(counts)), most))
    head = np.setdiff1d(np.arange(len(counts)), tail)
    counts = np.array(counts)
    assert not len(head) or counts[tail].max() <= counts[head].min()


def test_tail_fraction_out_of_range():
    with pytest.raises(ValueError, match=r"`fraction` must be a number in \[0, 1\]"):
        tail_classes([2, 1], 1.5)
    with pytest.raises(ValueError, match="`fraction` must be a number above 0"):
        tail_classes([2, 1], 0)


def test_summary_by_hand():
    assert summarize([9, 1, 0], [10, 5, 5], tail=[1, 2]) == {
        "all": 0.5,
        "tail": 0.1,
        "balanced": pytest.approx((0.9 + 0.2) / 3),
        "worst": 0.0,
        "per_class": [0.9, 0.2, 0.0],
    }


def test_summary_leaves_out_classes_without_examples():
    actual = summarize([3, 0, 1], [4, 0, 2], tail=[1, 2])
    assert actual["per_class"] == [0.75, None, 0.5]
    assert actual["balanced"] == 0.625
    assert actual["worst"] == actual["tail"] == 0.5
    assert summarize([3, 0], [4, 0], tail=[1])["tail"] is None


def test_accuracy_by_hand():
    metric = ClasswiseAccuracy([8, 3, 1], tail_fraction=0.34, prefix="robust_")
    predictions = np.eye(3)[[0, 0, 1, 1, 2, 0]]
    metric.update_state([0, 0, 0, 1, 2, 2], predictions)
    expected = {
        "robust_accuracy": 4 / 6,
        "robust_tail_accuracy": 1 / 2,
        "robust_balanced_accuracy": (2 / 3 + 1 + 1 / 2) / 3,
        "robust_worst_accuracy": 1 / 2,
    }
    assert results(metric) == pytest.approx(expected)


def test_agrees_with_the_summary_over_batches():
    rng = np.random.default_rng(0)
    labels, logits = rng.integers(0, 2, 20), rng.normal(size=(20, 3))
    metric = ClasswiseAccuracy([8, 3, 1], tail_fraction=0.67)
    for batch in np.split(np.arange(20), [7, 14]):
        # Labels of any form; class 2 does not occur.
        metric.update_state(np.eye(3)[labels[batch]], logits[batch])
    hits = logits.argmax(axis=1) == labels
    correct, total = (np.bincount(labels, w, minlength=3) for w in (hits, None))
    expected = summarize(correct, total, [1, 2])
    actual = results(metric)
    assert actual["accuracy"] == pytest.approx(expected["all"])
    assert actual["tail_accuracy"] == pytest.approx(expected["tail"])
    assert actual["balanced_accuracy"] == pytest.approx(expected["balanced"])
    assert actual["worst_accuracy"] == pytest.approx(expected["worst"])


@pytest.mark.parametrize("shape", [(4,), (4, 1)])
def test_sample_weight(shape):
    metric = ClasswiseAccuracy([3, 1], tail_fraction=0.5)
    predictions = np.eye(2)[[0, 1, 1, 0]]
    weight = np.reshape([1.0, 3.0, 2.0, 0.0], shape)
    metric.update_state(np.reshape([0, 0, 1, 1], shape), predictions, weight)
    expected = {
        "accuracy": 3 / 6,
        "tail_accuracy": 1,
        "balanced_accuracy": 5 / 8,
        "worst_accuracy": 1 / 4,
    }
    assert results(metric) == pytest.approx(expected)


def test_reset_forgets():
    metric = ClasswiseAccuracy([3, 1])
    assert set(results(metric).values()) == {0.0}
    metric.update_state([0, 1], np.eye(2))
    assert results(metric)["accuracy"] == 1
    metric.reset_state()
    metric.update_state([0, 1], 1 - np.eye(2))
    assert set(results(metric).values()) == {0.0}


def test_in_an_ordinary_keras_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    model.set_weights([np.eye(2)])
    metric = ClasswiseAccuracy([3, 1], tail_fraction=0.5)
    model.compile(loss="sparse_categorical_crossentropy", metrics=[metric])
    x = np.eye(2, dtype="float32")[[0, 1, 1]]
    logs = model.evaluate(x, np.array([0, 0, 1]), verbose=0, return_dict=True)
    assert logs["tail_accuracy"] == 1
    assert logs["balanced_accuracy"] == pytest.approx(0.75)


def test_of_no_image_there_is_no_accuracy():
    metric = ClasswiseAccuracy([5, 1], tail_fraction=0.5)
    assert float(metric.result()["tail_accuracy"]) == 0
    metric.update_state([0], [[1.0, 0.0]])
    assert np.isnan(float(metric.result()["tail_accuracy"]))


def test_logits_that_are_no_numbers_are_right_for_no_class():
    metric = ClasswiseAccuracy([2, 1])
    metric.update_state([0, 0, 1], [[np.nan, np.nan], [np.inf, 0.0], [0.0, 1.0]])
    np.testing.assert_allclose(metric.correct, [0, 1])


@pytest.mark.tensorflow
def test_a_label_out_of_range_is_of_no_class():
    import tensorflow as tf

    metric = ClasswiseAccuracy([5, 3, 1])
    arguments = map(tf.constant, ([7, -1, 1], np.eye(3)[[0, 0, 1]]))
    tf.function(metric.update_state)(*arguments)  # where no value can be looked at
    assert keras.ops.convert_to_numpy(metric.total).tolist() == [0, 1, 0]
    with pytest.raises(ValueError, match="`y_pred` must hold numbers, in the shape"):
        metric.update_state([0, 1], np.eye(4)[:2])
