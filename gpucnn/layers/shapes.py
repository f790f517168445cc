"""Layers that only change how a sample is laid out."""

from __future__ import annotations

import math

from gpucnn.errors import InputError
from gpucnn.geometry import Window
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.layers.window import Padding, fit_window

__all__ = ["Flatten", "Reshape", "ZeroPad2D"]


class Reshape(Layer):
    """Give each sample another shape with as many elements: (N, ...) -> (N, *shape).

    Parameters
    ----------
    shape : the sizes of one sample, or the only one

    Raises `InputError` for a size below 1, and where the number of elements is another.

    >>> Reshape((2, 2))(np.array([[1.0, 2.0, 3.0, 4.0]]))
    array([[[1., 2.],
            [3., 4.]]])
    """

    from_operations = per_sample = True

    def __init__(self, shape: int | Shape, *, name: str | None = None):
        super().__init__(name)
        self.shape = self._sizes(shape, "shape")

    def infer_shape(self, input_shape: Shape) -> Shape:
        if math.prod(self.shape) != math.prod(input_shape):
            raise InputError(
                f"{self.label}: cannot make {self.shape} ({math.prod(self.shape)} elements) of samples of shape "
                f"{input_shape} ({math.prod(input_shape)})"
            )
        return self.shape

    def forward(self, x: Array, *, train: bool) -> Array:
        return self.backend.xp.reshape(x, (x.shape[0], *self.output_shape))

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        return self.backend.xp.reshape(dy, (dy.shape[0], *self.input_shape)) if need_dx else None


class Flatten(Reshape):
    """Concatenate the feature maps of a sample into one long vector: (N, ...) -> (N, product) (paper, section 2.4).

    >>> Flatten()(np.zeros((2, 3, 4, 5))).shape
    (2, 60)
    """

    def __init__(self, *, name: str | None = None):
        super().__init__((), name=name)

    def infer_shape(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)


class ZeroPad2D(Layer):
    """Add zeros around each image: (N, H, W, C) -> (N, top + H + bottom, left + W + right, C).

    Parameters
    ----------
    padding : an int, a pair or a pair of pairs ((top, bottom), (left, right)), as in `Conv2D`

    Raises `InputError` for any other padding, and where samples are not images (H, W, C).

    >>> ZeroPad2D(((0, 0), (1, 2)))(np.array([3.0, 4.0]).reshape(1, 1, 2, 1)).ravel()
    array([0., 3., 4., 0., 0.])
    """

    from_operations = per_sample = True
    window: Window  # since its shape is known

    def __init__(self, padding: Padding, *, name: str | None = None):
        super().__init__(name)
        self.padding = padding

    def infer_shape(self, input_shape: Shape) -> Shape:
        H, W, C = self._image_shape(input_shape)
        self.window = fit_window(self.label, (H, W), 1, padding=self.padding)
        return (*self.window.padded_size(H, W), C)

    def forward(self, x: Array, *, train: bool) -> Array:
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        return self.backend.zero_pad2d(x, self.window, out=y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", (dy.shape[0], *self.input_shape))
        return self.backend.zero_pad2d_dx(dy, dx.shape, self.window, out=dx)
