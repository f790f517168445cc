"""The benchmark `scripts/bench.py`: engines that take turns, and what is made of their times."""
