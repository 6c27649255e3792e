"""Where images come from: named data sets, files, folders and arrays.

`load` turns every source into the same `Source` of uint8 images. It needs NumPy,
Pillow for image folders and resizing, scikit-learn for the digits, and TensorFlow
only for data that tensorflow-datasets has prepared.
"""

import dataclasses
import os
import pathlib

import numpy as np

from keras_robustlt.data import cifar, folders, prepared
from keras_robustlt.data.arrays import check_images, check_labels, read_npz
from keras_robustlt.data.selection import chosen_classes

NAMES = ("cifar10", "cifar100", "tinyimagenet", "imagenet64", "digits")
DIGITS_TEST_IMAGES = 60


@dataclasses.dataclass(frozen=True)
class Source:
    """Images of a training and a test set.

    Args:
        x_train: uint8 array of shape `(num_train, height, width, channels)`.
        y_train: int64 array of shape `(num_train,)`, labels `0..num_classes - 1`.
        x_test: uint8 array, the test images.
        y_test: int64 array, the test labels.
        class_names: Tuple of strings, one a class.
        name: String, for messages and reports.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple
    name: str

    @property
    def num_classes(self):
        return len(self.class_names)


def load(
    source,
    data_dir=None,
    download=True,
    image_size=None,
    test_fraction=0.2,
    seed=102,
    classes=None,
):
    """Reads a data set into memory.

    Args:
        source: One of

            - `"cifar10"`, `"cifar100"`: prepared by tensorflow-datasets in `data_dir`,
              or there as the folder `cifar-10-batches-py` (`cifar-100-python`) or the
              file `cifar10.npz` (`cifar100.npz`), looked for in this order; failing
              that, tensorflow-datasets downloads it if `download` allows;
            - `"tinyimagenet"`: the folder `tiny-imagenet-200` in `data_dir`, or
              `data_dir` itself, as it is unpacked or with `val` sorted into class
              folders; the images of `val` are the test set;
            - `"imagenet64"`: ImageNet at 64x64 pixels, prepared in `data_dir` by
              tensorflow-datasets as `imagenet_resized/64x64`; the validation images
              are the test set. All 1000 classes take 16 GB of memory;
            - `"digits"`: the 8x8 handwritten digits of scikit-learn, of which `seed`
              holds 60 images a class out for testing;
            - the path of an `.npz` file with the arrays `x_train`, `y_train`,
              `x_test`, `y_test`, and perhaps `class_names`;
            - the path of a folder with one sub-folder of images a class, either in
              `train/` and `test/` (or `val/`), or directly, and then `seed` holds
              `test_fraction` of each class out for testing;
            - arrays, `((x_train, y_train), (x_test, y_test))`.

            Images are uint8, or floats in `[0, 1]` (stored in steps of 1/255), of
            shape `(num_images, height, width, channels)` or
            `(num_images, height, width)`.
        data_dir: Path of a folder, where to look for the data sets that have a name.
            Defaults to `None`: where tensorflow-datasets keeps its data.
        download: Boolean, whether tensorflow-datasets may download CIFAR into
            `data_dir` if it is not found there. Defaults to `True`.
        image_size: Integer, or `(height, width)`: resize the images to this. Defaults
            to `None`: leave them as they are.
        test_fraction: Float in `(0, 1)`, for folders without a test set. Defaults to
            `0.2`.
        seed: Integer, for held-out test images. Defaults to `102`.
        classes: Which classes to keep: an integer, the first so many, or a list of
            class indices or class names, in the order of their new labels. Images of
            other classes are not read where they are files or in TensorFlow
            Datasets' ImageNet. Defaults to `None`: all.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: If there is no such data. The message lists every place
            that was looked at.
        ValueError: If the data cannot be used. The message says what to change.

    Example:

    >>> krl.data.load("digits").x_train.shape
    (1197, 8, 8, 1)
    >>> krl.data.load("digits", classes=2).class_names
    ('0', '1')
    """
    if isinstance(source, (tuple, list)):
        found = _keep(_source("arrays", *_unpacked(source)), classes)
    elif source == "digits":
        found = _keep(_source("digits", *_digits(seed)), classes)
    elif source in cifar.FILES:
        root = _data_root(source, data_dir)
        found = _source(source, *cifar.read_cifar(source, root, download))
        found = _keep(found, classes)
    elif source == "tinyimagenet":
        root = folders.find_tiny_imagenet(_data_root(source, data_dir))
        parts = folders.read_tiny_imagenet(root, image_size, classes)
        found = _source(source, *parts)
    elif source == "imagenet64":
        root = _data_root(source, data_dir)
        found = _source(source, *prepared.read_imagenet64(root, classes))
    else:
        found = _from_path(source, image_size, test_fraction, seed, classes)
    if image_size is None:
        return found
    height, width = folders.height_and_width(image_size)
    return dataclasses.replace(
        found,
        x_train=folders.resize(found.x_train, height, width),
        x_test=folders.resize(found.x_test, height, width),
    )


def _data_root(name, data_dir):
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = pathlib.Path(data_dir or default).expanduser()
    if data_dir is not None and not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(root)!r} to look for {name} in. Create it, or "
            f"correct the path. Received: data_dir={str(data_dir)!r}"
        )
    return root


def _from_path(source, image_size, test_fraction, seed, classes):
    path = pathlib.Path(source).expanduser()
    if path.suffix == ".npz" and path.is_file():
        return _keep(_source(path.stem, *read_npz(path)), classes)
    if path.is_dir():
        parts = folders.read_folder(path, image_size, test_fraction, seed, classes)
        return _source(path.name, *parts)
    raise FileNotFoundError(
        f"`source` must be one of {', '.join(map(repr, NAMES))}, the path of an .npz "
        "file or of a folder with one sub-folder of images a class, or the arrays "
        "((x_train, y_train), (x_test, y_test)). "
        f"Received: source={str(source)!r}, and no file or folder is there."
    )


def _unpacked(arrays):
    try:
        (x_train, y_train), (x_test, y_test) = arrays
    except (TypeError, ValueError):
        raise ValueError(
            "Arrays are given as `source=((x_train, y_train), (x_test, y_test))`. "
            f"Received: a {type(arrays).__name__} of {len(arrays)} items."
        ) from None
    return x_train, y_train, x_test, y_test


def _digits(seed):
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)
    generator = np.random.default_rng(seed)
    shuffled = [
        generator.permutation(np.flatnonzero(digits.target == c)) for c in range(10)
    ]
    test = np.concatenate([c[:DIGITS_TEST_IMAGES] for c in shuffled])
    train = np.sort(np.concatenate([c[DIGITS_TEST_IMAGES:] for c in shuffled]))
    return images[train], digits.target[train], images[test], digits.target[test]


def _source(name, x_train, y_train, x_test, y_test, class_names=None):
    """The one door into a `Source`: everything read from anywhere passes it."""
    x_train, x_test = check_images(x_train, "x_train"), check_images(x_test, "x_test")
    y_train, y_test = check_labels(y_train, "y_train"), check_labels(y_test, "y_test")
    for part, x, y in (("train", x_train, y_train), ("test", x_test, y_test)):
        if len(x) != len(y):
            raise ValueError(
                f"`x_{part}` and `y_{part}` must have one label an image. Received: "
                f"{len(x)} images and {len(y)} labels."
            )
        if len(x) == 0:
            raise ValueError(f"`x_{part}` has no images.")
    if x_train.shape[1:] != x_test.shape[1:]:
        raise ValueError(
            "Training and test images must have one shape; pass `image_size` to "
            f"resize them. Received: {x_train.shape[1:]} and {x_test.shape[1:]}"
        )
    if class_names is None:
        class_names = [str(c) for c in range(int(y_train.max()) + 1)]
    for part, y in (("y_train", y_train), ("y_test", y_test)):
        if y.max() >= len(class_names):
            raise ValueError(
                f"`{part}` must hold labels from 0 to {len(class_names) - 1}, for the "
                f"{len(class_names)} classes of the training set. "
                f"Received: a label {int(y.max())}."
            )
    counts = np.bincount(y_train, minlength=len(class_names))
    if counts.min() == 0:
        empty = int(counts.argmin())
        raise ValueError(
            f"Class {empty} ({class_names[empty]}) has no training images. Add some, "
            "or remove the class and number the others without gaps, from 0."
        )
    return Source(x_train, y_train, x_test, y_test, tuple(class_names), name)


def _keep(found, classes):
    """A source with these of its classes only."""
    if classes is None:
        return found
    chosen = chosen_classes(classes, found.class_names)
    label_of = np.full(found.num_classes, -1)
    label_of[chosen] = np.arange(len(chosen))

    def part(x, y):
        kept = label_of[y] >= 0
        return x[kept], label_of[y][kept]

    names = [found.class_names[c] for c in chosen]
    train, test = part(found.x_train, found.y_train), part(found.x_test, found.y_test)
    return _source(found.name, *train, *test, names)
