"""Pretrained networks as classifiers of images in [0, 1]."""

import importlib
import types

import keras
import numpy as np
import pytest

import keras_robustlt as krl
from keras_robustlt.networks import backbones, loading

# The smallest network of each module of keras.applications, the least size of its
# images, and all that it has.
FAMILIES = {
    "convnext": ("ConvNeXtTiny", 32),
    "densenet": ("DenseNet121", 32),
    "efficientnet": ("EfficientNetB0", 32),
    "efficientnet_v2": ("EfficientNetV2B0", 32),
    "inception_resnet_v2": ("InceptionResNetV2", 75),
    "inception_v3": ("InceptionV3", 75),
    "mobilenet": ("MobileNet", 32),
    "mobilenet_v2": ("MobileNetV2", 32),
    "mobilenet_v3": ("MobileNetV3Small", 32),
    "nasnet": ("NASNetMobile", 32),
    "resnet": ("ResNet50", 32),
    "resnet_v2": ("ResNet50V2", 32),
    "vgg16": ("VGG16", 32),
    "vgg19": ("VGG19", 32),
    "xception": ("Xception", 71),
}
QUICK = ("mobilenet_v2",)


def images(*shape, seed=0):
    return np.random.default_rng(seed).random(shape, "float32")


def small_backbone(name="backbone", channels=3, size=8):
    layers = keras.layers
    return keras.Sequential(
        [
            keras.Input((size, size, channels)),
            layers.Conv2D(4, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
        ],
        name=name,
    )


def module(family):
    names = {"mobilenet_v3": "mobilenet_v3", "resnet": "resnet"}
    return importlib.import_module(
        f"keras.src.applications.{names.get(family, family)}"
    )


def test_every_module_of_keras_applications_is_known():
    modules = {
        value.__module__.rpartition(".")[2]
        for name, value in vars(keras.applications).items()
        if callable(value) and not name.startswith("_")
    }
    # VGG16 and the like are functions of these modules.
    assert modules <= FAMILIES.keys(), "add the new families to backbones.FAMILIES"


@pytest.mark.parametrize("family", FAMILIES)
def test_preprocessing_is_that_of_the_family(family):
    x = images(2, 5, 5, 3)
    for name, value in vars(module(family)).items():
        if callable(value) and name[:1].isupper() and hasattr(keras.applications, name):
            known = backbones._family(name)
            inputs = keras.Input((5, 5, 3))
            ours = keras.Model(inputs, backbones._preprocessed(inputs, known))
            expected = module(family).preprocess_input(255 * x.copy())
            np.testing.assert_allclose(
                keras.ops.convert_to_numpy(ours(x)), expected, rtol=1e-5, atol=1e-4
            )


@pytest.mark.parametrize(
    "family",
    [
        pytest.param(family, marks=[] if family in QUICK else pytest.mark.slow)
        for family in FAMILIES
    ],
)
@pytest.mark.slow_on_jax
def test_outputs_are_those_of_the_family(family):
    name, size = FAMILIES[family]
    theirs = getattr(keras.applications, name)(
        include_top=False, weights=None, input_shape=(size, size, 3), pooling="avg"
    )
    x = images(2, size, size, 3)
    expected = theirs(module(family).preprocess_input(255 * x.copy()), training=False)
    network = krl.networks.from_backbone(theirs, classes=4)
    features = keras.Model(network.input, network.get_layer("features").output)
    scale = np.abs(keras.ops.convert_to_numpy(expected)).max()
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(features(x, training=False)),
        keras.ops.convert_to_numpy(expected),
        rtol=1e-5,
        atol=1e-5 * scale,
    )
    assert network(x).shape == (2, 4)


def test_by_name_grey_and_small():
    network = krl.networks.from_backbone(
        "mobilenet_v2", classes=3, input_shape=(20, 20, 1), weights=None, dropout=0.5
    )
    assert network.input_shape == (None, 20, 20, 1)
    x = images(2, 20, 20, 1)
    logits = keras.ops.convert_to_numpy(network(x))
    assert logits.shape == (2, 3) and logits.dtype == "float32"
    plain = krl.networks.plain(network)
    np.testing.assert_allclose(plain(x), logits, atol=1e-5)


