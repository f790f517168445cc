"""Normalization."""

from __future__ import annotations

import math
from itertools import product

from oracles.numbers import Array, indices, zeros


def channel(x: Array, c: int) -> list[float]:
    """All elements of one channel."""
    return [float(x[i]) for i in indices(x) if i[-1] == c]


def batch_norm(x: Array, gamma: Array, beta: Array, running: Array, momentum: float, eps: float) -> tuple:
    y, C = zeros(*x.shape), x.shape[-1]
    mean_rstd, new_running = zeros(2, C), zeros(2, C)
    for c in range(C):
        values = channel(x, c)
        M = len(values)
        mean = sum(values) / M
        squares = sum((value - mean) ** 2 for value in values)
        mean_rstd[0, c], mean_rstd[1, c] = mean, 1.0 / math.sqrt(squares / M + eps)
        for k, moment in enumerate((mean, squares / max(M - 1, 1))):
            new_running[k, c] = (1.0 - momentum) * float(running[k, c]) + momentum * moment
    for i in indices(x):
        c = i[-1]
        y[i] = float(gamma[c]) * (float(x[i]) - mean_rstd[0, c]) * mean_rstd[1, c] + float(beta[c])
    return y, mean_rstd, new_running


def batch_norm_inference(x: Array, gamma: Array, beta: Array, running: Array, eps: float) -> Array:
    y = zeros(*x.shape)
    for i in indices(x):
        mean, variance = float(running[0, i[-1]]), float(running[1, i[-1]])
        y[i] = float(gamma[i[-1]]) * (float(x[i]) - mean) / math.sqrt(variance + eps) + float(beta[i[-1]])
    return y


def batch_norm_dx(dy: Array, x: Array, gamma: Array, mean_rstd: Array) -> tuple[Array, Array, Array]:
    """Through the Jacobian of one channel: dz_k/dx_i = s ((i = k) - 1/M - z_i z_k / M), s = 1/sqrt(variance + eps)."""
    dx, dgamma, dbeta = zeros(*x.shape), zeros(x.shape[-1]), zeros(x.shape[-1])
    for c in range(x.shape[-1]):
        places = [i for i in indices(x) if i[-1] == c]
        mean, s, M = float(mean_rstd[0, c]), float(mean_rstd[1, c]), len(places)
        z = [(float(x[i]) - mean) * s for i in places]
        for i, z_i in zip(places, z, strict=True):
            for k, z_k in zip(places, z, strict=True):
                slope = s * ((1.0 if i == k else 0.0) - (1.0 + z_i * z_k) / M)
                dx[i] += float(dy[k]) * float(gamma[c]) * slope
            dgamma[c] += float(dy[i]) * z_i
            dbeta[c] += float(dy[i])
    return dx, dgamma, dbeta


def fold_batch_norm(
    w: Array, b: Array | None, gamma: Array, beta: Array, running: Array, eps: float
) -> tuple[Array, Array]:
    folded_w, folded_b = zeros(*w.shape), zeros(w.shape[-1])
    scale = [float(g) / math.sqrt(float(variance) + eps) for g, variance in zip(gamma, running[1], strict=True)]
    for i in indices(w):
        folded_w[i] = float(w[i]) * scale[i[-1]]
    for o in range(w.shape[-1]):
        bias = 0.0 if b is None else float(b[o])
        folded_b[o] = (bias - float(running[0, o])) * scale[o] + float(beta[o])
    return folded_w, folded_b


def places_of_groups(shape: tuple[int, ...], groups: int) -> dict[tuple[int, int], list[tuple[int, ...]]]:
    """The indices that belong to each (sample, group); of C channels each group has C/groups neighbours."""
    places: dict[tuple[int, int], list[tuple[int, ...]]] = {}
    for i in product(*map(range, shape)):
        places.setdefault((i[0], i[-1] // (shape[-1] // groups)), []).append(i)
    return places


def group_norm(x: Array, gamma: Array, beta: Array, groups: int, eps: float) -> tuple[Array, Array]:
    y, mean_rstd = zeros(*x.shape), zeros(2, x.shape[0], groups)
    for group, places in places_of_groups(x.shape, groups).items():
        mean = sum(float(x[i]) for i in places) / len(places)
        variance = sum((float(x[i]) - mean) ** 2 for i in places) / len(places)
        mean_rstd[(0, *group)], mean_rstd[(1, *group)] = mean, 1.0 / math.sqrt(variance + eps)
        for i in places:
            y[i] = float(gamma[i[-1]]) * (float(x[i]) - mean) / math.sqrt(variance + eps) + float(beta[i[-1]])
    return y, mean_rstd


def group_norm_dx(dy: Array, x: Array, gamma: Array, mean_rstd: Array) -> tuple[Array, Array, Array]:
    """Through the Jacobian of one group: dz_k/dx_i = s ((i = k) - 1/M - z_i z_k / M), s = 1/sqrt(variance + eps)."""
    dx, dgamma, dbeta = zeros(*x.shape), zeros(x.shape[-1]), zeros(x.shape[-1])
    for group, places in places_of_groups(x.shape, mean_rstd.shape[2]).items():
        mean, s, M = float(mean_rstd[(0, *group)]), float(mean_rstd[(1, *group)]), len(places)
        z = {i: (float(x[i]) - mean) * s for i in places}
        for i in places:
            for k in places:
                slope = s * ((1.0 if i == k else 0.0) - (1.0 + z[i] * z[k]) / M)
                dx[i] += float(dy[k]) * float(gamma[k[-1]]) * slope
            dgamma[i[-1]] += float(dy[i]) * z[i]
            dbeta[i[-1]] += float(dy[i])
    return dx, dgamma, dbeta
