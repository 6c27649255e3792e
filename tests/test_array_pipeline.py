"""The pipeline where TensorFlow is not installed, and training on it."""

import os
import pathlib
import signal
import subprocess
import sys

import keras
import numpy as np
import pytest
from test_own_images import make_folder
from test_repository import WITHOUT_TENSORFLOW
from tiny_models import FIT, tiny_model, weights_of

import keras_robustlt as krl
from keras_robustlt.data import AUGMENTATIONS, array_ops, resumption
from keras_robustlt.data.augmentation import get_augmentation

TESTS = pathlib.Path(__file__).resolve().parent
# The value of an image is its index, so a batch tells which images it holds.
X = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None, None], (40, 16, 16, 1))
Y = np.repeat([0, 1, 2], [30, 8, 2])


@pytest.fixture
def pipeline(monkeypatch):
    """`data.pipeline` as it is without TensorFlow."""

    def make(*arguments, **options):
        with monkeypatch.context() as patched:
            patched.setitem(sys.modules, "tensorflow", None)
            return krl.data.pipeline(*arguments, **options)

    return make


def epoch_of(dataset):
    return [np.concatenate(part) for part in zip(*dataset, strict=True)]


def order_of(dataset):
    return np.round(epoch_of(dataset)[0][:, 0, 0, 0] * 255).astype(int).tolist()


def test_batches(pipeline):
    dataset = pipeline(X, Y, 16, shuffle=False)
    assert isinstance(dataset, keras.utils.PyDataset)
    assert [len(y) for _, y in dataset] == [16, 16, 8]
    x, y = epoch_of(dataset)
    assert x.dtype == np.float32 and y.dtype == np.int64
    assert (x == X / np.float32(255)).all() and (y == Y).all()
    assert len(pipeline(X, Y, 16, drop_remainder=True)) == 2
    with pytest.raises(IndexError, match="3 batches. Received: index=3"):
        dataset[3]


def test_epoch_is_a_function_of_seed_and_number(pipeline):
    dataset = pipeline(X, Y, 16, "base", seed=-3)
    run = [epoch_of(dataset) for _ in range(3)]
    assert int(dataset.epoch) == 3
    assert not (run[0][0] == run[1][0]).all()
    resumed = pipeline(X, Y, 16, "base", seed=-3)
    resumed.epoch.assign(2)
    for ours, theirs in zip(epoch_of(resumed), run[2], strict=True):
        assert (ours == theirs).all()
    # Batches can be asked for in any order.
    dataset.epoch.assign(1)
    assert (dataset[2][0] == run[1][0][32:]).all()
    assert (dataset[0][0] == run[1][0][:16]).all()
    assert not (epoch_of(pipeline(X, Y, 16, "base", seed=4))[0] == run[0][0]).all()


def test_every_epoch_has_every_image(pipeline):
    dataset = pipeline(X, Y, 16)
    first, second = order_of(dataset), order_of(dataset)
    assert first != second
    assert sorted(first) == sorted(second) == list(range(40))


def test_shards_are_parts_of_the_same_batches(pipeline):
    whole = list(pipeline(X, Y, 16, "base", seed=3, drop_remainder=True))
    shards = [pipeline(X, Y, 16, "base", seed=3, shard=(i, 2)) for i in (0, 1)]
    for (x, y), *parts in zip(whole, *shards, strict=True):
        for together, part in zip((x, y), zip(*parts, strict=True), strict=True):
            assert [len(each) for each in part] == [8, 8]
            np.testing.assert_array_equal(np.concatenate(part), together)


def test_balanced_sampling_shows_classes_alike(pipeline):
    labels = np.repeat([0, 1, 2], [2900, 98, 2])
    images = np.arange(3000)[:, None, None, None] / 3000
    dataset = pipeline(images, labels, 500, balanced_sampling=True, seed=1)
    x, drawn = epoch_of(dataset)
    # Three standard deviations of a share are .026.
    assert np.abs(np.bincount(drawn) / 3000 - 1 / 3).max() < 0.03
    assert (x[drawn == 2] >= 0.995).all() and (x[drawn == 0] < 0.97).all()


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_same_draws_give_the_images_of_the_training_step(name):
    shape = (20, 24, 3)
    images = np.random.default_rng(0).integers(0, 256, (64, *shape), dtype="uint8")
    augment = get_augmentation(name, shape)
    draws = np.random.default_rng(1).random((64, augment.num_draws), "float32")
    expected = augment.apply(array_ops.device(), images, draws)
    out = augment(images, draws)
    assert out.dtype == np.uint8
    # A continuous angle can round to the other of two neighbouring steps of 1/65536.
    differ = (out != keras.ops.convert_to_numpy(expected)).mean()
    assert differ <= (1e-4 if name == "base_rotation" else 0)


