"""Bytes on disk: Parquet parts, manifests, the runs folder, and reading them back."""
