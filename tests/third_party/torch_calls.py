"""One call of a gpucnn layer, loss or operation on the arrays of a PyTorch sample, forward and backward."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from gpucnn import Layer, Window
from gpucnn.backend import Backend
from gpucnn.losses import Loss

# The gradient in each of a sample's tensors; None where the tensor is a constant to gpucnn, as a loss's targets are.
Gradients = list[tuple[torch.Tensor, np.ndarray | None]]


class Unsupported(Exception):
    """Raised for a sample with arguments that gpucnn does not have; the message is the reason, in a few words."""


def array(tensor: torch.Tensor) -> np.ndarray:
    """The numbers of a tensor, in the same memory."""
    return tensor.detach().numpy()


# ---- layouts ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How an array of PyTorch lies in gpucnn, and how one of gpucnn lies in PyTorch."""

    to: Callable[[np.ndarray], np.ndarray]
    back: Callable[[np.ndarray], np.ndarray]


SAME = Layout(np.asarray, np.asarray)
KERNELS = Layout(lambda w: w.transpose(2, 3, 1, 0), lambda w: w.transpose(3, 2, 0, 1))  # OIHW <-> HWIO
MATRIX = Layout(np.transpose, np.transpose)
BATCH_OF_IMAGES = Layout(lambda x: x.transpose(0, 2, 3, 1), lambda x: x.transpose(0, 3, 1, 2))  # NCHW <-> NHWC
ONE_IMAGE = Layout(lambda x: x.transpose(1, 2, 0)[None], lambda x: x[0].transpose(2, 0, 1))  # CHW <-> NHWC


def images(x: torch.Tensor) -> Layout:
    """(N, C, H, W), or (C, H, W), which becomes a batch of one."""
    if x.ndim not in (3, 4):
        raise Unsupported("images of one or three dimensions")
    return BATCH_OF_IMAGES if x.ndim == 4 else ONE_IMAGE


def channels_last(x: torch.Tensor) -> Layout:
    """(N, C, ...) with its channels last."""
    return Layout(lambda a: np.moveaxis(a, 1, -1), lambda a: np.moveaxis(a, -1, 1))


def flat(x: torch.Tensor, K: int) -> Layout:
    """Any shape as rows of K numbers."""
    return Layout(lambda a: a.reshape(-1, K), lambda a: a.reshape(tuple(x.shape)))


def elements(x: torch.Tensor) -> Layout:
    """Any shape; a number or a vector becomes a batch of one."""
    return SAME if x.ndim >= 2 else flat(x, x.numel())


def rows(x: torch.Tensor, axis: int = -1) -> Layout:
    """Rows (N, K), K along `axis` and N along all other axes; back, K may be another."""
    if x.ndim == 0:
        return elements(x)
    leading = tuple(np.moveaxis(array(x), axis, -1).shape[:-1])

    def to(a: np.ndarray) -> np.ndarray:
        return np.moveaxis(a, axis, -1).reshape(-1, a.shape[axis])

    return Layout(to, lambda a: np.moveaxis(a.reshape(*leading, a.shape[-1]), -1, axis))


def nothing(layer: Layer) -> Sequence[np.ndarray]:
    """No result of a layer but its output."""
    return ()


# ---- calls --------------------------------------------------------------------------------------------------------


@dataclass
class LayerCall:
    """A layer on one input, with parameters and state of PyTorch's.

    `also` gives further results of the forward pass, which have no gradient: the positions of maxima, for example.
    """

    make: Callable[[], Layer]
    x: torch.Tensor
    layout: Layout
    parameters: dict[str, tuple[torch.Tensor, Layout]] = field(default_factory=dict)
    state: dict[str, np.ndarray] = field(default_factory=dict)
    also: Callable[[Layer], Sequence[np.ndarray]] = nothing

    def __post_init__(self):
        if self.x.numel() == 0:
            raise Unsupported("an empty batch")

    def run(self, backend: Backend, dy: np.ndarray) -> tuple[list[np.ndarray], Gradients]:
        """Return the outputs and, for the gradient `dy` of the first one, the gradients."""
        layer, x = self.make(), self.layout.to(array(self.x))
        layer.build(x.shape[1:], backend)
        for name, (tensor, layout) in self.parameters.items():
            getattr(layer, name).value[...] = layout.to(array(tensor))
        for name, values in self.state.items():
            getattr(layer, name)[...] = values
        outputs = [self.layout.back(layer(x, train=True)), *self.also(layer)]
        gradients: Gradients = [(self.x, self.layout.back(layer.backpropagate(self.layout.to(dy))))]
        for name, (tensor, layout) in self.parameters.items():
            gradients.append((tensor, layout.back(getattr(layer, name).gradient)))
        return outputs, gradients


@dataclass
class LossCall:
    """A loss on rows of outputs, times `scale`; with `each`, every row is a batch of its own and has its own loss.

    `shape` is that of PyTorch's result. Targets are constants: gpucnn has no gradient in them.
    """

    make: Callable[[], Loss]
    outputs: torch.Tensor
    targets: torch.Tensor
    layout: Layout
    target_rows: np.ndarray
    shape: tuple[int, ...] = ()
    each: bool = False
    scale: float = 1.0

    def run(self, backend: Backend, dy: np.ndarray) -> tuple[list[np.ndarray], Gradients]:
        """Return the loss, or the losses of all rows, and the gradients for the gradient `dy` of that."""
        rows = self.layout.to(array(self.outputs))
        batches = [slice(n, n + 1) for n in range(len(rows))] if self.each else [slice(None)]
        losses, gradients = [], []
        for batch, share in zip(batches, dy.reshape(-1), strict=True):
            loss = self.make()
            loss.build(backend)
            losses.append(self.scale * float(loss.forward(rows[batch], self.target_rows[batch])))
            gradients.append(share * self.scale * loss.backward())
        dx = self.layout.back(np.concatenate(gradients))
        return [np.reshape(losses, self.shape)], [(self.outputs, dx), (self.targets, None)]


@dataclass
class UnfoldCall:
    """`im2col` and its adjoint: PyTorch puts the channel before the tap, and the position last."""

    x: torch.Tensor
    window: Window

    def run(self, backend: Backend, dy: np.ndarray) -> tuple[list[np.ndarray], Gradients]:
        """Return the columns, and the gradient in the image."""
        x = BATCH_OF_IMAGES.to(array(self.x))
        N, H, W, C = x.shape
        columns = backend.im2col(x, self.window)
        taps, outputs = self.window.taps, math.prod(self.window.output_size(H, W))
        y = columns.reshape(N, outputs, taps, C).transpose(0, 3, 2, 1).reshape(N, C * taps, outputs)
        dcolumns = dy.reshape(N, C, taps, outputs).transpose(0, 3, 2, 1).reshape(columns.shape)
        dx = backend.col2im(dcolumns, x.shape, self.window)
        return [y], [(self.x, BATCH_OF_IMAGES.back(dx))]
