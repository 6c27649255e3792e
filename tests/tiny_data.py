"""Small data in the layouts of the real data sets."""

import pickle

import numpy as np
from PIL import Image

GENERATOR = np.random.default_rng(0)

WNIDS = ["n01443537", "n01629819", "n01641577", "n03126707"]
WORDS = {
    "n01443537": "goldfish, Carassius auratus",
    "n01629819": "crane",
    "n01641577": "bullfrog, Rana catesbeiana",
    "n03126707": "crane",
}


def write_cifar10(root, extra=None, protocol=2):
    """Five training batches of four images and a test batch of ten."""
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    labels = np.arange(20) % 10
    x = GENERATOR.integers(0, 256, (20, 32, 32, 3), dtype=np.uint8)

    def dump(name, record):
        (folder / name).write_bytes(pickle.dumps(record, protocol))

    def batch(name, x, y):
        flat = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
        dump(name, {b"data": flat, b"labels": y.tolist()})

    for i in range(5):
        part = slice(4 * i, 4 * i + 4)
        batch(f"data_batch_{i + 1}", x[part], labels[part])
    batch("test_batch", x[:10], labels[:10])
    dump("batches.meta", {b"label_names": [b"name%d" % i for i in range(10)]})
    if extra is not None:
        dump("data_batch_3", extra)
    return x, labels


def write_cifar100(root, num_train=1, num_test=1):
    """So many training and test images of each class."""
    folder = root / "cifar-100-python"
    folder.mkdir()
    for name, count in (("train", num_train), ("test", num_test)):
        labels = list(range(100)) * count
        record = {
            b"data": GENERATOR.integers(0, 256, (len(labels), 3072), dtype=np.uint8),
            b"fine_labels": labels,
            b"coarse_labels": [0] * len(labels),
        }
        (folder / name).write_bytes(pickle.dumps(record, 2))
    names = [b"fine%d" % i for i in range(100)]
    (folder / "meta").write_bytes(pickle.dumps({b"fine_label_names": names}, 2))


def one_colour(label, number):
    """An image that JPEG leaves as it is, and that says what it shows."""
    return np.full((64, 64, 3), 50 * label + number, np.uint8)


def write_tiny_imagenet(root, num_train=3, num_val=2):
    """The layout of the archive, with fewer classes and images."""
    root = root / "tiny-imagenet-200"
    # Not in their order, as in the archive.
    for file in ("wnids.txt", "words.txt"):
        lines = [f"{w}\t{WORDS[w]}" if file == "words.txt" else w for w in WNIDS[::-1]]
        root.mkdir(exist_ok=True)
        (root / file).write_text("\n".join(lines) + "\n")
    for label, wnid in enumerate(WNIDS):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        (folder.parent / f"{wnid}_boxes.txt").write_text(f"{wnid}_0.JPEG\t0\t0\t9\t9\n")
        for i in range(num_train):
            save_jpeg(one_colour(label, i), folder / f"{wnid}_{i}.JPEG")
    annotations = []
    for split in ("val", "test"):
        (root / split / "images").mkdir(parents=True)
        for i in range(num_val * len(WNIDS)):
            label = i % len(WNIDS)
            image = one_colour(label, 10 + i)
            save_jpeg(image, root / split / "images" / f"{split}_{i}.JPEG")
            if split == "val":
                annotations.append(f"val_{i}.JPEG\t{WNIDS[label]}\t0\t32\t44\t62\n")
    (root / "val" / "val_annotations.txt").write_text("".join(annotations))
    return root


def save_jpeg(image, file):
    # A part of the archive's images is grey.
    mode = "L" if file.stem.endswith("0") else "RGB"
    Image.fromarray(image).convert(mode).save(file, "JPEG", quality=100)


def write_imagenet64(root, counts=(5, 4, 3), num_validation=2):
    """What tensorflow-datasets prepares, with fewer images of the first classes."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    real = tfds.builder("imagenet_resized/64x64", data_dir=root)

    def split(name, counts):
        labels = np.repeat(np.arange(len(counts)), counts)
        images = [one_colour(c, i) for i, c in enumerate(labels)]
        rows = {"image": np.stack(images), "label": labels}
        return tf.data.Dataset.from_tensor_slices(rows)

    splits = {
        "train": split("train", counts),
        "validation": split("validation", [num_validation] * len(counts)),
    }
    tfds.dataset_builders.store_as_tfds_dataset(
        name="imagenet_resized",
        config="64x64",
        version=real.version,
        features=real.info.features,
        data_dir=root,
        split_datasets=splits,
    )


def write_folder(root, images, mode="RGB", suffix=".png", classes=("ant", "bee")):
    """The images in one folder a class, in turns."""
    for i, image in enumerate(images):
        folder = root / classes[i % len(classes)]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).convert(mode).save(folder / f"{i:03d}{suffix}")


class Reduced:
    """Pickled as whatever it is told to be."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments, state)[: 2 if state is None else 3]

    def __reduce__(self):
        return self.reduced
