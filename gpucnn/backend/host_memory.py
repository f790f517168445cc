"""The memory of the machine that this runs on."""

from __future__ import annotations

import contextlib
import re
from pathlib import Path

__all__ = ["available_memory"]

MEMORY = Path("/proc/meminfo")
GROUP = Path("/sys/fs/cgroup")  # of a container, which may have less than the machine


def available_memory() -> int | None:
    """Return how many bytes new arrays can take without swapping, or None where the system does not say."""
    found = []
    with contextlib.suppress(OSError, TypeError):
        found.append(int(re.search(r"^MemAvailable:\s+(\d+) kB$", MEMORY.read_text(), re.MULTILINE)[1]) << 10)
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        limit, used = (int((GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        found.append(max(0, limit - used))
    return min(found, default=None)
