"""Mistakes on the command lines: each ends in one line that names the flag and what is
expected, before anything is trained, attacked or written.
"""

import json
import pathlib
import runpy
import sys

import keras
import numpy as np
import pytest

import keras_robustlt as krl
from keras_robustlt import __main__ as command_line

pytestmark = pytest.mark.tensorflow

RECIPES = pathlib.Path(__file__).resolve().parents[1] / "recipes"

WHOLE = "it must be a whole number of at least 1"
ABOVE = "it must be a number above 0"
NOT_NEGATIVE = "it must be a number of at least 0"
SHARE = "it must be a number from 0 to 1"
SEED = "it must be a whole number from 0 to"
NO_VALUE = "Missing value for flag"
DOES_NOTHING = "does nothing"


def each(flag, values, message):
    """Rows for the values of a flag, whose message names the flag."""
    return [(f"--{flag}={value}", (f"--{flag}", message)) for value in values]


# Flags of a run, as the recipes, `train` and, behind --, a sweep take them.
OF_A_RUN = [
    *each("epochs", ["-1", "0", "1.5", "nan", "inf", "ten", ""], WHOLE),
    *each("batch_size", ["9" * 20, "9" * 400], "whole number of at most 2147483647"),
    *each("batch_size", ["-4", "0", "2.5", "1e3", "many"], WHOLE),
    *each("pgd_steps", ["-1", "0", "nan", "7.0"], WHOLE),
    *each("attack", ["fgsm", "pgd10", ""], "should be one of"),
    *each("attack_steps", ["0", "-1", "adaptive"], WHOLE),
    *each("test_examples", ["0", "-3", "all", "0.5"], WHOLE),
    *each("largest_class", ["0", "-10", "inf"], WHOLE),
    *each("image_size", ["0", "-32", "32x32"], WHOLE),
    *each("num_classes", ["1", "0", "-2", "two"], "whole number of at least 2"),
    *each("learning_rate", ["-0.1", "0", "nan", "inf", "-inf", "fast", ""], ABOVE),
    *each("gradient_clipping", ["-1", "0", "nan", "inf"], ABOVE),
    *each("weight_decay", ["-1e-4", "nan", "inf", "small"], NOT_NEGATIVE),
    *each("beta", ["-0.5", "nan", "inf", "half"], NOT_NEGATIVE),
    *each("alpha", ["-0.1", "1.1", "nan", "inf", "strong"], SHARE),
    *each("epsilon", ["-0.1", "8", "nan", "inf", "8/0", "8/", "8/255/2"], SHARE),
    *each("imbalance_ratio", ["0.5", "0", "-50", "nan", "inf"], "of at least 1"),
    *each("validation_fraction", ["-0.1", "1", "nan"], "at least 0 and below 1"),
    *each("seed", ["-1", "1.5", "nan", "2147483648", "one"], SEED),
    *each("ema", ["0", "1", "-0.9", "nan"], "it must be fawa, or a momentum"),
    *each("averaging", ["fast", "2", "", "FAWA"], "it must be fawa, or a momentum"),
    ("--averaging=fawa", ("--averaging=fawa", "--validation_fraction")),
    (
        "--averaging=fawa --validation_fraction=0.2 --keep=best",
        ("--averaging=fawa", "--keep=last"),
    ),
    *each("method", ["magic", "AT", "at+at", "at+awp", ""], "should be one of"),
    *each("budget", ["big", "none", ""], "should be one of"),
    *each("granularity", ["batch"], "should be one of <epoch|step>"),
    *each("weighting", ["none"], "should be one of <perturbation|loss|both>"),
    *each("head", ["cos"], "should be one of <linear|cosine|cosplus>"),
    *each("batchnorm_statistics", ["clean"], "should be one of"),
    *each("imbalance_type", ["linear"], "should be one of <exp|step>"),
    *each("augmentation", ["auto", "flip"], "should be one of"),
    *each("precision", ["float16", "fp32"], "should be one of"),
    *each("preset", ["huge", "PAPER", ""], ""),
    *each("distribute", ["gpu", "multi_worker"], "should be one of"),
    *each("robustlt", ["maybe"], "it must be true or false."),
    *each("deterministic", ["2"], "it must be true or false."),
    *each("cpu_devices", ["0", "-1", "two"], WHOLE),
    ("--cpu_devices=2", ("--cpu_devices", DOES_NOTHING, "--distribute")),
    ("--distribute=jax", ("--distribute=jax", "KERAS_BACKEND=jax")),
    ("--distribute=multiworker", ("--distribute=multiworker", "TF_CONFIG")),
    ("--workdir=", ("--workdir= is empty",)),
    ("--workdir=file", ("--workdir=file", "is a file, not a directory")),
    ("--workdir=file/run", ("--workdir=file/run", "file is a file")),
    ("--workdir=s3://bucket/run", ("--workdir", "s3://bucket/run", "mount remote")),
    ("--workdir=~nobody-here/run", ("--workdir", "no user whose home directory")),
    ("--initial_weights=nothing.keras", ("--initial_weights", "no such file")),
    ("--new_head", ("--new_head", DOES_NOTHING, "--initial_weights")),
    ("--initial_weights=", ("--initial_weights", "no such file")),
    ("--initial_weights=file", ("--initial_weights", "must be the .keras file")),
    ("--initial_weights=other.keras", ("--initial_weights", "of this size")),
    *each("model", ["resnet", "wrn-28", "", "ResNet18"], "must be one of wrn-"),
    ("--model=wrn-5-1", ("--model=wrn-5-1", "depth")),
    *each("model", ["wrn-10-0", "small_resnet-0"], "integer of at least 1"),
    ("--freeze=\u00b2 --backbone=resnet50", ("--freeze=\u00b2", "number of layers")),
    ("--weights=None --backbone=resnet50", ("--backbone_weights=None", "no such file")),
    ("--method_options=beta", ("--method_options=beta", "name=value")),
    ("--method_options=tau=1,tau=2", ("--method_options", "tau more than once")),
    ("--method_options=tau=1 --method_options=gama=2", ("no option gama",)),
    ("--method_options=gama=3", ("no option gama; it has tau, label_smoothing.",)),
    ("--method=awp --method_options=method=at", ("no option method; it has gamma",)),
    ("--method=standard --method_options=a=1", ("no option a; it has none.",)),
    (
        "--method=trades --method_options=beta=-1",
        ("--method_options=beta=-1: beta must be a number at least 0",),
    ),
    (
        "--method_options=beta=5,beta=6",
        ("--method_options has beta more", "--method_options=beta=5,beta=6"),
    ),
    ("--method=at_bsl --method_options=tau=nan", ("--method_options", "tau")),
    ("--method=at_bsl --method_options=tau=low", ("--method_options", "tau")),
    ("--attacks=CLEAN", ("--attacks=CLEAN: An attack must be",)),
    *each("attacks", ["foo", "pgd", "clean,pgd0", "PGD20", "", "union"], ""),
    *each("attacks", ["pgd020", "pgd20,pgd020", "cw²", "cw１"], "An attack must be"),
    # What would do nothing
    ("--norobustlt --alpha=0.5", ("--alpha=0.5", DOES_NOTHING)),
    ("--norobustlt --beta=0.5", ("--beta=0.5", DOES_NOTHING)),
    ("--budget=cfa --beta=0.5", ("--beta=0.5", DOES_NOTHING, "--budget=cfa")),
    ("--budget=dafa --granularity=step", ("--granularity=step", DOES_NOTHING)),
    ("--budget=uniform --weighting=loss", ("--weighting=loss", DOES_NOTHING)),
    ("--budget=cfa --adaptive_steps", ("--adaptive_steps", DOES_NOTHING)),
    ("--budget=auto --alpha=0.5", ("--alpha=0.5", DOES_NOTHING, "finds its own")),
    ("--beta=0 --granularity=step", ("--granularity=step", DOES_NOTHING, "--beta=0")),
    ("--beta=0 --adaptive_steps", ("--adaptive_steps", DOES_NOTHING)),
    ("--attack=n-fgsm --attack_steps=3", ("--pgd_steps=3", "--attack=n-fgsm")),
    ("--attack=fgsm-rs --adaptive_steps", ("--adaptive_steps", DOES_NOTHING)),
    ("--pgd_steps=2 --adaptive_steps", ("--adaptive_steps", DOES_NOTHING)),
    ("--method=standard --attack=n-fgsm", ("--attack=n-fgsm", DOES_NOTHING)),
    ("--collapse_guard", ("--collapse_guard", DOES_NOTHING, "so many steps")),
    (
        "--method=standard --batchnorm_statistics=mixed",
        ("--batchnorm_statistics=mixed", DOES_NOTHING),
    ),
    ("--method=standard --collapse_guard", ("--collapse_guard", DOES_NOTHING)),
    ("--method=standard --alpha=0.5", ("--alpha=0.5", "--method=standard")),
    ("--method=standard --budget=cfa", ("--budget=cfa", "--method=standard")),
    ("--method=standard --robustlt", ("--budget=robustlt", "--method=standard")),
    ("--data_dir=photos", ("--data_dir=photos", DOES_NOTHING)),
    # What contradicts itself
    ("--norobustlt --budget=robustlt", ("--norobustlt", "contradicts")),
    ("--ema=0.9 --averaging=0.8", ("--ema=0.9 --averaging=0.8", "another name")),
    ("--attacks=clean,clean,pgd2", ("--attacks", "more than once: clean")),
    ("--robustlt --budget=cfa", ("--robustlt", "--budget=cfa contradicts")),
    ("--robustlt --budget=uniform", ("--robustlt", "--budget=uniform contradicts")),
    ("--compare --norobustlt", ("--compare", "no difference")),
    ("--compare --method=standard", ("--compare", "no difference")),
    ("--compare --alpha=0 --beta=0", ("--compare", "no difference")),
    # What is not there
    ("--epoks=2", ("Unknown command line flag 'epoks'", "epochs")),
    ("--epochs", (NO_VALUE, "epochs")),
    ("smoke", ("what is 'smoke'? Flags start with --.",)),
    ("-- --epochs=2", ("what is '--epochs=2'?",)),
]

