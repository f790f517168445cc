"""Data sets: reading them on the host, and keeping them on a device."""

from gpucnn.data.datasets import DATASETS, Dataset, Split, load
from gpucnn.data.resident import ResidentSplit

__all__ = ["DATASETS", "Dataset", "ResidentSplit", "Split", "load"]
