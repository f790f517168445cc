"""Threads that work side by side, with a BLAS that meanwhile uses one."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context

from threadpoolctl import ThreadpoolController

__all__ = ["Crew", "core_count"]

Job = Callable[[], object]


def core_count() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Crew:
    """A fixed number of threads, the caller's own among them.

    BLAS libraries have threads of their own, and the two kinds together are slower than either alone. So BLAS is held
    to one thread while the crew works, and has afterwards what it had before.
    """

    def __init__(self, threads: int):
        self._threads = threads
        self._blas = ThreadpoolController().select(user_api="blas").lib_controllers
        self._holds_blas = False
        self._hire()

    def _hire(self) -> None:
        """Get the other threads; a process that was forked has to do so again."""
        self._process = os.getpid()
        self._others = ThreadPoolExecutor(self._threads - 1, "gpucnn") if self._threads > 1 else None

    def run(self, jobs: Sequence[Job]) -> None:
        """Do all jobs, at most one for each thread, and return when they are done; their errors are raised here."""
        if self._process != os.getpid():
            self._hire()
        with self.at_work():
            first, *others = jobs
            pending = [self._others.submit(copy_context().run, job) for job in others]  # with the caller's np.errstate
            try:
                first()
            finally:
                errors = [job.exception() for job in pending]  # waits: nothing may still write when this returns
            for error in filter(None, errors):
                raise error

    @contextmanager
    def at_work(self) -> Iterator[None]:
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
