"""A command as our child: it inherits all that we were given, and we pass on to it what is sent to us.

It keeps our standard streams, terminal, process group and signal mask, so that job control, window size and Ctrl-C are
the terminal's business with it. Signals are taken one by one from a set that every thread of ours blocks: so none is
lost between two calls, none ends us before the record is stored, and each tells who sent it. What the terminal sent
went to the whole foreground group, our child included; what a program sent to us alone is passed on. What a program
sent to the whole group cannot be told from that, and reaches the command twice.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

NOT_FOUND, NOT_EXECUTABLE = 127, 126
"""Exit statuses of shells and of `env` for a command that cannot be started."""

SIGNAL_BASE = 128
"""A command that signal n ended is said to have ended with 128 + n."""

_RELAYED = {
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGCONT,
}
_TAKEN = {*_RELAYED, signal.SIGCHLD, signal.SIGTTIN, signal.SIGTTOU}

_PYTHON_IGNORES = {signal.SIGPIPE, signal.SIGXFSZ}
"""What the interpreter ignores for itself, and a child would inherit."""

_SI_KERNEL = 0x80
_PR_SET_CHILD_SUBREAPER = 36


class CommandNotStarted(Exception):
    """The command cannot be started; carries the exit status that says so."""

    def __init__(self, message: str, status: int) -> None:
        """Say `message`, and end with `status`."""
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """How a command ended.

    Attributes:
        status: Its exit status, as shells tell it.
        signal: The signal that ended it; None if it ended by itself.
    """

    status: int
    signal: int | None


def asked_to_end() -> Ending | None:
    """How a command ends that was told to before there was a child to be told; None if it was not."""
    ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT} & signal.sigpending()
    heeded = sorted(int(number) for number in ends if signal.getsignal(number) != signal.SIG_IGN)
    return _killed_by(heeded[0]) if heeded else None


def _killed_by(number: int) -> Ending:
    return Ending(status=SIGNAL_BASE + number, signal=number)


def take_signals() -> set[signal.Signals]:
    """Block, from here on and in every thread started later, what is to be passed on; the mask as it was before.

    A thread that was started earlier would be given the signals instead, and they would end us. To be called once, by
    the main thread. Signals that are ignored (`nohup`, a shell's background job) stay so, for the child too.
    """
    signal.signal(signal.SIGCHLD, lambda *_: None)  # else some systems forget it even while it is blocked
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _TAKEN)
    return {signal.Signals(number) for number in before}


def adopt_orphans() -> None:
    """Ask to be given the descendants whose parents end, so that their CPU time is not lost. Linux only."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def check_program(program: str) -> None:
    """Refuse a command that cannot be started, before anything is recorded of it.

    Raises:
        CommandNotStarted: It does not exist, or may not be executed.
    """
    if shutil.which(program) is not None:
        return
    if shutil.which(program, mode=os.F_OK) or (os.sep in program and Path(program).exists()):
        raise CommandNotStarted(f"{program} cannot be executed", NOT_EXECUTABLE)
    raise CommandNotStarted(f"{program}: command not found", NOT_FOUND)


def start(command: Sequence[str], mask: set[signal.Signals]) -> int:
    """Start the command with the signal mask that we were given ourselves; its process id.

    Raises:
        CommandNotStarted: The system refused.
    """
    try:
        return _spawn(command, mask)
    except OSError as error:
        if error.errno != errno.ENOEXEC:
            status = NOT_FOUND if error.errno == errno.ENOENT else NOT_EXECUTABLE
            raise CommandNotStarted(f"{command[0]}: {error.strerror}", status) from None
    script = shutil.which(command[0]) or command[0]  # no #! line: a shell's to read, as for execvp
    return _spawn(["/bin/sh", script, *command[1:]], mask)


def _spawn(command: Sequence[str], mask: set[signal.Signals]) -> int:
    return os.posix_spawnp(command[0], list(command), os.environ, setsigmask=mask, setsigdef=_PYTHON_IGNORES)


def wait(pid: int) -> Ending:
    """Pass signals on to the child until it ends; stop while it is stopped; reap what it leaves behind."""
    while True:
        number, is_ours = _next_signal()
        if number == signal.SIGCHLD:
            if (ending := _reap(pid)) is not None:
                return ending
        elif is_ours and number in _RELAYED:
            _send(pid, number)


def _next_signal() -> tuple[int, bool]:
    """The next signal, and whether it is ours to pass on: a program's, or SIGCONT, which undoes our own stop."""
    if hasattr(signal, "sigwaitinfo"):
        told = signal.sigwaitinfo(_TAKEN)
        return told.si_signo, told.si_code != _SI_KERNEL or told.si_signo == signal.SIGCONT
    number = signal.sigwait(_TAKEN)  # macOS does not tell who: in a terminal's foreground, the terminal
    return number, number not in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP) or not _in_foreground()


def _in_foreground() -> bool:
    try:
        return os.tcgetpgrp(0) == os.getpgrp()
    except OSError:
        return False


def _reap(pid: int) -> Ending | None:
    """Take note of every child that ended or stopped; the command's ending, if it did."""
    while True:
        ended, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED)
        if ended == 0:
            return None
        if ended == pid and os.WIFSTOPPED(status):
            _stop_like(os.WSTOPSIG(status))
        elif ended == pid:
            code = os.waitstatus_to_exitcode(status)
            return Ending(status=code, signal=None) if code >= 0 else _killed_by(-code)


def _stop_like(number: int) -> None:
    """Stop as our child did at the terminal's wish: the shell that waits for us must see that the job stopped.

    Not for SIGSTOP: whoever stopped the child alone will wake it alone, and we would sleep on.
    """
    if number in (signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU):
        os.kill(os.getpid(), signal.SIGSTOP)


def _send(pid: int, number: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # it has just ended, or became root's (sudo)
        os.kill(pid, number)
