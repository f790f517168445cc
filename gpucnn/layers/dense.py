"""Fully connected layer."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.memory import Parameter
from gpucnn.checks import integer
from gpucnn.errors import InputError
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.layers.initializers import get_initializer, zeros

__all__ = ["Dense"]


class Dense(Layer):
    """Fully connected layer: weighted sums of all inputs, and a bias.

    `z[j] = sum_i w[i,j] a[i] + b[j]` (paper, section 3.1); (N, I) -> (N, units).

    Parameters
    ----------
    units : number of outputs
    bias : whether there is a bias
    initializer : of the weights, a name or a function (rng, shape)

    Attributes
    ----------
    w, b : Parameter, (I, units) and (units,); b is None without a bias

    Raises `InputError` for a wrong number of units or initializer, and where samples are not flat (I,).

    >>> dense = Dense(2, initializer=lambda rng, shape: np.array([[1.0, 2.0], [3.0, 4.0]]))
    >>> dense(np.array([[1.0, 10.0]]), train=True)  # 1*1 + 10*3 and 1*2 + 10*4
    array([[31., 42.]])
    >>> dense.backpropagate(np.array([[1.0, 0.0]]))
    array([[1., 3.]])
    >>> dense.w.gradient
    array([[ 1.,  0.],
           [10.,  0.]])
    """

    from_operations = per_sample = True
    w: Parameter  # both since its shape is known
    b: Parameter | None

    def __init__(
        self,
        units: int,
        *misplaced: object,
        bias: bool = True,
        initializer: Any = "he_normal",
        name: str | None = None,
    ):
        super().__init__(name)
        self._refuse_positions(misplaced, "Dense(10, bias=False)")
        self.units = integer(units, f"{self.label}: units", least=1)
        self.bias = bias
        self.initializer = get_initializer(initializer)

    def infer_shape(self, input_shape: Shape) -> Shape:
        if len(input_shape) != 1:
            raise InputError(
                f"{self.label}: expected flat samples of shape (I,), received {tuple(input_shape)}; put Flatten() "
                f"before it"
            )
        self.w = Parameter("w", (input_shape[0], self.units), self.initializer)
        self.b = Parameter("b", (self.units,), zeros) if self.bias else None
        return (self.units,)

    @property
    def is_per_sample(self) -> bool:
        """As of any layer, but where threads share a large matrix: then none reads all of it, by its columns."""
        return super().is_per_sample and not self.backend.splits(self.w.value)

    def forward(self, x: Array, *, train: bool, relu: bool = False) -> Array:
        self.x = x
        b = self.b.value if self.b else None
        y = self.buffer("y", (x.shape[0], self.units))
        return self.backend.dense(x, self.w.value, b, relu=relu, out=y)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        db = self.b.gradient if self.b else None
        self.backend.dense_dw_db(self.x, dy, dw=self.w.gradient, db=db)
        if not need_dx:
            return None
        return self.backend.dense_dx(dy, self.w.value, out=self.buffer("dx", tuple(self.x.shape)))
