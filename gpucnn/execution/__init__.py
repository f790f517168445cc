"""How a network runs: the order of its operations, the memory that they share, threads, and recordings."""
