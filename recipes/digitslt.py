"""Robust classification of long-tailed handwritten digits: the quickstart.

    python recipes/digitslt.py --compare

trains adversarial training (AT) without and with RobustLT on scikit-learn's digits,
114 images of the digit 0 down to 2 of the digit 9, and compares them, in about a
minute on two cores. No download. Without --compare: one run, of the settings that the
flags say. Started again, it goes on where it was interrupted.
"""

import pathlib

import runner
from absl import app, flags
from presets import DIGITSLT

runner.define_flags(DIGITSLT, default="default", workdir="runs/digits")
flags.adopt_module_key_flags(runner)
flags.DEFINE_bool("compare", False, "Train without and with RobustLT, and compare.")


def main(argv):
    if argv[1:]:
        raise app.UsageError(f"what is {argv[1]!r}? Flags start with --.")
    settings = runner.settings_from_flags(DIGITSLT)
    workdir = pathlib.Path(flags.FLAGS.workdir)
    if not flags.FLAGS.compare:
        runner.run(settings, "digits", workdir)
        return
    base = {**settings, "alpha": 0.0, "beta": 0.0}
    runs = {
        runner.settings_name(each): runner.run(each, "digits", workdir / folder)
        for folder, each in (("base", base), ("robustlt", settings))
    }
    runner.compare(runs, workdir)


if __name__ == "__main__":
    app.run(main)