OWN = "--data=data.npz --preset=cpu --nocompare --augmentation=none"
TRAIN = [
    ("", ("give --data",)),
    ("--data=", ("--data= is neither one of digits, cifar10",)),
    ("--data=cifar", ("--data=cifar is neither one of",)),
    ("--data=~nobody-here/photos", ("--data=~nobody-here/photos is neither",)),
    ("--data=nowhere/photos", ("--data=nowhere/photos is neither one of",)),
    ("--data=file", ("--data=file is neither", "nor an .npz file")),
    ("--data=empty", ("empty", "class")),
    ("--data=file.npz", ("file.npz",)),
    ("--data=data.npz --largest_class=5", ("--largest_class=5", DOES_NOTHING)),
    ("--data=data.npz --imbalance_type=exp", ("--imbalance_type", DOES_NOTHING)),
    ("--data=data.npz --data_dir=.", ("--data_dir=.", DOES_NOTHING)),
    (f"{OWN} --imbalance_ratio=1000", ("imbalance_ratio",)),
    (
        "--data=data.npz --imbalance_ratio=1 --largest_class=1 "
        "--validation_fraction=0.2",
        ("one image", "--validation_fraction=0"),
    ),
    ("--data=digits --imbalance_ratio=1000", ("imbalance_ratio",)),
    ("--data=digits --largest_class=100000", ("--largest_class asks for more images",)),
    ("--data=digits --largest_class=100000 --dry_run", ("--largest_class asks",)),
    ("--data=digits --initial_weights=other.keras --dry_run", ("of this size",)),
    ("--data=cifar10 --data_dir=nowhere --dry_run", ("no folder 'nowhere'",)),
    ("--data=digits --num_classes=11", ("classes=11", "from 2 to 10")),
    ("--data=digits --preset=paper", ("--preset=paper", "Choose one of: default")),
    ("--data=cifar10 --preset=default", ("--preset=default", "paper")),
    ("--data=cifar10 --data_dir=nowhere", ("nowhere",)),
    ("--data=cifar10 --data_dir=file", ("file",)),
    ("--data=cifar10 --data_dir=~nobody-here", ("no folder '~nobody-here'",)),
    ("--data=cifar10 --data_dir=", ("--data_dir= is empty",)),
    ("--data=tinyimagenet --data_dir=empty", ("tiny-imagenet-200",)),
    ("--data=digits --model=vit-tiny --image_size=17", ("--model=vit-tiny", "17x17")),
    ("--data=digits --augmentation=base --epochs=1", ("augmentation", "base")),
    (
        "--data=digits --augmentation=cutmix --method=mart",
        ("--augmentation=cutmix", "--method=mart", "one of at, at_bsl"),
    ),
    (
        "--data=digits --augmentation=mixup --budget=dafa",
        ("--augmentation=mixup", "--budget=dafa", "another rule"),
    ),
    (
        "--data=digits --augmentation=fourier_mix --attack=fgsm-rs",
        ("--augmentation=fourier_mix", "--collapse_guard", "--validation_fraction"),
    ),
    (f"{OWN} --attacks=apgd-dlr", ("classes", "dlr")),
]

