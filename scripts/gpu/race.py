"""Launch each hand-written kernel once, on small arrays: what the part `sanitizer` of `scripts/gpu/check.py` watches.

    compute-sanitizer --tool racecheck python scripts/gpu/race.py

Prints a line "kernel NAME" for each kernel that is launched. The arrays are just large enough for several blocks,
several tiles, and partial sums in several parts.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np

from gpu.job import PRECISIONS, make_backend, random_data
from gpucnn import (
    SGD,
    BatchNorm2D,
    Conv2D,
    Dense,
    Flatten,
    MeanSquaredError,
    ReLU,
    Sequential,
    SigmoidCrossEntropy,
    Softmax,
    SoftmaxCrossEntropy,
    Trainer,
)
from gpucnn.backend import Backend
from gpucnn.losses import Loss

N, SHAPE, WIDE = 8, (9, 10, 20), 70  # more than one tile of maps


def launch_all(device: str, precisions: Sequence[str]) -> None:
    """Take steps that together launch all kernels: convolutions in each precision, all others once."""
    for precision in precisions:
        layers = [Conv2D(WIDE, 3, padding=1), ReLU(), Conv2D(8, 3, stride=2), Flatten(), Dense(10)]
        train(make_backend(device, precision, "implicit"), layers, SoftmaxCrossEntropy())
    backend = make_backend(device)
    for loss in (SoftmaxCrossEntropy(label_smoothing=0.1), SigmoidCrossEntropy(), MeanSquaredError()):
        train(backend, [BatchNorm2D(), Flatten(), Dense(WIDE), Softmax(), Dense(10)], loss)


def train(backend: Backend, layers: list[Any], loss: Loss) -> None:
    """Take a step whose gradient is clipped."""
    announce(backend)
    model, data = Sequential(layers), random_data(backend, N, SHAPE)
    model.build(SHAPE, backend, max_batch=N, seed=0)
    data.shuffle(np.random.default_rng(0), 0)
    Trainer(model, loss, SGD(0.01, 0.9, clip_norm=1e-3), batch_size=N).step(*data.next_batch(N))
    backend.to_host(model.parameters()[0].value)


def announce(backend: Backend) -> None:
    """Let a backend print the name of each hand-written kernel that it launches."""

    def launch(record: Any, *arguments: Any, **options: Any) -> None:
        print(f"kernel {record.name}", flush=True)
        type(backend).launch(backend, record, *arguments, **options)

    backend.launch = launch


def main(arguments: Sequence[str] | None = None) -> int:
    """Launch all kernels."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("precisions", nargs="*", help="of the implicit convolutions (default: all)")
    parser.add_argument("--device", default="gpu:0", help="default: %(default)s")
    options = parser.parse_args(arguments)
    launch_all(options.device, options.precisions or PRECISIONS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
