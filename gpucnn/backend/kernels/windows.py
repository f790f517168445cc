"""Windows in kernels, from the flat index of an output pixel (oh, ow, c) or of an input pixel (h, w, c)."""

from __future__ import annotations

__all__ = ["EACH_TAP", "EACH_WINDOW", "INPUT_INDEX", "INPUT_PIXEL", "OUTPUT_INDEX", "OUTPUT_PIXEL", "WINDOW"]

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
