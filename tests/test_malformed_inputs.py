"""What users hand over by mistake is refused at once, by a message that names it.

Each entry is a call and what its message must match; without a pattern of its own, the
name of the argument. A dictionary stands for arguments one by one, each with all its
bad values. Nothing may be silent (no error), late (steps done before) or obscure (an
error of another kind, or one that does not say which argument it is about).
"""

import dataclasses
import decimal
import functools
import itertools

import keras
import numpy as np
import pytest
from scipy import sparse
from tiny_models import COUNTS, dense_network, tiny_model

import keras_robustlt as krl

NAN, INF = float("nan"), float("inf")
X = np.random.default_rng(0).random((12, 6, 6, 3), "float32")
Y = np.arange(12) % 3
WHOLE = krl.data.long_tail_arrays("digits")
NO_NUMBER = [NAN, INF, -INF, "0.1", True, [0.1], np.array([0.1, 0.2])]
NOT_POSITIVE = [0, -1, 1.5, NAN, INF, "2", True, [2], None]
NO_SHARE = [*NO_NUMBER, -0.1, 1.1]
NO_RATE = [*NO_NUMBER, -1]
NO_EPSILON = [*NO_NUMBER, -0.1, 8, None]
NO_EPSILON_OF_NORM = NO_EPSILON[:-1]  # None is that which is usual in the norm
NO_NAME = ["", "nonsense", 3, None, ["at"]]
NO_SEED = [0.5, -1, NAN, "1", True, [1]]
NO_BOOLEAN = ["no", 1, 0.0, None, [True]]
NO_NAMES = [
    *("abc", ["a"], {0: "a", 1: "b", 2: "c"}, 3, ["a", "b", None]),
    *(["a", "b", NAN], ["a", "b", True], ["a", "b", ["c"]]),
]
NO_VERBOSE = ["0", "loud", 3, -1, 0.5, None, [1]]
NO_TABLE = ["x", None, [], [0.5, 0.5], [[0.5], [0.5, 0.5]], [["a", "b"]], {}, object()]
NO_PATH = [3, "", None, b"x", ["a"], krl]
NO_COUNTS = [[8, 4], [8, 4, 0], [8, 4, NAN], [8, 4, 1.5], "842", 3, [8, 4, -1]]


def model(**arguments):
    return krl.RobustLTModel(
        **{"network": dense_network(), "class_counts": COUNTS, **arguments}
    )


def budget(name, **options):
    return krl.budget.get(name, **options)


def method(name, **options):
    return krl.methods.get(name, **options)


def class_budgets(**arguments):
    arguments = {"class_counts": COUNTS, "epsilon": 0.1, "alpha": 0.3, **arguments}
    return krl.budget.classwise_epsilon(**arguments)


def two_outputs():
    network = dense_network()
    return keras.Model(network.inputs, [network.outputs[0], network.outputs[0]])


def two_inputs():
    network = dense_network()
    other = keras.Input((2,))
    return keras.Model([network.inputs[0], other], network.outputs[0])


def pooled_of_any():
    """A network for images of any size."""
    pooling = keras.layers.GlobalAveragePooling2D()
    return keras.Sequential(
        [keras.Input((None, None, 3)), pooling, keras.layers.Dense(3)]
    )


SIZES = [(X[:6], Y[:6]), (X[6:, :4], Y[6:])]


def evaluated_on(model=None, x=(X, Y)):
    return krl.evaluate(model or dense_network(), x, attacks=["clean"], verbose=0)


def of_other_width(layer):
    layer(np.ones((1, 4)))
    return layer(np.ones((1, 5)))


class Own(krl.attacks.Attack):
    """An attack with whatever for a configuration."""

    def __init__(self, config):
        super().__init__(0.1)
        self._config = config

    def __call__(self, network, x, y, seed=None):
        return x

    def get_config(self):
        return self._config


def softmax_by_hand():
    """Probabilities, which no layer says."""
    network = dense_network()
    return keras.Model(network.inputs[0], keras.ops.softmax(network.outputs[0]))


def fit_compiled(optimizer):
    model = tiny_model(beta=0)
    model.compile(optimizer)
    model.fit(X, Y, verbose=0)


def compiled(**arguments):
    return tiny_model().compile(**arguments)


def evaluated(**arguments):
    arguments = {"attacks": ["clean"], "epsilon": 0.1, "verbose": 0, **arguments}
    return krl.evaluate(dense_network(), X, Y, **arguments)


def curve(**arguments):
    arguments = {"epsilons": [0.1], "verbose": 0, **arguments}
    return krl.robustness_curve(dense_network(), X, Y, **arguments)


def diagnosed(**arguments):
    return krl.diagnose(dense_network(), X, Y, **{"epsilon": 0.1, **arguments})


def guard(**arguments):
    return krl.callbacks.CollapseGuard(**{"x": X, "y": Y, **arguments})


def drift(**arguments):
    probe = krl.callbacks.SkewAndDrift(**{"x": X, "y": Y, **arguments})
    return tiny_model().fit(X, Y, epochs=2, verbose=0, callbacks=[probe])


def exported(**arguments):
    names = {"path": "robust.keras", "class_names": ["a", "b", "c"]}
    return krl.export(dense_network(), **{**names, **arguments})


def suggested(**arguments):
    return krl.suggest(**{"data": X, "y": Y, **arguments})


def made(name, *positional):
    module, name = name.split(".")
    return functools.partial(getattr(getattr(krl, module), name), *positional)


def curve_of(**values):
    groups = {key: [0.9, 0.4] for key in ("all", "tail", "balanced", "worst")}
    return krl.RobustnessCurve(**{"epsilons": [0, 0.1], **groups, **values})


def results(**arguments):
    entry = {key: 0.5 for key in ("all", "tail", "balanced", "worst")}
    entry["per_class"] = [0.5, None, 1.0]
    accuracies = {"clean": entry, "pgd20": entry}
    settings = {"class_names": ["a", "b", "c"], "class_counts": [8, 3, 1]}
    arguments = {"accuracies": accuracies, "settings": settings, **arguments}
    return krl.EvaluationResults(**arguments)


def examples(**arguments):
    probabilities = np.full((12, 3), 1 / 3)
    names = ("probabilities", "adversarial_probabilities")
    arrays = {"images": X, "adversarial": X, **dict.fromkeys(names, probabilities)}
    return krl.AdversarialExamples(
        **{**arrays, "labels": Y, "epsilon": 0.1, **arguments}
    )


def with_examples(classes):
    """Results of three classes, and images of others."""
    rows = np.full((12, classes), 1 / classes)
    found = results()
    found.examples = examples(probabilities=rows, adversarial_probabilities=rows)
    return found


def loss(name, **arguments):
    ones = np.eye(4, dtype="float32")[:2]
    arguments = {"targets": ones, "logits": 1 - ones, **arguments}
    return getattr(krl.losses, name)(**arguments)


def a_loss(name, **arguments):
    return functools.partial(loss, name, **arguments)


def trained(**arguments):
    return tiny_model().fit(**{"x": X, "y": Y, "verbose": 0, **arguments})


def on_a_batch(**arguments):
    model = tiny_model()
    model.schedule.start(1, 1)
    return model.train_on_batch(**{"x": X, "y": Y, **arguments})


def predicted(**arguments):
    return tiny_model().predict(**{"x": X, "verbose": 0, **arguments})


def assessed(**arguments):
    return tiny_model().evaluate(**{"x": X, "y": Y, "verbose": 0, **arguments})


def plotted(**arguments):
    arguments = {"class_epsilon": [[0.1, 0.2]], "class_names": ["a", "b"], **arguments}
    return krl.plots.schedule(**arguments)


def sheet(**arguments):
    return krl.plots.contact_sheet(
        **{"rows": [X, X], "labels": ["a", "b"], **arguments}
    )


def found(**arguments):
    finding = {"severity": "note", "kind": "kind", "message": "m", **arguments}
    return krl.data.DataCheck("x").add(**finding)


def graph(**arguments):
    square = [[0.5, 0.5], [0.25, 0.75]]
    arguments = {"confusion": square, "centres": [[0.0, 1.0], [1.0, 1.0]], **arguments}
    return krl.methods.confusion_graph(**{"class_counts": [8, 8], **arguments})


