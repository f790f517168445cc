"""Work that repeats: on a device that can record it, each time becomes one launch."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from functools import partial
from operator import is_
from typing import Any

import numpy as np

from gpucnn.backend import Backend
from gpucnn.errors import DeviceError

__all__ = ["Inferences", "Replay"]

Array = Any
MAX_SIZES = 4  # of batches whose inferences are kept as recordings
NUMBERS = (bool, int, float, str, type(None), np.generic)
MISSING = object()


class Attributes:
    """The attributes of some objects as they are now, with what is in their containers and random generators."""

    def __init__(self, owners: Iterable[object]):
        self.owners = list(owners)
        self.values = [dict(vars(owner)) for owner in self.owners]
        values = [*self._all_values()]
        self._contents = [(value, value.copy()) for value in values if isinstance(value, (list, set, dict))]
        self._generators = [(v, v.bit_generator.state) for v in values if isinstance(v, np.random.Generator)]

    def _all_values(self) -> Iterator[Any]:
        for values in self.values:
            yield from values.values()

    def arrays(self, is_array: Callable[[Any], bool]) -> list[Array]:
        """Return the arrays among them, those in containers too."""
        found, waiting, seen = [], [*self._all_values()], set()
        for value in waiting:  # which grows meanwhile
            if is_array(value):
                found.append(value)
            elif id(value) in seen:
                continue
            elif isinstance(value, dict):
                waiting.extend(value.values())
            elif isinstance(value, (list, tuple, set)):
                waiting.extend(value)
            seen.add(id(value))
        return found

    def changed(self) -> Iterator[tuple[object, str, Any, Any]]:
        """Yield each attribute that is another object now: its owner, its name, what it was and what it is."""
        for owner, values in zip(self.owners, self.values, strict=True):
            now = vars(owner)
            for name in {**values, **now}:
                pair = values.get(name, MISSING), now.get(name, MISSING)
                if not is_(*pair):
                    yield owner, name, *pair

    def has_drawn(self) -> bool:
        """Whether a random number was drawn since."""
        return any(str(one.bit_generator.state) != str(state) for one, state in self._generators)

    def restore(self) -> None:
        """Bring all of them back."""
        for generator, state in self._generators:
            generator.bit_generator.state = state
        for owner, values in zip(self.owners, self.values, strict=True):
            vars(owner).update(values)
            for name in vars(owner).keys() - values.keys():
                del vars(owner)[name]
        for container, content in self._contents:
            container.clear()
            container.extend(content) if isinstance(container, list) else container.update(content)


class Replay:
    """Runs work of several kinds again and again; what changes from time to time lies on the device.

    The steps of an epoch, for example, which differ in the size of their batch alone. The first of a kind runs as it is
    written: it allocates what the later ones use, and compiles. The second is recorded, and from then on replayed. So
    an array or a number that was exchanged counts from the next `Replay` on.

    Work is not recorded where it would go on with what it found when it was: if it changes a number in Python, or puts
    another array into the place of one that it has read.

    Parameters
    ----------
    state : returns the arrays that the work carries from one time to the next, by name; it must not replace them
    owners : objects whose attributes it may use: arrays of now live as long as the recordings, and all are there again
        where nothing could be recorded

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
        self._recordings: dict[Hashable, Callable[[], None] | None] = {}
        self._replaced: dict[Hashable, list[tuple[object, str]]] = {}  # arrays in attributes, by each kind that has run
        self.recorded = 0

    def run(self, kind: Hashable, work: Callable[[], None]) -> None:
        """Run or replay work of a kind."""
        recording = self._recordings.get(kind)
        if recording is None and not self.reason and self.backend.records:
            if kind not in self._replaced:
                self._run_first(kind, work)
                return
            self._record(kind, work)
            recording = self._recordings.get(kind)
        (recording or work)()

    def _run_first(self, kind: Hashable, work: Callable[[], None]) -> None:
        before, owns = Attributes(self._owners), self.backend.owns
        work()
        self._replaced[kind] = [(owner, name) for owner, name, was, now in before.changed() if owns(was) and owns(now)]

    def _record(self, kind: Hashable, work: Callable[[], None]) -> None:
        before, carried = Attributes(self._owners), [*self._state().values()]
        replaced = [
            (owner, name)
            for owner, name in self._replaced[kind]
            if not any(vars(owner).get(name) is array for array in carried)
        ]
        try:
            for owner, name in replaced:  # it must write what it replaces before it reads it
                vars(owner).pop(name, None)
            recording = self.backend.record(work, state=self._state, keep=before.arrays(self.backend.owns))
            for owner, values in zip(before.owners, before.values, strict=True):  # what it did not write after all
                for name in values.keys() - vars(owner).keys():
                    vars(owner)[name] = values[name]
            if before.has_drawn():
                raise DeviceError(
                    "a step cannot become a graph: it draws a random number in Python, which would be the same in "
                    "every step; use Dropout, or draw what a whole epoch needs before"
                )
            for owner, name, was, now in before.changed():
                if isinstance(was, NUMBERS) and isinstance(now, NUMBERS) and was != now:
                    raise DeviceError(
                        f"a step cannot become a graph: it changes {type(owner).__name__}.{name} from {was!r} to "
                        f"{now!r}, which a graph would not see; keep it in an array, and write into that"
                    )
        except BaseException as error:  # of what was done nothing was computed
            before.restore()
            self.reason = _reason(error, replaced)
            if not self.reason:
                raise
        else:
            self._recordings[kind] = recording
            self.recorded += 1

    def forget(self, *kinds: Hashable) -> None:
        """Give back the memory of recordings of some kinds."""
        for kind in kinds:
            self._recordings.pop(kind, None)
            self._replaced.pop(kind, None)

    def close(self) -> None:
        """Give back all that it holds; `recorded` and `reason` stay."""
        self._recordings.clear()
        self._replaced.clear()
        self._state, self._owners = dict, ()


