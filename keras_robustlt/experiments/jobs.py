"""Commands side by side: each in a process of its own, with its share of the machine.

`python -m keras_robustlt sweep` and `train --compare` train through it.
"""

import collections
import concurrent.futures
import contextlib
import dataclasses
import glob
import os
import pathlib
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time

from keras_robustlt.evaluation.progress import duration
from keras_robustlt.experiments.interruption import PARENT, ends_in_one_line

CPU_QUOTA = pathlib.Path("/sys/fs/cgroup/cpu.max")
CACHE = "JAX_COMPILATION_CACHE_DIR"
EPOCH = re.compile(r"epoch (\d+)/(\d+) ")


@dataclasses.dataclass(eq=False)
class Job:
    """A command, its log file, and how far it is.

    Args:
        name: String, what it is called where several are shown.
        command: List of strings.
        log: Path of the file that gets what the command prints, after what is there.
    """

    name: str
    command: list
    log: pathlib.Path
    process: subprocess.Popen = None
    began: float = None
    ended: float = None
    epoch: int = 0
    epochs: int = 0
    first_epoch: int = None
    seconds_at_epoch: float = None
    error: str = ""

    @property
    def is_running(self):
        return self.began is not None and self.ended is None

    @property
    def seconds(self):
        """How long it has run, or ran."""
        if self.began is None:
            return 0.0
        return (self.ended or time.monotonic()) - self.began

    @property
    def whole_seconds(self):
        """How long it will have run in the end; `None` where that is not known."""
        if self.ended is not None:
            return None if self.error else self.seconds
        if self.first_epoch is None:
            return None
        done = self.epoch - self.first_epoch + 1  # by this process
        return self.seconds_at_epoch * (1 + (self.epochs - self.epoch) / done)

    def start(self, environment):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("a", encoding="utf-8") as log:
            print(time.strftime("== %Y-%m-%d %H:%M:%S"), *self.command, file=log)
            log.flush()
            # In a session of its own, Ctrl-C in the terminal does not reach it: who
            # started the jobs ends them. Should that process be killed, they see it.
            self.process = subprocess.Popen(
                self.command,
                env={**os.environ, **environment, PARENT: "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
            )
        self.began = time.monotonic()

    def follow(self, on_line):
        """Writes the log until the command ends."""
        with self.process.stdout as lines, self.log.open("a", encoding="utf-8") as log:
            for line in lines:
                log.write(line)
                log.flush()
                if match := EPOCH.match(line):
                    self.epoch, self.epochs = int(match[1]), int(match[2])
                    self.first_epoch = self.first_epoch or self.epoch
                    self.seconds_at_epoch = self.seconds
                on_line(self, line)
        code = self.process.wait()
        self.ended = time.monotonic()
        if code < 0:
            self.error = f"ended by {signal.Signals(-code).name}"
        elif code:
            self.error = f"exit code {code}"


def run(jobs, environments, on_line=None, on_change=None):
    """Runs the jobs, as many at a time as there are environments.

    A job that fails leaves the others alone. If this process is interrupted (Ctrl-C)
    or told to end, it ends the jobs before itself.

    Args:
        jobs: List of `Job`, in the order in which to start them.
        environments: List of dictionaries: the environment variables of the jobs that
            run at the same time, as `environments` gives them.
        on_line: Function of a job and a line that it printed. Defaults to `None`.
        on_change: Function of a job that has started or ended, and every second of
            `None`. Defaults to `None`.

    Returns:
        The jobs that failed.
    """
    if not jobs:
        return []
    waiting = collections.deque(jobs)
    lock = threading.RLock()  # one at a time starts, ends or prints
    stopping = threading.Event()

    def tell(listener, *arguments):
        if listener is not None:
            with lock:
                if not stopping.is_set():  # those that are ended then have not failed
                    listener(*arguments)

    def work(environment):
        while True:
            with lock:
                if not waiting:
                    return
                job = waiting.popleft()
                job.start(environment)
                tell(on_change, job)
            job.follow(lambda *arguments: tell(on_line, *arguments))
            tell(on_change, job)

    pool = concurrent.futures.ThreadPoolExecutor(len(environments))
    with ends_in_one_line(), compiled_once(len(jobs)) as cache, pool:
        running = [pool.submit(work, {**cache, **each}) for each in environments]
        try:
            while running:
                ended, running = concurrent.futures.wait(
                    running, timeout=1, return_when=concurrent.futures.FIRST_EXCEPTION
                )
                for each in ended:
                    each.result()
                tell(on_change, None)
        except BaseException:
            stopping.set()
            with lock:
                waiting.clear()
            _end(jobs)
            raise
    return [job for job in jobs if job.error]


@contextlib.contextmanager
def compiled_once(jobs):
    """The environment in which JAX compiles once what several jobs have in common.

    The cache goes when they have ended: what is compiled for one machine may crash on
    another, and with another version of jaxlib.
    """
    # On macOS, jaxlib before 0.10 crashes when it loads a large program.
    if jobs == 1 or CACHE in os.environ or sys.platform == "darwin":
        yield {}
        return
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        yield {CACHE: folder, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0.5"}


def report(job, lines=15):
    """What is to be said about a job that failed."""
    if said := refusal(job):
        return f"{job.name} was not begun: {said}"
    end = "\n".join(f"    {line}" for line in _log_of(job)[-lines:])
    return f"{job.name} failed ({job.error}). The end of {job.log}:\n{end}"


def refusal(job):
    """Why a job ended before it began anything, or `None`.

    That is what its last line says, when all that its directory holds is the log.
    """
    last = _log_of(job)[-1]
    alone = [each.name for each in job.log.parent.iterdir()] == [job.log.name]
    return (
        last.removeprefix("error: ") if alone and last.startswith("error: ") else None
    )


def _log_of(job):
    return job.log.read_text(encoding="utf-8", errors="replace").splitlines()


def _end(jobs, patience=10):
    """Ends the jobs that run, by force those that take longer than `patience` s."""
    running = [job.process for job in jobs if job.is_running]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + patience
    for process in running:
        try:
            process.wait(max(0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()


def environments(most, jobs=None, threads=None):
    """What the jobs that run at the same time get of the machine.

    Args:
        most: Integer, how many jobs there are: no more at a time than that.
        jobs: Integer, how many at a time. Defaults to one for each GPU, on other
            accelerators to one, and without any to one for each core.
        threads: Integer, for each. Defaults to an equal share of the cores.

    Returns:
        A list of dictionaries of environment variables.
    """
    devices = gpus()
    if jobs is None:
        tpus = glob.glob("/dev/accel[0-9]*")
        jobs = len(devices) or (1 if tpus else cores())
    jobs = min(jobs, most)
    if threads is None and jobs > 1:
        threads = max(1, cores() // jobs)
    result = [{} for _ in range(jobs)]
    for index, environment in enumerate(result):
        if threads is not None:
            # TensorFlow reads the first two, XLA under JAX the third; OMP_NUM_THREADS
            # changes neither.
            for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC"):
                environment[name] = os.environ.get(name, str(threads))
        if devices:
            environment["CUDA_VISIBLE_DEVICES"] = devices[index % len(devices)]
        if jobs > len(devices) > 0:  # they share memory
            environment["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
            environment["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    return result


def gpus():
    """The GPUs that CUDA sees, as CUDA_VISIBLE_DEVICES names them."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [each for each in visible.split(",") if each not in ("", "-1")]
    try:
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    except OSError:
        return []
    count = sum(line.startswith("GPU ") for line in listed.stdout.splitlines())
    return [str(index) for index in range(count)]


def cores():
    """The CPU cores that this process may use."""
    allowed = getattr(os, "sched_getaffinity", None)
    count = len(allowed(0)) if allowed else os.cpu_count() or 1
    try:  # a container's share
        quota, period = CPU_QUOTA.read_text().split()
    except OSError:
        return count
    return count if quota == "max" else max(1, min(count, int(quota) // int(period)))


class Status:
    """Says what runs, what is left and how long that will take.

    In a terminal that is one line, which changes; in a log file a line at each change.
    """

    def __init__(self, todo, at_a_time):
        self.todo, self.at_a_time = todo, at_a_time
        self.terminal = sys.stdout.isatty()

    def __call__(self, job):
        start = "\r\033[K" if self.terminal else ""
        if job is not None and job.error:
            print(start + report(job))
        elif job is not None and job.ended:
            print(f"{start}{job.name} done in {duration(job.seconds)}")
        if self.terminal:
            width = shutil.get_terminal_size().columns
            print(f"{start}{self.text()[: width - 1]}", end="", flush=True)
            if all(job.ended for job in self.todo):
                print()
        elif job is not None:
            print(self.text(), flush=True)

    def text(self):
        failed = sum(bool(job.error) for job in self.todo)
        done = sum(job.ended is not None for job in self.todo) - failed
        parts = [f"{done} of {len(self.todo)} done"]
        if failed:
            parts.append(f"{failed} failed")
        seconds = time_left(self.todo, self.at_a_time)
        if seconds:
            parts.append(f"left: about {duration(seconds)}")
        running = [
            f"{job.name} {job.epoch}/{job.epochs}" if job.epochs else job.name
            for job in self.todo
            if job.is_running
        ]
        if running:
            parts.append(f"now: {', '.join(running)}")
        return "; ".join(parts)


def time_left(todo, at_a_time):
    """Seconds until all jobs have ended, or `None` as long as nothing can be said.

    A job of which nothing is known takes as long as those whose names begin alike.
    """
    known = collections.defaultdict(list)
    for job in todo:
        if job.whole_seconds is not None:
            for key in _belongs_to(job):
                known[key].append(job.whole_seconds)
    rests = [0.0]
    for job in todo:
        if job.ended is None:
            alike = next((known[key] for key in _belongs_to(job) if known[key]), None)
            if alike is None:
                return None
            whole = job.whole_seconds or statistics.fmean(alike)
            rests.append(max(0.0, whole - job.seconds))
    return max(*rests, sum(rests) / at_a_time)


def _belongs_to(job):
    """ "digits/at/seed1" belongs to "digits/at", to "digits" and to "", all."""
    parts = job.name.split("/")
    return ["/".join(parts[:end]) for end in reversed(range(len(parts)))]
