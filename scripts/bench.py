"""Time training steps, inference and single operations, beside PyTorch on the same machine.

    python scripts/bench.py step --peer torch --threads 2
    python scripts/bench.py predict --peer torch --peer onnxruntime
    python scripts/bench.py ops

Every engine has a process of its own, and the engines take turns: a shared machine drifts by half within minutes, so
only the ratio within one round means anything. Shown are medians over the rounds; a ratio above 1 says that gpucnn is
faster.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

PEERS = {
    "torch": ("torch", "torch channels-last"),
    "torch-compiled": ("torch compiled", "torch compiled channels-last"),
    "onnxruntime": ("onnxruntime",),
}
BLAS_SIZE = 2048
SECONDS_PER_TURN = 0.3
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Engine:
    """A worker process that takes steps when told to."""

    def __init__(self, name: str, job: dict[str, Any]):
        self.name = name
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(job["threads"]))
        command = [sys.executable, str(HERE / "bench_worker.py")]
        start = time.perf_counter()
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.about = self._ask(json.dumps(job | {"engine": name}))
        self.first_step_seconds = time.perf_counter() - start
        self.steps = max(1, math.ceil(SECONDS_PER_TURN / self.turn(2)))
        self.seconds: list[float] = []
        self.peak_bytes = 0

    def _ask(self, line: str) -> dict[str, Any]:
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"bench.py: {self.name} stopped without an answer (is it installed?); see above")
        return json.loads(answer)

    def turn(self, steps: int | None = None) -> float:
        """Take some steps; return the mean time of one in seconds, which a turn of the usual length also records."""
        answer = self._ask(str(steps or self.steps))
        if steps is None:
            self.seconds.append(answer["seconds"])
            self.peak_bytes = answer["peak_bytes"]
        return answer["seconds"]

    def close(self) -> None:
        """End the process."""
        self.process.stdin.close()
        self.process.wait()


def measure(options: argparse.Namespace, model_name: str, batch_size: int, folder: str) -> dict[str, Any]:
    """Time one network at one batch size on all engines in turns."""
    from gpucnn import zoo

    model = zoo.get_recipe(model_name).model()
    image_shape = (28, 28, 1) if model_name in ("paper", "lenet5", "mnist") else (32, 32, 3)
    model.build(image_shape, "cpu", seed=0)
    job = {
        "mode": options.command,
        "model": model_name,
        "network": f"{folder}/{model_name}",
        "image_shape": image_shape,
        "batch_size": batch_size,
        "device": options.device,
        "threads": options.threads,
        "blas_size": BLAS_SIZE,
    }
    if options.peer:
        from torch_nets import save_network

        save_network(model, job["network"])
    if "onnxruntime" in options.peer:
        from onnx_nets import save_onnx

        save_onnx(job["network"], image_shape)
    names = ["gpucnn", "blas", *(engine for peer in options.peer for engine in PEERS[peer])]
    engines = [Engine(name, job) for name in names]
    check_alike(engines)
    for _ in range(options.rounds):
        for engine in engines:
            engine.turn()
    for engine in engines:
        engine.close()
    flops = batch_size * arithmetic(model, training=options.command == "step")
    return result(model_name, batch_size, flops, engines)


def check_alike(engines: list[Engine]) -> None:
    """Compare the sums of the first outputs: all engines must compute the same network."""
    sums = {engine.name: engine.about["sum"] for engine in engines if "sum" in engine.about}
    if not all(math.isclose(total, sums["gpucnn"], rel_tol=1e-2, abs_tol=1e-2) for total in sums.values()):
        raise SystemExit(f"bench.py: the engines compute different things: the sums of their outputs are {sums}")


def arithmetic(model: Any, *, training: bool) -> int:
    """Multiplications and additions of the matrix products for one sample, forward or forward and backward."""
    total, first = 0, True
    for layer in leaves(model):
        if layer.parameters() and hasattr(layer, "w"):
            positions = math.prod(layer.output_shape[:-1])
            passes = 1 if not training else 2 if first else 3  # the first layer needs no gradient of its input
            total += 2 * passes * positions * layer.w.size
            first = False
    return total


def leaves(layer: Any) -> list[Any]:
    """Return the layers that contain no others."""
    return [leaf for part in getattr(layer, "layers", []) for leaf in leaves(part)] or [layer]


def result(model: str, batch_size: int, flops: int, engines: list[Engine]) -> dict[str, Any]:
    """Sum up the rounds of one network."""
    ours, blas, *peers = engines
    median = statistics.median(ours.seconds)
    rate = 2 * BLAS_SIZE**3 / statistics.median(blas.seconds)
    found = {
        "model": model,
        "batch_size": batch_size,
        "seconds": median,
        "images_per_second": batch_size / median,
        "flops": flops,
        "blas_flops_per_second": rate,
        "share_of_blas": flops / rate / median,
        "peak_bytes": ours.peak_bytes,
        "first_step_seconds": ours.first_step_seconds,
        "versions": {name: version for engine in engines for name, version in engine.about["versions"].items()},
        "peers": [],
    }
    groups: dict[str, list[Engine]] = {}
    for peer in peers:
        groups.setdefault(peer.name.removesuffix(" channels-last"), []).append(peer)
    for kind, engines_of_kind in groups.items():
        best = [min(turns) for turns in zip(*(engine.seconds for engine in engines_of_kind), strict=True)]
        ratios = sorted(theirs / own for theirs, own in zip(best, ours.seconds, strict=True))
        found["peers"].append(
            {
                "peer": kind,
                "seconds": {engine.name: statistics.median(engine.seconds) for engine in engines_of_kind},
                "ratio": statistics.median(ratios),
                "ratio_range": [ratios[len(ratios) // 4], ratios[-1 - len(ratios) // 4]],
                "peak_bytes": min(engine.peak_bytes for engine in engines_of_kind),
                "first_step_seconds": min(engine.first_step_seconds for engine in engines_of_kind),
            }
        )
    return found


def show(found: dict[str, Any]) -> None:
    """Print one network's results."""
    print(
        f"{found['model']:>9} {found['batch_size']:>6,}  {found['seconds'] * 1e3:9.2f} ms  "
        f"{found['images_per_second']:>9,.0f} images/s  {found['share_of_blas']:4.0%} of BLAS  "
        f"peak {found['peak_bytes'] / 1e6:,.0f} MB  first step {found['first_step_seconds']:.2f} s"
    )
    for peer in found["peers"]:
        low, high = peer["ratio_range"]
        times = ", ".join(f"{name} {seconds * 1e3:.2f} ms" for name, seconds in peer["seconds"].items())
        print(
            f"{'':18}ratio {peer['ratio']:.2f} ({low:.2f} to {high:.2f})  {times}  "
            f"peak {peer['peak_bytes'] / 1e6:,.0f} MB  first step {peer['first_step_seconds']:.2f} s",
            flush=True,
        )


