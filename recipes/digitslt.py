"""Robust classification of long-tailed handwritten digits: the quickstart.

    python recipes/digitslt.py --compare

trains adversarial training (AT) without and with RobustLT on scikit-learn's digits,
114 images of the digit 0 down to 2 of the digit 9, side by side, and compares them, in
about a minute and a half on two cores. No download. Without --compare: one run, of the
settings that the flags say. Started again, it goes on where it was interrupted.
"""

import pathlib
import sys

from keras_robustlt.experiments import jobs
from keras_robustlt.experiments import run as runner
from absl import app, flags
from keras_robustlt.experiments.presets import DIGITSLT

import keras_robustlt as krl

runner.define_flags(DIGITSLT, default="default", workdir="runs/digits")
flags.adopt_module_key_flags(runner)
flags.DEFINE_bool("compare", False, "Train without and with RobustLT, and compare.")


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"what is {argv[1]!r}? Flags start with --.")
    settings = runner.settings_from_flags(DIGITSLT)
    workdir = pathlib.Path(flags.FLAGS.workdir)
    if flags.FLAGS.compare:
        compare(settings, workdir)
    else:
        runner.run(settings, "digits", workdir)


def compare(settings, workdir):
    """Trains the base method and what the flags say, side by side, and compares them.

    Each is the command that was given, in a process and a directory of its own.
    """
    changes = {"base": ["--norobustlt", "--budget=uniform"], settings["budget"]: []}
    flags.FLAGS([sys.argv[0], *changes["base"]])
    of_folder = {
        "base": runner.settings_from_flags(DIGITSLT),
        settings["budget"]: settings,
    }
    names = {folder: runner.settings_name(each) for folder, each in of_folder.items()}
    if len(set(names.values())) < 2:
        raise SystemExit(
            "error: --compare trains without and with a rule for the budget, and with "
            f"these flags there is no difference: both are {names['base']}."
        )
    todo = [
        jobs.Job(
            names[folder],
            # The last of flags that contradict each other counts.
            [sys.executable, *sys.argv, *changes[folder]]
            + ["--nocompare", f"--workdir={workdir / folder}"],
            workdir / folder / "run.log",
        )
        for folder, each in of_folder.items()
        if not runner.is_finished(workdir / folder, each)
    ]
    width = max(map(len, names.values()))

    def show(job, line):
        print(f"{job.name:{width}} | {line}", end="", flush=True)

    if todo:
        print("Training", " and ".join(job.name for job in todo), flush=True)
    # Such small steps gain nothing from threads, whose number changes the rounding.
    environments = jobs.environments(len(todo), threads=1)
    failed = jobs.run(todo, environments, on_line=show)
    if failed:
        raise SystemExit("\n".join(map(jobs.report, failed)))
    results = {
        name: krl.EvaluationResults.from_json(workdir / folder / "results.json")
        for folder, name in names.items()
    }
    runner.compare(results, workdir)
    folders = [workdir / folder for folder in names]
    print(f"Report: {krl.report(*folders, workdir / 'report.html')}")


if __name__ == "__main__":
    app.run(main)
