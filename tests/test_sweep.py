import csv
import json
import os
import pathlib
import shutil
import signal
import statistics
import subprocess
import sys
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
RECIPES = ROOT / "recipes"

# A recipe that takes no time: accuracies are functions of its flags.
FAKE = """
import json, os, pathlib, sys, time
given = dict(flag.lstrip("-").partition("=")[::2] for flag in sys.argv[1:])
known = ("method", "budget", "seed", "workdir", "epochs", "fail", "wait")
settings = {"epochs": int(given.get("epochs", 3))}
for key in ("method", "budget"):
    settings[key] = given[key]
settings["seed"] = seed = int(given["seed"])
if given["method"] not in ("at", "awp", "standard"):
    sys.exit(f"there is no method {given['method']}")
for key in given:
    if key not in (*known, "print_settings"):
        sys.exit(f"there is no flag {key}")
if "print_settings" in given:
    print(json.dumps(settings))
    sys.exit()
workdir = pathlib.Path(given["workdir"])
begun = (workdir / "config.json").exists()
name = given["method"].upper() + " + RobustLT" * (given["budget"] == "robustlt")
config = {"settings": settings, "name": name}
(workdir / "config.json").write_text(json.dumps(config))
(workdir / "process").write_text(str(os.getpid()))
for epoch in range(settings["epochs"]):
    print(f"epoch {epoch + 1}/{settings['epochs']}  loss 1", flush=True)
    if given.get("fail") == str(seed) and not begun:
        sys.exit("the disk is full")
    if "wait" in given and not begun:
        time.sleep(60)
clean = 0.5 + seed / 100 + 0.1 * (given["budget"] == "robustlt")
groups = {"all": clean, "tail": clean / 2, "balanced": clean, "worst": None}
results = {"attacks": {"clean": groups}, "training": settings, "seed": seed}
(workdir / "results.json").write_text(json.dumps(results))
print("threads", os.environ.get("TF_NUM_INTRAOP_THREADS"))
"""


@pytest.fixture
def recipes(tmp_path):
    """A directory with the sweep and one recipe, the fake one."""
    directory = tmp_path / "recipes"
    directory.mkdir()
    for name in ("sweep", "jobs", "summary", "runner", "devices", "presets"):
        shutil.copy(RECIPES / f"{name}.py", directory)
    (directory / "fakelt.py").write_text(FAKE)
    return directory


@pytest.fixture
def modules(monkeypatch):
    monkeypatch.syspath_prepend(str(RECIPES))
    from keras_robustlt.experiments import jobs, summary

    return jobs, summary


# A job in the background of a shell is started with interrupts ignored.
WITH_INTERRUPTS = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""


