"""Many runs and one table: methods, with and without RobustLT, over several seeds.

    python recipes/sweep.py --data=digitslt --methods=at,at_bsl \\
        --budgets=uniform,robustlt --seeds=102,103,104 -- --epochs=20

trains every method with every rule for the budget and every seed, as many at a time
as the machine has cores (or GPUs), and ends in a table of mean and standard deviation
over the seeds. --data names recipes of this directory; flags after -- go to them. What
is finished is left out and what was interrupted goes on: start the same command again
after Ctrl-C, after a failure, or with more methods and seeds.

The files of a sweep, in its --workdir:

    <data>/<method>[-<budget>]/seed<n>/   the files of a run, and run.log
    table.md, table.csv, table.json       the table, of all finished runs that are here
"""

import concurrent.futures
import dataclasses
import json
import pathlib
import subprocess
import sys

from keras_robustlt.experiments import jobs
from keras_robustlt.experiments import run as runner
from keras_robustlt.experiments import summary
from absl import app, flags

RECIPES = {path.stem: path for path in pathlib.Path(__file__).parent.glob("*lt.py")}
# Those that a sweep gives to its runs.
OWN_FLAGS = {"method", "budget", "robustlt", "norobustlt", "seed", "workdir"}

FLAGS = flags.FLAGS
flags.DEFINE_list("data", "digitslt", f"Recipes: {', '.join(sorted(RECIPES))}.")
flags.DEFINE_list("methods", "at", "Base methods, by the names that --method takes.")
flags.DEFINE_list(
    "budgets",
    "uniform,robustlt",
    "Rules for the budget, by the names that --budget takes. uniform: the base method.",
)
flags.DEFINE_list("seeds", "102,103,104", "Seeds.")
flags.DEFINE_string("workdir", "runs/sweep", "Where the runs and the table go.")
flags.DEFINE_integer(
    "jobs",
    None,
    "Runs at a time. They share the cores, and each takes a GB or two of memory. "
    "Default: one for each GPU; without any, one for each core.",
    lower_bound=1,
)
flags.DEFINE_bool("table_only", False, "No runs, the table of what is there.")


@dataclasses.dataclass(frozen=True)
class Run:
    """A point of the grid."""

    data: str
    method: str
    budget: str
    seed: int

    @property
    def group(self):
        """What it has in common with the runs of other seeds."""
        budget = "" if self.budget == "uniform" else f"-{self.budget}"
        return f"{self.data}/{self.method}{budget}"

    @property
    def name(self):
        return f"{self.group}/seed{self.seed}"

    def command(self, flags):
        """The command without the directory."""
        grid = [f"--{key}={getattr(self, key)}" for key in ("method", "budget", "seed")]
        return [sys.executable, str(RECIPES[self.data]), *grid, *flags]


def main(argv):
    workdir = pathlib.Path(FLAGS.workdir)
    failed = []
    if not FLAGS.table_only:
        runs = grid(FLAGS.data, FLAGS.methods, FLAGS.budgets, FLAGS.seeds)
        failed = train(runs, argv[1:], workdir, FLAGS.jobs)
    rows = summary.collect(workdir)
    if rows:
        print(f"\n{summary.write(rows, workdir)}\nFiles: {workdir}/table.*")
    else:
        print(f"No run under {workdir} is finished.")
    if failed:
        raise SystemExit("\n".join(f"{job.name} failed: {job.log}" for job in failed))


def grid(data, methods, budgets, seeds):
    """The runs, all methods of a seed before the next seed."""
    for name in data:
        if name not in RECIPES:
            raise SystemExit(
                f"error: --data={name}: there is no such recipe. Choose among: "
                f"{', '.join(sorted(RECIPES))}."
            )
    for seed in seeds:
        if not seed.isdecimal():
            raise SystemExit(f"error: --seeds={seed}: seeds are whole numbers.")
    runs = [
        # Standard training has no perturbation and no budget.
        Run(name, method, "uniform" if method == "standard" else budget, int(seed))
        for name in data
        for seed in seeds
        for method in methods
        for budget in budgets
    ]
    if not runs:
        raise SystemExit("error: --data, --methods, --budgets and --seeds need values.")
    return list(dict.fromkeys(runs))


def train(runs, extra, workdir, at_a_time=None):
    """Trains the runs that are not finished.

    Args:
        runs: List of `Run`.
        extra: List of strings, flags for the recipes.
        workdir: Path.
        at_a_time: Integer. Defaults to what suits the machine.

    Returns:
        List of the `jobs.Job` that failed.
    """
    settings = settings_of(runs, extra)
    todo = [
        jobs.Job(
            run.name,
            [*run.command(extra), f"--workdir={workdir / run.name}"],
            workdir / run.name / "run.log",
        )
        for run in runs
        if not runner.is_finished(workdir / run.name, settings[run])
    ]
    environments = jobs.environments(len(todo), at_a_time)
    print(f"{len(runs)} runs, {len(runs) - len(todo)} of them finished before.")
    if todo:
        print(f"{len(environments)} at a time. Logs: run.log in their directories.")
    status = jobs.Status(todo, len(environments))
    return jobs.run(todo, environments, on_change=status)


def settings_of(runs, extra):
    """The settings of each run, from its recipe, which refuses what is wrong."""
    for flag in extra:
        if flag.lstrip("-").partition("=")[0] in OWN_FLAGS:
            raise SystemExit(
                f"error: {flag} after -- would be the same for all runs, and a sweep "
                "sets it for each: see --methods, --budgets, --seeds and --workdir."
            )
    # Those of other seeds are the same but for the seed.
    first = {}
    for run in runs:
        first.setdefault(run.group, run)
    with concurrent.futures.ThreadPoolExecutor(jobs.cores()) as pool:
        asked = pool.map(lambda run: ask(run.command(extra)), first.values())
        of_group = dict(zip(first, asked, strict=True))
    return {run: {**of_group[run.group], "seed": run.seed} for run in runs}


def ask(command):
    """The settings of a command of a recipe."""
    answer = subprocess.run(
        [*command, "--print_settings"], capture_output=True, text=True
    )
    if answer.returncode:
        raise SystemExit(
            f"error: nothing was started. {' '.join(command[1:])} is refused:\n"
            + answer.stderr[-2000:].strip()
        )
    return json.loads(answer.stdout)


if __name__ == "__main__":
    app.run(main)
