"""Where the time of a step goes, on TensorFlow: by kind of operation.

    python benchmarks/profile_step.py
    python benchmarks/profile_step.py --network=resnet18 --batch_size=32 --method=awp

TensorFlow's own profiler records the operations of a few steps of `step.py`'s. Seconds
are those of the operations, as the threads that run them see it: where two run at the
same time, their sum is more than the time of the step.
"""

import argparse
import collections
import glob
import os
import re
import tempfile

import step
import tables
import workers

# An operation belongs to the first of these that its type matches.
KINDS = {
    "convolution, forward": r"_?\w*Conv2D(WithBias)?$",
    "convolution, gradient of the inputs": r"\w*Conv2DBackpropInput",
    "convolution, gradient of the weights": r"\w*Conv2DBackpropFilter",
    "batch normalisation, forward": r"\w*FusedBatchNorm(Ex|V\d)*$",
    "batch normalisation, backward": r"\w*FusedBatchNormGrad",
    "ReLU, forward and backward": r"_?\w*Relu",
    "sums": r"_?(Mkl)?(Add|AddV2|AddN)$",
    "padding": r"Pad|Slice|StridedSlice",
    "products": r"_?\w*(MatMul)",
    "optimiser": r"Assign\w*|Resource\w*",
}
# They only hold others.
CONTAINERS = r"While|If|\w*PartitionedCall|RemoteCall|_Send|_Recv|Iterator\w*"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    step.add_cell(parser)
    parser.add_argument(
        "--steps", type=workers.positive, default=3, help="steps that are recorded"
    )
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    parser.add_argument(
        "--document", metavar="FILE", help="put the table there too, in its place"
    )
    return parser.parse_args()


def record(trainer, steps):
    """Seconds of a step, and seconds and calls a step of each type of operation."""
    import tensorflow as tf
    from tensorflow.tsl.profiler.protobuf import xplane_pb2

    trainer.run(2)
    with tempfile.TemporaryDirectory() as folder:
        options = tf.profiler.experimental.ProfilerOptions(
            host_tracer_level=2, python_tracer_level=0
        )
        tf.profiler.experimental.start(folder, options)
        stopwatch = workers.Stopwatch()
        trainer.run(steps)
        wall = stopwatch.read()[0]
        tf.profiler.experimental.stop()
        (path,) = glob.glob(os.path.join(folder, "plugins/profile/*/*.xplane.pb"))
        space = xplane_pb2.XSpace()
        with open(path, "rb") as file:
            space.ParseFromString(file.read())
    seconds, calls = collections.Counter(), collections.Counter()
    for plane in space.planes:
        names = {key: value.name for key, value in plane.event_metadata.items()}
        for line in plane.lines:
            for event in line.events:
                # "name of the operation:its type"
                if found := re.fullmatch(r"[^:]+:(\w+)", names[event.metadata_id]):
                    kind = found[1]
                    seconds[kind] += event.duration_ps / 1e12 / steps
                    calls[kind] += 1 / steps
    return wall / steps, seconds, calls


def by_kind(seconds, calls):
    """Seconds and calls a step of each of `KINDS`, and of the rest."""
    found = {}
    for operation, value in seconds.items():
        if re.fullmatch(CONTAINERS, operation):
            continue
        matching = (k for k, pattern in KINDS.items() if re.match(pattern, operation))
        kind = next(matching, "other")
        row = found.setdefault(kind, {"seconds": 0.0, "calls": 0.0, "operations": []})
        row["seconds"] += value
        row["calls"] += calls[operation]
        row["operations"].append(operation)
    return dict(sorted(found.items(), key=lambda item: -item[1]["seconds"]))


def markdown(cell, wall, kinds):
    total = sum(row["seconds"] for row in kinds.values())
    rows = [
        [
            kind,
            tables.seconds(row["seconds"]),
            tables.percent(row["seconds"] / total),
            tables.number(row["calls"], 0),
        ]
        for kind, row in kinds.items()
    ]
    header = ["operations", "s/step", "share of all operations", "calls a step"]
    return (
        f"{tables.label(cell)}: {wall:.3f} s a step under the profiler, of which "
        f"operations {total:.3f} s.\n\n{tables.table(header, rows)}"
    )


def main():
    arguments = parse_arguments()
    os.environ["KERAS_BACKEND"] = "tensorflow"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ["TF_NUM_INTRAOP_THREADS"] = str(arguments.threads)
    os.environ["OMP_NUM_THREADS"] = str(arguments.threads)
    import sides

    cell = step.cell_from(arguments)
    wall, seconds, calls = record(sides.Ours(cell), arguments.steps)
    kinds = by_kind(seconds, calls)
    figures = {"cell": cell.__dict__, "seconds_per_step": wall, "kinds": kinds}
    text = markdown(figures["cell"], wall, kinds)
    print(f"\n{text}")
    if arguments.json:
        workers.write_json(arguments.json, figures)
    if arguments.document:
        tables.insert(arguments.document, "profile", text)


if __name__ == "__main__":
    main()