# Constructors and functions: what is called, and bad values of each argument.
ARGUMENTS = [
    (
        model,
        {
            "network": ["resnet18", None, keras.layers.Dense(3), len, [1]],
            "class_counts": [
                *(None, 3, "831", [8], [[8, 3, 1]], [8, 3], [8, 0, 1], [8, -1, 1]),
                *([8, 3, NAN], [8, 3, INF], [8, 2.5, 1], ["8", "3", "1"], [8, [3], 1]),
                *({1: 8, 2: 3, 3: 1}, {"a": 8, "b": 3, "c": 1}, [8, 3, 1e300]),
                *([True, True, True], np.eye(3), [1j, 2, 3]),
            ],
            "epsilon": NO_EPSILON,
            "alpha": [*NO_NUMBER, -0.1, 1.1],
            "beta": NO_RATE,
            "method": [*NO_NAME, "at+awp+awp", "awp+awp", krl.methods.AT],
            "attack": ["pgd10", 3, krl.attacks.PGD, krl.attacks.PGD(0.2), [1]],
            "attack_steps": [*NO_NAME, 10],
            "evaluation_attack": [
                krl.attacks.NFGSM(),
                "pgd",
                krl.attacks.PGD,
                krl.attacks.PGD(0.2),
            ],
            "granularity": ["batch", 3, ["epoch"]],
            "weighting": ["lossy", 3, ["loss"]],
            "budget": ["at", 3, ["cfa"], krl.budget.CFA],
            "augmentation": [*NO_NAME, "mixup"],
            "batchnorm_statistics": [*NO_NAME, "clean"],
            "total_epochs": [value for value in NOT_POSITIVE if value is not None],
            "averaging": [1.5, -0.1, NAN, "ema", True, [0.9], krl.averaging.EMA],
            "tail_fraction": NO_SHARE,
            "seed": NO_SEED,
        },
    ),
    (class_budgets, {"epsilon": NO_EPSILON, "alpha": NO_SHARE, "norm": ["l1", None]}),
    (
        lambda **given: krl.budget.iteration_weight(
            **{"t": 1, "total": 5, "beta": 0.8, **given}
        ),
        {"total": NOT_POSITIVE, "beta": NO_RATE, "t": [0, 6, NAN, "one", "1", None]},
    ),
    (made("budget.RobustLT"), {"alpha": NO_SHARE, "beta": NO_RATE}),
    (made("budget.RobustLT"), {"granularity": NO_NAME, "weighting": NO_NAME}),
    (
        made("budget.largest_alpha", COUNTS),
        {"epsilon": NO_EPSILON},
    ),
    (made("budget.largest_alpha", COUNTS, 0.1), {"norm": ["l1", None, 2]}),
    (
        made("budget.class_distance_weights"),
        {"confusion": [*NO_TABLE, [[0.5, 0.5]], np.eye(2) * 1j]},
    ),
    (
        made("budget.class_distance_weights", np.eye(2)),
        {"strength": [*NO_RATE, None]},
    ),
    (made("methods.feedback_scores"), {"confusion": [*NO_TABLE, [[0.5, 0.5]]]}),
    (
        made("methods.feedback_weights"),
        {"scores": ["x", None, 0.5, [["a"]], {}, [], [-1.0, -1.0], [NAN, 1.0]]},
    ),
    (
        graph,
        {
            "confusion": [*NO_TABLE, np.eye(3)],
            "centres": [*NO_TABLE, np.eye(3)],
            "class_counts": NO_COUNTS[1:],
            "neighbours": NOT_POSITIVE,
        },
    ),
    (made("budget.CFA"), {"base": NO_RATE, "start": NO_SHARE}),
    (made("budget.DAFA"), {"strength": NO_RATE, "start": NO_SHARE}),
    (made("methods.AT"), {"label_smoothing": NO_SHARE}),
    (made("methods.ATBSL"), {"tau": NO_RATE}),
    (
        made("methods.AWP"),
        {
            "method": [*NO_NAME, krl.methods.AWP()],
            "gamma": NO_RATE,
            "warmup_epochs": [-1, 1.5, NAN, INF, "1", True],
            "proxy": NO_NAME,
        },
    ),
    (made("methods.MART"), {"beta": NO_RATE}),
    (made("methods.NuAT"), {"strength": NO_RATE, "growth": NO_RATE}),
    (made("methods.TRADES"), {"beta": NO_RATE}),
    (made("methods.TAET"), {"ce_epochs": [-1, 1.5, NAN, "1"], "alpha": NO_RATE}),
    (made("methods.RoBal"), {"scale": [*NO_RATE, 0], "label_smoothing": NO_SHARE}),
    (made("averaging.EMA"), {"momentum": NO_SHARE}),
    (made("averaging.FAWA"), {"threshold": NO_SHARE, "start": NO_SHARE}),
    (
        made("attacks.PGD"),
        {
            "epsilon": NO_EPSILON_OF_NORM,
            "steps": NOT_POSITIVE,
            "step_size": NO_RATE,
            "norm": [*NO_NAME, "l1", 2],
            "loss": [
                *(*NO_NAME, "hinge", len, keras.layers.Dense(3), lambda logits: 0),
                keras.losses.CategoricalCrossentropy,
            ],
            "restarts": NOT_POSITIVE,
            "random_start": NO_BOOLEAN,
        },
    ),
    (
        made("attacks.FGSM"),
        {"epsilon": NO_EPSILON_OF_NORM, "norm": ["l1", 2, None]},
    ),
    (made("attacks.FGSMRS"), {"epsilon": NO_EPSILON}),
    (made("attacks.NFGSM"), {"epsilon": NO_EPSILON}),
    (
        made("attacks.UDR"),
        {"epsilon": NO_EPSILON, "rate": NO_RATE, "period": NOT_POSITIVE},
    ),
    (made("attacks.APGD"), {"steps": NOT_POSITIVE, "rho": NO_SHARE}),
    (made("attacks.APGDT"), {"targets": NOT_POSITIVE, "batch_size": NOT_POSITIVE}),
    (
        made("attacks.FAB"),
        {"steps": NOT_POSITIVE, "targets": [-1, 1.5, "2", 0, "", [], {}, False]},
    ),
    (
        made("attacks.get", "pgd20"),
        {
            "epsilon": NO_EPSILON_OF_NORM,
            "batch_size": NOT_POSITIVE,
            "norm": ["l1", None, 2],
        },
    ),
    (
        made("attacks.get"),
        {
            "attack": [
                "",
                3,
                [],
                np.ones(2),
                len,
                krl.attacks.PGD,
                keras.layers.Dense(3),
            ]
        },
    ),
    (
        made("attacks.get_training"),
        {"attack": ["pgd20", None, 3, [], krl.attacks.PGD, np.ones(2)]},
    ),
    (made("attacks.get_training", "pgd"), {"epsilon": NO_EPSILON}),
    (
        made("attacks.Square"),
        {
            "queries": NOT_POSITIVE,
            "initial_fraction": NO_SHARE,
            "rescale_schedule": NO_BOOLEAN,
        },
    ),
    (
        made("attacks.AutoAttack"),
        {"version": ["", "nonsense", None, 0.1, {}], "seed": [0.5, -1, "1"]},
    ),
    (
        made("networks.SmallResNet"),
        {
            "classes": [1, 2.5, "10", None, True, [10]],
            "input_shape": [(8, 8), 8, None, (8, 8, 0), (8, 8, None), (0, 8, 1), "881"],
            "mean": [(0.5, 0.5), "0.5x", NAN, None],
            "std": [0, -1, NAN, (1, 1), None],
            "widths": [(), 16, (16, 0), (16, "32"), None],
            "head": [*NO_NAME, len],
        },
    ),
    (made("networks.WideResNet", 10), {"width": NOT_POSITIVE}),
    (
        lambda depth: krl.networks.WideResNet(depth, 1),
        {"depth": [*NOT_POSITIVE, 4, 12]},
    ),
    (
        made("networks.ViT"),
        {"patch_size": [0, 3, 1.5, "4"], "dropout": NO_SHARE, "heads": NOT_POSITIVE},
    ),
    (made("layers.CosineClassifier", 3), {"scale": [*NO_RATE, 0]}),
    (
        made("layers.BatchNormalization"),
        {"momentum": NO_SHARE, "epsilon": [*NO_RATE, 0, None]},
    ),
    (made("layers.CosPlusClassifier", 3), {"gamma": NO_RATE, "eta": NO_RATE}),
    (
        made("optimizers.AdamW"),
        {
            "backbone_rate": NO_SHARE,
            "learning_rate": [NAN, INF, -0.1, "0.1", True],
            "beta_1": [*NO_RATE, 1, None],
            "beta_2": [*NO_RATE, 1, None],
            "epsilon": [*NO_RATE, 0],
            "amsgrad": NO_BOOLEAN,
        },
    ),
    (
        made("optimizers.SGD"),
        {
            "learning_rate": [
                *(NAN, INF, -0.1, "0.1", True),
                keras.optimizers.schedules.CosineDecay,
            ],
            "nesterov": [*NO_BOOLEAN, np.ones(2)],
            "use_ema": NO_BOOLEAN,
            "gradient_accumulation_steps": NOT_POSITIVE[:-1],
            "momentum": NO_SHARE,
            "weight_decay": NO_RATE,
            "clipnorm": [NAN, -1, 0, "1"],
            "clipvalue": [NAN, -1, 0, "1"],
        },
    ),
    (made("methods.NuAT"), {"strength": NO_RATE, "growth": NO_RATE}),
    (made("methods.CGR"), {"momentum": NO_SHARE, "start": NOT_POSITIVE[1:]}),
    (
        evaluated,
        {
            "attacks": [[], 3, "nonsense", None, [None], {}, {"a": 3}, [0.1]],
            "epsilon": [*NO_NUMBER, -0.1],
            "class_counts": NO_COUNTS,
            "tail_fraction": NO_SHARE,
            "class_names": [*NO_NAMES, ["a", "a", "b"]],
            "batch_size": NOT_POSITIVE,
            "chunk_size": NOT_POSITIVE,
            "seed": NO_SEED,
            "per_example": NO_BOOLEAN,
            "diagnose": NO_BOOLEAN,
            "verbose": NO_VERBOSE,
            "model": [
                *(3, None, "model", krl.RobustLTModel, keras.Sequential),
                *(lambda x, y: x, lambda: dense_network()),
            ],
            "cache": [3, "", "cache.txt", True, f"{__file__}/cache.npz"],
        },
    ),
    (
        curve,
        {
            "epsilons": [[], "0.1", 0.1, [NAN], [-0.1], [None], [2.0], ["a"]],
            "attack": [*NO_NAME, "autoattack", krl.attacks.NFGSM()],
            "examples": NOT_POSITIVE[:-1],
            "class_counts": NO_COUNTS,
            "tail_fraction": NO_SHARE,
            "batch_size": NOT_POSITIVE,
            "seed": NO_SEED,
            "verbose": NO_VERBOSE,
        },
    ),
    (
        curve_of,
        {
            **dict.fromkeys(
                ("all", "tail", "balanced", "worst"),
                (
                    *([90, 40], [NAN, 0.4], [0.9], [0.9, 0.4, 0.1], [INF, 0.1], 0.5),
                    *(["0.9", "0.4"], [-0.1, 0.2], "ab", {}, [True, False]),
                ),
            ),
            "epsilons": [None, [], 0.1, "01", [0, NAN], [-0.1, 0], [0, "a"], [0]],
            "tial": [[0.9, 0.4]],
            "examples": [0, 2.5, "3", None],
            "attack": ["pgd", None, {}, {"class": 3}],
        },
    ),
    (
        results,
        {
            "accuracies": [
                *(None, 3, [], "clean", {"clean": 0.5}, {"clean": {}}, {"clean": None}),
                *(
                    {"clean": {**results()["clean"], key: value}}
                    for key, values in {
                        "all": (50, NAN),
                        "per_class": ({}, None, 0.5, np.array(0.5), [0.5]),
                        "attack": ("pgd",),
                        "confusion": (None, [[1]], np.eye(2)),
                        "stages": ([], {"apgd": {}}),
                    }.items()
                    for value in values
                ),
                {1: results()["clean"]},
            ],
            "settings": [
                *(None, 3, [], "settings"),
                *(
                    {key: value}
                    for key, values in {
                        "class_counts": ([3, 2], 3, np.array([3, 2])),
                        "examples_per_class": ([3, 2], "321"),
                        "tail_classes": ([3], [0.5], 2),
                        "epsilon": (NAN, -1, True, "0.1"),
                        "examples": (1.5, "3"),
                        "versions": ([],),
                        "findings": (["no dictionary"],),
                    }.items()
                    for value in values
                ),
            ],
        },
    ),
    (results().table, {"per_class": NO_BOOLEAN}),
    (results().row, {"attack": ["pgd", None, 3, [], ""]}),
    (results().to_json, {"path": NO_PATH[:2] + NO_PATH[3:]}),
    (krl.EvaluationResults.from_json, {"path": [*NO_PATH, '{"a": 1}']}),
    (
        examples,
        {
            "images": [None, 3, X[:5], np.uint8(255 * X), 255 * X, 2 * X - 1, X[0]],
            "adversarial": [None, X[:5], X[..., :1], 255 * X, NAN * X],
            "labels": [None, Y[:5], Y + 1, Y - 1, Y / 2, [0] * 12, Y[:, None]],
            "probabilities": [None, 3, np.ones((5, 3)), np.ones(12), Y],
            "adversarial_probabilities": [None, np.ones((12, 4)), np.ones((5, 3))],
            "epsilon": [None, "0.1", NAN, -0.1, [0.1], True],
        },
    ),
    (examples().to_npz, {"path": NO_PATH}),
    (krl.AdversarialExamples.from_npz, {"path": NO_PATH}),
    *(
        (a_loss(name, **given), {"targets": values, "logits": values})
        for name, given in (
            *(("cross_entropy", {}), ("focal", {}), ("margin", {}), ("dlr", {})),
            ("balanced_softmax", {"class_counts": [8, 4, 2, 1]}),
            ("class_balanced", {"class_counts": [8, 4, 2, 1]}),
            ("ldam", {"class_counts": [8, 4, 2, 1]}),
            ("targeted_dlr", {"target_class": np.eye(4, dtype="float32")[1:3]}),
        )
        for values in [[*NO_TABLE, 0.5, np.eye(3), np.eye(4) * 1j]]
    ),
    (a_loss("targeted_dlr"), {"target_class": [*NO_TABLE, np.array([1, 2]), 1]}),
    (a_loss("class_balanced"), {"class_counts": [[8, 4], [], "8", None, [[8], [4]]]}),
    (made("losses.effective_number_weights"), {"class_counts": [[], None, [8, 0]]}),
    (
        made("losses.kl_divergence", np.eye(2)),
        {"logits_q": [*NO_TABLE, np.eye(3)]},
    ),
    (made("losses.nuclear_norm_shares"), {"matrix": NO_TABLE}),
    (
        a_loss("cross_entropy", label_smoothing=0.1),
        {"towards": ["x", 1.0, [0.5, 0.5], np.full((2, 4), 0.25)]},
    ),
    *(
        (a_loss(name), {"targets": [np.full((2, 4), 0.25)]})
        for name in ("margin", "dlr")
    ),
    (
        a_loss("cross_entropy"),
        {"targets": [scale * np.eye(4, dtype="float32")[:2] for scale in (-1, NAN)]},
    ),
    (
        functools.partial(model().schedule.start, 5),
        {"steps_per_epoch": ["", [], {}, False, np.ones(2), -1]},
    ),
    (
        functools.partial(krl.losses.one_hot, num_classes=3),
        {"labels": [None, "x", {}, [0, 3], [-1], ["a"], [0.5], np.datetime64("2020")]},
    ),
    (made("losses.one_hot", [0, 1]), {"num_classes": NOT_POSITIVE}),
    (
        lambda **given: krl.metrics.summarize(
            **{"correct": [1, 0], "total": [2, 2], "tail": [1], **given}
        ),
        {
            "correct": ["x", None, {}, 1, [[1, 0]], ["a", "b"], [NAN, 1]],
            "total": ["x", None, {}, 2, [[2, 2]], ["a", "b"]],
            "tail": ["x", None, {}, 1, [0.5], ["a"], [NAN], [INF], [1, 1]],
        },
    ),
    (
        plotted,
        {
            "class_epsilon": [
                *("x", None, 0.1, [0.1, 0.2], [["a", "b"]], [[INF, 0.1]]),
                [[-0.1, 0.1]],
            ],
            "class_names": ["ab", None, 3, {"a": 1, "b": 2}, {"a", "b"}, ["a"]],
            "weights": ["x", 0.5, ["a"], [INF], [0.5, 1.0]],
            "epochs": ["x", 3, ["a"], [0, 1], [NAN]],
        },
    ),
    (
        sheet,
        {
            "rows": [
                *(None, 3, "x", [], [X, X[:5]], [X[:0], X[:0]], [X[..., :2]] * 2),
                *([X[0], X[0]], [255 * X] * 2, [NAN * X] * 2, [X.astype(str)] * 2),
                *([X[..., :0]] * 2, [np.uint16(255 * X)] * 2, [[X[0], X[1, :4]], X]),
            ],
            "labels": [None, 3, "ab", ["a"], [1, 2], {"a": 1, "b": 2}],
        },
    ),
    (
        functools.partial(krl.plots.save, path="figure.png"),
        {"figure": [None, 3, "x", X, krl.plots]},
    ),
    (lambda path: krl.plots.save(plotted(), path), {"path": ["figure.txt", 3, ""]}),
    (model().schedule.position, {"granularity": ["epochs", "batch", None, 1]}),
    (
        functools.partial(krl.plots.accuracy_per_class, {"a": results()}),
        {"attack": ["fgsm", None, 3, ["clean"]], "title": [3, ["a"]]},
    ),
    (
        found,
        {
            "severity": ["bad", None, 3],
            "where": [None, 3, "file"],
            "count": [-1, 1.5, "3", NAN],
        },
    ),
    (
        trained,
        {
            "shuffle": ["no", "yes", None, 1, 0, ["batch"], np.ones(2)],
            "verbose": [*NO_VERBOSE, np.ones(2)],
            "y": [3, "y", b"y", np.float64(1), object(), {}, len],
            "sample_weight": [3, "x", {}, len, object(), np.zeros(12), True],
            "callbacks": ["", 0, False, object(), {"a": 1}],
            "validation_split": ["", [], {}, False, 1],
            "initial_epoch": [None],
        },
    ),
    (
        assessed,
        {
            "verbose": NO_VERBOSE,
            "return_dict": NO_BOOLEAN,
            "callbacks": ["", 0, False, object(), [krl.callbacks.CollapseGuard]],
            "sample_weight": [3, "x", np.zeros(12)],
            "batch_size": NOT_POSITIVE[:-1],
        },
    ),
    (
        predicted,
        {
            "x": [
                *(None, 3, "x", np.float64(1), np.True_, {}, keras.layers.Dense, X[:0]),
                WHOLE,
            ],
            "verbose": NO_VERBOSE,
            "batch_size": NOT_POSITIVE[:-1],
            "steps": NOT_POSITIVE[:-1],
            "callbacks": ["", 0, object()],
        },
    ),
    (
        on_a_batch,
        {
            "y": [3, "y", object(), len],
            "sample_weight": [3, "x", np.ones((12, 3)), np.ones(5), np.ones(0)],
            "class_weight": [
                "even",
                3,
                [1, 2, 3],
                {"a": 1},
                {3: 1.0},
                {0: -1},
                {0: NAN},
            ],
            "return_dict": NO_BOOLEAN,
        },
    ),
    (
        lambda **given: tiny_model(averaging=0.9).update_average(**given),
        {
            "keep": [
                *(*NO_SHARE, None, {}),
                *map(keras.ops.convert_to_tensor, (NAN, 5.0, [0.5, 0.5])),
            ]
        },
    ),
    (
        made("networks.with_features", dense_network()),
        {"layer": ["nonsense", 3, "", [], np.ones(2)]},
    ),
    (made("callbacks.ScheduleInspector"), {"class_names": NO_NAMES[:1] + NO_NAMES[2:]}),
    (
        functools.partial(krl.callbacks.SkewAndDrift, X, Y),
        {"class_names": ["abc", 3, {"a", "b", "c"}, object()]},
    ),
    (
        made("data.on_device", "none"),
        {"image_shape": [None, 3, "abc", (8, 8), (8, 8, 0), (8, 8, None), (8.5, 8, 3)]},
    ),
    (
        diagnosed,
        {
            "epsilon": [*NO_NUMBER, -0.1, 8],
            "norm": ["", "nonsense", 3, ["l2"], "l1"],
            "examples": NOT_POSITIVE,
            "starts": NOT_POSITIVE,
            "steps": NOT_POSITIVE,
            "queries": NOT_POSITIVE[1:],
            "batch_size": NOT_POSITIVE,
            "seed": NO_SEED,
        },
    ),
    (
        guard,
        {
            "examples": NOT_POSITIVE,
            "seed": NO_SEED,
            "x": [None, 3, "x", WHOLE],
            "y": [X],
        },
    ),
    (
        drift,
        {
            "examples": NOT_POSITIVE,
            "seed": NO_SEED,
            "attack": ["pgd", 3, krl.attacks.APGD()],
            "class_names": NO_NAMES,
            "directory": [3, ""],
            "tensorboard": NO_BOOLEAN,
        },
    ),
    (made("callbacks.Checkpoint"), {"directory": [3, "", None]}),
    (made("callbacks.Checkpoint", "checkpoints"), {"every": NOT_POSITIVE}),
    (made("callbacks.HistoryCSV"), {"path": [3, "", None]}),
    (
        exported,
        {
            "path": [3, "", None, "robust.h5", "robust.onnx"],
            "class_names": NO_NAMES,
            "input": [*NO_NAME, "int8"],
        },
    ),
    (
        suggested,
        {"y": [None, Y[:5], Y - 1, Y / 2, "y"], "class_names": NO_NAMES},
    ),
    (
        made("networks.logit_adjusted", dense_network()),
        {"class_counts": NO_COUNTS},
    ),
    (
        made("networks.logit_adjusted", dense_network(), COUNTS),
        {"tau": NO_RATE},
    ),
    (made("networks.tau_normalized", dense_network()), {"tau": NO_SHARE}),
    (made("metrics.ClasswiseAccuracy", COUNTS), {"tail_fraction": NO_SHARE}),
    (made("metrics.tail_classes", COUNTS), {"fraction": NO_SHARE}),
    (
        compiled,
        {
            "loss": [
                *("nonsense", 3, ["mse"], "binary_crossentropy", "kl_divergence"),
                *("poisson", "CategoricalCrossentropy", "dice", "ctc", "circle"),
                keras.losses.categorical_crossentropy,
                keras.losses.sparse_categorical_crossentropy,
                keras.losses.CategoricalCrossentropy,
                keras.losses.CategoricalCrossentropy(),
                keras.losses.SparseCategoricalCrossentropy(),
                keras.losses.BinaryCrossentropy(),
                keras.losses.BinaryFocalCrossentropy(),
                keras.losses.KLDivergence(),
                keras.losses.Tversky(),
                functools.partial(keras.losses.binary_crossentropy, axis=1),
                lambda targets, outputs, from_logits=False: outputs,
                *(len, lambda outputs: 0.0, keras.layers.Dense(3), object),
                *({}, {"dense": "mse"}, keras.metrics.MeanSquaredError()),
                krl.losses.effective_number_weights,
                keras.losses.CategoricalGeneralizedCrossEntropy(),
            ],
            "run_eagerly": ["no", 1, [True], np.ones(2)],
            "jit_compile": ["no", 1, [True], "Auto"],
            "auto_scale_loss": ["no", 1],
            "steps_per_execution": NOT_POSITIVE,
            "loss_weights": [1.0, [1.0], {"a": 1}],
            "metrics": [
                *(["ce"], ["categorical_crossentropy"]),
                [keras.metrics.CategoricalCrossentropy()],
                [keras.metrics.SparseCategoricalCrossentropy()],
                ["accuracy", keras.metrics.AUC()],
                [keras.metrics.Accuracy()],
                [keras.metrics.MeanIoU(3)],
            ],
            "weighted_metrics": [[keras.metrics.BinaryCrossentropy()]],
        },
    ),
]

