"""The fake device captures streams as CUDA does: what it records, what it forbids, and what goes wrong unseen."""

from __future__ import annotations

import numpy as np
import pytest
from device.fixtures import fake_cupy, requires_compiler

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
        lambda cupy, x: x + 1,
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
    sizes = []
    with fake_cupy.cuda.using_allocator(sizes.append):
        fake_cupy.zeros((3, 4), "float32")
    fake_cupy.zeros(5)
    assert sizes == [48]
