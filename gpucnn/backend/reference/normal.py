"""The normal distribution, which the array API standard lacks, as it lacks the error function."""

from __future__ import annotations

import math
from typing import Any

__all__ = ["normal"]

Array = Any

FARTHEST = 40.0  # from there on density and tail are 0 in float64
SQRT_TWO_PI = math.sqrt(2.0 * math.pi)

# The power series of `(1 + a) e^(a^2/2) Phi(-a)` in `t = (a - 5)/(a + 5)`: its Chebyshev expansion, computed with 60
# digits, cut off where its coefficients fall below 1e-17.
# After Shepherd and Laframboise, Math. Comp. 36 (1981), who expand the error function so.
TAIL = (
    *(0.46151582985003775, -0.09155228183400904, 0.031030368425963708, 0.010002352385229382),
    *(-0.026401042966308307, 0.024536963243678652, -0.015170415402514863, 0.006522000667783896),
    *(-0.00167607234455447, 7.791597409338999e-06, 0.00018233414511643843, -5.36075811148722e-05),
    *(-9.896097759279782e-06, 9.05982468125664e-06, -7.034644683537101e-08, -1.3074486019237587e-06),
    *(1.27878221820937e-07, 1.9627809920091187e-07, -2.6286205089898754e-08, -3.095201755804207e-08),
    *(3.627373163401201e-09, 4.4011596227599254e-09, -2.8220772290629865e-10, -3.815816262632953e-10),
)


def normal(x: Array, xp: Any) -> tuple[Array, Array]:
    """Return the density `phi(x) = e^(-x^2/2)/sqrt(2 pi)` and `Phi(x)`, its integral from -inf to x.

    Both with a relative error below 3 times the dtype's eps, down to its smallest normal number.
    """
    x = xp.clip(x, -FARTHEST, FARTHEST)
    distance = xp.abs(x)
    t = (distance - 5.0) / (distance + 5.0)
    series = xp.full_like(t, TAIL[-1])
    for coefficient in TAIL[-2::-1]:
        series *= t
        series += coefficient
    e = _exp_of_minus_half_square(x, xp)
    tail = e * series / (1.0 + distance)  # Phi(-|x|)
    return e / SQRT_TWO_PI, xp.where(x > 0, 1.0 - tail, tail)


def _exp_of_minus_half_square(x: Array, xp: Any) -> Array:
    """`e^(-x^2/2)`, of x^2 = h^2 + (x - h)(x + h) with an h of few digits, whose square is exact."""
    h = xp.round(16.0 * x) / 16.0
    return xp.exp(-0.5 * h * h) * xp.exp(-0.5 * (x - h) * (x + h))
