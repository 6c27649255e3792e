"""CIFAR-10 and CIFAR-100, in whichever form they are there."""

import io
import pickle
import urllib.error
import urllib.request

import numpy as np

from keras_robustlt.data import prepared
from keras_robustlt.data.arrays import read_npz

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
        `x_train, y_train, x_test, y_test`, and perhaps `class_names`.
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
        _check_reachable(HOST)
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


def _check_reachable(address):
    """Fails in seconds without a network, where TFDS tries for minutes."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # An answer, if not a friendly one.


def _read_pickles(folder, name):
    files = FILES[name]
    train = [_read_pickle(folder / file) for file in files["train"]]
    test = [_read_pickle(folder / files["test"])]
    names = _read_pickle(folder / files["meta"])[files["names"]]

    def images(records):
        flat = np.concatenate([np.asarray(r[b"data"], np.uint8) for r in records])
        return np.ascontiguousarray(flat.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))

    def labels(records):
        return np.concatenate([np.asarray(r[files["labels"]]) for r in records])

    try:
        arrays = images(train), labels(train), images(test), labels(test)
        class_names = [n.decode() for n in names]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"{folder} does not hold what the official {name} archive holds ({error}). "
            "Unpack the archive again."
        ) from error
    return *arrays, class_names


def _latin1(text, encoding):
    """Stands in for `_codecs.encode`, which can also run decompressors."""
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"text in the encoding {encoding!r}")
    return text.encode("latin1")


def _allowed_in_pickles():
    multiarray = np.zeros(1).__reduce__()[0]  # numpy's array maker, wherever it lives
    return {
        ("numpy.core.multiarray", "_reconstruct"): multiarray,
        ("numpy._core.multiarray", "_reconstruct"): multiarray,
        ("numpy", "ndarray"): np.ndarray,
        ("numpy", "dtype"): np.dtype,
        ("_codecs", "encode"): _latin1,
    }


class _ArrayUnpickler(pickle.Unpickler):
    """Reads pickles of plain containers and NumPy arrays, and refuses all else.

    A pickle can name any function to be called while it is read.
    """

    def find_class(self, module, name):
        allowed = _allowed_in_pickles()
        if (module, name) not in allowed:
            raise pickle.UnpicklingError(f"it asks to load {module}.{name}")
        return allowed[module, name]


def _read_pickle(file):
    if not file.is_file():
        raise FileNotFoundError(
            f"{file} is missing. Unpack the official archive again."
        )
    try:
        return _ArrayUnpickler(io.BytesIO(file.read_bytes()), encoding="bytes").load()
    except Exception as error:
        # A damaged or hostile pickle can raise nearly anything.
        raise ValueError(
            f"{file} was refused: {error}. Only plain containers and NumPy arrays are "
            "read from pickle files. Get the archive from its official source."
        ) from error
