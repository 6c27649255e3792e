"""What all recipes do: flags over a preset, training with resume, evaluation, files.

The files of a run, in its `--workdir`:

    config.json      the settings, versions and device
    history.csv      a line an epoch
    schedule.csv     the budget of each class, a line an epoch
    checkpoints/     the state of training, from which the same command goes on
    network.keras    the trained network, plain Keras, without this package
    results.json     accuracy under each attack: all, tail, balanced, worst, per class
    schedule.png, accuracy.png
"""

import dataclasses
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# TensorFlow leaves oneDNN off on CPUs without AVX-512, where it is faster all the same.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

from absl import flags, logging

import keras_robustlt as krl

FLAGS = flags.FLAGS
# TensorFlow Datasets reports each file it reads.
logging.set_verbosity(logging.WARNING)


def define_flags(presets, default, workdir):
    """Defines the flags of a recipe; those left alone take the preset's value."""

    def of_preset(key, text):
        values = {name: preset.get(key) for name, preset in presets.items()}
        if len(set(map(str, values.values()))) == 1:
            return f"{text} Default: {values[default]}."
        listed = ", ".join(f"{value} ({name})" for name, value in values.items())
        return f"{text} Default: {listed}."

    def number(kind, key, text):
        define = {int: flags.DEFINE_integer, float: flags.DEFINE_float}[kind]
        define(key, None, of_preset(key, text))

    def choice(key, choices, text):
        flags.DEFINE_enum(key, None, choices, of_preset(key, text))

    flags.DEFINE_string(
        "preset", default, f"Settings to start from: {', '.join(presets)}."
    )
    flags.DEFINE_string("workdir", workdir, "Where the run keeps its files.")
    flags.DEFINE_integer(
        "seed", 102, "Seed of the long-tailed selection, the network and training."
    )
    flags.DEFINE_bool(
        "robustlt", True, "Class-wise, growing budgets. --norobustlt: the base method."
    )
    flags.DEFINE_bool(
        "deterministic", False, "Bit-reproducible operations; slower on a GPU."
    )
    flags.DEFINE_string(
        "model", None, of_preset("model", "Network: wrn-28-10, resnet18, ...")
    )
    flags.DEFINE_string(
        "initial_weights", None, "A .keras file of the same network to start from."
    )
    choice("method", ["at", "at_bsl", "standard"], "Base method.")
    number(float, "alpha", "Strength of class-wise perturbation balancing, 0 to 1.")
    number(float, "beta", "Share of training over which the budget grows.")
    choice("granularity", ["epoch", "step"], "What the growth of the budget counts.")
    choice("weighting", ["perturbation", "loss", "both"], "What the growth acts on.")
    choice("batchnorm_statistics", ["adversarial", "mixed"], "Images that move them.")
    number(float, "imbalance_ratio", "Largest class over smallest.")
    choice("imbalance_type", ["exp", "step"], "How class sizes fall.")
    flags.DEFINE_bool(
        "balanced_sampling",
        None,
        of_preset("balanced_sampling", "Draw all classes equally often."),
    )
    number(float, "validation_fraction", "Share of each class held out of training.")
    choice("augmentation", list(krl.data.AUGMENTATIONS), "Augmentation of training.")
    number(float, "epsilon", "Base budget in pixel units of [0, 1].")
    number(int, "attack_steps", "PGD steps of the training attack.")
    number(int, "epochs", "Epochs.")
    number(int, "batch_size", "Batch size.")
    number(float, "learning_rate", "Learning rate at the start.")
    number(float, "weight_decay", "Weight decay, coupled with the momentum.")
    number(int, "largest_class", "Training images of the largest class.")
    number(int, "test_examples", "Evaluate on about so many test images.")
    choice(
        "precision",
        ["float32", "mixed_bfloat16", "mixed_float16"],
        "Precision of the network.",
    )
    flags.DEFINE_list(
        "attacks", None, of_preset("attacks", "Attacks of the final evaluation.")
    )


def settings_from_flags(presets):
    """The preset's settings with the flags that were given."""
    if FLAGS.preset not in presets:
        raise SystemExit(
            f"error: unknown --preset={FLAGS.preset}. Choose one of: "
            f"{', '.join(presets)}."
        )
    settings = dict(presets[FLAGS.preset])
    for key in settings:
        value = FLAGS[key].value if key in FLAGS else None
        if value is not None:
            settings[key] = value
    if not FLAGS.robustlt:
        settings.update(alpha=0.0, beta=0.0)
    for key in ("preset", "seed", "deterministic", "initial_weights"):
        settings[key] = FLAGS[key].value
    # As JSON reads them back.
    return json.loads(json.dumps(settings))


