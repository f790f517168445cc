"""The losses of the reference (paper, section 2.5), each with its gradient in one operation.

`loss`, shape (), is the mean over the batch; `dx` its gradient; `totals`, float64 (4,), grows by the batch's sum of
losses, its hits (see `_hits`), its samples that have a target, and all its samples if the sum is still finite.
"""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array

__all__ = [
    *("absolute_error", "binary_cross_entropy", "hinge", "huber", "label_targets", "mean_absolute_error"),
    *("mean_absolute_percentage_error", "mean_squared_error", "mean_squared_log_error", "sigmoid_cross_entropy"),
    *("soft_cross_entropy", "softmax_cross_entropy", "squared_error"),
]


def softmax_cross_entropy(
    self, logits: Array, labels: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = -1/N sum_n log softmax(z_n)[label_n]`; its gradient is `(softmax(z) - onehot(label))/N`.

    Paper: Eqn 2.14, softmax. logits (N, K), labels (N,) integers in 0..K-1 (not checked: that would wait for the
    device; another label makes the loss NaN, and the gradient of its sample).
    """
    xp = self.xp
    N, K = logits.shape
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    e = xp.exp(shifted)
    total = xp.sum(e, axis=1, keepdims=True)
    zero = xp.zeros((), dtype=logits.dtype)
    is_label = labels[:, None] == xp.arange(K, dtype=labels.dtype)[None, :]
    nothing = xp.where(xp.any(is_label, axis=1, keepdims=True), zero, zero + xp.nan)  # of no class: NaN
    losses = xp.log(total[:, 0]) - xp.sum(xp.where(is_label, shifted, nothing), axis=1)
    if dx is not None:
        dx[...] = (e / total - xp.where(is_label, zero + 1.0, nothing)) / N
    hits = self.cast(xp.argmax(logits, axis=1), labels.dtype) == labels
    return _report(self, losses, hits, loss, totals)


def label_targets(
    self, labels: Array, weights: Array | None, ignored: int, *, out: Array, norm: Array
) -> tuple[Array, Array]:
    """Write 1 at each row's label and 0 elsewhere, and only 0 where the label is `ignored` or not in 0..K-1.

    `norm` becomes the sum of the weights (1 each without `weights`) of the labels that are left, or 1 if that is 0.
    labels (N,) int32, weights (K,) -> out (N, K), norm ().
    """
    xp = self.xp
    is_label = labels[:, None] == xp.arange(out.shape[1], dtype=labels.dtype)[None, :]
    out[...] = self.cast(is_label & (labels != ignored)[:, None], out.dtype)
    total = xp.sum(out if weights is None else out * weights)
    norm[...] = xp.where(total > 0, total, xp.ones_like(total))
    return out, norm


def soft_cross_entropy(
    self,
    logits: Array,
    targets: Array,
    weights: Array | None,
    smoothing: float,
    norm: Array,
    *,
    loss: Array = None,
    dx: Array = None,
    totals: Array = None,
) -> Array:
    """`L = -1/norm sum_n sum_k q[n,k] log softmax(z_n)[k]` for `q[n,k] = w[k] ((1 - s) t[n,k] + s/K)`.

    Its gradient is `(softmax(z_n)[k] sum_j q[n,j] - q[n,k])/norm`. w are the weights of the classes, 1 if None; s
    is the label smoothing of Szegedy et al. 2016, Rethinking the Inception Architecture for Computer Vision. A row
    of zeros is a sample without a target: its q is 0. A logit of -inf adds nothing where q is 0. `norm` divides
    no totals. logits and targets (N, K), weights (K,), norm ().
    """
    xp = self.xp
    zero = xp.zeros((), dtype=logits.dtype)
    has_target = xp.any(targets != 0, axis=1)
    wanted = (1.0 - smoothing) * targets + xp.where(has_target, zero + smoothing / logits.shape[1], zero)[:, None]
    wanted = wanted if weights is None else wanted * weights
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    e = xp.exp(shifted)
    total = xp.sum(e, axis=1, keepdims=True)
    losses = xp.sum(wanted * xp.where(wanted == 0, zero, xp.log(total) - shifted), axis=1)
    if dx is not None:
        dx[...] = (e / total * xp.sum(wanted, axis=1, keepdims=True) - wanted) / norm
    hits = has_target & (xp.argmax(logits, axis=1) == xp.argmax(targets, axis=1))
    _grow(self, totals, losses, hits, has_target)
    return self.store(xp.sum(losses) / norm, loss)


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
    hits = _hits(self, logits, targets, 0.0)
    return _report(self, losses, hits, loss, totals)


def binary_cross_entropy(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = -1/N sum_n sum_k [t log y + (1-t) log(1 - y)]`; its gradient is `(y - t)/(y (1-y) N)`.

    As in PyTorch the logarithms are at least -100, and y (1-y) in the gradient at least 1e-12.
    outputs y and targets (N, K), in 0..1.
    """
    xp = self.xp
    zero = xp.zeros((), dtype=outputs.dtype)

    def bounded(logs: Array, infinite: Array) -> Array:
        return xp.where(infinite | (logs < -100.0), zero - 100.0, logs)

    yes = bounded(xp.log(xp.where(outputs == 0, zero + 1.0, outputs)), outputs == 0)
    no = bounded(xp.log1p(xp.where(outputs == 1, zero, -outputs)), outputs == 1)
    terms = -(targets * yes + (1.0 - targets) * no)
    slopes = (outputs - targets) / xp.clip(outputs * (1.0 - outputs), 1e-12, None)
    return _sum_terms(self, terms, slopes, 1.0, outputs, targets, loss, dx, totals)


def mean_squared_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = 1/(N K) sum (y - t)^2`; its gradient is `2 (y - t)/(N K)`.

    Paper: section 2.5, MSE. outputs and targets (N, K).
    """
    difference = outputs - targets
    share = 1.0 / outputs.shape[1]
    return _sum_terms(self, difference**2, 2.0 * difference, share, outputs, targets, loss, dx, totals)


def squared_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = 1/N sum (y - t)^2`, summed over the outputs of a sample; its gradient is `2 (y - t)/N`.

    Paper: section 2.5, L2. outputs and targets (N, K).
    """
    difference = outputs - targets
    return _sum_terms(self, difference**2, 2.0 * difference, 1.0, outputs, targets, loss, dx, totals)


def mean_squared_log_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = 1/(N K) sum (log(y + 1) - log(t + 1))^2`; its gradient is `2 (log(y + 1) - log(t + 1))/((y + 1) N K)`.

    Paper: section 2.5, MSLE. outputs and targets (N, K), all above -1.
    """
    difference = self.xp.log1p(outputs) - self.xp.log1p(targets)
    slopes = 2.0 * difference / (1.0 + outputs)
    return _sum_terms(self, difference**2, slopes, 1.0 / outputs.shape[1], outputs, targets, loss, dx, totals)


def absolute_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = 1/N sum |y - t|`, summed over the outputs of a sample; its gradient is `sign(y - t)/N`, 0 where y = t.

    Paper: section 2.5, L1. outputs and targets (N, K).
    """
    difference = outputs - targets
    terms, slopes = self.xp.abs(difference), self.xp.sign(difference)
    return _sum_terms(self, terms, slopes, 1.0, outputs, targets, loss, dx, totals)


def mean_absolute_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = 1/(N K) sum |y - t|`; its gradient is `sign(y - t)/(N K)`, 0 where y = t.

    Paper: section 2.5, MAE. outputs and targets (N, K).
    """
    difference = outputs - targets
    terms, slopes = self.xp.abs(difference), self.xp.sign(difference)
    return _sum_terms(self, terms, slopes, 1.0 / outputs.shape[1], outputs, targets, loss, dx, totals)


def mean_absolute_percentage_error(
    self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = 100/(N K) sum |(t - y)/t|`; its gradient is `100 sign(y - t)/(|t| N K)`.

    Paper: section 2.5, MAPE. outputs and targets (N, K), no target 0.
    """
    difference, size = outputs - targets, self.xp.abs(targets)
    terms, slopes = self.xp.abs(difference) / size, self.xp.sign(difference) / size
    return _sum_terms(self, terms, slopes, 100.0 / outputs.shape[1], outputs, targets, loss, dx, totals)


def huber(
    self, outputs: Array, targets: Array, delta: float, *, loss: Array = None, dx: Array = None, totals: Array = None
) -> Array:
    """`L = 1/(N K) sum h(y - t)`, `h(d) = d^2/2` where |d| <= delta, else `delta (|d| - delta/2)`.

    Its gradient is `c/(N K)`, c the difference clipped to -delta..delta; `h(d) = c (d - c/2)`.
    Huber 1964, Robust Estimation of a Location Parameter. outputs and targets (N, K).
    """
    difference = outputs - targets
    clipped = self.xp.clip(difference, -delta, delta)
    terms = clipped * (difference - 0.5 * clipped)
    return _sum_terms(self, terms, clipped, 1.0 / outputs.shape[1], outputs, targets, loss, dx, totals)


def hinge(self, outputs: Array, targets: Array, *, loss: Array = None, dx: Array = None, totals: Array = None) -> Array:
    """`L = 1/(N K) sum max(0, 1 - t y)`; its gradient is `-t/(N K)` where t y < 1, else 0.

    Cortes, Vapnik 1995, Support-Vector Networks. outputs and targets (N, K), targets 1 or -1.
    """
    xp = self.xp
    zero = xp.zeros((), dtype=outputs.dtype)
    missing = 1.0 - targets * outputs
    terms, slopes = (xp.where(missing <= 0, zero, values) for values in (missing, -targets))
    return _sum_terms(self, terms, slopes, 1.0 / outputs.shape[1], outputs, targets, loss, dx, totals, boundary=0.0)


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
    boundary: float = 0.5,
) -> Array:
    """Finish the loss `weight/N sum terms`, where `slopes` are the derivatives of the terms in the outputs."""
    if dx is not None:
        dx[...] = slopes * (weight / outputs.shape[0])
    hits = _hits(self, outputs, targets, boundary)
    return _report(self, self.xp.sum(terms, axis=1) * weight, hits, loss, totals)


def _hits(self, outputs: Array, targets: Array, boundary: float) -> Array:
    """Where the largest output is that of the largest target; with one output, whether both are on one side."""
    if outputs.shape[1] == 1:
        return (outputs[:, 0] > boundary) == (targets[:, 0] > 0.5)
    return self.xp.argmax(outputs, axis=1) == self.xp.argmax(targets, axis=1)


def _report(self, losses: Array, hits: Array, loss: Array, totals: Array) -> Array:
    """Store the mean of the losses of one batch, of which each sample has a target, and add to the totals."""
    _grow(self, totals, losses, hits, self.xp.ones_like(hits))
    return self.store(self.xp.mean(losses), loss)


def _grow(self, totals: Array | None, losses: Array, hits: Array, has_target: Array) -> None:
    """Add the sums of one batch to the totals."""
    if totals is None:
        return
    xp = self.xp
    sums = [xp.sum(self.cast(values, totals.dtype)) for values in (losses, hits, has_target)]
    samples = xp.full((), losses.shape[0], dtype=totals.dtype)
    finite = xp.where(xp.isfinite(totals[0] + sums[0]), samples, 0.0 * samples)
    totals[...] = totals + xp.stack([*sums, finite])
