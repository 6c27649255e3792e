"""Where images come from: named data sets, files, folders and arrays.

`load` turns every source into the same `Source` of uint8 images. It needs NumPy,
Pillow for image folders and resizing, scikit-learn for the digits, and TensorFlow
only for data that tensorflow-datasets has prepared.
"""

import dataclasses
import os
import pathlib
import warnings

import numpy as np

from keras_robustlt.data import cifar, folders, named, prepared, tiny_imagenet
from keras_robustlt.data.arguments import check_choice, check_flag, check_seed
from keras_robustlt.data.arrays import (
    check_class_names,
    check_images,
    check_labels,
    read_npz,
)
from keras_robustlt.data.findings import DataCheck
from keras_robustlt.data.images import (
    COLOR_MODES,
    ImageFiles,
    height_and_width,
    is_image,
    resize,
    with_color_mode,
)
from keras_robustlt.data.layout import find_layout
from keras_robustlt.data.selection import (
    check_groups,
    check_test_fraction,
    chosen_classes,
)
from keras_robustlt.files import at_home

# Those of the recipes, whose names may end in "lt" where `--data` names them.
LONG_TAILED = ("cifar10", "cifar100", "tinyimagenet", "imagenet64", "digits")
NAMES = (*LONG_TAILED, *named.KERAS)
DIGITS_TEST_IMAGES = 60
# The shape of the images and the classes of data whose files anybody may have made.
MADE_OF = {
    "cifar10": ((32, 32, 3), 10),
    "cifar100": ((32, 32, 3), 100),
    "mnist": ((28, 28, 1), 10),
    "fashion_mnist": ((28, 28, 1), 10),
}


@dataclasses.dataclass(frozen=True, repr=False)
class Source:
    """Images of a training and a test set, and perhaps a validation set.

    Args:
        x_train: uint8 array of shape `(num_train, height, width, channels)`.
        y_train: int64 array of shape `(num_train,)`, labels `0..num_classes - 1`.
        x_test: uint8 array, the test images.
        y_test: int64 array, the test labels.
        class_names: Tuple of strings, one a class.
        name: String, for messages and reports.
        x_validation: uint8 array, the validation images of a source that has its own;
            or `None`. Defaults to `None`.
        y_validation: int64 array, the validation labels. Defaults to `None`.
        groups: Array of shape `(num_train,)`, the group of each training image; or
            `None`. Defaults to `None`.

    Example:

    >>> source = krl.data.load("digits")
    >>> source.x_train.shape, source.x_test.shape
    ((1197, 8, 8, 1), (600, 8, 8, 1))
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    class_names: tuple
    name: str
    x_validation: np.ndarray | None = None
    y_validation: np.ndarray | None = None
    groups: np.ndarray | None = None

    @property
    def num_classes(self):
        return len(self.class_names)

    def __repr__(self):
        return (
            f"Source({self.name}, x_train of shape {np.shape(self.x_train)}, x_test of "
            f"shape {np.shape(self.x_test)}, {self.num_classes} classes)"
        )


def load(
    source,
    data_dir=None,
    download=True,
    image_size=None,
    test_fraction=None,
    seed=102,
    classes=None,
    color_mode="auto",
    on_bad="error",
    groups=None,
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
            - `"mnist"`, `"fashion_mnist"`: the file `mnist.npz` (`fashion_mnist.npz`)
              in `data_dir`; failing that, what `keras.datasets` has downloaded, or
              downloads if `download` allows;
            - `"tfds:NAME"`: any data set of tensorflow-datasets with one image and one
              class a row, such as `"tfds:svhn_cropped"`, prepared in `data_dir` or
              downloaded if `download` allows. Its `test` and `validation` are used as
              such; without `test`, `validation` is the test set, and without both,
              `seed` holds a fifth of each class out;
            - the path of an `.npz` file with the arrays `x_train`, `y_train`,
              `x_test`, `y_test`, and perhaps `x_validation`, `y_validation` and
              `class_names`, or `train_images`, `train_labels`, ... as MedMNIST calls
              them;
            - the path of a folder with one sub-folder of images a class, either in
              `train/`, `test/` and `val/` (one of the last two may lack, and names
              such as `Training` and `valid` do as well), or directly, and then `seed`
              holds `test_fraction` of each class out for testing;
            - arrays, `((x_train, y_train), (x_test, y_test))`.

            Images are uint8, or floats in `[0, 1]` (stored in steps of 1/255), of
            shape `(num_images, height, width, channels)` or
            `(num_images, height, width)`. Of folders, all formats that Pillow reads
            are read, sub-folders of classes included: turned as their EXIF tag says,
            transparent places on white, and scaled to 8 bits a channel. Hidden files
            are not read.
        data_dir: Path of a folder, where to look for the data sets that have a name.
            Defaults to `None`: where tensorflow-datasets keeps its data.
        download: Boolean, whether data sets that have a name may be downloaded if
            they are not found. Defaults to `True`.
        image_size: Integer, or `(height, width)`: resize the images to this. Defaults
            to `None`: leave them as they are.
        test_fraction: Float in `(0, 1)`, for folders without a test set. Defaults to
            `None`, which is 0.2 there.
        seed: Integer, for held-out test images. Defaults to `102`.
        classes: Which classes to keep: an integer, the first so many, or a list of
            class indices or class names, in the order of their new labels. Images of
            other classes are not read where they are files or in TensorFlow
            Datasets' ImageNet. Defaults to `None`: all.
        color_mode: `"grayscale"`, `"rgb"`, or `"auto"`: as they are, and files RGB if
            not all are grey. Defaults to `"auto"`.
        on_bad: What to do with files that cannot be read as images: `"error"` names
            them all, `"skip"` leaves them out with a warning. Defaults to `"error"`.
        groups: Which training images belong together, such as those of a patient, so
            that no group is divided when test or validation images are held out. For
            folders a function from the `pathlib.Path` of an image to its group, such
            as `lambda path: path.parent.name`; for other sources an array of one
            integer or string a training image. Defaults to `None`.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: If there is no such data. The message lists every place
            that was looked at.
        ValueError: If the data cannot be used. The message says what to change.

    Warns:
        UserWarning: If the images of a folder are suspicious. `data.check` shows all
            that is noteworthy.

    Example:

    >>> krl.data.load("digits").x_train.shape
    (1197, 8, 8, 1)
    >>> krl.data.load("digits", classes=2).class_names
    ('0', '1')
    """
    check_options(color_mode, on_bad, seed, download, test_fraction)
    size = None if image_size is None else height_and_width(image_size)
    folder, read = find_folder(source, data_dir)
    if folder is not None:
        check = DataCheck(folder)
        parts = read(
            folder,
            check,
            classes,
            image_size=size,
            test_fraction=test_fraction,
            seed=seed,
            color_mode=color_mode,
            on_bad=on_bad,
            groups=groups,
        )
        check.warn()
        name = source if source == "tinyimagenet" else folder.name
        return _source(name, **parts)
    if test_fraction is not None:
        raise ValueError(
            "`test_fraction` is for folders without test images of their own. "
            f"Received: test_fraction={test_fraction!r} with another source."
        )
    found = _from_arrays(source, data_dir, download, seed, classes, size)
    if groups is not None:
        found = _with_groups(found, groups)
    if source != "imagenet64":  # That decodes no others.
        found = _keep(found, classes)
    return _fitted(found, size, color_mode)


