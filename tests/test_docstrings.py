"""The examples in the docstrings run, and print what they say."""

import doctest
import importlib
import pkgutil
import re
import sys
import textwrap

import keras
import numpy as np
import pytest

import keras_robustlt as krl

# Of these only the length is in the way: the guide's test runs the same steps.
TOO_LONG = {"keras_robustlt.model.RobustLTModel"}
# What `fit` is told as readers would, and trains for here.
EPOCHS = re.compile(r"\bepochs=\d\d+"), "epochs=2"
FENCED = re.compile(r"^( *)```python\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)


def examples():
    """Pytest parameters `(kind, doctest or code)`, one for each docstring."""
    found = {}
    packages = pkgutil.walk_packages(krl.__path__, f"{krl.__name__}.")
    for name in ["keras_robustlt", *(info.name for info in packages)]:
        if ".backend" in name:
            continue  # the modules of other backends do not import
        module = importlib.import_module(name)
        for test in doctest.DocTestFinder().find(module):
            if test.examples:
                for each in test.examples:
                    each.source = re.sub(*EPOCHS, each.source)
                found[test.name] = test
            elif match := FENCED.search(test.docstring or ""):
                found[test.name] = textwrap.dedent(match[2])
    return [pytest.param(value, id=name) for name, value in sorted(found.items())]


@pytest.fixture(scope="module")
def given():
    """What an example may take as given: two classes of tiny images, and a model."""
    y = np.array([0, 0, 0, 0, 1, 1])
    x = np.random.default_rng(0).random((6, 4, 4, 1), "float32")
    network = keras.Sequential(
        [keras.Input((4, 4, 1)), keras.layers.Flatten(), keras.layers.Dense(2)]
    )
    model = krl.RobustLTModel(network, class_counts=[4, 2])
    model.compile(krl.optimizers.SGD(0.1))
    data = krl.data.pipeline(x, y, batch_size=3)
    results = krl.evaluate(model, x, y, verbose=0)
    names = {"krl": krl, "keras": keras, "np": np, "network": network, "model": model}
    names |= {"x": x, "y": y, "class_counts": [4, 2], "train": data, "test": data}
    return {**names, "at": results, "ours": results}


class Checker(doctest.OutputChecker):
    """Compares the output where the example shows one; the spacing does not count."""

    def check_output(self, want, got, optionflags):
        return not want or "".join(want.split()) == "".join(got.split())


def show(value):
    """Prints tensors as arrays, as the docstrings do for all backends."""
    if value is not None:
        tensor = keras.ops.is_tensor(value)
        print(repr(keras.ops.convert_to_numpy(value) if tensor else value))


@pytest.mark.tensorflow
@pytest.mark.parametrize("example", examples())
def test_example(example, given, tmp_path, monkeypatch, request):
    if request.node.callspec.id in TOO_LONG:
        pytest.skip("trains for long")
    monkeypatch.chdir(tmp_path)
    if isinstance(example, str):
        exec(example, dict(given))
        return
    monkeypatch.setattr(sys, "__displayhook__", show)
    # What an example needs beyond the given it must make itself, as a reader would.
    example.globs = dict(given)
    failures, _ = doctest.DocTestRunner(Checker(), verbose=False).run(example)
    assert failures == 0


def test_every_example_that_is_left_out_exists():
    assert TOO_LONG <= {parameter.id for parameter in examples()}
