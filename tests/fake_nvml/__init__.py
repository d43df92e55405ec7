"""A fake NVML *library*, and the Python side that builds and steers it. See fake_nvml.c for its language."""
