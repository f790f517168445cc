"""The CPU backend: NumPy, on all cores.

`serial` has the operations on one thread, a file for each topic; `parallel` shares them among threads.
"""

from gpucnn.backend.cpu.parallel import CpuBackend

__all__ = ["CpuBackend"]
