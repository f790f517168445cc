"""Networks for tests of what layers share: branches, views, places for work in place, and layers of a user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from gpucnn import (
    GELU,
    AdaptiveAveragePool2D,
    AdaptiveMaxPool2D,
    Add,
    AveragePool2D,
    BatchNorm2D,
    Conv2D,
    Conv2DTranspose,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePool2D,
    GlobalMaxPool2D,
    GroupNorm,
    Identity,
    Layer,
    LpPool2D,
    MaxPool2D,
    Parallel,
    PReLU,
    ReLU,
    Reshape,
    Residual,
    Sequential,
    Sigmoid,
    Softmax,
    Swish,
    Tanh,
    ZeroPad2D,
    layers,
)
from gpucnn.layers.activations import Activation

SHAPE = (6, 8, 4)

# ---- layers of a user's own ---------------------------------------------------------------------------------------


class Own(Layer):
    """Says nothing of what it keeps."""

    def infer_shape(self, input_shape):
        return input_shape


class Returned(Own):
    """Returns its input, and dy."""

    def forward(self, x, *, train):
        return x

    def backward(self, dy, *, need_dx):
        return dy


class Mirrored(Own):
    """Returns views of its input and of dy."""

    def forward(self, x, *, train):
        return x[..., ::-1]

    def backward(self, dy, *, need_dx):
        return dy[..., ::-1]


class Sine(Own):
    """Keeps x."""

    def forward(self, x, *, train):
        self.x = x
        return np.sin(x)

    def backward(self, dy, *, need_dx):
        return dy * np.cos(self.x)


class Exponential(Own):
    """Keeps its output, in a buffer that it calls y as other layers do."""

    def forward(self, x, *, train):
        self.y = np.exp(-np.abs(x), out=self.buffer("y", x.shape))
        return self.y

    def backward(self, dy, *, need_dx):
        return np.multiply(dy, self.y, out=self.buffer("dx", dy.shape))


class Hidden(Own):
    """Keeps something in a buffer that it does not return."""

    def forward(self, x, *, train):
        self.hidden = np.cos(x, out=self.buffer("hidden", x.shape))
        return np.sin(x)

    def backward(self, dy, *, need_dx):
        return dy * self.hidden


class Delayed(Own):
    """Returns in a backward pass the dy that it has kept, after another part of the network has had its turn."""

    def forward(self, x, *, train):
        self.seen = x
        return x + 1

    def backward(self, dy, *, need_dx):
        self.kept = dy
        return self.kept


class Declared(Own):
    """Is made of operations, and says so."""

    from_operations = True

    def forward(self, x, *, train):
        self.y = self.backend.add(x, x, out=self.buffer("y", x.shape))
        return self.y

    def backward(self, dy, *, need_dx):
        return self.backend.sigmoid_dx(dy, self.y, out=self.buffer("dx", dy.shape))


class Halved(Conv2D):
    """A layer of the library with another gradient, which the library's declaration does not speak of."""

    def forward(self, x, *, train):
        self.y = super().forward(x, train=train)
        return self.y

    def backward(self, dy, *, need_dx):
        super().backward(dy * self.y, need_dx=need_dx)
        return 0.5 * self.buffer("dx", self.x.shape)


class Shifted(ReLU):
    """A layer of the library with another function."""

    def forward(self, x, *, train):
        return super().forward(x - 0.5, train=train)


class Product(layers.joins.Join):
    """A join of a user's own, which keeps its inputs and returns dy itself for all but the first."""

    def infer_shape(self, input_shapes):
        return input_shapes[0]

    def forward(self, xs, *, train):
        self.xs, self.seen = xs, xs[1]
        return np.prod(xs, axis=0)

    def backward(self, dy, *, need_dx):
        self.kept = dy
        return [dy * self.xs[1], *[dy] * (len(self.xs) - 1)]


class Twice(Sequential):
    """A network whose forward pass is its own."""

    def forward(self, x, *, train):
        y = super().forward(x, train=train)
        return y + x


class Named(Sequential):
    """A network that only makes its layers itself."""

    def __init__(self, filters: int):
        super().__init__([Conv2D(filters, 3, padding=1), ReLU(), Conv2D(filters, 1)])


# ---- networks -----------------------------------------------------------------------------------------------------


def block(*more: Layer) -> Sequential:
    return Sequential([Conv2D(4, 3, padding=1), *more])


