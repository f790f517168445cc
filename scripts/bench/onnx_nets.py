"""The networks that `torch_nets.save_network` wrote, as ONNX models."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from onnx import TensorProto, helper, numpy_helper, save

OPSET, IR_VERSION = 17, 8


def save_onnx(path: str, image_shape: tuple[int, int, int]) -> None:
    """Write `path`.onnx, whose input is (N, C, H, W), from `path`.json and `path`.npz."""
    network = json.loads(Path(f"{path}.json").read_text())
    with np.load(f"{path}.npz") as arrays:
        writer = _Writer(dict(arrays))
    H, W, C = image_shape
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", C, H, W])
    y = helper.make_tensor_value_info(writer.add(network, "x"), TensorProto.FLOAT, ["N", "K"])
    weights = [numpy_helper.from_array(array, name) for name, array in writer.weights.items()]
    graph = helper.make_graph(writer.nodes, "network", [x], [y], weights)
    save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION), f"{path}.onnx"
    )


class _Writer:
    """The nodes of a graph, one layer after another."""

    def __init__(self, arrays: dict[str, np.ndarray]):
        self.arrays = arrays
        self.nodes: list[Any] = []
        self.weights: dict[str, np.ndarray] = {}

    def add(self, about: dict[str, Any], x: str) -> str:
        """Add the nodes of a layer; return the name of its output."""
        kind = about["kind"]
        if kind == "Sequential":
            for part in about["layers"]:
                x = self.add(part, x)
            return x
        if kind == "Residual":
            return self._node("Add", *(self.add(part, x) for part in about["layers"]))
        if kind == "Identity":
            return x
        if kind == "GlobalAveragePool2D":
            return self._node("Flatten", self._node("GlobalAveragePool", x))
        if kind == "Conv2D":
            return self._node("Conv", x, *self._parameters(about), **_window(about))
        if kind == "MaxPool2D":
            return self._node("MaxPool", x, kernel_shape=about["kernel"], **_window(about))
        if kind == "Dense":
            return self._node("Gemm", x, *self._parameters(about), transB=1)
        if kind == "BatchNorm2D":
            return self._node("BatchNormalization", x, *self._moments(about), epsilon=about["eps"])
        return self._node({"ReLU": "Relu", "Sigmoid": "Sigmoid", "Flatten": "Flatten"}[kind], x)

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        output = f"y{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def _parameters(self, about: dict[str, Any]) -> list[str]:
        names = [f"{about['path']}{name}" for name in ("weight", "bias") if f"{about['path']}{name}" in self.arrays]
        self.weights |= {name: np.ascontiguousarray(self.arrays[name]) for name in names}
        return names

    def _moments(self, about: dict[str, Any]) -> list[str]:
        """Scale, shift, mean and variance of a batch normalization that has not been trained."""
        values = {"scale": 1, "shift": 0, "mean": 0, "variance": 1}
        made = {f"{about['path']}{name}": np.full(about["channels"], value, "f4") for name, value in values.items()}
        self.weights |= made
        return list(made)


def _window(about: dict[str, Any]) -> dict[str, Any]:
    return {"strides": about["stride"], "pads": [*about["padding"], *about["padding"]]}
