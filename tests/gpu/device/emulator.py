"""Run the library's CUDA kernels on the CPU: the same source, compiled by g++ against `cuda_emulation.h`.

`ElementwiseProgram(record)` follows the rules of `cupy.ElementwiseKernel` (types, broadcasting, outputs);
`BlockProgram(record)` runs a whole `__global__` function, one fiber per thread. Both take NumPy arrays.
Compiled objects live as long as the process, or in `$GPUCNN_EMULATION_CACHE` if it is set.
"""

from __future__ import annotations

import ctypes
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

from .host_compiler import (
    C_TYPES,
    DTYPES,
    DeadlockError,
    DivergentBarrierError,
    EmulationError,
    SourceError,
    compile_library,
    missing_compiler,
    order_number,
    poisoned,
    shared_bytes,
    to_scalar,
)

__all__ = [
    "BlockProgram",
    "DeadlockError",
    "DivergentBarrierError",
    "ElementwiseProgram",
    "EmulationError",
    "Parameter",
    "SourceError",
    "check_launch",
    "missing_compiler",
    "parse_parameters",
    "parse_signature",
]


@dataclass(frozen=True)
class Parameter:
    """One parameter of an elementwise kernel: `raw T w` has name "w", type_name "T" and raw=True."""

    name: str
    type_name: str
    raw: bool
    output: bool

    @property
    def is_placeholder(self) -> bool:
        """Whether the type is a letter that stands for the dtype of the arrays."""
        return len(self.type_name) == 1


def parse_parameters(text: str, *, output: bool = False) -> list[Parameter]:
    """Parse a parameter string in CuPy's grammar: "T x, raw T w, int32 C"."""
    parameters = []
    for part in filter(None, (item.strip() for item in text.split(","))):
        *keywords, type_name, name = ["?", "?", *part.split()][-max(2, len(part.split())) :]
        known = type_name in C_TYPES or (len(type_name) == 1 and type_name.isalpha())
        if keywords not in ([], ["raw"]) or not known:
            raise ValueError(f"parameter {part!r}: expected '[raw] TYPE NAME', TYPE a letter or one of {list(C_TYPES)}")
        if name == "i":
            raise ValueError("Can not use 'i' as a parameter name")
        parameters.append(Parameter(name, type_name, bool(keywords), output))
    return parameters


