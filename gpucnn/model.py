"""`Sequential`: layers one after another."""

from __future__ import annotations

import hashlib
from collections import Counter
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.checks import integer
from gpucnn.errors import InputError
from gpucnn.execution.context import Context
from gpucnn.execution.memory_plan import MemoryPlan, held_bytes, in_units, kept_bytes, table
from gpucnn.execution.out_of_memory import MemoryErrorsExplained, check_memory, largest_batch
from gpucnn.execution.program import Program
from gpucnn.execution.step_graphs import Inferences
from gpucnn.layers.base import Layer, Shape
from gpucnn.layers.containers import Container
from gpucnn.optim.averaging import WeightAverage
from gpucnn.optim.optimizers import Optimizer
from gpucnn.representation import html_table, shape_text

__all__ = ["Sequential"]

Array = Any


class Sequential(Container):
    """A network of layers one after another, itself a layer: `y = f_n(... f_2(f_1(x)))`.

    A layer without a name gets one from its kind and its place: conv2d1, relu1, conv2d2, ... Inside, layers share
    memory; what a call returns is an array of its own.

    Parameters
    ----------
    layers : one or more, none of them in two places

    Raises `InputError` for what is not a list of layers, two layers of one name, and a layer that has its place
    already.

    >>> model = Sequential([Conv2D(6, 5, padding=2), ReLU(), MaxPool2D(2), Flatten(), Dense(10)])
    >>> model.build((28, 28, 1), "cpu", seed=0)
    (10,)
    >>> model(np.zeros((64, 28, 28, 1), np.float32)).shape
    (64, 10)
    >>> len(model), model[0].name, model[-1].w.shape
    (5, 'conv2d1', (1176, 10))
    """

    _inferences: Any = None  # `Inferences`, since it was built

    # ---- building -------------------------------------------------------------------------------------------------

    def build(
        self, input_shape: Shape, backend: Backend | str | None = None, *, max_batch: int = 0, seed: int = 0
    ) -> Shape:
        """Infer all shapes, put all parameters into one arena, draw the weights from `seed`, return the output's shape.

        With `max_batch` the buffers for that many samples are allocated, so that no later pass does. Larger batches
        still work: buffers grow. Raises `InputError` for a shape that does not suit a layer, which leaves everything as
        it was.

        >>> Sequential([Flatten(), Dense(10)]).build((28, 28, 1), "cpu", max_batch=64, seed=0)
        (10,)
        """
        integer(max_batch, f"{self.label}: max_batch", least=0)
        shape = super().build(input_shape, backend, seed=seed)
        if max_batch:
            self.reserve(max_batch)
        return shape

    def reserve(self, batch: int) -> None:
        """Watch what a pass of one sample does, and allocate the buffers for a batch by the plan that follows."""
        with self.backend.on_device(), self.explained(batch):
            self.program.reserve(batch)

    def infer_shape(self, input_shape: Shape) -> Shape:
        for layer in self.layers:
            input_shape = layer.set_input_shape(input_shape)
        return input_shape

    def connect(self, program: Program, x: int) -> int:
        for layer in self.layers:
            x = program.add(layer, x)
        return x

    def bind(self, context: Context) -> None:
        super().bind(context)
        self._inferences = Inferences()

    # ---- memory ---------------------------------------------------------------------------------------------------

    def held_bytes(self) -> int:
        """Return the bytes of the parameters, their gradients and all buffers at present."""
        return 2 * self.arena.values.nbytes + sum(workspace.nbytes for workspace in self.program.workspaces())

    def explained(self, N: int) -> MemoryErrorsExplained:
        """Say of memory that runs out meanwhile which layer asked for it, and which batch fits."""
        return MemoryErrorsExplained(self, N)

    def require_memory(
        self, batch: int, optimizer: Optimizer | None = None, average: WeightAverage | None = None
    ) -> None:
        """Raise `OutOfMemoryError` if a training step does not fit into free memory by plan, and say which batch does.

        A GPU refuses what it does not have; most systems promise it, and end programs that use it.
        """
        run: dict[str, Any] = {"optimizer": optimizer, "average": average}
        check_memory(self.plan(batch, **run), self.backend.free_bytes(), self, **run)

    def largest_batch(
        self, below: int, optimizer: Optimizer | None = None, average: WeightAverage | None = None
    ) -> int:
        """Return the largest batch, less than `below`, whose training step fits into free memory by plan."""
        free = self.backend.free_bytes()
        return below - 1 if free is None else largest_batch(self, free, below, optimizer=optimizer, average=average)

    # ---- running --------------------------------------------------------------------------------------------------

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Check a batch (N, *input_shape) and return the outputs, an array of its own; `train` for `backpropagate`."""
        with self.explained(x.shape[0] if getattr(x, "ndim", 0) else 1):
            return super().__call__(x, train=train)

    def backpropagate(self, dy: Array, *, need_dx: bool = True) -> Array | None:
        """Overwrite the parameters' gradients and return the gradient in the input of the last call with `train=True`.

        `dy` is the gradient of the loss in the outputs. Without `need_dx` the result is None, and its cost is saved.
        """
        with self.explained(self._batch or 1):
            return super().backpropagate(dy, need_dx=need_dx)

    def predict(self, x: Array) -> Array:
        """Return the outputs of a batch, an array of its own: as `model(x)`, which is never recorded.

        A `BatchNorm2D` right after a `Conv2D` is not computed: it is folded into the kernels and the bias, anew in
        each call, unless the kernels are larger than the convolution's output. On a GPU the passes of a batch size are
        recorded as a CUDA graph from the second on; Python code of layers of your own does not run in those that
        follow.

        >>> Sequential([ReLU(), Flatten()]).predict(np.array([[[-1.0], [2.0]]]))
        array([[0., 2.]])
        """
        is_recorded = self.context is not None and self.backend.records
        if not is_recorded or not self.is_transparent:  # a subclass computes something else
            return self(x)
        with self.explained(x.shape[0] if getattr(x, "ndim", 0) else 1):
            self._accept(x)
            self._batch = None
            with self.backend.limit_blas_threads():
                return self._copy(self._inferences.run(self, x))

    # ---- what it holds --------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, np.ndarray]:
        """Copy all weights and state to the host, by full name; `load_state_dict` takes them back.

        >>> model = Sequential([Dense(10), BatchNorm2D()])
        >>> shape = model.build((4,))
        >>> list(model.state_dict())
        ['dense1.w', 'dense1.b', 'batchnorm2d1.gamma', 'batchnorm2d1.beta', 'batchnorm2d1.running']
        """
        return {name: self.backend.to_host(array) for name, array in self.arrays().items()}

    def load_state_dict(self, state: dict[str, np.ndarray]) -> None:
        """Set all weights and state from host arrays; on an error nothing is changed.

        Raises `InputError` where a name is missing or unknown, or a shape is another.

        >>> model, other = Sequential([Dense(10)]), Sequential([Dense(10)])
        >>> shapes = model.build((4,), seed=1), other.build((4,), seed=2)
        >>> model.load_state_dict(other.state_dict())
        >>> model.weights_sha256() == other.weights_sha256()
        True
        """
        arrays = self.arrays()
        if missing := arrays.keys() - state.keys():
            raise InputError(f"{self.label}: the state lacks {', '.join(sorted(missing))}")
        if unknown := state.keys() - arrays.keys():
            raise InputError(
                f"{self.label}: the state has {', '.join(sorted(unknown))}, which this model does not have"
            )
        for name, array in arrays.items():
            if tuple(state[name].shape) != tuple(array.shape):
                raise InputError(
                    f"{self.label}: {name} is {tuple(array.shape)} here and {tuple(state[name].shape)} in the state"
                )
        try:
            values = {name: np.asarray(state[name], np.dtype(str(array.dtype))) for name, array in arrays.items()}
        except (TypeError, ValueError) as error:
            raise InputError(f"{self.label}: the state holds something other than numbers ({error})") from error
        for name, array in arrays.items():
            self.backend.from_host(values[name], out=array)

    def arrays(self) -> dict[str, Array]:
        self._require_shapes("weights")
        return super().arrays()

    def _require_shapes(self, what: str) -> None:
        if self.input_shape is None:
            raise InputError(f"{self.label}: has no {what} yet; call build first")

    def weights_sha256(self) -> str:
        """Return the SHA-256 of all weights: names, shapes and little-endian bytes, in order.

        >>> model = Sequential([Dense(2, initializer="zeros")])
        >>> shape = model.build((3,))
        >>> model.weights_sha256()[:16]
        '8f136094be22bdcb'
        """
        self._require_shapes("weights")
        digest = hashlib.sha256()
        for name, parameter in self.named_parameters():
            value = self.backend.to_host(parameter.value)
            digest.update(f"{name} {value.shape} {value.dtype.name}\n".encode())
            digest.update(np.ascontiguousarray(value, value.dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()

    def plan(
        self,
        batch: int,
        *,
        train: bool = True,
        optimizer: Optimizer | None = None,
        average: WeightAverage | None = None,
    ) -> MemoryPlan:
        """Return what memory a training step with so many samples takes, or an inference, without running it.

        With an optimizer what a `Trainer` holds counts too: what the optimizer keeps for each parameter, the `average`
        of the weights, and a copy of all that, as it was at the start of the epoch. On a CPU the network runs once over
        at most 512 samples of zeros, which shows what the operations themselves need for any number. Raises
        `InputError` before `build`, and for a part of another model.

        >>> model = Sequential([Dense(64, bias=False)])
        >>> shape = model.build((16,), get_backend("cpu", threads=1))
        >>> plan = model.plan(32)
        >>> plan.parameters, plan.kept  # 16*64 weights and 32*64 outputs of four bytes each
        (4096, 8192)
        """
        integer(batch, f"{self.label}: batch", least=1)
        if self.owner is not None:
            raise InputError(f"{self.label}: is a part of {self.owner.label}; plan that instead")
        self._require_shapes("buffers")
        slots = (optimizer.slots if optimizer else 0) + (average is not None)
        return MemoryPlan.of(self, batch, train=train, slots=slots, copies=int(optimizer is not None))

    def summary(self) -> str:
        """Return a table of the layers: name, kind, output, parameters, and what they keep for each sample.

        >>> model = Sequential([Conv2D(6, 5, padding=2), ReLU(), MaxPool2D(2), Flatten(), Dense(10)])
        >>> shape = model.build((28, 28, 1), "cpu")
        >>> print(model.summary())  # doctest: +NORMALIZE_WHITESPACE
        layer       kind       output       parameters  kept per sample
        ---------------------------------------------------------------
        input                  28 x 28 x 1
        conv2d1     Conv2D     28 x 28 x 6         156                -
        relu1       ReLU       28 x 28 x 6           -                -
        maxpool2d1  MaxPool2D  14 x 14 x 6           -          5.88 kB
        flatten1    Flatten    1176                  -                -
        dense1      Dense      10               11,770             40 B
        ---------------------------------------------------------------
        total                                   11,926          5.92 kB
        buffers per sample: 29.4 kB in training, 23.5 kB of them shared; 24.7 kB in inference
        """
        rows, note = self._summary_rows()
        return f"{table(rows, left=3, totals=1)}\n{note}"

    def _repr_html_(self) -> str:
        """Return what `summary` does as a table for notebooks; before `build`, the call that makes the model."""
        if self.context is None:
            return super()._repr_html_()
        rows, note = self._summary_rows()
        return html_table(rows, left=3, totals=1, caption=note.replace("\n", "; "))

    def _summary_rows(self) -> tuple[list[tuple[str, ...]], str]:
        self._require_shapes("shapes")
        program, held = self.program, {}
        for train in (False, True):
            buffers = [one for one in program.traces[train].buffers if one.per_sample and not one.for_dx]
            held[train], kept = held_bytes(buffers, program.slots[train], 1), kept_bytes(buffers, 1)
        rows: list[tuple[str, ...]] = [("layer", "kind", "output", "parameters", "kept per sample")]
        rows.append(("input", "", shape_text(self.input_shape), "", ""))
        for layer in self.layers:
            described = str(layer.name), type(layer).__name__, shape_text(layer.output_shape)
            rows.append((*described, *_counts(layer, kept)))
        rows.append(("total", "", "", *_counts(self, kept)))
        note = (
            f"buffers per sample: {in_units(held[True])} in training, {in_units(held[True] - kept.total())} of them "
            f"shared; {in_units(held[False])} in inference"
        )
        if failure := program.traces[True].failure:
            kind = type(failure).__name__
            note += f"\nnothing shares memory: a pass over one sample of zeros ended with {kind}: {failure}"
        if opaque := [layer.label for layer in self.parts() if layer.is_opaque]:
            note += f"\nnot seen into, so what they receive and return shares no memory: {', '.join(opaque)}"
        return rows, note


def _counts(layer: Layer, kept: Counter[Layer]) -> tuple[str, str]:
    """Return the last columns of `summary`."""
    count = sum(parameter.size for parameter in layer.parameters())
    size = sum(kept[part] for part in layer.parts())
    return f"{count:,}" if count else "-", in_units(size) if size else "-"
