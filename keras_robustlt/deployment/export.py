"""A trained network as a file that takes raw images and gives probabilities."""

import json
import os
import zipfile

import keras

from keras_robustlt import checks
from keras_robustlt.attacks.arguments import check_output
from keras_robustlt.class_names import check_different, of_classes
from keras_robustlt.files import local_path, write_atomically
from keras_robustlt.networks.conversion import plain

__all__ = ["class_names_of", "export"]

INPUTS = ("uint8", "float")
# Where the names of the classes are: inside of a `.keras` file, which is an archive,
# and inside of or beside other exports.
NAMES = "class_names.json"
# The first version of Keras that writes it.
LITERT = (3, 13)
SAVED_MODEL = {
    *("assets", "assets.extra", "fingerprint.pb"),
    *("saved_model.pb", "variables"),
}


def export(model, path, class_names=None, input="uint8"):
    """Writes a trained network for use elsewhere: raw images in, probabilities out.

    What is written needs nothing of this package. The end of `path` says what it is:
    `.keras`, a Keras model; `.tflite`, for LiteRT (TensorFlow Lite), in float32; no
    ending, the directory of a TensorFlow SavedModel. The names of the classes go with
    it; see `class_names_of`, and `python -m keras_robustlt predict`.

    Args:
        model: A `RobustLTModel`, of which the network that it predicts with is taken,
            or a functional or sequential `keras.Model` that gives logits of images in
            `[0, 1]`.
        path: String or path. What is there is replaced; a directory must be empty or
            a SavedModel.
        class_names: List of strings, in the order of the logits. Defaults to the class
            indices.
        input: `"uint8"`, images with values from 0 to 255, as files have them, or
            `"float"`, images in `[0, 1]`. Defaults to `"uint8"`.

    Returns:
        The path, a `pathlib.Path`.

    Raises:
        ValueError: If an argument is out of range, or the network has layers that need
            this package.
        ImportError: If `path` is no `.keras` file and TensorFlow is not installed, or
            a `.tflite` file and Keras is older than 3.13.

    Example:

    >>> path = krl.export(model, "robust.keras", class_names=["benign", "malignant"])
    >>> network = keras.saving.load_model(path)
    >>> network(np.zeros((1, 4, 4, 1), "uint8")).shape
    TensorShape([1, 2])
    """
    checks.one_of("input", input, INPUTS)
    network = getattr(model, "inference_network", model)
    if not isinstance(network, keras.Model):
        raise ValueError(
            "`model` must be a RobustLTModel or a keras.Model, itself and not its "
            f"path. Received: model={model!r}"
        )
    network = plain(network)
    checks.logits_not_probabilities(network)
    checks.one_input_and_output(network)
    if not network.built or network.output_shape[-1] < 2:
        shape = network.output_shape if network.built else "not known yet"
        raise ValueError(
            "`model` must be built, and give a logit for each of at least 2 classes: "
            "the probability of a single one is 1 for every image. Received: "
            f"{network.name!r} with outputs of shape {shape}"
        )
    checks.takes_floats(network)
    check_output(network)
    class_names = of_classes(class_names, network.output_shape[-1])
    check_different(class_names)
    path = local_path("path", path)
    if path.name in (".keras", ".tflite"):
        raise ValueError(
            f"`path` must have a name before its ending. Received: path={str(path)!r}"
        )
    if path.suffix not in ("", ".keras", ".tflite"):
        raise ValueError(
            "`path` must end in .keras or .tflite, or have no ending for the directory "
            f"of a SavedModel. Received: path={str(path)!r}"
        )
    if path.is_dir() if path.suffix else path.is_file():
        raise ValueError(
            "`path` must not be that of a "
            f"{'directory' if path.suffix else 'file'} that is there, which nobody "
            f"may want to lose. Received: path={str(path)!r}"
        )
    if not path.suffix and path.is_dir() and not _is_ours(path):
        raise ValueError(
            "`path` must be a new directory, or that of a SavedModel to replace: in "
            f"this one are other files. Received: path={str(path)!r}"
        )
    if path.suffix == ".tflite":
        _compute_in_float32(network)
    whole = _from_raw_images(network, input)
    if path.suffix != ".keras":
        _check_can_be_written(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".keras":
        _save(whole, path, class_names)
        return path
    kind = "litert" if path.suffix == ".tflite" else "tf_saved_model"
    whole.export(str(path), format=kind, verbose=False)
    write_atomically(_beside(path), _as_json(class_names))
    return path


def class_names_of(path):
    """The names of the classes that `export` wrote with a network.

    Args:
        path: String or path of what `export` wrote.

    Returns:
        A list of strings, or `None` if the file has none: it is of someone else.

    Raises:
        FileNotFoundError: If there is nothing at `path`.

    Example:

    >>> path = krl.export(model, "robust.keras", class_names=["cat", "dog"])
    >>> krl.class_names_of(path)
    ['cat', 'dog']
    """
    path = local_path("path", path)
    if not path.exists():
        raise FileNotFoundError(
            f"`path` must be what `export` wrote. Received: path={str(path)!r}, which "
            "does not exist"
        )
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                there = NAMES in archive.namelist()
                return _names_in(archive.read(NAMES)) if there else None
        if path.suffix == ".keras":
            raise ValueError("it is no archive")
        beside = _beside(path)
        return _names_in(beside.read_bytes()) if beside.exists() else None
    except (ValueError, zipfile.BadZipFile) as error:
        raise ValueError(
            f"`path` is damaged, or no export. Received: path={str(path)!r} ({error})"
        ) from None


def _names_in(content):
    names = json.loads(content)
    if not isinstance(names, list):
        raise ValueError(f"{NAMES} holds no list of names")
    return of_classes(names, len(names))


def _check_can_be_written(path):
    """Whether there is TensorFlow and, for LiteRT, what Keras asks for."""
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"{path} would be written by TensorFlow, which is not installed. A path "
            "that ends in .keras needs Keras alone."
        ) from error
    if path.suffix != ".tflite":
        return
    version = tuple(int(part) for part in keras.__version__.split(".")[:2])
    if version < LITERT:
        raise ImportError(
            f"{path} can be written by Keras {'.'.join(map(str, LITERT))} or newer. "
            f"Installed: Keras {keras.__version__}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`path` must not end in .tflite on this backend: Keras writes LiteRT on "
            f"TensorFlow. Received: path={str(path)!r} on {keras.backend.backend()}"
        )