def test_interrupted_training_ends_as_an_uninterrupted_one(pipeline, tmp_path):
    def run(folder, stop_at=None):
        keras.utils.set_random_seed(3)
        model = tiny_model(class_counts=[30, 8, 2])
        data = pipeline(np.repeat(X, 3, axis=-1)[:, :6, :6], Y, 16, seed=1)
        stop = keras.callbacks.LambdaCallback(
            on_epoch_begin=lambda epoch, logs: epoch == stop_at and 1 / 0
        )
        listed = [stop, krl.callbacks.Checkpoint(folder)]
        model.fit(data, epochs=3, verbose=FIT["verbose"], callbacks=listed)
        return weights_of(model)

    whole = run(tmp_path / "whole")
    with pytest.raises(ZeroDivisionError):
        run(tmp_path / "parts", stop_at=2)
    np.testing.assert_array_equal(run(tmp_path / "parts"), whole)


def test_a_checkpoint_tells_it_from_tf_data(pipeline):
    made = pipeline(X, Y, 16)
    assert resumption.unknown_order({"x": made}) is None
    assert resumption.described({"x": made})["drawn_by"] == "NumPy"


# Whole runs, in processes that have no TensorFlow


@pytest.fixture
def python(tmp_path):
    """Runs Python on JAX, where TensorFlow cannot be imported, with arguments."""
    pytest.importorskip("jax")
    (tmp_path / "blocker").mkdir()
    # Python imports this as it starts, in the processes of a comparison too.
    (tmp_path / "blocker" / "sitecustomize.py").write_text(WITHOUT_TENSORFLOW)
    path = os.pathsep.join([str(tmp_path / "blocker"), str(TESTS.parent)])
    environment = {**os.environ, "KERAS_BACKEND": "jax", "PYTHONPATH": path}

    def run(*arguments, **changed):
        command = [sys.executable, *map(str, arguments)]
        result = subprocess.run(
            command,
            cwd=tmp_path,
            env={**environment, **changed},
            capture_output=True,
            text=True,
        )
        return result.returncode, result.stdout + result.stderr

    return run


@pytest.mark.tensorflow  # of one backend is enough
def test_a_missing_backend_is_named(python):
    arguments = "-m", "keras_robustlt", "train", "--data=digits"
    code, text = python(*arguments, KERAS_BACKEND="tensorflow")
    assert code == 1
    assert text.startswith("error: No module named 'tensorflow'. The backend of Keras")
    assert "KERAS_BACKEND=jax" in text and text.count("\n") == 1


@pytest.mark.slow
@pytest.mark.tensorflow
def test_killed_training_ends_as_an_uninterrupted_one(python, tmp_path):
    script = TESTS / "resume_script.py"
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    code, text = python(script, whole, killed, 6)
    assert code == -signal.SIGKILL, text
    assert not (killed / "end.npz").exists()
    code, text = python(script, killed)
    assert code == 0, text
    with np.load(whole / "end.npz") as expected, np.load(killed / "end.npz") as actual:
        assert set(actual) == set(expected)
        for name in expected:
            np.testing.assert_array_equal(actual[name], expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.tensorflow
def test_recipes_and_images_of_ones_own(python, tmp_path):
    common = "--epochs=2", "--pgd_steps=1", "--attacks=clean", "--workdir=run"
    recipe = TESTS.parent / "recipes" / "digitslt.py"
    code, text = python(recipe, "--compare", *common)
    assert code == 0, text
    assert (tmp_path / "run" / "report.html").exists()
    make_folder(tmp_path / "my images")
    train = "-m", "keras_robustlt", "train", "--data=my images", "--nocompare"
    code, text = python(*train, *common[:-1], "--workdir=mine")
    assert code == 0, text
    assert "1 of 37 files cannot be read" in text
    assert (tmp_path / "mine" / "report.html").exists()
    image = next((tmp_path / "my images" / "rare").iterdir())
    network = tmp_path / "mine" / "network.keras"
    code, text = python("-m", "keras_robustlt", "predict", network, image)
    assert code == 0 and "common é" in text, text
