"""Normalization of each channel over the batch, and of groups of channels in each sample."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np

from gpucnn.backend.memory import Parameter
from gpucnn.checks import integer, number
from gpucnn.errors import InputError
from gpucnn.execution.context import Context
from gpucnn.layers.base import Array, Layer, Shape
from gpucnn.layers.initializers import zeros

__all__ = ["BatchNorm2D", "GroupNorm"]


class Normalization(Layer):
    """What normalizations share: a trained scale and shift for each channel, at first 1 and 0."""

    changeable: ClassVar = {"eps": number}
    mean_rstd: Array = None
    gamma: Parameter  # both since its shape is known
    beta: Parameter

    def __init__(self, eps: float, name: str | None):
        super().__init__(name)
        self.eps = number(eps, f"{self.label}: eps")

    def infer_shape(self, input_shape: Shape) -> Shape:
        C = self._channels(input_shape)
        self.gamma = Parameter("gamma", (C,), lambda rng, shape: np.ones(shape))
        self.beta = Parameter("beta", (C,), zeros)
        return input_shape

    def _gradients(self) -> dict[str, Array]:
        return {"dgamma": self.gamma.gradient, "dbeta": self.beta.gradient}


class BatchNorm2D(Normalization):
    """Normalize each channel over batch and image: `y = gamma (x - mean)/sqrt(variance + eps) + beta`.

    In training with the mean and variance of the batch, else with running ones: in each training step
    `running = (1 - momentum) running + momentum batch`, with the unbiased variance, as in PyTorch. (N, ..., C) ->
    (N, ..., C), mostly images. Source: Ioffe and Szegedy, ICML 2015.

    Parameters
    ----------
    momentum : the share of a new batch in the running moments, at least 0 and below 1
    eps : what is added to the variance, a number of at least 0; both may be changed later

    Attributes
    ----------
    gamma, beta : Parameter, (C,), at first 1 and 0
    running : (2, C), running mean and variance, at first 0 and 1

    Raises `InputError` for any other momentum or eps, and where samples are single numbers.

    >>> norm = BatchNorm2D(momentum=0.5)
    >>> norm(np.array([[1.0], [3.0]]), train=True).round(3)
    array([[-1.],
           [ 1.]])
    >>> norm.running  # (0 + 2)/2, and (1 + 2)/2
    array([[1. ],
           [1.5]])
    """

    from_operations = True
    changeable: ClassVar = {"eps": number, "momentum": partial(number, below=1.0)}

    def __init__(self, *, momentum: float = 0.1, eps: float = 1e-5, name: str | None = None):
        super().__init__(eps, name)
        self.momentum = number(momentum, f"{self.label}: momentum", below=1.0)
        self.running: Array = None

    def bind(self, context: Context) -> None:
        super().bind(context)
        self.running = self.backend.zeros((2, self.input_shape[-1]))
        self.reset()

    def reset(self) -> None:
        if self.running is not None:
            self.running[0, :] = 0
            self.running[1, :] = 1

    def state(self) -> dict[str, Array]:
        return {} if self.running is None else {"running": self.running}

    def fold(self, w: Array, b: Array | None, min_batch: int) -> tuple[Array, Array]:
        """Return the kernels and the bias of the convolution that infers what one with w, b and this layer do."""
        shapes = {"w": tuple(w.shape), "b": tuple(w.shape[-1:])}
        folded = [self.buffer(name, shape, per_sample=False, min_batch=min_batch) for name, shape in shapes.items()]
        scale = self.gamma.value, self.beta.value, self.running
        self.backend.fold_batch_norm(w, b, *scale, self.eps, folded_w=folded[0], folded_b=folded[1])
        return folded[0], folded[1]

    def apply(self, x: Array) -> Array:
        """Normalize by the running moments, in place."""
        scale = self.gamma.value, self.beta.value, self.running
        return self.backend.batch_norm_inference(x, *scale, self.eps, out=x)

    def forward(self, x: Array, *, train: bool) -> Array:
        y = self.buffer("y", tuple(x.shape))
        scale = self.gamma.value, self.beta.value, self.running
        if not train:
            return self.backend.batch_norm_inference(x, *scale, self.eps, out=y)
        self.x, self.mean_rstd = x, self.buffer("mean_rstd", tuple(self.running.shape), per_sample=False)
        self.backend.batch_norm(x, *scale, self.momentum, self.eps, out=y, mean_rstd=self.mean_rstd)
        return y

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        dx = self.buffer("dx", tuple(dy.shape))
        self.backend.batch_norm_dx(dy, self.x, self.gamma.value, self.mean_rstd, out=dx, **self._gradients())
        return dx if need_dx else None


class GroupNorm(Normalization):
    """Normalize each sample by itself, in groups of channels: `y = gamma (x - mean)/sqrt(variance + eps) + beta`.

    With the mean and the (biased) variance over all pixels and all channels of a group, in training and after it. One
    group is layer normalization over (H, W, C), as many groups as channels are instance normalization. (N, ..., C) ->
    (N, ..., C). Source: Wu and He, ECCV 2018.

    Parameters
    ----------
    groups : how many equal runs the channels are cut into
    eps : what is added to the variance, a number of at least 0; it may be changed later

    Attributes
    ----------
    gamma, beta : Parameter, (C,), at first 1 and 0

    Raises `InputError` for any other argument, and where the groups do not divide the channels.

    >>> GroupNorm(2)(np.array([[1.0, 3.0, 10.0, 30.0]])).round(3)
    array([[-1.,  1., -1.,  1.]])
    """

    from_operations = per_sample = True

    def __init__(self, groups: int, *, eps: float = 1e-5, name: str | None = None):
        super().__init__(eps, name)
        self.groups = integer(groups, f"{self.label}: groups", least=1)

    def infer_shape(self, input_shape: Shape) -> Shape:
        C = self._channels(input_shape)
        if C % self.groups:
            cure = f"use a number of groups that divides {C}"
            raise InputError(f"{self.label}: {C} channels cannot be divided into {self.groups} equal groups; {cure}")
        return super().infer_shape(input_shape)

    def forward(self, x: Array, *, train: bool) -> Array:
        self.x, self.mean_rstd = x, self.buffer("mean_rstd", (2, x.shape[0], self.groups))
        scale = self.gamma.value, self.beta.value
        y = self.buffer("y", tuple(x.shape))
        self.backend.group_norm(x, *scale, self.groups, self.eps, out=y, mean_rstd=self.mean_rstd)
        return y

    def backward(self, dy: Array, *, need_dx: bool) -> Array | None:
        dx = self.buffer("dx", tuple(dy.shape))
        self.backend.group_norm_dx(dy, self.x, self.gamma.value, self.mean_rstd, out=dx, **self._gradients())
        return dx if need_dx else None
