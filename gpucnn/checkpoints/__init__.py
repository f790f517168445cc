"""Runs that can stop at any moment and go on bit for bit: what is kept, where, and how it is found again."""

from gpucnn.checkpoints.file import DamagedError, read, write
from gpucnn.checkpoints.folder import Checkpoint, Checkpoints
from gpucnn.checkpoints.run import Run

__all__ = ["Checkpoint", "Checkpoints", "DamagedError", "Run", "read", "write"]