def check_options(
    color_mode="auto",
    on_bad="error",
    seed=0,
    download=True,
    test_fraction=None,
    **others,
):
    """Raises if an argument of `load` is none of what it may be."""
    check_choice("color_mode", color_mode, COLOR_MODES)
    check_choice("on_bad", on_bad, ("error", "skip"))
    check_seed(seed)
    check_flag("download", download)
    if test_fraction is not None:
        check_test_fraction(test_fraction)


def source_of(data):
    """What `load` calls the data that `--data` names, or that as it is."""
    name = data.removesuffix("lt")
    name = "imagenet64" if name == "imagenet" else name
    return name if name in LONG_TAILED else data


def find_folder(source, data_dir=None):
    """The folder of image files that `source` means, and the function to read it.

    Returns:
        `(None, None)` for other sources.
    """
    if data_dir is not None and not isinstance(data_dir, (str, os.PathLike)):
        raise ValueError(
            f"`data_dir` must be the path of a folder. Received: data_dir={data_dir!r}"
        )
    if isinstance(source, (tuple, list)):
        if data_dir is not None:
            raise ValueError(
                "`data_dir` is where to look for data sets that have a name, and these "
                f"are arrays. Received: data_dir={str(data_dir)!r}"
            )
        return None, None
    if source is None or not isinstance(source, (str, os.PathLike)) or source == "":
        raise ValueError(f"{_EXPECTED} Received: source={source!r:.200}")
    if source == "tinyimagenet":
        _warn_about_folder(source, data_dir)
        root = tiny_imagenet.find(data_root(source, data_dir))
        return root, folders.read_tiny_imagenet
    if source == "digits" and data_dir is not None:
        raise ValueError(
            "`data_dir` does nothing with 'digits', which comes with scikit-learn. "
            f"Received: data_dir={str(data_dir)!r}"
        )
    if source in NAMES or named.is_tfds(source):
        _warn_about_folder(source, data_dir)
        return None, None
    if data_dir is not None:
        raise ValueError(
            "`data_dir` is where to look for data sets that have a name, and a path "
            f"has its folder in itself. Received: source={str(source)!r}, "
            f"data_dir={str(data_dir)!r}"
        )
    path = at_home(source)
    if path.is_dir():
        # Of "." and ".." too, the name.
        return path if path.name else path.resolve(), folders.read_folder
    if not path.is_file():
        raise FileNotFoundError(
            f"{_EXPECTED} Received: source={str(source)!r}, and no file or folder is "
            "there."
        )
    if path.suffix.lower() != ".npz":
        raise ValueError(
            f"{_EXPECTED} Received: source={str(source)!r}, which is a file, and not "
            ".npz. Unpack archives, and pass the folder of an image file."
        )
    return None, None


