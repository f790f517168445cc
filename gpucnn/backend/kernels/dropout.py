"""Dropout by Philox4x32-10."""

from __future__ import annotations

from gpucnn.backend.kernels.random import PHILOX
from gpucnn.backend.kernels.records import Elementwise

__all__ = ["DROPOUT", "DROPOUT_DX"]

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
    PHILOX,
)
DROPOUT_DX = Elementwise("dropout_dx", "T dy, uint8 mask, T scale", "T dx", "dx = mask ? dy * scale : T(0)")
