"""The lock of the test environment and the audit of it."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

sys.path.insert(0, str(Path(__file__).parents[1] / "requirements"))
from audit import verdict

ROOT = Path(__file__).parents[1]
LOCKS = sorted((ROOT / "requirements").glob("*.lock"))


def releases(*names: str) -> list[tuple[Requirement, list[str]]]:
    """The releases that a lock pins, each with its hashes."""
    text = "\n".join((ROOT / "requirements" / name).read_text() for name in names)
    blocks = re.split(r"\n(?=\w)", re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).strip())
    return [
        (Requirement(block.split("\\")[0].strip()), re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block))
        for block in blocks
    ]


@pytest.mark.parametrize("lock", LOCKS, ids=lambda path: path.name)
def test_every_release_is_pinned_by_hash_and_no_index_is_named(lock: Path) -> None:
    for release, hashes in releases(lock.name):
        assert re.fullmatch(r"==[^*,]+", str(release.specifier)), release
        assert hashes, release
    allowed = re.compile(r"#.*|\w[^\s;]*==\S+( ; [^\\]+)? \\|    --hash=sha256:[0-9a-f]{64}( \\)?")
    assert [line for line in lock.read_text().splitlines() if not allowed.fullmatch(line)] == []


def test_the_lock_has_what_pyproject_asks_for() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [Requirement(text) for text in [*project["dependencies"], *extras["dashboard"], *extras["dev"]]]
    for torch in ("torch.lock", "torch-cpu.lock"):
        locked = [(release, release.specifier) for release, _ in releases("test.lock", torch)]
        for requirement in wanted:
            pinned = [
                str(s)[2:]
                for r, s in locked
                if canonicalize_name(r.name) == canonicalize_name(requirement.name)
            ]
            assert pinned, f"{requirement} is in no lock: run make lock"
            assert all(requirement.specifier.contains(p) for p in pinned), (
                f"{requirement}, but {pinned}: run make lock"
            )


def test_both_builds_of_torch_are_of_one_release() -> None:
    ((cpu, _),) = releases("torch-cpu.lock")
    (index,) = [release for release, _ in releases("torch.lock") if release.name == "torch"]
    assert str(cpu.specifier) == f"{index.specifier}+cpu"


GOOD = {"name": "a", "version": "1", "vulns": []}
BAD = {
    "name": "b",
    "version": "2",
    "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}, {"id": "CVE-2", "fix_versions": []}],
}
SKIPPED = {"name": "c", "skip_reason": "not found"}


@pytest.mark.parametrize("strict", [False, True])
def test_a_vulnerable_package_fails_the_check(strict: bool) -> None:
    found = verdict([GOOD, BAD, SKIPPED], strict=strict)
    assert not found.is_good
    assert found.says == (
        "audit: b 2 is vulnerable: CVE-1, mended in 3; CVE-2, mended in no release yet. Raise it in pyproject.toml.",
    )


@pytest.mark.parametrize("answer", [None, [], [SKIPPED]])
def test_an_audit_that_asked_nobody_is_none(answer: list[dict[str, object]] | None) -> None:
    assert verdict(answer, strict=False).is_good
    assert not verdict(answer, strict=True).is_good
    assert verdict(answer, strict=False).says == ("audit: NOT AUDITED, no vulnerability service answered.",)


def test_what_was_not_asked_about_is_named() -> None:
    assert verdict([GOOD, SKIPPED], strict=False).says == (
        "audit: 1 packages, no known vulnerability. NOT AUDITED: c.",
    )
    assert not verdict([GOOD, SKIPPED], strict=True).is_good
    assert verdict([GOOD], strict=True).is_good
