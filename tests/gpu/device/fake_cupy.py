"""A strict fake of the module `cupy`, backed by NumPy: `make_fake_cupy()` returns it.

Every launch, transfer, synchronisation and allocation is counted in `module.stats`; inside of
`with module.stats.step():` anything but a launch raises `ForbiddenInStep`. Kernels run in the CUDA
emulation. What CuPy copies silently is counted as CuPy does it: non-contiguous operands of a matrix
product, reductions that go through CUB, operands that overlap the output. A function that is not listed
here does not exist: add it when the library needs it.
"""

from __future__ import annotations

import importlib.machinery
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np

from .emulator import BlockProgram, ElementwiseProgram, check_launch
from .fake_array import Counts, FakeArray, ForbiddenInStep, MemoryPointer, World, unwrap
from .fake_cublas import FakeCublas
from .fake_cuda import add_cuda
from .lint import Launches

__all__ = ["Counts", "ForbiddenInStep", "make_fake_cupy"]


def _names(text: str) -> list[str]:
    return text.split()


UFUNCS = _names(
    "add subtract multiply divide true_divide floor_divide power remainder mod negative positive absolute "
    "abs fabs sign exp exp2 expm1 log log2 log10 log1p sqrt square cbrt reciprocal sin cos tan arcsin arccos "
    "arctan arctan2 sinh cosh tanh maximum minimum fmax fmin floor ceil rint trunc equal not_equal less "
    "less_equal greater greater_equal "
    "logical_and logical_or logical_not logical_xor bitwise_and bitwise_or bitwise_xor "
    "invert left_shift right_shift isfinite isinf isnan signbit copysign hypot logaddexp"
)
REDUCTIONS = _names("sum prod max min amax amin mean var std any all argmax argmin")
VIEWS = _names("reshape ravel transpose permute_dims swapaxes squeeze expand_dims moveaxis broadcast_to flip")
COPIES = _names(
    "concatenate concat stack where clip take take_along_axis tensordot einsum pad repeat tile roll argsort sort"
)
SHARED = _names(
    "float16 float32 float64 int8 int16 int32 int64 uint8 uint16 uint32 uint64 bool_ complex64 dtype newaxis "
    "inf nan pi e finfo iinfo promote_types can_cast issubdtype generic floating integer"
)
OPERATORS = {
    "add": "add",
    "sub": "subtract",
    "mul": "multiply",
    "truediv": "true_divide",
    "floordiv": "floor_divide",
    "mod": "remainder",
    "pow": "power",
    "and": "bitwise_and",
    "or": "bitwise_or",
    "xor": "bitwise_xor",
    "lshift": "left_shift",
    "rshift": "right_shift",
}
COMPARISONS = {
    "eq": "equal",
    "ne": "not_equal",
    "lt": "less",
    "le": "less_equal",
    "gt": "greater",
    "ge": "greater_equal",
}


def make_fake_cupy(
    device_count: int = 1,
    *,
    order: str | int = "forward",
    executes: bool = True,
    deferred: str = "side",
    gpu_arithmetic: bool = False,
) -> ModuleType:
    """Build a new fake `cupy`, independent of any other; `device_count=0` is CuPy without a driver.

    `order` is that in which emulated kernels run their threads: "forward", "reverse" or a seed. One that does not
    execute counts launches that go into arrays which are there, and computes none of them. `deferred` says which
    streams do their work only when something waits for it: those beside the default one ("side"), or that ("default").
    With `gpu_arithmetic` the library's own kernels in float32 flush denormal numbers to zero and contract products and
    sums, as on a GPU.
    """
    world = World(device_count, order)
    world.executes, world.deferred = executes, deferred
    world.launches = Launches()
    module = ModuleType("cupy", "A strict fake of CuPy.")
    module.__spec__ = importlib.machinery.ModuleSpec("cupy", None, is_package=True)
    module.__version__ = "14.2.0"
    module.stats, module.launches = world.stats, world.launches
    module.libcublas = FakeCublas(world)  # what `installed_cupy` gives who opens the library
    world.module = module
    members = {"__module__": "cupy", "__slots__": (), "_world": world}
    world.array_class = type("ndarray", (FakeArray,), members)
    module.ndarray = world.array_class
    for name in SHARED:
        setattr(module, name, getattr(np, name))
    _add_functions(world, module)
    _add_operators(world)
    _add_creation(world, module)
    _add_kernels(world, module, gpu_arithmetic)
    add_cuda(world, module)
    return module


