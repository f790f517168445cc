"""Write a table of docs/performance.md from a result of `scripts/bench.py {step,predict} --peer torch --json FILE`."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

DOCUMENT = Path(__file__).resolve().parent.parent / "docs" / "performance.md"


def table(found: dict[str, Any]) -> str:
    """Return the rows of the networks, and a line that names the machine."""
    about = found["machine"]
    rows = [
        "| network | batch | gpucnn | PyTorch | ratio | peak memory | first step after | matrix products |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for result in found["results"]:
        peer = result["peers"][0]
        rows.append(
            f"| `{result['model']}` | {result['batch_size']} | {result['seconds'] * 1e3:.1f} ms "
            f"| {min(peer['seconds'].values()) * 1e3:.1f} ms | {peer['ratio']:.2f} "
            f"| {result['peak_bytes'] / 1e6:.0f} of {peer['peak_bytes'] / 1e6:.0f} MB "
            f"| {result['first_step_seconds']:.2f} of {peer['first_step_seconds']:.2f} s "
            f"| {result['share_of_blas']:.0%} |"
        )
    versions = {**about, **found["results"][0]["versions"]}
    machine = (
        f"{about['processor']}, {about['threads']} threads, {about['blas']}, NumPy {about['numpy']}, PyTorch "
        f"{versions['torch']}, {about['date']}; medians of {found['rounds']} rounds; a ratio above 1 says that gpucnn "
        "is faster; memory and start of gpucnn, and of PyTorch's better layout."
    )
    return "\n".join([*rows, "", machine])


if __name__ == "__main__":
    found = json.loads(Path(sys.argv[1]).read_text())
    marks = rf"(<!-- {found['command']} -->\n).*?(<!-- end -->)"
    DOCUMENT.write_text(re.sub(marks, rf"\1\n{table(found)}\n\n\2", DOCUMENT.read_text(), count=1, flags=re.DOTALL))
