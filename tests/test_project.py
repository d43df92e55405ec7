"""The project as it is handed over: the wheel, the README, and what must not be in the tree."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from profiler.cli.main import app

ROOT = Path(__file__).parents[1]
PACKAGES = {"profiler", "workloads", "dashboard"}


def tracked() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name]


def test_the_wheel_holds_exactly_the_three_packages(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    (wheel,) = tmp_path.glob("joulescale-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    inside = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert inside == PACKAGES
    assert {f"{package}/py.typed" for package in PACKAGES} <= set(names)
    sources = {p.relative_to(ROOT).as_posix() for package in PACKAGES for p in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_readme_names_what_there_is() -> None:
    text = (ROOT / "README.md").read_text()
    for picture in re.findall(r"!\[[^]]*\]\(([^)]+)\)", text):
        assert (ROOT / picture).is_file(), picture
    tree = text.split("## The file map")[1].split("```")[1]
    for line in tree.strip().splitlines():
        name = line.split()[0]
        parent = "profiler/" if line.startswith("  ") else ""
        assert (ROOT / parent / name).exists(), name


def test_the_readmes_commands_exist() -> None:
    text = (ROOT / "README.md").read_text()
    blocks = "\n".join(re.findall(r"```console\n(.*?)```", text, re.DOTALL))
    commands = {line.split()[1] for line in blocks.splitlines() if line.startswith("joulescale ")}
    assert commands >= {"run", "sweep", "list", "show", "scale", "dashboard", "doctor"}
    for command in commands:
        done = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "200"})
        assert done.exit_code == 0
        for line in blocks.splitlines():
            if line.startswith(f"joulescale {command} "):
                for option in re.findall(r"(--[a-z-]+)", line.split("#")[0]):
                    assert option in done.stdout, (line, option)
    targets = {line.split()[1] for line in blocks.splitlines() if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in targets)


README_SCRIPT = """
import lightning as L, torch
from torch.utils.data import DataLoader, TensorDataset

class Model(L.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(2, 2)
    def training_step(self, batch, i):
        return self.net(batch[0]).square().mean()
    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

model, data = Model(), DataLoader(TensorDataset(torch.randn(8, 2)), 2)
"""


LOOP_SCRIPT = """
import torch
model, loader = torch.nn.Linear(2, 2), [torch.randn(4, 2) for _ in range(5)]
"""


@pytest.mark.parametrize(("number", "before"), [(0, README_SCRIPT), (1, LOOP_SCRIPT)])
def test_the_readmes_examples_run(number: int, before: str, tmp_path: Path) -> None:
    examples = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(examples) == 2
    done = subprocess.run(
        [sys.executable, "-c", before + examples[number]],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (manifest,) = (tmp_path / "runs").glob("*/run.json")
    assert json.loads(manifest.read_text())["status"] == "finished"


def test_no_path_of_a_machine_is_in_the_project() -> None:
    private = re.compile(r"/(home|root|work|Users)/[a-z]")
    for path in tracked():
        if path.suffix in (".py", ".md", ".toml", ".json", ".yml", "") and path.is_file():
            found = private.search(path.read_text(encoding="utf-8", errors="ignore"))
            assert found is None, f"{path}: {found}"


def test_nothing_shadows_a_package() -> None:
    assert not (ROOT / "tests" / "profiler").exists(), "a tests/profiler folder would shadow the package"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) == PACKAGES
