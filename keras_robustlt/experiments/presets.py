"""The settings of the recipes, as tables.

What a run does is looked up in this order, and what comes later wins:

    COMMON        what all runs share
    FINE_TUNING   what a backbone asks for
    the data set  its row below: imbalance, alpha, classes
    MODELS        what a network asks for
    OPTIMIZERS, SCHEDULES
    METHODS       what a base method asks for: epochs, milestones, batch size, ...
    the beta      of data set and method
    the preset    network and compute: paper, fast, strong, resnet18, cpu, smoke
    the flags

Learning-rate milestones are shares of the epochs, after which the rate is a tenth;
TAET's first stage, `ce_share`, is one too. So `--epochs` carries them along.

The paper's settings are those of its released configurations (Zhang et al., CVPR
2026). Settings that the paper does not have are marked "ours".
"""

import dataclasses
import json

from keras_robustlt.data import named, sources
from keras_robustlt.experiments import precision
from keras_robustlt.files import at_home

# The training attacks that --pgd_steps is about; others make one step.
WITH_STEPS = ("pgd", "udr")
# What a method says also where a preset says otherwise.
OF_THE_METHOD = ("attack", "label_smoothing")
# Methods with a prior in their loss, which smooth labels themselves, towards it.
SMOOTHING = ("at_bsl", "logit_adjusted", "reat")

COMMON = dict(
    method="at_bsl",
    method_options={},
    label_smoothing=0.0,
    class_weight="none",
    budget="robustlt",
    alpha=0.3,
    beta=0.8,
    granularity="epoch",
    weighting="perturbation",
    batchnorm_statistics="adversarial",
    averaging=None,
    num_classes=None,
    image_size=None,
    imbalance_ratio=50.0,
    imbalance_type="exp",
    largest_class=None,
    balanced_sampling=False,
    validation_fraction=0.0,
    augmentation="base",
    pixel_mean=None,
    pixel_std=None,
    head="linear",
    backbone=None,
    backbone_weights="imagenet",
    freeze="none",
    backbone_rate=1.0,
    head_epochs=0,
    new_head=False,
    on_bad="error",
    epsilon=8 / 255,
    attack="pgd",
    pgd_steps=10,
    adaptive_steps=False,
    collapse_guard=None,
    skew_and_drift=False,
    epochs=100,
    batch_size=128,
    optimizer="sgd",
    learning_rate=0.1,
    schedule="step",
    warmup=0.0,
    milestones=(0.75, 0.9),
    momentum=0.9,
    weight_decay=5e-4,
    gradient_clipping=None,
    keep="last",
    precision="float32",
    attacks=("clean", "pgd20", "cw20"),
    test_examples=None,
)

# By the beginning of the network's name.
MODELS = {"vit": dict(gradient_clipping=1.0)}

# What a pretrained network is trained with, if no flag says otherwise.
FINE_TUNING = dict(optimizer="adamw", schedule="cosine")

# As they are used for fine-tuning; the paper's optimiser is SGD.
OPTIMIZERS = {"sgd": {}, "adamw": dict(learning_rate=5e-4, weight_decay=0.05)}
# One cycle rises for the first part of training.
SCHEDULES = {"step": {}, "cosine": {}, "one_cycle": dict(warmup=0.3)}

METHODS = {
    "standard": dict(),
    "at": dict(),
    # Smoothed labels made it less robust on digits: see docs/results.
    "at_bsl": dict(
        augmentation="aua", label_smoothing=0.0, method_options=dict(tau=1.0)
    ),
    "awp": dict(
        epochs=200,
        milestones=(0.5, 0.75),
        method_options=dict(gamma=0.005, warmup_epochs=0, proxy="optimizer"),
    ),
    "reat": dict(label_smoothing=0.0, epochs=80, milestones=(60 / 80, 75 / 80)),
    "robal": dict(
        label_smoothing=0.0,
        epochs=80,
        milestones=(60 / 80, 75 / 80),
        batch_size=64,
        pgd_steps=5,
        head="cosplus",
        method_options=dict(margin=0.1, scale=10.0, tau_b=1.5, tau_m=0.3, beta=6.0),
    ),
    "taet": dict(
        ce_share=40 / 100,
        method_options=dict(alpha=0.1, beta=0.1, gamma=0.1),
    ),
    # Not in the paper: the factors of their own papers, AT's training.
    "trades": dict(method_options=dict(beta=6.0)),
    "mart": dict(method_options=dict(beta=5.0), label_smoothing=0.0),
    "cgr": dict(),
    "nuat": dict(
        attack="fgsm-bernoulli", method_options=dict(strength=4.5, growth=0.9)
    ),
    # Losses that are usual on long-tailed data, in AT's training.
    "class_balanced": dict(method_options=dict(beta=0.9999)),
    "focal": dict(method_options=dict(gamma=2.0), label_smoothing=0.0),
    "ldam": dict(head="cosplus", method_options=dict(max_margin=0.5, scale=30.0)),
    "logit_adjusted": dict(label_smoothing=0.0, method_options=dict(tau=1.0)),
}

