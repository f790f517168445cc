"""The CPU backend."""

from gpucnn.backend.cpu.parallel import CpuBackend

__all__ = ["CpuBackend"]
