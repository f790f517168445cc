"""The updates of the optimizers: whole arenas at once, with hyperparameters on the device."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array

__all__ = ["adagrad_step", "adam_step", "apply_scheduled_rate", "average_step", "clip_norm", "rmsprop_step", "sgd_step"]


def sgd_step(self, w: Array, g: Array, v: Array, hyperparameters: Array, *, nesterov: bool = False) -> None:
    """Gradient descent with momentum, in place: `g' = g + decay w; v = momentum v + g'; w = w - rate v`.

    Nesterov's form moves by `g' + momentum v` instead of v. hyperparameters (3,) = rate, momentum, decay.
    Paper: section 3, backward, update. There momentum and decay are 0.
    Source: Sutskever et al., ICML 2013, in PyTorch's form.
    """
    rate, momentum, decay = (hyperparameters[i] for i in range(3))
    gradient = g + decay * w
    v[...] = momentum * v + gradient
    w[...] = w - rate * (gradient + momentum * v if nesterov else v)


def adam_step(
    self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyperparameters: Array, *, decoupled: bool = False
) -> None:
    """Adam, in place: `m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w = w - rate m^/(sqrt(v^) + eps)`.

    `m^ = m/(1 - b1^t)` and `v^ = v/(1 - b2^t)`; powers (2,) holds b1^t and b2^t, starts at 1 and is advanced here.
    hyperparameters (5,) = rate, b1, b2, eps, decay. The decay adds `decay w` to g; decoupled, it takes
    `rate decay w` from w.
    Source: Kingma and Ba, ICLR 2015, algorithm 1; Loshchilov and Hutter, ICLR 2019 (decoupled: AdamW).
    """
    rate, beta1, beta2, eps, decay = (hyperparameters[i] for i in range(5))
    gradient = g if decoupled else g + decay * w
    powers[...] = powers * hyperparameters[1:3]
    m[...] = beta1 * m + (1.0 - beta1) * gradient
    v[...] = beta2 * v + (1.0 - beta2) * gradient * gradient
    kept = w - rate * decay * w if decoupled else w
    w[...] = kept - rate * (m / (1.0 - powers[0])) / (self.xp.sqrt(v / (1.0 - powers[1])) + eps)


def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyperparameters: Array) -> None:
    """RMSprop, in place: `v = s v + (1-s) g'^2; b = momentum b + g'/(sqrt(v) + eps); w = w - rate b`.

    `g' = g + decay w`; hyperparameters (5,) = rate, smoothing s, eps, momentum, decay.
    Source: Tieleman and Hinton, Coursera 2012, in PyTorch's form.
    """
    rate, smoothing, eps, momentum, decay = (hyperparameters[i] for i in range(5))
    gradient = g + decay * w
    v[...] = smoothing * v + (1.0 - smoothing) * gradient * gradient
    b[...] = momentum * b + gradient / (self.xp.sqrt(v) + eps)
    w[...] = w - rate * b


def adagrad_step(self, w: Array, g: Array, v: Array, hyperparameters: Array) -> None:
    """Adagrad, in place: `g' = g + decay w; v = v + g'^2; w = w - rate g'/(sqrt(v) + eps)`.

    hyperparameters (3,) = rate, eps, decay. Source: Duchi, Hazan and Singer, JMLR 12 (2011).
    """
    rate, eps, decay = (hyperparameters[i] for i in range(3))
    gradient = g + decay * w
    v[...] = v + gradient * gradient
    w[...] = w - rate * gradient / (self.xp.sqrt(v) + eps)


def clip_norm(self, g: Array, limit: Array) -> None:
    """Scale gradients in place so that their norm is at most limit (1,): `g = g min(1, limit/(||g|| + 1e-6))`.

    The norm is that of all elements together, summed in float64. If it is NaN, every gradient becomes NaN; if it is
    infinite, the infinite ones become NaN and the others 0; but what is 0 stays 0, the gaps of an arena among it.
    Source: Pascanu, Mikolov and Bengio, ICML 2013, in the form of PyTorch's `clip_grad_norm_`.
    """
    wide = self.cast(g, self.xp.float64)
    norm = self.xp.sqrt(self.xp.sum(wide * wide))
    share = self.cast(limit, self.xp.float64) / (norm + 1e-6)
    share = self.cast(self.xp.minimum(share, self.xp.ones_like(share)), g.dtype)
    g[...] = self.xp.where(g == 0, g, g * share)


def apply_scheduled_rate(self, rates: Array, clock: Array, hyperparameters: Array) -> None:
    """Take the learning rate of the next step: `hyperparameters[0] = rates[min(clock, last)]; clock = clock + 1`.

    rates (steps,), clock (1,) int64: all on the device, so that every step does the same and the host nothing.
    """
    last = self.xp.full_like(clock, rates.shape[0] - 1)
    hyperparameters[:1] = self.xp.take(rates, self.xp.minimum(clock, last))
    clock += 1


def average_step(self, w: Array, mean: Array, total_weight: Array, hyperparameters: Array) -> None:
    """Exponential moving average of weights, in place: `t = b t + 1; mean = mean + (w - mean)/t`, t = total_weight.

    The mean of all w so far, each worth b times the next: Adam's `m = b m + (1-b) w; mean = m/(1 - b^t)` in a form
    that does not cancel. total_weight (1,) = 1 + b + b^2 + .. starts at 0; hyperparameters (1,) = b.
    Source: Polyak and Juditsky, SIAM J. Control Optim. 30 (1992); Kingma and Ba, ICLR 2015, section 3.
    """
    total_weight[...] = hyperparameters * total_weight + 1.0
    mean[...] = mean + (w - mean) / total_weight
