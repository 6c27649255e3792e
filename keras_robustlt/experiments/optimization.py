"""The optimiser of a run, and its learning rates."""

import keras

import keras_robustlt as krl


def optimizer(settings, steps_per_epoch):
    """The optimiser, with its learning rate."""
    common = {
        "learning_rate": learning_rate(settings, steps_per_epoch),
        "weight_decay": settings["weight_decay"],
        "global_clipnorm": settings["gradient_clipping"],
        "backbone_rate": backbone_rate(settings, steps_per_epoch),
    }
    if settings["optimizer"] == "sgd":
        return krl.optimizers.SGD(
            momentum=settings["momentum"], nesterov=True, **common
        )
    adamw = krl.optimizers.AdamW(**common)
    adamw.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return adamw


def backbone_rate(settings, steps_per_epoch):
    """The factor of the rate of all layers but the last: 0 at first, if asked for."""
    rate, epochs = settings["backbone_rate"], settings["head_epochs"]
    if not epochs:
        return rate
    return keras.optimizers.schedules.PiecewiseConstantDecay(
        [epochs * steps_per_epoch - 1], [0.0, rate]
    )


def learning_rate(settings, steps_per_epoch):
    """The rate: a tenth of it after each milestone, or up and down a cosine."""
    rate, epochs = settings["learning_rate"], settings["epochs"]
    if settings["schedule"] != "step":
        steps = epochs * steps_per_epoch
        rising = min(round(settings["warmup"] * steps), steps - 1)
        return keras.optimizers.schedules.CosineDecay(
            0.0 if rising else rate,
            decay_steps=steps - rising,
            warmup_target=rate if rising else None,
            warmup_steps=rising,
        )
    if not settings["milestones"]:
        return rate
    # A boundary is the last step of the rate before it.
    boundaries = [
        round(share * epochs) * steps_per_epoch - 1 for share in settings["milestones"]
    ]
    rates = [rate * 0.1**i for i in range(len(boundaries) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, rates)