NETWORKS: dict[str, Callable[[], list[Layer]]] = {
    "chain": lambda: [Conv2D(4, 3), ReLU(), MaxPool2D(2), Conv2D(3, 2), Flatten(), Dense(9), Sigmoid(), Dense(3)],
    "in place first": lambda: [ReLU(), Dropout(0.5), Conv2D(3, 3), Sigmoid()],
    "views first and last": lambda: [Flatten(), Identity(), Dense(4 * 6 * 8), Reshape(SHAPE), ReLU(), Flatten()],
    "nothing but views": lambda: [Identity(), Reshape((8, 6, 4)), Dropout(0.0)],
    "view in between": lambda: [Conv2D(4, 1), Reshape((4, 12, 4)), ReLU(), Reshape(SHAPE), Dropout(0.3), Conv2D(2, 3)],
    "ends in a pool": lambda: [Conv2D(4, 1), ReLU(), MaxPool2D(2)],
    "two activations": lambda: [Conv2D(4, 1), ReLU(), GELU(), Tanh(), Softmax(), Swish(), Conv2D(2, 1), PReLU()],
    "activations in a row": lambda: [*(layer() for layer in ACTIVATIONS), Conv2D(2, 1)],
    "rectified": lambda: [
        *(Conv2D(4, 3), ReLU(), Conv2D(3, 2, bias=False), ReLU(), ReLU(), Conv2D(4, 2), ReLU(), MaxPool2D(2)),
        *(Conv2D(4, 1), ReLU(), Flatten(), Dense(9), ReLU(), Dense(5, bias=False), ReLU(), Dense(3), ReLU()),
    ],
    "rectified branches": lambda: [
        *(Residual(block(ReLU(), Conv2D(4, 1))), ReLU(), Residual(block(ReLU())), block(), ReLU(), Conv2D(4, 1)),
        *(ReLU(), Parallel([block(ReLU()), Conv2D(2, 1)]), Conv2D(4, 1), ReLU(), block(ReLU())),
    ],
    "dropouts": lambda: [Conv2D(4, 1), Dropout(0.5), Dropout(0.2), ReLU(), Dropout(0.1), Conv2D(4, 1), Dropout(0.5)],
    "norms": lambda: [BatchNorm2D(), Conv2D(4, 3), BatchNorm2D(), ReLU(), GroupNorm(2), Tanh(), Conv2D(4, 1)],
    "pools": lambda: [AveragePool2D(2, stride=1), LpPool2D(2), AdaptiveMaxPool2D(5), AdaptiveMaxPool2D(3)],
    "global pools": lambda: [ReLU(), Parallel([GlobalAveragePool2D(), GlobalMaxPool2D()]), Dense(3), ReLU()],
    "padding": lambda: [AdaptiveAveragePool2D(5), ZeroPad2D(1), ReLU(), Conv2D(3, 1), Conv2DTranspose(2, 3), ReLU()],
    "identity shortcuts": lambda: [Conv2D(4, 1), Residual(block(ReLU(), Conv2D(4, 1))), Residual(block()), ReLU()],
    "relu first in a branch": lambda: [Conv2D(4, 1), Residual(Sequential([ReLU(), Conv2D(4, 1)])), Residual(ReLU())],
    "relu in the shortcut": lambda: [Conv2D(4, 1), Residual(Conv2D(4, 1), ReLU()), Residual(Tanh(), ReLU())],
    "input of branches": lambda: [Residual(ReLU()), Residual(Identity()), Residual(Dropout(0.5), Sequential([Tanh()]))],
    "three branches": lambda: [Conv2D(4, 1), Parallel([Tanh(), Conv2D(4, 1), ReLU()], Add()), Conv2D(2, 1)],
    "one input three times": lambda: [Conv2D(4, 1), Parallel([Identity(), Tanh(), Identity()], Add()), Tanh()],
    "the third input first": lambda: [Conv2D(4, 1), Parallel([Conv2D(4, 1), Tanh(), Identity()], Add()), Tanh()],
    "the same twice": lambda: [Conv2D(4, 1), Parallel([Identity(), Identity()], Add()), Parallel([ReLU(), Identity()])],
    "concatenated": lambda: [
        *(Parallel([Conv2D(2, 1), MaxPool2D(3, stride=1, padding=1), Identity(), block(ReLU())]), Conv2D(2, 1)),
    ],
    "nested": lambda: [
        *(Conv2D(4, 1), Parallel([Sequential([ReLU(), Residual(block(ReLU()))]), Residual(ReLU()), Identity()], Add())),
        *(Sequential([Sequential([ReLU(), MaxPool2D(2)]), Dropout(0.4)]), Parallel([Residual(Tanh()), ReLU()])),
    ],
    "resnet": lambda: [
        *(Conv2D(4, 3, bias=False), BatchNorm2D(), ReLU()),
        Residual(Sequential([Conv2D(4, 3, padding=1, bias=False), BatchNorm2D(), ReLU(), Conv2D(4, 1), BatchNorm2D()])),
        *(ReLU(), Residual(Sequential([BatchNorm2D(), ReLU(), Conv2D(4, 1)])), GlobalAveragePool2D(), Dense(3)),
    ],
    "a net by its class": lambda: [Named(3), ReLU(), Named(2)],
    "own: returns its input": lambda: [Conv2D(4, 1), Returned(), ReLU(), Conv2D(4, 1), Returned(), Tanh()],
    "own: returns a view": lambda: [Conv2D(4, 1), Mirrored(), ReLU(), Residual(Sequential([Mirrored(), Conv2D(4, 1)]))],
    "own: keeps x": lambda: [Conv2D(4, 1), Sine(), ReLU(), Sine(), Conv2D(4, 1), ReLU(), Sine(), MaxPool2D(2)],
    "own: keeps y": lambda: [Conv2D(4, 1), Exponential(), ReLU(), Conv2D(4, 1), Exponential(), Dropout(0.5), ReLU()],
    "own: keeps what it hides": lambda: [
        *(Conv2D(4, 1), Hidden(), ReLU(), Conv2D(4, 1), Tanh(), Hidden(), Conv2D(4, 1), Tanh(), Conv2D(4, 1)),
    ],
    "own: keeps dy": lambda: [Conv2D(4, 1), Delayed(), Tanh(), Residual(Delayed()), Delayed(), ReLU(), Conv2D(4, 1)],
    "own: declared": lambda: [Conv2D(4, 1), Declared(), MaxPool2D(2), Declared(), Tanh(), Declared(), Conv2D(4, 1)],
    "own: first and last": lambda: [Returned(), ReLU(), Conv2D(4, 1), Sine(), Mirrored()],
    "own: a convolution": lambda: [Conv2D(4, 1), ReLU(), Halved(4, 3), Tanh(), Halved(4, 1), ReLU(), Conv2D(4, 1)],
    "own: a join": lambda: [Conv2D(4, 1), Parallel([ReLU(), Conv2D(4, 1), Tanh()], Product()), ReLU(), Conv2D(4, 1)],
    "own: a rectifier": lambda: [Conv2D(4, 1), Shifted(), Conv2D(4, 1), ReLU(), Halved(4, 1), ReLU(), Conv2D(4, 1)],
    "own: a container": lambda: [Conv2D(4, 1), Twice([ReLU(), Conv2D(4, 1), Tanh()]), ReLU(), Conv2D(4, 1)],
}  # fmt: skip
ACTIVATIONS = [kind for kind in vars(layers).values() if isinstance(kind, type) and issubclass(kind, Activation)]
SHARDED = [name for name in NETWORKS if not name.startswith("own") and name not in ("norms", "resnet")]


