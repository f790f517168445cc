"""The fake device captures streams as CUDA does: what it records, what it forbids, and what goes wrong unseen."""

from __future__ import annotations

import numpy as np
import pytest
from device.fake_cublas import CublasMisuse
from device.fake_cupy import make_fake_cupy
from device.fixtures import fake_cupy, requires_compiler

from gpucnn.backend.gpu.gemm import Gemm

__all__ = ["fake_cupy"]  # the fixture of the tests below

DOUBLE = ("T x", "T y", "y = 2 * x", "double_it")


def captured(cupy, work, *, non_blocking=True):
    """Record what `work` does on a new stream."""
    stream = cupy.cuda.Stream(non_blocking=non_blocking)
    with stream:
        stream.begin_capture()
        work()
        return stream.end_capture()


@requires_compiler
def test_a_graph_is_recorded_without_being_run_and_counts_one_launch(fake_cupy):
    x, y = fake_cupy.asarray(np.arange(3.0)), fake_cupy.zeros(3)
    kernel = fake_cupy.ElementwiseKernel(*DOUBLE)

    def work():
        kernel(x, y)
        fake_cupy.add(y, 1, out=y)

    with fake_cupy.stats.step() as counts:
        graph = captured(fake_cupy, work)
    assert (counts.launches, y.get().tolist()) == (0, [0, 0, 0])
    with fake_cupy.stats.step() as counts:
        graph.launch()
    assert (counts.launches, counts.graph_launches, y.get().tolist()) == (1, 1, [1, 3, 5])
    x.set(np.ones(3))  # a graph reads what lies at its addresses now
    graph.launch()
    assert y.get().tolist() == [3, 3, 3]


def test_numbers_are_recorded_as_they_were(fake_cupy):
    y, number = fake_cupy.zeros(2), [1]
    graph = captured(fake_cupy, lambda: fake_cupy.add(y, number[0], out=y))
    number[0] = 100
    graph.launch()
    assert y.get().tolist() == [1, 1]


