"""Threads that work side by side, with a BLAS that meanwhile uses one."""

from __future__ import annotations

import contextlib
import functools
import os
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextvars import copy_context
from typing import Any

from threadpoolctl import ThreadpoolController

__all__ = ["ThreadPool", "core_count"]

Job = Callable[[], object]


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Task:
    """A job, and whether it is done.

    The lock only wakes who waits; the flag says that it is over. So an interruption that comes after the lock was
    taken, and one that comes before, are both followed by another look.
    """

    def __init__(self, job: Job):
        self.job = job
        self.error: BaseException | None = None
        self.is_done = False
        self._done = threading.Lock()
        self._done.acquire()

    def do(self) -> None:
        """Do the job, in the thread that has it."""
        try:
            self.job()
        except BaseException as error:  # raised again where the job came from
            self.error = error
        self.is_done = True
        self._done.release()

    def wait(self) -> None:
        """Wait for the end."""
        while not self.is_done:
            self._done.acquire()


class Worker:
    """A thread that does one task at a time.

    A lock that the thread waits for passes on the work in half of the time of a queue, as `concurrent.futures` has it:
    16 microseconds instead of 41 until the job begins.
    """

    def __init__(self):
        self._begin = threading.Lock()
        self._begin.acquire()
        self._task: Task | None = None
        threading.Thread(target=self._work, name="gpucnn", daemon=True).start()

    def _work(self) -> None:
        while True:
            self._begin.acquire()
            task, self._task = self._task, None
            if task is None:
                return
            task.do()
            del task  # nothing that it refers to is kept

    def start(self, task: Task | None) -> None:
        """Give the thread a task, or None to end it."""
        self._task = task
        self._begin.release()


def shutdown(workers: Sequence[Worker]) -> None:
    """End the threads."""
    for worker in workers:
        with contextlib.suppress(RuntimeError):  # one that was interrupted has yet to take what it was given last
            worker.start(None)


def wait_for_all(tasks: Sequence[Task]) -> BaseException | None:
    """Wait for the end of all tasks, which still write, whatever signals come; return what the last of these raised."""
    interruption = None
    while True:
        try:
            for task in tasks:
                task.wait()
            return interruption
        except BaseException as error:  # what a signal's handler raised
            interruption = error


class ThreadPool:
    """A fixed number of threads, the caller's own among them.

    BLAS libraries have threads of their own, and the two kinds together are slower than either alone. So BLAS is held
    to one thread while these work, and has afterwards what it had before.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._holds_blas = False
        self._process: int | None = None  # in which the others were started
        self._free = threading.Lock()

    @functools.cached_property
    def _blas(self) -> list[Any]:
        """The BLAS libraries of the process; looking for them takes milliseconds, which workers are spared."""
        return ThreadpoolController().select(user_api="blas").lib_controllers

    def _start(self) -> None:
        """Start the other threads; a process that was forked has to do so again."""
        self._process = os.getpid()
        self._others = [Worker() for _ in range(self._threads - 1)]
        self._shutdown = weakref.finalize(self, shutdown, self._others)

    def run(self, jobs: Sequence[Job]) -> None:
        """Do all jobs, at most one for each thread, and return when they are done; their errors are raised here."""
        if not self._free.acquire(blocking=False):  # they work for another thread of the caller's
            for job in jobs:
                job()
            return
        try:
            with self.limit_blas_threads():
                self._share(jobs)
        finally:
            self._free.release()

    def _share(self, jobs: Sequence[Job]) -> None:
        if self._process != os.getpid():
            self._start()
        first, *others = jobs
        tasks = [Task(functools.partial(copy_context().run, job)) for job in others]  # with the caller's np.errstate
        started: list[Task] = []
        try:
            for worker, task in zip(self._others, tasks, strict=False):
                worker.start(task)
                started.append(task)
            first()
        except BaseException:
            wait_for_all(started)
            self._leave()
            raise
        interruption = wait_for_all(started)  # nothing may still write when this returns
        for error in filter(None, [*(task.error for task in tasks), interruption]):
            raise error

    def _leave(self) -> None:
        """Start others next time: an interruption may have come anywhere."""
        self._process = None
        self._shutdown()

    @contextlib.contextmanager
    def limit_blas_threads(self) -> Iterator[None]:
        """Hold BLAS to one thread for a while; within that, again at no cost."""
        if self._holds_blas:
            yield
            return
        before = [library.get_num_threads() for library in self._blas]
        try:
            self._holds_blas = True
            self._set([1] * len(before))
            yield
        finally:
            self._holds_blas = False
            self._set(before)

    def _set(self, threads: Sequence[int]) -> None:
        for library, count in zip(self._blas, threads, strict=True):
            library.set_num_threads(count)
