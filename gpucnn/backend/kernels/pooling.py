"""Pooling forward, and backward in gather form."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Elementwise
from gpucnn.backend.kernels.windows import (
    EACH_TAP,
    EACH_WINDOW,
    INPUT_INDEX,
    INPUT_PIXEL,
    OUTPUT_INDEX,
    OUTPUT_PIXEL,
    WINDOW,
)

__all__ = [
    "AVERAGE_POOL2D",
    "AVERAGE_POOL2D_DX",
    "LP_POOL2D",
    "LP_POOL2D_DX",
    "MAX_POOL2D",
    "MAX_POOL2D_DX",
]

MAX_POOL2D = Elementwise(
    "max_pool2d",
    f"raw T x, {WINDOW}",
    "T y, U winner",
    f"""{OUTPUT_PIXEL}
    T best = 0;
    int which = 0;
    {EACH_TAP}
            const T value = inside ? x[{INPUT_INDEX}] : T(-1) / T(0);  // padding is -inf
            if (u + v == 0 || value > best || value != value) {{
                best = value;
                which = u * KW + v;
            }}
        }}
    y = best;
    winner = which;
    """,
)
MAX_POOL2D_DX = Elementwise(
    "max_pool2d_dx",
    f"raw T dy, raw U winners, {WINDOW}",
    "T dx",
    f"""{INPUT_PIXEL}
    T sum = 0;
    {EACH_WINDOW}
            const int window = {OUTPUT_INDEX};
            if (winners[window] == u * KW + v) sum += dy[window];
        }}
    }}
    dx = sum;
    """,
)
INSIDE = """
    __device__ int taps_inside(int first, int taps, int dilation, int size) {
        int count = 0;
        for (int tap = 0; tap < taps; ++tap) count += first + tap * dilation >= 0 && first + tap * dilation < size;
        return count;
    }
"""
POOL_COUNT = "count_include_pad ? KH * KW : max(1, taps_inside({h}, KH, DH, H) * taps_inside({w}, KW, DW, W))"
AVERAGE_POOL2D = Elementwise(
    "average_pool2d",
    f"raw T x, {WINDOW}, bool count_include_pad",
    "T y",
    f"""{OUTPUT_PIXEL}
    T sum = 0;
    {EACH_TAP}
            if (inside) sum += x[{INPUT_INDEX}];
        }}
    y = sum / T({POOL_COUNT.format(h="h0", w="w0")});
    """,
    INSIDE,
)
AVERAGE_POOL2D_DX = Elementwise(
    "average_pool2d_dx",
    f"raw T dy, {WINDOW}, bool count_include_pad",
    "T dx",
    f"""{INPUT_PIXEL}
    T sum = 0;
    {EACH_WINDOW}
            const int count = {POOL_COUNT.format(h="oh * SH - top", w="ow * SW - left")};
            sum += dy[{OUTPUT_INDEX}] / T(count);
        }}
    }}
    dx = sum;
    """,
    INSIDE,
)
LP_POOL2D = Elementwise(
    "lp_pool2d",
    f"raw T x, {WINDOW}, T p",
    "T y",
    f"""{OUTPUT_PIXEL}
    T sum = 0;
    {EACH_TAP}
            const T value = inside ? x[{INPUT_INDEX}] : T(0);
            sum += p == T(2) ? value * value : pow(fabs(value), p);
        }}
    y = p == T(2) ? sqrt(sum) : pow(sum, T(1) / p);
    """,
)
LP_POOL2D_DX = Elementwise(
    "lp_pool2d_dx",
    f"raw T dy, raw T x, raw T y, {WINDOW}, T p",
    "T dx",
    f"""{INPUT_PIXEL}
    const T value = x[i];
    T sum = 0;
    {EACH_WINDOW}
            const int window = {OUTPUT_INDEX};
            if (y[window] > T(0)) sum += dy[window] * pow(fabs(value) / y[window], p - T(1));
        }}
    }}
    dx = value == T(0) ? T(0) : value < T(0) ? -sum : sum;
    """,
)
