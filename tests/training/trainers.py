"""Networks with all that a training step may have, on any device: what a GPU must do without waiting."""

from __future__ import annotations

from functools import partial

import numpy as np

from gpucnn import Conv2D, Dropout, Sequential, Sigmoid, Softmax, Tanh, WeightAverage, get_backend
from gpucnn.data import Augmentation, DeviceDataset, Split
from gpucnn.data.device_dataset import Normalization
from gpucnn.layers import (
    AveragePool2D,
    BatchNorm2D,
    Dense,
    Flatten,
    GlobalAveragePool2D,
    Layer,
    LpPool2D,
    ReLU,
    Residual,
)
from gpucnn.losses import MeanSquaredError, get_loss
from gpucnn.optim.optimizers import SGD, AdamW, get_optimizer
from gpucnn.optim.schedules import Cosine
from gpucnn.training.trainer import Trainer
from gpucnn.zoo import MODELS

IMAGES = {"paper": (8, 8, 1), "lenet5": (28, 28, 1), "mnist": (8, 8, 1), "vgg": (8, 8, 3)}


def random_split(N: int, shape: tuple[int, ...]) -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (N, *shape), dtype=np.uint8), rng.integers(0, 10, N, dtype=np.int32))


def make_trainer(
    model: Sequential,
    loss,
    optimizer,
    device,
    shape: tuple[int, ...],
    batch: int = 4,
    augmentation: Augmentation | None = None,
    *,
    samples: int | None = None,
    **options,
):
    """Return a trainer and its data, two batches and a half unless told, on a device by its name or its backend."""
    model.build(shape, get_backend(device) if isinstance(device, str) else device, max_batch=batch, seed=0)
    trainer = Trainer(model, loss, optimizer, batch_size=batch, **options)
    split = random_split(samples or 5 * batch // 2, shape)
    return trainer, DeviceDataset(split, model.backend, Normalization(split.images), augmentation)


def zoo_trainer(name: str, device: str):
    recipe = MODELS[name]
    optimizer = get_optimizer(recipe.optimizer, recipe.learning_rate)
    return make_trainer(recipe.model(10), get_loss(recipe.loss), optimizer, device, IMAGES[name])


def kitchen_sink(device: str):
    """A net of the layers that the zoo does not use, trained with everything that a step may have beside them."""
    layers = [Conv2D(4, 3, stride=2, padding="same", bias=False), Tanh(), Conv2D(4, 3, padding=1, groups=2)]
    layers += [AveragePool2D(3, stride=2, padding=1, ceil_mode=True), LpPool2D(2, stride=1)]
    layers += [Flatten(), Dense(12), Sigmoid(), Dropout(0.3), Dense(10), Softmax()]
    optimizer = AdamW(0.01, clip_norm=0.5)
    optimizer.set_schedule(Cosine(), 6)
    options = {"augmentation": Augmentation(2, flip=True), "average": WeightAverage(0.8)}
    return make_trainer(Sequential(layers), MeanSquaredError(), optimizer, device, (9, 9, 2), **options)


def residual(device: str):
    """What the resnets of the zoo are made of, narrower: the emulator takes seconds for their channels."""
    blocks = [
        Residual(Sequential(normalized(4))),
        Residual(Sequential(normalized(6, 2)), Conv2D(6, 1, stride=2)),
        ReLU(),
    ]
    layers = [*normalized(4), *blocks, GlobalAveragePool2D(), Dense(10)]
    return make_trainer(Sequential(layers), get_loss("softmax_cross_entropy"), SGD(0.01, 0.9), device, (9, 9, 2))


def normalized(filters: int, stride: int = 1) -> list[Layer]:
    return [Conv2D(filters, 3, stride=stride, padding=1, bias=False), BatchNorm2D(), ReLU()]


def implicit(device: str):
    """Convolutions that write no columns; the gradient of the first is summed up in parts."""
    layers = [
        Conv2D(4, 3, padding=1),
        ReLU(),
        Conv2D(6, 3, stride=2, padding="same", bias=False),
        Conv2D(6, 3, groups=2),
    ]
    backend = get_backend("gpu", convolution="implicit") if device == "gpu" else device
    model, loss = Sequential([*layers, Flatten(), Dense(10)]), get_loss("softmax_cross_entropy")
    return make_trainer(model, loss, SGD(0.01, 0.9), backend, (9, 9, 2))


TRAINERS = {name: partial(zoo_trainer, name) for name in IMAGES}
TRAINERS |= {"kitchen sink": kitchen_sink, "residual": residual, "implicit": implicit}
