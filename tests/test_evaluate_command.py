import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from absl import app, flags
from PIL import Image
from tiny_models import dense_network

import keras_robustlt as krl
from keras_robustlt.evaluation import command as evaluate_command

ROOT = pathlib.Path(__file__).resolve().parents[1]


@pytest.fixture
def files(tmp_path):
    """A network with a layer of the package, and data for it."""
    inputs = keras.Input((6, 6, 3))
    outputs = dense_network(4)(krl.layers.BatchNormalization()(inputs))
    network = keras.Model(inputs, outputs)
    network.save(tmp_path / "network.keras")
    rng = np.random.default_rng(0)
    arrays = {}
    for part, examples in (("train", 8), ("test", 20)):
        arrays[f"x_{part}"] = rng.integers(0, 256, (examples, 6, 6, 3), "uint8")
        arrays[f"y_{part}"] = np.arange(examples) % 4
    np.savez(tmp_path / "data.npz", **arrays)
    x = arrays["x_test"].astype("float32") / 255
    return tmp_path, network, x, arrays["y_test"]


def command(folder, *arguments, network="network.keras"):
    """Runs the command in this process."""
    values = flags.FlagValues()
    evaluate_command.define_flags(values)
    argv = ["evaluate", str(folder / network), f"--data={folder / 'data.npz'}"]
    return evaluate_command.main(values([*argv, *map(str, arguments)]), values)


