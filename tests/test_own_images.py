"""Images of one's own: proposed settings, and one command from a folder to a table."""

import json
import re

import keras
import numpy as np
import pytest
from absl import app, flags
from PIL import Image

import keras_robustlt as krl
from keras_robustlt.callbacks.training_state import TrainingState
from keras_robustlt.experiments import network as network_of_run
from keras_robustlt.experiments import optimization, own, presets, train
from keras_robustlt.experiments import run as one_run

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:.*cannot be read as images:UserWarning"),
]

NAMES = ("common é", "rare", "rarest")


def make_folder(root, counts=(24, 8, 4), size=(8, 8), mode="L", bad=True):
    """Images whose grey is that of their class, and two files that are none."""
    rng = np.random.default_rng(0)
    for index, (name, count) in enumerate(zip(NAMES, counts, strict=True)):
        (root / name).mkdir(parents=True)
        for number in range(count):
            grey = 60 + 60 * index + rng.integers(-9, 9, size)
            image = Image.fromarray(grey.astype("uint8")).convert(mode)
            image.save(root / name / f"scan {number}.png")
    if bad:
        (root / NAMES[0] / "broken.png").write_bytes(b"not an image")
    return root


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.delenv(train.SHOWN, raising=False)
    monkeypatch.chdir(tmp_path)
    own.propose.cache_clear()
    return make_folder(tmp_path / "my images")


def command(*arguments):
    values = flags.FlagValues()
    train.define_flags(values)
    train.main(values(["train", *arguments]), values)


# Proposals


def test_proposal(folder):
    proposal = own.propose(str(folder))
    found = proposal.settings
    assert found["model"] == "small_resnet"
    assert found["keep"] == "best" and found["validation_fraction"] == 0.2
    assert found["on_bad"] == "skip"
    assert found["attacks"][-1] == "autoattack"
    suggestion = krl.suggest(krl.data.load(folder, on_bad="skip"))
    assert found["epsilon"] == suggestion.epsilon
    assert "unreadable" in [each["kind"] for each in proposal.check.findings]
    assert proposal.reasons.keys() <= found.keys()
    assert found["image_size"] is None and "they are " in proposal.reasons["image_size"]


@pytest.mark.parametrize(
    "given",
    [{}, {"num_classes": 2}, {"imbalance_ratio": 1.5}, {"validation_fraction": 0.5}],
)
def test_what_is_said_of_the_classes_is_of_those_of_training(folder, given):
    proposal = presets.table_of(str(folder)).proposal(given)
    arguments = {"imbalance_ratio": None, "validation_fraction": 0.2, **given}
    arguments["classes"] = arguments.pop("num_classes", None)
    data = krl.data.long_tail_arrays(folder, on_bad="skip", **arguments)
    assert proposal.suggestion.class_counts.tolist() == data.class_counts.tolist()


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [([(20, 20)], None), ([(20, 30), (24, 24)], 22), ([(90, 80)], 64)],
)
def test_size(tmp_path, sizes, expected):
    for index, size in enumerate(sizes):
        make_folder(tmp_path / str(index), (2, 2, 2), size, bad=False)
    root = tmp_path / "0"
    for index in range(1, len(sizes)):
        for name in NAMES:
            for file in (tmp_path / str(index) / name).iterdir():
                file.rename(root / name / f"{index} {file.name}")
    assert own.propose(str(root)).settings.get("image_size") == expected
    assert "image_size" not in own.propose(str(root), image_size=16).settings


def test_one_training_image_a_class_is_not_held_out(tmp_path):
    make_folder(tmp_path / "train", (1, 1, 1), bad=False)
    make_folder(tmp_path / "test", (2, 2, 2), bad=False)
    settings = own.propose(str(tmp_path)).settings
    assert (settings["validation_fraction"], settings["keep"]) == (0.0, "last")
    with pytest.raises(ValueError, match="Each class has one image, or group, and"):
        own.propose(str(tmp_path), validation_fraction=0.2)


