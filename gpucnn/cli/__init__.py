"""The command line: `gpucnn train` and `gpucnn doctor`."""
