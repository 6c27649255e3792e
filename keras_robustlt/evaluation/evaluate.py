"""How robust a classifier is, class by class.

Data are read a chunk of images at a time, and each chunk goes through all attacks.
Attacks such as PGD, which are one compiled function, take it in batches. Those that
drop images once they are fooled, such as AutoAttack, take it whole. What counts as
robust is decided here, for all of them alike: the network must classify right the very
image that the attack returns.
"""

import functools
import importlib
import itertools
import platform
import time

import keras
import numpy as np
from keras import ops

import keras_robustlt
from keras_robustlt import backend, checks
from keras_robustlt.attacks import APGD, APGDT, FAB, FGSM, PGD, AutoAttack, Square, active_set
from keras_robustlt.evaluation import sanity_checks
from keras_robustlt.evaluation.cache import Cache, NoCache, Outcome
from keras_robustlt.evaluation.progress import Progress
from keras_robustlt.metrics import summarize, tail_classes
from keras_robustlt.evaluation.results import EvaluationResults

__all__ = ["EvaluationResults", "evaluate"]

UNION = "union"
# With more classes the matrix of confusions would be most of the results.
MOST_CLASSES_CONFUSED = 200
NAMED_ATTACKS = {
    "clean": lambda **_: None,
    "fgsm": lambda epsilon, batch_size: FGSM(epsilon),
    "apgd-ce": APGD,
    "apgd-dlr": lambda **common: APGD(loss="dlr", **common),
    "apgd-t": APGDT,
    "fab-t": FAB,
    "square": Square,
    "autoattack": AutoAttack,
    "autoattack-plus": lambda **common: AutoAttack("plus", **common),
    "autoattack-rand": lambda **common: AutoAttack("rand", **common),
}


