"""The last sections: all settings, versions and seeds, and what is not there."""

from keras_robustlt.reporting.accuracy import attacks_of, named
from keras_robustlt.reporting.html import element, table

__all__ = ["settings"]

# Of these there is a table or a chart already.
SHOWN_BEFORE = {"class_names", "class_counts", "examples_per_class", "tail_classes"}
# What a run that attacks no images in training has no use for.
OF_THE_ATTACK = {
    "adaptive_steps",
    "alpha",
    "attack",
    "attack_steps",
    "beta",
    "budget",
    "collapse_guard",
    "epsilon",
    "granularity",
    "pgd_steps",
    "weighting",
}


def settings(runs):
    groups = [
        ("Training", [_training(run) for run in runs]),
        ("Evaluation", [_evaluation(run) for run in runs]),
        *(
            (f"Attack {name}", [_attack(run, name) for run in runs])
            for name in attacks_of([run for run in runs if run.results is not None])
        ),
        ("Versions and device", [_versions(run) for run in runs]),
    ]
    tables = [_table(title, of_runs, runs) for title, of_runs in groups]
    note = len(runs) > 1 and element(
        "p", "In bold: what the runs do not have in common.", class_="note"
    )
    return [note or None, element("div", tables, class_="settings")]


def _training(run):
    settings = {
        key: value
        for key, value in run.settings.items()
        if run.is_attacked or key not in OF_THE_ATTACK
    }
    return {**settings, **_only(run.config or {}, "command")}


def _evaluation(run):
    if run.results is None:
        return {}
    values = run.results.settings
    hidden = {*SHOWN_BEFORE, "findings", "keras", "versions"}
    if not any(entry.get("attack") for entry in run.results.values()):
        hidden.add("epsilon")
    return {key: value for key, value in values.items() if key not in hidden}


def _attack(run, name):
    entry = (run.results or {}).get(name)
    if entry is None:
        return {}
    return {
        **(entry.get("attack") or {}),
        **_only(entry, "of"),
        **_only(entry, "seconds"),
    }


def _versions(run):
    config = run.config or {}
    of_evaluation = run.results.settings.get("versions", {}) if run.results else {}
    return {**of_evaluation, **config.get("versions", {}), **_only(config, "device")}


def _only(dictionary, key):
    return {key: dictionary[key]} if key in dictionary else {}


def _table(title, of_runs, runs):
    keys = list(dict.fromkeys(key for values in of_runs for key in values))
    if not keys:
        return None
    rows = []
    for key in keys:
        cells = [_text(values.get(key, "–"), key) for values in of_runs]
        if len(set(cells)) > 1:
            cells = [element("b", cell) for cell in cells]
        rows.append([key, *cells])
    head = ["setting", *map(named, runs)]
    return element(
        "div", element("h3", title), table(head, rows, title), class_="scroll"
    )


def _text(value, key=None):
    """A setting in words; budgets also as they are usually written."""
    if key in ("epsilon", "step_size") and isinstance(value, float):
        return f"{value:.6g} ({255 * value:.4g}/255)"
    if isinstance(value, dict):
        return ", ".join(f"{k}={_text(v)}" for k, v in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(_text, value)) or "none"
    if isinstance(value, float):
        return f"{value:.6g}"
    return "none" if value is None else str(value)