def test_small_images_keep_the_size_that_is_no_hindrance():
    network = krl.networks.from_backbone("mobilenet_v2", 2, (20, 64, 1), weights=None)
    backbone = next(each for each in network.layers if isinstance(each, keras.Model))
    assert backbone.input_shape == (None, 32, 64, 3)


def test_resized_images_are_not_taken_for_training(tmp_path):
    backbone = small_backbone()
    network = krl.networks.from_backbone(
        backbone, 2, (6, 12, 1), preprocessing="none", name="resizes"
    )
    x = images(4, 6, 12, 1)
    expected = keras.ops.convert_to_numpy(network(x, training=False))
    resized = keras.ops.image.resize(np.repeat(x, 3, axis=-1), (8, 8))
    features = keras.ops.mean(backbone(resized, training=False), axis=(1, 2))
    ours = krl.networks.with_features(network)(x)[1]
    np.testing.assert_allclose(
        *map(keras.ops.convert_to_numpy, (ours, features)), atol=1e-5
    )
    np.testing.assert_allclose(network(x), expected, atol=1e-5)
    network.save(tmp_path / "network.keras")
    again = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(again(x), expected, atol=1e-5)
    plain = krl.networks.plain(network)
    np.testing.assert_allclose(plain(x), expected, atol=1e-5)


def test_weights_that_cannot_be_fetched(monkeypatch):
    def fails(**_):
        raise Exception("URL fetch failure on https://somewhere/weights.h5")

    monkeypatch.setattr(keras.applications, "MobileNetV2", fails)
    with pytest.raises(OSError, match="'mobilenet_v2' cannot be fetched.*`weights`"):
        krl.networks.from_backbone("mobilenet_v2", classes=2)


@pytest.mark.parametrize("end", ["keras", "weights.h5", "h5", "npz"])
def test_a_file_of_other_weights_is_named(end, tmp_path, recwarn):
    path = tmp_path / f"w.{end}"
    path.write_text("none")
    of_file = "`weights` must be a file of the weights of 'mobilenet_v2'"
    with pytest.raises(ValueError, match=f"{of_file}.*Received: weights='.*w.{end}'"):
        krl.networks.from_backbone("mobilenet_v2", 2, (32, 32, 3), weights=path)
    if end in ("keras", "h5"):
        other = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Conv2D(2, 3)])
        other.save(path)
        recwarn.clear()  # that .h5 is an old format
        with pytest.raises(ValueError, match=of_file):
            krl.networks.from_backbone("mobilenet_v2", 2, (32, 32, 3), weights=path)
        assert not recwarn


@pytest.mark.parametrize("head", ["linear", "cosine", "cosplus"])
def test_trains_and_is_saved(head, tmp_path):
    network = krl.networks.from_backbone(
        small_backbone(),
        classes=2,
        preprocessing="imagenet_bgr",
        head=head,
        freeze="backbone",
    )
    before = network.get_layer("backbone").get_weights()
    model = krl.RobustLTModel(network, [6, 2], epsilon=0.1, method="reat", beta=0.0)
    model.compile(krl.optimizers.SGD(0.1))
    x, y = images(8, 8, 8, 3), np.array([0] * 6 + [1] * 2)
    model.fit(x, y, batch_size=8, epochs=1, verbose=0)
    after = network.get_layer("backbone").get_weights()
    # Frozen: its weights, and the moving statistics too.
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)
    network.save(tmp_path / "network.keras")
    loaded = keras.saving.load_model(tmp_path / "network.keras")
    np.testing.assert_allclose(loaded(x), network(x), atol=1e-6)
    assert not loaded.get_layer("backbone").trainable_variables


def test_freezes_the_first_layers():
    backbone = small_backbone()
    network = krl.networks.from_backbone(
        backbone, classes=2, preprocessing="-1..1", freeze=2
    )
    assert [layer.trainable for layer in backbone.layers] == [False, False, True]
    assert len(network.trainable_variables) == 2  # of the head
    x = images(2, 8, 8, 3)
    np.testing.assert_allclose(network(x, training=True), network(x), atol=1e-5)


def test_tokens_and_features():
    inputs = keras.Input((8, 8, 3))
    tokens = keras.layers.Reshape((64, 3))(inputs)
    x = images(2, 8, 8, 3)
    for pooling, expected in (
        ("token", x[:, 0, 0]),
        ("avg", x.mean(axis=(1, 2))),
        ("max", x.max(axis=(1, 2))),
    ):
        network = krl.networks.from_backbone(
            keras.Model(inputs, tokens), 2, preprocessing="none", pooling=pooling
        )
        features = keras.Model(network.input, network.get_layer("features").output)
        np.testing.assert_allclose(features(x), expected, atol=1e-6)


