"""The parts of `benchmarks/accuracy.py`: what is played to the fake NVML library, who reads it, and how they did."""
