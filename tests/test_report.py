import html.parser
import json
import re
import subprocess
import sys
import types

import keras
import numpy as np
import pytest
from tiny_models import dense_network

import keras_robustlt as krl
from keras_robustlt.reporting import html as page_html
from keras_robustlt.reporting.charts import Line, line_chart, ticks
from keras_robustlt.reporting.page import facts

SECTIONS = [
    "Accuracy",
    "Head against tail",
    "Class by class",
    "Confusion under attack",
    "Budget in training",
    "Training curves",
    "Robustness against epsilon",
    "Images and their perturbations",
    "Settings",
]
VOID = {"img", "meta"}


class Page(html.parser.HTMLParser):
    """What a browser would find; fails where tags are not closed in their order."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.headings, self.words = [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "h2":
            self.headings.append(data)
        if "style" not in self.open:
            self.words.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


def results(names=("cat", "dog", "emu"), shift=0.0):
    """Results on ten images of each class, whose confusions are made up."""
    entries = {}
    for attack, right in (("clean", (9, 7, 5)), ("pgd20", (6, 4, 1))):
        confusion = np.diag(right)
        confusion[range(3), [1, 2, 0]] = 10 - np.array(right)
        entries[attack] = {
            **krl.metrics.summarize(right, [10, 10, 10], tail=[1, 2]),
            "attack": None if attack == "clean" else {"class": "PGD", "steps": 20},
            "seconds": 1.0,
            "confusion": confusion.tolist(),
        }
        entries[attack]["all"] += shift
    settings = {
        "epsilon": 0.1,
        "examples": 30,
        "examples_per_class": [10, 10, 10],
        "seed": 7,
        "class_counts": [50, 10, 2],
        "class_names": list(names),
        "tail_classes": [1, 2],
        "versions": {"keras_robustlt": "9.9.9"},
    }
    return krl.EvaluationResults(entries, settings)


def examples():
    rng = np.random.default_rng(0)
    x = rng.random((3, 8, 8, 1), "float32")
    probabilities = rng.dirichlet(np.ones(3), 3)
    return krl.AdversarialExamples(
        x, np.clip(x + 0.1, 0, 1), np.arange(3), probabilities, probabilities, 0.1
    )


def write_run(path, name="AT", names=("cat", "dog", "emu"), shift=0.0):
    """A directory with all that a recipe's run has and the page shows."""
    path.mkdir()
    found = results(names, shift)
    found.curve = krl.RobustnessCurve(
        epsilons=[0.0, 0.1, 0.2],
        all=[0.7, 0.4, 0.1],
        tail=[0.6, 0.3, 0.0],
        balanced=[0.7, 0.4, 0.1],
        worst=[0.5, 0.1, 0.0],
        examples=30,
        attack={"class": "PGD", "steps": 10},
    )
    found.to_json(path / "results.json")
    examples().to_npz(path / "examples.npz")
    settings = {"data": "pets", "method": "at", "seed": 7, "options": {"tau": 1.0}}
    config = {
        "settings": settings,
        "name": name,
        "class_names": names,
        "class_counts": [50, 10, 2],
        "versions": {"keras": "3.1.4"},
        "device": "cpu, 2 cores",
        "command": "python recipes/pets.py",
    }
    (path / "config.json").write_text(json.dumps(config))
    lines = [
        "epoch,loss,accuracy,val_accuracy,epsilon_mean",
        "0,2.5,.2,.1,0",
        "1,1,,.6,.1",
    ]
    (path / "history.csv").write_text("\n".join(lines) + "\n")
    header = ",".join(["epoch", "iteration_weight", *names])
    (path / "schedule.csv").write_text(f"{header}\n0,0,0,0,0\n1,1,.08,.1,.12\n")
    return path


@pytest.fixture
def run(tmp_path):
    return write_run(tmp_path / "run")


def report(*arguments, **options):
    """The page, read as a browser reads it, and its text."""
    path = krl.report(*arguments, **options)
    text = path.read_text("utf-8")
    return Page(text), text


