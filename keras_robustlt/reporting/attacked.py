"""The sections on the attack itself: over a range of budgets, and on single images."""

import numpy as np

from keras_robustlt.reporting.accuracy import named, percent
from keras_robustlt.reporting.charts import Line, legend, line_chart
from keras_robustlt.reporting.html import element, image, table

__all__ = ["budget_curve", "images"]


def budget_curve(runs):
    lines = []
    for run in runs:
        x = [255 * epsilon for epsilon in run.curve["epsilons"]]
        for group in _groups(run):
            y = [np.nan if v is None else 100 * v for v in run.curve[group]]
            lines.append(
                Line(
                    f"{run.name}, {group}",
                    x,
                    y,
                    run.colour,
                    dashed=group == "tail",
                    markers=True,
                )
            )
    description = "Accuracy as the budget of the attack grows. " + " ".join(
        f"{line.name}: from {line.y[0]:.1f}% to {line.y[-1]:.1f}% at {line.x[-1]:.3g}."
        for line in lines
    )
    budget = runs[0].results.settings.get("epsilon")
    chart = line_chart(
        lines,
        "epsilon × 255",
        "accuracy in %",
        description,
        y_range=(0, 100),
        marks=[] if budget is None else [(255 * budget, "evaluated")],
    )
    curve, text = runs[0].curve, "Each budget on its own"
    if "attack" in curve:
        attack = curve["attack"]
        text = (
            f"{attack['class']}, {attack.get('steps', 1)} steps, each budget on its own"
        )
    if "examples" in curve:
        text += (
            f", {curve['examples']:,} test images (standard error near 50%: "
            f"±{50 / np.sqrt(curve['examples']):.1f})"
        )
    text += (
        ". An attack that does its work brings accuracy to zero as the budget grows."
    )
    return [
        element("p", text, class_="note"),
        element(
            "div",
            element("figure", legend(lines), chart),
            element("div", _numbers(runs), class_="scroll"),
            class_="grid",
        ),
    ]


def _groups(run):
    return [key for key in ("all", "tail") if run.curve[key] is not None]


def _numbers(runs):
    columns = [(run, group) for run in runs for group in _groups(run)]
    of_budget = {
        (run.name, group): dict(
            zip(run.curve["epsilons"], run.curve[group], strict=True)
        )
        for run, group in columns
    }
    epsilons = sorted({epsilon for run in runs for epsilon in run.curve["epsilons"]})
    rows = [
        [f"{255 * e:.3g}", *(percent(values.get(e)) for values in of_budget.values())]
        for e in epsilons
    ]
    heads = [
        [element("i", class_="chip", style=f"--run:{run.colour}"), group]
        for run, group in columns
    ]
    caption = "Accuracy by budget, in percent: " + ", ".join(
        f"{run.name} {group}" for run, group in columns
    )
    return table(["epsilon × 255", *heads], rows, caption, class_="numbers")


def has_images(run):
    """Whether there are examples, and they are images."""
    return run.examples is not None and run.examples.images.ndim == 4


def images(runs):
    panels = [
        element(
            "figure",
            element("figcaption", named(run)),
            [_example(run, index) for index in range(len(run.examples))],
        )
        for run in runs
    ]
    budget = 255 * runs[0].examples.epsilon
    note = (
        "A test image of each of some classes, from head to tail: as it is, what the "
        f"attack adds (grey: nothing; white and black: ±{budget:.3g}/255), and their "
        "sum; under them what the network takes them for, with its confidence."
    )
    return [
        element("p", note, class_="note"),
        element("div", panels, class_="grid"),
    ]


def _example(run, index):
    examples = run.examples
    image_, adversarial = examples.images[index], examples.adversarial[index]
    label = int(examples.labels[index])
    name = run.class_names[label]
    change = 0.5 + (adversarial - image_) / (2 * max(examples.epsilon, 1e-12))
    return element(
        "div",
        element("b", element("bdi", name)),
        _picture(
            image_,
            f"test image of class {name}",
            _said(run, examples.probabilities[index], label),
        ),
        _picture(change, f"perturbation of the image of class {name}", None),
        _picture(
            adversarial,
            f"perturbed image of class {name}",
            _said(run, examples.adversarial_probabilities[index], label),
        ),
        class_="example",
    )


def _picture(pixels, alt, said):
    return element("div", image(pixels, alt), said)


def _said(run, probabilities, label):
    predicted = int(np.argmax(probabilities))
    kind = "right" if predicted == label else "wrong"
    mark = "✓ " if predicted == label else "✗ "
    name = element("bdi", run.class_names[predicted])
    confidence = f" {100 * probabilities[predicted]:.0f}%"
    return element("span", mark, name, confidence, class_=f"said {kind}")
