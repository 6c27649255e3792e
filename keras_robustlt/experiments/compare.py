"""A base method beside what the budget makes of it: `--compare`."""

import sys

import keras_robustlt as krl
from keras_robustlt.evaluation.results import SUMMARY, text_table
from keras_robustlt.experiments import jobs, measured, workdir
from keras_robustlt.experiments.presets import name_of


def compare(settings, commands, folder, threads=None):
    """Trains runs side by side and compares them.

    Args:
        settings: Dictionary from the name of a sub-directory to the settings of the
            run in it, the base method first.
        commands: Dictionary from the same names to the commands of the runs, lists of
            strings, without `--workdir`.
        folder: Path. Gets the sub-directories and the comparison.
        threads: Integer, CPU threads of each run. Defaults to a share of the cores.

    Raises:
        ValueError: If there is nothing to compare, or a directory holds another run.
        SystemExit: If a run fails.
    """
    names = {key: name_of(each) for key, each in settings.items()}
    if len(set(names.values())) < 2:
        raise ValueError(
            "--compare trains without and with a rule for the budget, and with these "
            f"flags there is no difference: both are {next(iter(names.values()))}."
        )
    workdir.check_comparison(folder, settings)
    todo = [
        jobs.Job(
            names[key],
            [*commands[key], f"--workdir={folder / key}"],
            folder / key / "run.log",
        )
        for key in settings
        if not workdir.is_finished(folder / key, settings[key])
    ]
    with workdir.made(*(folder / key for key in settings)):
        _train(todo, max(map(len, names.values())), threads)
    results = {
        name: krl.EvaluationResults.from_json(folder / key / "results.json")
        for key, name in names.items()
    }
    text = side_by_side(results)
    (folder / workdir.COMPARISON).write_text(text + "\n", encoding="utf-8")
    title = "Accuracy of each class"
    figure = krl.plots.accuracy_per_class(results, _attacks(results)[-1], title=title)
    krl.plots.save(figure, folder / "comparison.png")
    report = krl.report(*(folder / key for key in names), folder / "report.html")
    pictures = [folder / "comparison.png", *sorted(folder.glob("*/schedule.png"))]
    seeds = measured.beside(list(settings.values())[-1])
    text = f"{text}\n\n{seeds}" if seeds else text
    print(f"\n{text}\n\nPictures: {', '.join(map(str, pictures))}\nReport: {report}")


def _train(todo, width, threads):
    def show(job, line):
        print(f"{job.name:{width}} | {line}", end="", flush=True)

    if todo:
        print("Training", " and ".join(job.name for job in todo), flush=True)
    environments = jobs.environments(len(todo), threads=threads)
    failed = jobs.run(todo, environments, on_line=show)
    if not failed:
        return
    refusals = [jobs.refusal(job) for job in failed]
    text = "\n".join(map(jobs.report, failed))
    if refusals[0] and refusals == refusals[:1] * len(todo):
        text = f"error: {refusals[0]}"
    for job, refusal in zip(failed, refusals, strict=True):
        if refusal:
            job.log.unlink()
    sys.exit(text)


def side_by_side(runs):
    """A table of runs, attack by attack.

    Args:
        runs: A dictionary from names to `EvaluationResults`.
    """
    settings = next(iter(runs.values())).settings
    head = ["accuracy in %", *SUMMARY, *settings["class_names"]]
    rows = [
        [f"{attack}: {name}", *results.row(attack)]
        for attack in _attacks(runs)
        for name, results in runs.items()
    ]
    counts = [str(count) for count in settings["class_counts"]]
    rows.append(["training images", *[""] * len(SUMMARY), *counts])
    return text_table(head, rows)


def _attacks(runs):
    return list(next(iter(runs.values())))