def test_all_sections_of_a_full_run(run, tmp_path):
    page, text = report(run, tmp_path / "new" / "report.html")
    assert page.headings == SECTIONS
    words = " ".join(page.words)
    for value in ("36.7", "9.9.9", "3.1.4", "cpu, 2 cores", "recipes/pets.py", "tau=1"):
        assert value in words, value
    assert "cat taken for dog: 40% (clean: 10%)" in "".join(page.words)
    # Accuracy on the head, on the tail, and between.
    assert "60.0 25.0 35.0" in " ".join(words.split())


def test_the_page_needs_nothing_else(run, tmp_path):
    page, text = report(run, tmp_path / "report.html")
    assert "http" not in text
    assert not re.search(r"@import|url\(", text)
    assert {name for name, _ in page.tags}.isdisjoint({"script", "link", "iframe"})
    sources = [image["src"] for image in page.all("img")]
    assert len(sources) == 9
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    anchors = {tag["href"] for tag in page.all("a")}
    assert anchors == {f"#{tag['id']}" for tag in page.all("section")}


def test_the_page_can_be_heard(run, tmp_path):
    page, text = report(run, tmp_path / "report.html")
    assert all(image["alt"] for image in page.all("img"))
    charts = page.all("svg")
    assert charts and all(chart["role"] == "img" for chart in charts)
    assert text.count("<title>") == len(charts) + 1
    assert all(header["scope"] for header in page.all("th"))
    assert text.count("<caption>") == len(page.all("table"))


def test_text_is_escaped(tmp_path):
    bad = "</style><script>alert('&\"')</script>"
    run = write_run(tmp_path / "run", name=bad, names=(bad, "b&b", "c"))
    page, text = report(run, tmp_path / "report.html", title=bad)
    assert not page.all("script")
    assert "<script" not in text
    assert bad in page.words


def test_long_names_are_whole(tmp_path):
    long, arabic = "Melanocytic naevus with regression", "قطة صغيرة (نادرة)"
    run = write_run(tmp_path / "run", names=(long, arabic, "c"))
    page, text = report(run, tmp_path / "report.html")
    # Numbers stand for them in the chart and over the confusions.
    for key in (f"1. {long}", f"2. {arabic}", "3. c"):
        assert page.words.count(key) == 2
    assert re.findall(r"<text[^>]*hsl[^>]*>(\w+)</text>", text) == ["3", "2", "1"]
    heads = text.split('<table class="confusion numbered">')[1].split("</thead>")[0]
    assert re.findall(r"<span>(\d)</span>", heads) == ["1", "2", "3"]
    # Letters from the right do not turn the numbers around that follow them.
    assert f"<bdi>{arabic}</bdi> taken for <bdi>c</bdi>: 60% (clean: 30%)" in text


def test_curves_say_of_which_images(run, tmp_path):
    columns = ["adversarial_accuracy", "clean_accuracy", "accuracy", "val_accuracy"]
    lines = [["epoch", *columns], [0, 0.1, 0.2, 0.1, 0.2]]
    (run / "history.csv").write_text("\n".join(",".join(map(str, r)) for r in lines))
    _, text = report(run, tmp_path / "report.html")
    captions = re.findall(r"<figcaption>([a-z ]+)<small>([^<]*)", text)
    assert captions == [
        (
            "adversarial accuracy",
            "training images under the training attack, within the budget of the epoch",
        ),
        ("clean accuracy", "without an attack"),
        ("accuracy", "training: perturbed images; validation: without an attack"),
    ]


def test_runs_side_by_side(run, tmp_path):
    other = write_run(tmp_path / "other", name="AT", shift=0.1)
    page, text = report(run, other, tmp_path / "report.html")
    words = " ".join(page.words)
    assert page.headings == SECTIONS
    assert "AT (2)" in words
    assert "+10.0" in words
    # The better one is bold.
    assert "<b>46.7</b>" in text and "<td>36.7</td>" in text
    named, text = report(run, other, tmp_path / "report.html", names=["one", "two"])
    assert "AT (2)" not in text
    assert named.words.count("two") > 5


