"""A `Case`, one call of an operation, and one way to run it on any backend."""

from __future__ import annotations

import inspect
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gpucnn.backend.reference import Backend

FLOATS = ("float32", "float64")
LAYOUTS = ("strided", "transposed")
TOTALS = (10.5, 3.0, 8.0, 8.0)
SAMPLED = 12

# Losses that are sums of a function of one output and its target.
ELEMENT_LOSSES = (
    *("mean_squared_error", "squared_error", "mean_squared_log_error"),
    *("absolute_error", "mean_absolute_error", "mean_absolute_percentage_error"),
    *("binary_cross_entropy", "huber", "hinge"),
)

# What an operation writes or updates, in the order in which its oracle returns it; ("out",) unless listed.
RESULTS = {
    "conv2d_dw_db": ("dw", "db"),
    "dense_dw_db": ("dw", "db"),
    "max_pool2d": ("out", "argmax"),
    "adaptive_max_pool2d": ("out", "argmax"),
    "dropout": ("out", "mask", "counter"),
    "softmax_cross_entropy": ("loss", "dx", "totals"),
    "soft_cross_entropy": ("loss", "dx", "totals"),
    "label_targets": ("out", "norm"),
    "sigmoid_cross_entropy": ("loss", "dx", "totals"),
    **dict.fromkeys(ELEMENT_LOSSES, ("loss", "dx", "totals")),
    "prelu_dslope": ("dslope",),
    "sgd_step": ("w", "v"),
    "batch_norm": ("out", "mean_rstd", "running"),
    "batch_norm_dx": ("out", "dgamma", "dbeta"),
    "fold_batch_norm": ("folded_w", "folded_b"),
    "group_norm": ("out", "mean_rstd"),
    "group_norm_dx": ("out", "dgamma", "dbeta"),
    "adam_step": ("w", "m", "v", "powers"),
    "rmsprop_step": ("w", "v", "b"),
    "adagrad_step": ("w", "v"),
    "clip_norm": ("g",),
    "apply_scheduled_rate": ("clock", "hyperparameters"),
    "average_step": ("mean", "total_weight"),
    "gather_batch": ("x", "y", "cursor"),
}

# How many of them, from the first, the operation returns; all outputs unless listed.
RETURNED = {
    "conv2d_dw_db": 0,
    "dense_dw_db": 0,
    "softmax_cross_entropy": 1,
    "soft_cross_entropy": 1,
    "sigmoid_cross_entropy": 1,
    **dict.fromkeys(ELEMENT_LOSSES, 1),
    "prelu_dslope": 0,
    "sgd_step": 0,
    "batch_norm_dx": 1,
    "fold_batch_norm": 0,
    "group_norm_dx": 1,
    "adam_step": 0,
    "rmsprop_step": 0,
    "adagrad_step": 0,
    "clip_norm": 0,
    "apply_scheduled_rate": 0,
    "average_step": 0,
    "gather_batch": 0,
}


@dataclass(frozen=True)
class Output:
    """Shape and dtype of a result array that the caller provides."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class Case:
    """One call of an operation.

    `arguments` maps names to NumPy arrays, lists of them, windows and numbers; `outputs` maps keywords to result
    arrays to provide; `changed` names the arguments that are updated in place; `layouts` names those that lie
    "strided" or "transposed" in memory. `terms` values of size about `scale` are summed into each result.
    `smooth` says that derivatives exist; `large` that nested loops would take too long;
    `slow` that a quick run leaves it out.
    """

    operation: str
    label: str
    dtype: str
    arguments: dict[str, Any]
    outputs: dict[str, Output]
    changed: tuple[str, ...] = ()
    layouts: dict[str, str] = field(default_factory=dict)
    terms: int = 1
    scale: float = 1.0
    smooth: bool = True
    large: bool = False
    slow: bool = False

    def __str__(self) -> str:
        return f"{self.operation}-{self.label}-{self.dtype}".replace(" ", "_")

    @property
    def returned(self) -> list[str]:
        """Names of what the operation returns."""
        names = list(self.outputs) if self.operation not in RETURNED else [RESULTS[self.operation][0]]
        return names[: RETURNED.get(self.operation, len(names))]


# ---- running a case ----------------------------------------------------------------------------------------


def sentinel(dtype: Any) -> float | int:
    """A value that no case produces: NaN, or a number out of the ordinary."""
    kind = np.dtype(dtype).kind
    return float("nan") if kind == "f" else 171 if kind == "u" else -77


def place(backend: Backend, array: np.ndarray, layout: str | None) -> tuple[Any, Any]:
    """Put an array on the backend's device; returns (the whole of its memory, the array as a view of it)."""
    if layout == "strided":  # every second element along the last axis, sentinels between them
        whole = np.full((*array.shape[:-1], 2 * array.shape[-1] + 1), sentinel(array.dtype), array.dtype)
        whole[..., 1::2] = array
        whole = backend.from_host(whole)
        return whole, whole[..., 1::2]
    if layout == "transposed":  # the last axis is the slowest
        whole = backend.from_host(np.ascontiguousarray(array.transpose()))
        if hasattr(whole, "transpose"):
            return whole, whole.transpose()
        return whole, backend.xp.permute_dims(whole, tuple(reversed(range(array.ndim))))
    whole = backend.from_host(array)
    return whole, whole


