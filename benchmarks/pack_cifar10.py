"""Packs long-tailed CIFAR-10 into one file, for a machine that has no data.

    python benchmarks/pack_cifar10.py --data_dir=DATA --output=cifar10lt.npz

The file has the training images of one long-tailed selection and all test images, as
uint8: about 60 MB for the published selection of imbalance 50. It is one of the sources
of `krl.data.load`, so `krl.data.long_tail("cifar10lt.npz", imbalance_ratio=None)` reads
it as it is. Beside the images it has `class_counts` and `indices`, the places of the
training images in CIFAR-10.
"""

import argparse
import pathlib
import zipfile

import numpy as np

import keras_robustlt as krl

MIB = 2**20


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--source", default="cifar10", help="a name or path that krl.data.load takes"
    )
    parser.add_argument("--data_dir", help="where the data with a name are")
    parser.add_argument("--imbalance_ratio", type=float, default=50.0)
    parser.add_argument("--seed", type=int, default=102, help="of the selection")
    parser.add_argument("--test_images", type=int, help="the first so many; all if not")
    parser.add_argument("--output", default="cifar10lt.npz")
    parser.add_argument(
        "--limit",
        type=float,
        default=64.0,
        help="refuse to write more than so many MiB",
    )
    return parser.parse_args()


def pack(source, imbalance_ratio, seed, test_images=None):
    """The arrays of the file.

    Args:
        source: A `krl.data.Source`.
        imbalance_ratio: Number, the largest class over the smallest.
        seed: Integer, of the selection.
        test_images: Integer, how many of the test images. Defaults to `None`, all.

    Returns:
        A dictionary of arrays.
    """
    largest = np.bincount(source.y_train).min()
    counts = krl.data.long_tail_counts(largest, source.num_classes, imbalance_ratio)
    indices, _ = krl.data.long_tail_indices(source.y_train, counts, seed)
    return {
        "x_train": source.x_train[indices],
        "y_train": source.y_train[indices].astype(np.uint8),
        "x_test": source.x_test[:test_images],
        "y_test": source.y_test[:test_images].astype(np.uint8),
        "class_names": np.array(source.class_names),
        "class_counts": counts,
        "indices": indices,
    }


def save(path, arrays):
    """Writes an `.npz` file with LZMA, which NumPy reads; its own would be larger."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_LZMA) as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as file:
                np.lib.format.write_array(file, array, allow_pickle=False)


def main():
    arguments = parse_arguments()
    source = krl.data.load(
        arguments.source, data_dir=arguments.data_dir, download=False
    )
    arrays = pack(
        source, arguments.imbalance_ratio, arguments.seed, arguments.test_images
    )
    path = pathlib.Path(arguments.output)
    save(path, arrays)
    size = path.stat().st_size / MIB
    if size > arguments.limit:
        path.unlink()
        raise SystemExit(
            f"The file would have {size:.0f} MiB, more than --limit={arguments.limit}. "
            "Give --test_images or a larger --imbalance_ratio."
        )
    print(
        f"{path}: {size:.1f} MiB, {len(arrays['x_train'])} training images "
        f"({', '.join(map(str, arrays['class_counts']))}), "
        f"{len(arrays['x_test'])} test images"
    )


if __name__ == "__main__":
    main()
