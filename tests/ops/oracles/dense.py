"""The fully connected layer."""

from __future__ import annotations

from itertools import product

from oracles import activations
from oracles.numbers import Array, each, indices, zeros


def dense(x: Array, w: Array, b: Array | None, relu: bool = False) -> Array:
    z = zeros(x.shape[0], w.shape[1])
    for n, j in indices(z):
        z[n, j] = sum(float(w[i, j]) * float(x[n, i]) for i in range(w.shape[0]))
        z[n, j] += 0.0 if b is None else float(b[j])
    return activations.relu(z) if relu else z


def dense_dx(dy: Array, w: Array) -> Array:
    dx = zeros(dy.shape[0], w.shape[0])
    for n, i in indices(dx):
        dx[n, i] = sum(float(w[i, j]) * float(dy[n, j]) for j in range(w.shape[1]))
    return dx


def dense_dw_db(x: Array, dy: Array, db: None = None) -> tuple[Array, Array]:
    dw, db = zeros(x.shape[1], dy.shape[1]), zeros(dy.shape[1])
    for n, j in indices(dy):
        db[j] += float(dy[n, j])
        for i in range(x.shape[1]):
            dw[i, j] += float(dy[n, j]) * float(x[n, i])
    return dw, db


def add(a: Array, b: Array) -> Array:
    return each(lambda a, b: a + b, a, b)


def add_bias(x: Array, b: Array) -> Array:
    y = zeros(*x.shape)
    for *place, c in indices(y):
        y[(*place, c)] = float(x[(*place, c)]) + float(b[c])
    return y


def sum_rows(rows: Array) -> Array:
    total = zeros(rows.shape[1])
    for m, c in product(*map(range, rows.shape)):
        total[c] += float(rows[m, c])
    return total
