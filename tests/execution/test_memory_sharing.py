"""Buffers that share memory: every result is, to the bit, that of buffers that share nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partialmethod
from itertools import combinations

import numpy as np
import pytest
from networks import (
    ACTIVATIONS,
    NETWORKS,
    SHAPE,
    SHARDED,
    Declared,
    Delayed,
    Halved,
    Named,
    Product,
    Returned,
    Twice,
    random_network,
)

from gpucnn import (
    Conv2D,
    Dense,
    Dropout,
    Flatten,
    InputError,
    Layer,
    MaxPool2D,
    Parallel,
    ReLU,
    Sequential,
    Sigmoid,
    Tanh,
    get_backend,
    layers,
    zoo,
)
from gpucnn.backend import Backend, CpuBackend

POISON = 171  # NaN for floats

# ---- results ------------------------------------------------------------------------------------------------------


def share_nothing(model: Sequential) -> None:
    """Let all buffers keep memory of their own."""
    for trace in model.program.traces.values():
        trace.keep(trace.buffers)


def built(make: Callable[[], list[Layer]], backend: Backend, *, share: bool, **options) -> Sequential:
    model = Sequential(make())
    model.build(SHAPE, backend, seed=1)
    if not share:
        share_nothing(model)
    if options:
        model.reserve(**options)
    return model


def poison(model: Sequential) -> None:
    """Spoil all buffers: nothing that an earlier pass left there may be read."""
    for workspace in model.program.workspaces():
        for buffer in workspace.buffers():
            buffer.fill(POISON if buffer.dtype.kind in "iu" else np.nan)


def run(model: Sequential, seed: int, N: int) -> Iterator[np.ndarray]:
    """Yield copies of all results of some passes, and check what they must leave alone."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((N, *SHAPE)).astype(np.float32)
    dy = rng.standard_normal((N, *model.output_shape)).astype(np.float32)
    given = x.copy(), dy.copy()
    poison(model)
    y = model.predict(x)
    yield y.copy()
    if y.shape == x.shape:
        yield model.predict(y).copy()  # what a network returns may be its next input
    poison(model)
    y = model(x, train=True)
    expected = y.copy()
    yield expected
    dx = model.backpropagate(dy)
    yield dx.copy()
    yield from gradients(model)
    np.testing.assert_array_equal(y, expected, "the output lasts until the next forward pass")
    model.backpropagate(dy, need_dx=False)
    yield from gradients(model)
    yield model.backpropagate(y).copy()  # the gradient of half a sum of squares
    yield from gradients(model)
    yield model.backpropagate(dy)
    np.testing.assert_array_equal(x, given[0], "x belongs to the caller")
    np.testing.assert_array_equal(dy, given[1], "dy belongs to the caller")
    yield from model.state_dict().values()


def gradients(model: Sequential) -> Iterator[np.ndarray]:
    yield from (parameter.gradient.copy() for parameter in model.parameters())


def compare(make: Callable[[], list[Layer]], make_backend: Callable[[], Backend]) -> None:
    """Compare all results by bits with those of buffers that share nothing; batches change, and outgrow the warm-up."""
    shared, alone = (built(make, make_backend(), share=share, batch=3) for share in (True, False))
    for seed, N in enumerate((2, 5, 1, 5)):
        with np.errstate(all="ignore"):
            for result, expected in zip(run(shared, seed, N), run(alone, seed, N), strict=True):
                assert result.tobytes() == expected.tobytes(), f"batch of {N}"


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("device", ["reference", "cpu"])
def test_sharing_changes_no_bit(device: str, name: str) -> None:
    compare(NETWORKS[name], lambda: CpuBackend(threads=1) if device == "cpu" else get_backend(device))


@pytest.mark.parametrize("name", SHARDED)
def test_sharing_changes_no_bit_on_several_threads(name: str) -> None:
    compare(NETWORKS[name], lambda: CpuBackend(threads=3))


