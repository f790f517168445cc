"""Pooling, one kernel each; backward in gather form."""

from __future__ import annotations

from typing import Any

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.records import Elementwise
from gpucnn.backend.gpu.windows import (
    EACH_TAP,
    EACH_WINDOW,
    INPUT_INDEX,
    INPUT_PIXEL,
    OUTPUT_INDEX,
    OUTPUT_PIXEL,
    WINDOW,
    window_arguments,
)
from gpucnn.backend.reference import pooling as reference
from gpucnn.geometry import Window

__all__ = [
    *("average_pool2d", "average_pool2d_dx", "lp_pool2d", "lp_pool2d_dx", "max_pool2d", "max_pool2d_dx", "pool_counts"),
]

MAX_POOL2D = Elementwise(
    "max_pool2d",
    f"raw T x, {WINDOW}, bool relu",
    "T y, U argmax",
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
    argmax = wins ? which : KH * KW;
    """,
)


def max_pool2d(
    self, x: Array, window: Window, *, relu: bool = False, out: Array = None, argmax: Array = None
) -> tuple[Array, Array]:
    """As the reference, in one kernel."""
    out = _pooled(self, out, x, window)
    argmax = self.result(argmax, out.shape, self.argmax_dtype(window))
    arguments = *window_arguments(x.shape, window), relu
    self.run_elementwise(MAX_POOL2D, self.contiguous(x), *arguments, out, argmax)
    return out, argmax


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


def max_pool2d_dx(
    self, dy: Array, argmax: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
) -> Array:
    """As the reference, in gather form: each pixel finds the windows it won."""
    out = self.result(out, x_shape, dy.dtype)
    arrays = self.contiguous(dy), self.contiguous(argmax)
    self.run_elementwise(MAX_POOL2D_DX, *arrays, *window_arguments(x_shape, window), out)
    return out


def pool_counts(self, x_shape: tuple[int, ...], window: Window, count_include_pad: bool, dtype: Any) -> Array:
    """As the reference, computed once for each shape."""
    key = ("pool_counts", x_shape[1:3], window, count_include_pad, dtype)
    if key not in self.constants:
        self.constants[key] = reference.pool_counts(self, x_shape, window, count_include_pad, dtype)
    return self.constants[key]


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


def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    out = _pooled(self, out, x, window)
    arrays = self.contiguous(x), self.pool_counts(x.shape, window, count_include_pad, x.dtype)
    self.run_elementwise(AVERAGE_POOL2D, *arrays, *window_arguments(x.shape, window), out)
    return out


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


def average_pool2d_dx(
    self,
    dy: Array,
    x_shape: tuple[int, ...],
    window: Window,
    *,
    count_include_pad: bool = False,
    out: Array = None,
) -> Array:
    """As the reference, in gather form."""
    out = self.result(out, x_shape, dy.dtype)
    arrays = self.contiguous(dy), self.pool_counts(x_shape, window, count_include_pad, dy.dtype)
    self.run_elementwise(AVERAGE_POOL2D_DX, *arrays, *window_arguments(x_shape, window), out)
    return out


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


def lp_pool2d(self, x: Array, p: float, window: Window, *, out: Array = None) -> Array:
    """As the reference, in one kernel."""
    out = _pooled(self, out, x, window)
    self.run_elementwise(LP_POOL2D, self.contiguous(x), *window_arguments(x.shape, window), p, out)
    return out


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


def lp_pool2d_dx(self, dy: Array, x: Array, y: Array, p: float, window: Window, *, out: Array = None) -> Array:
    """As the reference, in gather form."""
    out = self.result(out, x.shape, dy.dtype)
    arrays = map(self.contiguous, (dy, x, y))
    self.run_elementwise(LP_POOL2D_DX, *arrays, *window_arguments(x.shape, window), p, out)
    return out


def _pooled(self, out: Array | None, x: Array, window: Window) -> Array:
    N, H, W, C = x.shape
    return self.result(out, (N, *window.output_size(H, W), C), x.dtype)
