import csv
import itertools
import json
import pathlib
import runpy

import numpy as np
import pytest

import keras_robustlt as krl
from keras_robustlt.experiments import comparison, measured
from keras_robustlt.experiments.presets import DIGITSLT

BUILD = pathlib.Path(__file__).parents[1] / "docs" / "build_measured.py"


def settings(**given):
    return {**DIGITSLT.settings("default", given), "seed": 1, "initial_weights": None}


def kept():
    return json.loads((measured.FOLDER / "digits.json").read_text())


def cell_of(ours, base):
    """The difference of paired accuracies as the docs write it."""
    pairs = [a - b for a, b in zip(ours, base, strict=True)]
    mean, low, high = comparison.interval(pairs)
    return comparison.cell({"difference": mean, "low": low, "high": high})


def test_the_demo_is_what_was_measured():
    text = measured.beside(settings())
    (line,) = (
        line
        for line in kept()["lines"]
        if (line["attack"], line["group"]) == ("pgd20", "tail")
    )
    assert "by 10 seeds (6 to 15)" in text
    (row,) = (row for row in text.splitlines() if row.startswith("pgd20"))
    assert comparison.cell(line) in row


@pytest.mark.parametrize("changed", [{"alpha": 0.5}, {"epochs": 3}, {"keep": "best"}])
def test_nothing_is_said_of_other_settings(changed):
    assert measured.beside(settings(**changed)) is None


def test_what_was_measured_follows_from_the_runs():
    assert kept() == runpy.run_path(str(BUILD))["content"]()


@pytest.mark.parametrize("attack, title", [("clean", "clean"), ("pgd20", "PGD-20")])
@pytest.mark.parametrize("group", ["all", "tail"])
def test_so_does_the_table_of_a_larger_budget(attack, title, group):
    results = BUILD.with_name("results")

    def accuracies(folder):
        paths = (results / folder / f"seed{seed}/results.json" for seed in range(6, 16))
        runs = [json.loads(path.read_text())["attacks"] for path in paths]
        return [run[attack][group] for run in runs]

    ours = accuracies("runs/digits/at_bsl-robustlt")
    larger = accuracies("runs-0.13/digits/at_bsl")
    means = [f"{10 * sum(values):.1f}" for values in (larger, ours)]
    line = f"| {' | '.join(means)} | {cell_of(ours, larger)} |"
    (row,) = (
        row
        for row in (results / "README.md").read_text().splitlines()
        if row.startswith(f"| {title}, {group} ") and row.endswith(line)
    )


@pytest.mark.parametrize(
    "attack, title",
    [
        ("clean", "clean"),
        ("pgd20", "PGD-20"),
        ("autoattack", "AutoAttack (200 images)"),
    ],
)
@pytest.mark.parametrize("group", ["all", "tail", "worst"])
def test_so_does_the_table_under_autoattack(attack, title, group):
    results = BUILD.with_name("results")
    name = "autoattack.json" if attack == "autoattack" else "results.json"

    def accuracies(folder):
        paths = (results / folder / f"seed{seed}" / name for seed in range(6, 16))
        runs = [json.loads(path.read_text())["attacks"] for path in paths]
        return [run[attack][group] for run in runs]

    larger = accuracies("runs-0.13-again/digits/at_bsl")
    uniform, ours, auto = (
        accuracies(f"runs-imbalance-50/digits/at_bsl{budget}")
        for budget in ("", "-robustlt", "-auto")
    )
    cells = [f"{10 * sum(values):.1f}" for values in (uniform, larger, ours)]
    cells += [cell_of(ours, larger), cell_of(auto, larger)]
    row = f"| {title}, {group} | {' | '.join(cells)} |"
    assert row in (results / "README.md").read_text(), row


COLUMNS = [
    *(("clean", "all"), ("clean", "tail"), ("pgd20", "all"), ("pgd20", "tail")),
    *(("pgd20", "worst"), ("cw20", "all"), ("cw20", "tail")),
]


