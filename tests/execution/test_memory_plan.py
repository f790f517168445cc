"""The memory that a network is said to take is what it takes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import numpy as np
import pytest
from networks import NETWORKS, SHAPE, Exponential

from gpucnn import (
    SGD,
    Adagrad,
    Adam,
    AdamW,
    Conv2D,
    Dense,
    Flatten,
    InputError,
    LpPool2D,
    MaxPool2D,
    MemoryPlan,
    ReLU,
    RMSprop,
    Sequential,
    Sigmoid,
    WeightAverage,
    Window,
    get_backend,
    zoo,
)
from gpucnn.backend import Backend, CpuBackend
from gpucnn.execution.memory_plan import in_units

# ---- bytes --------------------------------------------------------------------------------------------------------


def held(model: Sequential) -> int:
    """Return the bytes that the workspaces of a model hold, and those of its threads."""
    return sum(workspace.nbytes for workspace in model.program.workspaces())


def measured_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that NumPy's arrays take while `work` runs a second time, those included that it keeps."""
    tracemalloc.start()
    try:
        kept = work()
        tracemalloc.reset_peak()
        again = work()
        arrays = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    del kept, again
    return arrays


@pytest.mark.parametrize("N", [1, 5])
@pytest.mark.parametrize("name", [*zoo.MODELS, *(name for name in NETWORKS if not name.startswith("own"))])
def test_the_plan_foretells_the_workspace(name: str, N: int) -> None:
    """Exactly, of a training step and of an inference, each in a new network; one image is too few for some folds."""
    for train in (True, False):
        for threads in (1, 3):
            model = Sequential(NETWORKS[name]()) if name in NETWORKS else zoo.get_recipe(name).model(10)
            shape = SHAPE if name in NETWORKS else (32, 32, 3)
            model.build(shape, CpuBackend(threads=threads))
            x = np.ones((N, *shape), np.float32)
            y = model(x, train=train)
            if train:
                model.backpropagate(np.ones_like(y), need_dx=False)
            plan = model.plan(N, train=train)
            assert plan.kept + plan.shared == held(model)
            assert sum(kept for _, _, kept in plan.rows) <= plan.kept


# Bytes of buffers for four samples by the plans that were once declared by hand, layer by layer: a training step and an
# inference on one thread, and both on two.
DECLARED = {
    "paper": (316_832, 263_584, 369_056, 316_832),
    "lenet5": (129_024, 98_944, 129_184, 99_104),
    "mnist": (698_272, 527_008, 806_816, 585_376),
    "vgg": (2_257_056, 1_212_576, 2_326_688, 1_249_440),
    "resnet20": (7_019_808, 823_712, 7_019_808, 823_712),
    "resnet18": (21_935_776, 3_441_824, 21_935_776, 3_441_824),
}


@pytest.mark.parametrize("name", DECLARED)
def test_what_is_watched_takes_no_more_than_what_was_declared(name: str) -> None:
    shape = (28, 28, 1) if name in ("paper", "lenet5", "mnist") else (32, 32, 3)
    for threads, declared in ((1, DECLARED[name][:2]), (2, DECLARED[name][2:])):
        model = zoo.get_recipe(name).model(10)
        model.build(shape, CpuBackend(threads=threads))
        for train, most in zip((True, False), declared, strict=True):
            plan = model.plan(4, train=train)
            assert plan.kept + plan.shared <= most


def test_layers_of_a_users_own_hold_what_they_hold() -> None:
    model = Sequential([Conv2D(4, 1), Exponential(), Conv2D(4, 1)])
    model.build(SHAPE, CpuBackend(threads=1))
    y = model(np.ones((5, *SHAPE), np.float32), train=True)
    model.backpropagate(y, need_dx=False)
    plan = model.plan(5)
    assert plan.kept + plan.shared == held(model)


def test_an_inference_lies_where_training_does() -> None:
    model = zoo.get_recipe("vgg").model(10)
    model.build((32, 32, 3), CpuBackend(threads=1), max_batch=2)
    before = held(model)
    model.predict(np.ones((2, 32, 32, 3), np.float32))
    assert held(model) == before


def test_parameters_gradients_and_optimizers() -> None:
    model = Sequential(NETWORKS["chain"]())
    model.build(SHAPE, CpuBackend("float64", threads=3))
    arena, weights = model.arena.values.nbytes, 8 * sum(parameter.size for parameter in model.parameters())
    plan = model.plan(4)
    assert isinstance(plan, MemoryPlan)
    assert (plan.parameters, plan.gradients, plan.optimizer) == (arena, arena + 2 * weights, 0)
    assert sum(parameters for _, parameters, _ in plan.rows) == weights
    for optimizer, slots in ((SGD(), 1), (Adam(), 2), (AdamW(), 2), (RMSprop(), 2), (Adagrad(), 1)):
        assert model.plan(4, optimizer=optimizer).optimizer == slots * arena
        optimizer.attach(model.arena, model.backend)
        state = [value for value in vars(optimizer).values() if getattr(value, "nbytes", 0) == arena]
        assert len(state) == slots
    assert model.plan(4, optimizer=SGD()).copies == weights + arena
    assert model.plan(4, optimizer=Adam(), average=WeightAverage()).copies == weights + 3 * arena
    parts = plan.parameters, plan.gradients, plan.optimizer, plan.copies, plan.kept, plan.shared, plan.workspace
    assert plan.peak == sum(parts)


