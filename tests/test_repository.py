"""What holds for the repository as a whole: imports, paths, generated files."""

import os
import pathlib
import re
import runpy
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[1]
HEAVY = (
    "jax keras keras_cv matplotlib sklearn tensorflow tensorflow_datasets torch"
).split()
# Makes `import tensorflow` fail as it does where TensorFlow is not installed.
WITHOUT_TENSORFLOW = """
import sys

class NoTensorFlow:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("tensorflow", "tensorflow_datasets", "keras_cv"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NoTensorFlow())
"""


def run_python(*arguments, **environment):
    """Runs Python on the package of this checkout, and returns what it printed."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


def source_files():
    folders = ("keras_robustlt", "recipes", "tests", "docs", "benchmarks", ".ci")
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    files += [path for path in ROOT.iterdir() if not path.name.startswith(".")]
    suffixes = {"", ".json", ".md", ".py", ".toml"}
    return sorted(path for path in files if path.is_file() and path.suffix in suffixes)


@pytest.mark.tensorflow  # of one backend is enough
def test_imports():
    """One process for all: most of its time goes to importing the frameworks."""
    code = f"""
import sys, time
start = time.perf_counter()
import keras_robustlt
print(time.perf_counter() - start)
print(*[name for name in {HEAVY} if name in sys.modules])
# Whichever is imported first; the other order is the easier one.
import keras
print("keras_robustlt>RobustLTModel" in keras.saving.get_custom_objects())
for name in keras_robustlt.__all__:
    value = getattr(keras_robustlt, name)
    for member in getattr(value, "__all__", ()):
        getattr(value, member)
    print(name)
"""
    seconds, frameworks, known, *names = run_python("-c", code).splitlines()
    assert float(seconds) < 1, "importing the package is quick"
    assert frameworks == "", "and loads no framework"
    assert known == "True", "Keras knows the classes of saved models"
    assert "RobustLTModel" in names, "every public name loads"


@pytest.mark.tensorflow
def test_trains_on_jax_without_tensorflow():
    pytest.importorskip("jax", reason="the JAX backend needs JAX")
    code = f"""
{WITHOUT_TENSORFLOW}
import keras
import numpy as np

import keras_robustlt as krl

network = keras.Sequential(
    [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
)
model = krl.RobustLTModel(network, class_counts=[8, 2], epsilon=0.1)
model.compile(optimizer=krl.optimizers.SGD(0.1))
x = np.random.default_rng(0).random((10, 4, 4, 1), dtype="float32")
history = model.fit(x, np.arange(10) // 8, epochs=2, batch_size=5, verbose=0)
assert np.all(np.isfinite(history.history["loss"]))
assert "tensorflow" not in sys.modules
print(keras.backend.backend())
"""
    assert run_python("-c", code, KERAS_BACKEND="jax").split() == ["jax"]


def test_missing_tensorflow_is_noticed():
    # The test above proves something only if its blocker blocks.
    code = f"{WITHOUT_TENSORFLOW}\nimport tensorflow"
    with pytest.raises(AssertionError, match="No module named 'tensorflow'"):
        run_python("-c", code)


@pytest.mark.tensorflow
def test_api_reference_is_up_to_date(monkeypatch):
    monkeypatch.setattr(sys, "argv", ["build_api.py", "--check"])
    runpy.run_path(str(ROOT / "docs" / "build_api.py"), run_name="__main__")


def test_no_path_of_some_machine():
    path = re.compile(r"(?<![\w.])/(?:home/\w+|Users/\w+|root|work|tmp)/")
    found = [
        f"{file.relative_to(ROOT)}:{number}: {line.strip()}"
        for file in source_files()
        for number, line in enumerate(file.read_text("utf-8").splitlines(), start=1)
        if path.search(line) and file != pathlib.Path(__file__).resolve()
    ]
    assert not found, "\n".join(found)


def anchors(document):
    """The anchors of the headings of a Markdown file, as GitHub makes them."""
    text = re.sub(r"^```.*?^```$", "", document.read_text("utf-8"), flags=re.M | re.S)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    kept = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in headings)
    return {heading.replace(" ", "-") for heading in kept}


def test_links_of_the_documents():
    found = []
    folders = [ROOT / name for name in ("benchmarks", "docs", "tests")]
    documents = [path for folder in folders for path in folder.rglob("*.md")]
    for document in [*ROOT.glob("*.md"), *documents]:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text("utf-8")):
            if link.startswith(("http://", "https://")):
                continue
            path, _, anchor = link.partition("#")
            target = document.parent / path if path else document
            if not target.exists() or anchor and anchor not in anchors(target):
                found.append(f"{document.relative_to(ROOT)}: {link}")
    assert not found, "\n".join(found)
