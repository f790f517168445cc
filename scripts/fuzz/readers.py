"""What `run.py` gives hostile input to: for each reader small valid files, and how to read one that is changed.

The first byte of an input says which of a reader's files it is; the rest is the file.
"""

from __future__ import annotations

import contextlib
import gzip
import importlib.util
import io
import json
import math
import random
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import gpucnn.data
from fuzz.mutate import Mutate, mutate_bytes, mutate_json, mutate_protobuf, mutate_tokens, mutate_toml
from gpucnn.errors import GpucnnError, InputError

Read = Callable[[bytes], None]  # returns, or raises what the library says


@dataclass(frozen=True)
class Reader:
    """One reader of files.

    Attributes
    ----------
    files : returns the valid files
    open : takes an empty folder, and returns what reads an input there
    mutate : changes the file of an input
    share : of all inputs, compared with others: the quick ones get more
    needs : a package that it cannot do without
    """

    files: Callable[[], list[bytes]]
    open: Callable[[Path], Read]
    mutate: Mutate = mutate_bytes
    share: int = 1
    needs: str = "gpucnn"

    def is_missing(self) -> bool:
        """Whether the package that it needs is not installed."""
        return importlib.util.find_spec(self.needs) is None


def _loading(name: str, folder: Path, paths: list[Path]) -> Read:
    """Return what loads a data set of which the input is one file, and the others are as they should be."""
    valid = {path: path.read_bytes() for path in paths}
    last = paths[0]

    def read(content: bytes) -> None:
        nonlocal last
        last.write_bytes(valid[last])
        last = paths[content[0] % len(paths)]
        last.write_bytes(content[1:])
        gpucnn.data.load(name, folder)

    return read


# ---- IDX and CIFAR ------------------------------------------------------------------------------------------------

