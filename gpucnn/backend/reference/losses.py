"""The losses of the reference (paper, section 2.5), each with its gradient in one operation.

`loss`, shape (), is the mean over the batch; `dx` its gradient; `totals`, float64 (4,), grows by the batch's sum of
losses, its hits (see `_hits`), its samples, and its samples if the sum is still finite.
"""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array, Arrays

__all__ = ["Losses"]


class Losses(Arrays):
    """Part of `Backend`."""

    def softmax_cross_entropy(
        self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = -1/N sum_n log softmax(z_n)[label_n]`; its gradient is `(softmax(z) - onehot(label))/N`.

        Paper: Eqn 2.14, softmax. logits (N, K), labels (N,) integers in 0..K-1 (not checked: that would wait for the
        device).
        """
        xp = self.xp
        N, K = logits.shape
        shifted = logits - xp.max(logits, axis=1, keepdims=True)
        e = xp.exp(shifted)
        total = xp.sum(e, axis=1, keepdims=True)
        zero = xp.zeros((), dtype=logits.dtype)
        is_label = labels[:, None] == xp.arange(K, dtype=labels.dtype)[None, :]
        losses = xp.log(total[:, 0]) - xp.sum(xp.where(is_label, shifted, zero), axis=1)
        if dx is not None:
            dx[...] = (e / total - xp.where(is_label, zero + 1.0, zero)) / N
        hits = self.cast(xp.argmax(logits, axis=1), labels.dtype) == labels
        return self._report(losses, hits, loss, totals)

    def sigmoid_cross_entropy(
        self, logits: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = -1/N sum_n sum_k [t log s(z) + (1-t) log(1 - s(z))]`, s the sigmoid; its gradient is `(s(z) - t)/N`.

        Paper: Eqn 2.14. Stable: each term is `max(z, 0) - z t + log(1 + e^-|z|)`.
        logits (N, K), targets (N, K) in 0..1.
        """
        xp = self.xp
        terms = xp.where(logits > 0, logits, xp.zeros((), dtype=logits.dtype)) - logits * targets
        losses = xp.sum(terms + xp.log1p(xp.exp(-xp.abs(logits))), axis=1)
        if dx is not None:
            dx[...] = (self.sigmoid(logits) - targets) / logits.shape[0]
        hits = self._hits(logits, targets, 0.0)
        return self._report(losses, hits, loss, totals)

    def mean_squared_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = 1/(N K) sum (y - t)^2`; its gradient is `2 (y - t)/(N K)`.

        Paper: section 2.5, MSE. outputs and targets (N, K).
        """
        difference = outputs - targets
        share = 1.0 / outputs.shape[1]
        return self._sum_terms(difference**2, 2.0 * difference, share, outputs, targets, loss, dx, totals)

    def squared_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = 1/N sum (y - t)^2`, summed over the outputs of a sample; its gradient is `2 (y - t)/N`.

        Paper: section 2.5, L2. outputs and targets (N, K).
        """
        difference = outputs - targets
        return self._sum_terms(difference**2, 2.0 * difference, 1.0, outputs, targets, loss, dx, totals)

    def mean_squared_log_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = 1/(N K) sum (log(y + 1) - log(t + 1))^2`; its gradient is `2 (log(y + 1) - log(t + 1))/((y + 1) N K)`.

        Paper: section 2.5, MSLE. outputs and targets (N, K), all above -1.
        """
        difference = self.xp.log1p(outputs) - self.xp.log1p(targets)
        slopes = 2.0 * difference / (1.0 + outputs)
        return self._sum_terms(difference**2, slopes, 1.0 / outputs.shape[1], outputs, targets, loss, dx, totals)

    def absolute_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = 1/N sum |y - t|`, summed over the outputs of a sample; its gradient is `sign(y - t)/N`, 0 where y = t.

        Paper: section 2.5, L1. outputs and targets (N, K).
        """
        difference = outputs - targets
        terms, slopes = self.xp.abs(difference), self.xp.sign(difference)
        return self._sum_terms(terms, slopes, 1.0, outputs, targets, loss, dx, totals)

    def mean_absolute_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = 1/(N K) sum |y - t|`; its gradient is `sign(y - t)/(N K)`, 0 where y = t.

        Paper: section 2.5, MAE. outputs and targets (N, K).
        """
        difference = outputs - targets
        terms, slopes = self.xp.abs(difference), self.xp.sign(difference)
        return self._sum_terms(terms, slopes, 1.0 / outputs.shape[1], outputs, targets, loss, dx, totals)

    def mean_absolute_percentage_error(
        self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
    ) -> Array:
        """`L = 100/(N K) sum |(t - y)/t|`; its gradient is `100 sign(y - t)/(|t| N K)`.

        Paper: section 2.5, MAPE. outputs and targets (N, K), no target 0.
        """
        difference, size = outputs - targets, self.xp.abs(targets)
        terms, slopes = self.xp.abs(difference) / size, self.xp.sign(difference) / size
        return self._sum_terms(terms, slopes, 100.0 / outputs.shape[1], outputs, targets, loss, dx, totals)

    def _sum_terms(
        self,
        terms: Array,
        slopes: Array,
        weight: float,
        outputs: Array,
        targets: Array,
        loss: Array,
        dx: Array,
        totals: Array,
    ) -> Array:
        """Finish the loss `weight/N sum terms`, where `slopes` are the derivatives of the terms in the outputs."""
        if dx is not None:
            dx[...] = slopes * (weight / outputs.shape[0])
        return self._report(self.xp.sum(terms, axis=1) * weight, self._hits(outputs, targets, 0.5), loss, totals)

    def _hits(self, outputs: Array, targets: Array, boundary: float) -> Array:
        """Where the largest output is that of the largest target; with one output, whether both are on one side."""
        if outputs.shape[1] == 1:
            return (outputs[:, 0] > boundary) == (targets[:, 0] > 0.5)
        return self.xp.argmax(outputs, axis=1) == self.xp.argmax(targets, axis=1)

    def _report(self, losses: Array, hits: Array, loss: Array, totals: Array) -> Array:
        """Store the mean of the losses of one batch and add its sums to the totals."""
        xp = self.xp
        N = losses.shape[0]
        if totals is not None:
            count = xp.asarray(float(N), dtype=totals.dtype)
            loss_sum = totals[0] + xp.sum(self.cast(losses, totals.dtype))
            hit_sum = totals[1] + xp.sum(self.cast(hits, totals.dtype))
            finite = totals[3] + xp.where(xp.isfinite(loss_sum), count, 0.0 * count)
            totals[...] = xp.stack([loss_sum, hit_sum, totals[2] + count, finite])
        return self._store(xp.mean(losses), loss)
