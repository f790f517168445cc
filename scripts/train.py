"""Train a network on images, on a CPU or an NVIDIA GPU: `python scripts/train.py --help`."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this checkout, installed or not

from gpucnn.cli.blas import restart_with_fast_kernels
from gpucnn.cli.main import main

if __name__ == "__main__":
    restart_with_fast_kernels()
    sys.exit(main(["train", *sys.argv[1:]]))
