"""The flags of a run: they change what the tables of `presets` say."""

import contextlib
import functools
import inspect
import json
import pathlib

from absl import flags

import keras_robustlt as krl
from keras_robustlt.data.augmentation import mixes_labels, pipeline_names, split
from keras_robustlt.experiments import devices
from keras_robustlt.experiments.presets import (
    METHODS,
    OPTIMIZERS,
    SCHEDULES,
    WITH_STEPS,
)
from keras_robustlt.files import local_path
from keras_robustlt.flag_types import (
    CLASSES,
    COUNT,
    EPSILON,
    NOT_NEGATIVE,
    PART,
    POSITIVE,
    RATIO,
    SEED_OF_A_RUN,
    SHARE,
    WHOLE,
    Number,
    define_number,
)

BUDGETS = ("robustlt", "auto", "uniform", "cfa", "dafa")
# What only the budget of RobustLT has.
OF_ROBUSTLT = ("alpha", "beta", "granularity", "weighting", "adaptive_steps")
# What only a run with a training attack has.
OF_ATTACK = ("attack", "collapse_guard", "batchnorm_statistics")
# What a run has besides the settings of the tables.
OF_THE_RUN = ("preset", "seed", "deterministic", "initial_weights")

ALIASES = {
    "ema": "averaging",
    "attack_steps": "pgd_steps",
    "weights": "backbone_weights",
}

FACTOR = Number(float, "a number above 0 and at most 1", lambda value: 0 < value <= 1)


class Averaging(Number):
    """The momentum of an average, or the name of a rule."""

    def parse(self, argument):
        return argument if argument == "fawa" else super().parse(argument)


AVERAGING = Averaging(
    float,
    "fawa, or a momentum above 0 and below 1, such as 0.999",
    lambda value: 0 < value < 1,
)


class Options(flags.Flag):
    """Options by name: of several lists all count, and of a name the last one."""

    def parse(self, argument):
        before = self.value if self.present else []
        super().parse(argument)
        names = {option.partition("=")[0] for option in self.value}
        kept = [each for each in before if each.partition("=")[0] not in names]
        self.value = kept + self.value


