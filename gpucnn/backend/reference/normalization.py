"""Normalization by mean and variance."""

from __future__ import annotations

from gpucnn.backend.assembly import in_place
from gpucnn.backend.reference.arrays import Array

__all__ = ["batch_norm", "batch_norm_dx", "batch_norm_inference", "fold_batch_norm", "group_norm", "group_norm_dx"]


def batch_norm(
    self,
    x: Array,
    gamma: Array,
    beta: Array,
    running: Array,
    momentum: float,
    eps: float,
    *,
    out: Array = None,
    mean_rstd: Array = None,
) -> tuple[Array, Array]:
    """Normalize each channel by the batch: `y = gamma (x - mean)/sqrt(variance + eps) + beta`.

    x (..., C), gamma and beta (C,) -> out like x, and mean_rstd (2, C): mean and `1/sqrt(variance + eps)`.
    running (2, C) becomes `(1 - momentum) running + momentum (mean, unbiased variance)`.
    Source: Ioffe and Szegedy, ICML 2015.
    """
    xp = self.xp
    rows = xp.reshape(x, (-1, x.shape[-1]))
    M = rows.shape[0]
    mean = xp.mean(rows, axis=0)
    variance = xp.mean((rows - mean) ** 2, axis=0)
    running[...] = (1.0 - momentum) * running + momentum * xp.stack([mean, variance * (M / max(M - 1, 1))])
    inverse = 1.0 / xp.sqrt(variance + eps)
    y = self.store((x - mean) * (gamma * inverse) + beta, out)
    return y, self.store(xp.stack([mean, inverse]), mean_rstd)


@in_place("x")
def batch_norm_inference(
    self, x: Array, gamma: Array, beta: Array, running: Array, eps: float, *, out: Array = None
) -> Array:
    """Normalize each channel by its running moments: `y = gamma (x - running[0])/sqrt(running[1] + eps) + beta`."""
    scale = gamma / self.xp.sqrt(running[1, :] + eps)
    return self.store((x - running[0, :]) * scale + beta, out)


def batch_norm_dx(
    self, dy: Array, x: Array, gamma: Array, mean_rstd: Array, *, dgamma: Array, dbeta: Array, out: Array = None
) -> Array:
    """Gradients of `batch_norm`, with `z = (x - mean)/sqrt(variance + eps)` and sums over all but the channels.

    `dgamma = sum dy z; dbeta = sum dy; dx = gamma/sqrt(variance + eps) (dy - (dbeta + z dgamma)/M)`.
    """
    xp = self.xp
    C = x.shape[-1]
    z = (x - mean_rstd[0, :]) * mean_rstd[1, :]
    dgamma[...] = xp.sum(xp.reshape(dy * z, (-1, C)), axis=0)
    dbeta[...] = xp.sum(xp.reshape(dy, (-1, C)), axis=0)
    M = x.size // C
    return self.store(gamma * mean_rstd[1, :] * (dy - (dbeta + z * dgamma) / M), out)


def fold_batch_norm(
    self,
    w: Array,
    b: Array | None,
    gamma: Array,
    beta: Array,
    running: Array,
    eps: float,
    *,
    folded_w: Array,
    folded_b: Array,
) -> None:
    """Kernels and bias of the convolution that does what one with w and b and `batch_norm_inference` do.

    `w' = w gamma/sqrt(variance + eps); b' = (b - mean) gamma/sqrt(variance + eps) + beta`, b = 0 where it is None.
    w (..., OC) -> folded_w like w, folded_b (OC,).
    """
    mean, variance = running[0, :], running[1, :]
    scale = gamma / self.xp.sqrt(variance + eps)
    folded_w[...] = w * scale
    folded_b[...] = (-mean if b is None else b - mean) * scale + beta


def group_norm(
    self, x: Array, gamma: Array, beta: Array, groups: int, eps: float, *, out: Array = None, mean_rstd: Array = None
) -> tuple[Array, Array]:
    """Normalize each sample and group of channels by itself: `y = gamma (x - mean)/sqrt(variance + eps) + beta`.

    x (N, ..., C), gamma and beta (C,) -> out like x, and mean_rstd (2, N, groups): mean and
    `1/sqrt(variance + eps)`, over all pixels and the C/groups channels of a group. Source: Wu and He, ECCV 2018.
    """
    xp = self.xp
    grouped = _grouped(self, x, groups)
    mean = xp.mean(grouped, axis=(1, 3), keepdims=True)  # (N, 1, groups, 1)
    centred = grouped - mean
    inverse = 1.0 / xp.sqrt(xp.mean(centred * centred, axis=(1, 3), keepdims=True) + eps)
    y = self.store(xp.reshape(centred * inverse, x.shape) * gamma + beta, out)
    both = xp.reshape(xp.stack([mean, inverse]), (2, x.shape[0], groups))
    return y, self.store(both, mean_rstd)


def group_norm_dx(
    self, dy: Array, x: Array, gamma: Array, mean_rstd: Array, *, dgamma: Array, dbeta: Array, out: Array = None
) -> Array:
    """Gradients of `group_norm`, with `z = (x - mean)/sqrt(variance + eps)` and sums over all but the channels.

    `dgamma = sum dy z; dbeta = sum dy; dx = (g - mean(g) - z mean(g z))/sqrt(variance + eps)`, where `g = gamma dy`
    and the means are over a group.
    """
    xp = self.xp
    N, C, groups = x.shape[0], x.shape[-1], mean_rstd.shape[2]
    mean, inverse = (xp.reshape(mean_rstd[k, :, :], (N, 1, groups, 1)) for k in (0, 1))
    z = (_grouped(self, x, groups) - mean) * inverse
    dgamma[...] = xp.sum(xp.reshape(dy, (-1, C)) * xp.reshape(z, (-1, C)), axis=0)
    dbeta[...] = xp.sum(xp.reshape(dy, (-1, C)), axis=0)
    g = _grouped(self, gamma * dy, groups)
    share = xp.mean(g, axis=(1, 3), keepdims=True) + z * xp.mean(g * z, axis=(1, 3), keepdims=True)
    return self.store(xp.reshape((g - share) * inverse, x.shape), out)


def _grouped(self, x: Array, groups: int) -> Array:
    """Of (N, ..., C) make (N, pixels, groups, C/groups)."""
    return self.xp.reshape(x, (x.shape[0], -1, groups, x.shape[-1] // groups))
