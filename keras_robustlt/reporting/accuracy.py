"""The sections on accuracy: in all, head against tail, class by class, confusions."""

import functools

import numpy as np

from keras_robustlt.evaluation.results import SUMMARY
from keras_robustlt.reporting.charts import Line, labels_of, legend, line_chart
from keras_robustlt.reporting.html import element, image, table
from keras_robustlt.reporting.runs import what_differs

__all__ = ["classes", "confusions", "head_and_tail", "headline"]

# With more classes than these, a chart in place of bars, a picture in place of numbers.
MOST_BARS = 30
MOST_NUMBERS = 12
GROUPS_OF_CLASSES = 20
TOP_CONFUSIONS = 5


def percent(value):
    return "–" if value is None else f"{100 * value:.1f}"


def named(run):
    """The name of a run with its colour."""
    return [element("i", class_="chip", style=f"--run:{run.colour}"), run.name]


def attacks_of(runs):
    """The names of the attacks, in the order in which they come up."""
    return list(dict.fromkeys(name for run in runs for name in run.results))


def strongest(runs, needs="per_class"):
    """The attack, among those that all runs have, that leaves the least."""
    common = [
        name
        for name in attacks_of(runs)
        if all(needs in run.results.get(name, ()) for run in runs)
    ]
    real = [name for name in common if name != "clean"]
    candidates = real or common
    if not candidates:
        return None
    return min(
        candidates, key=lambda name: sum(run.results[name]["all"] for run in runs)
    )


# In all


def headline(runs):
    attack = strongest(runs)
    differs = what_differs(runs)
    first = None if differs else runs[0]
    cards = [_card(run, first, attack) for run in runs] if attack else None
    caption = "Accuracy of each run under each attack, in percent"
    cells = functools.partial(_summary, compared=len(runs) > 1 and not differs)
    numbers = _by_attack(runs, ("accuracy in %", *SUMMARY), cells, caption)
    return [
        _unlike(differs) if differs else None,
        element("div", cards, class_="cards"),
        element("div", numbers, class_="scroll"),
        element("p", _reading(runs), class_="note"),
        [_findings(run) for run in runs],
    ]


def _unlike(differs):
    """That the numbers of the runs cannot be compared."""
    text = (
        "The runs were not evaluated alike, so that their numbers cannot be compared: "
        f"they differ in {', '.join(differs)}. See the settings below; "
        "`python -m keras_robustlt evaluate` measures a network anew."
    )
    return element("p", text, class_="warning")


def _findings(run):
    """What the evaluation found against its own results."""
    findings = run.results.settings.get("findings")
    if not findings:
        return None
    messages = [element("li", finding["message"]) for finding in findings]
    return element(
        "div",
        element("h3", f"{run.name}: signs that an attack failed"),
        element("ul", messages, class_="short"),
        class_="warning",
    )


def _card(run, first, attack):
    keys = [(name, group) for name in ("clean", attack) for group in ("all", "tail")]
    facts = []
    for name, group in dict.fromkeys(keys):
        value = run.results.get(name, {}).get(group)
        before = first and first.results.get(name, {}).get(group)
        if value is None:
            continue
        change = None
        if run is not first and before is not None:
            change = element("small", f"{100 * (value - before):+.1f}")
        facts.append(
            element(
                "div",
                element("dt", f"{name}, {group}"),
                element("dd", percent(value), change),
            )
        )
    return element("article", element("h3", named(run)), element("dl", facts))


def _by_attack(runs, head, cells, caption, class_="numbers"):
    """A table with a group of rows for each attack, and in it a row for each run."""
    groups = []
    for name in attacks_of(runs):
        having = [run for run in runs if name in run.results]
        rows = [
            element(
                "tr",
                element("th", named(run) if len(runs) > 1 else name, scope="row"),
                cells(name, run, having),
            )
            for run in having
        ]
        title = None
        if len(runs) > 1:
            title = element("th", name, colspan=len(head), scope="rowgroup")
            title = element("tr", title, class_="group")
        groups.append(element("tbody", title, rows))
    head = element("tr", [element("th", cell, scope="col") for cell in head])
    return element(
        "table",
        element("caption", caption),
        element("thead", head),
        groups,
        class_=class_,
    )


def _summary(name, run, runs, compared):
    """The cells of a run under an attack; if they are `compared`, the best in bold."""
    cells = []
    for key in SUMMARY:
        values = [each.results[name][key] for each in runs]
        known = [value for value in values if value is not None]
        value = run.results[name][key]
        is_best = compared and value is not None and value == max(known)
        text = percent(value)
        cells.append(element("td", element("b", text) if is_best else text))
    return cells


