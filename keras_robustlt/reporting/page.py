"""The page: which sections there are, what each needs, and what is around them."""

import dataclasses
import pathlib
import string
from collections.abc import Callable

import keras_robustlt
from keras_robustlt.reporting import accuracy, attacked, intervals, training
from keras_robustlt.reporting.html import element
from keras_robustlt.reporting.settings import settings

__all__ = ["page"]

HERE = pathlib.Path(__file__).parent


@dataclasses.dataclass
class Section:
    """A section of the page.

    Args:
        title: String.
        draw: Function of the runs that have what it needs, which gives its content, or
            `None` if they have it not together.
        has: Function of a run: whether it has what the section needs.
        how: String: how a run comes by it; `None` if that is nothing to point out.
    """

    title: str
    draw: Callable
    has: Callable
    how: str = None

    @property
    def anchor(self):
        return self.title.lower().replace(" ", "-")


SECTIONS = (
    Section(
        "Accuracy",
        accuracy.headline,
        lambda run: run.results is not None,
        "evaluate the network, and write results.to_json(DIRECTORY/results.json)",
    ),
    Section(
        "Head against tail",
        accuracy.head_and_tail,
        lambda run: run.results is not None and run.tail,
        "evaluate with class_counts, which say what the tail is",
    ),
    Section(
        "What the budget changes",
        intervals.changes,
        lambda run: run.results is not None and "settings" in (run.config or {}),
    ),
    Section(
        "Class by class",
        accuracy.classes,
        lambda run: run.results is not None,
        "evaluate the network",
    ),
    Section(
        "Confusion under attack",
        accuracy.confusions,
        accuracy.has_confusion,
        "evaluate again with this version, on up to 200 classes",
    ),
    Section(
        "Budget in training",
        training.budgets,
        lambda run: run.schedule is not None and run.is_attacked,
        "train with an attack and with callbacks.ScheduleInspector(DIRECTORY)",
    ),
    Section(
        "Skew and drift",
        training.theory,
        training.has_theory,
    ),
    Section(
        "Training curves",
        training.curves,
        lambda run: run.history is not None,
        "train with callbacks.HistoryCSV(DIRECTORY/history.csv)",
    ),
    Section(
        "Robustness against epsilon",
        attacked.budget_curve,
        lambda run: run.curve is not None,
        "set results.curve = robustness_curve(model, test) before results.to_json",
    ),
    Section(
        "Images and their perturbations",
        attacked.images,
        attacked.has_images,
        "write adversarial_examples(model, test).to_npz(DIRECTORY/examples.npz)",
    ),
    Section(
        "Settings",
        settings,
        lambda run: run.results is not None or run.config is not None,
        "train with a recipe, which writes config.json, or evaluate",
    ),
)


def page(runs, title=None):
    """The page as text.

    Args:
        runs: List of `Run`.
        title: String. Defaults to the names of the runs.

    Returns:
        A string of HTML.
    """
    title = title or " vs ".join(run.name for run in runs)
    sections, missing = [], []
    for section in SECTIONS:
        having = [run for run in runs if section.has(run)]
        content = section.draw(having) if having else None
        if content is not None:
            heading = element("h2", section.title)
            sections.append(
                (section, element("section", heading, content, id=section.anchor))
            )
        lacking = [run.name for run in runs if run not in having]
        if lacking and section.how:
            missing.append(
                element(
                    "li",
                    element("b", section.title),
                    f" ({', '.join(lacking)})" if having else None,
                    f": {section.how}.",
                )
            )
    links = [
        element("a", section.title, href=f"#{section.anchor}")
        for section, _ in sections
    ]
    if missing:
        missing = element(
            "section",
            element("h2", "Not on this page"),
            element("ul", missing, class_="short"),
            id="missing",
        )
    template = string.Template((HERE / "page.html").read_text("utf-8"))
    return template.substitute(
        title=element("title", f"{title}: robustness report"),
        style=(HERE / "page.css").read_text("utf-8"),
        heading=element("h1", title),
        facts=element("p", " · ".join(map(str, facts(runs))), class_="facts"),
        navigation=element("nav", links, aria_label="Sections"),
        sections="\n".join(content for _, content in sections),
        missing=missing or "",
        footer=f"keras_robustlt {keras_robustlt.__version__}",
    )


def facts(runs):
    """What the runs were trained and evaluated on, in a few words each."""
    run = next((run for run in runs if run.config), runs[0])
    options = run.settings
    found = []
    if "data" in options:
        found.append(options["data"])
    network = options.get("backbone") or options.get("model")
    if network:
        found.append(network)
    if run.class_names:
        found.append(f"{len(run.class_names)} classes")
    if run.class_counts and all(each.class_counts == run.class_counts for each in runs):
        found.append(
            f"{sum(run.class_counts):,} training images, {max(run.class_counts):,} to "
            f"{min(run.class_counts):,} a class"
        )
    evaluated = next((run.results for run in runs if run.results is not None), None)
    if evaluated is not None:
        if "examples" in evaluated.settings:
            found.append(f"{evaluated.settings['examples']:,} test images")
        if any(entry.get("attack") for entry in evaluated.values()):
            known = [each.results.settings for each in runs if each.results]
            budgets = dict.fromkeys(each.get("epsilon") for each in known)
            shown = [f"{255 * each:.3g}/255" for each in budgets if each is not None]
            if shown:
                found.append(f"epsilon {', '.join(shown)}")
    return found
