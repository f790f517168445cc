"""One checkpoint, one file: named arrays and a description in JSON, in the safetensors format, with a checksum.

Nothing in it is code. It is written beside its place and then moved there, so that under its name there is always a
whole file, whenever the machine stops.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from gpucnn.errors import InputError
from gpucnn.training.checkpoints.describe import is_plain

__all__ = ["SUFFIX", "TEMPORARY", "DamagedError", "read", "write"]

SUFFIX, TEMPORARY = ".safetensors", ".part"
ABOUT, CHECKSUM = "gpucnn", "sha256"  # the metadata of the file
DTYPES = {"F32": "float32", "F64": "float64", "I32": "int32", "I64": "int64"}
KINDS = {dtype: kind for kind, dtype in DTYPES.items()}
ALIGNMENT = 8  # bytes, of the first array


class DamagedError(InputError):
    """A file is not a checkpoint, or not what was written; the message says what is wrong with it.

    >>> from gpucnn.errors import InputError
    >>> issubclass(DamagedError, InputError)
    True
    """


def write(path: Path, arrays: Mapping[str, np.ndarray], about: Mapping[str, Any]) -> None:
    """Write a checkpoint, whole or not at all; it is on the disk when this returns.

    Arrays are of float32, float64, int32 or int64, and `about` is plain JSON. Raises `OSError` if it cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(Path(folder) / "mine.safetensors", {"w": np.ones(3, np.float32)}, {"step": 7})
    ...     [path.name for path in Path(folder).iterdir()]
    ['mine.safetensors']
    """
    text = json.dumps(about, sort_keys=True, allow_nan=False)
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    metadata = {ABOUT: text, CHECKSUM: checksum(arrays, text)}
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        with contextlib.suppress(OSError):
            temporary.unlink()
        with open(temporary, "xb") as file:  # never through a link that lies there
            file.write(header(arrays, metadata))
            for array in arrays.values():
                file.write(array.reshape(-1).view(np.uint8).data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def header(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """Return what a safetensors file begins with: the length of its table of contents, and the table, in JSON.

    The package safetensors would write the file too, but from two copies of all arrays, which took half of the time.
    """
    contents: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        kind = KINDS[array.dtype.name]
        contents[name] = {"dtype": kind, "shape": array.shape, "data_offsets": (start, end)}
    text = json.dumps(contents).encode()
    text += b" " * (-len(text) % ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def sync_folder(folder: Path) -> None:
    """Flush the names in a folder to the disk, where the system can be asked for that."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Return the arrays and the description of a checkpoint, as they were written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "mine.safetensors"
    ...     write(path, {"w": np.ones(3, np.float32)}, {"step": 7})
    ...     read(path)
    ({'w': array([1., 1., 1.], dtype=float32)}, {'step': 7})

    Raises
    ------
    DamagedError
        Where anything in it is not as it was written.
    OSError
        Where the file cannot be read at all.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise DamagedError(f"{path}: is not a checkpoint: not a regular file")
    try:
        with safetensors.safe_open(path, "numpy") as file:
            metadata = file.metadata() or {}
            kinds = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118
            arrays = {name: file.get_tensor(name) for name, kind in kinds.items() if kind in DTYPES}
    except (safetensors.SafetensorError, ValueError) as error:  # NumPy refuses what has more than 64 axes
        raise DamagedError(f"{path}: is damaged, or not a checkpoint ({error})") from error
    if unknown := set(kinds.values()) - DTYPES.keys():
        raise DamagedError(f"{path}: is not a checkpoint of gpucnn: it holds {', '.join(sorted(unknown))}")
    if ABOUT not in metadata or CHECKSUM not in metadata:
        raise DamagedError(f"{path}: is not a checkpoint of gpucnn: it has no description")
    if checksum(arrays, metadata[ABOUT]) != metadata[CHECKSUM]:
        raise DamagedError(f"{path}: is damaged: its checksum does not match")
    try:
        about = json.loads(metadata[ABOUT])
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"{path}: is not a checkpoint of gpucnn: its description is not JSON") from error
    if not isinstance(about, dict):
        raise DamagedError(f"{path}: is not a checkpoint of gpucnn: its description is not a JSON object")
    if not is_plain(about):
        raise DamagedError(
            f"{path}: is not a checkpoint of gpucnn: its description has NaN, infinity or too deep lists"
        )
    return arrays, about


def checksum(arrays: Mapping[str, np.ndarray], text: str) -> str:
    """Return the SHA-256 of a description and of all arrays, with their names, dtypes and shapes."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(f"\n{name} {array.dtype.str} {array.shape}\n".encode())
        digest.update(array.reshape(-1).view(np.uint8).data)
    return digest.hexdigest()
