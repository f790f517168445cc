"""gpucnn's networks as PyTorch modules with the same weights, by way of a file: neither side imports the other."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from torch import nn

    from gpucnn import Layer, Sequential


def save_network(model: Sequential, path: str) -> None:
    """Write the layers of a built model to `path`.json and their weights to `path`.npz."""
    arrays: dict[str, np.ndarray] = {}
    network = _describe(model, "", arrays)
    Path(f"{path}.json").write_text(json.dumps(network))
    np.savez(f"{path}.npz", **arrays)


def _describe(layer: Layer, path: str, arrays: dict[str, np.ndarray]) -> dict[str, Any]:
    """Describe one layer in PyTorch's terms, and put its weights, in PyTorch's layout, into `arrays`."""
    kind = type(layer).__name__
    about: dict[str, Any] = {"kind": kind, "path": path}
    if hasattr(layer, "layers"):
        parts = [part for part in layer.layers if type(part).__name__ != "Add"]
        about["layers"] = [_describe(part, f"{path}{part.name}.", arrays) for part in parts]
        for flatten, dense in pairwise(layer.layers):
            if type(flatten).__name__ == "Flatten":
                weight = f"{path}{dense.name}.weight"
                arrays[weight] = _channels_first(arrays[weight], flatten.input_shape)
        return about
    values = {parameter.name: layer.backend.to_host(parameter.value) for parameter in layer.parameters()}
    if kind == "Conv2D":
        about |= {"channels": layer.input_shape[-1], "filters": layer.filters, "bias": layer.bias, **_window(layer)}
        arrays[f"{path}weight"] = values["w"].transpose(3, 2, 0, 1)
    elif kind == "Dense":
        about |= {"inputs": layer.input_shape[0], "units": layer.units, "bias": layer.bias}
        arrays[f"{path}weight"] = values["w"].T
    elif kind == "MaxPool2D":
        about |= _window(layer)
    elif kind == "BatchNorm2D":
        about |= {"channels": layer.input_shape[-1], "momentum": layer.momentum, "eps": layer.eps}
    if "b" in values:
        arrays[f"{path}bias"] = values["b"]
    return about


def _channels_first(weight: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Reorder the inputs of a dense layer after a flattened image from (H, W, C) to PyTorch's (C, H, W)."""
    return weight.reshape(len(weight), *image_shape).transpose(0, 3, 1, 2).reshape(len(weight), -1)


def _window(layer: Layer) -> dict[str, Any]:
    (top, bottom), (left, right) = layer.window.padding
    if (top, left) != (bottom, right):
        raise ValueError(f"{layer.label}: PyTorch pads both sides alike")
    return {"kernel": layer.window.kernel, "stride": layer.window.stride, "padding": (top, left)}


def load_network(path: str) -> nn.Module:
    """Build the module that `save_network` wrote."""
    import torch

    with np.load(f"{path}.npz") as arrays:
        module = _module(json.loads(Path(f"{path}.json").read_text()), arrays)
    return module.to(torch.float32)


def _module(about: dict[str, Any], arrays: Any) -> nn.Module:
    import torch
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, body: nn.Module, shortcut: nn.Module):
            super().__init__()
            self.body, self.shortcut = body, shortcut

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.body(x) + self.shortcut(x)

    class GlobalAverage(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.mean((2, 3))

    window = [about[name] for name in ("kernel", "stride", "padding") if name in about]
    make = {
        "Sequential": lambda: nn.Sequential(*(_module(part, arrays) for part in about["layers"])),
        "Residual": lambda: Residual(*(_module(part, arrays) for part in about["layers"])),
        "Conv2D": lambda: nn.Conv2d(about["channels"], about["filters"], *window, bias=about["bias"]),
        "Dense": lambda: nn.Linear(about["inputs"], about["units"], bias=about["bias"]),
        "BatchNorm2D": lambda: nn.BatchNorm2d(about["channels"], about["eps"], about["momentum"]),
        "MaxPool2D": lambda: nn.MaxPool2d(*window),
        "ReLU": nn.ReLU,
        "Sigmoid": nn.Sigmoid,
        "Flatten": nn.Flatten,
        "GlobalAveragePool2D": GlobalAverage,
        "Identity": nn.Identity,
    }
    module = make[about["kind"]]()
    for name in ("weight", "bias"):
        if f"{about['path']}{name}" in arrays:
            getattr(module, name).data = torch.from_numpy(arrays[f"{about['path']}{name}"]).contiguous()
    return module
