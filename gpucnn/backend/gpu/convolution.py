"""Convolution: kernels lower the images, cuBLAS multiplies; or kernels do all of it, as they do with groups."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend.gpu.arrays import Array, check_indices
from gpucnn.backend.gpu.implicit import GpuImplicit
from gpucnn.backend.kernels import convolution as kernels
from gpucnn.errors import DeviceError, unknown_name
from gpucnn.geometry import Window

__all__ = ["GpuConvolution"]

COLUMN_BYTES = 1 << 28  # of columns lowered at a time, or those of one image: bounds their memory
DW_THREADS = 1 << 18  # that share the images of a gradient with groups
WAYS = ("columns", "implicit")


class GpuConvolution(GpuImplicit):
    """Part of `GpuBackend`.

    `convolution` is the way to convolve without groups: "columns" writes those of `im2col`, and cuBLAS multiplies them;
    "implicit" has kernels of its own, which need no memory for columns. Unless given it is what is predicted to be the
    faster one: "implicit" where products are rounded for tensor cores, "columns" in float32 and float64.
    """

    def __init__(self, float_dtype: Any = "float32", *, convolution: str | None = None, **options: Any):
        if convolution not in (None, *WAYS):
            raise unknown_name("convolution", convolution, WAYS)
        super().__init__(float_dtype, **options)
        capability, least = int(self.xp.cuda.Device(self.device).compute_capability), self._least_capability()
        is_faster = self.matmul_precision != self.precision and capability >= least
        self.convolution = convolution or ("implicit" if is_faster else "columns")
        if self.convolution == "implicit" and capability < least:
            raise DeviceError(
                f"{self.name} has compute capability {capability / 10}: implicit convolution in "
                f"{self.matmul_precision} needs {least / 10}; use convolution columns, or float32"
            )

    def describe(self) -> str:
        return f"{super().describe().removesuffix(')')}, convolution {self.convolution})"

    def _window_arguments(self, x_shape: tuple[int, ...], window: Window, OC: int = 1) -> tuple[int, ...]:
        """Return the scalars that `kernels.WINDOW` names, for arrays that 32-bit indices can reach."""
        N, H, W, C = x_shape
        OH, OW = window.output_size(H, W)
        cure = "use smaller images" if N == 1 else "use a smaller batch"
        check_indices(N * max(C, OC) * max(H * W, OH * OW), _images(x_shape), cure)
        (top, _), (left, _) = window.padding
        return H, W, C, OH, OW, *window.kernel, *window.stride, top, left, *window.dilation

    def _check_columns(self, x_shape: tuple[int, ...], window: Window) -> None:
        """Refuse columns that 32-bit indices cannot reach; those of one image may be as many."""
        N, H, W, C = x_shape
        cure = f"use convolution implicit, or {'smaller images' if N == 1 else 'a smaller batch'}"
        elements = N * math.prod(window.output_size(H, W)) * window.taps * C
        check_indices(elements, f"{_images(x_shape)} with its columns of {window.taps * C}", cure)

    def im2col(self, x: Array, window: Window, *, out: Array = None) -> Array:
        """As the reference, in one kernel: each column element finds its pixel."""
        self._check_columns(x.shape, window)
        N, H, W, C = x.shape
        OH, OW = window.output_size(H, W)
        out = self._result(out, (N * OH * OW, window.taps * C), x.dtype)
        self._run(kernels.IM2COL, self._contiguous(x), *self._window_arguments(x.shape, window), out)
        return out

    def col2im(self, columns: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference, in gather form: each pixel finds its copies."""
        self._check_columns(x_shape, window)
        out = self._result(out, x_shape, columns.dtype)
        self._run(kernels.COL2IM, self._contiguous(columns), *self._window_arguments(x_shape, window), out)
        return out

    def _chunks(self, x_shape: tuple[int, ...], window: Window, dtype: Any) -> Iterator[tuple[slice, Array]]:
        """Split a batch into slices that are lowered together; yield each with its column buffer."""
        N, H, W, C = x_shape
        OH, OW = window.output_size(H, W)
        rows, width = OH * OW, window.taps * C
        images = max(1, COLUMN_BYTES // (rows * width * np.dtype(dtype).itemsize))
        self._check_columns((min(images, N), H, W, C), window)
        for start in range(0, N, images):
            stop = min(start + images, N)
            yield slice(start, stop), self.scratch("columns", ((stop - start) * rows, width), dtype)

    def conv2d_workspace(
        self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], window: Window, *, train: bool
    ) -> int:
        """Return the bytes of one buffer of columns, and in training of partial gradients."""
        (N, H, W, C), itemsize = x_shape, np.dtype(self.precision).itemsize
        pixels = math.prod(window.output_size(H, W))
        if w_shape[2] < C:
            return math.prod(w_shape) * self._parts(N, math.prod(w_shape)) * itemsize if train else 0
        if self.convolution == "implicit":
            parts, _ = self._dw_parts(w_shape, N * pixels)
            return math.prod(w_shape) * parts * itemsize if train and parts > 1 else 0
        image = pixels * window.taps * C * itemsize
        images = min(N, max(1, COLUMN_BYTES // image))
        return images * image + (math.prod(w_shape) * itemsize if train and images < N else 0)

    def conv2d(
        self, x: Array, w: Array, b: Array | None, window: Window, *, relu: bool = False, out: Array = None
    ) -> Array:
        """As the reference, with the columns in one buffer, and bias and ReLU in place."""
        N, H, W, C = x.shape
        OC = w.shape[-1]
        out = self._result(out, (N, *window.output_size(H, W), OC), x.dtype)
        if w.shape[2] < C:
            return self._grouped_conv2d(x, w, b, window, relu, out)
        if self.convolution == "implicit":
            return self._implicit_conv2d(x, w, b, self._sizes(x.shape, OC, window), out, relu=relu)
        for images, columns in self._chunks(x.shape, window, x.dtype):
            y = out[images].reshape(-1, OC)
            self.im2col(x[images], window, out=columns)
            self.matmul(columns, self._contiguous(w).reshape(-1, OC), out=y)
            self._finish(y, b, relu)
        return out

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference, with the columns in one buffer."""
        OC = w.shape[-1]
        out = self._result(out, x_shape, dy.dtype)
        if w.shape[2] < x_shape[3]:
            return self._grouped_conv2d_dx(dy, w, window, out)
        if self.convolution == "implicit":
            return self._implicit_conv2d_dx(dy, w, self._sizes(x_shape, OC, window), out)
        kernels_transposed = self._contiguous(w).reshape(-1, OC).T
        for images, dcolumns in self._chunks(x_shape, window, dy.dtype):
            self.matmul(self._contiguous(dy[images]).reshape(-1, OC), kernels_transposed, out=dcolumns)
            self.col2im(dcolumns, out[images].shape, window, out=out[images])
        return out

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As the reference, with the columns in one buffer; parts of a large batch are added in their order."""
        OC = dy.shape[-1]
        rows = self._contiguous(dy).reshape(-1, OC)  # (N*OH*OW, OC)
        if db is not None:
            self.sum_rows(rows, out=db)
        if len(x) == 0:
            dw[...] = 0
            return
        if dw.shape[2] < x.shape[3]:
            self._grouped_conv2d_dw(x, dy, window, dw)
            return
        if self.convolution == "implicit":
            self._implicit_conv2d_dw(x, dy, self._sizes(x.shape, OC, window), dw)
            return
        total = dw.reshape(-1, OC)
        done = 0
        for images, columns in self._chunks(x.shape, window, x.dtype):
            self.im2col(x[images], window, out=columns)
            part = self.scratch("dw", total.shape, dw.dtype) if done else total
            self.matmul(columns.T, rows[done : done + len(columns)], out=part)
            if done:
                self.xp.add(total, part, out=total)
            done += len(columns)

    def _sizes(self, x_shape: tuple[int, ...], OC: int, window: Window) -> tuple[int, ...]:
        """Return the scalars that `SIZES` of the implicit kernels names."""
        check_indices(window.taps * max(x_shape[3], OC), f"a kernel of {window.kernel}", "use a smaller one")
        return x_shape[0], OC, *self._window_arguments(x_shape, window, OC)

    # ---- groups ---------------------------------------------------------------------------------------------------

    def _group_arguments(self, x_shape: tuple[int, ...], w_shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
        """Return the scalars that `kernels.GROUPS` names."""
        _, _, CG, OC = w_shape
        check_indices(math.prod(w_shape), f"a kernel of {w_shape}", "use fewer channels")
        return *self._window_arguments(x_shape, window, OC), OC, CG, OC * CG // x_shape[3]

    def _grouped_conv2d(self, x: Array, w: Array, b: Array | None, window: Window, relu: bool, out: Array) -> Array:
        scalars = self._group_arguments(x.shape, w.shape, window)
        self._run(kernels.GROUPED_CONV2D, self._contiguous(x), self._contiguous(w), *scalars, out)
        return self._finish(out, b, relu)

    def _grouped_conv2d_dx(self, dy: Array, w: Array, window: Window, out: Array) -> Array:
        scalars = self._group_arguments(out.shape, w.shape, window)
        self._run(kernels.GROUPED_CONV2D_DX, self._contiguous(dy), self._contiguous(w), *scalars, out)
        return out

    def _parts(self, N: int, size: int) -> int:
        """Return how many partial gradients of a size N images are summed up in."""
        return max(1, min(N, DW_THREADS // size))

    def _grouped_conv2d_dw(self, x: Array, dy: Array, window: Window, dw: Array) -> None:
        """Sum over the images in as many parts as keep the device busy, then over the parts."""
        N, scalars = len(x), self._group_arguments(x.shape, dw.shape, window)
        count = self._parts(N, dw.size)
        parts = self.scratch("dw", (count, dw.size), dw.dtype)
        arrays = self._contiguous(x), self._contiguous(dy)
        self._run(kernels.GROUPED_CONV2D_DW, *arrays, *scalars, N, count, parts)
        self.sum_rows(parts, out=dw.reshape(-1))


def _images(x_shape: tuple[int, ...]) -> str:
    """Name a batch of images."""
    N, H, W, C = x_shape
    return f"{'an image' if N == 1 else f'a batch of {N} images'} of {H}x{W}x{C}"
