"""Dropout."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from gpucnn.checks import number
from gpucnn.execution.context import Context
from gpucnn.layers.base import Array, Layer, Shape

__all__ = ["Dropout"]


class Dropout(Layer):
    """In training, zero a share `rate` of the elements and divide the rest by `1 - rate`; else the identity.

    (N, ...) -> (N, ...). The mask comes from a counter, not from a generator with hidden state: a seed gives the same
    masks on every device. Source: Srivastava et al., JMLR 2014.

    Parameters
    ----------
    rate : a number of at least 0 and below 1; it may be changed later

    Raises `InputError` for any other rate.

    >>> dropout, x = Dropout(0.5), np.ones((1, 8))
    >>> dropout(x, train=True)
    array([[0., 0., 0., 0., 0., 0., 2., 2.]])
    >>> dropout(x)
    array([[1., 1., 1., 1., 1., 1., 1., 1.]])
    """

    from_operations = True
    changeable: ClassVar = {"rate": partial(number, below=1.0)}
    mask: Array = None
    key: tuple[int, int] = (0, 0)

    def __init__(self, rate: float, *, name: str | None = None):
        super().__init__(name)
        self.rate = number(rate, f"{self.label}: rate", below=1.0)
        self.counter: Array | None = None

    def infer_shape(self, input_shape: Shape) -> Shape:
        return input_shape

    def bind(self, context: Context) -> None:
        super().bind(context)
        self.key = context.random_key(self.id)
        self.counter = self.backend.zeros((1,), self.backend.xp.int64)

    def reset(self) -> None:
        if self.counter is not None:
            self.counter[...] = 0

    def state(self) -> dict[str, Array]:
        return {} if self.counter is None else {"counter": self.counter}

    def forward(self, x: Array, *, train: bool) -> Array:
        if not train or self.rate == 0:
            return x
        y = self.buffer("y", tuple(x.shape))
        self.mask = self.buffer("mask", tuple(x.shape), self.backend.xp.uint8)
        self.backend.dropout(x, self.rate, self.key, self.counter, out=y, mask=self.mask)
        return y

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx or self.rate == 0:
            return dy if need_dx else None
        return self.backend.dropout_dx(dy, self.mask, self.rate, out=self.buffer("dx", tuple(dy.shape)))
