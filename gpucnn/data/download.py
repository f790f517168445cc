"""The cache of downloaded data sets: mirrors, checksums and the transfer; nothing is fetched unless asked."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO

from gpucnn.errors import InputError

__all__ = ["SOURCES", "RemoteFile", "Stream", "cache_folder", "fetch", "fill_cache", "open_url"]

CHUNK_BYTES = 1 << 20
TIMEOUT_SECONDS = 30
MANIFEST = "checksums.md5"  # what an unpacked archive left in the cache, in the format of md5sum

Stream = IO[bytes] | gzip.GzipFile  # what bytes are read from
OpenUrl = Callable[[str], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True)
class RemoteFile:
    """A file of a data set, where to fetch it, and how to know that it is the right one.

    >>> [file.name for file in SOURCES["cifar10"]]
    ['cifar-10-binary.tar.gz']
    """

    name: str
    mirrors: tuple[str, ...]  # full addresses, tried in order
    max_bytes: int  # the most that a mirror may send
    md5: str
    content_bytes: int | None = None  # the number of uncompressed bytes, where `md5` is of those
    members: tuple[str, ...] = ()  # a tar archive: the regular files to take out of it
    member_bytes: int = 0  # the most that one member may hold


class _RejectedError(Exception):
    """A mirror sent something other than the expected file."""


_TRANSFER_ERRORS = (
    *(OSError, ValueError, http.client.HTTPException),  # the connection, the address, the protocol
    *(EOFError, zlib.error, tarfile.TarError, _RejectedError),  # what was received
)


def _idx_files(mirrors: tuple[str, ...], rows: tuple[tuple[Any, ...], ...]) -> tuple[RemoteFile, ...]:
    """Build the four files of an IDX data set from rows (name, max_bytes, md5, content_bytes)."""
    return tuple(RemoteFile(name, tuple(mirror + name for mirror in mirrors), *rest) for name, *rest in rows)


SOURCES: dict[str, tuple[RemoteFile, ...]] = {
    # MD5 of the uncompressed bytes: the mirrors may compress them differently.
    "mnist": _idx_files(
        (
            "https://ossci-datasets.s3.amazonaws.com/mnist/",
            "https://storage.googleapis.com/cvdf-datasets/mnist/",
        ),
        (
            ("train-images-idx3-ubyte.gz", 9_912_422, "6bbc9ace898e44ae57da46a324031adb", 47_040_016),
            ("train-labels-idx1-ubyte.gz", 28_881, "a25bea736e30d166cdddb491f175f624", 60_008),
            ("t10k-images-idx3-ubyte.gz", 1_648_877, "2646ac647ad5339dbf082846283269ea", 7_840_016),
            ("t10k-labels-idx1-ubyte.gz", 4_542, "27ae3e4e09519cfbb04c329615203637", 10_008),
        ),
    ),
    # MD5 of the compressed files: these are the ones that the authors publish.
    "fashion-mnist": _idx_files(
        (
            "https://github.com/zalandoresearch/fashion-mnist/raw/master/data/fashion/",
            "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
        ),
        (
            ("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d", None),
            ("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe", None),
            ("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79", None),
            ("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310", None),
        ),
    ),
    "cifar10": (
        RemoteFile(
            "cifar-10-binary.tar.gz",
            ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
            170_052_171,
            "c32a1d4ab5d03f1284b67883e8d87530",
            members=tuple(
                f"cifar-10-batches-bin/{name}"
                for name in (
                    *(f"data_batch_{i}.bin" for i in range(1, 6)),
                    *("test_batch.bin", "batches.meta.txt"),
                )
            ),
            member_bytes=30_730_000,
        ),
    ),
}


def cache_folder(name: str, cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """Return the folder of `name` in `cache_dir`, by default $XDG_CACHE_HOME/gpucnn or ~/.cache/gpucnn.

    >>> cache_folder("mnist", "cache").as_posix()
    'cache/mnist'
    """
    if cache_dir is None:
        cache_dir = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "gpucnn"
    return Path(os.path.expanduser(cache_dir)) / name  # "~somebody" unknown stays, and is not found


def open_url(url: str) -> AbstractContextManager[BinaryIO]:
    """Open an address for reading: what `fetch` uses unless it is given another function."""
    return urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS)


def fill_cache(name: str, folder: Path, open_url: OpenUrl = open_url) -> None:
    """Fetch the files of the data set `name` that `folder` does not hold with the right checksum.

    Raises
    ------
    InputError
        The folder cannot be written, or no mirror sent the right file.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file in SOURCES[name]:
            if not _is_present(file, folder):
                fetch(file, folder, open_url)
    except OSError as error:
        raise InputError(
            f"{folder}: cannot keep the download of {name} there ({error}); make this folder writable, "
            "or set XDG_CACHE_HOME to another"
        ) from error


