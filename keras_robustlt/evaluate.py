"""Measures how robust a saved network is, class by class.

    python -m keras_robustlt.evaluate network.keras --data=cifar10 --data_dir=DATA

NETWORK is a file of Keras that gives logits, such as the network.keras of a recipe,
and DATA what `keras_robustlt.data.load` reads; the test images are used. If there is a
config.json beside the network, as in the directory of a recipe's run, it tells epsilon,
the classes and their training images, which say what the tail is.

    --attacks=clean,pgd20,cw20         the table of the paper, without AutoAttack
    --attacks=clean,autoattack         what others compare with: the standard version
    --attacks=clean,pgd20 --examples=1000        quicker, on a part of the test images

Long runs keep what is done with --cache=progress.npz: the same command goes on from
there. --output=results.json writes all figures, and --per_example beside it, as
results.npz, which images are robust. The backend is that of Keras, such as
KERAS_BACKEND=jax.
"""

import sys

if __name__ == "__main__":
    from absl import app, flags

    from keras_robustlt.evaluation import command as evaluate_command

    evaluate_command.define_flags(flags.FLAGS)
    flags.adopt_module_key_flags(evaluate_command)

    def main(argv):
        # What this returned would be the exit status.
        evaluate_command.main(argv, flags.FLAGS)

    app.run(main)
else:
    # The import system gives this module's name in the package to what stands for it
    # in `sys.modules`: `keras_robustlt.evaluate` stays the function.
    from keras_robustlt.evaluation.evaluate import evaluate

    sys.modules[__name__] = evaluate
