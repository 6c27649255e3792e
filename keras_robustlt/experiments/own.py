"""Images of one's own: settings that follow from what they are, and why."""

import dataclasses
import functools
import warnings

import keras
import numpy as np

import keras_robustlt as krl
from keras_robustlt.data import sources
from keras_robustlt.data.findings import DataCheck
from keras_robustlt.data.long_tailed import kept_counts
from keras_robustlt.data.selection import check_validation
from keras_robustlt.experiments import precision

# Without an accelerator a larger image costs too much; with one, this much more.
SIDE_ON_CPU, SIDE_ON_ACCELERATOR = 64, 128
VALIDATION_FRACTION = 0.2
TINY = 16
# AutoAttack takes a thousand times as long as a look at the clean images.
MOST_FOR_AUTOATTACK = 1000


@dataclasses.dataclass(frozen=True)
class Proposal:
    """Settings for a data set, and a line on each.

    Args:
        settings: Dictionary, over those of `presets.COMMON`.
        reasons: Dictionary of strings, of the same keys and in the order to show.
        check: A `data.DataCheck`: what is noteworthy about the data.
        suggestion: A `Suggestion`.
    """

    settings: dict
    reasons: dict
    check: DataCheck
    suggestion: krl.Suggestion

    def text(self, settings):
        """The settings of a run as a table, those that were asked for among them."""
        given = [k for k in ("image_size", "backbone") if settings[k] is not None]
        reasons = {**dict.fromkeys(given, "as given"), **self.reasons}
        shown = {key: _shown(key, settings[key]) for key in reasons}
        width = max(map(len, shown.values()))
        lines = ["Settings that follow from them, each a flag:"]
        for key, reason in reasons.items():
            if key in ("alpha", "beta") and settings["budget"] != "robustlt":
                continue
            if key == "model" and settings["backbone"]:
                continue
            if settings[key] != self.settings.get(key):
                reason = "as given"
            lines.append(f"  --{key:<20} {shown[key]:<{width}}  {reason}")
        return "\n".join(lines)


@functools.cache
def propose(
    source,
    data_dir=None,
    image_size=None,
    num_classes=None,
    imbalance_ratio=None,
    imbalance_type="exp",
    largest_class=None,
    validation_fraction=None,
):
    """What a run on images of one's own begins with.

    Args:
        source: String, the path of a folder or an .npz file, or a name.
        data_dir: String, where data that have a name are. Defaults to `None`.
        image_size: Integer, where it is given. Defaults to `None`, and so do the next
            ones.
        num_classes: Integer.
        imbalance_ratio: Float.
        imbalance_type: String. Defaults to `"exp"`.
        largest_class: Integer.
        validation_fraction: Float.

    Returns:
        A `Proposal`.

    Raises:
        ValueError: If the data cannot be used.
    """
    settings, reasons = {}, {}

    def say(key, value, reason):
        settings[key], reasons[key] = value, reason

    accelerator = _accelerator()
    settings["on_bad"] = "skip"
    if image_size is None:
        wanted = _image_size(source, data_dir, accelerator)
        say("image_size", *wanted)
        image_size = settings["image_size"]
    options = {
        "data_dir": data_dir,
        "image_size": image_size,
        "classes": num_classes,
        "on_bad": "skip",
    }
    check = krl.data.check(source, **options)
    check.refuse()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what the check says already
        found = krl.data.load(source, **options)
    long_tail = imbalance_ratio, imbalance_type, largest_class
    counts = np.bincount(_of_training(found, *long_tail, 0.0).y_train)
    held_out = VALIDATION_FRACTION if counts.max() > 1 else 0.0
    if validation_fraction is None:
        validation_fraction = held_out if found.x_validation is None else 0.0
    # As they will be counted: one image less is much in a class of three.
    kept = _of_training(found, *long_tail, validation_fraction)
    suggestion = krl.suggest(kept)
    say("model", *_model(found.x_train.shape[1:3], accelerator))
    say("augmentation", *_augmentation(found.x_train.shape[1:3]))
    say("method", "at_bsl", "weighs the loss by how rare a class is")
    for key in ("epsilon", "alpha", "beta", "batch_size", "epochs"):
        say(key, getattr(suggestion, key), suggestion.reasons[key])
    say("precision", *precision.automatic(accelerator is not None))
    if found.x_validation is None:
        reason = "of each class, to choose the epoch by"
        alone = "each class has one training image"
        say("validation_fraction", held_out, reason if held_out else alone)
    if found.x_validation is None and not held_out:
        say("keep", "last", "there are no validation images to choose an epoch by")
    else:
        say("keep", "best", "the epoch of the best balanced accuracy under attack")
    attacks = ["clean", "pgd20", "cw20"]
    few = len(found.x_test) <= MOST_FOR_AUTOATTACK
    say(
        "attacks",
        [*attacks, "autoattack"] if few else attacks,
        f"{len(found.x_test)} test images"
        + ("" if few else ": --attacks=clean,autoattack is the strict measure"),
    )
    return Proposal(settings, reasons, check, suggestion)


def _of_training(found, ratio, kind, largest, validation_fraction):
    """The source with those training images that a run trains with."""
    counts = kept_counts(found, ratio, kind, largest)
    train, validation = krl.data.long_tail_indices(
        found.y_train, counts, 0, validation_fraction
    )
    check_validation(validation, validation_fraction)
    return dataclasses.replace(
        found, x_train=found.x_train[train], y_train=found.y_train[train]
    )


def _accelerator():
    """The first device that is no CPU, or `None`."""
    return next((d for d in keras.distribution.list_devices() if "cpu" not in d), None)


def _image_size(source, data_dir, accelerator):
    """A size to bring the images to, or `None` where they can stay, and why."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # The check says the same.
        sizes = sources.sizes_of(source, data_dir)
    if not sizes:
        return None, "there are none"  # which the check refuses
    most = SIDE_ON_ACCELERATOR if accelerator else SIDE_ON_CPU
    side = int(min(np.median([min(size) for size in sizes]), most))
    if len(set(sizes)) > 1:
        return side, f"the images have {len(set(sizes))} sizes"
    if max(sizes[0]) > most:
        where = "an accelerator" if accelerator else "a CPU"
        return side, f"they are {sizes[0][1]}x{sizes[0][0]}; {where} bears this much"
    return None, f"they are {sizes[0][1]}x{sizes[0][0]}"


def _augmentation(size):
    if min(size) <= TINY:
        return "none", "shifts would take too much of such small images"
    return "base", "shifted and mirrored; none, where left and right differ"


def _model(size, accelerator):
    if min(size) <= TINY:
        return "small_resnet", "for such small images"
    if accelerator:
        return "resnet18", f"for {accelerator}"
    return "wrn-10-2", "small enough for a CPU; --backbone takes a pretrained network"


def _shown(key, value):
    if key == "image_size" and value is None:
        return "as it is"
    if key == "epsilon":
        return f"{255 * value:.3g}/255"
    if isinstance(value, list):
        return ",".join(value)
    return f"{value:.3g}" if isinstance(value, float) else str(value)
