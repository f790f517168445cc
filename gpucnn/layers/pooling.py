"""Pooling: one number for each window of each feature map."""

from __future__ import annotations

from functools import partial
from typing import Any, ClassVar

from gpucnn.checks import flag, number
from gpucnn.errors import InputError
from gpucnn.geometry import Pair, Window
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.layers.window import Padding, fit_window
from gpucnn.representation import representation

__all__ = ["AveragePool2D", "GlobalAveragePool2D", "GlobalMaxPool2D", "LpPool2D", "MaxPool2D"]


class Pool2D(Layer):
    """What the poolings share: a window, (N, H, W, C) -> (N, OH, OW, C)."""

    from_operations = per_sample = True
    window: Window  # since its shape is known
    argmax: Array = None

    def __init__(
        self,
        kernel_size: int | Pair,
        *misplaced: object,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        ceil_mode: bool = False,
        name: str | None = None,
    ):
        super().__init__(name)
        self._refuse_positions(misplaced, f"{type(self).__name__}(2, stride=2)")
        self.kernel_size, self.padding, self.dilation = kernel_size, padding, dilation
        self.stride = kernel_size if stride is None else stride
        self.ceil_mode = ceil_mode

    def __repr__(self) -> str:
        return representation(self, stride=self.kernel_size)

    def infer_shape(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        arguments = self.kernel_size, self.stride, self.padding, self.dilation
        window = fit_window(self.label, (H, W), *arguments, ceil_mode=self.ceil_mode)
        if window.misses_image(H, W):
            raise InputError(
                f"{self.label}: with padding {window.padding} a window of {window.kernel} lies wholly in the padding "
                f"of an input {H}x{W}; use less padding or a larger kernel"
            )
        self.window = window
        return (*window.output_size(H, W), C)

    def _output_buffer(self, x: Array) -> Array:
        return self.buffer("y", (x.shape[0], *self.output_shape))

    def _input_gradient(self, dy: Array) -> Array:
        return self.buffer("dx", (dy.shape[0], *self.input_shape))


class MaxPool2D(Pool2D):
    """Max pooling: the largest pixel under each window (paper, sections 2.3 and 3.1).

    `P[m,n,c] = max_uv x[m*SH + u*DH, n*SW + v*DW, c]`, with padding of -inf; (N, H, W, C) ->
    (N, OH, OW, C), with OH, OW by Eqn 2.1. Backward, the whole gradient goes to the pixel that was the largest: on a
    tie to the first, row by row.

    Parameters
    ----------
    kernel_size : an int, or a pair (rows, columns)
    stride : an int or a pair; the kernel size unless given, so that windows do not overlap
    padding, dilation : as in `Conv2D`; each window must meet a pixel
    ceil_mode : whether pixels left over below and to the right get one more window, which hangs over the image and its
        padding: the size of the output is then rounded up. What hangs over counts like padding, but in no mean

    Raises `InputError` for a wrong size or padding, where samples are not images (H, W, C), and where the window does
    not fit the image, or lies wholly in the padding.

    >>> pool = MaxPool2D((1, 2))
    >>> pool(np.array([1.0, 5.0, 2.0, 3.0]).reshape(1, 1, 4, 1), train=True).ravel()
    array([5., 3.])
    >>> pool.backpropagate(np.array([10.0, 20.0]).reshape(1, 1, 2, 1)).ravel()
    array([ 0., 10.,  0., 20.])
    """

    def forward(self, x: Array, *, train: bool, relu: bool = False) -> Array:
        y = self._output_buffer(x)
        self.argmax = self.buffer("argmax", y.shape, self.backend.argmax_dtype(self.window))
        self.backend.max_pool2d(x, self.window, relu=relu, out=y, argmax=self.argmax)
        return y

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = self._input_gradient(dy)
        return self.backend.max_pool2d_dx(dy, self.argmax, dx.shape, self.window, out=dx)


class AveragePool2D(Pool2D):
    """Average pooling: the mean of the pixels under each window (paper, section 2.3).

    `P[m,n,c] = 1/T sum_uv x[m*SH + u*DH, n*SW + v*DW, c]`, T the number of its pixels; (N, H, W, C) -> (N, OH, OW, C),
    with OH, OW by Eqn 2.1.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode : as in `MaxPool2D`
    count_include_pad : whether the mean counts padding, as zeros (PyTorch's default), or leaves it out (as ONNX and
        Keras do); it may be changed later

    Raises `InputError` for a wrong size or padding, where samples are not images (H, W, C), and where the window does
    not fit the image, or lies wholly in the padding.

    >>> row = np.array([1.0, 5.0, 2.0, 3.0]).reshape(1, 1, 4, 1)
    >>> AveragePool2D((1, 2))(row).ravel()
    array([3. , 2.5])
    >>> AveragePool2D((1, 2), padding=(0, 1))(row).ravel()  # 1, (5 + 2)/2 and 3: padding is left out
    array([1. , 3.5, 3. ])
    """

    changeable: ClassVar = {"count_include_pad": flag}

    def __init__(
        self,
        kernel_size: int | Pair,
        *misplaced: object,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        count_include_pad: bool = False,
        ceil_mode: bool = False,
        name: str | None = None,
    ):
        window: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
        super().__init__(kernel_size, *misplaced, **window, name=name)
        self.count_include_pad = flag(count_include_pad, f"{self.label}: count_include_pad")

    def forward(self, x: Array, *, train: bool) -> Array:
        y = self._output_buffer(x)
        return self.backend.average_pool2d(x, self.window, count_include_pad=self.count_include_pad, out=y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = self._input_gradient(dy)
        return self.backend.average_pool2d_dx(
            dy, dx.shape, self.window, count_include_pad=self.count_include_pad, out=dx
        )


class LpPool2D(Pool2D):
    """Lp pooling: the p-norm of the pixels under each window; p = 2 is the paper's L2 pooling (section 2.3).

    `P[m,n,c] = (sum_uv |x[m*SH + u*DH, n*SW + v*DW, c]|^p)^(1/p)`; (N, H, W, C) ->
    (N, OH, OW, C), with OH, OW by Eqn 2.1.

    Parameters
    ----------
    kernel_size, stride, padding, dilation, ceil_mode : as in `MaxPool2D`; padding is 0
    p : a number of at least 1; it may be changed later

    Raises `InputError` for a wrong size, padding or p, where samples are not images (H, W, C), and where the window
    does not fit the image, or lies wholly in the padding.

    >>> LpPool2D((1, 2))(np.array([3.0, 4.0, 6.0, 8.0]).reshape(1, 1, 4, 1)).ravel()
    array([ 5., 10.])
    """

    changeable: ClassVar = {"p": partial(number, least=1.0)}

    def __init__(
        self,
        kernel_size: int | Pair,
        *misplaced: object,
        stride: int | Pair | None = None,
        padding: Padding = 0,
        dilation: int | Pair = 1,
        p: float = 2.0,
        ceil_mode: bool = False,
        name: str | None = None,
    ):
        window: dict[str, Any] = {"stride": stride, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
        super().__init__(kernel_size, *misplaced, **window, name=name)
        self.p = number(p, f"{self.label}: p", least=1.0)

    def forward(self, x: Array, *, train: bool) -> Array:
        self.x = x
        self.y = self._output_buffer(x)
        return self.backend.lp_pool2d(x, self.p, self.window, out=self.y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = self._input_gradient(dy)
        return self.backend.lp_pool2d_dx(dy, self.x, self.y, self.p, self.window, out=dx)


class GlobalPool2D(Layer):
    """What the global poolings share: one window takes the whole image, (N, H, W, C) -> (N, C)."""

    from_operations = per_sample = True
    window: Window  # since its shape is known
    argmax: Array = None

    def infer_shape(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        self.window = Window((H, W))
        return (C,)

    def forward(self, x: Array, *, train: bool) -> Array:
        N, _, _, C = x.shape
        y = self.buffer("y", (N, 1, 1, C))
        self._pool(x, y)
        return self.backend.xp.reshape(y, (N, C))

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        N, C = dy.shape
        dx = self.buffer("dx", (N, *self.input_shape))
        return self._pool_dx(self.backend.xp.reshape(dy, (N, 1, 1, C)), dx)

    def _pool(self, x: Array, y: Array) -> None:
        raise NotImplementedError

    def _pool_dx(self, dy: Array, dx: Array) -> Array:
        raise NotImplementedError


class GlobalAveragePool2D(GlobalPool2D):
    """Mean of each feature map: (N, H, W, C) -> (N, C).

    `y[c] = 1/(H W) sum_mn x[m,n,c]`. Raises `InputError` where samples are not images (H, W, C).

    >>> GlobalAveragePool2D()(np.array([1.0, 5.0, 2.0, 4.0]).reshape(1, 2, 2, 1))
    array([[3.]])
    """

    def _pool(self, x: Array, y: Array) -> None:
        self.backend.average_pool2d(x, self.window, out=y)

    def _pool_dx(self, dy: Array, dx: Array) -> Array:
        return self.backend.average_pool2d_dx(dy, dx.shape, self.window, out=dx)


class GlobalMaxPool2D(GlobalPool2D):
    """Largest pixel of each feature map: (N, H, W, C) -> (N, C).

    `y[c] = max_mn x[m,n,c]`; on a tie the gradient goes to the first, row by row. Raises `InputError` where samples are
    not images (H, W, C).

    >>> GlobalMaxPool2D()(np.array([1.0, 5.0, 2.0, 4.0]).reshape(1, 2, 2, 1))
    array([[5.]])
    """

    def _pool(self, x: Array, y: Array) -> None:
        self.argmax = self.buffer("argmax", y.shape, self.backend.argmax_dtype(self.window))
        self.backend.max_pool2d(x, self.window, out=y, argmax=self.argmax)

    def _pool_dx(self, dy: Array, dx: Array) -> Array:
        return self.backend.max_pool2d_dx(dy, self.argmax, dx.shape, self.window, out=dx)
