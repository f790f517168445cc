"""ONNX's tests of models that PyTorch exported, of layers and of expressions."""

from __future__ import annotations

import pytest

pytest.importorskip("onnx")

from onnx_cases import OTHER_OPERATORS, has_operators, models, obstacle, suite_class

SUITE = "ONNX's tests of models exported by PyTorch"
pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered in (power|sqrt):RuntimeWarning")

LAYERS, EXPRESSIONS = models("pytorch-converted"), models("pytorch-operator")
MODELS = LAYERS | EXPRESSIONS
EXCLUDED = {
    name: reason
    for name, model in MODELS.items()
    if (reason := obstacle(model) if has_operators(model) else OTHER_OPERATORS)
}

TestLayers = suite_class("PyTorchConverted", LAYERS.keys() - EXCLUDED.keys(), __name__)
TestExpressions = suite_class("PyTorchOperator", EXPRESSIONS.keys() - EXCLUDED.keys(), __name__)
