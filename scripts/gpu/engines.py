"""What the part `steps` of `scripts/gpu/check.py` times, in a process for gpucnn and another one for PyTorch.

Reads an order (JSON) from each line of input and answers it with a line: `import torch`, `set up` a kind of training
step on one network, take a `turn` of some steps, `forget` all that was set up. Neither process imports what the other
one times.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

import numpy as np

from bench.worker import LEARNING_RATE, MOMENTUM, Engine, make_batch, make_trainer

WARM_UP = 3  # steps that compile and allocate

Order = dict[str, Any]


class Unavailable(Exception):
    """What is asked for is not on this machine, which is no failure."""


# ---- gpucnn -------------------------------------------------------------------------------------------------------


def gpucnn_step(order: Order, x: Any, labels: Any) -> Engine:
    """A step of gpucnn, kernel by kernel or as one graph, in one way to convolve: such as "graph, implicit"."""
    from gpu.job import make_backend
    from gpucnn import zoo

    launched, _, convolution = order["kind"].partition(", ")
    backend = make_backend(order["device"], order["precision"], convolution)
    model = zoo.get_recipe(order["network"]).model()
    model.build(x.shape[1:], backend, max_batch=len(x), seed=0)
    trainer = make_trainer(model, len(x))
    x, labels = backend.from_host(x), backend.from_host(labels)
    size = float(np.abs(backend.to_host(model.predict(x))).mean())
    step = partial(trainer.step, x, labels)
    if launched == "graph":
        step()
        step = backend.record(step)
    probe = backend.zeros((1,))
    return Engine(step, backend.versions(), size, wait=lambda: backend.to_host(probe))


def gpucnn_bytes(*, free: bool = False) -> int:
    """Return the memory that CuPy's pool has taken from the device, perhaps after giving back what is not in use."""
    import cupy

    pool = cupy.get_default_memory_pool()
    if free:
        pool.free_all_blocks()
    return pool.total_bytes()


# ---- PyTorch ------------------------------------------------------------------------------------------------------


def import_torch() -> Any:
    """Import PyTorch, or say that it is not installed or cannot use the GPU."""
    try:
        import torch
    except ModuleNotFoundError:
        raise Unavailable("PyTorch is not installed") from None
    if not torch.cuda.is_available():
        raise Unavailable(f"PyTorch {torch.__version__} finds no GPU that it can use")
    return torch


class TorchStep:
    """A whole step of PyTorch: forward, loss, backward, and SGD in one kernel; channels last, if not "NCHW"."""

    def __init__(self, order: Order, x: Any, labels: Any, device: str):
        import torch

        from bench.torch_nets import load_network

        self.torch, self.device, self.precision = torch, device, order["precision"]
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = self.precision == "tf32"
        torch.backends.cudnn.benchmark = True
        layout = torch.contiguous_format if "NCHW" in order["kind"] else torch.channels_last
        self.forward = self.model = load_network(order["path"]).to(device, memory_format=layout)
        self.x = torch.from_numpy(x).permute(0, 3, 1, 2).to(device).contiguous(memory_format=layout)
        self.labels = torch.from_numpy(labels).long().to(device)
        self.loss = torch.nn.CrossEntropyLoss()
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM, fused=True)

    def mixed(self) -> AbstractContextManager:
        """Return the context in which products are computed in bfloat16, if that is asked for."""
        is_wanted = self.precision == "bf16"
        return self.torch.autocast(self.device, self.torch.bfloat16, enabled=is_wanted, cache_enabled=False)

    def size(self) -> float:
        """Return the mean size of the outputs, before the first step."""
        self.model.eval()
        with self.torch.no_grad(), self.mixed():
            size = float(self.model(self.x).abs().mean())
        self.model.train()
        return size

    def __call__(self) -> None:
        self.optimizer.zero_grad()
        with self.mixed():
            loss = self.loss(self.forward(self.x), self.labels)
        loss.backward()
        self.optimizer.step()

    def compiled(self) -> Callable[[], Any]:
        """Return the step with its forward and backward passes compiled and recorded by PyTorch."""
        self.torch.compiler.reset()
        self.forward = self.torch.compile(self.model, mode="reduce-overhead")
        return self

    def compiled_and_recorded(self) -> Callable[[], Any]:
        """Return the whole step as one CUDA graph of compiled passes."""
        self.torch.compiler.reset()
        self.forward = self.torch.compile(self.model)
        return self.recorded()

    def recorded(self) -> Callable[[], Any]:
        """Return the whole step as one CUDA graph; the optimizer's rate is a constant in it, as in ours."""
        cuda = self.torch.cuda
        stream = cuda.Stream()
        stream.wait_stream(cuda.current_stream())
        with cuda.stream(stream):
            for _ in range(WARM_UP):
                self()
        cuda.current_stream().wait_stream(stream)
        graph = cuda.CUDAGraph()
        with cuda.graph(graph):
            self()

        def replay(kept: TorchStep = self) -> None:  # a graph keeps none of the arrays that it reads and writes
            graph.replay()

        return replay


