"""CIFAR-10 and CIFAR-100, in whichever form they are there."""

import numpy as np

from keras_robustlt.data import prepared
from keras_robustlt.data.arrays import read_npz
from keras_robustlt.data.pickles import read_pickle

# The official archives: folder, training files, test file, and the keys inside.
FILES = {
    "cifar10": {
        "folder": "cifar-10-batches-py",
        "train": [f"data_batch_{i}" for i in range(1, 6)],
        "test": "test_batch",
        "labels": b"labels",
        "meta": "batches.meta",
        "names": b"label_names",
    },
    "cifar100": {
        "folder": "cifar-100-python",
        "train": ["train"],
        "test": "test",
        "labels": b"fine_labels",
        "meta": "meta",
        "names": b"fine_label_names",
    },
}
HOST = "https://www.cs.toronto.edu"


def read_cifar(name, root, download):
    """What tensorflow-datasets prepared, files the user has, or a download.

    Returns:
        A dictionary of `x_train`, `y_train`, `x_test`, `y_test`, and perhaps
        `class_names`.
    """
    folder, file = root / FILES[name]["folder"], root / f"{name}.npz"
    if (root / name).is_dir():
        builder = prepared.builder(name, root)
        if builder.is_prepared():
            return prepared.read_cifar(builder)
    if folder.is_dir():
        return _read_pickles(folder, name)
    if file.is_file():
        return read_npz(file)
    try:
        if not download:
            raise ConnectionError("downloads are off: download=False")
        prepared.check_reachable(HOST)
        builder = prepared.builder(name, root)
        builder.download_and_prepare()
    except Exception as error:
        # TFDS raises many kinds, of its own and of the libraries under it.
        raise FileNotFoundError(
            f"{name} was not found. Looked for\n"
            f"  - what tensorflow-datasets prepares: {root / name}\n"
            f"  - the official Python version, unpacked: {folder}\n"
            f"  - x_train, y_train, x_test, y_test: {file}\n"
            f"  - a download by tensorflow-datasets: {str(error)[:300]}\n"
            "To get it, with a network connection, unpack the Python version from "
            f"{HOST}/~kriz/cifar.html into a folder DIR, or run: python -c "
            '"import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\". Then pass data_dir='DIR'."
        ) from error
    return prepared.read_cifar(builder)


def _read_pickles(folder, name):
    files = FILES[name]
    train = [read_pickle(folder / file) for file in files["train"]]
    test = [read_pickle(folder / files["test"])]
    meta = read_pickle(folder / files["meta"])
    try:
        return {
            "x_train": _images(train),
            "y_train": _labels(train, files["labels"]),
            "x_test": _images(test),
            "y_test": _labels(test, files["labels"]),
            "class_names": [n.decode() for n in meta[files["names"]]],
        }
    except (LookupError, AttributeError, OverflowError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} does not hold what the official {name} archive holds "
            f"({str(error)[:200]}). Unpack the archive again."
        ) from error


def _images(records):
    flat = [record[b"data"] for record in records]
    for array in flat:
        if getattr(array, "dtype", None) != np.uint8:
            raise TypeError("its images are no array of uint8")
        if array.ndim != 2 or array.shape[1] != 3 * 32 * 32:
            raise ValueError(f"its images have the shape {array.shape}, not (n, 3072)")
    images = np.concatenate(flat).reshape(-1, 3, 32, 32)
    return np.ascontiguousarray(images.transpose(0, 2, 3, 1))


def _labels(records, key):
    labels = [record[key] for record in records]
    for one in labels:
        if type(one) is not list or any(type(label) is not int for label in one):
            raise TypeError("its labels are no list of integers")
    return np.concatenate([np.array(one, np.int64) for one in labels])
