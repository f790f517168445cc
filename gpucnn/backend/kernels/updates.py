"""The updates of the optimizers."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Elementwise

__all__ = ["ADAGRAD_STEP", "ADAM_POWERS", "ADAM_STEP", "RMSPROP_STEP", "SGD_STEP"]

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
