"""Activations (paper, table 1): element by element, but for softmax."""

from __future__ import annotations

from gpucnn.layers.base import Array, Layer, Shape

__all__ = ["ReLU", "Sigmoid", "Softmax", "Tanh"]


class Activation(Layer):
    """An operation of the backend and its derivative, which is a function of the output; any shape of sample."""

    operation: str

    def infer(self, input_shape: Shape) -> Shape:
        return input_shape

    def _forward(self, x: Array, train: bool) -> Array:
        self.y = self.buffer("y", x.shape)
        return getattr(self.backend, self.operation)(x, out=self.y)

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        if not need_dx:
            return None
        derivative = getattr(self.backend, f"{self.operation}_dx")
        return derivative(dy, self.y, out=self.buffer("dx", dy.shape))


class ReLU(Activation):
    """`max(x, 0)`; its derivative is 1 where x > 0, else 0."""

    operation = "relu"


class Sigmoid(Activation):
    """`1/(1 + e^-x)`; its derivative is `y (1 - y)`."""

    operation = "sigmoid"


class Tanh(Activation):
    """`tanh(x)`; its derivative is `1 - y^2`."""

    operation = "tanh"


class Softmax(Activation):
    """`e^x_k / sum_j e^x_j` over the last axis.

    For training leave it out and use `SoftmaxCrossEntropy`, which takes logits and contains it.
    """

    operation = "softmax"
