"""The readers of data sets: what they return, and one clear sentence for each thing that can be wrong."""

from __future__ import annotations

import gzip
import hashlib
import struct
import sys
import tracemalloc
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    CIFAR_FILES,
    PIXELS,
    ROOT,
    TEST_IMAGES,
    TEST_LABELS,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    assert_split,
    cifar_bytes,
    idx_bytes,
    mnist_dir,
    random_bytes,
    refusal,
    write_cifar,
    write_mnist,
)

from gpucnn.data.datasets import DATASETS, load
from gpucnn.data.download import SOURCES, cache_folder

# --- names and folders --------------------------------------------------------------------------------------


def test_unknown_name_gives_the_nearest():
    assert "did you mean 'mnist'" in refusal("mnits", None)
    assert "unknown data set None" in refusal(None, None)


def test_every_data_set_is_described():
    assert list(DATASETS) == ["digits", "mnist", "fashion-mnist", "cifar10", "folder"]
    assert all(reader.description for reader in DATASETS.values())


@pytest.mark.parametrize("name", ["mnist", "cifar10", "folder"])
def test_missing_data_dir(tmp_path, name):
    message = refusal(name, tmp_path / "nowhere")
    assert f"{tmp_path / 'nowhere'} does not exist" in message and "--data-dir DIR" in message
    assert {"mnist": "train-labels-idx1-ubyte", "cifar10": "data_batch_1.bin", "folder": "<class>"}[name] in message


@pytest.mark.parametrize("name", ["mnist", "cifar10", "folder"])
def test_data_dir_is_a_file(tmp_path, name):
    (tmp_path / "file").write_bytes(b"")
    assert f"{tmp_path / 'file'} is a file, not a folder" in refusal(name, tmp_path / "file")


def test_nothing_is_fetched_unasked(tmp_path, monkeypatch):
    monkeypatch.setattr("urllib.request.urlopen", lambda *_, **__: pytest.fail("the network was used"))
    message = refusal("mnist", None, cache_dir=tmp_path)
    assert f"{tmp_path / 'mnist'} does not exist" in message
    assert TRAIN_IMAGES in message and "--data-dir DIR" in message and "--download" in message
    assert not (tmp_path / "mnist").exists()


def test_data_dir_and_download_exclude_each_other(tmp_path):
    assert "leave one out" in refusal("mnist", tmp_path, download=True)


def test_folder_needs_its_data_dir():
    message = refusal("folder", None, download=True)
    assert "--data-dir DIR" in message and "--download" not in message


