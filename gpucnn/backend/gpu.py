"""The GPU backend: CuPy arrays, cuBLAS for matrix products, and the kernels of `gpucnn.backend.kernels` for the rest.

Arrays given as `out` are C-contiguous. Nothing here waits for the device but `to_host`, and from its second call on an
operation allocates nothing. CuPy is imported when a GPU is asked for, not before.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from types import ModuleType
from typing import Any, ClassVar

import numpy as np

from gpucnn.backend import kernels, random
from gpucnn.backend.reference import Backend
from gpucnn.errors import DeviceError, InputError
from gpucnn.geometry import Window

__all__ = ["GpuBackend", "device_count", "missing_gpu_reason"]

Array = Any

INDEX_LIMIT = 2**31 - 1  # of elements that a kernel addresses
COLUMN_BYTES = 1 << 28  # of columns lowered at a time: bounds their memory, and keeps their indices below 2^31
INSTALL = 'pip install "cupy-cuda12x[ctk]" for CUDA 12, or "cupy-cuda13x[ctk]" for CUDA 13'


def _import_cupy() -> ModuleType:
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name == "cupy":
            raise DeviceError(f"CuPy is not installed; {INSTALL}") from None
        raise _broken(error) from error
    except Exception as error:  # whatever a broken installation raises
        raise _broken(error) from error
    return cupy


def _broken(error: Exception) -> DeviceError:
    return DeviceError(
        f"CuPy is installed but cannot be imported ({_first_line(error)}); uninstall it, check that no second CuPy is "
        f"installed, then {INSTALL}"
    )


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def device_count() -> int:
    """Return the number of GPUs; raise `DeviceError` where CuPy is absent, broken, or finds none."""
    cupy = _import_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError: no driver, or one too old
        raise _no_device(_first_line(error)) from error
    if count == 0:
        raise _no_device("the driver shows none")
    return count


def _no_device(reason: str) -> DeviceError:
    return DeviceError(
        f"CuPy finds no NVIDIA GPU ({reason}); install a current NVIDIA driver and check it with nvidia-smi, or "
        f"compute on the CPU"
    )


def missing_gpu_reason() -> str:
    """Return why no GPU can be used here; empty if one can."""
    try:
        GpuBackend()
    except DeviceError as error:
        return str(error)
    return ""


@functools.cache
def _compiled(cupy: ModuleType, record: kernels.Elementwise | kernels.Block, element_type: str = "") -> Any:
    """Make a kernel of CuPy's from its record; CUDA compiles it when it is first launched."""
    if isinstance(record, kernels.Block):
        return cupy.RawKernel(record.code(element_type), record.name)
    return cupy.ElementwiseKernel(
        record.inputs, record.outputs, record.body, f"gpucnn_{record.name}", preamble=record.preamble
    )


