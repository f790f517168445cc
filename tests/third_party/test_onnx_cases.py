"""What the ONNX suites leave out, they leave out for a reason."""

from __future__ import annotations

import runpy
import warnings

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")

import onnx_cases  # noqa: E402
import test_onnx_converted  # noqa: E402
import test_onnx_nodes  # noqa: E402
from onnx import ModelProto, helper  # noqa: E402
from onnx_cases import CORRECTED, RANDOM_MASKS, WINDOWED, is_of_floats, rank  # noqa: E402

from gpucnn.errors import InputError  # noqa: E402
from gpucnn.onnx import prepare  # noqa: E402
from gpucnn.onnx.operators import OPERATORS  # noqa: E402

EXCLUDED = test_onnx_nodes.EXCLUDED | test_onnx_converted.EXCLUDED
MODELS = test_onnx_nodes.MODELS | test_onnx_converted.MODELS
UNREFUSED = {RANDOM_MASKS, CORRECTED}  # they run, to another result

# What the layers, the activations, the losses and the optimizers of this library stand for in ONNX.
CORE = WINDOWED | {
    *("GlobalMaxPool", "GlobalAveragePool", "Gemm", "MatMul", "Flatten", "Reshape", "Add", "Mul"),
    *("Relu", "LeakyRelu", "PRelu", "Elu", "Selu", "Softplus", "Sigmoid", "Tanh", "Softmax", "LogSoftmax"),
    *("BatchNormalization", "Dropout", "SoftmaxCrossEntropyLoss", "NegativeLogLikelihoodLoss"),
    *("Adam", "Momentum", "Adagrad"),
}


def is_core(model: ModelProto) -> bool:
    """Whether a model is one of those operators, on floats, on images of two dimensions if any, of rank 4 at most."""
    inputs = list(model.graph.input)
    (operator, *others) = (node.op_type for node in model.graph.node)
    if others or operator not in CORE or not is_of_floats(inputs[0]) or max(map(rank, inputs)) > 4:
        return False
    return operator not in WINDOWED or rank(inputs[0]) == 4


def test_the_core_is_tested_whole() -> None:
    core = {name for name, model in test_onnx_nodes.MODELS.items() if is_core(model)}
    assert {test_onnx_nodes.MODELS[name].graph.node[0].op_type for name in core} == CORE
    assert {EXCLUDED[name] for name in core & EXCLUDED.keys()} <= UNREFUSED
    assert len(core) >= 174


def test_every_operator_is_tested_but_one_for_which_onnx_has_no_test() -> None:
    run = [model for name, model in MODELS.items() if name not in EXCLUDED]
    assert OPERATORS.keys() - {node.op_type for model in run for node in model.graph.node} == {"GlobalLpPool"}


REFUSED = sorted(name for name, reason in EXCLUDED.items() if reason not in UNREFUSED)


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_left_out_is_refused(name: str) -> None:
    model = MODELS[name]
    with pytest.raises(InputError, match="not supported|unknown operator"):
        prepare(model).run([zeros(info) for info in model.graph.input])


def zeros(info: onnx.ValueInfoProto) -> np.ndarray:
    """Return zeros of the shape and the type that a graph declares."""
    tensor = info.type.tensor_type
    sizes = [dim.dim_value for dim in tensor.shape.dim]
    return np.zeros(sizes, helper.tensor_dtype_to_np_dtype(tensor.elem_type))


@pytest.mark.parametrize("category", [RuntimeWarning, DeprecationWarning])
def test_what_onnx_does_while_it_makes_its_tests_is_no_error(
    category: type[Warning], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It divides by 0, and assigns shapes, which NumPy deprecates."""
    made = []

    def load_model_tests(kind: str) -> None:
        warnings.warn("of others", category, stacklevel=2)
        made.append(kind)

    monkeypatch.setattr("onnx.backend.test.loader.load_model_tests", load_model_tests)
    runpy.run_path(onnx_cases.__file__)
    assert made == ["node"]
