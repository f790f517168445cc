"""Data sets as arrays of bytes: readers of digits, MNIST, Fashion-MNIST, CIFAR-10 and folders of images."""

from __future__ import annotations

import gzip
import io
import math
import os
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, overload

import numpy as np

from gpucnn.backend.host_memory import available_memory
from gpucnn.data.download import SOURCES, Stream, cache_folder, fill_cache
from gpucnn.errors import InputError, OutOfMemoryError, unknown_name
from gpucnn.representation import html_table, shape_text

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["DATASETS", "Dataset", "Reader", "Split", "load"]

CHUNK_BYTES = 1 << 20
GZIP_MOST_EXPANSION = 1032  # deflate codes at most 258 bytes in 2 bits
TEST_EVERY = 5  # where the source has no split of its own, every fifth sample is for testing

CIFAR_TRAIN_FILES = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
CIFAR_TEST_FILE = "test_batch.bin"
CIFAR_SHAPE = (32, 32, 3)
CIFAR_RECORD_BYTES = 1 + math.prod(CIFAR_SHAPE)

MAX_PIXELS = 1 << 24  # of one image: a file of 100 bytes may unpack to any number

# Pillow reads many more formats, some through other programs; these are the ones that it decodes itself.
PILLOW_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")

DIGIT_NAMES = tuple("0123456789")
FASHION_NAMES = (
    *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
    *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
)
FOLDER_LAYOUT = "images as train/<class>/* and test/<class>/*, or as <class>/*"
CIFAR_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


@dataclass(frozen=True)
class Split:
    """One half of a data set: `images` (N, H, W, C) uint8, C-contiguous, and `labels` (N,) int32.

    It has a length, and places: one sample, (H, W, C) and its label, or a part of the split, which shares its memory.

    >>> train = load("digits").train
    >>> len(train)
    1438
    >>> image, label = train[0]
    >>> image.shape, label
    ((8, 8, 1), 0)
    >>> train[:100]
    <Split: 100 images of 8 x 8 x 1>
    >>> sum(label == 3 for image, label in train[:100])
    11
    """

    images: np.ndarray
    labels: np.ndarray

    def __len__(self) -> int:
        """Return the number of samples."""
        return len(self.images)

    @overload
    def __getitem__(self, place: int) -> tuple[np.ndarray, int]: ...

    @overload
    def __getitem__(self, place: slice) -> Split: ...

    def __getitem__(self, place: int | slice) -> tuple[np.ndarray, int] | Split:
        """Return the sample at a place, (image, label), or the split of some."""
        if isinstance(place, slice):
            return Split(np.ascontiguousarray(self.images[place]), self.labels[place])
        return self.images[place], int(self.labels[place])

    def __iter__(self) -> Iterator[tuple[np.ndarray, int]]:
        """Yield each sample, (image, label)."""
        return zip(self.images, self.labels.tolist(), strict=True)

    def __repr__(self) -> str:
        return f"<Split: {len(self):,} images of {shape_text(self.images.shape[1:])}>"


