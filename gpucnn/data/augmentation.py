"""How training images vary from epoch to epoch."""

from __future__ import annotations

from dataclasses import dataclass

from gpucnn.checks import integer
from gpucnn.errors import InputError

__all__ = ["Augmentation"]


@dataclass(frozen=True)
class Augmentation:
    """Random shifts and mirror images, drawn anew for each image in each epoch.

    >>> Augmentation(shift=2)
    Augmentation(shift=2, flip=False)

    Raises `InputError` for other kinds of arguments.

    Parameters
    ----------
    shift : pixels by which an image moves at most, in each of the four directions; pixels of value 0 move in
    flip : whether left and right are exchanged in half of the images
    """

    shift: int = 0
    flip: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "shift", integer(self.shift, "Augmentation: shift", least=0))
        if not isinstance(self.flip, bool):
            raise InputError(f"Augmentation: flip must be True or False, received {self.flip!r}")

    def __bool__(self) -> bool:
        """Return whether it changes any image."""
        return self.shift > 0 or self.flip