NAN_IMAGE = np.where(np.arange(12)[:, None, None, None] == 3, np.float32(NAN), X)


class Batches(keras.utils.PyDataset):
    """Two of the same."""

    def __init__(self, batch):
        super().__init__()
        self.batch = batch

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return self.batch


# Images and labels as arrays: all are refused before the first step.
ARRAYS = [
    (255 * X, Y, "pixels from 0 to 255.*divided twice"),
    (np.uint8(255 * X), Y, "floating-point images"),
    (2 * X - 1, Y, "Normalisation"),
    (NAN_IMAGE, Y, "not a number"),
    (np.where(X > 0.5, np.float32(INF), X), Y, "must hold images in"),
    (X > 0.5, Y, "floating-point images"),
    (X.astype("str"), Y, "floating-point images"),
    (X.astype(object), Y, "floating-point images"),
    (X, None, "y"),
    (X, Y + 1, "labels from 0 to 2"),
    (X, Y - 1, "labels from 0 to 2"),
    (X, 255 * np.eye(3)[Y], "rows do not sum to 1"),
    (X, np.eye(3)[Y] + np.eye(3)[::-1][Y], "rows do not sum to 1"),
    (X, np.zeros((12, 3)), "rows do not sum to 1"),
    (X, np.tile([1.5, -0.5, 0], (12, 1)), "outside .0, 1."),
    (X, np.where(Y == 1, NAN, 1)[:, None] * np.eye(3)[Y], "rows do not sum to 1"),
    (X, np.eye(4)[Y], r"of shape \(batch, 3\). Received shape: \(12, 4\)"),
    (X, np.eye(3)[Y][..., None], r"Received shape: \(12, 3, 1\)"),
    (X, Y / 2, "integer labels"),
    (X, np.where(Y == 1, NAN, Y), "integer labels"),
    (X, np.where(Y == 1, INF, Y), "labels from 0 to 2"),
    (X, np.array(["cat", "dog", "fox"])[Y], "integer labels"),
    (X, Y.astype("str"), "integer labels"),
    (X, Y.astype(object), "integer labels"),
    (X, Y == 1, "integer labels"),
    (X, Y.astype("complex64"), "integer labels"),
    (X, np.array(3), "Received shape"),
    (X, list("abcabcabcabc"), "integer labels"),
]
# In a data set these would be others, or come to nothing.
ONLY_ARRAYS = [
    (sparse.csr_matrix(X.reshape(12, -1)), Y, "`x` must be a dense array"),
    (X, sparse.csr_matrix(np.eye(3)[Y]), "`y` must be a dense array"),
    (X, Y.tolist(), "`y` must be one array.*a list of 12 entries"),
    (list(X), Y, "`x` must be one array.*a list of 12 entries"),
    (X[:0], Y[:0], "`x` must hold images"),
]
INSPECTOR = krl.callbacks.ScheduleInspector()
# What `fit` takes beside x and y.
FIT_ARGUMENTS = [
    ({"x": (X, Y), "y": None}, r"`x` must be one array.* as in fit\(x, y\)"),
    ({"x": WHOLE}, "`x` must be one part of the data: pass data.train"),
    (
        {"x": krl.data.load("digits")},
        r"`x` must be one part.*pipeline\(source.*digits,",
    ),
    ({"validation_data": WHOLE}, "`validation_data` must be one part of the data"),
    ({"validation_data": (255 * X, Y)}, r"validation_data\[0\]"),
    ({"validation_data": (X, Y + 1)}, r"validation_data\[1\]"),
    ({"validation_data": (X, None)}, r"validation_data\[1\]"),
    ({"validation_data": (X, Y / 2)}, r"validation_data\[1\]"),
    ({"validation_data": (X, Y[:5])}, r"`validation_data\[1\]` must have an entry"),
    (
        {"validation_data": (X, Y, np.ones(5))},
        r"`validation_data\[2\]` must have an entry",
    ),
    ({"x": X[:, 0]}, r"`x` must hold images of shape \(6, 6, 3\)"),
    ({"x": X[:, 0, 0, 0]}, r"`x` must hold images of shape \(6, 6, 3\)"),
    ({"y": Y[:5]}, "`y` must have an entry for each of the 12 images of `x`"),
    ({"validation_data": 3}, "`validation_data` must be"),
    ({"validation_data": X}, "`validation_data` must be"),
    *(
        ({"validation_data": (x, Y)}, r"`validation_data\[0\]` must be")
        for x in (None, {"a": X}, 3, "x", list(X), iter([X]), (X, Y))
    ),
    *(
        ({"validation_data": Batches(batch)}, f"`validation_data` .*{message}")
        for batch, message in (
            *((X, "pairs"), ((255 * X, Y), "0 to 255"), ((NAN * X, Y), "NaN")),
            *(((X, Y + 1), "0 to 2"), ((X, None), "labels")),
            *(((X, Y, -np.ones(12)), "at least 0"), ((X, Y, np.ones((12, 3))), "one")),
        )
    ),
    ({"validation_data": (X,)}, "`validation_data` must be"),
    ({"validation_data": "val"}, "`validation_data` must be"),
    ({"validation_data": lambda: [(X, Y)]}, "`validation_data` must be"),
    ({"validation_data": iter([(X, Y)])}, "`validation_data` must be"),
    (
        {"validation_data": (keras.ops.convert_to_tensor(255 * X), Y)},
        r"`validation_data\[0\]` must hold images in",
    ),
    ({"validation_freq": []}, "`validation_freq` must name an epoch"),
    ({"validation_freq": [0]}, "`validation_freq`"),
    ({"validation_freq": [1.5]}, "`validation_freq`"),
    ({"validation_freq": ["a"]}, "`validation_freq`"),
    ({"epochs": 10**20}, "`epochs` must be at most"),
    ({"sample_weight": keras.ops.zeros(12)}, "`sample_weight` must have a weight"),
    ({"epochs": -1}, "`epochs`"),
    ({"epochs": 1.5}, "`epochs`"),
    ({"epochs": "3"}, "`epochs`"),
    ({"batch_size": 0}, "`batch_size`"),
    ({"batch_size": -4}, "`batch_size`"),
    ({"batch_size": 2.5}, "`batch_size`"),
    ({"steps_per_epoch": 0}, "`steps_per_epoch`"),
    ({"steps_per_epoch": NAN}, "`steps_per_epoch`"),
    ({"validation_batch_size": "8"}, "`validation_batch_size`"),
    ({"validation_split": 1.5}, "validation_split"),
    ({"validation_split": -0.5}, "validation_split"),
    ({"validation_split": NAN}, "validation_split"),
    ({"validation_split": "0.2"}, "validation_split"),
    ({"validation_data": (X[:0], Y[:0])}, r"`validation_data\[0\]` must hold images"),
    ({"validation_freq": 0}, "`validation_freq`"),
    ({"validation_freq": -1}, "`validation_freq`"),
    ({"validation_freq": "2"}, "`validation_freq`"),
    ({"initial_epoch": -1}, "`initial_epoch`"),
    ({"initial_epoch": 0.5}, "`initial_epoch`"),
    ({"initial_epoch": "1"}, "`initial_epoch`"),
    ({"initial_epoch": 3, "epochs": 2}, "`initial_epoch`.*initial_epoch=3, epochs=2"),
    ({"sample_weight": [1.0] * 12}, "`sample_weight` must be one array"),
    ({"sample_weight": np.zeros(12)}, "`sample_weight` must have a weight above 0"),
    (
        {"validation_data": (X, Y, np.zeros(12))},
        r"`validation_data\[2\]` must have a weight",
    ),
    ({"sample_weight": "balanced"}, "`sample_weight` must be one array"),
    ({"sample_weight": np.full(12, 1e300)}, "`sample_weight` must hold finite"),
    ({"class_weight": {0: 1e300}}, r"`class_weight\[0\]` must be"),
    ({"y": np.ma.masked_equal(Y, 0)}, "`y` must be an array without a mask"),
    (
        {"sample_weight": np.ma.masked_equal(Y, 0)},
        "`sample_weight` must be an array without a mask",
    ),
    ({"callbacks": 2 * [INSPECTOR]}, "`callbacks` must be different objects"),
    ({"class_weight": {0: 0, 1: 0, 2: 0}}, "`class_weight` must have a weight above 0"),
    ({"callbacks": ["csv"]}, "`callbacks` must be"),
    ({"callbacks": [krl.callbacks.ScheduleInspector]}, "`callbacks` must be"),
    ({"x": X, "y": np.sort(Y), "validation_split": 0.4}, r"nothing of class \[2\]"),
    (
        {"x": X, "y": np.sort(Y), "validation_split": 0.25},
        r"see class \[2\] alone\. Sh",
    ),
    ({"x": X, "y": np.repeat([2, 0, 1], [8, 3, 1])}, "in another order"),
]
# A rule of its own, and arguments of RobustLT's: the latter would be ignored.
IGNORED = [
    {"budget": rule, argument: value}
    for rule in ("uniform", "auto", "cfa", "dafa", krl.budget.RobustLT())
    for argument, value in (
        ("alpha", 0.9),
        ("alpha", 0),
        ("beta", 0.5),
        ("granularity", "step"),
        ("weighting", "loss"),
    )
]
OTHERS = [
    (lambda: model(network=dense_network(activation="softmax")), "give logits"),
    (lambda: model(network=dense_network(activation="sigmoid")), "give logits"),
    (lambda: model(network=dense_network(4)), "`network`.*`class_counts` has 3"),
    (
        lambda: model(network=dense_network(1), class_counts=[8, 4]),
        r"two outputs.*Dense\(2\)",
    ),
    (
        lambda: model(network=dense_network(1, activation="sigmoid")),
        r"two outputs.*Dense\(2\)",
    ),
    (lambda: model(class_counts=[10_000, 5_000, 10], epsilon=0.5), "`alpha` gives"),
    (lambda: budget("cfa", alpha=0.3), "alpha"),
    (lambda: budget(krl.budget.CFA(), base=0.3), "budget.*base"),
    (lambda: budget({"class_name": "Nope", "config": {}}), "Nope"),
    (lambda: budget("nonsense"), "`budget` must be"),
    (lambda: budget("auto", alpha=0.3), r"Auto\(\) takes no arguments.*alpha=0.3"),
    (lambda: krl.methods.Standard(6), r"Standard\(\) takes no arguments.*6"),
    (lambda: graph(centres=[[NAN, 1.0], [1.0, 0.0]]), "`centres` must be finite"),
    (lambda: budget(None), "`budget` must be"),
    (lambda: method("trades", gamma=4), "gamma"),
    (lambda: method(krl.methods.AT(), tau=4), "method.*tau"),
    (lambda: method("mart", beta=-1), "`beta`"),
    *(
        (functools.partial(model, attack_steps="adaptive", **given), "`attack_steps=")
        for given in (
            *({"beta": 0}, {"budget": "uniform"}, {"budget": "dafa"}),
            {"budget": krl.budget.CFA()},
        )
    ),
    *(
        (functools.partial(krl.methods.CGR, given), "`method`")
        for given in ("taet", "taet+awp", "cgr", "cgr+awp", "standard")
    ),
    (lambda: krl.methods.AWP(krl.methods.CGR("awp")), "`method` is of AWP"),
    (lambda: model(method="taet", budget="dafa"), "`budget`.*`method`"),
    (lambda: krl.methods.TAET(alpha=0, beta=0, gamma=0), "`gamma` one must be above 0"),
    (lambda: krl.methods.RoBal(beta=0, beta_adversarial=0), "one must be above 0"),
    (
        lambda: model(
            method="trades", attack=krl.attacks.PGD(8 / 255, random_start=False)
        ),
        "`attack` must start at random",
    ),
    (
        lambda: krl.RobustLTModel(
            dense_network(2),
            [2, 1],
            evaluation_attack=krl.attacks.PGD(8 / 255, loss="dlr"),
        ),
        "at least 3 classes",
    ),
    (lambda: model(averaging=krl.averaging.WeightAveraging()), "must define `keep`"),
    (lambda: krl.attacks.PGD(8 / 255, step_size=2), "`step_size` must be at most 1"),
    (
        lambda: fit_compiled(krl.optimizers.SGD(head="nope")),
        "`head` must be the name",
    ),
    (
        lambda: tiny_model(method="taet").fit(X, Y, sample_weight=np.ones(12)),
        "`sample_weight`",
    ),
    (
        lambda: tiny_model(method="taet").fit(X, Y, class_weight="balanced"),
        "`class_weight`",
    ),
    (lambda: tiny_model().update_average(0.5), "`update_average` needs"),
    (
        lambda: krl.networks.with_features(
            keras.Sequential([keras.Input((6, 6, 3)), keras.layers.Flatten()])
        ),
        "`network` must have a layer with weights",
    ),
    (
        lambda: dataclasses.replace(suggested(), rarest=X[..., :2]).plot(),
        "`rarest` must",
    ),
    (lambda: dataclasses.replace(suggested(), rarest=X[:0]).plot(), "`rarest` must"),
    (lambda: guard().accuracies(), "CollapseGuard must be among .* no model"),
    (lambda: guard().attack_steps, "CollapseGuard must be among .* no model"),
    (lambda: evaluated(attacks={"a": len}), "attacks.*function of"),
    (lambda: evaluated(attacks={"a": keras.layers.Dense(3)}), "attacks.*function of"),
    (lambda: evaluated(attacks={"a": lambda x, y: x}), "attacks.*function of"),
    (lambda: method(None), "`method` must be"),
    (lambda: krl.networks.get("vgg"), "`name` must be"),
    (lambda: krl.networks.get(None), "`name` must be"),
    (lambda: krl.networks.get(["resnet18"]), "`name` must be"),
    (lambda: krl.networks.get("small_resnet-2", widths=(2,)), "multiple .*'widths'"),
    (
        lambda: krl.networks.SmallResNet(head=keras.layers.Conv2D(10, 3)),
        "`head` must take features of the shape",
    ),
    (
        lambda: krl.networks.from_backbone("mobilenet_v2", 3, weights=np.ones(3)),
        "`weights` must be",
    ),
    (lambda: of_other_width(krl.layers.CosineClassifier(3)), "axis -1 .* value 4"),
    (lambda: krl.export(two_outputs(), "a.keras"), "must take one tensor of images"),
    (lambda: evaluated_on(two_inputs()), "must take one tensor of images"),
    (lambda: evaluated_on(x=[({"image": X}, Y)]), "`x` must give batches that are"),
    (lambda: evaluated_on(x=[(0.5, [1])]), "`x` must give batches of images, not"),
    (lambda: evaluated_on(x=keras.utils.PyDataset), "`x` must be an object, not its"),
    (lambda: krl.interop.foolbox_batch(0.5, 0), "`x` and `y` must be arrays"),
    *(
        (lambda config=config: evaluated(attacks={"a": Own(config)}), "`get_config` of")
        for config in (None, [1])
    ),
    *(
        (
            lambda call=call: call(pooled_of_any(), SIZES),
            "`x` must have images of one s",
        )
        for call in (
            functools.partial(krl.diagnose, starts=2, steps=1),
            functools.partial(krl.robustness_curve, examples=8, verbose=0),
        )
    ),
    (lambda: krl.networks.get("wrn-10-0"), "`width` must be"),
    (lambda: krl.networks.get("wrn-11-1"), "`depth` must be"),
    (lambda: krl.networks.plain(3), "`network` must be"),
    (lambda: krl.networks.with_features(3), "`network` must be"),
    *(
        (lambda call=call: call(tiny_model()), "must be the classifier alone")
        for call in (
            functools.partial(krl.RobustLTModel, class_counts=COUNTS),
            *(krl.networks.plain, krl.networks.tau_normalized),
            krl.networks.with_features,
            functools.partial(krl.networks.from_backbone, classes=3),
        )
    ),
    (lambda: krl.export("robust.keras", dense_network()), "`model` must be a Robust"),
    (lambda: krl.report(results().to_json(), "r.html"), "`runs`.*path.*JSON text"),
    *(
        (functools.partial(call, *arguments), message)
        for call in (krl.attacks.PGD(0.1), krl.attacks.APGD(0.1))
        for arguments, message in (
            ((None, X, Y), "`network` must be"),
            ((dense_network(), None, Y), "`x` must be the images"),
            ((dense_network(), 0.5, Y), "`x` must be the images"),
            ((dense_network(), X, None), "`y` must be the labels"),
            ((dense_network(), X, 1), "`y` must be the labels"),
            ((dense_network(), X, Y, "0.1"), "`epsilon` must be a number"),
            ((dense_network(), X, Y, True), "`epsilon` must be a number"),
        )
    ),
    (
        lambda: krl.attacks.PGD(0.1)(dense_network(), X, Y, step_size=0),
        "`step_size` must be",
    ),
    *(
        (functools.partial(attack, loss=loss), "`loss` must take logits")
        for attack in (krl.attacks.PGD, krl.attacks.APGD)
        for loss in (
            keras.losses.categorical_crossentropy,
            keras.losses.CategoricalCrossentropy(),
        )
    ),
    (
        lambda: compiled(metrics=[keras.metrics.Mean("robust_accuracy")]),
        "`metrics` must have other names",
    ),
    (lambda: compiled(optimizer=None), "`optimizer` must be"),
    (
        lambda: krl.budget.class_distance_weights([[5, 3], [1, 9]]),
        "`confusion` must hold mean probabilities",
    ),
    (
        lambda: krl.budget.class_distance_weights([[-0.5, 1.5], [0.25, 0.75]]),
        "`confusion` must hold mean probabilities.*some that are negative",
    ),
    (lambda: krl.evaluate(softmax_by_hand(), X, Y), "`network` must give logits"),
    (lambda: krl.evaluate(dense_network().predict, X, Y), "`model` must be the Keras"),
    (
        lambda: compiled(metrics=[keras.metrics.Mean("loss")]),
        "`metrics` must have other names",
    ),
    (lambda: model(network=two_outputs()), "must take one tensor of images and give"),
    (
        lambda: model(augmentation=keras.layers.Rescaling(2.0, -1.0)),
        "`augmentation` must give images in",
    ),
    (lambda: krl.export(softmax_by_hand(), "a.keras"), "`network` must give logits"),
    (lambda: compiled(metrics=["nonsense"]), "metric identifier: nonsense"),
    (lambda: compiled(optimizer="nonsense"), "nonsense"),
    (lambda: krl.losses.one_hot(3, 2), "`labels`"),
    (lambda: krl.losses.one_hot(keras.ops.array([0, 5]), 3), "`labels`"),
    (lambda: krl.losses.one_hot(keras.ops.array([0.7, 1.9]), 3), "`labels`"),
    (lambda: krl.losses.one_hot(keras.ops.array([[2.0, 3.0, 4.0]]), 3), "`labels`"),
    (
        lambda: krl.metrics.ClasswiseAccuracy(COUNTS).update_state(
            Y[:2], np.eye(3)[:2], [-1.0, 1.0]
        ),
        "`sample_weight`",
    ),
    (lambda: krl.metrics.summarize([1, 2], [INF, 2], [0]), "`total`"),
    (lambda: krl.callbacks.skewed_objective([NAN, 1], [9, 1]), "`class_risks`"),
    (
        lambda: compiled(
            metrics=[krl.metrics.ClasswiseAccuracy(COUNTS, prefix="robust_")]
        ),
        "`metrics` must have other names.*robust_accuracy",
    ),
    (
        lambda: compiled(
            loss=keras.losses.CategoricalCrossentropy(True, reduction="sum")
        ),
        "`loss` must not have reduction='sum'",
    ),
    (
        lambda: model(augmentation=lambda images: keras.ops.flip(images, 0)),
        "`augmentation` must give images in the order",
    ),
    (lambda: evaluated(attacks=["clean", "clean"]), "`attacks` names an attack more"),
    (lambda: evaluated(attacks={"pgd20": None}), "`attacks` must not call no attack"),
    (lambda: evaluated(attacks={"clean": krl.attacks.PGD()}), "must not call an att"),
    (lambda: krl.evaluate(dense_network(), X, np.full((12, 3), 1 / 3)), "`y` holds"),
    (lambda: krl.evaluate(dense_network(), np.ma.masked_less(X, 0.5), Y), "a mask"),
    (lambda: krl.evaluate(dense_network(), (X, Y), Y), "takes no `y` beside it"),
    (lambda: krl.diagnose(dense_network(), Y, X), "`y` must hold.*Received shape"),
    (lambda: krl.diagnose(dense_network(), X, Y + 1), "labels from 0 to 2, for 3"),
    (lambda: results().to_json(attacks={}), "`extra` must not have entries"),
    *(
        (
            functools.partial(krl.report, results(), "r.html", names=names),
            "`names` must",
        )
        for names in (3, {"a"}, {"a": 1}, [None], ["a", "b"], [" "])
    ),
    (lambda: krl.report(with_examples(4), "r.html"), "`runs` .* examples.npz of 4"),
    (lambda: krl.export(dense_network(), ".keras"), "`path` must have a name"),
    (lambda: krl.export(dense_network(), "a\0.keras"), "`path` must be a path"),
    (lambda: krl.data.load("digits", image_size=True), "`image_size`"),
    (lambda: krl.data.long_tail("digits", largest_class=10**6), "`largest_class` asks"),
    (lambda: krl.data.long_tail("digits", imbalance=50), "^got an .* 'imbalance'"),
    (lambda: krl.data.long_tail_arrays("digits", batch_size=8), "^got an .* 'batch_s"),
    (lambda: krl.suggest("digits", foo=1), "^got an unexpected .* 'foo'"),
    (lambda: dataclasses.replace(WHOLE, class_counts=[5, 3]), "`class_counts` must"),
    (lambda: krl.data.long_tail_indices(Y, [3, 0, 1], 0), r"`class_counts\[1\]` must"),
    (lambda: krl.data.load("digits", data_dir="x"), "`data_dir` does nothing"),
    (lambda: krl.data.check("digits").of("bad"), "`severity`"),
    (lambda: krl.losses.one_hot(np.zeros((2, 5)), 3), "`labels`"),
    (lambda: krl.losses.one_hot(np.zeros((2, 3, 1)), 3), "`labels`"),
    (lambda: krl.losses.dlr(np.eye(2), np.eye(2)), "at least 3 classes"),
    (lambda: krl.metrics.summarize([1, 2], [1, 2, 3], [0]), "`correct`.*`total`"),
    (lambda: krl.metrics.summarize([3, 1], [1, 2], [0]), "`correct`.*`total`"),
    (lambda: krl.metrics.summarize([0, 0], [0, 0], [0]), "`total`"),
    (lambda: krl.metrics.summarize([1, 1], [1, 2], [5]), "`tail`"),
    (lambda: krl.optimizers.SGD(nesterov=True), "`nesterov=True` needs"),
    (lambda: krl.attacks.PGD(restarts=2, random_start=False), "`restarts` above 1"),
    (lambda: tiny_model().fit(), "`x` must be"),
    (lambda: tiny_model().fit(NoBatches()), "`x` must hold images"),
    (
        lambda: tiny_model().fit(X, Y, validation_data=NoBatches()),
        "`validation_data` must hold images",
    ),
    (lambda: krl.evaluate(dense_network(), X[:, 0], Y), "`x` must hold images of"),
    (lambda: tiny_model().fit(3), "`x` must be"),
    (lambda: tiny_model().evaluate(), "`x` must be"),
    (lambda: tiny_model().fit(X), "`y` is missing"),
    (lambda: tiny_model().evaluate(X), "`y` is missing"),
    *(
        (functools.partial(compiled, metrics=[metric]), "`metrics` must be of logits")
        for metric in (
            "binary_accuracy",
            keras.metrics.Precision(),
            keras.metrics.TruePositives(),
            keras.metrics.PrecisionAtRecall(0.5),
        )
    ),
    (lambda: compiled(loss=krl.losses.kl_divergence), "`loss` must be a function"),
    (lambda: model(network=pooled(), method="reat"), "features that the last layer"),
    (lambda: model(augmentation="base"), "augmentation='base' shifts images"),
    (lambda: model(augmentation=lambda images: images[:1]), "as many images as it"),
    (lambda: model(augmentation=lambda images: images.numpy()), "`augmentation` must"),
    (lambda: model(augmentation=lambda images: None), "`augmentation` must give te"),
    (lambda: krl.interop.foolbox_model(softmax_by_hand()), "must give logits|not ins"),
    (lambda: krl.interop.art_classifier(softmax_by_hand()), "must give logits"),
    (lambda: krl.networks.logit_adjusted(softmax_by_hand(), COUNTS), "give logits"),
    (lambda: krl.networks.tau_normalized(softmax_by_hand()), "must give logits"),
    (lambda: krl.methods.feedback_scores([[5, 3], [1, 9]]), "`confusion` must hold"),
    (lambda: krl.methods.feedback_scores([[0.1, 0.1], [0, 1]]), "`confusion` must"),
    (lambda: krl.attacks.Square(initial_fraction=0), "`initial_fraction`"),
    (lambda: evaluated(tail_fraction=0.5), "`tail_fraction` needs `class_counts`"),
    (lambda: evaluated(attacks={"a": NoCall(0.1)}), "must define `__call__`"),
    (lambda: evaluated(attacks={"a": NoSeed(0.1)}), "must be a function of .*seed"),
    (lambda: evaluated(attacks={"a": NoRadius()}), "must have an epsilon"),
    (lambda: pgd_call(loss="dlr", y=np.full((12, 3), 1 / 3)), "`y` holds soft labels"),
    *(
        (lambda given=given: pgd_call(**given), "`loss` must give one value for each")
        for given in (
            {"loss": lambda targets, logits: of_some(targets, logits)},
            {"loss": lambda targets, logits: logits},
            {"loss": lambda targets, logits: keras.ops.mean(logits), "restarts": 2},
        )
    ),
    (lambda: classwise(Y[:1], np.eye(3)), "`y_true` must have one entry for each"),
    (lambda: classwise(Y[:3], np.eye(3), [1.0]), "`sample_weight` must have one"),
    (
        lambda: classwise(Y[:3], np.eye(3)[0]),
        "`y_pred` must hold numbers, in the shape",
    ),
    (lambda: krl.metrics.ClasswiseAccuracy(COUNTS, prefix=None), "`prefix`"),
    (lambda: results().to_json(more={1, 2}), "must hold what JSON can"),
    (lambda: named_classes(["a"]), r"`settings\['class_names'\]` must be a list"),
    (lambda: named_classes(None), r"`settings\['class_names'\]` must be a list"),
    (lambda: pgd_call(seed=2**70), "`seed` must be"),
    (lambda: evaluated(chunk_size=10**30), "`chunk_size` must be at most"),
    (lambda: evaluated(attacks=["pgd99999999999999999999"]), "`steps` must be at most"),
    (lambda: evaluated(attacks={"a": two_results}), "must return one array of"),
    (
        lambda: tiny_model(averaging=Sevenfold()).fit(X, Y, verbose=0),
        "`keep` of .* must give None or a number from 0 to 1",
    ),
    *(
        (lambda name=name, value=value: ruled(name, value), f"`{name}.* must")
        for name, value in (
            *(("iteration_weight", value) for value in ([1.0, 1.0], None, NAN, "x")),
            *(("chosen", value) for value in ([1], {"a": [1.0, 2.0]}, {"loss": 1.0})),
            *(("begins", "x"), ("begins", None), ("class_weight", np.zeros(3))),
        )
    ),
    *(
        (lambda value=value: ruled("attacks", value, krl.methods.AT), "`attacks` of")
        for value in ([True, False, True], "x")
    ),
    (lambda: model(method=own(krl.methods.AT, inputs=None)()), "`inputs` of"),
    *(
        (
            lambda value=value: model(attack=of_radius(value)),
            "`attack.epsilon` must be a number",
        )
        for value in (None, "0.1", np.ones(2))
    ),
    (
        lambda: tiny_model(method="trades+awp").use_attack(
            krl.attacks.PGD(0.1, random_start=False)
        ),
        "`attack` must start at random",
    ),
    (
        lambda: tiny_model(network=unbuilt(4), beta=0).fit(X, Y, verbose=0),
        "`network`.*`class_counts` has 3",
    ),
    *(
        (lambda call=call: call({"image": X}), "`x` must")
        for call in (
            lambda x: tiny_model()(x),
            lambda x: tiny_model().predict(Batches(x), verbose=0),
        )
    ),
    (lambda: predicted(x=np.ma.masked_less(X, 0.5)), "`x` must be an array without"),
    (lambda: model(class_counts=np.ma.masked_equal(COUNTS, 1)), "without a mask"),
    (
        lambda: compiled(
            loss=keras.losses.CategoricalCrossentropy(True, label_smoothing=2.0)
        ),
        "`label_smoothing`",
    ),
    (lambda: classwise(Y[:3], None), "`y_pred` must hold numbers"),
    (lambda: classwise(None, np.eye(3)), "must hold integer labels"),
]


