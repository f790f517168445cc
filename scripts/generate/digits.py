"""Write gpucnn/data/digits.npz from scikit-learn's copy of the UCI optical digits.

    python scripts/generate/digits.py [FILE]

scikit-learn is needed here only; the library reads the result with NumPy alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from sklearn.datasets import load_digits

DEFAULT_FILE = Path(__file__).resolve().parents[2] / "gpucnn" / "data" / "digits.npz"


def write_digits(path: Path) -> None:
    """Write `images` (1797, 8, 8), values 0..16, and `labels` (1797,), both uint8, in the source's order."""
    digits = load_digits()
    images = digits.images.astype(np.uint8)
    labels = digits.target.astype(np.uint8)
    if not (np.array_equal(images, digits.images) and np.array_equal(labels, digits.target)):
        raise SystemExit("the digits of this scikit-learn do not fit uint8: expected whole numbers 0..16")
    np.savez_compressed(path, images=images, labels=labels)


if __name__ == "__main__":
    write_digits(Path(sys.argv[1]) if len(sys.argv) > 1 else DEFAULT_FILE)
