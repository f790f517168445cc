"""What every layer shares: shapes, parameters, buffers, and the checks at its door."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, ClassVar

import numpy as np

from gpucnn.backend import Backend, backend_of, get_backend
from gpucnn.backend.memory import Arena, Parameter
from gpucnn.checks import integer
from gpucnn.errors import DeviceError, InputError, describe
from gpucnn.execution.context import Context
from gpucnn.execution.step_graphs import Attributes
from gpucnn.representation import html_table, representation, settings

__all__ = ["Array", "Layer", "Shape", "initialize", "is_builtin"]

Array = Any
Shape = tuple[int, ...]
LEFT_BY_PASSES = frozenset({"x", "y", "argmax", "mask", "mean_rstd", "_batch"})  # attributes of the library's layers
Check = Callable[[Any, str], Any]  # (value, what it is) -> the value as it is kept


def is_builtin(kind: type) -> bool:
    """Whether a class is one of the library's."""
    return kind.__module__.startswith("gpucnn.")


def initialize(arena: Arena, backend: Backend, seed: int) -> None:
    """Draw all weights from one generator, in the order of the parameters."""
    rng = np.random.default_rng(seed)
    for parameter in arena.parameters:
        drawn = parameter.initializer(rng, parameter.shape)
        backend.from_host(np.asarray(drawn, backend.precision), out=parameter.value)


