"""Data sets: reading them on the host, and keeping them on a device."""

from gpucnn.data.augmentation import Augmentation
from gpucnn.data.datasets import DATASETS, Dataset, Split, load
from gpucnn.data.device_dataset import DeviceDataset, Normalization

__all__ = ["DATASETS", "Augmentation", "Dataset", "DeviceDataset", "Normalization", "Split", "load"]
