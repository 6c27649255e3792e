import numpy as np
import pytest

from keras_robustlt.data import long_tail, long_tail_arrays
from keras_robustlt.data.pipeline import pipeline

tf = pytest.importorskip("tensorflow")
pytestmark = pytest.mark.tensorflow

# The value of an image is its index, so a batch tells which images it holds.
X = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 16, 16, 1))
Y = np.repeat([0, 1, 2], [30, 8, 2])


def epoch_of(dataset):
    """The images of an epoch, one array, and the labels."""
    batches = [(x.numpy(), y.numpy()) for x, y in dataset]
    return [np.concatenate(part) for part in zip(*batches, strict=True)]


def order_of(dataset):
    x, _ = epoch_of(dataset)
    return np.round(x[:, 0, 0, 0] * 255).astype(int).tolist()


def test_batches():
    dataset = pipeline(X, Y, 16, shuffle=False)
    assert dataset.cardinality() == len(dataset) == 3
    assert dataset.element_spec[0].shape.as_list() == [None, 16, 16, 1]
    x, y = epoch_of(dataset)
    assert x.dtype == np.float32
    assert y.dtype == np.int64
    assert (x == X / np.float32(255)).all()
    assert (y == Y).all()


def test_remainder_can_be_dropped():
    dataset = pipeline(X, Y, 16, drop_remainder=True)
    assert [len(y) for _, y in dataset] == [16, 16]
    assert dataset.cardinality() == 2
    assert dataset.element_spec[0].shape[0] == 16


def test_validation_fills_a_batch_of_shards():
    options = {"validation_fraction": 0.2, "batch_size": 64, "shard": (0, 2)}
    with pytest.raises(ValueError, match="must fill a batch. .* holds out 61 images"):
        long_tail("digits", **options)


def test_shards_are_parts_of_the_same_batches():
    whole = [list(pipeline(X, Y, 16, "base", seed=3, drop_remainder=True))]
    shards = [list(pipeline(X, Y, 16, "base", seed=3, shard=(i, 2))) for i in (0, 1)]
    assert len(shards[0]) == len(shards[1]) == len(whole[0]) == 2
    for (x, y), *parts in zip(*whole, *shards, strict=True):
        xs, ys = zip(*parts, strict=True)
        assert [len(part) for part in xs] == [8, 8]
        np.testing.assert_array_equal(np.concatenate(xs), x)
        np.testing.assert_array_equal(np.concatenate(ys), y)


def test_every_epoch_is_another_permutation():
    dataset = pipeline(X, Y, 16)
    first, second = order_of(dataset), order_of(dataset)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(40))


def test_epoch_is_a_function_of_seed_and_number():
    dataset = pipeline(X, Y, 16, "base", seed=3)
    run = [epoch_of(dataset) for _ in range(3)]
    assert dataset.epoch.numpy() == 3
    resumed = pipeline(X, Y, 16, "base", seed=3)
    resumed.epoch.assign(2)
    for ours, theirs in zip(epoch_of(resumed), run[2], strict=True):
        assert (ours == theirs).all()
    # And back again, in the same process.
    dataset.epoch.assign(1)
    assert (epoch_of(dataset)[0] == run[1][0]).all()
    other = pipeline(X, Y, 16, "base", seed=4)
    assert not (epoch_of(other)[0] == run[0][0]).all()


def test_skipping_resumes_in_mid_epoch():
    whole = order_of(pipeline(X, Y, 16, seed=3))
    assert order_of(pipeline(X, Y, 16, seed=3).skip(1)) == whole[16:]


def test_batch_size_does_not_change_what_an_epoch_holds():
    small = epoch_of(pipeline(X, Y, 4, "base", seed=3))
    large = epoch_of(pipeline(X, Y, 40, "base", seed=3))
    assert (small[0] == large[0]).all()


def test_an_abandoned_epoch_leaves_no_trace():
    dataset = pipeline(X, Y, 4, seed=3)
    expected = order_of(dataset)
    next(iter(dataset))
    dataset.epoch.assign(0)
    assert order_of(dataset) == expected


def test_fit_can_set_the_epoch():
    import keras

    if keras.backend.backend() != "tensorflow":
        pytest.skip("reads batches inside a TensorFlow train step")

    def fit(initial_epoch):
        seen = []
        dataset = pipeline(X, Y, 16, seed=3)

        class Recorder(keras.Model):
            def call(self, x):
                return x

            def train_step(self, data):
                tf.py_function(lambda x: seen.append(x.numpy()), [data[0]], [])
                return {"batches": tf.constant(0.0)}

        set_epoch = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: dataset.epoch.assign(epoch)
        )
        model = Recorder()
        model.compile()
        model.fit(
            dataset,
            epochs=3,
            initial_epoch=initial_epoch,
            verbose=0,
            shuffle=False,
            callbacks=[set_epoch],
        )
        return np.concatenate(seen)

    assert (fit(0)[80:] == fit(2)).all()


