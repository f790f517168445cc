"""Data sets: reading them on the host, and keeping them on a device."""

from gpucnn.augmentation import Augmentation
from gpucnn.data.datasets import DATASETS, Dataset, Split, load
from gpucnn.data.resident import Normalization, ResidentSplit

__all__ = ["DATASETS", "Augmentation", "Dataset", "Normalization", "ResidentSplit", "Split", "load"]
