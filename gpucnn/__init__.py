"""gpucnn: convolutional networks where every equation is one function, on NumPy (CPU) or CuPy (NVIDIA GPU)."""

from gpucnn import layers
from gpucnn.backend import Backend, available_devices, get_backend
from gpucnn.errors import DeviceError, DivergedError, GpucnnError, InputError
from gpucnn.execution.memory_plan import MemoryPlan
from gpucnn.geometry import Window
from gpucnn.layers import *
from gpucnn.layers.activations import *  # again, for type checkers: they do not read `__all__ += ...`
from gpucnn.losses import (
    AbsoluteError,
    BinaryCrossEntropy,
    Hinge,
    Huber,
    MeanAbsoluteError,
    MeanAbsolutePercentageError,
    MeanSquaredError,
    MeanSquaredLogError,
    SigmoidCrossEntropy,
    SoftmaxCrossEntropy,
    SquaredError,
)
from gpucnn.model import Sequential
from gpucnn.optim.averaging import WeightAverage
from gpucnn.optim.optimizers import SGD, Adagrad, Adam, AdamW, RMSprop
from gpucnn.training.trainer import Metrics, Trainer

__version__ = "0.1.0"

__all__ = [
    "SGD",
    "AbsoluteError",
    "Adagrad",
    "Adam",
    "AdamW",
    "Backend",
    "BinaryCrossEntropy",
    "DeviceError",
    "DivergedError",
    "GpucnnError",
    "Hinge",
    "Huber",
    "InputError",
    "MeanAbsoluteError",
    "MeanAbsolutePercentageError",
    "MeanSquaredError",
    "MeanSquaredLogError",
    "MemoryPlan",
    "Metrics",
    "RMSprop",
    "Sequential",
    "SigmoidCrossEntropy",
    "SoftmaxCrossEntropy",
    "SquaredError",
    "Trainer",
    "WeightAverage",
    "Window",
    "available_devices",
    "get_backend",
]
__all__ += layers.__all__
