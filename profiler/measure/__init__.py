"""Runs inside the training: sensors, sampler, recorder. Light, and never raises into it."""
