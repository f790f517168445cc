"""The tensors of a graph: on the host, and on the device with their axes in the order that somebody needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from gpucnn.backend import Backend

__all__ = ["FLOATS", "Order", "Value", "compute", "elementwise", "last"]

Array = Any
Order = tuple[int, ...]

FLOATS = ("float32", "float64")


class Value:
    """One tensor of a graph, kept in each form that it was asked for.

    ONNX has channels second, gpucnn last. `array(order)` is the tensor on the device with its axes permuted by
    `order`, as `permute_dims` does it. Whoever computes something from it elementwise does so in the `order` in which
    it lies, so a chain of convolutions and activations permutes at its two ends only. Floats live on the device and
    have the backend's precision; whole numbers and booleans, mostly shapes, stay on the host until asked for.

    Attributes
    ----------
    shape, rank : of the tensor as ONNX has it
    order : in which it lies on the device
    is_float : whether it is computed with on the device
    """

    _host: np.ndarray | None = None

    def __init__(self, backend: Backend, array: Array, order: Order | None = None):
        array = backend.xp.asarray(array)  # NumPy returns numbers where 0-d arrays are meant
        order = order or _as_is(array.ndim)
        self.backend, self._arrays = backend, {order: array}
        self.shape = tuple(array.shape[order.index(axis)] for axis in range(array.ndim))
        self.is_float = array.dtype == backend.float_dtype

    @classmethod
    def on_host(cls, backend: Backend, array: np.ndarray) -> Value:
        """Return the value of a NumPy array, which is copied to the device when needed there."""
        self = cls.__new__(cls)
        host = np.asarray(array)
        self.backend, self._host, self._arrays = backend, host, {}
        self.shape = host.shape
        self.is_float = host.dtype.name in FLOATS
        return self

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def order(self) -> Order:
        """Order of the axes of the array that was computed or asked for first."""
        return next(iter(self._arrays), _as_is(self.rank))

    @property
    def host(self) -> np.ndarray:
        """The tensor as a NumPy array."""
        if self._host is None:
            self._host = self.backend.to_host(self.array())
        return self._host

    @property
    def number(self) -> int | float:
        """The one element of the tensor, on the host."""
        return self.host.item()

    def array(self, order: Order | None = None) -> Array:
        """Return the tensor on the device, with its axes as ONNX has them or in another order."""
        order = order or _as_is(self.rank)
        if order not in self._arrays:
            self._arrays[order] = self._permuted(order)
        return self._arrays[order]

    def _permuted(self, order: Order) -> Array:
        backend, shape = self.backend, tuple(self.shape[axis] for axis in order)
        if not self._arrays:
            dtype = backend.precision if self.is_float else self.host.dtype.name
            out = backend.empty(shape, getattr(backend.xp, dtype))
            return backend.from_host(np.transpose(self.host, order), out=out)
        held, array = next(iter(self._arrays.items()))
        out = backend.empty(shape, array.dtype)
        out[...] = backend.xp.permute_dims(array, tuple(held.index(axis) for axis in order))
        return out

    def transposed(self, axes: Order) -> Value:
        """Return the tensor whose axis i is this one's axis `axes[i]`; on the device nothing moves before it must."""
        if not self.is_float:
            return Value.on_host(self.backend, np.transpose(self.host, axes))
        order = self.order
        return Value(self.backend, self.array(order), tuple(axes.index(axis) for axis in order))

    def reshaped(self, shape: Sequence[int]) -> Value:
        """Return the tensor with the same elements, in ONNX's order, and another shape."""
        if not self.is_float:
            return Value.on_host(self.backend, np.reshape(self.host, shape))
        return Value(self.backend, self.backend.xp.reshape(self.array(), tuple(shape)))

    def with_rank(self, rank: int) -> Value:
        """Return the tensor with axes of size 1 put in front of it, up to this rank."""
        return self if self.rank >= rank else self.reshaped((1,) * (rank - self.rank) + self.shape)


def _as_is(rank: int) -> Order:
    return tuple(range(rank))


def last(axis: int, rank: int) -> Order:
    """Return the order with one axis moved to the end: channels last is `last(1, rank)`."""
    return (*(other for other in range(rank) if other != axis % rank), axis % rank)


def compute(function: Callable[..., Array], *values: Value) -> Value:
    """Return `function(xp, order, *arrays)` as a value: floats on the device, whole numbers on the host by NumPy.

    The arrays have one rank, so that they broadcast against each other however their axes are permuted, and the axes of
    the largest value decide the order of all and of the result.
    """
    backend, rank = values[0].backend, max(value.rank for value in values)
    values = tuple(value.with_rank(rank) for value in values)
    if not any(value.is_float for value in values):
        return Value.on_host(backend, function(np, _as_is(rank), *(value.host for value in values)))
    order = max(values, key=lambda value: value.size).order
    return Value(backend, function(backend.xp, order, *(value.array(order) for value in values)), order)


def elementwise(function: Callable[..., Array], *values: Value) -> Value:
    """Return `function(*arrays)`, which broadcasts its arguments, as `compute` does."""
    return compute(lambda xp, order, *arrays: function(*arrays), *values)