def test_a_file_by_any_suffix(tmp_path):
    np.savez(tmp_path / "photos.npz", x_train=np.zeros(3))
    (tmp_path / "photos.npz").rename(tmp_path / "photos.NPZ")
    source = str(tmp_path / "photos.NPZ")
    assert presets.table_of(source).source == source


def test_a_folder_with_its_own_validation_images(tmp_path):
    for part in ("train", "val", "test"):
        make_folder(tmp_path / "data" / part, bad=False)
    proposal = own.propose(str(tmp_path / "data"))
    assert "validation_fraction" not in proposal.settings
    assert presets.table_of(str(tmp_path / "data")).has_validation({})


def test_dry_run_says_all_and_writes_nothing(folder, capsys):
    before = sorted(folder.parent.rglob("*"))
    command("--data=my images", "--dry_run", "--epochs=7")
    out = capsys.readouterr().out
    for text in ("common é: ", "broken.png", "--epsilon", "Would train AT-BSL and "):
        assert text in out
    assert [line for line in out.splitlines() if "--epochs" in line][0].split() == [
        "--epochs",
        "7",
        "as",
        "given",
    ]
    settings = json.loads(out.splitlines()[-1])
    assert settings["epochs"] == 7 and settings["preset"] == "suggested"
    assert sorted(folder.parent.rglob("*")) == before


@pytest.mark.parametrize("flag", ["--balanced_sampling", "--class_weight=balanced"])
def test_a_dry_run_says_that_rare_classes_are_made_up_for_twice(folder, caplog, flag):
    command("--data=my images", "--dry_run", "--method=at", flag)
    assert not caplog.text
    command("--data=my images", "--dry_run", flag)
    assert f"the loss of --method=at_bsl and {flag} each make up" in caplog.text


def test_networks_without_statistics_have_none_to_move(caplog):
    settings = {"batchnorm_statistics": "mixed", "model": "m", "backbone": None}
    for model, said in (("small_resnet-4", ""), ("vit-tiny", "m has no batch norm")):
        caplog.clear()
        network = krl.networks.get(model, input_shape=(8, 8, 3), mean=0.0, std=1.0)
        one_run.warn_of_no_statistics(settings, network)
        assert said in caplog.text and bool(said) == bool(caplog.text)


def test_a_dry_run_says_that_there_is_no_attack(folder, caplog):
    command("--data=my images", "--dry_run", "--epochs=2")
    assert not caplog.text
    command("--data=my images", "--dry_run", "--epochs=1")
    assert "The budget is 0 in each of the 1 epoch(s)" in caplog.text


def test_a_dry_run_says_that_noise_tells_the_class(folder, caplog):
    for attack in ("n-fgsm-mean", "n-fgsm"):
        assert "tells the class" not in caplog.text
        command("--data=my images", "--dry_run", "--budget=auto", f"--attack={attack}")
    assert "tells the class by its size" in caplog.text


def test_a_dry_run_says_what_its_epochs_are_too_few_for(folder, caplog):
    command("--data=my images", "--dry_run", "--epochs=7", "--method=cgr")
    assert "CGR" in caplog.text and "begins with epoch 11" in caplog.text


@pytest.mark.parametrize("preset", ["fast", "strong"])
def test_presets_are_for_grey_images_too(folder, capsys, preset):
    """AutoAugment, that of the method, would be refused."""
    command("--data=my images", f"--preset={preset}", "--dry_run")
    settings = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert settings["augmentation"] == "none"  # of 8x8 pixels


