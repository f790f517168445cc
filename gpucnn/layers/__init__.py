"""The layers of a network; each works alone on a NumPy or CuPy array, or inside a `Sequential`."""

from gpucnn.layers.activation import ReLU, Sigmoid, Softmax, Tanh
from gpucnn.layers.base import Layer
from gpucnn.layers.convolution import Conv2D
from gpucnn.layers.dense import Dense
from gpucnn.layers.pooling import AveragePool2D, LpPool2D, MaxPool2D
from gpucnn.layers.regularization import Dropout
from gpucnn.layers.shape import Flatten

__all__ = [
    "AveragePool2D",
    "Conv2D",
    "Dense",
    "Dropout",
    "Flatten",
    "Layer",
    "LpPool2D",
    "MaxPool2D",
    "ReLU",
    "Sigmoid",
    "Softmax",
    "Tanh",
]
