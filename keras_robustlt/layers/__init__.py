"""The layers that Keras does not have.

A saved network with one of them loads once `keras_robustlt.layers` is imported.
"""

from keras_robustlt.layers.batch_normalization import BatchNormalization
from keras_robustlt.layers.classifiers import CosineClassifier, CosPlusClassifier
from keras_robustlt.layers.tokens import ClassToken, PositionEmbedding

__all__ = [
    "BatchNormalization",
    "ClassToken",
    "CosPlusClassifier",
    "CosineClassifier",
    "PositionEmbedding",
]
