"""The CPU backend: the reference's operations in NumPy without allocating, in pieces that stay in the cache.

Each override gives the reference's results, faster: it writes into `out` with ufuncs, and keeps its intermediate
arrays in the backend's workspace, so that from the second call on nothing is allocated. Arrays given as `out` are
C-contiguous.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from gpucnn.backend import random
from gpucnn.backend.reference import Backend
from gpucnn.geometry import Window

__all__ = ["CpuBackend"]

Array = np.ndarray

CACHE_BYTES = 1 << 19  # of columns lowered at a time: half of a common second-level cache
BLOCK = 1 << 14  # elements updated at a time by the optimizers and by Philox


class Lowering:
    """Lowers images to columns a few at a time, into one buffer that stays in the cache.

    The padded copy's border is filled once, here; each use overwrites only its interior.
    """

    def __init__(self, backend: CpuBackend, image_shape: tuple[int, ...], window: Window, dtype: np.dtype):
        H, W, C = image_shape
        self.window = window
        self.output = window.output_size(H, W)
        self.pixels = self.output[0] * self.output[1]
        self.width = window.taps * C
        padded_shape = (*window.padded_size(H, W), C)
        largest = max(self.pixels * self.width, math.prod(padded_shape))
        self.images = max(1, CACHE_BYTES // (largest * dtype.itemsize))
        self.dtype = dtype
        if window.is_padded:
            self.padded = np.zeros((self.images, *padded_shape), dtype)
            rows, columns = window.interior(H, W)
            self.interior = self.padded[:, rows, columns]
        self._backend = backend

    def columns(self, count: int) -> Array:
        """Return the column buffer for `count` images, (count*OH*OW, KH*KW*C)."""
        return self._backend.scratch("columns", (count * self.pixels, self.width), self.dtype)

    def chunks(self, N: int) -> Iterator[slice]:
        """Split a batch into slices that are lowered together."""
        return (slice(start, min(start + self.images, N)) for start in range(0, N, self.images))

    def lower(self, x: Array) -> Array:
        """Write the columns of at most `images` images, as `im2col` does."""
        count, C = len(x), x.shape[3]
        if self.window.is_padded:
            np.copyto(self.interior[:count], x)
            x = self.padded[:count]
        columns = self.columns(count)
        (KH, KW), (SH, SW), (DH, DW) = self.window.kernel, self.window.stride, self.window.dilation
        n, h, w, c = x.strides
        taps = as_strided(x, (count, *self.output, KH, KW, C), (n, SH * h, SW * w, DH * h, DW * w, c))
        np.copyto(columns.reshape(taps.shape), taps)
        return columns


class CpuBackend(Backend):
    """NumPy arrays; matrix products by the BLAS that NumPy was built with."""

    name = "cpu"

    def __init__(self, float_dtype: Any = "float32"):
        super().__init__(float_dtype)
        self._lowerings: dict[tuple, Lowering] = {}
        self._padded: dict[tuple, Array] = {}
        self._counts: dict[tuple, Array | float] = {}
        self._ones: dict[np.dtype, Array] = {}
        self._ramp = np.arange(BLOCK, dtype=np.uint64)

    def _count_to(self, count: int) -> Array:
        """Return 0, 1, .., count - 1 as uint64."""
        if len(self._ramp) < count:
            self._ramp = np.arange(count, dtype=np.uint64)
        return self._ramp[:count]

    def _result(self, out: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
        return np.empty(shape, dtype) if out is None else out

    def owns(self, array: object) -> bool:
        return isinstance(array, np.ndarray)

    # ---- lowering and convolution ---------------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, *, out: Array = None) -> Array:
        return np.matmul(a, b, out=out)

    def _lowering(self, x_shape: tuple[int, ...], window: Window, dtype: np.dtype) -> Lowering:
        key = (x_shape[1:], window, dtype)
        if key not in self._lowerings:
            self._lowerings[key] = Lowering(self, x_shape[1:], window, dtype)
        return self._lowerings[key]

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, *, out: Array = None) -> Array:
        """As the reference, a few images at a time: their columns are multiplied while still in the cache."""
        lowering = self._lowering(x.shape, window, x.dtype)
        OC = w.shape[-1]
        out = self._result(out, (len(x), *lowering.output, OC), x.dtype)
        kernels = w.reshape(-1, OC)
        for images in lowering.chunks(len(x)):
            y = out[images].reshape(-1, OC)  # (n*OH*OW, OC)
            np.matmul(lowering.lower(x[images]), kernels, out=y)
            if b is not None:
                np.add(y, b, out=y)
        return out

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference; at stride 1 as a forward convolution of dy with rotated kernels, which scatters nothing."""
        out = self._result(out, x_shape, dy.dtype)
        if window.stride == (1, 1) and all(max(p) < e for p, e in zip(window.padding, window.extent, strict=True)):
            return self._conv2d_dx_rotated(dy, w, window, out)
        lowering = self._lowering(x_shape, window, dy.dtype)
        OC = w.shape[-1]
        kernels = w.reshape(-1, OC).T  # (OC, KH*KW*C)
        _, H, W, C = x_shape
        for images in lowering.chunks(len(dy)):
            dcolumns = lowering.columns(len(dy[images]))
            np.matmul(dy[images].reshape(-1, OC), kernels, out=dcolumns)
            taps = dcolumns.reshape(-1, *lowering.output, window.taps, C)
            self._sum_taps((taps[:, :, :, tap] for tap in range(window.taps)), window, out[images])
        return out

    def _conv2d_dx_rotated(self, dy: Array, w: Array, window: Window, out: Array) -> Array:
        KH, KW, C, OC = w.shape
        rotated = self.scratch("rotated", (KH, KW, OC, C), w.dtype)
        np.copyto(rotated, w[::-1, ::-1].swapaxes(2, 3))
        (EH, EW), ((top, bottom), (left, right)) = window.extent, window.padding
        padding = (EH - 1 - top, EH - 1 - bottom), (EW - 1 - left, EW - 1 - right)
        return self.conv2d(dy, rotated, None, Window((KH, KW), (1, 1), padding, window.dilation), out=out)

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As the reference, a few images at a time; the parts are added in their order, so the result repeats."""
        lowering = self._lowering(x.shape, window, x.dtype)
        OC = dy.shape[-1]
        total = dw.reshape(-1, OC)
        part = self.scratch("dw", total.shape, dw.dtype)
        for images in lowering.chunks(len(x)):
            rows = dy[images].reshape(-1, OC)
            first = images.start == 0
            np.matmul(lowering.lower(x[images]).T, rows, out=total if first else part)
            if not first:
                np.add(total, part, out=total)
        if db is not None:
            self.sum_rows(dy.reshape(-1, OC), out=db)

    def add(self, a: Array, b: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return np.add(a, b, out=out)

    def sum_rows(self, rows: Array, *, out: Array = None) -> Array:
        """As the reference, as a matrix product with ones: faster there than `sum`, and more exact."""
        ones = self._ones.get(rows.dtype)
        if ones is None or len(ones) < len(rows):
            ones = self._ones[rows.dtype] = np.ones(len(rows), rows.dtype)
        return np.matmul(ones[: len(rows)], rows, out=out)

    # ---- pooling --------------------------------------------------------------------------------------------------

    def taps(self, x: Array, window: Window, value: float) -> list[Array]:
        """As the reference: views of x itself where there is no padding, else of a padded copy kept for its shape."""
        N, H, W, C = x.shape
        if window.is_padded:
            key = (x.shape[1:], window, x.dtype, value)
            padded = self._padded.get(key)
            if padded is None or len(padded) < N:
                padded = self._padded[key] = np.full((N, *window.padded_size(H, W), C), value, x.dtype)
            rows, columns = window.interior(H, W)
            padded[:N, rows, columns] = x
            x = padded[:N]
        return [x[:, rows, columns] for rows, columns in window.tap_slices(H, W)]

    def _sum_taps(self, taps: Iterator[Array], window: Window, out: Array) -> Array:
        """As `sum_taps`, into `out` (N, H, W, C), from taps that may share one buffer."""
        N, H, W, C = out.shape
        padded = out
        if window.is_padded:
            padded = self.scratch("padded", (N, *window.padded_size(H, W), C), out.dtype)
        padded.fill(0)
        for (rows, columns), tap in zip(window.tap_slices(H, W), taps, strict=True):
            pixels = padded[:, rows, columns]
            np.add(pixels, tap, out=pixels)
        if padded is not out:
            np.copyto(out, padded[(slice(None), *window.interior(H, W))])
        return out

    def _keep(self, x: Array, mask: Array, out: Array) -> Array:
        """Write x where the mask is set, else 0, by its bits: as fast as a product, and exact for inf and NaN."""
        integer = np.int32 if x.dtype == np.float32 else np.int64
        mask = mask.view(np.int8)
        np.negative(mask, out=mask)  # 0 or -1: no bit or all bits
        bits = out.view(integer)
        np.copyto(bits, mask)
        np.bitwise_and(bits, np.ascontiguousarray(x).view(integer), out=bits)
        return out

    def max_pool2d(self, x: Array, window: Window, *, out: Array = None, winners: Array = None) -> tuple[Array, Array]:
        """As the reference, in place. NaN is found once at the end and left to the reference."""
        first, *others = self.taps(x, window, -np.inf)
        out = self._result(out, first.shape, x.dtype)
        winners = self._result(winners, first.shape, self.winner_dtype(window))
        better = self.scratch("mask", first.shape, np.bool_)
        number = self.scratch("number", first.shape, winners.dtype)
        np.copyto(out, first)
        winners.fill(0)
        for tap, pixels in enumerate(others, start=1):
            np.greater(pixels, out, out=better)
            np.maximum(pixels, out, out=out)
            np.multiply(better, winners.dtype.type(tap), out=number)
            np.maximum(winners, number, out=winners)  # a later winner has the larger number
        if np.isnan(np.max(out)):
            return super().max_pool2d(x, window, out=out, winners=winners)
        return out, winners

    def max_pool2d_dx(
        self, dy: Array, winners: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
    ) -> Array:
        """As the reference, one tap at a time through one buffer."""
        mask = self.scratch("mask", dy.shape, np.bool_)
        won = self.scratch("won", dy.shape, dy.dtype)

        def taps() -> Iterator[Array]:
            for tap in range(window.taps):
                np.equal(winners, tap, out=mask)
                yield self._keep(dy, mask, won)

        return self._sum_taps(taps(), window, self._result(out, x_shape, dy.dtype))

    def _pool_counts(
        self, x_shape: tuple[int, ...], window: Window, count_include_pad: bool, dtype: Any
    ) -> Array | float:
        """As the reference, computed once for each shape."""
        key = (x_shape[1:3], window, count_include_pad, dtype)
        if key not in self._counts:
            self._counts[key] = super()._pool_counts(x_shape, window, count_include_pad, dtype)
        return self._counts[key]

    def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
        """As the reference, summed in place."""
        first, *others = self.taps(x, window, 0.0)
        out = self._result(out, first.shape, x.dtype)
        np.copyto(out, first)
        for pixels in others:
            np.add(out, pixels, out=out)
        return np.divide(out, self._pool_counts(x.shape, window, count_include_pad, x.dtype), out=out)

    def average_pool2d_dx(
        self,
        dy: Array,
        x_shape: tuple[int, ...],
        window: Window,
        *,
        count_include_pad: bool = False,
        out: Array = None,
    ) -> Array:
        """As the reference, from one buffer of shares."""
        share = self.scratch("share", dy.shape, dy.dtype)
        np.divide(dy, self._pool_counts(x_shape, window, count_include_pad, dy.dtype), out=share)
        taps = (share for _ in range(window.taps))
        return self._sum_taps(taps, window, self._result(out, x_shape, dy.dtype))

    def lp_pool2d(self, x: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """As the reference, summed in place; squares and a square root for p = 2."""
        taps = self.taps(x, window, 0.0)
        out = self._result(out, taps[0].shape, x.dtype)
        power = self.scratch("power", out.shape, out.dtype)
        out.fill(0)
        for pixels in taps:
            np.add(out, self._absolute_power(pixels, p, power), out=out)
        return np.sqrt(out, out=out) if p == 2 else np.power(out, 1.0 / p, out=out)

    def lp_pool2d_dx(self, dy: Array, x: Array, y: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """As the reference, one tap at a time through two buffers."""
        scale = self.scratch("scale", dy.shape, dy.dtype)
        sign = self.scratch("sign", dy.shape, dy.dtype)
        norm = self.scratch("norm", y.shape, y.dtype)
        np.copyto(norm, y)
        np.putmask(norm, np.equal(y, 0, out=self.scratch("mask", y.shape, np.bool_)), 1)

        def taps() -> Iterator[Array]:
            for pixels in self.taps(x, window, 0.0):
                np.divide(pixels, norm, out=scale)
                np.sign(scale, out=sign)
                np.multiply(self._absolute_power(scale, p - 1, scale), sign, out=scale)
                yield np.multiply(scale, dy, out=scale)

        return self._sum_taps(taps(), window, self._result(out, x.shape, dy.dtype))

    def _absolute_power(self, x: Array, p: float, out: Array) -> Array:
        """`|x|^p` into `out`."""
        if p == 2:
            return np.square(x, out=out)
        np.abs(x, out=out)
        return out if p == 1 else np.power(out, p, out=out)

    # ---- fully connected ------------------------------------------------------------------------------------------

    def dense(self, x: Array, w: Array, b: Array | None, *, out: Array = None) -> Array:
        """As the reference, in place."""
        out = np.matmul(x, w, out=out)
        return out if b is None else np.add(out, b, out=out)

    def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return np.matmul(dy, w.T, out=out)

    def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
        """As the reference, in place."""
        np.matmul(x.T, dy, out=dw)
        if db is not None:
            self.sum_rows(dy, out=db)

    # ---- activations ----------------------------------------------------------------------------------------------

    def relu(self, x: Array, *, out: Array = None) -> Array:
        """As the reference, in one pass."""
        return np.maximum(x, 0, out=out)

    def relu_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        """As the reference, by bits."""
        mask = self.scratch("mask", y.shape, np.bool_)
        return self._keep(dy, np.greater(y, 0, out=mask), self._result(out, dy.shape, dy.dtype))

    def sigmoid(self, x: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        e = self.scratch("e", x.shape, x.dtype)
        np.exp(np.negative(np.abs(x, out=e), out=e), out=e)
        out = self._result(out, x.shape, x.dtype)
        np.heaviside(x, 1, out=out)  # 1 where x >= 0, else 0
        np.maximum(out, e, out=out)  # the numerator: 1, or e where x < 0
        return np.divide(out, np.add(e, 1, out=e), out=out)

    def sigmoid_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        slope = self.scratch("slope", y.shape, y.dtype)
        np.multiply(np.subtract(1, y, out=slope), y, out=slope)
        return np.multiply(dy, slope, out=out)

    def tanh(self, x: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return np.tanh(x, out=out)

    def tanh_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        slope = self.scratch("slope", y.shape, y.dtype)
        np.subtract(1, np.square(y, out=slope), out=slope)
        return np.multiply(dy, slope, out=out)

    def softmax(self, x: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        row = self.scratch("row", (*x.shape[:-1], 1), x.dtype)
        out = np.subtract(x, np.max(x, axis=-1, keepdims=True, out=row), out=out)
        np.exp(out, out=out)
        return np.divide(out, np.sum(out, axis=-1, keepdims=True, out=row), out=out)

    def softmax_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        row = self.scratch("row", (*y.shape[:-1], 1), y.dtype)
        out = np.multiply(dy, y, out=out)
        np.sum(out, axis=-1, keepdims=True, out=row)
        return np.multiply(np.subtract(dy, row, out=out), y, out=out)

    # ---- regularization -------------------------------------------------------------------------------------------

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
    ) -> tuple[Array, Array]:
        """As the reference, with Philox in place on one block of counters after another."""
        out = self._result(out, x.shape, x.dtype)
        mask = self._result(mask, x.shape, np.uint8)
        kept = mask.reshape(-1)
        for start in range(0, x.size, 4 * BLOCK):
            words = self._philox_block(start // 4, min(BLOCK, -(-(x.size - start) // 4)), key, int(counter[0]))
            block = kept[start : start + words.size]
            np.greater_equal(words[: block.size], random.threshold(rate), out=block.view(np.bool_))
        counter += 1
        return self.dropout_dx(x, mask, rate, out=out), mask

    def _philox_block(self, first: int, count: int, key: tuple[int, int], step: int) -> Array:
        """Words of the counters `first .. first + count - 1`: `random.philox_words`, in place."""
        c = self.scratch("philox", (6, count), np.uint64)
        c.fill(0)
        c0, c1, c2, c3, product0, product1 = c
        c2.fill(step)
        np.add(self._count_to(count), first, out=c0)
        k0, k1 = key
        for _ in range(random.ROUNDS):
            np.multiply(c0, random.MULTIPLIERS[0], out=product0)
            np.multiply(c2, random.MULTIPLIERS[1], out=product1)
            np.right_shift(product1, 32, out=c0)
            np.bitwise_xor(np.bitwise_xor(c0, c1, out=c0), k0, out=c0)
            np.bitwise_and(product1, random.MASK, out=c1)
            np.right_shift(product0, 32, out=c2)
            np.bitwise_xor(np.bitwise_xor(c2, c3, out=c2), k1, out=c2)
            np.bitwise_and(product0, random.MASK, out=c3)
            k0, k1 = (k0 + random.WEYL[0]) & random.MASK, (k1 + random.WEYL[1]) & random.MASK
        words = self.scratch("words", (count, 4), np.uint64)
        np.copyto(words, c[:4].T)
        return words.reshape(-1)

    def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
        """As the reference, in place."""
        kept = np.not_equal(mask, 0, out=self.scratch("mask", mask.shape, np.bool_))
        out = self._keep(dy, kept, self._result(out, dy.shape, dy.dtype))
        return np.multiply(out, 1.0 / (1.0 - rate), out=out)

    # ---- losses ---------------------------------------------------------------------------------------------------

    def softmax_cross_entropy(
        self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in place."""
        N, K = logits.shape
        e = self.scratch("e", (N, K), logits.dtype)
        row = self.scratch("row", (N, 1), logits.dtype)
        losses = self.scratch("losses", (N,), logits.dtype)
        np.subtract(logits, np.max(logits, axis=1, keepdims=True, out=row), out=e)
        positions = self._label_positions(labels, K)
        np.take(e, positions, out=losses, mode="clip")
        np.sum(np.exp(e, out=e), axis=1, keepdims=True, out=row)
        if dx is not None:
            np.divide(e, row, out=dx)
            probability = np.take(dx, positions, out=self.scratch("probability", (N,), dx.dtype), mode="clip")
            np.put(dx, positions, np.subtract(probability, 1, out=probability), mode="clip")
            np.divide(dx, N, out=dx)
        np.subtract(np.log(row, out=row)[:, 0], losses, out=losses)
        best = np.argmax(logits, axis=1, out=self.scratch("best", (N,), np.intp))
        return self._count(losses, np.equal(best, labels, out=self.scratch("hits", (N,), np.bool_)), loss, totals)

    def _label_positions(self, labels: Array, K: int) -> Array:
        """Flat positions of the labels in a C-contiguous (N, K) array."""
        positions = self.scratch("positions", labels.shape, np.intp)
        np.multiply(self._count_to(len(labels)), K, out=positions, casting="unsafe")
        return np.add(positions, labels, out=positions)

    def sigmoid_cross_entropy(
        self, logits: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in place."""
        N, K = logits.shape
        terms = self.scratch("terms", (N, K), logits.dtype)
        product = self.scratch("product", (N, K), logits.dtype)
        np.log1p(np.exp(np.negative(np.abs(logits, out=terms), out=terms), out=terms), out=terms)
        np.add(terms, np.maximum(logits, 0, out=product), out=terms)
        np.subtract(terms, np.multiply(logits, targets, out=product), out=terms)
        if dx is not None:
            np.subtract(self.sigmoid(logits, out=dx), targets, out=dx)
            np.divide(dx, N, out=dx)
        losses = np.sum(terms, axis=1, out=self.scratch("losses", (N,), logits.dtype))
        return self._count(losses, self._hits(logits, targets, 0.0), loss, totals)

    def mean_squared_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in place."""
        N, K = outputs.shape
        difference = self.scratch("terms", (N, K), outputs.dtype)
        np.subtract(outputs, targets, out=difference)
        if dx is not None:
            np.multiply(difference, 2.0 / (N * K), out=dx)
        losses = self.scratch("losses", (N,), outputs.dtype)
        np.sum(np.square(difference, out=difference), axis=1, out=losses)
        return self._count(np.divide(losses, K, out=losses), self._hits(outputs, targets, 0.5), loss, totals)

    def _hits(self, outputs: Array, targets: Array, boundary: float) -> Array:
        N, K = outputs.shape
        if K == 1:
            return super()._hits(outputs, targets, boundary)
        best = np.argmax(outputs, axis=1, out=self.scratch("best", (N,), np.intp))
        wanted = np.argmax(targets, axis=1, out=self.scratch("wanted", (N,), np.intp))
        return np.equal(best, wanted, out=self.scratch("hits", (N,), np.bool_))

    def _count(self, losses: Array, hits: Array, loss: Array, totals: Array) -> Array:
        """As `_report`, in place."""
        if totals is not None:
            totals[0] += np.sum(losses, dtype=np.float64)
            totals[1] += np.count_nonzero(hits)
            totals[2] += len(losses)
            totals[3] += len(losses) if np.isfinite(totals[0]) else 0
        return np.mean(losses, out=self._result(loss, (), losses.dtype))

    # ---- optimizers -----------------------------------------------------------------------------------------------

    def sgd_step(self, w: Array, g: Array, v: Array, hyper: Array, *, nesterov: bool = False) -> None:
        """As the reference, one block after another, each while it is in the cache."""
        rate, momentum, decay = hyper
        for block in _blocks(w.size):
            wb, gb, vb = w[block], g[block], v[block]
            step = self.scratch("step", wb.shape, w.dtype)
            np.multiply(vb, momentum, out=vb)
            np.add(vb, gb, out=vb)
            if decay:
                np.add(vb, np.multiply(wb, decay, out=step), out=vb)
            if nesterov:
                self._nesterov_step(wb, gb, vb, hyper, step)
            else:
                np.multiply(vb, rate, out=step)
            np.subtract(wb, step, out=wb)

    def _nesterov_step(self, w: Array, g: Array, v: Array, hyper: Array, step: Array) -> None:
        """Write `rate (g + decay w + momentum v)` into `step`."""
        rate, momentum, decay = hyper
        lookahead = self.scratch("lookahead", w.shape, w.dtype)
        np.add(g, np.multiply(w, decay, out=step), out=step)
        np.add(step, np.multiply(v, momentum, out=lookahead), out=step)
        np.multiply(step, rate, out=step)

    def adam_step(
        self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyper: Array, *, decoupled: bool = False
    ) -> None:
        """As the reference, one block after another, each while it is in the cache."""
        rate, beta1, beta2, eps, decay = hyper
        powers *= hyper[1:3]
        for block in _blocks(w.size):
            wb, mb, vb = w[block], m[block], v[block]
            gradient = self.scratch("gradient", wb.shape, w.dtype)
            step = self.scratch("step", wb.shape, w.dtype)
            if decoupled:
                np.copyto(gradient, g[block])
                np.multiply(wb, 1 - rate * decay, out=wb)
            else:
                np.add(np.multiply(wb, decay, out=gradient), g[block], out=gradient)
            np.add(np.multiply(mb, beta1, out=mb), np.multiply(gradient, 1 - beta1, out=step), out=mb)
            np.multiply(np.square(gradient, out=step), 1 - beta2, out=step)
            np.add(np.multiply(vb, beta2, out=vb), step, out=vb)
            np.sqrt(np.divide(vb, 1 - powers[1], out=step), out=step)
            np.divide(mb, np.add(step, eps, out=step), out=step)
            np.subtract(wb, np.multiply(step, rate / (1 - powers[0]), out=step), out=wb)

    def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyper: Array) -> None:
        """As the reference, one block after another, so that its intermediate arrays are small and in the cache."""
        for block in _blocks(w.size):
            super().rmsprop_step(w[block], g[block], v[block], b[block], hyper)

    def adagrad_step(self, w: Array, g: Array, v: Array, hyper: Array) -> None:
        """As the reference, one block after another, so that its intermediate arrays are small and in the cache."""
        for block in _blocks(w.size):
            super().adagrad_step(w[block], g[block], v[block], hyper)

    # ---- data -----------------------------------------------------------------------------------------------------

    def gather_batch(
        self,
        images: Array,
        labels: Array,
        order: Array,
        cursor: Array,
        scale: Array,
        shift: Array,
        *,
        x: Array,
        y: Array,
    ) -> None:
        """As the reference, in place; the position is read directly, which costs nothing on the host."""
        start = int(cursor[0])
        samples = order[start : start + len(x)]
        pixels = np.take(images, samples, axis=0, out=self.scratch("pixels", x.shape, np.uint8), mode="clip")
        np.add(np.multiply(pixels, scale, out=x), shift, out=x)
        np.take(labels, samples, out=y, mode="clip")
        cursor += len(x)

    def one_hot(self, labels: Array, *, out: Array) -> Array:
        """As the reference, in place."""
        out.fill(0)
        np.put(out, self._label_positions(labels, out.shape[1]), 1, mode="clip")
        return out


def _blocks(size: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, size)) for start in range(0, size, BLOCK))