class ElementwiseProgram:
    """A kernel record with the attributes `name`, `inputs`, `outputs`, `body` and `preamble`, run on the CPU.

    Parameters are bound as in CuPy: arrays that are not `raw` are broadcast together with the outputs; a raw
    array is a flat C-ordered sequence; outputs that are not given are allocated. Stricter than CuPy: a raw
    array must be C-contiguous, and an access outside of it raises IndexError (unless `check_bounds` is off).
    With `gpu_arithmetic`, float32 kernels flush denormal numbers to zero and contract products and sums.
    """

    def __init__(self, record: Any, *, check_bounds: bool = True, gpu_arithmetic: bool = False) -> None:
        self.record = record
        self.check_bounds = check_bounds
        self.gpu_arithmetic = gpu_arithmetic
        self.inputs = parse_parameters(record.inputs)
        self.parameters = self.inputs + parse_parameters(record.outputs, output=True)

    def __call__(
        self,
        *args: Any,
        size: int | None = None,
        order: str | int = "forward",
        indices: Sequence[int] | None = None,
    ) -> Any:
        """Run the kernel and return its output, or a tuple of them; `order` is that of the elements.

        With `indices` it runs for these elements alone: of arrays of gigabytes it then touches only what they need.
        """
        values = list(args)
        if len(values) not in (len(self.inputs), len(self.parameters)):
            raise TypeError(
                f"Wrong number of arguments for {self.record.name!r}: expected {len(self.inputs)} or "
                f"{len(self.parameters)} (with outputs), received {len(values)}"
            )
        shape = self.loop_shape(values, size)
        types = self.resolve_types(values)
        values = self._complete(values, types, shape, size)
        if 0 not in shape:
            self._run(values, types, shape, order, indices)
        outputs = values[len(self.inputs) :]
        return outputs[0] if len(outputs) == 1 else tuple(outputs)

    def loop_shape(self, values: Sequence[Any], size: int | None) -> tuple[int, ...]:
        """Return over what it loops: the arrays that are not raw, broadcast together, or `size`."""
        looped = [v for p, v in zip(self.parameters, values, strict=False) if isinstance(v, np.ndarray) and not p.raw]
        if size is not None:
            if looped:
                raise ValueError("Specified 'size' can be used only if all of the ndarray are 'raw'.")
            return (int(size),)
        if not looped:
            raise ValueError("Loop size is undecided.")
        return np.broadcast_shapes(*(v.shape for v in looped))

    def resolve_types(self, values: Sequence[Any]) -> list[np.dtype]:
        """Give every parameter its dtype; outputs decide a placeholder first, then inputs, as in CuPy."""
        known: dict[str, np.dtype] = {}
        pairs = list(zip(self.parameters, values, strict=False))
        for parameter, value in sorted(pairs, key=lambda pair: not pair[0].output):
            if not isinstance(value, np.ndarray):
                continue
            expected = (
                known.setdefault(parameter.type_name, value.dtype)
                if parameter.is_placeholder
                else np.dtype(parameter.type_name)
            )
            if value.dtype != expected or value.dtype.name not in C_TYPES:
                raise TypeError(
                    f"Type is mismatched. kernel {self.record.name!r}, {parameter.name}: "
                    f"received {value.dtype}, expected {expected} ({parameter.type_name})"
                )
        for parameter in self.parameters:
            if parameter.is_placeholder and parameter.type_name not in known:
                raise TypeError(f"kernel {self.record.name!r}: no array decides the type {parameter.type_name}")
        return [known[p.type_name] if p.is_placeholder else np.dtype(p.type_name) for p in self.parameters]

    def _complete(
        self,
        values: list,
        types: list[np.dtype],
        shape: tuple[int, ...],
        size: int | None,
    ) -> list:
        """Check the arrays, convert the scalars and allocate missing outputs."""
        outputs_given = len(values) == len(self.parameters)
        for k, (parameter, dtype) in enumerate(zip(self.parameters, types, strict=True)):
            where = f"kernel {self.record.name!r}, parameter {parameter.name!r}"
            if parameter.output and not outputs_given:
                if parameter.raw and size is None:
                    raise ValueError("Output array size is Undecided")
                values.append(poisoned(shape, dtype))
            elif isinstance(values[k], np.ndarray):
                self._check_array(parameter, values[k], shape, where)
            elif parameter.raw or parameter.output:
                raise TypeError(f"{where}: expected an array, received {type(values[k])}")
            else:
                values[k] = to_scalar(values[k], dtype, where)
        return values

    @staticmethod
    def _check_array(parameter: Parameter, array: np.ndarray, shape: tuple[int, ...], where: str) -> None:
        if parameter.raw and not array.flags.c_contiguous:
            raise ValueError(f"{where}: a raw array must be C-contiguous, strides are {array.strides}")
        if parameter.output and not parameter.raw and array.shape != shape:
            raise ValueError(f"{where}: Out shape is mismatched, {array.shape} instead of {shape}")
        if parameter.output and not array.flags.writeable:
            raise ValueError(f"{where}: the output array is read-only")

    def _run(
        self,
        values: list,
        types: list[np.dtype],
        shape: tuple[int, ...],
        order: str | int,
        indices: Sequence[int] | None,
    ) -> None:
        looped = [
            np.broadcast_to(v, shape) if not p.raw and v.ndim else v
            for p, v in zip(self.parameters, values, strict=True)
        ]
        walked = [v for p, v in zip(self.parameters, looped, strict=True) if not p.raw and v.shape == shape]
        total = int(np.prod(shape, dtype=np.int64))
        flat = not shape or all(v.flags.c_contiguous for v in walked)
        dims = (total,) if flat else shape
        strides = [_byte_strides(p, v, shape, flat) for p, v in zip(self.parameters, looped, strict=True)]
        as_gpu = self.gpu_arithmetic and np.dtype("float32") in types
        library = compile_library(self.record.name, self._source(tuple(types)), as_gpu)
        if indices is not None and not all(0 <= i < total for i in indices):
            raise ValueError(f"kernel {self.record.name!r}: expected indices from 0 to {total - 1}, received {indices}")
        report = (ctypes.c_longlong * 3)()
        library.emulated_run(
            (ctypes.c_void_p * len(values))(*(v.ctypes.data for v in values)),
            _longs([v.size for v in values]),
            _longs(dims),
            _longs([s for row in strides for s in row]),
            ctypes.c_int(len(dims)),
            ctypes.c_longlong(total),
            ctypes.c_uint(order_number(order)),
            None if indices is None else _longs(indices),
            ctypes.c_longlong(0 if indices is None else len(indices)),
            report,
        )
        if report[0] >= 0:
            parameter, size = self.parameters[report[0]], values[report[0]].size
            raise IndexError(
                f"kernel {self.record.name!r}: index {report[1]} is outside of raw parameter "
                f"{parameter.name!r} of size {size}, at element i = {report[2]}"
            )

    def _source(self, types: tuple[np.dtype, ...]) -> str:
        """Return the C++ source: the body as a function of one element, and the loop over all elements."""
        letters = {
            p.type_name: C_TYPES[t.name] for p, t in zip(self.parameters, types, strict=True) if p.is_placeholder
        }
        declared, passed = [], []
        for k, parameter in enumerate(self.parameters):
            c_type = parameter.type_name if parameter.is_placeholder else C_TYPES[parameter.type_name]
            qualified = c_type if parameter.output else f"const {c_type}"
            if parameter.raw:
                declared.append(f"const emulation::RawArray<{qualified}> {parameter.name}")
                passed.append(f"{{arguments[{k}], sizes[{k}], {k}}}")
            else:
                declared.append(f"{qualified} &{parameter.name}")
                passed.append(
                    f"*({qualified} *)((char *)arguments[{k}] + "
                    f"emulation::offset(i, ndim, shape, strides + {k} * ndim))"
                )
        return _ELEMENTWISE.format(
            unchecked="" if self.check_bounds else "#define EMULATION_UNCHECKED",
            typedefs="\n".join(f"typedef {c_type} {letter};" for letter, c_type in sorted(letters.items())),
            preamble=self.record.preamble,
            name=self.record.name,
            body=self.record.body,
            declared=", ".join(declared),
            passed=", ".join(passed),
        )


