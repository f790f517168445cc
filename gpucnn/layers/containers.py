"""Layers that consist of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from html import escape
from typing import Any, NoReturn

from gpucnn.backend.memory import Workspace
from gpucnn.errors import InputError
from gpucnn.execution.context import Context
from gpucnn.execution.program import Program
from gpucnn.layers.activations import Identity
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.layers.fusion import PATTERNS
from gpucnn.layers.joins import Add, Concat, Join

__all__ = ["Container", "Layers", "Parallel", "Residual"]


class Layers(tuple[Layer, ...]):
    """The layers of a container: as a list to read, but fixed."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        """Raise `InputError`: the layers of a network are fixed."""
        raise InputError("the layers of a network are fixed; make a new network of the layers that it should have")

    __setitem__ = __delitem__ = __iadd__ = append = insert = extend = remove = pop = clear = _refuse


class Container(Layer):
    """What layers made of layers share: the names and the places of their parts, and what the parts hold.

    A part without a name gets one from its kind and its place: conv2d1, relu1, conv2d2, ... A subclass says in
    `connect` how its parts are connected; what it computes follows from that.

    Raises `InputError` for what is not a list of layers, and for a layer that has its place already.
    """

    from_operations = per_sample = True  # its parts speak for themselves
    workspace: Workspace | None = None  # of a network that is part of no other
    _program: Program | None = None

    def __init__(self, layers: Iterable[Layer], *, name: str | None = None):
        super().__init__(name)
        kind = type(self).__name__
        self.layers = Layers(self._listed(layers))
        if not self.layers:
            raise InputError(f"{kind}: expected at least one layer, received none")
        for place, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise InputError(f"{kind}: expected layers, such as ReLU(), received {layer!r}")
            if layer.owner is not None or any(layer is other for other in self.layers[:place]):
                raise InputError(f"{kind}: {layer.label} has its place already; make a new layer for each place")
        for layer in self.layers:
            layer.owner = self
            for part in layer.parts():  # which may have been built alone before
                part.context = None
        self._name_layers()

    def _repr_html_(self) -> str:
        """Return the call that makes it, as text for notebooks."""
        return f"<pre>{escape(repr(self))}</pre>"

    def __len__(self) -> int:
        """Return the number of layers, those inside of others not counted."""
        return len(self.layers)

    def __getitem__(self, place: int | slice) -> Any:
        """Return the layer at a place, or a list of some: `model[0]`, `model[-1]`, `model[1:3]`."""
        return list(self.layers[place]) if isinstance(place, slice) else self.layers[place]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @classmethod
    def _listed(cls, layers: object) -> list[Any]:
        if not isinstance(layers, Iterable):
            raise InputError(f"{cls.__name__}: expected a list of layers, received {layers!r}; put it into a list")
        return list(layers)

    def _name_layers(self) -> None:
        taken = Counter(layer.name for layer in self.layers if layer.name)
        for name, count in taken.items():
            if count > 1:
                raise InputError(f"{type(self).__name__}: {count} layers are named {name!r}; give each its own name")
            if "." in name:
                raise InputError(
                    f"{type(self).__name__}: {name!r} has a dot, which joins the names of parts; use another name"
                )
        places: Counter[str] = Counter()
        for layer in self.layers:
            kind = type(layer).__name__.lower()
            places[kind] += 1
            while not layer.name:
                name = f"{kind}{places[kind]}"
                if name in taken:
                    places[kind] += 1
                else:
                    layer.name = name

    def children(self) -> dict[str, Layer]:
        own = {name: child for name, child in super().children().items() if child not in self.layers}
        return {str(layer.name): layer for layer in self.layers} | own

    def bind(self, context: Context) -> None:
        self._program = None
        self.workspace = Workspace(context.backend) if self.owner is None else None
        super().bind(context)

    # ---- computing --------------------------------------------------------------------------------------------------

    @property
    def program(self) -> Program:
        """What it does, step by step; buffers share memory in that of a network that is part of no other."""
        if self._program is None:
            self._program = Program(self, PATTERNS, is_planned=self.owner is None)
        return self._program

    @property
    def is_transparent(self) -> bool:
        """Whether it computes what `connect` says, which a class with a `forward` or `backward` of its own does not."""
        kind = type(self)
        return kind.forward is Container.forward and kind.backward is Container.backward

    def connect(self, program: Program, x: int) -> int:
        """Add the steps of all parts to a program, from the number of the input to that of the output."""
        raise NotImplementedError(f"{type(self).__name__}: defines no connect(self, program, x)")

    def _own(self, result: Any, given: Array) -> Any:
        """Copy what lies in planned memory."""
        return None if result is None else self._copy(result)

    def forward(self, x: Array, *, train: bool) -> Array:
        return self.program.forward(x, train=train)

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        return self.program.backward(dy, need_dx=need_dx)


class Parallel(Container):
    """Give the same input to several branches and put their outputs together: `y = join([b1(x), b2(x), ...])`.

    Parameters
    ----------
    branches : two or more, each a layer or a `Sequential`
    join : `Concat()` unless given, or `Add()`

    Raises `InputError` for any other argument, and where the shapes of the outputs do not suit the join.

    >>> parallel = Parallel([Identity(), ReLU()])
    >>> parallel(np.array([[-1.0, 2.0]]), train=True)
    array([[-1.,  2.,  0.,  2.]])
    >>> parallel.backpropagate(np.array([[1.0, 1.0, 10.0, 10.0]]))
    array([[ 1., 11.]])
    """

    def __init__(self, branches: Iterable[Layer], join: Join | None = None, *, name: str | None = None):
        branches = self._listed(branches)
        if len(branches) < 2:
            raise InputError(f"{type(self).__name__}: expected two branches or more, received {len(branches)}")
        join = Concat() if join is None else join
        if not isinstance(join, Join):
            raise InputError(f"{type(self).__name__}: join must be Concat() or Add(), received {join!r}")
        super().__init__([*branches, join], name=name)

    @property
    def branches(self) -> tuple[Layer, ...]:
        """The layers that are given the input."""
        return self.layers[:-1]

    @property
    def join(self) -> Layer:
        """The layer that puts the outputs of the branches together."""
        return self.layers[-1]

    def infer_shape(self, input_shape: Shape) -> Shape:
        return self.join.set_input_shape(tuple(branch.set_input_shape(input_shape) for branch in self.branches))

    def connect(self, program: Program, x: int) -> int:
        return program.call(self.join, *(program.add(branch, x) for branch in self.branches))


class Residual(Parallel):
    """Add to what a layer computes its own input: `y = body(x) + shortcut(x)`.

    Parameters
    ----------
    body : a layer or a `Sequential`
    shortcut : the same, where the body changes the shape; the identity unless given

    Raises `InputError` for what is not a layer, and where the two outputs have different shapes. Source: He et al.,
    CVPR 2016.

    >>> residual = Residual(ReLU())
    >>> residual(np.array([[-1.0, 2.0]]), train=True)
    array([[-1.,  4.]])
    >>> residual.backpropagate(np.array([[1.0, 1.0]]))
    array([[1., 2.]])
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None, *, name: str | None = None):
        super().__init__([body, Identity() if shortcut is None else shortcut], Add(), name=name)

    @property
    def body(self) -> Layer:
        """The layer to whose output something is added."""
        return self.layers[0]

    @property
    def shortcut(self) -> Layer:
        """What is added: of the input itself, the identity."""
        return self.layers[1]
