"""Thin bridges to training frameworks; the only files that import those."""
