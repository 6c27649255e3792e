"""Adversarial training that is fair to rare classes, for Keras 3.

```python
import keras_robustlt as krl

train, test, class_counts = krl.data.long_tail("digits", imbalance_ratio=50)
network = krl.networks.SmallResNet(classes=10)
model = krl.RobustLTModel(network, class_counts=class_counts, epsilon=0.1)
```

Names are loaded when they are first used: importing the package imports neither
Keras nor a backend. With Keras imported, before or after, `keras.saving.load_model`
knows the classes of the package.
"""

import contextlib
import importlib
import importlib.util
import sys

__version__ = "0.1.0"

_PREFIX = f"{__name__}."

_SUBMODULES = (
    "attacks",
    "averaging",
    "budget",
    "callbacks",
    "data",
    "interop",
    "layers",
    "losses",
    "methods",
    "metrics",
    "networks",
    "optimizers",
    "plots",
)
_MEMBERS = {
    "RobustLTModel": "model",
    "AdversarialExamples": "evaluation.results",
    "EvaluationResults": "evaluation.results",
    "evaluate": "evaluation.evaluate",
    "Diagnosis": "evaluation.diagnose",
    "RobustnessCurve": "evaluation.results",
    "RobustnessWarning": "evaluation.sanity_checks",
    "adversarial_examples": "evaluation.curves",
    "class_names_of": "deployment.export",
    "diagnose": "evaluation.diagnose",
    "export": "deployment.export",
    "report": "reporting",
    "Suggestion": "suggestion",
    "robustness_curve": "evaluation.curves",
    "suggest": "suggestion",
}

__all__ = [*_MEMBERS, *_SUBMODULES]


def __getattr__(name):
    if name in _MEMBERS:
        value = getattr(importlib.import_module(f"{__name__}.{_MEMBERS[name]}"), name)
    elif name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{name}")
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    if "keras" in sys.modules:
        _register()
    return value


def __dir__():
    return sorted({*globals(), *__all__})


class _WithKeras:
    """Finds Keras as Python does, and has it know this package once it is imported.

    A saved model names its classes, and Keras finds those that are registered: the
    modules that register them must have been imported before a model is loaded.
    """

    @classmethod
    def find_spec(cls, name, path=None, target=None):
        if name != "keras":
            return None
        sys.meta_path.remove(cls)
        spec = importlib.util.find_spec(name)
        if spec is not None:
            execute = spec.loader.exec_module

            def exec_module(module):
                execute(module)
                _register()

            spec.loader.exec_module = exec_module
        return spec


def _register():
    """Imports what registers classes, unless this package is just being imported."""
    ours = [module for name, module in sys.modules.items() if name.startswith(_PREFIX)]
    if any(getattr(module.__spec__, "_initializing", False) for module in ours):
        return
    # A backend that is not supported is an error where the package is used.
    with contextlib.suppress(ImportError):
        for module in ("model", "optimizers"):
            importlib.import_module(f"{_PREFIX}{module}")


if "keras" in sys.modules:
    _register()
else:
    sys.meta_path.insert(0, _WithKeras)