def torch_step(order: Order, x: Any, labels: Any) -> Engine:
    """A step of PyTorch: eager, compiled, or as one graph."""
    torch = import_torch()
    torch.cuda.set_device(int(order["device"].partition(":")[2] or 0))
    step = TorchStep(order, x, labels, "cuda")
    size = step.size()
    make = {
        "torch eager": lambda: step,
        "torch graph": step.recorded,
        "torch graph NCHW": step.recorded,
        "torch compiled": step.compiled,
        "torch compiled graph": step.compiled_and_recorded,
    }
    return Engine(make[order["kind"]](), {"torch": torch.__version__}, size, torch.cuda.synchronize)


def torch_bytes(*, free: bool = False) -> int:
    """Return the most memory that PyTorch's arrays have taken, or what they take, after freeing what is not in use."""
    torch = import_torch()
    if not free:
        return torch.cuda.max_memory_allocated()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated()


# ---- orders -------------------------------------------------------------------------------------------------------


def set_up(order: Order, engines: dict[str, Engine]) -> Order:
    """Make a step of a kind; return the size of its first outputs and the memory that it holds."""
    is_peer = order["kind"].startswith("torch")
    make, held = (torch_step, torch_bytes) if is_peer else (gpucnn_step, gpucnn_bytes)
    before = held(free=True)
    engine = make(order, *make_batch(order["batch_size"], order["image_shape"]))
    engine.seconds(WARM_UP)
    engines[order["kind"]] = engine
    return {"size": engine.sum, "bytes": held() - before, "versions": engine.versions}


def carry_out(order: Order, engines: dict[str, Engine]) -> Order:
    """Do what an order says."""
    if order["do"] == "set up":
        return set_up(order, engines)
    if order["do"] == "turn":
        return {"seconds": engines[order["kind"]].seconds(order["steps"])}
    if order["do"] == "import torch":
        return {"torch": import_torch().__version__}
    engines.clear()
    gc.collect()
    return {}


def answer(order: Order, engines: dict[str, Engine]) -> Order:
    """Carry out an order; return what came of it, or why nothing did."""
    try:
        return carry_out(order, engines)
    except Unavailable as reason:
        return {"unavailable": str(reason)}
    except Exception as error:
        found = {"error": f"{type(error).__name__}: {next(iter(str(error).strip().splitlines()), '')}"}
        return found | ({"broken": True} if is_broken(order) else {})


def is_broken(order: Order) -> bool:
    """Whether the GPU is in an error that every later step of this process would meet too."""
    try:
        if order.get("kind", "torch").startswith("torch"):
            import_torch().cuda.synchronize()
        else:
            from gpu.job import gpu_error

            return bool(gpu_error(order.get("device", "")))
    except Exception as error:
        return not isinstance(error, Unavailable)
    return False


def main() -> None:
    """Answer orders until the input ends; what libraries print goes elsewhere."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # for libraries in C and for their processes too
    engines: dict[str, Engine] = {}
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line), engines)), file=answers, flush=True)


if __name__ == "__main__":
    main()
