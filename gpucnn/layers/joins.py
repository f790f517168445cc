"""Layers with several inputs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise

import numpy as np

from gpucnn.backend import Backend
from gpucnn.errors import InputError, describe
from gpucnn.execution.lifetimes import Spec, Value, Walk, join_values
from gpucnn.layers.base import Array, Layer, Shape

__all__ = ["Add", "Concat", "Join", "add_all"]


class Join(Layer):
    """Makes one array of several; `backward` returns the list of their gradients.

    Inside a network it ends a `Parallel`; alone it takes a list::

        y = Add().forward([a, b])
    """

    def infer_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        """Check the shapes of one sample of each input, and return the output's."""
        raise NotImplementedError

    def _set_shapes(self, input_shapes: Sequence[Shape]) -> Shape:
        if any(map(np.isscalar, input_shapes)):
            raise InputError(f"{self.label}: takes several inputs; give it to a Parallel as its join")
        return super()._set_shapes(input_shapes)

    def _sizes(self, shapes: object) -> tuple[Shape, ...]:
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

    def _walk_forward(self, walk: Walk, xs: list[Value]) -> Value:
        return super()._walk_forward(walk, join_values(xs))

    def _walk_split(self, walk: Walk, dy: Value) -> list[Value]:
        """Do as `_backward`, with buffers in place of arrays."""
        raise NotImplementedError

    def _refuse(self, action: str, shapes: Sequence[Shape], cure: str) -> InputError:
        listed = " and ".join(map(str, shapes))
        return InputError(f"{(self.owner or self).label}: cannot {action} samples of shapes {listed}; {cure}")


class Add(Join):
    """Sum of inputs of one shape: `y = a + b + ...`."""

    keeps = ()

    def infer_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        if len(set(input_shapes)) > 1:
            raise self._refuse("add", input_shapes, "make them equal, for example by a 1x1 convolution in one branch")
        return input_shapes[0]

    def _forward(self, xs: Sequence[Array], train: bool) -> Array:
        return add_all(self.backend, xs, self.buffer("y", (xs[0].shape[0], *self.output_shape)))

    def _walk_forward(self, walk: Walk, xs: list[Value]) -> Value:
        return walk.add(self, "y", self.output_shape, xs)

    def _walk_split(self, walk: Walk, dy: Value) -> list[Value]:
        return [dy] * len(self.input_shape)

    def _backward(self, dy: Array, need_dx: bool) -> list[Array] | None:
        return [dy] * len(self.input_shape) if need_dx else None


class Concat(Join):
    """Feature maps side by side: (N, H, W, C1), (N, H, W, C2), ... -> (N, H, W, C1 + C2 + ...)."""

    keeps = ()

    def infer_shape(self, input_shapes: Sequence[Shape]) -> Shape:
        ends = [0, *accumulate(map(self._channels, input_shapes))]
        if len({shape[:-1] for shape in input_shapes}) > 1:
            raise self._refuse("concatenate", input_shapes, "make all sizes but the last equal, for example by padding")
        self.slices = [slice(*pair) for pair in pairwise(ends)]
        return (*input_shapes[0][:-1], ends[-1])

    def _forward(self, xs: Sequence[Array], train: bool) -> Array:
        y = self.buffer("y", (xs[0].shape[0], *self.output_shape))
        for x, channels in zip(xs, self.slices, strict=True):
            y[..., channels] = x
        return y

    def _walk_split(self, walk: Walk, dy: Value) -> list[Value]:
        specs = {f"dx{number}": Spec(shape) for number, shape in enumerate(self.input_shape)}
        return list(walk.call(self, dy, specs).values())

    def _backward(self, dy: Array, need_dx: bool) -> list[Array] | None:
        if not need_dx:
            return None
        dxs = []
        for number, (shape, channels) in enumerate(zip(self.input_shape, self.slices, strict=True)):
            dx = self.buffer(f"dx{number}", (dy.shape[0], *shape))
            dx[...] = dy[..., channels]
            dxs.append(dx)
        return dxs


def add_all(backend: Backend, arrays: Sequence[Array], out: Array) -> Array:
    """Write the sum of arrays of one shape; `out` may be either of the first two, if it is none of the others."""
    backend.add(arrays[0], arrays[1], out=out)
    for array in arrays[2:]:
        backend.add(out, array, out=out)
    return out
