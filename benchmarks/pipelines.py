"""Times every augmentation, in the input pipeline and on the device.

    python benchmarks/pipelines.py
    python benchmarks/pipelines.py --step=step.json --json=pipelines.json

Images are 32x32x3, and three places make batches of them for each augmentation:

- `tf.data`: `krl.data.pipeline` alone, read as fast as it gives;
- `tensorflow` and `jax`: `krl.data.on_device` compiled by that backend, on a batch that
  is on the device already.

`--step` takes what `step.py --json` wrote, and puts the images that a training step
consumes beside them. Each place is a process of its own, and the figures are the best
of a few rounds; CPU time is that of all threads. Beside other work on the machine, wall
time means little and CPU time comes out somewhat too high; the run says so when others
were at work.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

import numpy as np
import sides
from workers import BUSY, available_cores, busy_seconds, positive, write_json

IMAGE_SHAPE = (32, 32, 3)
PLACES = {"tf.data": "tensorflow", "tensorflow": "tensorflow", "jax": "jax"}


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--batch_size", type=positive, default=128)
    parser.add_argument("--batches", type=positive, default=40, help="in a round")
    parser.add_argument("--rounds", type=positive, default=5)
    parser.add_argument(
        "--threads", type=positive, default=available_cores(), help="cores to use"
    )
    parser.add_argument("--step", metavar="FILE", help="what step.py --json wrote")
    parser.add_argument("--json", metavar="FILE", help="write the figures there too")
    # What each process is started with.
    parser.add_argument("--worker", choices=tuple(PLACES), help=argparse.SUPPRESS)
    return parser.parse_args()


def pipeline_round(name, arguments):
    """A function that reads one epoch of a pipeline."""
    import keras_robustlt as krl

    count = arguments.batches * arguments.batch_size
    images = np.random.default_rng(0).integers(0, 256, (count, *IMAGE_SHAPE), np.uint8)
    labels = np.arange(count) % 10
    dataset = krl.data.pipeline(images, labels, arguments.batch_size, name)

    def read():
        for _ in dataset:
            pass

    return read


def device_round(name, arguments):
    """A function that augments as many batches on the device."""
    import keras

    import keras_robustlt as krl
    from keras_robustlt.backend import compiled

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (arguments.batch_size, *IMAGE_SHAPE), np.uint8)
    images = keras.ops.convert_to_tensor(images.astype("float32") / 255)
    augment = krl.data.on_device(name, IMAGE_SHAPE)
    draws = rng.random((arguments.batch_size, augment.num_draws), np.float32)
    draws = keras.ops.convert_to_tensor(draws)
    function = compiled(augment, [])

    def augment_batches():
        for _ in range(arguments.batches):
            augmented = function(images, draws)
        keras.ops.convert_to_numpy(augmented)  # waits for it

    return augment_batches


def run_worker(arguments):
    """Prints the figures of one place, as JSON."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[: arguments.threads])
    import keras_robustlt as krl

    prepare = pipeline_round if arguments.worker == "tf.data" else device_round
    images = arguments.batches * arguments.batch_size
    figures = {}
    for name in krl.data.AUGMENTATIONS:
        run = prepare(name, arguments)
        start = time.perf_counter()
        run()  # compiles
        start = time.perf_counter() - start
        rounds, busy, began = [], busy_seconds(), time.perf_counter()
        for _ in range(arguments.rounds):
            wall, cpu = time.perf_counter(), time.process_time()
            run()
            rounds.append((time.perf_counter() - wall, time.process_time() - cpu))
        available = (time.perf_counter() - began) * available_cores()
        ours = sum(cpu for _, cpu in rounds)
        others = busy and (busy_seconds() - busy - ours) / available
        wall, cpu = np.min(rounds, axis=0)
        figures[name] = {
            "images_per_second": images / wall,
            "cpu_microseconds_per_image": 1e6 * cpu / images,
            "first_round_seconds": start,
            "share_of_other_processes": others,
        }
    print(json.dumps(figures), file=answers, flush=True)


def measure(place, arguments):
    environment = {
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "TF_ENABLE_ONEDNN_OPTS": "1",
        **os.environ,
        "KERAS_BACKEND": PLACES[place],
        "OMP_NUM_THREADS": str(arguments.threads),
        "TF_NUM_INTRAOP_THREADS": str(arguments.threads),
    }
    options = ("batch_size", "batches", "rounds", "threads")
    result = subprocess.run(
        [sys.executable, os.path.abspath(__file__), f"--worker={place}"]
        + [f"--{option}={getattr(arguments, option)}" for option in options],
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    )
    if result.returncode:
        sys.exit(f"The process of {place} failed.")
    return json.loads(result.stdout)


def report(figures):
    print(f"\n{'images/s (CPU microseconds an image)':38}")
    print(f"{'':14}" + "".join(f"{place:>20}" for place in figures["places"]))
    for name in next(iter(figures["places"].values())):
        cells = (
            f"{row[name]['images_per_second']:.0f} "
            f"({row[name]['cpu_microseconds_per_image']:.0f})"
            for row in figures["places"].values()
        )
        print(f"{name:14}" + "".join(f"{cell:>20}" for cell in cells))
    if step := figures["step"]:
        print(
            f"\nA training step of {step['network']}, batch {step['batch_size']}, "
            f"consumes {step['images_per_second']:.0f} images/s on {step['device']}."
        )
    others = max(
        row["share_of_other_processes"] or 0
        for rows in figures["places"].values()
        for row in rows.values()
    )
    if others > BUSY:
        print(f"\nOther processes took up to {others:.0%} of the cores meanwhile.")


def main():
    arguments = parse_arguments()
    if arguments.worker:
        run_worker(arguments)
        return
    step = None
    if arguments.step:
        with open(arguments.step, encoding="utf-8") as file:
            measured = json.load(file)
        ours = next(side for side in measured["sides"] if side in sides.OURS)
        step = {
            "side": ours,
            **{key: measured["cell"][key] for key in ("network", "batch_size")},
            **{
                key: measured["sides"][ours][key]
                for key in ("device", "images_per_second")
            },
        }
    figures = {
        "places": {place: measure(place, arguments) for place in PLACES},
        "step": step,
        "settings": {
            "image_shape": IMAGE_SHAPE,
            "batch_size": arguments.batch_size,
            "batches_per_round": arguments.batches,
            "rounds": arguments.rounds,
            "threads": arguments.threads,
            "machine": f"{platform.machine()}, {available_cores()} cores",
            "python": platform.python_version(),
        },
    }
    report(figures)
    if arguments.json:
        write_json(arguments.json, figures)


if __name__ == "__main__":
    main()