def test_cache_folder_honours_xdg_cache_home(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("mnist") == tmp_path / "xdg" / "gpucnn" / "mnist"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    assert cache_folder("mnist") == tmp_path / ".cache" / "gpucnn" / "mnist"
    assert cache_folder("mnist", "~/mine") == tmp_path / "mine" / "mnist"


def test_cache_is_read_without_data_dir(tmp_path):
    (tmp_path / "mnist").mkdir()
    write_mnist(tmp_path / "mnist")
    assert load("mnist", cache_dir=tmp_path).train.images.shape == (6, 5, 4, 1)


def test_unreadable_file_is_refused(tmp_path, monkeypatch):
    write_mnist(tmp_path)

    def refuse(path, *_):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    message = refusal("mnist", tmp_path)
    assert str(tmp_path / TRAIN_LABELS) in message and "Permission denied" in message


# --- digits -------------------------------------------------------------------------------------------------


def test_digits_have_the_documented_shapes():
    digits = load("digits")
    assert digits.train.images.shape == (1438, 8, 8, 1) and digits.test.images.shape == (359, 8, 8, 1)
    assert digits.image_shape == (8, 8, 1) and digits.classes == 10 and digits.class_names[3] == "3"
    assert digits.image_range == digits.train.images.max() == 16
    assert (np.bincount(digits.test.labels, minlength=10) > 20).all()


def test_digits_equal_those_of_scikit_learn():
    source = pytest.importorskip("sklearn.datasets").load_digits()
    digits = load("digits")
    is_test = np.array([i % 5 == 4 for i in range(1797)])
    assert_split(digits.train, source.images[~is_test][..., np.newaxis], source.target[~is_test])
    assert_split(digits.test, source.images[is_test][..., np.newaxis], source.target[is_test])


def test_script_writes_the_embedded_digits(tmp_path):
    pytest.importorskip("sklearn")
    from generate.digits import write_digits

    write_digits(tmp_path / "digits.npz")
    with np.load(tmp_path / "digits.npz") as made, np.load(ROOT / "gpucnn" / "data" / "digits.npz") as kept:
        assert sorted(made) == sorted(kept) == ["images", "labels"]
        for key in made:
            assert made[key].dtype == kept[key].dtype == np.uint8
            np.testing.assert_array_equal(made[key], kept[key])


def test_digits_take_no_data_dir(tmp_path):
    assert "part of the library" in refusal("digits", tmp_path)


# --- IDX ----------------------------------------------------------------------------------------------------


@pytest.fixture
def mnist(tmp_path):
    """A folder with a small, whole data set in raw IDX files."""
    write_mnist(tmp_path)
    return tmp_path


@pytest.mark.parametrize("name", ["mnist", "fashion-mnist"])
@pytest.mark.parametrize("dot", "-.")
@pytest.mark.parametrize("end", ["", ".gz"])
def test_idx_files_are_read(tmp_path, name, dot, end):
    arrays = write_mnist(tmp_path, end)
    for path in list(tmp_path.iterdir()):
        path.rename(tmp_path / path.name.replace("-idx", f"{dot}idx"))
    data = load(name, str(tmp_path))
    assert data.name == name and data.image_range == 255 and data.image_shape == (5, 4, 1) and data.classes == 10
    assert_split(data.train, arrays[TRAIN_IMAGES][..., np.newaxis], arrays[TRAIN_LABELS])
    assert_split(data.test, arrays[TEST_IMAGES][..., np.newaxis], arrays[TEST_LABELS])


def test_class_names_are_those_of_the_data_set(mnist):
    assert load("mnist", mnist).class_names == tuple("0123456789")
    assert load("fashion-mnist", mnist).class_names[9] == "Ankle boot"


def test_missing_idx_file(mnist):
    (mnist / TEST_LABELS).unlink()
    message = refusal("mnist", mnist)
    assert str(mnist) in message and f"{TEST_LABELS}.gz" in message and "--download" in message


def spoil(path: Path, content: bytes, zipped: bool) -> Path:
    """Put `content` in the place of a file, gzipped or raw; return its path."""
    path.unlink()
    path = path.with_name(path.name + ".gz") if zipped else path
    path.write_bytes(gzip.compress(content) if zipped else content)
    return path


ZIPPED = pytest.mark.parametrize("zipped", [False, True], ids=["raw", "gzip"])


@ZIPPED
@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"GIF89a" + bytes(100), ["is not an IDX file", "47 49 46 38", "00 00 08 03"]),
        (b"", ["is not an IDX file", "received nothing"]),
        (idx_bytes(PIXELS)[:3], ["is not an IDX file", "received 00 00 08"]),
        (idx_bytes(PIXELS, magic=b"\0\0\x0d\3"), ["type 0x0d", "unsigned bytes"]),
        (idx_bytes(PIXELS.reshape(6, 20)), ["has 2 dimensions, not 3"]),
        (idx_bytes(PIXELS[:, 0, 0]), ["has 1 dimensions, not 3"]),
        (idx_bytes(PIXELS)[:11], ["ends after 11 of the 16 bytes of its header"]),
        (idx_bytes(PIXELS[:0]), ["shape (0, 5, 4)", "nothing in it"]),
        (idx_bytes(PIXELS[:, :0]), ["shape (6, 0, 4)", "nothing in it"]),
        (idx_bytes(PIXELS)[:-1], ["promises 120 bytes", "received 119"]),
        (idx_bytes(PIXELS)[:16], ["promises 120 bytes", "received 0"]),
    ],
    ids=[
        *("magic", "empty", "short", "type", "rank2", "rank1", "header", "no-images", "no-rows"),
        *("too-short", "no-values"),
    ],
)
def test_broken_idx_images(mnist, content, expected, zipped):
    path = spoil(mnist / TRAIN_IMAGES, content, zipped)
    message = refusal("mnist", mnist)
    assert str(path) in message
    for part in expected:
        assert part in message