@dataclass(frozen=True)
class Dataset:
    """A data set in host memory; `image_range` is the largest pixel value that it can hold (16 or 255).

    >>> digits = load("digits")
    >>> digits.test, digits.class_names[:3], digits.image_range
    (<Split: 359 images of 8 x 8 x 1>, ('0', '1', '2'), 16)
    """

    name: str
    train: Split
    test: Split
    class_names: tuple[str, ...]
    image_range: int

    def __repr__(self) -> str:
        return f"<Dataset {self.name}: {self.classes} classes, {self.train!r} to train on, {self.test!r} to test>"

    def _repr_html_(self) -> str:
        """Return how many images each class has, as a table for notebooks."""
        counts = [np.bincount(split.labels, minlength=self.classes).tolist() for split in (self.train, self.test)]
        rows = [("class", "train", "test"), *zip(self.class_names, *counts, strict=True)]
        rows.append(("total", f"{len(self.train):,}", f"{len(self.test):,}"))
        return html_table(rows, totals=1, caption=f"{self.name}: images of {shape_text(self.image_shape)}")

    @property
    def classes(self) -> int:
        """The number of classes; labels are 0..classes-1."""
        return len(self.class_names)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(H, W, C) of one image."""
        H, W, C = self.train.images.shape[1:]
        return H, W, C


@dataclass(frozen=True)
class Reader:
    """How to read one kind of data set: `read` takes its folder, or None where the set is `embedded`.

    >>> DATASETS["cifar10"].description
    '60,000 photographs of ten kinds of things, 32x32 RGB'
    """

    description: str
    files: str  # what the folder has to hold, for error messages
    read: Callable[..., Dataset]
    embedded: bool = False


def load(
    name: str,
    data_dir: str | os.PathLike[str] | None = None,
    *,
    download: bool = False,
    cache_dir: str | os.PathLike[str] | None = None,
) -> Dataset:
    """Read a data set into host memory.

    >>> digits = load("digits")
    >>> digits.image_shape, digits.classes
    ((8, 8, 1), 10)

    Parameters
    ----------
    name
        One of `DATASETS`: "digits", "mnist", "fashion-mnist", "cifar10", "folder".
    data_dir
        The folder with the files; without it they come from the cache. "digits" is part of the library.
    download
        Fetch into the cache what it does not hold yet. Nothing is fetched otherwise.
    cache_dir
        The cache, with one folder per data set; by default $XDG_CACHE_HOME/gpucnn or ~/.cache/gpucnn.

    Raises
    ------
    InputError
        The name is unknown, files are missing or broken, or the download failed.
    OutOfMemoryError
        The images do not fit into memory.
    """
    if not isinstance(name, str) or name not in DATASETS:
        raise unknown_name("data set", name, DATASETS)
    reader = DATASETS[name]
    try:
        return reader.read(_folder(name, data_dir, download, cache_dir))
    except OutOfMemoryError:
        raise
    except MemoryError as error:
        raise OutOfMemoryError(
            f"{name}: does not fit into memory ({error}); train on fewer or smaller images"
        ) from error
    except OSError as error:
        raise InputError(
            f"{error.filename or data_dir or name}: cannot be read ({error.strerror or error}); "
            "expected readable files and folders: change its permissions or pass another --data-dir DIR"
        ) from error


def _folder(
    name: str, data_dir: str | os.PathLike[str] | None, download: bool, cache_dir: str | os.PathLike[str] | None
) -> Path | None:
    """Return the existing folder to read, its cache filled if that is asked for; None for an embedded set."""
    files = DATASETS[name].files
    if DATASETS[name].embedded:
        if data_dir is not None:
            raise InputError(f"{name} is part of the library, but data_dir is {data_dir}; leave it out")
        return None
    if data_dir is not None and download:
        raise InputError(f"{name}: expected data_dir or download, received both ({data_dir}); leave one out")
    if name not in SOURCES and data_dir is None:
        raise InputError(f"{name} cannot be found without its folder: pass --data-dir DIR with {files}")
    folder = cache_folder(name, cache_dir) if data_dir is None else Path(os.path.expanduser(data_dir))
    if download:
        fill_cache(name, folder)
    if not folder.is_dir():
        state = "is a file, not a folder" if folder.exists() else "does not exist"
        raise InputError(f"{folder} {state}: expected a folder with {files}; {_cure(name)}")
    return folder


def _cure(name: str) -> str:
    return "pass --data-dir DIR with these files" + (" or --download" if name in SOURCES else "")


def _find(name: str, folder: Path, candidates: tuple[str, ...]) -> Path:
    """Return the first of the candidates that is a file in `folder`."""
    for path in (folder / candidate for candidate in candidates):
        if path.is_file():
            return _inside(folder, path)
    raise InputError(f"{folder}: found no {' nor '.join(candidates)}, which {name} needs; {_cure(name)}")


def _inside(folder: Path, path: Path) -> Path:
    """Return the path, unless it is a link out of the folder: then somebody else's files would be read."""
    if path.is_symlink() and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder)):
        raise InputError(
            f"{path} is a link that leads out of {folder}: expected a data set that lies in its folder; copy there "
            "what it leads to, or pass the folder that holds both"
        )
    return path


