"""A model, prepared to be run again and again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, numpy_helper
from onnx.backend.base import BackendRep, namedtupledict

from gpucnn.backend import Backend
from gpucnn.errors import InputError, unknown_name
from gpucnn.onnx.node import TRAINING, Node, domain_of
from gpucnn.onnx.operators import OPERATORS
from gpucnn.onnx.types import dtype_of
from gpucnn.onnx.values import FLOATS, Value

__all__ = ["Graph", "precision_of"]

Arrays = Sequence[np.ndarray] | Mapping[str, np.ndarray]


class Graph(BackendRep):
    """A model's graph on a backend: `run([x])` returns the outputs as NumPy arrays.

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

    def _initializer(self, tensor: TensorProto) -> Value:
        dtype_of(tensor.data_type, f'initializer "{tensor.name}"')
        return Value.on_host(self.backend, numpy_helper.to_array(tensor))

    def _without_constants(self, nodes: list[Node]) -> list[Node]:
        """Evaluate the nodes whose inputs cannot change, and return the others."""
        self.backend.activate()
        kept = []
        for node in nodes:
            if all(name in self._initial and name not in self.inputs for name in node.inputs if name):
                self._initial |= _outputs(node, self._initial)
            else:
                kept.append(node)
        return kept

    def run(self, inputs: Arrays, **kwargs: Any) -> tuple[np.ndarray, ...]:
        """Return the outputs, by position or by name, for the inputs: in the graph's order, or by name.

        Inputs that have an initializer may be left out.
        """
        if kwargs:
            raise InputError(f"run takes no options, received {', '.join(kwargs)}")
        self.backend.activate()
        values = self._initial | self._checked(inputs)
        for node, last_uses in zip(self._nodes, self._last_uses, strict=True):
            values |= _outputs(node, values)
            for name in last_uses:
                values.pop(name, None)
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
        raise InputError(f'node "{proto.name or proto.output[0]}": {unknown_name("operator", name, sorted(OPERATORS))}')


def _dtype(info: ValueInfoProto) -> np.dtype:
    if not info.type.HasField("tensor_type"):
        kind = info.type.WhichOneof("value").removesuffix("_type")
        raise InputError(f'input or output "{info.name}": a {kind} is not supported; supported are tensors')
    return dtype_of(info.type.tensor_type.elem_type, f'input or output "{info.name}"')


def _typed(array: np.ndarray, dtype: np.dtype | None) -> np.ndarray:
    """Copy an array, floats into the type that the graph declares, if any."""
    return array.astype(dtype if dtype is not None and array.dtype.name in FLOATS else array.dtype)


def _outputs(node: Node, values: Mapping[str, Value]) -> dict[str, Value]:
    """Compute a node's outputs, by name."""
    inputs = [values[name] if name else None for name in node.inputs]
    try:
        results = OPERATORS[node.operator](node, *inputs)
    except InputError:
        raise
    except (ValueError, IndexError) as error:  # of the array module: shapes that do not go together
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
