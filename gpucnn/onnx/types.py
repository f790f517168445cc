"""The types of elements that are computed with."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper

from gpucnn.errors import InputError

__all__ = ["dtype_of"]

NAMES = ("float32", "float64", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
DTYPES = {helper.np_dtype_to_tensor_dtype(np.dtype(name)): np.dtype(name) for name in NAMES}


def dtype_of(kind: int, what: str) -> np.dtype:
    """Return the NumPy dtype of one of ONNX's types of elements; `what` names the tensor in the error."""
    if kind not in DTYPES:
        name = TensorProto.DataType.Name(kind).lower()
        raise InputError(f"{what}: elements of type {name} are not supported; supported are {', '.join(NAMES)}")
    return DTYPES[kind]
