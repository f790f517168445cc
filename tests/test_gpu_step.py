"""The GPU backend on the strict fake device: what a training step launches, and that it does nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from types import ModuleType

import numpy as np
import pytest
from device.fake_cupy import ForbiddenInStep, make_fake_cupy
from device.fixtures import absent_cupy, broken_cupy, installed_cupy, requires_compiler

from gpucnn import Conv2D, Dropout, Sequential, Sigmoid, Softmax, Tanh, WeightAverage, available_devices, get_backend
from gpucnn.backend import backend_of, gpu
from gpucnn.data import Augmentation, ResidentSplit, Split
from gpucnn.data.resident import Normalization
from gpucnn.errors import DeviceError
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
from gpucnn.optimizers import SGD, AdamW, get_optimizer
from gpucnn.schedules import Cosine
from gpucnn.trainer import Trainer
from gpucnn.zoo import MODELS

IMAGES = {"paper": (8, 8, 1), "lenet5": (28, 28, 1), "mnist": (8, 8, 1), "vgg": (8, 8, 3)}

# What a step may launch: measured, and bounded so that it does not grow unseen.
LAUNCHES = {"paper": 33, "lenet5": 39, "mnist": 33, "vgg": 70, "kitchen sink": 44, "residual": 65}


@pytest.fixture
def cupy() -> Iterator[ModuleType]:
    """A strict fake of CuPy with one device."""
    with installed_cupy(make_fake_cupy()) as module:
        yield module


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
    **options,
):
    """Return a trainer and its data, two batches and a half, on a device given by its name or its backend."""
    model.build(shape, get_backend(device) if isinstance(device, str) else device, max_batch=batch, seed=0)
    trainer = Trainer(model, loss, optimizer, batch_size=batch, **options)
    split = random_split(5 * batch // 2, shape)
    return trainer, ResidentSplit(split, model.backend, Normalization(split.images), augmentation)


def zoo_trainer(name: str, device: str):
    recipe = MODELS[name]
    optimizer = get_optimizer(recipe.optimizer, recipe.learning_rate)
    return make_trainer(recipe.model(10), get_loss(recipe.loss), optimizer, device, IMAGES[name])


def kitchen_sink(device: str):
    """A net of the layers that the zoo does not use, trained with everything that a step may have beside them."""
    layers = [Conv2D(4, 3, 2, "same", bias=False), Tanh(), Conv2D(4, 3, padding=1, groups=2)]
    layers += [AveragePool2D(3, 2, 1, ceil_mode=True), LpPool2D(2, 1)]
    layers += [Flatten(), Dense(12), Sigmoid(), Dropout(0.3), Dense(10), Softmax()]
    optimizer = AdamW(0.01, clip_norm=0.5)
    optimizer.follow(Cosine(), 6)
    options = {"augmentation": Augmentation(2, flip=True), "average": WeightAverage(0.8)}
    return make_trainer(Sequential(layers), MeanSquaredError(), optimizer, device, (9, 9, 2), **options)


def residual(device: str):
    """What the resnets of the zoo are made of, narrower: the emulator takes seconds for their channels."""
    blocks = [Residual(Sequential(normalized(4))), Residual(Sequential(normalized(6, 2)), Conv2D(6, 1, 2)), ReLU()]
    layers = [*normalized(4), *blocks, GlobalAveragePool2D(), Dense(10)]
    return make_trainer(Sequential(layers), get_loss("softmax_cross_entropy"), SGD(0.01, 0.9), device, (9, 9, 2))


def normalized(filters: int, stride: int = 1) -> list[Layer]:
    return [Conv2D(filters, 3, stride, padding=1, bias=False), BatchNorm2D(), ReLU()]


def implicit(device: str):
    """Convolutions that write no columns; the gradient of the first is summed up in parts."""
    layers = [Conv2D(4, 3, padding=1), ReLU(), Conv2D(6, 3, 2, "same", bias=False), Conv2D(6, 3, groups=2)]
    backend = gpu.GpuBackend(convolution="implicit") if device == "gpu" else device
    model, loss = Sequential([*layers, Flatten(), Dense(10)]), get_loss("softmax_cross_entropy")
    return make_trainer(model, loss, SGD(0.01, 0.9), backend, (9, 9, 2))


TRAINERS = {name: partial(zoo_trainer, name) for name in IMAGES}
TRAINERS |= {"kitchen sink": kitchen_sink, "residual": residual, "implicit": implicit}


@requires_compiler
@pytest.mark.parametrize("name", TRAINERS)
def test_step_only_launches_kernels(name: str, cupy: ModuleType) -> None:
    """From the second batch on no transfer, no wait and no allocation; the epoch reads once and uploads its order."""
    trainer, data = TRAINERS[name]("gpu")
    trainer.train_epoch(data, 0)
    with cupy.stats.step() as counts:
        data.rewind()
        for N in (4, 4, 2):
            trainer.step(*data.next_batch(N))
    launches = (counts.launches - 1) / 3
    print(f"{name}: {launches:.1f} launches per step")
    assert launches <= LAUNCHES[name]
    with cupy.stats.counting() as counts:
        trainer.train_epoch(data, 1)
    assert counts.d2h_copies == 1
    assert counts.h2d_copies == 1
    assert counts.allocations == 0


@requires_compiler
@pytest.mark.parametrize("name", TRAINERS)
def test_trains_as_on_the_cpu(name: str, cupy: ModuleType) -> None:
    """Two epochs on the fake GPU end at the CPU's weights, to the rounding of float32."""
    results = []
    for device in ("gpu", "cpu"):
        trainer, data = TRAINERS[name](device)
        metrics = [trainer.train_epoch(data, epoch) for epoch in range(2)] + [trainer.evaluate(data)]
        results.append((trainer.model.state_dict(), metrics))
    (gpu_weights, gpu_metrics), (cpu_weights, cpu_metrics) = results
    for name, value in cpu_weights.items():
        np.testing.assert_allclose(gpu_weights[name], value, rtol=0, atol=2e-4, err_msg=name)
    for ours, theirs in zip(gpu_metrics, cpu_metrics, strict=True):
        assert ours.loss == pytest.approx(theirs.loss, rel=1e-3)
        assert ours.samples == theirs.samples


