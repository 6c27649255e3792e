"""Markdown tables, and their places in a document.

A place is what stands between `<!-- bench:NAME -->` and `<!-- /bench:NAME -->`.
"""

import pathlib

import compare
import sides
import workers

MIB = 2**20


def parse(parser, name, quick):
    """The arguments, with those that say where the figures called `name` go."""
    parser.add_argument("--quick", action="store_true", help=f"{quick}, no document")
    parser.add_argument(
        "--resume", action="store_true", help="leave out what the JSON has"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help=f"where the figures are kept; runs/bench/{name}.json if not given",
    )
    parser.add_argument(
        "--document", metavar="FILE", help="put the tables there too, in their place"
    )
    arguments = parser.parse_args()
    if arguments.json is None:
        quick = "_quick" if arguments.quick else ""
        arguments.json = f"runs/bench/{name}{quick}.json"
    return arguments


def insert(path, name, text):
    """Puts `text` in the place `name` of the document.

    Raises:
        ValueError: If the document does not have this place.
    """
    path = pathlib.Path(path)
    begin, end = f"<!-- bench:{name} -->", f"<!-- /bench:{name} -->"
    document = path.read_text("utf-8")
    before, found_begin, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not (found_begin and found_end):
        raise ValueError(
            f"{path} has no place for this table: it needs the lines {begin} and {end}."
        )
    path.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}", "utf-8")


def table(header, rows):
    """A Markdown table; all columns but the first are aligned right."""
    lines = [header, ["---"] + ["---:"] * (len(header) - 1), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def number(value, digits=2, unit=""):
    """A figure, or a dash where there is none."""
    return "-" if value is None else f"{value:.{digits}f}{unit}"


def seconds(value):
    return number(value, 3 if value and value < 1 else 2)


def times(value):
    return number(value, 2, "x")


def percent(value):
    return number(None if value is None else 100 * value, 0, "%")


def mark(figures):
    """A dagger for cells that other processes disturbed."""
    others = figures["share_of_other_processes"]
    return " †" if others is not None and others > workers.BUSY else ""


def label(cell):
    """A cell in words."""
    words = [cell["network"], cell["method"]]
    if cell["precision"] != "float32":
        words.append(cell["precision"])
    return " ".join(words) + f", batch {cell['batch_size']}"


def ratios(cells):
    """How many times as fast ours is as PyTorch, cell by cell."""
    ours = [side for side in sides.OURS if _any_has(cells, side)]
    header = ["network, method"]
    header += [f"{side} / plain" for side in ours]
    header += [f"{side} / best" for side in ours]
    header += [f"{side}: share of the floor" for side in ours]
    rows = []
    for figures in cells:
        row = [label(figures["cell"]) + mark(figures)]
        for theirs in ("torch", "torch-best"):
            row += [times(compare.ratio(figures, theirs, side)) for side in ours]
        row += [percent(_figure(figures, side, "share_of_floor")) for side in ours]
        rows.append(row)
    return table(header, rows)


def figures_of_sides(cells):
    """Seconds a step, images a second and peak memory, cell by cell."""
    header = ["network, method", "side", "s/step", "images/s", "CPU s/step"]
    header += ["peak memory, MiB", "share of the floor", "start, s"]
    rows = []
    for cell in cells:
        for side, figures in cell["sides"].items():
            name = [label(cell["cell"]) + mark(cell), sides.SIDES[side][0]]
            if "failed" in figures:
                rows.append([*name, f"failed: {figures['failed']}", *["-"] * 5])
                continue
            memory = figures["peak_memory_bytes"]
            rows.append(
                [
                    *name,
                    seconds(figures["seconds_per_step"]),
                    number(figures["images_per_second"], 1),
                    seconds(figures["cpu_seconds_per_step"]),
                    number(None if memory is None else memory / MIB, 0),
                    percent(figures["share_of_floor"]),
                    number(figures["start_seconds"], 0),
                ]
            )
    return table(header, rows)


def floors(cells):
    """What the floor of each cell is made of."""
    header = ["network, method", "passes", "GFLOP a step", "GFLOP/s at best"]
    header += ["floor, s/step"]
    rows = []
    for figures in cells:
        floor = figures["floor"]
        if floor is None:
            continue
        rates = floor["convolution_flops_per_second"]
        best = max(rates, key=rates.get)
        rows.append(
            [
                label(figures["cell"]),
                floor["forward_passes"],
                number(floor["flops_per_step"] / 1e9, 0),
                f"{rates[best] / 1e9:.0f} ({best})",
                seconds(floor["seconds_per_step"]),
            ]
        )
    return table(header, rows)


def disturbed(cells):
    """What the dagger means, if there is one."""
    if not any(mark(figures) for figures in cells):
        return ""
    return (
        f"\n† Not valid, to be measured again: other processes took more than "
        f"{workers.BUSY:.0%} of the cores meanwhile.\n"
    )


def _figure(figures, side, key):
    return figures["sides"].get(side, {}).get(key)


def _any_has(cells, side):
    return any(_figure(figures, side, "seconds_per_step") for figures in cells)
