"""The normal distribution of the reference, and GELU: to the last digits even where they are tiny."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gpucnn import GELU
from gpucnn.backend.reference.normal import normal

# x, density and distribution function, computed with 40 digits by mpmath.
VALUES = [
    (-37.0, 2.1200065515246056e-298, 5.725571222524577e-300),
    (-30.1, 7.300259384280611e-198, 2.4226672179857586e-199),
    (-20.5, 2.2119843802105703e-92, 1.0764673258790961e-93),
    (-10.0, 7.694598626706419e-23, 7.619853024160525e-24),
    (-6.25, 1.3140018181558838e-09, 2.0522634252189388e-10),
    (-3.3, 0.0017225689390536812, 0.0004834241423837775),
    (-1.0, 0.24197072451914334, 0.15865525393145705),
    (-0.1, 0.39695254747701175, 0.460172162722971),
    (0.0, 0.3989422804014327, 0.5),
    (0.7, 0.31225393336676127, 0.758036347776927),
    (2.5, 0.017528300493568537, 0.9937903346742238),
    (8.0, 5.052271083536892e-15, 0.9999999999999993),
]
UNITS = 3  # of eps, the relative error that the docstring promises


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relative_error(dtype: str) -> None:
    x, density, distribution = np.array(VALUES).T
    shown = density > np.finfo(dtype).tiny
    shown &= x == x.astype(dtype)  # a rounded x has another value
    results = normal(x[shown].astype(dtype), np)
    for result, expected in zip(results, (density, distribution), strict=True):
        assert result.dtype == dtype
        np.testing.assert_allclose(result.astype("float64"), expected[shown], rtol=UNITS * np.finfo(dtype).eps)


def test_between_those_values() -> None:
    """Against the C library, whose argument is rounded: that changes e^(-x^2/2) by up to x^2 eps."""
    eps = np.finfo("float64").eps
    for x in np.linspace(-37, 9, 4001):
        expected = math.exp(-x * x / 2) / math.sqrt(2 * math.pi), math.erfc(-x / math.sqrt(2)) / 2
        for result, exact in zip(normal(np.array([x]), np), expected, strict=True):
            np.testing.assert_allclose(result, [exact], rtol=(8 + x * x) * eps, err_msg=str(x))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_limits(dtype: str) -> None:
    density, distribution = normal(np.array([-np.inf, np.inf, np.nan, -1e30, 1e30], dtype), np)
    np.testing.assert_array_equal(density, [0, 0, np.nan, 0, 0])
    np.testing.assert_array_equal(distribution, [0, 1, np.nan, 0, 1])


def test_gelu_keeps_the_digits_of_a_tiny_tail() -> None:
    x = np.array([[-37.0, -10.0]])
    np.testing.assert_allclose(GELU()(x), [[-37.0 * 5.725571222524577e-300, -10.0 * 7.619853024160525e-24]], rtol=1e-15)
    u = math.sqrt(2 / math.pi) * (-10.0 - 0.044715e3)
    expected = -10.0 * math.exp(2 * u)  # (1 + tanh(u))/2 = 1/(1 + e^(-2u))
    np.testing.assert_allclose(GELU(approximate=True)(x)[0, 1], expected, rtol=1e-13)


def test_the_approximation_is_off_by_at_most_what_the_layer_says() -> None:
    x = np.linspace(-8, 8, 20001).reshape(1, -1)
    error = np.max(np.abs(GELU(approximate=True)(x) - GELU()(x)))
    assert 4e-4 < error < 5e-4
