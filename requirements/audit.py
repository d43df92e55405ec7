"""Asks a vulnerability service about everything that is installed: part of `make check`; `make audit` insists on it.

    python requirements/audit.py [--strict]

The exit status is 1 if something is known to be vulnerable, and with `--strict` if anything could not be asked about.
pip-audit alone says "No known vulnerabilities found" where the service knew none of the packages, as a mirror of the
index without it does; so what was asked and answered is counted here.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

OURS = "joulescale"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What came of an audit: whether it is good enough, and what to say."""

    is_good: bool
    says: tuple[str, ...]


def main() -> None:
    """Audit what is installed here, and say what came of it."""
    found = verdict(_audit(_installed()), strict="--strict" in sys.argv[1:])
    print("\n".join(found.says))
    sys.exit(0 if found.is_good else 1)


def verdict(packages: Sequence[Mapping[str, Any]] | None, *, strict: bool) -> Verdict:
    """What pip-audit's answer means; None stands for no answer at all."""
    asked = [package for package in packages or () if "skip_reason" not in package]
    vulnerable = [package for package in asked if package["vulns"]]
    if vulnerable:
        return Verdict(is_good=False, says=tuple(map(_sentence, vulnerable)))
    if not asked:
        return Verdict(is_good=not strict, says=("audit: NOT AUDITED, no vulnerability service answered.",))
    unknown = [package["name"] for package in packages or () if "skip_reason" in package]
    says = f"audit: {len(asked)} packages, no known vulnerability."
    if unknown:
        says += f" NOT AUDITED: {', '.join(unknown)}."
    return Verdict(is_good=not (strict and unknown), says=(says,))


def _sentence(package: Mapping[str, Any]) -> str:
    known = "; ".join(
        f"{vulnerability['id']}, mended in {', '.join(vulnerability['fix_versions']) or 'no release yet'}"
        for vulnerability in package["vulns"]
    )
    return (
        f"audit: {package['name']} {package['version']} is vulnerable: {known}. Raise it in pyproject.toml."
    )


def _installed() -> dict[str, str]:
    """Versions by name; a build such as torch's `2.13.0+cpu` is asked about as its release."""
    found = {dist.name: dist.version.partition("+")[0] for dist in distributions()}
    return {name: version for name, version in found.items() if name != OURS}


def _audit(installed: Mapping[str, str]) -> list[dict[str, Any]] | None:
    with tempfile.TemporaryDirectory() as folder:
        asked = Path(folder) / "installed.txt"
        asked.write_text("".join(f"{name}=={version}\n" for name, version in installed.items()))
        options = ["--no-deps", "--disable-pip", "--progress-spinner", "off", "--format", "json"]
        ended = subprocess.run(
            [sys.executable, "-m", "pip_audit", "--requirement", str(asked), *options],
            capture_output=True,
            text=True,
            check=False,
        )
    try:
        found: list[dict[str, Any]] = json.loads(ended.stdout)["dependencies"]
    except ValueError:
        return None
    return found


if __name__ == "__main__":
    main()
