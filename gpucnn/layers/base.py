"""What every layer lr_factors: shapes, parameters, buffers, and the checks at its door."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from gpucnn.backend import Backend, backend_of, get_backend
from gpucnn.backend.memory import Arena, Parameter, Workspace
from gpucnn.checks import integer
from gpucnn.errors import DeviceError, InputError, describe
from gpucnn.execution.lifetimes import Slots, Spec, Value, Walk
from gpucnn.representation import representation

__all__ = ["Context", "Layer", "initialize"]

Array = Any
Shape = tuple[int, ...]


class Context:
    """What the layers of one model share: the backend, the workspace, and the seed of their random streams."""

    def __init__(self, backend: Backend, seed: int = 0):
        self.backend = backend
        self.workspace = Workspace(backend)
        self.slots: Slots = {}  # of the network that computes: which buffers share memory, and where
        self.seed = seed
        self._layers = 0

    def next_layer_id(self) -> int:
        """Return a new number for a layer: it keeps the buffers and the random streams of two layers apart."""
        self._layers += 1
        return self._layers

    def random_key(self, number: int) -> tuple[int, int]:
        """Return the Philox key of the layer with this number, the same on every device."""
        low, high = np.random.SeedSequence((self.seed, number)).generate_state(2)
        return int(low), int(high)


def initialize(arena: Arena, backend: Backend, seed: int) -> None:
    """Draw all weights from one generator, in the order of the parameters."""
    rng = np.random.default_rng(seed)
    for parameter in arena.parameters:
        drawn = parameter.initializer(rng, parameter.shape)
        backend.from_host(np.asarray(drawn, backend.precision), out=parameter.value)


class Layer:
    """One step of a network, with an explicit `forward` and `backward`.

    A subclass writes `infer_shape`, `_forward` and `_backward`. Used alone, a layer builds itself on the first array
    that it is given and stays on that array's device::

        conv = Conv2D(8, 3)
        y = conv.forward(x)          # (N, 28, 28, 1) -> (N, 26, 26, 8), NumPy or CuPy
        dx = conv.backward(dy)       # the gradients are then in conv.w.gradient and conv.b.gradient

    The arrays returned belong to the layer and are overwritten by its next call. (`Flatten`, `Reshape`, `Identity`, and
    `Dropout` outside of training return their input or a view of it.) Inside a network they are overwritten earlier, by
    other layers: look at them through a shorter `Sequential`, or a layer alone. Weights and dropout masks come from the
    seed given to `build`, so two layers alone start alike unless their seeds differ.

    Attributes
    ----------
    keeps : what `_backward` reads of `_forward`: "x", "y", or buffers that `forward_buffers` declares. None, as in a
        class that says nothing, lets a network share nothing that the layer receives or returns
    in_place : which of "y" and "dx" may be written over x and dy
    """

    keeps: tuple[str, ...] | None = None
    in_place: tuple[str, ...] = ()

    def __init__(self, name: str | None = None):
        self.name = name
        self.input_shape: Shape | None = None
        self.output_shape: Shape | None = None
        self.context: Context | None = None
        self.arena: Arena | None = None  # of a layer that was built by itself; inside a model, the model has it
        self.owner: Layer | None = None  # the model that this layer is a part of
        self._device_fixed = False
        self._batch: int | None = None  # samples of the forward pass that a backward pass may follow

    def __repr__(self) -> str:
        return representation(self)

    # ---- for subclasses -------------------------------------------------------------------------------------------

    def infer_shape(self, input_shape: Shape) -> Shape:
        """Check the arguments against the shape of one sample, declare the parameters, return the output's shape."""
        raise NotImplementedError

    def _forward(self, x: Array, train: bool) -> Array:
        raise NotImplementedError

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        raise NotImplementedError

    def forward_buffers(self, train: bool) -> dict[str, Spec]:
        """Return the buffers that `_forward` takes, if `keeps` is declared; without a "y" it returns its input."""
        return {"y": Spec(self.output_shape)}

    def backward_buffers(self, need_dx: bool) -> dict[str, Spec]:
        """Return the buffers that `_backward` takes, if `keeps` is declared; without a "dx" it returns dy."""
        return {"dx": Spec(self.input_shape)} if need_dx else {}

    def workspace_bytes(self, batch: int, *, train: bool = True) -> int:
        """Return what the operations of this layer hold beside their arguments; its parts speak for themselves."""
        return 0

    def _walk_forward(self, walk: Walk, x: Value) -> Value:
        over = x if "y" in self.in_place else ()
        made = walk.call(self, x, self.forward_buffers(walk.train), over)
        known = {"x": x, "y": x} | made
        for name in self.keeps if walk.train else ():
            walk.keep(known.get(name, ()))
        return known["y"]

    def _walk_backward(self, walk: Walk, dy: Value, need_dx: bool) -> Value:
        over = dy if "dx" in self.in_place else ()
        made = walk.call(self, dy, self.backward_buffers(need_dx), over)
        return made.get("dx", dy) if need_dx else ()

    def parts(self) -> Iterator[Layer]:
        """Yield this layer and all that it consists of."""
        yield self

    def parameters(self) -> list[Parameter]:
        """Return what this layer trains, in a fixed order."""
        return []

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter with its name inside this layer: "w"; inside a model "conv2d1.w"."""
        for parameter in self.parameters():
            yield parameter.name, parameter

    def state(self) -> dict[str, Array]:
        """Return what this layer carries from step to step beside its parameters."""
        return {}

    def arrays(self) -> dict[str, Array]:
        """Return all parameters' values and the state, by name."""
        return {name: parameter.value for name, parameter in self.named_parameters()} | self.state()

    @property
    def label(self) -> str:
        """How messages name this layer: `Conv2D "conv1"`."""
        return type(self).__name__ + (f' "{self.name}"' if self.name else "")

    @property
    def backend(self) -> Backend:
        """The backend that this layer is built on."""
        return self.context.backend

    def buffer(self, name: str, shape: Shape, dtype: Any = None) -> Array:
        """Return this layer's buffer `name`, allocated by the first call; in a network it may share its memory."""
        key = self.buffer_key(name)
        slot = self.context.slots.get(key, key)
        return self.context.workspace.take(slot, shape, dtype or self.backend.float_dtype)

    def buffer_key(self, name: str) -> str:
        """Return the name of a buffer among those of all layers."""
        return f"{self.number}.{name}"

    # ---- building -------------------------------------------------------------------------------------------------

    def build(self, input_shape: Shape, backend: Backend | str | None = None, *, seed: int = 0) -> Shape:
        """Prepare the layer for samples of `input_shape`, which leaves out the batch, and return its output's shape.

        Without a backend the layer goes to the device and the precision of the first array that it is given. A shape
        that is refused leaves everything as it was.
        """
        if self.owner is not None:
            raise InputError(f"{self.label}: is a part of {self.owner.label}; build that instead")
        before = [(part, dict(vars(part))) for part in self.parts()]
        try:
            self._set_shapes(self._sizes(input_shape))
        except InputError:
            for part, attributes in before:
                vars(part).clear()
                vars(part).update(attributes)
            raise
        self._device_fixed = backend is not None
        context = Context(get_backend(backend) if isinstance(backend, str) else backend or get_backend("cpu"), seed)
        self._assemble(context)
        initialize(self.arena, context.backend, seed)
        return self.output_shape

    def _sizes(self, shape: object, what: str = "input_shape") -> Shape:
        """Return a shape as a tuple; a number is the only size of one, and `what` names it in the error."""
        sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
        return tuple(integer(size, f"{self.label}: each size of {what}", least=1) for size in sizes)

    def _set_shapes(self, input_shape: Shape) -> Shape:
        output_shape = tuple(self.infer_shape(input_shape))
        self.input_shape, self.output_shape, self._batch = input_shape, output_shape, None
        return output_shape

    def _assemble(self, context: Context) -> None:
        """Put all parameters into one new arena, and bind to the context."""
        if self.arena is not None:
            self.arena.in_use = False
        with context.backend.on_device():
            self.arena = Arena(self.parameters(), context.backend)
            self.bind(context)

    def bind(self, context: Context) -> None:
        """Take the context to compute in; the parameters already lie in an arena."""
        self.context = context
        self.number = context.next_layer_id()

    def reset(self) -> None:
        """Bring `state` to where a new layer has it."""

    def fix_device(self) -> None:
        """Stay on this device and in this precision, whatever array comes: something else now holds the parameters."""
        self._device_fixed = True

    def _move(self, backend: Backend) -> None:
        """Rebuild on another backend with the same weights and state."""
        kept = {name: self.backend.to_host(array) for name, array in self.arrays().items()}
        self._assemble(Context(backend, self.context.seed))
        for name, array in self.arrays().items():
            backend.from_host(kept[name], out=array)

    # ---- running --------------------------------------------------------------------------------------------------

    def forward(self, x: Array, *, train: bool = True) -> Array:
        """Compute the output of a batch (N, *input_shape); with `train`, keep what `backward` will need of it."""
        self._admit(x, train)
        with self.backend.limit_blas_threads():
            return self._forward(x, train)

    def _admit(self, x: Array, train: bool) -> None:
        """Check a batch, and begin a pass of this layer alone."""
        N = self._accept(x)
        self._leave_plan()
        self._batch = N if train else None

    def backward(self, dy: Array, *, need_dx: bool = True) -> Array | None:
        """Overwrite the parameters' gradients and return the gradient in the input of the last `forward`.

        `dy` is the gradient of the loss in the output. Without `need_dx` the result is None, and its cost is saved.
        """
        if self._batch is None:
            raise InputError(f"{self.label}: backward needs a forward with train=True before it")
        self._check(dy, "dy", (self._batch, *self.output_shape))
        self._leave_plan()
        with self.backend.limit_blas_threads():
            return self._backward(dy, need_dx)

    __call__ = forward

    def _leave_plan(self) -> None:
        """Share no memory when called alone: only a whole network calls its parts in the order that was planned."""
        self.context.slots = {}

    def _accept(self, x: Array) -> int:
        """Build or move a layer used alone to where x is, then check x; return the number of samples."""
        self._settle(x, getattr(x, "shape", ())[1:])
        N = x.shape[0] if getattr(x, "ndim", 0) else 0
        self._check(x, "input", (N, *self.input_shape))
        self._check_samples(N)
        return N

    def _settle(self, x: Array, input_shape: Shape) -> None:
        """Build or move a layer used alone to the device and the precision of x."""
        if self._device_fixed:
            return
        backend = backend_of(x, self.label)
        if self.context is None:
            self.build(input_shape, backend)
        elif (backend.name, backend.precision) != (self.backend.name, self.backend.precision):
            self._move(backend)
        self.fix_device()

    def _check_samples(self, N: int) -> None:
        if N == 0:
            raise InputError(f"{self.label}: received an empty batch; give at least one sample")

    def _check(self, array: Array, what: str, shape: Shape) -> None:
        backend = self.backend
        if not backend.owns(array):
            raise DeviceError(
                f"{self.label}: built on {backend.name}, but its {what} is a {describe(array)}; move the array there "
                f"with backend.from_host/to_host, or build the layer on the array's device"
            )
        if array.dtype != backend.float_dtype:
            raise InputError(
                f"{self.label}: expected {what} of dtype {backend.precision}, received {array.dtype}; convert "
                f"it with astype, or build the layer for that precision"
            )
        if tuple(array.shape) != shape:
            expected = ", ".join(map(str, shape if what == "dy" else ("N", *shape[1:])))
            raise InputError(
                f"{self.label}: expected {what} of shape ({expected}), received {tuple(array.shape)}; reshape it, or "
                f"build the layer for that shape"
            )

    def _image_shape(self, input_shape: Shape) -> tuple[int, int, int]:
        """Return (H, W, C), or say that an image is expected."""
        if len(input_shape) != 3:
            raise InputError(
                f"{self.label}: expected images of shape (H, W, C), received samples of shape {tuple(input_shape)}; "
                f"use channels last, and one channel axis even for grey images"
            )
        return input_shape

    def _channels(self, input_shape: Shape) -> int:
        """Return C, the last size, or say that there is none."""
        if not input_shape:
            raise InputError(f"{self.label}: expected samples of shape (..., C), received (); reshape (N,) to (N, 1)")
        return input_shape[-1]
