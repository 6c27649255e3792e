"""What made a checkpoint: the model, its optimiser and its data, in words of JSON."""

import inspect
import json
import weakref

import keras
import numpy as np

__all__ = ["describe_model", "describe_optimizer", "differences"]

# Where these stand in a configuration, they tell nothing or differ by process.
LEFT_OUT = (
    "build_config",
    "compile_config",
    "module",
    "registered_name",
    "seed",  # of a layer's own generator, whose state is kept
    "shared_object_id",
)
# The only places of a network's configuration where layers are called by their names.
NAMED = ("name", "keras_history", "input_layers", "output_layers")
# Not what the model is, but when its schedule ends, which is compared for itself.
NOT_COMPARED = ("name", "total_epochs")
# The learning rate is part of the configuration, and callbacks change it.
_described_optimizers = weakref.WeakKeyDictionary()


def describe_model(model):
    """The arguments of the constructor of a `RobustLTModel`, or what another one is."""
    if not hasattr(model, "network"):
        return {"network": _plain(_serialized(model))}
    arguments = inspect.signature(type(model).__init__).parameters
    described = {
        name: _plain(_serialized(getattr(model, name)))
        for name in arguments
        if name not in NOT_COMPARED and hasattr(model, name)
    }
    described["loss"] = _plain(_serialized(getattr(model, "_loss", None)))
    return described


def describe_optimizer(optimizer):
    """The configuration of an optimiser as it was when training began with it."""
    if optimizer not in _described_optimizers:
        _described_optimizers[optimizer] = _plain(_serialized(optimizer))
    return _described_optimizers[optimizer]


def differences(before, now, path=""):
    """What differs between two descriptions.

    Args:
        before: Dictionary, as it comes out of JSON.
        now: Another one.

    Returns:
        List of strings, a line for each difference. What only one of the two has came
        with another version of Keras or of this package, and is none.
    """
    same_kind = type(before) is type(now)
    if same_kind and isinstance(now, dict) and _kind(before) == _kind(now):
        return [
            line
            for key in now
            if key in before
            for line in differences(before[key], now[key], _below(path, key))
        ]
    if same_kind and isinstance(now, list) and len(before) == len(now):
        if any(isinstance(each, (dict, list)) for each in now):
            return [
                line
                for index, pair in enumerate(zip(before, now, strict=True))
                for line in differences(*pair, f"{path}[{index}]")
            ]
    if json.dumps(before) == json.dumps(now):
        return []
    return [f"{path}: {_short(before)} there, {_short(now)} now"]


def _serialized(value):
    if isinstance(value, np.ndarray):
        return value.tolist()
    try:
        return keras.saving.serialize_keras_object(value)
    except Exception:  # what has no configuration fails in its own ways
        return {"class_name": type(value).__name__}


def _plain(value):
    """A configuration without what differs from process to process."""
    names = {}

    def number_names(value):
        if isinstance(value, dict):
            if isinstance(value.get("name"), str):
                names.setdefault(value["name"], f"#{len(names)}")
            value = list(value.values())
        if isinstance(value, (list, tuple)):
            for each in value:
                number_names(each)

    def numbered(value):
        if isinstance(value, (list, tuple)):
            return [numbered(each) for each in value]
        return names.get(value, value) if isinstance(value, str) else value

    def plain(value):
        if isinstance(value, (list, tuple)):
            return [plain(each) for each in value]
        if not isinstance(value, dict):
            return value
        kind, config = value.get("class_name"), value.get("config")
        if kind == "__lambda__":
            return "a lambda"
        if str(kind).endswith("DTypePolicy"):
            return config["name"]
        return {
            key: numbered(each) if key in NAMED else plain(each)
            for key, each in value.items()
            if key not in LEFT_OUT
        }

    number_names(value)
    return json.loads(json.dumps(plain(value), default=lambda v: type(v).__name__))


def _kind(value):
    return value.get("class_name"), value.get("kind")


def _below(path, key):
    if key == "config":
        return path
    return f"{path}.{key}" if path else key


def _short(value):
    if isinstance(value, dict) and any(_kind(value)):
        return next(filter(None, _kind(value)))
    text = json.dumps(value)
    if len(text) < 80:
        return text
    return f"{len(value)} entries" if isinstance(value, list) else f"{text[:77]}..."
