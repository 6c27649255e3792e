"""The code and commands that the guide and the README show run as they stand."""

import ast
import csv
import importlib
import json
import pathlib
import re
import shlex

import matplotlib.image
import numpy as np
import pytest
from absl import flags

from keras_robustlt import __main__ as command_line
from keras_robustlt.experiments import own, train

ROOT = pathlib.Path(__file__).resolve().parents[1]


def blocks_of(document):
    """The language, code and line of the blocks of a document."""
    text = (ROOT / document).read_text(encoding="utf-8")
    fence = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
    for match in fence.finditer(text):
        yield match[1], match[2], text[: match.start(2)].count("\n")


def python_blocks(document):
    """The ```python blocks of a document, each at the lines where it stands there."""
    return [
        "\n" * line + code
        for language, code, line in blocks_of(document)
        if language == "python"
    ]


def commands(document):
    """The arguments of the commands of this package that a document shows."""
    start = "python -m keras_robustlt "
    return [
        shlex.split(code)[3:]
        for language, code, _ in blocks_of(document)
        if not language and code.startswith(start)
    ]


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
    monkeypatch.delenv(train.SHOWN, raising=False)
    own.propose.cache_clear()
    folder, *blocks = shortened(
        python_blocks("docs/guide.md"),
        ("epochs=20):", "epochs=8):"),
        ('weights="imagenet"', "weights=None"),
    )
    names = {}
    run(folder, "docs/guide.md", names)

    first, dry_run, *rest = commands("docs/guide.md")
    assert first[0] == "check" and dry_run[-1] == "--dry_run"
    command_line.main(["", *first])
    assert "imbalance" in capsys.readouterr().out
    command_line.main(["", *dry_run])
    assert "Would train AT-BSL and AT-BSL + RobustLT" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()

    for block in blocks:
        run(block, "docs/guide.md", names)
    assert names["data"].class_counts.tolist() == [96, 48, 24, 10, 5]
    assert names["arrays"].class_counts.tolist() == [120, 60, 30, 12, 6]
    assert "8 epochs" in capsys.readouterr().out
    directory = tmp_path / "runs" / "mine"
    with (directory / "history.csv").open(newline="") as file:
        assert [int(row["epoch"]) for row in csv.DictReader(file)] == list(range(8))
    for picture in (directory / "schedule.png", tmp_path / "rarest.png"):
        assert matplotlib.image.imread(picture).std() > 0
    # Better than chance (0.2) under attack, on what the guide says it trains.
    saved = json.loads((directory / "results.json").read_text())
    assert saved["note"] == "from the guide"
    assert saved["attacks"]["pgd20"]["all"] > 0.4
    assert "digit 4" in (tmp_path / "report.html").read_text(encoding="utf-8")

    predicts = [command for command in rest if "robust.keras" in command]
    command_line.main(["", *predicts[0]])
    assert "digit 0" in capsys.readouterr().out.split(".png", 1)[1]


def test_flags_of_the_guide_exist():
    # Those in the text, outside of blocks, are of `train`.
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    given = commands("docs/guide.md")
    given += [["train", flag] for flag in re.findall(r"`(--\w+=\S+|--no\w+)`", guide)]
    assert len(given) > 15
    for command, *arguments in given:
        module = f"keras_robustlt.{command_line.COMMANDS[command][0]}"
        values = flags.FlagValues()
        importlib.import_module(module).define_flags(values)
        values([command, *arguments])


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
        ("widths=(16, 32, 64)", "widths=(8,)"),
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
