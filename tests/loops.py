"""Every operation as nested loops over single numbers in float64: what the fast versions are tested against.

Written from the formulas of the paper and nothing else: no array arithmetic, no import from the library.
Functions are named like the operations and take the same arguments; a window is anything with `kernel`,
`stride`, `padding` and `dilation`. Exponentials are taken in 50-digit decimal numbers, which don't overflow:
no formula needs rewriting.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from decimal import Decimal, localcontext
from itertools import product
from typing import Any

import numpy as np

Array = np.ndarray


def zeros(*shape: int) -> Array:
    return np.zeros(shape, np.float64)


def indices(array: Array) -> Iterator[tuple[int, ...]]:
    return product(*map(range, array.shape))


def each(function: Callable[..., float], *arrays: Array) -> Array:
    """Apply a function of numbers to every element."""
    y = zeros(*arrays[0].shape)
    for i in indices(y):
        y[i] = function(*(float(array[i]) for array in arrays))
    return y


# ---- windows -----------------------------------------------------------------------------------------------


def positions(size: int, kernel: int, stride: int, padding: tuple[int, int], dilation: int) -> list[list[int | None]]:
    """For each output pixel along one axis, the input pixel under each tap, None in the padding."""
    before, after = padding
    found, start = [], -before
    while start + dilation * (kernel - 1) < size + after:
        under = [start + dilation * tap for tap in range(kernel)]
        found.append([i if 0 <= i < size else None for i in under])
        start += stride
    return found


def axes(window: Any, H: int, W: int) -> tuple[list, list]:
    """Positions along the rows and along the columns."""
    arguments = zip((H, W), window.kernel, window.stride, window.padding, window.dilation, strict=True)
    rows, columns = (positions(*axis) for axis in arguments)
    return rows, columns


def output_size(window: Any, H: int, W: int) -> tuple[int, int]:
    rows, columns = axes(window, H, W)
    return len(rows), len(columns)


def meetings(window: Any, H: int, W: int) -> Iterator[tuple[int, int, int, int, int | None, int | None]]:
    """Every output pixel (m, q), tap (u, v), and the input pixel (i, j) under it, None in the padding."""
    rows, columns = axes(window, H, W)
    for (m, row), (q, column) in product(enumerate(rows), enumerate(columns)):
        for (u, i), (v, j) in product(enumerate(row), enumerate(column)):
            yield (m, q, u, v, i, j) if i is not None and j is not None else (m, q, u, v, None, None)


def inside(window: Any, H: int, W: int) -> Iterator[tuple[int, int, int, int, int, int]]:
    """The meetings with pixels of the image."""
    return (meeting for meeting in meetings(window, H, W) if meeting[4] is not None)


# ---- lowering ----------------------------------------------------------------------------------------------


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


# ---- convolution -------------------------------------------------------------------------------------------


def conv2d(x: Array, w: Array, b: Array | None, window: Any) -> Array:
    N, H, W, C = x.shape
    OC = w.shape[3]
    y = zeros(N, *output_size(window, H, W), OC)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c, o in product(range(N), range(C), range(OC)):
            y[n, m, q, o] += float(w[u, v, c, o]) * float(x[n, i, j, c])
    for index in indices(y):
        y[index] += 0.0 if b is None else float(b[index[3]])
    return y


def conv2d_dx(dy: Array, w: Array, x_shape: tuple[int, ...], window: Any) -> Array:
    N, H, W, C = x_shape
    dx = zeros(*x_shape)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c, o in product(range(N), range(C), range(w.shape[3])):
            dx[n, i, j, c] += float(w[u, v, c, o]) * float(dy[n, m, q, o])
    return dx


def conv2d_dw_db(x: Array, dy: Array, window: Any, db: None = None) -> tuple[Array, Array]:
    N, H, W, C = x.shape
    OC = dy.shape[3]
    dw, db = zeros(*window.kernel, C, OC), zeros(OC)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c, o in product(range(N), range(C), range(OC)):
            dw[u, v, c, o] += float(dy[n, m, q, o]) * float(x[n, i, j, c])
    for index in indices(dy):
        db[index[3]] += float(dy[index])
    return dw, db


# ---- pooling -----------------------------------------------------------------------------------------------


def max_pool2d(x: Array, window: Any) -> tuple[Array, Array]:
    N, H, W, C = x.shape
    y = np.full((N, *output_size(window, H, W), C), -math.inf)
    winners = np.zeros(y.shape, np.int64)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            pixel = float(x[n, i, j, c])
            if pixel > y[n, m, q, c] or math.isnan(pixel):
                y[n, m, q, c] = pixel
                winners[n, m, q, c] = u * window.kernel[1] + v
    return y, winners


def max_pool2d_dx(dy: Array, winners: Array, x_shape: tuple[int, ...], window: Any) -> Array:
    N, H, W, C = x_shape
    dx = zeros(*x_shape)
    for m, q, u, v, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            if int(winners[n, m, q, c]) == u * window.kernel[1] + v:
                dx[n, i, j, c] += float(dy[n, m, q, c])
    return dx


def pool_counts(window: Any, H: int, W: int, count_include_pad: bool) -> Array:
    counts = zeros(*output_size(window, H, W))
    for m, q, _, _, i, _ in meetings(window, H, W):
        counts[m, q] += 1.0 if count_include_pad or i is not None else 0.0
    return counts


def average_pool2d(x: Array, window: Any, count_include_pad: bool = False) -> Array:
    N, H, W, C = x.shape
    counts = pool_counts(window, H, W, count_include_pad)
    y = zeros(N, *counts.shape, C)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            y[n, m, q, c] += float(x[n, i, j, c]) / counts[m, q]
    return y


def average_pool2d_dx(dy: Array, x_shape: tuple[int, ...], window: Any, count_include_pad: bool = False) -> Array:
    N, H, W, C = x_shape
    counts = pool_counts(window, H, W, count_include_pad)
    dx = zeros(*x_shape)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            dx[n, i, j, c] += float(dy[n, m, q, c]) / counts[m, q]
    return dx


def lp_pool2d(x: Array, p: float, window: Any) -> Array:
    N, H, W, C = x.shape
    total = zeros(N, *output_size(window, H, W), C)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            total[n, m, q, c] += abs(float(x[n, i, j, c])) ** p
    return each(lambda s: s ** (1.0 / p), total)


def lp_pool2d_dx(dy: Array, x: Array, y: Array, p: float, window: Any) -> Array:
    N, H, W, C = x.shape
    dx = zeros(*x.shape)
    for m, q, _, _, i, j in inside(window, H, W):
        for n, c in product(range(N), range(C)):
            pixel, norm = float(x[n, i, j, c]), float(y[n, m, q, c])
            if norm > 0.0 and pixel != 0.0:
                slope = math.copysign((abs(pixel) / norm) ** (p - 1.0), pixel)
                dx[n, i, j, c] += float(dy[n, m, q, c]) * slope
    return dx


# ---- fully connected ---------------------------------------------------------------------------------------


def dense(x: Array, w: Array, b: Array | None) -> Array:
    z = zeros(x.shape[0], w.shape[1])
    for n, j in indices(z):
        z[n, j] = sum(float(w[i, j]) * float(x[n, i]) for i in range(w.shape[0]))
        z[n, j] += 0.0 if b is None else float(b[j])
    return z


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


def sum_rows(rows: Array) -> Array:
    total = zeros(rows.shape[1])
    for m, c in product(*map(range, rows.shape)):
        total[c] += float(rows[m, c])
    return total


# ---- normalization -----------------------------------------------------------------------------------------


def channel(x: Array, c: int) -> list[float]:
    """All elements of one channel."""
    return [float(x[i]) for i in indices(x) if i[-1] == c]


def batch_norm(x: Array, gamma: Array, beta: Array, running: Array, momentum: float, eps: float) -> tuple:
    y, C = zeros(*x.shape), x.shape[-1]
    moments, new_running = zeros(2, C), zeros(2, C)
    for c in range(C):
        values = channel(x, c)
        M = len(values)
        mean = sum(values) / M
        squares = sum((value - mean) ** 2 for value in values)
        moments[0, c], moments[1, c] = mean, 1.0 / math.sqrt(squares / M + eps)
        for k, moment in enumerate((mean, squares / max(M - 1, 1))):
            new_running[k, c] = (1.0 - momentum) * float(running[k, c]) + momentum * moment
    for i in indices(x):
        c = i[-1]
        y[i] = float(gamma[c]) * (float(x[i]) - moments[0, c]) * moments[1, c] + float(beta[c])
    return y, moments, new_running


def batch_norm_inference(x: Array, gamma: Array, beta: Array, running: Array, eps: float) -> Array:
    y = zeros(*x.shape)
    for i in indices(x):
        mean, variance = float(running[0, i[-1]]), float(running[1, i[-1]])
        y[i] = float(gamma[i[-1]]) * (float(x[i]) - mean) / math.sqrt(variance + eps) + float(beta[i[-1]])
    return y


def batch_norm_dx(dy: Array, x: Array, gamma: Array, moments: Array) -> tuple[Array, Array, Array]:
    """Through the Jacobian of one channel: dz_k/dx_i = s ((i = k) - 1/M - z_i z_k / M), s = 1/sqrt(variance + eps)."""
    dx, dgamma, dbeta = zeros(*x.shape), zeros(x.shape[-1]), zeros(x.shape[-1])
    for c in range(x.shape[-1]):
        places = [i for i in indices(x) if i[-1] == c]
        mean, s, M = float(moments[0, c]), float(moments[1, c]), len(places)
        z = [(float(x[i]) - mean) * s for i in places]
        for i, z_i in zip(places, z, strict=True):
            for k, z_k in zip(places, z, strict=True):
                slope = s * ((1.0 if i == k else 0.0) - (1.0 + z_i * z_k) / M)
                dx[i] += float(dy[k]) * float(gamma[c]) * slope
            dgamma[c] += float(dy[i]) * z_i
            dbeta[c] += float(dy[i])
    return dx, dgamma, dbeta


# ---- activations -------------------------------------------------------------------------------------------


def exp(x: float | Decimal) -> Decimal:
    return Decimal(x).exp()


def decimal(function: Callable[..., Any]) -> Callable[..., Any]:
    """Run a function with 50-digit decimal numbers."""

    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with localcontext(prec=50, Emin=-999999, Emax=999999):
            return function(*args, **kwargs)

    return wrapped


def relu(x: Array) -> Array:
    return each(lambda x: x if math.isnan(x) else max(x, 0.0), x)


def relu_dx(dy: Array, y: Array) -> Array:
    return each(lambda dy, y: dy if y > 0.0 else 0.0, dy, y)


@decimal
def sigmoid(x: Array) -> Array:
    return each(lambda x: float(1 / (1 + exp(-x))), x)


def sigmoid_dx(dy: Array, y: Array) -> Array:
    return each(lambda dy, y: dy * y * (1.0 - y), dy, y)


@decimal
def tanh(x: Array) -> Array:
    return each(lambda x: float((exp(x) - exp(-x)) / (exp(x) + exp(-x))), x)


def tanh_dx(dy: Array, y: Array) -> Array:
    return each(lambda dy, y: dy * (1.0 - y**2), dy, y)


def leaky_relu(x: Array, slope: Any) -> Array:
    return each(lambda x, slope: x if x > 0.0 else slope * x, x, np.broadcast_to(slope, x.shape))


def leaky_relu_dx(dy: Array, x: Array, slope: Any) -> Array:
    return each(lambda dy, x, slope: dy if x > 0.0 else slope * dy, dy, x, np.broadcast_to(slope, x.shape))


def prelu_dslope(dy: Array, x: Array) -> Array:
    dslope = zeros(x.shape[-1])
    for i in indices(x):
        dslope[i[-1]] += 0.0 if x[i] > 0.0 else float(dy[i]) * float(x[i])
    return dslope


@decimal
def elu(x: Array, alpha: float) -> Array:
    return each(lambda x: x if x > 0.0 else float(Decimal(alpha) * (exp(x) - 1)), x)


def elu_dx(dy: Array, y: Array, alpha: float) -> Array:
    return each(lambda dy, y: dy if y > 0.0 else dy * (y + alpha), dy, y)


@decimal
def softplus(x: Array) -> Array:
    return each(lambda x: float((1 + exp(x)).ln()), x)


@decimal
def softplus_dx(dy: Array, x: Array) -> Array:
    return each(lambda dy, x: dy * float(1 / (1 + exp(-x))), dy, x)


SELU = 1.0507009873554805, 1.6732632423543772  # scale and alpha


@decimal
def selu(x: Array) -> Array:
    scale, alpha = SELU
    return each(lambda x: scale * x if x > 0.0 else float(Decimal(scale * alpha) * (exp(x) - 1)), x)


def selu_dx(dy: Array, y: Array) -> Array:
    scale, alpha = SELU
    return each(lambda dy, y: dy * (scale if y > 0.0 else y + scale * alpha), dy, y)


@decimal
def swish(x: Array) -> Array:
    return each(lambda x: x * float(1 / (1 + exp(-x))), x)


@decimal
def swish_dx(dy: Array, x: Array) -> Array:
    def slope(x: float) -> float:
        s = 1 / (1 + exp(-x))
        return float(s + Decimal(x) * s * (1 - s))

    return each(lambda dy, x: dy * slope(x), dy, x)


def hard_sigmoid(x: Array, slope: float, offset: float) -> Array:
    return each(lambda x: min(max(slope * x + offset, 0.0), 1.0), x)


def hard_sigmoid_dx(dy: Array, y: Array, slope: float, offset: float) -> Array:
    return each(lambda dy, y: slope * dy if 0.0 < y < 1.0 else 0.0, dy, y)


@decimal
def log_softmax(x: Array) -> Array:
    y = zeros(*x.shape)
    for row in product(*map(range, x.shape[:-1])):
        total = sum(exp(float(z)) for z in x[row]).ln()
        for k in range(x.shape[-1]):
            y[(*row, k)] = float(Decimal(float(x[(*row, k)])) - total)
    return y


def log_softmax_dx(dy: Array, y: Array) -> Array:
    """Through the Jacobian: dy_k/dx_j = 1 - e^y_j for j = k, else -e^y_j."""
    dx = zeros(*y.shape)
    K = y.shape[-1]
    for row in product(*map(range, y.shape[:-1])):
        for j, k in product(range(K), range(K)):
            slope = (1.0 if j == k else 0.0) - math.exp(float(y[(*row, j)]))
            dx[(*row, j)] += float(dy[(*row, k)]) * slope
    return dx


def arctan(x: Array) -> Array:
    return each(math.atan, x)


def arctan_dx(dy: Array, x: Array) -> Array:
    return each(lambda dy, x: dy / (1.0 + x * x), dy, x)


def binary_step(x: Array) -> Array:
    return each(lambda x: 1.0 if x >= 0.0 else 0.0, x)


def binary_step_dx(dy: Array, x: Array) -> Array:
    return zeros(*x.shape)


@decimal
def softmax(x: Array) -> Array:
    y = zeros(*x.shape)
    for row in product(*map(range, x.shape[:-1])):
        e = [exp(float(z)) for z in x[row]]
        for k in range(x.shape[-1]):
            y[(*row, k)] = float(e[k] / sum(e))
    return y


def softmax_dx(dy: Array, y: Array) -> Array:
    """Through the Jacobian: dy_k/dx_j = y_k (1 - y_k) for j = k, else -y_k y_j."""
    dx = zeros(*y.shape)
    K = y.shape[-1]
    for row in product(*map(range, y.shape[:-1])):
        for j, k in product(range(K), range(K)):
            y_j, y_k = float(y[(*row, j)]), float(y[(*row, k)])
            dx[(*row, j)] += float(dy[(*row, k)]) * (y_k * (1.0 - y_k) if j == k else -y_k * y_j)
    return dx


# ---- dropout: Philox4x32-10 of Salmon et al., SC 2011, on Python integers ----------------------------------


def philox4x32(counter: tuple[int, ...], key: tuple[int, ...]) -> tuple[int, ...]:
    """Ten rounds: (L, R) halves of two products, crossed over; the key is bumped between the rounds."""
    left0, right0, left1, right1 = counter
    key0, key1 = key
    for number in range(10):
        if number > 0:
            key0 = (key0 + 0x9E3779B9) % 2**32  # the golden ratio
            key1 = (key1 + 0xBB67AE85) % 2**32  # sqrt(3) - 1
        high0, low0 = divmod(0xD2511F53 * left0, 2**32)
        high1, low1 = divmod(0xCD9E8D57 * left1, 2**32)
        left0, right0, left1, right1 = high1 ^ right0 ^ key0, low1, high0 ^ right1 ^ key1, low0
    return left0, right0, left1, right1


def dropout(x: Array, rate: float, key: tuple[int, int], counter: Array) -> tuple[Array, Array, Array]:
    y, mask = zeros(*x.shape), np.zeros(x.shape, np.int64)
    step = int(counter[0])
    for number, index in enumerate(indices(x)):
        word = philox4x32((number // 4, 0, step, 0), key)[number % 4]
        if word >= rate * 2**32:
            mask[index] = 1
            y[index] = float(x[index]) / (1.0 - rate)
    return y, mask, np.array([step + 1])


def dropout_dx(dy: Array, mask: Array, rate: float) -> Array:
    return each(lambda dy, kept: dy / (1.0 - rate) if kept else 0.0, dy, mask)


# ---- losses: (mean loss, its gradient, new totals) ---------------------------------------------------------


def largest(row: Array) -> int:
    """Index of the first largest element."""
    best = 0
    for k in range(1, len(row)):
        best = k if float(row[k]) > float(row[best]) else best
    return best


def is_hit(outputs: Array, targets: Array, boundary: float) -> bool:
    """Whether the largest output stands where the largest target does; of one output, whether both are yes or no."""
    if len(outputs) == 1:
        return (outputs[0] > boundary) == (targets[0] > 0.5)
    return largest(outputs) == largest(targets)


def report(losses: list, hits: list[bool], dx: Array, totals: Array | None) -> tuple[Array, Array, Array | None]:
    N, loss_sum = len(losses), float(sum(losses))
    if totals is not None:
        before = [float(total) for total in totals]
        finite = N if math.isfinite(before[0] + loss_sum) else 0
        grown = zip(before, (loss_sum, sum(hits), N, finite), strict=True)
        totals = np.array([total + growth for total, growth in grown])
    return np.array(loss_sum / N), dx, totals


@decimal
def softmax_cross_entropy(logits: Array, labels: Array, totals: Array | None = None) -> tuple:
    N, K = logits.shape
    losses, hits, dx = [], [], zeros(N, K)
    for n in range(N):
        e = [exp(float(z)) for z in logits[n]]
        label = int(labels[n])
        losses.append(-(e[label] / sum(e)).ln())
        hits.append(largest(logits[n]) == label)
        for k in range(K):
            dx[n, k] = (float(e[k] / sum(e)) - (1.0 if k == label else 0.0)) / N
    return report(losses, hits, dx, totals)


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


def element_loss(term: Callable[..., float], slope: Callable[..., float], weight: Callable[[int], float]) -> Any:
    """Make a loss whose terms, and their derivatives in y, are functions of one output y and its target t."""

    def loss(outputs: Array, targets: Array, totals: Array | None = None) -> tuple:
        N, K = outputs.shape
        losses, hits, dx = [], [], zeros(N, K)
        for n in range(N):
            total = 0.0
            for k in range(K):
                y, t = float(outputs[n, k]), float(targets[n, k])
                total += weight(K) * term(y, t)
                dx[n, k] = weight(K) * slope(y, t) / N
            losses.append(total)
            hits.append(is_hit(outputs[n], targets[n], 0.5))
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


# ---- optimizers: the arrays after the step -----------------------------------------------------------------


def sgd_step(w: Array, g: Array, v: Array, hyper: Array, nesterov: bool = False) -> tuple[Array, Array]:
    rate, momentum, decay = map(float, hyper)
    new_w, new_v = zeros(len(w)), zeros(len(v))
    for i in range(len(w)):
        gradient = float(g[i]) + decay * float(w[i])
        new_v[i] = momentum * float(v[i]) + gradient
        step = gradient + momentum * new_v[i] if nesterov else new_v[i]
        new_w[i] = float(w[i]) - rate * step
    return new_w, new_v


def adam_step(
    w: Array, g: Array, m: Array, v: Array, powers: Array, hyper: Array, decoupled: bool = False
) -> tuple[Array, ...]:
    rate, beta1, beta2, epsilon, decay = map(float, hyper)
    power1, power2 = float(powers[0]) * beta1, float(powers[1]) * beta2
    new_w, new_m, new_v = zeros(len(w)), zeros(len(w)), zeros(len(w))
    for i in range(len(w)):
        gradient = float(g[i]) + (0.0 if decoupled else decay * float(w[i]))
        new_m[i] = beta1 * float(m[i]) + (1.0 - beta1) * gradient
        new_v[i] = beta2 * float(v[i]) + (1.0 - beta2) * gradient**2
        mean, variance = new_m[i] / (1.0 - power1), new_v[i] / (1.0 - power2)
        new_w[i] = float(w[i]) - rate * mean / (math.sqrt(variance) + epsilon)
        new_w[i] -= rate * decay * float(w[i]) if decoupled else 0.0
    return new_w, new_m, new_v, np.array([power1, power2])


def rmsprop_step(w: Array, g: Array, v: Array, b: Array, hyper: Array) -> tuple[Array, Array, Array]:
    rate, smoothing, epsilon, momentum, decay = map(float, hyper)
    new_w, new_v, new_b = zeros(len(w)), zeros(len(w)), zeros(len(w))
    for i in range(len(w)):
        gradient = float(g[i]) + decay * float(w[i])
        new_v[i] = smoothing * float(v[i]) + (1.0 - smoothing) * gradient**2
        new_b[i] = momentum * float(b[i]) + gradient / (math.sqrt(new_v[i]) + epsilon)
        new_w[i] = float(w[i]) - rate * new_b[i]
    return new_w, new_v, new_b


def adagrad_step(w: Array, g: Array, v: Array, hyper: Array) -> tuple[Array, Array]:
    rate, epsilon, decay = map(float, hyper)
    new_w, new_v = zeros(len(w)), zeros(len(w))
    for i in range(len(w)):
        gradient = float(g[i]) + decay * float(w[i])
        new_v[i] = float(v[i]) + gradient**2
        new_w[i] = float(w[i]) - rate * gradient / (math.sqrt(new_v[i]) + epsilon)
    return new_w, new_v


def adam_run(w: Array, gradients: Array, hyper: Array) -> Array:
    """Weights after one step per row of gradients, from zero moments: algorithm 1, with beta^t spelt out."""
    rate, beta1, beta2, epsilon, decay = map(float, hyper)
    result = zeros(len(w))
    for i in range(len(w)):
        weight, m, v = float(w[i]), 0.0, 0.0
        for t in range(1, len(gradients) + 1):
            gradient = float(gradients[t - 1, i]) + decay * weight
            m = beta1 * m + (1.0 - beta1) * gradient
            v = beta2 * v + (1.0 - beta2) * gradient**2
            weight -= rate * (m / (1.0 - beta1**t)) / (math.sqrt(v / (1.0 - beta2**t)) + epsilon)
        result[i] = weight
    return result


# ---- data --------------------------------------------------------------------------------------------------


def gather_batch(
    images: Array, labels: Array, order: Array, cursor: Array, scale: Array, shift: Array, N: int
) -> tuple[Array, Array, Array]:
    _, H, W, C = images.shape
    x, y = zeros(N, H, W, C), np.zeros(N, np.int64)
    start = int(cursor[0])
    for n in range(N):
        sample = int(order[start + n])
        y[n] = int(labels[sample])
        for i, j, c in product(range(H), range(W), range(C)):
            x[n, i, j, c] = int(images[sample, i, j, c]) * float(scale[c]) + float(shift[c])
    return x, y, np.array([start + N])


def one_hot(labels: Array, K: int) -> Array:
    y = zeros(len(labels), K)
    for n in range(len(labels)):
        y[n, int(labels[n])] = 1.0
    return y
