"""From the arguments of PyTorch's functions to calls of gpucnn's layers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor
from torch_calls import (
    KERNELS,
    MATRIX,
    SAME,
    LayerCall,
    Layout,
    UnfoldCall,
    Unsupported,
    array,
    channels_last,
    elements,
    flat,
    images,
    nothing,
    rows,
)

import gpucnn
from gpucnn.layers.window import fit_window


def given(**parameters: tuple[Tensor | None, Layout]) -> dict[str, tuple[Tensor, Layout]]:
    """The parameters that there are."""
    return {name: parameter for name, parameter in parameters.items() if parameter[0] is not None}


def pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """(rows, columns) of a number, of one number in a tuple, or of two."""
    values = value if isinstance(value, tuple) else (value,)
    return values * 2 if len(values) == 1 else values


# ---- convolution and dense layers -----------------------------------------------------------------------------------


def conv2d(x: Tensor, w: Tensor, b: Tensor = None, stride=1, padding=0, dilation=1, groups=1) -> LayerCall:
    """`Conv2D`."""
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": b is not None}
    make = partial(gpucnn.Conv2D, len(w), tuple(w.shape[2:]), **options)
    return LayerCall(make, x, images(x), given(w=(w, KERNELS), b=(b, SAME)))


def conv_transpose2d(
    x: Tensor, w: Tensor, b: Tensor = None, stride=1, padding=0, output_padding=0, groups=1, dilation=1
) -> LayerCall:
    """`Conv2DTranspose`; to PyTorch the output padding may also be less than the dilation."""
    if any(more >= step for more, step in zip(pair(output_padding), pair(stride), strict=True)):
        raise Unsupported("an output padding not less than the stride")
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups, "bias": b is not None}
    options["output_padding"] = output_padding
    make = partial(gpucnn.Conv2DTranspose, w.shape[1] * groups, tuple(w.shape[2:]), **options)
    return LayerCall(make, x, images(x), given(w=(w, KERNELS), b=(b, SAME)))


def linear(x: Tensor, w: Tensor, b: Tensor = None) -> LayerCall:
    """`Dense`, on the last axis of any array."""
    return LayerCall(partial(gpucnn.Dense, len(w), bias=b is not None), x, rows(x), given(w=(w, MATRIX), b=(b, SAME)))


def unfold(x: Tensor, kernel_size, dilation=1, padding=0, stride=1) -> UnfoldCall:
    """`im2col`."""
    return UnfoldCall(x, fit_window("unfold", tuple(x.shape[2:]), kernel_size, stride, padding, dilation))


def pad(x: Tensor, padding: tuple[int, ...], mode: str = "constant", value: float | None = None) -> LayerCall:
    """`ZeroPad2D`; PyTorch's padding begins with the last axis."""
    if mode != "constant":
        raise Unsupported(f"{mode} padding")
    if value:
        raise Unsupported("padding with another number than 0")
    if len(padding) > 4 or min(padding) < 0:
        raise Unsupported("padding of channels, or negative padding")
    left, right, top, bottom = (*padding, 0, 0)[:4]
    return LayerCall(partial(gpucnn.ZeroPad2D, ((top, bottom), (left, right))), x, images(x))


# ---- pooling ------------------------------------------------------------------------------------------------------


def max_pool2d(
    x: Tensor, kernel_size, stride=None, padding=0, dilation=1, ceil_mode=False, return_indices=False
) -> LayerCall:
    """`MaxPool2D`; PyTorch's indices are pixel numbers h*W + w, the layer's argmax holds tap numbers."""
    layout = images(x)

    def indices(pool: gpucnn.MaxPool2D) -> list[np.ndarray]:
        (_, KW), (SH, SW), (DH, DW) = pool.window.kernel, pool.window.stride, pool.window.dilation
        (top, _), (left, _) = pool.window.padding
        u, v = np.divmod(pool.argmax.astype(np.int64), KW)  # (N, OH, OW, C)
        OH, OW, _ = pool.output_shape
        h = np.arange(OH)[:, None, None] * SH + u * DH - top
        w = np.arange(OW)[:, None] * SW + v * DW - left
        return [layout.back(h * x.shape[-1] + w)]

    options = {"stride": stride or None, "padding": padding, "dilation": dilation, "ceil_mode": ceil_mode}
    make = partial(gpucnn.MaxPool2D, kernel_size, **options)
    return LayerCall(make, x, layout, also=indices if return_indices else nothing)


def avg_pool2d(
    x: Tensor, kernel_size, stride=None, padding=0, ceil_mode=False, count_include_pad=True, divisor_override=None
) -> LayerCall:
    """`AveragePool2D`."""
    if divisor_override is not None:
        raise Unsupported("a divisor of the mean")
    options = {"stride": stride or None, "padding": pair(padding), "ceil_mode": ceil_mode}
    make = partial(gpucnn.AveragePool2D, kernel_size, count_include_pad=count_include_pad, **options)
    return LayerCall(make, x, images(x))