@ZIPPED
def test_trailing_bytes(mnist, zipped):
    path = spoil(mnist / TRAIN_IMAGES, idx_bytes(PIXELS) + b"xy", zipped)
    message = refusal("mnist", mnist)
    assert str(path) in message
    assert f"promises 120 bytes of values, received {'more than 120' if zipped else 122}" in message


@ZIPPED
def test_zero_labels(mnist, zipped):
    path = spoil(mnist / TEST_LABELS, idx_bytes(PIXELS[:0, 0, 0]), zipped)
    message = refusal("mnist", mnist)
    assert f"{path} has the shape (0,)" in message and "labels" in message


def test_label_outside_the_classes(mnist):
    spoil(mnist / TRAIN_LABELS, idx_bytes(np.array([0, 9, 10, 1, 255, 2], np.uint8)), zipped=False)
    assert "sample 2 has label 10, expected labels 0..9" in refusal("mnist", mnist)


def test_counts_of_images_and_labels_differ(mnist):
    spoil(mnist / TEST_LABELS, idx_bytes(np.zeros(5, np.uint8)), zipped=False)
    message = refusal("mnist", mnist)
    assert f"{mnist / TEST_IMAGES}: 4 images, but 5 labels in {TEST_LABELS}" in message


def test_sizes_of_train_and_test_images_differ(mnist):
    spoil(mnist / TEST_IMAGES, idx_bytes(random_bytes(4, 4, 5)), zipped=False)
    assert "(5, 4)" in refusal("mnist", mnist) and "(4, 5)" in refusal("mnist", mnist)


def damaged_gzip(kind: str) -> bytes:
    whole = gzip.compress(idx_bytes(PIXELS))
    return {
        "cut in the values": whole[:60],
        "cut in the trailer": whole[:-3],
        "wrong CRC": whole[:-8] + bytes((whole[-8] ^ 1,)) + whole[-7:],
        "not gzip": idx_bytes(PIXELS),
        "damaged deflate": whole[:10] + b"\xff\xff\xff" + whole[13:],
        "rubbish after it": whole + b"rubbish",
    }[kind]


@pytest.mark.parametrize(
    "kind",
    [
        "cut in the values",
        "cut in the trailer",
        "wrong CRC",
        "not gzip",
        "damaged deflate",
        "rubbish after it",
    ],
)
def test_damaged_gzip(mnist, kind):
    (mnist / TRAIN_IMAGES).unlink()
    path = mnist / f"{TRAIN_IMAGES}.gz"
    path.write_bytes(damaged_gzip(kind))
    message = refusal("mnist", mnist)
    assert f"{path}: expected a whole gzip file" in message and "fetch it again" in message


@ZIPPED
def test_lying_header_takes_no_memory(mnist, zipped):
    shape = (4_000_000_000, 50, 50)  # 10^13 bytes
    path = spoil(mnist / TRAIN_IMAGES, idx_bytes(PIXELS, shape), zipped)
    tracemalloc.start()
    try:
        message = refusal("mnist", mnist)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in message and "10000000000000" in message
    assert peak < 1 << 20


def test_plausible_lie_takes_memory_for_what_is_there_only(mnist):
    content = idx_bytes(PIXELS, (1000, 1000, 1000)) + bytes(3_000_000)  # promises 10^9, holds 3 * 10^6
    stored = gzip.compress(random_bytes(2_000_000).tobytes(), mtime=0)
    path = spoil(mnist / TRAIN_IMAGES, content + stored, zipped=True)
    assert 1032 * path.stat().st_size > 10**9  # so the size of the file alone does not refute it
    tracemalloc.start()
    try:
        message = refusal("mnist", mnist)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "promises 1000000000 bytes" in message
    assert peak < 20_000_000