def _check_labels(path: Path, labels: np.ndarray, classes: int) -> None:
    if labels.max() >= classes:
        at = int(np.argmax(labels >= classes))
        raise InputError(
            f"{path}: sample {at} has label {labels[at]}, expected labels 0..{classes - 1}; "
            "use a data set with these classes or fetch the file again"
        )


# --- digits -------------------------------------------------------------------------------------------------


def _read_digits(_: Path | None) -> Dataset:
    """Read the embedded 8x8 digits.

    Source: Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning
    Repository, 1998, https://doi.org/10.24432/C50P49, licence CC BY 4.0; what was changed is in README.md.
    """
    with np.load(Path(__file__).with_name("digits.npz"), allow_pickle=False) as arrays:
        images = arrays["images"][..., np.newaxis]  # (N, 8, 8, 1)
        labels = arrays["labels"].astype(np.int32)
    is_test = np.arange(len(labels)) % TEST_EVERY == TEST_EVERY - 1
    train = Split(images[~is_test], labels[~is_test])
    test = Split(images[is_test], labels[is_test])
    return Dataset("digits", train, test, DIGIT_NAMES, image_range=16)


# --- IDX: MNIST and Fashion-MNIST ---------------------------------------------------------------------------


def _read_idx_dataset(name: str, class_names: tuple[str, ...], folder: Path) -> Dataset:
    train = _read_idx_split(name, folder, "train", len(class_names))
    test = _read_idx_split(name, folder, "t10k", len(class_names))
    if train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{folder}: training images of {train.images.shape[1:3]} pixels but test images of "
            f"{test.images.shape[1:3]}; expected one size: put files of one data set there"
        )
    return Dataset(name, train, test, class_names, image_range=255)


def _read_idx_split(name: str, folder: Path, prefix: str, classes: int) -> Split:
    image_file = _find(name, folder, _idx_names(f"{prefix}-images", 3))
    label_file = _find(name, folder, _idx_names(f"{prefix}-labels", 1))
    labels = _read_idx(label_file, rank=1)
    _check_labels(label_file, labels, classes)
    images = _read_idx(image_file, rank=3)
    if len(images) != len(labels):
        raise InputError(
            f"{image_file}: {len(images)} images, but {len(labels)} labels in {label_file.name}; expected "
            "as many of each: fetch both files again"
        )
    return Split(images[..., np.newaxis], labels.astype(np.int32))  # (N, H, W, 1)


def _idx_names(stem: str, rank: int) -> tuple[str, ...]:
    return tuple(f"{stem}{dot}idx{rank}-ubyte{end}" for end in (".gz", "") for dot in "-.")