def test_one_command_trains_and_keeps_the_best_epoch(folder, capsys):
    command(
        "--data=my images",
        "--nocompare",
        "--epochs=2",
        "--pgd_steps=1",
        "--attacks=clean",
        "--optimizer=adamw",
        "--schedule=one_cycle",
        "--workdir=run",
    )
    run = folder.parent / "run"
    assert (run / "report.html").exists()
    results = json.loads((run / "results.json").read_text("utf-8"))
    assert results["settings"]["class_names"] == list(NAMES)
    # What is saved is the epoch that validation found best, not the last one.
    data = one_run.load_data(results["training"], None)
    model = one_run.build_model(results["training"], data, 2)
    model.optimizer.build(model.trainable_variables)
    model.load_weights(run / "best.weights.h5")
    saved = keras.saving.load_model(run / "network.keras")
    x = np.random.default_rng(0).random((3, 8, 8, 1), "float32")
    np.testing.assert_allclose(saved(x), model.network(x), atol=1e-5)
    # The last one is there, too.
    state = TrainingState.read(run / "checkpoints" / "training_state.npz")
    known = {np.asarray(value).tobytes() for value in state.variables}
    last = keras.saving.load_model(run / "network-last.keras")
    assert {np.asarray(weights).tobytes() for weights in last.get_weights()} <= known


def test_a_base_method_alone_is_not_compared(folder, monkeypatch):
    trained = []
    monkeypatch.setattr(one_run, "run", lambda settings, *_: trained.append(settings))
    command("--data=my images", "--norobustlt")
    command("--data=my images", "--method=standard")
    assert [each["method"] for each in trained] == ["at_bsl", "standard"]
    assert {each["budget"] for each in trained} == {"uniform"}
    with pytest.raises(app.UsageError, match="both are AT-BSL"):
        command("--data=my images", "--norobustlt", "--compare", "--dry_run")


def test_compare_trains_each_once(folder, monkeypatch):
    """Its processes must not compare again."""
    from keras_robustlt.experiments import compare

    started = []

    def record(settings, commands, where, threads):
        started.extend(commands.values())

    monkeypatch.setattr(compare, "compare", record)
    command("--data=my images", "--epochs=2")
    assert len(started) == 2
    for arguments in started:
        assert "--nocompare" in arguments
        assert train.settings_of(arguments[len(train.COMMAND) :])["epochs"] == 2


# Fine-tuning


def settings(**given):
    return {**presets.OWN.settings("cpu"), "initial_weights": None, **given}


def test_rates_of_the_backbone():
    network = keras.Sequential(
        [keras.Input((2,)), keras.layers.Dense(2, name="logits")]
    )
    for name in ("sgd", "adamw"):
        given = settings(optimizer=name, head_epochs=2, backbone_rate=0.25)
        found = optimization.optimizer(given, 4)
        found.build(network.trainable_variables)
        factors = [float(found.backbone_rate(step)) for step in (0, 7, 8, 40)]
        assert factors == [0.0, 0.0, 0.25, 0.25]
        assert optimization.optimizer(settings(optimizer=name), 4).backbone_rate == 1


def test_smoothing_by_preset_and_method():
    def smoothing(**given):
        found = presets.OWN.settings("strong", given)
        return found["label_smoothing"]

    assert smoothing(method="at") == 0.1
    assert smoothing(method="mart") == smoothing(method="focal+awp") == 0
    assert smoothing(method="at", method_options={"label_smoothing": 0.2}) == 0
    assert smoothing(method="at", label_smoothing=0.2) == 0.2
    # The table knows which methods had better not, and which do it themselves.
    for name in presets.METHODS:
        method = krl.methods.get(name)
        wants = method.smooths_labels and not method.adds_prior
        assert wants == ("label_smoothing" not in presets.METHODS[name])
        itself = method.adds_prior and name != "robal"
        assert itself == (name in presets.SMOOTHING)
        if itself:
            given = {"method": name, "label_smoothing": 0.2}
            found = presets.OWN.settings("strong", given)
            made = krl.methods.get(name, **found["method_options"])
            assert (made.label_smoothing, found["label_smoothing"]) == (0.2, 0)
    assert one_run.loss(settings()) is None
    loss = one_run.loss(settings(method="at", label_smoothing=0.2))
    assert loss.get_config()["label_smoothing"] == 0.2


