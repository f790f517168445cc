"""The paper, executable: every operation of the library once, complete, on any array module.

Arrays are NHWC, kernels `(KH, KW, C, OC)`. Every operation `<op>` has its derivative `<op>_dx` (or `<op>_dw_db`) under
it, takes its result arrays as keywords, writes all of them and changes no other argument; where `out` is left out, a
new array is returned. Only functions of the Python array API standard are used, so `xp` may be NumPy, CuPy or any
other such module. The equations are those of M. Murugan, "Feed Forward and Backward Run in Deep Convolution Neural
Network", arXiv 1711.03278 (2017); docstrings name its sections.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend import random
from gpucnn.backend.reference_activations import Activations
from gpucnn.backend.reference_losses import Losses
from gpucnn.geometry import Window
from gpucnn.memory import Workspace

__all__ = ["Backend"]

Array = Any  # numpy.ndarray, cupy.ndarray, or another array of the Python array API standard


class Backend(Activations, Losses):
    """Arrays of one device and the operations on them; this class is the reference that others are tested against.

    Parameters
    ----------
    float_dtype : "float32" or "float64", what layers compute in
    xp : the array module, NumPy unless given

    Attributes
    ----------
    name : "reference", "cpu" or "gpu:N"
    precision, float_dtype : the dtype of its floats, as a name and as `xp` has it
    host_reads : how often a result was read back to the host, each a wait for the device
    """

    name = "reference"

    def __init__(self, float_dtype: Any = "float32", *, xp: Any = np):
        self.xp = xp
        self.precision = np.dtype(float_dtype).name
        self.float_dtype = getattr(xp, self.precision)
        self.host_reads = 0
        self.workspace = Workspace(self)

    def activate(self) -> None:
        """Make this device the current one of the calling thread, where there is such a thing."""

    def describe(self) -> str:
        """Return the device's name and what computes on it, for people."""
        return f"{self.name} ({self.xp.__name__} {self.xp.__version__})"

    def versions(self) -> dict[str, str]:
        """Return the versions of the packages that this device needs beside NumPy."""
        return {}

    # ---- arrays and their two transfers ---------------------------------------------------------------------------

    def empty(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Return a new array of unspecified contents."""
        return self.xp.empty(shape, dtype=dtype or self.float_dtype)

    def zeros(self, shape: tuple[int, ...], dtype: Any = None) -> Array:
        """Return a new array of zeros."""
        return self.xp.zeros(shape, dtype=dtype or self.float_dtype)

    def from_host(self, array: np.ndarray, *, out: Array = None) -> Array:
        """Copy a NumPy array to this device, into `out` (converted to its dtype) or into a new array."""
        return self._store(self.xp.asarray(array, dtype=None if out is None else out.dtype, copy=True), out)

    def to_host(self, array: Array) -> np.ndarray:
        """Copy an array of this device to a new NumPy array: the one operation that waits for the device."""
        self.host_reads += 1
        return np.array(array)

    def owns(self, array: object) -> bool:
        """Whether `array` is an array of this device."""
        return type(array).__module__.partition(".")[0] == self.xp.__name__.partition(".")[0]

    def scratch(self, name: str, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return an intermediate array, for overrides that allocate nothing; it lasts until the next operation."""
        return self.workspace.take(name, shape, dtype)

    def _store(self, result: Array, out: Array) -> Array:
        if out is None:
            return result
        out[...] = result
        return out

    def cast(self, x: Array, dtype: Any) -> Array:
        """Return a copy of x in another dtype."""
        return self.xp.astype(x, dtype) if hasattr(self.xp, "astype") else x.astype(dtype)  # NumPy 2.0 has no astype

    # ---- lowering -------------------------------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, *, out: Array = None) -> Array:
        """Matrix product `a @ b` of two 2-D arrays; a transposed view is welcome as an operand."""
        return self._store(self.xp.matmul(a, b), out)

    def add(self, a: Array, b: Array, *, out: Array = None) -> Array:
        """`a + b`, of one shape; `out` may be either."""
        return self._store(a + b, out)

    def sum_rows(self, rows: Array, *, out: Array = None) -> Array:
        """Sum over the first axis: the gradient of a bias. (M, C) -> (C,)."""
        return self._store(self.xp.sum(rows, axis=0), out)

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

    # ---- convolution ----------------------------------------------------------------------------------------------

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

    # ---- pooling --------------------------------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window, *, out: Array = None, winners: Array = None) -> tuple[Array, Array]:
        """Largest pixel under each window, `P = max`, and which tap it was: the winning unit, the first on a tie.

        Paper: section 3.1, pooling. Padding is -inf; NaN wins over numbers, the last one if there are several.
        x (N, H, W, C) -> out (N, OH, OW, C), winners (N, OH, OW, C) of dtype `winner_dtype(window)`.
        """
        first, *others = self.taps(x, window, -float("inf"))
        best, winner = first, self.xp.zeros(first.shape, dtype=self.winner_dtype(window))
        for number, tap in enumerate(others, start=1):
            better = (tap > best) | (tap != tap)
            best = self.xp.where(better, tap, best)
            winner = self.xp.where(better, self.xp.asarray(number, dtype=winner.dtype), winner)
        return self._store(best, out), self._store(winner, winners)

    def max_pool2d_dx(
        self, dy: Array, winners: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
    ) -> Array:
        """Gradient of `max_pool2d`: the whole error goes to the winning unit.

        Paper: section 3, backward, pooling, max.
        """
        zero = self.xp.zeros((), dtype=dy.dtype)
        taps = [self.xp.where(winners == tap, dy, zero) for tap in range(window.taps)]
        return self._store(self.sum_taps(taps, x_shape, window), out)

    def winner_dtype(self, window: Window) -> Any:
        """Smallest dtype that holds a tap number of the window."""
        return self.xp.uint8 if window.taps <= 256 else self.xp.int32

    def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
        """Mean of the pixels under each window; padding counts as zeros if `count_include_pad`, else not at all.

        Paper: section 2.3, average pooling. x (N, H, W, C) -> (N, OH, OW, C).
        """
        total = sum(self.taps(x, window, 0.0))
        return self._store(total / self._pool_counts(x.shape, window, count_include_pad, x.dtype), out)

    def average_pool2d_dx(
        self,
        dy: Array,
        x_shape: tuple[int, ...],
        window: Window,
        *,
        count_include_pad: bool = False,
        out: Array = None,
    ) -> Array:
        """Gradient of `average_pool2d`: the error is shared equally. Paper: section 3, backward, pooling, average."""
        share = dy / self._pool_counts(x_shape, window, count_include_pad, dy.dtype)
        return self._store(self.sum_taps([share] * window.taps, x_shape, window), out)

    def _pool_counts(
        self, x_shape: tuple[int, ...], window: Window, count_include_pad: bool, dtype: Any
    ) -> Array | float:
        """How many pixels each window averages over: a number, or an array (1, OH, OW, 1)."""
        if count_include_pad:
            return float(window.taps)
        _, H, W, _ = x_shape
        counts = sum(self.taps(self.xp.ones((1, H, W, 1), dtype=dtype), window, 0.0))
        return self.xp.where(counts > 0, counts, self.xp.ones((), dtype=dtype))  # a window of padding alone gives 0

    def lp_pool2d(self, x: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """Lp norm of the pixels under each window: `P = (sum |x|^p)^(1/p)`; p = 2 is the paper's L2 pooling.

        Paper: section 2.3, L2 pooling. Differs: PyTorch sums x^p with its sign for odd p; ONNX and this sum |x|^p.
        x (N, H, W, C) -> (N, OH, OW, C).
        """
        total = sum(self.xp.abs(tap) ** p for tap in self.taps(x, window, 0.0))
        return self._store(total ** (1.0 / p), out)

    def lp_pool2d_dx(self, dy: Array, x: Array, y: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """Gradient of `lp_pool2d`: the error is scaled by `sign(x) (|x|/P)^(p-1)`, for p = 2 by x/P; by 0 where P = 0.

        Paper: section 3, backward, pooling, L2.
        """
        xp = self.xp
        norm = xp.where(y > 0, y, xp.ones((), dtype=y.dtype))
        taps = [dy * xp.sign(tap) * (xp.abs(tap) / norm) ** (p - 1.0) for tap in self.taps(x, window, 0.0)]
        return self._store(self.sum_taps(taps, x.shape, window), out)

    # ---- fully connected ------------------------------------------------------------------------------------------

    def dense(self, x: Array, w: Array, b: Array | None, *, out: Array = None) -> Array:
        """Weighted sums and bias: `z[j] = sum_i w[i,j] a[i] + b[j]`.

        Paper: section 3.1, fully connected. x (N, I), w (I, O), b (O,) or None -> (N, O).
        """
        y = self.xp.matmul(x, w)
        return self._store(y if b is None else y + b, out)

    def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
        """Gradient of `dense` in its input: `W^T delta`. Paper: section 3, backward, fully connected, delta."""
        return self._store(self.xp.matmul(dy, w.T), out)

    def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
        """Gradients of `dense`: `dL/dW = delta a^T`, `dL/db = delta`, summed over the batch.

        Paper: section 3, backward, fully connected, dL/dW and dL/db.
        """
        dw[...] = self.xp.matmul(x.T, dy)
        if db is not None:
            self.sum_rows(dy, out=db)

    # ---- normalization --------------------------------------------------------------------------------------------

    def batch_norm(
        self,
        x: Array,
        gamma: Array,
        beta: Array,
        running: Array,
        momentum: float,
        eps: float,
        *,
        out: Array = None,
        moments: Array = None,
    ) -> tuple[Array, Array]:
        """Normalize each channel by the batch: `y = gamma (x - mean)/sqrt(variance + eps) + beta`.

        x (..., C), gamma and beta (C,) -> out like x, and moments (2, C): mean and `1/sqrt(variance + eps)`.
        running (2, C) becomes `(1 - momentum) running + momentum (mean, unbiased variance)`.
        Source: Ioffe and Szegedy, ICML 2015.
        """
        xp = self.xp
        rows = xp.reshape(x, (-1, x.shape[-1]))
        M = rows.shape[0]
        mean = xp.mean(rows, axis=0)
        variance = xp.mean((rows - mean) ** 2, axis=0)
        running[...] = (1.0 - momentum) * running + momentum * xp.stack([mean, variance * (M / max(M - 1, 1))])
        inverse = 1.0 / xp.sqrt(variance + eps)
        y = self._store((x - mean) * (gamma * inverse) + beta, out)
        return y, self._store(xp.stack([mean, inverse]), moments)

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, running: Array, eps: float, *, out: Array = None
    ) -> Array:
        """Normalize each channel by its running moments: `y = gamma (x - running[0])/sqrt(running[1] + eps) + beta`."""
        scale = gamma / self.xp.sqrt(running[1, :] + eps)
        return self._store((x - running[0, :]) * scale + beta, out)

    def batch_norm_dx(
        self, dy: Array, x: Array, gamma: Array, moments: Array, *, dgamma: Array, dbeta: Array, out: Array = None
    ) -> Array:
        """Gradients of `batch_norm`, with `z = (x - mean)/sqrt(variance + eps)` and sums over all but the channels.

        `dgamma = sum dy z; dbeta = sum dy; dx = gamma/sqrt(variance + eps) (dy - (dbeta + z dgamma)/M)`.
        """
        xp = self.xp
        C = x.shape[-1]
        z = (x - moments[0, :]) * moments[1, :]
        dgamma[...] = xp.sum(xp.reshape(dy * z, (-1, C)), axis=0)
        dbeta[...] = xp.sum(xp.reshape(dy, (-1, C)), axis=0)
        M = x.size // C
        return self._store(gamma * moments[1, :] * (dy - (dbeta + z * dgamma) / M), out)

    # ---- regularization -------------------------------------------------------------------------------------------

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
    ) -> tuple[Array, Array]:
        """Zero a share `rate` of the elements and divide the rest by `1 - rate`, so that the mean stays.

        Element i of call number t is kept where the 32-bit word i of Philox4x32-10 under `key` and counter t is at
        least `rate * 2^32`: the same elements on every device. `counter`, int64 (1,), is t and goes up by one.
        x of any shape -> out, mask (uint8), both of x's shape. Source: Srivastava et al., JMLR 15 (2014).
        """
        words = random.philox_words(self.xp, x.size, key, counter)
        kept = self.xp.reshape(words, x.shape) >= random.threshold(rate)
        counter += 1
        y = self.xp.where(kept, x * (1.0 / (1.0 - rate)), self.xp.zeros((), dtype=x.dtype))
        return self._store(y, out), self._store(self.cast(kept, self.xp.uint8), mask)

    def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
        """Gradient of `dropout`: the same elements dropped, the rest scaled alike."""
        zero = self.xp.zeros((), dtype=dy.dtype)
        return self._store(self.xp.where(mask != 0, dy * (1.0 / (1.0 - rate)), zero), out)

    # ---- optimizers: whole arenas, hyper-parameters on the device -------------------------------------------------

    def sgd_step(self, w: Array, g: Array, v: Array, hyper: Array, *, nesterov: bool = False) -> None:
        """Gradient descent with momentum, in place: `g' = g + decay w; v = momentum v + g'; w = w - rate v`.

        Nesterov's form moves by `g' + momentum v` instead of v. hyper (3,) = rate, momentum, decay.
        Paper: section 3, backward, update. There momentum and decay are 0.
        Source: Sutskever et al., ICML 2013, in PyTorch's form.
        """
        rate, momentum, decay = (hyper[i] for i in range(3))
        gradient = g + decay * w
        v[...] = momentum * v + gradient
        w[...] = w - rate * (gradient + momentum * v if nesterov else v)

    def adam_step(
        self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyper: Array, *, decoupled: bool = False
    ) -> None:
        """Adam, in place: `m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w = w - rate m^/(sqrt(v^) + eps)`.

        `m^ = m/(1 - b1^t)` and `v^ = v/(1 - b2^t)`; powers (2,) holds b1^t and b2^t, starts at 1 and is advanced here.
        hyper (5,) = rate, b1, b2, eps, decay. The decay adds `decay w` to g; decoupled, it takes `rate decay w` from w.
        Source: Kingma and Ba, ICLR 2015, algorithm 1; Loshchilov and Hutter, ICLR 2019 (decoupled: AdamW).
        """
        rate, beta1, beta2, eps, decay = (hyper[i] for i in range(5))
        gradient = g if decoupled else g + decay * w
        powers[...] = powers * hyper[1:3]
        m[...] = beta1 * m + (1.0 - beta1) * gradient
        v[...] = beta2 * v + (1.0 - beta2) * gradient * gradient
        kept = w - rate * decay * w if decoupled else w
        w[...] = kept - rate * (m / (1.0 - powers[0])) / (self.xp.sqrt(v / (1.0 - powers[1])) + eps)

    def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyper: Array) -> None:
        """RMSprop, in place: `v = s v + (1-s) g'^2; b = momentum b + g'/(sqrt(v) + eps); w = w - rate b`.

        `g' = g + decay w`; hyper (5,) = rate, smoothing s, eps, momentum, decay.
        Source: Tieleman and Hinton, Coursera 2012, in PyTorch's form.
        """
        rate, smoothing, eps, momentum, decay = (hyper[i] for i in range(5))
        gradient = g + decay * w
        v[...] = smoothing * v + (1.0 - smoothing) * gradient * gradient
        b[...] = momentum * b + gradient / (self.xp.sqrt(v) + eps)
        w[...] = w - rate * b

    def adagrad_step(self, w: Array, g: Array, v: Array, hyper: Array) -> None:
        """Adagrad, in place: `g' = g + decay w; v = v + g'^2; w = w - rate g'/(sqrt(v) + eps)`.

        hyper (3,) = rate, eps, decay. Source: Duchi, Hazan and Singer, JMLR 12 (2011).
        """
        rate, eps, decay = (hyper[i] for i in range(3))
        gradient = g + decay * w
        v[...] = v + gradient * gradient
        w[...] = w - rate * gradient / (self.xp.sqrt(v) + eps)

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
        """Take the next batch of a data set on the device: `x = images[...] * scale + shift`, `y = labels[...]`.

        The samples are `order[cursor : cursor + N]`, N = len(x); `cursor`, int64 (1,), then moves on by N.
        images (S, H, W, C) uint8, labels (S,) int32, order (S,) int32, scale and shift (C,) -> x (N, H, W, C), y (N,).
        """
        N = x.shape[0]
        samples = self.xp.take(order, cursor + self.xp.arange(N, dtype=cursor.dtype))
        x[...] = self.cast(self.xp.take(images, samples, axis=0), x.dtype) * scale + shift
        y[...] = self.xp.take(labels, samples)
        cursor += N

    def one_hot(self, labels: Array, *, out: Array) -> Array:
        """Write 1 at each row's label and 0 elsewhere. labels (N,) -> out (N, K)."""
        is_label = labels[:, None] == self.xp.arange(out.shape[1], dtype=labels.dtype)[None, :]
        return self._store(self.cast(is_label, out.dtype), out)