def own(kind, **attributes):
    """A subclass with these attributes."""
    return type("Own", (kind,), attributes)


def of_radius(epsilon):
    attack = krl.attacks.PGD(0.1)
    vars(attack)["epsilon"] = epsilon
    return attack


def ruled(name, value, kind=krl.budget.Budget):
    part = own(kind, **{name: lambda self, schedule: value})()
    argument = "method" if kind is krl.methods.AT else "budget"
    return tiny_model(**{argument: part}).fit(X, Y, verbose=0)


def unbuilt(classes):
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(classes)])


def pooled():
    """A network whose last layer with weights is a convolution."""
    layers = [keras.layers.Conv2D(3, 1), keras.layers.GlobalAveragePooling2D()]
    return keras.Sequential([keras.Input((6, 6, 3)), *layers])


class NoCall(krl.attacks.Attack):
    pass


class NoSeed(krl.attacks.Attack):
    def __call__(self, network, x, y):
        return x


class NoRadius(krl.attacks.Attack):
    def __init__(self):
        pass

    def __call__(self, network, x, y, epsilon=None, seed=None):
        return x


class Sevenfold(krl.averaging.WeightAveraging):
    def keep(self, schedule):
        return keras.ops.convert_to_tensor(7.0)


class Sure(keras.metrics.Precision):
    """One's own, which takes the softmax itself."""

    def update_state(self, y_true, y_pred, sample_weight=None):
        return super().update_state(y_true, keras.ops.softmax(y_pred), sample_weight)


