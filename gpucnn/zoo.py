"""Models by name: each function returns a new `Sequential`, from images (N, H, W, C) to logits (N, classes).

`MODELS` adds how to train them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpucnn.errors import lookup
from gpucnn.layers import (
    BatchNorm2D,
    Conv2D,
    Dense,
    Flatten,
    GlobalAveragePool2D,
    MaxPool2D,
    ReLU,
    Residual,
    Sigmoid,
)
from gpucnn.layers.base import Layer
from gpucnn.model import Sequential

__all__ = ["MODELS", "Recipe", "get_recipe", "lenet5", "mnist", "paper", "resnet18", "resnet20", "vgg"]


def paper(classes: int = 10) -> Sequential:
    """The paper's own network: one padded convolution + ReLU, one max pooling, dense layers with sigmoids.

    Its outputs are logits: the sigmoid of the output belongs to the loss, `SigmoidCrossEntropy`.

    >>> len(paper(classes=10))
    9
    """
    return Sequential(
        [
            Conv2D(16, 5, padding=2),
            ReLU(),
            MaxPool2D(2),
            Flatten(),
            Dense(128, initializer="sigmoid_uniform"),
            Sigmoid(),
            Dense(64, initializer="sigmoid_uniform"),
            Sigmoid(),
            Dense(classes, initializer="glorot_uniform"),
        ],
        name="paper",
    )


def lenet5(classes: int = 10) -> Sequential:
    """LeNet-5 with ReLU and max pooling, for 28 x 28 images. Source: LeCun et al., Proc. IEEE 86 (1998).

    >>> lenet5(classes=10).build((28, 28, 1), "cpu")
    (10,)
    """
    return Sequential(
        [
            Conv2D(6, 5, padding=2),
            ReLU(),
            MaxPool2D(2),
            Conv2D(16, 5),
            ReLU(),
            MaxPool2D(2),
            Flatten(),
            Dense(120),
            ReLU(),
            Dense(84),
            ReLU(),
            Dense(classes),
        ],
        name="lenet5",
    )


def mnist(classes: int = 10) -> Sequential:
    """Two wide 5 x 5 convolutions and a dense layer of 512: 99 % on MNIST.

    >>> mnist(classes=26)[-1]
    Dense(26)
    """
    return Sequential(
        [
            Conv2D(32, 5, padding=2),
            ReLU(),
            MaxPool2D(2),
            Conv2D(64, 5, padding=2),
            ReLU(),
            MaxPool2D(2),
            Flatten(),
            Dense(512),
            ReLU(),
            Dense(classes),
        ],
        name="mnist",
    )


def vgg(classes: int = 10) -> Sequential:
    """Three stages of two 3 x 3 convolutions each (32, 64, 128 maps) and a dense layer of 256, for 32 x 32 images.

    Source: Simonyan and Zisserman, ICLR 2015, made small.

    >>> vgg(classes=10)[0]
    Conv2D(32, 3, padding=1)
    """
    layers: list[Layer] = []
    for filters in (32, 64, 128):
        layers += [Conv2D(filters, 3, padding=1), ReLU(), Conv2D(filters, 3, padding=1), ReLU(), MaxPool2D(2)]
    return Sequential([*layers, Flatten(), Dense(256), ReLU(), Dense(classes)], name="vgg")


def resnet20(classes: int = 10) -> Sequential:
    """Three stages of three residual blocks (16, 32, 64 maps), for 32 x 32 images.

    Source: He et al., CVPR 2016, section 4.2; its shortcuts between stages are 1 x 1 convolutions here.

    >>> resnet20(classes=10)[-2:]
    [GlobalAveragePool2D(), Dense(10, initializer='glorot_uniform')]
    """
    return _resnet("resnet20", blocks=3, widths=(16, 32, 64), classes=classes)


def resnet18(classes: int = 10) -> Sequential:
    """ResNet-18 for 32 x 32 images: four stages of two residual blocks (64, 128, 256, 512 maps).

    Source: He et al., CVPR 2016, begun with a 3 x 3 convolution and without its first stride and pooling.

    >>> len(resnet18(classes=10))  # a block and the ReLU after it are two
    21
    """
    return _resnet("resnet18", blocks=2, widths=(64, 128, 256, 512), classes=classes)


def _resnet(name: str, blocks: int, widths: tuple[int, ...], classes: int) -> Sequential:
    layers: list[Layer] = [*_convolution(widths[0]), ReLU()]
    maps = widths[0]
    for filters in widths:
        for _ in range(blocks):
            stride = 1 if filters == maps else 2
            body = Sequential([*_convolution(filters, stride), ReLU(), *_convolution(filters)])
            shortcut = None if filters == maps else Sequential(_convolution(filters, stride, kernel_size=1))
            layers += [Residual(body, shortcut), ReLU()]
            maps = filters
    return Sequential([*layers, GlobalAveragePool2D(), Dense(classes, initializer="glorot_uniform")], name=name)


def _convolution(filters: int, stride: int = 1, kernel_size: int = 3) -> list[Layer]:
    """A convolution and its batch normalization, which has a bias of its own."""
    return [Conv2D(filters, kernel_size, stride=stride, padding=kernel_size // 2, bias=False), BatchNorm2D()]


@dataclass(frozen=True)
class Recipe:
    """A model and the training settings that suit it: names of a loss and an optimizer, and a learning rate.

    >>> Recipe(lenet5, learning_rate=0.02).loss
    'softmax_cross_entropy'
    """

    model: Callable[[int], Sequential]
    loss: str = "softmax_cross_entropy"
    optimizer: str = "sgd"
    learning_rate: float = 0.01


MODELS = {
    "paper": Recipe(paper, loss="sigmoid_cross_entropy", optimizer="adam", learning_rate=0.003),
    "lenet5": Recipe(lenet5),
    "mnist": Recipe(mnist),
    "vgg": Recipe(vgg),
    "resnet20": Recipe(resnet20, learning_rate=0.05),
    "resnet18": Recipe(resnet18, learning_rate=0.05),
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of a model by name, one of `MODELS`; raise `InputError` for an unknown one.

    >>> get_recipe("resnet20").learning_rate
    0.05
    """
    return lookup("model", name, MODELS)
