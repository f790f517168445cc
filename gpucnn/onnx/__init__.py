"""ONNX models on gpucnn's backends: `prepare(onnx.load("model.onnx"), "CPU").run([x])`; needs the package `onnx`."""

from gpucnn.errors import InputError

try:
    from gpucnn.onnx.backend import Backend, prepare, run_model, run_node, supports_device
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "onnx":
        raise
    raise InputError("gpucnn.onnx needs the package onnx: pip install onnx") from error

__all__ = ["Backend", "prepare", "run_model", "run_node", "supports_device"]
