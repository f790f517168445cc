"""Which layers compute together: the table of fusions.

A pattern is for classes that compute as the library's do, so for a class of a user's own that redefines nothing, too.
"""

from __future__ import annotations

import math
from typing import Any

from gpucnn.execution.segment import Pattern
from gpucnn.layers.activations import ReLU
from gpucnn.layers.base import Layer
from gpucnn.layers.convolution import Conv2D
from gpucnn.layers.dense import Dense
from gpucnn.layers.normalization import BatchNorm2D
from gpucnn.layers.pooling import MaxPool2D

__all__ = ["PATTERNS"]

Array = Any


def _is(layer: Layer, *kinds: type[Layer]) -> bool:
    return isinstance(layer, kinds) and not layer.is_opaque


def _rectified_pooling(relu: ReLU, pool: MaxPool2D, x: Array, train: bool, batch: float) -> Array:
    """Pool and rectify in one pass, in either order: where the largest pixel is not above 0 none has won."""
    return pool.forward(x, train=train, relu=True)


def _rectified_pooling_dx(relu: ReLU, pool: MaxPool2D, dy: Array, need_dx: bool) -> Array | None:
    return pool.backward(dy, need_dx=need_dx)


def _rectified(product: Conv2D | Dense, relu: ReLU, x: Array, train: bool, batch: float) -> Array:
    """Rectify with the bias; the output that both have in common is what the ReLU's derivative reads."""
    relu.y = product.forward(x, train=train, relu=True)
    return relu.y


def _rectified_dx(product: Conv2D | Dense, relu: ReLU, dy: Array, need_dx: bool) -> Array | None:
    return product.backward(relu.backward(dy, need_dx=True), need_dx=need_dx)


def _normalized(convolution: Conv2D, norm: BatchNorm2D, x: Array, train: bool, batch: float) -> Array:
    """Scale the kernels or the output, whichever is smaller."""
    min_batch = math.ceil(convolution.w.size / math.prod(convolution.output_shape))
    if batch < min_batch:
        return norm.apply(convolution.forward(x, train=False))
    return convolution.convolve(x, *norm.fold(*convolution.weights(), min_batch))


def _no_backward(convolution: Conv2D, norm: BatchNorm2D, dy: Array, need_dx: bool) -> Array | None:
    raise NotImplementedError("inference has no backward pass")


# In the order in which they are tried, each on the whole network.
PATTERNS = (
    Pattern(
        lambda first, second: _is(first, ReLU) and _is(second, MaxPool2D),
        (True, False),
        _rectified_pooling,
        _rectified_pooling_dx,
    ),
    Pattern(
        lambda first, second: _is(first, Conv2D) and _is(second, BatchNorm2D),
        (False,),
        _normalized,
        _no_backward,
    ),
    Pattern(
        lambda first, second: _is(first, Conv2D, Dense) and _is(second, ReLU),
        (True, False),
        _rectified,
        _rectified_dx,
    ),
)
