"""The updates of the optimizers: whole arenas at once, with hyper-parameters on the device."""

from __future__ import annotations

from gpucnn.backend.reference.arrays import Array, Arrays

__all__ = ["Updates"]


class Updates(Arrays):
    """Part of `Backend`."""

    def sgd_step(self, w: Array, g: Array, v: Array, hyper: Array, *, nesterov: bool = False) -> None:
        """Gradient descent with momentum, in place: `g' = g + decay w; v = momentum v + g'; w = w - rate v`.

        Nesterov's form moves by `g' + momentum v` instead of v. hyper (3,) = rate, momentum, decay.
        Paper: section 3, backward, update. There momentum and decay are 0.
        Source: Sutskever et al., ICML 2013, in PyTorch's form.
        """
        rate, momentum, decay = (hyper[i] for i in range(3))
        gradient = g + decay * w
        v[...] = momentum * v + gradient
        w[...] = w - rate * (gradient + momentum * v if nesterov else v)

    def adam_step(
        self, w: Array, g: Array, m: Array, v: Array, powers: Array, hyper: Array, *, decoupled: bool = False
    ) -> None:
        """Adam, in place: `m = b1 m + (1-b1) g; v = b2 v + (1-b2) g^2; w = w - rate m^/(sqrt(v^) + eps)`.

        `m^ = m/(1 - b1^t)` and `v^ = v/(1 - b2^t)`; powers (2,) holds b1^t and b2^t, starts at 1 and is advanced here.
        hyper (5,) = rate, b1, b2, eps, decay. The decay adds `decay w` to g; decoupled, it takes `rate decay w` from w.
        Source: Kingma and Ba, ICLR 2015, algorithm 1; Loshchilov and Hutter, ICLR 2019 (decoupled: AdamW).
        """
        rate, beta1, beta2, eps, decay = (hyper[i] for i in range(5))
        gradient = g if decoupled else g + decay * w
        powers[...] = powers * hyper[1:3]
        m[...] = beta1 * m + (1.0 - beta1) * gradient
        v[...] = beta2 * v + (1.0 - beta2) * gradient * gradient
        kept = w - rate * decay * w if decoupled else w
        w[...] = kept - rate * (m / (1.0 - powers[0])) / (self.xp.sqrt(v / (1.0 - powers[1])) + eps)

    def rmsprop_step(self, w: Array, g: Array, v: Array, b: Array, hyper: Array) -> None:
        """RMSprop, in place: `v = s v + (1-s) g'^2; b = momentum b + g'/(sqrt(v) + eps); w = w - rate b`.

        `g' = g + decay w`; hyper (5,) = rate, smoothing s, eps, momentum, decay.
        Source: Tieleman and Hinton, Coursera 2012, in PyTorch's form.
        """
        rate, smoothing, eps, momentum, decay = (hyper[i] for i in range(5))
        gradient = g + decay * w
        v[...] = smoothing * v + (1.0 - smoothing) * gradient * gradient
        b[...] = momentum * b + gradient / (self.xp.sqrt(v) + eps)
        w[...] = w - rate * b

    def adagrad_step(self, w: Array, g: Array, v: Array, hyper: Array) -> None:
        """Adagrad, in place: `g' = g + decay w; v = v + g'^2; w = w - rate g'/(sqrt(v) + eps)`.

        hyper (3,) = rate, eps, decay. Source: Duchi, Hazan and Singer, JMLR 12 (2011).
        """
        rate, eps, decay = (hyper[i] for i in range(3))
        gradient = g + decay * w
        v[...] = v + gradient * gradient
        w[...] = w - rate * gradient / (self.xp.sqrt(v) + eps)