@requires_compiler
def test_a_transfer_in_a_step_is_noticed(cupy: ModuleType) -> None:
    backend = get_backend("gpu")
    x = backend.zeros((3,))
    with cupy.stats.step():
        with pytest.raises(ForbiddenInStep):
            backend.to_host(x)
        with pytest.raises(ForbiddenInStep):
            backend.from_host(np.zeros(3), out=x)
        with pytest.raises(ForbiddenInStep):
            backend.zeros((3,))


@requires_compiler
def test_a_layer_follows_its_array_to_the_gpu(cupy: ModuleType) -> None:
    """A layer built without a device moves to its first array, with the weights that it had."""
    x = np.random.default_rng(0).standard_normal((2, 9, 9, 3)).astype("float32")
    conv = Conv2D(4, 3)
    conv.build((9, 9, 3))
    conv.b.value[...] = 1.5
    weights = conv.w.value.copy()
    y = conv.forward(cupy.asarray(x))
    assert conv.backend.name == "gpu:0"
    np.testing.assert_array_equal(conv.w.value.get(), weights)
    expected = get_backend("cpu").conv2d(x, weights, np.full(4, 1.5, "float32"), conv.window)
    np.testing.assert_allclose(y.get(), expected, atol=1e-5)
    assert Dense(3)(cupy.asarray(x[:, 0, 0])).shape == (2, 3)


