"""The updates of the optimizers, one block of the arena after another."""

from __future__ import annotations

import math

import numpy as np

from gpucnn.backend.cpu.blocks import Array, blocks
from gpucnn.backend.cpu.sharing import shared
from gpucnn.backend.reference import updates as reference

__all__ = ["adagrad_step", "adam_step", "apply_scheduled_rate", "average_step", "clip_norm", "rmsprop_step", "sgd_step"]


@shared("w", "g", "v")
def sgd_step(self, w: Array, g: Array, v: Array, hyperparameters: Array, *, nesterov: bool = False) -> None:
    """As the reference, one block after another, each while it is in the cache."""
    rate, momentum, decay = hyperparameters
    for block in blocks(w.size):
        wb, gb, vb = w[block], g[block], v[block]
        step = self.scratch("step", wb.shape, w.dtype)
        np.multiply(vb, momentum, out=vb)
        np.add(vb, gb, out=vb)
        if decay:
            np.add(vb, np.multiply(wb, decay, out=step), out=vb)
        if nesterov:
            _nesterov_step(self, wb, gb, vb, hyperparameters, step)
        else:
            np.multiply(vb, rate, out=step)
        np.subtract(wb, step, out=wb)


def _nesterov_step(self, w: Array, g: Array, v: Array, hyperparameters: Array, step: Array) -> None:
    """Write `rate (g + decay w + momentum v)` into `step`."""
    rate, momentum, decay = hyperparameters
    lookahead = self.scratch("lookahead", w.shape, w.dtype)
    np.add(g, np.multiply(w, decay, out=step), out=step)
    np.add(step, np.multiply(v, momentum, out=lookahead), out=step)
    np.multiply(step, rate, out=step)


def adam_step(
    self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyperparameters: Array, *, decoupled: bool = False
) -> None:
    """As the reference, one block after another, each while it is in the cache."""
    powers *= hyperparameters[1:3]
    _adam_update(self, w, g, m, v, powers, hyperparameters, decoupled)


@shared("w", "g", "m", "v")
def _adam_update(
    self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyperparameters: Array, decoupled: bool
) -> None:
    rate, beta1, beta2, eps, decay = hyperparameters
    for block in blocks(w.size):
        wb, mb, vb = w[block], m[block], v[block]
        gradient = g[block] if decoupled else _decayed(self, g[block], wb, decay)
        step = self.scratch("step", wb.shape, w.dtype)
        if decoupled:
            np.multiply(wb, 1 - rate * decay, out=wb)
        np.add(np.multiply(mb, beta1, out=mb), np.multiply(gradient, 1 - beta1, out=step), out=mb)
        np.multiply(np.square(gradient, out=step), 1 - beta2, out=step)
        np.add(np.multiply(vb, beta2, out=vb), step, out=vb)
        np.sqrt(np.divide(vb, 1 - powers[1], out=step), out=step)
        np.divide(mb, np.add(step, eps, out=step), out=step)
        np.subtract(wb, np.multiply(step, rate / (1 - powers[0]), out=step), out=wb)


@shared("w", "g", "v", "b")
def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyperparameters: Array) -> None:
    """As the reference, one block after another, each while it is in the cache."""
    rate, smoothing, eps, momentum, decay = hyperparameters
    for block in blocks(w.size):
        wb, vb, bb = w[block], v[block], b[block]
        gradient = _decayed(self, g[block], wb, decay)
        step = self.scratch("step", wb.shape, w.dtype)
        np.multiply(np.square(gradient, out=step), 1 - smoothing, out=step)
        np.add(np.multiply(vb, smoothing, out=vb), step, out=vb)
        np.divide(gradient, np.add(np.sqrt(vb, out=step), eps, out=step), out=step)
        np.add(np.multiply(bb, momentum, out=bb), step, out=bb)
        np.subtract(wb, np.multiply(bb, rate, out=step), out=wb)


@shared("w", "g", "v")
def adagrad_step(self, w: Array, g: Array, v: Array, hyperparameters: Array) -> None:
    """As the reference, one block after another, each while it is in the cache."""
    rate, eps, decay = hyperparameters
    for block in blocks(w.size):
        wb, vb = w[block], v[block]
        gradient = _decayed(self, g[block], wb, decay)
        step = self.scratch("step", wb.shape, w.dtype)
        np.add(vb, np.square(gradient, out=step), out=vb)
        np.divide(gradient, np.add(np.sqrt(vb, out=step), eps, out=step), out=step)
        np.subtract(wb, np.multiply(step, rate, out=step), out=wb)


def _decayed(self, g: Array, w: Array, decay: float) -> Array:
    """Return `g + decay w` in scratch memory."""
    gradient = np.multiply(w, decay, out=self.scratch("gradient", w.shape, w.dtype))
    return np.add(gradient, g, out=gradient)


def clip_norm(self, g: Array, limit: Array) -> None:
    """As the reference, in place: the dot product of one block after another with itself."""
    squares = 0.0
    for block in blocks(g.size):
        wide = self.scratch("wide", g[block].shape, np.float64)
        np.copyto(wide, g[block])
        squares += float(np.dot(wide, wide))
    share = float(limit[0]) / (math.sqrt(squares) + 1e-6)
    if math.isnan(share):
        reference.clip_norm(self, g, limit)
    elif share < 1:
        np.multiply(g, share, out=g)


def apply_scheduled_rate(self, rates: Array, clock: Array, hyperparameters: Array) -> None:
    """As the reference; the clock is read directly, which costs nothing on the host."""
    hyperparameters[0] = rates[min(int(clock[0]), len(rates) - 1)]
    clock += 1


def average_step(self, w: Array, mean: Array, total_weight: Array, hyperparameters: Array) -> None:
    """As the reference, one block after another, each while it is in the cache."""
    total_weight *= hyperparameters
    total_weight += 1
    for block in blocks(w.size):
        step = self.scratch("step", w[block].shape, w.dtype)
        np.divide(np.subtract(w[block], mean[block], out=step), total_weight, out=step)
        np.add(mean[block], step, out=mean[block])
