"""How many of PyTorch's samples run: a change that leaves more of them out is noticed."""

from __future__ import annotations

from collections import Counter

from test_torch import EXCLUDED, SAMPLES

# By operator: samples that run, and samples that there are.
SUPPORTED = {
    "conv2d": (30, 30),
    "conv_transpose2d": (10, 12),
    "linear": (14, 18),
    "unfold": (163, 163),
    "pad.constant": (1, 51),
    "pad.reflect": (0, 12),
    "pad.replicate": (0, 12),
    "pad.replicate_negative": (0, 6),
    "pad.circular": (0, 8),
    "max_pool2d": (1440, 1440),
    "avg_pool2d": (2, 7),
    "adaptive_avg_pool2d": (10, 10),
    "adaptive_max_pool2d": (24, 24),
    "batch_norm": (4, 12),
    "group_norm": (13, 21),
    "relu": (4, 4),
    "leaky_relu": (9, 9),
    "prelu": (24, 25),
    "elu": (2, 3),
    "selu": (2, 3),
    "gelu": (8, 8),
    "silu": (2, 3),
    "softplus": (0, 3),
    "logsigmoid": (2, 3),
    "hardsigmoid": (2, 3),
    "sigmoid": (2, 3),
    "tanh": (1, 1),
    "atan": (1, 1),
    "softmax": (6, 7),
    "log_softmax": (6, 7),
    "cross_entropy": (15, 21),
    "nll_loss": (37, 61),
    "mse_loss": (6, 6),
    "l1_loss": (6, 6),
    "huber_loss": (9, 9),
    "binary_cross_entropy": (8, 11),
    "binary_cross_entropy_with_logits": (8, 26),
}


def test_as_many_samples_of_each_operator_run_as_are_recorded() -> None:
    run = Counter(sample.operator for sample in SAMPLES)
    left_out = Counter(name.rpartition("-")[0] for name in EXCLUDED)
    assert {name: (run[name], run[name] + left_out[name]) for name in run | left_out} == SUPPORTED