def test_runs_that_were_not_evaluated_alike(run, tmp_path):
    other = write_run(tmp_path / "other", name="ours", shift=0.1)
    content = json.loads((other / "results.json").read_text())
    content["settings"]["epsilon"] = 0.05
    content["attacks"]["pgd20"]["attack"]["epsilon"] = 0.05
    (other / "results.json").write_text(json.dumps(content))
    with pytest.warns(UserWarning, match="not evaluated alike.* differ in attack pgd2"):
        page, text = report(run, other, tmp_path / "report.html")
    words = " ".join(page.words)
    assert "epsilon 25.5/255, 12.8/255" in words
    assert "numbers cannot be compared" in words
    assert "+10.0" not in words and "<b>46.7</b>" not in text


def test_head_and_tail_of_each_run(tmp_path):
    """No class may be head, and which are may differ."""
    ours, theirs = results(), results()
    ours.settings["tail_classes"] = [0, 1, 2]
    page, _ = report(ours, tmp_path / "report.html")
    words = " ".join(page.words)
    assert "All classes are tail." in words and "– 70.0 –" in words
    theirs.settings["class_counts"] = [2, 10, 50]
    page, _ = report(ours, theirs, tmp_path / "report.html")
    words = " ".join(page.words)
    assert "Which classes are head differs from run to run." in words
    assert "50 / 2" in words and "62 training images" not in words


def test_what_is_not_there_is_left_out_and_named(run, tmp_path):
    other = write_run(tmp_path / "other", name="Other")
    (other / "schedule.csv").unlink()
    (other / "examples.npz").unlink()
    page, text = report(other, tmp_path / "report.html")
    gone = {"Budget in training", "Images and their perturbations"}
    assert page.headings == [s for s in SECTIONS if s not in gone] + [
        "Not on this page"
    ]
    assert "callbacks.ScheduleInspector(DIRECTORY)" in text
    # Of two runs the one that has it is shown, and the other one named.
    page, text = report(run, other, tmp_path / "report.html")
    assert page.headings == [*SECTIONS, "Not on this page"]
    assert " (Other): train with" in " ".join(page.words)


def test_skew_and_drift_side_by_side(run, tmp_path):
    other = write_run(tmp_path / "other", name="Other")
    head = "epoch,loss,skew,robust_risk,robust_risk_change,drift_linf,drift_l2"
    for folder, skews in ((run, (0.5, 0.25)), (other, (1, 3))):
        rows = [
            f"{i},1,{skew},2,nan,{0.1 * i or 'nan'},1" for i, skew in enumerate(skews)
        ]
        (folder / "history.csv").write_text("\n".join([head, *rows]) + "\n")
    page, text = report(run, other, tmp_path / "report.html")
    assert "Skew and drift" in page.headings
    # The mean over the epochs and the last one; of the drift, what is known.
    rows = re.findall(r"<td>([^<]*)</td>" * 5, text)
    assert rows[:2] == [
        ("0.375", "0.25", "2", "25.5", "1"),
        ("2", "3", "2", "25.5", "1"),
    ]
    skew = (
        "Skewed objective along the epochs. AT: from 0.5 to 0.25. Other: from 1 to 3."
    )
    assert text.count(skew) == 1
    assert "robust risk change" not in text


def test_chosen_alpha_and_growth_are_drawn(run, tmp_path):
    lines = ["epoch,loss,iteration_weight,alpha", "0,1,0,0", "1,1,.5,.25"]
    (run / "history.csv").write_text("\n".join(lines) + "\n")
    _, text = report(run, tmp_path / "report.html")
    assert "alpha: from 0 to 0.25. w: from 0 to 0.5." in text


def test_a_run_in_training(run, tmp_path):
    (run / "results.json").unlink()
    (run / "examples.npz").unlink()
    page, _ = report(run, tmp_path / "report.html")
    shown = ["Budget in training", "Training curves", "Settings", "Not on this page"]
    assert page.headings == shown