@requires_compiler
@pytest.mark.parametrize("built_on", ["cpu", "gpu"])
def test_mixing_devices_names_the_layer_both_devices_and_the_cure(built_on: str, cupy: ModuleType) -> None:
    host = np.zeros((1, 5, 5, 1), "float32")
    device = cupy.asarray(host)
    conv = Conv2D(2, 3, name="conv1")
    conv.forward(host if built_on == "cpu" else device)
    with pytest.raises(DeviceError, match=r'Conv2D "conv1": built on (cpu|gpu:0), .* a (cupy|numpy) ndarray; move'):
        conv.forward(device if built_on == "cpu" else host)


@requires_compiler
def test_two_gpus_in_one_thread() -> None:
    """Each layer computes on the device of its arrays, whichever was used last."""
    with installed_cupy(make_fake_cupy(device_count=2)) as cupy:
        layers = []
        for device in (0, 1):
            with cupy.cuda.Device(device):
                layers.append((Dense(3), cupy.ones((2, 4), "float32")))
        for _ in range(2):
            for device, (layer, x) in enumerate(layers):
                assert layer.forward(x).device.id == device
                assert layer.w.value.device.id == device


@requires_compiler
def test_gpu_numbers(cupy: ModuleType) -> None:
    assert available_devices() == ["gpu:0", "cpu"]
    assert get_backend("auto").name == "gpu:0"
    assert backend_of(cupy.zeros((2,), "float64")).precision == "float64"
    with pytest.raises(DeviceError, match=r"gpu:1 is not there: the GPUs are gpu:0 to gpu:0"):
        get_backend("gpu:1")


def test_cupy_absent() -> None:
    with absent_cupy(), pytest.raises(DeviceError, match=r'CuPy is not installed; pip install "cupy-cuda12x\[ctk\]"'):
        get_backend("gpu")


@pytest.mark.parametrize(
    "error", [ImportError("libcublas.so.12: cannot open"), ModuleNotFoundError("no cuda", name="cuda"), OSError("bad")]
)
def test_cupy_broken(error: Exception) -> None:
    with broken_cupy(error), pytest.raises(DeviceError, match=rf"cannot be imported \({type(error).__name__}: "):
        get_backend("gpu")


def test_no_device() -> None:
    fake = make_fake_cupy(device_count=0)
    with installed_cupy(fake), pytest.raises(DeviceError, match="CuPy finds no NVIDIA GPU .* install a current NVIDIA"):
        get_backend("gpu")


def test_device_without_its_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU on which nothing can be computed is reported at once, with what to install."""
    fake = make_fake_cupy()

    def fail(*_args, **_options):
        raise RuntimeError("libnvrtc.so.12 not found")

    monkeypatch.setattr(fake, "ElementwiseKernel", fail)
    with installed_cupy(fake), pytest.raises(DeviceError, match=r"cannot compute on it \(RuntimeError: libnvrtc"):
        get_backend("gpu")


def test_auto_is_the_cpu_beside_a_gpu_that_cannot_compute(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = make_fake_cupy()
    monkeypatch.setattr(fake.cuda, "Device", None)
    monkeypatch.setattr(fake, "ElementwiseKernel", None)
    with installed_cupy(fake):
        assert get_backend("auto").name == "cpu"
        assert "cannot compute on it" in gpu.missing_gpu_reason()


@pytest.mark.parametrize("state", [absent_cupy, broken_cupy, lambda: installed_cupy(make_fake_cupy(device_count=0))])
def test_auto_is_the_cpu_without_a_gpu(state) -> None:
    with state():
        assert get_backend("auto").name == "cpu"
        assert available_devices() == ["cpu"]
        assert gpu.missing_gpu_reason().startswith("CuPy ")


@pytest.mark.gpu
def test_real_gpu_trains_as_the_cpu() -> None:
    results = []
    for device in ("gpu", "cpu"):
        trainer, data = zoo_trainer("lenet5", device)
        trainer.train_epoch(data, 0)
        results.append(trainer.model.state_dict())
    for name, value in results[1].items():
        np.testing.assert_allclose(results[0][name], value, rtol=0, atol=2e-4, err_msg=name)
