"""The layers of a network; each works alone on a NumPy or CuPy array, or inside a `Sequential`."""

from gpucnn.layers import activations
from gpucnn.layers.activations import *
from gpucnn.layers.adaptive_pooling import AdaptiveAveragePool2D, AdaptiveMaxPool2D
from gpucnn.layers.base import Layer
from gpucnn.layers.containers import Parallel, Residual
from gpucnn.layers.convolution import Conv2D
from gpucnn.layers.dense import Dense
from gpucnn.layers.dropout import Dropout
from gpucnn.layers.joins import Add, Concat
from gpucnn.layers.normalization import BatchNorm2D, GroupNorm
from gpucnn.layers.pooling import AveragePool2D, GlobalAveragePool2D, GlobalMaxPool2D, LpPool2D, MaxPool2D
from gpucnn.layers.shapes import Flatten, Reshape, ZeroPad2D
from gpucnn.layers.transposed_convolution import Conv2DTranspose

__all__ = [
    "AdaptiveAveragePool2D",
    "AdaptiveMaxPool2D",
    "Add",
    "AveragePool2D",
    "BatchNorm2D",
    "Concat",
    "Conv2D",
    "Conv2DTranspose",
    "Dense",
    "Dropout",
    "Flatten",
    "GlobalAveragePool2D",
    "GlobalMaxPool2D",
    "GroupNorm",
    "Layer",
    "LpPool2D",
    "MaxPool2D",
    "Parallel",
    "Reshape",
    "Residual",
    "ZeroPad2D",
]
__all__ += activations.__all__
