"""A real SLURM of one node, in a folder of its own: munged, slurmctld and slurmd on ports that nobody uses.

    with OneNodeSlurm(folder) as slurm:
        subprocess.run(["srun", "-n2", "hostname"], env=slurm.env)

Needs root and Debian's `slurm-wlm` and `munge`. Nothing listens outside of the loopback interface.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

PROGRAMS = ("slurmctld", "slurmd", "munged", "srun", "sinfo", "setpriv")
START_S = 30.0

_CONF = """
ClusterName=joulescale
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={control_port}
SlurmdPort={node_port}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_min_interval=0
MpiDefault=none
ReturnToService=2
SlurmdTimeout=300
KillWait=2
JobRequeue=1
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP OverSubscribe=FORCE:4
"""


class OneNodeSlurm:
    """Started on entering, stopped on leaving.

    Args:
        folder: For its log files.

    Attributes:
        env: The environment in which `srun`, `sbatch` and the like find it.
    """

    def __init__(self, folder: Path) -> None:
        self._logs = folder
        self._folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # a socket's path must be short
        self._started: list[subprocess.Popen[bytes]] = []
        self.env = {**os.environ, "SLURM_CONF": str(self._folder / "slurm.conf")}

    def __enter__(self) -> Self:
        try:
            self._start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """End the daemons, newest first, and keep their logs."""
        for daemon in reversed(self._started):
            daemon.terminate()
        for daemon in self._started:
            try:
                daemon.wait(timeout=5.0)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for log in self._folder.glob("*.log"):
            shutil.copy(log, self._logs)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        folder = self._folder
        folder.chmod(0o755)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        for name in ("state", "spool"):
            (folder / name).mkdir()
        self._write_conf()
        munge = [f"--{name}={folder / f'munge.{end}'}" for name, end in _MUNGE_FILES.items()]
        self._daemon("munged", "--foreground", "--force", "--num-threads=1", *munge)
        self._wait_for("munged", lambda: (folder / "munge.socket").exists())
        conf = str(folder / "slurm.conf")
        self._daemon("slurmctld", "-D", "-f", conf)
        self._daemon("slurmd", "-D", "-f", conf, "-N", socket.gethostname())
        self._wait_for("slurmd", self._is_idle)

    def _write_conf(self) -> None:
        control_port, node_port = _free_ports(2)
        text = _CONF.format(
            host=socket.gethostname(),
            folder=self._folder,
            control_port=control_port,
            node_port=node_port,
            cpus=os.cpu_count() or 1,
        )
        (self._folder / "slurm.conf").write_text(text)

    def _daemon(self, *command: str) -> None:
        with (self._folder / f"{command[0]}.out.log").open("wb") as out:
            self._started.append(
                subprocess.Popen(_with_us(command), env=self.env, stdout=out, stderr=subprocess.STDOUT)
            )

    def _is_idle(self) -> bool:
        asked = subprocess.run(
            ["sinfo", "-h", "-o", "%t"], env=self.env, capture_output=True, text=True, check=False
        )
        return asked.stdout.strip() == "idle"

    def _wait_for(self, what: str, is_up: Callable[[], bool]) -> None:
        until_s = time.monotonic() + START_S
        while not is_up():
            if time.monotonic() > until_s:
                said = "\n".join(log.read_text()[-1000:] for log in sorted(self._folder.glob("*.log")))
                raise RuntimeError(f"{what} did not come up within {START_S:g} s:\n{said}")
            time.sleep(0.1)


def _with_us(command: Sequence[str]) -> list[str]:
    """The command, ended by the kernel if this process is killed."""
    return ["setpriv", "--pdeathsig", "TERM", *command]


_MUNGE_FILES = {
    "key-file": "key",
    "socket": "socket",
    "pid-file": "pid",
    "seed-file": "seed",
    "log-file": "log",
}


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]
    finally:
        for one in sockets:
            one.close()
