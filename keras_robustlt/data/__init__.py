"""Long-tailed data: selection, sources and training pipelines."""

from keras_robustlt.data.augmentation import AUGMENTATIONS, augment, on_device
from keras_robustlt.data.checking import check
from keras_robustlt.data.findings import DataCheck
from keras_robustlt.data.long_tailed import LongTailData, long_tail, long_tail_arrays
from keras_robustlt.data.pipeline import pipeline
from keras_robustlt.data.selection import long_tail_counts, long_tail_indices
from keras_robustlt.data.sources import Source, load

__all__ = [
    "AUGMENTATIONS",
    "DataCheck",
    "LongTailData",
    "Source",
    "augment",
    "check",
    "load",
    "long_tail",
    "long_tail_arrays",
    "long_tail_counts",
    "long_tail_indices",
    "on_device",
    "pipeline",
]
