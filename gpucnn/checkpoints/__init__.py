"""Runs that can stop at any moment and go on bit for bit: what is kept, where, and how it is found again."""

from gpucnn.checkpoints.file import DamagedError, read, write
from gpucnn.checkpoints.folder import Checkpoint, Checkpoints
from gpucnn.checkpoints.run import Run
from gpucnn.checkpoints.saver import Saver, Stopped

__all__ = ["Checkpoint", "Checkpoints", "DamagedError", "Run", "Saver", "Stopped", "read", "write"]
