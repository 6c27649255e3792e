"""Data sets of Keras and of tensorflow-datasets, by their names."""

import sys

import keras
import numpy as np
import pytest

import keras_robustlt as krl
from keras_robustlt.data import sources
from keras_robustlt.experiments import presets

COUNTS = (12, 6, 4)
NAMES = ["né vus", "b", "c"]


def write_tfds(root, name, splits, sizes=((12, 12),), secret=()):
    """What tensorflow-datasets prepares, of images whose value is their label."""
    tf = pytest.importorskip("tensorflow")
    tfds = pytest.importorskip("tensorflow_datasets")
    shape = (*sizes[0], 3) if len(sizes) == 1 else (None, None, 3)

    def rows(split):
        for index, label in enumerate(np.repeat(np.arange(3), COUNTS)):
            size = sizes[index % len(sizes)]
            image = np.full((*size, 3), 50 * label + index, np.uint8)
            yield {"image": image, "label": -1 if split in secret else label}

    signature = {
        "image": tf.TensorSpec(shape, tf.uint8),
        "label": tf.TensorSpec((), tf.int64),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name=name,
        version="1.0.0",
        features=tfds.features.FeaturesDict(
            {
                "image": tfds.features.Image(shape=shape),
                "label": tfds.features.ClassLabel(names=NAMES),
            }
        ),
        data_dir=root,
        split_datasets={
            split: tf.data.Dataset.from_generator(
                lambda split=split: rows(split), output_signature=signature
            )
            for split in splits
        },
    )


def test_tfds(tmp_path):
    write_tfds(tmp_path, "skin", ["train", "validation", "test"], secret=["test"])
    found = krl.data.load("tfds:skin", data_dir=tmp_path)
    assert found.class_names == tuple(NAMES)
    assert np.bincount(found.y_train).tolist() == list(COUNTS)
    assert (found.x_train[:, 0, 0, 0] // 50 >= found.y_train).all()
    # Nobody knows the labels of test: validation takes its place.
    assert len(found.x_test) == sum(COUNTS)
    assert found.x_validation is None


def test_tfds_of_several_sizes_and_without_test_images(tmp_path):
    write_tfds(tmp_path, "varied", ["train"], sizes=((8, 10), (14, 12)))
    with pytest.raises(ValueError, match="several sizes. Pass `image_size`"):
        krl.data.load("tfds:varied", data_dir=tmp_path)
    found = krl.data.load("tfds:varied", data_dir=tmp_path, image_size=9)
    assert found.x_train.shape[1:] == (9, 9, 3)
    assert np.bincount(found.y_test).tolist() == [2, 1, 1]
    proposal = presets.table_of("tfds:varied", str(tmp_path)).proposal({})
    assert proposal.settings["image_size"] == 10
    assert "2 sizes" in proposal.reasons["image_size"]


def test_tfds_that_is_not_there(tmp_path):
    pytest.importorskip("tensorflow_datasets")
    for name in ("nowhere", "svhn_cropped"):
        with pytest.raises(FileNotFoundError, match=f"tfds:{name} cannot be had: "):
            krl.data.load(f"tfds:{name}", data_dir=tmp_path, download=False)


def test_data_of_keras(tmp_path, monkeypatch):
    x, y = np.zeros((20, 28, 28), np.uint8), np.arange(20) % 10
    module = keras.datasets.fashion_mnist
    monkeypatch.setattr(module, "load_data", lambda: ((x, y), (x, y)))
    found = krl.data.load("fashion_mnist", data_dir=tmp_path)
    assert found.x_train.shape == (20, 28, 28, 1)
    assert found.class_names[9] == "Ankle boot"

    def fails():
        raise Exception("URL fetch failure")

    monkeypatch.setattr(module, "load_data", fails)
    with pytest.raises(FileNotFoundError, match="URL fetch failure"):
        krl.data.load("fashion_mnist", data_dir=tmp_path)
    np.savez(tmp_path / "fashion_mnist.npz", x_train=x, y_train=y, x_test=x, y_test=y)
    assert len(krl.data.load("fashion_mnist", data_dir=tmp_path).x_test) == 20


def test_names_of_data():
    """Of all commands, and of the directories of their runs."""
    assert sources.source_of("imagenet") == sources.source_of("imagenet64")
    assert sources.source_of("cifar10lt") == "cifar10"
    assert presets.file_name_of("tfds:a/b:1.0.0") == "a-b-1.0.0"
    table = presets.table_of("tfds:skin", "DIR")
    assert table.uses_data_dir and table.compares and table.data_dir == "DIR"
    with pytest.raises(ValueError, match="mnist.*tfds:NAME"):
        presets.table_of("svhn")


@pytest.mark.tensorflow
def test_a_tfds_that_fails_inside_is_said(tmp_path, monkeypatch):
    # The package swallows the errors of its parts, and has nothing in it then.
    monkeypatch.setitem(sys.modules, "tensorflow_datasets.core", None)
    with pytest.raises(ImportError, match="which cannot be imported.*metadata"):
        krl.data.load("tfds:mnist", data_dir=tmp_path)
