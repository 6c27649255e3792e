"""What a resumed training must know of its data: are they the same, and in what order.

The pipelines of this package draw the order of an epoch from its number, so that an
interrupted training goes on exactly. Other data are told apart by what they do: only
what has a state of its own, such as `shuffle`, comes in another order after a restart.
"""

import hashlib
import inspect
import json
import types

import numpy as np

# At most so many values of an array are looked at.
HASHED = 1 << 22
# Operations of `tf.data` functions that go on from call to call.
STATEFUL = (
    "Assign",
    "EagerPyFunc",
    "GeneratorDataset",
    "Multinomial",
    "ParameterizedTruncated",
    "PyFunc",
    "Random",
    "Rng",
    "ShuffleDataset",
    "StatefulRandom",
    "StatefulUniform",
    "TruncatedNormal",
)


def epoch_variables(data):
    """The variables by which the pipelines inside of `data` are told the epoch.

    `data` is a pipeline of this package, or one with `map`, `prefetch`, ... after it.
    """
    return [pipeline.epoch for pipeline in _walk(data)[0]]


def is_repeatable(data):
    """Whether a `tf.data.Dataset` gives the same again, as far as it can be told."""
    return hasattr(data, "take") and _walk(data)[1] is None


def has_soft_labels(data):
    """Whether a pipeline of this package inside of `data` mixes labels."""
    return any(getattr(each, "soft_labels", False) for each in _walk(data)[0])


