"""What all recipes do: flags over a preset, training with resume, evaluation, files.

The files of a run, in its `--workdir`:

    config.json      the settings, versions and device
    history.csv      a line an epoch
    schedule.csv     the budget of each class, a line an epoch
    checkpoints/     the state of training, from which the same command goes on
    network.keras    the trained network, plain Keras, without this package
    results.json     accuracy under each attack: all, tail, balanced, worst, per class
    examples.npz     a few images, what the attack makes of them, and what comes out
    schedule.png, accuracy.png
    report.html      all of this on a page
"""

import dataclasses
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves oneDNN off on CPUs without AVX-512, where it is faster all the same.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from keras_robustlt.experiments import devices
from absl import app, flags, logging
from keras_robustlt.experiments.jobs import duration
from keras_robustlt.experiments.presets import METHODS
from keras_robustlt.files import write_atomically

import keras_robustlt as krl

BUDGETS = ("robustlt", "uniform", "cfa", "dafa")
FLAGS = flags.FLAGS
# Robustness against epsilon is measured on so many test images.
CURVE_EXAMPLES = 150
# TensorFlow Datasets reports each file it reads.
logging.set_verbosity(logging.WARNING)


def recipe(data, workdir):
    """The main function of a recipe that trains and evaluates once.

    Args:
        data: A `presets.DataSet`.
        workdir: String, the default of `--workdir`.

    Returns:
        A function for `absl.app.run`.
    """
    define_flags(data, default="paper", workdir=workdir)
    flags.DEFINE_string("data_dir", None, "Where the data are.")

    def main(argv):
        if argv[1:]:
            raise app.UsageError(f"what is {argv[1]!r}? Flags start with --.")
        settings = settings_from_flags(data)
        run(settings, data.source, FLAGS.workdir, FLAGS.data_dir)

    return main


