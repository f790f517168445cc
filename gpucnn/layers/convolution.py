"""Convolution."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.memory import Parameter
from gpucnn.checks import integer
from gpucnn.errors import InputError
from gpucnn.geometry import Pair, Window
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.layers.initializers import get_initializer, zeros
from gpucnn.layers.window import Padding, fit_window

__all__ = ["Conv2D", "Convolution"]


class Convolution(Layer):
    """What a convolution and its transpose share: their arguments and their parameters."""

    from_operations = per_sample = True
    window: Window  # these three since its shape is known
    w: Parameter
    b: Parameter | None

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
        initializer: Any = "he_normal",
        name: str | None = None,
    ):
        super().__init__(name)
        self._refuse_positions(misplaced, f"{type(self).__name__}(8, 3, stride=2)")
        self.filters = integer(filters, f"{self.label}: filters", least=1)
        self.groups = integer(groups, f"{self.label}: groups", least=1)
        self._per_group(self.filters, "filters")
        self.kernel_size, self.stride, self.padding, self.dilation = kernel_size, stride, padding, dilation
        self.bias = bias
        self.initializer = get_initializer(initializer)

    def _per_group(self, count: int, what: str) -> int:
        if count % self.groups:
            cure = "use a number of groups that divides both the channels of the input and the filters"
            raise InputError(f"{self.label}: {count} {what} cannot be divided into {self.groups} equal groups; {cure}")
        return count // self.groups

    def _declare(self, channels: int, filters: int) -> None:
        """Declare the parameters: kernels (KH, KW, channels, filters), and a bias for each feature map."""
        self.w = Parameter("w", (*self.window.kernel, channels, filters), self._draw)
        self.b = Parameter("b", (self.filters,), zeros) if self.bias else None

    def _draw(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        """Draw each group as a convolution of its own, whose fans these are."""
        *others, filters = shape
        kernels = [self._draw_group(rng, (*others, filters // self.groups)) for _ in range(self.groups)]
        return np.concatenate(kernels, axis=-1)

    def _draw_group(self, rng: np.random.Generator, shape: Shape) -> np.ndarray:
        return self.initializer(rng, shape)


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
    groups : how many equal runs the channels and the filters are cut into; each filter sees the channels of its own
        run alone. With as many groups as channels it is the depthwise convolution
    initializer : of the kernels of one group, a name or a function (rng, shape)

    Attributes
    ----------
    w, b : Parameter, (KH, KW, C/groups, OC) and (OC,); b is None without a bias

    Raises `InputError` for a wrong size, padding or initializer, where samples are not images (H, W, C), and where the
    kernel does not fit the image or the groups do not divide the channels.

    >>> conv = Conv2D(1, (1, 2), initializer=lambda rng, shape: np.ones(shape))
    >>> conv(np.array([1.0, 2.0, 3.0, 4.0]).reshape(1, 1, 4, 1), train=True).ravel()  # 1 + 2, 2 + 3, 3 + 4
    array([3., 5., 7.])
    >>> conv.backpropagate(np.ones((1, 1, 3, 1))).ravel()
    array([1., 2., 2., 1.])
    >>> conv.w.gradient.ravel(), conv.b.gradient  # 1 + 2 + 3 and 2 + 3 + 4
    (array([6., 9.]), array([3.]))
    """

    def infer_shape(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        channels = self._per_group(C, "channels")
        self.window = fit_window(self.label, (H, W), self.kernel_size, self.stride, self.padding, self.dilation)
        self._declare(channels, self.filters)
        return (*self.window.output_size(H, W), self.filters)

    def forward(self, x: Array, *, train: bool, relu: bool = False) -> Array:
        self.x = x
        return self.convolve(x, *self.weights(), relu=relu)

    def workspace_bytes(self, batch: int, *, train: bool = True) -> int:
        return self.backend.conv2d_workspace((batch, *self.input_shape), self.w.shape, self.window, train=train)

    def weights(self) -> tuple[Array, Array | None]:
        """Return the kernels, and the bias if there is one."""
        return self.w.value, self.b.value if self.b else None

    def convolve(self, x: Array, w: Array, b: Array | None, *, relu: bool = False) -> Array:
        """Convolve with any kernels and bias of these shapes."""
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        return self.backend.conv2d(x, w, b, self.window, relu=relu, out=y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        db = self.b.gradient if self.b else None
        self.backend.conv2d_dw_db(self.x, dy, self.window, dw=self.w.gradient, db=db)
        if not need_dx:
            return None
        dx = self.buffer("dx", tuple(self.x.shape))
        return self.backend.conv2d_dx(dy, self.w.value, self.x.shape, self.window, out=dx)
