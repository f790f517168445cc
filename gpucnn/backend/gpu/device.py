"""Finding CuPy and its GPUs, and saying why there are none."""

from __future__ import annotations

from types import ModuleType

from gpucnn.errors import DeviceError

__all__ = ["INSTALL", "after_fork", "device_count", "first_line", "import_cupy"]

INSTALL = 'pip install "cupy-cuda12x[ctk]" for CUDA 12, or "cupy-cuda13x[ctk]" for CUDA 13'


def import_cupy() -> ModuleType:
    """Import CuPy, or say why it cannot be used."""
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
        f"CuPy is installed but cannot be imported ({first_line(error)}); uninstall it, check that no second CuPy is "
        f"installed, then {INSTALL}"
    )


def first_line(error: Exception) -> str:
    """Return the kind of an error and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"


def device_count() -> int:
    """Return the number of GPUs; raise `DeviceError` where CuPy is absent, broken, or finds none."""
    cupy = import_cupy()
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:  # CUDARuntimeError: no driver, or one too old
        raise after_fork(error) or _no_device(first_line(error)) from error
    if count == 0:
        raise _no_device("the driver shows none")
    return count


def after_fork(error: Exception) -> DeviceError | None:
    """Return what an error of CUDA means, if it is the one that a forked process gets."""
    if "cudaErrorInitializationError" not in str(error):
        return None
    return DeviceError(
        f"CUDA cannot be used in a process that was forked after its parent had used it ({first_line(error)}); start "
        f'processes with multiprocessing.get_context("spawn"), or use the GPU in the children alone'
    )


def _no_device(reason: str) -> DeviceError:
    return DeviceError(
        f"CuPy finds no NVIDIA GPU ({reason}); install a current NVIDIA driver and check it with nvidia-smi, or "
        f"compute on the CPU"
    )
