"""Where images come from: named data sets, files, folders and arrays.

`load` turns every source into the same `Source` of uint8 images. It needs NumPy,
Pillow for image folders and resizing, scikit-learn for the digits, and TensorFlow
only for data that tensorflow-datasets has prepared.
"""

import dataclasses
import io
import os
import pathlib
import pickle
import urllib.error
import urllib.request

import numpy as np

IMAGE_SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp"}

# The official archives: folder, training files, test file, and the keys inside.
CIFAR_FILES = {
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
CIFAR_HOST = "https://www.cs.toronto.edu"
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
):
    """Reads a data set into memory.

    Args:
        source: One of

            - `"cifar10"`, `"cifar100"`: prepared by tensorflow-datasets in `data_dir`,
              or there as the folder `cifar-10-batches-py` (`cifar-100-python`) or the
              file `cifar10.npz` (`cifar100.npz`), looked for in this order; failing
              that, tensorflow-datasets downloads it if `download` allows;
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
        data_dir: Path of a folder, where to look for `"cifar10"` and `"cifar100"`.
            Defaults to `None`: where tensorflow-datasets keeps its data.
        download: Boolean, whether tensorflow-datasets may download into `data_dir`
            what is not found there. Defaults to `True`.
        image_size: Integer, or `(height, width)`: resize the images to this. Defaults
            to `None`: leave them as they are.
        test_fraction: Float in `(0, 1)`, for folders without a test set. Defaults to
            `0.2`.
        seed: Integer, for held-out test images. Defaults to `102`.

    Returns:
        A `Source`.

    Raises:
        FileNotFoundError: If there is no such data. The message lists every place
            that was looked at.
        ValueError: If the data cannot be used. The message says what to change.

    Example:

    >>> krl.data.load("digits").x_train.shape
    (1197, 8, 8, 1)
    """
    if isinstance(source, (tuple, list)):
        found = _from_arrays(source)
    elif source == "digits":
        found = _digits(seed)
    elif source in CIFAR_FILES:
        found = _cifar(source, data_dir, download)
    else:
        found = _from_path(source, image_size, test_fraction, seed)
    if image_size is None:
        return found
    height, width = _height_and_width(image_size)
    return dataclasses.replace(
        found,
        x_train=_resize(found.x_train, height, width),
        x_test=_resize(found.x_test, height, width),
    )


def _from_path(source, image_size, test_fraction, seed):
    path = pathlib.Path(source).expanduser()
    if path.suffix == ".npz" and path.is_file():
        return _npz(path, path.stem)
    if path.is_dir():
        return _folder(path, image_size, test_fraction, seed)
    raise FileNotFoundError(
        "`source` must be 'cifar10', 'cifar100', 'digits', the path of an .npz file "
        "or of a folder with one sub-folder of images a class, or the arrays "
        "((x_train, y_train), (x_test, y_test)). "
        f"Received: source={str(source)!r}, and no file or folder is there."
    )


# Arrays


def _from_arrays(arrays):
    try:
        (x_train, y_train), (x_test, y_test) = arrays
    except (TypeError, ValueError):
        raise ValueError(
            "Arrays are given as `source=((x_train, y_train), (x_test, y_test))`. "
            f"Received: a {type(arrays).__name__} of {len(arrays)} items."
        ) from None
    return _checked(x_train, y_train, x_test, y_test, name="arrays")


def _checked(x_train, y_train, x_test, y_test, name, class_names=None):
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


def check_images(x, argument):
    """Images as uint8 with channels last, or a `ValueError` naming `argument`."""
    x = np.asarray(x)
    if x.ndim == 3:
        x = x[..., None]
    if x.ndim != 4:
        raise ValueError(
            f"`{argument}` must have shape (num_images, height, width, channels) or "
            f"(num_images, height, width). Received: {argument}.shape={x.shape}"
        )
    if x.shape[-1] not in (1, 3) and x.shape[1] in (1, 3):
        raise ValueError(
            f"`{argument}` must have its channels last. Received: "
            f"{argument}.shape={x.shape}; use np.moveaxis({argument}, 1, -1)."
        )
    if x.dtype == np.uint8:
        return x
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"`{argument}` must be uint8, or floats in [0, 1]. Received: "
            f"{argument}.dtype={x.dtype}; if the values are 0 to 255, use "
            f"{argument}.astype('uint8')."
        )
    if not np.isfinite(x).all():
        first = int(np.argwhere(~np.isfinite(x))[0][0])
        raise ValueError(
            f"`{argument}` has NaN or infinite pixels, first in image {first}. Repair "
            "or remove such images."
        )
    if x.size and (x.min() < 0 or x.max() > 1):
        raise ValueError(
            f"Float images must be in [0, 1], not normalised. Received: `{argument}` "
            f"from {x.min():g} to {x.max():g}; divide images in [0, 255] by 255, and "
            "leave normalisation to the network."
        )
    return np.round(x * 255).astype(np.uint8)