def test_bomb_is_read_only_as_far_as_its_header_promises(mnist):
    bomb = idx_bytes(PIXELS) + bytes(300_000_000)
    path = spoil(mnist / TRAIN_IMAGES, bomb, zipped=True)
    del bomb
    tracemalloc.start()
    try:
        message = refusal("mnist", mnist)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert f"{path}: its header promises 120 bytes of values, received more than 120" in message
    assert peak < 2_000_000


def test_real_mnist():
    data = load("mnist", mnist_dir())
    assert data.train.images.shape == (60000, 28, 28, 1) and data.test.images.shape == (10000, 28, 28, 1)
    assert np.bincount(data.train.labels).tolist() == [
        5923,
        6742,
        5958,
        6131,
        5842,
        5421,
        5918,
        6265,
        5851,
        5949,
    ]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]


def test_real_mnist_has_the_checksums_of_the_downloads():
    folder = mnist_dir()
    for file in SOURCES["mnist"]:
        with gzip.open(folder / file.name) as stream:
            content = stream.read()
        assert len(content) == file.content_bytes
        assert hashlib.md5(content).hexdigest() == file.md5


# --- CIFAR-10 -----------------------------------------------------------------------------------------------


@pytest.fixture
def cifar(tmp_path):
    """A folder with a small, whole CIFAR-10."""
    write_cifar(tmp_path)
    return tmp_path


@pytest.mark.parametrize("subfolder", ["", "cifar-10-batches-bin"])
def test_cifar_is_read_as_nhwc(tmp_path, subfolder):
    written = write_cifar(tmp_path / subfolder)
    data = load("cifar10", tmp_path)
    images, labels = (np.concatenate(arrays) for arrays in zip(*(written[f] for f in CIFAR_FILES[:5]), strict=True))
    assert_split(data.train, images, labels)
    assert_split(data.test, *written["test_batch.bin"])
    assert data.image_shape == (32, 32, 3) and data.image_range == 255
    assert data.class_names[0] == "airplane" and data.class_names[9] == "truck" and data.classes == 10


