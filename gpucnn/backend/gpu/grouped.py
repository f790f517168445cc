"""Convolution with groups, which needs no columns: each element of a result finds what it is the sum of."""

from __future__ import annotations

import math

from gpucnn.backend.gpu.arrays import Array, check_indices
from gpucnn.backend.gpu.records import Elementwise
from gpucnn.backend.gpu.windows import EACH_TAP, EACH_WINDOW, INPUT_INDEX, INPUT_PIXEL, WINDOW, window_arguments
from gpucnn.geometry import Window

__all__ = ["gradient_parts", "group_arguments", "grouped_conv2d", "grouped_conv2d_dw", "grouped_conv2d_dx"]

DW_THREADS = 1 << 18  # that share the images of a gradient with groups
GROUPS = f"{WINDOW}, int32 OC, int32 CG, int32 OG"  # channels of the output; of one group, of x and of the output
KERNEL_INDEX = "((u * KW + v) * CG + k) * OC + o"
ERROR_INDEX = "((image * OH + oh) * OW + ow) * OC + o"


def group_arguments(x_shape: tuple[int, ...], w_shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
    """Return the scalars that `GROUPS` names."""
    _, _, CG, OC = w_shape
    check_indices(math.prod(w_shape), f"a kernel of {w_shape}", "use fewer channels")
    return *window_arguments(x_shape, window, OC), OC, CG, OC * CG // x_shape[3]


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


def grouped_conv2d(self, x: Array, w: Array, b: Array | None, window: Window, relu: bool, out: Array) -> Array:
    """Convolve, with bias and ReLU in place."""
    scalars = group_arguments(x.shape, w.shape, window)
    self.run_elementwise(GROUPED_CONV2D, self.contiguous(x), self.contiguous(w), *scalars, out)
    return self.finish(out, b, relu)


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


def grouped_conv2d_dx(self, dy: Array, w: Array, window: Window, out: Array) -> Array:
    """Gather the gradient in the input."""
    scalars = group_arguments(out.shape, w.shape, window)
    self.run_elementwise(GROUPED_CONV2D_DX, self.contiguous(dy), self.contiguous(w), *scalars, out)
    return out


def gradient_parts(N: int, size: int) -> int:
    """Return how many partial gradients of a size N images are summed up in."""
    return max(1, min(N, DW_THREADS // size))


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


def grouped_conv2d_dw(self, x: Array, dy: Array, window: Window, dw: Array) -> None:
    """Sum over the images in as many parts as keep the device busy, then over the parts."""
    N, scalars = len(x), group_arguments(x.shape, dw.shape, window)
    count = gradient_parts(N, dw.size)
    parts = self.scratch("dw", (count, dw.size), dw.dtype)
    arrays = self.contiguous(x), self.contiguous(dy)
    self.run_elementwise(GROUPED_CONV2D_DW, *arrays, *scalars, N, count, parts)
    self.sum_rows(parts, out=dw.reshape(-1))