PRESETS = {
    # The paper's network and length.
    "paper": dict(model="wrn-28-10"),
    # Ours: what single-step attacks want, and what makes PGD more robust.
    "fast": dict(
        model="resnet18", attack="n-fgsm", schedule="one_cycle", averaging=0.9995
    ),
    "strong": dict(
        model="wrn-28-10",
        schedule="one_cycle",
        averaging=0.9995,
        label_smoothing=0.1,
        validation_fraction=0.1,
        keep="best",
    ),
    # A tenth of the operations of the paper's network.
    "resnet18": dict(model="resnet18"),
    # An hour or two on two CPU cores: enough to see what a method does.
    "cpu": dict(model="wrn-10-1", epochs=16, batch_size=64, precision="auto"),
    # Minutes on two CPU cores: whether everything runs, nothing more.
    "smoke": dict(
        model="wrn-10-1",
        epochs=4,
        batch_size=64,
        precision="auto",
        attacks=("clean", "pgd20"),
        test_examples=500,
    ),
}


@dataclasses.dataclass(frozen=True)
class DataSet:
    """The settings of a data set.

    Args:
        source: String, the name of the data for `krl.data.long_tail`.
        row: Dictionary, its settings over `COMMON`.
        beta: Dictionary from the method to `beta`; `"other"` is for the rest.
        presets: Dictionary from the name of a preset to its settings. The first is
            the one to start from.
        compare_threads: Integer, CPU threads of each run of a comparison. Defaults to
            `None`, an equal share of the cores.
        uses_data_dir: Boolean, whether the data are looked for in a directory.
            Defaults to `True`.
        compares: Boolean, whether the base method is trained beside, if no flag says.
            Defaults to `False`.
    """

    source: str
    row: dict
    beta: dict
    presets: dict
    compare_threads: int = None
    uses_data_dir: bool = True
    compares: bool = False

    @property
    def default_preset(self):
        return next(iter(self.presets))

    def preset(self, name, given):
        """The settings of a preset.

        Args:
            name: String, a key of `presets`.
            given: Dictionary of the settings that the user asks for.
        """
        return self.presets[name]

    def has_validation(self, given):
        """Whether the data bring validation images of their own."""
        return False

    def settings(self, preset, given=None):
        """The settings of a run.

        Args:
            preset: String, a key of `presets`.
            given: Dictionary of the settings that the user asks for. Its
                `method_options` change single options. Defaults to none.

        Returns:
            A dictionary with all settings, as JSON reads them back.
        """
        given = dict(given or {})
        preset = self.preset(preset, given)
        network = COMMON if given.get("backbone") is None else {**COMMON, **FINE_TUNING}
        chosen = {**network, **self.row, **preset, **given}
        base, _, over = chosen["method"].partition("+")
        method = {**METHODS[base], **METHODS.get(over, {})}
        # With "+awp" the options are those of the method before it.
        options = METHODS[base].get("method_options", {})
        share = method.pop("ce_share", None)
        settings = {
            **network,
            **self.row,
            **_of_model(chosen["model"]),
            **OPTIMIZERS[chosen["optimizer"]],
            **SCHEDULES[chosen["schedule"]],
            **method,
            "beta": self.beta.get(base, self.beta["other"]),
            **preset,
            # A method with an attack of its own is not meant with another one, and one
            # that cannot smooth labels does not.
            **{key: method[key] for key in OF_THE_METHOD if key in method},
            **given,
        }
        if share is not None:
            options = {"ce_epochs": round(share * settings["epochs"]), **options}
        settings["method_options"] = {**options, **given.get("method_options", {})}
        if "label_smoothing" in settings["method_options"]:  # the method does it
            settings["label_smoothing"] = given.get("label_smoothing", 0.0)
        if settings["label_smoothing"] and base in SMOOTHING:
            settings["method_options"]["label_smoothing"] = settings["label_smoothing"]
            settings["label_smoothing"] = 0.0
        if settings["method"] == "standard":  # it attacks nothing
            settings.update(budget="uniform", attack="pgd")
        if settings["attack"] not in WITH_STEPS:
            settings["pgd_steps"] = None
        if settings["collapse_guard"] is None:
            settings["collapse_guard"] = settings["attack"] not in WITH_STEPS
        if settings["budget"] != "robustlt":
            settings.update(alpha=0.0, beta=0.0)
        if settings["precision"] == "auto":
            settings["precision"], _ = precision.automatic()
        return json.loads(json.dumps({"data": self.source, **settings}))