class Layer:
    """One step of a network: arrays (N, *input_shape) -> (N, *output_shape), and gradients back.

    Called as `y = layer(x)` it infers; after `y = layer(x, train=True)`, `dx = layer.backpropagate(dy)` returns the
    gradient in x and leaves those of the parameters in `layer.w.gradient`. So called, a layer checks what it is given,
    builds itself on the first array, stays on that array's device, and returns arrays of its own. Weights and dropout
    masks come from the seed given to `build`, so two layers alone start alike unless their seeds differ.

    A class of your own defines `infer_shape`, `forward` and `backward`, which networks call and which trust their
    arguments. Its parameters are attributes of the class `Parameter`. Layers that it consists of are attributes, too:
    in its `infer_shape` it passes the shape on to them by `set_input_shape`, and `forward` and `backward` call theirs.

    >>> from gpucnn.backend.memory import Parameter
    >>> class Scale(Layer):
    ...     def infer_shape(self, input_shape):
    ...         self.factor = Parameter("factor", (1,), lambda rng, shape: np.full(shape, 2.0))
    ...         return input_shape
    ...
    ...     def forward(self, x, *, train):
    ...         self.x = x
    ...         return self.factor.value * x
    ...
    ...     def backward(self, dy, *, need_dx):
    ...         self.factor.gradient[...] = (dy * self.x).sum()
    ...         return self.factor.value * dy if need_dx else None
    >>> scale = Scale()
    >>> scale(np.array([[3.0, 4.0]]), train=True)
    array([[6., 8.]])
    >>> scale.backpropagate(np.array([[1.0, 10.0]]))
    array([[ 2., 20.]])
    >>> scale.factor.gradient  # 1*3 + 10*4
    array([43.])

    Attributes
    ----------
    from_operations : whether `forward` and `backward` touch arrays by operations of `self.backend` alone, which a
        network watches to let buffers share memory. It speaks for the class that says so, and for classes derived from
        it that redefine nothing
    per_sample : whether each sample is treated by itself, so that threads may share a batch; as far as it speaks
    changeable : settings that may be changed in a layer that is built, each with the function that checks it

    Raises
    ------
    InputError
        For an array of another shape or dtype than the layer was built for, an empty batch, a wrong setting, or one
        that is fixed.
    DeviceError
        For an array that is not on the layer's device.
    """

    from_operations: ClassVar[bool] = False
    per_sample: ClassVar[bool] = False
    changeable: ClassVar[Mapping[str, Check]] = {}
    arguments: ClassVar[frozenset[str]] = frozenset({"name"})  # of the library's class, and of those before it

    name: str | None
    context: Any = None  # a `Context`, since it was built
    arena: Any = None  # an `Arena`, of a layer that was built by itself; inside a network, the network has it
    owner: Layer | None = None  # the layer that this one is a part of
    id: int = 0
    input_shape: Any = None
    output_shape: Any = None
    x: Array = None  # what `forward` may leave for `backward`
    y: Array = None
    _device_is_fixed: bool = False
    _batch: int | None = None  # samples of the forward pass that a backward pass may follow

    def __init_subclass__(cls, **keywords: Any) -> None:
        super().__init_subclass__(**keywords)
        if is_builtin(cls):
            cls.arguments |= frozenset(inspect.signature(cls.__init__).parameters) - {"self"}

    def __init__(self, name: str | None = None):
        self.name = name

    def __repr__(self) -> str:
        return representation(self)

    def _repr_html_(self) -> str:
        """Return the settings, and what is known once a shape is, as a table for notebooks."""
        rows: list[tuple[str, object]] = [(self.label, "")]
        rows += [(name, text) for name, text in settings(self).items() if name != "name"]
        if self.input_shape is not None:
            rows += [("input", self.input_shape), ("output", self.output_shape)]
            rows += [(f"parameter {name}", parameter.shape) for name, parameter in self.named_parameters()]
        return html_table(rows, left=2)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute; in a layer that is built, a setting takes effect at once or is refused."""
        if name not in LEFT_BY_PASSES and self.context is not None:
            value = self._changed(name, value)
        object.__setattr__(self, name, value)

    def _changed(self, name: str, value: Any) -> Any:
        """Return what an attribute of a built layer is set to, or refuse."""
        kind = type(self)
        if name in kind.changeable:
            value = kind.changeable[name](value, f"{self.label}: {name}")
            self.context.version += 1
        elif name in kind.arguments:
            raise InputError(f"{self.label}: {name} is fixed when the layer is built; make a new layer with {name}=...")
        elif isinstance(vars(self).get(name), Parameter):
            raise InputError(f"{self.label}: {name} stays where it is; write into it: layer.{name}.value = array")
        elif is_builtin(kind) and name not in vars(self) and not hasattr(kind, name):
            settings = ", ".join(kind.changeable) or "no"
            raise InputError(f"{self.label}: does not have {name!r} to set; {settings} settings can be changed here")
        return value

    # ---- for authors of layers --------------------------------------------------------------------------------------

    def infer_shape(self, input_shape: Any) -> Shape:
        """Check the arguments against the shape of one sample, make the parameters, return the output's shape.

        Users of a layer call `build`, and a layer that consists of others calls their `set_input_shape`. Raises
        `InputError` where the shape does not suit.
        """
        raise NotImplementedError(f"{type(self).__name__}: defines no infer_shape(self, input_shape)")

    def forward(self, x: Array, *, train: bool) -> Array:
        """Return the output of a batch (N, *input_shape); with `train`, keep what `backward` will need of it."""
        raise NotImplementedError(f"{type(self).__name__}: defines no forward(self, x, *, train)")

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        """Overwrite the gradients of the parameters, and return the gradient in x, or None without `need_dx`."""
        raise NotImplementedError(f"{type(self).__name__}: defines no backward(self, dy, *, need_dx)")

    def buffer(
        self, name: str, shape: Shape, dtype: Any = None, *, per_sample: bool = True, min_batch: int = 1
    ) -> Array:
        """Return memory for a result: a new array where the layer is called alone, else a place in its network's plan.

        Its size grows with the batch if it is `per_sample`; batches below `min_batch` do not take it. What is in it is
        whatever was left there.

        >>> relu = ReLU()
        >>> shape = relu.build((4,))
        >>> relu.buffer("y", (2, 4)).shape
        (2, 4)
        """
        memory, backend = self.context.memory, self.context.backend
        if memory is None:
            return backend.empty(shape, dtype)
        return memory.take(self, name, shape, dtype or backend.float_dtype, per_sample, min_batch)

    def set_input_shape(self, input_shape: Any) -> Shape:
        """Infer the output's shape, and take note of both; for a layer that passes the shape on to its parts.

        >>> pool = MaxPool2D(2)
        >>> pool.set_input_shape((28, 28, 3))
        (14, 14, 3)
        >>> pool.input_shape, pool.output_shape
        ((28, 28, 3), (14, 14, 3))
        """
        output_shape = tuple(self.infer_shape(input_shape))
        self.input_shape, self.output_shape, self._batch = input_shape, output_shape, None
        for name, child in self.children().items():
            child.owner = self
            if child.input_shape is None:
                raise InputError(
                    f"{self.label}: its part {name} has no shape yet; call self.{name}.set_input_shape(shape) in "
                    f"infer_shape"
                )
        return output_shape

    def workspace_bytes(self, batch: int, *, train: bool = True) -> int:
        """Return what the operations of this layer hold beside their arguments; its parts speak for themselves."""
        return 0

    def state(self) -> dict[str, Array]:
        """Return what this layer carries from step to step beside its parameters.

        >>> norm = BatchNorm2D()
        >>> shape = norm.build((3,))
        >>> norm.state()["running"]  # the mean and the variance of each channel
        array([[0., 0., 0.],
               [1., 1., 1.]], dtype=float32)
        """
        children = self.children().items()
        return {f"{name}.{key}": array for name, child in children for key, array in child.state().items()}

    def bind(self, context: Context) -> None:
        """Take the context to compute in; the parameters already lie in an arena."""
        self.context = context
        self.id = context.next_layer_id()
        for child in self.children().values():
            child.bind_as_part(context)

    def reset(self) -> None:
        """Bring `state` to where a new layer has it."""
        for child in self.children().values():
            child.reset()

    @property
    def is_transparent(self) -> bool:
        """Whether it is a container whose parts a network calls in its place."""
        return False

    @property
    def is_opaque(self) -> bool:
        """Whether it may touch arrays otherwise than by the backend's operations, of which a network sees nothing.

        >>> class Doubled(ReLU):
        ...     def forward(self, x, *, train):
        ...         return 2 * super().forward(x, train=train)
        >>> ReLU().is_opaque, Doubled().is_opaque
        (False, True)
        """
        return not (self.from_operations and self._speaks("from_operations"))

    @property
    def is_per_sample(self) -> bool:
        """Whether it is known, and worth while, that each thread computes some of the samples.

        >>> ReLU().is_per_sample, BatchNorm2D().is_per_sample
        (True, False)
        """
        return self.per_sample and not self.is_opaque and self._speaks("per_sample")

    def _speaks(self, declaration: str) -> bool:
        """Whether a declaration holds: not if something of the class that makes it, or of ours, is redefined."""
        methods = ((name, getattr(type(self), name, None)) for name in vars(self))
        redefined = {name for name, method in methods if callable(method)}
        for kind in type(self).__mro__:
            if declaration in vars(kind) or is_builtin(kind):
                return not any(hasattr(kind, name) for name in redefined)
            redefined.update(name for name in vars(kind) if not name.startswith("__"))
        return False

    # ---- parts ------------------------------------------------------------------------------------------------------

    def children(self) -> dict[str, Layer]:
        """Return the layers that this one consists of, by name: in its attributes, and in lists and dicts there.

        >>> Sequential([Flatten(), Dense(10)]).children()
        {'flatten1': Flatten(), 'dense1': Dense(10)}
        """
        found: dict[str, Layer] = {}
        for name, value in vars(self).items():
            if name != "owner":
                found.update(_layers_in(name, value))
        return found

    def parts(self) -> Iterator[Layer]:
        """Yield this layer and all that it consists of.

        >>> [part.label for part in Residual(ReLU()).parts()]
        ['Residual', 'ReLU "relu1"', 'Identity "identity1"', 'Add "add1"']
        """
        yield self
        for child in self.children().values():
            yield from child.parts()

    def parameters(self) -> list[Parameter]:
        """Return what this layer trains, in a fixed order; none before it is built.

        >>> dense = Dense(10)
        >>> shape = dense.build((4,))
        >>> dense.parameters()
        [Parameter('w', (4, 10)), Parameter('b', (10,))]
        """
        return [parameter for _, parameter in self.named_parameters()]

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Yield each parameter with its name inside this layer: "w"; inside a model "conv2d1.w".

        >>> model = Sequential([Conv2D(8, 3), Flatten(), Dense(10)])
        >>> shape = model.build((8, 8, 1))
        >>> [name for name, parameter in model.named_parameters()]
        ['conv2d1.w', 'conv2d1.b', 'dense1.w', 'dense1.b']
        """
        for value in vars(self).values():
            if isinstance(value, Parameter):
                yield value.name, value
        for name, child in self.children().items():
            for inner, parameter in child.named_parameters():
                yield f"{name}.{inner}", parameter

    def arrays(self) -> dict[str, Array]:
        """Return all parameters' values and the state, by name.

        >>> norm = BatchNorm2D()
        >>> shape = norm.build((3,))
        >>> {name: array.shape for name, array in norm.arrays().items()}
        {'gamma': (3,), 'beta': (3,), 'running': (2, 3)}
        """
        return {name: parameter.value for name, parameter in self.named_parameters()} | self.state()

    @property
    def label(self) -> str:
        """How messages name this layer.

        >>> Conv2D(8, 3).label, Conv2D(8, 3, name="first").label
        ('Conv2D', 'Conv2D "first"')
        """
        return type(self).__name__ + (f' "{self.name}"' if self.name else "")

    @property
    def backend(self) -> Any:
        """The backend that this layer is built on."""
        if self.context is None:
            raise InputError(f"{self.label}: is not built yet; call it on an array, or call build")
        return self.context.backend

    # ---- building ---------------------------------------------------------------------------------------------------

    def build(self, input_shape: Shape, backend: Backend | str | None = None, *, seed: int = 0) -> Shape:
        """Prepare the layer for samples of `input_shape`, which leaves out the batch, and return its output's shape.

        Without a backend the layer goes to the device and the precision of the first array that it is given. A shape
        that is refused, by an `InputError`, leaves everything as it was.

        >>> Conv2D(8, 3).build((28, 28, 1))
        (26, 26, 8)
        """
        if self.owner is not None:
            raise InputError(f"{self.label}: is a part of {self.owner.label}; build that instead")
        before = [(part, dict(vars(part))) for part in self.parts()]
        try:
            for part, _ in before:
                part.context = None
            self.set_input_shape(self._sizes(input_shape))
        except InputError:
            for part, attributes in before:
                vars(part).clear()
                vars(part).update(attributes)
            raise
        self._device_is_fixed = backend is not None
        context = Context(get_backend(backend) if isinstance(backend, str) else backend or get_backend("cpu"), seed)
        self._assemble(context)
        initialize(self.arena, context.backend, seed)
        return self.output_shape

    def _sizes(self, shape: object, what: str = "input_shape") -> Any:
        """Return a shape as a tuple; a number is the only size of one, and `what` names it in the error."""
        sizes = shape if isinstance(shape, (tuple, list)) else (shape,)
        return tuple(integer(size, f"{self.label}: each size of {what}", least=1) for size in sizes)

    def _assemble(self, context: Context) -> None:
        """Put all parameters into one new arena, and bind to the context."""
        if self.arena is not None:
            self.arena.in_use = False
        with context.backend.on_device():
            self.arena = Arena(self.parameters(), context.backend)
            self.bind(context)

    def bind_as_part(self, context: Context) -> None:
        """Take the context of the network that this layer is a part of."""
        if self.arena is not None:  # it was built alone before
            self.arena.in_use, self.arena = False, None
        self.bind(context)
        self.fix_device()

    def fix_device(self) -> None:
        """Stay on this device and in this precision, whatever array comes: something else now holds the parameters."""
        self._device_is_fixed = True

    def _move(self, backend: Backend) -> None:
        """Rebuild on another backend with the same weights and state."""
        kept = {name: self.backend.to_host(array) for name, array in self.arrays().items()}
        self._assemble(Context(backend, self.context.seed))
        for name, array in self.arrays().items():
            backend.from_host(kept[name], out=array)

    # ---- calling ----------------------------------------------------------------------------------------------------

    def __call__(self, x: Array, *, train: bool = False) -> Array:
        """Check a batch (N, *input_shape) and return the output, an array of its own; `train` for `backpropagate`.

        Raises `InputError` for another shape or dtype than the layer was built for, and `DeviceError` for another
        device.
        """
        N = self._accept(x)
        y = self._pass(self.forward, x, train=train)
        self._batch = N if train else None
        return y

    def backpropagate(self, dy: Array, *, need_dx: bool = True) -> Array | None:
        """Overwrite the parameters' gradients and return the gradient in the input of the last call with `train=True`.

        `dy` is the gradient of the loss in the output. Without `need_dx` the result is None, and its cost is saved.
        Raises `InputError` without such a call, or where `dy` has another shape than what it returned.
        """
        if self._batch is None:
            raise InputError(f"{self.label}: backpropagate needs a call with train=True before it")
        self._check(dy, "dy", (self._batch, *self.output_shape))
        return self._pass(self.backward, dy, need_dx=need_dx)

    def _pass(self, compute: Callable[..., Any], array: Array, **options: bool) -> Any:
        """Run a pass of this layer alone: whatever it returns is in new memory."""
        before, self.context.memory = self.context.memory, None
        try:
            with self.backend.limit_blas_threads():
                return self._own(compute(array, **options), array)
        finally:
            self.context.memory = before

    def _own(self, result: Any, given: Array) -> Any:
        """Return a result, or a copy of one that lies in the memory of what was given."""
        if isinstance(result, list):
            return [self._own(one, given) for one in result]
        if result is None or self.backend.memory_of(result) != self.backend.memory_of(given):
            return result
        return self._copy(result)

    def _copy(self, array: Array) -> Array:
        copy = self.backend.empty(tuple(array.shape), array.dtype)
        copy[...] = array
        return copy

    @contextmanager
    def undone(self) -> Iterator[None]:
        """Bring back afterwards what passes in the meantime have left: attributes, state and gradients."""
        before = Attributes([*self.parts(), *self.parameters()])
        arrays = [*self.state().values(), *(parameter.gradient for parameter in self.parameters())]
        copies = [self._copy(array) for array in arrays]
        try:
            yield
        finally:
            before.restore()
            for array, copy in zip(arrays, copies, strict=True):
                array[...] = copy

    def _accept(self, x: Array) -> int:
        """Build or move a layer used alone to where x is, then check x; return the number of samples."""
        self._settle(x, getattr(x, "shape", ())[1:])
        N = x.shape[0] if getattr(x, "ndim", 0) else 0
        self._check(x, "input", (N, *self.input_shape))
        self._check_samples(N)
        return N

    def _settle(self, x: Array, input_shape: Any) -> None:
        """Build or move a layer used alone to the device and the precision of x."""
        if self._device_is_fixed:
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

    def _refuse_positions(self, misplaced: tuple[object, ...], example: str) -> None:
        """Refuse arguments by position after the size: other libraries have another order."""
        if misplaced:
            received = ", ".join(map(repr, misplaced))
            raise InputError(
                f"{type(self).__name__}: received {received} after the size; name all further arguments, such as "
                f"{example}; the number of input channels is never given, it follows from the input"
            )


def _layers_in(name: str, value: object) -> Iterator[tuple[str, Layer]]:
    """Yield the layers in an attribute with their names: "conv", "blocks.0"."""
    if isinstance(value, Layer):
        yield name, value
    elif isinstance(value, (list, tuple, dict)):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, part in items:
            if isinstance(part, Layer):
                yield f"{name}.{key}", part
