"""Networks that leave: raw images in, probabilities of named classes out."""

import json
import warnings
import zipfile

import keras
import numpy as np
import pytest
from PIL import Image
from tiny_models import conv_network, dense_network

import keras_robustlt as krl
from keras_robustlt import __main__ as command_line
from keras_robustlt.class_names import display_width
from keras_robustlt.deployment.export import class_names_of

NAMES = ["naïve", "猫", "a b"]


@pytest.fixture(scope="module")
def network():
    return conv_network()


@pytest.fixture
def pixels(network):
    shape = (4, *network.input_shape[1:])
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def softmax(network, pixels):
    logits = keras.ops.convert_to_numpy(network(pixels.astype("float32") / 255))
    return keras.ops.convert_to_numpy(keras.ops.softmax(logits))


@pytest.mark.parametrize("input", ["uint8", "float"])
def test_keras_file(network, pixels, tmp_path, input):
    path = krl.export(network, tmp_path / "a" / "robust.keras", NAMES, input)
    loaded = keras.saving.load_model(path)
    assert loaded.inputs[0].dtype == {"uint8": "uint8", "float": "float32"}[input]
    x = pixels if input == "uint8" else pixels.astype("float32") / 255
    np.testing.assert_allclose(loaded(x), softmax(network, pixels), atol=1e-6)
    assert class_names_of(path) == NAMES
    assert [each.name for each in path.parent.iterdir()] == ["robust.keras"]


def test_of_a_model_it_is_the_network_that_predicts(network, pixels, tmp_path):
    model = krl.RobustLTModel(network, [4, 2, 1], averaging=0.9)
    model.network.set_weights([w + 0.1 for w in network.get_weights()])
    path = krl.export(model, tmp_path / "robust.keras")
    loaded = keras.saving.load_model(path)
    expected = softmax(model.averaged_network, pixels)
    np.testing.assert_allclose(loaded(pixels), expected, atol=1e-6)
    assert class_names_of(path) == ["0", "1", "2"]


@pytest.mark.tensorflow
def test_saved_model(network, pixels, tmp_path):
    import tensorflow as tf

    path = krl.export(network, tmp_path / "saved", NAMES)
    loaded = tf.saved_model.load(str(path))
    np.testing.assert_allclose(
        loaded.serve(pixels), softmax(network, pixels), atol=1e-5
    )
    assert class_names_of(path) == NAMES


def test_a_folder_of_other_files_is_left_alone(network, tmp_path):
    (tmp_path / "photo.png").touch()
    with pytest.raises(ValueError, match="`path` must be a new directory.*other files"):
        krl.export(network, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["photo.png"]


def test_a_folder_is_never_replaced_by_a_file(network, tmp_path):
    folder = tmp_path / "robust.keras"
    folder.mkdir()
    (folder / "photo.png").touch()
    with pytest.raises(ValueError, match="`path` must not be that of a directory"):
        krl.export(network, folder)
    assert [each.name for each in folder.iterdir()] == ["photo.png"]
    (tmp_path / "notes").touch()
    with pytest.raises(ValueError, match="`path` must not be that of a file"):
        krl.export(network, tmp_path / "notes")


def test_only_what_can_tell_classes_apart_is_exported(tmp_path):
    path = tmp_path / "robust.keras"
    with pytest.raises(ValueError, match="at least 2 classes"):
        krl.export(dense_network(1), path)
    with pytest.raises(ValueError, match="`model` must be built"):
        krl.export(keras.Sequential([keras.layers.Dense(2)]), path)
    diverged = dense_network()
    diverged.set_weights([np.nan * w for w in diverged.get_weights()])
    with pytest.raises(ValueError, match="`model` must have weights that are finite"):
        krl.export(diverged, path)
    with pytest.raises(FileNotFoundError, match="`path` must be what `export` wrote"):
        class_names_of(path)


LITERT_IS_THERE = tuple(map(int, keras.__version__.split(".")[:2])) >= (3, 13)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "version, backend, error, message",
    [
        ("3.12.4", "tensorflow", ImportError, "by Keras 3.13 or newer.*3.12.4"),
        ("3.13.0", "jax", ValueError, "must not end in .tflite on this backend.*jax"),
    ],
)
def test_litert_that_keras_cannot_write(
    network, tmp_path, monkeypatch, version, backend, error, message
):
    monkeypatch.setattr(keras, "__version__", version)
    monkeypatch.setattr(keras.backend, "backend", lambda: backend)
    path = tmp_path / "folder/robust.tflite"
    with pytest.raises(error, match=message):
        krl.export(network, path, NAMES)
    assert not path.parent.exists()


@pytest.mark.tensorflow
@pytest.mark.skipif(not LITERT_IS_THERE, reason="Keras writes LiteRT since 3.13")
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_litert(network, pixels, tmp_path):
    path = krl.export(network, tmp_path / "robust.tflite", NAMES)
    np.testing.assert_allclose(
        run_by_litert(path, pixels), softmax(network, pixels), atol=1e-5
    )
    assert class_names_of(path) == NAMES


