"""The checks of `benchmarks/gpu.py`, one a file."""