def test_results_and_files_of_results_are_runs_too(tmp_path):
    old = results()
    for entry in old.values():
        del entry["confusion"]
    old.to_json(tmp_path / "old.json")
    new = results()
    new.examples = examples()
    for name in ("curve", "examples"):
        with pytest.raises(ValueError, match=f"`{name}` must be a keras_robustlt"):
            setattr(new, name, 3)
    page, text = report(new, tmp_path / "old.json", tmp_path / "report.html")
    assert page.headings[:4] == SECTIONS[:4]
    assert "Images and their perturbations" in page.headings
    assert {"run 1", "old"} <= set(page.words)
    assert "evaluate again" in text


def test_results_that_say_nothing_of_the_attack(tmp_path):
    found = results()
    for entry in found.values():
        entry.pop("attack", None)
    found.to_json(tmp_path / "results.json", accuracy=np.float32(0.5))
    report(found, tmp_path / "results.json", tmp_path / "report.html")


def test_many_classes(tmp_path):
    count = 40
    rng = np.random.default_rng(0)
    confusion = rng.integers(1, 9, (count, count))
    right, total = np.diag(confusion), confusion.sum(axis=1)
    entry = {
        **krl.metrics.summarize(right, total, []),
        "attack": None,
        "confusion": confusion.tolist(),
    }
    settings = {
        "epsilon": 0.1,
        "class_counts": None,
        "class_names": [f"class {i}" for i in range(count)],
        "tail_classes": None,
    }
    found = krl.EvaluationResults({"clean": entry}, settings)
    page, text = report(found, tmp_path / "report.html")
    assert "Confusion under attack" in page.headings
    (picture,) = page.all("img")
    assert (picture["width"], picture["height"]) == ("40", "40")
    assert len(text) < 60_000


def test_findings_are_shown(tmp_path):
    found = results()
    found.settings["findings"] = [{"check": "a", "message": "gradients < 0 vanish"}]
    page, _ = report(found, tmp_path / "report.html")
    assert "gradients < 0 vanish" in page.words


@pytest.mark.parametrize(
    "arguments, options, message",
    [
        ((), {}, "`path`, the last argument"),
        ((results(), "report.txt"), {}, "Received: 'report.txt'"),
        ((results(),), {}, "`path`, the last argument"),
        (("report.html",), {}, "`runs` must come before the path"),
        ((3, "report.html"), {}, "`runs` must be .* Received: 3"),
        (("nowhere", "report.html"), {}, "`runs` .*'nowhere', which does not exist"),
        ((results(), "report.html"), {"names": ["a", "b"]}, "`names` must have a name"),
        ((results(), "report.html"), {"names": "a"}, "`names` must have a name"),
        (
            (results(), results(("cat", "dog", "fox")), "report.html"),
            {},
            "`runs` must be of the same classes",
        ),
    ],
)
def test_wrong_arguments(arguments, options, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        krl.report(*arguments, **options)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "name",
    ["results.json", "config.json", "history.csv", "schedule.csv", "examples.npz"],
)
@pytest.mark.parametrize("content", [b'{"a"\nb', b"\xff\xfe{}", b"[]"])
def test_broken_files(name, content, run, tmp_path):
    (run / name).write_bytes(content)
    with pytest.raises(ValueError, match=name):
        krl.report(run, tmp_path / "report.html")


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("results.json", '"class_counts": [50, 10, 2]', '"class_counts": [50, 10]'),
        ("results.json", '"class_counts": [50, 10, 2]', '"class_counts": "abc"'),
        ("results.json", '"tail_classes": [1, 2]', '"tail_classes": [7]'),
        ("results.json", '"examples": 30', '"examples": "many"'),
        ("results.json", '"settings": {', '"settings": {"findings": [{"a": 1}], '),
        ("results.json", '"per_class": [0.9, ', '"per_class": ["x", '),
        ("results.json", '"epsilon": 0.1', '"epsilon": "0.1"'),
        ("results.json", '"epsilons": [0.0, ', '"epsilons": ['),
        ("config.json", '"settings": {', '"settings": 3, "others": {'),
        ("config.json", '"class_names": ["cat", ', '"class_names": ['),
        ("config.json", '"class_counts": [50, 10', '"class_counts": [50, -10'),
        ("config.json", '"settings": {', '"settings": {"epsilon": "big", '),
        ("config.json", '"settings": {', '"settings": {"epsilon": 8, '),
        ("history.csv", "0,2.5,.2,.1,0", "0,2.5,.2,.1"),
        ("history.csv", "1,1,,.6,.1", "1,one,,.6,.1"),
        ("schedule.csv", "1,1,.08", "1,1,x"),
        ("schedule.csv", "1,1,.08", "1,1,inf"),
        ("schedule.csv", "iteration_weight,", "something,"),
        ("schedule.csv", "epoch,", "number,"),
    ],
)
def test_files_with_something_else_in_them(name, old, new, run, tmp_path):
    text = (run / name).read_text()
    assert old in text
    (run / name).write_text(text.replace(old, new, 1))
    with pytest.raises(ValueError, match=name):
        krl.report(run, tmp_path / "report.html")


