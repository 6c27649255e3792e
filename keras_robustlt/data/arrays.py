"""Arrays of images and labels: what they may look like, and `.npz` files."""

import numpy as np


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


def read_npz(file):
    """The arrays of an `.npz` file.

    Returns:
        `x_train, y_train, x_test, y_test`, and perhaps `class_names`.
    """
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
    return parts if names is None else [*parts, names.tolist()]
