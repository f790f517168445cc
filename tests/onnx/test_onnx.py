"""The ONNX backend beside ONNX's own tests (tests/third_party): layouts, precision, old operator sets, and messages."""

from __future__ import annotations

import itertools
import weakref
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from gpucnn.backend import available_devices, get_backend
from gpucnn.errors import InputError

onnx = pytest.importorskip("onnx")

from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper  # noqa: E402
from onnx.reference import ReferenceEvaluator  # noqa: E402

from gpucnn.onnx import Backend, prepare, run_model, run_node, supports_device  # noqa: E402
from gpucnn.onnx.graph import Graph, precision_of  # noqa: E402
from gpucnn.onnx.node import Node  # noqa: E402
from gpucnn.onnx.operators import OPERATORS  # noqa: E402
from gpucnn.onnx.values import Value  # noqa: E402

TRAINING = "ai.onnx.preview.training"


def make_model(
    nodes: Sequence[NodeProto],
    inputs: dict[str, tuple[int, tuple[int, ...]]],
    outputs: dict[str, int],
    initializers: dict[str, np.ndarray] | None = None,
    opset: int = 17,
) -> ModelProto:
    """Return a model of nodes; `inputs` are name -> (type, shape), `outputs` name -> rank."""
    infos = [helper.make_tensor_value_info(name, *info) for name, info in inputs.items()]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None] * rank) for name, rank in outputs.items()]
    tensors = [numpy_helper.from_array(array, name) for name, array in (initializers or {}).items()]
    graph = helper.make_graph(nodes, "graph", infos, results, tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def random(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def run_reference(node: NodeProto, inputs: Sequence[np.ndarray], opset: int, domain: str = "") -> list[np.ndarray]:
    """Run a node by ONNX's reference implementation."""
    infos = [
        helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)
        for name, array in zip(node.input, inputs, strict=True)
    ]
    results = [helper.make_empty_tensor_value_info(name) for name in node.output]
    graph = helper.make_graph([node], "graph", infos, results)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid(domain, opset)])
    return ReferenceEvaluator(model).run(None, dict(zip(node.input, inputs, strict=True)))


# ---- layouts, constants, precision --------------------------------------------------------------------------------


def chain() -> ModelProto:
    """Return convolution, normalization, activation, pooling, a branch and a join."""
    weights = {"w": random(4, 2, 3, 3), "ones": np.ones(4, np.float32)}
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["a"], pads=[1, 1, 1, 1]),
        helper.make_node("BatchNormalization", ["a", "ones", "ones", "ones", "ones"], ["b"]),
        helper.make_node("Relu", ["b"], ["c"]),
        helper.make_node("MaxPool", ["c"], ["d"], kernel_shape=[2, 2]),
        helper.make_node("GlobalAveragePool", ["d"], ["e"]),
        helper.make_node("Mul", ["d", "e"], ["f"]),
        helper.make_node("Concat", ["d", "f"], ["y"], axis=1),
    ]
    return make_model(nodes, {"x": (TensorProto.FLOAT, (1, 2, 6, 6))}, {"y": 4}, weights)


