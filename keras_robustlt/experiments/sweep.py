"""Many runs and one table: methods, with and without RobustLT, over several seeds.

    python -m keras_robustlt sweep --data=digits --methods=at,at_bsl \\
        --budgets=uniform,robustlt --seeds=102,103,104 -- --epochs=20

trains every method with every rule for the budget and every seed, as many at a time
as the machine has cores (or GPUs), and ends in a table of mean and standard deviation
over the seeds, and in one of what each rule changes: the mean over the seeds of the
paired differences, with its 95% interval. --data is what `train` takes, several
separated by commas; flags after -- go to every run. What is finished is left out and
what was interrupted goes on: start the same command again after Ctrl-C, after a
failure, or with more methods and seeds.

The files of a sweep, in its --workdir:

    <data>/<method>[-<budget>]/seed<n>/   the files of a run, and run.log
    table.md, table.csv, table.json       the table, of all finished runs that are here,
                                          and their accuracy in the single classes
    comparison.md, .csv, .json            what the rules change, in all groups and
                                          classes, if there are runs without a rule
"""

import dataclasses
import pathlib

from absl import app, flags

from keras_robustlt.experiments import jobs, presets, summary, train, workdir
from keras_robustlt.experiments.flags import (
    BUDGETS,
    OF_ATTACK,
    OF_ROBUSTLT,
    method_names,
)
from keras_robustlt.files import local_path
from keras_robustlt.flag_types import COUNT, SEED_OF_A_RUN, define_number

# RobustLT without the other half, which is the one to switch off.
HALVES = {"cpb": "beta", "aiw": "alpha"}
# Those that a sweep gives to its runs.
OWN_FLAGS = ("data", "method", "budget", "robustlt", "seed", "workdir")
# With these `train` makes no run, or two.
NO_RUN = ("compare", "dry_run", "print_settings")
# After the message on a flag that a sweep does not have.
UNKNOWN_FLAG = "Flags of the runs go behind --, such as: -- --epochs=20"


def define_flags(values):
    """Defines the flags in `values`, an `absl.flags.FlagValues`."""

    def several(name, default, help):
        flags.DEFINE_list(name, default, help, flag_values=values)

    several("data", "digits", "Data sets, by the names or paths that `train` takes.")
    several("methods", "at", "Base methods, by the names that --method takes.")
    several(
        "budgets",
        "uniform,robustlt",
        "Rules for the budget, by the names that --budget takes, and cpb and aiw, the "
        "halves of robustlt. uniform: the base method.",
    )
    several("seeds", "102,103,104", "Seeds.")
    flags.DEFINE_string(
        "workdir", "runs/sweep", "Where the runs and the table go.", flag_values=values
    )
    define_number(
        values,
        COUNT,
        "jobs",
        None,
        "Runs at a time. They share the cores, and each takes a GB or two of memory. "
        "Default: one for each GPU; without any, one for each core.",
    )
    flags.DEFINE_bool(
        "table_only", False, "No runs, the table of what is there.", flag_values=values
    )


def main(argv, values):
    """Trains what is not finished, and writes and shows the table.

    Args:
        argv: List of strings: the name of the program, and the flags for the runs.
        values: The `absl.flags.FlagValues` of `define_flags`, parsed.

    Raises:
        UsageError: If a flag is wrong.
        SystemExit: If something else is, or a run failed.
    """
    if values.workdir == "":
        raise app.UsageError("--workdir= is empty: name a directory.")
    if values.table_only and argv[1:]:
        raise app.UsageError(
            f"{' '.join(argv[1:])} after -- is for runs, and --table_only makes none: "
            "the table is of what is there."
        )
    try:
        local_path("workdir", values.workdir)
    except ValueError as error:
        raise app.UsageError(str(error)) from None
    folder = pathlib.Path(values.workdir)
    failed = []
    if values.table_only:
        _check_table_only(values, folder)
    else:
        points = grid(values.data, values.methods, values.budgets, values.seeds)
        for data in values.data:
            train.check_outside(folder, data)
        runs = runs_of(points, argv[1:])
        with train.mistakes(folder):
            check(folder, runs)
            failed = run(runs, folder, values.jobs)
    rows = summary.collect(folder)
    if rows:
        print(f"\n{summary.write(rows, folder)}\nFiles: {folder}/table.*", end="")
        there = (folder / "comparison.md").exists()
        print(f" and {folder}/comparison.*" if there else "")
    elif values.table_only:
        raise SystemExit(f"error: no run under {folder} is finished.")
    else:
        print(f"No run under {folder} is finished.")
    if failed:
        raise SystemExit("\n".join(f"{job.name} failed: {job.log}" for job in failed))


def _check_table_only(values, folder):
    if not folder.is_dir():
        raise app.UsageError(f"--workdir={folder}: there is no such directory.")
    of_runs = ("data", "methods", "budgets", "seeds", "jobs")
    given = [f"--{name}" for name in of_runs if values[name].present]
    if given:
        print(
            f"The table is of all runs in {folder}: with --table_only, "
            f"{' and '.join(given)} leave none out."
        )


@dataclasses.dataclass(frozen=True)
class Point:
    """A point of the grid."""

    data: str
    method: str
    budget: str
    seed: int

    @property
    def group(self):
        """What it has in common with the runs of other seeds."""
        budget = "" if self.budget == "uniform" else f"-{self.budget}"
        return f"{presets.file_name_of(self.data)}/{self.method}{budget}"

    @property
    def name(self):
        return f"{self.group}/seed{self.seed}"

    @property
    def is_robustlt(self):
        return self.budget == "robustlt" or self.budget in HALVES

    def flags(self, of_all):
        """Its flags, without the directory.

        Args:
            of_all: Dictionary from the names of the flags of all runs to these.
        """
        own = dataclasses.asdict(self)
        if self.budget in HALVES:
            own["budget"], off = "robustlt", HALVES[self.budget]
            of_all = {**of_all, off: f"--{off}=0"}
        if self.method == "standard":
            of_all = {k: v for k, v in of_all.items() if k not in OF_ATTACK}
        return [*(f"--{key}={value}" for key, value in own.items()), *of_all.values()]


