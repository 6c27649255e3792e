"""Chooses the arrays of this directory from the whole reference, see README.md.

    python tests/golden/choose.py REFERENCE

REFERENCE is the directory of the whole reference arrays, one `.npz` file a subject.
"""

import pathlib
import sys

import numpy as np

HERE = pathlib.Path(__file__).parent
# Images of the attacks' problems, which do not depend on each other.
EVALUATED, ATTACKED = 2, 8


def always(key):
    return True


def training_step(key):
    """One step of AT-BSL: its attack, loss, weights and statistics."""
    scenario, _, rest = key.partition(".")
    unused = (".start_noise", ".losses", ".momentum.", ".after_biased.", "step2.")
    return not rest or (
        scenario == "atbsl" and not any(u in f".{rest}" for u in unused)
    )


def evaluation_attacks(key):
    needed = ("x", "x0", "x_adv", "x_after_1", "x_after_10", "robust", "predictions")
    return key in ("y", "x", "x0", "epsilon", "num_steps", "step_size") or (
        key.startswith("weights.") or key.split(".")[-1] in needed
    )


def autoattack(key):
    of_all = ("aa.attacks", "aa.robust_after", "aa.individual", "square.robust")
    left_out = ("apgd_ce.", "apgd.start", "aa.x_adv", *of_all)
    return not key.startswith(left_out)


# The arrays of each file, and how many of the images.
CHOICE = {
    "cpb": (always, None),
    "aiw": (always, None),
    "losses": (always, None),
    "classifiers": (always, None),
    "train_step": (training_step, None),
    "attacks_eval": (evaluation_attacks, EVALUATED),
    "autoattack": (autoattack, ATTACKED),
}


def first_images(array, images, images_of_all):
    """`array` with the first `images` of its axis that has an entry for each image."""
    if images is None or images_of_all not in array.shape:
        return array
    return array.take(range(images), axis=array.shape.index(images_of_all))


def main(reference):
    for name, (chosen, images) in CHOICE.items():
        with np.load(pathlib.Path(reference) / f"{name}.npz") as arrays:
            every = len(arrays["x"]) if images else None
            kept = {
                key: first_images(arrays[key], images, every)
                for key in arrays
                if chosen(key)
            }
        path = HERE / f"{name}.npz"
        np.savez_compressed(path, **kept)
        print(f"{path.name}: {len(kept)} arrays, {path.stat().st_size:,} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
