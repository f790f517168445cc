"""A user's program that a type checker reads, and nobody runs: what users import has types."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpucnn import (
    SGD,
    Adam,
    Backend,
    Conv2D,
    Dense,
    DivergedError,
    Dropout,
    Flatten,
    InputError,
    Layer,
    MaxPool2D,
    Metrics,
    Parallel,
    ReLU,
    Residual,
    Sequential,
    SoftmaxCrossEntropy,
    Trainer,
    WeightAverage,
    Window,
    available_devices,
    get_backend,
)
from gpucnn.data import Augmentation, Dataset, DeviceDataset, Normalization, Split, load
from gpucnn.gradcheck import check_layer
from gpucnn.optim.schedules import Linear, WarmUp
from gpucnn.training.checkpoints import Checkpoints, Run, read
from gpucnn.zoo import get_recipe


def network(classes: int) -> Sequential:
    block = Residual(Sequential([Conv2D(16, 3, padding="same"), ReLU(), Conv2D(16, 3, padding=((1, 1), (1, 1)))]))
    branches = Parallel([Conv2D(8, 1), Conv2D(8, (3, 5), padding="same")])
    layers: list[Layer] = [branches, block, ReLU(), MaxPool2D(2), Flatten(), Dropout(0.5), Dense(classes)]
    return Sequential(layers, name="mine")


def train(name: str) -> Metrics:
    dataset: Dataset = load(name)
    split: Split = dataset.train[:100]
    image, label = split[0]
    pixels: int = image.size + label
    backend: Backend = get_backend(available_devices()[0], "float32")
    model = network(dataset.classes)
    shape: tuple[int, ...] = model.build(dataset.image_shape, backend, max_batch=64, seed=pixels)
    normalization = Normalization(dataset.train.images)
    data = DeviceDataset(split, backend, normalization, Augmentation(shift=1))
    optimizer = SGD(learning_rate=0.05, momentum=0.9, nesterov=True)
    trainer = Trainer(model, SoftmaxCrossEntropy(label_smoothing=0.1), optimizer, average=WeightAverage(0.99))
    optimizer.set_schedule(WarmUp(Linear(), 0.1), 10 * trainer.steps(data))
    optimizer.learning_rate = 0.1
    run = Run(trainer, data, settings={"shape": shape}, place={})
    try:
        for epoch in range(10):
            metrics: Metrics = trainer.train_epoch(data, epoch)
    except DivergedError as error:
        raise InputError("choose another rate") from error
    arrays, about = run.held()
    path: Path = Checkpoints(Path("runs")).save(run.step, arrays, about)
    state: dict[str, np.ndarray] = model.state_dict()
    model.load_state_dict(state | read(path)[0])
    print(model.summary(), model.plan(64), metrics.accuracy, len(model), next(iter(model)))
    return trainer.evaluate(data)


def details() -> tuple[float, tuple[int, int], dict[str, float]]:
    rate: float = get_recipe("mnist").learning_rate
    Adam(rate, clip_norm=1.0)
    return rate, Window((3, 3)).output_size(28, 28), check_layer(Dense(3), np.ones((2, 4)))
