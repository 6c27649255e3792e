"""One run: long-tailed data, training with resume, evaluation, files."""

import contextlib
import dataclasses
import importlib
import itertools
import os
import sys
import warnings

import keras
from absl import logging

import keras_robustlt as krl
from keras_robustlt.callbacks.training_watch import never_begin
from keras_robustlt.class_names import one_line
from keras_robustlt.data.class_balanced import class_balanced_subset
from keras_robustlt.evaluation.progress import duration
from keras_robustlt.evaluation.runners import attacks_of
from keras_robustlt.experiments import devices, memory, precision, workdir
from keras_robustlt.experiments.network import build_network
from keras_robustlt.experiments.optimization import optimizer
from keras_robustlt.experiments.presets import counted, name_of
from keras_robustlt.experiments.progress import (
    Divergence,
    TimeLeft,
    TrainingProgress,
    attacks_in_epoch,
)

# Robustness against epsilon is measured on so many test images.
CURVE_EXAMPLES = 150
# Among the first so many images are those that a collapse is looked for on.
PROBED = 1000


def run(settings, folder, data_dir=None, distribute="none", cpu_devices=None):
    """Trains, or goes on training, as `settings` say, evaluates and writes the files.

    Args:
        settings: Dictionary, as `flags.settings_from_flags` gives it.
        folder: Path, the directory of the run: `workdir` says what it holds then.
        data_dir: String, where the data are. Defaults to `None`.
        distribute: String, one of `devices.DISTRIBUTE`. Defaults to `"none"`.
        cpu_devices: Integer, or `None` for one CPU. Defaults to `None`.

    Returns:
        The `EvaluationResults`; `None` in processes that help another one train.

    Raises:
        FileNotFoundError: If the data are not there.
        ValueError: If the data or the directory are not for these settings.
    """
    workdir.check(folder, settings)  # before anything takes long
    distribution = devices.scope(distribute, cpu_devices)
    chief = devices.is_chief(distribute)
    keras.config.set_dtype_policy(settings["precision"])
    if settings["deterministic"] and keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.experimental.enable_op_determinism()
    keras.utils.set_random_seed(settings["seed"])

    data = load_data(settings, data_dir, devices.shard(distribute))
    # Whether these attacks suit the data is said now, not after training.
    attacks_of(
        settings["attacks"], data.num_classes, data.input_shape, settings["epsilon"], 1
    )
    with contextlib.ExitStack() as stack:
        with distribution:
            counts = [int(data.class_counts.sum())]
            if distribute != "none" and data.validation is not None:
                counts.append(sum(len(labels) for _, labels in data.validation))
            devices.check_batches(distribute, settings["batch_size"], counts)
            model = build_model(settings, data, len(data.train))
            # Every process asks, so that none waits for one that has stopped.
            is_begun = workdir.is_begun(folder, settings, data.fingerprint)
            if chief:
                stack.enter_context(workdir.held(folder))
            if chief and not is_begun:
                workdir.write_config(folder, describe(settings, data))
            diagnostics = []
            if settings["skew_and_drift"]:
                diagnostics.append(skew_and_drift(settings, data_dir, folder))
            train(settings, data, model, folder, chief, diagnostics)
        if chief:
            # The average of the weights where the settings ask for one. The copy is of
            # this process alone, also where several devices trained.
            network = krl.networks.plain(model.inference_network)
            workdir.save_network(network, folder)
        devices.leave(distribute)
        return evaluate(network, settings, data, folder) if chief else None


def train(settings, data, model, folder, chief=True, diagnostics=()):
    """Trains the epochs that are left; the chief's process writes the files."""
    callbacks = [
        Divergence(),
        *diagnostics,
        krl.callbacks.ScheduleInspector(folder, data.class_names),
        krl.callbacks.HistoryCSV(folder / "history.csv"),
        krl.callbacks.Checkpoint(folder / "checkpoints"),
    ]
    if settings["collapse_guard"]:
        callbacks.insert(0, collapse_guard(settings, data))
    best = folder / "best.weights.h5"
    if settings["keep"] == "best":
        callbacks.insert(0, best_epoch(best))
        if (folder / workdir.STATE).exists():
            # Whether it can be read is seen now, not after training, which then takes
            # all that this changes from the state.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of the optimizer, not built yet
                load_best(model, best)
    left = announce(settings, data, model, folder)
    with warnings.catch_warnings():
        # Without an attack, or a part of it: `announce` says so in words of the flags.
        warnings.filterwarnings("ignore", "In all of this training")
        model.fit(
            data.train,
            epochs=settings["epochs"],
            validation_data=data.validation,
            class_weight=class_weight(settings),
            verbose=0,
            callbacks=[*callbacks, TrainingProgress(left)] if chief else callbacks,
        )
    if chief and (settings["keep"] == "best" or settings["averaging"]):
        last = krl.networks.plain(model.network)
        workdir.save_network(last, folder, "network-last.keras")
    if settings["keep"] == "best":
        load_best(model, best)


