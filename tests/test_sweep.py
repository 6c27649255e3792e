"""Many runs and one table, with a `train` that takes no time; and two real ones."""

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
from absl import app, flags
from test_repository import run_python

from keras_robustlt import __main__ as command_line
from keras_robustlt.experiments import interruption, jobs, summary, sweep, train

ROOT = pathlib.Path(__file__).resolve().parents[1]
RUNS = pathlib.Path("runs")

# In place of `train`: accuracies are functions of its flags.
FAKE = """
import json, os, pathlib, sys, time
from absl import app

def given_of(arguments):
    return {flag.lstrip("-").partition("=")[0]: flag for flag in arguments}

def settings_of(arguments):
    given = dict(flag.lstrip("-").partition("=")[::2] for flag in arguments)
    settings = {"epochs": int(given.pop("epochs", 3)), "data": given.pop("data")}
    for key in ("method", "budget"):
        settings[key] = given.pop(key)
    settings["seed"] = int(given.pop("seed"))
    if settings["method"] not in ("at", "awp", "standard"):
        raise app.UsageError(f"there is no method {settings['method']}")
    for key in given:
        if key not in ("workdir", "fail", "wait", "alpha", "beta"):
            raise app.UsageError(f"there is no flag {key}")
    return settings

def main(arguments):
    settings = settings_of(arguments)
    given = dict(flag.lstrip("-").partition("=")[::2] for flag in arguments)
    seed, budget = settings["seed"], settings["budget"]
    workdir = pathlib.Path(given["workdir"])
    begun = (workdir / "config.json").exists()
    name = settings["method"].upper() + " + RobustLT" * (budget == "robustlt")
    config = {"settings": settings, "name": name}
    (workdir / "config.json").write_text(json.dumps(config))
    (workdir / "process").write_text(str(os.getpid()))
    for epoch in range(settings["epochs"]):
        print(f"epoch {epoch + 1}/{settings['epochs']}  loss 1", flush=True)
        if given.get("fail") == str(seed) and not begun:
            sys.exit("the disk is full")
        if "wait" in given and not begun:
            time.sleep(60)
    clean = 0.5 + seed / 100 + 0.1 * (budget == "robustlt")
    groups = {"all": clean, "tail": clean / 2, "balanced": clean, "worst": None}
    groups["per_class"] = [clean, clean / 2]
    results = {"attacks": {"clean": groups}, "training": settings, "seed": seed}
    results["settings"] = {"class_names": ["a", "b"], "class_counts": [200, 5]}
    results["settings"] |= {"epsilon": 0.1, "examples_per_class": [3, 3]}
    (workdir / "results.json").write_text(json.dumps(results))
    print("threads", os.environ.get("TF_NUM_INTRAOP_THREADS"))

if __name__ == "__main__":
    main(sys.argv[1:])
"""

