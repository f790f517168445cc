"""Downloads: mirrors, checksums, interruptions, and what is left behind by each."""

from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import tarfile
import threading
from pathlib import Path

import numpy as np
import pytest
from dataset_files import (
    CIFAR_FILES,
    IDX_FILES,
    PIXELS,
    TRAIN_IMAGES,
    idx_bytes,
    random_bytes,
    refusal,
    write_cifar,
    write_mnist,
)

from gpucnn.data import download
from gpucnn.data.datasets import load
from gpucnn.data.download import SOURCES, RemoteFile, fetch
from gpucnn.errors import InputError


class Mirrors:
    """A local server: `answers` maps a path to (status, body, how many of its bytes are sent)."""

    def __init__(self):
        self.answers, self.requests = {}, []
        mirrors = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                mirrors.requests.append(self.path)
                status, body, sent = mirrors.answers.get(self.path, (404, b"", 0))
                self.send_response(status)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[:sent])

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()

    def put(self, path: str, body: bytes, status: int = 200, sent: int | None = None) -> str:
        """Serve a body under a path; return its address."""
        self.answers[path] = (status, body, len(body) if sent is None else sent)
        return self.address + path


@pytest.fixture
def mirrors(monkeypatch):
    """A running server on this machine, reached without a proxy."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    mirrors = Mirrors()
    yield mirrors
    mirrors.server.shutdown()
    mirrors.server.server_close()


CONTENT = idx_bytes(PIXELS)
BODY = gzip.compress(CONTENT)


def remote(*urls: str, **changes) -> RemoteFile:
    """The description of one gzipped file, to be fetched from `urls`."""
    fields = {"max_bytes": len(BODY), "md5": hashlib.md5(CONTENT).hexdigest(), "content_bytes": len(CONTENT)}
    return RemoteFile("file.gz", urls, **(fields | changes))


def fetch_refusal(file: RemoteFile, folder: Path) -> str:
    """Fetch what must fail; check that it leaves nothing behind, and return the sentence."""
    with pytest.raises(InputError) as caught:
        fetch(file, folder)
    assert list(folder.iterdir()) == []
    return str(caught.value)


def test_fetch(tmp_path, mirrors):
    fetch(remote(mirrors.put("/a", BODY)), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["file.gz"]
    assert (tmp_path / "file.gz").read_bytes() == BODY


def test_fetch_with_another_opener(tmp_path):
    fetch(remote("some://where"), tmp_path, lambda url: io.BytesIO(BODY) if url == "some://where" else None)
    assert (tmp_path / "file.gz").read_bytes() == BODY


def test_second_mirror_after_a_refusal(tmp_path, mirrors):
    fetch(remote(mirrors.put("/a", b"", status=403), mirrors.put("/b", BODY)), tmp_path)
    assert mirrors.requests == ["/a", "/b"]
    assert [path.name for path in tmp_path.iterdir()] == ["file.gz"]


def test_checksum_of_the_compressed_bytes(tmp_path, mirrors):
    file = remote(mirrors.put("/a", BODY), md5=hashlib.md5(BODY).hexdigest(), content_bytes=None)
    fetch(file, tmp_path)
    assert (tmp_path / "file.gz").read_bytes() == BODY


def test_wrong_checksum(tmp_path, mirrors):
    url = mirrors.put("/a", gzip.compress(CONTENT[:-1] + b"?"))
    message = fetch_refusal(remote(url, max_bytes=1000), tmp_path)
    assert f"{url} (sent the MD5 " in message and hashlib.md5(CONTENT).hexdigest() in message


def test_content_longer_than_expected(tmp_path, mirrors):
    url = mirrors.put("/a", gzip.compress(CONTENT + b"?"))
    assert "MD5" in fetch_refusal(remote(url, max_bytes=1000), tmp_path)


def test_page_instead_of_a_gzip_file(tmp_path, mirrors):
    assert "gzip" in fetch_refusal(remote(mirrors.put("/a", b"<html>sign in</html>")), tmp_path)


def test_interrupted_transfer(tmp_path, mirrors):
    url = mirrors.put("/a", BODY, sent=40)
    message = fetch_refusal(remote(url), tmp_path)
    assert f"{url} (broke off after 40 of {len(BODY)} bytes)" in message


def test_too_many_bytes(tmp_path, mirrors):
    url = mirrors.put("/a", BODY + bytes(1))
    assert f"sent more than the expected {len(BODY)} bytes" in fetch_refusal(remote(url), tmp_path)


def test_endless_transfer_is_cut_off(tmp_path):
    class Endless(io.RawIOBase):
        total = 0

        def read(self, count=-1):
            Endless.total += count
            return bytes(count)

    with pytest.raises(InputError, match="sent more than"):
        fetch(remote("a"), tmp_path, lambda _: Endless())
    assert Endless.total <= 2 * download.CHUNK_BYTES


def test_all_mirrors_fail(tmp_path, mirrors):
    urls = [mirrors.put("/a", b"", status=403), mirrors.address + "/nothing", "http://127.0.0.1:1/closed"]
    message = fetch_refusal(remote(*urls), tmp_path)
    assert all(url in message for url in urls) and "403" in message and "404" in message
    assert f"put it into {tmp_path}" in message and "--data-dir DIR" in message


def test_interrupt_leaves_nothing(tmp_path):
    def interrupt(_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(remote("a"), tmp_path, interrupt)
    assert list(tmp_path.iterdir()) == []


def test_failed_fetch_keeps_the_old_file(tmp_path, mirrors):
    (tmp_path / "file.gz").write_bytes(b"old")
    with pytest.raises(InputError):
        fetch(remote(mirrors.put("/a", BODY, sent=40)), tmp_path)
    assert (tmp_path / "file.gz").read_bytes() == b"old"


@pytest.fixture
def small_mnist(tmp_path, mirrors, monkeypatch):
    """The four files of a small data set on a local mirror, in the place of the real sources."""
    (tmp_path / "source").mkdir()
    write_mnist(tmp_path / "source", ".gz")
    files = []
    for name in (f"{name}.gz" for name in IDX_FILES):
        body = (tmp_path / "source" / name).read_bytes()
        content = gzip.decompress(body)
        url = mirrors.put(f"/{name}", body)
        files.append(RemoteFile(name, (url,), len(body), hashlib.md5(content).hexdigest(), len(content)))
    monkeypatch.setitem(SOURCES, "mnist", tuple(files))
    return mirrors


def test_download_fills_the_cache(tmp_path, small_mnist):
    data = load("mnist", download=True, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(data.train.images[..., 0], PIXELS)
    assert sorted(path.name for path in (tmp_path / "cache" / "mnist").iterdir()) == sorted(
        f"{name}.gz" for name in IDX_FILES
    )


def test_what_is_in_the_cache_is_not_fetched_again(tmp_path, small_mnist):
    load("mnist", download=True, cache_dir=tmp_path)
    assert len(small_mnist.requests) == 4
    load("mnist", download=True, cache_dir=tmp_path)
    load("mnist", cache_dir=tmp_path)
    assert len(small_mnist.requests) == 4


DAMAGED = {"empty": b"", "rubbish": b"rubbish", "another": gzip.compress(b"other"), "cut off": BODY[:50]}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_file_in_the_cache_is_fetched_again(tmp_path, small_mnist, content):
    load("mnist", download=True, cache_dir=tmp_path)
    (tmp_path / "mnist" / f"{TRAIN_IMAGES}.gz").write_bytes(content)
    load("mnist", download=True, cache_dir=tmp_path)
    assert small_mnist.requests[4:] == [f"/{TRAIN_IMAGES}.gz"]


def test_cache_that_cannot_be_written(tmp_path, small_mnist):
    (tmp_path / "mnist").write_bytes(b"a file in its place")
    message = refusal("mnist", None, download=True, cache_dir=tmp_path)
    assert f"{tmp_path / 'mnist'}: cannot keep the download" in message and "XDG_CACHE_HOME" in message


def tar_bytes(members: dict[str, bytes | None]) -> bytes:
    """Pack a .tar.gz; a member without content becomes a symbolic link."""
    target = io.BytesIO()
    with tarfile.open(fileobj=target, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            if content is None:
                info.type, info.linkname = tarfile.SYMTYPE, "/etc/hostname"
            else:
                info.size = len(content)
            archive.addfile(info, io.BytesIO(content or b""))
    return target.getvalue()


@pytest.fixture
def cifar_archive(tmp_path, mirrors, monkeypatch):
    """Return a function which serves an archive with some members changed, in the place of CIFAR-10."""
    source = tmp_path / "source"
    write_cifar(source)
    (source / "batches.meta.txt").write_text("\n".join("abcdefghij"))
    whole = {f"cifar-10-batches-bin/{path.name}": path.read_bytes() for path in source.iterdir()}

    def serve(changes: dict[str, bytes | None], without: str = "") -> None:
        members = {name: content for name, content in (whole | changes).items() if name != without}
        body = tar_bytes(members)
        real = SOURCES["cifar10"][0]
        file = RemoteFile(
            real.name,
            (mirrors.put("/cifar", body),),
            len(body),
            hashlib.md5(body).hexdigest(),
            members=real.members,
            member_bytes=4 * 3073,
        )
        monkeypatch.setitem(SOURCES, "cifar10", (file,))

    serve.requests = mirrors.requests
    return serve


def test_download_of_cifar_unpacks_only_what_it_expects(tmp_path, cifar_archive):
    cifar_archive({"../escaped.bin": b"x", "cifar-10-batches-bin/readme.html": b"x", "data_batch_1.bin": b"x"})
    data = load("cifar10", download=True, cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(data.train.images[:2], random_bytes(2, 32, 32, 3, seed=0))
    assert data.class_names == tuple("abcdefghij")
    kept = sorted(path.name for path in (tmp_path / "cache").rglob("*") if path.is_file())
    assert kept == sorted([*CIFAR_FILES, "batches.meta.txt", "checksums.md5"])


def test_unpacked_cifar_is_not_fetched_again_unless_damaged(tmp_path, cifar_archive):
    cifar_archive({})
    for _ in range(2):
        load("cifar10", download=True, cache_dir=tmp_path / "cache")
    assert cifar_archive.requests == ["/cifar"]
    path = tmp_path / "cache" / "cifar10" / "data_batch_2.bin"
    path.write_bytes(bytes(3073))
    load("cifar10", download=True, cache_dir=tmp_path / "cache")
    assert cifar_archive.requests == ["/cifar"] * 2
    (tmp_path / "cache" / "cifar10" / "checksums.md5").unlink()
    load("cifar10", download=True, cache_dir=tmp_path / "cache")
    assert cifar_archive.requests == ["/cifar"] * 3


@pytest.mark.parametrize(
    ("changes", "without", "expected"),
    [
        ({"cifar-10-batches-bin/test_batch.bin": None}, "", "test_batch.bin is not a regular file"),
        ({"cifar-10-batches-bin/test_batch.bin": bytes(4 * 3073 + 1)}, "", "of at most 12292 bytes"),
        (
            {},
            "cifar-10-batches-bin/data_batch_4.bin",
            "no cifar-10-batches-bin/data_batch_4.bin in the archive",
        ),
    ],
    ids=["link", "too large", "missing"],
)
def test_bad_cifar_archive(tmp_path, cifar_archive, changes, without, expected):
    cifar_archive(changes, without)
    message = refusal("cifar10", None, download=True, cache_dir=tmp_path / "cache")
    assert expected in message and f"put its unpacked files into {tmp_path / 'cache' / 'cifar10'}" in message
    assert not (tmp_path / "cache" / "cifar10" / "checksums.md5").exists()


def test_every_source_has_mirrors_and_a_checksum():
    assert set(SOURCES) == {"mnist", "fashion-mnist", "cifar10"}
    for file in (file for files in SOURCES.values() for file in files):
        assert all(url.startswith("http") and url.endswith(f"/{file.name}") for url in file.mirrors)
        assert len(bytes.fromhex(file.md5)) == 16 and file.max_bytes > 0
    assert all(len(file.mirrors) == 2 for file in SOURCES["mnist"] + SOURCES["fashion-mnist"])
