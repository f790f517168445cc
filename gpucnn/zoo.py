"""Models by name. Each function returns a new `Sequential` for a number of classes; `MODELS` adds how to train it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gpucnn.errors import lookup
from gpucnn.layers import Conv2D, Dense, Flatten, MaxPool2D, ReLU, Sigmoid
from gpucnn.layers.base import Layer
from gpucnn.model import Sequential

__all__ = ["MODELS", "Recipe", "get_recipe", "lenet5", "mnist", "paper", "vgg"]


def paper(classes: int = 10) -> Sequential:
    """The paper's own network: one padded convolution + ReLU, one max pooling, dense layers with sigmoids.

    Its outputs are logits: the sigmoid of the output belongs to the loss, `SigmoidCrossEntropy`.
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
    """LeNet-5 with ReLU and max pooling, for 28 x 28 images. Source: LeCun et al., Proc. IEEE 86 (1998)."""
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
    """Two wide 5 x 5 convolutions and a dense layer of 512: 99 % on MNIST."""
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
    """
    layers: list[Layer] = []
    for filters in (32, 64, 128):
        layers += [Conv2D(filters, 3, padding=1), ReLU(), Conv2D(filters, 3, padding=1), ReLU(), MaxPool2D(2)]
    return Sequential([*layers, Flatten(), Dense(256), ReLU(), Dense(classes)], name="vgg")


@dataclass(frozen=True)
class Recipe:
    """A model and the training settings that suit it."""

    model: Callable[[int], Sequential]
    loss: str = "softmax_cross_entropy"
    optimizer: str = "sgd"
    learning_rate: float = 0.01


MODELS = {
    "paper": Recipe(paper, loss="sigmoid_cross_entropy", optimizer="adam", learning_rate=0.003),
    "lenet5": Recipe(lenet5),
    "mnist": Recipe(mnist),
    "vgg": Recipe(vgg),
}


def get_recipe(name: str) -> Recipe:
    """Return the recipe of a model by name."""
    return lookup("model", name, MODELS)
