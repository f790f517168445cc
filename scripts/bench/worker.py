"""One engine of `scripts/bench.py` in a process of its own, so that no engine's threads or memory meet another's.

Reads a job (JSON) from its first line of input; answers with a line once the first step is done. Then, for each further
line N, it takes N steps and answers with their mean time in seconds. PyTorch is imported by its own engine alone.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

START = time.perf_counter()
LEARNING_RATE, MOMENTUM = 0.01, 0.9
STATUS = Path("/proc/self/status")  # of Linux


def nothing() -> None:
    """Wait for nothing: a CPU is done when its call returns."""


@dataclass
class Engine:
    """What is timed: one step, and a wait for all steps begun."""

    step: Callable[[], Any]
    versions: dict[str, str]
    sum: float | None = None  # of the outputs before the first step
    wait: Callable[[], Any] = nothing

    def seconds(self, steps: int) -> float:
        """Return the mean time of some steps."""
        start = time.perf_counter()
        for _ in range(steps):
            self.step()
        self.wait()
        return (time.perf_counter() - start) / steps


def gpucnn_engine(job: dict[str, Any], x: Any, labels: Any) -> Engine:
    """gpucnn itself, on any of its devices."""
    import gpucnn
    from gpucnn import zoo
    from gpucnn.cli import blas

    backend = gpucnn.get_backend(job["device"], threads=job["threads"] if job["device"] == "cpu" else None)
    model = zoo.get_recipe(job["model"]).model()
    trains = job["mode"] == "step"
    model.build(x.shape[1:], backend, seed=0)
    x, labels = backend.from_host(x), backend.from_host(labels)
    step = partial(make_trainer(model, len(x)).step, x, labels) if trains else partial(model.predict, x)
    probe = backend.zeros((1,))
    first = float(backend.to_host(model.predict(x)).sum())
    versions = {"gpucnn": gpucnn.__version__, "blas": blas.describe()}
    return Engine(step, versions, first, wait=lambda: backend.to_host(probe))


def make_trainer(model: Any, batch_size: int) -> Any:
    """Return what takes the training steps of gpucnn that are timed."""
    from gpucnn import SGD, SoftmaxCrossEntropy, Trainer

    return Trainer(model, SoftmaxCrossEntropy(), SGD(LEARNING_RATE, MOMENTUM), batch_size=batch_size)


def make_batch(batch_size: int, image_shape: tuple[int, ...]) -> tuple[Any, Any]:
    """Return images and labels drawn at random, the same in every process."""
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch_size, *image_shape), dtype=np.float32)
    return x, rng.integers(0, 10, batch_size).astype(np.int32)


def torch_engine(job: dict[str, Any], x: Any, labels: Any) -> Engine:
    """PyTorch, eager or compiled, in NCHW or channels-last."""
    import torch

    from bench.torch_nets import load_network

    torch.set_num_threads(job["threads"])
    device = torch.device("cuda" if job["device"].startswith("gpu") else "cpu")
    layout = torch.channels_last if "channels-last" in job["engine"] else torch.contiguous_format
    model = load_network(job["network"]).to(device, memory_format=layout)
    x = torch.from_numpy(x).permute(0, 3, 1, 2).to(device).contiguous(memory_format=layout)
    labels = torch.from_numpy(labels).long().to(device)
    loss_function = torch.nn.CrossEntropyLoss()
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    with torch.no_grad():
        total = float(model.eval()(x).sum())
    forward = torch.compile(model) if "compiled" in job["engine"] else model

    def train() -> None:
        optimizer.zero_grad()
        loss_function(forward(x), labels).backward()
        optimizer.step()

    def predict() -> None:
        with torch.inference_mode():
            forward(x)

    model.train(job["mode"] == "step")
    step = train if job["mode"] == "step" else predict
    wait = torch.cuda.synchronize if device.type == "cuda" else nothing
    return Engine(step, {"torch": torch.__version__}, total, wait)


def jax_engine(job: dict[str, Any], x: Any, labels: Any) -> Engine:
    """JAX, compiled by XLA for the CPU."""
    import os

    os.environ |= {"JAX_PLATFORMS": "cpu", "NPROC": str(job["threads"])}  # before it is loaded; XLA reads NPROC
    import jax

    from bench.jax_nets import load_network, make_steps

    network, weights = load_network(job["network"])
    train, predict = make_steps(network, LEARNING_RATE, MOMENTUM)
    x, labels = jax.numpy.asarray(x.transpose(0, 3, 1, 2)), jax.numpy.asarray(labels)
    total = float(predict(weights, x).sum())
    state = [weights, jax.tree.map(jax.numpy.zeros_like, weights)]

    def step() -> None:
        if job["mode"] == "step":
            state[:] = train(*state, x, labels)
            jax.block_until_ready(state)
        else:
            predict(weights, x).block_until_ready()

    return Engine(step, {"jax": jax.__version__}, total)


def onnxruntime_engine(job: dict[str, Any], x: Any, labels: Any) -> Engine:
    """The ONNX runtime on its CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = onnxruntime.InferenceSession(job["network"] + ".onnx", options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2).copy()}
    step = partial(session.run, None, inputs)
    return Engine(step, {"onnxruntime": onnxruntime.__version__}, float(step()[0].sum()))


def blas_engine(job: dict[str, Any], x: Any, labels: Any) -> Engine:
    """One large matrix product: the rate that arithmetic could have."""
    import numpy as np

    size = job["blas_size"]
    a, b = (np.random.default_rng(seed).standard_normal((size, size), dtype=np.float32) for seed in range(2))
    out = np.empty((size, size), np.float32)
    return Engine(partial(np.matmul, a, b, out=out), {"numpy": np.__version__})


def engine_of(name: str) -> Callable[[dict[str, Any], Any, Any], Engine]:
    """Return the function that sets an engine up."""
    kinds = {
        "gpucnn": gpucnn_engine,
        "torch": torch_engine,
        "jax": jax_engine,
        "onnxruntime": onnxruntime_engine,
        "blas": blas_engine,
    }
    return kinds[name.split()[0]]


def peak_bytes() -> int:
    """Return the most memory that this process had at once, from the kernel's VmHWM where there is one.

    What `getrusage` says instead begins at the size of the process that started this one.
    """
    if STATUS.exists():
        for line in STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, elsewhere kilobytes


def main() -> None:
    """Answer lines until the input ends."""
    job = json.loads(sys.stdin.readline())
    engine = engine_of(job["engine"])(job, *make_batch(job["batch_size"], job["image_shape"]))
    engine.seconds(1)
    about = {"versions": engine.versions} | ({} if engine.sum is None else {"sum": engine.sum})
    print(json.dumps({**about, "first_step_seconds": time.perf_counter() - START}), flush=True)
    for line in sys.stdin:
        seconds = engine.seconds(int(line))
        print(json.dumps({"seconds": seconds, "peak_bytes": peak_bytes()}), flush=True)


if __name__ == "__main__":
    main()
