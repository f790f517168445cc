"""The threads of the CPU backend: what they share, and that nothing else changes."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from gpucnn import SGD, InputError, SoftmaxCrossEntropy, Trainer, get_backend, zoo
from gpucnn.backend import CpuBackend
from gpucnn.backend.cpu.threads import Task, ThreadPool, wait_for_all


def blas_threads() -> set[int]:
    return {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"}


def test_a_pool_works_side_by_side() -> None:
    meeting = threading.Barrier(3, timeout=10)  # nobody passes before all three are there
    ThreadPool(3).run([meeting.wait] * 3)


def test_fewer_jobs_than_threads() -> None:
    done = []
    ThreadPool(3).run([lambda: done.append(1)])
    assert done == [1]


@pytest.mark.parametrize("place", range(3))
def test_an_error_of_any_thread_is_raised_after_all_have_stopped(place: int) -> None:
    stopped = []

    def job(number: int) -> None:
        if number == place:
            raise ValueError(f"job {number}")
        time.sleep(0.05)
        stopped.append(number)

    with pytest.raises(ValueError, match=f"job {place}"):
        ThreadPool(3).run([lambda number=number: job(number) for number in range(3)])
    assert sorted(stopped) == [number for number in range(3) if number != place]


def test_blas_is_held_to_one_thread_and_let_go() -> None:
    pool, seen = ThreadPool(2), []
    with threadpool_limits(2, user_api="blas"):
        with pool.limit_blas_threads():
            seen.append(blas_threads())
            pool.run([lambda: seen.append(blas_threads())])
            seen.append(blas_threads())
        assert seen == [{1}] * 3
        assert blas_threads() == {2}
        with pytest.raises(ZeroDivisionError):
            pool.run([lambda: 1 / 0])
        assert blas_threads() == {2}


def test_every_thread_has_the_callers_error_state() -> None:
    seen = []
    with np.errstate(over="ignore"):
        ThreadPool(3).run([lambda: seen.append(np.geterr()["over"])] * 3)
    assert seen == ["ignore"] * 3


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*use of fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_too() -> None:
    pool = ThreadPool(2)
    pool.run([lambda: None] * 2)  # now there are threads, which a fork does not copy
    child = os.fork()
    if child == 0:
        signal.alarm(10)  # rather killed than waiting for ever
        pool.run([threading.Barrier(2).wait] * 2)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def train(threads: int, name: str = "mnist") -> dict[str, np.ndarray]:
    model = zoo.get_recipe(name).model()
    model.build((28, 28, 1), CpuBackend(threads=threads), max_batch=32, seed=3)
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.01, 0.9), batch_size=32)
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, y = rng.standard_normal((32, 28, 28, 1), dtype=np.float32), rng.integers(0, 10, 32).astype(np.int32)
        trainer.step(x, y)
    return model.state_dict()


def test_one_thread_and_three_agree_to_rounding() -> None:
    alone, together = train(1), train(3)
    for name, weights in alone.items():
        np.testing.assert_allclose(together[name], weights, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_run_repeats_bit_for_bit() -> None:
    first, second = train(3), train(3)
    for name, weights in first.items():
        np.testing.assert_array_equal(second[name], weights, err_msg=name)


def test_threads_are_asked_for_by_number() -> None:
    assert get_backend("cpu", threads=3).threads == 3
    assert get_backend("cpu").threads >= 1
    assert "3 threads" in get_backend("cpu", threads=3).describe()


@pytest.mark.parametrize("threads", [0, -1, 1.5, True])
def test_a_wrong_number_of_threads(threads: object) -> None:
    with pytest.raises(InputError, match="threads must be an integer of at least 1"):
        get_backend("cpu", threads=threads)


def test_threads_are_the_cpus_alone() -> None:
    with pytest.raises(InputError, match="threads: only the device cpu has them, received reference"):
        get_backend("reference", threads=2)


class Interrupting:
    """A lock whose first acquisitions are interrupted, before it is taken and after."""

    def __init__(self, lock: threading.Lock):
        self.lock, self.interruptions = lock, ["before", "after"]

    def acquire(self) -> None:
        moment = self.interruptions.pop(0) if self.interruptions else ""
        if moment == "before":
            raise KeyboardInterrupt
        self.lock.acquire()
        if moment == "after":
            raise KeyboardInterrupt

    def release(self) -> None:
        self.lock.release()


def test_who_waits_is_not_lost_by_interruptions() -> None:
    task = Task(lambda: time.sleep(0.05))
    task._done = Interrupting(task._done)
    threading.Thread(target=task.do).start()
    assert isinstance(wait_for_all([task]), KeyboardInterrupt)
    assert task.is_done and task._done.interruptions == []


@pytest.mark.parametrize("at_work", [True, False])
def test_an_interrupted_run_is_over_when_it_returns_and_the_next_is_whole(at_work: bool) -> None:
    """The calling thread is interrupted in its own job, or while it waits for those of the others."""
    pool, done, interrupted = ThreadPool(3), [], threading.Event()

    def interrupt(*_: object) -> None:
        interrupted.set()
        raise TimeoutError

    def own() -> None:
        if at_work:
            signal.raise_signal(signal.SIGINT)

    def job() -> None:
        if not at_work and not interrupted.is_set():
            time.sleep(0.05)  # in which the calling thread most likely begins to wait
            os.kill(os.getpid(), signal.SIGINT)  # which the main thread hears
        interrupted.wait(timeout=60)
        time.sleep(0.05)  # a run that does not wait would be over
        done.append(1)

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        with pytest.raises(TimeoutError):
            pool.run([own, job, lambda: interrupted.wait(timeout=60) and done.append(1)])
        assert len(done) == 2, "a job was still at work"
        pool.run([lambda: done.append(1)] * 3)
        assert len(done) == 5, "the run was over before its jobs were"
    finally:
        signal.signal(signal.SIGINT, before)


def test_the_threads_of_a_pool_end_with_it() -> None:
    pool, before = ThreadPool(3), set(threading.enumerate())
    pool.run([lambda: None] * 3)
    started = set(threading.enumerate()) - before
    assert len(started) == 2
    del pool
    gc.collect()
    for thread in started:
        thread.join(timeout=10)
    assert not any(thread.is_alive() for thread in started)
