"""Compile kernel records with NVRTC, without a GPU, and read what the assembler says about them.

`cuda_source` gives the text CuPy would hand to NVRTC for a record; `compile_source` compiles it for one
architecture. All use of CuPy's private functions is in this file; it was written against CuPy 14.2.
"""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .variants import Argument, Variant

__all__ = [
    "CompiledKernel",
    "KernelCompileError",
    "Layout",
    "compile_record",
    "compile_source",
    "compile_variant",
    "cuda_source",
    "missing_nvrtc",
    "supported_architectures",
    "variant_source",
]

ARCHITECTURES = ("sm_75", "sm_80", "sm_90", "sm_100")
_NDARRAY, _INDEXER, _SCALAR = 1, 2, 3  # CuPy's _ArgKind
_SCALAR_TYPES = ("int32", "int64", "uint32", "uint64", "float32", "float64")


class KernelCompileError(RuntimeError):
    """NVRTC rejects a kernel; the message quotes each error with its source line."""


@dataclass(frozen=True)
class Layout:
    """How the arrays that are not raw lie in memory: CuPy makes one variant of a kernel for each."""

    ndim: int = 1
    contiguous: bool = True
    index_32_bits: bool = True


@dataclass(frozen=True)
class CompiledKernel:
    """What ptxas says about one kernel; sizes in bytes."""

    name: str
    architecture: str
    registers: int
    stack: int
    spill_stores: int
    spill_loads: int
    shared: int
    log: str


@functools.cache
def missing_nvrtc() -> str | None:
    """Return why nothing can be compiled here, or None if it can."""
    try:
        import cupy._core._kernel  # noqa: F401
    except ImportError as error:
        return f"NVRTC compilation needs CuPy: {error}"
    try:
        _compile('extern "C" __global__ void probe() {}', "sm_80")
    except Exception as error:  # whatever the loader of NVRTC raises
        return f"NVRTC compilation needs the NVRTC and runtime wheels: {type(error).__name__}: {error}"
    return None


@functools.cache
def supported_architectures(wanted: tuple[str, ...] = ARCHITECTURES) -> tuple[str, ...]:
    """Return those of the wanted architectures that this NVRTC knows."""
    return tuple(arch for arch in wanted if _knows(arch))


def _knows(architecture: str) -> bool:
    from cupy.cuda.compiler import CompileException

    try:
        _compile('extern "C" __global__ void probe() {}', architecture)
    except CompileException as error:
        if "arch" not in str(error):
            raise
        return False
    return True


def cuda_source(
    record: Any,
    dtype: Any = "float32",
    layout: Layout | None = None,
    *,
    scalars: Iterable[str] | None = None,
) -> str:
    """Return the CUDA source of an Elementwise or Block record for one element type.

    Of an Elementwise record, inputs that are not raw and have a type of 4 or 8 bytes by name, such as
    `int32 C`, are passed as scalars, all others as arrays; `scalars` names them explicitly.
    """
    dtype = np.dtype(dtype)
    if hasattr(record, "code"):
        return record.code({"float32": "float", "float64": "double"}[dtype.name])
    return _headers() + _elementwise_source(record, dtype, layout or Layout(), scalars)


def _elementwise_source(record: Any, dtype: np.dtype, layout: Layout, scalars: Iterable[str] | None) -> str:
    import cupy
    from cupy._core import _kernel, _scalar

    kernel = cupy.ElementwiseKernel(record.inputs, record.outputs, record.body, record.name, preamble=record.preamble)

    def is_scalar(parameter: Any) -> bool:
        if scalars is not None:
            return parameter.name in set(scalars)
        if parameter.raw or parameter.dtype is None:
            return False
        return np.dtype(parameter.dtype).name in _SCALAR_TYPES

    def info(parameter: Any, output: bool) -> Any:
        actual = np.dtype(parameter.dtype or dtype)
        if not output and is_scalar(parameter):
            return _kernel._ArgInfo(_SCALAR, _scalar.CScalar, actual, 0, True, True)
        if parameter.raw:  # raw arrays are C-contiguous here; four dimensions are typical
            return _kernel._ArgInfo(_NDARRAY, cupy.ndarray, actual, 4, True, layout.index_32_bits)
        return _kernel._ArgInfo(_NDARRAY, cupy.ndarray, actual, layout.ndim, layout.contiguous, layout.index_32_bits)

    ins = [info(p, False) for p in kernel.in_params]
    outs = [info(p, True) for p in kernel.out_params]
    return _code(kernel, ins, outs, layout.ndim, layout.index_32_bits)


