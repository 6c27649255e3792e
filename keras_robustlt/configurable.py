"""What methods, budgets, attacks and averaging rules are made with, and their state."""

import contextlib
import inspect

import keras
import numpy as np

# Attributes that an object has from the model that it is part of.
HOUSEKEEPING = ("_built_as", "_settings")


class Configurable:
    """An object that its constructor's arguments describe.

    With the arguments in `get_config` it can be saved with a model, compared with what
    a checkpoint was written with, and shown as it was made. A class with a constructor
    of its own that leaves `get_config` out has those that it was called with.
    """

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        defined = vars(cls)
        if is_of_this_package(cls):
            return  # what these inherit knows all of their arguments
        if "__init__" in defined and "get_config" not in defined:
            # What it inherits does not know of the arguments that are its own.
            cls.get_config = Configurable.get_config
            if "from_config" not in defined:
                cls.from_config = vars(Configurable)["from_config"]

    def __new__(cls, *args, **kwargs):
        # Python sees to that where there is no `__new__`.
        if cls.__init__ is object.__init__ and (args or kwargs):
            raise TypeError(
                f"{cls.__name__}() takes no arguments. Received: "
                f"{', '.join([*map(repr, args), *_as_keywords(kwargs)])}"
            )
        made = super().__new__(cls)
        with contextlib.suppress(TypeError):  # which the constructor tells better
            bound = inspect.signature(cls.__init__).bind(made, *args, **kwargs)
            bound.apply_defaults()
            vars(made)["_given"] = _by_name(bound)
        return made

    def get_config(self):
        """The constructor's arguments, as a dictionary that JSON can hold."""
        return {
            name: keras.saving.serialize_keras_object(value)
            for name, value in self._given.items()
        }

    @classmethod
    def from_config(cls, config):
        if cls.get_config is Configurable.get_config:
            config = keras.saving.deserialize_keras_object(config)
        return cls(**config)

    def _arguments(self):
        """The arguments by name, as they were given, for what is not to be written."""
        if type(self).get_config is Configurable.get_config:
            return self._given
        config = self.get_config()
        return {name: getattr(self, name, value) for name, value in config.items()}

    def __setattr__(self, name, value):
        if name in vars(self).get("_settings", ()):
            raise AttributeError(
                f"`{name}` of {self!r} is what a model was made with, which would not "
                "know of another value. Make a new model with a new "
                f"{type(self).__name__}. Received: {name}={value!r}"
            )
        super().__setattr__(name, value)

    def __repr__(self):
        return f"{type(self).__name__}({', '.join(_as_keywords(self._arguments()))})"


def _as_keywords(arguments):
    return [f"{name}={value!r}" for name, value in arguments.items()]


def _by_name(bound):
    """The arguments of a call of a constructor, but for `self`."""
    _, *parameters = bound.signature.parameters.values()
    named = {}
    for parameter in parameters:
        value = bound.arguments[parameter.name]
        if parameter.kind is parameter.VAR_KEYWORD:
            named.update(value)
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            named[parameter.name] = value
    return named


def is_of_this_package(kind):
    """Whether the class `kind` is one of this package's, and not of a user's own."""
    return kind.__module__.partition(".")[0] == __name__.partition(".")[0]


def freeze(part):
    """Keeps the arguments that `part` was made with: a model has read them.

    To set one from here on raises an `AttributeError`.
    """
    if isinstance(part, Configurable):
        vars(part)["_settings"] = frozenset(part._arguments())


@contextlib.contextmanager
def built_for_one_model(parts):
    """Within, parts are built; raises if that changes what they are for another model.

    What a part finds for the same classes and budget may serve any number of models.

    Args:
        parts: List of pairs of the argument of the model and the `Configurable`.

    Raises:
        ValueError: If one is part of another model, and would be of no use to it any
            more.
    """
    before = [dict(vars(part)) for _, part in parts]
    yield
    changed = [
        (argument, part, found)
        for (argument, part), found in zip(parts, before, strict=True)
        # A copy, which has the attributes too, is another part.
        if found.get("_built_as") == id(part) and not _are_same(found, vars(part))
    ]
    for _, part, found in changed:
        vars(part).clear()
        vars(part).update(found)
    for argument, part, _ in changed[:1]:
        raise ValueError(
            f"`{argument}` is part of another model, for whose classes and training it "
            f"keeps its state. Make a new {type(part).__name__} for each model. "
            f"Received: {argument}={part!r}"
        )
    for _, part in parts:
        vars(part)["_built_as"] = id(part)


def _are_same(before, now):
    """Whether attributes are what they were; objects with a state must be the same."""
    if isinstance(now, dict):
        same = isinstance(before, dict) and before.keys() == now.keys()
        return same and all(_are_same(before[name], now[name]) for name in now)
    if isinstance(now, (list, tuple)):
        same = type(before) is type(now) and len(before) == len(now)
        return same and all(map(_are_same, before, now))
    if isinstance(now, np.ndarray):
        return np.array_equal(before, now)
    return before is now or isinstance(now, (float, int, str)) and before == now


class Part(Configurable):
    """A part that training may have only from some epoch on."""

    def begins(self, epochs):
        """The epoch, from 0, with which it changes anything about training.

        Training that ends before is what it would be without; `fit` warns of that.

        Args:
            epochs: Integer. The length of the whole training, 0 if not known yet.
        """
        return 0


def add_state(model, name, value=0.0):
    """A variable of `model` that is not trained, saved with it and with a checkpoint.

    Args:
        model: The model that the part is made for, in its `build`.
        name: String, such as `"cfa_accuracy"`.
        value: Float, or array of any shape: what it begins with. Defaults to `0`.

    Returns:
        A float32 variable.
    """
    value = np.asarray(value, "float32")
    initializer = keras.initializers.Constant(value)
    return model.add_weight(value.shape, initializer, trainable=False, name=name)


def get(argument, value, kind, by_name=(), options=None, others=""):
    """An object from its name, its configuration or itself.

    Args:
        argument: String. What the caller's argument is called, for the message.
        value: A name from `by_name`, an object of the class `kind`, or the dictionary
            that `keras.saving.serialize_keras_object` makes of one.
        kind: A subclass of `Configurable`.
        by_name: Dictionary from names to what makes an object of `kind`.
        options: Dictionary of arguments, where `value` is a name.
        others: String. What else the caller takes, for the message.

    Returns:
        An object of the class `kind`.

    Raises:
        ValueError: If there is no such object, or `options` are given with an object.
    """
    if isinstance(value, dict):
        value = keras.saving.deserialize_keras_object(value)
    if isinstance(value, kind):
        if options:
            raise ValueError(
                f"Options of `{argument}` go with a name; the object {value!r} has its "
                f"own. Received: {options}"
            )
        return value
    if isinstance(value, str) and value in by_name:
        return by_name[value](**(options or {}))
    names = f"one of {', '.join(map(repr, by_name))}" if by_name else ""
    module = kind.__module__.removesuffix(".base")
    raise ValueError(
        f"`{argument}` must be {', '.join(filter(None, (names, others)))} or an object "
        f"of a subclass of {module}.{kind.__name__}. Received: {value!r}"
    )
