"""Dropout, by a counter-based generator."""

from __future__ import annotations

from gpucnn.backend import philox
from gpucnn.backend.assembly import in_place
from gpucnn.backend.reference.arrays import Array

__all__ = ["dropout", "dropout_dx"]


@in_place("x")
def dropout(
    self, x: Array, rate: float, key: tuple[int, int], counter: Array, *, out: Array = None, mask: Array = None
) -> tuple[Array, Array]:
    """Zero a share `rate` of the elements and divide the rest by `1 - rate`, so that the mean stays.

    Element i of call number t is kept where the 32-bit word i of Philox4x32-10 under `key` and counter t is at
    least `rate * 2^32`: the same elements on every device. `counter`, int64 (1,), is t and goes up by one.
    x of any shape -> out, mask (uint8), both of x's shape. Source: Srivastava et al., JMLR 15 (2014).
    """
    words = philox.philox_words(self.xp, x.size, key, counter)
    kept = self.xp.reshape(words, x.shape) >= philox.threshold(rate)
    counter += 1
    y = self.xp.where(kept, x * (1.0 / (1.0 - rate)), self.xp.zeros((), dtype=x.dtype))
    return self.store(y, out), self.store(self.cast(kept, self.xp.uint8), mask)


@in_place("dy")
def dropout_dx(self, dy: Array, mask: Array, rate: float, *, out: Array = None) -> Array:
    """Gradient of `dropout`: the same elements dropped, the rest scaled alike."""
    zero = self.xp.zeros((), dtype=dy.dtype)
    return self.store(self.xp.where(mask != 0, dy * (1.0 / (1.0 - rate)), zero), out)