def test_learning_rates():
    def rates(**given):
        rate = optimization.learning_rate(
            settings(epochs=10, learning_rate=1.0, **given), 4
        )
        return [float(rate(step)) for step in (0, 6, 12, 26, 40)]

    np.testing.assert_allclose(
        rates(schedule="cosine", warmup=0.0),
        [0.5 * (1 + np.cos(np.pi * s / 40)) for s in (0, 6, 12, 26, 40)],
        atol=1e-6,
    )
    np.testing.assert_allclose(
        rates(schedule="one_cycle", warmup=0.3), [0, 0.5, 1, 0.5, 0], atol=1e-6
    )


def test_adamw_decays_no_biases():
    found = optimization.optimizer(settings(optimizer="adamw", weight_decay=0.1), 4)
    network = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    network.set_weights([np.ones((2, 2)), np.ones(2)])
    found.build(network.trainable_variables)
    found.apply([keras.ops.zeros_like(v) for v in network.trainable_variables])
    kernel, bias = network.get_weights()
    assert np.all(kernel < 1) and np.all(bias == 1)


@pytest.mark.parametrize("classes, new_head", [(3, False), (3, True), (5, False)])
def test_initial_weights_of_other_classes(tmp_path, capsys, classes, new_head):
    trained = krl.networks.SmallResNet(classes=classes)
    trained.save(tmp_path / "trained.keras")
    network = krl.networks.SmallResNet(classes=3)
    head = network.layers[-1].get_weights()[0]
    network_of_run.set_initial_weights(
        network,
        trained,
        settings(
            model="small_resnet",
            initial_weights=tmp_path / "trained.keras",
            new_head=new_head,
        ),
    )
    anew = new_head or classes == 5
    for ours, theirs in zip(network.layers[:-1], trained.layers[:-1], strict=True):
        for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
            np.testing.assert_array_equal(one, other)
    expected = head if anew else trained.layers[-1].get_weights()[0]
    np.testing.assert_array_equal(network.layers[-1].get_weights()[0], expected)
    said = capsys.readouterr().out
    assert ("begins anew" in said, "--new_head" in said) == (anew, new_head)


def test_initial_weights_say_what_they_leave_behind(capsys):
    network = krl.networks.SmallResNet(classes=3)
    adjusted = krl.networks.logit_adjusted(network, [30, 20, 10])
    chosen = settings(model="small_resnet", initial_weights="adjusted.keras")
    network_of_run.set_initial_weights(network, network, chosen)
    assert capsys.readouterr().out == ""
    network_of_run.set_initial_weights(network, adjusted, chosen)
    said = f"of adjusted.keras behind its last .* {network.name}_prior, is left out"
    assert re.search(said, capsys.readouterr().out)


@pytest.mark.parametrize("whole", [False, True])
def test_initial_weights_come_with_how_pixels_are_scaled(tmp_path, whole):
    class Data:
        num_classes, input_shape = 3, (8, 8, 1)

    path = tmp_path / "trained.keras"
    network = krl.networks.SmallResNet(
        3, (8, 8, 1), mean=0.1, std=0.7, widths=(8, 8, 8)
    )
    trained = krl.RobustLTModel(network, [3, 2, 1]) if whole else network
    trained.save(path)
    chosen = settings(model="small_resnet", head="linear", initial_weights=path)
    with pytest.raises(ValueError, match="initial_weights=.*its layers are others"):
        network_of_run.build_network(chosen, Data)
    chosen["model"] = "small_resnet-8"
    network = krl.networks.get(
        "small_resnet-8", classes=3, input_shape=(8, 8, 1), mean=0.1, std=0.7
    )
    trained = krl.RobustLTModel(network, [3, 2, 1]) if whole else network
    trained.save(path)
    x = np.random.default_rng(0).random((4, 8, 8, 1), "float32")
    np.testing.assert_allclose(
        network_of_run.build_network(chosen, Data)(x), network(x), atol=1e-5
    )


@pytest.mark.parametrize("share", [0.999, 1e-9])
def test_a_rate_that_rises_almost_always_or_never(share):
    chosen = settings(epochs=2, schedule="one_cycle", warmup=share)
    rate = optimization.learning_rate(chosen, 3)
    assert np.isfinite([float(rate(step)) for step in range(6)]).all()


