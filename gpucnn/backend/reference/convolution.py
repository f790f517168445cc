"""Convolution: lowered to columns, it is one matrix product."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array, Arrays
from gpucnn.geometry import Window

__all__ = ["Convolution", "Windows"]


class Windows(Arrays):
    """Part of `Backend`: pixels under a sliding window, as one array for each of its taps."""

    def pad(self, x: Array, window: Window, value: float) -> Array:
        """Copy `x` (N, H, W, C) into an image with the window's padding around it, filled with `value`."""
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


class Convolution(Windows):
    """Part of `Backend`."""

    def im2col(self, x: Array, window: Window, *, out: Array = None) -> Array:
        """Write under each output pixel, as one row, the input pixels that its window meets.

        (N, H, W, C) -> (N*OH*OW, KH*KW*C). A convolution becomes one matrix product with the kernels.
        """
        columns = self.xp.stack(self.taps(x, window, 0.0), axis=3)  # (N, OH, OW, KH*KW, C)
        N, OH, OW, taps, C = columns.shape
        return self._store(self.xp.reshape(columns, (N * OH * OW, taps * C)), out)

    def col2im(self, columns: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """Adjoint of `im2col`: each pixel receives the sum of its copies. (N*OH*OW, KH*KW*C) -> (N, H, W, C)."""
        N, H, W, C = x_shape
        OH, OW = window.output_size(H, W)
        columns = self.xp.reshape(columns, (N, OH, OW, window.taps, C))
        taps = [columns[:, :, :, tap, :] for tap in range(window.taps)]
        return self._store(self.sum_taps(taps, x_shape, window), out)

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, *, out: Array = None) -> Array:
        """Convolve: `y[m,n,o] = sum_u sum_v sum_c w[u,v,c,o] x[m*SH + u*DH, n*SW + v*DW, c] + b[o]`.

        Paper: section 3.1, convolution.
        Differs: the paper also writes the kernel flipped; like every library this computes the cross-correlation.
        x (N, H, W, C), w (KH, KW, C, OC), b (OC,) or None -> (N, OH, OW, OC).
        """
        N, H, W, C = x.shape
        OC = w.shape[-1]
        columns = self.im2col(x, window)  # (N*OH*OW, KH*KW*C)
        y = self.xp.matmul(columns, self.xp.reshape(w, (-1, OC)))  # (N*OH*OW, OC)
        y = y if b is None else y + b
        return self._store(self.xp.reshape(y, (N, *window.output_size(H, W), OC)), out)

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """Gradient of `conv2d` in its input: each dy goes back, weighted, to the pixels its window met.

        Paper: section 3, backward, convolution, dL/dI. At stride 1 it is the full correlation of dy with the kernels
        rotated by 180 degrees.
        dy (N, OH, OW, OC), w (KH, KW, C, OC) -> (N, H, W, C).
        """
        OC = w.shape[-1]
        dcolumns = self.xp.matmul(self.xp.reshape(dy, (-1, OC)), self.xp.reshape(w, (-1, OC)).T)
        return self.col2im(dcolumns, x_shape, window, out=out)

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """Gradients of `conv2d`: `dw[u,v,c,o] = sum dy[m,n,o] x[m*SH + u*DH, n*SW + v*DW, c]`, `db[o] = sum dy`.

        Paper: section 3, backward, convolution, dL/dk and dL/db.
        x (N, H, W, C), dy (N, OH, OW, OC) -> dw (KH, KW, C, OC), db (OC,) or None.
        """
        columns, rows = self.im2col(x, window), self.xp.reshape(dy, (-1, dy.shape[-1]))
        dw[...] = self.xp.reshape(self.xp.matmul(columns.T, rows), dw.shape)
        if db is not None:
            self.sum_rows(rows, out=db)
