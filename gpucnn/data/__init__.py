"""Data sets: reading them on the host, and keeping them on a device."""

from gpucnn.data.datasets import DATASETS, Dataset, Split, load
from gpucnn.data.resident import Normalization, ResidentSplit

__all__ = ["DATASETS", "Dataset", "Normalization", "ResidentSplit", "Split", "load"]
