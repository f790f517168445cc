"""Pooling to an output of a given size, whatever the size of the input."""

from __future__ import annotations

from gpucnn.checks import pair
from gpucnn.layers.base import Array, Layer, Shape

__all__ = ["AdaptiveAveragePool2D", "AdaptiveMaxPool2D"]


class AdaptivePool2D(Layer):
    """What the adaptive poolings share: the output's size, whatever the input's."""

    from_operations = per_sample = True
    argmax: Array = None

    def __init__(self, output_size: int | tuple[int, int], *, name: str | None = None):
        super().__init__(name)
        self.output_size = pair(output_size, f"{self.label}: output_size", least=1)

    def infer_shape(self, input_shape: Shape) -> Shape:
        _, _, C = self._image_shape(input_shape)
        return (*self.output_size, C)


class AdaptiveAveragePool2D(AdaptivePool2D):
    """Average pooling to an output of a given size: (N, H, W, C) -> (N, OH, OW, C).

    Row i of the output is the mean of the input's rows from floor(i*H/OH) up to ceil((i + 1)*H/OH), and so for the
    columns.

    Parameters
    ----------
    output_size : an int, or a pair (OH, OW)

    Raises `InputError` for a size below 1, and where samples are not images (H, W, C).

    >>> row = np.array([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 1, 5, 1)
    >>> AdaptiveAveragePool2D((1, 2))(row).ravel()  # of the first three, and of the last three
    array([2., 4.])
    """

    def forward(self, x: Array, *, train: bool) -> Array:
        y = self.buffer("y", (x.shape[0], *self.output_shape))
        return self.backend.adaptive_average_pool2d(x, self.output_size, out=y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        dx = self.buffer("dx", (dy.shape[0], *self.input_shape))
        return self.backend.adaptive_average_pool2d_dx(dy, dx.shape, out=dx)


class AdaptiveMaxPool2D(AdaptivePool2D):
    """Max pooling to an output of a given size: (N, H, W, C) -> (N, OH, OW, C).

    Row i of the output is the maximum of the input's rows from floor(i*H/OH) up to ceil((i + 1)*H/OH), and so for the
    columns. On a tie the gradient goes to the first pixel, row by row.

    Parameters
    ----------
    output_size : an int, or a pair (OH, OW)

    Raises `InputError` for a size below 1, and where samples are not images (H, W, C).

    >>> row = np.array([1.0, 2.0, 3.0, 4.0, 5.0]).reshape(1, 1, 5, 1)
    >>> AdaptiveMaxPool2D((1, 2))(row).ravel()  # of the first three, and of the last three
    array([3., 5.])
    """

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
