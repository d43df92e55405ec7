"""Sensors behind two seams: an energy counter and a gauge."""
