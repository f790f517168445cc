"""The paper, executable: every operation of the library once, complete, on any array module.

Arrays are NHWC, kernels `(KH, KW, C, OC)`. Every operation `<op>` has its derivative `<op>_dx` (or `<op>_dw_db`) under
it, takes its result arrays as keywords, writes all of them and changes no other argument; where `out` is left out, a
new array is returned. Only functions of the Python array API standard are used, so `xp` may be NumPy, CuPy or any
other such module. The equations are those of P. Murugan, "Feed Forward and Backward Run in Deep Convolution Neural
Network", arXiv 1711.03278 (2017); docstrings name its sections.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpucnn.backend.assembly import with_operations
from gpucnn.backend.reference import (
    activations,
    adaptive,
    batches,
    convolution,
    dense,
    dropout,
    losses,
    normalization,
    pooling,
    shapes,
    sums,
    updates,
)
from gpucnn.backend.reference.arrays import Arrays

__all__ = ["Backend"]


@with_operations(sums, convolution, pooling, adaptive, shapes, dense, activations, normalization, dropout)
@with_operations(losses, updates, batches)
class Backend(Arrays):
    """Arrays of one device and the operations on them; this class is the reference that others are tested against.

    >>> backend = Backend("float64")
    >>> backend.relu(np.array([[-1.0, 2.0]]))
    array([[0., 2.]])
    >>> backend.dense(np.array([[1.0, 10.0]]), np.array([[1.0, 2.0], [3.0, 4.0]]), np.array([0.5, 0.5]))
    array([[31.5, 42.5]])

    Parameters
    ----------
    float_dtype : "float32" or "float64", what layers compute in; or "tf32" or "bf16": in float32, with the factors of
        matrix products rounded to 11 or 8 significant bits, as tensor cores do
    xp : the array module, NumPy unless given

    Attributes
    ----------
    name : "reference", "cpu" or "gpu:N"
    precision, float_dtype : the dtype of its floats, as a name and as `xp` has it
    matmul_precision : that of the factors of matrix products, the name of the dtype or "tf32" or "bf16"
    host_reads : how often a result was read back to the host, each a wait for the device
    """

    if TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Operations are methods too; type checkers do not see the decorator's work."""
