"""Convolution and its transpose."""

from __future__ import annotations

import numpy as np

from gpucnn.checks import integer, pair
from gpucnn.errors import InputError
from gpucnn.initializers import get_initializer, zeros
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.layers.window import Padding, fit_window, sized_window
from gpucnn.memory import Parameter

__all__ = ["Conv2D", "Conv2DTranspose"]


class Convolution(Layer):
    """What a convolution and its transpose share: their arguments and their parameters."""

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: Padding = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        initializer="he_normal",
        name: str | None = None,
    ):
        super().__init__(name)
        self.filters = integer(filters, f"{self.label}: filters", least=1)
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.bias = bias
        self.initializer = get_initializer(initializer)
        self.w: Parameter | None = None
        self.b: Parameter | None = None

    def parameters(self) -> list[Parameter]:
        return [parameter for parameter in (self.w, self.b) if parameter is not None]


class Conv2D(Convolution):
    """Convolve images with a bank of trained kernels, with shared weights and one bias per feature map.

    `y[m,n,o] = sum_u sum_v sum_c w[u,v,c,o] x[m*SH + u*DH, n*SW + v*DW, c] + b[o]` (paper, sections 2.1 and 3.1);
    (N, H, W, C) -> (N, OH, OW, filters), with OH, OW by Eqn 2.1.

    Parameters
    ----------
    filters : number of kernels, OC
    kernel_size, stride, dilation : an int, or a pair (rows, columns)
    padding : an int, a pair, a pair of pairs ((top, bottom), (left, right)), "same" or "valid"; zeros are added
    bias : whether there is a bias
    initializer : of the kernels, a name or a function (rng, shape)

    Attributes
    ----------
    w, b : Parameter, (KH, KW, C, OC) and (OC,); b is None without a bias
    """

    def infer(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        self.window = fit_window(self.label, (H, W), self.kernel_size, self.stride, self.padding, self.dilation)
        self.w = Parameter("w", (*self.window.kernel, C, self.filters), self.initializer)
        self.b = Parameter("b", (self.filters,), zeros) if self.bias else None
        return (*self.window.output_size(H, W), self.filters)

    def _forward(self, x: Array, train: bool) -> Array:
        self.x = x
        b = self.b.value if self.bias else None
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        return self.backend.conv2d(x, self.w.value, b, self.window, out=y)

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        db = self.b.gradient if self.bias else None
        self.backend.conv2d_dw_db(self.x, dy, self.window, dw=self.w.gradient, db=db)
        if not need_dx:
            return None
        dx = self.buffer("dx", self.x.shape)
        return self.backend.conv2d_dx(dy, self.w.value, self.x.shape, self.window, out=dx)


class Conv2DTranspose(Convolution):
    """The transpose of a convolution: what `Conv2D` of the same arguments does to gradients, done to images.

    `y[i*SH + u*DH - top, j*SW + v*DW - left, o] += w[u,v,o,c] x[i,j,c]`, and the bias; (N, H, W, C) ->
    (N, OH, OW, filters) with `OH = (H - 1) SH + DH (KH - 1) + 1 - top - bottom + output_padding`, and so for the width.

    Parameters
    ----------
    filters : number of feature maps of the output
    kernel_size, stride, padding, dilation, bias, initializer : as in `Conv2D`; padding is taken off the output, and is
        an int, a pair, a pair of pairs, or "valid"
    output_padding : an int or a pair, rows and columns added below and to the right, each less than the stride

    Attributes
    ----------
    w, b : Parameter, (KH, KW, filters, C) and (filters,); b is None without a bias
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: Padding = 0,
        dilation: int | tuple[int, int] = 1,
        bias: bool = True,
        *,
        output_padding: int | tuple[int, int] = 0,
        initializer="he_normal",
        name: str | None = None,
    ):
        arguments = filters, kernel_size, stride, padding, dilation, bias
        super().__init__(*arguments, initializer=initializer, name=name)
        self.output_padding = pair(output_padding, f"{self.label}: output_padding", least=0)

    def infer(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        if self.padding in ("same", "same_lower"):
            raise InputError(f'{self.label}: padding must be an integer, a pair or "valid", received {self.padding!r}')
        self.window = sized_window(self.label, self.kernel_size, self.stride, self.padding, self.dilation)
        OH, OW = self.window.input_size(H, W)
        if any(more >= step for more, step in zip(self.output_padding, self.window.stride, strict=True)):
            raise InputError(
                f"{self.label}: output_padding {self.output_padding} must be less than the stride {self.window.stride}"
            )
        OH, OW = OH + self.output_padding[0], OW + self.output_padding[1]
        if min(OH, OW) < 1:
            raise InputError(f"{self.label}: padding {self.window.padding} leaves an output of {OH}x{OW}; use less")
        self.w = Parameter("w", (*self.window.kernel, self.filters, C), self._draw)
        self.b = Parameter("b", (self.filters,), zeros) if self.bias else None
        return OH, OW, self.filters

    def _draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Draw as for a convolution from C to `filters` channels, whose fans these are."""
        KH, KW, filters, C = shape
        return self.initializer(rng, (KH, KW, C, filters)).swapaxes(2, 3)

    def _forward(self, x: Array, train: bool) -> Array:
        self.x = x
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        self.backend.conv2d_dx(x, self.w.value, y.shape, self.window, out=y)
        if self.bias:
            y += self.b.value
        return y

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        self.backend.conv2d_dw_db(dy, self.x, self.window, dw=self.w.gradient, db=None)
        if self.bias:
            rows = self.backend.xp.reshape(dy, (-1, self.filters))
            self.backend.sum_rows(rows, out=self.b.gradient)
        if not need_dx:
            return None
        dx = self.buffer("dx", self.x.shape)
        return self.backend.conv2d(dy, self.w.value, None, self.window, out=dx)
