"""Work that repeats: on a device that can record it, each time becomes one launch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from operator import is_
from typing import Any

from gpucnn.backend import Backend
from gpucnn.errors import DeviceError
from gpucnn.geometry import Window

__all__ = ["Inferences", "Replay"]

Array = Any
MOST_SIZES = 4  # of batches whose inferences are kept as recordings
PLAIN = (bool, int, float, str, type(None))


class Replay:
    """Runs work of several kinds again and again; what changes from time to time lies on the device.

    The steps of an epoch, for example, which differ in the size of their batch alone. The first of a kind runs as it is
    written: it allocates what the later ones use, and compiles. The second is recorded, and from then on replayed. So
    an array or a number that was exchanged counts from the next `Replay` on.

    Parameters
    ----------
    state : returns the arrays that the work carries from one time to the next, by name; it must not replace them
    owners : objects whose attributes are arrays that it may use; those of now live as long as the recordings, and are
        there again where nothing could be recorded

    Attributes
    ----------
    recorded : number of kinds that were recorded
    reason : why the work is launched kernel by kernel instead; empty if it is not, or if the device is no GPU
    """

    def __init__(
        self,
        backend: Backend,
        *,
        is_wanted: bool = True,
        state: Callable[[], dict[str, Array]] = dict,
        owners: Iterable[object] = (),
    ):
        self.backend = backend
        self.reason = "" if is_wanted else "as was asked for"
        self._state, self._owners = state, tuple(owners)
        self._recordings: dict[Hashable, Callable[[], None]] = {}
        self._ready: set[Hashable] = set()
        self.recorded = 0

    def run(self, kind: Hashable, work: Callable[[], None]) -> None:
        """Run or replay work of a kind."""
        if kind not in self._recordings and kind in self._ready and not self.reason and self.backend.records:
            self._record(kind, work)
        self._recordings.get(kind, work)()
        self._ready.add(kind)

    def _record(self, kind: Hashable, work: Callable[[], None]) -> None:
        before = [dict(vars(owner)) for owner in self._owners]
        held = [value for attributes in before for value in attributes.values() if self.backend.owns(value)]
        try:
            self._recordings[kind] = self.backend.record(work, state=self._state, keep=held)
            self.recorded += 1
        except BaseException as error:  # of what was done nothing was computed
            for owner, attributes in zip(self._owners, before, strict=True):
                vars(owner).clear()
                vars(owner).update(attributes)
            if not isinstance(error, DeviceError):
                raise
            self.reason = str(error)

    def forget(self, *kinds: Hashable) -> None:
        """Give back the memory of recordings: of some kinds, or of all."""
        for kind in kinds or [*self._ready]:
            self._recordings.pop(kind, None)
            self._ready.discard(kind)


class Inferences:
    """Passes of a network without training, each a copy of the input and one launch from the third of a size on.

    They are recorded anew after anything was exchanged that a pass depends on: a layer, a plain attribute of one, or
    the array of a parameter. What changes within an array needs no new recording.
    """

    def __init__(self) -> None:
        self._plain: list[Any] = []
        self._objects: list[Any] = []
        self._inputs: dict[int, Array] = {}
        self._outputs: dict[int, Array] = {}

    def __reduce__(self) -> tuple[type, tuple]:
        return type(self), ()  # a copy of a network records its own

    def run(self, network: Any, x: Array) -> Array:
        """Return the network's output; the next run with so many samples overwrites it."""
        N = len(x)
        self._begin_anew_if_changed(network)
        if N not in self._inputs:
            for size in [*self._inputs][: len(self._inputs) + 1 - MOST_SIZES]:
                self.replay.forget(size)
                del self._inputs[size]
                self._outputs.pop(size, None)
            self._inputs[N] = network.backend.empty(x.shape, x.dtype)
        self._inputs[N][...] = x
        self.replay.run(N, partial(self._infer, network, self._inputs[N]))
        return self._outputs[N]

    def _infer(self, network: Any, x: Array) -> None:
        self._outputs[len(x)] = network._forward(x, train=False)

    def _begin_anew_if_changed(self, network: Any) -> None:
        parts = [*network.parts()]
        plain = [value for part in parts for value in _plain_attributes(part)]
        objects = [network.context, *parts, *(parameter.value for parameter in network.parameters())]
        objects += [value for part in parts for value in vars(part).values() if isinstance(value, Window)]
        same = len(objects) == len(self._objects) and all(map(is_, objects, self._objects))
        if not same or plain != self._plain:
            self._plain, self._objects, self._inputs, self._outputs = plain, objects, {}, {}
            self.replay = Replay(network.backend, state=network.arrays, owners=parts)


def _plain_attributes(part: Any) -> Iterator[Any]:
    """Yield the numbers and names that a layer computes with, and tuples of them; not the size of the last batch."""
    for name, value in vars(part).items():
        is_plain = isinstance(value, PLAIN) or (isinstance(value, tuple) and all(isinstance(v, PLAIN) for v in value))
        if is_plain and name != "_batch":
            yield value
