"""Lowering and convolution."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import Any

from oracles import activations
from oracles.numbers import Array, indices, zeros
from oracles.windows import inside, output_size


def matmul(a: Array, b: Array) -> Array:
    y = zeros(a.shape[0], b.shape[1])
    for i, j, k in product(range(a.shape[0]), range(b.shape[1]), range(a.shape[1])):
        y[i, j] += float(a[i, k]) * float(b[k, j])
    return y


def im2col(x: Array, window: Any) -> Array:
    N, H, W, C = x.shape
    OH, OW = output_size(window, H, W)
    KH, KW = window.kernel
    columns = zeros(N * OH * OW, KH * KW * C)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            columns[(n * OH + m) * OW + q, (u * KW + v) * C + c] = x[n, i, j, c]
    return columns


def col2im(columns: Array, x_shape: tuple[int, ...], window: Any) -> Array:
    N, H, W, C = x_shape
    OH, OW = output_size(window, H, W)
    x = zeros(*x_shape)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            x[n, i, j, c] += columns[(n * OH + m) * OW + q, (u * window.kernel[1] + v) * C + c]
    return x


def connections(C: int, OC: int, CG: int) -> Iterator[tuple[int, int, int]]:
    """Every input channel, its number among the CG of its group, and every output channel that sees it."""
    groups = C // CG
    for c, o in product(range(C), range(OC)):
        if c // CG == o // (OC // groups):
            yield c, c % CG, o


def conv2d(x: Array, w: Array, b: Array | None, window: Any, relu: bool = False) -> Array:
    N, H, W, C = x.shape
    _, _, CG, OC = w.shape
    y = zeros(N, *output_size(window, H, W), OC)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, (c, k, o) in product(range(N), connections(C, OC, CG)):
            y[n, m, q, o] += float(w[u, v, k, o]) * float(x[n, i, j, c])
    for index in indices(y):
        y[index] += 0.0 if b is None else float(b[index[3]])
    return activations.relu(y) if relu else y


def conv2d_dx(dy: Array, w: Array, x_shape: tuple[int, ...], window: Any) -> Array:
    N, H, W, C = x_shape
    _, _, CG, OC = w.shape
    dx = zeros(*x_shape)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, (c, k, o) in product(range(N), connections(C, OC, CG)):
            dx[n, i, j, c] += float(w[u, v, k, o]) * float(dy[n, m, q, o])
    return dx


def conv2d_dw_db(x: Array, dy: Array, window: Any, CG: int, db: None = None) -> tuple[Array, Array]:
    N, H, W, C = x.shape
    OC = dy.shape[3]
    dw, db = zeros(*window.kernel, CG, OC), zeros(OC)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, (c, k, o) in product(range(N), connections(C, OC, CG)):
            dw[u, v, k, o] += float(dy[n, m, q, o]) * float(x[n, i, j, c])
    for index in indices(dy):
        db[index[3]] += float(dy[index])
    return dw, db