def python(*arguments, folder=ROOT):
    """Runs Python in a process of its own; what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return result.returncode, result.stdout, result.stderr


@pytest.mark.filterwarnings("ignore:.*cannot be read as images:UserWarning")
def test_folder_as_the_run_read_it(files):
    folder, *_ = files
    for part in ("train", "test"):
        for name in "abcd":
            (folder / "data" / part / name).mkdir(parents=True)
            for size in (6, 9):
                image = Image.new("RGB", (size, size), (size, 0, 0))
                image.save(folder / "data" / part / name / f"{part} {size}.png")
    (folder / "data" / "test" / "a" / "broken.png").write_bytes(b"not an image")
    settings = {"epsilon": 0.1, "image_size": 6, "on_bad": "skip"}
    (folder / "config.json").write_text(json.dumps({"settings": settings}))
    results = command(folder, f"--data={folder / 'data'}", "--attacks=clean")
    assert results.settings["examples_per_class"] == [2] * 4
    assert results.settings["class_names"] == list("abcd")


def test_same_as_the_function(files, capsys):
    folder, network, x, y = files
    output = folder / "new" / "results.json"
    results = command(
        folder,
        "--attacks=clean,pgd2",
        "--epsilon=2/255",
        "--class_counts=9,4,2,1",
        "--per_example",
        f"--output={output}",
        f"--cache={folder / 'cache.npz'}",
    )
    names = ["clean", "pgd2"]
    expected = krl.evaluate(
        network, x, y, names, 2 / 255, [9, 4, 2, 1], verbose=0, per_example=True
    )
    for name in names:
        assert results[name]["per_class"] == expected[name]["per_class"]
        assert results[name]["tail"] == expected[name]["tail"]
    printed = capsys.readouterr().out
    assert "20 test images of data" in printed
    assert str(results) in printed
    again = krl.EvaluationResults.from_json(output)
    assert again == results
    assert again.settings["epsilon"] == 2 / 255
    with np.load(output.with_suffix(".npz")) as arrays:
        np.testing.assert_array_equal(arrays["pgd2"], expected.robust["pgd2"])
    assert (folder / "cache.npz").exists()


def test_what_the_config_says(files, capsys):
    folder, *_ = files
    config = {"settings": {"epsilon": 0.02}, "class_counts": [8, 4, 2, 1]}
    (folder / "config.json").write_text(json.dumps(config))
    settings = command(folder, "--attacks=clean", "--examples=8").settings
    assert settings["epsilon"] == 0.02
    assert settings["class_counts"] == [8, 4, 2, 1]
    assert settings["examples_per_class"] == [2, 2, 2, 2]
    assert "config.json" in capsys.readouterr().out
    (folder / "config.json").rename(folder / "other.json")
    given = ["--epsilon=0.01", f"--config={folder / 'other.json'}"]
    settings = command(folder, "--attacks=clean", *given).settings
    assert (settings["epsilon"], settings["class_counts"]) == (0.01, [8, 4, 2, 1])
    settings = command(folder, "--attacks=clean").settings
    assert (settings["epsilon"], settings["class_counts"]) == (8 / 255, None)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--attacks=cleen"], "An attack must be .*'cleen'"),
        (["--class_counts=1,b"], "--class_counts must be whole numbers"),
        (["--class_counts=1,2"], "`class_counts` must have 4 entries"),
        (["--data=nowhere.npz"], "no file or folder is there"),
        (["--config=nowhere.json"], "nowhere.json"),
        (["--config=data.npz"], "--config must be the config.json of a run"),
        (["--cache=results.txt"], "--cache must be .* ends in .npz"),
        (["--output=results.txt"], "--output must be .* ends in .json"),
        (["--output=config.json"], "--output and --config must be two files"),
        (
            ["--output=a.json", "--per_example", "--cache=a.npz"],
            "--cache and --per_example must be two files. .*a.npz",
        ),
        (["--cache=data.npz"], "--cache and --data must be two files"),
        (["--output=network.keras/a.json"], "Cannot write .*network.keras"),
        (["--output=s3://bucket/a.json"], "mount remote storage"),
        (["--cache=s3://bucket/a.npz"], "mount remote storage"),
        (["--data_seed=5"], "--data_seed=5 does nothing: .* images of its own"),
    ],
)
def test_bad_flags(files, arguments, message, monkeypatch):
    before = sorted(files[0].iterdir())
    monkeypatch.chdir(files[0])
    with pytest.raises(SystemExit, match=f"(?s)^error: .*{message}"):
        command(files[0], *arguments)
    assert sorted(files[0].iterdir()) == before


@pytest.mark.parametrize(
    ("arguments", "name", "content"),
    [
        (["--output=a.json"], "a.json", b'{"attacks": {}, "training": {}}'),
        (["--output=a.json"], "a.json", b'["my", "notes"]'),
        (["--output=a.json"], "a.json", b"no JSON"),
        (["--output=a.json", "--per_example"], "a.npz", None),  # data
        (["--output=a.json", "--per_example"], "a.npz", b"no arrays"),
    ],
)
def test_what_would_be_lost(files, arguments, name, content, monkeypatch):
    """What `evaluate` has not written, such as the results.json of a run, stays."""
    monkeypatch.chdir(files[0])
    content = content or pathlib.Path("data.npz").read_bytes()
    pathlib.Path(name).write_bytes(content)
    with pytest.raises(SystemExit, match="would replace"):
        command(files[0], "--attacks=clean", *arguments)
    assert pathlib.Path(name).read_bytes() == content


def test_its_own_files_are_replaced(files):
    arguments = "--attacks=clean", f"--output={files[0] / 'a.json'}", "--per_example"
    (files[0] / "a.json").touch()  # as `mktemp` makes it
    for _ in range(2):
        command(files[0], *arguments)
    assert json.loads((files[0] / "a.json").read_text())["attacks"]


def test_classes_of_the_data_and_the_network(files):
    dense_network(3, (6, 6, 3)).save(files[0] / "network.keras")
    message = "network.keras gives 3 logits, and data has 4 classes"
    with pytest.raises(SystemExit, match=message):
        command(files[0])


@pytest.mark.parametrize("value", ["eight", "8"])
def test_an_epsilon_that_is_none(files, value):
    message = f"--epsilon={value}: it must be a number from 0 to 1"
    with pytest.raises(flags.IllegalFlagValueError, match=message):
        command(files[0], f"--epsilon={value}")


def test_what_must_be_given(files):
    folder = files[0]
    with pytest.raises(SystemExit, match="no network at .*nothing.keras"):
        command(folder, network="nothing.keras")
    with pytest.raises(SystemExit, match="no network at '.'"):
        command(pathlib.Path(), network=".")
    values = flags.FlagValues()
    evaluate_command.define_flags(values)
    values(["evaluate"])
    for argv, message in (
        (["evaluate"], "one network"),
        (["evaluate", "network.keras"], "give --data"),
    ):
        with pytest.raises(app.UsageError, match=message):
            evaluate_command.main(argv, values)
    with pytest.raises(app.UsageError, match="give it too"):
        command(folder, "--per_example")


def test_a_network_that_cannot_be_read(files):
    (files[0] / "broken.keras").write_text("nothing")
    message = "broken.keras cannot be read: it is cut short, or"
    with pytest.raises(SystemExit, match=message):
        command(files[0], network="broken.keras")


def test_a_network_that_may_not_be_read(files, monkeypatch):
    def refused(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("builtins.open", refused)
    with pytest.raises(SystemExit, match="cannot be read: .*Permission denied"):
        command(files[0])


def test_a_network_of_two_inputs(files):
    inputs = keras.Input((6, 6, 3)), keras.Input((4,))
    flat = [keras.layers.Flatten()(each) for each in inputs]
    outputs = keras.layers.Dense(4)(keras.layers.Concatenate()(flat))
    keras.Model(inputs, outputs).save(files[0] / "two.keras")
    with pytest.raises(SystemExit, match="two.keras must take images, .*, alone"):
        command(files[0], network="two.keras")


@pytest.mark.filterwarnings("ignore:.*cannot be read as images:UserWarning")
@pytest.mark.filterwarnings("ignore::keras_robustlt.RobustnessWarning")
def test_files_become_what_the_network_takes(tmp_path):
    dense_network(2, (5, 4, 1)).save(tmp_path / "network.keras")
    data = f"--data={write_folder(tmp_path / 'data')}"
    (tmp_path / "data" / "a" / "none.png").write_bytes(b"")
    with pytest.raises(SystemExit, match="on_bad='skip'"):  # --on_bad=skip in a shell
        command(tmp_path, data)
    results = command(tmp_path, data, "--attacks=clean", "--on_bad=skip")
    assert results.settings["examples"] == 4
    with pytest.raises(SystemExit, match="takes images of shape .5, 4, 1., and data"):
        command(tmp_path, data, "--on_bad=skip", "--image_size=5")


@pytest.mark.filterwarnings("ignore:You are saving a model that has not yet")
def test_a_network_without_weights(files):
    network = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(4)])
    network.save(files[0] / "network.keras")
    with pytest.raises(SystemExit, match="it was saved before it was built"):
        command(files[0])


def test_written_before_it_is_printed(files, monkeypatch):
    def closed(*args, **kwargs):
        raise BrokenPipeError

    monkeypatch.setattr("builtins.print", closed)
    output = files[0] / "results.json"
    with pytest.raises(BrokenPipeError):
        command(files[0], "--attacks=clean", f"--output={output}")
    assert krl.EvaluationResults.from_json(output)["clean"]["all"] >= 0


def test_printed_where_it_cannot_be_written(files, monkeypatch, capsys):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(krl.EvaluationResults, "to_json", full)
    with pytest.raises(SystemExit, match="error: .*No space left"):
        command(files[0], "--attacks=clean", f"--output={files[0] / 'a.json'}")
    assert "20 test images of data" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"\xff",
        b"[]",
        b'{"settings": 3}',
        b'{"settings": {"seed": "1"}}',
        b'{"settings": {"epsilon": true}}',
        b'{"settings": {}, "class_names": 3}',
        b'{"settings": {}, "class_names": ["a", 3]}',
        b'{"settings": {}, "attacks": {}}',  # results.json
    ],
)
def test_a_damaged_config_is_named(files, content):
    (files[0] / "config.json").write_bytes(content)
    with pytest.raises(SystemExit, match="--config must be .*config.json"):
        command(files[0], "--attacks=clean")


@pytest.mark.slow_on_jax
@pytest.mark.slow  # in test_report.py a command runs as a process too
def test_command_line(files):
    arguments = ["network.keras", "--data=data.npz", "--attacks=clean,fgsm"]
    code, printed, errors = python(
        "-m", "keras_robustlt", "evaluate", *arguments, folder=files[0]
    )
    assert code == 0, errors
    assert "fgsm: chunk 1/1, done in" in printed
    assert "attack" in printed and "tail" in printed


def write_folder(root, names="ab", images=10, blue=0):
    """Grey images in one folder a class; each class has a grey of its own."""
    for index, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for number in range(images):
            grey = Image.new("RGB", (6, 6), (9 * number, 80 * index, blue))
            grey.save(root / name / f"{number}.png")
    return root


@pytest.fixture
def run(tmp_path):
    """A folder without a test part, and what a run on it leaves."""
    data = write_folder(tmp_path / "photos")
    kept = {"imbalance_ratio": None, "validation_fraction": 0.2, "seed": 7}
    divided = krl.data.long_tail_arrays(data, **kept)
    settings = {**kept, "imbalance_type": "exp", "largest_class": None, "epsilon": 0.1}
    config = {
        "settings": settings,
        "class_names": list(divided.class_names),
        "class_counts": divided.class_counts.tolist(),
        "fingerprint": divided.fingerprint,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    dense_network(2, (6, 6, 3)).save(tmp_path / "network.keras")
    return tmp_path


@pytest.mark.parametrize("flag", ["--output=photos/a/b.json", "--cache=photos/c/d.npz"])
def test_nothing_is_written_among_the_images(run, flag, monkeypatch):
    monkeypatch.chdir(run)
    before = sorted(pathlib.Path("photos").rglob("*"))
    with pytest.raises(SystemExit, match="outside of the folders of --data"):
        command(run, f"--data={run / 'photos'}", "--attacks=clean", flag)
    assert sorted(pathlib.Path("photos").rglob("*")) == before


def test_images_that_were_held_out(run):
    results = command(run, f"--data={run / 'photos'}", "--attacks=clean")
    assert results.settings["findings"] == []
    with pytest.raises(SystemExit, match="--data_seed=8 .* its seed 7"):
        command(run, f"--data={run / 'photos'}", "--data_seed=8")


@pytest.mark.parametrize("change", ["images", "config"])
def test_images_that_may_have_been_trained_on(run, change):
    if change == "images":
        write_folder(run / "more", "a")
        (run / "more" / "a" / "0.png").rename(run / "photos" / "a" / "more.png")
    else:
        (run / "config.json").unlink()
    with pytest.warns(krl.RobustnessWarning, match="may have been trained on"):
        results = command(run, f"--data={run / 'photos'}", "--attacks=clean")
    assert [each["check"] for each in results.settings["findings"]] == ["held_out"]


def test_names_of_the_network_however_accents_are_written(tmp_path):
    dense_network(2, (6, 6, 3)).save(tmp_path / "network.keras")
    config = {"settings": {}, "class_names": ["tea", "cafe\u0301"]}
    (tmp_path / "config.json").write_text(json.dumps(config))
    for blue, part in enumerate(("train", "test")):
        write_folder(tmp_path / "data" / part, ("caf\u00e9", "tea"), blue=blue)
    results = command(tmp_path, f"--data={tmp_path / 'data'}", "--attacks=clean")
    assert results.settings["class_names"] == ["tea", "caf\u00e9"]


def test_classes_in_the_order_of_the_network(run):
    """Folders are read in the order of their names; the network's is its own."""
    config = json.loads((run / "config.json").read_text())
    arguments = f"--data={run / 'parts'}", "--attacks=clean"
    for blue, part in enumerate(("train", "test")):
        write_folder(run / "parts" / part, "0ab", blue=blue)
    results = command(run, *arguments)
    assert results.settings["class_names"] == ["a", "b"]
    assert results.settings["examples"] == 20
    (run / "config.json").write_text(json.dumps({**config, "class_names": ["b", "x"]}))
    with pytest.raises(SystemExit, match="they lack x. Received: 0, a, b"):
        command(run, *arguments)


def test_classes_that_have_numbers_for_names_may_be_others(run):
    config = json.loads((run / "config.json").read_text())
    numbers = {**config, "class_names": ["0", "1"]}
    (run / "config.json").write_text(json.dumps(numbers))
    with pytest.warns(krl.RobustnessWarning, match="called 0, 1, .*are called a, b:"):
        results = command(run, f"--data={run / 'photos'}", "--attacks=clean")
    assert [each["check"] for each in results.settings["findings"]] == ["class_names"]
