"""The interface that ONNX defines for backends: `prepare`, `run_model`, `run_node`, `supports_device`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import onnx.backend.base
from onnx import ModelProto, NodeProto, checker, defs, helper
from onnx.onnx_cpp2py_export.checker import CheckerContext

from gpucnn.backend import Backend as Device
from gpucnn.backend import get_backend
from gpucnn.errors import GpucnnError, InputError, unknown_name
from gpucnn.onnx.graph import Graph, precision_of
from gpucnn.onnx.node import TRAINING

__all__ = ["Backend", "prepare", "run_model", "run_node", "supports_device"]


class Backend(onnx.backend.base.Backend):
    """ONNX models on the backends of this library, behind the interface that ONNX defines.

    >>> Backend.supports_device("CPU")
    True
    """

    @classmethod
    def prepare(
        cls, model: ModelProto, device: str | Device = "CPU", *, float_dtype: str | None = None, **kwargs: Any
    ) -> Graph:
        """Check a model and return it ready to run.

        >>> x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]) for name in "xy")
        >>> graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "graph", [x], [y])
        >>> network = prepare(helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)]))
        >>> network.run([np.array([[-1, 2]], np.float32)])[0].tolist()
        [[0.0, 2.0]]

        Parameters
        ----------
        device : "CPU", "CUDA" or "CUDA:N", or a backend of `get_backend`, which brings its own precision
        float_dtype : "float32" or "float64", in which all floats are computed; as the graph's inputs are unless given

        Raises
        ------
        InputError
            For a model that is not valid ONNX, or for an operator, an attribute or a type that is not supported, which
            it names together with the node. What the node's inputs decide shows only when the model runs.
        DeviceError
            Where there is no such device.
        """
        with _checking("the model"):
            super().prepare(model, "CPU", **kwargs)
        return Graph(model, _device(device, float_dtype, precision_of(model)))

    @classmethod
    def run_model(
        cls,
        model: ModelProto,
        inputs: Sequence[np.ndarray],
        device: str | Device = "CPU",
        *,
        float_dtype: str | None = None,
        **kwargs: Any,
    ) -> tuple[np.ndarray, ...]:
        """Prepare a model and run it once; the errors are those of `prepare` and of `Graph.run`.

        >>> x, y = (helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["N", 2]) for name in "xy")
        >>> graph = helper.make_graph([helper.make_node("Neg", ["x"], ["y"])], "graph", [x], [y])
        >>> model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 18)])
        >>> run_model(model, [np.array([[-1, 2]], np.float32)])[0].tolist()
        [[1.0, -2.0]]
        """
        return cls.prepare(model, device, float_dtype=float_dtype, **kwargs).run(inputs)

    @classmethod
    def run_node(
        cls,
        node: NodeProto,
        inputs: Sequence[np.ndarray],
        device: str | Device = "CPU",
        outputs_info: Sequence[tuple[np.dtype, tuple[int, ...]]] | None = None,
        *,
        float_dtype: str | None = None,
        **kwargs: Any,
    ) -> tuple[np.ndarray, ...]:
        """Run one node; `opset_version` says in which version of the operators, the newest unless given.

        >>> node = helper.make_node("Add", ["a", "b"], ["c"])
        >>> run_node(node, [np.ones(2, np.float32), np.ones(2, np.float32)])[0].tolist()
        [2.0, 2.0]

        Raises `InputError` for a node that is not valid ONNX, or that is not supported, or inputs that do not suit it.
        """
        opsets = {"": kwargs.get("opset_version", defs.onnx_opset_version()), TRAINING: 1}
        context = CheckerContext()
        context.ir_version, context.opset_imports = onnx.IR_VERSION, opsets
        with _checking("the node"):
            checker.check_node(node, context)
        names = list(filter(None, node.input))
        if len(names) != len(inputs):
            raise InputError(f"the node has the inputs {', '.join(names)}; received {len(inputs)} arrays")
        arrays = {name: np.asarray(array) for name, array in zip(names, inputs, strict=True)}
        infos = [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
            for name, array in arrays.items()
        ]
        outputs = [helper.make_empty_tensor_value_info(name) for name in node.output if name]
        graph = helper.make_graph([node], "node", infos, outputs)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid(*opset) for opset in opsets.items()])
        return Graph(model, _device(device, float_dtype, precision_of(model))).run(arrays)

    @classmethod
    def is_compatible(cls, model: ModelProto, device: str | Device = "CPU", **kwargs: Any) -> bool:
        """Return whether `prepare` takes the model."""
        try:
            cls.prepare(model, device, **kwargs)
        except GpucnnError:
            return False
        return True

    @classmethod
    def supports_device(cls, device: str) -> bool:
        """Return whether `prepare` can compute on the device here.

        >>> supports_device("CPU"), supports_device("TPU")
        (True, False)
        """
        try:
            _device(device, None, "float32")
        except GpucnnError:
            return False
        return True


@contextmanager
def _checking(what: str) -> Iterator[None]:
    """Turn what ONNX's checker finds into an error of the library's own."""
    try:
        yield
    except (checker.ValidationError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(f"{what} is not valid ONNX: {' '.join(str(error).split())}") from error


def _device(device: str | Device, float_dtype: str | None, precision: str) -> Device:
    """Return the backend for ONNX's name of a device; one that is given must have the precision asked for, if any."""
    if isinstance(device, Device):
        if float_dtype not in (None, device.precision):
            raise InputError(f"float_dtype is {float_dtype}, but the backend given has {device.precision}")
        return device
    kind, colon, number = device.partition(":")
    if kind not in ("CPU", "CUDA"):
        raise unknown_name("device", device, ("CPU", "CUDA", "CUDA:0"))
    return get_backend("cpu" if kind == "CPU" else f"gpu{colon}{number}", float_dtype or precision)


prepare = Backend.prepare
run_model = Backend.run_model
run_node = Backend.run_node
supports_device = Backend.supports_device
