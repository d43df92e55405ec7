"""A lease is held by a living process only, however it ends, and never by its children."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from profiler.store.lease import LEASE_NAME, Lease, is_held

HOLD = (
    "import os, sys, time; from pathlib import Path; from profiler.store.lease import Lease;"
    "lease = Lease(Path(sys.argv[1])); {then}; print('held', flush=True); time.sleep(60)"
)


def _holder(folder: Path, then: str = "pass") -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", HOLD.format(then=then), str(folder)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, start_new_session=True)
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def test_nobody_can_tell_of_a_folder_without_a_lease(tmp_path: Path):
    assert is_held(tmp_path) is None


def test_a_lease_is_held_until_it_is_released(tmp_path: Path):
    lease = Lease(tmp_path)
    assert is_held(tmp_path) is True
    lease.release()
    assert is_held(tmp_path) is False
    assert (tmp_path / LEASE_NAME).exists()


def test_asking_does_not_take_it(tmp_path: Path):
    lease = Lease(tmp_path)
    lease.release()
    assert is_held(tmp_path) is False
    again = Lease(tmp_path)
    assert is_held(tmp_path) is True
    again.release()


def test_a_killed_process_holds_nothing(tmp_path: Path):
    process = _holder(tmp_path)
    assert is_held(tmp_path) is True
    process.kill()
    process.wait()
    assert is_held(tmp_path) is False


def test_a_child_that_outlives_it_holds_nothing(tmp_path: Path):
    process = _holder(tmp_path, then="child = os.fork(); child or time.sleep(60)")
    try:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        time.sleep(0.05)
        assert is_held(tmp_path) is False
    finally:
        os.killpg(process.pid, signal.SIGKILL)
