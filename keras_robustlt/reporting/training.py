"""The sections on training: the budget of each class, and the training curves."""

import numpy as np

from keras_robustlt.reporting.accuracy import named
from keras_robustlt.reporting.charts import Line, labels_of, legend, line_chart
from keras_robustlt.reporting.html import element, table

__all__ = ["budgets", "curves", "has_theory", "theory"]

# Shown with the budgets.
SCHEDULE = {
    "alpha",
    "epoch",
    "epsilon_max",
    "epsilon_mean",
    "epsilon_min",
    "iteration_weight",
}
# Of `SkewAndDrift`: what is above each chart, and the factor and unit of the values.
THEORY = {
    "skew": ("Skewed objective", 1, ""),
    "robust_risk": ("Robust risk, mean of the classes", 1, ""),
    "drift_linf": ("Drift, largest change of a pixel", 255, "× 255"),
    "drift_l2": ("Drift, Euclidean", 1, ""),
}
# What the training curves leave to other sections.
HIDDEN = {*SCHEDULE, *THEORY, "robust_risk_change"}
MOST_LINES = 12
# Of which images an accuracy is, by what its name begins with.
IMAGES = {
    "adversarial_": "training images under the training attack, within the budget of "
    "the epoch",
    "clean_": "without an attack",
    "robust_": "under the attack of the evaluation, with the whole budget",
    "guard_attack_": "images of the guard under the training attack",
    "guard_pgd_": "images of the guard under PGD-10",
}


def budgets(runs):
    of_run = {run.name: _class_budgets(run) for run in runs}
    highest = max(max(y) for lines in of_run.values() for _, _, y in lines) or 1
    charts = [
        element(
            "figure",
            element("figcaption", named(run)),
            _budget_chart(of_run[run.name], highest),
            _chosen_chart(run),
        )
        for run in runs
    ]
    note = "The largest perturbation in training, of each class, along the epochs."
    return [
        element("p", note, class_="note"),
        element("div", charts, class_="grid"),
    ]


def _class_budgets(run):
    """Names, epochs and budgets of the classes, from head to tail; of many, some."""
    schedule = run.schedule
    order = run.head_first()
    step = (len(order) - 1) / max(1, min(len(order), MOST_LINES) - 1)
    shown = {round(number * step) for number in range(min(len(order), MOST_LINES))}
    last = [schedule.budgets[index][-1] for index in order]
    shown |= {int(np.argmin(last)), int(np.argmax(last))}
    epochs = [epoch + 1 for epoch in schedule.epochs]
    return [
        (
            schedule.class_names[order[rank]],
            epochs,
            [255 * value for value in schedule.budgets[order[rank]]],
        )
        for rank in sorted(shown)
    ]


def _budget_chart(classes, highest):
    """All with the same axis, so that they compare."""
    if all(y == classes[0][2] for _, _, y in classes):
        classes = [("all classes", *classes[0][1:])]
    last = len(classes) - 1
    ends = [y[-1] for _, _, y in classes]
    # Head and tail, and those with the smallest and the largest budget.
    shown = {0, last, int(np.argmin(ends)), int(np.argmax(ends))}
    shown = range(last + 1) if last < 6 else sorted(shown)
    labels, keys = labels_of([classes[index][0] for index in shown])
    named = dict(zip(shown, zip(labels, keys, strict=True), strict=True))
    lines = []
    for index, (name, x, y) in enumerate(classes):
        label, key = named.get(index, (None, name))
        # From violet, the head, to orange, the tail.
        colour = f"hsl({250 - 225 * index / max(last, 1):.0f} 65% var(--lightness))"
        lines.append(Line(key, x, y, colour, label=label))
    description = "Budget along the epochs. " + " ".join(
        f"{name}: from {y[0]:.3g} to {y[-1]:.3g}." for name, _, y in classes
    )
    chart = line_chart(
        lines, "epoch", "epsilon × 255", description, (0, 1.05 * highest)
    )
    if labels is keys:
        return chart
    return [legend([lines[index] for index in shown]), chart]