SWEEP = [
    *each("seeds", ["one", "-1", "1.5", "1,two", "2147483648"], SEED),
    *each("seeds", ["1,1", "2,1,1"], "has more than once: 1."),
    ("--data=digits,", ("--data=digits, has an empty name",)),
    ("--data=digits --seeds=1 -- --num_classes=11", ("from 2 to 10",)),
    ("--table_only -- --epochs=2", ("--epochs=2", "--table_only makes none")),
    ("--seeds=", ("--seeds", "need values")),
    ("--methods=", ("--methods", "need values")),
    ("--budgets=", ("--budgets", "need values")),
    ("--data=", ("--data", "need values")),
    ("--data=cifar", ("--data=cifar is neither one of digits",)),
    ("--data=digits,cifar", ("--data=cifar is neither",)),
    ("--methods=at,magic", ("--methods=magic: it must be one of at, at_bsl",)),
    ("--budgets=big", ("--budgets=big: it must be one of", "dafa, cpb, aiw")),
    *each("jobs", ["0", "-1", "nan", "two"], WHOLE),
    ("--workdir=", ("--workdir= is empty",)),
    ("--workdir=s3://bucket/run", ("--workdir", "mount remote storage")),
    ("--epochs=2", ("Unknown command line flag 'epochs'",)),
    ("digits", ("what is 'digits'?",)),
    ("-- --seed=7", ("--seed=7 after --", "--seeds")),
    ("-- --workdir=x", ("--workdir=x after --",)),
    ("-- --data=cifar10", ("--data=cifar10 after --",)),
    ("-- --norobustlt", ("--norobustlt after --",)),
    ("-- --method=at", ("--method=at after --",)),
    ("--budgets=cfa -- --alpha=0.5", ("--alpha=0.5", DOES_NOTHING, "--budget=cfa")),
    ("-- --epochs=-1", ("--epochs=-1", WHOLE)),
    ("-- --attacks=foo", ("--attacks=foo",)),
    ("-- --model=resnet", ("--model=resnet",)),
    ("-- --epoks=2", ("Unknown command line flag 'epoks'",)),
    ("-- smoke", ("what is 'smoke'?",)),
]

