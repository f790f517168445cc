"""Whole models on `array_api_strict`, a module with the Python array API standard and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

from gpucnn import SGD, SoftmaxCrossEntropy, zoo
from gpucnn.backend.reference import Backend

array_api_strict = pytest.importorskip("array_api_strict")

SUITE = "training steps on `array_api_strict`, bit for bit as on NumPy"


def train(backend: Backend, name: str, image_shape: tuple[int, int, int]) -> dict[str, np.ndarray]:
    """Return the logits and the losses of two steps, and all gradients and weights after them."""
    rng = np.random.default_rng(0)
    images = backend.from_host(rng.standard_normal((4, *image_shape)).astype(backend.precision))
    labels = backend.from_host(rng.integers(0, 10, 4, dtype=np.int32))
    model, loss, optimizer = getattr(zoo, name)(), SoftmaxCrossEntropy(), SGD(0.05, momentum=0.9)
    model.build(image_shape, backend, seed=0)
    loss.build(backend)
    optimizer.attach(model.arena, backend)
    found = {}
    for step in range(2):
        logits = model(images, train=True)
        found[f"logits {step}"] = backend.to_host(logits)
        found[f"loss {step}"] = backend.to_host(loss.forward(logits, labels))
        model.backpropagate(loss.backward(), need_dx=False)
        optimizer.step()
    return found | model.state_dict() | {"gradients": backend.to_host(model.arena.gradients)}


@pytest.mark.parametrize("precision", ["float32", "float64"])
@pytest.mark.parametrize(
    ("model", "image_shape"),
    [("paper", (28, 28, 1)), ("lenet5", (28, 28, 1)), ("vgg", (32, 32, 3)), ("resnet20", (32, 32, 3))],
)
def test_training_steps(model: str, image_shape: tuple[int, int, int], precision: str) -> None:
    expected = train(Backend(precision), model, image_shape)
    actual = train(Backend(precision, xp=array_api_strict), model, image_shape)
    assert actual.keys() == expected.keys()
    for name, values in expected.items():
        np.testing.assert_array_equal(actual[name], values, err_msg=name, strict=True)
