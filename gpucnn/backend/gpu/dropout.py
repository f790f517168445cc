"""Dropout by Philox4x32-10, one kernel each way."""

from __future__ import annotations

from gpucnn.backend import philox
from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.records import Elementwise, source

__all__ = ["dropout", "dropout_dx"]

DROPOUT = Elementwise(  # one index for each four elements: a Philox block
    "dropout",
    "raw T x, raw int64 counter, uint32 k0, uint32 k1, uint32 threshold, T scale, int32 size",
    "raw T y, raw uint8 mask",
    """
    unsigned int words[4] = {(unsigned int)i, 0u, (unsigned int)counter[0], 0u};
    philox4x32(words, k0, k1);
    #pragma unroll
    for (int word = 0; word < 4; ++word) {
        const int element = 4 * i + word;
        if (element < size) {
            mask[element] = words[word] >= threshold;
            y[element] = words[word] >= threshold ? x[element] * scale : T(0);
        }
    }
    """,
    source("philox.cuh"),
)
INCREMENT = Elementwise("increment", "int64 by", "int64 counter", "counter += by")


def dropout(
    self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
) -> tuple[Array, Array]:
    """As the reference, one Philox block for each four elements."""
    out = self.result(out, x.shape, x.dtype)
    mask = self.result(mask, x.shape, self.xp.uint8)
    scalars = *key, philox.threshold(rate), 1.0 / (1.0 - rate), x.size
    self.run_elementwise(DROPOUT, self.contiguous(x), counter, *scalars, out, mask, size=-(-x.size // 4))
    self.run_elementwise(INCREMENT, 1, counter)
    return out, mask


DROPOUT_DX = Elementwise("dropout_dx", "T dy, uint8 mask, T scale", "T dx", "dx = mask ? dy * scale : T(0)")


def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    out = self.result(out, dy.shape, dy.dtype)
    self.run_elementwise(DROPOUT_DX, dy, mask, 1.0 / (1.0 - rate), out)
    return out
