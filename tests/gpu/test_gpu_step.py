"""The GPU backend on the strict fake device: what a training step launches, and that it does nothing else."""

from __future__ import annotations

from functools import partial
from types import ModuleType

import numpy as np
import parts
import pytest
from device.fake_cupy import ForbiddenInStep, make_fake_cupy
from device.fixtures import absent_cupy, broken_cupy, fake_cupy, installed_cupy, requires_compiler
from trainers import TRAINERS, zoo_trainer

from gpucnn import Conv2D, available_devices, get_backend
from gpucnn.backend import backend_of, gpu
from gpucnn.errors import DeviceError, InputError
from gpucnn.execution.step_graphs import Replay
from gpucnn.layers import Dense
from gpucnn.zoo import MODELS

# What a step may launch: measured, and bounded so that it does not grow unseen. Taking the batch is a part of it.
LAUNCHES = {"paper": 35, "lenet5": 42, "mnist": 36, "vgg": 77, "resnet20": 318, "resnet18": 300}
LAUNCHES |= {"kitchen sink": 45, "residual": 66, "implicit": 24}


cupy = fake_cupy  # under the name that the tests speak of


@pytest.mark.parametrize("name", MODELS)
def test_a_step_of_the_zoo_only_launches_kernels(name: str) -> None:
    """At its usual size, without computing anything: no transfer, wait or allocation; as a graph, one launch."""
    with installed_cupy(make_fake_cupy(executes=False)) as cupy:
        trainer, data = parts.zoo_trainer(name, get_backend("gpu"), 64)
        step = partial(trainer._next_step, data, 64)
        step()
        with cupy.stats.step() as counts:
            step()
        print(f"{name}: {counts.launches} launches in a step")
        assert counts.launches <= LAUNCHES[name]
        replay = Replay(trainer.backend)
        for kind, work in (("train", step), ("test", partial(trainer._next_test, data, 64))):
            replay.run(kind, work)
            with cupy.stats.step() as counts:
                replay.run(kind, work)
            assert (counts.launches, counts.graph_launches, replay.reason) == (1, 1, "")


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
    y = conv(cupy.asarray(x), train=True)
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
    conv(host if built_on == "cpu" else device, train=True)
    with pytest.raises(DeviceError, match=r'Conv2D "conv1": built on (cpu|gpu:0), .* a (cupy|numpy) ndarray; move'):
        conv(device if built_on == "cpu" else host, train=True)


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
                assert layer(x, train=True).device.id == device
                assert layer.w.value.device.id == device


def test_ways_to_convolve() -> None:
    with installed_cupy(make_fake_cupy()) as cupy:
        defaults = {"float32": "columns", "float64": "columns", "tf32": "implicit", "bf16": "implicit"}
        assert {name: get_backend("gpu", name).convolution for name in defaults} == defaults
        assert get_backend("gpu", "bf16", convolution="columns").convolution == "columns"
        assert (
            "CuPy 14.2.0; bf16 factors, float32 arrays, convolution implicit)" in get_backend("gpu", "bf16").describe()
        )
        assert get_backend("auto", convolution="implicit").convolution == "implicit"
        with pytest.raises(InputError, match="unknown convolution 'implicite': did you mean 'implicit'"):
            get_backend("gpu", convolution="implicite")
        cupy.cuda.Device.compute_capability = "75"
        with pytest.raises(
            DeviceError, match=r"capability 7\.5: implicit convolution in bf16 needs 8\.0; use convolution"
        ):
            get_backend("gpu", "bf16", convolution="implicit")
        assert get_backend("gpu", convolution="implicit").matmul_precision == "float32"
        assert get_backend("gpu", "bf16").convolution == "columns"
    with pytest.raises(InputError, match="only a GPU has several algorithms, received the device cpu"):
        get_backend("cpu", convolution="implicit")


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
