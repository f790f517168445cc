"""Where arrays live and what computes on them: `get_backend("auto" | "cpu" | "gpu" | "gpu:1" | "reference")`."""

from __future__ import annotations

from typing import Any

import numpy as np

from gpucnn.backend.cpu import CpuBackend
from gpucnn.backend.reference import Backend
from gpucnn.errors import DeviceError, InputError, unknown_name

__all__ = ["Backend", "CpuBackend", "available_devices", "backend_of", "get_backend"]

PRECISIONS = ("float32", "float64", "tf32", "bf16")


def get_backend(
    device: str = "auto",
    float_dtype: Any = "float32",
    *,
    threads: int | None = None,
    convolution: str | None = None,
) -> Backend:
    """Return a new backend for a device by name: "cpu", "gpu", "gpu:N", "reference", or "auto".

    "auto" is the first GPU if there is one, else the CPU, which computes on as many `threads` as there are cores unless
    given. A backend holds its own scratch memory: use one per thread of the program.

    >>> get_backend("cpu", "float64").precision
    'float64'

    Arrays are of `float_dtype`, "float32" or "float64". With "tf32" or "bf16" they are float32, and so are all sums,
    but the factors of matrix products are rounded to 11 or 8 significant bits, as tensor cores of a GPU take them; the
    reference does so too. Products are faster then, memory is not saved. `convolution` is a GPU's algorithm:
    "columns", or "implicit" ones that are never written; by default the latter in tf32 and bf16, where they are
    predicted to be faster.

    Raises
    ------
    InputError
        For an unknown device name or precision, one that the device does not have, a wrong number of threads, or a
        setting of another device.
    DeviceError
        Where a GPU is asked for and none can be used; the message says why, and what to install.
    """
    precision = float_dtype if isinstance(float_dtype, str) else np.dtype(float_dtype).name
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    options = {} if convolution is None else {"convolution": convolution}
    if device == "auto":
        return _best_backend(precision, threads, options)
    if options and not str(device).startswith("gpu"):
        raise InputError(f"convolution: only a GPU has several algorithms, received the device {device}; leave it out")
    if device == "cpu":
        return CpuBackend(precision, threads=threads)
    if threads is not None:
        raise InputError(f"threads: only the device cpu has them, received {device}; leave them out")
    if device == "reference":
        return Backend(precision)
    kind, colon, number = str(device).partition(":")
    if kind != "gpu" or (colon and not number.isdecimal()):
        raise unknown_name("device", device, ("auto", "cpu", "gpu", "gpu:0", "reference"))
    from gpucnn.backend.gpu import GpuBackend

    return GpuBackend(precision, device=int(number or 0), **options)


def _best_backend(precision: str, threads: int | None, options: dict[str, Any]) -> Backend:
    from gpucnn.backend.gpu import GpuBackend

    try:
        return GpuBackend(precision, **options)
    except DeviceError:
        return CpuBackend(precision, threads=threads)


def available_devices() -> list[str]:
    """Return the names of the devices that can be used here, the fastest first: GPUs, then "cpu".

    >>> available_devices()[-1]
    'cpu'
    """
    from gpucnn.backend import gpu

    try:
        return [f"gpu:{number}" for number in range(gpu.device_count())] + ["cpu"]
    except DeviceError:
        return ["cpu"]


def backend_of(array: Any, user: str = "the operation") -> Backend:
    """Return a new backend for the device and the precision of an array; `user` names who asks in the error.

    Raises `InputError` for what is not an array of NumPy or CuPy with floats of 32 or 64 bits.

    >>> backend_of(np.zeros(3)).name
    'cpu'
    """
    module = type(array).__module__.partition(".")[0]
    dtype = getattr(array, "dtype", None)
    if module not in ("numpy", "cupy") or not hasattr(array, "shape") or array.ndim == 0:
        raise InputError(f"{user}: expected a NumPy or CuPy array, received {type(array).__name__}")
    if str(dtype) not in PRECISIONS:
        raise InputError(f"{user}: expected floats (float32 or float64), received {dtype}; convert with astype")
    return get_backend("cpu" if module == "numpy" else f"gpu:{array.device.id}", dtype)