def assert_same_bits(actual: np.ndarray, expected: np.ndarray, what: str) -> None:
    assert (actual.shape, actual.dtype) == (expected.shape, expected.dtype), f"{what} was changed"
    assert actual.tobytes() == expected.tobytes(), f"{what} was changed"


def run(backend: Backend, case: Case, *, give_outputs: bool = True) -> dict[str, np.ndarray]:
    """Run a case; return its results, and what it updated in place, as NumPy arrays.

    Outputs are provided full of sentinels, or, without `give_outputs`, left out where they can be. Checks
    that results have their shape and dtype and are the arrays provided, and that no other argument changed.
    """
    method = getattr(backend, case.operation)
    wholes, arguments = {}, dict(case.arguments)
    for name, value in case.arguments.items():
        layout = case.layouts.get(name)
        if isinstance(value, np.ndarray):
            wholes[name], arguments[name] = place(backend, value, layout)
        elif isinstance(value, list):
            placed = [place(backend, array, layout) for array in value]
            wholes |= {f"{name}[{number}]": whole for number, (whole, _) in enumerate(placed)}
            arguments[name] = [view for _, view in placed]
    before = {name: backend.to_host(whole) for name, whole in wholes.items()}
    parameters = inspect.signature(getattr(Backend, case.operation)).parameters
    outputs = {
        name: backend.from_host(np.full(output.shape, sentinel(output.dtype), output.dtype))
        for name, output in case.outputs.items()
        if give_outputs or parameters[name].default is inspect.Parameter.empty
    }

    value = method(**arguments, **outputs)

    for name, whole in wholes.items():
        if name not in case.changed:
            assert_same_bits(backend.to_host(whole), before[name], f"{case}: argument {name}")
    values = value if isinstance(value, tuple) else () if value is None else (value,)
    results = dict(zip(case.returned, values, strict=True))
    for name, output in outputs.items():
        assert results.get(name, output) is output, f"{case}: returns another {name} than was provided"
    results |= outputs
    results |= {name: arguments[name] for name in case.changed}
    hosts = {name: backend.to_host(result) for name, result in results.items()}
    for name, host in hosts.items():
        argument = case.arguments.get(name)
        declared = case.outputs.get(name) or Output(argument.shape, argument.dtype.name)
        assert (host.shape, host.dtype.name) == (declared.shape, declared.dtype), f"{case}: {name}"
    return hosts


# ---- drawing numbers ---------------------------------------------------------------------------------------


class Draw:
    """Numbers for one case, the same in every run because they are seeded by its name."""

    def __init__(self, name: str, dtype: str):
        self.random = np.random.default_rng(zlib.crc32(name.encode()))
        self.dtype = dtype

    def normal(self, *shape: int) -> np.ndarray:
        return self.random.standard_normal(shape).astype(self.dtype)

    def uniform(self, *shape: int) -> np.ndarray:
        return self.random.uniform(0.05, 0.95, shape).astype(self.dtype)

    def few(self, *shape: int) -> np.ndarray:
        """Small whole numbers, with many ties and zeros of both signs."""
        numbers = self.random.integers(-2, 3, shape).astype(self.dtype)
        return np.where(self.random.random(shape) < 0.5, -numbers, numbers).astype(self.dtype)

    def labels(self, N: int, K: int) -> np.ndarray:
        return self.random.integers(0, K, N).astype(np.int32)


CASES: list[Case] = []
Generator = Callable[[str], Iterator[Case]]


def cases_of(generator: Generator) -> Generator:
    """Add a generator's cases for every float dtype to `CASES`; one in `SAMPLED` of an operation is for quick runs."""
    for dtype in FLOATS:
        number: Counter[str] = Counter()
        for case in generator(dtype):
            CASES.append(replace(case, slow=number[case.operation] % SAMPLED != 0))
            number[case.operation] += 1
    return generator


def fields(further: dict[str, Any], *names: str) -> dict[str, Any]:
    """Give each named argument the layout that `further` asks for."""
    if "layouts" in further:
        return {**further, "layouts": dict.fromkeys(names, further["layouts"])}
    return further