def _is_ours(directory):
    """Whether a directory is empty, or holds a SavedModel and nothing else."""
    return {each.name for each in directory.iterdir()} <= SAVED_MODEL


def _beside(path):
    if path.suffix == ".tflite":
        return path.with_suffix(f".{NAMES}")
    return path / "assets.extra" / NAMES


def _as_json(class_names):
    return json.dumps(class_names, ensure_ascii=False).encode()


def _compute_in_float32(network):
    """LiteRT has no operations in half precision, and would ask for TensorFlow's."""
    for layer in network._flatten_layers():
        if layer.compute_dtype not in ("bfloat16", "float16"):
            continue
        if layer.variable_dtype != "float32":
            raise ValueError(
                "`path` that ends in .tflite is for networks with float32 weights, "
                f"as of the policy mixed_{layer.compute_dtype}. Received: layer "
                f"{layer.name!r} with weights in {layer.variable_dtype}"
            )
        layer.dtype_policy = "float32"


def _from_raw_images(network, input):
    """The network from images as they are stored to probabilities."""
    images = keras.Input(network.input_shape[1:], dtype=_dtype(input), name="images")
    x = images
    if input == "uint8":
        x = keras.layers.Rescaling(1 / 255, dtype="float32", name="to_unit_range")(x)
    softmax = keras.layers.Softmax(dtype="float32", name="probabilities")
    # Some of Keras's layers, such as Resizing, take a plain call for training.
    probabilities = softmax(network(x, training=False))
    return keras.Model(images, probabilities, name=f"{network.name}_deployed")


def _dtype(input):
    return "uint8" if input == "uint8" else "float32"


def _save(whole, path, class_names):
    """Saves a Keras file with the names inside, in one operation."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.keras")
    try:
        whole.save(temporary)
        with zipfile.ZipFile(temporary, "a") as archive:
            archive.writestr(NAMES, _as_json(class_names))
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