def test_metrics_of_ones_own_may_take_logits():
    compiled(optimizer="sgd", metrics=[Sure(), keras.metrics.Recall(top_k=1)])


def two_results(network, x, y, seed=None):
    return x, x


def named_classes(names):
    entry = {key: 0.5 for key in ("all", "tail", "balanced", "worst")}
    accuracies = {"clean": {**entry, "per_class": [0.5, 0.5]}}
    return krl.EvaluationResults(accuracies, {"epsilon": 0.1, "class_names": names})


def of_some(targets, logits):
    return krl.losses.cross_entropy(targets, logits)[:5]


def pgd_call(y=Y, seed=None, **arguments):
    return krl.attacks.PGD(0.1, **arguments)(dense_network(), X, y, seed=seed)


def classwise(*arguments):
    return krl.metrics.ClasswiseAccuracy(COUNTS).update_state(*arguments)


class NoBatches(keras.utils.PyDataset):
    def __len__(self):
        return 0


def named(function):
    inner = getattr(function, "func", function)
    return getattr(inner, "__name__", str(inner))


def entries():
    for function, arguments in ARGUMENTS:
        for argument, values in arguments.items():
            for number, value in enumerate(values):
                call = functools.partial(function, **{argument: value})
                name = f"{named(function)}-{argument}-{number}"
                yield pytest.param(call, f"`{argument}`|{argument}", id=name)
    for number, arguments in enumerate(IGNORED):
        call = functools.partial(model, **arguments)
        argument = next(name for name in arguments if name != "budget")
        yield pytest.param(call, f"`{argument}` belong", id=f"ignored-{number}")
    for number, (call, message) in enumerate(OTHERS):
        yield pytest.param(call, message, id=f"other-{number}")


