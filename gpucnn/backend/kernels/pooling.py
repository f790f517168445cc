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
    f"raw T x, {WINDOW}, bool relu",
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
    const bool wins = !relu || best > 0;
    y = wins || best != best ? best : T(0);
    winner = wins ? which : KH * KW;
    """,
)
MAX_POOL2D_DX = Elementwise(
    "max_pool2d_dx",
    f"raw T dy, raw U argmax, {WINDOW}",
    "T dx",
    f"""{INPUT_PIXEL}
    T sum = 0;
    {EACH_WINDOW}
            const int window = {OUTPUT_INDEX};
            if (argmax[window] == u * KW + v) sum += dy[window];
        }}
    }}
    dx = sum;
    """,
)
AVERAGE_POOL2D = Elementwise(
    "average_pool2d",
    f"raw T x, raw T counts, {WINDOW}",
    "T y",
    f"""{OUTPUT_PIXEL}
    T sum = 0;
    {EACH_TAP}
            if (inside) sum += x[{INPUT_INDEX}];
        }}
    y = sum / counts[oh * OW + ow];
    """,
)
AVERAGE_POOL2D_DX = Elementwise(
    "average_pool2d_dx",
    f"raw T dy, raw T counts, {WINDOW}",
    "T dx",
    f"""{INPUT_PIXEL}
    T sum = 0;
    {EACH_WINDOW}
            sum += dy[{OUTPUT_INDEX}] / counts[oh * OW + ow];
        }}
    }}
    dx = sum;
    """,
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
