"""The transpose of a convolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.checks import pair
from gpucnn.errors import InputError
from gpucnn.geometry import Pair
from gpucnn.layers.base import Array, Shape
from gpucnn.layers.convolution import Convolution
from gpucnn.layers.window import Padding, sized_window

__all__ = ["Conv2DTranspose"]


class Conv2DTranspose(Convolution):
    """The transpose of a convolution: what `Conv2D` of the same arguments does to gradients, done to images.

    `y[i*SH + u*DH - top, j*SW + v*DW - left, o] += w[u,v,o,c] x[i,j,c]`, and the bias; (N, H, W, C) ->
    (N, OH, OW, filters) with `OH = (H - 1) SH + DH (KH - 1) + 1 - top - bottom + output_padding`, and so for the width.

    Parameters
    ----------
    filters : number of feature maps of the output
    kernel_size, stride, padding, dilation, bias, groups, initializer : as in `Conv2D`; padding is taken off the output,
        and is an int, a pair, a pair of pairs, or "valid"
    output_padding : an int or a pair, rows and columns added below and to the right, each less than the stride

    Attributes
    ----------
    w, b : Parameter, (KH, KW, filters/groups, C) and (filters,); b is None without a bias

    Raises `InputError` for a wrong size, padding or initializer, where samples are not images (H, W, C), and where the
    padding leaves nothing of the output or the groups do not divide the channels.

    >>> transposed = Conv2DTranspose(1, (1, 2), initializer=lambda rng, shape: np.ones(shape))
    >>> transposed(np.array([1.0, 2.0, 3.0]).reshape(1, 1, 3, 1)).ravel()  # 1, 1 + 2, 2 + 3, 3
    array([1., 3., 5., 3.])
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | Pair,
        *misplaced: object,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        bias: bool = True,
        groups: int = 1,
        output_padding: int | Pair = 0,
        initializer: Any = "he_normal",
        name: str | None = None,
    ):
        window: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation}
        how: dict[str, Any] = {"bias": bias, "groups": groups, "initializer": initializer, "name": name}
        super().__init__(filters, kernel_size, *misplaced, **window, **how)
        self.output_padding = pair(output_padding, f"{self.label}: output_padding", least=0)

    def infer_shape(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        if isinstance(self.padding, str) and self.padding != "valid":
            raise InputError(f'{self.label}: padding must be an integer, a pair or "valid", received {self.padding!r}')
        window = sized_window(self.label, self.kernel_size, self.stride, self.padding, self.dilation)
        OH, OW = window.input_size(H, W)
        if any(more >= step for more, step in zip(self.output_padding, window.stride, strict=True)):
            raise InputError(
                f"{self.label}: output_padding {self.output_padding} must be less than the stride {window.stride}"
            )
        OH, OW = OH + self.output_padding[0], OW + self.output_padding[1]
        if min(OH, OW) < 1:
            raise InputError(f"{self.label}: padding {window.padding} leaves an output of {OH}x{OW}; use less")
        self._per_group(C, "channels")
        self.window = window
        self._declare(self._per_group(self.filters, "filters"), C)
        return OH, OW, self.filters

    def workspace_bytes(self, batch: int, *, train: bool = True) -> int:
        y_shape = batch, *self.output_shape
        return self.backend.conv2d_workspace(y_shape, self.w.shape, self.window, train=train)

    def _draw_group(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Draw as for a convolution from C to `filters` channels, whose fans these are."""
        KH, KW, filters, C = shape
        return self.initializer(rng, (KH, KW, C, filters)).swapaxes(2, 3)

    def forward(self, x: Array, *, train: bool) -> Array:
        self.x = x
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        self.backend.conv2d_dx(x, self.w.value, y.shape, self.window, out=y)
        return self.backend.add_bias(y, self.b.value, out=y) if self.b else y

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        self.backend.conv2d_dw_db(dy, self.x, self.window, dw=self.w.gradient, db=None)
        if self.b:
            rows = self.backend.xp.reshape(dy, (-1, self.filters))
            self.backend.sum_rows(rows, out=self.b.gradient)
        if not need_dx:
            return None
        dx = self.buffer("dx", tuple(self.x.shape))
        return self.backend.conv2d(dy, self.w.value, None, self.window, out=dx)