ENTRIES = list(entries())


def refused(call, message):
    with pytest.raises((ValueError, TypeError), match=message):
        call()


def test_there_are_many():
    assert len(ENTRIES) + 2 * len(ARRAYS) + len(FIT_ARGUMENTS) >= 300


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Please import:DeprecationWarning")  # of others
@pytest.mark.parametrize("call, message", ENTRIES)
def test_refused(call, message):
    refused(call, message)


def test_a_sample_of_them():
    for entry in itertools.islice(ENTRIES, 0, None, 23):
        refused(*entry.values)


@pytest.fixture(scope="module")
def one_model():
    return tiny_model()


@pytest.mark.parametrize("use", ["fit", "evaluate", "train_on_batch", "test_on_batch"])
@pytest.mark.parametrize("x, y, message", [*ARRAYS, *ONLY_ARRAYS])
def test_arrays(one_model, use, x, y, message):
    one_model.schedule.start(1, 1)
    refused(lambda: getattr(one_model, use)(x, y), message)
    assert int(one_model.optimizer.iterations) == 0


@pytest.mark.parametrize("arguments, message", FIT_ARGUMENTS)
def test_arguments_of_fit(one_model, arguments, message):
    refused(lambda: one_model.fit(**{"x": X, "y": Y, **arguments}), message)
    assert int(one_model.optimizer.iterations) == 0


