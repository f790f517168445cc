"""Steps that repeat: on a device that can record them, each becomes one launch."""

from __future__ import annotations

from collections.abc import Callable

from gpucnn.backend import Backend
from gpucnn.errors import DeviceError

__all__ = ["Replay"]


class Replay:
    """Runs the steps of an epoch, which differ in the size of their batch alone; what else changes lies on the device.

    The first step of a size runs as it is written: it allocates what the later ones use. The second is recorded, and
    from then on replayed. So an array or a number that was exchanged counts from the next epoch on.

    Attributes
    ----------
    reason : why steps are launched kernel by kernel instead; empty if they are not, or if the device is no GPU
    """

    def __init__(self, backend: Backend, *, is_wanted: bool = True):
        self.backend = backend
        self.reason = "" if is_wanted else "as was asked for"
        self._recordings: dict[int, Callable[[], None]] = {}
        self._ready: set[int] = set()

    @property
    def recorded(self) -> int:
        """Number of batch sizes whose steps are replayed."""
        return len(self._recordings)

    def run(self, N: int, step: Callable[[], None]) -> None:
        """Run or replay the step for a batch of N."""
        if N not in self._recordings and N in self._ready and not self.reason:
            self._record(N, step)
        self._recordings.get(N, step)()
        self._ready.add(N)

    def _record(self, N: int, step: Callable[[], None]) -> None:
        try:
            recording = self.backend.record(step)
        except DeviceError as error:
            self.reason = str(error)
            return
        if recording is not None:
            self._recordings[N] = recording
