"""Layers that consist of layers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from gpucnn.backend.memory import Parameter
from gpucnn.errors import InputError
from gpucnn.execution.lifetimes import Value, Walk
from gpucnn.layers.activations import Identity
from gpucnn.layers.base import Array, Context, Layer, Shape
from gpucnn.layers.joins import Add, Concat, Join, add_all

__all__ = ["Container", "Parallel", "Residual"]


class Container(Layer):
    """What layers made of layers share: the names and the places of their parts, and what the parts hold.

    A part without a name gets one from its kind and its place: conv2d1, relu1, conv2d2, ...
    """

    def __init__(self, layers: Iterable[Layer], *, name: str | None = None):
        super().__init__(name)
        kind = type(self).__name__
        self.layers = self._listed(layers)
        if not self.layers:
            raise InputError(f"{kind}: expected at least one layer, received none")
        for place, layer in enumerate(self.layers):
            if not isinstance(layer, Layer):
                raise InputError(f"{kind}: expected layers, as ReLU(), received {layer!r}")
            if layer.owner is not None or any(layer is other for other in self.layers[:place]):
                raise InputError(f"{kind}: {layer.label} has its place already; make a new layer for each place")
        self._name_layers()
        for layer in self.layers:
            layer.owner = self

    def __len__(self) -> int:
        """Return the number of layers, those inside of others not counted."""
        return len(self.layers)

    def __getitem__(self, place: int | slice) -> Layer | list[Layer]:
        """Return the layer at a place, or a list of some: `model[0]`, `model[-1]`, `model[1:3]`."""
        return self.layers[place]

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    @classmethod
    def _listed(cls, layers: object) -> list:
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

    def parts(self) -> Iterator[Layer]:
        yield self
        for layer in self.layers:
            yield from layer.parts()

    def bind(self, context: Context) -> None:
        super().bind(context)
        for layer in self.layers:
            if layer.arena is not None:  # it was built alone before
                layer.arena.in_use, layer.arena = False, None
            layer.bind(context)
            layer.fix_device()

    def reset(self) -> None:
        for layer in self.layers:
            layer.reset()

    def parameters(self) -> list[Parameter]:
        return [parameter for _, parameter in self.named_parameters()]

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        for layer in self.layers:
            for name, parameter in layer.named_parameters():
                yield f"{layer.name}.{name}", parameter

    def state(self) -> dict[str, Array]:
        return {f"{layer.name}.{name}": array for layer in self.layers for name, array in layer.state().items()}


class Parallel(Container):
    """Give the same input to several branches and put their outputs together: `y = join([b1(x), b2(x), ...])`.

    A branch is a layer or a `Sequential`; `join` is `Concat()` (unless given) or `Add()`::

        Parallel([Conv2D(16, 1), Conv2D(16, 3, padding=1), MaxPool2D(3, 1, padding=1)])
    """

    keeps = ()

    def __init__(self, branches: Iterable[Layer], join: Join | None = None, *, name: str | None = None):
        branches = self._listed(branches)
        if len(branches) < 2:
            raise InputError(f"{type(self).__name__}: expected two branches or more, received {len(branches)}")
        join = Concat() if join is None else join
        if not isinstance(join, Join):
            raise InputError(f"{type(self).__name__}: join must be Concat() or Add(), received {join!r}")
        super().__init__([*branches, join], name=name)
        self.branches, self.join = self.layers[:-1], join

    def infer_shape(self, input_shape: Shape) -> Shape:
        return self.join._set_shapes(tuple(branch._set_shapes(input_shape) for branch in self.branches))

    def _forward(self, x: Array, train: bool) -> Array:
        return self.join._forward([branch._forward(x, train) for branch in self.branches], train)

    def _backward(self, dy: Array, need_dx: bool) -> Array | None:
        dys = self.join._backward(dy, True)
        dxs = [branch._backward(dy, need_dx) for branch, dy in zip(self.branches, dys, strict=True)]
        return add_all(self.backend, dxs, self.buffer("dx", (dy.shape[0], *self.input_shape))) if need_dx else None

    def _walk_forward(self, walk: Walk, x: Value) -> Value:
        return walk.forward(self.join, [walk.forward(branch, x) for branch in self.branches])

    def _walk_backward(self, walk: Walk, dy: Value, need_dx: bool) -> Value:
        dys = walk.split(self.join, dy)
        dxs = [walk.backward(branch, dy, need_dx) for branch, dy in zip(self.branches, dys, strict=True)]
        return walk.add(self, "dx", self.input_shape, dxs) if need_dx else ()


class Residual(Parallel):
    """Add to what a layer computes its own input: `y = body(x) + shortcut(x)`.

    `body` is a layer or a `Sequential`; `shortcut` is one too where the body changes the shape, or else the identity::

        Residual(Sequential([Conv2D(16, 3, padding=1), ReLU(), Conv2D(16, 3, padding=1)]))

    Source: He et al., CVPR 2016.
    """

    def __init__(self, body: Layer, shortcut: Layer | None = None, *, name: str | None = None):
        super().__init__([body, Identity() if shortcut is None else shortcut], Add(), name=name)
        self.body, self.shortcut = body, shortcut
