"""One function for each operator: it takes its node and the values of its inputs, and returns those of its outputs."""

from gpucnn.onnx.operators import (  # noqa: F401  (each enters its functions into the table)
    activations,
    arithmetic,
    convolution,
    losses,
    matrices,
    normalization,
    pooling,
    reductions,
    selection,
    shapes,
    updates,
)
from gpucnn.onnx.operators.table import OPERATORS

__all__ = ["OPERATORS"]
