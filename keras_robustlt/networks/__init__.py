"""Networks with the normalization of the images inside and float32 logits.

Images enter in [0, 1], the space in which perturbations are measured.
"""

import functools
import re

from keras_robustlt import checks
from keras_robustlt.networks.adjustment import logit_adjusted, tau_normalized
from keras_robustlt.networks.backbones import from_backbone
from keras_robustlt.networks.conversion import plain
from keras_robustlt.networks.features import with_features
from keras_robustlt.networks.parts import CIFAR10_MEAN, CIFAR10_STD
from keras_robustlt.networks.resnet import (
    PreActResNet18,
    ResNet18,
    ResNet34,
    ResNet50,
    SmallResNet,
)
from keras_robustlt.networks.vit import ViT
from keras_robustlt.networks.wide_resnet import WideResNet, check_size

__all__ = [
    "CIFAR10_MEAN",
    "CIFAR10_STD",
    "PreActResNet18",
    "ResNet18",
    "ResNet34",
    "ResNet50",
    "SmallResNet",
    "ViT",
    "WideResNet",
    "from_backbone",
    "get",
    "logit_adjusted",
    "plain",
    "tau_normalized",
    "with_features",
]

_BY_NAME = {
    "resnet18": ResNet18,
    "resnet34": ResNet34,
    "resnet50": ResNet50,
    "preact_resnet18": PreActResNet18,
    "small_resnet": SmallResNet,
    "vit-tiny": ViT,
}


def get(name, /, **kwargs):
    """Builds the network that a name stands for.

    Args:
        name: String, one of `"wrn-{depth}-{width}"` (such as `"wrn-28-10"`),
            `"resnet18"`, `"resnet34"`, `"resnet50"`, `"preact_resnet18"`,
            `"small_resnet"`, `"small_resnet-{width}"` (such as `"small_resnet-16"`, of
            stages with 16, 32 and 64 channels) and `"vit-tiny"`.
        **kwargs: Arguments of the network, such as `classes`.

    Returns:
        A `keras.Model`.

    Raises:
        ValueError: If no network has this name.

    Example:

    ```python
    network = krl.networks.get("wrn-10-2", classes=100)
    ```
    """
    return builder(name)(**kwargs)


def _small_resnet(width, *arguments, **keywords):
    """With widths that the name says, and that no keyword may replace."""
    widths = (width, 2 * width, 4 * width)
    return SmallResNet(*arguments, widths=widths, **keywords)


def builder(name):
    """The function that builds the network of a name, see `get`."""
    wide_resnet = re.fullmatch(r"wrn-(\d+)-(\d+)", str(name))
    if wide_resnet:
        depth, width = map(int, wide_resnet.groups())
        check_size(depth, width)
        return functools.partial(WideResNet, depth, width)
    small_resnet = re.fullmatch(r"small_resnet-(\d+)", str(name))
    if small_resnet:
        width = checks.positive_integer("width", int(small_resnet[1]))
        return functools.partial(_small_resnet, width)
    if not isinstance(name, str) or name not in _BY_NAME:
        choices = ", ".join(["wrn-{depth}-{width}", "small_resnet-{width}", *_BY_NAME])
        raise ValueError(
            f"`name` must be one of {choices} (such as wrn-28-10). "
            f"Received: name={name!r}"
        )
    return _BY_NAME[name]