NETWORK = "other.keras --data=data.npz"
# What is wrong in a config.json, and what is said of it.
CONFIGS = [
    ({"class_counts": [5, 0]}, "its class_counts hold 0"),
    ({"class_counts": [5, 2.5]}, "its class_counts hold 2.5"),
    ({"class_counts": [5, float("inf")]}, "its class_counts hold inf"),
    ({"class_counts": [5, 4, 3]}, "3 class_counts, and other.keras gives 2 logits"),
    ({"class_names": ["a", " "], "settings": {}}, "its class_names hold ' '"),
    ({"settings": {"seed": -3}}, "its seed is -3"),
    ({"settings": {"on_bad": "maybe"}}, "its on_bad is 'maybe'"),
    ({"class_counts": [5], "class_names": ["a", "b"]}, "1 class_counts of 2 classes"),
    ({"settings": {"epsilon": -1}}, "its epsilon is -1"),
    ({"settings": {"epsilon": 8}}, "its epsilon is 8"),
    ({"settings": {"epsilon": float("nan")}}, "its epsilon is nan"),
]
EVALUATE = [
    ("", ("give one network",)),
    (". --data=data.npz", ("no network at '.'",)),
    ("other.keras", ("give --data",)),
    ("other.keras other.keras --data=data.npz", ("give one network",)),
    ("nothing.keras --data=data.npz", ("nothing.keras",)),
    ("file --data=data.npz", ("file",)),
    ("other.keras --data=nowhere", ("nowhere",)),
    ("other.keras --data=file.npz", ("file.npz",)),
    *[(f"{NETWORK} --{f}=", (f"--{f}= is empty",)) for f in ("output", "cache")],
    (f"{NETWORK} --output=~nobody-here/a.json", ("--output", "no user whose home")),
    (f"{NETWORK} --per_example", ("--per_example", "--output")),
    (f"{NETWORK} --on_bad=skip", ("--on_bad=skip", DOES_NOTHING)),
    (f"{NETWORK} --chunk_size=50", ("--chunk_size", "--cache")),
    (f"{NETWORK} --attacks=clean,pgd", ("--attacks=pgd: An attack must be",)),
    (f"{NETWORK} --attacks=", ("attack",)),
    (f"{NETWORK} --attacks=union", ("union",)),
    *[
        (f"{NETWORK} {flags}", names)
        for flags, names in [
            *each("epsilon", ["-0.1", "8", "nan", "inf", "eight", "8/0"], SHARE),
            *each("examples", ["0", "-3", "all"], WHOLE),
            *each("batch_size", ["0", "-1", "nan"], WHOLE),
            *each("chunk_size", ["0", "-1", "many"], WHOLE),
            *each("seed", ["-1", "x"], SEED),
            *each("data_seed", ["-1", "0.5"], SEED),
        ]
    ],
    (f"{NETWORK} --class_counts=1,b", ("--class_counts", "whole numbers")),
    (f"{NETWORK} --class_counts=1,2,3,4,5", ("class_counts",)),
    (f"{NETWORK} --class_counts=5,-1", ("class_counts",)),
    (f"{NETWORK} --config=nowhere.json", ("nowhere.json",)),
    (f"{NETWORK} --config=file", ("--config", "file")),
    (f"{NETWORK} --config=empty", ("--config must be the config.json", "empty")),
    *[
        (f"{NETWORK} --config=config{n}.json", ("--config must be", names))
        for n, (_, names) in enumerate(CONFIGS)
    ],
    (f"{NETWORK} --flagfile=data.npz", ("--flagfile must be a text file",)),
    (f"{NETWORK} --epoks=2", ("Unknown command line flag 'epoks'",)),
]

