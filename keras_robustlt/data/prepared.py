"""Data that tensorflow-datasets has prepared. Only this source needs TensorFlow."""

import os
import urllib.error
import urllib.request

import numpy as np

from keras_robustlt.data.selection import chosen_classes

IMAGENET64 = "imagenet_resized/64x64"


def builder(name, root):
    """The builder of a data set, prepared or not."""
    try:
        import tensorflow  # noqa: F401  (TFDS imports without it, but cannot read)
        import tensorflow_datasets as tfds
        import tensorflow_datasets.core  # the package itself hides what fails in it
    except Exception as error:  # libraries under it have errors of their own
        said = str(error).strip().partition("\n")[0][:300]
        raise ImportError(
            f"{name} in {root} is read by tensorflow-datasets, which cannot be "
            f"imported ({said}): pip install tensorflow tensorflow-datasets "
            "importlib_resources. With TensorFlow 2.18: pip install "
            "'tensorflow-metadata<1.17'."
        ) from error
    return tfds.builder(name, data_dir=root)


def check_reachable(address):
    """Fails in seconds without a network, where TFDS tries for minutes."""
    request = urllib.request.Request(address, method="HEAD")
    try:
        urllib.request.urlopen(request, timeout=10).close()
    except urllib.error.HTTPError:
        pass  # An answer, if not a friendly one.


def read_cifar(cifar_builder):
    """CIFAR in its official order, which the published splits count in.

    Returns:
        A dictionary of `x_train`, `y_train`, `x_test`, `y_test` and `class_names`.
    """
    arrays = {"class_names": cifar_builder.info.features["label"].names}
    for split in ("train", "test"):
        # Prepared files are shuffled; the ids give the order back.
        data = cifar_builder.as_dataset(split=split, batch_size=-1)
        order = np.argsort(data["id"].numpy())
        arrays[f"x_{split}"] = data["image"].numpy()[order]
        arrays[f"y_{split}"] = data["label"].numpy()[order]
    return arrays


def read_imagenet64(root, classes):
    """ImageNet at 64x64 pixels; only the chosen classes are decoded.

    Classes are in the order of Imagenet64, which is not that of their WordNet ids.

    Returns:
        A dictionary of `x_train`, `y_train`, `x_test`, `y_test` and `class_names`.
    """
    found = builder(IMAGENET64, root) if (root / IMAGENET64).is_dir() else None
    if found is None or not found.is_prepared():
        raise FileNotFoundError(
            "imagenet64 was not found. Looked for what tensorflow-datasets prepares: "
            f"{root / IMAGENET64}\n"
            "To get it, a download of 14 GB for which image-net.org may want you to "
            'log in, run: python -c "import tensorflow_datasets as tfds; '
            f"tfds.load('{IMAGENET64}', data_dir='DIR')\". Then pass data_dir='DIR'."
        )
    names = found.info.features["label"].names
    chosen = chosen_classes(classes, names)
    x_train, y_train = _read_classes(found, "train", chosen)
    x_test, y_test = _read_classes(found, "validation", chosen)
    return {
        "x_train": x_train,
        "y_train": y_train,
        "x_test": x_test,
        "y_test": y_test,
        "class_names": [names[c] for c in chosen],
    }


def _read_classes(found, split, chosen):
    import tensorflow as tf
    import tensorflow_datasets as tfds

    features = found.info.features
    label_of = np.full(features["label"].num_classes, -1)
    label_of[chosen] = np.arange(len(chosen))
    label_of = tf.constant(label_of)
    rows = found.as_dataset(split=split, decoders={"image": tfds.decode.SkipDecoding()})
    rows = rows.filter(lambda row: tf.gather(label_of, row["label"]) >= 0)
    rows = rows.map(
        lambda row: (
            features["image"].decode_example(row["image"]),
            tf.gather(label_of, row["label"]),
        ),
        num_parallel_calls=os.cpu_count() or 2,
        deterministic=True,
    )
    # Room for all, of which the system only hands out what is written to: the images
    # are in memory once.
    num_examples = found.info.splits[split].num_examples
    images = np.empty((num_examples, *features["image"].shape), np.uint8)
    labels = np.empty(num_examples, np.int64)
    end = 0
    for x, y in rows.batch(1024).prefetch(1).as_numpy_iterator():
        if end + len(x) > num_examples:
            raise ValueError(
                f"{found.data_dir} has more images in {split!r} than the "
                f"{num_examples} that its records count. Prepare it again."
            )
        images[end : end + len(x)], labels[end : end + len(x)] = x, y
        end += len(x)
    return images[:end], labels[:end]
