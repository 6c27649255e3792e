import csv
import io
import json
import os
import pathlib
import runpy
import subprocess
import sys
import types
import zipfile

import keras
import numpy as np
import pytest
from absl import app, flags
from PIL import Image
from test_repository import run_python
from tiny_data import write_cifar100, write_imagenet64, write_tiny_imagenet

import keras_robustlt as krl
from keras_robustlt import data as krl_data
from keras_robustlt import methods
from keras_robustlt.data import long_tail_arrays
from keras_robustlt.experiments import (
    devices,
    optimization,
    precision,
    presets,
    progress,
    train,
)
from keras_robustlt.experiments import flags as run_flags
from keras_robustlt.experiments import network as network_of_run
from keras_robustlt.experiments import run as one_run

pytestmark = pytest.mark.tensorflow

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"
# A run of seconds: two epochs of five steps.
SHORT = (
    "--data=digits",
    "--epochs=2",
    "--batch_size=64",
    "--model=small_resnet",
    "--pgd_steps=1",
    "--attacks=clean,pgd2",
)


def run_here(*arguments):
    """Runs `train` in this process, where the imports are done."""
    values = flags.FlagValues()
    train.define_flags(values)
    train.main(values(["train", *arguments]), values)


def read_csv(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def read_json(path):
    return json.loads(path.read_text("utf-8"))


# The tables


TABLES = {**presets.BY_NAME, "own": presets.OWN}


def test_training_that_diverges_ends():
    watch = progress.Divergence()
    watch.on_epoch_end(0, {"loss": 1e9})
    with pytest.raises(ValueError, match="diverged in epoch 3: its loss is nan"):
        watch.on_epoch_end(2, {"loss": float("nan")})


def test_every_setting_has_a_flag_or_is_used_by_its_name():
    modules = one_run, network_of_run, optimization
    source = "".join(pathlib.Path(m.__file__).read_text("utf-8") for m in modules)
    keys = {*presets.COMMON, "data", "model"}
    values = flags.FlagValues()
    run_flags.define_flags(values, TABLES, "somewhere")
    without_flag = keys - set(values)
    assert without_flag == {"data", "milestones", "momentum", "pixel_mean", "pixel_std"}
    for key in keys:
        assert f'settings["{key}"]' in source or f'"{key}"' in source, key
    for table in TABLES.values():
        for preset in table.presets:
            for method in presets.METHODS:
                assert set(table.settings(preset, {"method": method})) == keys


@pytest.mark.parametrize("data", TABLES)
def test_every_number_takes_its_default(data):
    values = flags.FlagValues()
    run_flags.define_flags(values, TABLES, "somewhere")
    for preset in TABLES[data].presets:
        for key, value in TABLES[data].settings(preset).items():
            if isinstance(value, (int, float)) and key in values:
                values[key].parse(str(value))


@pytest.mark.parametrize(
    "method, epochs, batch_size, pgd_steps, milestones, augmentation, head",
    [
        ("standard", 100, 128, 10, (75, 90), "base", "linear"),
        ("at", 100, 128, 10, (75, 90), "base", "linear"),
        ("at_bsl", 100, 128, 10, (75, 90), "aua", "linear"),
        ("awp", 200, 128, 10, (100, 150), "base", "linear"),
        ("at_bsl+awp", 200, 128, 10, (100, 150), "aua", "linear"),
        ("reat", 80, 128, 10, (60, 75), "base", "linear"),
        ("robal", 80, 64, 5, (60, 75), "base", "cosplus"),
        ("robal+awp", 200, 64, 5, (100, 150), "base", "cosplus"),
        ("taet", 100, 128, 10, (75, 90), "base", "linear"),
        ("trades", 100, 128, 10, (75, 90), "base", "linear"),
        ("mart", 100, 128, 10, (75, 90), "base", "linear"),
        ("ldam", 100, 128, 10, (75, 90), "base", "cosplus"),
    ],
)
def test_settings_of_methods(
    method, epochs, batch_size, pgd_steps, milestones, augmentation, head
):
    settings = presets.CIFAR10LT.settings("paper", {"method": method})
    assert settings["epochs"] == epochs
    assert settings["batch_size"] == batch_size
    assert settings["pgd_steps"] == pgd_steps
    reached = [share * epochs for share in settings["milestones"]]
    assert reached == pytest.approx(milestones)
    assert settings["augmentation"] == augmentation
    assert settings["head"] == head
    assert settings["learning_rate"] == 0.1
    assert settings["momentum"] == 0.9
    assert settings["weight_decay"] == 5e-4
    assert settings["epsilon"] == 8 / 255
    assert settings["model"] == "wrn-28-10"
    # The data set's own augmentation, where the method has none.
    other = presets.CIFAR100LT.settings("paper", {"method": method})
    assert other["augmentation"] == {"base": "base_rotation"}.get(
        augmentation, augmentation
    )


@pytest.mark.parametrize(
    "table, imbalance_ratio, num_classes, alpha, beta",
    [
        ("CIFAR10LT", 50, None, 0.3, {"taet": 1.0, "other": 0.8}),
        ("CIFAR100LT", 10, None, 0.4, {"other": 0.6}),
        (
            "TINYIMAGENETLT",
            10,
            20,
            0.4,
            {"at": 0.2, "awp": 0.2, "reat": 0.4, "robal": 0.4, "at_bsl": 0.6}
            | {"taet": 0.8, "at_bsl+awp": 0.6, "trades": 0.2, "mart": 0.2},
        ),
        ("IMAGENETLT", 50, 20, 0.3, {"at_bsl": 0.6, "at": 0.2}),
    ],
)
def test_settings_of_data_sets(table, imbalance_ratio, num_classes, alpha, beta):
    data = getattr(presets, table)
    methods = beta if "other" not in beta else set(presets.METHODS) - {"standard"}
    for preset in ("paper", "resnet18", "cpu", "smoke"):
        for method in methods:
            settings = data.settings(preset, {"method": method})
            assert settings["data"] == data.source
            assert settings["imbalance_ratio"] == imbalance_ratio
            assert settings["imbalance_type"] == "exp"
            assert settings["num_classes"] == num_classes
            assert settings["alpha"] == alpha
            assert settings["beta"] == beta.get(method, beta.get("other")), method


@pytest.mark.parametrize(
    "method, options",
    [
        ("at", {}),
        ("at_bsl", {"tau": 1.0}),
        ("awp", {"gamma": 0.005, "warmup_epochs": 0, "proxy": "optimizer"}),
        ("at_bsl+awp", {"tau": 1.0}),
        (
            "robal",
            {"margin": 0.1, "scale": 10, "tau_b": 1.5, "tau_m": 0.3, "beta": 6},
        ),
        ("reat", {}),
        ("taet", {"ce_epochs": 40, "alpha": 0.1, "beta": 0.1, "gamma": 0.1}),
        ("trades", {"beta": 6}),
        ("mart", {"beta": 5}),
        ("nuat", {"strength": 4.5, "growth": 0.9}),
        ("class_balanced", {"beta": 0.9999}),
        ("focal", {"gamma": 2}),
        ("ldam", {"max_margin": 0.5, "scale": 30}),
        ("logit_adjusted", {"tau": 1}),
    ],
)
def test_options_of_methods(method, options):
    settings = presets.CIFAR10LT.settings("paper", {"method": method})
    assert settings["method_options"] == options
    config = methods.get(method, **options).get_config()
    if "+" not in method:
        assert options.items() <= config.items()
        # What the class takes by itself is the same.
        assert methods.get(method).get_config() == config


@pytest.mark.parametrize(
    "table, preset, method, expected",
    [
        ("CIFAR10LT", "paper", "at_bsl", {"model": "wrn-28-10", "batch_size": 128}),
        ("CIFAR10LT", "resnet18", "at_bsl", {"model": "resnet18", "batch_size": 128}),
        (
            "CIFAR10LT",
            "fast",
            "at_bsl",
            {"model": "resnet18", "attack": "n-fgsm", "pgd_steps": None}
            | {"collapse_guard": True, "averaging": 0.9995, "warmup": 0.3},
        ),
        (
            "CIFAR10LT",
            "fast",
            "nuat",
            {"attack": "fgsm-bernoulli", "pgd_steps": None, "averaging": 0.9995}
            | {"augmentation": "base"},
        ),
        (
            "CIFAR10LT",
            "fast",
            "standard",
            {"attack": "pgd", "collapse_guard": False, "averaging": 0.9995}
            | {"augmentation": "base", "budget": "uniform", "alpha": 0.0, "beta": 0.0},
        ),
        (
            "CIFAR10LT",
            "strong",
            "at_bsl",
            {"model": "wrn-28-10", "schedule": "one_cycle", "averaging": 0.9995}
            | {"validation_fraction": 0.1, "keep": "best", "collapse_guard": False}
            | {"label_smoothing": 0.0},
        ),
        (
            "CIFAR10LT",
            "strong",
            "at",
            {"model": "wrn-28-10", "schedule": "one_cycle", "averaging": 0.9995}
            | {"validation_fraction": 0.1, "keep": "best", "augmentation": "base"}
            | {"label_smoothing": 0.1},
        ),
        (
            "CIFAR10LT",
            "smoke",
            "at_bsl",
            {"model": "wrn-10-1", "augmentation": "base", "epochs": 4}
            | {"batch_size": 64, "attacks": ["clean", "pgd20"], "test_examples": 500}
            | {"largest_class": 500},
        ),
        (
            "CIFAR10LT",
            "cpu",
            "at_bsl",
            {"model": "wrn-10-1", "augmentation": "base", "epochs": 16}
            | {"batch_size": 64},
        ),
        (
            "DIGITSLT",
            "default",
            "at_bsl",
            {"model": "small_resnet-16", "epsilon": 0.1, "augmentation": "none"}
            | {"epochs": 40, "batch_size": 32, "milestones": [], "alpha": 0.8},
        ),
    ],
)
def test_settings_of_presets(monkeypatch, table, preset, method, expected):
    monkeypatch.setattr(precision, "automatic", lambda: ("float32", ""))
    common = dict(
        method=method,
        budget="robustlt",
        alpha=0.3,
        beta=0.8,
        granularity="epoch",
        weighting="perturbation",
        batchnorm_statistics="adversarial",
        imbalance_ratio=50.0,
        imbalance_type="exp",
        largest_class=None,
        balanced_sampling=False,
        validation_fraction=0.0,
        epsilon=8 / 255,
        pgd_steps=10,
        augmentation="aua",
        epochs=100,
        learning_rate=0.1,
        milestones=[0.75, 0.9],
        momentum=0.9,
        weight_decay=5e-4,
        gradient_clipping=None,
        averaging=None,
        head="linear",
        precision="float32",
        attacks=["clean", "pgd20", "cw20"],
        test_examples=None,
        pixel_mean=None,
    )
    settings = getattr(presets, table).settings(preset, {"method": method})
    expected = {**common, **expected}
    assert {key: settings[key] for key in expected} == expected


@pytest.mark.parametrize(
    "cpu, capabilities, expected",
    [
        ("flags : avx2 avx512_bf16", None, "mixed_bfloat16"),
        ("flags : avx2", None, "float32"),
        ("flags : avx512_bf16", "9.0\n8.0\n", "mixed_bfloat16"),
        ("flags : avx512_bf16", "8.0\n7.5\n", "float32"),
        ("flags : avx512_bf16", "No devices were found", "float32"),
    ],
)
def test_precision_of_the_machine(monkeypatch, tmp_path, cpu, capabilities, expected):
    (tmp_path / "cpuinfo").write_text(cpu)
    answer = types.SimpleNamespace(stdout=capabilities)
    monkeypatch.setattr(precision, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(precision.jobs, "gpus", lambda: ["0"] if capabilities else [])
    monkeypatch.setattr(precision.glob, "glob", lambda pattern: [])
    monkeypatch.setattr(precision.subprocess, "run", lambda *args, **options: answer)
    monkeypatch.setattr(precision, "automatic", precision.automatic.__wrapped__)
    assert precision.automatic()[0] == expected
    slow = precision.why_slow("mixed_bfloat16")
    told = "No devices" not in (capabilities or "")
    assert bool(slow) == (expected == "float32" and told)
    assert bool(precision.why_slow("mixed_float16")) == (capabilities is None)
    assert precision.why_slow("float32") is None
    assert from_flags(presets.CIFAR10LT, "--preset=cpu")["precision"] == expected
    given = ("--preset=cpu", "--precision=float32")
    assert from_flags(presets.CIFAR10LT, *given)["precision"] == "float32"


# The flags


def from_flags(table, *given):
    """The settings of a recipe that is started with these flags."""
    values = flags.FlagValues()
    run_flags.define_flags(values, {table.source: table}, "somewhere")
    values(["recipe", *given])
    return run_flags.settings_from_flags(values, table)


def test_what_comes_later_wins():
    def settings(*given):
        return from_flags(presets.TINYIMAGENETLT, *given)

    # Data set over what all share; method over data set; beta of the two.
    awp = settings("--method=awp", "--robustlt")
    assert (awp["alpha"], awp["beta"], awp["epochs"]) == (0.4, 0.2, 200)
    # Preset over method, and what is a share of the epochs goes along.
    cpu = settings("--method=taet", "--preset=cpu")
    assert (cpu["epochs"], cpu["beta"], cpu["batch_size"]) == (16, 0.8, 64)
    assert cpu["method_options"]["ce_epochs"] == 6
    # Flags over all.
    own = settings(
        "--method=taet",
        "--preset=cpu",
        "--epochs=50",
        "--beta=0.5",
        "--method_options=gamma=0.2",
        "--num_classes=200",
        "--attacks=clean,pgd50",
        "--ema=0.999",
        "--head=cosine",
    )
    assert (own["epochs"], own["beta"], own["num_classes"]) == (50, 0.5, 200)
    assert own["method_options"] == {
        "ce_epochs": 20,
        "alpha": 0.1,
        "beta": 0.1,
        "gamma": 0.2,
    }
    assert own["attacks"] == ["clean", "pgd50"]
    assert (own["averaging"], own["head"]) == (0.999, "cosine")
    options = settings("--method=taet", "--method_options=ce_epochs=7")
    assert options["method_options"]["ce_epochs"] == 7
    awp = settings("--method=awp", "--method_options=proxy=gradient,gamma=1e-3")
    assert awp["method_options"]["proxy"] == "gradient"
    assert awp["method_options"]["gamma"] == 0.001
    # The tables are as they were.
    assert settings("--method=taet")["method_options"]["gamma"] == 0.1


@pytest.mark.parametrize(
    "given, optimizer, schedule, rate",
    [
        ([], "adamw", "cosine", 5e-4),
        (["--optimizer=sgd"], "sgd", "cosine", 0.1),
        (["--schedule=step", "--learning_rate=0.01"], "adamw", "step", 0.01),
        (["--preset=strong"], "adamw", "one_cycle", 5e-4),
    ],
)
def test_what_a_backbone_is_trained_with(given, optimizer, schedule, rate):
    settings = from_flags(presets.CIFAR10LT, "--backbone=mobilenet_v2", *given)
    assert settings["optimizer"] == optimizer and settings["schedule"] == schedule
    assert settings["learning_rate"] == rate


def test_budgets_by_flag():
    def settings(*given):
        return from_flags(presets.CIFAR10LT, "--method=at", *given)

    def rule(found):
        return presets.name_of(found), one_run.budget(found).get_config()

    ours = {"alpha": 0.3, "beta": 0.8, "granularity": "epoch"}
    ours["weighting"] = "perturbation"
    for flag in ((), ("--robustlt",), ("--budget=robustlt",)):
        assert rule(settings(*flag)) == ("AT + RobustLT", ours)
    for flag in ("--norobustlt", "--budget=uniform"):
        base = settings(flag)
        assert (base["alpha"], base["beta"]) == (0.0, 0.0)
        assert rule(base) == ("AT", {})
    assert rule(settings("--budget=cfa"))[0] == "AT + CFA"
    auto = settings("--budget=auto", "--adaptive_steps")
    assert rule(auto) == ("AT + RobustLT auto", {})
    assert rule(settings("--budget=dafa", "--norobustlt"))[0] == "AT + DAFA"
    assert settings("--method=standard")["budget"] == "uniform"
    assert rule(settings("--alpha=0"))[0] == "AT + AIW"
    assert rule(settings("--beta=0"))[0] == "AT + CPB"


def test_names_of_runs():
    def name(**given):
        return presets.name_of(presets.CIFAR10LT.settings("paper", given))

    assert name() == "AT-BSL + RobustLT"
    assert name(method="at_bsl+awp") == "AT-BSL + AWP + RobustLT"
    assert name(method="robal", budget="uniform") == "RoBal"
    assert name(method="standard") == "STANDARD"
    assert name(method="nuat") == "NuAT + RobustLT"
    assert name(attack="n-fgsm") == "AT-BSL + RobustLT + N-FGSM"
    assert name(method="at", averaging=0.999) == "AT + RobustLT + EMA"
    fawa = name(method="at", budget="cfa", averaging="fawa", validation_fraction=0.2)
    assert fawa == "AT + CFA + FAWA"


def test_training_attacks_by_flag():
    from keras_robustlt.attacks import FGSMRS, NFGSM, PGD, UDR

    for flag, attack in {
        (): PGD(0.1),
        ("--attack=pgd", "--attack_steps=3"): PGD(0.1, 3),
        ("--attack=fgsm-rs",): FGSMRS(0.1),
        ("--attack=n-fgsm", "--method=robal"): NFGSM(0.1),
        ("--attack=udr", "--method=robal"): UDR(0.1, 5),
    }.items():
        found = one_run.training_attack(from_flags(presets.DIGITSLT, *flag))
        assert repr(found) == repr(attack)


@pytest.mark.parametrize("held_out", [0.0, 0.2])
def test_images_of_every_class_are_watched(held_out):
    flag = f"--validation_fraction={held_out}"
    settings = from_flags(presets.DIGITSLT, "--attack=n-fgsm", flag)
    assert settings["collapse_guard"]
    data = one_run.load_data(settings, None)
    guard = one_run.collapse_guard(settings, data)
    counts = np.bincount(guard._given_labels, minlength=10)
    if held_out:  # all of the images held out, a part of each class
        np.testing.assert_allclose(counts, data.class_counts / 4, atol=1.5)
    else:
        assert counts.sum() == 200 and counts.min() == data.class_counts.min()


@pytest.mark.slow
def test_a_run_with_a_fast_attack(tmp_path, capsys):
    fast = [flag for flag in SHORT if "pgd_steps" not in flag]
    run_here(*fast, "--attack=n-fgsm", "--ema=0.9", f"--workdir={tmp_path}")
    assert "N-FGSM, epsilon" in capsys.readouterr().out
    name = read_json(tmp_path / "config.json")["name"]
    assert name == "AT-BSL + RobustLT + N-FGSM + EMA"
    rows = read_csv(tmp_path / "history.csv")
    assert len(rows) == 2
    for row in rows:
        assert 0 <= float(row["guard_pgd_accuracy"]) <= 1
    results = read_json(tmp_path / "results.json")
    assert results["curve"]["attack"]["steps"] == 10


def test_flags_reach_the_settings():
    """Of every flag, by its name, and of those that change their values."""
    found = from_flags(presets.DIGITSLT, "--attack_steps=3", "--ema=0.9", "--seed=7")
    assert (found["pgd_steps"], found["averaging"], found["seed"]) == (3, 0.9, 7)
    given = {"num_classes": 5, "image_size": 16, "largest_class": 9, "epsilon": 0.05}
    found = from_flags(presets.CIFAR10LT, *(f"--{k}={v}" for k, v in given.items()))
    assert {key: found[key] for key in given} == given


@pytest.mark.parametrize(
    ("data", "table"),
    [
        ("digits", presets.DIGITSLT),
        ("digitslt", presets.DIGITSLT),
        ("cifar10", presets.CIFAR10LT),
        ("cifar100lt", presets.CIFAR100LT),
        ("tinyimagenet", presets.TINYIMAGENETLT),
        ("imagenet", presets.IMAGENETLT),
        ("imagenet64", presets.IMAGENETLT),
    ],
)
def test_data_by_name(data, table):
    assert presets.table_of(data) is table


def test_data_by_path(tmp_path):
    table = presets.table_of(str(tmp_path))
    settings = table.settings("cpu")
    assert settings["data"] == str(tmp_path)
    assert settings["imbalance_ratio"] is None
    with pytest.raises(ValueError, match="--data=nowhere is neither one of digits, "):
        presets.table_of("nowhere")


def test_no_data(tmp_path):
    flags = ("--data=cifar10", "--data_dir=nowhere", f"--workdir={tmp_path / 'run'}")
    with pytest.raises(SystemExit, match="^error: .*data_dir='nowhere'"):
        run_here(*flags)
    assert not (tmp_path / "run").exists()


# The recipes, as scripts


def run_recipe(monkeypatch, capsys, name, *arguments):
    monkeypatch.setattr(sys, "argv", [f"{name}.py", *arguments])
    runpy.run_path(str(RECIPES / f"{name}.py"), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.parametrize("data", list(presets.BY_NAME))
def test_a_recipe_is_train_with_its_data(monkeypatch, capsys, data):
    printed = run_recipe(monkeypatch, capsys, f"{data}lt", "--print_settings")
    assert json.loads(printed) == train.settings_of([f"--data={data}"])
    assert len((RECIPES / f"{data}lt.py").read_text("utf-8").splitlines()) <= 40


def test_help(monkeypatch, capsys):
    printed = run_recipe(monkeypatch, capsys, "digitslt", "--help")
    assert "without and with RobustLT" in printed
    printed = " ".join(printed.split())
    assert "Strength of class-wise perturbation balancing, 0 to 1. Default: 0.8" in (
        printed
    )
    assert "Default: 40. By method" not in printed  # the preset's, for all methods
    assert (
        "pgd or udr. Default: 10. By method (default): 5 (robal), none (nuat)."
        in printed
    )


# What is built from the settings


def built(**given):
    """The model of a run on digits, 7 steps an epoch."""
    settings = presets.DIGITSLT.settings("default", given)
    settings.update(seed=0, initial_weights=None)
    data = types.SimpleNamespace(
        num_classes=3,
        input_shape=(8, 8, 1),
        class_counts=np.array([9, 5, 2]),
    )
    return settings, one_run.build_model(settings, data, 7)


def test_optimizer():
    milestones = presets.METHODS["reat"]["milestones"]
    _, model = built(epochs=80, milestones=milestones)
    config = model.optimizer.get_config()
    assert config["nesterov"] and config["momentum"] == 0.9
    assert config["weight_decay"] == 5e-4 and config["global_clipnorm"] is None
    rate = model.optimizer._learning_rate
    for epoch, expected in ((59, 0.1), (60, 0.01), (74, 0.01), (75, 0.001)):
        first = keras.ops.convert_to_tensor(7 * epoch)
        last = keras.ops.convert_to_tensor(7 * epoch + 6)
        assert [float(rate(first)), float(rate(last))] == pytest.approx(2 * [expected])


def test_vision_transformers_clip_gradients():
    settings = presets.CIFAR10LT.settings("paper", {"model": "vit-tiny"})
    assert settings["gradient_clipping"] == 1.0
    own = {"model": "vit-tiny", "gradient_clipping": 2.0}
    assert presets.CIFAR10LT.settings("paper", own)["gradient_clipping"] == 2.0
    _, model = built(gradient_clipping=1.0)
    assert model.optimizer.global_clipnorm == 1.0


def test_pixels_are_normalized_by_the_data_set():
    pixels = {"pixel_mean": [0.25], "pixel_std": [0.5]}
    _, model = built(**pixels)
    layer = model.network.get_layer("normalization")
    assert np.ravel(layer.mean) == pytest.approx(0.25)
    assert np.ravel(layer.variance) == pytest.approx(0.25)
    _, model = built(model="wrn-10-1")  # grey: not those of CIFAR-10
    assert np.ravel(model.network.get_layer("normalization").mean) == 0
    for data in (presets.CIFAR100LT, presets.TINYIMAGENETLT, presets.IMAGENETLT):
        assert len(data.row["pixel_mean"]) == len(data.row["pixel_std"]) == 3


@pytest.mark.parametrize(
    "given, costs",
    [
        (dict(method="standard"), [3] * 5),
        (dict(method="at", budget="uniform"), [23] * 5),
        (dict(method="at"), [3, 23, 23, 23, 23]),
        (dict(method="at", budget="cfa"), [23] * 5),
        (dict(method="at", budget="auto"), [3, 23, 23, 23, 23]),
        (dict(method="at", granularity="step"), [23] * 5),
        (dict(method="at", weighting="loss"), [26] * 5),
        (dict(method="at", weighting="both"), [6, 26, 26, 26, 26]),
        (dict(method="at_bsl", batchnorm_statistics="mixed"), [4, 24, 24, 24, 24]),
        (dict(method="awp"), [6, 26, 26, 26, 26]),
        (dict(method="reat"), [3, 23, 23, 23, 23]),
        (dict(method="mart"), [6, 26, 26, 26, 26]),
        (dict(method="robal"), [6, 16, 16, 16, 16]),
        (dict(method="trades"), [6, 27, 27, 27, 27]),
        (dict(method="trades+awp"), [12, 33, 33, 33, 33]),
        (dict(method="taet"), [3, 23, 23, 23, 23]),
        (dict(method="taet+awp"), [6, 26, 26, 26, 26]),
    ],
)
def test_time_left_knows_what_methods_cost(monkeypatch, given, costs):
    monkeypatch.setattr(progress, "_forward_seconds", lambda *_: 0.5)
    layers = [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(3)]
    network = keras.Sequential(layers)
    monkeypatch.setattr(one_run.krl.networks, "get", lambda *_, **__: network)
    settings, model = built(epochs=5, **given)
    left = progress.TimeLeft(settings, model, steps_per_epoch=7)
    assert left.costs == costs
    assert left() == 0.5 * 7 * sum(costs)
    left.observe(0, seconds=2 * costs[0])
    assert left(1) == 2 * sum(costs[1:])
    assert left(5) == 0
    # Validation: images, 20 steps and the result of the attack, on 2 batches of 7.
    validated = progress.TimeLeft(settings, model, 7, validation_steps=2)
    assert validated.costs[0] == pytest.approx(costs[0] + 42 * 2 / 7)


@pytest.mark.parametrize(
    "given, is_said",
    [
        (dict(epochs=1), True),
        (dict(epochs=2), False),
        (dict(epochs=1, beta=0.0), False),
        (dict(epochs=1, granularity="step"), False),
        (dict(epochs=1, method="standard"), False),
    ],
)
def test_training_without_an_attack_is_said_in_flags(monkeypatch, given, is_said):
    said = []
    monkeypatch.setattr(one_run.logging, "warning", lambda text, *_: said.append(text))
    settings, model = built(**given)
    data = types.SimpleNamespace(train=[None] * 3, validation=None)
    one_run.announce(settings, data, model, "run")
    assert [("there is no attack" in text, "--epochs" in text) for text in said] == (
        [(True, True)] * is_said
    )


def test_a_first_stage_that_never_ends_is_said_in_flags(monkeypatch):
    said = []
    monkeypatch.setattr(one_run.logging, "warning", lambda text, *_: said.append(text))
    options = {"ce_epochs": 3}
    one_run.warn_of_parts(*built(epochs=2, method="taet", method_options=options))
    options["ce_epochs"] = 2  # the last epoch is of the second stage
    one_run.warn_of_parts(*built(epochs=2, method="taet", method_options=options))
    (text,) = said
    assert "first stage of --method=taet" in text and "--beta" not in text


def test_weights_that_are_no_numbers_are_no_start(tmp_path):
    settings, model = built()
    model.network.layers[-1].kernel.assign(model.network.layers[-1].kernel * np.nan)
    model.network.save(tmp_path / "network.keras")
    settings["initial_weights"] = str(tmp_path / "network.keras")
    with pytest.raises(ValueError, match="--initial_weights=.* has diverged"):
        one_run.build_network(settings, None)


def test_what_begins_after_training_is_said_in_flags(monkeypatch):
    said = []
    monkeypatch.setattr(
        one_run.logging, "warning", lambda text, *values: said.append(text % values)
    )
    data = types.SimpleNamespace(train=[None] * 3, validation=None)
    for epochs in (10, 11):
        settings, model = built(epochs=epochs, method="cgr", beta=0.0)
        one_run.announce(settings, data, model, "run")
    (text,) = said
    assert "CGR" in text and "begins with epoch 11" in text and "--epochs" in text
    assert "--method_options can" in text
    said.clear()
    settings, model = built(epochs=1, budget="cfa")
    one_run.announce(settings, data, model, "run")
    (text,) = said
    assert "CFA" in text and "--epochs" in text and "--method_options" not in text


# Runs

# Three trainings in a process of its own, where operations repeat themselves exactly:
# one to its end, one that is told to end after an epoch, and one that goes on with it
# and is not evaluated.
RUNS = """
import os, signal
from absl import flags
from keras_robustlt.experiments import run as one_run
from keras_robustlt.experiments import train
from keras_robustlt.experiments.progress import TrainingProgress

def run(workdir, *arguments):
    values = flags.FlagValues()
    train.define_flags(values)
    workdir = f"--workdir={{workdir}}"
    train.main(values(["train", "--deterministic", *arguments, workdir]), values)

print("== whole")
run("whole", *{short})
print("== interrupted")
on_epoch_end = TrainingProgress.on_epoch_end

def end_here(self, epoch, logs=None):
    on_epoch_end(self, epoch, logs)
    os.kill(os.getpid(), signal.SIGTERM)

TrainingProgress.on_epoch_end = end_here
try:
    run("parts", *{short})
except SystemExit as ended:
    print("exit", ended.code, os.listdir("parts"))
TrainingProgress.on_epoch_end = on_epoch_end
one_run.evaluate = lambda *arguments: None
print("== resumed")
run("parts", *{short})
"""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of the runs, and what each part of them printed."""
    folder = tmp_path_factory.mktemp("recipes")
    result = subprocess.run(
        [sys.executable, "-c", RUNS.format(short=SHORT)],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "tensorflow", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert result.returncode == 0, result.stdout
    parts = (part.partition("\n") for part in result.stdout.split("== ")[1:])
    return folder, {name: printed for name, _, printed in parts}


@pytest.fixture(scope="module")
def finished(runs):
    """The directory of the run that nobody interrupted, and what it printed."""
    folder, printed = runs
    return folder / "whole", printed["whole"]


def test_run_says_what_it_does(finished):
    workdir, printed = finished
    assert "AT-BSL + RobustLT on LongTailData(digits, 314 training images" in printed
    assert "2 epochs of 5 steps of 64 images" in printed
    assert "Estimated time of training" in printed
    assert "pgd2: chunk 1/1, done in" in printed
    assert printed.count("adversarial_accuracy: training images under the") == 1
    assert "epoch 2/2" in printed and "left: 0 s" in printed
    assert "attack" in printed and "pgd2" in printed
    assert f"Files: {workdir.name}" in printed


@pytest.mark.parametrize(
    "program, expected",
    [
        ("/somewhere/keras_robustlt/__main__.py", "python -m keras_robustlt train --x"),
        ("recipes/digitslt.py", "python recipes/digitslt.py train --x"),
    ],
)
def test_commands_do_not_say_where_the_package_is(program, expected):
    assert one_run.command_of([program, "train", "--x"]) == expected


def test_files_of_a_run(finished):
    workdir, _ = finished
    config = json.loads((workdir / "config.json").read_text())
    assert config["settings"]["epochs"] == 2
    assert config["settings"]["alpha"] == 0.8
    assert config["name"] == "AT-BSL + RobustLT"
    assert len(config["class_counts"]) == 10
    assert {"keras", "keras_robustlt", "tensorflow"} <= set(config["versions"])
    history = read_csv(workdir / "history.csv")
    assert [row["epoch"] for row in history] == ["0", "1"]
    assert {"loss", "adversarial_accuracy", "iteration_weight"} <= set(history[0])
    schedule = read_csv(workdir / "schedule.csv")
    assert [float(row["iteration_weight"]) for row in schedule] == [0, 0.625]
    assert len(schedule[0]) == 12
    page = (workdir / "report.html").read_text("utf-8")
    assert "AT-BSL + RobustLT" in page and "Not on this page" not in page
    assert (workdir / "checkpoints" / "training_state.npz").exists()
    for name in ("schedule.png", "accuracy.png"):
        assert (workdir / name).read_bytes().startswith(b"\x89PNG")
    results = json.loads((workdir / "results.json").read_text())
    assert list(results["attacks"]) == ["clean", "pgd2"]
    for entry in results["attacks"].values():
        assert {"all", "tail", "balanced", "worst", "per_class"} <= set(entry)
        assert len(entry["per_class"]) == 10
    assert results["settings"]["examples"] == 600
    assert results["training"] == config["settings"]
    assert results["seed"] == 102


def test_network_of_a_run_needs_only_keras(finished):
    workdir, _ = finished
    path = workdir / "network.keras"
    # That such files load where the package is not is test_networks's.
    with zipfile.ZipFile(path) as archive:
        assert b"keras_robustlt" not in archive.read("config.json")
    network = keras.saving.load_model(path)
    _, (x, y), _ = krl_data.long_tail_arrays("digits", seed=102)
    accuracy = np.mean(network.predict(x, verbose=0).argmax(axis=1) == y)
    expected = read_json(workdir / "results.json")
    assert accuracy == pytest.approx(expected["attacks"]["clean"]["all"])


@pytest.mark.filterwarnings("ignore::keras_robustlt.RobustnessWarning")
def test_an_evaluation_goes_on_with_what_is_done(finished, tmp_path, monkeypatch):
    workdir, _ = finished
    settings = json.loads((workdir / "config.json").read_text())["settings"]
    data = one_run.load_data(settings, None)
    network = keras.saving.load_model(workdir / "network.keras")

    def evaluate():
        one_run.evaluate(network, settings, data, tmp_path)

    def fails(*arguments, **options):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(one_run, "probe", fails)
        with pytest.raises(MemoryError):
            evaluate()
    assert not (tmp_path / "results.json").exists()
    examples = types.SimpleNamespace(to_npz=lambda path: None)
    monkeypatch.setattr(krl.attacks.PGD, "starting_point", fails)
    monkeypatch.setattr(one_run, "probe", lambda *arguments: (None, examples))
    monkeypatch.setattr(krl, "report", lambda folder, path: path)
    evaluate()
    results = krl.EvaluationResults.from_json(tmp_path / "results.json")
    there = krl.EvaluationResults.from_json(workdir / "results.json")
    assert results["pgd2"]["per_class"] == there["pgd2"]["per_class"]
    assert not (tmp_path / "evaluation.npz").exists()


def test_other_settings_in_the_same_directory(finished):
    workdir, _ = finished
    before = {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()}
    message = "(?s)holds a run with other settings.*alpha: 0.8 there, 0.5 now"
    with pytest.raises(SystemExit, match=message):
        run_here(*SHORT, "--alpha=0.5", f"--workdir={workdir}")
    assert {p: p.read_bytes() for p in workdir.rglob("*") if p.is_file()} == before


def test_interrupted_run_goes_on_as_if_nothing_had_been(runs):
    folder, printed = runs
    assert (
        "\nStopped. Started again, the same command goes on from here.\n"
        in (printed["interrupted"])
    )
    assert "exit 143" in printed["interrupted"]
    assert "epoch 1/2" in printed["interrupted"]
    assert "results.json" not in printed["interrupted"]
    assert "lock" not in printed["interrupted"]
    assert "epoch 1/2" not in printed["resumed"] and "epoch 2/2" in printed["resumed"]
    whole, parts = folder / "whole", folder / "parts"
    for name in ("history.csv", "schedule.csv"):
        assert (whole / name).read_text() == (parts / name).read_text()
    states = (each / "checkpoints" / "training_state.npz" for each in (whole, parts))
    with np.load(next(states)) as one, np.load(next(states)) as other:
        assert set(one) == set(other)
        for name in set(one) - {"meta"}:
            np.testing.assert_array_equal(one[name], other[name])


def test_refused_where_another_process_is_at_it(monkeypatch, finished):
    workdir, _ = finished
    tensorflow = pytest.importorskip("tensorflow")
    # Not for the tests that come after this one.
    monkeypatch.setattr(
        tensorflow.config.experimental, "enable_op_determinism", lambda: None
    )
    with one_run.workdir.held(workdir):
        with pytest.raises(SystemExit, match="is in use, by process"):
            run_here(*SHORT, "--deterministic", f"--workdir={workdir}")


def test_test_examples_are_of_all_classes():
    settings = presets.DIGITSLT.settings("default", {"test_examples": 100})
    settings.update(seed=102)
    x, y = one_run.load_data(settings, None).test
    assert x.shape == (100, 8, 8, 1)
    assert np.bincount(y).tolist() == [10] * 10


def test_skew_and_drift_look_at_training_images_as_they_are(tmp_path):
    settings = from_flags(presets.DIGITSLT, "--skew_and_drift", "--augmentation=base")
    probe = one_run.skew_and_drift(settings, None, tmp_path)
    (x, _), _, _ = long_tail_arrays("digits", seed=102)
    known = {image.tobytes() for image in x}
    assert len(probe.images) == 200 and len(set(probe._given_labels)) == 10
    assert {image.tobytes() for image in probe.images} <= known


def test_a_folder_that_is_not_there_is_said_in_the_flag_of_the_recipe():
    values = flags.FlagValues()
    flags.DEFINE_string("data_dir", "nowhere", "", flag_values=values)
    values.mark_as_parsed()
    with pytest.raises(app.UsageError, match="^--data_dir=nowhere is neither"):
        train._own_images(values)


@pytest.mark.parametrize("error", [OSError("truncated"), ValueError("not there")])
def test_the_best_weights_are_looked_at_before_training(monkeypatch, tmp_path, error):
    def fails(*arguments, **options):
        raise error

    settings = from_flags(presets.DIGITSLT, "--keep=best", "--validation_fraction=0.2")
    model = types.SimpleNamespace(load_weights=fails)  # it cannot train
    data = types.SimpleNamespace(class_names=["a", "b"])
    monkeypatch.setattr(one_run, "announce", None)
    state = tmp_path / one_run.workdir.STATE
    state.parent.mkdir()
    state.write_text("")
    message = f"best.weights.h5, .* cannot be read .{error}.*Put a copy of it back, or"
    with pytest.raises(ValueError, match=message):
        one_run.train(settings, data, model, tmp_path)


def test_a_full_disk(monkeypatch, tmp_path):
    def run(*arguments):
        raise OSError(28, "No space left on device", "somewhere")

    monkeypatch.setattr(one_run, "run", run)
    message = (
        "^error: .*No space left on device: 'somewhere'. Started again, the same "
        "command goes on from what is done in .*run.$"
    )
    with pytest.raises(SystemExit, match="^error: .*No space.*: 'somewhere'$"):
        run_here(*SHORT, f"--workdir={tmp_path / 'run'}")
    (tmp_path / "run").mkdir()
    with pytest.raises(SystemExit, match=message):
        run_here(*SHORT, f"--workdir={tmp_path / 'run'}")
    # Where nothing is written nothing goes on.
    monkeypatch.setattr(train, "_check_without_training", run)
    with pytest.raises(SystemExit, match="^error: .*No space.*: 'somewhere'$"):
        run_here(*SHORT, f"--workdir={tmp_path / 'run'}", "--dry_run")


SMALL_DATA = {
    "cifar100": lambda root: write_cifar100(root, num_train=2),
    "tinyimagenet": write_tiny_imagenet,
    "imagenet": write_imagenet64,
}


@pytest.mark.slow  # test_own_images.py has a run on files among the quick ones
@pytest.mark.parametrize(
    "data, name, counts, given",
    [
        (
            "cifar100",
            "RoBal + RobustLT",
            [2] * 50 + [1] * 50,
            ["--method=robal", "--imbalance_type=step", "--model=small_resnet"]
            + ["--granularity=step"],
        ),
        (
            "tinyimagenet",
            "TAET + UDR",
            [3, 1, 1],
            ["--method=taet", "--norobustlt", "--num_classes=3"]
            + ["--model=small_resnet", "--attack=udr"],
        ),
        (
            "imagenet",
            "AT + CFA + EMA",
            [3, 1],
            ["--method=at", "--budget=cfa", "--ema=0.9", "--num_classes=2"]
            + ["--batch_size=2", "--skew_and_drift"],
        ),
    ],
)
def test_data_sets(monkeypatch, tmp_path, data, name, counts, given):
    SMALL_DATA[data](tmp_path)
    models = []
    build_model = one_run.build_model

    def keep_model(*arguments):
        models.append(build_model(*arguments))
        return models[-1]

    monkeypatch.setattr(one_run, "build_model", keep_model)
    run_here(
        f"--data={data}",
        "--preset=smoke",
        f"--data_dir={tmp_path}",
        f"--workdir={tmp_path / 'run'}",
        f"--imbalance_ratio={2 if data == 'cifar100' else 3}",
        f"--largest_class={counts[0]}",
        "--epochs=1",
        "--pgd_steps=1",
        "--attacks=clean",
        *given,
    )
    config = read_json(tmp_path / "run" / "config.json")
    assert config["name"] == name
    assert config["class_counts"] == counts
    results = read_json(tmp_path / "run" / "results.json")
    assert np.isfinite(results["attacks"]["clean"]["all"])
    assert len(results["attacks"]["clean"]["per_class"]) == len(counts)
    history = read_csv(tmp_path / "run" / "history.csv")[0]
    assert np.isfinite(float(history["loss"]))
    if "--skew_and_drift" in given:  # on the training images, one of each class here
        row = read_csv(tmp_path / "run" / "skew_and_drift.csv")[0]
        assert row["skew"] == history["skew"] and float(row["robust_risk"]) > 0
    # The average of the weights where there is one, and Keras's layers alone.
    saved = keras.saving.load_model(tmp_path / "run" / "network.keras")
    network = models[0].inference_network
    assert (network is models[0].network) == ("EMA" not in name)
    x = np.random.default_rng(0).random((2, *network.input_shape[1:]), "float32")
    expected = keras.ops.convert_to_numpy(network(x))
    np.testing.assert_allclose(saved(x), expected, rtol=1e-4, atol=1e-5)
    if network is not models[0].network:
        assert not np.allclose(models[0].network(x), expected, rtol=1e-3)


class ClosedAtTheEnd(io.StringIO):
    """A terminal that is gone when the results come."""

    def write(self, text):
        if "accuracy in %" in text:
            raise BrokenPipeError
        return super().write(text)


@pytest.mark.slow
def test_folder_of_images(monkeypatch, tmp_path):
    """Colours of one's own, as many as there are; all is written before it is shown."""
    for name, count in (("blue", 6), ("red", 3)):
        folder = tmp_path / "colours" / name
        folder.mkdir(parents=True)
        for index in range(count):
            image = np.zeros((12, 10, 3), np.uint8)
            image[..., 2 if name == "blue" else 0] = 200 + index
            Image.fromarray(image).save(folder / f"{index}.png")
    monkeypatch.setattr(sys, "stdout", ClosedAtTheEnd())
    with pytest.raises(BrokenPipeError):
        run_here(
            f"--data={tmp_path / 'colours'}",
            f"--workdir={tmp_path / 'run'}",
            "--model=small_resnet",
            "--preset=cpu",
            "--nocompare",
            "--budget=uniform",
            "--image_size=8",
            "--augmentation=none",
            "--epochs=1",
            "--pgd_steps=1",
            "--attacks=clean",
        )
    config = read_json(tmp_path / "run" / "config.json")
    assert config["class_names"] == ["blue", "red"]
    assert config["class_counts"] == [5, 2]  # the others are held out for the test
    network = keras.saving.load_model(tmp_path / "run" / "network.keras")
    assert network.input_shape == (None, 8, 8, 3)
    for name in ("results.json", "report.html"):
        assert (tmp_path / "run" / name).exists()


def test_processes_are_on_their_own_after_training(monkeypatch):
    jax = pytest.importorskip("jax")
    ended = []
    monkeypatch.setattr(jax.distributed, "shutdown", lambda: ended.append(1))
    devices.leave("none")
    devices.leave("jax")
    assert not ended  # there is one process
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    devices.leave("jax")
    assert ended


@pytest.mark.parametrize(
    ("distribute", "count", "batch_size", "counts", "message"),
    [
        ("none", 2, 4, [9], None),
        ("mirrored", 2, 4, [9], "the 2 devices .* of 9 images: .* such as 5"),
        ("mirrored", 2, 4, [12, 9], "a batch of 12 or 9 images"),
        ("mirrored", 2, 4, [10], None),
        ("mirrored", 3, 2, [9], "such as 3"),
        ("mirrored", 3, 4, [11], "such as 6"),  # each takes two of the four
        ("mirrored", 3, 4, [2], "or use fewer devices"),
        ("multiworker", 2, 4, [9], "of --distribute=multiworker"),
        ("multiworker", 3, 4, [11], None),
        ("jax", 3, 2, [9], "no equal parts for the 3 devices .* such as 3"),
        ("jax", 2, 4, [9], None),  # the last batch is left out
    ],
)
def test_batches_that_do_not_reach_all_devices(
    monkeypatch, distribute, count, batch_size, counts, message
):
    monkeypatch.setattr(devices, "_count", lambda distribute: count)
    if message is None:
        devices.check_batches(distribute, batch_size, counts)
        return
    with pytest.raises(ValueError, match=f"--batch_size={batch_size} .*{message}"):
        devices.check_batches(distribute, batch_size, counts)


@pytest.mark.parametrize(
    ("cluster", "task", "is_right"),
    [
        ({"worker": ["a:1", "b:1"]}, {"type": "worker", "index": 1}, True),
        ({"chief": ["a:1"], "worker": ["b:1"]}, {"type": "chief", "index": 0}, True),
        ({"worker": ["a:1"]}, {"type": "worker", "index": 1}, False),
        ({"worker": ["a:1"]}, {"type": "worker", "index": "0"}, False),
        ({"worker": ["a:1"]}, {"type": "chief", "index": 0}, False),
        ({"worker": ["a:1"]}, {"type": "worker"}, False),
        ({"worker": "a"}, {"type": "worker", "index": 0}, False),
        ({"worker": [1]}, {"type": "worker", "index": 0}, False),
        (["worker"], {"type": "worker", "index": 0}, False),
        ([["a:1"]], {"type": 0, "index": 0}, False),
        ({"worker": ["a:1"]}, [], False),
        ({"worker": ["a:1"]}, {"type": [], "index": 0}, False),
    ],
)
def test_which_worker_a_process_is(monkeypatch, cluster, task, is_right):
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    config = json.dumps({"cluster": cluster, "task": task})
    for text in [config] if is_right else [config, "{}", "[]", "", "{x"]:
        monkeypatch.setenv("TF_CONFIG", text)
        if is_right:
            devices.check("multiworker")
            return
        with pytest.raises(ValueError, match="needs TF_CONFIG .* Received: TF_CONFIG="):
            devices.check("multiworker")


@pytest.mark.slow
def test_several_devices(tmp_path):
    run_python(
        *("-m", "keras_robustlt", "train", *SHORT, f"--workdir={tmp_path}"),
        *("--distribute=mirrored", "--cpu_devices=2"),
        KERAS_BACKEND="tensorflow",
    )
    results = read_json(tmp_path / "results.json")
    assert results["attacks"]["clean"]["all"] > 0.2
    assert len(read_csv(tmp_path / "history.csv")) == 2