def fetch(file: RemoteFile, folder: Path, open_url: OpenUrl = open_url) -> None:
    """Bring `file` into `folder` from the first mirror that sends the right bytes.

    They go to a temporary file beside the final one, which is replaced only after the checksum agrees: an
    interrupted transfer leaves nothing under the final name.
    """
    failures = []
    for url in file.mirrors:
        with _temporary_file(folder) as part:
            try:
                _transfer(url, part, file.max_bytes, open_url)
                _verify(part, file)
                _unpack(part, file, folder)
                return
            except _TRANSFER_ERRORS as error:
                failures.append(f"{url} ({error or type(error).__name__})")
    wanted = "its unpacked files" if file.members else "it"
    raise InputError(
        f"{file.name} could not be downloaded from {', nor from '.join(failures)}; fetch it by other means, "
        f"put {wanted} into {folder} and try again without --download, or pass --data-dir DIR"
    )


@contextmanager
def _temporary_file(folder: Path) -> Iterator[Path]:
    handle, name = tempfile.mkstemp(prefix=".download-", suffix=".part", dir=folder)
    os.close(handle)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)  # gone already where it was moved to its final name


def _transfer(url: str, part: Path, max_bytes: int, open_url: OpenUrl) -> None:
    """Write what `url` sends to `part`, and stop as soon as it is too much."""
    received = 0
    with open_url(url) as response, part.open("wb") as target:
        for chunk in _chunks(response):
            received += len(chunk)
            if received > max_bytes:
                raise _RejectedError(f"sent more than the expected {max_bytes} bytes")
            target.write(chunk)
        promised = getattr(response, "headers", {}).get("Content-Length", received)
    # A connection that breaks looks like the end of the file to read(): only the promise tells.
    if received != int(promised):
        raise _RejectedError(f"broke off after {received} of {promised} bytes")


def _verify(path: Path, file: RemoteFile) -> None:
    received = _md5(path, file)
    if received != file.md5:
        raise _RejectedError(f"sent the MD5 {received} instead of {file.md5}")


def _md5(path: Path, file: RemoteFile) -> str:
    """Return the MD5 of the file, or of its uncompressed bytes where the expected one is of those."""
    if file.content_bytes is None:
        with path.open("rb") as stream:
            return _stream_md5(stream, file.max_bytes)
    with gzip.open(path, "rb") as stream:
        return _stream_md5(stream, file.content_bytes)


def _stream_md5(stream: Stream, expected_bytes: int) -> str:
    """Return the MD5 of the stream; one byte past the expected is enough to make it differ."""
    digest = hashlib.md5(usedforsecurity=False)
    left = expected_bytes + 1
    while chunk := stream.read(min(CHUNK_BYTES, left)):
        digest.update(chunk)
        left -= len(chunk)
    return digest.hexdigest()


def _unpack(part: Path, file: RemoteFile, folder: Path) -> None:
    """Move a verified file to its final name, or the expected members of an archive to theirs."""
    if not file.members:
        os.replace(part, folder / file.name)
        return
    sums = {}
    with tarfile.open(part, "r:gz") as archive:
        for member in archive:
            if member.name not in file.members:
                continue
            stream = archive.extractfile(member) if member.isreg() else None
            if stream is None or member.size > file.member_bytes:
                raise _RejectedError(f"{member.name} is not a regular file of at most {file.member_bytes} bytes")
            name = _basename(member.name)
            sums[name] = _replace(folder / name, _chunks(stream))
    missing = [name for name in file.members if _basename(name) not in sums]
    if missing:
        raise _RejectedError(f"no {', '.join(missing)} in the archive")
    # Written last: an unpacking that was interrupted leaves no list, and is done again.
    _replace(folder / MANIFEST, (f"{md5}  {name}\n".encode() for name, md5 in sums.items()))


def _basename(member: str) -> str:
    return member.rpartition("/")[2]


def _chunks(stream: Stream) -> Iterator[bytes]:
    while chunk := stream.read(CHUNK_BYTES):
        yield chunk


def _replace(path: Path, chunks: Iterable[bytes]) -> str:
    """Write a file in one step, so that nobody sees half of it, and return its MD5."""
    digest = hashlib.md5(usedforsecurity=False)
    with _temporary_file(path.parent) as part:
        with part.open("wb") as target:
            for chunk in chunks:
                digest.update(chunk)
                target.write(chunk)
        os.replace(part, path)
    return digest.hexdigest()


def _is_present(file: RemoteFile, folder: Path) -> bool:
    """Return whether `folder` holds the file, or what was unpacked of it, with the right checksum."""
    try:
        if not file.members:
            return _md5(folder / file.name, file) == file.md5
        lines = (folder / MANIFEST).read_text().splitlines()
        sums = {name: md5 for md5, name in (line.split() for line in lines)}
        names = [_basename(member) for member in file.members]
        return all(_member_md5(folder / name, file) == sums.get(name) for name in names)
    except (OSError, EOFError, ValueError, zlib.error):  # missing or damaged
        return False


def _member_md5(path: Path, file: RemoteFile) -> str:
    with path.open("rb") as stream:
        return _stream_md5(stream, file.member_bytes)