def _warn_about_folder(name, data_dir):
    """Says of a folder of classes that it is not what a name means."""
    # As `source_of` knows that one.
    for called in (name, "imagenet") if name == "imagenet64" else (name,):
        if data_dir is None and _is_of_folders(pathlib.Path(called)):
            warnings.warn(
                f"{called!r} is the data set of that name. To read the folder {called} "
                f"that is here, give it as ./{called}",
                stacklevel=2,  # several functions ask for the folder: once
            )


def _is_of_folders(path):
    """Whether a folder has two with images, or with folders of them as of a split."""
    try:
        return path.is_dir() and sum(map(_has_images, path.iterdir())) > 1
    except OSError:  # it cannot be looked into
        return False


def _has_images(path, deeper=True):
    if not path.is_dir():
        return False
    inside = list(path.iterdir())
    return any(is_image(file) for file in inside) or (
        deeper and any(_has_images(each, False) for each in inside)
    )


def holds_test_images_out(source, data_dir=None):
    """Whether `load` draws the test images of a source, by its seed."""
    if named.is_tfds(source):
        return named.holds_test_images_out(source, data_root(source, data_dir))
    folder, read = find_folder(source, data_dir)
    if read is not folders.read_folder:
        return isinstance(source, str) and source == "digits"
    if tiny_imagenet.is_one(folder):
        return False
    return "all" in find_layout(folder, None, DataCheck(folder)).parts


def sizes_of(source, data_dir=None):
    """The `(height, width)` of the images of a source, as they are there.

    Returns:
        A list, of each image of a folder and of data that have several sizes.
    """
    if named.is_tfds(source):
        return named.sizes_of_tfds(source, data_root(source, data_dir))
    folder, read = find_folder(source, data_dir)
    if read is None:
        return [load(source, data_dir=data_dir).x_train.shape[1:3]]
    quiet = DataCheck(folder)
    if tiny_imagenet.is_one(folder):
        return [(64, 64)]  # Tiny-ImageNet's
    parts = find_layout(folder, None, quiet).parts.values()
    files = [file for part, _ in parts for file in part]
    return [header.size for header in ImageFiles(files, quiet).headers if header]


_EXPECTED = (
    f"`source` must be one of {', '.join(map(repr, NAMES))}, a name of "
    "tensorflow-datasets such as 'tfds:svhn_cropped', the path of an .npz file or of a "
    "folder with one sub-folder of images a class, or the arrays "
    "((x_train, y_train), (x_test, y_test))."
)


def _from_arrays(source, data_dir, download, seed, classes, size):
    """A `Source` of what is not in a folder of images, of all its classes."""
    if isinstance(source, (tuple, list)):
        return _source("arrays", *_unpacked(source))
    if source == "digits":
        return _source("digits", *_digits(seed))
    if source in cifar.FILES:
        root = data_root(source, data_dir)
        return _as_named(_source(source, **cifar.read_cifar(source, root, download)))
    if source == "imagenet64":
        root = data_root(source, data_dir)
        return _source(source, **prepared.read_imagenet64(root, classes))
    if source in named.KERAS:
        root = data_root(source, data_dir)
        return _as_named(_source(source, **named.read_keras(source, root, download)))
    if named.is_tfds(source):
        root = data_root(source, data_dir)
        return _source(source, **named.read_tfds(source, root, download, size, seed))
    path = at_home(source)
    return _source(path.stem, **read_npz(path))