@pytest.mark.tensorflow
def test_keras_cv():
    keras_cv = pytest.importorskip("keras_cv")
    for rescales in (True, False):
        theirs = keras_cv.models.ResNetBackbone(
            stackwise_filters=[8, 8],
            stackwise_blocks=[1, 1],
            stackwise_strides=[1, 2],
            include_rescaling=rescales,
            input_shape=(16, 16, 3),
        )
        network = krl.networks.from_backbone(theirs, classes=2)
        x = images(2, 16, 16, 3)
        expected = theirs(255 * x if rescales else x)
        features = keras.Model(network.input, network.get_layer("features").output)
        np.testing.assert_allclose(
            features(x), np.mean(expected, axis=(1, 2)), rtol=1e-4, atol=1e-5
        )


@pytest.mark.parametrize(
    ("backbone", "arguments", "message"),
    [
        (small_backbone, {}, "`preprocessing` must say what the backbone takes"),
        (3, {}, "`backbone` must be a name or a keras.Model.*Received: 3"),
        (
            lambda: small_backbone("efficientnetb0"),  # without preprocessing inside
            {},
            "`preprocessing` must say",
        ),
        (small_backbone, {"preprocessing": "tf"}, "`preprocessing` must be one of"),
        (
            small_backbone,
            {"preprocessing": "none", "input_shape": (8, 8, 2)},
            "`input_shape` must have 1 channel or 3.*Received: 2",
        ),
        (
            small_backbone,
            {"preprocessing": "none", "freeze": 9},
            "`freeze` must be from 0 to 3.*freeze=9",
        ),
        (
            small_backbone,
            {"preprocessing": "none", "pooling": "token"},
            "needs a backbone that gives tokens",
        ),
        (
            small_backbone,
            {"preprocessing": "none", "weights": "mine.weights.h5"},
            "`weights` is for a `backbone` that is a name",
        ),
        (
            small_backbone,
            {"preprocessing": "none", "head": keras.layers.Dense(2, "softmax")},
            "gives probabilities",
        ),
        (
            lambda: keras.Sequential([keras.layers.Conv2D(2, 3)]),
            {"preprocessing": "none"},
            "`backbone` must take one batch of images.*None",
        ),
        (
            lambda: keras.Sequential([keras.Input((8, 8, 1)), keras.layers.ReLU()]),
            {"preprocessing": "imagenet"},
            "`preprocessing='imagenet'` is for backbones that take 3.*takes 1",
        ),
        ("mobilenet_v2", {"input_shape": (8, 8), "weights": None}, "`input_shape`"),
        ("mobilenet_v2", {"input_shape": "abc", "weights": None}, "`input_shape`"),
        (small_backbone, {"preprocessing": "none", "dropout": 1}, "`dropout` must be"),
        (small_backbone, {"preprocessing": "none", "classes": 1}, "`classes` must be"),
    ],
)
def test_mistakes(backbone, arguments, message):
    backbone = backbone() if callable(backbone) else backbone
    with pytest.raises(ValueError, match=message):
        krl.networks.from_backbone(backbone, **{"classes": 2, **arguments})


def test_a_missing_package_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "keras_hub", None)
    with pytest.raises(ImportError, match="pip install keras-hub"):
        krl.networks.from_backbone("resnet_18_imagenet", classes=2)


# keras-hub


def test_names_of_backbones(monkeypatch):
    import sys

    hub = types.SimpleNamespace()
    hub.models = types.SimpleNamespace(Backbone=types.SimpleNamespace(presets={"a": 0}))
    monkeypatch.setitem(sys.modules, "keras_hub", hub)
    for name in ("mobilenet_v2", "ResNet50", "resnet_18", "a", "hf://someone/network"):
        backbones.check_name(name)
    with pytest.raises(ValueError, match="'resnet_18_imagenet', or its directory"):
        backbones.check_name("mobilnet")


