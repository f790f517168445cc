"""Time training steps, inference and single operations, beside PyTorch on the same machine.

    python scripts/bench.py step --peer torch --threads 2
    python scripts/bench.py predict --peer torch --peer onnxruntime
    python scripts/bench.py ops
    python scripts/bench.py scaling --threads 2
    python scripts/bench.py profile --models vgg

Every engine has a process of its own, and the engines take turns: a shared machine drifts by half within minutes, so
only the ratio within one round means anything. Shown are medians over the rounds; a ratio above 1 says that gpucnn is
faster. All run with the BLAS kernels that `gpucnn train` has; the header and the JSON files name them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench.engine import Engine, image_shape, make_job, take_turns
from bench.ops import run_operations
from bench.profiling import leaves, run_profiles
from bench.scaling import run_scaling
from gpucnn import zoo
from gpucnn.cli import blas
from gpucnn.cli.doctor import processor

PEERS = {
    "torch": ("torch", "torch channels-last"),
    "torch-compiled": ("torch compiled", "torch compiled channels-last"),
    "onnxruntime": ("onnxruntime",),
    "jax": ("jax",),
}
BLAS_SIZE = 2048


def measure(options: argparse.Namespace, model_name: str, batch_size: int, folder: str) -> dict[str, Any]:
    """Time one network at one batch size on all engines in turns."""
    model = zoo.get_recipe(model_name).model()
    model.build(image_shape(model_name), "cpu", seed=0)
    job = make_job(options, options.command, model_name, batch_size, options.threads)
    job |= {"network": f"{folder}/{model_name}", "blas_size": BLAS_SIZE}
    if options.peer:
        from bench.torch_nets import save_network

        save_network(model, job["network"])
    if "onnxruntime" in options.peer:
        from bench.onnx_nets import save_onnx

        save_onnx(job["network"], job["image_shape"])
    names = ["gpucnn", "blas", *(engine for peer in options.peer for engine in PEERS[peer])]
    engines = [Engine(name, job) for name in names]
    check_alike(engines)
    take_turns(engines, options.rounds)
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
    for _, layer in leaves(model):
        if layer.parameters() and hasattr(layer, "w"):
            positions = math.prod(layer.output_shape[:-1])
            passes = 1 if not training else 2 if first else 3  # the first layer needs no gradient of its input
            total += 2 * passes * positions * layer.w.size
            first = False
    return total


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
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": threads,
        "system": platform.platform(),
        "python": platform.python_version(),
        "numpy": np.__version__,
        "date": time.strftime("%Y-%m-%d"),
        "blas": blas.describe(),
    }


def run_networks(options: argparse.Namespace) -> dict[str, Any]:
    """Time every network at every batch size."""
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
    return {"command": options.command, "rounds": options.rounds, "results": results}


def shared(rounds: int = 9, threads: int | None = os.cpu_count()) -> argparse.ArgumentParser:
    """Return the options of all commands, with these defaults."""
    found = argparse.ArgumentParser(add_help=False)
    found.add_argument("--json", type=Path, metavar="FILE", help="write the results there")
    found.add_argument("--rounds", type=int, default=rounds, metavar="N", help="turns of each (default: %(default)s)")
    found.add_argument("--device", default="cpu", help="of gpucnn and of PyTorch (default: %(default)s)")
    found.add_argument("--threads", type=int, default=threads, metavar="N", help="default: %(default)s")
    return found


def networks(*batch_sizes: int) -> argparse.ArgumentParser:
    """Return the options of the commands that run networks, with these batch sizes unless others are given."""
    found = argparse.ArgumentParser(add_help=False)
    found.add_argument("--models", type=lambda text: text.split(","), default=["lenet5", "mnist", "vgg"])
    found.add_argument("--batch-sizes", type=lambda text: [*map(int, text.split(","))], default=[*batch_sizes])
    return found


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    found = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = found.add_subparsers(dest="command", required=True, metavar="COMMAND")
    peers = argparse.ArgumentParser(add_help=False)
    peers.add_argument("--peer", action="append", choices=PEERS, default=[], help="may be given several times")

    def add(name: str, run: Callable, about: str, *options: argparse.ArgumentParser) -> None:
        commands.add_parser(name, parents=options, help=about, description=about).set_defaults(run=run)

    add("step", run_networks, "training steps", shared(), networks(64, 256), peers)
    add("predict", run_networks, "inference", shared(), networks(64, 256), peers)
    add("ops", run_operations, "each operation of a backend beside the reference", shared())
    about = "training steps of growing batches, on one thread and on --threads"
    add("scaling", run_scaling, about, shared(), networks(64, 128, 256, 512, 1024))
    about = "where the time of a training step goes, by operation and by layer; threads share the operations"
    add("profile", run_profiles, about, shared(rounds=30, threads=1), networks(64))
    return found


def main() -> None:
    """Run the command."""
    options = parser().parse_args()
    if options.command == "step" and "onnxruntime" in options.peer:
        raise SystemExit("bench.py: ONNX Runtime does not train; compare with it by the command predict")
    about = machine(options.threads)
    print(", ".join(f"{name} {value}" for name, value in about.items()), end="\n\n", flush=True)
    found = {"machine": about, **options.run(options)}
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n")
