"""The code that the guide and the README show runs, in order, as it stands."""

import ast
import csv
import json
import pathlib
import re

import matplotlib.image
import numpy as np
import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]


def python_blocks(document):
    """The ```python blocks of a document, each at the lines where it stands there."""
    text = (ROOT / document).read_text(encoding="utf-8")
    blocks = []
    for match in re.finditer(r"^```python\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        lines_before = text[: match.start(1)].count("\n")
        blocks.append("\n" * lines_before + match[1])
    return blocks


def shortened(blocks, *replacements):
    """The blocks with what is shown replaced by what trains for less long here."""
    for shown, here in replacements:
        assert sum(block.count(shown) for block in blocks) == 1
        blocks = [block.replace(shown, here) for block in blocks]
    return blocks


def run(code, document, names):
    exec(compile(code, ROOT / document, "exec"), names)


@pytest.mark.tensorflow
def test_guide(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in shortened(python_blocks("docs/guide.md"), ("epochs=20", "epochs=10")):
        run(block, "docs/guide.md", names)

    assert names["data"].class_counts.tolist() == [120, 60, 30, 12, 6]
    assert "10 epochs" in capsys.readouterr().out
    directory = tmp_path / "runs" / "robustlt"
    with (directory / "history.csv").open(newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(10))
    for picture in (directory / "schedule.png", tmp_path / "runs" / "comparison.png"):
        assert matplotlib.image.imread(picture).std() > 0
    # Better than chance (0.2) under attack, on what the guide says it trains.
    saved = json.loads((directory / "results.json").read_text())
    assert saved["note"] == "from the guide"
    assert saved["attacks"]["pgd20"]["all"] > 0.4
    assert (tmp_path / "robust.keras").exists()


@pytest.mark.tensorflow
def test_rules_and_methods_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    blocks = python_blocks("docs/extending.md")
    for block in blocks:
        run(block, "docs/extending.md", names)
        # The page promises classes of under 30 lines.
        assert len(block.strip().splitlines()) < 30
    epsilon = names["inspector"].class_epsilon
    assert [round(float(each[0]), 4) for each in epsilon] == [0.06, 0.06, 0.06]
    assert [round(float(each[9]), 4) for each in epsilon] == [0.06, 0.08, 0.1]
    assert "AWP(method=<" not in capsys.readouterr().out
    assert names["again"].method.method.strength == 0.3
    weights = [names[model].network.get_weights() for model in ("again", "model")]
    for again, before in zip(*weights, strict=True):
        np.testing.assert_array_equal(again, before)


@pytest.mark.tensorflow
def test_readme_example(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # As printed, it trains for a minute or more.
    (code,) = shortened(
        python_blocks("README.md"),
        ("epochs=40", "epochs=2"),
        ("(classes=10)", "(classes=10, widths=(8,))"),
    )
    run(code, "README.md", {})
    table = capsys.readouterr().out
    assert "clean" in table and "pgd20" in table


def test_messages_of_the_guide_exist():
    # The table of the guide quotes error messages between double backquotes.
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    quoted = re.findall(r"^\| ``(.+?)`` \|", guide, re.MULTILINE)
    texts = []
    for path in (ROOT / "keras_robustlt").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = [n.value for n in node.values if isinstance(n, ast.Constant)]
                texts.append("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    assert len(quoted) >= 10
    missing = [q for q in quoted if not any(q in text for text in texts)]
    assert not missing
