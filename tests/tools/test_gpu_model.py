"""The predicted step: against arithmetic by hand, and its nodes against the launches on the strict fake device."""

from __future__ import annotations

import math
import subprocess
import sys
from functools import partial

import pytest
from device.fake_cupy import make_fake_cupy
from device.fixtures import installed_cupy
from trainers import random_split

from bench.engine import image_shape
from gpu import model as gpu_model
from gpu.model import Card, Step
from gpucnn import SGD, Conv2D, MaxPool2D, ReLU, Sequential, SoftmaxCrossEntropy, Trainer, get_backend, zoo
from gpucnn.data import DeviceDataset, Normalization

# A slow card: 1e6 bytes and 4e3 instructions of warps a second.
SLOW = Card("slow", bandwidth=1e6, multiprocessors=1, clock=1e3)
N = 4


@pytest.fixture
def layer() -> Conv2D:
    """A convolution of 4 images of 8 x 8 pixels and 4 maps to 16 maps: 256 windows of 36 elements."""
    model = Sequential([Conv2D(16, 3, padding=1)])
    model.build((8, 8, 4), "cpu", seed=0)
    return model.layers[0]


def step_of(layer: Conv2D, way: str, card: Card = SLOW, *, need_dx: bool = True) -> Step:
    step = Step(card, "tf32", way)
    step.layer(layer, N, relu=False, need_dx=need_dx)
    return step


def test_a_convolution_by_columns(layer: Conv2D) -> None:
    step = step_of(layer, "columns")
    columns, x, y, w = 256 * 36, 256 * 4, 256 * 16, 36 * 16
    instructions = max(4 * (columns + x) / 1e6, columns * 208 / 32 / 4e3)
    gathered = max(4 * (columns + x) / 1e6, x * (110 + 3 * 60 + 9 * 44) / 32 / 4e3)
    assert step.families["im2col and col2im"] == pytest.approx((2 * instructions + gathered) / 0.85)
    bias = y * 77 / 32 / 4e3 / 0.85
    assert step.families["convolution"] == pytest.approx(3 * 4 * (columns + w + y) / 1e6 + bias)
    sums = max(4 * y / 1e6, y * 12 / 32 / 4e3) / 0.85
    assert step.families["bias gradients"] == pytest.approx(sums + gpu_model.SECOND_STAGE)
    assert step.nodes == 3 + 2 + 2 + 2  # forward, kernel gradient, input gradient, sum
    assert step.families["latency of nodes"] == pytest.approx(9 * gpu_model.NODE)
    assert step.seconds == pytest.approx(sum(step.families.values()))


def test_a_convolution_without_columns(layer: Conv2D) -> None:
    """4 blocks of 3 steps, 4 parts of one block of 4 steps, and 4 blocks of 9 steps: all on one multiprocessor."""
    step = step_of(layer, "implicit")
    slots = 4 * 3 * 363 + 4 * 4 * 364 + 4 * 9 * 462
    parts = max(4 * 4 * 576 / 1e6, 4 * 576 * 12 / 32 / 4e3) / 0.85 + gpu_model.SECOND_STAGE
    assert step.families["convolution"] == pytest.approx(4 * slots / (0.55 * 4e3) + parts)
    assert step.nodes == 1 + 1 + 2 + 1 + 2
    assert "im2col and col2im" not in step.families


def test_what_bounds_an_implicit_kernel() -> None:
    """Its memory, the latency of its steps where blocks are few, or the slots of the fullest multiprocessor."""
    seconds = partial(gpu_model.tiles_seconds, precision="bf16", kernel="conv2d", depth=160, columns=64, moved=0)
    fast = gpu_model.CARDS["H100"]
    assert seconds(fast, rows=64) == pytest.approx(10 * gpu_model.STEP_LATENCY)
    once, twice = (seconds(fast, rows=64 * blocks) for blocks in (132 * 4, 132 * 4 + 1))
    assert twice == pytest.approx(once * 5 / 4)
    assert seconds(fast, rows=64, moved=fast.bandwidth) == 1
    # 64 x 64 x 16 multiplications and additions in 4 x 305 slots, of which 55 % are filled
    assert 2 * 64**3 * 1000 * 132 / seconds(fast, rows=64 * 132_000, depth=64) == pytest.approx(
        0.55 * fast.slots * 2 * 64 * 64 * 16 / (4 * 305)
    )