def grid(data, methods, budgets, seeds):
    """The points, all methods of a seed before the next seed."""
    axes = {"data": data, "methods": methods, "budgets": budgets, "seeds": seeds}
    for flag, given in axes.items():
        twice = sorted({each for each in given if given.count(each) > 1})
        if twice:
            raise app.UsageError(f"--{flag} has more than once: {', '.join(twice)}.")
    for seed in seeds:
        try:
            SEED_OF_A_RUN.parse(seed)
        except ValueError as error:
            raise app.UsageError(f"--seeds={seed}: {error}") from None
    if "" in data:
        raise app.UsageError(
            f"--data={','.join(data)} has an empty name: separate data sets by single "
            "commas."
        )
    _check_known("methods", methods, method_names())
    _check_known("budgets", budgets, [*BUDGETS, *HALVES])
    points = [
        # Standard training has no perturbation and no budget.
        Point(name, method, "uniform" if method == "standard" else budget, int(seed))
        for name in data
        for seed in seeds
        for method in methods
        for budget in budgets
    ]
    if not points:
        raise app.UsageError("--data, --methods, --budgets and --seeds need values.")
    by_name = {point.name: point for point in points}
    for point in points:
        if point != by_name[point.name]:
            raise app.UsageError(
                f"--data={point.data},{by_name[point.name].data} would share the "
                f"directory {point.name}: rename one."
            )
    return list(by_name.values())


def _check_known(flag, given, known):
    for name in given:
        if name not in known:
            raise app.UsageError(
                f"--{flag}={name}: it must be one of {', '.join(known)}."
            )


def runs_of(points, extra):
    """The run of each point, which `train` refuses if something is wrong.

    Args:
        points: List of `Point`.
        extra: List of strings, the flags for all runs. Those of RobustLT's budget go to
            its runs only, if there are some.

    Returns:
        A dictionary from the points to their flags, lists of strings, and settings.
    """
    given = train.given_of(extra)
    for name in OWN_FLAGS:
        if name in given:
            raise app.UsageError(
                f"{given[name]} after -- would be the same for all runs, and a sweep "
                "sets it for each: see --data, --methods, --budgets, --seeds and "
                "--workdir."
            )
    for name in NO_RUN:
        if given.get(name, f"--no{name}") != f"--no{name}":
            raise app.UsageError(
                f"{given[name]} after -- leaves no run to show in a table: it is a "
                "flag of `train` alone."
            )
    _check_halves(points, given)
    of_others = dict(given)
    if any(point.is_robustlt for point in points):
        of_others = {k: v for k, v in given.items() if k not in OF_ROBUSTLT}
    result = {}
    for point in points:
        arguments = point.flags(given if point.is_robustlt else of_others)
        settings = train.settings_of(arguments)
        if point.is_robustlt and settings.get("alpha") == settings.get("beta") == 0:
            raise app.UsageError(
                f"--budgets={point.budget} is no rule for the budget with --alpha=0 "
                "and --beta=0: its runs would be those of uniform."
            )
        result[point] = arguments, settings
    return result


def _check_halves(points, given):
    """Raises if a flag is for a half of RobustLT that no run has."""
    budgets = {point.budget for point in points if point.is_robustlt}
    for budget, off in HALVES.items():
        if off in given and budgets == {budget}:
            raise app.UsageError(
                f"{given[off]} after -- does nothing: --budgets={budget} is RobustLT "
                f"with --{off}=0."
            )


def check(folder, runs):
    """Raises a ValueError if the runs cannot work in `folder`, or the table not.

    Args:
        folder: Path.
        runs: Dictionary, what `runs_of` gives.
    """
    workdir.check_place(folder, summary.FILES)
    for name in ("config.json", workdir.COMPARISON):
        if (folder / name).exists():
            raise ValueError(
                f"--workdir={folder} holds a run, or a comparison of two, and those of "
                "a sweep are in folders of their own. Give another --workdir."
            )
    if not any(folder.glob(workdir.OF_A_SWEEP)):
        workdir.refuse_foreign(folder, summary.FILES, "run of a sweep")
    by_data = {}
    for point, (_, settings) in runs.items():
        if not workdir.is_finished(folder / point.name, settings):
            workdir.check(folder / point.name, settings)
            by_data[point.data] = settings
    for settings in by_data.values():
        train.check_images(settings)


def run(runs, folder, at_a_time=None):
    """Trains the runs that are not finished.

    Args:
        runs: Dictionary from `Point` to the flags and settings of its run.
        folder: Path.
        at_a_time: Integer. Defaults to what suits the machine.

    Returns:
        List of the `jobs.Job` that failed.
    """
    todo = [
        jobs.Job(
            point.name,
            [*train.COMMAND, *arguments, f"--workdir={folder / point.name}"],
            folder / point.name / "run.log",
        )
        for point, (arguments, settings) in runs.items()
        if not workdir.is_finished(folder / point.name, settings)
    ]
    environments = jobs.environments(len(todo), at_a_time)
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before.")
    if todo:
        print(f"{len(environments)} at a time. Logs: run.log in their directories.")
    status = jobs.Status(todo, len(environments))
    return jobs.run(todo, environments, on_change=status)