def define_flags(data, default, workdir):
    """Defines the flags of a recipe; those left alone take what the tables say.

    Args:
        data: A `presets.DataSet`.
        default: String, the preset to start from.
        workdir: String, the default of `--workdir`.
    """

    def described(key, text):
        return f"{text} {defaults_text(data, default, key)}"

    def number(kind, key, text):
        define = {int: flags.DEFINE_integer, float: flags.DEFINE_float}[kind]
        define(key, None, described(key, text))

    def choice(key, choices, text):
        flags.DEFINE_enum(key, None, choices, described(key, text))

    def text(key, text):
        flags.DEFINE_string(key, None, described(key, text))

    flags.DEFINE_string(
        "preset", default, f"Network and compute: {', '.join(data.presets)}."
    )
    flags.DEFINE_string("workdir", workdir, "Where the run keeps its files.")
    flags.DEFINE_integer(
        "seed", 102, "Seed of the long-tailed selection, the network and training."
    )
    choice("method", method_names(), "Base method; with +awp, AWP over it.")
    flags.DEFINE_list(
        "method_options",
        None,
        described(
            "method_options",
            "Hyper-parameters of the method to change, such as beta=5,label_smoothing="
            "0.1. The class of the method in keras_robustlt.methods says which it has.",
        ),
    )
    flags.DEFINE_bool(
        "robustlt",
        None,
        "Class-wise, growing budgets. --norobustlt: the base method alone, the same "
        "as --budget=uniform. Default: true.",
    )
    choice("budget", BUDGETS, "Rule for the budget of each class.")
    number(float, "alpha", "Strength of class-wise perturbation balancing, 0 to 1.")
    number(float, "beta", "Share of training over which the budget grows.")
    choice("granularity", ["epoch", "step"], "What the growth of the budget counts.")
    choice("weighting", ["perturbation", "loss", "both"], "What the growth acts on.")
    text(
        "model",
        "Network: wrn-28-10, wrn-34-10, resnet18, preact_resnet18, vit-tiny, ...",
    )
    choice("head", ["linear", "cosine", "cosplus"], "Classifier of the network.")
    flags.DEFINE_string(
        "initial_weights", None, "A .keras file of the same network to start from."
    )
    text(
        "averaging",
        "Average of the weights to evaluate: the momentum of an exponential moving "
        "average, such as 0.999, or fawa, CFA's.",
    )
    flags.DEFINE_alias("ema", "averaging")
    choice("batchnorm_statistics", ["adversarial", "mixed"], "Images that move them.")
    if data.row.get("num_classes"):
        number(int, "num_classes", "The first so many classes of the data set.")
    number(float, "imbalance_ratio", "Largest class over smallest.")
    choice("imbalance_type", ["exp", "step"], "How class sizes fall.")
    number(int, "largest_class", "Training images of the largest class.")
    flags.DEFINE_bool(
        "balanced_sampling",
        None,
        described("balanced_sampling", "Draw all classes equally often."),
    )
    number(float, "validation_fraction", "Share of each class held out of training.")
    choice("augmentation", list(krl.data.AUGMENTATIONS), "Augmentation of training.")
    number(float, "epsilon", "Base budget in pixel units of [0, 1].")
    number(int, "attack_steps", "PGD steps of the training attack.")
    flags.DEFINE_bool(
        "adaptive_steps",
        None,
        described("adaptive_steps", "Fewer of these while the budget is small."),
    )
    number(int, "epochs", "Epochs; milestones, and TAET's first stage, go along.")
    number(int, "batch_size", "Batch size.")
    number(float, "learning_rate", "Learning rate at the start.")
    number(float, "weight_decay", "Weight decay, coupled with the momentum.")
    number(
        float,
        "gradient_clipping",
        "Largest norm of the gradient. 1 for vision transformers.",
    )
    choice(
        "precision",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "Precision of the network.",
    )
    flags.DEFINE_enum(
        "distribute",
        "none",
        devices.DISTRIBUTE,
        "Train on several devices: mirrored (the GPUs of this machine), multiworker "
        "(machines that TF_CONFIG names), both TensorFlow's; jax (all devices of JAX, "
        "and of the processes that KERAS_DISTRIBUTION_* name). The batch is split "
        "among them.",
    )
    flags.DEFINE_integer(
        "cpu_devices",
        None,
        "Split the CPU into so many devices, to try --distribute without accelerators.",
    )
    flags.DEFINE_bool(
        "deterministic", False, "Bit-reproducible operations; slower on a GPU."
    )
    flags.DEFINE_list(
        "attacks", None, described("attacks", "Attacks of the final evaluation.")
    )
    number(int, "test_examples", "Evaluate on about so many test images.")
    flags.DEFINE_bool(
        "print_settings", False, "Print the settings of the run as JSON, and no run."
    )


def method_names():
    """The base methods, and those that AWP can perturb the weights of."""
    alone = ("at", "awp", "standard")  # AWP by itself is over AT
    composed = [f"{name}+awp" for name in METHODS if name not in alone]
    return sorted([*METHODS, *composed])


def defaults_text(data, default, key):
    """What a setting is if its flag is left alone, by preset and by method."""
    by_preset = {name: data.settings(name)[key] for name in data.presets}
    same = len(set(map(shown, by_preset.values()))) == 1
    text = f"Default: {shown(by_preset[default]) if same else listed(by_preset)}."
    if key == "method":
        return text
    by_method = {
        name: data.settings(default, {"method": name})[key] for name in METHODS
    }
    others = {k: v for k, v in by_method.items() if v != by_preset[default]}
    return f"{text} By method ({default}): {listed(others)}." if others else text


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
    return "none" if value is None else str(value).lower()


