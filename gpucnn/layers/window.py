"""From the arguments of a layer to its `Window`, or to an error that names the layer."""

from __future__ import annotations

from dataclasses import replace

from gpucnn.checks import pair
from gpucnn.errors import InputError
from gpucnn.geometry import Pair, Window

__all__ = ["Padding", "fit_window", "sized_window"]

Padding = int | Pair | tuple[Pair, Pair] | str


def sized_window(
    layer: str,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    size: Pair = (0, 0),
) -> Window:
    """Check a layer's arguments and return the window they describe; "same" padding depends on the input's size."""
    kernel = pair(kernel_size, f"{layer}: kernel_size", least=1)
    stride = pair(stride, f"{layer}: stride", least=1)
    dilation = pair(dilation, f"{layer}: dilation", least=1)
    unpadded = Window(kernel, stride, dilation=dilation)
    return Window(kernel, stride, _resolve_padding(layer, padding, size, unpadded), dilation)


def fit_window(
    layer: str,
    size: Pair,
    kernel_size: int | Pair,
    stride: int | Pair = 1,
    padding: Padding = 0,
    dilation: int | Pair = 1,
    *,
    ceil_mode: bool = False,
) -> Window:
    """Check a layer's arguments against its (H, W) input and return the window they describe.

    `padding` is an int, a pair (rows, columns), a pair of pairs ((top, bottom), (left, right)), "valid" (none) or
    "same" (output size = input size / stride rounded up; an odd pixel goes below and to the right, with
    "same_lower" above and to the left). `ceil_mode` rounds up in Eqn 2.1, where it otherwise rounds down: pixels that
    are left over get one more window, which hangs over, unless it would start beyond the image.

    Raises
    ------
    InputError
        For a wrong argument, or a kernel that does not fit its input; `layer` is how the message names the layer.
    """
    window = sized_window(layer, kernel_size, stride, padding, dilation, size)
    if ceil_mode:
        rows, columns = map(_overhang, size, window.extent, window.stride, window.padding)
        window = replace(window, overhang=(rows, columns))
    for axis, output in enumerate(window.output_size(*size)):
        if output < 1:
            raise InputError(_does_not_fit(layer, window, size, axis, output))
    return window


def _resolve_padding(layer: str, padding: object, size: Pair, window: Window) -> tuple[Pair, Pair]:
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding in ("same", "same_lower"):
        rows, columns = map(_same_padding, size, window.extent, window.stride)
        return (rows, columns) if padding == "same" else (rows[::-1], columns[::-1])
    if isinstance(padding, str):
        expected = '"same", "same_lower", "valid", an integer or a pair'
        raise InputError(f"{layer}: padding must be {expected}, received {padding!r}")
    what = f"{layer}: padding"
    if isinstance(padding, (tuple, list)) and any(isinstance(side, (tuple, list)) for side in padding):
        if len(padding) != 2 or not all(isinstance(side, (tuple, list)) and len(side) == 2 for side in padding):
            raise InputError(f"{what} must be ((top, bottom), (left, right)), received {padding!r}")
        return pair(padding[0], what, least=0), pair(padding[1], what, least=0)
    PH, PW = pair(padding, what, least=0)
    return (PH, PH), (PW, PW)


def _same_padding(size: int, extent: int, stride: int) -> Pair:
    """Padding before and after for an output of ceil(size/stride)."""
    total = max((-(-size // stride) - 1) * stride + extent - size, 0)
    return total // 2, total - total // 2


def _overhang(size: int, extent: int, stride: int, padding: Pair) -> int:
    """Pixels by which one more window hangs over the padding; 0 if none are left over, or it would start beyond it."""
    before, after = padding
    last, left_over = divmod(before + size + after - extent, stride)
    starts_inside = (last + 1) * stride < before + size
    return stride - left_over if left_over and starts_inside else 0


def _does_not_fit(layer: str, window: Window, size: Pair, axis: int, output: int) -> str:
    (KH, KW), (before, after), stride = window.kernel, window.padding[axis], window.stride[axis]
    dilated = f" dilated by {window.dilation}" if window.dilation != (1, 1) else ""
    room = f"({size[axis]} + {before} + {after} - {window.extent[axis]})"
    steps = f"ceil({room}/{stride})" if window.overhang[axis] else f"{room}//{stride}"
    return (
        f"{layer}: kernel {KH}x{KW}{dilated} does not fit input {size[0]}x{size[1]} "
        f"({'OH' if axis == 0 else 'OW'} = {steps} + 1 = {output}); "
        f"use a smaller kernel, more padding or a larger input"
    )