def _code(kernel: Any, ins: list, outs: list, ndim: int, index_32_bits: bool) -> str:
    """Return what CuPy generates for a kernel with these arguments, in a loop over so many axes."""
    from cupy._core import _carray, _kernel

    _, _, type_map = kernel._decide_params_type(
        tuple(i.dtype if i.arg_kind == _NDARRAY else None for i in ins), tuple(o.dtype for o in outs)
    )
    indexer = _kernel._ArgInfo(_INDEXER, _carray.Indexer, None, ndim, True, index_32_bits)
    return _kernel._get_elementwise_kernel_code(
        (*ins, *outs, indexer), type_map, kernel.params, kernel.operation, kernel.name, kernel.preamble
    )


def variant_source(variant: Variant) -> str:
    """Return the CUDA source of the variant of an elementwise kernel that a call would compile."""
    import cupy
    from cupy._core import _kernel, _scalar

    def info(argument: Argument) -> Any:
        dtype = np.dtype(argument.dtype)
        if not argument.is_array:
            return _kernel._ArgInfo(_SCALAR, _scalar.CScalar, dtype, 0, True, True)
        layout = argument.ndim, argument.contiguous, argument.index_32_bits
        return _kernel._ArgInfo(_NDARRAY, cupy.ndarray, dtype, *layout)

    kernel = cupy.ElementwiseKernel(
        variant.inputs, variant.outputs, variant.body, variant.name, preamble=variant.preamble
    )
    infos = [info(argument) for argument in variant.arguments]
    return _headers() + _code(kernel, infos[: kernel.nin], infos[kernel.nin :], variant.ndim, variant.index_32_bits)


@functools.cache
def _headers() -> str:
    """Return the lines CuPy puts in front of the source of its own kernels, but not of a RawKernel's."""
    from cupy._core import core

    return "".join(f"#include <{name}>\n" for name in core._cupy_header_list)


def _compile(source: str, architecture: str) -> str:
    """Compile to a cubin with CuPy's options, and return the log."""
    from cupy._core import core
    from cupy.cuda import compiler

    options = (*core.assemble_cupy_compiler_options(()), "-ftz=true", f"-arch={architecture}", "--ptxas-options=-v")
    log = io.StringIO()
    compiler._NVRTCProgram(source, "kernel.cu", method="cubin").compile(options, log)
    return log.getvalue()


def compile_source(source: str, name: str, architecture: str) -> CompiledKernel:
    """Compile source text and return the resources of the kernel `name`."""
    from cupy.cuda.compiler import CompileException

    try:
        log = _compile(source, architecture)
    except CompileException as error:
        raise KernelCompileError(_explain(source, name, architecture, str(error))) from None
    return _parse_log(log, name, architecture)


def compile_record(
    record: Any,
    dtype: Any,
    architecture: str,
    layout: Layout | None = None,
) -> CompiledKernel:
    """Compile a record as CuPy would for these types."""
    return compile_source(cuda_source(record, dtype, layout), record.name, architecture)


def compile_variant(variant: Variant, architecture: str) -> CompiledKernel:
    """Compile the variant of an elementwise kernel that a call would compile."""
    return compile_source(variant_source(variant), variant.name, architecture)


def _explain(source: str, name: str, architecture: str, log: str) -> str:
    """Quote the source line of every error in NVRTC's log."""
    lines = source.splitlines()
    found = [
        f"  {lines[int(number) - 1].strip()}\n    {message}"
        for number, message in re.findall(r"kernel\.cu\((\d+)\): (?:catastrophic )?error: (.*)", log)
    ]
    return f"kernel {name!r} does not compile for {architecture}:\n" + ("\n".join(found) or log)


def _parse_log(log: str, name: str, architecture: str) -> CompiledKernel:
    part = log[log.index(f"'{name}'") :] if f"'{name}'" in log else log

    def number(pattern: str) -> int:
        found = re.search(pattern, part)
        return int(found[1]) if found else 0

    if not re.search(r"Used \d+ registers", part):
        raise KernelCompileError(f"no resources of kernel {name!r} in the log of ptxas:\n{log}")
    return CompiledKernel(
        name,
        architecture,
        registers=number(r"Used (\d+) registers"),
        stack=number(r"(\d+) bytes stack frame"),
        spill_stores=number(r"(\d+) bytes spill stores"),
        spill_loads=number(r"(\d+) bytes spill loads"),
        shared=number(r"(\d+) bytes smem"),
        log=log,
    )
