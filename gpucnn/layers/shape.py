"""Layers that only change how a sample is laid out."""

from __future__ import annotations

import math

from gpucnn.layers.base import Array, Layer, Shape

__all__ = ["Flatten"]


class Flatten(Layer):
    """Concatenate the feature maps of a sample into one long vector: (N, ...) -> (N, product) (paper, section 2.4)."""

    def infer(self, input_shape: Shape) -> Shape:
        return (math.prod(input_shape),)

    def _forward(self, x: Array, train: bool) -> Array:
        return self.backend.xp.reshape(x, (x.shape[0], *self.output_shape))

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        return self.backend.xp.reshape(dy, (dy.shape[0], *self.input_shape)) if need_dx else None