def _read_idx(path: Path, rank: int) -> np.ndarray:
    """Read an IDX file of unsigned bytes in `rank` dimensions, gzipped if its name says so.

    The format: two zero bytes, the type (8 is unsigned byte), the rank, each dimension as a big-endian 32-bit
    integer, then the values in C order. Source: http://yann.lecun.com/exdb/mnist/.
    """
    is_gzip = path.suffix == ".gz"
    try:
        with gzip.open(path, "rb") if is_gzip else path.open("rb") as stream:
            shape = _read_idx_header(path, stream, rank)
            expected = math.prod(shape)
            # The header may lie: it is compared with the size of the file before any memory is taken.
            _check_idx_size(path, expected, 4 + 4 * rank, is_gzip)
            values = _read_at_most(stream, expected + 1)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(
            f"{path}: expected a whole gzip file, but it is damaged or cut short ({error}); fetch it again, "
            "or if it is not compressed take .gz off its name"
        ) from error
    if len(values) != expected:
        received = f"more than {expected}" if len(values) > expected else len(values)
        raise _idx_size_error(path, expected, received)
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_idx_header(path: Path, stream: Stream, rank: int) -> tuple[int, ...]:
    """Read and check the header; return the dimensions."""
    expected = bytes((0, 0, 8, rank))
    header = stream.read(4 + 4 * rank)
    received = header[:4]
    if received[:2] != expected[:2] or len(received) < 4:
        problem = "is not an IDX file"
    elif received[2] != 8:
        problem = f"holds values of type 0x{received[2]:02x}, not of unsigned bytes (0x08)"
    elif received[3] != rank:
        problem = f"has {received[3]} dimensions, not {rank}"
    elif len(header) < 4 + 4 * rank:
        problem = f"ends after {len(header)} of the {4 + 4 * rank} bytes of its header"
    else:
        shape = tuple(int.from_bytes(header[i : i + 4], "big") for i in range(4, len(header), 4))
        if 0 not in shape:
            return shape
        problem = f"has the shape {shape}, with nothing in it"
    kind = "images" if rank == 3 else "labels"
    raise InputError(
        f"{path} {problem}: expected an IDX file of {kind}, which begins with {expected.hex(' ')}, received "
        f"{received.hex(' ') or 'nothing'}; put the right file there"
    )


def _check_idx_size(path: Path, expected: int, header_bytes: int, is_gzip: bool) -> None:
    size = path.stat().st_size
    if not is_gzip and size != header_bytes + expected:
        raise _idx_size_error(path, expected, size - header_bytes)
    if is_gzip and expected > GZIP_MOST_EXPANSION * size + 1024:
        raise _idx_size_error(path, expected, f"a gzip file of {size} bytes, too small for them")


def _idx_size_error(path: Path, expected: int, received: int | str) -> InputError:
    return InputError(f"{path}: its header promises {expected} bytes of values, received {received}; fetch it again")


def _read_at_most(stream: Stream, limit: int) -> bytearray:
    """Read up to `limit` bytes in chunks, so that memory grows with what is there, not with promises."""
    values = bytearray()
    while len(values) < limit and (chunk := stream.read(min(CHUNK_BYTES, limit - len(values)))):
        values += chunk
    return values


# --- CIFAR-10 -----------------------------------------------------------------------------------------------


def _read_cifar10(folder: Path) -> Dataset:
    """Read the binary version of CIFAR-10 (https://www.cs.toronto.edu/~kriz/cifar.html)."""
    if (folder / "cifar-10-batches-bin").is_dir():
        folder = _inside(folder, folder / "cifar-10-batches-bin")
    train_files = [_find("cifar10", folder, (file,)) for file in CIFAR_TRAIN_FILES]
    test_file = _find("cifar10", folder, (CIFAR_TEST_FILE,))
    names = _read_cifar_names(folder / "batches.meta.txt")
    train, test = _read_cifar_split(train_files), _read_cifar_split([test_file])
    return Dataset("cifar10", train, test, names, image_range=255)


def _read_cifar_split(paths: list[Path]) -> Split:
    """Read records of a label byte and 3072 pixel bytes: 1024 red, then green, then blue, each row by row."""
    counts = [_cifar_count(path) for path in paths]
    H, W, C = CIFAR_SHAPE
    images = np.empty((sum(counts), H, W, C), np.uint8)
    labels = np.empty(sum(counts), np.int32)
    first = 0
    for path, count in zip(paths, counts, strict=True):
        records = np.fromfile(path, np.uint8, count * CIFAR_RECORD_BYTES).reshape(count, CIFAR_RECORD_BYTES)
        _check_labels(path, records[:, 0], len(CIFAR_NAMES))
        labels[first : first + count] = records[:, 0]
        images[first : first + count] = records[:, 1:].reshape(count, C, H, W).transpose(0, 2, 3, 1)  # NHWC
        first += count
    return Split(images, labels)


