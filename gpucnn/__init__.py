"""gpucnn: convolutional networks where every equation is one function, on NumPy (CPU) or CuPy (NVIDIA GPU)."""

from gpucnn.backend import Backend, available_devices, get_backend
from gpucnn.errors import DeviceError, DivergedError, GpucnnError, InputError
from gpucnn.geometry import Window
from gpucnn.layers import (
    AveragePool2D,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Layer,
    LpPool2D,
    MaxPool2D,
    ReLU,
    Sigmoid,
    Softmax,
    Tanh,
)
from gpucnn.losses import MeanSquaredError, SigmoidCrossEntropy, SoftmaxCrossEntropy
from gpucnn.model import Sequential
from gpucnn.optimizers import SGD, Adam
from gpucnn.trainer import Metrics, Trainer

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "Adam",
    "AveragePool2D",
    "Backend",
    "Conv2D",
    "Dense",
    "DeviceError",
    "DivergedError",
    "Dropout",
    "Flatten",
    "GpucnnError",
    "InputError",
    "Layer",
    "LpPool2D",
    "MaxPool2D",
    "MeanSquaredError",
    "Metrics",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Tanh",
    "Trainer",
    "Window",
    "available_devices",
    "get_backend",
]