IDX = [f"{half}-{kind}-ubyte" for half in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def _idx(*shape: int) -> bytes:
    header = bytes((0, 0, 8, len(shape))) + b"".join(size.to_bytes(4, "big") for size in shape)
    return header + bytes(i % 10 for i in range(math.prod(shape)))


def _idx_files() -> list[bytes]:
    plain = [_idx(6, 4, 5), _idx(6), _idx(3, 4, 5), _idx(3)]
    return plain[:2] + [gzip.compress(file, mtime=0) for file in plain[2:]]


def _fill_idx(folder: Path) -> list[Path]:
    paths = [folder / name for name in (*IDX[:2], *(f"{name}.gz" for name in IDX[2:]))]
    for path, content in zip(paths, _idx_files(), strict=True):
        path.write_bytes(content)
    return paths


def _open_idx(folder: Path) -> Read:
    return _loading("mnist", folder, _fill_idx(folder))


def mutate_idx(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Change an IDX file; of a compressed one sometimes what is in it."""
    if content[:2] == b"\x1f\x8b" and rng.random() < 0.5:
        return gzip.compress(mutate_bytes(rng, gzip.decompress(content), other), mtime=0)
    return mutate_bytes(rng, content, other)


def _cifar_files() -> list[bytes]:
    return [bytes([3]) + bytes(range(256)) * 12, "\n".join("abcdefghij").encode()]


def _open_cifar(folder: Path) -> Read:
    record, names = _cifar_files()
    for name in (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin"):
        (folder / name).write_bytes(record)
    (folder / "batches.meta.txt").write_bytes(names)
    return _loading("cifar10", folder, [folder / "data_batch_2.bin", folder / "batches.meta.txt"])


# ---- images -------------------------------------------------------------------------------------------------------

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def _image_files() -> list[bytes]:
    from PIL import Image

    pixels = np.arange(7 * 9 * 3, dtype=np.uint8).reshape(7, 9, 3)
    files, plain = [], Image.fromarray(pixels)
    animated = {"save_all": True, "append_images": [Image.fromarray(255 - pixels)]}
    settings = [(kind, {}) for kind in FORMATS] + [("GIF", animated), ("TIFF", {"compression": "tiff_lzw"})]
    settings += [("JPEG", {"progressive": True}), ("WEBP", {"lossless": True}), ("PNG", {"interlace": 1})]
    for kind, options in settings:
        stream = io.BytesIO()
        plain.save(stream, kind, **options)
        files.append(stream.getvalue())
    return files


def _open_images(folder: Path) -> Read:
    paths = [folder / half / "a" / "image" for half in ("train", "test")]
    for path in paths:
        path.parent.mkdir(parents=True)
        path.write_bytes(_image_files()[3])
    return _loading("folder", folder, paths[:1])


# ---- checkpoints --------------------------------------------------------------------------------------------------


def _checkpoint_run() -> Any:
    """Return a run of a network with one layer."""
    from gpucnn import SGD, Dense, Flatten, Sequential, SoftmaxCrossEntropy, Trainer, get_backend
    from gpucnn.data.device_dataset import DeviceDataset, Normalization, Split
    from gpucnn.training.checkpoints import Run

    images = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
    backend, labels = get_backend("cpu", threads=1), np.array([0, 1] * 3, np.int32)
    model = Sequential([Flatten(), Dense(2)], name="net")
    model.build((2, 2, 1), backend, max_batch=2, seed=0)
    data = DeviceDataset(Split(images, labels), backend, Normalization(images))
    trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(0.1, 0.9), batch_size=2)
    return Run(trainer, data, {"epochs": 2, "layers": {"a": [1, 2]}}, {"device": "cpu"})


def _checkpoint_files() -> list[bytes]:
    """A whole file, and a description."""
    from safetensors.numpy import save

    from gpucnn.training.checkpoints.file import checksum

    arrays, about = _checkpoint_run().held()
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    about["results"] |= {"best_loss": 0.5, "seconds": 1.5}
    text = json.dumps(about)
    return [save(arrays, {"gpucnn": text, "sha256": checksum(arrays, text)}), text.encode()]


def _open_checkpoints(folder: Path) -> Read:
    from safetensors.numpy import save

    from gpucnn.training.checkpoints import Checkpoint, read
    from gpucnn.training.checkpoints.file import checksum

    run = _checkpoint_run()
    arrays = {name: np.ascontiguousarray(array) for name, array in run.held()[0].items()}
    path = folder / "step-00000001.safetensors"

    def resume(content: bytes) -> None:
        text = content[1:].decode(errors="replace")
        whole = save(arrays, {"gpucnn": text, "sha256": checksum(arrays, text)}) if content[0] else content[1:]
        path.write_bytes(whole)
        run.resume(Checkpoint(path, *read(path)))
        json.dumps(run.held()[1], allow_nan=False)  # what it took must be fit to be kept

    return resume


def mutate_checkpoint(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Change a description by its grammar, or a file: its header by its grammar, or its bytes."""
    if content[:1] == b"{":
        return mutate_json(rng, content, other)
    if rng.random() < 0.5:
        end = 8 + int.from_bytes(content[:8], "little")
        header = mutate_json(rng, content[8:end], b"")
        return len(header).to_bytes(8, "little") + header + content[end:]
    return mutate_bytes(rng, content, other)


# ---- ONNX ---------------------------------------------------------------------------------------------------------


def _onnx_files() -> list[bytes]:
    from onnx import helper, numpy_helper

    def floats(*shape: int) -> np.ndarray:
        return np.linspace(-1.0, 1.0, math.prod(shape), dtype=np.float32).reshape(shape)

    node = helper.make_node
    weights = {
        "w": floats(3, 2, 3, 3),
        "c": floats(3),
        "m": floats(3, 4),
        "two": np.array([2, -1]),
        "t": floats(2, 3, 3, 3),
    }
    weights |= {"pads": np.array([0, 0, 1, 1, 0, 0, 1, 1]), "begin": np.array([0]), "end": np.array([2])}
    networks = [
        [
            node("Conv", ["x", "w", "c"], ["a"], pads=[1, 1, 1, 1], strides=[1, 2]),
            node("BatchNormalization", ["a", "c", "c", "c", "c"], ["b"]),
            node("Relu", ["b"], ["r"]),
            node("MaxPool", ["r"], ["p", "i"], kernel_shape=[2, 2], ceil_mode=1),
            node("GlobalAveragePool", ["p"], ["g"]),
            node("Flatten", ["g"], ["f"]),
            node("Gemm", ["f", "m"], ["y"]),
        ],
        [
            node("Pad", ["x", "pads"], ["a"], mode="reflect"),
            node("Concat", ["a", "x2"], ["b"], axis=0),
            node("Shape", ["b"], ["s"]),
            node("Gather", ["s", "begin"], ["n"]),
            node("Slice", ["b", "begin", "end"], ["k"]),
            node("Reshape", ["k", "two"], ["f"]),
            node("ReduceMean", ["f"], ["o"], axes=[1]),
            node("Transpose", ["o"], ["q"], perm=[1, 0]),
            node("Mul", ["q", "q"], ["y"]),
        ],
        [
            node("ConvTranspose", ["x", "t"], ["a"], strides=[2, 2], output_padding=[1, 1]),
            node("AveragePool", ["a"], ["b"], kernel_shape=[3, 3], auto_pad="SAME_UPPER"),
            node("LpPool", ["b"], ["l"], kernel_shape=[2, 2]),
            node("InstanceNormalization", ["l", "c", "c"], ["d"]),
            node("Clip", ["d"], ["e"]),
            node("Split", ["e"], ["u", "v"], axis=2),
            node("Unsqueeze", ["u", "begin"], ["z"]),
            node("Constant", [], ["k"], value=numpy_helper.from_array(floats(1))),
            node("Div", ["z", "k"], ["h"]),
            node("Softmax", ["h"], ["j"]),
            node("Mul", ["j", "k"], ["y"]),
        ],
    ]
    networks[1].insert(1, node("Neg", ["a"], ["x2"]))
    files = []
    for nodes in networks:
        used = {name for one in nodes for name in one.input}
        tensors = [numpy_helper.from_array(array, name) for name, array in weights.items() if name in used]
        x, y = (
            helper.make_tensor_value_info(*info) for info in (("x", 1, (1, 2, 6, 6)), ("y", 1, ("rows", "columns")))
        )
        model = helper.make_model(helper.make_graph(nodes, "g", [x], [y], tensors), ir_version=8)
        model.opset_import[0].version = 17
        files.append(model.SerializeToString())
    return files


def _open_onnx(folder: Path) -> Read:
    import onnx

    from gpucnn import get_backend
    from gpucnn.onnx import prepare

    backend = get_backend("cpu", threads=1)

    def run(content: bytes) -> None:
        try:
            model = onnx.load_from_string(content[1:])
        except Exception as error:  # of the package onnx, before gpucnn sees anything
            raise InputError("no model") from error
        graph = prepare(model, backend)
        shapes = [[dim.dim_value or 2 for dim in info.shape.dim] for info in graph.inputs.values()]
        if all(0 < size <= 16 for shape in shapes for size in shape) and sum(map(math.prod, shapes)) < 4096:
            with np.errstate(all="ignore"):
                graph.run(
                    [np.ones(shape, graph._dtypes[name]) for name, shape in zip(graph.inputs, shapes, strict=True)]
                )

    return run


def mutate_onnx(rng: random.Random, content: bytes, other: bytes) -> bytes:
    """Change the fields of a model, mostly, or its bytes."""
    import onnx

    if rng.random() < 0.25:
        return mutate_bytes(rng, content, other)
    model = onnx.load_from_string(content)
    for _ in range(rng.choice((1, 1, 2, 4))):
        with contextlib.suppress(TypeError, ValueError):  # not every value goes into every field
            mutate_protobuf(rng, model)
    return model.SerializeToString()


# ---- the command line ---------------------------------------------------------------------------------------------

TOKENS = (
    "train --dataset mnist --data-dir set --model paper --device cpu --threads 1 --epochs 1 --batch-size 2 --quiet",
    "train --dataset mnist --data-dir set --schedule one-cycle --warm-up 0.1 --optimizer sgd --momentum 0.5 --shift 1",
    "train --dataset mnist --data-dir set --learning-rate 0.1 --clip-norm 1 --average 0.9 --flip --seed 3 --eager",
    "train --config run.toml --checkpoint-dir kept --checkpoint-every 2 --keep 2 --resume --summary out.json",
    "doctor",
)
TOML = (
    'dataset = "mnist"\ndata-dir = "set"\nbatch-size = 32\nlearning_rate = 0.05\nresume = false\n',
    'dataset = "mnist"\ndata-dir = "set"\nepochs = 1\nwarm-up = 0.1\nflip = true\nquiet = true\n',
    'dataset = "mnist"\ndata-dir = "set"\nbatch-size = "auto"\noptimizer = "sgd"\nmomentum = 0.5\n',
)


def _open_command_line(folder: Path, untrusted: Callable[[bytes, Path], list[str]]) -> Read:
    """Return what runs a command line in a folder, without a network, a GPU, and steps of training."""
    sys.modules["cupy"] = None  # absent, whatever the machine has: an input may ask for a GPU, or leave it to "auto"
    import gpucnn.cli.doctor
    import gpucnn.cli.main
    import gpucnn.cli.train
    import gpucnn.data.download

    (folder / "set").mkdir()
    _fill_idx(folder / "set")
    (folder / "run.toml").write_text(TOML[1])

    def refuse(url: str) -> None:
        raise OSError("no network here")

    gpucnn.data.download.fetch.__defaults__ = (refuse,)
    gpucnn.data.download.fill_cache.__defaults__ = (refuse,)
    gpucnn.cli.train._fit = lambda *_: None
    gpucnn.cli.doctor.examine = lambda: ()

    def run(content: bytes) -> None:
        said = io.StringIO()
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(said):
            try:
                code = gpucnn.cli.main.main(untrusted(content, folder))
            except SystemExit as end:  # --help
                code = end.code
        if "out of memory" in said.getvalue():
            raise MemoryError(said.getvalue())
        if code:
            raise GpucnnError(said.getvalue())

    return run


def _tokens(content: bytes, _: Path) -> list[str]:
    """Return arguments that stay in the folder, which a user's own may leave."""
    tokens = content[1:].decode("utf-8", "surrogateescape").split("\0")
    return [re.sub(r"[/~]|\.\.", "_", token) for token in tokens]


def _with_config(content: bytes, folder: Path) -> list[str]:
    (folder / "fuzz.toml").write_bytes(re.sub(rb"[/~]|\.\.", b"_", content[1:]))
    return ["train", "--config", "fuzz.toml", "--device", "cpu", "--threads", "1"]


def _open_cli(folder: Path) -> Read:
    return _open_command_line(folder, _tokens)


def _open_toml(folder: Path) -> Read:
    return _open_command_line(folder, _with_config)


def _token_files() -> list[bytes]:
    return [tokens.replace(" ", "\0").encode() for tokens in TOKENS]


def _toml_files() -> list[bytes]:
    return [text.encode() for text in TOML]


READERS = {
    "idx": Reader(_idx_files, _open_idx, mutate_idx, share=5),
    "cifar": Reader(_cifar_files, _open_cifar, share=5),
    "images": Reader(_image_files, _open_images, share=3, needs="PIL"),
    "checkpoint": Reader(_checkpoint_files, _open_checkpoints, mutate_checkpoint, share=3),
    "onnx": Reader(_onnx_files, _open_onnx, mutate_onnx, share=2, needs="onnx"),
    "cli": Reader(_token_files, _open_cli, mutate_tokens, share=1),
    "toml": Reader(_toml_files, _open_toml, mutate_toml, share=1),
}
