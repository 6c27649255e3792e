"""Adversarial training that is fair to rare classes, for Keras 3.

```python
import keras_robustlt as krl

train, test, class_counts = krl.data.long_tail("digits", imbalance_ratio=50)
network = krl.networks.SmallResNet(classes=10)
model = krl.RobustLTModel(network, class_counts=class_counts, epsilon=0.1)
```

Names are loaded when they are first used: importing the package imports neither
Keras nor a backend.
"""

import importlib

__version__ = "0.1.0"

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
    return value


def __dir__():
    return sorted({*globals(), *__all__})
