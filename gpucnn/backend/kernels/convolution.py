"""Lowering of images to columns, and its adjoint."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Elementwise
from gpucnn.backend.kernels.windows import EACH_WINDOW, INPUT_INDEX, INPUT_PIXEL, WINDOW

__all__ = ["COL2IM", "IM2COL"]

IM2COL = Elementwise(
    "im2col",
    f"raw T x, {WINDOW}",
    "T columns",
    f"""
    const int e = i;  // so that divisions are of 32 bits
    const int c = e % C, v = e / C % KW, u = e / C / KW % KH;
    const int row = e / C / KW / KH, ow = row % OW, oh = row / OW % OH, image = row / OW / OH;
    const int h = oh * SH - top + u * DH, w = ow * SW - left + v * DW;
    columns = h >= 0 && h < H && w >= 0 && w < W ? x[{INPUT_INDEX}] : T(0);
    """,
)
COL2IM = Elementwise(
    "col2im",
    f"raw T columns, {WINDOW}",
    "T x",
    f"""{INPUT_PIXEL}
    T sum = 0;
    {EACH_WINDOW}
            sum += columns[(((image * OH + oh) * OW + ow) * KH * KW + u * KW + v) * C + c];
        }}
    }}
    x = sum;
    """,
)
