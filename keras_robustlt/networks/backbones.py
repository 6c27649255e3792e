"""Anybody's pretrained network as a classifier of images in [0, 1].

A perturbation is measured in the pixels of images in [0, 1], so the network that
training attacks must take such images. Pretrained networks want them scaled, each
family in its own way; here that scaling becomes the first layers of the classifier.
"""

import importlib
import numbers
import os
import pathlib
import re
import warnings

import keras
from keras import ops

from keras_robustlt import checks
from keras_robustlt.networks import parts

# What maps images in [0, 1] to what a network was trained on, by name: RGB or BGR, and
# the mean and the standard deviation of each channel.
PREPROCESSING = {
    "none": ("rgb", 0.0, 1.0),
    "0..255": ("rgb", 0.0, 1 / 255),
    "-1..1": ("rgb", 0.5, 0.5),
    "imagenet": ("rgb", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "imagenet_bgr": (
        "bgr",
        tuple(mean / 255 for mean in (103.939, 116.779, 123.68)),
        1 / 255,
    ),
}
# The families of keras.applications, by the names of their networks without
# punctuation. Those that say "0..255" have their preprocessing inside.
FAMILIES = {
    "convnext(tiny|small|base|large|xlarge)": "0..255",
    r"densenet\d+": "imagenet",
    r"efficientnet(b\d|v2(b\d|s|m|l))": "0..255",
    "inception(v3|resnetv2)": "-1..1",
    "mobilenetv3(small|large)": "0..255",
    r"mobilenet(v2)?\d*(none)?": "-1..1",
    "nasnet(mobile|large)?": "-1..1",
    r"resnet\d+v2": "-1..1",
    r"resnet\d+": "imagenet_bgr",
    r"vgg\d+": "imagenet_bgr",
    "xception": "-1..1",
}
# The ResNets of keras-hub, by depth: random ones need no configuration from a network.
RESNETS = {
    18: ("basic_block", (2, 2, 2, 2)),
    34: ("basic_block", (3, 4, 6, 3)),
    50: ("bottleneck_block", (3, 4, 6, 3)),
    101: ("bottleneck_block", (3, 4, 23, 3)),
    152: ("bottleneck_block", (3, 8, 36, 3)),
}
FREEZE = ("none", "backbone")
POOLING = ("avg", "max", "token")


def from_backbone(
    backbone,
    classes,
    input_shape=None,
    weights="imagenet",
    preprocessing=None,
    pooling="avg",
    dropout=0.0,
    head="linear",
    freeze="none",
    name=None,
):
    """Builds a classifier of images in [0, 1] on a pretrained network.

    The preprocessing that the backbone was trained with becomes its first layers,
    grey images are repeated for its three channels, and images of another size than
    it takes are resized inside, so that epsilon keeps its meaning: the pixels of your
    images.

    Args:
        backbone: A network that maps images to feature maps, tokens or features. One
            of `keras.applications`, by name (`"MobileNetV2"` or `"mobilenet_v2"`) or
            as an object made with `include_top=False`; a preset of keras-hub, by
            name or directory; a `Backbone` of keras-hub or keras-cv; or any functional
            `keras.Model`. `"resnet_18"` and `"resnet_34"` are those of keras-hub; with
            `weights=None` its ResNets need no connection.
        classes: Integer, the number of classes.
        input_shape: Tuple (height, width, channels) of your images, with 1 channel or
            as many as the backbone takes. Defaults to what the backbone takes, and to
            `(224, 224, 3)` for a name.
        weights: Where `backbone` is a name: `"imagenet"`, `None` for random ones, or
            the path of a weights file, as in `keras.applications`; a preset of
            keras-hub comes with its own weights or, of `None`, without. Defaults to
            `"imagenet"`.
        preprocessing: What the backbone takes in place of images in [0, 1]: `"none"`
            (just those), `"0..255"`, `"-1..1"`, `"imagenet"` (its mean and standard
            deviation), `"imagenet_bgr"` (channels reversed, its mean subtracted from
            values to 255), or a Keras layer. Defaults to `None`: known from the
            family, for `keras.applications`, keras-cv and presets of keras-hub.
        pooling: `"avg"`, `"max"` or, of tokens, `"token"` (the first one): how a map
            becomes a vector of features. Defaults to `"avg"`.
        dropout: Float in `[0, 1)`. Share of the features dropped in training.
            Defaults to `0`.
        head: `"linear"`, `"cosine"` or `"cosplus"`, or a Keras layer that maps
            features to logits. Defaults to `"linear"`.
        freeze: `"none"`, `"backbone"`, or an integer, so many of the backbone's first
            layers: what training leaves as it is. Batch normalisation in there runs
            in inference mode, also in the training attack. Defaults to `"none"`.
        name: String, the name of the model. Defaults to the backbone's.

    Returns:
        A `keras.Model` from float32 images (batch, height, width, channels) in [0, 1]
        to float32 logits (batch, classes).

    Raises:
        ValueError: If an argument is out of range, or the preprocessing of the
            backbone is not known and not given.
        ImportError: If `backbone` names a preset and keras-hub is not installed.
        OSError: If its weights cannot be fetched.

    Example:

    ```python
    network = krl.networks.from_backbone(
        "mobilenet_v2", classes=7, input_shape=(48, 48, 1), weights=None
    )
    model = krl.RobustLTModel(network, class_counts=[400, 200, 90, 40, 20, 9, 3])
    ```

    Reference:

    - [keras.applications](https://keras.io/api/applications/), whose
      `preprocess_input` functions say what each family takes.
    """
    checks.one_of("pooling", pooling, POOLING)
    dropout = checks.in_range("dropout", dropout, 0, 1 - 1e-9)
    if preprocessing is not None and not isinstance(preprocessing, keras.Layer):
        checks.one_of("preprocessing", preprocessing, tuple(PREPROCESSING))
    if input_shape is not None:
        parts.check_arguments(classes, input_shape, head)
    if not isinstance(weights, (str, os.PathLike, type(None))):
        raise ValueError(
            "`weights` must be 'imagenet', None or the path of a file. Received: "
            f"weights={weights!r:.200}"
        )
    checks.classifier_alone("backbone", backbone)
    if isinstance(backbone, keras.Model):
        if weights not in ("imagenet", None):
            raise ValueError(
                "`weights` is for a `backbone` that is a name: a model has its own, "
                f"and `load_weights` gives it others. Received: weights={weights!r}"
            )
    else:
        check_name(backbone)
        found = _application(backbone, input_shape, weights)
        backbone, known = found or _hub_backbone(
            backbone, input_shape, weights, preprocessing
        )
        preprocessing = known if preprocessing is None else preprocessing
    if preprocessing is None:
        preprocessing = _preprocessing_of(backbone)
    taken = _input_shape_of(backbone)
    shape = taken if input_shape is None else tuple(input_shape)
    parts.check_arguments(classes, shape, head)
    _freeze(backbone, freeze)

    checks.logits_not_probabilities(backbone)

    inputs = keras.Input(shape)
    x = _fitted(inputs, taken)
    x = _preprocessed(x, preprocessing)
    x = _pooled(backbone(x), pooling)
    if dropout:
        x = keras.layers.Dropout(dropout, dtype="float32")(x)
    logits = parts.classifier(x, classes, head)
    return keras.Model(inputs, logits, name=name or f"{backbone.name}_classifier")


def _squeezed(name):
    """A name without case and punctuation: "EfficientNetV2-B0", "efficientnetv2b0"."""
    return re.sub(r"[^a-z0-9]", "", str(name).lower())


def check_name(name):
    """Raises unless `from_backbone` knows a backbone of this name.

    Raises:
        ValueError: If there is none.
        ImportError: If it can only be one of keras-hub, which is not installed.
    """
    if not isinstance(name, str):
        raise ValueError(
            "`backbone` must be a name or a keras.Model that maps images to features. "
            f"Received: {name!r} (of type {type(name).__name__})"
        )
    if _squeezed(name) in _applications():
        return
    presets = _hub(name).models.Backbone.presets
    is_place = "://" in name or pathlib.Path(name).is_dir()
    if not (is_place or name in presets or _resnet_of_hub(name)):
        raise ValueError(
            "`backbone` must be the name of a network of keras.applications, such as "
            "'mobilenet_v2', or a preset of keras-hub: its name, such as "
            f"'resnet_18_imagenet', or its directory. Received: backbone={name!r}"
        )


def _applications():
    """The functions of keras.applications by their squeezed names."""
    return {
        _squeezed(name): value
        for name, value in vars(keras.applications).items()
        if callable(value)
    }


def _application(name, input_shape, weights):
    """The network of keras.applications of this name and its preprocessing, if any."""
    build = _applications().get(_squeezed(name))
    if build is None:
        return None
    height, width, _ = input_shape or (224, 224, 3)
    is_file = weights is not None and pathlib.Path(weights).is_file()
    fetched = None if is_file else weights

    def sized(*size):
        try:
            return build(include_top=False, weights=fetched, input_shape=(*size, 3))
        except Exception as error:
            if "URL fetch failure" not in str(error):  # which is of no kind of its own
                raise
            raise OSError(
                f"the weights of {name!r} cannot be fetched, which needs a connection; "
                "`weights` also takes the path of a file, and weights=None random "
                f"ones: {error}"
            ) from error

    try:
        network = sized(height, width)
    except ValueError as error:
        if "at least" not in str(error):
            raise
        # Smaller images than it was made for are resized to the least that it takes.
        least = max(int(size) for size in re.findall(r"at least (\d+)", str(error)))
        network = sized(*(side and max(side, least) for side in (height, width)))
    if is_file:
        _load_weights(network, name, weights)
    return network, _family(name)


def _load_weights(network, name, path):
    """Gives a network of keras.applications the weights in a file."""
    open(path, "rb").close()  # where that is not permitted, h5py says it at length
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of each layer that is another
            network.load_weights(path)
    except Exception as error:  # damaged archives raise many kinds
        reason = str(error).strip().partition("\n")[0].partition(". ")[0].rstrip(".")
        raise ValueError(
            f"`weights` must be a file of the weights of {name!r} without its top "
            f"layer, .weights.h5, .keras or .h5: {reason}. Received: "
            f"weights={str(path)!r}"
        ) from None


def _hub(name):
    """The package keras-hub, for the backbone of this name."""
    try:
        return importlib.import_module("keras_hub")
    except ImportError as error:
        raise ImportError(
            f"`backbone` {name!r} is no network of keras.applications, and presets "
            "need the package keras-hub: pip install keras-hub"
        ) from error


def _resnet_of_hub(name):
    """The depth in a name such as "resnet_50_imagenet"; `None` of other names."""
    match = re.fullmatch(r"resnet_(\d+)(_imagenet)?", name)
    return int(match[1]) if match and int(match[1]) in RESNETS else None


def _hub_backbone(name, input_shape, weights, preprocessing=None):
    """The backbone of keras-hub of this name, and its preprocessing."""
    if weights not in ("imagenet", None):
        raise ValueError(
            "`weights` can be weights='imagenet' or weights=None, with or without its "
            f"own, for {name!r}, a preset of keras-hub. Received: weights={weights!r}"
        )
    hub = _hub(name)
    size = {} if input_shape is None else {"image_shape": (*input_shape[:2], 3)}
    depth = _resnet_of_hub(name)
    if depth and weights is None:
        block, counts = RESNETS[depth]
        backbone = hub.models.ResNetBackbone(
            input_conv_filters=[64],
            input_conv_kernel_sizes=[7],
            stackwise_num_filters=[64, 128, 256, 512],
            stackwise_num_blocks=list(counts),
            stackwise_num_strides=[1, 2, 2, 2],
            block_type=block,
            **size,
        )
        return backbone, "imagenet"
    if depth:
        name = f"resnet_{depth}_imagenet"
    try:
        backbone = hub.models.Backbone.from_preset(
            name, load_weights=weights is not None, **size
        )
        if preprocessing is not None:
            return backbone, preprocessing
        converter = hub.layers.ImageConverter.from_preset(name)
    except OSError as error:
        raise OSError(
            f"the preset {name!r} of keras-hub cannot be read; unless it is a "
            f"directory, that needs a connection: {error}"
        ) from error
    scale = 1.0 if converter.scale is None else converter.scale
    offset = 0.0 if converter.offset is None else converter.offset
    return backbone, keras.layers.Rescaling(
        [255 * each for each in scale] if hasattr(scale, "__len__") else 255 * scale,
        offset,
        dtype="float32",
    )


def _family(name):
    squeezed = _squeezed(name)
    families = FAMILIES.items()
    fits = (known for names, known in families if re.fullmatch(names, squeezed))
    return next(fits, None)


def _preprocessing_of(backbone):
    """What a network takes that was not built here."""
    if hasattr(backbone, "include_rescaling"):  # keras-cv
        return "0..255" if backbone.include_rescaling else "none"
    known = _family(backbone.name)
    if type(backbone).__module__.startswith("keras_hub"):
        known = None  # keras-hub's networks have such names and other preprocessing
    if known == "0..255" and not _rescales(backbone):
        known = None  # made with include_preprocessing=False
    if known is None:
        raise ValueError(
            "`preprocessing` must say what the backbone takes in place of images in "
            f"[0, 1], one of {', '.join(map(repr, PREPROCESSING))} or a layer: that is "
            f"not known of {type(backbone).__name__} {backbone.name!r}. "
            "Received: preprocessing=None"
        )
    return known


def _rescales(network):
    layers = network._flatten_layers(include_self=False)
    kinds = (keras.layers.Rescaling, keras.layers.Normalization)
    return any(isinstance(layer, kinds) for layer in layers)


def _input_shape_of(backbone):
    shape = backbone.input_shape if backbone.built else None
    if not isinstance(shape, tuple) or len(shape) != 4:
        raise ValueError(
            "`backbone` must take one batch of images, of shape (batch, height, width, "
            f"channels). Received: {backbone.name!r} with inputs of shape {shape}"
        )
    return shape[1:]


def _freeze(backbone, freeze):
    if isinstance(freeze, numbers.Integral) and not isinstance(freeze, bool):
        if not 0 <= freeze <= len(backbone.layers):
            raise ValueError(
                f"`freeze` must be from 0 to {len(backbone.layers)}, as many layers as "
                f"the backbone has. Received: freeze={freeze}"
            )
        for layer in backbone.layers[:freeze]:
            layer.trainable = False
    elif freeze not in FREEZE:
        raise ValueError(
            "`freeze` must be 'none', 'backbone' or an integer, so many of the first "
            f"layers. Received: freeze={freeze!r}"
        )
    elif freeze == "backbone":
        backbone.trainable = False


def _fitted(images, taken):
    """Images in the number of channels and the size that the backbone takes."""
    height, width, channels = taken
    have = images.shape[-1]
    if have == 1 and channels != 1:
        images = keras.layers.Concatenate(dtype="float32", name="grey_to_color")(
            [images] * channels
        )
    elif have != channels:
        raise ValueError(
            f"`input_shape` must have 1 channel or {channels}, as many as the backbone "
            f"takes. Received: {have} channels"
        )
    if height is not None and images.shape[1:3] != (height, width):
        # No Resizing layer: in `network(images)` it would tell the layers behind it
        # that this is training, and batch normalization to go by the batch.
        images = ops.image.resize(images, (height, width))
    return images


def _preprocessed(images, preprocessing):
    if isinstance(preprocessing, keras.Layer):
        return preprocessing(images)
    order, mean, std = PREPROCESSING[preprocessing]
    if isinstance(mean, tuple) and images.shape[-1] != len(mean):
        raise ValueError(
            f"`preprocessing={preprocessing!r}` is for backbones that take "
            f"{len(mean)} channels. Received: one that takes {images.shape[-1]}"
        )
    if order == "bgr":
        images = ops.flip(images, axis=-1)
    if preprocessing == "none":
        return images
    # In float32 under every policy: half precision would round the pixels, and with
    # them the perturbation.
    scaling = keras.layers.Rescaling(
        [1 / each for each in std] if isinstance(std, tuple) else 1 / std,
        _offset(mean, std),
        dtype="float32",
        name="preprocessing",
    )
    return scaling(images)


def _offset(mean, std):
    """What (x - mean) / std adds to x / std."""
    if not isinstance(mean, tuple):
        return -mean / std
    std = std if isinstance(std, tuple) else (std,) * len(mean)
    return [-m / s for m, s in zip(mean, std, strict=True)]


def _pooled(outputs, pooling):
    """A vector of float32 features an image."""
    if not keras.ops.is_tensor(outputs) and not hasattr(outputs, "shape"):
        raise ValueError(
            "`backbone` must give one tensor of features. Received: one that gives "
            f"{type(outputs).__name__}"
        )
    rank = len(outputs.shape)
    common = {"dtype": "float32", "name": "features"}
    if rank == 2:
        return keras.layers.Activation("linear", **common)(outputs)
    if pooling == "token":
        if rank != 3:
            raise ValueError(
                "`pooling='token'` needs a backbone that gives tokens. Received: "
                f"outputs of shape {tuple(outputs.shape)}"
            )
        return keras.layers.Flatten(**common)(outputs[:, :1])
    kinds = {
        ("avg", 3): keras.layers.GlobalAveragePooling1D,
        ("max", 3): keras.layers.GlobalMaxPooling1D,
        ("avg", 4): keras.layers.GlobalAveragePooling2D,
        ("max", 4): keras.layers.GlobalMaxPooling2D,
    }
    if (pooling, rank) not in kinds:
        raise ValueError(
            "`backbone` must give feature maps, tokens or features. Received: outputs "
            f"of shape {tuple(outputs.shape)}"
        )
    return kinds[pooling, rank](**common)(outputs)
