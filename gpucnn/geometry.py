"""The footprint of a sliding window and the size of its output: integers, no arrays.

Notation, here and everywhere: `N` images of `H` x `W` pixels and `C` channels; a kernel of `KH` x `KW` taps
and `OC` output channels; an output of `OH` x `OW` pixels; stride `SH, SW`; dilation `DH, DW`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Pair", "Window", "bins"]

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """A kernel's footprint that slides over an image: all that an operation must know of its geometry.

    Layers check their arguments and make one; who makes one directly checks them.

    >>> window = Window((5, 5), stride=(2, 2), padding=((2, 2), (2, 2)))
    >>> window.output_size(28, 28)
    (14, 14)
    >>> window.taps
    25

    Attributes
    ----------
    kernel : (KH, KW), taps
    stride : (SH, SW), input pixels from one output pixel to the next
    padding : ((top, bottom), (left, right)), pixels added around the image
    dilation : (DH, DW), input pixels from one tap to the next
    overhang : rows and columns by which the last windows reach beyond the padding; no mean counts them
    """

    kernel: Pair
    stride: Pair = (1, 1)
    padding: tuple[Pair, Pair] = ((0, 0), (0, 0))
    dilation: Pair = (1, 1)
    overhang: Pair = (0, 0)

    @property
    def taps(self) -> int:
        """Number of kernel taps, KH*KW."""
        return self.kernel[0] * self.kernel[1]

    @property
    def border(self) -> tuple[Pair, Pair]:
        """Padding and overhang together, ((top, bottom), (left, right)): what a window meets around the image."""
        ((top, bottom), (left, right)), (below, beside) = self.padding, self.overhang
        return (top, bottom + below), (left, right + beside)

    @property
    def is_padded(self) -> bool:
        """Whether there is any border."""
        return self.border != ((0, 0), (0, 0))

    @property
    def extent(self) -> Pair:
        """Pixels from the first tap to the last, both counted: `D*(K - 1) + 1` for each axis.

        >>> Window((3, 3), dilation=(2, 1)).extent
        (5, 3)
        """
        (KH, KW), (DH, DW) = self.kernel, self.dilation
        return DH * (KH - 1) + 1, DW * (KW - 1) + 1

    def input_size(self, OH: int, OW: int) -> Pair:
        """Size of the smallest input with an output of OH x OW: the inverse of `output_size`.

        >>> Window((3, 3), stride=(2, 2)).input_size(4, 4)
        (9, 9)
        """
        (EH, EW), (SH, SW), ((top, bottom), (left, right)) = self.extent, self.stride, self.border
        return (OH - 1) * SH + EH - top - bottom, (OW - 1) * SW + EW - left - right

    def padded_size(self, H: int, W: int) -> Pair:
        """Size of the image with its border.

        >>> Window((3, 3), padding=((1, 1), (0, 2))).padded_size(8, 8)
        (10, 10)
        """
        (top, bottom), (left, right) = self.border
        return top + H + bottom, left + W + right

    def output_size(self, H: int, W: int) -> Pair:
        """Size of the output: `OH = (H + padding + overhang - extent)//SH + 1`, and likewise for the width.

        Paper: Eqn 2.1. Below 1 where the kernel does not fit its input.

        >>> Window((5, 5)).output_size(28, 28)
        (24, 24)
        """
        (PH, PW), (EH, EW), (SH, SW) = self.padded_size(H, W), self.extent, self.stride
        return (PH - EH) // SH + 1, (PW - EW) // SW + 1

    def interior(self, H: int, W: int) -> tuple[slice, slice]:
        """Rows and columns that the image takes in its padded copy.

        >>> Window((3, 3), padding=((1, 1), (0, 0))).interior(8, 8)
        (slice(1, 9, None), slice(0, 8, None))
        """
        (top, _), (left, _) = self.padding
        return slice(top, top + H), slice(left, left + W)

    def tap_slices(self, H: int, W: int) -> Iterator[tuple[slice, slice]]:
        """For each tap, row by row: the rows and columns of the padded image that it meets as the window slides.

        >>> list(Window((1, 2), stride=(2, 2)).tap_slices(4, 4))
        [(slice(0, 3, 2), slice(0, 3, 2)), (slice(0, 3, 2), slice(1, 4, 2))]
        """
        (KH, KW), (SH, SW), (DH, DW) = self.kernel, self.stride, self.dilation
        OH, OW = self.output_size(H, W)
        for u in range(KH):
            rows = slice(u * DH, u * DH + SH * (OH - 1) + 1, SH)
            for v in range(KW):
                yield rows, slice(v * DW, v * DW + SW * (OW - 1) + 1, SW)

    def misses_image(self, H: int, W: int) -> bool:
        """Whether some window lies wholly in the padding.

        >>> Window((2, 2), padding=((2, 0), (0, 0))).misses_image(4, 4)
        True
        """
        axes = zip((H, W), self.output_size(H, W), self.kernel, self.stride, self.padding, self.dilation, strict=True)
        for size, outputs, taps, stride, (before, _), dilation in axes:
            for output in range(outputs):
                if not any(0 <= output * stride + tap * dilation - before < size for tap in range(taps)):
                    return True
        return False


def bins(size: int, outputs: int) -> list[slice]:
    """Share `size` pixels among `outputs` bins: bin i is [floor(i*size/outputs), ceil((i + 1)*size/outputs)).

    None is empty; where the sizes do not divide, neighbours may share a pixel.

    >>> bins(7, 3)
    [slice(0, 3, None), slice(2, 5, None), slice(4, 7, None)]
    """
    return [slice(i * size // outputs, -(-(i + 1) * size // outputs)) for i in range(outputs)]
