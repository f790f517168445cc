"""PyTorch's samples of its own operators (`op_db`), each as a call of gpucnn or with the reason why there is none.

An adaptor takes the arguments of PyTorch's function and returns a call, or raises `Unsupported`. It may transpose and
reshape arrays, reflect a function and change the scale of a loss; all else is the library's.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch_layers as layers
from torch_calls import LayerCall, LossCall, UnfoldCall, Unsupported
from torch_losses import cross_entropy, element_loss, nll_of_log_softmax

import gpucnn

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", "Fail to import hypothesis", ImportWarning)
    from torch.testing._internal.common_methods_invocations import op_db

Call = LayerCall | LossCall | UnfoldCall

PADDINGS = ("constant", "reflect", "replicate", "replicate_negative", "circular")

# By PyTorch's name, without "nn.functional.".
OPERATORS: dict[str, Callable[..., Call]] = {
    "conv2d": layers.conv2d,
    "conv_transpose2d": layers.conv_transpose2d,
    "linear": layers.linear,
    "unfold": layers.unfold,
    **{f"pad.{mode}": layers.pad for mode in PADDINGS},
    "max_pool2d": layers.max_pool2d,
    "avg_pool2d": layers.avg_pool2d,
    "adaptive_avg_pool2d": layers.adaptive_avg_pool2d,
    "adaptive_max_pool2d": layers.adaptive_max_pool2d,
    "batch_norm": layers.batch_norm,
    "group_norm": layers.group_norm,
    "relu": layers.activation(gpucnn.ReLU),
    "leaky_relu": layers.activation(gpucnn.LeakyReLU),
    "prelu": layers.prelu,
    "elu": layers.activation(gpucnn.ELU),
    "selu": layers.activation(gpucnn.SELU),
    "gelu": layers.gelu,
    "silu": layers.activation(gpucnn.Swish),
    "softplus": layers.softplus,
    "logsigmoid": layers.logsigmoid,
    "hardsigmoid": layers.activation(gpucnn.HardSigmoid),
    "sigmoid": layers.activation(gpucnn.Sigmoid),
    "tanh": layers.activation(gpucnn.Tanh),
    "atan": layers.activation(gpucnn.Arctan),
    "softmax": layers.softmax,
    "log_softmax": layers.log_softmax,
    "cross_entropy": cross_entropy,
    "nll_loss": cross_entropy,
    "mse_loss": element_loss(gpucnn.MeanSquaredError, "mean"),
    "l1_loss": element_loss(gpucnn.AbsoluteError, "sum"),
    "huber_loss": element_loss(gpucnn.Huber, "mean"),
    "binary_cross_entropy": element_loss(gpucnn.BinaryCrossEntropy, "sum"),
    "binary_cross_entropy_with_logits": element_loss(gpucnn.SigmoidCrossEntropy, "sum"),
}

# What a call is compared with, where that is not PyTorch's function itself.
FUNCTIONS = {"batch_norm": layers.torch_batch_norm, "nll_loss": nll_of_log_softmax}


@dataclass(frozen=True, eq=False)
class Sample:
    """One call of PyTorch's function, and the same of gpucnn."""

    operator: str
    number: int
    function: Callable
    arguments: tuple
    options: dict[str, Any]
    call: Call

    def __str__(self) -> str:
        return f"{self.operator}-{self.number}"


def read() -> tuple[list[Sample], dict[str, str]]:
    """Return the samples of all operators, and by name the reasons of those that gpucnn cannot run."""
    known = {op.full_name: op for op in op_db}
    samples, excluded = [], {}
    for name, adaptor in OPERATORS.items():
        operator = known.get(f"nn.functional.{name}") or known[name]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            drawn = list(operator.sample_inputs("cpu", torch.float64, requires_grad=True))
        for number, sample in enumerate(drawn):
            arguments = (sample.input, *sample.args)
            try:
                call = adaptor(*arguments, **sample.kwargs)
            except Unsupported as reason:
                excluded[f"{name}-{number}"] = str(reason)
            else:
                function = FUNCTIONS.get(name, operator.op)
                samples.append(Sample(name, number, function, arguments, sample.kwargs, call))
    return samples, excluded