def start(recipes, *flags):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    command = ["recipes/sweep.py", "--data=fakelt", "--workdir=runs", *flags]
    return subprocess.Popen(
        [sys.executable, "-c", WITH_INTERRUPTS, *command],
        cwd=recipes.parent,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def sweep(recipes, *flags):
    """The exit code of a sweep and what it printed."""
    process = start(recipes, *flags)
    printed, _ = process.communicate()
    return process.returncode, printed


def files(recipes, name):
    return sorted(
        str(path.relative_to(recipes.parent / "runs").parent)
        for path in (recipes.parent / "runs").rglob(name)
    )


def test_grid_table_and_what_is_there_already(recipes):
    grid = ("--methods=at,standard", "--seeds=1,3", "--jobs=2")
    code, printed = sweep(recipes, *grid)
    assert code == 0, printed
    assert "6 runs, 0 of them finished before.\n2 at a time." in printed
    # Standard training has no budget: one row.
    assert files(recipes, "results.json") == [
        f"fakelt/{group}/seed{seed}"
        for group in ("at-robustlt", "at", "standard")
        for seed in (1, 3)
    ]
    assert "6 of 6 done" in printed
    text = (recipes.parent / "runs" / "table.md").read_text()
    assert text.strip() in printed
    assert text.split("## ")[1].splitlines() == [
        "fakelt",
        "",
        "|               | seeds |  clean all | clean tail | clean balanced "
        "| clean worst |",
        "| ------------- | ----: | ---------: | ---------: | -------------: "
        "| ----------: |",
        "| AT            |     2 | 52.0 ± 1.4 | 26.0 ± 0.7 |     52.0 ± 1.4 "
        "|           - |",
        "| AT + RobustLT |     2 | 62.0 ± 1.4 | 31.0 ± 0.7 |     62.0 ± 1.4 "
        "|           - |",
        "| STANDARD      |     2 | 52.0 ± 1.4 | 26.0 ± 0.7 |     52.0 ± 1.4 "
        "|           - |",
    ]
    log = (recipes.parent / "runs" / "fakelt" / "at" / "seed1" / "run.log").read_text()
    assert "fakelt.py --method=at --budget=uniform --seed=1" in log
    assert "epoch 3/3" in log

    processes = [path.read_text() for path in recipes.parent.rglob("process")]
    code, printed = sweep(recipes, *grid[:1], "--seeds=1,3,5")
    assert code == 0, printed
    assert "9 runs, 6 of them finished before" in printed
    after = [path.read_text() for path in recipes.parent.rglob("process")]
    assert len(after) == 9 and set(processes) < set(after)


def test_numbers_in_all_formats(recipes):
    seeds = (1, 2, 4)
    code, printed = sweep(recipes, "--seeds=1,2,4")
    assert code == 0, printed
    values = [0.5 + seed / 100 for seed in seeds]
    rows = json.loads((recipes.parent / "runs" / "table.json").read_text())
    assert [row["name"] for row in rows] == ["AT", "AT + RobustLT"]
    assert rows[0]["seeds"] == list(seeds)
    assert rows[0]["settings"] == {"epochs": 3, "method": "at", "budget": "uniform"}
    clean = rows[0]["accuracy"]["clean"]
    assert clean["all"]["values"] == pytest.approx(values)
    assert clean["all"]["mean"] == pytest.approx(sum(values) / 3)
    mean = sum(values) / 3
    variance = sum((value - mean) ** 2 for value in values) / 2
    assert clean["all"]["std"] == pytest.approx(variance**0.5)
    assert clean["worst"] == {"mean": None, "std": None, "values": [None] * 3}
    with (recipes.parent / "runs" / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * 4
    assert lines[4]["name"] == "AT + RobustLT" and lines[4]["budget"] == "robustlt"
    assert (lines[4]["attack"], lines[4]["group"]) == ("clean", "all")
    assert lines[4]["seeds"] == "3"
    assert float(lines[4]["mean"]) == pytest.approx(mean + 0.1)
    assert float(lines[4]["std"]) == pytest.approx(variance**0.5)
    assert lines[3]["mean"] == lines[3]["std"] == ""


def test_a_failure_is_shown_leaves_the_others_alone_and_goes_on(recipes):
    flags = ("--budgets=uniform", "--seeds=1,2,3", "--", "--fail=2")
    code, printed = sweep(recipes, *flags)
    assert code == 1
    assert "fakelt/at/seed2 failed (exit code 1)" in printed
    assert "    the disk is full" in printed
    assert "2 of 3 done; 1 failed" in printed
    assert printed.endswith("fakelt/at/seed2 failed: runs/fakelt/at/seed2/run.log\n")
    assert files(recipes, "results.json") == ["fakelt/at/seed1", "fakelt/at/seed3"]
    assert "|     2 |" in printed  # the table, of two seeds

    code, printed = sweep(recipes, *flags)
    assert code == 0, printed
    assert "3 runs, 2 of them finished before" in printed
    log = (recipes.parent / "runs/fakelt/at/seed2/run.log").read_text()
    assert log.count("== ") == 2 and "the disk is full" in log
    assert "|     3 |" in printed


def test_results_that_were_cut_short_are_not_results(recipes):
    flags = ("--budgets=uniform", "--seeds=1,2")
    sweep(recipes, *flags)
    path = recipes.parent / "runs/fakelt/at/seed1/results.json"
    whole = path.read_text()
    path.write_text(whole[:40])
    code, printed = sweep(recipes, *flags, "--table_only")
    assert code == 0 and "|     1 |" in printed
    code, printed = sweep(recipes, *flags)
    assert "2 runs, 1 of them finished before" in printed
    assert path.read_text() == whole


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(recipes, number):
    flags = ("--budgets=uniform", "--seeds=1,2,3", "--jobs=2", "--", "--wait")
    process = start(recipes, *flags)
    running = [recipes.parent / f"runs/fakelt/at/seed{n}/process" for n in (1, 2)]
    deadline = time.monotonic() + 60
    while not all(path.exists() and path.read_text() for path in running):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate()
    assert process.returncode == 130, printed
    assert "Traceback" not in printed
    assert "Stopped. Started again, the same command goes on from here." in printed
    for path in running:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    assert files(recipes, "results.json") == []
    assert not (recipes.parent / "runs/fakelt/at/seed3").exists()

    # Those that were interrupted do not wait again; the third would.
    code, printed = sweep(recipes, *flags[:1], "--seeds=1,2", *flags[2:])
    assert code == 0, printed
    assert "|     2 |" in printed


def test_who_is_told_fails(modules, tmp_path):
    jobs, _ = modules
    code = "import time; print('one', flush=True); time.sleep(60)"
    todo = [
        jobs.Job(name, [sys.executable, "-c", code], tmp_path / name) for name in "abc"
    ]

    def tell(job, line):
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        jobs.run(todo, [{}, {}], on_line=tell)
    assert [job.process and job.process.poll() for job in todo] == [
        -signal.SIGTERM,
        -signal.SIGTERM,
        None,
    ]


def test_extra_flags_reach_the_runs(recipes):
    code, printed = sweep(recipes, "--budgets=uniform", "--seeds=1", "--", "--epochs=5")
    assert code == 0, printed
    assert "epoch 5/5" in (recipes.parent / "runs/fakelt/at/seed1/run.log").read_text()
    # The settings of those that are there are others now.
    code, printed = sweep(recipes, "--budgets=uniform", "--seeds=1,2")
    assert code == 1
    assert "runs/fakelt/at/seed1 holds a run with other settings" in printed
    assert "epochs: 5 there, 3 now" in printed
    assert files(recipes, "results.json") == ["fakelt/at/seed1"]


def test_runs_of_other_settings_are_no_mean(recipes):
    sweep(recipes, "--budgets=uniform", "--seeds=1,2", "--", "--epochs=5")
    code, printed = sweep(recipes, "--budgets=uniform", "--seeds=4")
    assert code == 0, printed
    assert "| AT (epochs 5) |     2 | 51.5 ± 0.7 |" in printed
    assert "| AT (epochs 3) |     1 |       54.0 |" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data=digits",), "--data=digits: there is no such recipe. .*: fakelt"),
        (("--methods=at,magic",), "there is no method magic"),
        (("--seeds=1,two",), "--seeds=two: seeds are whole numbers"),
        (("--seeds=",), "need values"),
        (("--jobs=0",), "--jobs"),
        (("--epochs=2",), "'epochs'"),
        (("--", "--epoks=2"), "there is no flag epoks"),
        (("--", "--seed=7"), "--seed=7 after -- would be the same for all runs"),
        (("--", "--norobustlt"), "--norobustlt after --"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(recipes, flags, message):
    code, printed = sweep(recipes, *flags)
    assert code != 0
    assert "Traceback" not in printed
    before, _, after = message.partition(".*")
    assert before in printed and after in printed
    assert not (recipes.parent / "runs").exists()


def test_table_of_nothing(recipes):
    code, printed = sweep(recipes, "--table_only")
    assert code == 0
    assert printed == "No run under runs is finished.\n"


def test_share_of_the_machine(modules, monkeypatch):
    jobs, _ = modules
    for name in ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NPROC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(jobs, "cores", lambda: 8)
    monkeypatch.setattr(jobs.glob, "glob", lambda pattern: [])

    def threads(*arguments):
        return [e.get("TF_NUM_INTRAOP_THREADS") for e in jobs.environments(*arguments)]

    assert threads(20) == ["1"] * 8
    assert threads(3) == ["2"] * 3
    assert threads(20, 4) == ["2"] * 4
    assert threads(20, 16) == ["1"] * 16
    assert threads(1) == threads(20, 1) == [None]
    assert threads(1, None, 1) == ["1"] and threads(2, None, 1) == ["1", "1"]
    assert jobs.environments(2)[0] == {
        "TF_NUM_INTRAOP_THREADS": "4",
        "TF_NUM_INTEROP_THREADS": "4",
        "NPROC": "4",
    }
    monkeypatch.setenv("NPROC", "3")
    assert jobs.environments(2)[0]["NPROC"] == "3"


def test_share_of_accelerators(modules, monkeypatch):
    jobs, _ = modules
    monkeypatch.setattr(jobs.glob, "glob", lambda pattern: [])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")

    def shares(*arguments):
        return [
            (e["CUDA_VISIBLE_DEVICES"], e.get("TF_FORCE_GPU_ALLOW_GROWTH"))
            for e in jobs.environments(*arguments)
        ]

    assert shares(9) == [("2", None), ("5", None)]
    assert shares(9, 1) == [("2", None)]
    assert shares(9, 3) == [("2", "true"), ("5", "true"), ("2", "true")]
    shared = jobs.environments(9, 3)[0]
    assert shared["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    monkeypatch.setattr(jobs.glob, "glob", lambda pattern: ["/dev/accel0"])
    assert jobs.environments(9) == [{}]


def test_cores_of_a_container(modules, monkeypatch, tmp_path):
    jobs, _ = modules
    monkeypatch.setattr(jobs, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(
        jobs.os, "sched_getaffinity", lambda process: set(range(8)), raising=False
    )
    assert jobs.cores() == 8
    for quota, expected in (("max", 8), ("250000", 2), ("50000", 1), ("9900000", 8)):
        jobs.CPU_QUOTA.write_text(f"{quota} 100000\n")
        assert jobs.cores() == expected


def test_time_left(modules):
    jobs, _ = modules

    class Job(jobs.Job):
        seconds = 0.0

    def job(name, seconds=0.0, ended=None, **state):
        job = Job(name, [], None, began=seconds and 1.0, ended=ended, **state)
        job.seconds = seconds
        return job

    waiting = job("a/at/1")
    assert jobs.time_left([waiting], 2) is None
    running = job(
        "a/at/2", 40.0, epoch=6, epochs=10, first_epoch=3, seconds_at_epoch=40.0
    )
    # Four epochs took 40 s, four are left.
    assert running.whole_seconds == 80.0
    assert jobs.time_left([running], 2) == 40.0
    assert jobs.time_left([running, waiting], 2) == 80.0  # one is as long as the other
    assert jobs.time_left([running, waiting], 1) == 120.0
    slow = job("b/at/1", 500.0, ended=True)
    assert jobs.time_left([slow, running, waiting], 1) == 120.0
    failed = job("a/at/3", 3.0, ended=True, error="exit code 1")
    assert jobs.time_left([failed, slow, job("b/awp/1")], 1) == 500.0
    assert jobs.time_left([slow], 1) == 0.0


def test_order_of_the_rows(modules):
    _, summary = modules
    rows = [
        {"data": data, "name": "", "settings": {"method": method, "budget": budget}}
        for data in ("cifar", "digits")
        for method in ("at", "at_bsl", "at_bsl+awp")
        for budget in ("uniform", "cfa", "dafa", "robustlt")
    ]
    assert sorted(rows[::-1], key=summary._order) == rows


def test_mean_and_standard_deviation(modules):
    _, summary = modules
    values = [0.25, 0.5, 1.0]
    assert summary._spread(values) == {
        "mean": statistics.mean(values),
        "std": statistics.stdev(values),
        "values": values,
    }
    assert summary._spread([0.25]) == {"mean": 0.25, "std": None, "values": [0.25]}
    assert summary._cell(summary._spread(values)) == "58.3 ± 38.2"
    assert summary._cell(summary._spread([0.25])) == "25.0"
    assert summary._cell(summary._spread([0.25, None])) == "-"
    assert summary._cell(None) == "-"


def recipe(name, *flags):
    """The exit code of a recipe and what it printed."""
    environment = {
        "KERAS_BACKEND": "tensorflow",
        "PYTHONPATH": str(ROOT),
        "CUDA_VISIBLE_DEVICES": "",
    }
    result = subprocess.run(
        [sys.executable, str(RECIPES / f"{name}.py"), *flags],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return result.returncode, result.stdout


def compare(*flags):
    return recipe("digitslt", "--compare", *flags)


def pretend_to_have_run(workdir, *flags):
    code, printed = recipe("digitslt", "--print_settings", *flags)
    assert code == 0, printed
    settings = json.loads(printed)
    entry = {"all": 0.5, "tail": 0.4, "balanced": 0.5, "worst": 0.3}
    entry |= {"per_class": [0.3, 0.7], "attack": None}
    evaluated = {"class_names": ["a", "b"], "class_counts": [9, 2], "epsilon": 0.1}
    results = {
        "attacks": {"clean": entry, "pgd20": entry},
        "settings": evaluated,
        "training": settings,
    }
    workdir.mkdir(parents=True)
    (workdir / "config.json").write_text(json.dumps({"settings": settings}))
    (workdir / "results.json").write_text(json.dumps(results))


def test_comparison_of_finished_runs(tmp_path):
    pretend_to_have_run(tmp_path / "base", "--norobustlt", "--epochs=7")
    pretend_to_have_run(tmp_path / "robustlt", "--epochs=7")
    code, printed = recipe(
        "digitslt", "--compare", "--epochs=7", f"--workdir={tmp_path}"
    )
    assert code == 0, printed
    text = (tmp_path / "comparison.txt").read_text()
    assert text in printed
    assert text.splitlines() == [
        "accuracy in %          all  tail  balanced  worst     a     b",
        "--------------------  ----  ----  --------  -----  ----  ----",
        "clean: AT             50.0  40.0      50.0   30.0  30.0  70.0",
        "clean: AT + RobustLT  50.0  40.0      50.0   30.0  30.0  70.0",
        "pgd20: AT             50.0  40.0      50.0   30.0  30.0  70.0",
        "pgd20: AT + RobustLT  50.0  40.0      50.0   30.0  30.0  70.0",
        "training images                                       9     2",
    ]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "base vs robustlt" in (tmp_path / "report.html").read_text()

    code, printed = recipe(
        "digitslt", "--compare", "--epochs=8", f"--workdir={tmp_path}"
    )
    assert code == 1
    assert "base holds a run with other settings" in printed
    assert "epochs: 7 there, 8 now" in printed


@pytest.mark.parametrize(
    "flags", [("--norobustlt",), ("--method=standard",), ("--alpha=0", "--beta=0")]
)
def test_nothing_to_compare(flags, tmp_path):
    code, printed = recipe(
        "digitslt", "--compare", *flags, f"--workdir={tmp_path / 'run'}"
    )
    assert code == 1
    assert "with these flags there is no difference: both are" in printed
    assert not (tmp_path / "run").exists()


# A run of seconds.
SHORT = "--epochs=1 --batch_size=64 --attack_steps=1 --attacks=clean,pgd2".split()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The directory of a sweep of the digits, AT with two seeds, and its output."""
    workdir = tmp_path_factory.mktemp("sweep")
    flags = "--data=digitslt --budgets=uniform --seeds=1,2 --jobs=2".split()
    code, printed = recipe("sweep", *flags, f"--workdir={workdir}", "--", *SHORT)
    assert code == 0, printed
    return workdir, printed


@pytest.mark.tensorflow
@pytest.mark.slow
def test_sweep_of_the_digits(swept):
    workdir, printed = swept
    assert "digitslt/at/seed1 done in" in printed
    (row,) = json.loads((workdir / "table.json").read_text())
    assert (row["name"], row["seeds"]) == ("AT", [1, 2])
    values = row["accuracy"]["pgd2"]["all"]["values"]
    for seed, value in zip((1, 2), values, strict=True):
        folder = workdir / f"digitslt/at/seed{seed}"
        results = json.loads((folder / "results.json").read_text())
        assert results["attacks"]["pgd2"]["all"] == value
        assert results["training"]["seed"] == seed
        assert results["training"]["epochs"] == 1
        assert "epoch 1/1" in (folder / "run.log").read_text()


@pytest.mark.tensorflow
@pytest.mark.slow
def test_comparison_trains_what_is_missing(swept, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(swept[0] / "digitslt/at/seed1", base)
    flags = (*SHORT, "--seed=1", "--beta=0", f"--workdir={tmp_path}")
    code, printed = compare(*flags)
    assert code == 0, printed
    assert "\nAT + CPB | epoch 1/1" in printed
    assert "\nAT       | epoch" not in printed  # it was there
    text = (tmp_path / "comparison.txt").read_text()
    assert "clean: AT  " in text and "clean: AT + CPB" in text
    for name in ("results.json", "network.keras", "schedule.png", "run.log"):
        assert (tmp_path / "robustlt" / name).exists()