def settings_from_flags(data):
    """The settings that the tables give, with the flags that were given."""
    if FLAGS.preset not in data.presets:
        raise SystemExit(
            f"error: unknown --preset={FLAGS.preset}. Choose one of: "
            f"{', '.join(data.presets)}."
        )
    devices.check(FLAGS.distribute)
    given = {
        key: FLAGS[key].value
        for key in data.settings(FLAGS.preset)
        if key in FLAGS and FLAGS[key].value is not None
    }
    try:
        if "method_options" in given:
            given["method_options"] = options_from_text(given["method_options"])
        if "averaging" in given and given["averaging"] != "fawa":
            given["averaging"] = float(given["averaging"])
        if FLAGS.robustlt is not None:
            given.setdefault("budget", "robustlt" if FLAGS.robustlt else "uniform")
            if FLAGS.robustlt != (given["budget"] == "robustlt"):
                raise ValueError(
                    f"--budget={given['budget']} contradicts "
                    f"--{'' if FLAGS.robustlt else 'no'}robustlt."
                )
        settings = data.settings(FLAGS.preset, given)
        if settings["averaging"] == "fawa" and not settings["validation_fraction"]:
            raise ValueError(
                "--averaging=fawa looks at validation images: give "
                "--validation_fraction, such as 0.2."
            )
        # Whether there are such options. Asking loads the backend: some seconds.
        if "method_options" in given:
            krl.methods.get(settings["method"], **settings["method_options"])
        if "averaging" in given:
            krl.averaging.get(averaging(settings))
    except (TypeError, ValueError) as error:
        raise SystemExit(f"error: {error}") from None
    for key in ("preset", "seed", "deterministic", "initial_weights"):
        settings[key] = FLAGS[key].value
    if FLAGS.print_settings:
        print(json.dumps(settings))
        raise SystemExit
    return settings


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
        try:
            options[key] = json.loads(value)
        except json.JSONDecodeError:
            options[key] = value
    return options


def run(settings, source, workdir, data_dir=None):
    """Trains, or goes on training, as `settings` say, evaluates and writes the files.

    Returns:
        The `EvaluationResults`; `None` in processes that help another one train.
    """
    import keras
    from keras_robustlt.experiments.progress import Progress

    distribution = devices.scope(FLAGS.distribute, FLAGS.cpu_devices)
    keras.config.set_dtype_policy(settings["precision"])
    if settings["deterministic"] and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings["seed"])

    data = load_data(settings, source, data_dir, devices.shard(FLAGS.distribute))
    workdir = pathlib.Path(workdir)
    chief = devices.is_chief(FLAGS.distribute)
    # Every process asks, so that none waits for one that has stopped.
    if not is_begun(workdir, settings) and chief:
        write_config(workdir, settings, data)
    callbacks = [
        krl.callbacks.ScheduleInspector(workdir, data.class_names),
        krl.callbacks.HistoryCSV(workdir / "history.csv"),
        krl.callbacks.Checkpoint(workdir / "checkpoints"),
    ]
    with distribution:
        model = build_model(settings, data)
        left = announce(settings, data, model, workdir)
        model.fit(
            data.train,
            epochs=settings["epochs"],
            validation_data=data.validation,
            verbose=0,
            callbacks=[*callbacks, Progress(left)] if chief else callbacks,
        )
    if chief:
        # The average of the weights where the settings ask for one. The copy is of this
        # process alone, also where several devices trained.
        network = krl.networks.plain(model.inference_network)
        network.save(workdir / "network.keras")
    devices.leave(FLAGS.distribute)
    if not chief:
        return None
    print("Evaluating:", ", ".join(settings["attacks"]), flush=True)
    results = krl.evaluate(
        network,
        data.test,
        attacks=settings["attacks"],
        epsilon=settings["epsilon"],
        class_counts=data.class_counts,
        class_names=data.class_names,
        seed=settings["seed"],
        verbose=1 if sys.stdout.isatty() else 0,
    )
    if settings["epsilon"]:
        results.curve, examples = probe(network, settings, data)
        examples.to_npz(workdir / "examples.npz")
    results.to_json(workdir / "results.json", seed=settings["seed"], training=settings)
    robust = [name for name in results if name != "clean"]
    if robust and "clean" in results and data.num_classes <= 200:
        figure = krl.plots.accuracy_per_class(
            {settings_name(settings): results}, robust[0]
        )
        krl.plots.save(figure, workdir / "accuracy.png")
    table = results.table(per_class=data.num_classes <= 20)
    print(f"\n{settings_name(settings)}, accuracy in %:\n{table}\n")
    report = krl.report(workdir, workdir / "report.html")
    print(f"Report: {report}\nFiles: {workdir}", flush=True)
    return results


def probe(network, settings, data):
    """Robustness against epsilon, on a part of the test images, and some examples."""
    attack = krl.attacks.PGD(settings["epsilon"], settings["attack_steps"])
    common = {"class_counts": data.class_counts, "seed": settings["seed"]}
    curve = krl.robustness_curve(
        network,
        data.test,
        attack=attack,
        examples=CURVE_EXAMPLES,
        verbose=0,
        **common,
    )
    return curve, krl.adversarial_examples(network, data.test, attack=attack, **common)