def machine(threads: int) -> dict[str, Any]:
    """Describe what the figures were measured on."""
    import numpy as np

    about = {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
    }
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        return about | {"blas": "unknown: pip install threadpoolctl"}
    blas = next((pool for pool in threadpool_info() if pool["user_api"] == "blas"), {})
    names = (str(blas.get(name, "")) for name in ("internal_api", "version", "architecture"))
    return about | {"blas": " ".join(names)}


def processor() -> str:
    """Return the processor's name, with family and model where the system tells them."""
    fields: dict[str, str] = {}
    cpuinfo = Path("/proc/cpuinfo")
    for line in cpuinfo.read_text().splitlines() if cpuinfo.exists() else []:
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    if "model name" not in fields:
        return platform.processor()
    return f"{fields['model name']} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"


def run_networks(options: argparse.Namespace) -> dict[str, Any]:
    """Time every network at every batch size."""
    about = machine(options.threads)
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n", flush=True)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        for model in options.models:
            for batch_size in options.batch_sizes:
                results.append(measure(options, model, batch_size, folder))
                show(results[-1])
    for number in range(len(results[0]["peers"])):
        ratios = [found["peers"][number]["ratio"] for found in results]
        name = results[0]["peers"][number]["peer"]
        print(f"\n{name}: geometric mean {statistics.geometric_mean(ratios):.2f}, lowest {min(ratios):.2f}")
    return {"machine": about, "command": options.command, "rounds": options.rounds, "results": results}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    shared = argparse.ArgumentParser(add_help=False)
    shared.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    shared.add_argument("--rounds", type=int, default=9, metavar="N", help="turns of each (default: %(default)s)")
    shared.add_argument("--device", default="cpu", help="of gpucnn and of PyTorch (default: %(default)s)")
    shared.add_argument("--threads", type=int, default=os.cpu_count(), metavar="N", help="default: all cores")
    networks = argparse.ArgumentParser(add_help=False)
    networks.add_argument("--models", type=lambda text: text.split(","), default=["lenet5", "mnist", "vgg"])
    networks.add_argument("--batch-sizes", type=lambda text: [*map(int, text.split(","))], default=[64, 256])
    networks.add_argument("--peer", action="append", choices=PEERS, default=[], help="may be given several times")
    commands.add_parser("step", parents=[shared, networks], help="training steps")
    commands.add_parser("predict", parents=[shared, networks], help="inference")
    commands.add_parser("ops", parents=[shared], help="each operation of a backend beside the reference")
    return found


def main() -> None:
    """Run the command."""
    options = parser().parse_args()
    if options.command == "step" and "onnxruntime" in options.peer:
        raise SystemExit("bench.py: ONNX Runtime does not train; compare with it by the command predict")
    if options.command == "ops":
        from bench_ops import run_operations

        found = {"machine": machine(options.threads), **run_operations(options)}
    else:
        found = run_networks(options)
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