@pytest.mark.slow
@pytest.mark.tensorflow
@pytest.mark.parametrize("x, y, message", ARRAYS)
def test_data_sets(x, y, message):
    """The same inside data sets: after one step at the latest."""
    import tensorflow as tf

    if any(np.asarray(each).dtype == object for each in (x, y) if each is not None):
        pytest.skip("no data set has objects")
    pairs = x if y is None else (x, y)
    if np.ndim(y) == 0 and y is not None:
        pytest.skip("no data set has labels without images")
    data = tf.data.Dataset.from_tensor_slices(pairs).batch(12)
    model = tiny_model(beta=0.0)
    with pytest.raises((ValueError, TypeError), match="`?[xy]`?.*must|missing|hold"):
        model.fit(data, shuffle=False, verbose=0)
    assert int(model.optimizer.iterations) <= 1
    with pytest.raises((ValueError, TypeError), match="`?[xy]`?.*must|missing|hold"):
        tiny_model().evaluate(data, verbose=0)


def test_validation_that_never_comes():
    given = {"validation_data": (X, Y), "validation_freq": 2, "verbose": 0}
    with pytest.warns(UserWarning, match=r"Nothing is validated in 1 epoch\(s\)"):
        tiny_model(beta=0).fit(X, Y, **given)


def test_numbers_of_other_types_are_taken_for_what_they_are():
    evaluated(attacks=["pgd1"], epsilon=decimal.Decimal("0.1"))
    diagnosed(starts=2.0, steps=1, queries=0)
    krl.adversarial_examples(dense_network(), X, Y, "pgd1", seed=10**30)
    network = krl.networks.ViT(np.int64(3), (8, 8, 3), width=3, depth=1)
    assert network.output_shape == (None, 3)