def _reading(runs):
    text = (
        "tail: all images of the tail classes; balanced: mean over the classes; worst: "
        "the lowest class."
    )
    if any("union" in run.results for run in runs):
        text += " union: an image counts only if it withstands every attack."
    examples = {run.results.settings.get("examples") for run in runs} - {None}
    if len(examples) == 1:
        count = examples.pop()
        error = 50 / np.sqrt(count)
        text += (
            f" With {count:,} images, chance alone moves an accuracy near 50% by about "
            f"±{error:.1f} (standard error)."
        )
    return text


# Head against tail


def head_and_tail(runs):
    head = ("", "0 to 100%", "head", "tail", "gap")
    caption = "Accuracy on the head and on the tail classes, in percent"
    gaps = _by_attack(runs, head, _gap, caption, "numbers gaps")
    run = runs[0]
    order = run.head_first()
    head = [run.class_names[i] for i in order[: len(order) - len(run.tail)]]
    text = ["Hollow: tail; full: head. "]
    if any(set(other.tail) != set(run.tail) for other in runs):
        text.append("Which classes are head differs from run to run.")
    elif head:
        text += ["Head: ", _listed(head), "; the other classes are tail."]
    else:
        text.append("All classes are tail.")
    return [element("div", gaps, class_="scroll"), element("p", text, class_="note")]


def _listed(names, most=8):
    if len(names) > most:
        return f"the {len(names)} classes with the most training images"
    return [[", " if i else None, element("bdi", n)] for i, n in enumerate(names)]


def _gap(attack, run, runs):
    """The cells of a run under an attack."""
    found = head_and_tail_accuracy(run, attack)
    values = dict(zip(("head", "tail"), found, strict=True))
    known = [value for value in values.values() if value is not None]
    low, high = min(known), max(known)
    style = (
        f"--run:{run.colour};--low:{100 * low:.1f}%;--size:{100 * (high - low):.1f}%"
    )
    dots = [
        element("i", class_=kind, style=f"left:{100 * value:.1f}%")
        for kind, value in values.items()
        if value is not None
    ]
    track = element(
        "div", element("i", class_="span"), dots, class_="track", style=style
    )
    head, tail = values.values()
    gap = f"{100 * (head - tail):.1f}" if len(known) == 2 else "–"
    cells = (track, percent(head), percent(tail), gap)
    return [element("td", cell) for cell in cells]


def head_and_tail_accuracy(run, attack):
    """Accuracy over the images of the head and of the tail classes; `None` of none."""
    per_class = run.results[attack]["per_class"]
    examples = run.results.settings.get("examples_per_class") or [1] * len(per_class)
    tail = set(run.tail)
    sums = {True: [0, 0], False: [0, 0]}
    for index, (value, count) in enumerate(zip(per_class, examples, strict=True)):
        if value is not None:
            sums[index in tail][0] += value * count
            sums[index in tail][1] += count
    return tuple(
        right / count if count else None for right, count in (sums[False], sums[True])
    )


# Class by class


def classes(runs):
    attack = strongest(runs)
    bars = element("div", _bars(runs, attack), class_="scroll")
    note = (
        f"Pale: clean. Full: under {attack}. Classes with more training images first."
    )
    if len(runs[0].class_names) <= MOST_BARS:
        return [element("p", note, class_="note"), bars]
    summary = element("summary", "All classes, one by one")
    return [
        _by_rank(runs, attack),
        element("details", summary, element("p", note, class_="note"), bars),
    ]


def _bars(runs, attack):
    rows = [
        [
            element("bdi", runs[0].class_names[index]),
            _training_images(runs, index),
            *(_bar(run, index, attack) for run in runs),
        ]
        for index in runs[0].head_first()
    ]
    return table(
        ["class", "training images", *map(named, runs)],
        rows,
        f"Accuracy of each class in percent: clean, and under {attack}",
        class_="bars",
    )


def _training_images(runs, index):
    """How many images of a class there were to train on, in each run if they differ."""
    counts = [run.class_counts and f"{run.class_counts[index]:,}" for run in runs]
    return " / ".join(dict.fromkeys(count or "–" for count in counts))


def _bar(run, index, attack):
    clean = run.results.get("clean", {}).get("per_class")
    values = [clean and clean[index], run.results[attack]["per_class"][index]]
    fills = [
        element("i", style=f"width:{100 * (value or 0):.1f}%", class_=kind)
        for kind, value in zip(("clean", "robust"), values, strict=True)
    ]
    numbers = ["–" if value is None else f"{100 * value:.0f}" for value in values]
    return element(
        "div",
        element("div", fills, class_="bar"),
        element("span", numbers[0], " → ", element("b", numbers[1])),
        class_="cell",
        style=f"--run:{run.colour}",
    )


