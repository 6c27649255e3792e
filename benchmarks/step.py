"""Times a step of adversarial training, ours beside plain eager PyTorch.

    python benchmarks/step.py                            # WideResNet-10-2, batch 64
    python benchmarks/step.py --network=resnet18 --json=resnet18.json
    python benchmarks/step.py --sides jax torch-best --method=awp --rounds=3

All sides train the same architecture on the same fixed batch: PGD-10 in the Linf ball
of 8/255 with the batch's own BatchNorm statistics, then SGD with Nesterov momentum and
weight decay. Ours is a whole `RobustLTModel` step with RobustLT and its metrics, as
`fit` calls it, without an input pipeline; theirs are `torch_baseline.py` and
`torch_best.py`.

Each side lives in a process of its own, so that two thread pools never share the cores.
They take turns: a round is a few steps of the one, then a few of the other, and the
ones that wait are idle. The figures are medians over the rounds, after a warm-up, and
the ratios are the medians of the rounds' own ratios.

Measure on an idle machine: beside other work the sides lose unequally, and a ratio can
come out many times too high. The run says so when others were at work.
"""

import argparse
import dataclasses
import re
import sys

import compare
import sides
import workers


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add_cell(parser)
    parser.add_argument(
        "--sides",
        nargs="+",
        choices=tuple(sides.SIDES),
        default=["tensorflow", "torch"],
        help="what to measure, and first what to compare with the others",
    )
    parser.add_argument(
        "--rounds", type=workers.positive, default=7, help="rounds that are timed"
    )
    parser.add_argument(
        "--steps", type=workers.positive, default=3, help="steps of a side in a round"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    return parser.parse_args()


def add_cell(parser):
    """Adds a flag for each field of a `sides.Cell`."""
    defaults = sides.Cell()
    parser.add_argument(
        "--network",
        "--model",
        type=network_name,
        default=defaults.network,
        help="wrn-DEPTH-WIDTH, resnet18 or resnet34",
    )
    parser.add_argument("--method", choices=sides.METHODS, default=defaults.method)
    for name in ("batch_size", "classes", "image_size", "attack_steps", "threads"):
        default = getattr(defaults, name)
        parser.add_argument(f"--{name}", type=workers.positive, default=default)
    parser.add_argument(
        "--precision", choices=sides.PRECISIONS, default=defaults.precision
    )


def cell_from(arguments):
    """The cell that these flags describe."""
    fields = dataclasses.fields(sides.Cell)
    return sides.Cell(**{each.name: getattr(arguments, each.name) for each in fields})


def network_name(text):
    """The type of `--network`."""
    wide = re.fullmatch(r"wrn-(\d+)-(\d+)", text)
    if wide and int(wide[1]) >= 10 and int(wide[1]) % 6 == 4 and int(wide[2]) >= 1:
        return text
    if text in ("resnet18", "resnet34"):
        return text
    raise argparse.ArgumentTypeError(
        "expected wrn-DEPTH-WIDTH with a depth of 10, 16, 22, 28, ... "
        f"(such as wrn-28-10), resnet18 or resnet34. Received: {text}"
    )


def report(figures):
    first, *others = figures["sides"]
    print()
    for other in others:
        if (value := compare.ratio(figures, other, first)) is not None:
            print(
                f"{sides.SIDES[first][0]}: {value:.2f} times as fast as "
                f"{sides.SIDES[other][0]}"
            )
    print(
        f"\n{'':16}{'s/step':>9}{'images/s':>10}{'CPU s':>8}{'MiB':>7}{'floor':>7}"
        f"{'start, s':>10}  framework"
    )
    for side, row in figures["sides"].items():
        if "failed" in row:
            print(f"{side:16}  failed: {row['failed']}")
            continue
        memory, share = row["peak_memory_bytes"], row["share_of_floor"]
        print(
            f"{side:16}{row['seconds_per_step']:9.3f}{row['images_per_second']:10.1f}"
            f"{row['cpu_seconds_per_step']:8.3f}"
            f"{'-' if memory is None else f'{memory / 2**20:.0f}':>7}"
            f"{'-' if share is None else f'{share:.0%}':>7}"
            f"{row['start_seconds']:10.1f}  {row['framework']}"
        )
    busy = figures["share_of_other_processes"]
    if busy is not None and busy > workers.BUSY:
        print(
            f"\nNOT VALID: other processes took {busy:.0%} of the cores meanwhile.\n"
            "Measure again when the machine is idle; the ratio says nothing as it is."
        )
    cell = figures["cell"]
    print(
        f"\n{cell['network']}, {cell['method']}, batch {cell['batch_size']}, "
        f"PGD-{cell['attack_steps']}, {cell['precision']}, {cell['threads']} threads; "
        f"medians of {figures['rounds']} rounds of\n{figures['steps']} steps, in turn"
    )


def main():
    arguments = parse_arguments()
    there, missing = compare.available_sides()
    for side in arguments.sides:
        if side not in there:
            sys.exit(f"{side}: {missing[side]}. Try: pip install -e '.[bench]'")
    cell = cell_from(arguments)
    figures = compare.measure(cell, arguments.sides, arguments.rounds, arguments.steps)
    report(figures)
    if arguments.json:
        workers.write_json(arguments.json, {**figures, **compare.settings()})


if __name__ == "__main__":
    main()
