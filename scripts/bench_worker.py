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
from pathlib import Path
from typing import Any

START = time.perf_counter()
LEARNING_RATE, MOMENTUM = 0.01, 0.9

Step = Callable[[int], float]  # takes n steps, returns the seconds they took


def gpucnn_engine(job: dict[str, Any], x: Any, labels: Any) -> tuple[Step, dict[str, Any]]:
    """gpucnn itself, on any of its devices."""
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    import gpucnn
    from gpucnn import SGD, SoftmaxCrossEntropy, Trainer, zoo

    backend = gpucnn.get_backend(job["device"], threads=job["threads"] if job["device"] == "cpu" else None)
    model = zoo.get_recipe(job["model"]).model()
    model.build(x.shape[1:], backend, max_batch=len(x) if job["mode"] == "step" else 0, seed=0)
    x, labels = backend.from_host(x), backend.from_host(labels)
    if job["mode"] == "step":
        trainer = Trainer(model, SoftmaxCrossEntropy(), SGD(LEARNING_RATE, MOMENTUM), batch_size=len(x))

    def run(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            if job["mode"] == "step":
                trainer.step(x, labels)
            else:
                outputs = model.predict(x)
        if backend.name.startswith("gpu"):
            backend.to_host(trainer.loss.backward() if job["mode"] == "step" else outputs)  # waits
        return time.perf_counter() - start

    first = model.predict(x)
    return run, {"sum": float(backend.to_host(first).sum()), "versions": {"gpucnn": gpucnn.__version__}}


def torch_engine(job: dict[str, Any], x: Any, labels: Any) -> tuple[Step, dict[str, Any]]:
    """PyTorch, eager or compiled, in NCHW or channels-last."""
    import torch
    from torch_nets import load_network

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

    step = train if job["mode"] == "step" else predict
    model.train(job["mode"] == "step")

    def run(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - start

    return run, {"sum": total, "versions": {"torch": torch.__version__}}


def onnxruntime_engine(job: dict[str, Any], x: Any, labels: Any) -> tuple[Step, dict[str, Any]]:
    """The ONNX runtime on its CPU provider."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = job["threads"]
    session = onnxruntime.InferenceSession(job["network"] + ".onnx", options, providers=["CPUExecutionProvider"])
    inputs = {session.get_inputs()[0].name: x.transpose(0, 3, 1, 2).copy()}

    def run(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            session.run(None, inputs)
        return time.perf_counter() - start

    return run, {"sum": float(session.run(None, inputs)[0].sum()), "versions": {"onnxruntime": onnxruntime.__version__}}


def blas_engine(job: dict[str, Any], x: Any, labels: Any) -> tuple[Step, dict[str, Any]]:
    """One large matrix product: the rate that arithmetic could have."""
    import numpy as np

    size = job["blas_size"]
    a, b = (np.random.default_rng(seed).standard_normal((size, size), dtype=np.float32) for seed in range(2))
    out = np.empty((size, size), np.float32)

    def run(n: int) -> float:
        start = time.perf_counter()
        for _ in range(n):
            np.matmul(a, b, out=out)
        return time.perf_counter() - start

    return run, {"versions": {"numpy": np.__version__}}


def engine_of(name: str) -> Callable[[dict[str, Any], Any, Any], tuple[Step, dict[str, Any]]]:
    """Return the function that sets an engine up."""
    kinds = {"gpucnn": gpucnn_engine, "torch": torch_engine, "onnxruntime": onnxruntime_engine, "blas": blas_engine}
    return kinds[name.split()[0]]


def main() -> None:
    """Answer lines until the input ends."""
    job = json.loads(sys.stdin.readline())
    import numpy as np

    rng = np.random.default_rng(0)
    x = rng.standard_normal((job["batch_size"], *job["image_shape"]), dtype=np.float32)
    labels = rng.integers(0, 10, job["batch_size"]).astype(np.int32)
    run, about = engine_of(job["engine"])(job, x, labels)
    run(1)
    print(json.dumps({**about, "first_step_seconds": time.perf_counter() - START}), flush=True)
    for line in sys.stdin:
        n = int(line)
        seconds = run(n) / n
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"seconds": seconds, "peak_bytes": peak}), flush=True)


if __name__ == "__main__":
    main()