def _by_rank(runs, attack):
    """A chart for many classes, of the means of neighbours."""
    order = runs[0].head_first()
    groups = np.array_split(np.arange(len(order)), GROUPS_OF_CLASSES)
    x = [1 + float(group.mean()) for group in groups]
    lines = []
    for run in runs:
        for name in dict.fromkeys(("clean", attack)):
            if name not in run.results:
                continue
            values = run.results[name]["per_class"]
            values = np.array([np.nan if v is None else v for v in values])[order]
            y = [_mean(100 * values[group]) for group in groups]
            is_clean = name == "clean"
            lines.append(Line(f"{run.name}, {name}", x, y, run.colour, is_clean))
    chart = line_chart(
        lines,
        "class, from the most to the fewest training images",
        "accuracy in %",
        f"Accuracy of the classes, clean and under {attack}.",
        y_range=(0, 100),
    )
    text = f"Each point is the mean over about {len(groups[0])} classes."
    return element("figure", legend(lines), chart, element("p", text, class_="note"))


def _mean(values):
    """The mean of those that there are."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else np.nan


# Confusions


def confusions(runs):
    attack = strongest(runs, needs="confusion")
    panels = [_confusion(run, attack or strongest([run], "confusion")) for run in runs]
    note = (
        "Rows: the class of the images; columns: what the network takes them for, in % "
        "of the row. Classes with more training images first."
    )
    return [
        element("p", note, class_="note"),
        element("div", panels, class_="grid"),
    ]


def has_confusion(run):
    return run.results is not None and strongest([run], "confusion") is not None


def _confusion(run, attack):
    order = run.head_first()
    names = [run.class_names[index] for index in order]
    shares = _shares(run, attack)[np.ix_(order, order)]
    title = f"Confusion of {run.name} under {attack}"
    if len(order) <= MOST_NUMBERS:
        labels, keys = labels_of(names)
        rows = [
            [
                element("bdi", key),
                *(_share(value, row == column) for column, value in enumerate(values)),
            ]
            for row, (key, values) in enumerate(zip(keys, shares, strict=True))
        ]
        heads = [
            element("span", label, class_="long" if len(label) > 3 else None)
            for label in labels
        ]
        kind = "confusion" if labels is keys else "confusion numbered"
        picture = table([None, *heads], rows, title, class_=kind)
    else:
        picture = image(_heat_map(shares), title, class_="heat")
    caption = element("figcaption", named(run), f": {attack}")
    return element("figure", caption, picture, _most_confused(run, attack))


def _shares(run, attack):
    """The confusion matrix with rows that sum to 1."""
    matrix = np.asarray(run.results[attack]["confusion"], "float64")
    return matrix / np.maximum(matrix.sum(axis=1, keepdims=True), 1)


def _share(value, is_right):
    kind = "right" if is_right else "wrong"
    strong = " strong" if value > 0.55 else ""
    text = f"{100 * value:.0f}" if value >= 0.005 else None
    return element("span", text, class_=kind + strong, style=f"--share:{value:.2f}")


def _heat_map(shares):
    """Green where the network is right, red where it is wrong, clear where nothing."""
    pixels = np.empty((*shares.shape, 4))
    pixels[..., :3] = (0.84, 0.33, 0.0)
    pixels[np.eye(len(shares), dtype=bool), :3] = (0.0, 0.6, 0.45)
    pixels[..., 3] = np.sqrt(shares)  # so that few are seen too
    return pixels


def _most_confused(run, attack):
    shares = _shares(run, attack)
    clean = None
    if attack != "clean" and "confusion" in run.results.get("clean", ()):
        clean = _shares(run, "clean")
    wrong = shares.copy()
    np.fill_diagonal(wrong, 0)
    ranked = np.argsort(-wrong, axis=None, kind="stable")[:TOP_CONFUSIONS]
    items = []
    for row, column in zip(*np.unravel_index(ranked, wrong.shape), strict=True):
        if not wrong[row, column]:
            continue
        text = (
            element("bdi", run.class_names[row]),
            " taken for ",
            element("bdi", run.class_names[column]),
            f": {100 * wrong[row, column]:.0f}%",
        )
        if clean is not None:
            text += (f" (clean: {100 * clean[row, column]:.0f}%)",)
        items.append(element("li", text))
    return [
        element("p", "Most frequent confusions", class_="note"),
        element("ol", items, class_="short"),
    ]
