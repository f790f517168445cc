"""The updates of the optimizers, one kernel over the arena."""

from __future__ import annotations

import numpy as np

from gpucnn.backend.gpu.arrays import Array
from gpucnn.backend.gpu.records import Elementwise, kernel

__all__ = ["adagrad_step", "adam_step", "apply_scheduled_rate", "average_step", "clip_norm", "rmsprop_step", "sgd_step"]

MAX_SUMS = 1024  # blocks that sum squares: enough to keep a large GPU busy, few enough for every block to add up

SGD_STEP = Elementwise(
    "sgd_step",
    "T g, raw T hyper, bool nesterov",
    "T w, T v",
    """
    const T rate = hyper[0], momentum = hyper[1], gradient = g + hyper[2] * w;
    v = momentum * v + gradient;
    w -= rate * (nesterov ? gradient + momentum * v : v);
    """,
)


def sgd_step(self, w: Array, g: Array, v: Array, hyperparameters: Array, *, nesterov: bool = False) -> None:
    """As the reference, in one kernel over the arena."""
    self.run_elementwise(SGD_STEP, g, hyperparameters, nesterov, w, v)


ADAM_POWERS = Elementwise("adam_powers", "raw T hyper", "T powers", "powers *= hyper[1 + i]")
ADAM_STEP = Elementwise(
    "adam_step",
    "T g, raw T powers, raw T hyper, bool decoupled",
    "T w, T m, T v",
    """
    const T rate = hyper[0], beta1 = hyper[1], beta2 = hyper[2], eps = hyper[3], decay = hyper[4];
    const T gradient = decoupled ? g : g + decay * w;
    if (decoupled) w -= rate * decay * w;
    m = beta1 * m + (T(1) - beta1) * gradient;
    v = beta2 * v + (T(1) - beta2) * gradient * gradient;
    w -= rate * (m / (T(1) - powers[0])) / (sqrt(v / (T(1) - powers[1])) + eps);
    """,
)


def adam_step(
    self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyperparameters: Array, *, decoupled: bool = False
) -> None:
    """As the reference: one kernel for the powers, one over the arena."""
    self.run_elementwise(ADAM_POWERS, hyperparameters, powers)
    self.run_elementwise(ADAM_STEP, g, powers, hyperparameters, decoupled, w, m, v)


RMSPROP_STEP = Elementwise(
    "rmsprop_step",
    "T g, raw T hyper",
    "T w, T v, T b",
    """
    const T rate = hyper[0], smoothing = hyper[1], eps = hyper[2], momentum = hyper[3], gradient = g + hyper[4] * w;
    v = smoothing * v + (T(1) - smoothing) * gradient * gradient;
    b = momentum * b + gradient / (sqrt(v) + eps);
    w -= rate * b;
    """,
)


def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyperparameters: Array) -> None:
    """As the reference, in one kernel over the arena."""
    self.run_elementwise(RMSPROP_STEP, g, hyperparameters, w, v, b)


ADAGRAD_STEP = Elementwise(
    "adagrad_step",
    "T g, raw T hyper",
    "T w, T v",
    """
    const T rate = hyper[0], eps = hyper[1], gradient = g + hyper[2] * w;
    v += gradient * gradient;
    w -= rate * gradient / (sqrt(v) + eps);
    """,
)


def adagrad_step(self, w: Array, g: Array, v: Array, hyperparameters: Array) -> None:
    """As the reference, in one kernel over the arena."""
    self.run_elementwise(ADAGRAD_STEP, g, hyperparameters, w, v)


SQUARE_SUMS = kernel("square_sums", "reductions.cuh", "updates.cu")
CLIP_NORM = kernel("clip_norm", "reductions.cuh", "updates.cu")


def clip_norm(self, g: Array, limit: Array) -> None:
    """As the reference, in two launches: sums of squares by many blocks, then a scaling that adds those up."""
    threads = SQUARE_SUMS.threads
    grid = max(1, min(-(-g.size // threads), MAX_SUMS))  # a model may have no parameters
    sums = self.scratch("square_sums", (grid,), np.float64)
    self.launch(SQUARE_SUMS, (grid,), g, sums, np.int64(g.size))
    self.launch(CLIP_NORM, (grid,), sums, limit, g, np.int64(g.size), dtype=g.dtype)


APPLY_SCHEDULED_RATE = Elementwise(
    "apply_scheduled_rate",
    "raw T rates, int64 last",
    "T rate, int64 clock",
    "rate = rates[clock < last ? clock : last]; clock += 1",
)


def apply_scheduled_rate(self, rates: Array, clock: Array, hyperparameters: Array) -> None:
    """As the reference, in one tiny kernel."""
    self.run_elementwise(APPLY_SCHEDULED_RATE, rates, len(rates) - 1, hyperparameters[:1], clock)


AVERAGE_TOTAL_WEIGHT = Elementwise(
    "average_total_weight", "T decay", "T total_weight", "total_weight = decay * total_weight + T(1)"
)
AVERAGE_STEP = Elementwise("average_step", "T w, raw T total_weight", "T mean", "mean += (w - mean) / total_weight[0]")


def average_step(self, w: Array, mean: Array, total_weight: Array, hyperparameters: Array) -> None:
    """As the reference: one kernel for the total weight, one over the arena."""
    self.run_elementwise(AVERAGE_TOTAL_WEIGHT, hyperparameters, total_weight)
    self.run_elementwise(AVERAGE_STEP, w, total_weight, mean)