def _cifar_count(path: Path) -> int:
    count, rest = divmod(path.stat().st_size, CIFAR_RECORD_BYTES)
    if rest or not count:
        raise InputError(
            f"{path}: expected a whole number of records of {CIFAR_RECORD_BYTES} bytes, at least one, received "
            f"{count} and {rest} bytes; fetch the binary version of CIFAR-10 again"
        )
    return count


def _read_cifar_names(path: Path) -> tuple[str, ...]:
    if not path.is_file():
        return CIFAR_NAMES
    with _inside(path.parent, path).open("rb") as stream:
        names = tuple(stream.read(4096).decode("ascii", "replace").split())
    if len(names) != len(CIFAR_NAMES):
        raise InputError(
            f"{path}: expected {len(CIFAR_NAMES)} class names, one per line, received {len(names)}; "
            "mend or remove the file"
        )
    return names


# --- a folder of images per class ---------------------------------------------------------------------------


Classes = dict[str, list[Path]]  # the image files of each class, both in sorted order


def _read_folder(folder: Path) -> Dataset:
    """Read train/<class>/* and test/<class>/*, or <class>/* with every fifth image of a class for testing.

    Hidden files are ignored, and so is what lies beside train and test. Links may lead to other places in the folder,
    not out of it. Images stay grey, (N, H, W, 1), when all of them are grey; otherwise all become RGB, (N, H, W, 3).
    """
    train, test = _list_halves(folder)
    paths = [path for half in (train, test) for files in half.values() for path in files]
    shape = _common_shape(paths)
    names = tuple(train)
    return Dataset("folder", _read_images(train, shape), _read_images(test, shape), names, image_range=255)


def _list_halves(folder: Path) -> tuple[Classes, Classes]:
    """Return the training and the test files of each class."""
    if (folder / "train").is_dir() and (folder / "test").is_dir():
        train, test = (_list_classes(folder, _inside(folder, folder / half)) for half in ("train", "test"))
        if one_sided := sorted(train.keys() ^ test.keys()):
            raise InputError(
                f"{folder}: expected the same classes in train and test, but only one of them has "
                f"{', '.join(one_sided)}; add the missing folder or remove the other"
            )
        return train, test
    classes = _list_classes(folder, folder)
    train, test = {}, {}
    for name, files in classes.items():
        test[name] = files[TEST_EVERY - 1 :: TEST_EVERY]
        train[name] = [path for i, path in enumerate(files) if i % TEST_EVERY != TEST_EVERY - 1]
    if not any(test.values()):
        raise InputError(
            f"{folder}: every {TEST_EVERY}th image of a class is for testing, but no class has {TEST_EVERY}; "
            "add images or make the folders train and test"
        )
    return train, test


def _list_classes(root: Path, folder: Path) -> Classes:
    """Return the files of each class folder, and refuse anything that is out of place, or a link out of `root`."""
    classes = {path.name: _visible(root, path) for path in _visible(root, folder) if _is_class_folder(path)}
    if not classes:
        raise InputError(f"{folder}: expected {FOLDER_LAYOUT}, received an empty folder; {_cure('folder')}")
    for name, files in classes.items():
        if not files:
            raise InputError(f"{folder / name}: expected images of a class, received none; add some or remove it")
        for path in files:
            if not path.is_file():
                raise _misplaced(path, "file")
    return classes


def _visible(root: Path, folder: Path) -> list[Path]:
    return sorted(_inside(root, path) for path in folder.iterdir() if not path.name.startswith("."))


def _is_class_folder(path: Path) -> bool:
    if not path.is_dir():
        raise _misplaced(path, "folder")
    return True


def _misplaced(path: Path, expected: str) -> InputError:
    return InputError(f"{path} is not a {expected}: expected {FOLDER_LAYOUT}; move it out of there")


def _import_pillow() -> ModuleType:
    try:
        from PIL import Image
    except ImportError as error:
        raise InputError("folder: reading images needs Pillow, which is not installed: pip install Pillow") from error
    return Image