def _output(world: World, out: Any) -> np.ndarray:
    if isinstance(out, tuple):
        (out,) = out
    if not isinstance(out, FakeArray):
        raise TypeError("Output arguments type must be cupy.ndarray")
    return unwrap(out, world)


def _temporary(world: World, what: str, nbytes: int) -> None:
    world.new((nbytes,), np.uint8, "C", what)
    if not world.stream_at(None).captures:
        world.stats.launch()


def _ufunc(world: World, name: str) -> Any:
    function = getattr(np, name)

    def call(*args: Any, out: Any = None, dtype: Any = None, casting: str = "same_kind") -> Any:
        if len(args) > function.nin:
            *args, out = args
        values = [unwrap(arg, world) for arg in args]
        if out is None:
            return world.result(lambda: function(*values, dtype=dtype, casting=casting), f"result of cupy.{name}")
        target = _output(world, out)
        for arg, value in zip(args, values, strict=True):
            if isinstance(value, np.ndarray) and arg is not out and np.may_share_memory(value, target):
                _temporary(world, f"copy of an operand of cupy.{name} that overlaps out", value.nbytes)
        world.launch(lambda: function(*values, out=target, dtype=dtype, casting=casting))
        return out

    call.__name__ = name
    return call


def _needs_temporary(array: np.ndarray, axis: Any, name: str) -> bool:
    """Whether CuPy takes temporary memory even if `out` is given, as it does where it reduces with CUB."""
    axes = range(array.ndim) if axis is None else axis if isinstance(axis, tuple) else (axis,)
    reduced = {k % array.ndim for k in axes} if array.ndim else set()
    full = len(reduced) == array.ndim
    if name in ("var", "std"):
        return True  # not one reduction but several operations
    if name in ("mean", "any", "all", "argmax", "argmin") and not full:
        return False  # these reduce in one pass, unless they reduce everything
    last = set(range(array.ndim - len(reduced), array.ndim))
    first = set(range(len(reduced)))
    return (array.flags.c_contiguous and reduced == last) or (array.flags.f_contiguous and reduced == first)


