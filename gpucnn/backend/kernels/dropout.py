"""Dropout by Philox4x32-10."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Elementwise

__all__ = ["DROPOUT", "DROPOUT_DX", "PHILOX"]

PHILOX = """
    __device__ void philox4x32(unsigned int* c, unsigned int k0, unsigned int k1) {
        for (int round = 0; round < 10; ++round) {
            const unsigned int high0 = __umulhi(0xD2511F53u, c[0]), low0 = 0xD2511F53u * c[0];
            const unsigned int high1 = __umulhi(0xCD9E8D57u, c[2]), low1 = 0xCD9E8D57u * c[2];
            c[0] = high1 ^ c[1] ^ k0;
            c[1] = low1;
            c[2] = high0 ^ c[3] ^ k1;
            c[3] = low0;
            k0 += 0x9E3779B9u;
            k1 += 0xBB67AE85u;
        }
    }
"""
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