@pytest.mark.parametrize("seed", range(60))
def test_sharing_changes_no_bit_of_random_networks(seed: int) -> None:
    compare(lambda: random_network(seed), lambda: get_backend("reference"))


@pytest.mark.parametrize("name", zoo.MODELS)
def test_sharing_changes_no_bit_of_the_zoo(name: str) -> None:
    x = np.random.default_rng(0).standard_normal((2, 32, 32, 3)).astype(np.float32)
    results = []
    for share in (True, False):
        model = zoo.get_recipe(name).model(10)
        model.build((32, 32, 3), CpuBackend(threads=1), seed=1)
        if not share:
            share_nothing(model)
        y = model(x, train=True)
        results.append([y.copy(), model.backpropagate(y), model.arena.gradients, model.predict(x)])
    for result, expected in zip(*results, strict=True):
        assert result.tobytes() == expected.tobytes()


def test_backward_after_an_inference_is_refused() -> None:
    """It has used the memory of what the forward pass had kept."""
    model, x = built(NETWORKS["chain"], get_backend("cpu"), share=True), np.ones((2, *SHAPE), np.float32)
    dy = np.ones_like(model(x, train=True))
    model.predict(x)
    with pytest.raises(InputError, match="backpropagate needs a call with train=True before it"):
        model.backpropagate(dy)


def test_layers_called_one_by_one_share_nothing() -> None:
    """Whatever their order: a part that is called by itself has buffers of its own."""
    model, alone = (built(NETWORKS["chain"], CpuBackend(threads=1), share=share) for share in (True, False))
    x = np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32)
    model.predict(x)
    returned = [x]
    for layer in model.layers:
        returned.append(layer(returned[-1], train=True))
    y = returned[-1]
    for layer in reversed(model.layers):
        returned.append(layer.backpropagate(returned[-1]))
    np.testing.assert_array_equal(y, alone(x, train=True))
    np.testing.assert_array_equal(returned[-1], alone.backpropagate(y))
    assert not any(np.shares_memory(*pair) for pair in combinations(returned, 2))


@pytest.mark.parametrize("join", [False, True])
def test_what_an_unknown_layer_was_given_stays(join: bool) -> None:
    """It may look at it after the pass, until the next forward."""
    kept = []
    for share in (True, False):
        own = Parallel([Tanh(), Conv2D(4, 1), ReLU()], Product()) if join else Delayed()
        before, behind = ([Conv2D(4, 1), Tanh(), Conv2D(4, 1), Conv2D(4, 1)] for _ in range(2))
        model = built(lambda: [*before, own, *behind], get_backend("reference"), share=share)  # noqa: B023
        y = model(np.random.default_rng(0).standard_normal((2, *SHAPE)).astype(np.float32), train=True)
        model.backpropagate(y)
        layer = own.join if join else own
        kept.append((layer.seen, layer.kept))
    for array, expected in zip(*kept, strict=True):
        np.testing.assert_array_equal(array, expected)


def test_a_network_that_was_built_alone_before_takes_its_place_in_another() -> None:
    backend = CpuBackend(threads=2)
    inner, x = Sequential([Conv2D(4, 1), ReLU(), Conv2D(4, 1)]), np.ones((4, *SHAPE), np.float32)
    inner.build(SHAPE, backend)
    assert inner.program.is_planned
    model = Sequential([inner, ReLU(), Conv2D(2, 1)])
    model.build(SHAPE, backend, seed=3)
    assert not inner.program.is_planned
    assert inner.program.front is None
    for parameter in inner.parameters():
        parameter.value[...] = 0
    np.testing.assert_array_equal(model.predict(x), np.broadcast_to(model.layers[2].b.value, (4, 6, 8, 2)))


# ---- in place -----------------------------------------------------------------------------------------------------

IN_PLACE = {(name, argument) for name in dir(Backend) for argument in getattr(getattr(Backend, name), "in_place", ())}