REPORT = [
    ("", ("give one run",)),
    ("nowhere", ("nowhere", "does not exist")),
    ("empty", ("empty", "has none of these")),
    ("file", ("file",)),
    ("empty --output=s3://bucket/a.html", ("s3://bucket/a.html", "mount remote")),
    ("a.json --output=~nobody-here/a.html", ("--output", "no user whose home")),
    ("empty --title", (NO_VALUE, "title")),
    ("empty --names=a,b", ("empty",)),
    ("a.json --names=", ("--names must have a name",)),
    ("a.json b.json --names=x,", ("--names must have a name for each of the 2 runs",)),
    ("a.json ./a.json", ("must be different ones", "'./a.json'")),
    ("foreign", ("config.json", "it has nothing of a run")),
    ("a.json --output=r.txt", ("--output must be the path of an .html", "r.txt")),
    ("empty --nmaes=a", ("Unknown command line flag 'nmaes'",)),
]

CHECK = [
    ("", ("give one folder",)),
    ("nowhere", ("nowhere",)),
    *[(f"empty {flag}", names) for flag, names in each("image_size", ["abc"], WHOLE)],
]

PREDICT = [
    ("", ("give a network and images",)),
    ("other.keras", ("give a network and images",)),
    ("nothing.keras image.png", ("nothing.keras",)),
    ("other.keras nothing.png", ("nothing.png",)),
    ("file file", ("file cannot be read",)),
    ("other.keras file", ("file cannot be read as an image",)),
    *[
        (f"other.keras file {flag}", names)
        for flag, names in each("top", ["0", "all"], WHOLE)
    ],
]