_ELEMENTWISE = """\
{unchecked}
#include "cuda_emulation.h"
{typedefs}
#line 1 "preamble of {name}"
{preamble}
static inline void emulated_element({declared}, const emulation::Indexer &_ind, ptrdiff_t i) {{
  do {{
#line 1 "body of {name}"
{body};
  }} while (false);  // so that the body may say `continue`
}}
extern "C" void emulated_run(void **arguments, const long long *sizes, const long long *shape,
                             const long long *strides, int ndim, long long n, unsigned order,
                             const long long *chosen, long long count, long long *report) {{
  const emulation::Indexer _ind{{(ptrdiff_t)n}};
  std::vector<long long> elements;
  if (chosen) elements.assign(chosen, chosen + count);
  else if (order != emulation::forward) emulation::Shuffler(order).fill(elements, n);
  emulation::out_of_bounds = {{}};
  const emulation::Arithmetic arithmetic;
  report[0] = -1;
  for (long long k = 0; k < (chosen ? count : n); ++k) {{
    const long long i = elements.empty() ? k : elements[k];
    emulated_element({passed}, _ind, i);
    if (emulation::out_of_bounds.parameter < 0) continue;
    report[0] = emulation::out_of_bounds.parameter, report[1] = emulation::out_of_bounds.index, report[2] = i;
    return;
  }}
}}
"""


def _longs(values: Any) -> Any:
    return (ctypes.c_longlong * max(len(values), 1))(*values)


def _byte_strides(
    parameter: Parameter,
    array: np.ndarray,
    shape: tuple[int, ...],
    flat: bool,
) -> tuple[int, ...]:
    """Return the strides with which the loop walks over an argument; zeros for raw arrays and scalars."""
    if parameter.raw or array.shape != shape or not shape:
        return (0,) * (1 if flat else len(shape))
    return (array.itemsize,) if flat else array.strides


@dataclass(frozen=True)
class Argument:
    """One parameter of a `__global__` function; c_type is resolved through the typedefs of the source."""

    name: str
    c_type: str
    pointer: bool
    const: bool


