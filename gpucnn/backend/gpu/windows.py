"""Windows in kernels, from the flat index of an output pixel (oh, ow, c) or of an input pixel (h, w, c)."""

from __future__ import annotations

from gpucnn.backend.gpu.arrays import check_indices
from gpucnn.geometry import Window

__all__ = [
    "EACH_TAP",
    "EACH_WINDOW",
    "INPUT_INDEX",
    "INPUT_PIXEL",
    "OUTPUT_INDEX",
    "OUTPUT_PIXEL",
    "WINDOW",
    "images_of",
    "window_arguments",
]

WINDOW = "int32 H, int32 W, int32 C, int32 OH, int32 OW, int32 KH, int32 KW, int32 SH, int32 SW, "
WINDOW += "int32 top, int32 left, int32 DH, int32 DW"

OUTPUT_PIXEL = """
    const int e = i;  // so that divisions are of 32 bits
    const int c = e % C, ow = e / C % OW, oh = e / C / OW % OH, image = e / C / OW / OH;
    const int h0 = oh * SH - top, w0 = ow * SW - left;  // the window's first tap
"""
INPUT_PIXEL = """
    const int e = i;  // so that divisions are of 32 bits
    const int c = e % C, w = e / C % W, h = e / C / W % H, image = e / C / W / H;
"""
EACH_TAP = """
    for (int u = 0; u < KH; ++u)
        for (int v = 0; v < KW; ++v) {
            const int h = h0 + u * DH, w = w0 + v * DW;
            const bool inside = h >= 0 && h < H && w >= 0 && w < W;
"""
EACH_WINDOW = """
    for (int u = 0; u < KH; ++u) {  // the windows that meet this pixel, by the tap that meets it
        const int below = h + top - u * DH, oh = below / SH;
        if (below < 0 || below % SH != 0 || oh >= OH) continue;
        for (int v = 0; v < KW; ++v) {
            const int right = w + left - v * DW, ow = right / SW;
            if (right < 0 || right % SW != 0 || ow >= OW) continue;
"""
OUTPUT_INDEX = "((image * OH + oh) * OW + ow) * C + c"
INPUT_INDEX = "((image * H + h) * W + w) * C + c"


def window_arguments(x_shape: tuple[int, ...], window: Window, OC: int = 1) -> tuple[int, ...]:
    """Return the scalars that `WINDOW` names, for arrays that 32-bit indices can reach."""
    N, H, W, C = x_shape
    OH, OW = window.output_size(H, W)
    cure = "use smaller images" if N == 1 else "use a smaller batch"
    check_indices(N * max(C, OC) * max(H * W, OH * OW), images_of(x_shape), cure)
    (top, _), (left, _) = window.padding
    return H, W, C, OH, OW, *window.kernel, *window.stride, top, left, *window.dilation


def images_of(x_shape: tuple[int, ...]) -> str:
    """Name a batch of images, for messages."""
    N, H, W, C = x_shape
    return f"{'an image' if N == 1 else f'a batch of {N} images'} of {H}x{W}x{C}"
