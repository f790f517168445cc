"""A model, prepared to be run again and again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto
from onnx.backend.base import BackendRep, namedtupledict

from gpucnn.backend import Backend
from gpucnn.errors import InputError, OutOfMemoryError, unknown_name
from gpucnn.onnx.node import TRAINING, Node, domain_of
from gpucnn.onnx.operators import OPERATORS
from gpucnn.onnx.types import array_of, dtype_of
from gpucnn.onnx.values import FLOATS, Value

__all__ = ["Graph", "precision_of"]

MIN_ROOM, MAX_GROWTH = 1 << 22, 1024  # in elements; far more than any network needs

# Of the array module, and of operators that meet inputs, attributes or ranks which make no sense together.
COMPUTING_ERRORS = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)

Arrays = Sequence[np.ndarray] | Mapping[str, np.ndarray]


class Graph(BackendRep):
    """A model's graph on a backend: `run([x])` returns the outputs as NumPy arrays; an example is at `prepare`.

    What depends on initializers and constants alone is computed once, here. Floats are computed in the backend's
    precision, whatever theirs is, and outputs have the types that the graph declares.
    """

    def __init__(self, model: ModelProto, backend: Backend):
        graph = model.graph
        if graph.sparse_initializer or model.functions:
            raise InputError("sparse initializers and functions of the model's own are not supported; inline them")
        self.backend = backend
        self.inputs = {info.name: info.type.tensor_type for info in graph.input}
        self._dtypes = {info.name: _dtype(info) for info in graph.input}
        self.outputs = {info.name: _dtype(info) if info.HasField("type") else None for info in graph.output}
        self._results = namedtupledict("Outputs", list(self.outputs))
        opsets = {domain_of(opset.domain): opset.version for opset in model.opset_import}
        for proto in graph.node:
            _require_operator(proto)
        self._initial = {tensor.name: self._initializer(tensor) for tensor in graph.initializer}
        self._nodes = self._without_constants([Node(proto, opsets, backend) for proto in graph.node])
        self._last_uses = _last_uses(self._nodes, set(self.outputs) | set(self._initial))
        made = {name for node in self._nodes for name in node.outputs} | set(self._initial) | set(self.inputs)
        if missing := sorted(set(self.outputs) - made):
            raise InputError(f"the graph's outputs {', '.join(missing)} are made by no node; name others")

    def _initializer(self, tensor: TensorProto) -> Value:
        return Value.on_host(self.backend, array_of(tensor, f'initializer "{tensor.name}"'))

    def _without_constants(self, nodes: list[Node]) -> list[Node]:
        """Evaluate the nodes whose inputs cannot change, and return the others."""
        kept, room = [], _room(self._initial.values())
        for node in nodes:
            if all(name in self._initial and name not in self.inputs for name in node.inputs if name):
                results = _outputs(node, self._initial, room)
                self._initial |= results
                room -= _size(results.values())
            else:
                kept.append(node)
        return kept

    def run(self, inputs: Arrays, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Return the outputs, by position or by name, for the inputs: in the graph's order, or by name.

        Inputs that have an initializer may be left out. Raises `InputError` for inputs that do not suit the graph, or
        which an operator cannot compute, and `OutOfMemoryError` for those that do not fit into memory.
        """
        if kwargs:
            raise InputError(f"run takes no options, received {', '.join(kwargs)}")
        values = self._initial | self._checked(inputs)
        room = _room(values.values())
        for node, last_uses in zip(self._nodes, self._last_uses, strict=True):
            results = _outputs(node, values, room)
            values |= results
            room -= _size(results.values())
            room += _size(values.pop(name) for name in last_uses if name in values)
        with self.backend.on_device():  # where values may have to change the order of their axes
            return self._results(*(_typed(values[name].host, dtype) for name, dtype in self.outputs.items()))

    def _checked(self, inputs: Arrays) -> dict[str, Value]:
        """Return the inputs as values by name."""
        needed = [name for name in self.inputs if name not in self._initial]
        if not isinstance(inputs, Mapping):
            names = needed if len(inputs) == len(needed) else list(self.inputs)[: len(inputs)]
            if len(inputs) > len(names):
                raise InputError(f"the graph has the inputs {', '.join(self.inputs)}; received {len(inputs)} arrays")
            inputs = dict(zip(names, inputs, strict=True))
        missing, unknown = [name for name in needed if name not in inputs], set(inputs) - set(self.inputs)
        if missing or unknown:
            raise InputError(f"expected the inputs {', '.join(needed)}; received {', '.join(inputs) or 'none'}")
        return {name: self._input(name, np.asarray(array)) for name, array in inputs.items()}

    def _input(self, name: str, array: np.ndarray) -> Value:
        """Check an array against what the graph declares and return it as a value."""
        sizes = [dim.dim_value or dim.dim_param or "any" for dim in self.inputs[name].shape.dim]
        fits = len(sizes) == array.ndim and all(
            isinstance(size, str) or size == given for size, given in zip(sizes, array.shape, strict=True)
        )
        if array.dtype != self._dtypes[name] or (self.inputs[name].HasField("shape") and not fits):
            raise InputError(
                f'input "{name}": expected {self._dtypes[name]} of shape ({", ".join(map(str, sizes))}), received '
                f"{array.dtype} of shape {array.shape}; convert it with astype or reshape"
            )
        return Value.on_host(self.backend, array)