def kept_sizes(x: Tensor, output_size: int | tuple[int | None, ...]) -> tuple[int, ...]:
    """The output size, with the input's own where PyTorch has None."""
    return tuple(size or own for size, own in zip(pair(output_size), x.shape[-2:], strict=True))


def adaptive_avg_pool2d(x: Tensor, output_size) -> LayerCall:
    """`AdaptiveAveragePool2D`."""
    return LayerCall(partial(gpucnn.AdaptiveAveragePool2D, kept_sizes(x, output_size)), x, images(x))


def adaptive_max_pool2d(x: Tensor, output_size, return_indices: bool = False) -> LayerCall:
    """`AdaptiveMaxPool2D`, whose argmax is PyTorch's indices."""
    layout = images(x)

    def indices(pool: gpucnn.AdaptiveMaxPool2D) -> list[np.ndarray]:
        return [layout.back(pool.argmax)]

    make = partial(gpucnn.AdaptiveMaxPool2D, kept_sizes(x, output_size))
    return LayerCall(make, x, layout, also=indices if return_indices else nothing)


# ---- normalization ------------------------------------------------------------------------------------------------


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None,
    running_variance: Tensor | None,
    weight: Tensor = None,
    bias: Tensor = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> LayerCall:
    """`BatchNorm2D`; its running moments after the step are further outputs."""
    if not training:
        raise Unsupported("a gradient through running moments")
    if momentum < 0:
        raise Unsupported("a negative momentum or eps")
    moments = [array(moment).copy() for moment in (running_mean, running_variance) if moment is not None]
    return LayerCall(
        partial(gpucnn.BatchNorm2D, momentum=momentum, eps=eps),
        x,
        channels_last(x),
        given(gamma=(weight, SAME), beta=(bias, SAME)),
        {"running": np.stack(moments)} if moments else {},
        (lambda layer: list(layer.running)) if moments else nothing,
    )


def torch_batch_norm(x: Tensor, mean: Tensor | None, variance: Tensor | None, *args: Any, **options: Any) -> Any:
    """PyTorch's function, on copies of the running moments, which it returns too."""
    if mean is None:
        return F.batch_norm(x, mean, variance, *args, **options)
    moments = mean.clone(), variance.clone()
    return F.batch_norm(x, *moments, *args, **options), *moments


def group_norm(x: Tensor, groups: int, weight: Tensor = None, bias: Tensor = None, eps: float = 1e-5) -> LayerCall:
    """`GroupNorm`."""
    if eps < 0:
        raise Unsupported("a negative momentum or eps")
    parameters = given(gamma=(weight, SAME), beta=(bias, SAME))
    return LayerCall(partial(gpucnn.GroupNorm, groups, eps=eps), x, channels_last(x), parameters)


# ---- activations --------------------------------------------------------------------------------------------------


def activation(layer: type[gpucnn.Layer]) -> Callable[[Tensor], LayerCall]:
    """The adaptor for an activation without settings."""
    return lambda x: LayerCall(layer, x, elements(x))


def gelu(x: Tensor, approximate: str = "none") -> LayerCall:
    """`GELU`."""
    return LayerCall(partial(gpucnn.GELU, approximate == "tanh"), x, elements(x))


def softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> LayerCall:
    """`Softplus`; all samples have settings that gpucnn has not, but `logsigmoid` is its reflection."""
    if (beta, threshold) != (1, 20):
        raise Unsupported("a slope and a threshold of softplus")
    return LayerCall(gpucnn.Softplus, x, elements(x))


def logsigmoid(x: Tensor) -> LayerCall:
    """`-Softplus(-x)`."""
    layout = elements(x)
    return LayerCall(gpucnn.Softplus, x, Layout(lambda a: -layout.to(a), lambda a: -layout.back(a)))


def prelu(x: Tensor, weight: Tensor) -> LayerCall:
    """`PReLU`, with a slope for each channel, or one for all elements: then each is a sample of one channel."""
    slope = weight, Layout(np.ravel, lambda a: a.reshape(tuple(weight.shape)))
    layout = flat(x, 1) if weight.numel() == 1 else channels_last(x)
    return LayerCall(gpucnn.PReLU, x, layout, {"slope": slope})


def softmax(x: Tensor, axis: int, dtype: Any = None) -> LayerCall:
    """`Softmax`, along any axis."""
    return LayerCall(gpucnn.Softmax, x, rows(x, axis))


def log_softmax(x: Tensor, axis: int, dtype: Any = None) -> LayerCall:
    """`LogSoftmax`, along any axis."""
    return LayerCall(gpucnn.LogSoftmax, x, rows(x, axis))
