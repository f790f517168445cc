"""ONNX's tests of operators, each a graph of one node or of the nodes that define it ("expanded")."""

from __future__ import annotations

import pytest

onnx = pytest.importorskip("onnx")

from onnx_cases import CORRECTED, RANDOM_MASKS, has_operators, models, obstacle, suite_class  # noqa: E402

SUITE = "ONNX's tests of operators"
pytestmark = pytest.mark.filterwarnings("ignore:divide by zero encountered in log:RuntimeWarning")

MODELS = {name: model for name, model in models("node").items() if has_operators(model)}
EXCLUDED = {name: reason for name, model in MODELS.items() if (reason := obstacle(model))}
RANDOM = ["", "_default", "_mask", "_default_mask"]
EXCLUDED |= {f"test_training_dropout{options}": RANDOM_MASKS for options in RANDOM}
if onnx.__version__ < "1.22":
    EXCLUDED["test_adam_multiple"] = CORRECTED

TestOperators = suite_class("Node", MODELS.keys() - EXCLUDED.keys(), __name__)