def check_peak(model: Sequential, backend: Backend, N: int, shape: tuple[int, ...]) -> None:
    """Compare the plan of a training step, the building of the network included, with what it takes."""
    x, dy, optimizer = np.ones((N, *shape), np.float32), np.full((N, 10), 1e-6, np.float32), SGD(0.01, 0.9)

    def step() -> None:
        if model.arena is None:
            model.build(shape, backend)
            optimizer.attach(model.arena, model.backend)
        model.forward(x, train=True)
        model.backward(dy, need_dx=False)
        optimizer.step()

    measured = measured_bytes(step)
    plan = model.plan(N, optimizer=optimizer)
    assert measured == pytest.approx(plan.peak - plan.copies, rel=0.1)


@pytest.mark.parametrize("N", [64, 256])
@pytest.mark.parametrize("name", ["lenet5", "mnist", "paper", "resnet20"])
@pytest.mark.parametrize("backend", ["reference", "cpu, 1", "cpu, 3"])
def test_the_peak_is_what_a_step_takes(backend: str, name: str, N: int) -> None:
    device, _, threads = backend.partition(", ")
    backend = get_backend(device, threads=int(threads) if threads else None)
    shape = (28, 28, 1) if name != "resnet20" else (16, 16, 3)
    check_peak(zoo.get_recipe(name).model(10), backend, N, shape)


def test_more_than_is_rehearsed_is_foretold_too() -> None:
    """Poolings and activations need more with the batch, convolutions do not."""
    model = Sequential([Conv2D(8, 3), Sigmoid(), LpPool2D(2), Flatten(), Dense(10)])
    check_peak(model, CpuBackend(threads=1), 1024, (20, 20, 2))


def test_batches_of_all_sizes_lie_in_the_same_memory() -> None:
    backend = CpuBackend(threads=1)
    model = Sequential([Conv2D(16, 3, padding=1), Conv2D(16, 5, padding=2)])
    model.build((8, 8, 16), backend)
    model.predict(np.ones((64, 8, 8, 16), np.float32))
    before = backend.held_bytes()
    for N in range(1, 64, 9):
        model.predict(np.ones((N, 8, 8, 16), np.float32))
    assert backend.held_bytes() == before


def test_columns_on_a_gpu_are_bounded(make_backend: Callable) -> None:
    """Foretold as they are taken, for batches that are lowered whole and in parts."""
    backend, window, limit = make_backend("fake-gpu", "float32"), Window((3, 3)), 1 << 28
    one = 32 * 32 * 9 * 8 * 4
    assert backend.conv2d_workspace((3, 34, 34, 8), (3, 3, 8, 2), window, train=True) == 3 * one
    many = backend.conv2d_workspace((1000, 34, 34, 8), (3, 3, 8, 2), window, train=False)
    assert limit - one < many <= limit
    in_parts = backend.conv2d_workspace((1000, 34, 34, 8), (3, 3, 8, 2), window, train=True)
    assert in_parts == many + 3 * 3 * 8 * 2 * 4
    assert backend.conv2d_workspace((9, 34, 34, 8), (3, 3, 4, 2), window, train=False) == 0
    assert backend.conv2d_workspace((9, 34, 34, 8), (3, 3, 4, 2), window, train=True) == 9 * 3 * 3 * 4 * 2 * 4


# ---- texts and refusals -------------------------------------------------------------------------------------------


def test_a_plan_as_a_table() -> None:
    model = Sequential([Conv2D(2, 3, name="first"), ReLU(), MaxPool2D(2), Flatten(), Dense(3)])
    model.build((6, 6, 1), get_backend("reference"))
    assert str(model.plan(100, optimizer=SGD())).splitlines() == [
        "training step, batch of 100",
        "layer       parameters     kept",
        "-------------------------------",
        "first             80 B      0 B",
        "relu1              0 B      0 B",
        "maxpool2d1         0 B  4.00 kB",
        "flatten1           0 B      0 B",
        "dense1           108 B  1.20 kB",
        "-------------------------------",
        "parameters              1.02 kB",
        "gradients               1.02 kB",
        "optimizer               1.02 kB",
        "copies                  1.21 kB",
        "kept                    5.20 kB",
        "shared                  16.0 kB",
        "workspace               83.2 kB",
        "peak                     109 kB",
    ]
    assert str(model.plan(1, train=False)).startswith("inference, batch of 1\n")


@pytest.mark.parametrize(
    ("size", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.00 kB"), (12345, "12.3 kB"), (999999, "1000 kB"), (2 * 10**13, "20000 GB")],
)
def test_units(size: int, text: str) -> None:
    assert in_units(size) == text


def test_refusals() -> None:
    inner = Sequential([Dense(3)])
    model = Sequential([inner])
    with pytest.raises(InputError, match="^Sequential: has no buffers yet; call build first$"):
        model.plan(4)
    model.build((2,), "cpu")
    with pytest.raises(InputError, match="^Sequential: batch must be an integer of at least 1, received 0$"):
        model.plan(0)
    with pytest.raises(InputError, match='^Sequential "sequential1": is a part of Sequential; plan that instead$'):
        inner.plan(4)
    assert inner.summary().startswith("layer ")