def precision_of(model: ModelProto) -> str:
    """Return the widest floating-point type of a graph's inputs, float32 unless it is float64."""
    return "float64" if any(_dtype(info) == np.float64 for info in model.graph.input) else "float32"


def _require_operator(proto: NodeProto) -> None:
    if domain_of(proto.domain) not in ("", TRAINING) or proto.op_type not in OPERATORS:
        name = f"{proto.domain}.{proto.op_type}" if proto.domain else proto.op_type
        raise InputError(
            f'node "{proto.name or ", ".join(proto.output)}": {unknown_name("operator", name, sorted(OPERATORS))}'
        )


def _dtype(info: ValueInfoProto) -> np.dtype:
    if not info.type.HasField("tensor_type"):
        kind = (info.type.WhichOneof("value") or "value without a type").removesuffix("_type")
        raise InputError(f'input or output "{info.name}": a {kind} is not supported; supported are tensors')
    return dtype_of(info.type.tensor_type.elem_type, f'input or output "{info.name}"')


def _typed(array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Copy an array, floats into the type that the graph declares, if any."""
    return array.astype(dtype if dtype is not None and array.dtype.name in FLOATS else array.dtype)


def _size(values: Iterable[Value]) -> int:
    return sum(value.size for value in values)


def _room(values: Iterable[Value]) -> int:
    """Return how many elements may be held beside those that a model has and is given.

    A few numbers in a small file may ask for any size, of a `Pad` or of a convolution's output, say.
    """
    return MIN_ROOM + MAX_GROWTH * _size(values)


def _outputs(node: Node, values: Mapping[str, Value], room: int) -> dict[str, Value]:
    """Compute a node's outputs, by name."""
    if unknown := [name for name in node.inputs if name and name not in values]:
        raise InputError(f"{node.label}: its inputs {', '.join(unknown)} are made by no node before it")
    inputs = [values[name] if name else None for name in node.inputs]
    node.room = room
    try:
        with node.backend.on_device():
            results = OPERATORS[node.operator](node, *inputs)
    except InputError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(f"{node.label}: does not fit into memory ({error}); give smaller inputs") from error
    except COMPUTING_ERRORS as error:
        shapes = ", ".join(str(value.shape) for value in inputs if value is not None)
        raise InputError(f"{node.label}: cannot compute inputs of shapes {shapes}: {error}") from error
    results = results if isinstance(results, tuple) else (results,)
    return {name: value for name, value in zip(node.outputs, results, strict=False) if name}


def _last_uses(nodes: Sequence[Node], kept: set[str]) -> list[set[str]]:
    """For each node, the values that nothing needs after it."""
    uses: list[set[str]] = []
    seen = set(kept)
    for node in reversed(nodes):
        uses.append({name for name in (*node.inputs, *node.outputs) if name and name not in seen})
        seen |= uses[-1]
    return uses[::-1]
