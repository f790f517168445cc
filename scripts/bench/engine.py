"""The engines that `scripts/bench.py` times: worker processes that take turns."""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

WORKER = Path(__file__).resolve().parent / "worker.py"
SECONDS_PER_TURN = 0.3
THREAD_VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class Engine:
    """A worker process that takes steps when told to."""

    def __init__(self, name: str, job: dict[str, Any]):
        self.name = name
        environment = os.environ | dict.fromkeys(THREAD_VARIABLES, str(job["threads"]))
        command = [sys.executable, str(WORKER)]
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


def take_turns(engines: Collection[Engine], rounds: int) -> None:
    """Let each engine take its turn in each round, then end all."""
    for _ in range(rounds):
        for engine in engines:
            engine.turn()
    for engine in engines:
        engine.close()


def make_job(options: argparse.Namespace, mode: str, model: str, batch_size: int, threads: int) -> dict[str, Any]:
    """Return what an engine is told to do; `mode` is "step" or "predict"."""
    return {
        "mode": mode,
        "model": model,
        "image_shape": image_shape(model),
        "batch_size": batch_size,
        "device": options.device,
        "threads": threads,
    }


def image_shape(model: str) -> tuple[int, int, int]:
    """Return the shape of the images that a network of the zoo is for."""
    return (28, 28, 1) if model in ("paper", "lenet5", "mnist") else (32, 32, 3)