def parse_signature(code: str, name: str) -> list[Argument]:
    """Read the parameters of the function `name` from CUDA source."""
    code = re.sub(r"//[^\n]*|/\*.*?\*/", " ", code, flags=re.DOTALL)
    typedefs = {new: " ".join(old.split()) for old, new in re.findall(r"typedef\s+([\w\s]+?)\s+(\w+)\s*;", code)}
    found = re.search(rf"__global__[^;{{}}]*?\b{name}\s*\(([^)]*)\)\s*{{", code)
    if not found:
        raise SourceError(f"kernel {name!r}: the source has no `__global__ void {name}(...) {{`")
    arguments = []
    for text in filter(str.strip, found[1].split(",")):
        *words, variable = re.sub(r"__restrict__|\*", " ", text).split()
        c_type = " ".join(word for word in words if word != "const")
        arguments.append(Argument(variable, typedefs.get(c_type, c_type), "*" in text, "const" in words))
    return arguments


MAX_BLOCKS = (2**31 - 1, 65535, 65535)  # along each axis of a grid
MAX_THREADS = (1024, 1024, 64)  # along each axis of a block
THREADS, SHARED_BYTES, ARGUMENT_BYTES = 1024, 48 << 10, 4 << 10  # of a block, and of a launch


def check_launch(name: str, grid: Any, block: Any, args: Sequence[Any]) -> None:
    """Raise `EmulationError` where CUDA refuses a launch."""
    offset = 0
    for value in args:
        size = value.itemsize if isinstance(value, np.generic) else 8  # of a pointer
        offset = -(-offset // size) * size + size
    limits = {
        f"grids of at most {MAX_BLOCKS} blocks": _lie_within(grid, MAX_BLOCKS),
        f"blocks of at most {MAX_THREADS} threads": _lie_within(block, MAX_THREADS),
        f"blocks of at most {THREADS} threads in all": math.prod(_sizes(block)) <= THREADS,
        f"kernels with at most {ARGUMENT_BYTES} bytes of arguments": offset <= ARGUMENT_BYTES,
    }
    for limit, is_kept in limits.items():
        if not is_kept:
            raise EmulationError(
                f"kernel {name!r}: CUDA launches {limit}, received a grid of {grid}, blocks of {block}, {offset} bytes"
            )


def _lie_within(sizes: Any, limits: tuple[int, ...]) -> bool:
    return all(1 <= size <= limit for size, limit in zip(_sizes(sizes), limits, strict=True))


def _sizes(size: Any) -> tuple[int, ...]:
    sizes = (size,) if isinstance(size, (int, np.integer)) else tuple(size)
    return tuple(int(n) for n in (*sizes, 1, 1)[:3])


class BlockProgram:
    """A record with the attribute `name` and the method `code(element_type)`, one `__global__` function.

    Array arguments are checked against the C signature and copied between guard zones for the launch: a
    write just outside of an array raises IndexError, and a read there gives NaN. Python scalars are refused,
    since a launch passes their bytes: CuPy would pass a Python float as a double to a float parameter.
    With `gpu_arithmetic`, float32 kernels flush denormal numbers to zero and contract products and sums.
    """

    def __init__(self, record: Any, *, gpu_arithmetic: bool = False) -> None:
        self.record = record
        self.name = record.name
        self.gpu_arithmetic = gpu_arithmetic

    @classmethod
    def from_code(cls, code: str, name: str, *, gpu_arithmetic: bool = False) -> BlockProgram:
        """Make a program of complete source text, as `cupy.RawKernel` takes it."""
        return cls(SimpleNamespace(name=name, code=lambda element_type: code), gpu_arithmetic=gpu_arithmetic)

    def run(self, grid: Any, block: Any, args: Any, *, order: str | int = "forward") -> None:
        """Launch with NumPy arrays as pointers and NumPy scalars as values; `order` is of the threads."""
        check_launch(self.name, grid, block, args)
        signature = parse_signature(self.record.code(_ELEMENT), self.name)
        if len(signature) != len(args):
            raise TypeError(f"kernel {self.name!r} takes {len(signature)} arguments, received {len(args)}")
        element = next(
            (v.dtype for a, v in zip(signature, args, strict=True) if a.c_type == _ELEMENT and hasattr(v, "dtype")),
            np.dtype("float32"),
        )
        guard = _GuardZones(self.name)
        cells = [self._cell(argument, value, element, guard) for argument, value in zip(signature, args, strict=True)]
        code = self.record.code(C_TYPES.get(element.name, element.name))
        as_gpu = self.gpu_arithmetic and any(getattr(value, "dtype", None) == np.float32 for value in args)
        library = compile_library(self.name, _BLOCK.format(code=code, name=self.name), as_gpu)
        if (shared := shared_bytes(library)) > SHARED_BYTES:
            raise EmulationError(
                f"kernel {self.name!r}: {shared} bytes of shared memory, at most {SHARED_BYTES} are static"
            )
        addresses = (ctypes.c_void_p * max(len(cells), 1))(*(cell.ctypes.data for cell in cells))
        status = library.emulated_launch(_triple(grid), _triple(block), ctypes.c_uint(order_number(order)), addresses)
        self._raise(status, library.emulated_line())
        guard.check_and_copy_back()

    def _cell(self, argument: Argument, value: Any, element: np.dtype, guard: _GuardZones) -> np.ndarray:
        """Return the array whose bytes the launch passes: an address, or the value of a scalar."""
        where = f"kernel {self.name!r}, argument {argument.name!r}"
        expected = element if argument.c_type == _ELEMENT else DTYPES.get(argument.c_type)
        if value is None and argument.pointer:  # a null pointer, as for CuPy
            return np.array(0, np.uintp)
        if not isinstance(value, np.ndarray if argument.pointer else np.generic):
            form = "an array" if argument.pointer else "a NumPy scalar"
            raise TypeError(f"{where}: expected {form} ({argument.c_type}), received {type(value)}")
        if expected is not None and value.dtype != expected:
            raise TypeError(f"{where}: expected {expected}, received {value.dtype}")
        if not argument.pointer:
            return np.array(value)
        if not value.flags.c_contiguous:
            raise ValueError(f"{where}: expected a C-contiguous array, strides are {value.strides}")
        if not argument.const and not value.flags.writeable:
            raise ValueError(f"{where}: the array is read-only")
        return np.array(guard.place(argument, value), np.uintp)

    def _raise(self, status: int, line: int) -> None:
        if status == 1:
            raise DeadlockError(f"kernel {self.name!r}: threads wait for each other at different barriers")
        if status == 2:
            raise DivergentBarrierError(
                f"kernel {self.name!r}: only some threads of a block reach the __syncthreads of line {line}"
            )


_ELEMENT = "emulated_element_type"  # stands for T until the arrays decide it
_BLOCK = """\
#include "cuda_emulation.h"
#line 1 "{name}"
{code}
extern "C" int emulated_launch(const unsigned *grid, const unsigned *block, unsigned order,
                               void **arguments) {{
  return emulation::launch_kernel({name}, grid, block, order, arguments);
}}
extern "C" int emulated_line() {{ return emulation::failing_line; }}
"""


def _triple(size: Any) -> Any:
    return (ctypes.c_uint * 3)(*_sizes(size))


class _GuardZones:
    """Copies of a launch's arrays between zones of 0xFF bytes, which are NaN when read as floats."""

    WIDTH = 256

    def __init__(self, kernel: str) -> None:
        self.kernel = kernel
        self.placed: list[tuple[Argument, np.ndarray, np.ndarray]] = []

    def place(self, argument: Argument, array: np.ndarray) -> int:
        """Copy the array and return the address of the copy; the same array twice is copied once."""
        for earlier, other, copy in self.placed:
            if other.ctypes.data == array.ctypes.data and other.nbytes == array.nbytes:
                if earlier.const:  # copied back if any of its uses may write
                    self.placed.append((argument, array, copy))
                return copy.ctypes.data + self.WIDTH
            if np.may_share_memory(other, array):
                raise ValueError(
                    f"kernel {self.kernel!r}: arguments {earlier.name!r} and {argument.name!r} "
                    f"overlap without being the same array"
                )
        copy = np.full(array.nbytes + 2 * self.WIDTH, 0xFF, np.uint8)
        copy[self.WIDTH : self.WIDTH + array.nbytes] = array.reshape(-1).view(np.uint8)
        self.placed.append((argument, array, copy))
        return copy.ctypes.data + self.WIDTH

    def check_and_copy_back(self) -> None:
        for argument, array, copy in self.placed:
            inside = slice(self.WIDTH, self.WIDTH + array.nbytes)
            if (copy[: inside.start] != 0xFF).any() or (copy[inside.stop :] != 0xFF).any():
                raise IndexError(
                    f"kernel {self.kernel!r} writes outside of argument {argument.name!r} "
                    f"({array.size} elements of {array.dtype})"
                )
            if not argument.const:
                array.reshape(-1).view(np.uint8)[...] = copy[inside]
