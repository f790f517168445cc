"""Write docs/paper.md, the table of the paper's formulas, from the docstrings: `python scripts/generate/paper.py`."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gpucnn.backend.reference import Backend
from gpucnn.geometry import Window

# What the paper has, in its order; a docstring says "Paper: <place>" for each place that its function computes.
PLACES = {
    "Eqn 2.1": "size of the output, `(H + 2 Z_p - k1)/Z_s + 1`",
    "table 1, sigmoid": "`1/(1 + e^-x)`, and its derivative",
    "table 1, tanh": "`tanh(x)`, and its derivative",
    "table 1, ReLU": "`max(x, 0)`, and its derivative",
    "table 1, leaky ReLU": "`x` where x > 0, else `slope x`; parametric with a slope per channel; and its derivative",
    "table 1, parametric ReLU": "the derivative in the slope",
    "table 1, ELU": "`x` where x > 0, else `alpha (e^x - 1)`, and its derivative",
    "table 1, softplus": "`log(1 + e^x)`, and its derivative",
    "table 1, arctan": "`tan^-1(x)`, and its derivative",
    "table 1, binary step": "1 where x >= 0, else 0, and its derivative, 0",
    "table 1, softmax": "`e^x_k / sum_j e^x_j`, and its derivative",
    "section 2.3, average pooling": "mean of the window",
    "section 2.3, L2 pooling": "`sqrt(sum x^2)` over the window",
    "section 2.5, MSE": "`1/t sum (y - y')^2`",
    "section 2.5, MSLE": "`1/t sum (log(y' + 1) - log(y + 1))^2`",
    "section 2.5, L2": "`sum (y - y')^2`",
    "section 2.5, L1": "`sum abs(y - y')`",
    "section 2.5, MAE": "`1/t sum abs(y - y')`",
    "section 2.5, MAPE": "`100/t sum abs((y - y')/y)`",
    "Eqn 2.14": "`-1/t sum [y log y' + (1 - y) log(1 - y')]`",
    "Eqn 2.14, softmax": "the same for a softmax output: `-log y'` of the class",
    "section 3.1, convolution": "`sum_u sum_v sum_c K_{u,v,c} I_{m+u,n+v,c} + b`",
    "section 3.1, pooling": "`max` over the window, and the winning unit",
    "section 3.1, fully connected": "`W^l a^{l-1} + b^l`",
    "section 3, backward, fully connected, delta": "`delta^{l-1} = W^T delta^l`",
    "section 3, backward, fully connected, dL/dW and dL/db": "`delta a^T` and `delta`",
    "section 3, backward, pooling, max": "the error goes to the winning unit",
    "section 3, backward, pooling, average": "the error is shared equally",
    "section 3, backward, pooling, L2": "the error is scaled by `x / P`",
    "section 3, backward, convolution, dL/dk and dL/db": "`sum delta_{m,n} I_{m+u,n+v}` and `sum delta`",
    "section 3, backward, convolution, dL/dI": "full correlation of delta with the kernel rotated by 180 degrees",
    "section 3, backward, update": "`w - alpha dL/dw`",
}

HEAD = """# The paper and the code

Written by `python scripts/generate/paper.py` from the docstrings; a test fails when a formula has no function or this
file is not up to date. The paper is P. Murugan, "Feed Forward and Backward Run in Deep Convolution Neural Network",
arXiv 1711.03278 (2017). Functions are of the reference (`gpucnn/backend/reference/`) unless they say otherwise. Each is
compared with nested loops in float64 (`tests/ops/oracles/`) by `tests/ops/test_reference.py`, and its derivative with
finite differences there and in `tests/layers/test_layers.py`.

The identity, also in table 1, is the layer `Identity`, and needs no function.

| in the paper | formula | function | derivative |
|---|---|---|---|
"""


def functions() -> dict[str, list[str]]:
    """Return the functions whose docstrings name each place of the paper."""
    found: dict[str, list[str]] = {}
    for owner in (Window, Backend):
        for name, method in inspect.getmembers(owner, inspect.isfunction):
            text = " ".join((inspect.getdoc(method) or "").split())
            for place in re.findall(r"Paper: (.*?)\.(?=\s|$)", text):
                found.setdefault(place, []).append(name if owner is Backend else f"geometry.Window.{name}")
    return found


def table() -> str:
    """Return the text of docs/paper.md."""
    found = functions()
    rows = []
    for place, formula in PLACES.items():
        names = found.get(place, [])
        derivatives = [f"`{name}_dx`" for name in names if place.startswith("table") and hasattr(Backend, f"{name}_dx")]
        shown = ", ".join(f"`{name}`" for name in names)
        rows.append(f"| {place} | {formula} | {shown} | {', '.join(derivatives)} |\n")
    return HEAD + "".join(rows)


if __name__ == "__main__":
    (ROOT / "docs" / "paper.md").write_text(table())
