"""Writes one page on runs of the recipes, side by side.

    python -m keras_robustlt.report DIR [DIR ...] --output=report.html

DIR is the `--workdir` of a recipe, or another directory with some of its files, or a
results.json. The page is one file that needs no network.

    --names=AT,RobustLT        what the runs are called on the page
    --title="Digits, seed 1"   its title
"""

import sys

if __name__ == "__main__":
    from absl import app, flags

    from keras_robustlt.reporting import command as report_command

    report_command.define_flags(flags.FLAGS)
    flags.adopt_module_key_flags(report_command)

    def main(argv):
        report_command.main(argv, flags.FLAGS)

    app.run(main)
else:
    # The import system gives this module's name in the package to what stands for it
    # in `sys.modules`: `keras_robustlt.report` stays the function.
    from keras_robustlt.reporting import report

    sys.modules[__name__] = report
