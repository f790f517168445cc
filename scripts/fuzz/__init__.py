"""Changed files for every reader of gpucnn, which must answer with errors of the library's own."""
