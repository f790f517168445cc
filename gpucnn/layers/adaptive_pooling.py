"""Pooling to an output of a given size, whatever the size of the input."""

from __future__ import annotations

from gpucnn.checks import pair
from gpucnn.layers.base import Array, Layer, Shape

__all__ = ["AdaptiveAveragePool2D", "AdaptiveMaxPool2D"]


class AdaptivePool2D(Layer):
    """What the adaptive poolings share: (N, H, W, C) -> (N, OH, OW, C).

    Row i of the output takes the rows from floor(i*H/OH) up to ceil((i + 1)*H/OH) of the input, and so for the columns;
    there may be more of them in the output than in the input.

    Parameters
    ----------
    output_size : an int, or a pair (OH, OW)
    """

    from_operations = per_sample = True
    argmax: Array = None

    def __init__(self, output_size: int | tuple[int, int], *, name: str | None = None):
        super().__init__(name)
        self.output_size = pair(output_size, f"{self.label}: output_size", least=1)

    def infer_shape(self, input_shape: Shape) -> Shape:
        _, _, C = self._image_shape(input_shape)
        return (*self.output_size, C)


class AdaptiveAveragePool2D(AdaptivePool2D):
    """Mean of the pixels that each pixel of the output takes."""

    def forward(self, x: Array, *, train: bool) -> Array:
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        return self.backend.adaptive_average_pool2d(x, self.output_size, out=y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", (dy.shape[0], *self.input_shape))
        return self.backend.adaptive_average_pool2d_dx(dy, dx.shape, out=dx)


class AdaptiveMaxPool2D(AdaptivePool2D):
    """Largest of the pixels that each pixel of the output takes. On a tie the error goes to the first, row by row."""

    def forward(self, x: Array, *, train: bool) -> Array:
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        self.argmax = self.buffer("argmax", y.shape, self.backend.xp.int32)
        self.backend.adaptive_max_pool2d(x, self.output_size, out=y, argmax=self.argmax)
        return y

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", (dy.shape[0], *self.input_shape))
        return self.backend.adaptive_max_pool2d_dx(dy, self.argmax, dx.shape, out=dx)
