"""Several devices and several processes train as one device does."""

import json
import os
import pathlib
import signal
import socket
import subprocess
import sys

import keras
import numpy as np
import pytest

SCRIPT = pathlib.Path(__file__).with_name("distribution_script.py")
ON_JAX = keras.backend.backend() == "jax"
DEVICES, PROCESSES = ("parallel", "process") if ON_JAX else ("mirrored", "worker")
# What a batch does as a whole: features against each other and counts that follow
# training; a step of the optimiser on the weights.
CASES = ["reat", "at_bsl+awp"] if ON_JAX else ["reat", "at_bsl+awp", "at/auto"]
OTHER_CASES = [
    "taet",
    "trades",
    "robal",
    "awp",
    "standard",
    "at/cfa",  # with FAWA
    "at/dafa",
    "at/auto",
]
BATCH_NORM = "mart"  # the case whose network has batch normalisation
PROCESSES_CASE = "at_bsl"


def start(kind, output, *cases, **environment):
    environment = {**os.environ, **environment}
    return subprocess.Popen(
        [sys.executable, SCRIPT, kind, output, *cases],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    text, _ = process.communicate(timeout=500)
    assert process.returncode == 0, text[-3000:]


def load(path):
    with np.load(path) as arrays:
        return dict(arrays)


def assert_same(several, one, tolerance=2e-6):
    assert several.keys() == one.keys()
    for name in one:
        np.testing.assert_allclose(
            several[name], one[name], rtol=tolerance, atol=tolerance, err_msg=name
        )


def train_on_devices(folder, cases, on_one=()):
    """The results on one device, which trains `on_one` too, and on two."""
    cases_of = {"one": [*cases, *on_one], DEVICES: cases}
    paths = {kind: folder / f"{kind}.npz" for kind in cases_of}
    for process in [start(kind, paths[kind], *cases_of[kind]) for kind in cases_of]:
        finish(process)
    return [load(path) for path in paths.values()]


def of_case(case, results):
    return {k: v for k, v in results.items() if k.startswith(f"{case}:")}


@pytest.fixture(scope="module")
def one_and_two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return train_on_devices(folder, [*CASES, BATCH_NORM], on_one=[PROCESSES_CASE])


@pytest.mark.parametrize("case", CASES)
def test_two_devices_train_as_one(one_and_two, case):
    one, two = (of_case(case, results) for results in one_and_two)
    assert_same(two, one)


@pytest.mark.slow
def test_two_devices_train_as_one_with_other_methods(tmp_path):
    one, two = train_on_devices(tmp_path, OTHER_CASES)
    assert_same(two, one)


def test_batch_normalization(one_and_two):
    one, two = (of_case(BATCH_NORM, results) for results in one_and_two)
    if ON_JAX:  # where statistics are those of the whole batch
        assert_same(two, one, tolerance=1e-5)
        return
    # Each replica normalises by its own images: near, and not the same.
    for name in one:
        if ":w" in name:
            np.testing.assert_allclose(two[name], one[name], atol=0.1, err_msg=name)


@pytest.fixture
def cluster():
    """A function that gives two processes the environment of a cluster."""
    with socket.socket() as first, socket.socket() as second:
        first.bind(("127.0.0.1", 0))
        second.bind(("127.0.0.1", 0))
        ports = [first.getsockname()[1], second.getsockname()[1]]
    addresses = [f"127.0.0.1:{port}" for port in ports]

    def environment(index):
        task = {"type": "worker", "index": index}
        config = {"cluster": {"worker": addresses}, "task": task}
        return {
            "TF_CONFIG": json.dumps(config),
            "KERAS_DISTRIBUTION_JOB_ADDRESSES": ",".join(addresses),
            "KERAS_DISTRIBUTION_NUM_PROCESSES": "2",
            "KERAS_DISTRIBUTION_PROCESS_ID": str(index),
        }

    return environment


def test_two_processes_go_on_where_one_was_killed(tmp_path, cluster, one_and_two):
    checkpoints = tmp_path / "checkpoints"

    def pair(**environment):
        return [
            start(
                PROCESSES,
                tmp_path / f"{index}.npz",
                PROCESSES_CASE,
                CHECKPOINTS=str(checkpoints),
                **cluster(index),
                **(environment if index == 1 else {}),
            )
            for index in range(2)
        ]

    chief, killed = pair(KILL_AT_STEP="5")  # in the second epoch
    killed.communicate(timeout=500)
    assert killed.returncode == -signal.SIGKILL
    chief.kill()  # if it still waits for the other one
    chief.communicate()
    lines = (checkpoints / "history.csv").read_text().splitlines()
    assert len(lines) == 2, "the header and the first epoch"

    for process in pair():
        finish(process)
    expected = of_case(PROCESSES_CASE, one_and_two[0])
    for index in range(2):
        assert_same(load(tmp_path / f"{index}.npz"), expected)
    assert len((checkpoints / "history.csv").read_text().splitlines()) == 4


@pytest.mark.tensorflow
def test_keras_still_has_what_workers_need():
    """`fit` with several workers rests on two private methods of Keras.

    If this fails, look at keras issue 20585 and at `StepAdapter` in
    keras_robustlt/backend/tensorflow.py: what Keras now does by itself goes from there.
    """
    import inspect

    from keras.src.backend.tensorflow import trainer

    build = inspect.signature(trainer.TensorFlowTrainer._maybe_symbolic_build)
    assert list(build.parameters) == ["self", "iterator", "data_batch"]
    reduction = inspect.getsource(trainer.reduce_per_replica)
    assert 'strategy.reduce("MEAN", v, axis=0)' in reduction
