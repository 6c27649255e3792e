"""Everything noteworthy about a data set, in one table."""

import hashlib
import inspect
import os
import warnings

import numpy as np

from keras_robustlt.data.arrays import unread_arrays
from keras_robustlt.data.findings import (
    ERROR,
    NOTE,
    WARNING,
    DataCheck,
    note_duplicates,
)
from keras_robustlt.data.sources import check_options, find_folder, load
from keras_robustlt.files import at_home


def check(source, data_dir=None, **options):
    """Looks through a data set, and says what is noteworthy about it.

    Files that cannot be read or are left out, images that are there twice, in two
    parts of the data or in two classes, images that are turned or of another mode or
    size, suspicious names of folders, classes with fewer than two images, the
    imbalance. Nothing is changed, images of folders are not kept in memory, and
    TensorFlow is needed only for what tensorflow-datasets has prepared.

    Args:
        source: As in `data.load`: a folder, an `.npz` file, arrays or a name.
        data_dir: Path to look in. Defaults to `None`.
        **options: The other arguments of `data.load`: what it would refuse with them
            is an error here, what it warns of is a warning.

    Returns:
        A `DataCheck`: `print` shows the table, `findings` is a list of dictionaries.

    Raises:
        FileNotFoundError: If the source is not there.

    Example:

    >>> images = np.zeros((4, 8, 8, 1), "uint8")
    >>> images += np.array([0, 60, 120, 180], "uint8").reshape(4, 1, 1, 1)
    >>> checked = krl.data.check(((images, [0, 0, 1, 1]), (images[:2], [0, 1])))
    >>> [finding["kind"] for finding in checked.findings]
    ['in train and test', 'two classes']
    """
    inspect.signature(load).bind(source, data_dir, **options)
    name = source if isinstance(source, (str, os.PathLike)) else "arrays"
    result = DataCheck(name)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            folder, read = find_folder(source, data_dir)
            if folder is not None:
                check_options(**options)
                options.pop("download", None)
                read(folder, result, pixels=False, **options)
            else:
                _check_arrays(load(source, data_dir=data_dir, **options), result)
                _note_unread_arrays(source, result)
        except FileNotFoundError:
            raise
        except (OSError, ValueError) as error:
            result.add(ERROR, "refused", str(error), count=1)
    for message in dict.fromkeys(str(warning.message) for warning in caught):
        result.add(WARNING, "warning", message, count=1)
    _note_counts(result)
    return result


def _check_arrays(found, result):
    parts = {}
    for part in ("train", "validation", "test"):
        images, labels = getattr(found, f"x_{part}"), getattr(found, f"y_{part}")
        if images is None:
            continue
        result.count(part, found.class_names, labels)
        places = [f"x_{part}[{i}]" for i in range(len(images))]
        images = np.ascontiguousarray(images)
        digests = [hashlib.blake2b(x, digest_size=16).digest() for x in images]
        parts[part] = list(zip(places, digests, labels.tolist(), strict=True))
    note_duplicates(result, parts, found.class_names)


def _note_unread_arrays(source, result):
    path = None if isinstance(source, (tuple, list)) else at_home(source)
    if path is not None and path.suffix.lower() == ".npz":
        unread = unread_arrays(path)
        if unread:
            result.add(NOTE, "not read", "Arrays of other names.", unread)


def _note_counts(result):
    """Notes what the numbers of images say."""
    for part, counts in result.class_counts.items():
        few = [f"{name}: {count}" for name, count in counts.items() if count < 2]
        if few and part == "train":
            result.add(
                WARNING, "few images", "Classes with fewer than two images.", few
            )
        none = [name for name, count in counts.items() if count == 0]
        if none and part != "train":
            result.add(
                WARNING,
                "no images",
                f"Classes without images in {part}: their accuracy is unknown.",
                none,
            )
    counts = np.array([*result.class_counts.get("train", {}).values()])
    if counts.size and 0 < counts.min() < counts.max():
        result.add(
            NOTE,
            "imbalance",
            f"The largest class has {counts.max() / counts.min():.3g} times the "
            "training images of the smallest.",
            count=1,
        )
