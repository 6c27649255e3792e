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
# All at once of what a batch does as a whole: features against each other, counts that
# follow training, budgets of the classes, a step of the optimiser on the weights.
CASE = "reat+awp/cfa"
OTHER_CASES = [
    "reat",
    "at_bsl+awp",
    "taet",
    "trades",
    "robal",
    "awp",
    "standard",
    "at/cfa",  # with FAWA
    "at/dafa",
    "at/auto",
]
BATCH_NORM = "mart"  # whose network has batch normalisation; on JAX they all have it
TOLERANCE = 1e-5 if ON_JAX else 2e-6
PROCESSES_CASE = "at_bsl"


def start(output, *arguments, **environment):
    environment = {**os.environ, **environment}
    return subprocess.Popen(
        [sys.executable, SCRIPT, output, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    text, _ = process.communicate(timeout=500)
    assert process.returncode == 0, text[-3000:]


def load(path, kind, case):
    """The weights and logs of a case."""
    prefix = f"{kind}={case}:"
    with np.load(path) as arrays:
        names = [name for name in arrays if name.startswith(prefix)]
        return {name.removeprefix(prefix): arrays[name] for name in names}


def assert_same(several, one):
    assert several.keys() == one.keys() != set()
    for name in one:
        np.testing.assert_allclose(
            several[name], one[name], rtol=TOLERANCE, atol=TOLERANCE, err_msg=name
        )


def on_devices(*cases):
    """What trains them on one device and on two."""
    return [f"{kind}={case}" for case in cases for kind in ("one", DEVICES)]


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "results.npz"
    finish(start(path, *on_devices(CASE), f"one={PROCESSES_CASE}"))
    return path


def test_two_devices_train_as_one(results):
    assert_same(load(results, DEVICES, CASE), load(results, "one", CASE))


@pytest.mark.slow
def test_two_devices_train_as_one_with_other_methods(tmp_path):
    path = tmp_path / "results.npz"
    finish(start(path, *on_devices(*OTHER_CASES)))
    for case in OTHER_CASES:
        assert_same(load(path, DEVICES, case), load(path, "one", case))


@pytest.mark.slow  # JAX's quick case has batch normalisation
@pytest.mark.tensorflow
def test_batch_normalization(tmp_path):
    path = tmp_path / "results.npz"
    finish(start(path, *on_devices(BATCH_NORM)))
    one, two = (load(path, kind, BATCH_NORM) for kind in ("one", DEVICES))
    # Each replica normalises by its own images: near, and not the same.
    for name in one:
        if name.startswith("w"):
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


@pytest.fixture
def start_pair(tmp_path, cluster):
    """A function that starts two processes which train together."""

    def start_both(second=None):
        shared = {"CHECKPOINTS": str(tmp_path)}
        return [
            start(
                tmp_path / f"{index}.npz",
                f"{PROCESSES}={PROCESSES_CASE}",
                **{**shared, **cluster(index), **environment},
            )
            for index, environment in enumerate([{}, second or {}])
        ]

    return start_both


def assert_trained_as_one(folder, results):
    """Both processes have, and the first has written what there is to write."""
    expected = load(results, "one", PROCESSES_CASE)
    for index in range(2):
        path = folder / f"{index}.npz"
        assert_same(load(path, PROCESSES, PROCESSES_CASE), expected)
    assert len((folder / "history.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path, start_pair, results):
    for process in start_pair():
        finish(process)
    assert_trained_as_one(tmp_path, results)


@pytest.mark.slow
def test_two_processes_go_on_where_one_was_killed(tmp_path, start_pair, results):
    chief, killed = start_pair({"KILL_AT_STEP": "5"})  # in the second epoch
    killed.communicate(timeout=500)
    assert killed.returncode == -signal.SIGKILL
    chief.kill()  # if it still waits for the other one
    chief.communicate()
    lines = (tmp_path / "history.csv").read_text().splitlines()
    assert len(lines) == 2, "the header and the first epoch"
    for process in start_pair():
        finish(process)
    assert_trained_as_one(tmp_path, results)


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