def _as_named(found):
    """The source, unless it is none of its name."""
    shape, classes = MADE_OF[found.name]
    received = found.x_train.shape[1:], found.num_classes
    if received != (shape, classes):
        raise ValueError(
            f"{found.name} must have images of shape {shape} and {classes} classes. "
            f"Received: images of shape {received[0]} and {received[1]} classes. Give "
            "other data by the path of their file, and CIFAR-100 its fine labels."
        )
    return found


def data_root(name, data_dir):
    """The folder to look for a data set that has a name in."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = at_home(data_dir or default)
    if data_dir is not None and not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(root)!r} to look for {name} in. Create it, or "
            f"correct the path. Received: data_dir={str(data_dir)!r}"
        )
    return root


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
    generator = np.random.default_rng(check_seed(seed))
    shuffled = [
        generator.permutation(np.flatnonzero(digits.target == c)) for c in range(10)
    ]
    test = np.concatenate([c[:DIGITS_TEST_IMAGES] for c in shuffled])
    train = np.sort(np.concatenate([c[DIGITS_TEST_IMAGES:] for c in shuffled]))
    return images[train], digits.target[train], images[test], digits.target[test]


def _source(
    name,
    x_train,
    y_train,
    x_test,
    y_test,
    class_names=None,
    x_validation=None,
    y_validation=None,
    groups=None,
):
    """The one door into a `Source`: everything read from anywhere passes it."""
    parts = {
        "train": _checked("train", x_train, y_train),
        "test": _checked("test", x_test, y_test),
    }
    if x_validation is not None:
        parts["validation"] = _checked("validation", x_validation, y_validation)
    x_train, y_train = parts["train"]
    if class_names is None:
        class_names = [str(c) for c in range(int(y_train.max()) + 1)]
    class_names = check_class_names(class_names)
    if len(class_names) < 2:
        raise ValueError(
            f"There must be at least two classes. Received: {list(class_names)}"
        )
    for part, (_, y) in parts.items():
        if y.max() >= len(class_names):
            raise ValueError(
                f"`y_{part}` must hold labels from 0 to {len(class_names) - 1}, for "
                f"the {len(class_names)} classes of the training set. "
                f"Received: a label {int(y.max())}."
            )
    counts = np.bincount(y_train, minlength=len(class_names))
    if counts.min() == 0:
        empty = int(counts.argmin())
        raise ValueError(
            f"Class {empty} ({class_names[empty]}) has no training images. Add some, "
            "or remove the class and number the others without gaps, from 0."
        )
    validation = parts.get("validation", (None, None))
    return Source(
        x_train, y_train, *parts["test"], class_names, name, *validation, groups
    )


def _checked(part, x, y):
    x, y = check_images(x, f"x_{part}"), check_labels(y, f"y_{part}")
    if len(x) != len(y):
        raise ValueError(
            f"`x_{part}` and `y_{part}` must have one label an image. Received: "
            f"{len(x)} images and {len(y)} labels."
        )
    if len(x) == 0:
        raise ValueError(f"`x_{part}` has no images.")
    return x, y


def _with_groups(found, groups):
    if callable(groups):
        raise ValueError(
            "`groups` is a function for folders of images only; for other sources "
            "pass an array of one group a training image."
        )
    return dataclasses.replace(found, groups=check_groups(groups, len(found.x_train)))


def _keep(found, classes):
    """A source with these of its classes only."""
    if classes is None:
        return found
    chosen = chosen_classes(classes, found.class_names)
    label_of = np.full(found.num_classes, -1)
    label_of[chosen] = np.arange(len(chosen))
    parts = {"class_names": [found.class_names[c] for c in chosen]}
    for part in ("train", "test", "validation"):
        x, y = getattr(found, f"x_{part}"), getattr(found, f"y_{part}")
        if x is not None:
            kept = label_of[y] >= 0
            parts[f"x_{part}"], parts[f"y_{part}"] = x[kept], label_of[y][kept]
    if found.groups is not None:
        parts["groups"] = found.groups[label_of[found.y_train] >= 0]
    return _source(found.name, **parts)


def _fitted(found, size, color_mode):
    """A source with images of this size and colour."""
    parts = {}
    for part in ("x_train", "x_test", "x_validation"):
        x = getattr(found, part)
        if x is not None:
            x = with_color_mode(x, color_mode)
            parts[part] = x if size is None else resize(x, *size)
    expected = parts["x_train"].shape[1:]
    for part, x in parts.items():
        if x.shape[1:] != expected:
            raise ValueError(
                "Training and test images must have one shape; pass `image_size` to "
                "resize them, `color_mode` for one number of channels. "
                f"Received: {expected} in x_train and {x.shape[1:]} in {part}"
            )
    return dataclasses.replace(found, **parts)
