"""What tells a function from another one of the same name.

An attack or a loss may be a function, of which a name says little: a lambda has none,
and one that is edited keeps it. Its code does, with what it has taken in and what it
calls or reads in its own module. The same text gives the same fingerprint in each
process. Of an object that can be called, and of an attack of a class of one's own, it
is the code and the attributes, so that one that changes them as it goes is another
after it. What has a `get_config`, as layers of Keras have, says itself what counts.
"""

import functools
import hashlib
import numbers
import types

import keras
import numpy as np

from keras_robustlt.configurable import (
    HOUSEKEEPING,
    Configurable,
    is_of_this_package,
)

__all__ = ["fingerprints"]

PLAIN = (str, bytes, numbers.Number, np.generic, type(None))
CONTAINERS = (list, tuple, set, frozenset, dict, np.ndarray, keras.Variable)


def fingerprints(attacks):
    """Short strings for the functions among attacks and their losses, by name.

    Args:
        attacks: Dictionary from names to attacks.

    Returns:
        A dictionary, without the attacks that their configuration tells all about.
    """
    found = {}
    for name, attack in attacks.items():
        config = attack.get_config() if isinstance(attack, Configurable) else {}
        functions = {key: value for key, value in config.items() if callable(value)}
        if attack is not None and not isinstance(attack, Configurable):
            functions[""] = attack
        elif attack is not None:
            functions.update(_of_class(type(attack)))
            functions.update(_of_object(attack))
        if functions:
            text = repr(_parts(functions, set()))
            found[name] = hashlib.sha256(text.encode()).hexdigest()[:16]
    return found


def _parts(value, seen):
    """`value` in plain types that `repr` shows alike in each process."""
    if isinstance(value, PLAIN):
        return repr(value)
    if id(value) in seen:  # a function that calls itself
        return "again"
    seen = {*seen, id(value)}
    if keras.ops.is_tensor(value) or isinstance(value, keras.Variable):
        value = keras.ops.convert_to_numpy(value)
    if isinstance(value, dict):
        pairs = [(_parts(key, seen), _parts(value[key], seen)) for key in value]
        return sorted(pairs, key=repr)
    if isinstance(value, (list, tuple)):
        return [_parts(each, seen) for each in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(_parts(each, seen)) for each in value)
    if isinstance(value, np.ndarray) and value.dtype == object:
        return _parts(value.tolist(), seen)
    if isinstance(value, np.ndarray):
        return value.shape, value.dtype.name, hashlib.sha256(value.tobytes()).digest()
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_names, _parts(value.co_consts, seen)
    if isinstance(value, functools.partial):
        return _parts([value.func, value.args, value.keywords], seen)
    if isinstance(value, types.MethodType):
        return _parts([value.__func__, _says(value.__self__)], seen)
    if isinstance(value, types.FunctionType):
        return [_parts(each, seen) for each in _of_function(value)]
    name = getattr(value, "__qualname__", type(value).__qualname__)
    if isinstance(value, Configurable):
        config = {**value.get_config(), **_of_class(type(value)), **_of_object(value)}
        return name, _parts(config, seen)
    # Losses of Keras are called by way of `call`.
    calls = [getattr(type(value), each, None) for each in ("__call__", "call")]
    calls = [each for each in calls if isinstance(each, types.FunctionType)]
    if not callable(value) or not calls or isinstance(value, keras.Layer):
        return name, None
    return name, _parts([*calls, _says(value)], seen)


def _says(value):
    """What an object says of itself, or its attributes."""
    if isinstance(value, (keras.Layer, type, types.ModuleType)):
        return None
    if not hasattr(value, "get_config"):
        return getattr(value, "__dict__", {})
    # A name of Keras counts how many there have been.
    return {key: each for key, each in value.get_config().items() if key != "name"}


def _of_object(attack):
    """What an attack has that is of a class of one's own, beside what it was made with.

    Settings of this package's classes are in its configuration.
    """
    if is_of_this_package(type(attack)):
        return {}
    config = attack.get_config()
    return {
        f"self.{name}": value
        for name, value in vars(attack).items()
        if name not in config and name not in HOUSEKEEPING
    }


def _of_class(kind):
    """What subclasses of this package's classes define, by their names and its own."""
    found = {}
    for each in kind.__mro__:
        if each is object or is_of_this_package(each):
            continue
        for name, value in vars(each).items():
            # Properties and static methods hold the function that they are made of.
            value = getattr(value, "fget", getattr(value, "__func__", value))
            is_setting = isinstance(value, PLAIN) and not name.startswith("__")
            if callable(value) or is_setting:
                found[f"{each.__qualname__}.{name}"] = value
    return found


def _of_function(function):
    cells = [_content(cell) for cell in function.__closure__ or ()]
    everywhere = function.__globals__
    used = {name: everywhere.get(name) for name in _names(function.__code__)}
    used = {
        name: value
        for name, value in used.items()
        if isinstance(value, (*PLAIN, *CONTAINERS))
        or keras.ops.is_tensor(value)
        or getattr(value, "__module__", None) == function.__module__
    }
    defaults = function.__defaults__, function.__kwdefaults__
    return function.__code__, defaults, cells, used


def _names(code):
    """The names that a function's code reads, and that of the functions inside it."""
    inner = [each for each in code.co_consts if isinstance(each, types.CodeType)]
    return sorted({*code.co_names, *(name for each in inner for name in _names(each))})


def _content(cell):
    try:
        return cell.cell_contents
    except ValueError:  # it has none yet
        return None