def define_flags(values, tables, workdir):
    """Defines the flags of a run; those left alone take what the tables say.

    Args:
        values: The `absl.flags.FlagValues` to define them in.
        tables: Dictionary from names to each `presets.DataSet` that may be chosen.
        workdir: String, the default of `--workdir`.
    """

    def described(key, text):
        return f"{text} {defaults_text(tables, key)}"

    def number(kind, key, text):
        define_number(values, kind, key, None, described(key, text))

    def choice(key, choices, text):
        flags.DEFINE_enum(key, None, choices, described(key, text), flag_values=values)

    def texts(key, text):
        flags.DEFINE_list(key, None, described(key, text), flag_values=values)

    def text(key, text, default=None):
        flags.DEFINE_string(key, default, text, flag_values=values)

    def switch(key, default, text):
        flags.DEFINE_bool(key, default, text, flag_values=values)

    presets = dict.fromkeys(name for table in tables.values() for name in table.presets)
    by_default = {name: table.default_preset for name, table in tables.items()}
    text("data_dir", "Where the data are.")
    flags.DEFINE_enum(
        "preset",
        None,
        list(presets),
        f"Network and compute. Default: {common(by_default)}.",
        flag_values=values,
    )
    text("workdir", "Where the run keeps its files.", workdir)
    define_number(
        values,
        SEED_OF_A_RUN,
        "seed",
        102,
        "Seed of the long-tailed selection, the network and training.",
    )
    choice("method", method_names(), "Base method; with +awp, AWP over it.")
    options = described(
        "method_options",
        "Hyper-parameters of the method to change, such as beta=5,label_smoothing=0.1. "
        "The class of the method in keras_robustlt.methods says which it has.",
    )
    kinds = flags.ListParser(), flags.CsvListSerializer(",")
    options = Options(*kinds, "method_options", None, options)
    flags.DEFINE_flag(options, flag_values=values)
    number(
        PART,
        "label_smoothing",
        "Share of each label that is spread over all classes in the loss (evenly; of "
        "at_bsl and reat in proportion to their images). The budget and the attack "
        "look at the labels as they are.",
    )
    choice(
        "class_weight",
        ["none", "balanced", "effective"],
        "Weights of the classes in the loss: in inverse proportion to their images, or "
        "to the effective numbers of them.",
    )
    switch(
        "robustlt",
        None,
        "Class-wise, growing budgets. --norobustlt: the base method alone, the same as "
        "--budget=uniform. Default: true.",
    )
    choice("budget", BUDGETS, "Rule for the budget of each class.")
    number(SHARE, "alpha", "Strength of class-wise perturbation balancing, 0 to 1.")
    number(NOT_NEGATIVE, "beta", "Share of training over which the budget grows.")
    choice("granularity", ["epoch", "step"], "What the growth of the budget counts.")
    choice("weighting", ["perturbation", "loss", "both"], "What the growth acts on.")
    text(
        "model",
        described(
            "model",
            "Network: wrn-28-10, wrn-34-10, resnet18, preact_resnet18, vit-tiny, ...",
        ),
    )
    choice("head", ["linear", "cosine", "cosplus"], "Classifier of the network.")
    text(
        "backbone",
        described(
            "backbone",
            "A pretrained network in place of --model: one of keras.applications, such "
            "as mobilenet_v2, or a preset of keras-hub, by name or directory.",
        ),
    )
    text(
        "backbone_weights",
        described(
            "backbone_weights",
            "imagenet, none, or a file of the weights of one of keras.applications.",
        ),
    )
    text(
        "freeze",
        described(
            "freeze",
            "What of the backbone stays as it is: none, backbone, or a number of its "
            "first layers.",
        ),
    )
    number(
        WHOLE,
        "head_epochs",
        "In the first so many epochs the last layer alone learns. They are a part of "
        "--epochs, of the schedule of the learning rate and of that of the budget.",
    )
    number(
        FACTOR,
        "backbone_rate",
        "Learning rate of all layers but the last, as a share of the last one's.",
    )
    text(
        "initial_weights",
        "A .keras file of the same network to start from; its last layer may be of "
        "another number of classes.",
    )
    switch(
        "new_head",
        None,
        "Begin the last layer anew also where --initial_weights has it of as many "
        "classes: they are others.",
    )
    number(
        AVERAGING,
        "averaging",
        "Average of the weights to evaluate: the momentum of an exponential moving "
        "average, such as 0.999, or fawa, CFA's.",
    )
    choice("batchnorm_statistics", ["adversarial", "mixed"], "Images that move them.")
    number(CLASSES, "num_classes", "The first so many classes of the data.")
    number(COUNT, "image_size", "Height and width to bring the images to.")
    choice("on_bad", ["error", "skip"], "What to do about files that are no images.")
    number(RATIO, "imbalance_ratio", "Largest class over smallest.")
    choice("imbalance_type", ["exp", "step"], "How class sizes fall.")
    number(COUNT, "largest_class", "Training images of the largest class.")
    switch(
        "balanced_sampling",
        None,
        described("balanced_sampling", "Draw all classes equally often."),
    )
    number(PART, "validation_fraction", "Share of each class held out of training.")
    choice(
        "augmentation",
        pipeline_names(),
        "Augmentation of training. Those with augmix, cutmix, ... need keras-cv.",
    )
    number(EPSILON, "epsilon", "Base budget in pixel units of [0, 1].")
    choice(
        "attack",
        list(krl.attacks.TRAINING),
        "The training attack: pgd; one of a single step, in a quarter to a third of "
        "the time; or udr, pgd with a soft projection.",
    )
    number(COUNT, "pgd_steps", "Steps of the training attack, if it is pgd or udr.")
    switch(
        "adaptive_steps",
        None,
        described("adaptive_steps", "Fewer of these while the budget is small."),
    )
    switch(
        "collapse_guard",
        None,
        "Watch for the collapse of training with attacks of few steps, and go back "
        "and on with more. Default: where the attack is of one step.",
    )
    for alias, name in ALIASES.items():
        flags.DEFINE(
            values[name].parser,
            alias,
            None,
            f"Another name of --{name}.",
            flag_values=values,
            serializer=flags.ArgumentSerializer(),
        )
    number(COUNT, "epochs", "Epochs; milestones, and TAET's first stage, go along.")
    number(COUNT, "batch_size", "Batch size.")
    choice("optimizer", list(OPTIMIZERS), "Optimiser.")
    number(POSITIVE, "learning_rate", "Learning rate, at its highest.")
    choice("schedule", list(SCHEDULES), "How the learning rate falls.")
    number(PART, "warmup", "Share of training over which the learning rate rises.")
    number(NOT_NEGATIVE, "weight_decay", "Weight decay, coupled with SGD's momentum.")
    number(
        POSITIVE,
        "gradient_clipping",
        "Largest norm of the gradient. 1 for vision transformers.",
    )
    choice(
        "keep",
        ["last", "best"],
        "The weights to evaluate: of the last epoch, or of the one whose balanced "
        "accuracy under attack was best on validation images.",
    )
    choice(
        "precision",
        ["float32", "mixed_bfloat16", "mixed_float16", "auto"],
        "Precision of the network; auto is mixed_bfloat16 where the GPUs, or else the "
        "CPU, compute in it, and float32 elsewhere.",
    )
    flags.DEFINE_enum(
        "distribute",
        "none",
        devices.DISTRIBUTE,
        "Train on several devices: mirrored (the GPUs of this machine), multiworker "
        "(machines that TF_CONFIG names), both TensorFlow's; jax (all devices of JAX, "
        "and of the processes that KERAS_DISTRIBUTION_* name). The batch is split "
        "among them.",
        flag_values=values,
    )
    define_number(
        values,
        COUNT,
        "cpu_devices",
        None,
        "Split the CPU into so many devices, to try --distribute without accelerators.",
    )
    switch(
        "skew_and_drift",
        None,
        "Measure in each epoch, on training images, how far the classes' risks are "
        "apart and how the adversarial images drift, which RobustLT is meant to lower, "
        "for some more time an epoch. "
        f"{defaults_text(tables, 'skew_and_drift')}",
    )
    switch("deterministic", False, "Bit-reproducible operations; slower on a GPU.")
    texts("attacks", "Attacks of the final evaluation.")
    number(COUNT, "test_examples", "Evaluate on about so many test images.")
    compares = {name: table.compares for name, table in tables.items()}
    switch(
        "compare",
        None,
        "Train without and with the rule for the budget, side by side, and compare. "
        f"Default: {common(compares)}, and false with --norobustlt.",
    )
    switch("dry_run", False, "Say what would be done, and do nothing.")
    switch("print_settings", False, "Print the settings of the run, as JSON, only.")


