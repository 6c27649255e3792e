"""The section on what a rule for the budget changes, over several seeds."""

from keras_robustlt.experiments import comparison
from keras_robustlt.reporting.charts import (
    LEFT,
    RIGHT,
    WIDTH,
    draw_line,
    draw_text,
    ticks,
)
from keras_robustlt.reporting.html import element

__all__ = ["changes"]

ROW, TOP, BOTTOM = 20, 8, 36
NAMES = 74  # the width of the names of the groups


def changes(runs):
    """Charts of the differences and their intervals.

    Args:
        runs: List of `Run` with results and settings.

    Returns:
        A list of elements; `None` if no rule was run beside the method without one,
        with two seeds at least.
    """
    lines = [
        line for line in comparison.compare(_rows(runs)) if line["low"] is not None
    ]
    if not lines:
        return None
    # All with the same axis, so that they compare.
    groups = [line for line in lines if line["group"] in comparison.GROUPS]
    ends = [100 * line[end] for line in groups for end in ("low", "high")]
    extent = min(0, *ends), max(0, *ends)
    charts = {}
    for line in groups:
        pair = line["data"], line["name"], line["baseline"], line["attack"]
        charts.setdefault(pair, []).append(line)
    figures = [
        element(
            "figure",
            element("figcaption", f"{name} against {baseline}, {attack}"),
            interval_chart(of_pair, extent),
        )
        for (_, name, baseline, attack), of_pair in charts.items()
    ]
    note = (
        "Accuracy with the rule minus accuracy without, of runs of the same seed, in "
        "points: mean and 95% interval over the seeds. Many, medium, few: classes with "
        f"more than {comparison.MANY_ABOVE}, up to that, and fewer than "
        f"{comparison.FEW_BELOW} training images."
    )
    return [
        element("p", note, class_="note"),
        element("div", figures, class_="grid"),
    ]


def _rows(runs):
    """The runs as `comparison.compare` takes them, those of other seeds together."""
    rows = {}
    for run in runs:
        settings = dict(run.config["settings"])
        seed = settings.pop("seed", None)
        # Under the name of the page a second run of the same may be "AT (2)".
        name = run.config.get("name", run.name)
        row = rows.setdefault(
            str(sorted(settings.items(), key=str)),
            {
                "data": str(settings.get("data")),
                "name": name,
                "settings": {"method": None, "budget": None, **settings},
                "accuracy": dict.fromkeys(run.results),
                "runs": {},
            },
        )
        row["runs"][seed] = {
            "attacks": dict(run.results),
            "settings": run.results.settings,
        }
    return [{**row, "seeds": list(row["runs"])} for row in rows.values()]


def interval_chart(lines, extent):
    """A point and a bar for each group, with a line at 0.

    Args:
        lines: List of dictionaries, of `comparison.compare`.
        extent: Pair of numbers, in points: what the axis has to hold.

    Returns:
        `Markup` of an `svg` element.
    """
    low, high = extent
    high = high if high > low else low + 1
    height = TOP + ROW * len(lines) + BOTTOM
    left, foot = LEFT + NAMES, height - BOTTOM

    def place(value):
        return left + (WIDTH - left - RIGHT) * (value - low) / (high - low)

    parts = []
    for tick in ticks(low, high):
        parts += [
            draw_line(place(tick), TOP, place(tick), foot, "grid"),
            draw_text(place(tick), foot + 16, f"{tick:g}", "middle"),
        ]
    parts.append(draw_line(place(0), TOP, place(0), foot, "axis"))
    for number, line in enumerate(lines):
        y = TOP + ROW * (number + 0.5)
        ends = place(100 * line["low"]), place(100 * line["high"])
        parts += [
            draw_text(left - 8, y + 4, line["group"], "end"),
            element(
                "path",
                d=f"M{ends[0]:.1f} {y:.1f}L{ends[1]:.1f} {y:.1f}",
                style="stroke:var(--run-0)",
                class_="line",
            ),
            element(
                "circle",
                cx=f"{place(100 * line['difference']):.1f}",
                cy=f"{y:.1f}",
                r=3.5,
                style="fill:var(--run-0)",
            ),
        ]
    parts.append(draw_text((left + WIDTH - RIGHT) / 2, height - 4, "points", "middle"))
    description = "Differences with their intervals. " + " ".join(
        f"{line['group']}: {comparison.cell(line)}." for line in lines
    )
    return element(
        "svg",
        element("title", description),
        parts,
        viewBox=f"0 0 {WIDTH} {height}",
        role="img",
        class_="chart",
    )