def _chosen_chart(run):
    """What a rule that sets itself has chosen; `None` of others."""
    history = run.history or {}
    if "alpha" not in history:
        return None
    epochs = [epoch + 1 for epoch in history["epoch"]]
    lines = [
        Line("alpha", epochs, history["alpha"], "var(--run-0)", label="alpha"),
        Line("w", epochs, history["iteration_weight"], "var(--run-1)", label="w"),
    ]
    description = "Chosen along the epochs. " + " ".join(
        f"{line.name}: from {line.y[0]:.3g} to {line.y[-1]:.3g}." for line in lines
    )
    return [
        element("p", "Chosen: alpha, and w, the share of the budget", class_="note"),
        line_chart(lines, "epoch", "", description, (0, 1.05)),
    ]


def has_theory(run):
    """Whether the run measured the terms of the theory."""
    return run.history is not None and "skew" in run.history


def theory(runs):
    note = (
        "The two terms of the theory, measured at the end of each epoch on the same "
        "training images, as many of each class. Skewed objective: by how much the "
        "mean robust risk (cross-entropy under the whole budget) of the classes is "
        "above that of the training data, which training lowers; class-wise budgets "
        "are meant to lower it. Drift: how far the adversarial images have moved since "
        "the epoch before; a growing budget is meant to keep it small at first."
    )
    charts = [_theory_chart(name, runs) for name in THEORY]
    return [
        element("p", note, class_="note"),
        _theory_table(runs),
        element("div", charts, class_="grid"),
    ]


def _theory_chart(name, runs):
    title, scale, unit = THEORY[name]
    lines = [
        Line(
            run.name,
            [epoch + 1 for epoch in run.history["epoch"]],
            [scale * value for value in run.history[name]],
            run.colour,
        )
        for run in runs
        if _finite(run.history[name])
    ]
    if not lines:
        return None
    return _figure(title, lines, unit)


def _theory_table(runs):
    """Means over the epochs, and what is there at the end."""
    head = [
        "",
        "skew, mean",
        "skew, last epoch",
        "risk, last epoch",
        "drift L∞ × 255, mean",
        "drift L2, mean",
    ]
    rows = []
    for run in runs:
        values = {name: _finite(run.history[name]) for name in THEORY}
        cells = [
            (np.mean, values["skew"], 1),
            (_last, values["skew"], 1),
            (_last, values["robust_risk"], 1),
            (np.mean, values["drift_linf"], 255),
            (np.mean, values["drift_l2"], 1),
        ]
        rows.append(
            [
                named(run),
                *(f"{f * of(v):.3g}" if v else "–" for of, v, f in cells),
            ]
        )
    return element(
        "div", table(head, rows, "Skew and drift", "numbers"), class_="scroll"
    )


def _last(values):
    return values[-1]


def curves(runs):
    metrics = [
        name
        for run in runs
        for name, values in run.history.items()
        if name not in HIDDEN and _finite(values)
    ]
    groups = dict.fromkeys(name.removeprefix("val_") for name in metrics)
    charts = [_curve(group, runs) for group in groups]
    return element("div", charts, class_="grid")


def _curve(metric, runs):
    scale, unit = (100, "%") if metric.endswith("accuracy") else (1, "")
    lines = []
    for run in runs:
        epochs = [epoch + 1 for epoch in run.history["epoch"]]
        for name in (metric, f"val_{metric}"):
            if not _finite(run.history.get(name, [])):
                continue
            is_validation = name != metric
            lines.append(
                Line(
                    f"{run.name}, validation" if is_validation else run.name,
                    epochs,
                    [scale * value for value in run.history[name]],
                    run.colour,
                    dashed=is_validation,
                )
            )
    title = metric.replace("_", " ")
    if not unit:
        return _figure(title, lines, unit)
    # Metrics of `compile` see in training what the network is trained on.
    attacked = any(run.is_attacked for run in runs)
    note = f"{'training: perturbed images; validation: ' * attacked}without an attack"
    for prefix, images in IMAGES.items():
        if metric.startswith(prefix):
            note = images
    return _figure(title, lines, unit, (0, 100), note)


def _figure(title, lines, unit, y_range=None, note=None):
    """A chart along the epochs with its title, what it is of, and its legend."""
    description = f"{title} along the epochs. " + " ".join(
        f"{line.name}: from {known[0]:.3g} to {known[-1]:.3g}."
        for line, known in ((line, _finite(line.y)) for line in lines)
    )
    chart = line_chart(lines, "epoch", unit, description, y_range)
    caption = element("figcaption", title, note and element("small", note))
    return element("figure", caption, legend(lines), chart)


def _finite(values):
    return [value for value in values if np.isfinite(value)]