class _File(io.BufferedReader):
    """A file from which nobody can ask for more than it holds: Python would take the memory first, and then read."""

    def __init__(self, path: Path):
        super().__init__(io.FileIO(path))
        self.size = os.fstat(self.fileno()).st_size

    def read(self, count: int | None = -1, /) -> bytes:
        return super().read(-1 if count is None else min(count, self.size))


@contextmanager
def _open_image(path: Path) -> Iterator[Image]:
    """Open an image of a known format; whatever Pillow finds wrong with it becomes an InputError."""
    pillow = _import_pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with _File(path) as file, pillow.open(file, formats=PILLOW_FORMATS) as image:
                if math.prod(image.size) > MAX_PIXELS:
                    raise ValueError(f"{image.width} x {image.height} pixels, more than {MAX_PIXELS:,}")
                yield image
    except Exception as error:  # Pillow's decoders raise nearly anything on a damaged file
        raise InputError(
            f"{path}: expected an image that Pillow can read as one of {', '.join(PILLOW_FORMATS)}, received "
            f"{type(error).__name__} ({error}); mend or remove the file"
        ) from error


def _common_shape(paths: list[Path]) -> tuple[int, int, int]:
    """Return (H, W, C) of all the images from their headers, before any of them is decoded."""
    first: tuple[int, int] = (0, 0)
    channels = 1
    for path in paths:
        with _open_image(path) as image:
            size, mode = image.size, image.mode
        if mode[0] in "IF":  # "I", "I;16", "F"
            raise InputError(f"{path}: expected 8 bits per channel, received Pillow's mode {mode}; convert it")
        if path is paths[0]:
            first = size
        if size != first:
            raise InputError(
                f"{path}: expected {first[0]}x{first[1]} pixels as in {paths[0]}, received {size[0]}x{size[1]}; "
                "bring all images to one size"
            )
        if mode not in ("1", "L"):
            channels = 3
    return first[1], first[0], channels


def _read_images(classes: Classes, shape: tuple[int, int, int]) -> Split:
    """Decode the images of all classes, class after class."""
    samples = [(path, label) for label, files in enumerate(classes.values()) for path in files]
    needed, free = len(samples) * math.prod(shape), available_memory()
    if free is not None and needed > free:
        raise OutOfMemoryError(f"folder: {len(samples):,} images take {needed:,} bytes, {free:,} are free; use fewer")
    images = np.empty((len(samples), *shape), np.uint8)
    for i, (path, _) in enumerate(samples):
        with _open_image(path) as image:
            # Through RGBA: Pillow warns when it drops the transparency of a palette directly.
            opaque = image.convert("RGBA") if "transparency" in image.info else image
            images[i] = np.asarray(opaque.convert("L" if shape[2] == 1 else "RGB")).reshape(shape)
    return Split(images, np.array([label for _, label in samples], np.int32))


# --- the list -----------------------------------------------------------------------------------------------

IDX_FILES = (
    "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-idx3-ubyte and t10k-labels-idx1-ubyte, "
    "each with or without .gz"
)

DATASETS: dict[str, Reader] = {
    "digits": Reader("1,797 handwritten digits, 8x8 grey, embedded", "", _read_digits, embedded=True),
    "mnist": Reader(
        "70,000 handwritten digits, 28x28 grey", IDX_FILES, partial(_read_idx_dataset, "mnist", DIGIT_NAMES)
    ),
    "fashion-mnist": Reader(
        "70,000 articles of clothing, 28x28 grey",
        IDX_FILES,
        partial(_read_idx_dataset, "fashion-mnist", FASHION_NAMES),
    ),
    "cifar10": Reader(
        "60,000 photographs of ten kinds of things, 32x32 RGB",
        f"{', '.join(CIFAR_TRAIN_FILES)} and {CIFAR_TEST_FILE}",
        _read_cifar10,
    ),
    "folder": Reader("your own images, one folder per class (needs Pillow)", FOLDER_LAYOUT, _read_folder),
}