def test_cifar_takes_its_names_from_the_meta_file(cifar):
    (cifar / "batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    assert load("cifar10", cifar).class_names == tuple("abcdefghij")


def test_cifar_meta_file_with_other_names(cifar):
    (cifar / "batches.meta.txt").write_text("cat\ndog\n")
    message = refusal("cifar10", cifar)
    assert f"{cifar / 'batches.meta.txt'}: expected 10 class names" in message and "received 2" in message


@pytest.mark.parametrize("name", CIFAR_FILES)
def test_missing_cifar_file(cifar, name):
    (cifar / name).unlink()
    message = refusal("cifar10", cifar)
    assert f"{cifar}: found no {name}" in message and "--download" in message


@pytest.mark.parametrize("extra", [1, 3072])
def test_cifar_file_with_part_of_a_record(cifar, extra):
    path = cifar / "data_batch_3.bin"
    path.write_bytes(path.read_bytes() + bytes(extra))
    message = refusal("cifar10", cifar)
    assert f"{path}: expected a whole number of records of 3073 bytes" in message
    assert f"received 3 and {extra} bytes" in message


def test_empty_cifar_file(cifar):
    (cifar / "test_batch.bin").write_bytes(b"")
    message = refusal("cifar10", cifar)
    assert str(cifar / "test_batch.bin") in message and "at least one, received 0" in message


def test_cifar_label_outside_the_classes(cifar):
    path = cifar / "data_batch_1.bin"
    path.write_bytes(cifar_bytes(random_bytes(2, 32, 32, 3), [9, 10]))
    assert f"{path}: sample 1 has label 10, expected labels 0..9" in refusal("cifar10", cifar)


# --- folders of images --------------------------------------------------------------------------------------


def save_image(path: Path, pixels: np.ndarray, mode: str | None = None) -> np.ndarray:
    """Save (H, W) or (H, W, 3) pixels in the format that the name tells; return them."""
    image = pytest.importorskip("PIL.Image").fromarray(pixels)
    path.parent.mkdir(parents=True, exist_ok=True)
    (image.convert(mode) if mode else image).save(path)
    return pixels


@pytest.fixture
def pictures(tmp_path):
    """A folder train and a folder test, each with two grey images of the classes cat and dog, 3x4 pixels."""
    for half in ("train", "test"):
        for i in range(4):
            path = tmp_path / half / ("cat", "dog")[i % 2] / f"{i}.png"
            save_image(path, random_bytes(3, 4, seed=i + 10 * (half == "test")))
    return tmp_path


def test_folder_with_train_and_test(pictures):
    data = load("folder", pictures)
    grey = {seed: random_bytes(3, 4, seed=seed)[..., np.newaxis] for seed in (0, 1, 2, 3, 10, 11, 12, 13)}
    assert_split(data.train, np.stack([grey[i] for i in (0, 2, 1, 3)]), [0, 0, 1, 1])
    assert_split(data.test, np.stack([grey[i] for i in (10, 12, 11, 13)]), [0, 0, 1, 1])
    assert data.class_names == ("cat", "dog") and data.image_shape == (3, 4, 1) and data.image_range == 255


def test_folder_of_classes_tests_on_every_fifth_image(tmp_path):
    pixels = {}
    for name, count in (("dog", 11), ("ant", 6), ("cat", 2)):
        for i in range(count):
            path = tmp_path / name / f"{i:02}.png"
            pixels[name, i] = save_image(path, random_bytes(3, 4, 3, seed=len(pixels)))
    data = load("folder", tmp_path)
    ant, cat, dog = [0, 1, 2, 3, 5], [0, 1], [0, 1, 2, 3, 5, 6, 7, 8, 10]
    train = [("ant", i) for i in ant] + [("cat", i) for i in cat] + [("dog", i) for i in dog]
    assert_split(data.train, np.stack([pixels[key] for key in train]), [0] * 5 + [1] * 2 + [2] * 9)
    assert_split(data.test, np.stack([pixels[key] for key in [("ant", 4), ("dog", 4), ("dog", 9)]]), [0, 2, 2])
    assert data.class_names == ("ant", "cat", "dog")


def test_hidden_files_are_ignored(pictures):
    (pictures / ".DS_Store").write_bytes(b"x")
    (pictures / "train" / ".git").mkdir()
    (pictures / "train" / "cat" / ".thumbs").write_bytes(b"x")
    assert load("folder", pictures).class_names == ("cat", "dog")


def test_grey_and_colour_together_become_rgb(pictures):
    colour = save_image(pictures / "test" / "dog" / "1.png", random_bytes(3, 4, 3, seed=5))
    data = load("folder", pictures)
    np.testing.assert_array_equal(data.train.images[0], np.repeat(random_bytes(3, 4, seed=0)[..., None], 3, axis=2))
    np.testing.assert_array_equal(data.test.images[2], colour)


@pytest.mark.parametrize("mode", ["P", "RGBA", "LA", "CMYK", "1"])
def test_other_modes_are_converted(tmp_path, mode):
    black_and_white = np.where(random_bytes(3, 4, 1) > 127, 255, 0).astype(np.uint8)
    for i in range(5):
        name = f"{i}.tif" if mode == "CMYK" else f"{i}.png"
        save_image(tmp_path / "cat" / name, np.repeat(black_and_white, 3, axis=2), mode)
    images = load("folder", tmp_path).test.images
    assert images.shape == (1, 3, 4, 1 if mode == "1" else 3)
    np.testing.assert_array_equal(images[0], np.broadcast_to(black_and_white, images.shape[1:]))


def test_palette_with_transparency_is_read_without_warning(pictures):
    image = pytest.importorskip("PIL.Image").fromarray(random_bytes(3, 4, 3)).quantize(4)
    image.save(pictures / "train" / "cat" / "0.png", transparency=bytes((0, 128, 255, 255)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        images = load("folder", pictures).train.images
    np.testing.assert_array_equal(images[0], np.asarray(image.convert("RGB")))


def test_sixteen_bit_image(pictures):
    path = pictures / "train" / "dog" / "1.png"
    save_image(path, random_bytes(3, 4).astype(np.uint16) * 257)
    message = refusal("folder", pictures)
    assert f"{path}: expected 8 bits per channel, received Pillow's mode I;16" in message


def test_images_of_different_sizes(pictures):
    path = pictures / "test" / "dog" / "3.png"
    save_image(path, random_bytes(4, 3))
    message = refusal("folder", pictures)
    first = pictures / "train" / "cat" / "0.png"
    assert f"{path}: expected 4x3 pixels as in {first}, received 3x4" in message


def test_file_that_is_no_image(pictures):
    path = pictures / "train" / "cat" / "notes.txt"
    path.write_text("not an image")
    message = refusal("folder", pictures)
    assert f"{path}: expected an image that Pillow can read" in message and "remove the file" in message


def test_format_that_is_not_on_the_list(pictures):
    path = pictures / "train" / "cat" / "0.png"
    save_image(path.with_suffix(".pcx"), random_bytes(3, 4))
    path.with_suffix(".pcx").rename(path)
    assert f"{path}: expected an image that Pillow can read as one of BMP, GIF" in refusal("folder", pictures)


@pytest.mark.parametrize("kept", [0, 20, 50])
def test_truncated_image(pictures, kept):
    path = pictures / "test" / "cat" / "0.png"
    save_image(path, random_bytes(3, 4))
    path.write_bytes(path.read_bytes()[:kept])
    assert f"{path}: expected an image that Pillow can read" in refusal("folder", pictures)


@pytest.mark.parametrize("side", [10_000, 50_000])
def test_decompression_bomb(pictures, side):
    """Pillow only warns at 10^8 pixels and raises at 2.5 * 10^9: both are refused, from the header alone."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    path = pictures / "train" / "cat" / "0.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""))
    message = refusal("folder", pictures)
    assert str(path) in message and "DecompressionBomb" in message


@pytest.mark.parametrize("half", ["train", "test"])
def test_classes_of_train_and_test_differ(pictures, half):
    save_image(pictures / half / "emu" / "0.png", random_bytes(3, 4))
    message = refusal("folder", pictures)
    assert str(pictures) in message and "same classes" in message and "emu" in message and "cat" not in message


def test_empty_folder(tmp_path):
    message = refusal("folder", tmp_path)
    assert f"{tmp_path}: expected images as train/<class>/*" in message and "--data-dir DIR" in message


def test_class_without_images(pictures):
    for path in (pictures / "train" / "dog").iterdir():
        path.unlink()
    assert f"{pictures / 'train' / 'dog'}: expected images of a class, received none" in refusal("folder", pictures)


def test_file_in_the_place_of_a_class(pictures):
    (pictures / "train" / "readme.md").write_text("x")
    assert f"{pictures / 'train' / 'readme.md'} is not a folder" in refusal("folder", pictures)


def test_folder_in_the_place_of_an_image(pictures):
    (pictures / "test").rename(pictures / "validation")
    message = refusal("folder", pictures)
    assert f"{pictures / 'train' / 'cat'} is not a file" in message and "test/<class>" in message


def test_too_few_images_for_a_test_half(tmp_path):
    for i in range(4):
        save_image(tmp_path / "cat" / f"{i}.png", random_bytes(3, 4))
    assert "every 5th image" in refusal("folder", tmp_path)


def test_folder_without_pillow(pictures, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert "pip install Pillow" in refusal("folder", pictures)
