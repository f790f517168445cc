"""Runs that can stop at any moment and resume bit for bit: what is kept, where, and how it is found again."""

from gpucnn.training.checkpoints.file import DamagedError, read, write
from gpucnn.training.checkpoints.folder import Checkpoint, Checkpoints
from gpucnn.training.checkpoints.run import Run
from gpucnn.training.checkpoints.saver import Saver, Stopped

__all__ = ["Checkpoint", "Checkpoints", "DamagedError", "Run", "Saver", "Stopped", "read", "write"]