def compare(runs, workdir):
    """Prints and draws runs side by side.

    Args:
        runs: A dictionary from names to `EvaluationResults`.
        workdir: Path. Gets `comparison.txt` and `comparison.png`.
    """
    from keras_robustlt.evaluation.results import SUMMARY, text_table

    settings = next(iter(runs.values())).settings
    attacks = list(next(iter(runs.values())))
    head = ["accuracy in %", *SUMMARY, *settings["class_names"]]
    rows = [
        [f"{attack}: {name}", *results.row(attack)]
        for attack in attacks
        for name, results in runs.items()
    ]
    counts = [str(count) for count in settings["class_counts"]]
    rows.append(["training images", *[""] * len(SUMMARY), *counts])
    text = text_table(head, rows)
    (workdir / "comparison.txt").write_text(text + "\n")
    figure = krl.plots.accuracy_per_class(
        runs, attacks[-1], title="Accuracy of each class"
    )
    krl.plots.save(figure, workdir / "comparison.png")
    print(f"\n{text}\n\nPictures: {workdir / 'comparison.png'}", end="")
    for folder in sorted(workdir.glob("*/schedule.png")):
        print(f", {folder}", end="")
    print()


def load_data(settings, source, data_dir, shard=None):
    """The long-tailed data; fewer test images where the settings say so."""
    try:
        data = krl.data.long_tail(
            source,
            imbalance_ratio=settings["imbalance_ratio"],
            imbalance_type=settings["imbalance_type"],
            batch_size=settings["batch_size"],
            augmentation=settings["augmentation"],
            seed=settings["seed"],
            validation_fraction=settings["validation_fraction"],
            data_dir=data_dir,
            largest_class=settings["largest_class"],
            balanced_sampling=settings["balanced_sampling"],
            shard=shard,
            classes=settings["num_classes"],
        )
    except FileNotFoundError as error:
        raise SystemExit(f"error: {error}") from None
    if settings["test_examples"]:
        batches = -(-settings["test_examples"] // settings["batch_size"])
        data = dataclasses.replace(data, test=data.test.take(batches))
    return data


def build_model(settings, data):
    """The compiled model."""
    import keras

    options = {"head": settings["head"]}
    if settings["pixel_mean"]:
        options.update(mean=settings["pixel_mean"], std=settings["pixel_std"])
    network = krl.networks.get(
        settings["model"],
        classes=data.num_classes,
        input_shape=data.input_shape,
        **options,
    )
    if settings["initial_weights"]:
        trained = keras.saving.load_model(settings["initial_weights"], compile=False)
        network.set_weights(trained.get_weights())
    attack = krl.attacks.PGD(settings["epsilon"], steps=settings["attack_steps"])
    model = krl.RobustLTModel(
        network,
        data.class_counts,
        epsilon=settings["epsilon"],
        method=krl.methods.get(settings["method"], **settings["method_options"]),
        attack=attack,
        attack_steps="adaptive" if settings["adaptive_steps"] else "full",
        budget=budget(settings),
        batchnorm_statistics=settings["batchnorm_statistics"],
        averaging=averaging(settings),
        seed=settings["seed"],
    )
    steps = int(data.train.cardinality())
    rate = settings["learning_rate"]
    if settings["milestones"]:
        # A boundary is the last step of the rate before it.
        boundaries = [
            round(share * settings["epochs"]) * steps - 1
            for share in settings["milestones"]
        ]
        rates = [rate * 0.1**i for i in range(len(boundaries) + 1)]
        rate = keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
    model.compile(
        krl.optimizers.SGD(
            rate,
            momentum=settings["momentum"],
            nesterov=True,
            weight_decay=settings["weight_decay"],
            global_clipnorm=settings["gradient_clipping"],
        )
    )
    return model


def budget(settings):
    """The rule for the budget."""
    keys = ("alpha", "beta", "granularity", "weighting")
    ours = settings["budget"] == "robustlt"
    options = {key: settings[key] for key in keys} if ours else {}
    return krl.budget.get(settings["budget"], **options)


def averaging(settings):
    """The rule for averaging the weights, or `None`."""
    if settings["averaging"] == "fawa":
        return krl.averaging.FAWA()
    return settings["averaging"]


def settings_name(settings):
    """What a run is called in tables: "AT-BSL + RobustLT"."""
    base, _, over = settings["method"].partition("+")
    name = {"robal": "RoBal"}.get(base, base.upper().replace("_", "-"))
    parts = [name, over.upper()] if over else [name]
    if settings["method"] != "standard":
        parts += budget_name(settings)
    if settings["averaging"]:
        parts.append("FAWA" if settings["averaging"] == "fawa" else "EMA")
    return " + ".join(parts)


def budget_name(settings):
    if settings["budget"] != "robustlt":
        return [] if settings["budget"] == "uniform" else [settings["budget"].upper()]
    if settings["alpha"] and settings["beta"]:
        return ["RobustLT"]
    return ["CPB"] * bool(settings["alpha"]) + ["AIW"] * bool(settings["beta"])


def write_config(workdir, settings, data):
    """Writes config.json."""
    import keras

    workdir.mkdir(parents=True, exist_ok=True)
    content = {
        "settings": settings,
        "name": settings_name(settings),
        "class_counts": data.class_counts.tolist(),
        "class_names": list(data.class_names),
        "command": " ".join(["python", *sys.argv]),
        "versions": {
            "keras_robustlt": krl.__version__,
            "keras": keras.__version__,
            keras.backend.backend(): backend_version(),
            "python": sys.version.split()[0],
        },
        "device": device(),
    }
    text = json.dumps(content, indent=2) + "\n"
    write_atomically(workdir / "config.json", text.encode())


def is_begun(workdir, settings):
    """Whether `workdir` holds the run of these settings, finished or not.

    Raises:
        SystemExit: If it holds a run of other settings.
    """
    path = workdir / "config.json"
    if not path.exists():
        return False
    before = json.loads(path.read_text())["settings"]
    changed = [
        f"  {key}: {before.get(key)} there, {settings.get(key)} now"
        for key in sorted({*before, *settings})
        if before.get(key) != settings.get(key)
    ]
    if changed:
        raise SystemExit(
            f"error: {workdir} holds a run with other settings:\n"
            + "\n".join(changed)
            + "\nGive another --workdir, the same settings (to go on with that "
            "run), or delete the directory."
        )
    return True


def is_finished(workdir, settings):
    """Whether `workdir` holds the results of the run of these settings."""
    if not is_begun(workdir, settings):
        return False
    try:
        results = json.loads((workdir / "results.json").read_text())
    except (FileNotFoundError, json.JSONDecodeError):  # not there, or cut short
        return False
    return results["training"] == settings


def backend_version():
    import importlib

    import keras

    return importlib.import_module(keras.backend.backend()).__version__


def device():
    """The device in words: the first accelerator, or the number of cores."""
    import keras

    accelerators = [d for d in keras.distribution.list_devices() if "cpu" not in d]
    return accelerators[0] if accelerators else f"cpu, {os.cpu_count()} cores"


def announce(settings, data, model, workdir):
    """Says what will be done and how long it will take.

    Returns:
        A `TimeLeft`.
    """
    from keras_robustlt.experiments.progress import TimeLeft

    print(f"{settings_name(settings)} on {data}")
    print(
        f"  {settings['model']}, {model.network.count_params():,} parameters; "
        f"{settings['epochs']} epochs of {int(data.train.cardinality())} steps of "
        f"{settings['batch_size']} images; PGD-{settings['attack_steps']}, epsilon "
        f"{255 * settings['epsilon']:.3g}/255; {model.method}, {model.budget}; "
        f"{settings['precision']} on {device()}"
    )
    validation = data.validation and int(data.validation.cardinality())
    left = TimeLeft(settings, model, int(data.train.cardinality()), validation or 0)
    total = left()
    print(f"  Files: {workdir}. Estimated time: {duration(total)}.", flush=True)
    if total > 24 * 3600:
        logging.warning(
            "This will take about %s on %s. Choose a smaller preset (--preset=cpu or "
            "--preset=smoke) or a machine with a GPU.",
            duration(total),
            device(),
        )
    return left