def test_files_of_two_runs_in_one_directory(run, tmp_path):
    (run / "schedule.csv").write_text("epoch,iteration_weight,a,b\n0,0,0.1,0.2\n")
    with pytest.raises(ValueError, match="results.json of 3, schedule.csv of 2"):
        krl.report(run, tmp_path / "report.html")


def test_files_of_two_runs_of_as_many_classes(run, tmp_path):
    others = "apple", "cat", "fig"
    other = write_run(tmp_path / "other", names=others)
    for name in ("config.json", "results.json", "schedule.csv"):
        before = (run / name).read_text()
        (run / name).write_text((other / name).read_text())
        with pytest.raises(ValueError, match=f"class 0 called .*'apple' in {name}"):
            krl.report(run, tmp_path / "report.html")
        (run / name).write_text(before)
    # An evaluation of one's own, without names.
    results(names="012").to_json(run / "results.json")
    krl.report(run, tmp_path / "report.html")


@pytest.mark.parametrize("change", ["float", "shape", "labels", "object"])
def test_examples_that_do_not_fit(change, tmp_path):
    arrays = dict(vars(examples()))
    if change == "float":
        arrays["images"] = arrays["images"].astype("uint8")
    elif change == "shape":
        arrays["probabilities"] = arrays["probabilities"][:2]
    elif change == "labels":
        arrays["labels"] = arrays["labels"] + 1
    else:
        arrays["images"] = np.array([None])
    np.savez(tmp_path / "examples.npz", **arrays)
    with pytest.raises(ValueError, match="`path` must be a file that .*examples.npz"):
        krl.AdversarialExamples.from_npz(tmp_path / "examples.npz")


@pytest.mark.parametrize("names", [("epoch", "iteration_weight", "c"), ("a", "a", "a")])
def test_classes_called_like_columns_or_like_each_other(names, tmp_path):
    run = write_run(tmp_path / "run", names=names)
    page, _ = report(run, tmp_path / "report.html")
    assert page.headings == SECTIONS
    words = " ".join(page.words)
    for name, last in zip(names, (20.4, 25.5, 30.6), strict=True):
        assert f"{name}: from 0 to {last}." in words


def test_names_that_are_not_utf_8(tmp_path):
    path = tmp_path / "report.html"
    krl.report(results(("k\udce4se", "dog", "emu")), path)
    assert "k\\udce4se" in path.read_text("utf-8")


def test_no_budget_where_nothing_is_attacked(run, tmp_path):
    _, text = report(run, tmp_path / "report.html")
    assert "epsilon 25.5/255" in text and "Budget in training" in text
    config = json.loads((run / "config.json").read_text())
    config["settings"].update(method="standard", alpha=0.25, epsilon=0.1)
    (run / "config.json").write_text(json.dumps(config))
    found = results()
    del found["pgd20"]
    found.to_json(run / "results.json")
    page, text = report(run, tmp_path / "report.html")
    assert "Budget in training" not in page.headings
    assert "epsilon 25.5/255" not in text and '<th scope="row">alpha' not in text
    rows = re.findall(r'<th scope="row">(\w+)</th>', text)
    assert "seed" in rows and not {"epsilon", "alpha"} & set(rows)