def _of_model(name):
    return next((row for start, row in MODELS.items() if name.startswith(start)), {})


def _presets(smoke_largest_class, augmentation="base"):
    """`PRESETS` for a data set; the small ones use its plain augmentation."""
    small = {
        name: {**PRESETS[name], "augmentation": augmentation}
        for name in ("cpu", "smoke")
    }
    small["smoke"]["largest_class"] = smoke_largest_class
    return {**PRESETS, **small}


CIFAR10LT = DataSet(
    source="cifar10",
    row=dict(imbalance_ratio=50.0, alpha=0.3),
    beta=dict(taet=1.0, other=0.8),
    presets=_presets(smoke_largest_class=500),
)

CIFAR100LT = DataSet(
    source="cifar100",
    row=dict(
        imbalance_ratio=10.0,
        alpha=0.4,  # .5 in the paper's text
        augmentation="base_rotation",
        pixel_mean=(0.5071, 0.4867, 0.4408),
        pixel_std=(0.2675, 0.2565, 0.2761),
    ),
    beta=dict(other=0.6),
    presets=_presets(smoke_largest_class=50, augmentation="base_rotation"),
)

TINYIMAGENETLT = DataSet(
    source="tinyimagenet",
    row=dict(
        num_classes=20,
        imbalance_ratio=10.0,
        alpha=0.4,
        pixel_mean=(0.4802, 0.4481, 0.3975),
        pixel_std=(0.2770, 0.2691, 0.2821),
    ),
    # Others, ours: TRADES and MART as AT.
    beta=dict(at=0.2, awp=0.2, reat=0.4, robal=0.4, at_bsl=0.6, taet=0.8, other=0.2),
    presets=_presets(smoke_largest_class=50),
)

IMAGENETLT = DataSet(
    source="imagenet64",
    row=dict(
        num_classes=20,
        imbalance_ratio=50.0,
        # Ours, as the paper gives none: alpha of CIFAR10-LT, which is as imbalanced,
        # beta of TinyImageNet-LT, which has as many and as large images.
        alpha=0.3,
        pixel_mean=(0.485, 0.456, 0.406),
        pixel_std=(0.229, 0.224, 0.225),
    ),
    beta=TINYIMAGENETLT.beta,
    presets=_presets(smoke_largest_class=100),
)

DIGITSLT = DataSet(
    source="digits",
    # Chosen on the seeds 1, 2, 3 and 5; docs/results says what others show.
    row=dict(alpha=0.8),
    beta=dict(other=0.8),
    presets={
        # Eight-by-eight digits at a constant rate: half a minute a run.
        "default": dict(
            model="small_resnet-16",
            epsilon=0.1,
            augmentation="none",
            epochs=40,
            batch_size=32,
            milestones=(),
            attacks=("clean", "pgd20", "cw20"),
        ),
    },
    # Such small steps gain nothing from threads, whose number changes the rounding.
    compare_threads=1,
    uses_data_dir=False,
)


# What may be given and changes which images there are to train with, and so the rest.
OF_IMAGES = (
    "image_size",
    "num_classes",
    "imbalance_ratio",
    "imbalance_type",
    "largest_class",
    "validation_fraction",
)


