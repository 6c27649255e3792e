"""How robust a classifier is, class by class.

Data are read a chunk of images at a time, and each chunk goes through all attacks.
"""

import keras
import numpy as np

import keras_robustlt
from keras_robustlt import checks
from keras_robustlt.class_names import check_different
from keras_robustlt.class_names import of_classes as class_names_of
from keras_robustlt.data.batches import Batches
from keras_robustlt.data.class_balanced import ClassBalancedSubset
from keras_robustlt.evaluation import inputs, runners, sanity_checks
from keras_robustlt.evaluation.cache import Cache, NoCache, Outcome
from keras_robustlt.evaluation.entries import Entries, versions
from keras_robustlt.evaluation.fingerprints import fingerprints
from keras_robustlt.evaluation.progress import Progress
from keras_robustlt.evaluation.results import EvaluationResults
from keras_robustlt.metrics import tail_classes

__all__ = ["evaluate"]


def evaluate(
    model,
    x,
    y=None,
    attacks=("clean", "pgd20"),
    epsilon=None,
    class_counts=None,
    tail_fraction=None,
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
            `tf.data.Dataset`, a `keras.utils.PyDataset` (or other iterable) of batches
            `(x, y)`, or a pair of arrays `(x, y)`.
        y: Labels of an array `x`: integers or one-hot.
        attacks: List of names, or a dictionary from names to attacks. The names are
            those of `attacks.get`: `"clean"`, `"fgsm"`, `"pgdN"` (`N` steps of
            `epsilon / 8` from a random start), `"cwN"` (the same with the margin loss),
            `"autoattack"` (the standard version), its parts, and others. An attack in a
            dictionary is one of `keras_robustlt.attacks`, a function
            `attack(network, x, y, seed)` that returns images, or `None` for none.
            Defaults to `("clean", "pgd20")`.
        epsilon: Float. The budget of the attacks given by name, in pixel units.
            Defaults to that of a `RobustLTModel`, whose norm these attacks have too,
            and to `8 / 255` for others.
        class_counts: Integers of shape `(num_classes,)`: training images of each
            class, which say what the tail is. Defaults to those of a
            `RobustLTModel`. Without any no class is the tail, and `"tail"` is `None`.
        tail_fraction: Float. See `metrics.tail_classes`. Defaults to that of a
            `RobustLTModel`, and to `0.8` for others.
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
    is_said = inputs.budget_of(model, epsilon, otherwise=None) is not None
    epsilon = checks.in_range("epsilon", inputs.budget_of(model, epsilon), 0, np.inf)
    class_counts, tail_fraction = inputs.tail_of(model, class_counts, tail_fraction)
    batch_size = checks.positive_integer("batch_size", batch_size)
    chunk_size = checks.positive_integer("chunk_size", chunk_size)
    checks.verbose(verbose)
    per_example = checks.boolean("per_example", per_example)
    diagnose = checks.boolean("diagnose", diagnose)
    seed = checks.integer_seed(seed)
    norm = inputs.norm_of(model)
    network = inputs.network_of(model)
    data = Batches(x, y, batch_size)
    num_classes = inputs.num_classes_of(network, data.first, class_counts)
    attacks = runners.attacks_of(
        attacks, num_classes, data.first.shape[1:], epsilon, batch_size, norm
    )
    class_names = class_names_of(class_names, num_classes)
    check_different(class_names)

    described = {name: runners.settings_of(attack) for name, attack in attacks.items()}
    what = {
        "attacks": described,
        "epsilon": epsilon,
        "seed": seed,
        "backend": keras.backend.backend(),
        "keras_robustlt": keras_robustlt.__version__,
    }
    functions = fingerprints(attacks)
    if functions:  # of which a name tells little
        what["functions"] = functions
    cache = NoCache() if cache is None else Cache(cache, what, network, data.first)
    per_chunk = data.batches_per_chunk(chunk_size)
    progress = Progress(attacks, data.count and -(-data.count // per_chunk), verbose)
    sample = ClassBalancedSubset(sanity_checks.LOOKED_AT, seed)
    run = runners.runners(network, attacks, seed)
    chunks = data.chunks(per_chunk, num_classes)
    outcomes, labels = _outcomes(run, chunks, cache, progress, sample)

    tail = [] if class_counts is None else tail_classes(class_counts, tail_fraction)
    entries = Entries(outcomes, described, labels, num_classes, tail)
    settings = {
        "epsilon": epsilon,
        "examples": len(labels),
        "examples_per_class": entries.total.tolist(),
        "seed": seed,
        "batch_size": batch_size,
        "class_counts": None if class_counts is None else class_counts.tolist(),
        "class_names": class_names,
        "tail_classes": None if class_counts is None else tail.tolist(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
        "versions": versions(),
    }
    if diagnose:
        said = epsilon if is_said else None
        settings["findings"] = sanity_checks.examine(
            network, attacks, outcomes, labels, sample, said, norm
        )
        sanity_checks.warn(settings["findings"])
    results = EvaluationResults(dict(entries), settings)
    if per_example:
        results.robust, results.labels = entries.robust, labels
    return results


def _outcomes(run, chunks, cache, progress, sample):
    """What each attack did to all images, and their labels."""
    parts, labels = {name: [] for name in run}, []
    for number, chunk in enumerate(chunks):
        cache.check_data(number, chunk.batches)
        sample.add(chunk.images, chunk.labels)
        labels.append(chunk.labels)
        for name in run:
            outcome = cache.get(number, name)
            if outcome is None:
                progress.begin(name, number)
                outcome = run[name](chunk, progress.update)
                cache.put(number, name, outcome)
                progress.end(outcome.seconds.sum())
            else:
                progress.skip(name)
            parts[name].append(outcome)
    progress.close()
    outcomes = {name: Outcome.joined(of_chunks) for name, of_chunks in parts.items()}
    return outcomes, np.concatenate(labels)
