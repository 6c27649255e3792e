"""Line charts as SVG. They take their colours from the page's style sheet."""

import dataclasses
import math

from keras_robustlt.class_names import display_width, one_line
from keras_robustlt.reporting.html import element

__all__ = ["Line", "labels_of", "legend", "line_chart"]

# In the units of the picture, which fills the width of a phone.
WIDTH, HEIGHT = 360, 230
LEFT, RIGHT, TOP, BOTTOM = 38, 12, 26, 38
MOST_POINTS = 300
# Longer names of classes would not fit beside a chart or over a column.
WIDEST_LABEL = 14


@dataclasses.dataclass
class Line:
    """A line of a chart.

    Args:
        name: String.
        x: List of numbers.
        y: List of numbers; where there is none the line is interrupted.
        colour: String of CSS.
        dashed: Boolean.
        label: String, written at its end. Defaults to `None`.
        markers: Boolean. Whether to mark the points. Defaults to `False`.
    """

    name: str
    x: list
    y: list
    colour: str
    dashed: bool = False
    label: str = None
    markers: bool = False


def line_chart(lines, x_label, y_label, description, y_range=None, marks=()):
    """A chart.

    Args:
        lines: List of `Line`.
        x_label: String.
        y_label: String.
        description: String: what is to be seen, for those who do not see it.
        y_range: Pair of numbers. Defaults to what the lines need, 0 included.
        marks: List of pairs of an `x` and what is written there, at a vertical line.

    Returns:
        `Markup` of an `svg` element.
    """
    labels = [line.label for line in lines if line.label]
    right = RIGHT + (6.5 * max(map(display_width, labels)) if labels else 0)
    all_x = [x for line in lines for x in line.x]
    all_y = [y for line in lines for y in line.y if math.isfinite(y)]
    x_low, x_high = min(all_x), max(all_x)
    x_high = x_high if x_high > x_low else x_low + 1
    y_low, y_high = y_range or (min([0, *all_y]), max([0, *all_y]))
    y_high = y_high if y_high > y_low else y_low + 1
    y_ticks = ticks(y_low, y_high)
    y_high = y_high if y_range else max(y_high, y_ticks[-1])

    def place_x(x):
        return LEFT + (WIDTH - LEFT - right) * (x - x_low) / (x_high - x_low)

    def place_y(y):
        return (
            HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * (y - y_low) / (y_high - y_low)
        )

    parts = []
    for y in y_ticks:
        parts += [
            draw_line(LEFT, place_y(y), WIDTH - right, place_y(y), "grid"),
            draw_text(LEFT - 6, place_y(y) + 4, f"{y:g}", "end"),
        ]
    for x in ticks(x_low, x_high):
        parts.append(draw_text(place_x(x), HEIGHT - BOTTOM + 16, f"{x:g}", "middle"))
    middle = (LEFT + WIDTH - right) / 2
    parts += [
        draw_line(LEFT, place_y(y_low), WIDTH - right, place_y(y_low), "axis"),
        draw_text(middle, HEIGHT - 4, x_label, "middle"),
        draw_text(4, 9, y_label, "start"),
    ]
    for x, text in marks:
        parts += [
            draw_line(place_x(x), TOP, place_x(x), place_y(y_low), "mark"),
            draw_text(place_x(x) + 4, TOP + 9, text, "start"),
        ]
    for line in lines:
        parts.append(_path(line, place_x, place_y))
    for line, y in _apart(lines, place_y):
        x = WIDTH - right + 5
        parts.append(draw_text(x, y + 4, line.label, "start", line.colour))
    return element(
        "svg",
        element("title", description),
        parts,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        role="img",
        class_="chart",
    )


def legend(lines):
    """What the lines of a chart are called, above it."""
    items = [
        element(
            "li",
            element(
                "i",
                style=f"border-color:{line.colour}",
                class_="dashed" if line.dashed else None,
            ),
            element("bdi", line.name),
        )
        for line in lines
    ]
    return element("ul", items, class_="legend")


def labels_of(names):
    """What stands for names where room is short: these, or numbers if one is long.

    Args:
        names: List of strings.

    Returns:
        The labels, and the names with their labels before them, as they go into a
        legend: the names alone where these are the labels.
    """
    names = [one_line(name) for name in names]
    if max(map(display_width, names)) <= WIDEST_LABEL:
        return names, names
    numbers = [str(number) for number in range(1, len(names) + 1)]
    both = zip(numbers, names, strict=True)
    return numbers, [f"{number}. {name}" for number, name in both]


def ticks(low, high, most=6):
    """Round numbers from `low` to `high`, about `most` of them."""
    rough = (high - low) / most
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 10) for number in range(first, last + 1)]


def _path(line, place_x, place_y):
    points = list(zip(line.x, line.y, strict=True))
    if len(points) > MOST_POINTS:
        points = points[:: math.ceil(len(points) / MOST_POINTS)] + points[-1:]
    commands, pen = [], "M"
    for x, y in points:
        if math.isfinite(y):
            commands.append(f"{pen}{place_x(x):.1f} {place_y(y):.1f}")
        pen = "L" if math.isfinite(y) else "M"
    path = element(
        "path",
        d="".join(commands),
        style=f"stroke:{line.colour}",
        class_="line dashed" if line.dashed else "line",
    )
    if not line.markers and len(points) > 1:
        return path
    dots = [
        element(
            "circle",
            cx=f"{place_x(x):.1f}",
            cy=f"{place_y(y):.1f}",
            r=3,
            style=f"fill:{line.colour}",
        )
        for x, y in points
        if math.isfinite(y)
    ]
    return [path, *dots]


def _apart(lines, place_y, distance=13):
    """The lines with labels, and where these go so that none hides another."""
    labelled = [(place_y(line.y[-1]), line) for line in lines if line.label]
    lowest = -math.inf
    for y, line in sorted(labelled, key=lambda pair: pair[0]):
        lowest = max(y, lowest + distance)
        yield line, lowest


def draw_line(x1, y1, x2, y2, class_):
    ends = {"x1": x1, "y1": y1, "x2": x2, "y2": y2}
    ends = {key: f"{value:.1f}" for key, value in ends.items()}
    return element("line", class_=class_, **ends)


def draw_text(x, y, text, anchor, colour=None):
    style = colour and f"fill:{colour}"
    return element(
        "text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, style=style
    )