def test_resnets_of_keras_hub_without_a_connection():
    hub = pytest.importorskip("keras_hub")
    presets = hub.models.ResNetBackbone.presets
    known = [name for name in presets if backbones._resnet_of_hub(name)]
    assert len(known) == 4
    for name in (
        "resnet_18_imagenet",
        "resnet_50_imagenet",
    ):
        backbone, _ = backbones._hub_backbone(name, (32, 32, 1), None)
        assert backbone.count_params() == presets[name]["metadata"]["params"]
    with pytest.raises(ValueError, match="weights='imagenet' or weights=None"):
        krl.networks.from_backbone("resnet_18", 2, weights="weights.h5")


def test_preset_directory_of_keras_hub(tmp_path):
    hub = pytest.importorskip("keras_hub")
    theirs = hub.models.ResNetBackbone(
        [64], [7], [64, 64], [1, 1], [1, 2], "basic_block", image_shape=(16, 16, 3)
    )
    theirs.save_to_preset(tmp_path)
    with pytest.raises(OSError, match="cannot be read; unless.*image_converter"):
        krl.networks.from_backbone(str(tmp_path), classes=2)
    converter = hub.layers.ResNetImageConverter(scale=1 / 127.5, offset=-1.0)
    converter.save_to_preset(tmp_path)
    network = krl.networks.from_backbone(str(tmp_path), classes=2)
    x = images(2, 16, 16, 3)
    features = keras.Model(network.input, network.get_layer("features").output)
    np.testing.assert_allclose(
        keras.ops.convert_to_numpy(features(x)),
        np.mean(theirs(2 * x - 1), axis=(1, 2)),
        rtol=1e-4,
        atol=1e-5,
    )


@pytest.mark.filterwarnings("ignore:In all of this training, of 1 epoch")
def test_keras_hub_trains_and_leaves_the_house(tmp_path):
    hub = pytest.importorskip("keras_hub")
    theirs = hub.models.ResNetBackbone(
        [64], [7], [64], [1], [1], "basic_block", image_shape=(16, 16, 3)
    )
    network = krl.networks.from_backbone(
        theirs, classes=2, input_shape=(16, 16, 1), preprocessing="imagenet"
    )
    model = krl.RobustLTModel(network, [3, 1], epsilon=0.1, method="reat")
    optimizer = krl.optimizers.AdamW(1e-3, backbone_rate=0.1)
    model.compile(optimizer, run_eagerly=True)
    x, y = images(4, 16, 16, 1), np.array([0, 0, 0, 1])
    model.fit(x, y, batch_size=4, epochs=1, verbose=0)
    plain = krl.networks.plain(network)
    expected = keras.ops.convert_to_numpy(network(x))
    np.testing.assert_allclose(plain(x), expected, atol=1e-5)
    path = tmp_path / "network.keras"
    plain.save(path)
    np.testing.assert_allclose(loading.load(path)(x), expected, atol=1e-5)


def test_a_network_of_a_missing_package(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)

    def load_model(path, compile):
        raise TypeError(
            "Could not deserialize class 'B' because its parent module "
            f"{path}.src.models cannot be imported. Full object config: {{}}"
        )

    monkeypatch.setattr(keras.saving, "load_model", load_model)
    for name in ("keras_cv", "mine"):
        (tmp_path / name).write_text("")
    with pytest.raises(ImportError, match="pip install keras-cv"):
        loading.load("keras_cv")
    with pytest.raises(ValueError, match="it has a class 'B', which is code of one's"):
        loading.load("mine")


def test_a_network_with_code_of_ones_own(tmp_path):
    path = tmp_path / "network.keras"
    for layer, called in (
        (keras.layers.Lambda(lambda x: 2 * x), "Lambda layer"),
        (type("Mine", (keras.layers.Layer,), {"call": lambda self, x: x})(), "class"),
    ):
        keras.Sequential([keras.Input((4,)), layer]).save(path)
        with pytest.raises(ValueError, match=f"^it has a {called}.* code of one's own"):
            loading.load(path)


def test_a_name_that_begins_like_a_family_is_no_network_of_it():
    inputs = keras.Input((8, 8, 3))
    for name in ("resnet_mine", "vgg_tiny", "mobilenet_cifar"):
        outputs = keras.layers.Conv2D(4, 3)(inputs)
        backbone = keras.Model(inputs, outputs, name=name)
        with pytest.raises(ValueError, match="`preprocessing` must say"):
            krl.networks.from_backbone(backbone, 3)