def check_labels(y, argument):
    """Labels as int64 from 0, or a `ValueError` naming `argument`."""
    y = np.asarray(y)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        raise ValueError(
            f"`{argument}` must have shape (num_images,). Received: "
            f"{argument}.shape={y.shape}; for one-hot labels use "
            f"{argument}.argmax(axis=-1)."
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"`{argument}` must be integers. Received: {argument}.dtype={y.dtype}; use "
            f"{argument}.astype('int64') if the values are whole numbers."
        )
    if y.size and y.min() < 0:
        raise ValueError(
            f"`{argument}` must hold labels from 0. Received: a label {int(y.min())}."
        )
    return y.astype(np.int64)


def _height_and_width(image_size):
    size = (image_size, image_size) if np.ndim(image_size) == 0 else tuple(image_size)
    if len(size) != 2 or any(int(s) != s or s < 1 for s in size):
        raise ValueError(
            "`image_size` must be a positive integer or (height, width). "
            f"Received: image_size={image_size}"
        )
    return int(size[0]), int(size[1])


def _resize(images, height, width):
    if images.shape[1:3] == (height, width):
        return images
    from PIL import Image

    def resized(plane):
        # BILINEAR in Pillow averages when it makes an image smaller.
        image = Image.fromarray(plane)
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR))

    # Channel by channel, so that any number of channels will do.
    channels = range(images.shape[-1])
    return np.stack(
        [np.stack([resized(image[..., c]) for c in channels], -1) for image in images]
    )


# The digits of scikit-learn


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
    return _checked(
        images[train], digits.target[train], images[test], digits.target[test], "digits"
    )


# CIFAR


def _cifar(name, data_dir, download):
    """TFDS first, then files the user has, then a download by TFDS."""
    default = os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")
    root = pathlib.Path(data_dir or default).expanduser()
    if data_dir is not None and not root.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(root)!r}. Create it, to download {name} into it, "
            f"or correct the path. Received: data_dir={str(data_dir)!r}"
        )
    prepared, folder = root / name, root / CIFAR_FILES[name]["folder"]
    file = root / f"{name}.npz"
    if prepared.is_dir():
        builder = _tfds_builder(name, root)
        if builder.is_prepared():
            return _tfds(builder)
    if folder.is_dir():
        return _cifar_pickles(folder, name)
    if file.is_file():
        return _npz(file, name)
    try:
        if not download:
            raise ConnectionError("downloads are off: download=False")
        _check_reachable(CIFAR_HOST)
        builder = _tfds_builder(name, root)
        builder.download_and_prepare()
    except Exception as error:
        # TFDS raises many kinds, of its own and of the libraries under it.
        raise FileNotFoundError(
            f"{name} was not found. Looked for\n"
            f"  - what tensorflow-datasets prepares: {prepared}\n"
            f"  - the official Python version, unpacked: {folder}\n"
            f"  - x_train, y_train, x_test, y_test: {file}\n"
            f"  - a download by tensorflow-datasets: {str(error)[:300]}\n"
            "To get it, with a network connection, unpack the Python version from "
            f"{CIFAR_HOST}/~kriz/cifar.html into a folder DIR, or run: python -c "
            '"import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\". Then pass data_dir='DIR'."
        ) from error
    return _tfds(builder)


