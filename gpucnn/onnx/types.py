"""The types of elements that are computed with."""

from __future__ import annotations

import numpy as np
from onnx import TensorProto, helper, numpy_helper

from gpucnn.errors import InputError

__all__ = ["array_of", "dtype_of"]

NAMES = ("float32", "float64", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
DTYPES = {helper.np_dtype_to_tensor_dtype(np.dtype(name)): np.dtype(name) for name in NAMES}


def array_of(tensor: TensorProto, what: str) -> np.ndarray:
    """Return the elements that a tensor of the model holds; `what` names it in the error."""
    dtype_of(tensor.data_type, what)
    if tensor.data_location == TensorProto.EXTERNAL:
        raise InputError(f"{what}: lies in another file; read the model with onnx.load, which takes it in")
    try:
        return numpy_helper.to_array(tensor)
    except (TypeError, ValueError) as error:
        raise InputError(f"{what}: its elements do not fill the shape {tuple(tensor.dims)} ({error})") from error


def dtype_of(kind: int, what: str) -> np.dtype:
    """Return the NumPy dtype of one of ONNX's types of elements; `what` names the tensor in the error."""
    if kind not in DTYPES:
        name = TensorProto.DataType.Name(kind).lower() if kind in TensorProto.DataType.values() else kind
        raise InputError(f"{what}: elements of type {name} are not supported; supported are {', '.join(NAMES)}")
    return DTYPES[kind]
