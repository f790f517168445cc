"""Where arrays live: flat arenas for what is trained, named buffers for what is recomputed.

Nothing here knows a device: a backend is handed in, and asked for `empty`, `zeros`, `keep` and its `reshape`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

from gpucnn.errors import InputError

__all__ = ["Arena", "Parameter", "Workspace"]

Array = Any  # numpy.ndarray, cupy.ndarray, or another array of the Python array API standard
Initializer = Callable[[Any, tuple[int, ...]], Any]

ALIGNMENT = 64  # elements: each parameter starts on a cache line, and vector loads on a GPU stay aligned


class Parameter:
    """One trained tensor of a layer: its value, and the gradient of the loss with respect to it.

    `value` and `gradient` are views into an `Arena`, or None before the layer is built. To assign to `value` is to
    write into it: it stays where it is.
    """

    value: Array = None
    gradient: Array = None

    def __init__(self, name: str, shape: tuple[int, ...], initializer: Initializer):
        self.name, self.shape, self.initializer = name, tuple(shape), initializer

    def __repr__(self) -> str:
        return f"Parameter({self.name!r}, {self.shape})"

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "value":
            self._write(value)
        else:
            object.__setattr__(self, name, value)

    def _write(self, array: Array) -> None:
        if self.value is None:
            raise InputError(f"parameter {self.name}: has no array yet; build its layer first")
        if array is self.value:  # what `value *= 2` assigns
            return
        if type(array) is not type(self.value) or tuple(array.shape) != self.shape:
            received = f"{type(array).__name__} {tuple(getattr(array, 'shape', ()))}"
            raise InputError(
                f"parameter {self.name}: expected a {type(self.value).__name__} {self.shape}, received {received}"
            )
        self.value[...] = array

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def place(self, value: Array, gradient: Array) -> None:
        """Let the parameter lie in some memory."""
        vars(self).update(value=value, gradient=gradient)

    def with_gradient(self, gradient: Array) -> Parameter:
        """Return a parameter with the same value and another gradient."""
        other = Parameter(self.name, self.shape, self.initializer)
        other.place(self.value, gradient)
        return other


class Arena:
    """All parameter values in one flat array, all gradients in a second of the same layout.

    So one kernel updates all weights, one copy saves them, and one sum reduces their gradients. The elements between
    two parameters are zero in both and stay zero under every optimizer.
    """

    def __init__(self, parameters: Sequence[Parameter], backend: Any):
        self.parameters = tuple(parameters)
        self.backend = backend
        self.in_use = True  # False once the parameters have moved to another arena
        offsets, end = [], 0
        for parameter in self.parameters:
            offsets.append(end)
            end += -(-parameter.size // ALIGNMENT) * ALIGNMENT
        self.size = end
        self.values = self.slot()
        self.gradients = self.slot()
        for parameter, start in zip(self.parameters, offsets, strict=True):
            stop = start + parameter.size
            parameter.place(*(self.backend.xp.reshape(flat[start:stop], parameter.shape) for flat in self._flat()))

    def _flat(self) -> tuple[Array, Array]:
        return self.values, self.gradients

    def slot(self) -> Array:
        """Return a new array of zeros with this layout, for an optimizer to keep its state in."""
        return self.backend.zeros((self.size,))


class Workspace:
    """Named buffers that grow when asked for more and are never freed: after the first step nothing is allocated."""

    def __init__(self, backend: Any):
        self._backend = backend
        self._buffers: dict[Hashable, Array] = {}
        self._views: dict[tuple, Array] = {}

    @property
    def nbytes(self) -> int:
        """Bytes of all buffers."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

    def buffers(self) -> list[Array]:
        """Return all buffers."""
        return list(self._buffers.values())

    def take(self, name: Hashable, shape: tuple[int, ...], dtype: Any) -> Array:
        """Return the buffer `name` as a contiguous array of this shape; its contents are whatever was left in it."""
        key = (name, shape, dtype)
        view = self._views.get(key)
        if view is None:
            size = math.prod(shape)
            view = self._backend.xp.reshape(self._grow(name, size, dtype)[:size], shape)
            self._views[key] = view
        self._backend.keep(view)
        return view

    def _grow(self, name: Hashable, size: int, dtype: Any) -> Array:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < size or buffer.dtype != dtype:
            self._views = {key: view for key, view in self._views.items() if key[0] != name}
            buffer = self._buffers[name] = self._backend.empty((size,), dtype)
        return buffer