def random_layers(rng: np.random.Generator, depth: int) -> Iterator[Layer]:
    """Yield a few layers that keep the shape of what they are given, branches among them."""
    for _ in range(rng.integers(1, 5)):
        kinds = [ReLU, Tanh, Swish, Softmax, Identity, BatchNorm2D, PReLU, Returned, Sine, Exponential, Declared]
        kinds += [lambda: Conv2D(4, 1), lambda: Conv2D(4, 3, padding=1), lambda: Dropout(0.4), lambda: GroupNorm(2)]
        kinds += [
            lambda: MaxPool2D(3, stride=1, padding=1),
            lambda: LpPool2D(3, stride=1, padding=1),
            lambda: AveragePool2D(3, stride=1, padding=1),
        ]
        if depth:
            inner = [Sequential(random_layers(rng, depth - 1)) for _ in range(rng.integers(2, 4))]
            kinds += 3 * [lambda inner=inner: Parallel(inner, Add()), lambda inner=inner: Residual(inner[0])]
            kinds += [
                lambda inner=inner: Sequential([Parallel([*inner, Identity()]), Conv2D(4, 1)]),
                lambda inner=inner: inner[0],
            ]
        yield kinds[rng.integers(len(kinds))]()


def random_network(seed: int) -> list[Layer]:
    rng = np.random.default_rng(seed)
    return [layer for _ in range(3) for layer in random_layers(rng, 2)]