def test_what_goes_to_another_stream_is_not_recorded(fake_cupy):
    y = fake_cupy.zeros(2)

    def work():
        with fake_cupy.cuda.Stream.null:
            fake_cupy.add(y, 1, out=y)  # at once, and never again

    graph = captured(fake_cupy, work)
    graph.launch()
    assert y.get().tolist() == [1, 1]
    with pytest.raises(fake_cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureImplicit"):
        captured(fake_cupy, work, non_blocking=False)


@pytest.mark.parametrize(
    "forbidden",
    [
        lambda cupy, x: x.get(),
        lambda cupy, x: float(x[0]),
        lambda cupy, x: x.set(np.zeros(2)),
        lambda cupy, x: cupy.asarray(np.zeros(2)),
        lambda cupy, x: cupy.cuda.Device().synchronize(),
        lambda cupy, x: cupy.cuda.get_current_stream().synchronize(),
        lambda cupy, x: x[x > 0],
        lambda cupy, x: cupy.matmul(x[None], x[:, None], out=x[:1, None]),
    ],
)
def test_what_a_capture_forbids(forbidden, fake_cupy):
    x = fake_cupy.zeros(2)
    with pytest.raises((RuntimeError, NotImplementedError)):
        captured(fake_cupy, lambda: forbidden(fake_cupy, x))


def test_a_spoilt_capture_gives_no_graph(fake_cupy):
    x, stream = fake_cupy.zeros(2), fake_cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        with pytest.raises(RuntimeError):
            x.get()
        with pytest.raises(fake_cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureInvalidated"):
            stream.end_capture()
    assert not stream.is_capturing()
    assert x.get().tolist() == [0, 0]  # and the device goes on


def test_the_default_stream_captures_nothing(fake_cupy):
    with pytest.raises(fake_cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorStreamCaptureUnsupported"):
        fake_cupy.cuda.Stream.null.begin_capture()


def test_an_allocator_is_asked_for_memory(fake_cupy):
    pool, sizes = fake_cupy.cuda.MemoryPool(), []

    def allocate(size):
        sizes.append(size)
        return pool.malloc(size)

    with fake_cupy.cuda.using_allocator(allocate):
        x = fake_cupy.zeros((3, 4), "float32")
    fake_cupy.zeros(5)
    assert (sizes, pool.used_bytes(), pool.total_bytes()) == ([48], 512, 512)
    del x
    assert (pool.used_bytes(), pool.total_bytes()) == (0, 512)


def test_operations_that_allocate_are_recorded_into_a_pool_of_their_own(fake_cupy):
    """What they compute is computed anew by each launch of the graph, in the memory that they got when recorded."""
    pool, x, y = fake_cupy.cuda.MemoryPool(), fake_cupy.asarray([1.0, -2.0]), fake_cupy.zeros(2)

    def work():
        y[...] = fake_cupy.where(x > 0, x, 0 * x) + fake_cupy.sum(x)

    with fake_cupy.cuda.using_allocator(pool.malloc):
        graph = captured(fake_cupy, work)
    assert y.get().tolist() == [0, 0]
    for values, expected in (([1.0, -2.0], [0, -1]), ([3.0, 4.0], [10, 11])):
        x.set(np.array(values))
        graph.launch()
        assert y.get().tolist() == expected
    assert pool.used_bytes() == 0 < pool.total_bytes()


def test_memory_that_was_given_back_is_spoilt(fake_cupy):
    """A graph that still reads it would read what its next owner wrote; a pool of its own gives it to nobody else."""
    y, pool = fake_cupy.zeros(2), fake_cupy.cuda.MemoryPool()

    def of_an_array_that_is_lost():
        x = fake_cupy.ones(2)
        return captured(fake_cupy, lambda: fake_cupy.add(x, 1, out=y))

    graphs = [of_an_array_that_is_lost()]
    with fake_cupy.cuda.using_allocator(pool.malloc):
        graphs.append(of_an_array_that_is_lost())
    found = []
    for graph in graphs:
        graph.launch()
        found.append(y.get().tolist())
    assert np.isnan(found[0]).all()
    assert found[1] == [2, 2]


# ---- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("deferred", ["side", "default"])
def test_streams_are_queues(deferred):
    """One stream does not wait for another; what a transfer reads is what its own stream has done."""
    cupy = make_fake_cupy(deferred=deferred)
    side, x = cupy.cuda.Stream(non_blocking=True), cupy.zeros(2)
    cupy.cuda.Device().synchronize()
    x += 1
    with side:
        seen = x.get().tolist()
        x *= 10
    x += 1
    assert seen == ([1, 1] if deferred == "side" else [0, 0])
    assert x.get().tolist() == [2, 2]
    side.synchronize()
    assert x.get().tolist() == ([20, 20] if deferred == "side" else [2, 2])


def test_events_order_streams():
    cupy = make_fake_cupy()
    side, x = cupy.cuda.Stream(non_blocking=True), cupy.zeros(2)
    with side:
        x += 1
        done = side.record()
        x += 100
    assert not done.done
    cupy.cuda.get_current_stream().wait_event(done)
    assert done.done
    assert x.get().tolist() == [1, 1]


def test_blocking_streams_are_in_order_with_the_default_one():
    cupy = make_fake_cupy(deferred="default")
    x = cupy.zeros(2)
    x += 1
    with cupy.cuda.Stream():
        x *= 10
    assert x.get().tolist() == [10, 10]


def test_streams_end(fake_cupy):
    """An address may be that of a new stream, to which a handle that was told of the old one does not belong."""
    stream = fake_cupy.cuda.Stream(non_blocking=True)
    pointer, x = stream.ptr, fake_cupy.ones((2, 2), "float32")
    unit = Gemm(fake_cupy, 0)
    with stream:
        unit.multiply(x, x, fake_cupy.empty((2, 2), "float32"))
    del stream
    with fake_cupy.cuda.Stream(non_blocking=True) as stream:
        assert stream.ptr == pointer
        with pytest.raises(CublasMisuse, match="a stream that is gone"):
            unit.multiply(x, x, fake_cupy.empty((2, 2), "float32"))


def test_streams_and_graphs_belong_to_a_device():
    cupy = make_fake_cupy(device_count=2)
    x, stream = cupy.zeros(2), cupy.cuda.Stream(non_blocking=True)
    graph = captured(cupy, lambda: cupy.add(x, 1, out=x))
    with cupy.cuda.Device(1):
        with pytest.raises(RuntimeError, match="does not match with the current device"), stream:
            pass
        with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="cudaErrorInvalidResourceHandle"):
            graph.launch()
