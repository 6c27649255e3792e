"""The cost of a step as work grows: batch, classes, attack steps, image size.

    python benchmarks/scaling.py
    python benchmarks/scaling.py --sides tensorflow jax torch --only batch_size
    python benchmarks/scaling.py --quick

One small network, and one quantity at a time, while the others stay as they are. What
is measured, and how, is as in `step.py`. Peak memory should grow with batch and image
size, and hardly with the steps of the attack.
"""

import argparse
import dataclasses
import json
import os

import compare
import sides
import step
import tables
import workers

BASE = sides.Cell(network="wrn-10-1", method="at_bsl", batch_size=32)
VALUES = {
    "batch_size": (8, 16, 32, 64, 128),
    "classes": (10, 100, 1000),
    "attack_steps": (1, 2, 5, 10, 20),
    "image_size": (16, 32, 48, 64),
}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--network", type=step.network_name, default=BASE.network)
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=tuple(sides.SIDES),
        default=["tensorflow", "torch"],
    )
    parser.add_argument(
        "--only", nargs="+", choices=tuple(VALUES), default=list(VALUES)
    )
    parser.add_argument("--rounds", type=workers.positive, default=3)
    parser.add_argument("--steps", type=workers.positive, default=3)
    parser.add_argument("--threads", type=workers.positive, default=BASE.threads)
    return tables.parse(parser, "scaling", quick="two small values of each")


def planned(arguments):
    """The cells by quantity and value."""
    base = dataclasses.replace(
        BASE, network=arguments.network, threads=arguments.threads
    )
    if arguments.quick:
        base = dataclasses.replace(base, batch_size=8, attack_steps=1, image_size=16)
    return {
        (quantity, value): dataclasses.replace(base, **{quantity: value})
        for quantity in arguments.only
        for value in VALUES[quantity][: 2 if arguments.quick else None]
    }


def markdown(measured, settings):
    parts = [f"{settings['machine']}, Python {settings['python']}."]
    for quantity in VALUES:
        cells = {
            value: figures
            for (measured_quantity, value), figures in measured.items()
            if measured_quantity == quantity
        }
        if not cells:
            continue
        names = list(next(iter(cells.values()))["sides"])
        header = [quantity.replace("_", " ")]
        for name in names:
            header += [f"{name}: s/step", "images/s", "peak memory, MiB"]
        rows = []
        for value, figures in sorted(cells.items()):
            row = [f"{value}{tables.mark(figures)}"]
            for name in names:
                side = figures["sides"][name]
                memory = side.get("peak_memory_bytes")
                row += [
                    tables.seconds(side.get("seconds_per_step")),
                    tables.number(side.get("images_per_second"), 0),
                    tables.number(None if memory is None else memory / tables.MIB, 0),
                ]
            rows.append(row)
        fixed = dict(next(iter(cells.values()))["cell"])
        fixed.pop(quantity)
        fixed.pop("threads")
        others = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in fixed.items())
        parts += [f"{others}:", tables.table(header, rows)]
        parts += [tables.disturbed(list(cells.values()))]
    return "\n\n".join(part.strip() for part in parts if part)


def load(path):
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as file:
        rows = json.load(file)["rows"]
    return {(row["quantity"], row["value"]): row["figures"] for row in rows}


def main():
    arguments = parse_arguments()
    there, missing = compare.available_sides()
    for name in arguments.sides:
        if name not in there:
            raise SystemExit(f"{name}: {missing[name]}.")
    settings = compare.settings()
    measured = load(arguments.json)
    os.makedirs(os.path.dirname(os.path.abspath(arguments.json)), exist_ok=True)
    rounds = 1 if arguments.quick else arguments.rounds
    for (quantity, value), cell in planned(arguments).items():
        if arguments.resume and (quantity, value) in measured:
            continue
        print(f"{quantity} {value}", flush=True)
        measured[quantity, value] = compare.measure(
            cell, arguments.sides, rounds, arguments.steps, quick=arguments.quick
        )
        rows = [
            {"quantity": quantity, "value": value, "figures": figures}
            for (quantity, value), figures in measured.items()
        ]
        workers.write_json(arguments.json, {"settings": settings, "rows": rows})
    text = markdown(measured, settings)
    print(f"\n{text}")
    if arguments.document and not arguments.quick:
        tables.insert(arguments.document, "scaling", text)


if __name__ == "__main__":
    main()
