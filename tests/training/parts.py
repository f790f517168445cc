"""A small network with each layer, loss and optimizer of the library, and those of the zoo, ready to be trained."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from trainers import make_trainer

from bench.engine import image_shape
from gpucnn import Sequential, WeightAverage, layers, losses
from gpucnn.backend.reference import Backend
from gpucnn.data import Augmentation, DeviceDataset
from gpucnn.layers import Layer
from gpucnn.losses import Loss
from gpucnn.optim import optimizers
from gpucnn.optim.optimizers import Optimizer
from gpucnn.optim.schedules import Cosine
from gpucnn.training.trainer import Trainer
from gpucnn.zoo import MODELS

__all__ = ["LAYERS", "LOSSES", "OPTIMIZERS", "OPTIONS", "trainer_of", "trainers", "zoo_trainer"]

SHAPE = (8, 8, 4)
CLASSES = 10


def _named(module: object, kind: type, further: dict[str, Callable], left_out: set[str]) -> dict[str, Callable]:
    """Return what makes each part of a module: its class, unless that needs arguments."""
    found = {name: getattr(module, name) for name in module.__all__ if name not in left_out}
    classes = {name: part for name, part in found.items() if isinstance(part, type) and issubclass(part, kind)}
    return classes | further


def _branches() -> list[Layer]:
    return [layers.Conv2D(4, 1), layers.Identity()]


def _scheduled() -> Optimizer:
    optimizer = optimizers.SGD()
    optimizer.set_schedule(Cosine(), 9)
    return optimizer


LAYERS = _named(
    layers,
    Layer,
    {
        "AdaptiveAveragePool2D": lambda: layers.AdaptiveAveragePool2D(3),
        "AdaptiveMaxPool2D": lambda: layers.AdaptiveMaxPool2D(3),
        "AveragePool2D": lambda: layers.AveragePool2D(2),
        "Add": lambda: layers.Parallel(_branches(), layers.Add()),
        "Concat": lambda: layers.Parallel(_branches(), layers.Concat()),
        "Conv2D": lambda: layers.Conv2D(6, 3, padding=1),
        "Conv2D in groups": lambda: layers.Conv2D(8, 3, groups=4),
        "Conv2D without bias": lambda: layers.Conv2D(6, 3, stride=2, bias=False),
        "Conv2DTranspose": lambda: layers.Conv2DTranspose(6, 3),
        "Dense": lambda: Sequential([layers.Flatten(), layers.Dense(6, bias=False)]),
        "Dropout": lambda: layers.Dropout(0.5),
        "GELU by tanh": lambda: layers.GELU(approximate=True),
        "GroupNorm": lambda: layers.GroupNorm(2),
        "LpPool2D": lambda: layers.LpPool2D(2),
        "LpPool2D, p = 3": lambda: layers.LpPool2D(2, p=3),
        "MaxPool2D": lambda: layers.MaxPool2D(2),
        "MaxPool2D behind ReLU": lambda: Sequential([layers.ReLU(), layers.MaxPool2D(2)]),
        "Parallel": lambda: layers.Parallel(_branches()),
        "ReLU behind Conv2D": lambda: Sequential([layers.Conv2D(4, 3, padding=1), layers.ReLU()]),
        "Reshape": lambda: layers.Reshape((4, 8, 8)),
        "Residual": lambda: layers.Residual(layers.Conv2D(4, 1)),
        "ZeroPad2D": lambda: layers.ZeroPad2D(1),
    },
    {"Layer"},
)
LOSSES: dict[str, Callable[[], Loss]] = _named(
    losses,
    Loss,
    {
        "SoftmaxCrossEntropy with options": lambda: losses.SoftmaxCrossEntropy(
            class_weights=[1.0] * CLASSES, label_smoothing=0.1, ignored_label=0
        )
    },
    {"Loss", "MeanAbsolutePercentageError"},  # the latter divides by targets, which class labels are not
)
OPTIMIZERS: dict[str, Callable[[], Optimizer]] = _named(
    optimizers,
    Optimizer,
    {
        "SGD by Nesterov": lambda: optimizers.SGD(momentum=0.9, nesterov=True),
        "SGD with clipping": lambda: optimizers.SGD(clip_norm=1.0),
        "SGD by a schedule": _scheduled,
        "RMSprop with momentum": lambda: optimizers.RMSprop(momentum=0.9),
    },
    {"Optimizer"},
)

OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "average": lambda: {"average": WeightAverage()},
    "augmentation": lambda: {"augmentation": Augmentation(1, flip=True)},
}


def zoo_trainer(name: str, backend: Backend, batch: int) -> tuple[Trainer, DeviceDataset]:
    """Return what trains a network of the zoo at the size that it is made for, and data of one batch."""
    recipe = MODELS[name]
    made = losses.get_loss(recipe.loss), optimizers.get_optimizer(recipe.optimizer, recipe.learning_rate), backend
    return make_trainer(recipe.model(CLASSES), *made, image_shape(name), batch, samples=batch)


def network(layer: Layer) -> Sequential:
    """Return a network of images of `SHAPE` around a layer, before which something is learned.

    Its outputs are between 0 and 1, which suits every loss.
    """
    layer = layers.Flatten() if isinstance(layer, layers.Flatten) else Sequential([layer, layers.Flatten()])
    return Sequential([layers.Conv2D(4, 1), layer, layers.Dense(CLASSES), layers.Sigmoid()])


def trainer_of(
    layer: Layer,
    loss: Loss,
    optimizer: Optimizer,
    backend: Backend,
    batch: int = 4,
    augmentation: Augmentation | None = None,
    samples: int | None = None,
    **options: Any,
) -> tuple[Trainer, DeviceDataset]:
    """Return what trains that network, and data of one batch or of so many samples."""
    samples = samples or batch
    return make_trainer(
        network(layer), loss, optimizer, backend, SHAPE, batch, augmentation, samples=samples, **options
    )


def trainers(backend: Backend) -> Iterator[tuple[str, Trainer, DeviceDataset]]:
    """Yield a trainer for each part by its name: where nothing else is asked for, a plain one of ReLU and SGD."""
    plain = losses.SoftmaxCrossEntropy, optimizers.SGD
    for name, layer in LAYERS.items():
        yield name, *trainer_of(layer(), *(part() for part in plain), backend)
    for name, loss in LOSSES.items():
        yield name, *trainer_of(layers.ReLU(), loss(), optimizers.SGD(), backend)
    for name, optimizer in OPTIMIZERS.items():
        yield name, *trainer_of(layers.ReLU(), losses.SoftmaxCrossEntropy(), optimizer(), backend)
    for name, options in OPTIONS.items():
        yield name, *trainer_of(layers.ReLU(), *(part() for part in plain), backend, **options())
