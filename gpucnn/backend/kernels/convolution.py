"""Lowering of images to columns and its adjoint, and convolution with groups, which needs no columns."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Elementwise
from gpucnn.backend.kernels.windows import EACH_TAP, EACH_WINDOW, INPUT_INDEX, INPUT_PIXEL, WINDOW

__all__ = ["COL2IM", "GROUPED_CONV2D", "GROUPED_CONV2D_DW", "GROUPED_CONV2D_DX", "IM2COL"]

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
GROUPS = f"{WINDOW}, int32 OC, int32 CG, int32 OG"  # channels of the output; of one group, of x and of the output
KERNEL_INDEX = "((u * KW + v) * CG + k) * OC + o"
ERROR_INDEX = "((image * OH + oh) * OW + ow) * OC + o"
GROUPED_CONV2D = Elementwise(
    "grouped_conv2d",
    f"raw T x, raw T kernels, {GROUPS}",
    "T y",
    f"""
    const int e = i;  // so that divisions are of 32 bits
    const int o = e % OC, ow = e / OC % OW, oh = e / OC / OW % OH, image = e / OC / OW / OH;
    const int h0 = oh * SH - top, w0 = ow * SW - left;
    T sum = 0;
    {EACH_TAP}
            for (int k = 0; inside && k < CG; ++k) {{
                const int c = o / OG * CG + k;
                sum += kernels[{KERNEL_INDEX}] * x[{INPUT_INDEX}];
            }}
        }}
    y = sum;
    """,
)
GROUPED_CONV2D_DX = Elementwise(
    "grouped_conv2d_dx",
    f"raw T dy, raw T kernels, {GROUPS}",
    "T dx",
    f"""{INPUT_PIXEL}
    const int k = c % CG, first = c / CG * OG;
    T sum = 0;
    {EACH_WINDOW}
            for (int o = first; o < first + OG; ++o) sum += kernels[{KERNEL_INDEX}] * dy[{ERROR_INDEX}];
        }}
    }}
    dx = sum;
    """,
)
GROUPED_CONV2D_DW = Elementwise(  # each part sums up the images part, part + parts, ...
    "grouped_conv2d_dw",
    f"raw T x, raw T dy, {GROUPS}, int32 N, int32 parts",
    "T dw",
    f"""
    const int e = i;  // so that divisions are of 32 bits
    const int o = e % OC, k = e / OC % CG, v = e / OC / CG % KW, u = e / OC / CG / KW % KH;
    const int c = o / OG * CG + k;
    T sum = 0;
    for (int image = e / OC / CG / KW / KH; image < N; image += parts)
        for (int oh = 0; oh < OH; ++oh) {{
            const int h = oh * SH - top + u * DH;
            T row = 0;  // sums of sums lose less to rounding than one long sum
            for (int ow = 0; ow < OW && h >= 0 && h < H; ++ow) {{
                const int w = ow * SW - left + v * DW;
                if (w >= 0 && w < W) row += x[{INPUT_INDEX}] * dy[{ERROR_INDEX}];
            }}
            sum += row;
        }}
    dw = sum;
    """,
)
