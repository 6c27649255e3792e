"""Measures how robust a saved network is, class by class.

    python -m keras_robustlt evaluate network.keras --data=cifar10 --data_dir=DATA

NETWORK is a file of Keras that gives logits, such as the network.keras of a recipe,
and DATA what `keras_robustlt.data.load` reads; the test images are used. If there is a
config.json beside the network, as in the directory of a recipe's run, it tells epsilon,
the classes and their training images, which say what the tail is, the images' size, and
what to do with files that are none.

    --attacks=clean,pgd20,cw20         the table of the paper, without AutoAttack
    --attacks=clean,autoattack         what others compare with: the standard version
    --attacks=clean,pgd20 --examples=1000        quicker, on a part of the test images

Images of a folder are read in the network's size and number of channels.

Long runs keep what is done with --cache=progress.npz: the same command goes on from
there. --output=results.json writes all figures, and --per_example beside it, as
results.npz, which images are robust. The backend is that of Keras, such as
KERAS_BACKEND=jax.
"""

import functools
import importlib
import json
import pathlib

import numpy as np
from absl import app, flags

import keras_robustlt as krl
from keras_robustlt.class_names import are_numbers, composed
from keras_robustlt.data.long_tailed import fingerprint_of
from keras_robustlt.data.sources import find_folder, holds_test_images_out, source_of
from keras_robustlt.files import local_path, make_folder
from keras_robustlt.flag_types import COUNT, EPSILON, SEED, define_number
from keras_robustlt.run_config import check_entries

DEFAULT_SEED = 102


def define_flags(values):
    """Defines the flags in `values`, an `absl.flags.FlagValues`."""

    def text(name, default, help):
        flags.DEFINE_string(name, default, help, flag_values=values)

    def number(kind, name, default, help):
        define_number(values, kind, name, default, help)

    text(
        "data",
        None,
        "Test images, by what `train` takes as --data: a name such as cifar10, "
        "imagenet or tfds:svhn_cropped, an .npz file, or a folder of images. Required.",
    )
    text("data_dir", None, "Where data sets that have a name are.")
    number(
        COUNT,
        "image_size",
        None,
        "Height and width to bring the images to. Default: that of the config; images "
        "of a folder become as the network takes them.",
    )
    flags.DEFINE_enum(
        "on_bad",
        None,
        ["error", "skip"],
        "What to do about files that are no images. Default: that of the config, or "
        "error.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "attacks",
        ["clean", "pgd20"],
        "Any of clean, fgsm, fgsm-rs, pgdN, cwN (N steps), autoattack, "
        "autoattack-plus, autoattack-rand, apgd-ce, apgd-dlr, apgd-t, fab, "
        "fab-t, square.",
        flag_values=values,
    )
    number(
        EPSILON,
        "epsilon",
        None,
        "Budget in pixel units of [0, 1], such as 8/255. Default: that of the config, "
        "or 8/255.",
    )
    number(
        COUNT,
        "examples",
        None,
        "Only so many test images, drawn from all classes as evenly as they come. "
        "Default: all.",
    )
    text("output", None, "JSON file to write the results to.")
    flags.DEFINE_bool(
        "per_example",
        False,
        "Write which images are robust beside --output, as an .npz file.",
        flag_values=values,
    )
    text("cache", None, "An .npz file that keeps what is done, to go on from it.")
    text(
        "config",
        None,
        "The config.json of a recipe's run. Default: the one beside the network, if "
        "there is one.",
    )
    flags.DEFINE_list(
        "class_counts",
        None,
        "Training images of each class, such as 500,50,5. Default: those of the "
        "config; without any there is no tail.",
        flag_values=values,
    )
    number(COUNT, "batch_size", 250, "Images at once.")
    number(COUNT, "chunk_size", 1000, "Images between two writes of --cache.")
    number(SEED, "seed", 0, "Seed of the attacks.")
    number(
        SEED,
        "data_seed",
        None,
        "Seed that held test images out, where the data have no test set (digits, "
        f"folders). Default: that of the config, or {DEFAULT_SEED}.",
    )