# A sweep in a process of its own; a job in the background of a shell is started with
# interrupts ignored.
SWEEP = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
import fake
from keras_robustlt import __main__ as command_line
from keras_robustlt.experiments import train
train.COMMAND = [sys.executable, fake.__file__]
train.given_of, train.settings_of = fake.given_of, fake.settings_of
train.check_images = lambda settings: None
command_line.run()
"""


@pytest.fixture
def faked(tmp_path, monkeypatch):
    """Sweeps run the fake, and write into a folder of their own."""
    (tmp_path / "fake.py").write_text(FAKE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "fake", raising=False)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    import fake

    monkeypatch.setattr(train, "COMMAND", [sys.executable, fake.__file__])
    monkeypatch.setattr(train, "given_of", fake.given_of)
    monkeypatch.setattr(train, "settings_of", fake.settings_of)
    monkeypatch.setattr(train, "check_images", lambda settings: None)


@pytest.fixture
def run(faked, capsys):
    """Runs a sweep over the fake: how it ended, `None` if well, and what it printed."""

    def run(*arguments):
        values = flags.FlagValues()
        sweep.define_flags(values)
        end = None
        try:
            argv = values(["sweep", "--data=fakelt", "--workdir=runs", *arguments])
            sweep.main(argv, values)
        except (SystemExit, app.UsageError, flags.Error) as error:
            end = str(error)
        return end, capsys.readouterr().out

    return run


def files(name):
    runs = pathlib.Path("runs")
    return sorted(str(path.parent.relative_to(runs)) for path in runs.rglob(name))


def test_grid_table_and_what_is_there_already(run):
    grid = ("--methods=at,standard", "--seeds=1,3", "--jobs=2")
    end, printed = run(*grid)
    assert end is None, end
    assert "6 runs, 0 of them finished before.\n2 at a time." in printed
    # Standard training has no budget: one row.
    assert files("results.json") == [
        f"fakelt/{group}/seed{seed}"
        for group in ("at-robustlt", "at", "standard")
        for seed in (1, 3)
    ]
    assert "6 of 6 done" in printed
    text = (RUNS / "table.md").read_text()
    assert text.split("\n## fakelt, class")[0] in printed
    assert text.split("## ")[1].rstrip().splitlines() == [
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
    log = (RUNS / "fakelt" / "at" / "seed1" / "run.log").read_text()
    assert "fake.py --data=fakelt --method=at --budget=uniform --seed=1" in log
    assert "epoch 3/3" in log

    processes = [path.read_text() for path in RUNS.rglob("process")]
    end, printed = run(*grid[:1], "--seeds=1,3,5")
    assert end is None, end
    assert "9 runs, 6 of them finished before" in printed
    after = [path.read_text() for path in RUNS.rglob("process")]
    assert len(after) == 9 and set(processes) < set(after)


def test_numbers_in_all_formats(run):
    seeds = (1, 2, 4)
    end, printed = run("--seeds=1,2,4")
    assert end is None, end
    values = [0.5 + seed / 100 for seed in seeds]
    rows = json.loads((RUNS / "table.json").read_text())
    assert [row["name"] for row in rows] == ["AT", "AT + RobustLT"]
    assert rows[0]["seeds"] == list(seeds)
    expected = {"epochs": 3, "data": "fakelt", "method": "at", "budget": "uniform"}
    assert rows[0]["settings"] == expected
    clean = rows[0]["accuracy"]["clean"]
    assert clean["all"]["values"] == pytest.approx(values)
    assert clean["all"]["mean"] == pytest.approx(sum(values) / 3)
    mean = sum(values) / 3
    variance = sum((value - mean) ** 2 for value in values) / 2
    assert clean["all"]["std"] == pytest.approx(variance**0.5)
    assert clean["worst"] == {"mean": None, "std": None, "values": [None] * 3}
    with (RUNS / "table.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * (4 + 2)
    assert lines[6]["name"] == "AT + RobustLT" and lines[6]["budget"] == "robustlt"
    assert (lines[6]["attack"], lines[6]["group"]) == ("clean", "all")
    assert lines[6]["seeds"] == "3" and lines[6]["class"] == ""
    assert float(lines[6]["mean"]) == pytest.approx(mean + 0.1)
    assert float(lines[6]["std"]) == pytest.approx(variance**0.5)
    assert lines[3]["mean"] == lines[3]["std"] == ""
    assert (lines[5]["group"], lines[5]["class"]) == ("class", "b")
    assert float(lines[5]["mean"]) == pytest.approx(mean / 2)
    table = (RUNS / "table.md").read_text().split("class by class")[1].split("\n")
    assert table[2] == ("|               | attack | seeds |    a (200) |      b (5) |")
    assert table[4] == ("| AT            |  clean |     3 | 52.3 ± 1.5 | 26.2 ± 0.8 |")
    # And what the rule changes: 0.1 of "all" with each seed.
    text = (RUNS / "comparison.md").read_text()
    assert "\n## fakelt, class by class (training images)\n" in text
    assert text.split("\n## fakelt, class")[0] in printed
    assert "Files: runs/table.* and runs/comparison.*" in printed
    comparison = json.loads((RUNS / "comparison.json").read_text())
    assert [line["class"] or line["group"] for line in comparison] == [
        *("all", "tail", "balanced", "many", "few", "a", "b"),
    ]
    assert comparison[0]["seeds"] == list(seeds)
    assert comparison[0]["differences"] == pytest.approx([0.1] * 3)


def test_a_failure_is_shown_leaves_the_others_alone_and_goes_on(run):
    flags = ("--budgets=uniform", "--seeds=1,2,3", "--", "--fail=2")
    end, printed = run(*flags)
    assert end == "fakelt/at/seed2 failed: runs/fakelt/at/seed2/run.log"
    assert "fakelt/at/seed2 failed (exit code 1)" in printed
    assert "    the disk is full" in printed
    assert "2 of 3 done; 1 failed" in printed
    assert files("results.json") == ["fakelt/at/seed1", "fakelt/at/seed3"]
    assert "|     2 |" in printed  # the table, of two seeds

    end, printed = run(*flags)
    assert end is None, end
    assert "3 runs, 2 of them finished before" in printed
    log = (RUNS / "fakelt/at/seed2/run.log").read_text()
    assert log.count("== ") == 2 and "the disk is full" in log
    assert "|     3 |" in printed


def test_the_halves_of_robustlt(run):
    flags = ("--budgets=uniform,cpb,aiw", "--seeds=1", "--jobs=3", "--", "--alpha=0.4")
    end, printed = run(*flags)
    assert end is None, end
    for name, off in (("cpb", "--alpha=0.4 --beta=0"), ("aiw", "--alpha=0")):
        log = (RUNS / f"fakelt/at-{name}/seed1/run.log").read_text()
        assert "--budget=robustlt" in log and f"{off} --workdir" in log


def test_results_that_were_cut_short_are_not_results(run):
    flags = ("--budgets=uniform", "--seeds=1,2")
    run(*flags)
    path = RUNS / "fakelt/at/seed1/results.json"
    whole = path.read_text()
    path.write_text(whole[:40])
    with pytest.warns(UserWarning, match="seed1 is left out of the table"):
        end, printed = run(*flags, "--table_only")
    assert end is None and "|     1 |" in printed
    end, printed = run(*flags)
    assert "2 runs, 1 of them finished before" in printed
    assert path.read_text() == whole


DAMAGED = [
    ("results.json", lambda results: [], "EvaluationResults.to_json"),
    ("results.json", lambda results: None, "EvaluationResults.to_json"),
    ("results.json", lambda results: "\udc80", "EvaluationResults.to_json"),
    ("results.json", lambda results: {**results, "attacks": 3}, "EvaluationResults"),
    ("results.json", lambda results: {**results, "training": {}}, "other settings"),
    ("results.json", lambda results: results.pop("training"), "EvaluationResults"),
    ("config.json", lambda config: [], "config.json is damaged"),
    ("config.json", lambda config: {"settings": config["settings"]}, "no name"),
    ("config.json", lambda config: None, "config.json is damaged"),
    ("config.json", lambda config: {**config, "seed": "x"}, "its seed is 'x'"),
]


@pytest.mark.parametrize(("name", "damage", "message"), DAMAGED)
def test_one_damaged_run_leaves_the_table_to_the_others(run, name, damage, message):
    run("--budgets=uniform", "--seeds=1,2")
    path = RUNS / "fakelt/at/seed1" / name
    content = json.dumps(damage(json.loads(path.read_text())), ensure_ascii=False)
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.warns(UserWarning, match=f"seed1 is left out of the table.*{message}"):
        end, printed = run("--table_only")
    assert end is None and "| AT |     1 |      52.0 |" in printed
    if name == "results.json":
        path.write_text("[]")
        end, printed = run("--budgets=uniform", "--seeds=1,2")
        assert "2 runs, 1 of them finished before" in printed


def test_what_was_evaluated_otherwise_is_no_mean(run):
    run("--seeds=1,2")
    path = RUNS / "fakelt/at/seed1/results.json"
    whole = json.loads(path.read_text())
    attacks, settings = whole["attacks"], whole["settings"]
    for other in (
        {"settings": {**settings, "class_names": ["a", "c"]}},
        {"settings": {**settings, "examples_per_class": [3, 4]}},
        {"attacks": {**attacks, "pgd20": attacks["clean"]}},
    ):
        path.write_text(json.dumps({**whole, **other}))
        end, printed = run("--table_only")
        for seed in (1, 2):
            assert f"| AT (evaluated otherwise: seed {seed}) " in printed
        compared = json.loads((RUNS / "comparison.json").read_text())
        assert {tuple(line["seeds"]) for line in compared} == {(2,)}
    # One more of a class and one less of another is what a seed draws.
    settings["examples_per_class"] = [4, 2]
    path.write_text(json.dumps(whole))
    assert "| AT            |     2 | 51.5 ± 0.7" in run("--table_only")[1]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(run, number):
    flags = ("--budgets=uniform", "--seeds=1,2,3", "--jobs=2", "--", "--wait")
    process = subprocess.Popen(
        [sys.executable, "-c", SWEEP, "sweep", "--data=fakelt", "--workdir=runs"]
        + [*flags],
        env={**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{os.getcwd()}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    running = [RUNS / f"fakelt/at/seed{n}/process" for n in (1, 2)]
    deadline = time.monotonic() + 60
    while not all(path.exists() and path.read_text() for path in running):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(number)
    printed, _ = process.communicate()
    assert process.returncode == 128 + number, printed
    assert "Traceback" not in printed
    assert printed.endswith(f"\n{interruption.MESSAGE}\n")
    assert "failed" not in printed  # what it ended itself
    for path in running:
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    assert files("results.json") == []
    assert not (RUNS / "fakelt/at/seed3").exists()

    # Those that were interrupted do not wait again; the third would.
    end, printed = run(*flags[:1], "--seeds=1,2", *flags[2:])
    assert end is None, end
    assert "|     2 |" in printed


@pytest.mark.parametrize("given", [None, "mine"])
def test_jax_compiles_once_what_jobs_have_in_common(tmp_path, monkeypatch, given):
    monkeypatch.setattr(sys, "platform", "linux")
    name = "JAX_COMPILATION_CACHE_DIR"
    monkeypatch.delenv(name, raising=False)
    if given:
        monkeypatch.setenv(name, given)
    code = f"import os; f = os.environ.get('{name}', ''); print(f, os.path.isdir(f))"

    def folders(count):
        todo = [
            jobs.Job(str(index), [sys.executable, "-c", code], tmp_path / str(index))
            for index in range(count)
        ]
        said = []
        assert not jobs.run(todo, [{}], on_line=lambda job, line: said.append(line))
        return [line.split() for line in said]

    (one, there), again = folders(2)
    assert [one, there] == again and not os.path.exists(one)
    assert (one == given) if given else (there == "True")
    assert folders(1) == [[given, "False"] if given else ["False"]]


@pytest.mark.skipif(sys.platform == "win32", reason="processes keep their parents")
def test_a_job_ends_with_who_started_it(tmp_path):
    """Who is killed can tell nobody."""
    job = (
        "import time; from keras_robustlt.experiments import interruption; "
        "interruption.end_with_parent(); "
        f"open({str(tmp_path / 'began')!r}, 'w').close(); time.sleep(60)"
    )
    parent = (
        "import pathlib, sys; from keras_robustlt.experiments import jobs; "
        f"job = jobs.Job('a', [sys.executable, '-c', {job!r}], pathlib.Path("
        f"{str(tmp_path / 'log')!r})); job.start({{}}); print(job.process.pid, "
        "flush=True); job.process.wait()"
    )
    starter = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True
    )
    number = int(starter.stdout.readline())
    while not (tmp_path / "began").exists():
        assert starter.poll() is None
        time.sleep(0.1)
    starter.kill()
    starter.communicate()
    stop = time.monotonic() + 20
    while is_alive(number):
        assert time.monotonic() < stop
        time.sleep(0.1)


def is_alive(number):
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return False
    # One that nobody waits for stays in the table.
    status = pathlib.Path(f"/proc/{number}/stat")
    return not status.exists() or status.read_text().split()[2] != "Z"


def test_who_is_told_fails(tmp_path):
    code = "import time; print('one', flush=True); time.sleep(60)"
    todo = [
        jobs.Job(name, [sys.executable, "-c", code], tmp_path / name) for name in "abc"
    ]

    def tell(job, line):
        if todo[0].process and todo[1].process:  # the second one may start late
            raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        jobs.run(todo, [{}, {}], on_line=tell)
    assert [job.process and job.process.poll() for job in todo] == [
        -signal.SIGTERM,
        -signal.SIGTERM,
        None,
    ]


def test_extra_flags_reach_the_runs(run):
    end, printed = run("--budgets=uniform", "--seeds=1", "--", "--epochs=5")
    assert end is None, end
    assert "epoch 5/5" in (RUNS / "fakelt/at/seed1/run.log").read_text()
    # The settings of those that are there are others now.
    end, printed = run("--budgets=uniform", "--seeds=1,2")
    assert "runs/fakelt/at/seed1 holds a run with other settings" in end
    assert "epochs: 5 there, 3 now" in end
    assert files("results.json") == ["fakelt/at/seed1"]


def test_runs_of_other_settings_are_no_mean(run):
    run("--budgets=uniform", "--seeds=1,2", "--", "--epochs=5")
    end, printed = run("--budgets=uniform", "--seeds=4")
    assert end is None, end
    assert "| AT (epochs 5) |     2 | 51.5 ± 0.7 |" in printed
    assert "| AT (epochs 3) |     1 |       54.0 |" in printed


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (("--data=a/x.npz,b/x.npz",), "would share the directory x/at"),
        (("--workdir=",), "--workdir= is empty"),
        (("--methods=at,magic",), "--methods=magic: it must be one of at, at_bsl"),
        (("--seeds=1,two",), "--seeds=two: it must be a whole number"),
        (("--seeds=",), "need values"),
        (("--jobs=0",), "--jobs"),
        (("--epochs=2",), "'epochs'"),
        (("--", "--epoks=2"), "there is no flag epoks"),
        (("--", "--seed=7"), "--seed=7 after -- would be the same for all runs"),
        (("--", "--data=digits"), "--data=digits after --"),
        (("--", "--budget=cfa"), "--budget=cfa after --"),
        (("--", "--dry_run"), "--dry_run after -- leaves no run"),
        (("--", "--print_settings"), "--print_settings after -- leaves no run"),
        (("--", "--compare"), "--compare after -- leaves no run"),
    ],
)
def test_mistakes_are_refused_before_anything_starts(run, flags, message):
    end, printed = run(*flags)
    assert message in end and not printed
    assert not RUNS.exists()


@pytest.mark.parametrize(
    ("name", "flags", "message"),
    [
        ("photos/cat/1.png", ("--data=photos", "--workdir=photos/runs"), "inside of"),
        ("runs/table.csv", (), "no run of a sweep, but table.csv"),
        ("runs/fakelt/at/seed1/network.keras", ("--seeds=1",), "but network.keras"),
        ("file", ("--workdir=file",), "--workdir=file: file is a file"),
    ],
)
def test_a_sweep_replaces_nothing_and_leaves_nothing(run, name, flags, message):
    pathlib.Path(name).parent.mkdir(parents=True, exist_ok=True)
    pathlib.Path(name).write_text("")
    before = sorted(pathlib.Path().rglob("*"))
    end, printed = run(*flags)
    assert message in end and not printed
    assert sorted(pathlib.Path().rglob("*")) == before


def test_where_the_flags_of_the_runs_go(capsys):
    with pytest.raises(SystemExit):
        command_line.main(["robustlt", "sweep", "--epochs=2"])
    message = "Unknown command line flag 'epochs'. Flags of the runs go behind --, such"
    assert message in capsys.readouterr().err


def test_flags_of_a_budget_go_to_its_runs():
    points = sweep.grid(["digits"], ["at"], ["uniform", "robustlt"], ["1"])
    extra = ["--alpha", "0.5", "--epochs=3"]
    (base, _), (ours, settings) = sweep.runs_of(points, extra).values()
    assert settings["alpha"] == 0.5
    assert "--alpha=0.5" in ours and "--epochs=3" in ours
    assert "--alpha=0.5" not in base and "--epochs=3" in base
    # Without such a run they would do nothing.
    with pytest.raises(app.UsageError, match="--alpha=0.5 does nothing"):
        sweep.runs_of(points[:1], extra)
    with pytest.raises(app.UsageError, match="^--norobustlt after --"):
        sweep.runs_of(points, ["--norobustlt"])


def test_halves_of_which_nothing_is_left_are_refused():
    for budgets, extra, message in (
        (["uniform", "cpb"], "--beta=0.5", "^--beta=0.5 after -- does nothing: .*cpb"),
        (["aiw"], "--alpha=0.5", "^--alpha=0.5 after -- does nothing: --budgets=aiw"),
        (["cpb"], "--alpha=0", "^--budgets=cpb is no rule for the budget"),
        (["aiw", "robustlt"], "--beta=0", "^--budgets=aiw is no rule for the budget"),
    ):
        points = sweep.grid(["digits"], ["at"], budgets, ["1"])
        with pytest.raises(app.UsageError, match=message):
            sweep.runs_of(points, [extra])
    # It is for the whole of RobustLT.
    points = sweep.grid(["digits"], ["at"], ["cpb", "aiw", "robustlt"], ["1"])
    runs = sweep.runs_of(points, ["--beta=0.5"])
    assert [settings["beta"] for _, settings in runs.values()] == [0, 0.5, 0.5]


def test_table_of_nothing(run):
    end, printed = run("--table_only")
    assert end == "--workdir=runs: there is no such directory." and not printed
    RUNS.mkdir()
    end, printed = run("--table_only", "--seeds=5")
    assert end == "error: no run under runs is finished."
    assert printed == (
        "The table is of all runs in runs: with --table_only, --data and --seeds leave "
        "none out.\n"
    )


def test_share_of_the_machine(monkeypatch):
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


def test_share_of_accelerators(monkeypatch):
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


def test_cores_of_a_container(monkeypatch, tmp_path):
    monkeypatch.setattr(jobs, "CPU_QUOTA", tmp_path / "cpu.max")
    monkeypatch.setattr(
        jobs.os, "sched_getaffinity", lambda process: set(range(8)), raising=False
    )
    assert jobs.cores() == 8
    for quota, expected in (("max", 8), ("250000", 2), ("50000", 1), ("9900000", 8)):
        jobs.CPU_QUOTA.write_text(f"{quota} 100000\n")
        assert jobs.cores() == expected


def test_time_left():

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


def test_order_of_the_rows():
    rows = [
        {"data": data, "name": "", "settings": {"method": method, "budget": budget}}
        for data in ("cifar", "digits")
        for method in ("at", "at_bsl", "at_bsl+awp")
        for budget in ("uniform", "cfa", "dafa", "robustlt", "auto")
    ]
    assert sorted(rows[::-1], key=summary._order) == rows


def test_mean_and_standard_deviation():
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


def run_train(*arguments):
    """Runs `train` in this process, where the imports are done."""
    values = flags.FlagValues()
    train.define_flags(values)
    train.main(values(["train", "--data=digits", *arguments]), values)


def pretend_to_have_run(workdir, *arguments):
    settings = train.settings_of(["--data=digits", *arguments])
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


@pytest.mark.tensorflow
def test_comparison_of_finished_runs(tmp_path, capsys):
    pretend_to_have_run(tmp_path / "base", "--norobustlt", "--epochs=7")
    pretend_to_have_run(tmp_path / "robustlt", "--epochs=7", "--alpha=0.5")
    command = ("--compare", "--alpha=0.5", f"--workdir={tmp_path}")
    run_train(*command, "--epochs=7")
    text = (tmp_path / "comparison.txt").read_text()
    assert text in capsys.readouterr().out
    assert text.splitlines() == [
        "accuracy in %              all  tail  balanced  worst     a     b",
        "------------------------  ----  ----  --------  -----  ----  ----",
        "clean: AT-BSL             50.0  40.0      50.0   30.0  30.0  70.0",
        "clean: AT-BSL + RobustLT  50.0  40.0      50.0   30.0  30.0  70.0",
        "pgd20: AT-BSL             50.0  40.0      50.0   30.0  30.0  70.0",
        "pgd20: AT-BSL + RobustLT  50.0  40.0      50.0   30.0  30.0  70.0",
        "training images                                           9     2",
    ]
    assert (tmp_path / "comparison.png").read_bytes().startswith(b"\x89PNG")
    assert "base vs robustlt" in (tmp_path / "report.html").read_text()

    message = "(?s)base holds a run with other settings.*epochs: 7 there, 8 now"
    with pytest.raises(SystemExit, match=message):
        run_train(*command, "--epochs=8")


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    "flags", [("--norobustlt",), ("--method=standard",), ("--alpha=0", "--beta=0")]
)
def test_nothing_to_compare(flags, tmp_path):
    message = "with these flags there is no difference: both are"
    with pytest.raises(SystemExit, match=message):
        run_train("--compare", *flags, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run").exists()


# A run of seconds.
SHORT = "--epochs=1 --batch_size=64 --pgd_steps=1 --attacks=clean,pgd2".split()


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """The directory of a sweep of the digits, AT with two seeds, and its output."""
    workdir = tmp_path_factory.mktemp("sweep")
    arguments = "--data=digitslt --budgets=uniform --seeds=1,2 --jobs=2".split()
    printed = run_python(
        *(str(ROOT / "recipes" / "sweep.py"), *arguments, f"--workdir={workdir}"),
        *("--", *SHORT),
        KERAS_BACKEND="tensorflow",
        CUDA_VISIBLE_DEVICES="",
    )
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
def test_comparison_trains_what_is_missing(swept, tmp_path, capsys, monkeypatch):
    base = tmp_path / "base"
    shutil.copytree(swept[0] / "digitslt/at/seed1", base)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    given = ("--method=at", "--seed=1", "--beta=0", "--compare")
    run_train(*SHORT, *given, f"--workdir={tmp_path}")
    printed = capsys.readouterr().out
    assert "\nAT + CPB | epoch 1/1" in printed
    assert "\nAT       | epoch" not in printed  # it was there
    text = (tmp_path / "comparison.txt").read_text()
    assert "clean: AT  " in text and "clean: AT + CPB" in text
    for name in ("results.json", "network.keras", "schedule.png", "run.log"):
        assert (tmp_path / "robustlt" / name).exists()
