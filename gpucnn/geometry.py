"""Output sizes, padding and the footprint of a sliding window: integers and error texts, no arrays.

Notation, here and everywhere: `N` images of `H` x `W` pixels and `C` channels; a kernel of `KH` x `KW` taps
and `OC` output channels; an output of `OH` x `OW` pixels; stride `SH, SW`; dilation `DH, DW`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass
from numbers import Real

from gpucnn.errors import InputError

__all__ = ["Padding", "Window", "integer", "number", "pair"]

Pair = tuple[int, int]
Padding = int | Pair | tuple[Pair, Pair] | str


@dataclass(frozen=True)
class Window:
    """A kernel footprint that slides over an image: all that an operation must know of its geometry.

    Attributes
    ----------
    kernel : (KH, KW), taps
    stride : (SH, SW), input pixels from one output pixel to the next
    padding : ((top, bottom), (left, right)), pixels added around the image
    dilation : (DH, DW), input pixels from one tap to the next
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)

    @property
    def taps(self) -> int:
        """Number of kernel taps, KH*KW."""
        return self.kernel[0] * self.kernel[1]

    @property
    def is_padded(self) -> bool:
        """Whether there is any padding."""
        return self.padding != ((0, 0), (0, 0))

    @property
    def extent(self) -> Pair:
        """Pixels from the first tap to the last, both counted: D*(K - 1) + 1 for each axis."""
        (KH, KW), (DH, DW) = self.kernel, self.dilation
        return DH * (KH - 1) + 1, DW * (KW - 1) + 1

    def input_size(self, OH: int, OW: int) -> Pair:
        """Size of the smallest input with an output of OH x OW: the inverse of `output_size`."""
        axes = zip((OH, OW), self.extent, self.stride, self.padding, strict=True)
        H, W = ((size - 1) * stride + extent - sum(padding) for size, extent, stride, padding in axes)
        return H, W

    def padded_size(self, H: int, W: int) -> Pair:
        """Size of the image with its padding."""
        return H + sum(self.padding[0]), W + sum(self.padding[1])

    def output_size(self, H: int, W: int) -> Pair:
        """Size of the output: `OH = (H + padding - extent)//SH + 1`, and so for the width.

        Paper: Eqn 2.1. Below 1 where the kernel does not fit its input.
        """
        sizes = zip(self.padded_size(H, W), self.extent, self.stride, strict=True)
        OH, OW = ((size - extent) // stride + 1 for size, extent, stride in sizes)
        return OH, OW

    def interior(self, H: int, W: int) -> tuple[slice, slice]:
        """Rows and columns that the image takes in its padded copy."""
        (top, _), (left, _) = self.padding
        return slice(top, top + H), slice(left, left + W)

    def tap_slices(self, H: int, W: int) -> Iterator[tuple[slice, slice]]:
        """For each tap, row by row: the rows and columns of the padded image that it meets as the window slides."""
        (KH, KW), (SH, SW), (DH, DW) = self.kernel, self.stride, self.dilation
        OH, OW = self.output_size(H, W)
        for u in range(KH):
            rows = slice(u * DH, u * DH + SH * (OH - 1) + 1, SH)
            for v in range(KW):
                yield rows, slice(v * DW, v * DW + SW * (OW - 1) + 1, SW)

    def misses_image(self, H: int, W: int) -> bool:
        """Whether some window lies wholly in the padding."""
        axes = zip((H, W), self.output_size(H, W), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        for size, outputs, taps, stride, (before, _), dilation in axes:
            for output in range(outputs):
                if not any(0 <= output * stride + tap * dilation - before < size for tap in range(taps)):
                    return True
        return False

    @classmethod
    def sized(
        cls,
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
        unpadded = cls(kernel, stride, dilation=dilation)
        return cls(kernel, stride, _resolve_padding(layer, padding, size, unpadded), dilation)

    @classmethod
    def fit(
        cls,
        layer: str,
        size: Pair,
        kernel_size: int | Pair,
        stride: int | Pair = 1,
        padding: Padding = 0,
        dilation: int | Pair = 1,
    ) -> Window:
        """Check a layer's arguments against its (H, W) input and return the window they describe.

        `padding` is an int, a pair (rows, columns), a pair of pairs ((top, bottom), (left, right)), "valid" (none) or
        "same" (output size = input size / stride rounded up; an odd pixel goes below and to the right, with
        "same_lower" above and to the left).

        Raises
        ------
        InputError
            For a wrong argument, or a kernel that does not fit its input; `layer` is how the message names the layer.
        """
        window = cls.sized(layer, kernel_size, stride, padding, dilation, size)
        for axis, output in enumerate(window.output_size(*size)):
            if output < 1:
                raise InputError(_does_not_fit(layer, window, size, axis, output))
        return window


def integer(value: object, what: str, *, least: int) -> int:
    """Return `value` as an int of at least `least`; `what` names it in the error."""
    try:
        whole = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        whole = least - 1
    if isinstance(value, bool) or whole < least:
        raise InputError(f"{what} must be an integer of at least {least}, received {value!r}")
    return whole


def number(value: object, what: str, *, least: float = 0.0, below: float = math.inf) -> float:
    """Return `value` as a float, at least `least` and less than `below`; `what` names it in the error."""
    if not isinstance(value, Real) or isinstance(value, bool) or not least <= value < below:
        limit = "finite" if below == math.inf else f"below {below:g}"
        raise InputError(f"{what} must be a number of at least {least:g} and {limit}, received {value!r}")
    return float(value)


def pair(value: object, what: str, *, least: int) -> Pair:
    """Return an int or a pair of ints as a pair (rows, columns), each at least `least`."""
    values = tuple(value) if isinstance(value, (tuple, list)) else (value, value)
    if len(values) != 2:
        raise InputError(f"{what} must be an integer or a pair (rows, columns), received {value!r}")
    return integer(values[0], what, least=least), integer(values[1], what, least=least)


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


def _does_not_fit(layer: str, window: Window, size: Pair, axis: int, output: int) -> str:
    (KH, KW), (before, after) = window.kernel, window.padding[axis]
    dilated = f" dilated by {window.dilation}" if window.dilation != (1, 1) else ""
    return (
        f"{layer}: kernel {KH}x{KW}{dilated} does not fit input {size[0]}x{size[1]} "
        f"({'OH' if axis == 0 else 'OW'} = ({size[axis]} + {before} + {after} - {window.extent[axis]})"
        f"//{window.stride[axis]} + 1 = {output}); use a smaller kernel, more padding or a larger input"
    )
