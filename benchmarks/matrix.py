"""Times every network and base method on every side, and writes the tables.

    python benchmarks/matrix.py                          # `make bench`
    python benchmarks/matrix.py --resume                 # what is missing in the JSON
    python benchmarks/matrix.py --cells 'wrn-10-2/*' resnet18/at --rounds=3
    python benchmarks/matrix.py --quick                  # whether it runs: a minute

A cell is a network, a base method and a precision, and `step.py` says how one is
measured. The JSON is written after each cell and keeps the cells of earlier runs that
this one does not measure again. The tables are made of all of it: with `--resume` and
nothing left to measure, they are made anew.
"""

import argparse
import dataclasses
import fnmatch
import json
import os
import time

import compare
import sides
import tables
import workers

# Batch size, rounds, and steps of a side in a round. A CPU takes seconds for a step of
# the large network at any batch.
NETWORKS = {"wrn-10-2": (64, 7, 2), "resnet18": (32, 5, 2), "wrn-28-10": (4, 3, 1)}
QUICK = {"wrn-10-1": (8, 1, 1)}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "--cells",
        nargs="+",
        default=["*"],
        metavar="NETWORK/METHOD",
        help="measure these only; * stands for anything",
    )
    parser.add_argument(
        "--sides", nargs="+", choices=tuple(sides.SIDES), default=list(sides.SIDES)
    )
    parser.add_argument(
        "--precisions",
        nargs="+",
        choices=("float32", "bfloat16"),
        help="float32, and bfloat16 if not given and the CPU computes in it",
    )
    parser.add_argument(
        "--rounds", type=workers.positive, help="3 to 7 by network if not given"
    )
    parser.add_argument(
        "--steps",
        type=workers.positive,
        help="of a side in a round, 1 or 2 if not given",
    )
    parser.add_argument(
        "--start_minutes",
        type=float,
        default=30.0,
        help="a side that takes longer to compile its step has failed",
    )
    parser.add_argument(
        "--threads", type=workers.positive, default=workers.available_cores()
    )
    return tables.parse(parser, "matrix", quick="a tiny network, a round")


def planned(arguments):
    """The cells to measure, each with its number of rounds and of steps."""
    precisions = arguments.precisions
    if precisions is None:
        fast = workers.has_fast_bfloat16()
        precisions = ["float32", "bfloat16"] if fast else ["float32"]
    cells = []
    for precision in precisions:
        for network, (batch_size, rounds, steps) in (
            QUICK if arguments.quick else NETWORKS
        ).items():
            for method in sides.METHODS:
                cell = sides.Cell(
                    network=network,
                    method=method,
                    batch_size=batch_size,
                    attack_steps=2 if arguments.quick else 10,
                    precision=precision,
                    threads=arguments.threads,
                )
                if any(matches(cell.name, pattern) for pattern in arguments.cells):
                    turns = arguments.rounds or rounds, arguments.steps or steps
                    cells.append((cell, *turns))
    if not cells:
        raise SystemExit(f"No cell is called {' or '.join(arguments.cells)}.")
    return cells


def matches(name, pattern):
    """Whether a pattern names a cell, or a beginning of its name."""
    return fnmatch.fnmatch(name, pattern) or fnmatch.fnmatch(name, f"{pattern}/*")


def measure_all(waiting, names, arguments, measured, keep):
    """Measures cells into `measured`, and calls `keep` after each."""
    costs = {}
    for index, (cell, rounds, steps) in enumerate(waiting):
        costly = [costs[c.network] for c, *_ in waiting[index:] if c.network in costs]
        left = sum(costly) / 60
        more = "" if len(costly) == len(waiting) - index else " for those known"
        print(
            f"{cell.name}, batch {cell.batch_size} ({index + 1} of {len(waiting)}"
            + (f"; about {left:.0f} minutes left{more})" if costly else ")"),
            flush=True,
        )
        start = time.perf_counter()
        measured[cell.name] = compare.measure(
            cell,
            names,
            rounds,
            steps,
            say,
            patience=60 * arguments.start_minutes,
            quick=arguments.quick,
        )
        costs[cell.network] = time.perf_counter() - start
        keep(measured)


def say(line):
    print(line, flush=True)


def markdown(measured, settings):
    cells = list(measured.values())
    frameworks = sorted(
        {
            row["framework"]
            for figures in cells
            for row in figures["sides"].values()
            if "framework" in row
        }
    )
    return f"""\
{settings["machine"]}, Python {settings["python"]}; {"; ".join(frameworks)}.
{settings["attack"]}. Medians of the rounds, all sides in turn in one run.

How many times as fast ours is as plain and as the best PyTorch, and how much of the
floor it reaches:

{tables.ratios(cells)}
{tables.disturbed(cells)}
{tables.figures_of_sides(cells)}

The floor:

{tables.floors(cells)}
"""


def load(path):
    """What an earlier run measured, by the name of the cell."""
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        return json.load(file)["cells"]


def is_measured(cell, measured):
    before = measured.get(cell.name)
    return before is not None and before["cell"] == dataclasses.asdict(cell)


def main():
    arguments = parse_arguments()
    cells = planned(arguments)
    there, missing = compare.available_sides()
    names = [name for name in arguments.sides if name in there]
    for name in set(arguments.sides) - set(names):
        print(f"{name} is left out: {missing[name]}")
    settings = compare.settings()
    measured = load(arguments.json)
    waiting = [
        (cell, *turns)
        for cell, *turns in cells
        if not (arguments.resume and is_measured(cell, measured))
    ]
    os.makedirs(os.path.dirname(os.path.abspath(arguments.json)), exist_ok=True)

    def keep(measured):
        compare.share_peak(list(measured.values()))
        workers.write_json(arguments.json, {"settings": settings, "cells": measured})

    measure_all(waiting, names, arguments, measured, keep)
    keep(measured)
    text = markdown(measured, settings)
    print(f"\n{text}")
    if arguments.document and not arguments.quick:
        tables.insert(arguments.document, "matrix", text)


if __name__ == "__main__":
    main()
