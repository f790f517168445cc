"""gpucnn against PyTorch, on the samples with which PyTorch tests its own operators (`op_db`): forward and backward."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

VERSION = "2.13.0"  # `torch.testing._internal` is private, and its samples change from version to version

torch = pytest.importorskip("torch")
pytest.importorskip("expecttest", reason="PyTorch's samples need the package expecttest")
if torch.__version__.partition("+")[0] != VERSION:
    pytest.skip(f"the samples are those of torch {VERSION}, not {torch.__version__}", allow_module_level=True)

from torch_samples import Sample, read  # noqa: E402

from gpucnn import get_backend  # noqa: E402

SUITE = "PyTorch's samples of its operators (`op_db`), forward and backward, in float64"

torch.set_num_threads(1)  # the samples are tiny
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
SAMPLES, EXCLUDED = read()
BACKENDS = [get_backend(device, "float64") for device in ("cpu", "reference")]
TOLERANCE = 1e-10
TOLERANCES = {"hardsigmoid": 1e-7}  # its derivative in PyTorch is 1/6 rounded to float32


def tensors(value: Any) -> Iterator[torch.Tensor]:
    """Yield all tensors in arguments and options."""
    if isinstance(value, torch.Tensor):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else ():
        yield from tensors(part)


def assert_near(actual: np.ndarray, expected: torch.Tensor, tolerance: float, what: str) -> None:
    """Compare shapes, and numbers by the largest difference over the largest number."""
    wanted = expected.detach().numpy()
    assert actual.shape == wanted.shape, what
    largest = max(1.0, np.max(np.abs(wanted), initial=0.0))
    difference = np.max(np.abs(actual - wanted), initial=0.0)
    assert difference <= tolerance * largest, f"{what}: differs by {difference:g}"


@pytest.mark.parametrize("sample", SAMPLES, ids=str)
def test_sample(sample: Sample) -> None:
    results = sample.function(*sample.arguments, **sample.options)
    expected = results if isinstance(results, tuple) else (results,)
    dy = torch.rand(expected[0].shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64) + 0.5
    differentiable = [tensor for tensor in tensors((sample.arguments, sample.options)) if tensor.requires_grad]
    slopes = dict(zip(differentiable, torch.autograd.grad(expected[0], differentiable, dy), strict=True))
    tolerance = TOLERANCES.get(sample.operator, TOLERANCE)
    for backend in BACKENDS:
        outputs, gradients = sample.call.run(backend, dy.numpy())
        for number, (output, wanted) in enumerate(zip(outputs, expected, strict=True)):
            assert_near(output, wanted, tolerance, f"{backend.name}: output {number}")
        assert slopes.keys() <= {tensor for tensor, _ in gradients}
        for number, (tensor, gradient) in enumerate(gradients):
            if gradient is not None and tensor.requires_grad:
                assert_near(gradient, slopes[tensor], tolerance, f"{backend.name}: gradient {number}")
