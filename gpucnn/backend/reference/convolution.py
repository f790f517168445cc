"""Convolution: lowered to columns, it is one matrix product for each group of channels; and windows, as for pooling."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array
from gpucnn.geometry import Window

__all__ = ["col2im", "conv2d", "conv2d_dw_db", "conv2d_dx", "im2col", "pad", "sum_taps", "taps"]


def pad(self, x: Array, window: Window, value: float) -> Array:
    """Copy `x` (N, H, W, C) into an image with the window's border around it, filled with `value`."""
    N, H, W, C = x.shape
    padded = self.xp.full((N, *window.padded_size(H, W), C), value, dtype=x.dtype)
    rows, columns = window.interior(H, W)
    padded[:, rows, columns, :] = x
    return padded


def taps(self, x: Array, window: Window, value: float) -> list[Array]:
    """For each kernel tap, the (N, OH, OW, C) pixels of the padded image that it meets as the window slides."""
    N, H, W, C = x.shape
    padded = self.pad(x, window, value)
    return [padded[:, rows, columns, :] for rows, columns in window.tap_slices(H, W)]


def sum_taps(self, taps: list[Array], x_shape: tuple[int, ...], window: Window) -> Array:
    """Adjoint of `taps`: add each tap's (N, OH, OW, C) back onto the pixels of (N, H, W, C) that it came from."""
    N, H, W, C = x_shape
    padded = self.xp.zeros((N, *window.padded_size(H, W), C), dtype=taps[0].dtype)
    for (rows, columns), tap in zip(window.tap_slices(H, W), taps, strict=True):
        padded[:, rows, columns, :] += tap
    rows, columns = window.interior(H, W)
    return padded[:, rows, columns, :]


def im2col(self, x: Array, window: Window, *, out: Array = None) -> Array:
    """Write under each output pixel, as one row, the input pixels that its window meets.

    (N, H, W, C) -> (N*OH*OW, KH*KW*C). A convolution becomes one matrix product with the kernels.
    """
    columns = self.xp.stack(self.taps(x, window, 0.0), axis=3)  # (N, OH, OW, KH*KW, C)
    N, OH, OW, taps, C = columns.shape
    return self.store(self.xp.reshape(columns, (N * OH * OW, taps * C)), out)


def col2im(self, columns: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
    """Adjoint of `im2col`: each pixel receives the sum of its copies. (N*OH*OW, KH*KW*C) -> (N, H, W, C)."""
    N, H, W, C = x_shape
    OH, OW = window.output_size(H, W)
    columns = self.xp.reshape(columns, (N, OH, OW, window.taps, C))
    taps = [columns[:, :, :, tap, :] for tap in range(window.taps)]
    return self.store(self.sum_taps(taps, x_shape, window), out)


def conv2d(
    self, x: Array, w: Array, b: Array | None, window: Window, *, relu: bool = False, out: Array = None
) -> Array:
    """Convolve: `y[m,n,o] = sum_u sum_v sum_c w[u,v,c,o] x[m*SH + u*DH, n*SW + v*DW, c] + b[o]`.

    With groups, the C and the OC channels are cut into as many equal runs, and output channel o sees the input
    channels of its own run alone: c counts from there. How many groups there are is C over the third size of w.

    Paper: section 3.1, convolution.
    Differs: the paper also writes the kernel flipped; like every library this computes the cross-correlation.
    x (N, H, W, C), w (KH, KW, C/groups, OC), b (OC,) or None -> (N, OH, OW, OC).

    With `relu` of `max(y, 0)`: the ReLU that follows it, too.
    """
    N, H, W, C = x.shape
    OC, groups = w.shape[-1], C // w.shape[2]
    columns = _split(self, self.im2col(x, window), groups, window.taps)  # (groups, N*OH*OW, KH*KW*C/groups)
    kernels = _split(self, self.xp.reshape(w, (-1, OC)), groups)  # (groups, KH*KW*C/groups, OC/groups)
    y = _join(self, self.matmul(columns, kernels))  # (N*OH*OW, OC)
    y = self.finish(y, b, relu)
    return self.store(self.xp.reshape(y, (N, *window.output_size(H, W), OC)), out)


def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
    """Gradient of `conv2d` in its input: each dy goes back, weighted, to the pixels its window met.

    Paper: section 3, backward, convolution, dL/dI. At stride 1 it is the full correlation of dy with the kernels
    rotated by 180 degrees.
    dy (N, OH, OW, OC), w (KH, KW, C/groups, OC) -> (N, H, W, C).
    """
    OC, groups = w.shape[-1], x_shape[-1] // w.shape[2]
    rows, kernels = (_split(self, self.xp.reshape(array, (-1, OC)), groups) for array in (dy, w))
    dcolumns = _join(self, self.matmul(rows, self.xp.permute_dims(kernels, (0, 2, 1))), window.taps)
    return self.col2im(dcolumns, x_shape, window, out=out)


def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
    """Gradients of `conv2d`: `dw[u,v,c,o] = sum dy[m,n,o] x[m*SH + u*DH, n*SW + v*DW, c]`, `db[o] = sum dy`.

    Paper: section 3, backward, convolution, dL/dk and dL/db.
    x (N, H, W, C), dy (N, OH, OW, OC) -> dw (KH, KW, C/groups, OC), db (OC,) or None.
    """
    groups = x.shape[-1] // dw.shape[2]
    columns, rows = self.im2col(x, window), self.xp.reshape(dy, (-1, dy.shape[-1]))
    transposed = self.xp.permute_dims(_split(self, columns, groups, window.taps), (0, 2, 1))
    dw[...] = self.xp.reshape(_join(self, self.matmul(transposed, _split(self, rows, groups))), dw.shape)
    if db is not None:
        self.sum_rows(rows, out=db)


def _split(self, rows: Array, groups: int, taps: int = 1) -> Array:
    """Separate the groups of the channels: (M, taps*C) -> (groups, M, taps*C/groups)."""
    rows = self.xp.reshape(rows, (rows.shape[0], taps, groups, -1))  # (M, taps, groups, C/groups)
    return self.xp.reshape(self.xp.permute_dims(rows, (2, 0, 1, 3)), (groups, rows.shape[0], -1))


def _join(self, parts: Array, taps: int = 1) -> Array:
    """Put the groups of the channels side by side: (groups, M, taps*C/groups) -> (M, taps*C)."""
    groups, M, _ = parts.shape
    parts = self.xp.reshape(parts, (groups, M, taps, -1))  # (groups, M, taps, C/groups)
    return self.xp.reshape(self.xp.permute_dims(parts, (1, 2, 0, 3)), (M, -1))