def test_a_chain_of_layers_permutes_at_its_ends_only(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = prepare(chain())
    x = random(1, 2, 6, 6)
    graph.run([x])
    shapes = []
    permuted = Value._permuted
    monkeypatch.setattr(Value, "_permuted", lambda self, order: shapes.append(self.shape) or permuted(self, order))
    graph.run([x])
    assert shapes == [(1, 2, 6, 6), (1, 8, 5, 5)]


def test_what_is_constant_is_computed_once() -> None:
    nodes = [
        helper.make_node("Transpose", ["w"], ["v"]),
        helper.make_node("Exp", ["v"], ["u"]),
        helper.make_node("MatMul", ["x", "u"], ["y"]),
    ]
    w = random(3, 2)
    graph = prepare(make_model(nodes, {"x": (TensorProto.FLOAT, (1, 2))}, {"y": 2}, {"w": w}))
    assert [node.operator for node in graph._nodes] == ["MatMul"]
    x = random(1, 2)
    np.testing.assert_allclose(graph.run([x])[0], x @ np.exp(w.T), rtol=1e-5)


def test_values_are_dropped_after_their_last_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """While a chain of three runs its last node, the first node's output is gone."""
    names = ["x", "a", "b", "y"]
    nodes = [helper.make_node("Exp", [x], [y]) for x, y in itertools.pairwise(names)]
    graph = prepare(make_model(nodes, {"x": (TensorProto.FLOAT, (1,))}, {"y": 1}))
    alive, outputs = [], []

    def exponential(node: Node, x: Value) -> Value:
        alive.append(sum(output() is not None for output in outputs))
        y = Value.on_host(node.backend, np.exp(x.host))
        outputs.append(weakref.ref(y))
        return y

    monkeypatch.setitem(OPERATORS, "Exp", exponential)
    graph.run([np.zeros(1, np.float32)])
    assert alive == [0, 1, 1]


def test_outputs_are_the_callers_own() -> None:
    nodes = [helper.make_node("Identity", ["w"], ["v"]), helper.make_node("Add", ["x", "v"], ["y"])]
    model = make_model(nodes, {"x": (TensorProto.FLOAT, (2,))}, {"v": 1, "y": 1}, {"w": np.ones(2, np.float32)})
    graph = prepare(model)
    x = np.ones(2, np.float32)
    for _ in range(2):
        v, y = graph.run([x])
        np.testing.assert_array_equal((v, y), [[1, 1], [2, 2]])
        v *= 5


def cancellation(kind: int) -> ModelProto:
    """Return (x + 1) - x, which is 0 in float32 where x is 2^24."""
    nodes = [helper.make_node("Add", ["x", "one"], ["z"]), helper.make_node("Sub", ["z", "x"], ["y"])]
    one = np.ones((), helper.tensor_dtype_to_np_dtype(kind))
    model = make_model(nodes, {"x": (kind, (1,))}, {"y": 1}, {"one": one})
    model.graph.output[0].type.tensor_type.elem_type = kind
    return model


@pytest.mark.parametrize(
    ("kind", "float_dtype", "expected"),
    [
        (TensorProto.FLOAT, None, 0),
        (TensorProto.FLOAT, "float64", 1),
        (TensorProto.DOUBLE, None, 1),
        (TensorProto.DOUBLE, "float32", 0),
    ],
)
def test_precision_is_that_of_the_inputs_or_as_asked(kind: int, float_dtype: str | None, expected: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    (y,) = run_model(cancellation(kind), [np.array([2**24], dtype)], float_dtype=float_dtype)
    assert y.dtype == dtype
    assert y == expected


def test_precision_is_the_widest_of_the_inputs() -> None:
    inputs = {"x": (TensorProto.FLOAT, ()), "y": (TensorProto.DOUBLE, ()), "z": (TensorProto.INT64, ())}
    assert precision_of(make_model([], inputs, {})) == "float64"


def test_inputs_go_by_position_or_by_name_and_initializers_are_defaults() -> None:
    inputs = {"x": (TensorProto.FLOAT, (2,)), "w": (TensorProto.FLOAT, (2,))}
    nodes = [helper.make_node("Neg", ["w"], ["v"]), helper.make_node("Add", ["x", "v"], ["y"])]
    model = make_model(nodes, inputs, {"y": 1}, {"w": np.float32([1, 2])})
    graph = prepare(model)
    x, w = np.float32([5, 5]), np.float32([3, 3])
    for given, expected in (([x], [4, 3]), ([x, w], [2, 2]), ({"w": w, "x": x}, [2, 2]), ({"x": x}, [4, 3])):
        np.testing.assert_array_equal(graph.run(given).y, expected)


def test_devices() -> None:
    assert supports_device("CPU")
    assert supports_device("CUDA") == ("gpu:0" in available_devices())
    assert not supports_device("TPU")


# ---- operators where ONNX has no test -----------------------------------------------------------------------------


def run(operator: str, inputs: Sequence[np.ndarray], opset: int = 17, outputs: int = 1, **attributes: object) -> tuple:
    """Run one node of an operator."""
    node = helper.make_node(operator, [f"x{i}" for i in range(len(inputs))], [f"y{i}" for i in range(outputs)])
    node.attribute.extend(helper.make_attribute(*attribute) for attribute in attributes.items())
    return run_node(node, inputs, opset_version=opset)


def test_global_lp_pool() -> None:
    x = np.float32([[[[3, -4], [0, 0]], [[1, 1], [1, 1]]]])
    np.testing.assert_allclose(run("GlobalLpPool", [x])[0], [[[[5]], [[2]]]])


@pytest.mark.parametrize("options", [{}, {"storage_order": 1}])
def test_indices_of_max_pooling(options: dict) -> None:
    """They count all elements, over samples and channels; in each image by rows, or by columns if asked for."""
    x = random(2, 3, 5, 6)
    window = {"kernel_shape": [2, 3], "strides": [2, 1], "pads": [1, 0, 0, 2], "dilations": [2, 1]}
    y, indices = run("MaxPool", [x], outputs=2, **window, **options)
    elements = x.swapaxes(2, 3) if options else x
    np.testing.assert_array_equal(elements.reshape(-1)[indices], y)


def test_cast() -> None:
    (whole,) = run("Cast", [np.float32([2.7, -2.7])], to=TensorProto.INT64)
    np.testing.assert_array_equal(whole, np.int64([2, -2]), strict=True)
    np.testing.assert_array_equal(run("Cast", [whole], to=TensorProto.FLOAT)[0], np.float32([2, -2]), strict=True)


def test_a_slice_backwards_reaches_the_first_element() -> None:
    ends = np.array([np.iinfo(np.int64).min])
    (y,) = run("Slice", [np.arange(5.0), np.array([3]), ends, np.array([0]), np.array([-2])])
    np.testing.assert_array_equal(y, [3, 1])
    (y,) = run("Slice", [np.arange(5.0), np.array([4]), ends, np.array([0]), np.array([-2])])
    np.testing.assert_array_equal(y, [4, 2, 0])


def test_negative_pads_take_off() -> None:
    x = np.arange(12.0).reshape(3, 4)
    (y,) = run("Pad", [x, np.array([-1, 0, 1, -2]), np.array(7.0)])
    np.testing.assert_array_equal(y, [[4, 5], [8, 9], [7, 7]])


def test_the_upper_bound_of_clip_wins(make_backend: Callable) -> None:
    node = helper.make_node("Clip", ["x", "low", "high"], ["y"])
    inputs = np.float32([1, 5, 9]), np.float32(6), np.float32(3)
    for device in ("cpu", "array_api_strict"):  # each array module has an answer of its own
        np.testing.assert_array_equal(run_node(node, inputs, make_backend(device, "float32"))[0], [3, 3, 3])


def test_clip_without_bounds_asks_no_array_module(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(np, "clip")  # before NumPy 2.1 it refused to do nothing
    x = random(3)
    np.testing.assert_array_equal(run_node(helper.make_node("Clip", ["x"], ["y"]), [x])[0], x)


def test_addition_before_version_7_broadcasts_from_an_axis_on() -> None:
    a, b = random(2, 3, 4), random(3)
    np.testing.assert_array_equal(run("Add", [a, b], opset=6, broadcast=1, axis=1)[0], a + b[:, None])


@pytest.mark.parametrize(("opset", "dtype"), [(7, np.float32), (10, np.bool_), (13, np.bool_)])
def test_mask_of_dropout_outside_of_training(opset: int, dtype: type) -> None:
    inputs = [np.ones(3, np.float32), np.float32(0.5), np.bool_(False)][: 3 if opset >= 12 else 1]
    y, mask = run("Dropout", inputs, opset, outputs=2)
    np.testing.assert_array_equal(y, inputs[0])
    np.testing.assert_array_equal(mask, np.ones(3, dtype), strict=True)


def test_softmax_before_version_13_takes_all_axes_from_its_own_on() -> None:
    x = random(2, 3, 4)
    (y,) = run("Softmax", [x], opset=11, axis=1)
    np.testing.assert_allclose(y.sum((1, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(y, np.exp(x) / np.exp(x).sum((1, 2), keepdims=True), rtol=1e-5)


def test_batch_normalization_before_version_14_trains_where_more_outputs_are_asked_for() -> None:
    x, gamma, beta, mean, variance = random(4, 3, 2, 2), *np.abs(random(4, 3, seed=1))
    batch_mean, batch_variance = x.mean((0, 2, 3)), x.var((0, 2, 3))
    y, *moments = run("BatchNormalization", [x, gamma, beta, mean, variance], opset=9, outputs=5, momentum=0.75)
    kept = 0.75 * mean + 0.25 * batch_mean, 0.75 * variance + 0.25 * batch_variance
    np.testing.assert_allclose(moments, [*kept, batch_mean, batch_variance], rtol=1e-5, atol=1e-6)
    z = (x - batch_mean[:, None, None]) / np.sqrt(batch_variance + 1e-5)[:, None, None]
    np.testing.assert_allclose(y, z * gamma[:, None, None] + beta[:, None, None], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("attributes", "size"),
    [
        ({"auto_pad": "SAME_UPPER", "strides": [3, 1]}, (12, 4)),
        ({"auto_pad": "SAME_LOWER", "strides": [3, 1]}, (12, 4)),
        ({"auto_pad": "VALID", "strides": [2, 1]}, (8, 6)),
        ({"output_shape": [7, 5], "strides": [2, 1]}, (7, 5)),
        ({"output_shape": [7, 5], "strides": [2, 1], "auto_pad": "SAME_UPPER"}, (7, 5)),
        ({"pads": [0, 1, 1, 2], "strides": [3, 2], "output_padding": [1, 1]}, (11, 7)),
    ],
)
def test_size_and_place_of_a_transposed_convolution(attributes: dict, size: tuple[int, int]) -> None:
    """Where a weight of 1 sits at (u, v), the output is x spread out by the strides and moved."""
    x = random(1, 1, 4, 4)
    SH, SW = attributes["strides"]
    full = np.zeros((3 * SH + 12, 3 * SW + 13), np.float32)
    w = random(1, 1, 2, 3, seed=1)
    for u in range(2):
        for v in range(3):
            full[u : u + 3 * SH + 1 : SH, v : v + 3 * SW + 1 : SW] += w[0, 0, u, v] * x[0, 0]
    taken = [3 * SH + 2 - size[0], 3 * SW + 3 - size[1]]
    upper = attributes.get("auto_pad") == "SAME_UPPER"
    top, left = (max(t, 0) // 2 if upper else max(t, 0) - max(t, 0) // 2 for t in taken)
    if "pads" in attributes:
        top, left = attributes["pads"][:2]
    (y,) = run("ConvTranspose", [x, w], **attributes)
    assert y.shape == (1, 1, *size)
    np.testing.assert_allclose(y[0, 0], full[top : top + size[0], left : left + size[1]], rtol=1e-5, atol=1e-6)


STEPS = [
    ("Momentum", 1, {"alpha": 0.9, "beta": 0.5, "mode": "standard", "norm_coefficient": 0.1}),
    ("Momentum", 1, {"alpha": 0.9, "beta": 0.5, "mode": "nesterov", "norm_coefficient": 0.1}),
    ("Adagrad", 1, {"decay_factor": 0.1, "epsilon": 1e-3, "norm_coefficient": 0.1}),
    ("Adam", 2, {"alpha": 0.9, "beta": 0.99, "epsilon": 1e-2, "norm_coefficient": 0.1, "norm_coefficient_post": 0.01}),
]


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize(("operator", "states", "attributes"), STEPS)
def test_optimizers_after_the_first_step(operator: str, states: int, attributes: dict, step: int) -> None:
    names = ["rate", "step", "w", "g", *"mv"[:states]]
    node = helper.make_node(operator, names, ["W", *"MV"[:states]], domain=TRAINING, **attributes)
    arrays = [random(5, seed=0), random(5, seed=1), *(np.abs(random(5, seed=2 + i)) for i in range(states))]
    inputs = [np.float32(0.1), np.int64(step), *arrays]
    expected = run_reference(node, inputs, 1, TRAINING)
    for result, wanted in zip(run_node(node, inputs, opset_version=17), expected, strict=True):
        np.testing.assert_allclose(result, wanted, rtol=1e-5, atol=1e-6)


def test_dropout_in_training_drops_the_same_on_every_device_and_other_elements_at_every_run() -> None:
    inputs = {"x": (TensorProto.FLOAT, (50, 40))}
    constants = {"ratio": np.float32(0.25), "training": np.bool_(True)}
    node = helper.make_node("Dropout", ["x", "ratio", "training"], ["y", "mask"], seed=3)
    model = make_model([node], inputs, {"y": 2, "mask": 2}, {name: np.asarray(c) for name, c in constants.items()})
    model.graph.output[1].type.tensor_type.elem_type = TensorProto.BOOL
    x = random(50, 40)
    cpu, reference = (prepare(model, get_backend(name)) for name in ("cpu", "reference"))
    y, mask = cpu.run([x])
    assert mask.dtype == np.bool_
    assert 0.7 < mask.mean() < 0.8
    np.testing.assert_allclose(y, np.where(mask, x / 0.75, 0), rtol=1e-6)
    np.testing.assert_array_equal(reference.run([x])[1], mask)
    assert (cpu.run([x])[1] != mask).any()


# ---- messages -----------------------------------------------------------------------------------------------------

IMAGE = np.zeros((1, 2, 6, 6), np.float32)
KERNELS = np.zeros((4, 2, 3, 3), np.float32)
HALF = np.zeros(2, np.float16)
ROW = np.zeros(2, np.float32)


def identity(kind: int = TensorProto.FLOAT) -> ModelProto:
    """Return a graph that returns its input "x", of shape (2,)."""
    return make_model([helper.make_node("Identity", ["x"], ["y"])], {"x": (kind, (2,))}, {"y": 1})


def with_output(info: onnx.ValueInfoProto) -> ModelProto:
    model = identity()
    del model.graph.output[:]
    model.graph.output.append(info)
    return model


NODES = [
    (lambda: run("Einsum", [ROW], equation="i->i"), "node \"y0\": unknown operator 'Einsum'"),
    (
        lambda: run("Conv", [IMAGE, KERNELS[:, :1]]),
        'Conv "y0": the kernels, in 1 groups, expect 1 channels; received 2',
    ),
    (
        lambda: run("Conv", [IMAGE[0, 0], KERNELS]),
        "an input of shape (6, 6) is not supported; supported is images of one",
    ),
    (lambda: run("Conv", [IMAGE[..., :2], KERNELS]), 'Conv "y0": kernel 3x3 does not fit input 6x2'),
    (lambda: run("ConvTranspose", [IMAGE, KERNELS]), "the kernels, in 1 groups, expect 4 channels; received 2"),
    (
        lambda: run("ConvTranspose", [IMAGE, KERNELS.swapaxes(0, 1)], strides=[2, 1], output_padding=[1, 1]),
        "an output of (14, 9) for an input of (6, 6) is not supported; supported is one with less added than the",
    ),
    (
        lambda: run("MaxPool", [IMAGE.astype(np.uint8)], kernel_shape=[2, 2]),
        'MaxPool "y0": an input of type uint8 is not supported; supported is float32 and float64',
    ),
    (
        lambda: run("BatchNormalization", [IMAGE, *4 * [ROW]], opset=7, spatial=0),
        'BatchNormalization "y0": spatial = 0 is not supported; supported is 1',
    ),
    (
        lambda: run("Gather", [ROW, np.array([1, 2])]),
        'Gather "y0": expected indices from -2 to 1, received [1, 2]',
    ),
    (
        lambda: run("Add", [ROW, np.zeros(3, np.float32)]),
        'Add "y0": cannot compute inputs of shapes (2,), (3,): operands could not be broadcast',
    ),
    (lambda: run("Constant", [], value_string="a"), "a constant of text or a sparse one is not supported"),
    (lambda: run("Cast", [ROW], to=TensorProto.FLOAT16), 'Cast "y0": elements of type float16 are not supported'),
    (
        lambda: run("Relu", [HALF]),
        'input or output "x0": elements of type float16 are not supported; supported are float32',
    ),
    (
        lambda: prepare(make_model([], {"x": (1, (2,))}, {"x": 1}, {"w": HALF})),
        'initializer "w": elements of type float16 are not supported',
    ),
    (
        lambda: prepare(with_output(helper.make_tensor_sequence_value_info("y", 1, None))),
        'input or output "y": a sequence is not supported; supported are tensors',
    ),
]
ARGUMENTS = [
    (lambda: prepare(identity(), "TPU"), "unknown device 'TPU': known are CPU, CUDA"),
    (
        lambda: prepare(identity(), get_backend("cpu"), float_dtype="float64"),
        "float_dtype is float64, but the backend given has float32",
    ),
    (lambda: prepare(identity()).run([ROW, ROW]), "the graph has the inputs x; received 2 arrays"),
    (lambda: prepare(identity()).run([]), "expected the inputs x; received none"),
    (lambda: prepare(identity()).run({"z": ROW}), "expected the inputs x; received z"),
    (lambda: prepare(identity()).run([ROW], seed=1), "run takes no options, received seed"),
    (
        lambda: prepare(identity()).run([ROW.astype(np.float64)]),
        'input "x": expected float32 of shape (2), received float64 of shape (2,)',
    ),
    (
        lambda: prepare(identity()).run([ROW[:1]]),
        'input "x": expected float32 of shape (2), received float32 of shape (1,)',
    ),
]


@pytest.mark.parametrize(("call", "message"), NODES + ARGUMENTS)
def test_refusals(call: Callable[[], object], message: str) -> None:
    with pytest.raises(InputError) as error:
        call()
    assert message in str(error.value)


def test_functions_and_sparse_tensors_of_a_model_are_refused() -> None:
    model = identity()
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(
        helper.make_function("own", "f", ["a"], ["b"], [helper.make_node("Relu", ["a"], ["b"])], opsets)
    )
    with pytest.raises(InputError, match="sparse initializers and functions of the model's own are not supported"):
        Graph(model, get_backend("cpu"))


def test_is_compatible_says_whether_a_model_is_taken() -> None:
    assert Backend.is_compatible(identity())
    assert not Backend.is_compatible(identity(TensorProto.FLOAT16))
