"""ONNX models made to harm: sizes out of proportion, data elsewhere, and parts that are missing."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from gpucnn.errors import InputError, OutOfMemoryError

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402

from gpucnn.onnx import prepare, run_node  # noqa: E402
from gpucnn.onnx.operators import OPERATORS  # noqa: E402

X = np.ones((1, 2, 4, 4), np.float32)
W = np.ones((2, 2, 3, 3), np.float32)


def make_model(nodes: list[NodeProto], **tensors: np.ndarray) -> ModelProto:
    """Return a model from x (1, 2, 4, 4) to y, with initializers."""
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, X.shape)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, list("abcd"))
    initializers = [numpy_helper.from_array(array, name) for name, array in tensors.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def ints(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


COLUMN, ROW = np.ones((10**5, 1), np.float32), np.ones((1, 10**5), np.float32)
HUGE = [
    (helper.make_node("Pad", ["x", "p"], ["y"]), [X, ints(0, 0, 0, 0, 0, 0, 10**6, 10**6)]),
    (helper.make_node("ConvTranspose", ["x", "w"], ["y"], strides=[10**6, 10**6]), [X, W]),
    (helper.make_node("ConvTranspose", ["x", "w"], ["y"], dilations=[10**6, 10**6]), [X, W]),
    (helper.make_node("Conv", ["x", "w"], ["y"], pads=[10**6] * 4), [X, W]),
    (helper.make_node("MaxPool", ["x"], ["y"], kernel_shape=[10**6, 10**6], pads=[10**6 - 1] * 4), [X]),
    (helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[4000, 4000], pads=[2000] * 4), [X]),
    (helper.make_node("LpPool", ["x"], ["y"], kernel_shape=[200, 200], pads=[199] * 4), [X]),
    (helper.make_node("Add", ["a", "b"], ["y"]), [COLUMN, ROW]),
    (helper.make_node("Max", ["a", "b"], ["y"]), [COLUMN, ROW]),
    (helper.make_node("PRelu", ["a", "b"], ["y"]), [COLUMN, ROW]),
    (helper.make_node("MatMul", ["a", "b"], ["y"]), [COLUMN, ROW]),
    (helper.make_node("Gemm", ["a", "b"], ["y"]), [COLUMN, ROW]),
    (helper.make_node("Gather", ["a", "i"], ["y"]), [np.ones((1, 10**5), np.float32), np.zeros(10**5, np.int64)]),
    (
        helper.make_node("InstanceNormalization", ["a", "s", "s"], ["y"]),
        [COLUMN[..., None], *[np.ones(10**5, np.float32)] * 2],
    ),
]


@pytest.mark.parametrize(("node", "inputs"), HUGE, ids=lambda part: part.op_type if isinstance(part, NodeProto) else "")
def test_results_out_of_proportion_are_refused_before_memory_is_taken(node: NodeProto, inputs: list) -> None:
    with pytest.raises(InputError, match=r"out of all proportion|is not supported|smaller kernel"):
        run_node(node, inputs)


def test_results_that_grow_from_node_to_node_are_refused() -> None:
    names = ["c", *map(str, range(60))]
    nodes = [helper.make_node("Concat", [a, a], [b], axis=0) for a, b in itertools.pairwise(names)]
    with pytest.raises(InputError, match="out of all proportion"):
        prepare(make_model([*nodes, helper.make_node("Add", ["x", "59"], ["y"])], c=np.ones(4, np.float32)))


def test_data_in_another_file_is_not_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "w").write_bytes(b"\0" * 144)
    model = make_model([helper.make_node("Conv", ["x", "w"], ["y"])], w=W)
    (tensor,) = model.graph.initializer
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w")
    with pytest.raises(InputError, match=r'initializer "w": lies in another file|is not valid ONNX'):
        prepare(model)
    monkeypatch.setattr("onnx.checker.check_model", lambda *_: None)
    with pytest.raises(InputError, match=r'initializer "w": lies in another file; read the model with onnx\.load'):
        prepare(model)


def _type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def _cycle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "y"


def _no_weights(model: ModelProto) -> None:
    del model.graph.initializer[:]


def _no_result(model: ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def _no_opset(model: ModelProto) -> None:
    model.opset_import[0].domain = "elsewhere"


def _reference(model: ModelProto) -> None:
    model.graph.node[0].attribute.add(name="pads", type=onnx.AttributeProto.INTS, ref_attr_name="p")


def _no_type(model: ModelProto) -> None:
    model.graph.output[0].type.Clear()
    model.graph.output[0].type.SetInParent()


def _short(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"123"


def _shape(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 1 << 62


def _no_output(model: ModelProto) -> None:
    model.graph.node[0].op_type = "NonMaxSuppression"
    del model.graph.node[0].output[:]


def _text(model: ModelProto) -> None:
    model.graph.node[0].attribute.add(name="auto_pad", type=onnx.AttributeProto.STRING, s=b"\xff\xfe")


BREAKS = (
    _type,
    _cycle,
    _no_weights,
    _no_result,
    _no_opset,
    _reference,
    _no_type,
    _short,
    _shape,
    _no_output,
    _text,
)


@pytest.mark.parametrize("checked", [True, False])
@pytest.mark.parametrize("break_", BREAKS)
def test_broken_models_are_refused(
    break_: Callable[[ModelProto], None], checked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By gpucnn even where ONNX's own checker lets them through, as some of its versions do."""
    model = make_model([helper.make_node("Conv", ["x", "w"], ["y"])], w=W)
    break_(model)
    if not checked:
        monkeypatch.setattr("onnx.checker.check_model", lambda *_: None)
    with pytest.raises(InputError):
        prepare(model).run([X])


def test_memory_that_runs_out_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise MemoryError("no room")

    monkeypatch.setitem(OPERATORS, "Relu", fail)
    with pytest.raises(OutOfMemoryError, match=r'Relu "y": does not fit into memory \(no room\)'):
        run_node(helper.make_node("Relu", ["x"], ["y"]), [X])
