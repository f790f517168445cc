"""ONNX's own tests of backends: which of them gpucnn has the operators for, and why it cannot run some of those."""

from __future__ import annotations

import re
import unittest
import warnings
from collections.abc import Iterable
from pathlib import Path

import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

from gpucnn.onnx import Backend
from gpucnn.onnx.operators import OPERATORS

FLOATS = {TensorProto.FLOAT, TensorProto.DOUBLE}
WHOLE = {getattr(TensorProto, f"{sign}INT{bits}") for sign in ("", "U") for bits in (8, 16, 32, 64)}
WINDOWED = {"Conv", "ConvTranspose", "MaxPool", "AveragePool", "LpPool"}
OF_FLOATS = {"MaxPool", "Pow"}  # operators that ONNX tests on whole numbers too

OTHER_OPERATORS = "operators that gpucnn does not have"
OTHER_TYPES = "floats narrower than 32 bits, and integers narrower than 8"
SEQUENCES = "sequences and optional tensors"
THREE_DIMENSIONS = "windows of three dimensions"
WHOLE_NUMBERS = "pooling and powers of whole numbers"
CORRECTED = "a test that ONNX 1.22 corrected"
RANDOM_MASKS = "dropout whose masks must be those of NumPy's generator"

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # some overflow or divide by 0 on purpose, or do what a newer NumPy deprecates
    load_model_tests(kind="node")  # made once, for all to use


def models(kind: str) -> dict[str, ModelProto]:
    """Return the models of all of ONNX's tests of a kind, by name."""
    tests = load_model_tests(kind=kind)
    return {test.name: test.model or onnx.load(Path(test.model_dir) / "model.onnx") for test in tests}


def has_operators(model: ModelProto) -> bool:
    """Whether gpucnn has all operators of a model."""
    return {node.op_type for node in model.graph.node} <= set(OPERATORS)


def obstacle(model: ModelProto) -> str | None:
    """Return why a model whose operators gpucnn has cannot run, None where it can."""
    infos = {info.name: info for info in (*model.graph.input, *model.graph.output)}
    if not all(info.type.HasField("tensor_type") for info in infos.values()):
        return SEQUENCES
    if not {_type(info) for info in infos.values()} <= FLOATS | WHOLE | {TensorProto.BOOL}:
        return OTHER_TYPES
    for node in model.graph.node:
        x = infos.get(node.input[0]) if node.input else None
        if x is not None and node.op_type in WINDOWED and rank(x) > 4:
            return THREE_DIMENSIONS
        if x is not None and node.op_type in OF_FLOATS and _type(x) in WHOLE:
            return WHOLE_NUMBERS
    return None


def rank(info: ValueInfoProto) -> int:
    """Return how many axes a tensor has."""
    return len(info.type.tensor_type.shape.dim)


def is_of_floats(info: ValueInfoProto) -> bool:
    """Whether a tensor is of float32 or float64."""
    return _type(info) in FLOATS


def _type(info: ValueInfoProto) -> int:
    return info.type.tensor_type.elem_type


def suite_class(category: str, names: Iterable[str], module: str) -> type[unittest.TestCase]:
    """Return ONNX's runner of a category with the tests of these names alone, on the devices that are there."""
    names = set(names)
    devices = [device for device in ("CPU", "CUDA") if Backend.supports_device(device)]
    wanted = {f"{name}_{device.lower()}" for name in names for device in devices}
    runner = Runner(Backend, module).include(f"^({'|'.join(map(re.escape, sorted(wanted)))})$")
    found = runner.test_cases[f"OnnxBackend{category}ModelTest"]
    for name in [name for name in vars(found) if name.startswith("test_") and name not in wanted]:
        delattr(found, name)
    missing = wanted - set(vars(found))
    assert not missing, missing
    return found
