"""Draws metrics: terminal tables, charts, files."""
