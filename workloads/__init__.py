"""Seeded reference transformer trainings with known FLOPs."""