def changes(folder, method, budget, base=None, columns=COLUMNS):
    """What a budget changes in the runs of a folder, as cells of a row of the docs."""

    def accuracies(name, attack, group):
        file = "autoattack.json" if attack == "autoattack" else "results.json"
        paths = (folder / f"digits/{name}/seed{seed}" for seed in range(6, 16))
        runs = [json.loads((path / file).read_text()) for path in paths]
        return [run["attacks"][attack][group] for run in runs]

    cells = []
    for column in columns:
        ours = accuracies(f"{method}-{budget}", *column)
        cells.append(cell_of(ours, accuracies(base or method, *column)))
    return " | ".join(cells)


BUDGETS = {
    "robustlt": "`robustlt`",
    "auto": "`auto`",
    "auto-first": "`auto`, first rule",
}


@pytest.mark.parametrize("budget", BUDGETS)
def test_so_do_the_rows_of_other_imbalances(budget):
    results = BUILD.with_name("results")
    folders = [each.parents[1] for each in results.glob(f"*/digits/at_bsl-{budget}")]
    folders = [each for each in folders if each.name.startswith("runs-imbalance-")]
    assert len(folders) == (1 if budget == "auto-first" else 3)
    for folder in folders:
        ratio = folder.name.rpartition("-")[2]
        row = f"| {ratio} | {BUDGETS[budget]} | {changes(folder, 'at_bsl', budget)} |"
        assert row in (results / "README.md").read_text()


BASES = [
    ("at", "AT"),
    ("awp", "AWP"),
    ("reat", "REAT"),
    ("robal", "RoBal"),
    ("taet", "TAET"),
]


@pytest.mark.parametrize("method, title", BASES)
def test_so_do_the_rows_of_the_base_methods(method, title):
    results = BUILD.with_name("results")
    row = f"| {title} | {changes(results / 'runs-methods', method, 'robustlt')} |"
    assert row in (results / "README.md").read_text()


UNDER_AUTOATTACK = [("autoattack", group) for group in ("all", "tail", "worst")]
AGAIN = [("pgd20", group) for group in ("all", "tail")]


@pytest.mark.parametrize("method, title", BASES)
def test_so_do_the_rows_of_the_base_methods_under_autoattack(method, title):
    results = BUILD.with_name("results")
    columns = [*UNDER_AUTOATTACK, *AGAIN]
    cells = changes(results / "runs-methods-again", method, "robustlt", columns=columns)
    assert f"| {title} | {cells} |" in (results / "README.md").read_text()


STRONG = {
    "average": "averaged weights",
    "strong": "averaged weights, one-cycle rate",
    "smoothed": "both, labels smoothed towards the shares",
    "smoothed-evenly": "both, labels smoothed evenly",
}


@pytest.mark.parametrize("name", STRONG)
def test_so_do_the_rows_of_the_preset_strong(name):
    results = BUILD.with_name("results")
    columns = [("clean", "all"), ("clean", "tail"), *AGAIN]
    if name != "smoothed-evenly":
        columns += UNDER_AUTOATTACK
    folder = results / "runs-strong"
    cells = changes(folder, "at_bsl", name, "at_bsl-default", columns)
    assert f"| {STRONG[name]} | {cells} |" in (results / "README.md").read_text()


RIVALS = {"cfa": "CFA", "dafa": "DAFA", "udr": "UDR"}


@pytest.mark.parametrize("rival", [*RIVALS, None])
def test_so_do_the_rows_beside_other_rules(rival):
    results = BUILD.with_name("results")
    folder = results / "runs-rivals"
    base = None if rival is None else f"at_bsl-{rival}"
    rows = {
        f"RobustLT minus {RIVALS.get(rival, 'uniform')}": ("robustlt", base),
        f"{RIVALS.get(rival)} minus uniform": (rival, None),
    }
    for title, (ours, theirs) in rows.items():
        if ours is None:
            continue
        for columns in (COLUMNS, UNDER_AUTOATTACK):
            cells = changes(folder, "at_bsl", ours, theirs, columns)
            row = f"| {title} | {cells} |"
            assert row in (results / "README.md").read_text(), row


