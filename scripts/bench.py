"""Time training steps, inference and single operations: `python scripts/bench.py --help`."""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench.main import main  # of the folder, which goes before this file
from gpucnn.cli.blas import restart_with_fast_kernels

if __name__ == "__main__":
    restart_with_fast_kernels()  # the workers inherit the choice
    sys.exit(main())
