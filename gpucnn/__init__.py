"""gpucnn: convolutional networks where every equation is one function, on NumPy (CPU) or CuPy (NVIDIA GPU)."""

from gpucnn.backend import Backend, available_devices, get_backend
from gpucnn.errors import DeviceError, DivergedError, GpucnnError, InputError
from gpucnn.geometry import Window
from gpucnn.layers import (
    ELU,
    Arctan,
    AveragePool2D,
    BinaryStep,
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    Identity,
    Layer,
    LeakyReLU,
    LpPool2D,
    MaxPool2D,
    PReLU,
    ReLU,
    Sigmoid,
    Softmax,
    Softplus,
    Tanh,
)
from gpucnn.losses import (
    AbsoluteError,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from gpucnn.model import Sequential
from gpucnn.optimizers import SGD, Adam
from gpucnn.trainer import Metrics, Trainer

__version__ = "0.1.0"

__all__ = [
    "ELU",
    "SGD",
    "AbsoluteError",
    "Adam",
    "Arctan",
    "AveragePool2D",
    "Backend",
    "BinaryStep",
    "Conv2D",
    "Dense",
    "DeviceError",
    "DivergedError",
    "Dropout",
    "Flatten",
    "GpucnnError",
    "Identity",
    "InputError",
    "Layer",
    "LeakyReLU",
    "LpPool2D",
    "MaxPool2D",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogError",
    "Metrics",
    "PReLU",
    "ReLU",
    "Sequential",
    "Sigmoid",
    "SigmoidCrossEntropy",
    "Softmax",
    "SoftmaxCrossEntropy",
    "Softplus",
    "SquaredError",
    "Tanh",
    "Trainer",
    "Window",
    "available_devices",
    "get_backend",
]
