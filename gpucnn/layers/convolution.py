"""Convolution."""

from __future__ import annotations

from gpucnn.geometry import Padding, Window, integer
from gpucnn.initializers import get_initializer, zeros
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.memory import Parameter

__all__ = ["Conv2D"]


class Conv2D(Layer):
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

    def infer(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        self.window = Window.fit(self.label, (H, W), self.kernel_size, self.stride, self.padding, self.dilation)
        self.w = Parameter("w", (*self.window.kernel, C, self.filters), self.initializer)
        self.b = Parameter("b", (self.filters,), zeros) if self.bias else None
        return (*self.window.output_size(H, W), self.filters)

    def parameters(self) -> list[Parameter]:
        return [parameter for parameter in (self.w, self.b) if parameter is not None]

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
