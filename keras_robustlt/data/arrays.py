"""Arrays of images and labels: what they may look like, and `.npz` files."""

import collections.abc
import math
import os
import warnings
import zipfile

import numpy as np

from keras_robustlt import class_names
from keras_robustlt.data.arguments import check_no_mask

# What an array is called here, and its other names in files; MedMNIST has the last.
KEYS = {
    "x_train": ("x_train", "train_images"),
    "y_train": ("y_train", "train_labels"),
    "x_test": ("x_test", "test_images"),
    "y_test": ("y_test", "test_labels"),
    "x_validation": ("x_validation", "x_valid", "x_val", "val_images"),
    "y_validation": ("y_validation", "y_valid", "y_val", "val_labels"),
    "class_names": ("class_names",),
}
MAX_CLASSES = 1_000_000
# What arithmetic may add to images in [0, 1].
ROUNDING = 1e-6
REQUIRED = ("x_train", "y_train", "x_test", "y_test")


def check_images(x, argument):
    """Images as uint8 with channels last, or a `ValueError` naming `argument`."""
    x = as_array(x, argument, "images of one shape")
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
    if _is_channels_first(*x.shape[1:]):
        warnings.warn(
            f"`{argument}` must have its channels last, and looks as if they came "
            f"first. Received: {argument}.shape={x.shape}, which is taken for images "
            f"of {x.shape[3]} channels. If they have {x.shape[1]}, use "
            f"np.moveaxis({argument}, 1, -1).",
            stacklevel=2,
        )
    if 0 in x.shape[1:]:
        raise ValueError(
            f"`{argument}` must have images of at least one pixel. Received: "
            f"{argument}.shape={x.shape}"
        )
    if x.dtype == np.uint8:
        _warn_if_dark(x, argument)
        return x
    if not np.issubdtype(x.dtype, np.floating):
        raise ValueError(
            f"`{argument}` must be uint8, or floats in [0, 1]. Received: "
            f"{argument}.dtype={x.dtype}{_to_uint8(x, argument)}"
        )
    if not np.isfinite(x).all():
        first = int(np.argwhere(~np.isfinite(x))[0][0])
        raise ValueError(
            f"`{argument}` has NaN or infinite pixels, first in image {first}. Repair "
            "or remove such images."
        )
    if x.size and (x.min() < -ROUNDING or x.max() > 1 + ROUNDING):
        raise ValueError(
            f"Float images must be in [0, 1], not normalised. Received: `{argument}` "
            f"from {x.min():g} to {x.max():g}; divide images in [0, 255] by 255, and "
            "leave normalisation to the network."
        )
    if x.size and 0 < x.max() <= 1.001 / 255:
        raise ValueError(
            f"`{argument}` seems to be divided by 255 twice: its brightest pixel is "
            f"{x.max():g}, and images are in [0, 1]."
        )
    return np.round(x * 255).astype(np.uint8)


def _is_channels_first(channels, height, width):
    """Whether images seem to have this shape, and not one with the channels last."""
    if width in (1, 3):
        return False
    # A few rows of so many channels, and as many channels as columns, are rare.
    like_sides = max(height, width) <= 2 * min(height, width)
    few = channels <= 4 < min(height, width) and like_sides
    return few or channels < height == width > 4


def as_array(values, argument, expected):
    """`values` as an array, or a `ValueError` naming `argument`."""
    check_no_mask(argument, values)
    try:
        return np.asarray(values)
    except ValueError as error:
        raise ValueError(
            f"`{argument}` must be an array of {expected}: {error}"
        ) from None


def _warn_if_dark(x, argument):
    if x.size and x.max() == 1:
        warnings.warn(
            f"`{argument}` is uint8 with no value above 1, and 255 is white: all its "
            "images are black. Images in [0, 1] are floats; for masks of 0 and 1 pass "
            f"{argument} * 255.",
            stacklevel=2,
        )


def _to_uint8(x, argument):
    """What to do with images of another dtype, after what was received."""
    if x.dtype == bool:
        return f"; use {argument}.astype('uint8') * 255."
    if not np.issubdtype(x.dtype, np.integer) or not x.size:
        return "."
    if x.min() >= 0 and x.max() <= 255:
        return f"; if the values are 0 to 255, use {argument}.astype('uint8')."
    return (
        f" with values from {x.min()} to {x.max()}; divide them by their largest "
        f"possible value, such as {argument} / 65535 for 16 bits."
    )


def check_labels(y, argument):
    """Labels as int64 from 0, or a `ValueError` naming `argument`."""
    y = as_array(y, argument, "one label an image")
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1:
        one_hot = y.ndim == 2 and y.dtype.kind in "biuf" and (y.sum(axis=1) == 1).all()
        advice = (
            f"for one-hot labels use {argument}.argmax(axis=-1)"
            if one_hot
            else "an image has one class here, not several, and no soft labels"
        )
        raise ValueError(
            f"`{argument}` must have shape (num_images,). Received: "
            f"{argument}.shape={y.shape}; {advice}."
        )
    if not np.issubdtype(y.dtype, np.integer):
        raise ValueError(
            f"`{argument}` must be integers. Received: {argument}.dtype={y.dtype}; "
            f"{_to_integers(y, argument)}."
        )
    if y.size and y.min() < 0:
        raise ValueError(
            f"`{argument}` must hold labels from 0. Received: a label {int(y.min())}."
        )
    if y.size and y.max() >= MAX_CLASSES:
        raise ValueError(
            f"`{argument}` must hold labels from 0 to the number of classes, without "
            f"gaps. Received: a label {int(y.max())}."
        )
    return y.astype(np.int64)


