"""Networks with random weights, as ONNX models: gpucnn against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from onnx import ModelProto, TensorProto, helper, numpy_helper  # noqa: E402

from gpucnn.onnx import prepare  # noqa: E402

SUITE = "networks of random weights, compared with ONNX Runtime"
OPSET, IR_VERSION = 17, 8
TOLERANCE = 1e-5  # float32, and activations of about 1

Network = Callable[["Builder", str], str]  # adds its nodes to what is there, and returns its output


class Builder:
    """A graph that grows node by node."""

    def __init__(self, seed: int):
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[TensorProto] = []

    def add(self, operator: str, *inputs: str, **attributes: object) -> str:
        """Add a node and return the name of its output."""
        output = f"{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, list(inputs), [output], **attributes))
        return output

    def constant(self, array: np.ndarray) -> str:
        """Add an initializer and return its name."""
        name = f"constant{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def weights(self, *shape: int) -> str:
        """Add random weights that keep the size of activations."""
        fan_in = int(np.prod(shape[1:]))
        return self.constant((self.rng.standard_normal(shape) / np.sqrt(max(fan_in, 1))).astype(np.float32))

    def conv(self, x: str, *shape: int, **attributes: object) -> str:
        """Add a convolution with random kernels of this shape and a bias."""
        return self.add("Conv", x, self.weights(*shape), self.weights(shape[0]), **attributes)

    def batch_norm(self, x: str, channels: int) -> str:
        """Add a batch normalization with random parameters and moments."""
        arrays = [self.rng.uniform(0.5, 1.5, channels).astype(np.float32) for _ in range(4)]
        return self.add("BatchNormalization", x, *map(self.constant, arrays))

    def model(self, output: str, rank: int, input_shape: tuple[int, ...]) -> ModelProto:
        """Return the model from "x" to an output of this rank."""
        x = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", *input_shape])
        y = helper.make_tensor_value_info(output, TensorProto.FLOAT, [None] * rank)
        graph = helper.make_graph(self.nodes, "network", [x], [y], self.initializers)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)


def lenet(net: Builder, x: str) -> str:
    """Convolutions, poolings and products of matrices, as PyTorch exports them."""
    for channels, filters in ((1, 6), (6, 16)):
        x = net.add("Relu", net.conv(x, filters, channels, 5, 5, pads=[2, 2, 2, 2]))
        x = net.add("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.add("Flatten", x)
    for inputs, outputs in ((784, 120), (120, 10)):
        x = net.add("Gemm", net.add("Relu", x), net.weights(outputs, inputs), net.weights(outputs), transB=1)
    return net.add("LogSoftmax", x)


def residual(net: Builder, x: str) -> str:
    """Branches that are added and concatenated, each normalized, and a head that reads the batch's size."""
    stem = net.add("Relu", net.batch_norm(net.conv(x, 8, 1, 3, 3, strides=[2, 2], auto_pad="SAME_UPPER"), 8))
    branch = net.add("Relu", net.batch_norm(net.conv(stem, 8, 8, 3, 3, pads=[1, 1, 1, 1]), 8))
    added = net.add("Add", stem, net.batch_norm(net.conv(branch, 8, 8, 3, 3, pads=[1, 1, 1, 1]), 8))
    pooled = net.add("AveragePool", added, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1)
    gate = net.add("Sigmoid", net.add("GlobalAveragePool", pooled))
    joined = net.add("Concat", added, net.add("Mul", pooled, gate), axis=1)
    means = net.add("ReduceMean", joined, axes=[2, 3], keepdims=1)
    size = net.add("Gather", net.add("Shape", joined), net.constant(np.int64(0)))
    sizes = net.add("Unsqueeze", size, net.constant(np.array([0]))), net.constant(np.array([-1]))
    return net.add("MatMul", net.add("Reshape", means, net.add("Concat", *sizes, axis=0)), net.weights(16, 10))


def grouped(net: Builder, x: str) -> str:
    """Convolutions in groups and dilated, windows of uneven padding, and transposed convolutions back to the size."""
    x = net.add("PRelu", net.conv(x, 6, 1, 1, 1), net.weights(6, 1, 1))
    x = net.conv(x, 12, 1, 3, 3, group=6, strides=[2, 1], pads=[0, 2, 1, 1])
    x = net.add("LeakyRelu", net.conv(x, 9, 4, 3, 3, group=3, dilations=[2, 1]))
    x = net.add("MaxPool", x, kernel_shape=[3, 2], strides=[2, 2], pads=[1, 0, 0, 1], ceil_mode=1)
    x = net.add("ConvTranspose", x, net.weights(9, 2, 3, 3), net.weights(6), group=3, strides=[2, 2], pads=[1, 0, 0, 1])
    x = net.add("ConvTranspose", net.add("Elu", x), net.weights(6, 4, 2, 3), strides=[2, 1], output_padding=[1, 0])
    return net.add("Softmax", net.add("Tanh", x), axis=1)


@pytest.mark.parametrize("device", ["cpu", "reference", "array_api_strict", "fake-gpu"])
@pytest.mark.parametrize(("network", "rank"), [(lenet, 2), (residual, 2), (grouped, 4)])
def test_network(network: Network, rank: int, device: str, make_backend: Callable) -> None:
    net = Builder(seed=0)
    model = net.model(network(net, "x"), rank, (1, 28, 28))
    onnx.checker.check_model(model, full_check=True)
    x = net.rng.standard_normal((3, 1, 28, 28), dtype=np.float32)
    runtime = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    (expected,) = runtime.run(None, {"x": x})
    (y,) = prepare(model, make_backend(device, "float32")).run([x])
    assert np.std(expected, axis=0).max() > 100 * TOLERANCE  # it tells images apart
    np.testing.assert_allclose(y, expected, rtol=TOLERANCE, atol=TOLERANCE, strict=True)