def test_the_lines_that_matter_have_labels(tmp_path):
    names = [f"class {i:02}" for i in range(20)]
    budgets = [0.01 * (7 * i % 20) for i in range(20)]
    (tmp_path / "schedule.csv").write_text(
        ",".join(["epoch", "iteration_weight", *names]) + "\n"
        f"0,0,{','.join(['0'] * 20)}\n1,1,{','.join(map(str, budgets))}\n"
    )
    _, text = report(tmp_path, tmp_path / "report.html")
    labels = set(re.findall(r">(class \d\d)</text>", text))
    expected = {0, 19, int(np.argmin(budgets)), int(np.argmax(budgets))}
    assert labels == {names[index] for index in expected}


def test_command(run, tmp_path):
    output = tmp_path / "page.html"
    command = [sys.executable, "-m", "keras_robustlt", "report", str(run)]
    command += [f"--output={output}", "--names=Mine", "--title=A & B"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"Report: {output}\n"
    assert "<h1>A &amp; B</h1>" in output.read_text("utf-8")
    done = subprocess.run([*command[:4], "nowhere"], capture_output=True, text=True)
    assert done.returncode == 1
    assert "error: `runs`" in done.stderr


def test_elements_escape():
    inner = page_html.element("b", "<&>", None, [1, " ", "a"], title='"')
    assert inner == '<b title="&quot;">&lt;&amp;&gt;1 a</b>'
    assert page_html.element("p", inner, class_="x") == f'<p class="x">{inner}</p>'


def test_ticks_are_round():
    assert ticks(0, 1) == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert ticks(1, 40) == [10, 20, 30, 40]
    assert ticks(0, 0.0031)[:2] == [0, 0.001]


def test_line_chart_leaves_gaps_where_there_is_no_value():
    line = Line("a", [0, 1, 2, 3], [1.0, np.nan, 2.0, 1.0], "red")
    chart = line_chart([line], "x", "y", "a line")
    (path,) = re.findall(r'<path d="([^"]*)"', chart)
    assert re.sub(r"[\d. ]+", "", path) == "MML"


# What is measured for the page


@pytest.fixture
def linear():
    """Three logits `w . x`, images of three classes, and by how much each is right.

    Within a ball of the radius epsilon, a margin of a linear network falls by epsilon
    times the sum of the absolute weights, unless [0, 1] is in the way.
    """
    rng = np.random.default_rng(1)
    network = dense_network()
    weights = rng.normal(size=(108, 3)).astype("float32")
    x = rng.uniform(0.4, 0.6, (24, 6, 6, 3)).astype("float32")
    bias = -weights.sum(axis=0) / 2
    network.set_weights([weights, bias])
    logits = x.reshape(24, -1) @ weights + bias
    y = logits.argmax(axis=1)
    others = [[c for c in range(3) if c != label] for label in y]
    margins = np.array(
        [
            min(
                (logits[i, label] - logits[i, other])
                / np.abs(weights[:, label] - weights[:, other]).sum()
                for other in others[i]
            )
            for i, label in enumerate(y)
        ]
    )
    return network, x, y, margins


def test_curve_of_a_linear_network(linear):
    network, x, y, margins = linear
    # Between the radii of the images, so that rounding does not matter.
    radii = np.sort(np.unique(margins))
    epsilons = [0.0, *((radii[1:] + radii[:-1]) / 2)[::6], 0.3]
    attack = krl.attacks.PGD(0.02, steps=5, loss="margin", random_start=False)
    counts = np.maximum(np.bincount(y, minlength=3), 1)
    curve = krl.robustness_curve(
        network, x, y, epsilons, attack, class_counts=counts, verbose=0
    )
    expected = [np.mean(margins > epsilon) for epsilon in epsilons]
    assert curve["all"] == pytest.approx(expected)
    assert curve["all"] == sorted(curve["all"], reverse=True)
    assert curve["epsilons"] == epsilons
    assert curve["examples"] == 24
    assert curve["attack"]["class"] == "PGD"


def test_curve_compiles_once_and_takes_a_part(linear):
    network, x, y, _ = linear
    traces = []

    def loss(targets, logits):
        traces.append(1)
        return -keras.ops.sum(targets * logits, axis=-1)

    attack = krl.attacks.PGD(0.01, steps=1, loss=loss)
    one = krl.robustness_curve(network, x, y, [0.01], attack, verbose=0)
    alone = len(traces)
    traces.clear()
    curve = krl.robustness_curve(
        network, x, y, [0.0, 0.01, 0.02, 0.03], attack, verbose=0
    )
    assert len(traces) == alone
    assert curve["all"][1] == one["all"][0]
    assert curve["tail"] is None
    part = krl.robustness_curve(network, x, y, [0.0], attack, examples=6, verbose=0)
    assert part["examples"] == 6


def test_what_results_need_not_say(tmp_path):
    entry = {"all": 0.5, "tail": None, "balanced": 0.5, "worst": 0.0}
    entry |= {"per_class": [1.0, 0.0], "attack": {"class": "PGD"}}
    found = krl.EvaluationResults({"pgd": entry}, {"class_counts": np.array([8, 4])})
    groups = dict.fromkeys(("all", "balanced", "worst"), [0.9, 0.5])
    found.curve = krl.RobustnessCurve(epsilons=[0.0, 0.1], tail=None, **groups)
    found.to_json(tmp_path / "results.json")
    again = krl.EvaluationResults.from_json(tmp_path / "results.json")
    assert (again, again.curve) == (found, found.curve)
    krl.report(again, tmp_path / "report.html")
    assert "Each budget on its own." in (tmp_path / "report.html").read_text("utf-8")


def test_expected_robustness_is_the_area_under_the_curve(tmp_path):
    found = results(("cat", "dog", "emu"))
    found.curve = krl.RobustnessCurve(
        epsilons=[0.2, 0.0, 0.1, 0.4],  # in any order
        all=[0.3, 0.9, 0.5, 0.1],
        tail=None,
        balanced=[0.3, 0.9, 0.5, 0.1],
        worst=[0.0, 0.4, 0.2, 0.0],
        examples=9,
        attack={"class": "PGD", "epsilon": 0.2},
    )
    found.to_json(tmp_path / "results.json")
    curve = krl.EvaluationResults.from_json(tmp_path / "results.json").curve
    # (.9 + .5) / 2 and (.5 + .3) / 2, as wide; (.4 + .2) / 2 and .2 / 2.
    expected = {"all": 0.55, "balanced": 0.55, "worst": 0.2}
    found = curve.expected_robustness()
    assert found.pop("tail") is None
    assert found == pytest.approx(expected)
    # Up to .3, where .2 is between .3 and .1: .2 x .55 + .1 x .25.
    assert curve.expected_robustness(0.3)["all"] == pytest.approx(0.45)
    for epsilon in (0.5, 0.0, -0.1):
        with pytest.raises(ValueError, match="from 0 to `epsilon`"):
            curve.expected_robustness(epsilon)
    for epsilon in ("0.1", [0.1], True):
        with pytest.raises(ValueError, match="`epsilon` must be a number"):
            curve.expected_robustness(epsilon)
    for values in ({}, {**curve, "epsilons": []}, {**curve, "all": [0.5]}):
        with pytest.raises(ValueError, match="an accuracy for each of them"):
            krl.RobustnessCurve(**values).expected_robustness(0.1)


@pytest.mark.parametrize(
    "options, message",
    [
        ({"attack": "autoattack"}, "`attack` must be 'pgdN'"),
        ({"attack": "clean"}, "`attack` must be 'pgdN'"),
        ({"attack": krl.attacks.PGD(0.1, restarts=2)}, "`attack` must be 'pgdN'"),
        ({"epsilons": []}, "`epsilons` must be a list"),
        ({"epsilons": 0.1}, "`epsilons` must be a list .*epsilons=0.1"),
        ({"epsilons": [8]}, r"`epsilons\[0\]` is in pixel units"),
        ({"examples": 0}, "`examples` must be an integer"),
    ],
)
def test_wrong_arguments_of_a_curve(options, message, linear):
    network, x, y, _ = linear
    with pytest.raises(ValueError, match=message):
        krl.robustness_curve(network, x, y, verbose=0, **options)


def test_examples_are_one_of_each_class(images, tmp_path):
    x, y = images
    network = dense_network()
    attack = krl.attacks.PGD(0.05, steps=2)
    found = krl.adversarial_examples(
        network, x, y, attack, class_counts=[2, 9, 4], batch_size=5
    )
    assert found.labels.tolist() == [1, 2, 0]
    for image, label in zip(found.images, found.labels, strict=True):
        assert label in y[(x == image).all(axis=(1, 2, 3))]
    change = np.abs(found.adversarial - found.images)
    assert 0.04 < change.max() <= 0.05 + 1e-6
    np.testing.assert_allclose(found.probabilities.sum(axis=1), 1, rtol=1e-5)
    logits = keras.ops.convert_to_numpy(network(found.adversarial))
    np.testing.assert_array_equal(
        found.adversarial_probabilities.argmax(axis=1), logits.argmax(axis=1)
    )
    found.to_npz(tmp_path / "examples.npz")
    again = krl.AdversarialExamples.from_npz(tmp_path / "examples.npz")
    np.testing.assert_array_equal(again.adversarial, found.adversarial)
    assert again.epsilon == 0.05
    ends = krl.adversarial_examples(network, x, y, attack, 2, class_counts=[2, 9, 4])
    assert ends.labels.tolist() == [1, 0]


def test_no_examples_of_logits_that_are_no_numbers(images):
    network = dense_network()
    network.layers[-1].kernel.assign(np.full((108, 3), 3e38, "float32"))
    with pytest.raises(ValueError, match="`model` must give logits that are finite"):
        krl.adversarial_examples(network, *images, krl.attacks.PGD(0.05, steps=2))


def test_confusions_of_an_evaluation(images):
    x, y = images
    network = dense_network()
    attacks = {
        "clean": None,
        "pgd": krl.attacks.PGD(0.02, steps=2, restarts=2),
        "auto": krl.attacks.AutoAttack([krl.attacks.APGD(steps=4)], epsilon=0.02),
        "darker": lambda network, x, y, seed: 0.9 * x,
    }
    found = krl.evaluate(network, x, y, attacks, verbose=0, per_example=True)
    for name in attacks:
        confusion = np.array(found[name]["confusion"])
        assert confusion.sum(axis=1).tolist() == [4, 4, 4]
        robust = np.bincount(y, found.robust[name], minlength=3)
        assert np.diag(confusion).tolist() == robust.tolist()
    predicted = keras.ops.convert_to_numpy(network(0.9 * x)).argmax(axis=1)
    expected = np.zeros((3, 3), int)
    np.add.at(expected, (y, predicted), 1)
    assert found["darker"]["confusion"] == expected.tolist()
    assert "confusion" not in found["union"]
    assert found["pgd"]["seconds"] > 0


def test_numbers_of_a_list_are_on_one_line():
    found = results(names=("a\n[", "b]", "c"))
    text = found.to_json()
    assert '"class_counts": [50, 10, 2]' in text
    assert json.loads(text) == {"attacks": dict(found), "settings": found.settings}


@pytest.mark.parametrize("backbone, expected", [(None, "wrn"), ("resnet_18",) * 2])
def test_the_network_that_was_trained_is_named(backbone, expected):
    settings = {"model": "wrn", "backbone": backbone}
    run = types.SimpleNamespace(
        config={}, settings=settings, class_names=[], class_counts=[], results=None
    )
    assert facts([run]) == [expected]
