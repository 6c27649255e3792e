"""Data sets of Keras and of tensorflow-datasets, by their names."""

import numpy as np

from keras_robustlt.data import prepared
from keras_robustlt.data.arrays import check_memory, read_npz
from keras_robustlt.data.images import SMALLER, resize
from keras_robustlt.data.selection import TEST_FRACTION, hold_out

# Those of keras.datasets, besides CIFAR, with the names of their classes.
KERAS = {
    "mnist": [str(digit) for digit in range(10)],
    "fashion_mnist": [
        *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
        *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
    ],
}
TFDS = "tfds:"


def is_tfds(source):
    """Whether a source is the name of a data set of tensorflow-datasets."""
    return isinstance(source, str) and source.startswith(TFDS)


def read_keras(name, root, download):
    """A file that the user has, or what Keras has downloaded or downloads now.

    Returns:
        A dictionary of `x_train`, `y_train`, `x_test`, `y_test` and `class_names`.
    """
    file = root / f"{name}.npz"
    if file.is_file():
        return {"class_names": KERAS[name], **read_npz(file)}
    try:
        if not download:
            raise ConnectionError("downloads are off: download=False")
        from keras import datasets

        (x_train, y_train), (x_test, y_test) = getattr(datasets, name).load_data()
    except Exception as error:
        # Keras raises a bare Exception without a connection.
        raise FileNotFoundError(
            f"{name} was not found. Looked for\n"
            f"  - x_train, y_train, x_test, y_test: {file}\n"
            f"  - what keras.datasets.{name} has or downloads: {str(error)[:300]}\n"
            "To get it, with a network connection, run: python -c "
            f'"import keras; keras.datasets.{name}.load_data()". A folder of that name '
            f"is ./{name}."
        ) from error
    return {
        "x_train": x_train,
        "y_train": y_train,
        "x_test": x_test,
        "y_test": y_test,
        "class_names": KERAS[name],
    }


def read_tfds(source, root, download, size, seed):
    """What tensorflow-datasets has prepared or prepares now.

    Without test images, those of validation are the test set; without either, `seed`
    holds a fifth of each class out.

    Args:
        source: String, `"tfds:"` and a name that `tfds.builder` takes.
        root: Path, where tensorflow-datasets keeps its data.
        download: Boolean.
        size: `(height, width)`, or `None` for images as they are.
        seed: Integer.

    Returns:
        A dictionary of the arguments of a `Source`.
    """
    builder = _prepared(source, root, download)
    image, label = _features(source, builder)
    names = builder.info.features[label].names
    found = {}
    for part in ("train", "validation", "test"):
        if part == "train" or _has_labels(builder, part, label):
            found[part] = _read(source, builder, part, image, label, size)
    if "test" not in found and "validation" in found:
        found["test"] = found.pop("validation")
    if "test" not in found:
        x, y = found["train"]
        for part, rows in zip(
            ("train", "test"), hold_out(y, names, TEST_FRACTION, seed), strict=True
        ):
            found[part] = x[rows], y[rows]
    arrays = {"class_names": names}
    for part, (x, y) in found.items():
        arrays[f"x_{part}"], arrays[f"y_{part}"] = x, y
    return arrays


def holds_test_images_out(source, root):
    """Whether `read_tfds` draws the test images by its seed."""
    builder = _prepared(source, root, download=True)
    _, label = _features(source, builder)
    return not any(_has_labels(builder, p, label) for p in ("validation", "test"))


def sizes_of_tfds(source, root):
    """The `(height, width)` of each training image."""
    builder = _prepared(source, root, download=True)
    image, _ = _features(source, builder)
    *size, _ = builder.info.features[image].shape
    if None not in size:
        return [tuple(size)]
    rows = builder.as_dataset(split="train").as_numpy_iterator()
    return [row[image].shape[:2] for row in rows]


def _prepared(source, root, download):
    """The builder of a data set that is there, perhaps only now."""
    name = source.removeprefix(TFDS)
    try:
        builder = prepared.builder(name, root)
        if not builder.is_prepared():
            if not download:
                raise ConnectionError("downloads are off: download=False")
            prepared.check_reachable("https://storage.googleapis.com")
            builder.download_and_prepare()
    except ImportError:
        raise
    except Exception as error:
        # TFDS raises many kinds, of its own and of the libraries under it.
        said = str(error).strip().partition("\n")[0][:300]
        raise FileNotFoundError(
            f"{source} cannot be had: {said}\n"
            "It must be the name of a data set of tensorflow-datasets, such as "
            f"tfds:svhn_cropped, that is prepared in {root}, or can be downloaded. To "
            'get it elsewhere, run: python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{name}', data_dir='DIR')\". Then pass data_dir='DIR'."
        ) from error
    return builder


def _features(source, builder):
    """The names of the image and of its label in each row."""
    import tensorflow_datasets as tfds

    features, found = builder.info.features, []
    supervised = builder.info.supervised_keys or ()
    for kind in (tfds.features.Image, tfds.features.ClassLabel):
        keys = [key for key, feature in features.items() if isinstance(feature, kind)]
        keys = [key for key in keys if key in supervised] or keys
        if len(keys) != 1:
            raise ValueError(
                f"{source} must have one image and one class a row. Received: rows of "
                f"{', '.join(features)}"
            )
        found += keys
    if "train" not in builder.info.splits:
        raise ValueError(
            f"{source} must have a split train. Received: "
            f"{', '.join(builder.info.splits)}"
        )
    return found


def _has_labels(builder, split, label):
    if split not in builder.info.splits:
        return False
    rows = builder.as_dataset(split=split).take(1)
    return all(row[label].numpy() >= 0 for row in rows)  # -1: they are kept secret


def _read(source, builder, split, image, label, size):
    rows = builder.as_dataset(split=split)
    number = builder.info.splits[split].num_examples
    images, labels = None, np.empty(number, np.int64)
    for index, row in enumerate(rows.as_numpy_iterator()):
        x = row[image]
        if size is not None:
            x = resize(x[None], *size)[0]
        if images is None:
            check_memory(number * x.nbytes, SMALLER)
            images = np.empty((number, *x.shape), x.dtype)
        if x.shape != images.shape[1:]:
            raise ValueError(
                f"Images of {source} have several sizes. Pass `image_size` to resize "
                f"them to one size. Received: {images.shape[1:3]} and {x.shape[:2]}"
            )
        images[index], labels[index] = x, row[label]
    if images is None:
        raise ValueError(f"{source} has no images in its split {split}.")
    return images, labels