def run_by_litert(path, pixels):
    import tensorflow as tf

    interpreter = tf.lite.Interpreter(str(path))
    (images,), (outputs,) = (
        interpreter.get_input_details(),
        interpreter.get_output_details(),
    )
    assert images["dtype"] is np.uint8
    interpreter.resize_tensor_input(images["index"], pixels.shape)
    interpreter.allocate_tensors()
    interpreter.set_tensor(images["index"], pixels)
    interpreter.invoke()
    return interpreter.get_tensor(outputs["index"])


def half_precision(policy):
    layers = keras.layers
    inputs = keras.Input((4, 4, 1))
    x = layers.Flatten(dtype=policy)(layers.Conv2D(3, 3, dtype=policy)(inputs))
    return keras.Model(inputs, layers.Dense(3, dtype="float32")(x))


@pytest.mark.tensorflow
@pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated:UserWarning")
def test_litert_of_half_precision(pixels, tmp_path):
    network, path = half_precision("mixed_bfloat16"), tmp_path / "robust.tflite"
    krl.export(network, path, NAMES)
    pixels = pixels[:, :4, :4, :1]
    found = run_by_litert(path, pixels)
    np.testing.assert_allclose(found, softmax(network, pixels), atol=0.02)
    with pytest.raises(ValueError, match="`path`.*weights in bfloat16"):
        krl.export(half_precision("bfloat16"), path)


def test_layers_that_take_a_call_for_training(pixels, tmp_path):
    layers = keras.layers
    network = keras.Sequential(
        [keras.Input(pixels.shape[1:]), layers.Resizing(5, 5)]
        + [layers.BatchNormalization(), layers.Flatten(), layers.Dense(3)]
    )
    loaded = keras.saving.load_model(krl.export(network, tmp_path / "robust.keras"))
    logits = network(pixels.astype("float32") / 255, training=False)
    expected = keras.ops.convert_to_numpy(keras.ops.softmax(logits))
    np.testing.assert_allclose(loaded(pixels), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"path": "robust.h5"}, "`path` must end in .keras or .tflite"),
        ({"class_names": ["a", "b"]}, "`class_names` must have 3 names.*'b'"),
        (
            {"class_names": ["a", "a", "b"]},
            "`class_names` must be one name a class, all different.*'a'",
        ),
        ({"input": "int8"}, "`input` must be one of 'uint8', 'float'"),
    ],
)
def test_mistakes(network, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        krl.export(network, **{"path": "robust.keras", **arguments})
    assert not list(tmp_path.iterdir())


# The command


def predict(*arguments):
    command_line.main(["program", "predict", *map(str, arguments)])


def test_command(network, pixels, tmp_path, capsys):
    path = krl.export(network, tmp_path / "robust.keras", NAMES)
    files = [tmp_path / f"{index}.png" for index in range(2)]
    for file, image in zip(files, pixels, strict=False):
        Image.fromarray(image.squeeze()).save(file)
    expected = softmax(network, pixels)
    files.append(files[0])
    predict(path, *files, "--top=1")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 and lines[0] == lines[2]
    for line, file, row in zip(lines[:2], files, expected, strict=False):
        assert line.split("  ") == [str(file), f"{NAMES[row.argmax()]} {row.max():.1%}"]

    # The network of a run gives logits, and its settings have the names.
    network.save(tmp_path / "network.keras")
    names = json.dumps({"class_names": NAMES})
    (tmp_path / "config.json").write_text(names, encoding="utf-8")
    predict(tmp_path / "network.keras", *files, "--top=1")
    assert capsys.readouterr().out.splitlines() == lines


def test_command_takes_a_whole_model(network, pixels, tmp_path, capsys):
    model = krl.RobustLTModel(network, [4, 2, 1])
    model.save(tmp_path / "model.keras")
    Image.fromarray(pixels[0]).save(tmp_path / "a.png")
    predict(tmp_path / "model.keras", tmp_path / "a.png", "--top=1")
    best = softmax(network, pixels[:1])[0]
    assert f"{best.argmax()} {best.max():.1%}" in capsys.readouterr().out


def test_command_takes_a_network_whose_output_has_a_name(tmp_path, capsys):
    inputs = keras.Input((8, 8, 3))
    logits = keras.layers.Dense(2)(keras.layers.Flatten()(inputs))
    keras.Model(inputs, {"logits": logits}).save(tmp_path / "network.keras")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    predict(tmp_path / "network.keras", tmp_path / "a.png")
    assert "50.0%" in capsys.readouterr().out


def test_command_reads_upright_images_of_any_size(network, tmp_path, capsys):
    path = krl.export(network, tmp_path / "robust.keras", NAMES)
    height, width, _ = network.input_shape[1:]
    ramp = np.repeat(np.arange(0, 240, 10, dtype="uint8")[:, None], 24, 1)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    Image.fromarray(ramp).convert("RGB").save(tmp_path / "lying.png", exif=exif)
    Image.fromarray(ramp[::-1, ::-1]).convert("RGB").save(tmp_path / "upright.png")
    predict(path, tmp_path / "lying.png", tmp_path / "upright.png")
    lying, upright = capsys.readouterr().out.splitlines()
    assert lying.split("  ")[-1] == upright.split("  ")[-1]


def test_command_lines_up_names_of_any_script(network, pixels, tmp_path, capsys):
    network.save(tmp_path / "network.keras")
    files = [tmp_path / "肺部.png", tmp_path / "lung.png"]
    for file in files:
        Image.fromarray(pixels[0].squeeze()).save(file)
    predict(tmp_path / "network.keras", *files)
    lines = capsys.readouterr().out.splitlines()
    assert len({display_width(line) for line in lines}) == 1


def test_a_bad_image_leaves_the_others(network, pixels, tmp_path, capsys):
    path = krl.export(network, tmp_path / "robust.keras", NAMES)
    good, empty = tmp_path / "good.png", tmp_path / "empty.png"
    Image.fromarray(pixels[0].squeeze()).save(good)
    empty.touch()
    with pytest.raises(SystemExit, match=r"empty\.png.*it is empty"):
        predict(path, empty, good)
    assert capsys.readouterr().out.startswith(f"{good}  ")


def test_damaged_names_of_an_export(network, tmp_path):
    path = krl.export(network, tmp_path / "robust.keras", NAMES)
    with zipfile.ZipFile(path, "a") as archive, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # there are two of this name
        archive.writestr("class_names.json", "{")
    with pytest.raises(ValueError, match="`path` is damaged, or no export"):
        krl.class_names_of(path)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ValueError, match="`path` is damaged, or no export"):
        krl.class_names_of(path)