def test_activations_work_in_place() -> None:
    """All that compute element by element, and their derivatives."""
    names = {kind.operation for kind in ACTIVATIONS} - {"softmax"}
    assert {(name, "x") for name in names} | {(f"{name}_dx", "dy") for name in names} <= IN_PLACE


def test_an_activation_lies_over_its_input() -> None:
    model = Sequential([Conv2D(4, 1), Tanh(), Conv2D(4, 1), Dropout(0.5), MaxPool2D(2)])
    model.build(SHAPE, "cpu")
    [conv, tanh, *_] = model.layers
    slots = model.program.slots[True]
    assert slots[conv.id, "y"] == slots[tanh.id, "y"]
    outputs = {slots[layer.id, "y"] for layer in model.layers[2:4]}
    assert len(outputs) == 1


def test_gradients_of_activations_lie_over_each_other() -> None:
    model = Sequential([Sigmoid(), Tanh(), ReLU(), Sigmoid()])
    model.build(SHAPE, "cpu")
    assert len({model.program.slots[True][layer.id, "dx"] for layer in model.layers[1:]}) == 1


def gradient_slots(model: Sequential) -> set:
    return {slot for key, slot in model.program.slots[True].items() if key[1] == "dx" and slot != key}


def test_a_chain_has_two_buffers_of_gradients() -> None:
    model = Sequential([*[layer for _ in range(6) for layer in (Conv2D(4, 3, padding=1), Tanh())], Conv2D(4, 1)])
    model.build(SHAPE, "cpu")
    assert len(gradient_slots(model)) == 2


# ---- what is known of a layer -------------------------------------------------------------------------------------


def test_every_layer_of_the_library_is_made_of_operations() -> None:
    for name in layers.__all__:
        if name != "Layer":
            kind = getattr(layers, name)
            assert not kind.__new__(kind).is_opaque, name


def test_a_class_that_redefines_something_is_opaque() -> None:
    known = [Declared(), Named(2), type("Blue", (ReLU,), {"colour": "blue", "paint": lambda self: None})()]
    assert not any(layer.is_opaque for layer in known)
    altered = ReLU()
    altered._settings = lambda: ()
    unknown = [
        altered,
        type("Partial", (ReLU,), {"_settings": partialmethod(ReLU._settings)})(),
        type("Renamed", (ReLU,), {"operation": "softmax"})(),
        Returned(),
        Halved(2, 1),
        Product(),
        Twice([ReLU()]),
        type("Odd", (ReLU,), {"_settings": lambda self: ()})(),
    ]
    assert all(layer.is_opaque for layer in unknown)


def test_what_lasts() -> None:
    """By hand. The input is the caller's, and ReLU a part of the pooling, whose output the dense layer reads."""
    model = Sequential([Conv2D(2, 3), ReLU(), MaxPool2D(2), Flatten(), Dense(3)])
    model.build((6, 6, 1), "cpu")
    kept = {f"{buffer.layer.name}.{buffer.name}" for buffer in model.program.traces[True].buffers if buffer.is_kept}
    assert kept == {"maxpool2d1.y", "maxpool2d1.argmax", "dense1.y", "conv2d1.dx"}


def test_a_relu_behind_has_no_output_of_its_own() -> None:
    """It is that of the convolution, which lasts in training: the ReLU's backward pass reads it."""
    model = Sequential([Conv2D(4, 1), ReLU(), Tanh(), Flatten(), Dense(4), ReLU(), Sigmoid()])
    model.build(SHAPE, "cpu")
    outputs = {}
    for train in (True, False):
        buffers = [buffer for buffer in model.program.traces[train].buffers if buffer.name == "y"]
        outputs[train] = {buffer.layer.name: buffer.is_kept for buffer in buffers}
    assert outputs[True] == {"conv2d1": True, "tanh1": True, "dense1": True, "sigmoid1": True}
    assert outputs[False] == {"conv2d1": False, "tanh1": False, "dense1": False, "sigmoid1": True}