def main(argv, values):
    """Evaluates, prints the table and writes the files.

    Args:
        argv: List of strings: the name of the program and the network's file.
        values: The `absl.flags.FlagValues` of `define_flags`, parsed.

    Returns:
        The `EvaluationResults`.

    Raises:
        SystemExit: If something is wrong with what was given.
    """
    if len(argv) != 2 or not argv[1]:
        raise app.UsageError(
            f"give one network, such as network.keras. Received: {argv[1:]}"
        )
    if values.data is None:
        raise app.UsageError("give --data, such as --data=cifar10.")
    for name in ("data", "data_dir", "output", "cache", "config"):
        if values[name].value == "":
            raise app.UsageError(f"--{name}= is empty: name a file or a directory.")
    if values.per_example and not values.output:
        raise app.UsageError("--per_example writes beside --output: give it too.")
    if values["chunk_size"].present and not values.cache:
        raise app.UsageError("--chunk_size is how often --cache is written: give both.")
    path = pathlib.Path(argv[1])
    importlib.import_module("keras")  # a backend that it refuses is no flag's fault
    try:
        return _evaluate(path, values)
    except BrokenPipeError:
        raise
    except (OSError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None


def _evaluate(path, values):
    from keras_robustlt.data.class_balanced import class_balanced_subset
    from keras_robustlt.evaluation import sanity_checks

    _check_attacks(values.attacks)
    _check_is_there(path)
    config = _config(path, values.config)
    settings = config["settings"]
    output, flags_file, cache = _check_files(path, values)
    epsilon = values.epsilon
    if epsilon is None:
        epsilon = settings.get("epsilon")
    class_counts = config.get("class_counts")
    if values.class_counts is not None:
        class_counts = _integers("--class_counts", values.class_counts)
    network = _network(path)
    data, doubts = _data(values, config, network)
    _check_fits(path, network, data, config)
    for file in filter(None, (output, flags_file, cache)):
        make_folder(file.parent)
    x, y = data.x_test, data.y_test
    if values.examples is not None:
        x, y = class_balanced_subset(x, y, values.examples, values.seed)
    results = krl.evaluate(
        network,
        x.astype("float32") / 255,
        y,
        attacks=values.attacks,
        epsilon=epsilon,
        class_counts=class_counts,
        class_names=data.class_names,
        batch_size=values.batch_size,
        chunk_size=values.chunk_size,
        seed=values.seed,
        per_example=values.per_example,
        cache=values.cache,
    )
    results.settings["findings"] += doubts
    sanity_checks.warn(doubts)
    try:
        # First: a terminal may fail.
        if output:
            results.to_json(output, network=str(path), data=data.name)
        if flags_file:
            results.to_npz(flags_file)
    finally:
        print(f"{path} on {len(y)} test images of {data.name}, accuracy in %:")
        print(results.table(per_class=data.num_classes <= 20))
    return results


def _check_attacks(names):
    for name in names:
        try:
            krl.attacks.get(name)
        except ValueError as error:
            raise ValueError(f"--attacks={name}: {error}") from None


def _data(values, config, network):
    """The images, and findings about what the network may have seen of them.

    Raises:
        ValueError: If they are not for the network that the config is of.
    """
    settings = config["settings"]
    seed = settings.get("seed", DEFAULT_SEED)
    source = source_of(values.data)
    folder, _ = find_folder(source, values.data_dir)
    if values.on_bad and folder is None:
        raise ValueError(
            f"--on_bad={values.on_bad} does nothing: {values.data} is no folder of "
            "image files."
        )
    held_out = holds_test_images_out(source, values.data_dir)
    if values.data_seed is not None:
        if not held_out:
            raise ValueError(
                f"--data_seed={values.data_seed} does nothing: {values.data} has test "
                "images of its own."
            )
        if "seed" in settings and values.data_seed != seed:
            raise ValueError(
                f"--data_seed={values.data_seed} holds other test images out than the "
                f"training did, with its seed {seed}: most of them would be images "
                "that the network was trained on. Leave --data_seed out."
            )
        seed = values.data_seed
    read = functools.partial(
        krl.data.load,
        source,
        data_dir=values.data_dir,
        seed=seed,
        on_bad=values.on_bad or settings.get("on_bad", "error"),
        **_shape_of_images(values, settings, network, folder),
    )
    names = config.get("class_names") and list(map(composed, config["class_names"]))
    data = _in_order(read, settings.get("num_classes"), names)
    doubts = list(filter(None, [_doubt_of_names(names, data, values.data)]))
    # Who names a seed where no config does, knows it.
    known = values.data_seed is not None and "seed" not in settings
    if held_out and not known and not _is_as_in_training(data, config):
        doubts.append(
            {
                "check": "held_out",
                "message": f"The test images are a part of {data.name} that was drawn "
                f"with --data_seed={seed}, and {_why(config)}: the network may "
                "have been trained on some of them, and is then less robust than "
                "this says. Put images that it has not seen into a folder `test`, "
                "beside `train`.",
            }
        )
    return data, doubts


def _shape_of_images(values, settings, network, folder):
    """What `krl.data.load` is told of size and colour: files become as they must be."""
    size = values.image_size or settings.get("image_size")
    takes = getattr(network, "input_shape", None)  # not of a class of one's own
    if folder is None or not isinstance(takes, tuple) or len(takes) != 4:
        return {"image_size": size}
    _, *of_network, channels = takes
    if size is None and None not in of_network:
        size = of_network
    modes = {1: "grayscale", 3: "rgb"}
    return {"image_size": size, "color_mode": modes.get(channels, "auto")}


def _in_order(read, count, names):
    """The data with their classes in the order of the network's, `names`.

    Raises:
        ValueError: If they are others.
    """
    data = read(classes=count)
    if not names or are_numbers(names) or are_numbers(data.class_names):
        return data
    if names == list(data.class_names):
        return data
    known = list(read().class_names)
    lacking = [name for name in names if name not in known]
    if lacking:
        raise ValueError(
            "the classes of --data are not those that the network was trained on, "
            f"which its config.json names: they lack {', '.join(map(str, lacking))}. "
            f"Received: {', '.join(known)}"
        )
    others = [str(name) for name in known if name not in names]
    if others:
        print(f"Classes that the network does not know stay out: {', '.join(others)}.")
    return read(classes=names)


def _doubt_of_names(names, data, source):
    """A finding where the classes are told by their numbers alone, or `None`."""
    known = list(data.class_names)
    # Arrays often have no names.
    unnamed = are_numbers(known) and source.lower().endswith(".npz")
    if not names or names == known or unnamed:
        return None
    return {
        "check": "class_names",
        "message": "The network was trained on classes called "
        f"{', '.join(names[:5])}, as its config.json says, and those of --data are "
        f"called {', '.join(known[:5])}: they are taken for the same, in this order. "
        "If they are others, this says nothing about the network.",
    }


def _is_as_in_training(data, config):
    """Whether the config is of a run on these images, divided in the same way."""
    settings = config["settings"]
    keys = ("imbalance_ratio", "imbalance_type", "seed", "validation_fraction")
    keys += ("largest_class",)
    if "fingerprint" not in config or any(key not in settings for key in keys):
        return False
    try:
        found = fingerprint_of(data, **{key: settings[key] for key in keys})
    except ValueError:  # these images cannot be divided so
        return False
    return found == config["fingerprint"]


def _why(config):
    if "fingerprint" in config:
        return "these are not the images of its training, or not as they were then"
    return "no config.json beside the network says how its training divided them"


def _check_files(network, values):
    """The files of --output, --per_example and --cache, or None.

    Raises:
        ValueError: If a file to write is another one that is read or written, or in a
            folder among the images.
    """
    for name in ("output", "cache"):
        if values[name].value:
            local_path(name, values[name].value)
    output = values.output and pathlib.Path(values.output)
    if output and (output.suffix != ".json" or output.is_dir()):
        raise ValueError(
            "--output must be the path of a file whose name ends in .json. "
            f"Received: --output={output}"
        )
    flags_file = output.with_suffix(".npz") if values.per_example else None
    cache = values.cache and pathlib.Path(values.cache)
    if cache and (cache.suffix != ".npz" or cache.is_dir()):
        raise ValueError(
            "--cache must be the path of a file whose name ends in .npz. "
            f"Received: --cache={cache}"
        )
    written = {"--output": output, "--per_example": flags_file, "--cache": cache}
    config = values.config or network.with_name("config.json")
    known = {"the network": network, "--config": config, "--data": values.data}
    of_file = {pathlib.Path(read).resolve(): name for name, read in known.items()}
    images, _ = find_folder(source_of(values.data), values.data_dir)
    for name, file in written.items():
        if not file:
            continue
        other = of_file.setdefault(file.resolve(), name)
        if other != name:
            raise ValueError(
                f"{name} and {other} must be two files. Received for both: {file}"
            )
        if images is not None and images.resolve() in file.resolve().parent.parents:
            raise ValueError(
                f"{name} must be the path of a file outside of the folders of --data, "
                f"which are its classes. Received: {file}, in {images}"
            )
    for name in ("--output", "--per_example"):
        if written[name]:
            _check_replaced(name, written[name])
    return output, flags_file, cache


def _check_replaced(name, file):
    """Raises if what is at `file` is nothing that this command writes.

    The results.json of a run has its settings too, which are nowhere else: without
    them it would be in no comparison and no sweep.
    """
    if not file.is_file() or not file.stat().st_size:
        return
    try:
        if name == "--output":
            content = json.loads(file.read_text("utf-8"))
            ours = "attacks" in content and "training" not in content
        else:
            with np.load(file, allow_pickle=False) as arrays:
                robust = {key: arrays[key].dtype for key in arrays if key != "labels"}
                ours = "labels" in arrays and {*robust.values()} == {np.dtype(bool)}
    except Exception:  # files of something else raise many kinds
        ours = False
    if not ours:
        raise ValueError(
            f"{name} would replace {file}, which `evaluate` has not written: it is of "
            "a run, or something else. Give another --output."
        )


def _config(network, path):
    """What the config.json says, with its "settings"; nothing if there is none."""
    if path is None:
        path = network.with_name("config.json")
        if not path.exists():
            return {"settings": {}}
        print(f"Epsilon and class counts that are not given are those of {path}.")
    try:
        config = json.loads(pathlib.Path(path).read_text("utf-8"))
        if not isinstance(config, dict):
            raise ValueError(f"it is a {type(config).__name__}")
        if "attacks" in config:
            raise ValueError("it holds results")
        if not {"settings", "class_counts"} & config.keys():
            raise ValueError("it has no settings and no class_counts")
        settings = config.setdefault("settings", {})
        if not isinstance(settings, dict):
            raise ValueError("its settings are no dictionary")
        check_entries(config)
    except (IsADirectoryError, ValueError) as error:
        raise ValueError(
            f"--config must be the config.json of a run: {error}. Received: {path}"
        ) from None
    return config


def _check_is_there(path):
    if not path.is_file():
        inside = path / "network.keras"
        hint = f" There is {str(inside)!r}." if inside.is_file() else ""
        raise FileNotFoundError(f"There is no network at {str(path)!r}.{hint}")


def _network(path):
    from keras_robustlt.networks.loading import load

    try:
        network = load(path)
    except Exception as error:  # of whatever layer cannot be made from the file
        said = str(error).strip().partition("\n")[0]
        raise ValueError(f"the network {path} cannot be read: {said}") from None
    takes = getattr(network, "input_shape", None)  # not of a class of one's own
    if isinstance(takes, (dict, list)):
        raise ValueError(
            f"the network {path} must take images, (height, width, channels), alone. "
            f"Received: inputs of shape {takes}"
        )
    return network


def _check_fits(path, network, data, config):
    """Raises if the data have other images, or more or less classes, or the config."""
    takes, found = getattr(network, "input_shape", None), data.x_test.shape[1:]
    if isinstance(takes, tuple) and not _is_of_shape(found, takes[1:]):
        side = takes[1]
        resized = takes[1:] == (side, side, found[-1])
        hint = f" --image_size={side} brings them to that size." if resized else ""
        raise ValueError(
            f"the network and --data must have the same images. Received: {path} takes "
            f"images of shape {takes[1:]}, and {data.name} has images of shape "
            f"{found}.{hint}"
        )
    shape = getattr(network, "output_shape", None)  # not of a class of one's own
    if not isinstance(shape, tuple) or len(shape) != 2 or shape[1] < 2:
        return  # which `krl.evaluate` looks at
    if shape[1] != data.num_classes:
        raise ValueError(
            f"the network and --data must have the same classes. Received: {path} "
            f"gives {shape[1]} logits, and {data.name} has {data.num_classes} classes"
        )
    for name in ("class_names", "class_counts"):
        known = config.get(name)
        if known and len(known) != shape[1]:
            raise ValueError(
                "--config must be that of the network's training. Received: one with "
                f"{len(known)} {name}, and {path} gives {shape[1]} logits"
            )


def _is_of_shape(shape, wanted):
    """Whether a shape is another one, of which None is any size."""
    pairs = zip(wanted, shape, strict=False)
    return len(shape) == len(wanted) and all(n in (None, m) for n, m in pairs)


def _integers(name, texts):
    try:
        return [int(text) for text in texts]
    except ValueError:
        raise ValueError(
            f"{name} must be whole numbers, such as 500,50,5. Received: {texts}"
        ) from None