ROWS = [
    *(("train", f"--data=digits {flags}", names) for flags, names in OF_A_RUN),
    *(("train", *row) for row in TRAIN),
    *(("sweep", *row) for row in SWEEP),
    *(("evaluate", *row) for row in EVALUATE),
    *(("report", *row) for row in REPORT),
    *(("predict", *row) for row in PREDICT),
    *(("check", *row) for row in CHECK),
    ("", "trian", ("'trian' is no command", "train")),
]
# Of each kind a few.
QUICK = ROWS[:: len(ROWS) // 16]


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with what the rows name."""
    folder = tmp_path_factory.mktemp("files")
    for name in ("file", "file.npz"):
        (folder / name).write_text("no such thing")
    (folder / "empty").mkdir()
    (folder / "foreign").mkdir()
    (folder / "foreign/config.json").write_text('{"theme": "dark"}')
    for number, (content, _) in enumerate(CONFIGS):
        (folder / f"config{number}.json").write_text(json.dumps(content))
    entry = dict.fromkeys(("all", "tail", "balanced", "worst"), 0.5)
    results = krl.EvaluationResults(
        {"clean": {**entry, "per_class": [0.5, 0.5]}}, {"epsilon": 0.1}
    )
    for name in ("a.json", "b.json"):
        results.to_json(folder / name)
    network = keras.Sequential(
        [keras.Input((4, 4, 3)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    network.save(folder / "other.keras")
    arrays = {}
    for part in ("train", "test"):
        arrays[f"x_{part}"] = np.zeros((6, 4, 4, 3), "uint8")
        arrays[f"y_{part}"] = np.arange(6) % 2
    np.savez(folder / "data.npz", **arrays)
    return folder


def mistaken(command, arguments, monkeypatch, capsys):
    """What a command says of a mistake, and whether the files stay as they are."""
    before = sorted(pathlib.Path().rglob("*"))
    argv = ["robustlt", *command.split(), *arguments.split()]
    monkeypatch.setattr(sys, "argv", argv)
    with pytest.raises(SystemExit) as ended:
        command_line.run()
    said = capsys.readouterr().err
    if isinstance(ended.value.code, str):
        said += ended.value.code
    assert ended.value.code, "it must fail"
    assert sorted(pathlib.Path().rglob("*")) == before
    return said.strip()


def check(files, monkeypatch, capsys, command, arguments, names):
    monkeypatch.chdir(files)
    monkeypatch.delenv("TF_CONFIG", raising=False)
    said = mistaken(command, arguments, monkeypatch, capsys)
    assert said.startswith("error: ") and "Traceback" not in said
    # But for the list of the places where data were looked for.
    assert "\n" not in said or "was not found. Looked for" in said
    for name in names:
        assert name in said


@pytest.mark.parametrize(("command", "arguments", "names"), QUICK)
def test_some_mistakes(files, monkeypatch, capsys, command, arguments, names):
    check(files, monkeypatch, capsys, command, arguments, names)


@pytest.mark.slow
@pytest.mark.parametrize(("command", "arguments", "names"), ROWS)
def test_all_mistakes(files, monkeypatch, capsys, command, arguments, names):
    check(files, monkeypatch, capsys, command, arguments, names)


@pytest.mark.parametrize("recipe", ["digitslt", "cifar10lt"])
def test_recipes_say_the_same(recipe, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [f"{recipe}.py", "--epochs=-1"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(RECIPES / f"{recipe}.py"), run_name="__main__")
    assert ended.value.code == 2
    assert capsys.readouterr().err == f"error: flag --epochs=-1: {WHOLE}.\n"
    assert not list(tmp_path.iterdir())


def test_there_are_many():
    assert len(ROWS) > 200
