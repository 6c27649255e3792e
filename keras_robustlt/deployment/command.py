"""Says what a trained network takes images for.

    python -m keras_robustlt predict robust.keras image.png [image.png ...]

The network is one that `keras_robustlt.export` wrote as a .keras file, or the
network.keras of a run, beside whose config.json the names of the classes are. Images
are read as for training: upright, in the network's size and number of channels.

    --top=3        how many classes are shown of each image, the most probable first
"""

import json
import pathlib
import sys
import warnings

from absl import app

from keras_robustlt.class_names import display_width, ljust, of_classes, one_line
from keras_robustlt.flag_types import COUNT, define_number
from keras_robustlt.run_config import check_entries


def define_flags(values):
    """Defines the flags in `values`, an `absl.flags.FlagValues`."""
    define_number(values, COUNT, "top", 3, "Classes shown of each image.")


def main(argv, values):
    """Prints a line an image.

    Args:
        argv: List of strings: the name of the program, the network, the images.
        values: The `absl.flags.FlagValues` of `define_flags`, parsed.

    Raises:
        UsageError: If there is no network or no image among the arguments.
        SystemExit: If something cannot be read.
    """
    if len(argv) < 3 or "" in argv:
        raise app.UsageError(
            "give a network and images, such as robust.keras image.png."
        )
    _, path, *files = argv
    for file in (path, *files):
        if not pathlib.Path(file).is_file():
            raise SystemExit(f"error: {_no_file(file, file == path)}")
    network, names = _loaded(path)
    read, images, unreadable = [], [], []
    for file in files:
        try:
            images.append(_read(file, network.input_shape[1:]))
            read.append(file)
        except ValueError as error:
            why = str(error).rpartition(": ")[2]
            unreadable.append(f"{file} cannot be read as an image: {why}")
    probabilities = _probabilities(network, images) if images else []
    width = max(display_width(one_line(file)) for file in files)
    for file, row in zip(read, probabilities, strict=True):
        file = one_line(file)
        best = row.argsort()[::-1][: values.top]
        shown = ", ".join(
            f"{one_line(names[index])} {row[index]:.1%}" for index in best
        )
        print(f"{ljust(file, width)}  {shown}")
    if unreadable:
        raise SystemExit("\n".join(f"error: {each}" for each in unreadable))


def _no_file(path, is_network):
    """What is wrong with a path, and what may be meant."""
    if not pathlib.Path(path).is_dir():
        hint = "data sets are for the command `evaluate`"
        if is_network:
            hint = "the network is a .keras file, and comes first"
        return f"there is no file {path}; {hint}."
    if not is_network:
        return f"{path} is a folder: give its images, such as {path}/*.png."
    inside = pathlib.Path(path) / "network.keras"
    hint = f"give {inside}" if inside.is_file() else "give a .keras file"
    return f"{path} is a folder: {hint}."


def _loaded(path):
    """The network in a file, and the names of its classes."""
    from keras_robustlt.deployment.export import class_names_of
    from keras_robustlt.networks.loading import load

    try:
        if pathlib.Path(path).suffix == ".tflite":
            raise ValueError("`predict` reads .keras files: export the network as one")
        network = load(path)
        network = getattr(network, "inference_network", network)  # of a RobustLTModel
        classes = network.output_shape[-1]
        names = class_names_of(path)
        _check(network)
    except Exception as error:
        # Damaged archives raise many kinds.
        said = str(error).strip().partition("\n")[0]
        raise SystemExit(f"error: {path} cannot be read: {said}") from None
    config = pathlib.Path(path).with_name("config.json")
    if names is None and config.exists():
        names = _names_in(config, classes)
    if names is None:
        names = [str(index) for index in range(classes)]
    return network, names


def _check(network):
    """Raises if a network is no classifier of images."""
    from keras_robustlt import checks

    takes, gives = network.input_shape, network.output_shape
    one = isinstance(takes, tuple) and isinstance(gives, tuple)
    if not one or len(takes) != 4 or len(gives) != 2 or gives[1] < 2:
        raise ValueError(
            "it must take images, (height, width, channels), and give a number for "
            f"each of at least 2 classes. Received: inputs of shape {takes}, outputs "
            f"of shape {gives}"
        )
    checks.finite_weights(network)
    # Others give each class a probability by itself.
    checks.logits_not_probabilities(network, meant=("softmax", "sparsemax"))
    if "int" not in network.inputs[0].dtype:
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            checks.own_preprocessing(network)
        for each in said:
            print(f"warning: {each.message}", file=sys.stderr)


def _names_in(config, classes):
    """The names of the classes in the config.json of a run; `None` if it has none."""
    try:
        content = json.loads(config.read_text("utf-8"))
        names = content.get("class_names")
        if names is not None:
            check_entries({"class_names": names})
            names = of_classes(names, classes)
    except (AttributeError, TypeError, ValueError) as error:
        raise SystemExit(
            f"error: {config}, which tells the names of the classes, is damaged "
            f"({error}). Put it back as it was, or remove it to see numbers."
        ) from None
    return names


def _read(file, shape):
    """A uint8 image of the shape that the network takes, or a `ValueError`."""
    from keras_robustlt.data.findings import DataCheck
    from keras_robustlt.data.images import ImageFiles

    height, width, channels = shape
    if channels not in (1, 3):
        raise SystemExit(
            f"error: the network takes images of {channels} channels, and files are "
            "read as grey (1) or in colour (3)."
        )
    check = DataCheck(file)
    size = None if height is None else (height, width)
    color_mode = "grayscale" if channels == 1 else "rgb"
    files = ImageFiles([pathlib.Path(file)], check, size, color_mode)
    (image,) = files.read(check, "error")
    check.refuse()
    return image


def _probabilities(network, images):
    """Probabilities of the classes, of each image."""
    import numpy as np
    from keras import ops, tree

    takes_pixels = "int" in network.inputs[0].dtype
    found = []
    for image in images:  # their sizes may differ
        x = image[None] if takes_pixels else image[None].astype("float32") / 255
        (outputs,) = tree.flatten(network(x, training=False))  # perhaps named
        found.append(ops.convert_to_numpy(outputs)[0])
    found = np.stack(found)
    sums_to_one = np.all(found >= 0) and np.allclose(found.sum(axis=1), 1, atol=1e-3)
    if not sums_to_one:  # the network of a run gives logits
        found = np.exp(found - found.max(axis=1, keepdims=True))
        found /= found.sum(axis=1, keepdims=True)
    return found