@pytest.mark.parametrize("damaged", ["network", "image"])
def test_damaged_files_are_named(network, tmp_path, damaged):
    path = krl.export(network, tmp_path / "robust.keras")
    image = tmp_path / "image.png"
    Image.new("RGB", (6, 6)).save(image)
    bad = {"network": path, "image": image}[damaged]
    bad.write_bytes(b"nonsense")
    with pytest.raises(SystemExit, match=f"error: {bad}"):
        predict(path, image)
    with pytest.raises(SystemExit, match="error: there is no file nowhere.png"):
        predict(path, "nowhere.png")
    with pytest.raises(SystemExit, match="is a folder: give its images"):
        predict(path, tmp_path)
    network.save(tmp_path / "network.keras")
    with pytest.raises(SystemExit, match="is a folder: give .*network.keras"):
        predict(tmp_path, image)


@pytest.mark.parametrize(
    "config", ["{", "[]", '{"class_names": ["a"]}', '{"class_names": ["a", null, ""]}']
)
def test_a_config_that_does_not_tell_the_names(network, tmp_path, capsys, config):
    network.save(tmp_path / "network.keras")
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    (tmp_path / "config.json").write_text(config)
    with pytest.raises(SystemExit, match=r"config.json, .* is damaged \("):
        predict(tmp_path / "network.keras", tmp_path / "image.png")
    (tmp_path / "config.json").write_text("{}")
    predict(tmp_path / "network.keras", tmp_path / "image.png", "--top=1")
    assert capsys.readouterr().out


@pytest.mark.parametrize("kind", ["flat", "one output", "diverged", "sigmoid"])
def test_only_what_classifies_images_predicts(tmp_path, kind):
    size, units = ((8,) if kind == "flat" else (8, 8, 1)), 1 if "one" in kind else 2
    activation = "sigmoid" if kind == "sigmoid" else None
    layers = [keras.layers.Flatten(), keras.layers.Dense(units, activation)]
    found = keras.Sequential([keras.Input(size), *layers])
    if kind == "diverged":
        found.layers[-1].bias.assign([0.0, np.nan])
    found.save(tmp_path / "network.keras")
    Image.new("L", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(SystemExit, match="take images|finite numbers|must give logits"):
        predict(tmp_path / "network.keras", tmp_path / "image.png")


def test_images_of_other_channels_than_files_have(tmp_path):
    krl.networks.SmallResNet(2, (8, 8, 4), widths=(4,)).save(tmp_path / "network.keras")
    Image.new("RGBA", (8, 8)).save(tmp_path / "image.png")
    with pytest.raises(SystemExit, match="takes images of 4 channels"):
        predict(tmp_path / "network.keras", tmp_path / "image.png")


def test_predict_says_that_it_reads_no_tflite(tmp_path):
    path = tmp_path / "robust.tflite"
    path.write_bytes(b"TFL3")
    with pytest.raises(SystemExit, match="reads .keras files: export the network as"):
        predict(path, path)
