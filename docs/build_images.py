"""Draws docs/images/augmentation.png: what each augmentation does to CIFAR-10 images.

    python docs/build_images.py --data_dir=PATH    # where CIFAR-10 is, if not default

The same images stand in every column, and each row is another draw. The draws are
fixed, so the picture is the same each time.
"""

import argparse
from pathlib import Path

import numpy as np

import keras_robustlt as krl

TARGET = Path(__file__).with_name("images") / "augmentation.png"
ROWS = {"none": 1, "base": 2, "base_rotation": 2, "ra": 3, "aua": 3}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", help="as for krl.data.load")
    arguments = parser.parse_args()
    data = krl.data.load("cifar10", data_dir=arguments.data_dir, download=False)
    # The first image of each class.
    images = data.x_train[np.unique(data.y_train, return_index=True)[1]]
    rows, labels = [], []
    for name, count in ROWS.items():
        labels += [name] + [""] * (count - 1)
        shape = (len(images), krl.data.AUGMENTATIONS[name].num_draws)
        for draw in range(count):
            # NumPy draws: what Keras draws differs between its backends.
            draws = np.random.default_rng(draw).random(shape)
            rows.append(krl.data.augment(images, name, draws=draws))
    figure = krl.plots.contact_sheet(rows, labels)
    print(f"Wrote {krl.plots.save(figure, TARGET)}.")


if __name__ == "__main__":
    main()
