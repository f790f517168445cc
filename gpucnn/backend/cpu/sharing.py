"""How the threads of a CPU share an operation: each computes a part as one thread computes the whole."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Any, TypeVar

from gpucnn.backend.reference import Backend

__all__ = ["CONVOLUTION", "PASS", "POOLING", "shared"]

# Bytes of an array from which on it is worth sharing: telling a thread takes some 40 microseconds, half of them to wake
# it, and the threads wait for each other's Python; one alone computes this much of a convolution, a pooling, and a
# single pass meanwhile.
CONVOLUTION, POOLING, PASS = 1 << 18, 1 << 20, 1 << 22

Operation = TypeVar("Operation", bound=Callable)


def shared(*rows: str, min_bytes: int = PASS) -> Callable[[Operation], Operation]:
    """Let each thread compute some rows of an operation: samples of a batch, or elements of an arena.

    `rows` are the arguments that have these rows, among them all results, which are keywords; a row of a result must
    depend on those alone. The first of them has at least `min_bytes`, else the thread that calls computes all.
    """

    def share(operation: Operation) -> Operation:
        _, *parameters = inspect.signature(operation).parameters.values()
        order = [parameter.name for parameter in parameters]
        results = [
            parameter.name
            for parameter in parameters
            if parameter.kind == parameter.KEYWORD_ONLY and parameter.annotation == "Array"
        ]
        in_reference = inspect.signature(getattr(Backend, operation.__name__, operation)).parameters
        known = [name for name in order if name in in_reference]
        if unknown := [row for row in rows if row not in known]:
            raise TypeError(f"{operation.__name__}: cannot share the rows of {unknown}; its arguments are {known}")
        if whole := [result for result in results if result not in rows]:
            raise TypeError(f"{operation.__name__}: each thread would write all of {whole}; share their rows too")

        @functools.wraps(operation)
        def whole_or_shared(self, *arguments: Any, **keywords: Any) -> Any:
            if self.threads == 1:
                return operation(self, *arguments, **keywords)
            given = dict(zip(order, arguments, strict=False)) | keywords
            if not self.shares(given[rows[0]], min_bytes) or any(given.get(row) is None for row in rows):
                return operation(self, *arguments, **keywords)

            def job(worker: Backend, part: slice) -> Callable[[], Any]:
                own = given | {row: given[row][part] for row in rows}
                if "x_shape" in own:
                    own["x_shape"] = (part.stop - part.start, *own["x_shape"][1:])
                return functools.partial(operation, worker, **own)

            self.run(list(map(job, self.workers, self.parts(len(given[rows[0]])))))
            returned = tuple(given[result] for result in results)
            return returned if len(returned) > 1 else next(iter(returned), None)

        return whole_or_shared

    return share
