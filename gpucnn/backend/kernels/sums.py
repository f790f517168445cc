"""Sums of arrays."""

from __future__ import annotations

from gpucnn.backend.kernels.records import Elementwise

__all__ = ["ADD", "ADD_BIAS", "INCREMENT"]

ADD = Elementwise("add", "T a, T b", "T y", "y = a + b")
ADD_BIAS = Elementwise(
    "add_bias",
    "raw T b, int32 OC, bool rectify",
    "T y",
    "const int e = i; const T sum = y + b[e % OC]; y = rectify && sum <= T(0) ? T(0) : sum",
)
INCREMENT = Elementwise("increment", "int64 by", "int64 counter", "counter += by")