def run(settings, source, workdir, data_dir=None):
    """Trains, or goes on training, as `settings` say, evaluates and writes the files.

    Returns:
        The `EvaluationResults`.
    """
    import keras
    from progress import Progress

    keras.config.set_dtype_policy(settings["precision"])
    if settings["deterministic"] and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings["seed"])

    data = load_data(settings, source, data_dir)
    workdir = pathlib.Path(workdir)
    write_config(workdir, settings, data)
    model = build_model(settings, data)
    left = announce(settings, data, model, workdir)

    model.fit(
        data.train,
        epochs=settings["epochs"],
        validation_data=data.validation,
        verbose=0,
        callbacks=[
            krl.callbacks.ScheduleInspector(workdir, data.class_names),
            krl.callbacks.HistoryCSV(workdir / "history.csv"),
            krl.callbacks.Checkpoint(workdir / "checkpoints"),
            Progress(left),
        ],
    )
    krl.networks.plain(model.network).save(workdir / "network.keras")
    print("Evaluating:", ", ".join(settings["attacks"]), flush=True)
    results = krl.evaluate(
        model,
        data.test,
        attacks=settings["attacks"],
        epsilon=settings["epsilon"],
        class_names=data.class_names,
        seed=settings["seed"],
        verbose=1 if sys.stdout.isatty() else 0,
    )
    results.to_json(workdir / "results.json", seed=settings["seed"], training=settings)
    robust = [name for name in results if name != "clean"]
    if robust and "clean" in results:
        figure = krl.plots.accuracy_per_class(
            {settings_name(settings): results}, robust[0]
        )
        krl.plots.save(figure, workdir / "accuracy.png")
    print(f"\n{settings_name(settings)}, accuracy in %:\n{results}\n")
    print(f"Files: {workdir}", flush=True)
    return results


def compare(runs, workdir):
    """Prints and draws runs side by side.

    Args:
        runs: A dictionary from names to `EvaluationResults`.
        workdir: Path. Gets `comparison.txt` and `comparison.png`.
    """
    from keras_robustlt.evaluation import SUMMARY, text_table

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


def load_data(settings, source, data_dir):
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

    network = krl.networks.get(
        settings["model"], classes=data.num_classes, input_shape=data.input_shape
    )
    if settings["initial_weights"]:
        trained = keras.saving.load_model(settings["initial_weights"], compile=False)
        network.set_weights(trained.get_weights())
    attack = krl.attacks.PGD(settings["epsilon"], steps=settings["attack_steps"])
    model = krl.RobustLTModel(
        network,
        data.class_counts,
        epsilon=settings["epsilon"],
        alpha=settings["alpha"],
        beta=settings["beta"],
        method=settings["method"],
        attack=attack,
        granularity=settings["granularity"],
        weighting=settings["weighting"],
        batchnorm_statistics=settings["batchnorm_statistics"],
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
        )
    )
    return model


def settings_name(settings):
    """What a run is called in tables: "AT-BSL + RobustLT"."""
    name = settings["method"].upper().replace("_", "-")
    if settings["method"] == "standard" or not (settings["alpha"] or settings["beta"]):
        return name
    if settings["alpha"] and settings["beta"]:
        return f"{name} + RobustLT"
    return f"{name} + {'CPB' if settings['alpha'] else 'AIW'}"


def write_config(workdir, settings, data):
    """Writes config.json, unless the directory belongs to a run of other settings."""
    import keras

    path = workdir / "config.json"
    if path.exists():
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
        return
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
    krl.callbacks.write_atomically(path, json.dumps(content, indent=2).encode() + b"\n")


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
    from progress import TimeLeft, duration

    print(f"{settings_name(settings)} on {data}")
    print(
        f"  {settings['model']}, {model.network.count_params():,} parameters; "
        f"{settings['epochs']} epochs of {int(data.train.cardinality())} steps of "
        f"{settings['batch_size']} images; PGD-{settings['attack_steps']}, epsilon "
        f"{255 * settings['epsilon']:.3g}/255; alpha {settings['alpha']}, beta "
        f"{settings['beta']}; {settings['precision']} on {device()}"
    )
    left = TimeLeft(settings, model, int(data.train.cardinality()))
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