@pytest.mark.parametrize("group", ["all", "tail", "worst"])
def test_so_does_autoattack_of_the_automatic_budget(group):
    results = BUILD.with_name("results")

    def accuracies(name):
        runs = results / "runs-imbalance-50/digits" / name
        files = (runs / f"seed{seed}/autoattack.json" for seed in range(6, 16))
        found = (json.loads(file.read_text())["attacks"] for file in files)
        return [attacks["autoattack"][group] for attacks in found]

    base, ours = accuracies("at_bsl"), accuracies("at_bsl-auto")
    means = [f"{10 * sum(values):.1f}" for values in (base, ours)]
    row = f"| AutoAttack, {group} | {' | '.join(means)} | {cell_of(ours, base)} |"
    assert row in (results / "README.md").read_text()


@pytest.mark.parametrize("budget", ["uniform", "robustlt"])
def test_so_do_the_rows_of_bfloat16(budget):
    results = BUILD.with_name("results")
    name = "at_bsl" if budget == "uniform" else f"at_bsl-{budget}"

    def accuracies(folder, attack, group):
        paths = (results / folder / f"digits/{name}/seed{s}" for s in range(6, 16))
        runs = [json.loads((path / "results.json").read_text()) for path in paths]
        return [run["attacks"][attack][group] for run in runs]

    cells = []
    for column in itertools.product(("clean", "pgd20", "cw20"), ("all", "tail")):
        ours = accuracies("runs-bfloat16", *column)
        base = accuracies("runs-imbalance-50", *column)
        cells.append(cell_of(ours, base))
    row = f"| `{budget}` | {' | '.join(cells)} |"
    assert row in (results / "README.md").read_text()


# What the theory's terms did


def skew_under_pgd(folder):
    """The skewed objective of the error rates on test images, in points."""
    results = json.loads((folder / "results.json").read_text())
    errors = 1 - np.array(results["attacks"]["pgd20"]["per_class"])
    counts = results["settings"]["class_counts"]
    return 100 * krl.callbacks.skewed_objective(errors, counts)


def points_under_pgd(folder, group):
    results = json.loads((folder / "results.json").read_text())
    return 100 * results["attacks"]["pgd20"][group]


def epochs_of(folder, column):
    """A column; the changes are not a number in the first epoch."""
    with (folder / "skew_and_drift.csv").open(newline="") as file:
        values = np.array([float(row[column]) for row in csv.DictReader(file)])
    return values[~np.isnan(values)]


def mean_change_of_risk(folder):
    return np.abs(epochs_of(folder, "robust_risk_change")).mean()


TERMS = {
    "skew of the errors under PGD-20, test images, points": (1, skew_under_pgd),
    "drift, Linf, whole way": (2, lambda f: epochs_of(f, "drift_linf").sum()),
    "drift, Linf, first half": (2, lambda f: epochs_of(f, "drift_linf")[:19].sum()),
    "drift, Linf, second half": (2, lambda f: epochs_of(f, "drift_linf")[19:].sum()),
    "skew, training images, mean": (2, lambda f: epochs_of(f, "skew").mean()),
    "skew, training images, last epoch": (2, lambda f: epochs_of(f, "skew")[-1]),
    "drift, L2, whole way": (1, lambda f: epochs_of(f, "drift_l2").sum()),
    "change of the robust risk, mean": (2, mean_change_of_risk),
    "PGD-20, all": (1, lambda f: points_under_pgd(f, "all")),
    "PGD-20, tail": (1, lambda f: points_under_pgd(f, "tail")),
}


@pytest.mark.parametrize("term", TERMS)
def test_so_do_the_terms_of_the_theory(term):
    digits, of_run = TERMS[term]
    results = BUILD.with_name("results")
    base, *others = (
        np.array([of_run(folder / f"seed{seed}") for seed in range(6, 16)])
        for folder in (
            results / "runs-theory/digits" / f"at_bsl{budget}"
            for budget in ("", "-cpb", "-aiw", "-robustlt")
        )
    )
    cells = [f"{base.mean():.{digits}f}"]
    for values in others:
        mean, low, high = comparison.interval(values - base)
        mark = "*" if low > 0 or high < 0 else ""
        cells.append(
            f"{values.mean():.{digits}f}, {mean:+.{digits}f}{mark} "
            f"[{low:+.{digits}f}, {high:+.{digits}f}]"
        )
    row = f"| {term} | {' | '.join(cells)} |"
    assert row in (results / "README.md").read_text(), row