class GpuBackend(Backend):
    """CuPy arrays of one NVIDIA GPU.

    Layers, losses and the trainer make it the current device of their thread when they are called; who calls operations
    directly on several GPUs calls `activate` before.
    """

    _probed: ClassVar[set[tuple[ModuleType, int]]] = set()  # devices that have been seen to compute

    def __init__(self, float_dtype: Any = "float32", *, device: int = 0):
        count = device_count()
        if device >= count:
            raise DeviceError(f"gpu:{device} is not there: the GPUs are gpu:0 to gpu:{count - 1}")
        super().__init__(float_dtype, xp=_import_cupy())
        self.device = device
        self.name = f"gpu:{device}"
        self._ones: dict[Any, Array] = {}
        if (self.xp, device) not in self._probed:
            self._probe()
            self._probed.add((self.xp, device))

    def _probe(self) -> None:
        """Compute something with each library that is needed, so that a missing one is named now."""
        try:
            self.activate()
            square = self.zeros((2, 2))
            self.relu(self.matmul(square, square))
        except Exception as error:
            raise DeviceError(
                f"CuPy finds {self.name} but cannot compute on it ({_first_line(error)}); its CUDA libraries may be "
                f"missing: {INSTALL}"
            ) from error

    def activate(self) -> None:
        if self.xp.cuda.runtime.getDevice() != self.device:
            self.xp.cuda.Device(self.device).use()

    def describe(self) -> str:
        name = self.xp.cuda.runtime.getDeviceProperties(self.device)["name"]
        return f"{self.name} ({name.decode() if isinstance(name, bytes) else name}, CuPy {self.xp.__version__})"

    def versions(self) -> dict[str, str]:
        return {"cupy": self.xp.__version__}

    # ---- arrays and transfers -------------------------------------------------------------------------------------

    def from_host(self, array: np.ndarray, *, out: Array = None) -> Array:
        if out is None:
            return self.xp.asarray(np.asarray(array, order="C"))
        out.set(np.asarray(array, out.dtype, order="C"))
        return out

    def to_host(self, array: Array) -> np.ndarray:
        self.host_reads += 1
        return array.get()

    def owns(self, array: object) -> bool:
        return isinstance(array, self.xp.ndarray) and array.device.id == self.device

    def _result(self, out: Array | None, shape: tuple[int, ...], dtype: Any) -> Array:
        return self.xp.empty(shape, dtype) if out is None else out

    def _run(self, record: kernels.Elementwise, *arguments: Any, size: int | None = None) -> None:
        """Launch an elementwise kernel on its inputs and outputs."""
        kernel = _compiled(self.xp, record)
        if size is None:
            kernel(*arguments)
        else:
            kernel(*arguments, size=size)

    def _contiguous(self, x: Array) -> Array:
        """Return x itself, or a C-contiguous copy of a view: kernels index flat memory."""
        return x if x.flags.c_contiguous else self.xp.ascontiguousarray(x)

    def _window_arguments(self, x_shape: tuple[int, ...], window: Window) -> tuple[int, ...]:
        """Return the scalars that `kernels.WINDOW` names, for arrays that 32-bit indices can reach."""
        N, H, W, C = x_shape
        OH, OW = window.output_size(H, W)
        if N * C * max(H * W, OH * OW) > INDEX_LIMIT:
            raise InputError(f"a batch of {N} images of {H}x{W}x{C} is too large for one kernel; use a smaller batch")
        (top, _), (left, _) = window.padding
        return H, W, C, OH, OW, *window.kernel, *window.stride, top, left, *window.dilation

    # ---- lowering and convolution ---------------------------------------------------------------------------------

    def matmul(self, a: Array, b: Array, *, out: Array = None) -> Array:
        return self.xp.matmul(a, b, out=out)

    def im2col(self, x: Array, window: Window, *, out: Array = None) -> Array:
        """As the reference, in one kernel: each column element finds its pixel."""
        N, H, W, C = x.shape
        OH, OW = window.output_size(H, W)
        out = self._result(out, (N * OH * OW, window.taps * C), x.dtype)
        self._run(kernels.IM2COL, self._contiguous(x), *self._window_arguments(x.shape, window), out)
        return out

    def col2im(self, columns: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference, in gather form: each pixel finds its copies."""
        out = self._result(out, x_shape, columns.dtype)
        self._run(kernels.COL2IM, self._contiguous(columns), *self._window_arguments(x_shape, window), out)
        return out

    def _chunks(self, x_shape: tuple[int, ...], window: Window, dtype: Any) -> Iterator[tuple[slice, Array]]:
        """Split a batch into slices that are lowered together; yield each with its column buffer."""
        N, H, W, C = x_shape
        OH, OW = window.output_size(H, W)
        rows, width = OH * OW, window.taps * C
        images = max(1, COLUMN_BYTES // (rows * width * np.dtype(dtype).itemsize))
        for start in range(0, N, images):
            stop = min(start + images, N)
            yield slice(start, stop), self.scratch("columns", ((stop - start) * rows, width), dtype)

    def conv2d(self, x: Array, w: Array, b: Array | None, window: Window, *, out: Array = None) -> Array:
        """As the reference, with the columns in one buffer and the bias added in place."""
        N, H, W, _ = x.shape
        OC = w.shape[-1]
        out = self._result(out, (N, *window.output_size(H, W), OC), x.dtype)
        for images, columns in self._chunks(x.shape, window, x.dtype):
            y = out[images].reshape(-1, OC)
            self.im2col(x[images], window, out=columns)
            self.matmul(columns, self._contiguous(w).reshape(-1, OC), out=y)
            if b is not None:
                self._run(kernels.ADD_BIAS, self._contiguous(b), OC, y)
        return out

    def conv2d_dx(self, dy: Array, w: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None) -> Array:
        """As the reference, with the columns in one buffer."""
        OC = w.shape[-1]
        kernels_transposed = self._contiguous(w).reshape(-1, OC).T
        out = self._result(out, x_shape, dy.dtype)
        for images, dcolumns in self._chunks(x_shape, window, dy.dtype):
            self.matmul(self._contiguous(dy[images]).reshape(-1, OC), kernels_transposed, out=dcolumns)
            self.col2im(dcolumns, out[images].shape, window, out=out[images])
        return out

    def conv2d_dw_db(self, x: Array, dy: Array, window: Window, *, dw: Array, db: Array | None) -> None:
        """As the reference, with the columns in one buffer; parts of a large batch are added in their order."""
        OC = dy.shape[-1]
        rows = self._contiguous(dy).reshape(-1, OC)  # (N*OH*OW, OC)
        total = dw.reshape(-1, OC)
        done = 0
        for images, columns in self._chunks(x.shape, window, x.dtype):
            self.im2col(x[images], window, out=columns)
            part = self.scratch("dw", total.shape, dw.dtype) if done else total
            self.matmul(columns.T, rows[done : done + len(columns)], out=part)
            if done:
                self.xp.add(total, part, out=total)
            done += len(columns)
        if db is not None:
            self.sum_rows(rows, out=db)

    def add(self, a: Array, b: Array, *, out: Array = None) -> Array:
        """As the reference, in one kernel."""
        return self._map(kernels.ADD, a, b, out=out)

    def sum_rows(self, rows: Array, *, out: Array = None) -> Array:
        """As the reference, as a matrix product with ones, which is fast where a column sum is not."""
        out = self._result(out, rows.shape[1:], rows.dtype)
        ones = self._ones.get(rows.dtype)
        if ones is None or ones.shape[1] < len(rows):
            ones = self._ones[rows.dtype] = self.xp.ones((1, len(rows)), rows.dtype)
        self.matmul(ones[:, : len(rows)], rows, out=out.reshape(1, -1))
        return out

    # ---- pooling --------------------------------------------------------------------------------------------------

    def max_pool2d(self, x: Array, window: Window, *, out: Array = None, winners: Array = None) -> tuple[Array, Array]:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        winners = self._result(winners, out.shape, self.winner_dtype(window))
        self._run(kernels.MAX_POOL2D, self._contiguous(x), *self._window_arguments(x.shape, window), out, winners)
        return out, winners

    def max_pool2d_dx(
        self, dy: Array, winners: Array, x_shape: tuple[int, ...], window: Window, *, out: Array = None
    ) -> Array:
        """As the reference, in gather form: each pixel finds the windows it won."""
        out = self._result(out, x_shape, dy.dtype)
        arrays = self._contiguous(dy), self._contiguous(winners)
        self._run(kernels.MAX_POOL2D_DX, *arrays, *self._window_arguments(x_shape, window), out)
        return out

    def average_pool2d(self, x: Array, window: Window, *, count_include_pad: bool = False, out: Array = None) -> Array:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        scalars = *self._window_arguments(x.shape, window), count_include_pad
        self._run(kernels.AVERAGE_POOL2D, self._contiguous(x), *scalars, out)
        return out

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
        out = self._result(out, x_shape, dy.dtype)
        scalars = *self._window_arguments(x_shape, window), count_include_pad
        self._run(kernels.AVERAGE_POOL2D_DX, self._contiguous(dy), *scalars, out)
        return out

    def lp_pool2d(self, x: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """As the reference, in one kernel."""
        out = self._pooled(out, x, window)
        self._run(kernels.LP_POOL2D, self._contiguous(x), *self._window_arguments(x.shape, window), p, out)
        return out

    def lp_pool2d_dx(self, dy: Array, x: Array, y: Array, p: float, window: Window, *, out: Array = None) -> Array:
        """As the reference, in gather form."""
        out = self._result(out, x.shape, dy.dtype)
        arrays = map(self._contiguous, (dy, x, y))
        self._run(kernels.LP_POOL2D_DX, *arrays, *self._window_arguments(x.shape, window), p, out)
        return out

    def _pooled(self, out: Array | None, x: Array, window: Window) -> Array:
        N, H, W, C = x.shape
        return self._result(out, (N, *window.output_size(H, W), C), x.dtype)

    # ---- fully connected ------------------------------------------------------------------------------------------

    def dense(self, x: Array, w: Array, b: Array | None, *, out: Array = None) -> Array:
        """As the reference, with the bias added in place."""
        out = self._result(out, (len(x), w.shape[1]), x.dtype)
        self.matmul(x, w, out=out)
        if b is not None:
            self._run(kernels.ADD_BIAS, self._contiguous(b), w.shape[1], out)
        return out

    def dense_dx(self, dy: Array, w: Array, *, out: Array = None) -> Array:
        """As the reference, in place."""
        return self.matmul(dy, w.T, out=out)

    def dense_dw_db(self, x: Array, dy: Array, *, dw: Array, db: Array | None) -> None:
        """As the reference, in place."""
        self.matmul(x.T, dy, out=dw)
        if db is not None:
            self.sum_rows(dy, out=db)

    # ---- activations and regularization: one kernel each ----------------------------------------------------------

    def _map(self, record: kernels.Elementwise, *arrays: Array, out: Array | None) -> Array:
        """Run a kernel from arrays of one shape to a new array or `out`."""
        out = self._result(out, arrays[0].shape, arrays[0].dtype)
        self._run(record, *arrays, out)
        return out

    def relu(self, x: Array, *, out: Array = None) -> Array:
        return self._map(kernels.RELU, x, out=out)

    def relu_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        return self._map(kernels.RELU_DX, dy, y, out=out)

    def sigmoid(self, x: Array, *, out: Array = None) -> Array:
        return self._map(kernels.SIGMOID, x, out=out)

    def sigmoid_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        return self._map(kernels.SIGMOID_DX, dy, y, out=out)

    def tanh(self, x: Array, *, out: Array = None) -> Array:
        return self._map(kernels.TANH, x, out=out)

    def tanh_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        return self._map(kernels.TANH_DX, dy, y, out=out)

    def softmax(self, x: Array, *, out: Array = None) -> Array:
        """As the reference, one block of threads for each row."""
        return self._rows(kernels.SOFTMAX, x, out=out)

    def softmax_dx(self, dy: Array, y: Array, *, out: Array = None) -> Array:
        """As the reference, one block of threads for each row."""
        return self._rows(kernels.SOFTMAX_DX, dy, y, out=out)

    def _rows(self, record: kernels.Block, *arrays: Array, out: Array | None) -> Array:
        out = self._result(out, arrays[0].shape, arrays[0].dtype)
        K = out.shape[-1]
        arguments = *map(self._contiguous, arrays), out, np.int32(K)
        self._block_kernel(record, out.dtype)((out.size // K,), (record.threads,), arguments)
        return out

    def _block_kernel(self, record: kernels.Block, dtype: Any) -> Any:
        return _compiled(self.xp, record, "float" if dtype == np.float32 else "double")

    def dropout(
        self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
    ) -> tuple[Array, Array]:
        """As the reference, one Philox block for each four elements."""
        out = self._result(out, x.shape, x.dtype)
        mask = self._result(mask, x.shape, self.xp.uint8)
        scalars = *key, random.threshold(rate), 1.0 / (1.0 - rate), x.size
        self._run(kernels.DROPOUT, self._contiguous(x), counter, *scalars, out, mask, size=-(-x.size // 4))
        self._run(kernels.INCREMENT, 1, counter)
        return out, mask

    def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
        out = self._result(out, dy.shape, dy.dtype)
        self._run(kernels.DROPOUT_DX, dy, mask, 1.0 / (1.0 - rate), out)
        return out

    # ---- losses: one launch each ----------------------------------------------------------------------------------

    def softmax_cross_entropy(
        self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in one launch; labels that are not int32 are converted, which allocates."""
        labels = labels if labels.dtype == np.int32 else labels.astype(np.int32)
        return self._loss(kernels.SOFTMAX_CROSS_ENTROPY, logits, labels, loss, dx, totals)

    def sigmoid_cross_entropy(
        self, logits: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in one launch."""
        return self._loss(kernels.SIGMOID_CROSS_ENTROPY, logits, targets, loss, dx, totals)

    def mean_squared_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """As the reference, in one launch."""
        return self._loss(kernels.MEAN_SQUARED_ERROR, outputs, targets, loss, dx, totals)

    def _loss(
        self, record: kernels.Block, outputs: Array, targets: Array, loss: Array, dx: Array, totals: Array
    ) -> Array:
        """Launch a loss kernel; None is a null pointer there."""
        loss = self._result(loss, (), outputs.dtype)
        arrays = self._contiguous(outputs), self._contiguous(targets), loss
        N, K = map(np.int32, outputs.shape)
        self._block_kernel(record, outputs.dtype)((1,), (record.threads,), (*arrays, dx, totals, N, K))
        return loss

    # ---- optimizers and data --------------------------------------------------------------------------------------

    def sgd_step(self, w: Array, g: Array, v: Array, hyper: Array, *, nesterov: bool = False) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.SGD_STEP, g, hyper, nesterov, w, v)

    def adam_step(
        self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyper: Array, *, decoupled: bool = False
    ) -> None:
        """As the reference: one kernel for the powers, one over the arena."""
        self._run(kernels.ADAM_POWERS, hyper, powers)
        self._run(kernels.ADAM_STEP, g, powers, hyper, decoupled, w, m, v)

    def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyper: Array) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.RMSPROP_STEP, g, hyper, w, v, b)

    def adagrad_step(self, w: Array, g: Array, v: Array, hyper: Array) -> None:
        """As the reference, in one kernel over the arena."""
        self._run(kernels.ADAGRAD_STEP, g, hyper, w, v)

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
        """As the reference; the position is read on the device."""
        _, H, W, C = images.shape
        self._run(kernels.GATHER_IMAGES, images, order, cursor, scale, shift, H * W * C, C, x)
        self._run(kernels.GATHER_LABELS, labels, order, cursor, y)
        self._run(kernels.INCREMENT, len(x), cursor)

    def one_hot(self, labels: Array, *, out: Array) -> Array:
        """As the reference, in one kernel."""
        self._run(kernels.ONE_HOT, labels, out.shape[1], out)
        return out