def unknown_order(arguments):
    """Why the batches of an epoch are not known from its number, or `None`.

    Args:
        arguments: Dictionary of the arguments of `fit`.

    Returns:
        A string that says what they depend on, or `None`: an epoch is the same after a
        restart.
    """
    import keras

    data, steps = arguments.get("x"), arguments.get("steps_per_epoch")
    passes = None
    if isinstance(data, types.GeneratorType):
        return "they come from a Python generator, which starts anew"
    if _is_array(data):
        passes = -(-len(data) // (arguments.get("batch_size") or 32))
    elif isinstance(data, keras.utils.PyDataset):
        passes = data.num_batches or -1  # endless
        changed = any(
            getattr(type(data), name) is not getattr(keras.utils.PyDataset, name)
            for name in ("on_epoch_begin", "on_epoch_end")
        )
        if changed and not epoch_variables(data):
            kind = type(data).__name__
            return f"{kind} changes from epoch to epoch (on_epoch_begin, on_epoch_end)"
        reason = _walk(data)[1]
        if reason:
            return f"they come with {reason}"
    elif hasattr(data, "element_spec"):
        passes = int(data.cardinality()) if hasattr(data, "cardinality") else None
        reason = _walk(data)[1]
        if reason:
            return f"they are a tf.data.Dataset with {reason}"
    else:
        return f"they come from a {type(data).__name__}"
    if steps and passes and steps != passes:
        return f"steps_per_epoch={steps} is not one pass over them"
    return None


def described(arguments):
    """What tells the data of `fit` from others, as a dictionary that JSON can hold."""
    data, validation = arguments.get("x"), arguments.get("validation_data")
    options = "class_weight", "validation_split"
    description = {name: _in_json(arguments.get(name)) or None for name in options}
    if validation is not None:
        description["validation_data"] = _validation(validation)
    kind = _arrays(arguments) if _is_array(data) else _described(data)
    # What NumPy has for numbers and booleans would come back as arrays.
    return json.loads(json.dumps({**kind, **description}, default=_plain))


def _arrays(arguments):
    names = {"x": "images", "y": "labels", "sample_weight": "sample_weight"}
    return {
        "kind": "arrays",
        **{
            name: None if data is None else fingerprint(data)
            for name, data in (
                (name, arguments.get(argument)) for argument, name in names.items()
            )
        },
        "batch_size": arguments.get("batch_size") or 32,
        "shuffle": arguments.get("shuffle", True),
    }


def _plain(value):
    return value.tolist() if hasattr(value, "tolist") else type(value).__name__


def _validation(data):
    """What tells validation data from others, in whatever batches they come."""
    if isinstance(data, (tuple, list)):
        return [None if each is None else fingerprint(each) for each in data]
    parts = [getattr(each, "made_of", None) for each in _walk(data)[0]]
    keys = "images", "labels"
    return [{key: part[key] for key in keys} for part in parts if part]


def _in_json(value):
    # Keys of dictionaries would come back as texts.
    return sorted(map(list, value.items())) if isinstance(value, dict) else value


def _described(data):
    if hasattr(data, "made_of"):
        return {"kind": "pipeline", **data.made_of}
    if hasattr(data, "element_spec"):
        return {
            "kind": "tf.data.Dataset",
            "elements": repr(data.element_spec),
            "inside": [getattr(each, "made_of", None) for each in _walk(data)[0]],
        }
    return {"kind": type(data).__name__}


def fingerprint(array):
    """The shape of an array, and a digest of it; of a large one, of some rows."""
    shape = [int(size) for size in np.shape(array)]
    rows = max(HASHED // max(int(np.prod(shape[1:])), 1), 1)
    chosen = slice(None)
    if shape and shape[0] > rows:
        chosen = np.linspace(0, shape[0] - 1, rows).astype("int64")
    array = np.ascontiguousarray(_rows(array, chosen), "float32")
    digest = hashlib.sha256(array.tobytes())
    return {"shape": shape, "content": digest.hexdigest()[:12]}


def _rows(array, chosen):
    if not isinstance(array, np.ndarray):
        from keras import ops

        if ops.is_tensor(array) and not isinstance(chosen, slice):
            array, chosen = ops.take(array, chosen, axis=0), slice(None)
        array = ops.convert_to_numpy(array)
    return array[chosen]


def _is_array(data):
    return hasattr(data, "shape") or isinstance(data, list)


def _walk(dataset):
    """The pipelines inside of `dataset`, and what makes its order unknown."""
    if hasattr(getattr(dataset, "epoch", None), "assign"):
        own = "an augmentation that draws random numbers of its own, not from `seed`"
        return [dataset], own if getattr(dataset, "own_draws", False) else None
    pipelines, reasons = [], []
    for each in inputs_of(dataset):
        inner, reason = _walk(each)
        pipelines += inner
        reasons.append(reason)
    kind = type(dataset).__name__.lower()
    if "cache" in kind and pipelines:
        pipelines, reason = [], "`cache` after the pipeline"
    elif "repeat" in kind and pipelines:
        pipelines, reason = [], "`repeat` after the pipeline"
    elif "shuffle" in kind and getattr(dataset, "_reshuffle_each_iteration", True):
        reason = "`shuffle`"
    else:
        reason = _state_of(dataset)
    return pipelines, next(filter(None, [*reasons, reason]), None)


# What `tf.data` says of a data set's parts has no public name.


def inputs_of(dataset):
    """The data sets that `dataset` is made from."""
    inputs = getattr(dataset, "_inputs", None)
    return inputs() if inspect.ismethod(inputs) else []


def _state_of(dataset):
    """What in the functions of `dataset` goes on from call to call."""
    functions = getattr(dataset, "_functions", None)
    for function in functions() if inspect.ismethod(functions) else []:
        nodes = _nodes(function.function.graph)
        if any(node.op.startswith(STATEFUL) for node in nodes):
            return "a function that has a state, such as a random layer or a generator"
    return None


def draws_by_itself(graph):
    """Whether an augmentation with this graph draws not only from its seeds."""
    from keras_robustlt.data.layers import HostSeeds

    return any(
        node.op.startswith(STATEFUL) and HostSeeds.SCOPE not in node.name
        for node in _nodes(graph)
    )


def _nodes(graph):
    graph = graph.as_graph_def()
    return [*graph.node, *(n for f in graph.library.function for n in f.node_def)]
