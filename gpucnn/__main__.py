"""`python -m gpucnn`, which is also the installed command `gpucnn`."""

import sys

from gpucnn.cli.blas import restart_with_fast_kernels
from gpucnn.cli.main import main

__all__ = ["run"]


def run() -> int:
    """Run the command line; training gets the BLAS kernels for AVX-512 where the processor has it."""
    if sys.argv[1:2] == ["train"]:  # `doctor` shows what a program gets that does nothing about it
        restart_with_fast_kernels()
    return main()


if __name__ == "__main__":
    sys.exit(run())
