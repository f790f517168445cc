"""Losses: (mean loss, its gradient, new totals)."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import numpy as np

from oracles.activations import decimal, exp
from oracles.numbers import Array, zeros


def largest(row: Array) -> int:
    """Index of the first NaN, or else of the first largest element."""
    best = 0
    for k in range(1, len(row)):
        if float(row[k]) > float(row[best]) or (math.isnan(row[k]) and not math.isnan(row[best])):
            best = k
    return best


def is_hit(outputs: Array, targets: Array, boundary: float) -> bool:
    """Whether the largest output stands where the largest target does; of one output, whether both are yes or no."""
    if len(outputs) == 1:
        return (outputs[0] > boundary) == (targets[0] > 0.5)
    return largest(outputs) == largest(targets)


def report(
    losses: list,
    hits: list[bool],
    dx: Array,
    totals: Array | None,
    norm: float | None = None,
    counted: int | None = None,
) -> tuple[Array, Array, Array | None]:
    """Results of a batch whose sum of losses is divided by `norm`, and of which `counted` samples have a target."""
    N, loss_sum = len(losses), float(sum(losses))
    if totals is not None:
        before = [float(total) for total in totals]
        finite = N if math.isfinite(before[0] + loss_sum) else 0
        grown = zip(before, (loss_sum, sum(hits), N if counted is None else counted, finite), strict=True)
        totals = np.array([total + growth for total, growth in grown])
    return np.array(loss_sum / (N if norm is None else norm)), dx, totals


@decimal
def softmax_cross_entropy(logits: Array, labels: Array, totals: Array | None = None) -> tuple:
    N, K = logits.shape
    losses, hits, dx = [], [], zeros(N, K)
    for n in range(N):
        e = [exp(float(z)) for z in logits[n]]
        label = int(labels[n])
        is_class = 0 <= label < K
        losses.append(-(e[label] / sum(e)).ln() if is_class else Decimal("NaN"))
        hits.append(largest(logits[n]) == label)
        for k in range(K):
            dx[n, k] = (float(e[k] / sum(e)) - (1.0 if k == label else 0.0)) / N if is_class else math.nan
    return report(losses, hits, dx, totals)


def label_targets(labels: Array, weights: Array | None, ignored: int, K: int) -> tuple[Array, Array]:
    rows, norm = zeros(len(labels), K), 0.0
    for n in range(len(labels)):
        for k in range(K):
            if labels[n] == k and k != ignored:
                rows[n, k] = 1.0
                norm += 1.0 if weights is None else float(weights[k])
    return rows, np.array(norm if norm > 0.0 else 1.0)


@decimal
def soft_cross_entropy(
    logits: Array,
    targets: Array,
    weights: Array | None,
    smoothing: float,
    norm: Array,
    totals: Array | None = None,
) -> tuple:
    N, K = logits.shape
    losses, hits, dx = [], [], zeros(N, K)
    counted = 0
    for n in range(N):
        e = [exp(float(z)) for z in logits[n]]
        loss, wanted = Decimal(0), [0.0] * K
        if any(float(t) != 0.0 for t in targets[n]):
            counted += 1
            hits.append(largest(logits[n]) == largest(targets[n]))
            for k in range(K):
                smooth = (1.0 - smoothing) * float(targets[n, k]) + smoothing / K
                wanted[k] = smooth if weights is None else smooth * float(weights[k])
                if wanted[k] != 0.0:
                    loss -= Decimal(wanted[k]) * (e[k] / sum(e)).ln()
        losses.append(loss)
        for k in range(K):
            dx[n, k] = (float(e[k] / sum(e)) * sum(wanted) - wanted[k]) / float(norm)
    return report(losses, hits, dx, totals, float(norm), counted)


@decimal
def sigmoid_cross_entropy(logits: Array, targets: Array, totals: Array | None = None) -> tuple:
    N, K = logits.shape
    losses, hits, dx = [], [], zeros(N, K)
    for n in range(N):
        loss = Decimal(0)
        for k in range(K):
            z, t = float(logits[n, k]), float(targets[n, k])
            yes, no = 1 / (1 + exp(-z)), 1 / (1 + exp(z))  # s(z) and 1 - s(z)
            loss -= Decimal(t) * yes.ln() + (1 - Decimal(t)) * no.ln()
            dx[n, k] = float(yes - Decimal(t)) / N
        losses.append(loss)
        hits.append(is_hit(logits[n], targets[n], 0.0))
    return report(losses, hits, dx, totals)


def element_loss(
    term: Callable[..., float], slope: Callable[..., float], weight: Callable[[int], float], boundary: float = 0.5
) -> Any:
    """Make a loss whose terms, and their derivatives in y, are functions of one output y and its target t.

    `further` are numbers that both functions take besides.
    """

    def loss(outputs: Array, targets: Array, totals: Array | None = None, **further: float) -> tuple:
        N, K = outputs.shape
        losses, hits, dx = [], [], zeros(N, K)
        for n in range(N):
            total = 0.0
            for k in range(K):
                y, t = float(outputs[n, k]), float(targets[n, k])
                total += weight(K) * term(y, t, **further)
                dx[n, k] = weight(K) * slope(y, t, **further) / N
            losses.append(total)
            hits.append(is_hit(outputs[n], targets[n], boundary))
        return report(losses, hits, dx, totals)

    return loss


def sign(x: float) -> float:
    return float(x > 0.0) - float(x < 0.0)


mean_squared_error = element_loss(lambda y, t: (y - t) ** 2, lambda y, t: 2.0 * (y - t), lambda K: 1.0 / K)
squared_error = element_loss(lambda y, t: (y - t) ** 2, lambda y, t: 2.0 * (y - t), lambda K: 1.0)
mean_squared_log_error = element_loss(
    lambda y, t: (math.log(y + 1.0) - math.log(t + 1.0)) ** 2,
    lambda y, t: 2.0 * (math.log(y + 1.0) - math.log(t + 1.0)) / (y + 1.0),
    lambda K: 1.0 / K,
)
absolute_error = element_loss(lambda y, t: abs(y - t), lambda y, t: sign(y - t), lambda K: 1.0)
mean_absolute_error = element_loss(lambda y, t: abs(y - t), lambda y, t: sign(y - t), lambda K: 1.0 / K)
mean_absolute_percentage_error = element_loss(
    lambda y, t: abs((t - y) / t), lambda y, t: sign(y - t) / abs(t), lambda K: 100.0 / K
)


def log(y: float) -> float:
    return max(math.log(y), -100.0) if y > 0.0 else -100.0


def huber_term(y: float, t: float, delta: float) -> float:
    return (y - t) ** 2 / 2.0 if abs(y - t) <= delta else delta * (abs(y - t) - delta / 2.0)


def huber_slope(y: float, t: float, delta: float) -> float:
    return y - t if abs(y - t) <= delta else delta * sign(y - t)


binary_cross_entropy = element_loss(
    lambda y, t: -(t * log(y) + (1.0 - t) * log(1.0 - y)),
    lambda y, t: (y - t) / max(y * (1.0 - y), 1e-12),
    lambda K: 1.0,
)
huber = element_loss(huber_term, huber_slope, lambda K: 1.0 / K)
hinge = element_loss(
    lambda y, t: max(0.0, 1.0 - t * y), lambda y, t: -t if t * y < 1.0 else 0.0, lambda K: 1.0 / K, boundary=0.0
)