@pytest.mark.filterwarnings("ignore:class_weight='balanced' and the loss")
@pytest.mark.slow
def test_backbone(folder):
    command(
        "--data=my images",
        "--nocompare",
        "--backbone=mobilenet_v2",
        "--weights=none",
        "--freeze=20",
        "--head_epochs=1",
        "--backbone_rate=0.1",
        "--class_weight=balanced",
        "--label_smoothing=0.1",
        "--epochs=2",
        "--pgd_steps=1",
        "--attacks=clean,pgd2",
        "--workdir=run",
    )
    assert (folder.parent / "run" / "results.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--freeze=backbone"], "--freeze=backbone does nothing without --backbone"),
        (["--backbone=resnet50", "--model=resnet18"], "does nothing with --backbone"),
        (["--schedule=step", "--warmup=0.1"], "does nothing with --schedule=step"),
        (["--preset=cpu", "--keep=best"], "give --validation_fraction"),
        (["--backbone=resnet50", "--freeze=some"], "none, backbone or a number"),
        (["--backbone=resnet_18", "--model=resnet18"], "does nothing with --backbone"),
        (["--head_epochs=2"], "does nothing without --backbone or --initial_weights"),
        (["--backbone_rate=0.5"], "nothing without --backbone or --initial_weights"),
        (["--weights=none"], "--backbone_weights=none does nothing without --backbone"),
        (
            ["--backbone=resnet50", "--freeze=backbone", "--backbone_rate=0.5"],
            "does nothing with --freeze=backbone",
        ),
        (
            ["--backbone=resnet50", "--head_epochs=3", "--epochs=3"],
            "--head_epochs=3 must be less than --epochs=3",
        ),
        (["--label_smoothing=0.1", "--method=mart"], "label_smoothing=0.1: .*MART"),
        (["--label_smoothing=0.1", "--method=focal+awp"], "must be 0 with AWP"),
        (
            ["--label_smoothing=0.1", "--method_options=label_smoothing=0.2"]
            + ["--method=at"],
            "--method_options has label_smoothing too",
        ),
        (["--class_weight=balanced", "--method=taet"], "nothing with --method=taet"),
        (
            ["--backbone=resnet50", "--weights=none", "--freeze=backbone"],
            "--freeze=backbone contradicts --backbone_weights=none",
        ),
        (["--epsilon=0"], "--epsilon=0 is no budget: nothing would be attacked"),
        (["--validation_fraction=0"], "such as 0.2, or --keep=last"),
    ],
)
def test_what_does_nothing_is_refused(folder, arguments, message):
    with pytest.raises(app.UsageError, match=message):
        command("--data=my images", "--dry_run", *arguments)


def test_data_that_cannot_be_used(tmp_path):
    with pytest.raises(app.UsageError, match="nowhere is neither one of"):
        command("--data=nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises((app.UsageError, SystemExit), match="empty"):
        command(f"--data={tmp_path / 'empty'}")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--augmentation=aua"], "augmentation='aua' shifts images by up to 4"),
        (["--num_classes=9"], "from 2 to 3"),
        (["--on_bad=error"], "broken.png"),
        (["--workdir=other.keras"], "is a file"),
        (["--workdir=single"], "holds a single run"),
        (["--workdir=my images"], "is inside of the data"),
        (["--workdir=my images/common é"], "is inside of the data"),
        (["--initial_weights=other.keras"], "must be the .keras file of a small_res"),
        (["--workdir=comparison", "--nocompare"], "holds a comparison"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would(folder, arguments, message):
    for name, file in (("single", "config.json"), ("comparison", "comparison.txt")):
        (folder.parent / name).mkdir()
        (folder.parent / name / file).write_text("{}")
    krl.networks.SmallResNet(classes=3, widths=(4,)).save(folder.parent / "other.keras")
    with pytest.raises((app.UsageError, SystemExit), match=message):
        command("--data=my images", "--dry_run", *arguments)