def test_products_of_cublas() -> None:
    """Few columns cost what 32 do; small ones have a least time."""
    seconds = partial(gpu_model.product_seconds, gpu_model.CARDS["H100"])
    assert seconds("float32", 8192, 8192, 8192) == pytest.approx(2 * 8192**3 / 45e12)
    assert seconds("float32", 8192, 8192, 16) == pytest.approx(2 * 8192**2 * 32 / 45e12)
    assert seconds("tf32", 8192, 8192, 8) == pytest.approx(4 * (8192**2 + 2 * 8192 * 8) / (0.9 * 3.35e12))
    assert seconds("tf32", 8, 8, 8) == gpu_model.CUBLAS_LEAST


def test_what_computes_a_relu() -> None:
    """A layer in front of it, a pooling behind it, or itself."""
    model = Sequential([Conv2D(2, 3), ReLU(), Conv2D(2, 3), ReLU(), MaxPool2D(2), ReLU()])
    kinds = [(type(layer).__name__, rectified) for layer, rectified in gpu_model.layers_of(model)]
    assert kinds == [*(("Conv2D", False), ("ReLU", True), ("Conv2D", False), ("MaxPool2D", False), ("ReLU", False))]
    names = [type(layer).__name__ for layer, _ in gpu_model.layers_of(zoo.resnet20())]
    assert (names.count("Conv2D"), names.count("BatchNorm2D"), names.count("ReLU")) == (21, 21, 19)


def test_a_residual_block_adds_outputs_and_gradients() -> None:
    """Three blocks of each width: 32 x 32 x 16, 16 x 16 x 32 and 8 x 8 x 64."""
    step = gpu_model.predict("resnet20", N, "bf16", "implicit", SLOW)
    pixels = N * 3 * (32 * 32 * 16 + 16 * 16 * 32 + 8 * 8 * 64)
    assert step.families["additions"] == pytest.approx(2 * max(3 * 4 * pixels / 1e6, pixels * 56 / 32 / 4e3) / 0.85)


@pytest.mark.parametrize("way", gpu_model.ALGORITHMS)
@pytest.mark.parametrize("name", zoo.MODELS)
def test_nodes_are_about_the_launches_of_a_step(name: str, way: str) -> None:
    """Sums have two stages or one, and cuBLAS may split a product: which is not counted here."""
    with installed_cupy(make_fake_cupy(executes=False)) as cupy:
        model, backend, shape = zoo.get_recipe(name).model(), get_backend("gpu", convolution=way), image_shape(name)
        model.build(shape, backend, max_batch=64)
        trainer, split = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1, 0.9)), random_split(64, shape)
        data = DeviceDataset(split, backend, Normalization(split.images))
        step = partial(trainer._next_step, data, 64)
        step()
        with cupy.stats.step() as counts:
            step()
    predicted = gpu_model.predict(name, 64, "tf32", way, gpu_model.CARDS["H100"])
    assert 0.75 < counts.launches / predicted.nodes < 1.1


@pytest.mark.parametrize("way", gpu_model.ALGORITHMS)
def test_a_larger_batch_takes_longer_and_a_faster_card_less(way: str) -> None:
    seconds = {
        (N, card): gpu_model.predict("lenet5", N, "bf16", way, gpu_model.CARDS[card]).seconds
        for N in (64, 512)
        for card in ("H100", "H200")
    }
    assert sorted(seconds, key=seconds.get) == [(64, "H200"), (64, "H100"), (512, "H200"), (512, "H100")]


def test_cards_are_known_by_name() -> None:
    assert gpu_model.card_named("NVIDIA H100 80GB HBM3") is gpu_model.CARDS["H100"]
    assert gpu_model.card_named("NVIDIA H200") is gpu_model.CARDS["H200"]
    for other in ("NVIDIA H100 PCIe", "NVIDIA H100 NVL", "NVIDIA A100-SXM4-80GB", "Fake GPU"):
        assert gpu_model.card_named(other) is None


def test_the_command(capsys: pytest.CaptureFixture) -> None:
    arguments = ["--networks", "lenet5", "--batch-sizes", "64", "--precisions", "float32", "--families"]
    assert gpu_model.main(arguments) == 0
    title, _, heading, rule, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("Predicted, not measured")
    assert heading.count("|") == rule.count("|")
    assert {row.count("|") for row in rows} == {heading.count("|")}
    cells = [cell.strip() for cell in rows[0].split("|")]
    assert cells[1:5] == ["`lenet5`", "64", "float32", "H100"]
    assert math.isclose(float(cells[5]) / float(cells[6]), float(cells[7]), rel_tol=0.02)
    assert any(row.startswith("| latency of nodes |") for row in rows)


def test_the_command_may_be_cut_off() -> None:
    command = f"{sys.executable} {gpu_model.__file__} --networks lenet5 | head -1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert (found.stdout.count("\n"), found.stderr) == (1, "")
