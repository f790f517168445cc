"""Hurt training runs in all the ways that machines do, and see that each goes on and ends as if nothing had been.

    python scripts/faults/run.py --runs 5 --kills 20
    python scripts/faults/run.py --cost --dataset mnist --data-dir DIR

Each run is made once in peace, for the SHA-256 of its weights, and once with faults: each ends it or damages what it
wrote, and it is started again with --resume. Printed are the steps that had to be made again and every promise that was
broken; the exit code is 1 if one was. `--cost` measures what checkpoints cost instead.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench.main import machine
from faults.kinds import KINDS, Kind
from faults.victim import Victim

SETTINGS = (  # between them all that a checkpoint carries for a network without dropout and normalization
    "--optimizer sgd --momentum 0.9 --average 0.99 --shift 1 --schedule cosine --threads 1",
    "--optimizer adam --learning-rate 0.002 --schedule one-cycle --clip-norm 1 --threads 2",
    "--optimizer nesterov --average 0.9 --flip --schedule step --warm-up 0.1 --threads 1",
    "--optimizer rmsprop --momentum 0.5 --shift 2 --schedule exponential --threads 2",
    "--optimizer adamw --learning-rate 0.002 --average 0.999 --batch-size 50 --threads 1",
)
COST_EVERY, MAX_COST = 100, 0.03  # steps; share of the time


def faults_of(kills: int, rng: random.Random) -> list[Kind]:
    """Return the faults of one run: each kind once, the first so many times, in any order."""
    kinds = list(KINDS)
    faults = [*kinds[:1] * kills, *kinds[1:]]
    rng.shuffle(faults)
    return faults


def campaign(options: argparse.Namespace, run: int, folder: Path) -> Victim:
    """Hurt one run, to its end."""
    rng = random.Random(f"{options.seed} {run}")
    settings = ["--seed", str(options.seed + run), *SETTINGS[run % len(SETTINGS)].split()]
    victim = Victim([*network(options), *settings], folder, options.every, rng)
    victim.run_in_peace()
    faults = faults_of(options.kills, rng)
    places = sorted(rng.randint(1, victim.steps * 3 // 4) for _ in faults)  # the rest is time for the last of them
    for kind, step in zip(faults, places, strict=True):
        victim.suffer(kind, step)
    victim.end()
    return victim


def network(options: argparse.Namespace) -> list[str]:
    """Return the options of `gpucnn train` that all runs share."""
    data = ["--data-dir", str(options.data_dir)] if options.data_dir else []
    shared = ["--dataset", options.dataset, "--model", options.model, "--epochs", str(options.epochs)]
    return [*shared, "--device", "cpu", *data]


def rows(victims: list[Victim]) -> list[dict[str, Any]]:
    """Sum up each fault over all runs."""
    found = []
    for name in dict.fromkeys(injury.fault for victim in victims for injury in victim.injuries):
        hurt = [victim for victim in victims if any(injury.fault == name for injury in victim.injuries)]
        injuries = [injury for victim in hurt for injury in victim.injuries if injury.fault == name]
        found.append(
            {
                "fault": name,
                "times": len(injuries),
                "mean_lost": statistics.mean(injury.lost for injury in injuries),
                "most_lost": max(injury.lost for injury in injuries),
                "most_allowed": max(injury.allowed for injury in injuries),
                "checkpoints_lost": sum(injury.checkpoint_lost for injury in injuries),
                "runs": len(hurt),
                "runs_equal": sum(victim.is_equal for victim in hurt),
            }
        )
    return sorted(found, key=lambda row: row["fault"])


def table(found: dict[str, Any]) -> str:
    """Return the table of a campaign."""
    lines = [
        "| fault | times | steps lost: mean | most | allowed | checkpoints lost | runs with equal weights |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found["rows"]:
        lost = f"{row['mean_lost']:.1f} | {row['most_lost']} | {row['most_allowed']} | {row['checkpoints_lost']}"
        lines.append(f"| {row['fault']} | {row['times']} | {lost} | {row['runs_equal']} of {row['runs']} |")
    return "\n".join(lines)


def run_campaigns(options: argparse.Namespace) -> dict[str, Any]:
    """Hurt all runs; return what was found."""
    victims = []
    for run in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            victims.append(campaign(options, run, Path(folder)))
        victim = victims[-1]
        print(f"run {run + 1}: {len(victim.injuries)} faults, {len(victim.broken)} broken promises", flush=True)
    broken = [f"run {run + 1}: {promise}" for run, victim in enumerate(victims) for promise in victim.broken]
    found = {"rows": rows(victims), "steps": [victim.steps for victim in victims], "broken": broken}
    print(f"\n{table(found)}\n")
    print("\n".join(broken) or "no promise was broken")
    return found


def run_cost(options: argparse.Namespace) -> dict[str, Any]:
    """Time runs with and without checkpoints in turns; return the medians."""
    command = [*network(options), "--seed", str(options.seed), "--threads", str(options.threads)]
    rounds = []
    for _ in range(options.runs):
        with tempfile.TemporaryDirectory() as folder:
            victim = Victim(command, Path(folder), COST_EVERY, random.Random(options.seed))
            rounds.append(victim.cost())
    found = {name: statistics.median(one[name] for one in rounds) for name in rounds[0]}
    print(f"{'seconds':>10} without checkpoints {found['without']:.2f}, with {found['with']:.2f}")
    print(f"{'share':>10} of the time spent in writing {found['share']:.2%}; time with/without {found['ratio']:.4f}")
    found["broken"] = [] if found["share"] < MAX_COST else [f"checkpoints cost more than {MAX_COST:.0%}"]
    return found | {"rounds": rounds}


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--runs", type=int, default=5, metavar="N", help="training runs, or rounds of --cost (default: %(default)s)")
    add("--kills", type=int, default=20, metavar="N", help="kill -9 at random instants per run (default: %(default)s)")
    add("--dataset", default="digits", choices=("digits", "mnist"), help="(default: %(default)s)")
    add("--data-dir", type=Path, metavar="DIR", help="folder that holds MNIST")
    add("--model", default="mnist", help="(default: %(default)s)")
    add("--epochs", type=int, default=20, metavar="N", help="of each run (default: %(default)s)")
    add("--every", type=int, default=5, metavar="STEPS", help="from checkpoint to checkpoint (default: %(default)s)")
    add("--seed", type=int, default=0, metavar="N", help="of the faults, and of the first run (default: %(default)s)")
    add("--threads", type=int, default=1, metavar="N", help="of --cost (default: %(default)s)")
    add("--cost", action="store_true", help=f"what a checkpoint every {COST_EVERY} steps costs")
    add("--json", type=Path, metavar="FILE", help="write the results to this file")
    return parser


def main(arguments: list[str] | None = None) -> int:
    """Run a campaign, or measure the cost; return 1 if a promise was broken."""
    options = parser().parse_args(arguments)
    found = run_cost(options) if options.cost else run_campaigns(options)
    if options.json:
        asked = {name: value for name, value in vars(options).items() if name not in ("json", "data_dir")}
        about = {"machine": machine(options.threads), "options": asked}
        options.json.write_text(json.dumps(about | found, indent=2) + "\n")
    return 1 if found["broken"] else 0


if __name__ == "__main__":
    sys.exit(main())