def _reason(error: BaseException, replaced: list[tuple[object, str]]) -> str:
    """Return why something cannot be recorded; empty if that is not what an error is about."""
    missed = error if isinstance(error, AttributeError) else error.__cause__
    for owner, name in replaced:
        if isinstance(missed, AttributeError) and missed.name == name and missed.obj is owner:
            return (
                f"a step cannot become a graph: it reads {type(owner).__name__}.{name} before it puts another array "
                f"there; write into the one that is there: {name}[...] = value"
            )
    return str(error) if isinstance(error, DeviceError) else ""


class Inferences:
    """Passes of a network without training, each a copy of the input and one launch from the third of a size on.

    They are recorded anew after an attribute of a layer, or what is in a list of one, was exchanged: a number, a
    layer, the array of a parameter or of what is carried along. Attributes that a pass itself replaces do not count;
    they are what a layer keeps for later. What changes within an array needs no new recording.
    """

    replay: Replay  # since the first run

    def __init__(self) -> None:
        self._arrays: dict[int, tuple[Array, Array | None]] = {}  # the input and the output, by their size
        self._kept: set[tuple[int, str]] = set()  # attributes that a pass has replaced, by their owner
        self._seen: list[tuple[dict[str, Any], str, Any]] = []
        self._contents: list[tuple[Any, list[Any]]] = []
        self._attributes: list[dict[str, Any]] = []
        self._count = 0  # of all attributes: a method that was replaced on a layer is one more

    def run(self, network: Any, x: Array) -> Array:
        """Return the network's output; the next run with so many samples overwrites it."""
        N = len(x)
        if not self._is_as_before():
            owners = [*network.parts(), *network.parameters()]
            self.replay = Replay(network.backend, state=network.arrays, owners=owners)
            self._arrays = {}
            self._look(owners, partial(self._run, network, x))
        else:
            self._run(network, x)
        return self._arrays[N][1]

    def _run(self, network: Any, x: Array) -> None:
        N = len(x)
        if N not in self._arrays:
            for size in [*self._arrays][: len(self._arrays) + 1 - MAX_SIZES]:
                self.replay.forget(size)
                del self._arrays[size]
            self._arrays[N] = network.backend.empty(x.shape, x.dtype), None
        held = self._arrays[N][0]
        held[...] = x
        self.replay.run(N, partial(self._infer, network, held))

    def _infer(self, network: Any, x: Array) -> None:
        self._arrays[len(x)] = x, network.forward(x, train=False)

    def _look(self, owners: list[object], work: Callable[[], None]) -> None:
        """Run a pass, and note all attributes but those that it replaces."""
        before = Attributes(owners)
        work()
        self._kept |= {(id(owner), name) for owner, name, _, _ in before.changed()}
        self._seen = [
            (vars(owner), name, value)
            for owner in owners
            for name, value in vars(owner).items()
            if (id(owner), name) not in self._kept
        ]
        containers = [value for _, _, value in self._seen if isinstance(value, (list, tuple, set, dict))]
        self._contents = [(value, _items(value)) for value in containers]
        self._attributes = [vars(owner) for owner in owners]
        self._count = sum(map(len, self._attributes))

    def _is_as_before(self) -> bool:
        return (
            bool(self._seen)
            and all(attributes.get(name, MISSING) is value for attributes, name, value in self._seen)
            and all(_are(_items(container), items) for container, items in self._contents)
            and self._count == sum(map(len, self._attributes))
        )


def _items(container: Any) -> list[Any]:
    return [*container.keys(), *container.values()] if isinstance(container, dict) else [*container]


def _are(items: list[Any], others: list[Any]) -> bool:
    """Whether two lists hold the same objects."""
    return len(items) == len(others) and all(map(is_, items, others))