@dataclasses.dataclass(frozen=True)
class OwnImages(DataSet):
    """Images whose settings follow from what they are: those of one's own, and data
    sets that have a name and no row of their own.

    Args:
        data_dir: String, where data that have a name are. Defaults to `None`.
    """

    data_dir: str = None

    def preset(self, name, given):
        chosen = super().preset(name, given)
        suggested = name == "suggested"
        if not suggested and "augmentation" in {**chosen, **given}:
            return chosen
        if self.source == OWN.source:  # of no images yet, as for `--help`
            return chosen
        proposal = self.proposal(given)
        if suggested:
            return {**chosen, **proposal.settings}
        # AutoAugment, which a method may ask for, is for colour images.
        if proposal.suggestion.rarest.shape[-1] == 3:
            return chosen
        return {**chosen, "augmentation": proposal.settings["augmentation"]}

    def has_validation(self, given):
        proposal = self.proposal(given)
        return "validation_fraction" not in proposal.settings

    def proposal(self, given):
        """The settings that the images suggest, an `own.Proposal`.

        Args:
            given: Dictionary of the settings that the user asks for.
        """
        # Looks at the images, and loads the backend for that.
        from keras_robustlt.experiments import own

        known = {key: given[key] for key in OF_IMAGES if given.get(key) is not None}
        return own.propose(self.source, self.data_dir, **known)


# Images of one's own, with the imbalance that they have. `source` is where they are.
OWN = OwnImages(
    source="one's own",
    row=dict(imbalance_ratio=None, pixel_mean=0.5, pixel_std=0.25, on_bad="skip"),
    beta=dict(other=0.8),
    presets={
        # What is not known before the images are.
        "suggested": dict(
            model="wrn-10-2", schedule="cosine", augmentation="base", keep="best"
        ),
        "resnet18": PRESETS["resnet18"],
        "paper": PRESETS["paper"],
        "fast": PRESETS["fast"],
        "strong": PRESETS["strong"],
        "cpu": {**PRESETS["cpu"], "augmentation": "base"},
        "smoke": {**PRESETS["smoke"], "augmentation": "base"},
    },
    uses_data_dir=False,
    compares=True,
)

BY_NAME = {
    "digits": DIGITSLT,
    "cifar10": CIFAR10LT,
    "cifar100": CIFAR100LT,
    "tinyimagenet": TINYIMAGENETLT,
    "imagenet": IMAGENETLT,
}


def file_name_of(data):
    """What directories of runs on `--data` are called."""
    path = at_home(data).resolve()
    if has_name(data):
        return data.removeprefix("tfds:").replace("/", "-").replace(":", "-")
    return path.name if path.is_dir() else path.stem


def has_name(data):
    """Whether data are a set that has a name, and no path."""
    return sources.source_of(data) in sources.NAMES or named.is_tfds(data)


def table_of(data, data_dir=None):
    """The table of `--data`.

    Args:
        data: String: a name of `BY_NAME`, which may end in "lt" as the recipes do,
            another name that `krl.data.load` takes, or the path of a folder or of an
            .npz file.
        data_dir: String, where data that have a name are. Defaults to `None`.

    Returns:
        A `DataSet`.

    Raises:
        ValueError: If there is no such name and nothing at this path.
    """
    for table in BY_NAME.values():
        if sources.source_of(data) == table.source:
            return table
    if has_name(data):
        own = {"uses_data_dir": True, "data_dir": data_dir}
        return dataclasses.replace(OWN, source=data, **own)
    path = at_home(data)
    if data and (path.is_dir() or path.suffix.lower() == ".npz" and path.is_file()):
        return dataclasses.replace(OWN, source=data)
    raise ValueError(
        f"--data={data} is neither one of {', '.join([*BY_NAME, *named.KERAS])}, nor "
        "a folder with a sub-folder of images for each class, nor an .npz file; "
        "tfds:NAME is a data set of tensorflow-datasets."
    )


def counted(number, word):
    """A number of things: "1 epoch", "2 epochs"."""
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


def name_of(settings):
    """What a run is called in tables: "AT-BSL + RobustLT"."""
    base, _, over = settings["method"].partition("+")
    name = {"nuat": "NuAT", "robal": "RoBal"}.get(base, base.upper().replace("_", "-"))
    parts = [name, over.upper()] if over else [name]
    if settings["method"] != "standard":
        parts += _budget_name(settings)
        if settings["attack"] != METHODS[base].get("attack", "pgd"):
            parts.append(settings["attack"].upper())
    if settings["averaging"]:
        parts.append("FAWA" if settings["averaging"] == "fawa" else "EMA")
    return " + ".join(parts)


def _budget_name(settings):
    if settings["budget"] != "robustlt":
        names = {"uniform": [], "auto": ["RobustLT auto"]}
        return names.get(settings["budget"], [settings["budget"].upper()])
    if settings["alpha"] and settings["beta"]:
        return ["RobustLT"]
    return ["CPB"] * bool(settings["alpha"]) + ["AIW"] * bool(settings["beta"])
