"""Normalization by mean and variance."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array, Arrays

__all__ = ["Normalization"]


class Normalization(Arrays):
    """Part of `Backend`."""

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
        moments: Array = None,
    ) -> tuple[Array, Array]:
        """Normalize each channel by the batch: `y = gamma (x - mean)/sqrt(variance + eps) + beta`.

        x (..., C), gamma and beta (C,) -> out like x, and moments (2, C): mean and `1/sqrt(variance + eps)`.
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
        y = self._store((x - mean) * (gamma * inverse) + beta, out)
        return y, self._store(xp.stack([mean, inverse]), moments)

    def batch_norm_inference(
        self, x: Array, gamma: Array, beta: Array, running: Array, eps: float, *, out: Array = None
    ) -> Array:
        """Normalize each channel by its running moments: `y = gamma (x - running[0])/sqrt(running[1] + eps) + beta`."""
        scale = gamma / self.xp.sqrt(running[1, :] + eps)
        return self._store((x - running[0, :]) * scale + beta, out)

    def batch_norm_dx(
        self, dy: Array, x: Array, gamma: Array, moments: Array, *, dgamma: Array, dbeta: Array, out: Array = None
    ) -> Array:
        """Gradients of `batch_norm`, with `z = (x - mean)/sqrt(variance + eps)` and sums over all but the channels.

        `dgamma = sum dy z; dbeta = sum dy; dx = gamma/sqrt(variance + eps) (dy - (dbeta + z dgamma)/M)`.
        """
        xp = self.xp
        C = x.shape[-1]
        z = (x - moments[0, :]) * moments[1, :]
        dgamma[...] = xp.sum(xp.reshape(dy * z, (-1, C)), axis=0)
        dbeta[...] = xp.sum(xp.reshape(dy, (-1, C)), axis=0)
        M = x.size // C
        return self._store(gamma * moments[1, :] * (dy - (dbeta + z * dgamma) / M), out)
