"""Layers with several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from gpucnn.errors import InputError, describe
from gpucnn.layers.base import Array, Layer, Shape

__all__ = ["Add", "Concat", "Join"]


class Join(Layer):
    """What joins share: they make one array of several, and `backward` returns the list of their gradients.

    Inside a network a join ends a `Parallel`; called alone it takes a list of arrays.
    """

    def infer_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        """Check the shapes of one sample of each input, and return the output's."""
        raise NotImplementedError

    def set_input_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        """Infer the output's shape, and take note of both."""
        if any(map(np.isscalar, input_shapes)):
            raise InputError(f"{self.label}: takes several inputs; give it to a Parallel as its join")
        return super().set_input_shape(input_shapes)

    def _sizes(self, shapes: object, what: str = "input_shape") -> tuple[Shape, ...]:
        if not isinstance(shapes, (tuple, list)) or len(shapes) < 2 or any(map(np.isscalar, shapes)):
            raise InputError(f"{self.label}: expected the shapes of two inputs or more, received {shapes!r}")
        return tuple(map(super()._sizes, shapes))

    def _accept(self, xs: Sequence[Array]) -> int:
        if not isinstance(xs, (tuple, list)) or len(xs) < 2:
            received = f"{type(xs).__name__} of {len(xs)}" if isinstance(xs, (tuple, list)) else describe(xs)
            raise InputError(f"{self.label}: expected a list of two arrays or more, received a {received}")
        self._settle(xs[0], [getattr(x, "shape", ())[1:] for x in xs])
        if len(xs) != len(self.input_shape):
            raise InputError(f"{self.label}: was built for {len(self.input_shape)} inputs, received {len(xs)}")
        N = xs[0].shape[0]
        for number, (x, shape) in enumerate(zip(xs, self.input_shape, strict=True), start=1):
            self._check(x, f"input {number}", (N, *shape))
        self._check_samples(N)
        return N

    def _refuse(self, action: str, shapes: Sequence[Shape], cure: str) -> InputError:
        listed = " and ".join(map(str, shapes))
        return InputError(f"{(self.owner or self).label}: cannot {action} samples of shapes {listed}; {cure}")


class Add(Join):
    """Sum of inputs of one shape: `y = a + b + ...`, the gradient in each of which is dy.

    Called alone it takes a list of arrays; in a network it is the `join` of a `Parallel`. Raises `InputError` where
    their shapes are not equal.

    >>> add = Add()
    >>> add([np.array([[1.0, 2.0]]), np.array([[10.0, 20.0]])], train=True)
    array([[11., 22.]])
    >>> add.backpropagate(np.array([[3.0, 4.0]]))
    [array([[3., 4.]]), array([[3., 4.]])]
    """

    from_operations = per_sample = True

    def infer_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        if len(set(input_shapes)) > 1:
            raise self._refuse("add", input_shapes, "make them equal, for example by a 1x1 convolution in one branch")
        return input_shapes[0]

    def forward(self, xs: Sequence[Array], *, train: bool) -> Array:
        first, second, *others = xs
        y = self.buffer("y", tuple(first.shape))
        self.backend.add(first, second, out=y)
        for x in others:
            self.backend.add(y, x, out=y)
        return y

    def backward(self, dy: Array, *, need_dx: bool) -> list[Array] | None:
        return [dy] * len(self.input_shape) if need_dx else None


class Concat(Join):
    """Feature maps side by side: (N, ..., C1), (N, ..., C2), ... -> (N, ..., C1 + C2 + ...).

    Called alone it takes a list of arrays; in a network it is the `join` of a `Parallel`. The gradient in each input is
    its part of dy. Raises `InputError` where another size than the last is not equal.

    >>> concat = Concat()
    >>> concat([np.array([[1.0, 2.0]]), np.array([[3.0]])], train=True)
    array([[1., 2., 3.]])
    >>> concat.backpropagate(np.array([[10.0, 20.0, 30.0]]))
    [array([[10., 20.]]), array([[30.]])]
    """

    from_operations = per_sample = True
    starts: Sequence[int] = ()  # the first channel of each input in the output

    def infer_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        *self.starts, channels = accumulate(map(self._channels, input_shapes), initial=0)
        if len({shape[:-1] for shape in input_shapes}) > 1:
            raise self._refuse("concatenate", input_shapes, "make all sizes but the last equal, for example by padding")
        return (*input_shapes[0][:-1], channels)

    def forward(self, xs: Sequence[Array], *, train: bool) -> Array:
        return self.backend.concat(xs, out=self.buffer("y", (xs[0].shape[0], *self.output_shape)))

    def backward(self, dy: Array, *, need_dx: bool) -> list[Array] | None:
        if not need_dx:
            return None
        dxs = []
        for number, (shape, start) in enumerate(zip(self.input_shape, self.starts, strict=True)):
            dx = self.buffer(f"dx{number}", (dy.shape[0], *shape))
            dxs.append(self.backend.slice_channels(dy, start, out=dx))
        return dxs
