"""Writes the hash-checked lock of the environment that `make` installs: `make lock`.

    test.lock         everything but torch and what only torch brings, for all platforms, every hash of each release
    torch-cpu.lock    torch's CPU build, a tenth of the size, where an index or a folder of wheels offers it
    torch.lock        torch as the public index has it, with NVIDIA's libraries, where no CPU build is found

`make` installs with `--require-hashes --no-deps`, so that nothing enters that is not written here. Files of a lock
name no index: where packages come from is the machine's own setting, what they are is not.
"""

from __future__ import annotations

import hashlib
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

HERE = Path(__file__).parent
EXTRAS = ("dashboard", "dev")
_OF_TORCH = re.compile(r"(torch|triton|cuda-.*|nvidia-(?!ml-py).*)==")


def main() -> None:
    """Resolve pyproject.toml anew and replace the three files."""
    blocks = _resolved()
    _write("test.lock", (block for block in blocks if not _OF_TORCH.match(block)))
    of_torch = [block for block in blocks if _OF_TORCH.match(block)]
    _write("torch.lock", of_torch)
    version = next(match[1] for block in of_torch if (match := re.match(r"torch==(\S+)", block)))
    _write("torch-cpu.lock", [_cpu_build(f"{version}+cpu")])


def _resolved() -> list[str]:
    """One block a release: its name, version and marker, and every hash of it."""
    extras = [word for extra in EXTRAS for word in ("--extra", extra)]
    how = ["--universal", "--python-version", "3.11", "--generate-hashes", "--no-header", "--no-annotate"]
    done = subprocess.run(
        ["uv", "pip", "compile", "--quiet", str(HERE.parent / "pyproject.toml"), *extras, *how, "--upgrade"],
        check=True,
        capture_output=True,
        text=True,
    )
    return re.split(r"\n(?=\w)", done.stdout.strip())


def _cpu_build(version: str) -> str:
    """The CPU build that this machine's index has, by the hash of the wheel itself."""
    with tempfile.TemporaryDirectory() as folder:
        download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", folder]
        subprocess.run([*download, f"torch=={version}"], check=True)
        wheel = next(Path(folder).glob("*.whl"))
        return f"torch=={version} \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}"


def _write(name: str, blocks: Iterable[str]) -> None:
    head = "# Made by `make lock` of pyproject.toml; see requirements/lock.py.\n"
    (HERE / name).write_text(head + "\n".join(blocks) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
