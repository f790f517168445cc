"""Taking a batch from a data set on the device."""

from __future__ import annotations

from gpucnn.backend.kernels.random import PHILOX
from gpucnn.backend.kernels.records import Block, Elementwise

__all__ = ["AUGMENT_IMAGES", "GATHER_IMAGES", "GATHER_LABELS", "ONE_HOT"]

GATHER_IMAGES = Elementwise(
    "gather_images",
    "raw uint8 images, raw int32 order, raw int64 cursor, raw T scale, raw T shift, int32 pixels, int32 C",
    "T x",
    """
    const int e = i;
    const long long sample = order[cursor[0] + e / pixels];
    x = T(images[sample * pixels + e % pixels]) * scale[e % C] + shift[e % C];
    """,
)
AUGMENT_IMAGES = Elementwise(
    "augment_images",
    "raw uint8 images, raw int32 order, raw int64 cursor, raw T scale, raw T shift, int32 H, int32 W, int32 C, "
    "raw int64 epoch, uint32 k0, uint32 k1, int32 most, int32 flip",
    "T x",
    """
    const int e = i, c = e % C, column = e / C % W, row = e / (C * W) % H;
    const long long position = cursor[0] + e / (C * W * H);
    unsigned int words[4] = {(unsigned int)position, 0u, (unsigned int)epoch[0], 0u};
    philox4x32(words, k0, k1);
    const int from_row = row + (int)__umulhi(words[0], 2 * most + 1) - most;
    const int from_column =
        (flip && words[2] >> 31 ? W - 1 - column : column) + (int)__umulhi(words[1], 2 * most + 1) - most;
    const bool is_inside = from_row >= 0 && from_row < H && from_column >= 0 && from_column < W;
    const long long sample = order[position];
    const int pixel = is_inside ? images[((sample * H + from_row) * W + from_column) * C + c] : 0;
    x = T(pixel) * scale[c] + shift[c];
    """,
    PHILOX,
)
GATHER_LABELS = Block(  # of one block, so that the cursor moves when all have read it
    "gather_labels",
    """
extern "C" __global__ void gather_labels(
        const int* labels, const int* order, long long* cursor, int* y, int N) {
    const long long start = *cursor;
    for (int n = threadIdx.x; n < N; n += blockDim.x) y[n] = labels[order[start + n]];
    __syncthreads();
    if (threadIdx.x == 0) *cursor = start + N;
}
""",
)
ONE_HOT = Elementwise("one_hot", "raw int32 labels, int32 K", "T y", "const int e = i; y = labels[e / K] == e % K")