def _reduction(world: World, name: str) -> Any:
    function = getattr(np, name)

    def call(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        if not isinstance(a, FakeArray):
            raise TypeError(f"Argument 'a' has incorrect type (expected cupy.ndarray, got {type(a)})")
        array = unwrap(a, world)
        kwargs = {"axis": axis, "keepdims": keepdims} | ({} if dtype is None else {"dtype": dtype})
        if out is None:
            return world.result(lambda: function(array, **kwargs), f"result of cupy.{name}")
        target = _output(world, out)
        if _needs_temporary(array, axis, name):
            _temporary(world, f"temporary of cupy.{name}", target.nbytes)
        world.launch(lambda: function(array, out=target, **kwargs))
        return out

    call.__name__ = name
    return call


def _view(world: World, name: str) -> Any:
    def call(a: FakeArray, *args: Any, **kwargs: Any) -> FakeArray:
        array = unwrap(a, world)
        return a._view_or_copy(lambda: getattr(np, name)(array, *args, **kwargs), f"cupy.{name}")

    return call


def _copying(world: World, name: str) -> Any:
    def inner(value: Any) -> Any:
        if isinstance(value, (list, tuple)):
            return type(value)(inner(item) for item in value)
        return value if value is None or isinstance(value, str) else unwrap(value, world)

    def call(*args: Any, out: Any = None, **kwargs: Any) -> Any:
        values = [inner(arg) for arg in args]
        if name == "where" and len(values) == 1:
            world.stats.sync("cupy.where(condition) waits for the number of hits")
            world.wait()
            return tuple(world.result(lambda found=found: found, "cupy.where") for found in np.where(*values))
        named = {key: inner(value) for key, value in kwargs.items()}
        if name in ("concat", "concatenate", "stack") and len(values[0]) > 8:  # by one kernel, from a list of addresses
            world.stats.h2d(f"addresses for cupy.{name}", 8 * len(values[0]))
        if out is None:
            return world.result(lambda: getattr(np, name)(*values, **named), f"result of cupy.{name}")
        target = _output(world, out)
        world.launch(lambda: np.copyto(target, getattr(np, name)(*values, **named), casting="same_kind"))
        return out

    return call


def _matmul(world: World, name: str) -> Any:
    def call(a: Any, b: Any, out: Any = None) -> Any:
        if not (isinstance(a, FakeArray) and isinstance(b, FakeArray)):
            raise TypeError(f"cupy.{name}: unsupported types {type(a)}, {type(b)}")
        if world.is_capturing():
            raise NotImplementedError("calling cuBLAS API during stream capture is currently unsupported")
        x, y = unwrap(a, world), unwrap(b, world)
        world.wait()
        product = np.asarray(getattr(np, name)(x, y))
        if max(x.ndim, y.ndim) <= 2:
            for operand in (x, y):  # cuBLAS takes either order; anything else is copied
                if operand.dtype != product.dtype or not (operand.flags.c_contiguous or operand.flags.f_contiguous):
                    _temporary(world, "copy of an operand of a matrix product for cuBLAS", operand.nbytes)
        if out is None:
            return world.result(lambda: product, f"result of cupy.{name}")
        target = _output(world, out)
        if target.shape != product.shape:
            raise ValueError(f"Output array has an invalid size: {target.shape} instead of {product.shape}")
        if name == "dot" and not target.flags.c_contiguous:
            raise ValueError("Output array must be C-contiguous")
        overlaps = np.may_share_memory(target, x) or np.may_share_memory(target, y)
        if not target.flags.c_contiguous or target.dtype != product.dtype or overlaps or product.size == 1:
            _temporary(world, f"temporary output of cupy.{name}", product.nbytes)
        np.copyto(target, product, casting="same_kind")
        world.stats.launch()
        return out

    return call


def _add_functions(world: World, module: ModuleType) -> None:
    for names, make in ((UFUNCS, _ufunc), (REDUCTIONS, _reduction), (VIEWS, _view), (COPIES, _copying)):
        for name in names:
            setattr(module, name, make(world, name))
    module.matmul, module.dot = _matmul(world, "matmul"), _matmul(world, "dot")
    module.may_share_memory = module.shares_memory = lambda a, b: np.may_share_memory(a._array, b._array)
    module.result_type = lambda *args: np.result_type(
        *(unwrap(a, world) if isinstance(a, FakeArray) else a for a in args)
    )
    module.copyto = lambda dst, src, casting="same_kind": dst.__setitem__(Ellipsis, src)
    module.asnumpy = lambda a, stream=None, order="C", out=None, blocking=True: (
        a.get(stream, order, out, blocking) if isinstance(a, FakeArray) else np.asarray(a)
    )
    module.get_array_module = lambda *args: module if any(isinstance(a, FakeArray) for a in args) else np


def _add_operators(world: World) -> None:
    """Give the array class its operators and its reductions as methods."""
    cls, module = world.array_class, world.module

    def operator(name: str) -> None:
        function = getattr(module, OPERATORS[name])
        setattr(cls, f"__{name}__", lambda self, other: function(self, other))
        setattr(cls, f"__r{name}__", lambda self, other: function(other, self))
        setattr(cls, f"__i{name}__", lambda self, other: function(self, other, out=self))

    def comparison(name: str) -> None:
        function = getattr(module, COMPARISONS[name])
        setattr(cls, f"__{name}__", lambda self, other: function(self, other))

    for name in OPERATORS:
        operator(name)
    for name in COMPARISONS:
        comparison(name)
    for name in ("sum", "prod", "max", "min", "mean", "var", "std", "any", "all", "argmax", "argmin", "clip"):
        setattr(cls, name, getattr(module, name))
    cls.dot = cls.__matmul__ = module.matmul
    cls.__neg__, cls.__abs__, cls.__invert__ = module.negative, module.absolute, module.invert
    cls.__hash__ = None


def _add_creation(world: World, module: ModuleType) -> None:
    def empty(shape: Any, dtype: Any = float, order: str = "C") -> FakeArray:
        return world.array_class(shape, dtype, order=order)

    def full(shape: Any, fill_value: Any, dtype: Any = None, order: str = "C") -> FakeArray:
        value = unwrap(fill_value, world)
        made = world.new(shape, np.asarray(value).dtype if dtype is None else dtype, order, "cupy.full")
        target = made._array
        if target.size:
            world.launch(lambda: target.fill(value))
        return made

    def array(obj: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> FakeArray:
        if isinstance(obj, FakeArray):
            return obj.astype(dtype or obj.dtype, order, copy=copy)
        host = np.array(obj, dtype, order=order)
        made = world.own(host, "array from the host")
        world.stats.h2d("array from the host", host.nbytes)
        world.stats.pinned_bytes += host.nbytes  # through which CuPy sends it
        return made

    def like(fill: Any) -> Any:
        def call(a: FakeArray, dtype: Any = None) -> FakeArray:
            return fill(a.shape, dtype or a.dtype)

        return call

    module.empty, module.full, module.array = empty, full, array
    module.zeros = lambda shape, dtype=float, order="C": full(shape, 0, dtype, order)
    module.ones = lambda shape, dtype=float, order="C": full(shape, 1, dtype, order)
    module.empty_like, module.zeros_like = like(empty), like(module.zeros)
    module.ones_like = like(module.ones)
    module.full_like = lambda a, value, dtype=None: full(a.shape, value, dtype or a.dtype)
    module.arange = lambda *args, dtype=None: world.result(lambda: np.arange(*args, dtype=dtype), "cupy.arange")
    module.eye = lambda n, m=None, k=0, dtype=float: world.result(lambda: np.eye(n, m, k, dtype), "cupy.eye")
    module.asarray = lambda a, dtype=None, order="K": array(a, dtype, copy=False, order=order)
    module.ascontiguousarray = lambda a, dtype=None: (
        a
        if isinstance(a, FakeArray) and a.flags.c_contiguous and dtype in (None, a.dtype)
        else array(a, dtype, order="C")
    )


def _add_kernels(world: World, module: ModuleType, gpu_arithmetic: bool) -> None:
    """Add `ElementwiseKernel`, `RawKernel` and `RawModule`, which run in the emulation."""

    class ElementwiseKernel:
        def __init__(
            self,
            in_params,
            out_params,
            operation,
            name="kernel",
            reduce_dims=True,
            preamble="",
            no_return=False,
            return_tuple=False,
            options=(),
        ):
            self.name, self.no_return, self.return_tuple = name, no_return, return_tuple
            self.program = ElementwiseProgram(
                SimpleNamespace(name=name, inputs=in_params, outputs=out_params, body=operation, preamble=preamble),
                gpu_arithmetic=gpu_arithmetic,
            )

        def __call__(self, *args, size=None, block_size=128, stream=None):
            values = [unwrap(arg, world) for arg in args]
            world.require_device()
            outputs = args[len(self.program.inputs) :]
            if outputs:
                if 0 not in self.program.loop_shape(values, size):
                    world.launches.elementwise(self.program, values, size, block_size)
                    world.launch(lambda: self.program(*values, size=size, order=world.order))
            else:
                outputs = self._into_new_arrays(values, size)
            if self.no_return:
                return None
            return outputs[0] if len(outputs) == 1 and not self.return_tuple else tuple(outputs)

        def _into_new_arrays(self, values: list, size: int | None) -> tuple[FakeArray, ...]:
            if world.stream_at(None).captures:
                raise NotImplementedError(f"the fake records kernel {self.name!r} with its outputs only")
            world.wait()
            results = self.program(*values, size=size, order=world.order)
            results = results if isinstance(results, tuple) else (results,)
            if 0 not in self.program.loop_shape(values, size):
                world.launches.elementwise(self.program, [*values, *results], size, 128)
            return tuple(world.result(lambda one=one: one, f"output of kernel {self.name!r}") for one in results)

    class RawKernel:
        def __init__(self, code, name, options=(), backend="nvrtc"):
            self.code, self.name, self.options = code, name, tuple(options)
            self.program = BlockProgram.from_code(code, name, gpu_arithmetic=gpu_arithmetic)

        def __call__(self, grid, block, args, *, shared_mem=0, stream=None):
            if shared_mem:
                raise NotImplementedError("the emulation has no dynamic shared memory")
            world.require_device()
            if any(isinstance(arg, (np.ndarray, MemoryPointer)) for arg in args):
                raise TypeError(f"kernel {self.name!r}: pass device arrays, not host arrays or bare pointers")
            values = [unwrap(arg, world) if isinstance(arg, FakeArray) else arg for arg in args]
            grid, block = (tuple(max(1, n) for n in sizes) for sizes in (grid, block))  # as CuPy does
            check_launch(self.name, grid, block, values)
            world.launches.raw(self.name, grid, block, values)
            world.launch(lambda: self.program.run(grid, block, values, order=world.order))

    class RawModule:
        def __init__(self, *, code, options=(), backend="nvrtc"):
            self.code, self.options = code, options

        def get_function(self, name):
            return RawKernel(self.code, name, self.options)

    for cls in (ElementwiseKernel, RawKernel, RawModule):
        cls.__module__ = "cupy"
        setattr(module, cls.__name__, cls)