def method_names():
    """The base methods, and those that AWP can perturb the weights of."""
    alone = ("at", "awp", "standard")  # AWP by itself is over AT
    composed = [f"{name}+awp" for name in METHODS if name not in alone]
    return sorted([*METHODS, *composed])


def defaults_text(tables, key):
    """What a setting is if its flag is left alone: by data, or by preset and method."""
    if len(tables) > 1:
        by_data = {
            name: table.settings(table.default_preset)[key]
            for name, table in tables.items()
        }
        return f"Default: {common(by_data)}."
    (table,) = tables.values()
    default = table.default_preset
    by_preset = {name: table.settings(name)[key] for name in table.presets}
    text = f"Default: {common(by_preset)}."
    if key == "method":
        return text
    by_method = {
        name: table.settings(default, {"method": name})[key] for name in METHODS
    }
    others = {k: v for k, v in by_method.items() if v != by_preset[default]}
    return f"{text} By method ({default}): {listed(others)}." if others else text


def common(values):
    """The value that all have, in words, or who has which."""
    words = set(map(shown, values.values()))
    return words.pop() if len(words) == 1 else listed(values)


def listed(values):
    """Who has which value: "100 (paper, resnet18), 16 (cpu)"."""
    names = {}
    for name, value in values.items():
        names.setdefault(shown(value), []).append(name)
    return ", ".join(f"{value} ({', '.join(who)})" for value, who in names.items())