def _to_integers(y, argument):
    if y.dtype.kind in "OSU":
        return (
            f"for names use names, {argument} = np.unique({argument}, "
            "return_inverse=True)"
        )
    if y.dtype.kind == "f" and not np.isfinite(y).all():
        return "some are NaN or infinite: leave those images out"
    if y.dtype.kind == "f" and (y != np.floor(y)).any():
        return f"some are no whole numbers, such as {y[y != np.floor(y)][0]:g}"
    return f"use {argument}.astype('int64') if the values are whole numbers"


def check_class_names(names):
    """Class names as a tuple of strings, or a `ValueError`."""
    if isinstance(names, (collections.abc.Iterator, collections.abc.MappingView)):
        names = list(names)  # in the order of the labels, as lists are
    class_names.check(names)
    texts = []
    for name in names:
        try:
            text = name.decode() if isinstance(name, bytes) else str(name)
            text.encode()
        except UnicodeError:
            raise ValueError(
                f"`class_names` must be text in UTF-8. Received: {name!r}"
            ) from None
        texts.append(class_names.composed(text))
    class_names.check_different(texts)
    return tuple(texts)


def read_npz(file):
    """The arrays of an `.npz` file, which is not trusted.

    Returns:
        A dictionary of `x_train`, `y_train`, `x_test`, `y_test`, and perhaps
        `x_validation`, `y_validation` and `class_names`.
    """
    try:
        with zipfile.ZipFile(file) as archive:
            return _read_members(archive)
    except PermissionError:
        raise
    except Exception as error:
        # Damaged archives raise many kinds, by the part that is damaged.
        raise ValueError(
            f"{file} cannot be used: {error}. Save it with np.savez(file, "
            "x_train=..., y_train=..., x_test=..., y_test=...)."
        ) from error


def unread_arrays(file):
    """The names of the arrays of an `.npz` file that `read_npz` does not read."""
    known = {name for names in KEYS.values() for name in names}
    with zipfile.ZipFile(file) as archive:
        return [name for name in _members(archive) if name not in known]


def _members(archive):
    return {info.filename.removesuffix(".npy"): info for info in archive.filelist}


def _read_members(archive):
    members = _members(archive)
    chosen = {}
    for key, names in KEYS.items():
        found = [name for name in names if name in members]
        if not {"x_valid", "y_valid"} <= members.keys():  # which may be masks
            found = [name for name in found if not name.endswith("_valid")]
        if len(found) > 1:
            raise ValueError(f"it has {' and '.join(found)}, which mean the same")
        chosen[key] = members[found[0]] if found else None
    missing = [key for key in REQUIRED if chosen[key] is None]
    if missing:
        found = ", ".join(sorted(members)[:10]) or "nothing"
        raise ValueError(f"it lacks {', '.join(missing)} (it has {found})")
    if (chosen["x_validation"] is None) != (chosen["y_validation"] is None):
        raise ValueError("it has validation images or labels without the other")
    chosen = {key: info for key, info in chosen.items() if info is not None}
    check_memory(sum(info.file_size for info in chosen.values()))
    arrays = {key: _read_member(archive, info) for key, info in chosen.items()}
    if "class_names" in arrays:
        if arrays["class_names"].ndim != 1:
            raise ValueError("its class_names are no list of names")
        arrays["class_names"] = arrays["class_names"].tolist()
    return arrays


def _read_member(archive, info):
    """One array, after a look at what its header makes of so many bytes."""
    with archive.open(info) as stream:
        version = np.lib.format.read_magic(stream)
        if version not in ((1, 0), (2, 0)):
            raise ValueError(f"{info.filename} has the unknown format {version}")
        read_header = getattr(np.lib.format, f"read_array_header_{version[0]}_0")
        shape, _, dtype = read_header(stream)
        if dtype.kind not in "biufSU" or dtype.hasobject:
            raise ValueError(
                f"{info.filename} holds neither numbers nor text, but {dtype}"
            )
        promised = math.prod(shape) * dtype.itemsize
        there = info.file_size - stream.tell()
        if any(size < 0 for size in shape) or promised != there:
            raise ValueError(
                f"{info.filename} promises shape {shape} of {dtype}, {promised} bytes, "
                f"and has {there}"
            )
    with archive.open(info) as stream:
        return np.lib.format.read_array(stream, allow_pickle=False)


def check_memory(wanted, advice="It may be no data set."):
    """Refuses what cannot fit, such as gigabytes of zeros in a small archive."""
    try:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):
        return  # Not told by this system.
    if wanted > memory:
        raise ValueError(
            f"the images take {wanted / 1e9:.1f} GB, and this machine has "
            f"{memory / 1e9:.1f} GB of memory. {advice}"
        )