def _check_reachable(address):
    """Fails in seconds without a network, where TFDS tries for minutes."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # An answer, if not a friendly one.


def _tfds_builder(name, root):
    try:
        import tensorflow  # noqa: F401  (TFDS imports without it, but cannot read)
        import tensorflow_datasets as tfds
    except ImportError as error:
        raise ImportError(
            f"{name} in {root} is read by tensorflow-datasets, which cannot be "
            f"imported ({error}): pip install tensorflow tensorflow-datasets "
            "importlib_resources. Or put the official Python version there."
        ) from error
    return tfds.builder(name, data_dir=root)


def _tfds(builder):
    parts = []
    for split in ("train", "test"):
        # Prepared files are shuffled; the ids give the official order back, which
        # the published splits count in.
        data = builder.as_dataset(split=split, batch_size=-1)
        order = np.argsort(data["id"].numpy())
        parts += [data["image"].numpy()[order], data["label"].numpy()[order]]
    names = builder.info.features["label"].names
    return _checked(*parts, name=builder.name, class_names=names)


def _cifar_pickles(folder, name):
    files = CIFAR_FILES[name]
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
    return _checked(*arrays, name=name, class_names=class_names)


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


# Files and folders


def _npz(file, name):
    keys = ("x_train", "y_train", "x_test", "y_test")
    try:
        with np.load(file, allow_pickle=False) as arrays:
            missing = [key for key in keys if key not in arrays.files]
            if missing:
                raise ValueError(f"it lacks {', '.join(missing)}")
            parts = [arrays[key] for key in keys]
            names = arrays["class_names"] if "class_names" in arrays.files else None
    except Exception as error:
        # Damaged archives raise many kinds, by the part that is damaged.
        raise ValueError(
            f"{file} cannot be used: {error}. Save it with np.savez(file, "
            "x_train=..., y_train=..., x_test=..., y_test=...)."
        ) from error
    return _checked(*parts, name, names if names is None else names.tolist())


def _folder(root, image_size, test_fraction, seed):
    if not (root / "train").is_dir():
        files, labels, names = _class_folders(root)
        x, y = _read_images(files, image_size), np.array(labels)
        train, test = _hold_out(y, names, test_fraction, seed)
        return _checked(x[train], y[train], x[test], y[test], root.name, names)
    files, labels, names = _class_folders(root / "train")
    held_out = next((root / n for n in ("test", "val") if (root / n).is_dir()), None)
    if held_out is None:
        raise ValueError(
            f"{root} has a folder `train` but neither `test` nor `val`. Add one, or "
            "pass the path of `train` itself to hold test images out of it."
        )
    test_files, test_labels, test_names = _class_folders(held_out)
    if test_names != names:
        differ = sorted(set(names) ^ set(test_names))
        raise ValueError(
            f"{held_out} must have the same sub-folders, one a class, as "
            f"{root / 'train'}. Only one of them has: {', '.join(differ[:5])}"
            f"{' ...' if len(differ) > 5 else ''}"
        )
    images = _read_images(files + test_files, image_size)
    x_train, x_test = images[: len(files)], images[len(files) :]
    return _checked(x_train, labels, x_test, test_labels, root.name, names)


def _class_folders(root):
    names = sorted(p.name for p in root.iterdir() if p.is_dir())
    names = [name for name in names if not name.startswith(".")]
    if len(names) < 2:
        raise ValueError(
            f"{root} must have one sub-folder of images a class, at least two. "
            f"Found: {names}"
        )
    files, labels = [], []
    for label, name in enumerate(names):
        # Sub-folders included: Tiny-ImageNet keeps its images one level deeper.
        found = [
            p
            for p in sorted((root / name).rglob("*"))
            if p.suffix.lower() in IMAGE_SUFFIXES
        ]
        if not found:
            raise ValueError(
                f"{root / name} has no images ({', '.join(sorted(IMAGE_SUFFIXES))}). "
                "Add some, or remove the folder."
            )
        files += found
        labels += [label] * len(found)
    return files, labels, names


def _read_images(files, image_size):
    from PIL import Image

    def opened(file, mode=None):
        try:
            with Image.open(file) as image:
                return image.convert(mode) if mode else (image.mode, image.size)
        except (OSError, ValueError, SyntaxError) as error:
            raise ValueError(
                f"{file} cannot be read as an image: {error}. Replace or remove it."
            ) from error

    headers = [opened(file) for file in files]
    for file, (mode, _) in zip(files, headers, strict=True):
        if mode[0] in "IF":
            raise ValueError(
                f"{file} has more than 8 bits a channel (Pillow mode {mode}). Convert "
                "it to 8 bits."
            )
    gray = all(mode in ("1", "L") for mode, _ in headers)
    if image_size is None:
        size = headers[0][1]
        for file, (_, other) in zip(files, headers, strict=True):
            if other != size:
                raise ValueError(
                    f"Images must have one size: {files[0]} is {size[0]}x{size[1]}, "
                    f"{file} is {other[0]}x{other[1]}. Pass `image_size` to resize "
                    "them."
                )
    else:
        height, width = _height_and_width(image_size)
        size = width, height
    out = np.empty((len(files), size[1], size[0], 1 if gray else 3), np.uint8)
    for i, file in enumerate(files):
        image = opened(file, "L" if gray else "RGB")
        if image.size != size:
            image = image.resize(size, Image.Resampling.BILINEAR)
        out[i] = np.asarray(image).reshape(out.shape[1:])
    return out


def _hold_out(labels, names, test_fraction, seed):
    if not 0 < test_fraction < 1:
        raise ValueError(
            "`test_fraction` must be between 0 and 1. "
            f"Received: test_fraction={test_fraction}"
        )
    generator = np.random.default_rng(seed)
    train, test = [], []
    for c, name in enumerate(names):
        indices = generator.permutation(np.flatnonzero(labels == c))
        if len(indices) < 2:
            raise ValueError(
                f"Class {name!r} has one image, and training and testing need one "
                "each. Add images, or give separate folders `train` and `test`."
            )
        num_test = min(max(1, round(test_fraction * len(indices))), len(indices) - 1)
        test.append(indices[:num_test])
        train.append(indices[num_test:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(test))