def evaluate(
    model,
    x,
    y=None,
    attacks=("clean", "pgd20"),
    epsilon=None,
    class_counts=None,
    tail_fraction=0.8,
    class_names=None,
    batch_size=250,
    seed=0,
    verbose=1,
    per_example=False,
    cache=None,
    chunk_size=1000,
    diagnose=True,
):
    """Accuracy of a classifier under attacks: all, tail, balanced, worst, per class.

    The network runs in inference mode; each attack has the whole budget `epsilon` for
    every class. An image counts as robust if the network classifies right the image
    that the attack returns. Where more than one attack runs, the entry `"union"` is
    the worst case: an image counts only if it counts for every one of `attacks`,
    `"clean"` included. AutoAttack's entry has the accuracies after each of its
    attacks too, in `"stages"`. Each attack's entry has `"confusion"`, for up to 200
    classes: how many images of each class (rows) are taken for each (columns).

    Args:
        model: A `RobustLTModel`, any Keras model or layer that gives logits, or a
            function of a batch of images that does.
        x: Images, an array of shape `(examples, ...)` with values in `[0, 1]`, or a
            `tf.data.Dataset` (or other iterable) of batches `(x, y)`, or a pair of
            arrays `(x, y)`.
        y: Labels of an array `x`: integers or one-hot.
        attacks: List of names, or a dictionary from names to attacks. Names are
            `"clean"`, `"fgsm"`, `"pgdN"` (`N` steps of `epsilon / 8` from a random
            start), `"cwN"` (the same with the margin loss), `"autoattack"` (the
            standard version), `"autoattack-plus"`, `"autoattack-rand"`, and its parts
            `"apgd-ce"`, `"apgd-dlr"`, `"apgd-t"`, `"fab-t"` and `"square"`. An attack
            in a dictionary is one of `keras_robustlt.attacks`, a function
            `attack(network, x, y, seed)` that returns images, or `None` for none.
            Defaults to `("clean", "pgd20")`.
        epsilon: Float. The budget of the attacks given by name, in pixel units.
            Defaults to that of a `RobustLTModel`, and to `8 / 255` for others.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class, which say what the tail is. Defaults to those of a
            `RobustLTModel`. Without any no class is the tail, and `"tail"` is `None`.
        tail_fraction: Float. See `metrics.tail_classes`. Defaults to `0.8`.
        class_names: List of strings. Defaults to the class indices.
        batch_size: Integer. Batch size for arrays, and of attacks given by name.
            Defaults to `250`.
        seed: Integer. Seed of all that is random. Defaults to `0`.
        verbose: `0` or `1`: whether to show progress and the time left. Defaults to
            `1`.
        per_example: Boolean. Whether the result has `robust`, the flags of all images
            for each attack, and `labels`. Defaults to `False`.
        cache: String or path of an `.npz` file that keeps what is done, so that the
            same call, after an interruption, goes on from there. It is written after
            each attack on each chunk. Defaults to `None`, to keep nothing.
        chunk_size: Integer. How many images at least, of those that there are, are in
            memory and go through an attack at a time. Defaults to `1000`.
        diagnose: Boolean. Whether to look for signs that an attack failed, in what the
            attacks broke and in the gradients of a few images, to warn of them with a
            `RobustnessWarning` and to keep them in `settings["findings"]`. More is
            looked for by `diagnose`. Defaults to `True`.

    Returns:
        An `EvaluationResults`.

    Raises:
        ValueError: If an attack is unknown, images, labels or another argument are
            out of range, or `cache` holds results of another network, other data,
            attacks or seeds.

    Example:

    >>> results = krl.evaluate(model, test, attacks=["clean", "pgd20", "cw20"])
    >>> results["pgd20"]["tail"]
    >>> results["union"]["all"]
    >>> results.to_json("results.json")
    """
    if epsilon is None:
        epsilon = getattr(model, "epsilon", 8 / 255)
    if class_counts is None and hasattr(model, "class_counts"):
        class_counts, tail_fraction = model.class_counts, model.tail_fraction
    if class_counts is not None:
        class_counts = checks.class_counts(class_counts)
    batch_size = checks.positive_integer("batch_size", batch_size)
    chunk_size = checks.positive_integer("chunk_size", chunk_size)
    network = _network(getattr(model, "inference_network", model))
    attacks = _attacks(attacks, epsilon, batch_size)
    batches, count = _batches(x, y, batch_size)
    batches = _with_images(batches)
    first = next(batches, None)
    if first is None:
        raise ValueError("`x` has no images to evaluate on.")
    num_classes = _num_classes(network, first[0], class_counts)
    class_names = _class_names(class_names, num_classes)

    predict = _Predictions(network)
    run = {
        name: _runner(network, predict, attack, seed, index)
        for index, (name, attack) in enumerate(attacks.items())
    }
    described = {name: attack and _settings(attack) for name, attack in attacks.items()}
    what = {
        "attacks": described,
        "epsilon": float(epsilon),
        "seed": seed,
        "backend": keras.backend.backend(),
        "keras_robustlt": keras_robustlt.__version__,
    }
    cache = Cache(cache, what, network, first[0]) if cache is not None else NoCache()
    per_chunk = -(-chunk_size // len(first[0]))
    progress = Progress(attacks, count and -(-count // per_chunk), verbose)
    outcomes = {name: [] for name in attacks}
    labels = []
    batches = itertools.chain([first], batches)
    for number, chunk in enumerate(_chunks(batches, per_chunk, num_classes)):
        cache.check_data(number, chunk.batches)
        labels.append(chunk.labels)
        for name in attacks:
            outcome = cache.get(number, name)
            if outcome is None:
                progress.begin(name, number)
                outcome = _timed(run[name](chunk, progress.update))
                cache.put(number, name, outcome)
                progress.end(outcome.seconds.sum())
            else:
                progress.skip(name)
            outcomes[name].append(outcome)
    progress.close()

    labels = np.concatenate(labels)
    outcomes = {name: Outcome.joined(parts) for name, parts in outcomes.items()}
    tail = [] if class_counts is None else tail_classes(class_counts, tail_fraction)
    total = np.bincount(labels, minlength=num_classes)

    def accuracies(robust):
        return summarize(np.bincount(labels, robust, num_classes), total, tail)

    entries, flags = {}, {}
    for name, outcome in outcomes.items():
        flags[name] = outcome.predicted[-1] == labels
        entries[name] = {
            **accuracies(flags[name]),
            "attack": described[name],
            "seconds": round(float(outcome.seconds.sum()), 3),
        }
        if num_classes <= MOST_CLASSES_CONFUSED:
            confusion = np.zeros((num_classes, num_classes), int)
            np.add.at(confusion, (labels, outcome.predicted[-1]), 1)
            entries[name]["confusion"] = confusion.tolist()
        if len(outcome.stages) > 1:
            entries[name]["stages"] = {
                stage: {
                    **accuracies(predicted == labels),
                    "seconds": round(float(seconds), 3),
                }
                for stage, predicted, seconds in outcome.rows()
            }
    real = [name for name, attack in attacks.items() if attack is not None]
    if len(real) > 1:
        flags[UNION] = np.all(list(flags.values()), axis=0)
        seconds = round(sum(entry["seconds"] for entry in entries.values()), 3)
        entries[UNION] = {
            **accuracies(flags[UNION]),
            "attack": None,
            "of": list(attacks),
            "seconds": seconds,
        }
    settings = {
        "epsilon": float(epsilon),
        "examples": len(labels),
        "examples_per_class": total.tolist(),
        "seed": seed,
        "batch_size": batch_size,
        "class_counts": None if class_counts is None else class_counts.tolist(),
        "class_names": class_names,
        "tail_classes": None if class_counts is None else tail.tolist(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "versions": _versions(),
    }
    if diagnose:
        settings["findings"] = sanity_checks.examine(
            network, attacks, outcomes, labels, first[0]
        )
        sanity_checks.warn(settings["findings"])
    results = EvaluationResults(entries, settings)
    if per_example:
        results.robust, results.labels = flags, labels
    return results


# The network and the attacks


class _FunctionLayer(keras.Layer):
    """A function as a layer, so that what is compiled for it can be kept."""

    def __init__(self, function):
        super().__init__(dtype="float32", name="function")
        self.function = function
        self.built = True

    def call(self, x, training=False):
        del training
        return self.function(x)


def _network(model):
    if isinstance(model, keras.Layer):
        checks.logits_not_probabilities(model)
        return model
    if not callable(model):
        raise ValueError(
            "`model` must be a RobustLTModel, a Keras model that gives logits, or a "
            f"function of a batch of images that does. Received: model={model!r}"
        )
    return _FunctionLayer(model)


def _num_classes(network, images, class_counts):
    logits = active_set.logits_of(network)(ops.convert_to_tensor(images[:1]))
    num_classes = int(logits.shape[1])
    if num_classes < 2:
        raise ValueError(
            "`model` must give a logit for each of at least 2 classes. "
            f"Received: {num_classes} output(s)"
        )
    if class_counts is not None and len(class_counts) != num_classes:
        raise ValueError(
            f"`class_counts` must have {num_classes} entries, as many as the network "
            f"has outputs. Received: {class_counts.tolist()}"
        )
    return num_classes


def _class_names(class_names, num_classes):
    names = range(num_classes) if class_names is None else class_names
    names = [str(name) for name in names]
    if len(names) != num_classes:
        raise ValueError(
            f"`class_names` must have {num_classes} names, as many as the network has "
            f"outputs. Received: {names}"
        )
    return names


def _attacks(attacks, epsilon, batch_size):
    """The attacks as a dictionary, with `None` for none."""
    if isinstance(attacks, str):
        attacks = [attacks]
    if not isinstance(attacks, dict):
        attacks = {name: _attack_by_name(name, epsilon, batch_size) for name in attacks}
    if not attacks:
        raise ValueError(f"`attacks` names no attack. Received: attacks={attacks}")
    for name, attack in attacks.items():
        if name == UNION:
            raise ValueError(
                "`attacks` must not call an attack 'union': that is the name of the "
                f"worst case over all of them. Received: {list(attacks)}"
            )
        if attack is not None and not callable(attack):
            raise ValueError(
                "`attacks` as a dictionary must hold attacks, functions or None. "
                f"Received: {name!r}: {attack!r}"
            )
    return attacks


def _attack_by_name(name, epsilon, batch_size):
    """The attack that a name such as "pgd20" stands for; None for "clean"."""
    if name in NAMED_ATTACKS:
        return NAMED_ATTACKS[name](epsilon=epsilon, batch_size=batch_size)
    text = str(name)
    kind, steps = text.rstrip("0123456789"), text.lstrip("abcdefghijklmnopqrstuvwxyz")
    losses = {"pgd": "cross_entropy", "cw": "margin"}
    if kind not in losses or not steps.isdigit():
        known = [name for name in NAMED_ATTACKS if name not in ("clean", "fgsm")]
        raise ValueError(
            "`attacks` must be of 'clean', 'fgsm', 'pgdN' or 'cwN' with a number of "
            f"steps N, {', '.join(map(repr, known))}, or a dictionary of attack "
            f"objects. Received: {name!r}"
        )
    return PGD(epsilon, int(steps), epsilon / 8, loss=losses[kind])


def _settings(attack):
    config = attack.get_config() if hasattr(attack, "get_config") else {}
    name = type(attack).__name__
    if name == "function":
        name = attack.__name__
    config = {
        key: getattr(value, "__name__", repr(value)) if callable(value) else value
        for key, value in config.items()
    }
    return {"class": name, **config}


# How attacks are run: functions of a chunk and of whom to tell how far it is, that
# yield the classes predicted, once or after each stage of the attack


def _runner(network, predict, attack, seed, index):
    if attack is None:

        def clean(chunk, tell):
            yield "clean", predict(chunk, chunk.images)

        return clean
    if isinstance(attack, PGD):
        return _streamed(network, attack, seed, index)
    if isinstance(attack, AutoAttack):

        def stages(chunk, tell):
            found = attack.stages(network, chunk.images, chunk.labels, seed=seed)
            for number, stage in enumerate(found):
                tell(number / (len(attack.attacks) + 1), f"after {stage.name}")
                yield stage.name, stage.predicted

        return stages

    def whole(chunk, tell):
        found = attack(network, chunk.images, chunk.labels, seed=seed)
        yield "attacked", predict(chunk, active_set.to_array(found, "attack"))

    return whole


def _streamed(network, attack, seed, index):
    """PGD: in batches, and all in one compiled function."""

    def attacked(images, labels, start):
        return _predicted(network, attack.perturb(network, images, labels, start))

    run = _FullBatches(backend.compiled(attacked, active_set.variables_of(network)))

    def predictions(chunk, tell):
        parts = []
        for number, (images, labels) in enumerate(chunk.batches):
            predicted = labels
            for restart in range(attack.restarts):
                # Seeds that say which draw it is do not depend on what ran before.
                draw = [seed, index, chunk.first + number, restart]
                draw = int(np.random.SeedSequence(draw).generate_state(1)[0] >> 1)
                start = functools.partial(attack.starting_point, seed=draw)
                again = run(images, labels, start)
                # Once an image is misclassified, that is the result.
                predicted = np.where(predicted == labels, again, predicted)
            parts.append(predicted)
            tell((number + 1) / len(chunk.batches))
        yield "attacked", np.concatenate(parts)

    return predictions


class _Predictions:
    """The classes that the network takes the images of a chunk for."""

    def __init__(self, network):
        def predicted(images, labels):
            del labels
            return _predicted(network, images)

        compiled = backend.compiled(predicted, active_set.variables_of(network))
        self._run = _FullBatches(compiled)

    def __call__(self, chunk, images):
        images = images.astype("float32")
        ends = np.cumsum([len(labels) for _, labels in chunk.batches])[:-1]
        parts = zip(np.split(images, ends), np.split(chunk.labels, ends), strict=True)
        return np.concatenate([self._run(x, y) for x, y in parts])


def _predicted(network, images):
    return ops.cast(ops.argmax(active_set.logits_of(network)(images), axis=-1), "int32")


class _FullBatches:
    """`run` with a last, smaller batch filled up, for which it is not compiled anew.

    `start`, a function of the images, gives `run` a third argument.
    """

    def __init__(self, run):
        self._run = run
        self._size = None

    def __call__(self, images, labels, start=None):
        examples = len(images)
        self._size = self._size or examples
        if examples < self._size:
            fill = np.arange(self._size) % examples
            images, labels = images[fill], labels[fill]
        third = () if start is None else (start(ops.convert_to_tensor(images)),)
        predicted = self._run(images, labels, *third)
        return ops.convert_to_numpy(predicted)[:examples]


def _timed(stages):
    """What an attack yields, as an `Outcome` with the seconds of each stage."""
    names, predictions, seconds = [], [], []
    began = time.perf_counter()
    for name, predicted in stages:
        names.append(name)
        predictions.append(predicted)
        seconds.append(time.perf_counter() - began)
        began = time.perf_counter()
    return Outcome(names, np.stack(predictions).astype("int32"), np.array(seconds))


# The data


class _Chunk:
    """Some batches, the first of them the `first` of all."""

    def __init__(self, first, batches):
        self.first = first
        self.batches = batches
        self.images, self.labels = (
            np.concatenate(parts) for parts in zip(*batches, strict=True)
        )


def _chunks(batches, batches_per_chunk, num_classes):
    first = 0
    while batch := list(itertools.islice(batches, batches_per_chunk)):
        yield _Chunk(first, [(x, _integers(y, x, num_classes)) for x, y in batch])
        first += len(batch)


def _with_images(batches):
    """Batches of NumPy arrays, the images checked; empty ones are left out."""
    for images, labels in batches:
        images = ops.convert_to_numpy(images)
        if len(images):
            checks.images(images)
            yield images.astype("float32"), ops.convert_to_numpy(labels)


def _integers(labels, images, num_classes):
    """The labels as integers of shape `(examples,)`."""
    checks.labels(labels, num_classes)
    if labels.ndim == 2 and labels.shape[1] == num_classes:
        labels = labels.argmax(axis=1)
    if len(labels) != len(images):
        raise ValueError(
            "`x` must give batches of as many images as labels. "
            f"Received: {len(images)} images and {len(labels)} labels"
        )
    return labels.reshape(-1).astype("int64")


def _batches(x, y, batch_size):
    """An iterator of batches, and how many there are (None if that is not known)."""
    if y is not None:
        x, y = np.asarray(x), np.asarray(y)
        if len(x) != len(y):
            raise ValueError(
                "`x` and `y` must have the same length. "
                f"Received: {len(x)} images and {len(y)} labels"
            )
        starts = range(0, len(x), batch_size)
        return ((x[i : i + batch_size], y[i : i + batch_size]) for i in starts), len(
            starts
        )
    if isinstance(x, tuple) and len(x) == 2:
        return _batches(*x, batch_size)
    if not hasattr(x, "__iter__") or isinstance(x, np.ndarray):
        raise ValueError(
            "`y` is needed where `x` is an array. Received: y=None and x of type "
            f"{type(x).__name__}"
        )
    if hasattr(x, "cardinality"):
        length = int(x.cardinality())  # negative where it is not known
        return iter(x), length if length > 0 else None
    return iter(x), len(x) if hasattr(x, "__len__") else None


def _versions():
    name = keras.backend.backend()
    return {
        "keras_robustlt": keras_robustlt.__version__,
        "keras": keras.__version__,
        name: importlib.import_module(name).__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
    }