def shown(value):
    """A setting in words."""
    if isinstance(value, dict):
        return " ".join(f"{k}={shown(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ",".join(map(shown, value))
    if isinstance(value, float):
        return f"{value:.4g}"
    if value is None:
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


def given_flags(values):
    """The flags that were given, as one would write them, by their names."""
    return {name: values[name].serialize() for name in values if values[name].present}


def settings_from_flags(values, table):
    """The settings that the tables give, with the flags that were given.

    Args:
        values: The `absl.flags.FlagValues` of `define_flags`, parsed.
        table: A `presets.DataSet`.

    Returns:
        A dictionary that JSON can hold.

    Raises:
        ValueError: If a flag cannot be meant as it is, or would do nothing.
    """
    preset = values.preset or table.default_preset
    if preset not in table.presets:
        raise ValueError(
            f"--preset={preset} is not of these data. Choose one of: "
            f"{', '.join(table.presets)}."
        )
    devices.check(values.distribute, values.cpu_devices)
    given = {
        key: values[key].value
        for key in table.settings(preset)
        if key != "data" and key in values and values[key].value is not None
    }
    if "method_options" in given:
        given["method_options"] = options_from_text(given["method_options"])
    for alias, name in ALIASES.items():
        if values[alias].value is None:
            continue
        if values[name].value not in (None, values[alias].value):
            raise ValueError(
                f"--{alias} is another name of --{name}. Received: "
                f"--{alias}={values[alias].value} --{name}={values[name].value}"
            )
        given[name] = values[alias].value
    if values.robustlt is not None:
        given.setdefault("budget", "robustlt" if values.robustlt else "uniform")
        if values.robustlt != (given["budget"] == "robustlt"):
            raise ValueError(
                f"--budget={given['budget']} contradicts "
                f"--{'' if values.robustlt else 'no'}robustlt."
            )
    settings = table.settings(preset, given)
    twice = {a for a in settings["attacks"] if settings["attacks"].count(a) > 1}
    if twice:
        raise ValueError(f"--attacks has more than once: {', '.join(sorted(twice))}.")
    _check_places(values, table)
    _check_what_does_nothing(given, settings)
    _check_fine_tuning(given, settings, values.initial_weights)
    if settings["averaging"] == "fawa" and not settings["validation_fraction"]:
        raise ValueError(
            "--averaging=fawa looks at validation images: give --validation_fraction, "
            "such as 0.2."
        )
    if settings["averaging"] == "fawa" and settings["keep"] == "best":
        raise ValueError(
            "--averaging=fawa chooses the epochs that its average is of, by what "
            "validation says of the network, so no epoch of the average can be chosen "
            "by that: give --keep=last."
        )
    if settings["keep"] == "best" and not settings["validation_fraction"]:
        if not table.has_validation(given):
            raise ValueError(
                "--keep=best chooses by validation images: give --validation_fraction, "
                "such as 0.2, or --keep=last."
            )
    _check_names(given, settings)
    _check_augmentation(settings, lambda: table.has_validation(given))
    settings.update({key: values[key].value for key in OF_THE_RUN})
    return {**settings, "preset": preset}


def options_from_text(pairs):
    """A dictionary from texts such as "beta=5" and "proxy=gradient"."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals:
            raise ValueError(
                "--method_options are name=value,name=value. "
                f"Received: --method_options={','.join(pairs)}"
            )
        if key in options:
            raise ValueError(
                f"--method_options has {key} more than once. Received: "
                f"--method_options={','.join(pairs)}"
            )
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def _check_places(values, table):
    if values.workdir == "":
        raise ValueError("--workdir= is empty: name the directory of the run's files.")
    if values.workdir is not None:
        local_path("workdir", values.workdir)
    if values.data_dir == "":
        raise ValueError("--data_dir= is empty: name the directory of the data.")
    if values.data_dir is not None and not table.uses_data_dir:
        raise ValueError(
            f"--data_dir={values.data_dir} does nothing: {table.source} is found "
            "without it."
        )
    weights = values.initial_weights
    if weights is not None and not pathlib.Path(weights).is_file():
        raise ValueError(f"--initial_weights={weights}: there is no such file.")
    if values.new_head and weights is None:
        raise ValueError("--new_head does nothing without --initial_weights.")


def _check_what_does_nothing(given, settings):
    """Raises a ValueError if what is given for a rule meets another rule."""
    refuse = functools.partial(_refuse, given)
    if settings["epsilon"] == 0:
        raise ValueError(
            "--epsilon=0 is no budget: nothing would be attacked, in training and in "
            "the evaluation. Give one above 0, such as 8/255; --method=standard trains "
            "without attacks."
        )
    if settings["method"] == "standard":
        rule = [key for key in ("budget",) if given.get(key) != "uniform"]
        of_attacks = [*rule, *OF_ROBUSTLT, *OF_ATTACK]
        refuse(of_attacks, "with --method=standard, which attacks nothing")
    if settings["attack"] not in WITH_STEPS:
        one = f"with --attack={settings['attack']}, which makes one step"
        refuse(("pgd_steps", "adaptive_steps"), one)
    elif settings["pgd_steps"] <= 2:
        few = f"with --pgd_steps={settings['pgd_steps']}: it makes at least 2"
        refuse(("adaptive_steps",), few)
    elif settings["pgd_steps"] >= krl.callbacks.CollapseGuard.PGD_STEPS:
        refuse(("collapse_guard",), "with a training attack of so many steps")
    if settings["budget"] == "auto":  # which grows too
        others = [key for key in OF_ROBUSTLT if key != "adaptive_steps"]
        refuse(others, "with --budget=auto, which finds its own")
    elif settings["budget"] != "robustlt":
        refuse(OF_ROBUSTLT, f"with --budget={settings['budget']}")
    elif settings["beta"] == 0:
        refuse(("granularity", "weighting", "adaptive_steps"), "with --beta=0")
    if settings["backbone"] is None:
        refuse(("backbone_weights", "freeze"), "without --backbone")
    else:
        refuse(("model",), "with --backbone")
    if settings["method"].startswith("taet") and settings["class_weight"] != "none":
        whole = "with --method=taet, whose loss is one of the whole batch"
        refuse(("class_weight",), whole)
    if settings["schedule"] == "step":
        refuse(("warmup",), "with --schedule=step")
    if settings["imbalance_ratio"] is None:
        refuse(("imbalance_type", "largest_class"), "without --imbalance_ratio")


def _refuse(given, keys, why):
    for key in keys:
        if key in given and given[key] is not False:
            raise ValueError(f"--{key}={shown(given[key])} does nothing {why}.")


def _check_fine_tuning(given, settings, initial_weights):
    """Whether rates that differ from layer to layer have a meaning."""
    rates = "backbone_rate", "head_epochs"
    if settings["backbone"] is None and initial_weights is None:
        _refuse(given, rates, "without --backbone or --initial_weights")
    untrained = settings["backbone_weights"] == "none" and initial_weights is None
    if settings["freeze"] == "backbone" and untrained:
        raise ValueError(
            "--freeze=backbone contradicts --backbone_weights=none: the weights that "
            "stay as they are would be random ones."
        )
    if settings["freeze"] == "backbone":
        _refuse(given, rates, "with --freeze=backbone: the last layer alone learns")
    if settings["head_epochs"] >= settings["epochs"]:
        raise ValueError(
            f"--head_epochs={settings['head_epochs']} must be less than --epochs="
            f"{settings['epochs']}; --freeze=backbone trains the last layer alone."
        )


def _check_names(given, settings):
    """Asks the package whether it knows what is named; that loads the backend."""
    options = settings["method_options"]
    _check_method_options(settings["method"], given.get("method_options", {}), options)
    if given.get("label_smoothing"):
        smoothing = given["label_smoothing"]
        with _naming(f"--label_smoothing={shown(smoothing)}"):
            if "label_smoothing" in given.get("method_options", {}):
                raise ValueError("--method_options has label_smoothing too.")
            method = krl.methods.get(settings["method"], **options)
            method.check_label_smoothing(settings["label_smoothing"])
    if "backbone" in given:
        with _naming(f"--backbone={settings['backbone']}"):
            krl.networks.backbones.check_name(settings["backbone"])
    if "model" in given:
        with _naming(f"--model={settings['model']}"):
            krl.networks.builder(settings["model"])
    weights = settings["backbone_weights"]
    if weights not in ("imagenet", "none") and not pathlib.Path(weights).is_file():
        raise ValueError(
            f"--backbone_weights={weights} must be imagenet, none or the path of a "
            "file of weights, and there is no such file."
        )
    freeze = str(settings["freeze"])
    if freeze not in ("none", "backbone") and not freeze.isdecimal():
        raise ValueError(
            f"--freeze={freeze} must be none, backbone or a number of layers."
        )
    if "attacks" in given:
        with _naming(f"--attacks={shown(settings['attacks'])}"):
            if not settings["attacks"]:
                raise ValueError("name one or more, such as clean,pgd20.")
            for name in settings["attacks"]:
                krl.attacks.get(name)


def _check_method_options(method, given, options):
    """Raises a ValueError if options that are given are none of the method."""
    flag = f"--method_options={','.join(f'{k}={shown(v)}' for k, v in given.items())}"
    kind = krl.methods.BY_NAME[method.partition("+")[0]]
    known = [
        name
        for name, parameter in inspect.signature(kind).parameters.items()
        if name != "method" and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
    ]
    unknown = [name for name in given if name not in known]
    if unknown:
        raise ValueError(
            f"{flag}: --method={method} has no option {unknown[0]}; it has "
            f"{', '.join(known) or 'none'}."
        )
    if given:
        with _naming(flag, of_others=known):
            krl.methods.get(method, **options)


def _check_augmentation(settings, has_validation):
    """Asks whether there is what augments, and whether the rest takes its labels."""
    name = settings["augmentation"]
    layer = split(name)[1]
    if layer is None:
        return
    from keras_robustlt.data import layers  # which need Keras

    with _naming(f"--augmentation={name}"):
        layers.get(layer)
    if not mixes_labels(name):
        return
    method = krl.methods.get(settings["method"], **settings["method_options"])
    mixes = f"--augmentation={name} mixes images and their labels, and"
    if not method.soft_labels:
        raise ValueError(
            f"{mixes} --method={settings['method']} is for images of one class. Use "
            f"one of {', '.join(krl.methods.with_soft_labels())}."
        )
    if not krl.budget.get(settings["budget"]).soft_labels:
        raise ValueError(
            f"{mixes} --budget={settings['budget']} looks at what the images of each "
            "class are taken for. Use another rule."
        )
    if settings["collapse_guard"] and not (
        settings["validation_fraction"] or has_validation()
    ):
        raise ValueError(
            f"{mixes} --collapse_guard looks at images as they are: give "
            "--validation_fraction, such as 0.1."
        )


@contextlib.contextmanager
def _naming(flag, of_others=()):
    """Says of which flag the package speaks.

    Args:
        flag: String.
        of_others: Names of arguments that are none of the flags of these names.
    """
    try:
        yield
    except (ImportError, TypeError, ValueError) as error:
        said = str(error)
        for name in of_others:
            said = said.replace(f"`{name}`", name)
        raise ValueError(f"{flag}: {said}") from None
