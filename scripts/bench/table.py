"""Write the tables of docs/performance.md from results of `scripts/bench.py COMMAND --json FILE`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]
DOCUMENT = ROOT / "docs" / "performance.md"


def table(found: dict[str, Any]) -> str:
    """Return the tables of a result, and a line that names the machine."""
    return "\n".join([*TABLES[found["command"]](found), "", machine(found)])


def network_rows(found: dict[str, Any]) -> list[str]:
    """Return the rows of the networks beside PyTorch, and beside ONNX Runtime if it took part."""
    others = (f"ratio to {peer['peer']}" for peer in found["results"][0]["peers"][1:])
    names = "network", "batch", "gpucnn", "PyTorch", "ratio", *others
    rows = columns(*names, "peak memory", "first step after", "plain products")
    for result in found["results"]:
        peer = result["peers"][0]
        cells = [
            f"`{result['model']}`",
            f"{result['batch_size']}",
            f"{result['seconds'] * 1e3:.1f} ms",
            f"{min(peer['seconds'].values()) * 1e3:.1f} ms",
            *(f"{other['ratio']:.2f}" for other in result["peers"]),
            f"{result['peak_bytes'] / 1e6:.0f} of {peer['peak_bytes'] / 1e6:.0f} MB",
            f"{result['first_step_seconds']:.2f} of {peer['first_step_seconds']:.2f} s",
            f"{result['share_of_blas']:.0%}",
        ]
        rows.append(row(*cells))
    return rows


def scaling_rows(found: dict[str, Any]) -> list[str]:
    """Return the rows of the batches, with the steps on one thread and on all beside each other."""
    last = "time per image, of that at the smallest", "time, of that on a straight line"
    rows = columns("network", "batch", "one thread", "all threads", "speedup", *last)
    for one, all_of in pairs(found["results"]):
        times = (f"{result['seconds'] * 1e3:.1f} ms" for result in (one, all_of))
        keys = "relative_to_smallest", "relative_to_line"
        relative = (f"{one[key]:.2f}, {all_of[key]:.2f}" for key in keys)
        rows.append(row(f"`{one['model']}`", f"{one['batch_size']:,}", *times, f"{all_of['speedup']:.2f}", *relative))
    return rows


def pairs(results: list[dict[str, Any]]) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return the results on the fewest threads, each with that of the same batch on the most."""
    most = max(result["threads"] for result in results)
    many = {(result["model"], result["batch_size"]): result for result in results if result["threads"] == most}
    fewest = min(result["threads"] for result in results)
    return [(one, many[one["model"], one["batch_size"]]) for one in results if one["threads"] == fewest]


def operation_rows(found: dict[str, Any]) -> list[str]:
    """Return the rows of the operations: all their calls together, on the backend and on the reference."""
    rows = columns("operation", "override", "reference", "ratio")
    for total in found["totals"]:
        times = (f"{total['seconds'][kind] * 1e3:.3f} ms" for kind in ("override", "reference"))
        rows.append(row(f"`{total['operation']}`", *times, f"{total['ratio']:.2f}"))
    return rows


def profile_rows(found: dict[str, Any]) -> list[str]:
    """Return the rows of the operations and of the layers of each network."""
    from bench.profiling import tables

    return [line for result in found["results"] for line in (*tables(result).splitlines(), "")][:-1]


def columns(*names: str) -> list[str]:
    """Return the header of a table and the rule under it."""
    return [row(*names), "|---" * len(names) + "|"]


def row(*cells: str) -> str:
    """Return a row of a table."""
    return f"| {' | '.join(cells)} |"


def machine(found: dict[str, Any]) -> str:
    """Return a line about what was measured on."""
    about = found["machine"]
    versions = next((result["versions"] for result in found["results"] if "versions" in result), {})
    threads = "1 thread" if about["threads"] == 1 else f"{about['threads']} threads"
    names = {"torch": "PyTorch", "onnxruntime": "ONNX Runtime"}
    peers = "".join(f", {name} {versions[key]}" for key, name in names.items() if key in versions)
    return (
        f"{about['processor']}, {threads} unless said, {about['blas']}, NumPy {about['numpy']}"
        f"{peers}, {about['date']}; medians of {found['rounds']} rounds."
    )


TABLES = {
    "step": network_rows,
    "predict": network_rows,
    "scaling": scaling_rows,
    "ops": operation_rows,
    "profile": profile_rows,
}


def main() -> None:
    """Replace each result's tables."""
    for name in sys.argv[1:]:
        found = json.loads(Path(name).read_text())
        marks = rf"(<!-- {found['command']} -->\n).*?(<!-- end -->)"
        text = table(found)
        document = DOCUMENT.read_text()
        replaced = re.sub(
            marks, lambda match, text=text: f"{match[1]}\n{text}\n\n{match[2]}", document, flags=re.DOTALL
        )
        DOCUMENT.write_text(replaced)


if __name__ == "__main__":
    main()