def test_balanced_sampling_shows_classes_alike():
    labels = np.repeat([0, 1, 2], [2900, 98, 2])
    images = np.zeros((3000, 1, 1, 1), np.uint8)
    dataset = pipeline(images, labels, 500, balanced_sampling=True, seed=1)
    _, drawn = epoch_of(dataset)
    assert len(drawn) == 3000
    # Three standard deviations of a share are .026.
    assert np.abs(np.bincount(drawn) / 3000 - 1 / 3).max() < 0.03
    assert not (epoch_of(dataset)[1] == drawn).all()
    dataset.epoch.assign(0)
    assert (epoch_of(dataset)[1] == drawn).all()


def test_balanced_sampling_reaches_every_image():
    dataset = pipeline(X[:10], [0] * 8 + [1] * 2, 10, balanced_sampling=True)
    assert {i for _ in range(20) for i in order_of(dataset)} == set(range(10))


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"batch_size": 0}, "`batch_size` must be a positive integer"),
        ({"batch_size": 64, "drop_remainder": True}, "make no batch"),
        ({"shard": (2, 2)}, r"index from 0 to count - 1. Received: shard=\(2, 2\)"),
        ({"shard": (0, 3)}, "multiple of the 3 processes"),
        ({"augmentation": "all"}, "must be one of none, base, aua.*'all'"),
        ({"augmentation": "aua"}, "needs images of 3 channels"),
        ({"balanced_sampling": True, "shuffle": False}, "needs shuffle=True"),
        ({"balanced_sampling": True, "num_classes": 4}, "class 3 has no images"),
        ({"images": X[:, :8, :8], "augmentation": "base"}, "images of 8x8"),
        ({"images": X.astype(np.float32)}, "divide images"),
        ({"images": X[:9]}, "9 images and 40 labels"),
    ],
)
def test_pipeline_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        pipeline(**{"images": X, "labels": Y, "batch_size": 16, **arguments})


# From a name to long-tailed data


def test_long_tail_digits():
    data = long_tail("digits", imbalance_ratio=50, batch_size=32)
    train, test, class_counts = data
    assert class_counts.dtype == np.int64
    assert class_counts.tolist() == [114, 73, 47, 30, 20, 12, 8, 5, 3, 2]
    x, y = epoch_of(train)
    assert (np.bincount(y) == class_counts).all()
    assert x.shape == (314, *data.input_shape) == (314, 8, 8, 1)
    assert np.bincount(epoch_of(test)[1]).tolist() == [60] * 10
    assert data.validation is None
    assert data.num_classes == 10
    assert "314 training images" in repr(data)
    assert "9: 2" in repr(data)


def test_long_tail_arrays_are_the_same_images():
    data = long_tail("digits", validation_fraction=0.2)
    arrays = long_tail_arrays("digits", validation_fraction=0.2)
    for part in ("train", "validation", "test"):
        x, y = epoch_of(getattr(data, part))
        expected_x, expected_y = getattr(arrays, part)
        assert expected_x.dtype == np.float32
        assert sorted(zip([i.tobytes() for i in x], y, strict=True)) == sorted(
            zip([i.tobytes() for i in expected_x], expected_y, strict=True)
        )
    assert arrays.class_counts.sum() == len(arrays.train[0])
    assert len(arrays.validation[0]) + len(arrays.train[0]) == 314


def test_imbalanced_data_can_stay_as_they_are():
    data = long_tail_arrays(((X, Y), (X, Y)), imbalance_ratio=None)
    assert data.class_counts.tolist() == [30, 8, 2]
    with (
        pytest.raises(ValueError, match="`imbalance_ratio` can be at most 2"),
        pytest.warns(UserWarning, match="imbalance_ratio=None keeps every"),
    ):
        long_tail_arrays(((X, Y), (X, Y)), imbalance_ratio=50)


def test_augmentation_suits_the_source():
    assert np.unique(epoch_of(long_tail("digits").train)[0], axis=0).shape[0] > 300
    arrays = ((X + 1, Y), (X + 1, Y))
    shifted, _ = epoch_of(long_tail(arrays, imbalance_ratio=1).train)
    assert (shifted[:, 0] == 0).any()  # the black border of a crop
