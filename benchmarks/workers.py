"""Sides of a comparison as processes of their own, which take turns.

`Worker` is such a process seen from the one that compares, and `serve` is what runs in
it. A worker builds its side, says that it is ready, and then does a round for each line
that it is sent. Only one of them computes at a time, so that two thread pools never
share the cores.
"""

import argparse
import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
import traceback

# Share of the cores' time that other processes take, from which a machine is not idle.
BUSY = 0.05


class Failure(Exception):
    """A worker has ended; its message says why."""


class Worker:
    """A side in a process of its own.

    Args:
        script: String, the file in this folder that serves the side.
        settings: Dictionary, what the script is started with, as JSON.
        environment: Dictionary of environment variables to set.
        patience: Float, seconds that it may take to be ready. Defaults to `None`,
            as long as it likes.

    Attributes:
        description: Dictionary, what the side said of itself when it was ready.

    Raises:
        Failure: If the side cannot be built or run, or takes too long.
    """

    def __init__(self, script, settings, environment, patience=None):
        folder = os.path.dirname(os.path.abspath(__file__))
        # What the libraries have to say is of interest only if the side fails.
        self.messages = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [sys.executable, os.path.join(folder, script), json.dumps(settings)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.messages,
            text=True,
            env={**os.environ, **environment},
        )
        ready, _, _ = select.select([self.process.stdout], [], [], patience)
        if not ready:
            self.process.kill()
            self.close()
            raise Failure(f"not ready after {patience / 60:.0f} minutes")
        self.description = self._read()

    def ask(self, steps):
        """The figures of a round of so many steps, a dictionary."""
        try:
            print(steps, file=self.process.stdin, flush=True)
        except BrokenPipeError:
            pass  # it has ended, and there is no answer to read
        return self._read()

    def close(self):
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass
        self.process.wait()
        self.process.stdout.close()
        self.messages.close()

    def _read(self):
        line = self.process.stdout.readline()
        answer = json.loads(line) if line else {}
        if line and "failed" not in answer:
            return answer
        self.messages.seek(0)
        sys.stderr.write(self.messages.read()[-5000:])
        self.close()
        status = f"the process ended with status {self.process.returncode}"
        raise Failure(answer.get("failed", status))


def serve(build, threads=None):
    """Runs one side in this process, for a `Worker` elsewhere.

    Args:
        build: Function without arguments that gives the side: an object with
            `describe()`, a dictionary, and `round(steps)`, a dictionary too.
        threads: Integer, how many cores to use. Defaults to `None`, all.
    """
    # The answers go to the real standard output; what the libraries print does not.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)

    def answer(content):
        print(json.dumps(content), file=answers, flush=True)

    # Every thread pool sizes itself by the cores that it may use.
    if threads and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[:threads])
    try:
        side = build()
        answer(side.describe())
        for line in sys.stdin:
            answer(side.round(int(line)))
    except Exception as error:
        # One side that cannot run is a result, and the others go on.
        traceback.print_exc()
        reason = (str(error).strip() or "no message").splitlines()[0]
        answer({"failed": f"{type(error).__name__}: {reason[:200]}"})
        sys.exit(1)


class Stopwatch:
    """Seconds by the clock and of the CPU, all threads of this process together."""

    def __init__(self):
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self):
        return time.perf_counter() - self.wall, time.process_time() - self.cpu


class Busy:
    """Watches how much of the cores processes other than the measured ones take."""

    def __init__(self):
        self.began, self.busy = time.perf_counter(), busy_seconds()

    def others(self, measured):
        """Their share of all cores' time, or `None` where nobody knows.

        Args:
            measured: Float, CPU seconds of the processes that are measured.
        """
        if self.busy is None:
            return None
        available = (time.perf_counter() - self.began) * available_cores()
        return (busy_seconds() - self.busy - measured) / available


def busy_seconds():
    """CPU seconds that all processes have taken so far; None where nobody knows."""
    try:
        with open("/proc/stat") as file:
            user, nice, system, _, _, irq, softirq = file.readline().split()[1:8]
    except FileNotFoundError:
        return None
    ticks = sum(map(int, (user, nice, system, irq, softirq)))
    return ticks / os.sysconf("SC_CLK_TCK")


def resident_bytes(peak=False):
    """Main memory of this process, now or at its peak; None where nobody knows."""
    name = "VmHWM:" if peak else "VmRSS:"
    try:
        with open("/proc/self/status") as file:
            lines = [line.split() for line in file]
    except FileNotFoundError:
        return None
    sizes = [int(line[1]) * 1024 for line in lines if line and line[0] == name]
    return sizes[0] if sizes else None


def forget_peak():
    """Lets the peak of `resident_bytes` begin anew; whether the system can do that."""
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        return False
    return True


def available_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def processor_flags():
    """What the CPU says it can do, on Linux."""
    try:
        with open("/proc/cpuinfo") as file:
            lines = [line for line in file if line.startswith(("flags", "Features"))]
    except FileNotFoundError:
        return set()
    return set(lines[0].split(":")[1].split()) if lines else set()


def has_fast_bfloat16():
    """Whether bfloat16 is more than a way to store float32 on this CPU."""
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & processor_flags())


def machine():
    """The machine in words."""
    model = platform.machine()
    try:
        with open("/proc/cpuinfo") as file:
            names = [line for line in file if line.startswith("model name")]
        model = names[0].split(":")[1].strip() if names else model
    except FileNotFoundError:
        pass
    return f"{model}, {available_cores()} cores"


def positive(text):
    """The type of a command line's argument: an integer of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected 1 or more. Received: {text}")
    return value


def write_json(path, content):
    """Replaces the file in one operation: an interruption leaves a whole one."""
    temporary = f"{path}.tmp"
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(content, file, indent=2)
        file.write("\n")
    os.replace(temporary, path)
