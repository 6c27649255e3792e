"""Reads the images of a folder into arrays, and notes what is noteworthy on the way."""

import numpy as np

from keras_robustlt.data import tiny_imagenet
from keras_robustlt.data.arrays import check_class_names
from keras_robustlt.data.findings import ERROR, WARNING, note_duplicates
from keras_robustlt.data.images import ImageFiles
from keras_robustlt.data.layout import find_layout
from keras_robustlt.data.selection import TEST_FRACTION, hold_out


def read_folder(root, check, classes=None, **options):
    """The images of a folder; see `read_layout`."""
    if tiny_imagenet.is_one(root):
        return read_tiny_imagenet(root, check, classes, **options)
    return read_layout(find_layout(root, classes, check), check, **options)


def read_tiny_imagenet(root, check, classes=None, **options):
    """The images of Tiny-ImageNet; see `read_layout`."""
    return read_layout(tiny_imagenet.layout(root, classes, check), check, **options)


def read_layout(
    layout,
    check,
    image_size=None,
    test_fraction=None,
    seed=102,
    color_mode="auto",
    on_bad="error",
    groups=None,
    pixels=True,
):
    """Reads the files of a `Layout`.

    Args:
        layout: `Layout`.
        check: `DataCheck`, gets what is noteworthy.
        image_size: As in `data.load`, and so are the next five.
        test_fraction: Float or `None`.
        seed: Integer.
        color_mode: String.
        on_bad: String.
        groups: Function of a path, or `None`.
        pixels: Boolean. `False` only checks: images are decoded one at a time, not
            kept, and nothing is refused before all were seen.

    Returns:
        The arguments of a `Source`, without `pixels` `None`.
    """
    check_class_names(layout.class_names)
    if groups is not None and not callable(groups):
        raise ValueError(
            "For folders, `groups` must be a function from the `pathlib.Path` of an "
            "image to its group, such as lambda path: path.parent.name. "
            f"Received: groups of type {type(groups).__name__}"
        )
    if test_fraction is not None and "all" not in layout.parts:
        raise ValueError(
            "`test_fraction` is for folders without test images of their own. "
            f"Received: test_fraction={test_fraction}, and there are test images."
        )
    classes = set(range(len(layout.class_names)))
    files = [file for part, _ in layout.parts.values() for file in part]
    labels = np.concatenate([labels for _, labels in layout.parts.values()])
    images = ImageFiles(files, check, image_size, color_mode)
    if pixels:
        check.refuse()
        x = images.read(check, on_bad)
        check.refuse()
        _note_lost_classes(layout, images, check)
        check.refuse()
    else:
        images.inspect(check, on_bad)
        images.check_memory()
        empty = any(not set(each) >= classes for _, each in layout.parts.values())
        if _note_lost_classes(layout, images, check) or empty:
            return None  # an error that is noted; there are no parts to look at
    if groups is not None:
        groups = np.array([str(groups(file)) for file in files])
    parts = _parts(layout, images, labels, groups, test_fraction, seed)
    _note_parts(layout, parts, images, labels, groups, check)
    if not pixels:
        return None
    read = {"class_names": layout.class_names}
    for part, rows in parts.items():
        # Files that lie in their order already are not copied.
        whole = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
        rows = slice(rows[0], rows[-1] + 1) if whole else rows
        read[f"x_{part}"], read[f"y_{part}"] = x[rows], labels[rows]
        if groups is not None and part == "train":
            read["groups"] = groups[rows]
    return read


def _note_lost_classes(layout, images, check):
    """Notes whether files that cannot be read leave too little of a class or part."""
    found = False
    for part, needed in (("all", 2), ("train", 1)):  # of all, some are for testing
        files, labels = layout.parts.get(part, ((), ()))
        of_class = [[] for _ in layout.class_names]
        for file, label in zip(files, labels, strict=True):
            of_class[label].append(file)
        for name, there in zip(layout.class_names, of_class, strict=True):
            bad = [file for file in there if file in images.bad]
            if bad and len(there) - len(bad) < needed:
                found = True
                check.add(
                    ERROR,
                    "unreadable class",
                    f"{len(bad)} of the {len(there)} files of class {name!r} cannot be "
                    f"read as images, and it needs at least {needed}.",
                    [f"{file}: {images.bad[file]}" for file in bad],
                )
    for part in ("validation", "test"):
        files, _ = layout.parts.get(part, ((), ()))
        if files and all(file in images.bad for file in files):
            found = True
            check.add(
                ERROR,
                "unreadable part",
                f"None of the {len(files)} files of {part} can be read as images.",
                [f"{file}: {images.bad[file]}" for file in files],
            )
    return found


def _parts(layout, images, labels, groups, test_fraction, seed):
    """The rows of each part, without files that could not be read."""
    good = np.array([digest is not None for digest in images.digests], bool)
    parts, start = {}, 0
    for part, (files, _) in layout.parts.items():
        parts[part] = start + np.flatnonzero(good[start : start + len(files)])
        start += len(files)
    if "all" in parts:
        rows = parts.pop("all")
        fraction = TEST_FRACTION if test_fraction is None else test_fraction
        train, test = hold_out(
            labels[rows],
            layout.class_names,
            fraction,
            seed,
            None if groups is None else groups[rows],
        )
        parts = {"train": rows[train], "test": rows[test]}
    return parts


def _note_parts(layout, parts, images, labels, groups, check):
    """Notes how many images there are, and which are there more than once."""
    places = {
        part: [(images.files[i], images.digests[i], labels[i]) for i in rows]
        for part, rows in parts.items()
    }
    for part, rows in parts.items():
        check.count(part, layout.class_names, labels[rows])
    note_duplicates(check, places, layout.class_names)
    if groups is not None:
        train = set(groups[parts["train"]])
        for part in ("validation", "test"):
            both = sorted(train.intersection(groups[parts.get(part, [])]))
            if both:
                check.add(
                    WARNING,
                    "group in two parts",
                    f"{len(both)} of the `groups` are in train and in {part}.",
                    both,
                )