def collapse_guard(settings, data):
    """Watches a few validation images, or training images where there are none."""
    images = data.train if data.validation is None else data.validation
    batches = itertools.islice(images, -(-PROBED // settings["batch_size"]))
    return krl.callbacks.CollapseGuard(batches, seed=settings["seed"])


def skew_and_drift(settings, data_dir, folder):
    """The callback that measures the two terms of the theory, on training images."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # said when the data were loaded for training
        data = krl.data.long_tail_arrays(data_dir=data_dir, **selection(settings))
    return krl.callbacks.SkewAndDrift(
        *data.train,
        examples=max(200, data.num_classes),
        directory=folder,
        class_names=data.class_names,
        seed=settings["seed"],
    )


def best_epoch(path):
    """Keeps the weights of the epoch that validation images under attack find best."""
    return keras.callbacks.ModelCheckpoint(
        path,
        monitor="val_robust_balanced_accuracy",
        mode="max",
        save_best_only=True,
        save_weights_only=True,
    )


def load_best(model, path):
    """Gives the model the weights that `best_epoch` keeps."""
    try:
        model.load_weights(path)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(
            f"{path}, the weights of the best epoch so far, cannot be read "
            f"({one_line(str(error))}). Put a copy of it back, or delete "
            f"{path.parent} to start over."
        ) from None


def evaluate(network, settings, data, folder):
    """Attacks the trained network, writes the results and shows them."""
    print("Evaluating:", ", ".join(settings["attacks"]), flush=True)
    results = krl.evaluate(
        network,
        data.test,
        attacks=settings["attacks"],
        epsilon=settings["epsilon"],
        class_counts=data.class_counts,
        class_names=data.class_names,
        seed=settings["seed"],
        cache=folder / "evaluation.npz",
    )
    if settings["epsilon"]:
        print("Robustness at other budgets, and examples, of some images:", flush=True)
        results.curve, examples = probe(network, settings, data)
        if examples is not None:
            examples.to_npz(folder / "examples.npz")
    results.to_json(folder / "results.json", seed=settings["seed"], training=settings)
    (folder / "evaluation.npz").unlink()
    name = name_of(settings)
    robust = [attack for attack in results if attack != "clean"]
    if robust and "clean" in results and data.num_classes <= 200:
        figure = krl.plots.accuracy_per_class({name: results}, robust[0])
        krl.plots.save(figure, folder / "accuracy.png")
    report = krl.report(folder, folder / "report.html")
    # All is written before anything is shown: the terminal may be gone by now.
    table = results.table(per_class=data.num_classes <= 20)
    print(f"\n{name}, accuracy in %:\n{table}\n")
    print(f"Report: {report}\nFiles: {folder}", flush=True)
    return results


def probe(network, settings, data):
    """Robustness against epsilon, on a part of the test images, and some examples.

    The examples are `None` of a network whose logits are no numbers.
    """
    # Attacks of a single step, which have no number of steps, are not to judge by.
    attack = krl.attacks.PGD(settings["epsilon"], settings["pgd_steps"] or 10)
    common = {"class_counts": data.class_counts, "seed": settings["seed"]}
    curve = krl.robustness_curve(
        network,
        data.test,
        attack=attack,
        examples=CURVE_EXAMPLES,
        **common,
    )
    try:
        examples = krl.adversarial_examples(network, data.test, attack=attack, **common)
    except ValueError as error:
        logging.warning("There are no examples of images under attack: %s", error)
        examples = None
    return curve, examples


def load_data(settings, data_dir, shard=None):
    """The long-tailed data; fewer test images where the settings say so."""
    data = krl.data.long_tail(
        **selection(settings),
        batch_size=settings["batch_size"],
        augmentation=settings["augmentation"],
        data_dir=data_dir,
        balanced_sampling=settings["balanced_sampling"],
        shard=shard,
    )
    if settings["test_examples"]:
        test = class_balanced_subset(
            data.test, examples=settings["test_examples"], seed=settings["seed"]
        )
        data = dataclasses.replace(data, test=test)
    return data


def selection(settings):
    """The arguments of `krl.data.long_tail` that say which images there are."""
    return {
        "source": settings["data"],
        "imbalance_ratio": settings["imbalance_ratio"],
        "imbalance_type": settings["imbalance_type"],
        "seed": settings["seed"],
        "validation_fraction": settings["validation_fraction"],
        "largest_class": settings["largest_class"],
        "classes": settings["num_classes"],
        "image_size": settings["image_size"],
        "on_bad": settings["on_bad"],
    }


def build_model(settings, data, steps_per_epoch, **options):
    """The compiled model.

    Args:
        settings: Dictionary, the settings of the run.
        data: What knows `num_classes`, `input_shape` and `class_counts`.
        steps_per_epoch: Integer.
        **options: Further arguments of `RobustLTModel`.

    Returns:
        A `RobustLTModel`.
    """
    model = krl.RobustLTModel(
        build_network(settings, data),
        data.class_counts,
        epsilon=settings["epsilon"],
        attack=training_attack(settings),
        attack_steps="adaptive" if settings["adaptive_steps"] else "full",
        batchnorm_statistics=settings["batchnorm_statistics"],
        **parts(settings),
        seed=settings["seed"],
        **options,
    )
    model.compile(optimizer(settings, steps_per_epoch), loss=loss(settings))
    return model


def parts(settings):
    """The parts of training that are objects, as arguments of `RobustLTModel`."""
    return {
        "method": krl.methods.get(settings["method"], **settings["method_options"]),
        "budget": budget(settings),
        "averaging": krl.averaging.get(averaging(settings)),
    }


def loss(settings):
    """What `compile` is given as the loss; `None` is the cross-entropy."""
    if not settings["label_smoothing"]:
        return None
    return keras.losses.CategoricalCrossentropy(
        from_logits=True, label_smoothing=settings["label_smoothing"]
    )


def class_weight(settings):
    """What `fit` is given as weights of the classes."""
    return None if settings["class_weight"] == "none" else settings["class_weight"]


def budget(settings):
    """The rule for the budget."""
    keys = ("alpha", "beta", "granularity", "weighting")
    ours = settings["budget"] == "robustlt"
    options = {key: settings[key] for key in keys} if ours else {}
    return krl.budget.get(settings["budget"], **options)


def training_attack(settings):
    """The attack to train with."""
    kind = krl.attacks.TRAINING[settings["attack"]]
    steps = settings["pgd_steps"]
    return kind(settings["epsilon"], **({"steps": steps} if steps else {}))


def averaging(settings):
    """The rule for averaging the weights, or `None`."""
    if settings["averaging"] == "fawa":
        return krl.averaging.FAWA()
    return settings["averaging"]


def command_of(argv):
    """The command that `argv` is of, without where this package is installed."""
    program, *arguments = argv
    if os.path.basename(program) == "__main__.py":
        program = "-m keras_robustlt"
    return " ".join(["python", program, *arguments])


def describe(settings, data):
    """What config.json says of a run."""
    backend = keras.backend.backend()
    return {
        "settings": settings,
        "name": name_of(settings),
        "class_counts": data.class_counts.tolist(),
        "class_names": list(data.class_names),
        "fingerprint": data.fingerprint,
        "command": command_of(sys.argv),
        "versions": {
            "keras_robustlt": krl.__version__,
            "keras": keras.__version__,
            backend: importlib.import_module(backend).__version__,
            "python": sys.version.split()[0],
        },
        "device": device(),
    }


def device():
    """The device in words: the first accelerator, or the number of cores."""
    accelerators = [d for d in keras.distribution.list_devices() if "cpu" not in d]
    return accelerators[0] if accelerators else f"cpu, {os.cpu_count()} cores"


def warn_of_parts(settings, model):
    """Says what is doubtful about how parts of a training and the machine go together.

    Args:
        settings: Dictionary, the settings of the run.
        model: As `training_watch.never_begin` takes it.
    """
    slow = precision.why_slow(settings["precision"])
    if slow is not None:
        logging.warning(
            "With --precision=%s training will take many times as long as with "
            "float32: %s, so that it is emulated. --precision=auto takes what this "
            "machine computes in.",
            settings["precision"],
            slow,
        )
    epochs = settings["epochs"]
    attacked = any(attacks_in_epoch(each, settings, model) for each in range(epochs))
    if not attacked and "adversarial" in model.method.inputs:
        why = "The budget is 0 in each of the %d epoch(s)"
        otherwise = "--granularity=step, or --beta=0, the whole budget from the start"
        method = getattr(model.method, "method", model.method)  # that of AWP
        if getattr(method, "ce_epochs", 0) > epochs:
            why = "The first stage of --method=taet takes all of the %d epoch(s)"
            otherwise = "or that stage fewer, with ce_epochs in --method_options"
        logging.warning(
            f"{why}, so that there is no attack and the network will not be robust. "
            f"Give more --epochs, {otherwise}.",
            epochs,
        )
        return
    warn_of_what_never_begins(model, epochs)
    warn_of_balancing_twice(settings, model.method)
    warn_of_noise_that_tells(settings)


def warn_of_noise_that_tells(settings):
    """Says where N-FGSM's noise is of another size for each class."""
    if settings["attack"] != "n-fgsm":
        return
    if settings["budget"] == "robustlt":
        logging.warning(
            "With --attack=n-fgsm networks were more robust without RobustLT where it "
            "was measured (CIFAR10-LT, docs/results): train with --norobustlt too."
        )
    if settings["budget"] == "auto":
        logging.warning(
            "With --budget=auto the noise of --attack=n-fgsm tells the class by its "
            "size, and networks have learned to take noise for a rare class. "
            "--attack=n-fgsm-mean has noise of one size."
        )


def warn_of_balancing_twice(settings, method):
    """Says where more than one part of training makes up for rare classes."""
    balancing = [f"the loss of --method={settings['method']}"] * method.balances
    balancing += ["--balanced_sampling"] * settings["balanced_sampling"]
    if settings["class_weight"] != "none":
        balancing.append(f"--class_weight={settings['class_weight']}")
    if len(balancing) > 1:
        logging.warning(
            "%s each make up for how rare a class is: together they favour rare "
            "classes as much as the data favour frequent ones.",
            " and ".join(balancing),
        )


def warn_of_what_never_begins(model, epochs):
    """Says, in words of the flags, which parts so many epochs are too few for.

    Args:
        model: As `training_watch.never_begin` takes it.
        epochs: Integer.
    """
    sooner = ", or let it begin sooner, as --method_options can"
    for part, first in never_begin(model, epochs):
        logging.warning(
            "%s does not do its part in %d epoch(s): that begins with epoch %d, and "
            "this is training without it. Give more --epochs%s.",
            part,
            epochs,
            first + 1,
            "" if part in (model.budget, model.averaging) else sooner,
        )


def warn_of_no_statistics(settings, network):
    """Says where a network has no statistics that clean images could move."""
    layers = network._flatten_layers()
    if settings["batchnorm_statistics"] == "mixed" and not any(
        isinstance(layer, keras.layers.BatchNormalization) for layer in layers
    ):
        logging.warning(
            "--batchnorm_statistics=mixed does nothing but take time: %s has no batch "
            "normalisation.",
            settings["backbone"] or settings["model"],
        )


def announce(settings, data, model, folder):
    """Says what will be done and how long it will take.

    Returns:
        A `TimeLeft`.
    """
    steps = len(data.train)
    attack = settings["attack"].upper()
    if settings["pgd_steps"]:
        attack += f"-{settings['pgd_steps']}"
    print(f"{name_of(settings)} on {data}")
    print(
        f"  {settings['backbone'] or settings['model']}, "
        f"{model.network.count_params():,} parameters; "
        f"{counted(settings['epochs'], 'epoch')} of {counted(steps, 'step')} of "
        f"{counted(settings['batch_size'], 'image')}; {attack}, epsilon "
        f"{255 * settings['epsilon']:.3g}/255; {model.method}, {model.budget}; "
        f"{settings['precision']} on {device()}"
    )
    validation = len(data.validation) if data.validation else 0
    left = TimeLeft(settings, model, steps, validation)
    total = left()
    needed, there = memory.step_bytes(model, settings["batch_size"]), memory.of_device()
    of_memory = f", memory: {needed / 2**30:.2g} GiB" if needed else ""
    print(
        f"  Files: {folder}. Estimated time of training: {duration(total)}, and "
        f"what compiling and the evaluation take{of_memory}.",
        flush=True,
    )
    if needed and there and needed > there:
        logging.warning(
            "A step takes about %.1f GiB of memory, and %s has %.1f. Choose a smaller "
            "--batch_size, network or --image_size, or --precision=auto.",
            needed / 2**30,
            device(),
            there / 2**30,
        )
    warn_of_parts(settings, model)
    warn_of_no_statistics(settings, model.network)
    if total > 24 * 3600:
        logging.warning(
            "This will take about %s on %s. Choose a smaller preset (--preset=cpu or "
            "--preset=smoke) or a machine with a GPU.",
            duration(total),
            device(),
        )
    return left
