"""Data sets: reading them on the host, and keeping them on a device."""

from gpucnn.data.augmentation import Augmentation
from gpucnn.data.datasets import DATASETS, Dataset, Split, load
from gpucnn.data.device_dataset import Normalization, ResidentSplit

__all__ = ["DATASETS", "Augmentation", "Dataset", "Normalization", "ResidentSplit", "Split", "load"]
