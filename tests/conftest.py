"""Fixtures shared by all tests live in `fixtures_<topic>.py`; name the file here."""

pytest_plugins = ["fixtures_nvml", "fixtures_runs"]
