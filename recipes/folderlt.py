"""Robust classification of your own images, from a folder to a table.

    python recipes/folderlt.py --data_dir=my_images

looks at the images and says what is noteworthy about them, proposes settings and says
why, trains the base method and what RobustLT makes of it, keeps the best epoch of each,
attacks both, and writes a report. Started again, it goes on where it was interrupted.
my_images has a sub-folder of images for each class, in train/ and test/ or directly; an
.npz file with arrays x_train, y_train, x_test and y_test, or those of MedMNIST, will
do as well, and so will mnist, fashion_mnist or tfds:NAME, of tensorflow-datasets.

    --dry_run                    only say what was found and what would be done
    --backbone=mobilenet_v2      a pretrained network, with AdamW and a cosine rate;
                                 --weights=none: its architecture alone
    --freeze=backbone            only its new last layer learns
    --nocompare                  RobustLT alone; --norobustlt: the base method alone

`python -m keras_robustlt train --data=my_images` does the same from anywhere.
"""

from keras_robustlt.experiments import train
from keras_robustlt.experiments.presets import OWN

if __name__ == "__main__":
    train.recipe(OWN, workdir="runs/folder", help=__doc__)
