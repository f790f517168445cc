"""From the arguments of PyTorch's functions to calls of gpucnn's losses."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_calls import LossCall, Unsupported, array, flat, rows

import gpucnn
from gpucnn.losses import Loss

NONE_IGNORED = -100  # PyTorch's default, the number of no class


def cross_entropy(
    x: Tensor, target: Tensor, *, weight: Tensor = None, ignore_index: int = NONE_IGNORED, reduction: str = "mean"
) -> LossCall:
    """`SoftmaxCrossEntropy`, whose mean is PyTorch's; each pixel of (N, C, H, W) is a row."""
    if weight is not None and weight.min() < 0:
        raise Unsupported("negative class weights")
    axis, each = class_axis(x), reduction == "none"
    layout, are_labels = rows(x, axis), target.dtype == torch.int64
    make = partial(
        gpucnn.SoftmaxCrossEntropy,
        class_weights=None if weight is None else array(weight).tolist(),
        ignored_label=None if ignore_index == NONE_IGNORED else ignore_index,
        reduction="sum" if each else reduction,
    )
    targets = array(target).reshape(-1) if are_labels else layout.to(array(target))
    shape = tuple(np.delete(x.shape, axis)) if each else ()
    return LossCall(make, x, target, layout, targets, shape, each)


def class_axis(x: Tensor) -> int:
    """The axis of the classes in (C,), (N, C) or (N, C, ...)."""
    return 0 if x.ndim == 1 else 1


def nll_of_log_softmax(x: Tensor, *args: Any, **options: Any) -> Tensor:
    """PyTorch's `nll_loss` of the logarithm of the softmax: gpucnn has the two in one."""
    return F.nll_loss(F.log_softmax(x, class_axis(x)), *args, **options)


def element_loss(loss: type[Loss], over_outputs: str) -> Callable[..., LossCall]:
    """The adaptor for a loss that is the "sum" or the "mean" over the K outputs, and the mean over the batch.

    PyTorch's is the sum over both or the mean over both: hence the scale of K or 1/K.
    """

    def adaptor(
        x: Tensor, target: Tensor, *, reduction: str = "mean", weight=None, pos_weight=None, **options: Any
    ) -> LossCall:
        if weight is not None or pos_weight is not None:
            raise Unsupported("weights of single outputs")
        each = reduction == "none"
        K = 1 if each or x.ndim < 2 else x[0].numel()
        scale = {("mean", "sum"): 1 / K, ("sum", "mean"): K}.get((reduction, over_outputs), 1)
        make = partial(loss, **options, reduction="sum" if each else reduction)
        layout = flat(x, K)
        return LossCall(make, x, target, layout, layout.to(array(target)), tuple(x.shape) if each else (), each, scale)

    return adaptor
