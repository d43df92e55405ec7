"""`joulescale exec` with real processes, real signals and a real terminal: the command must not notice it."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from fake_nvml.build import subprocess_env
from typer.testing import CliRunner

from profiler.cli.child_process import CommandNotStarted, check_program
from profiler.cli.main import make_app
from profiler.metrics.summary import summarize
from profiler.store.run import StoredRun
from profiler.store.runs import open_run

JOULESCALE = [sys.executable, "-m", "profiler.cli.main"]
ROOT = Path(__file__).parents[1]
TIMEOUT_S = 120


def python(code: str) -> list[str]:
    """A small program as a command; without site-packages it starts in 20 ms."""
    return [sys.executable, "-S", "-c", textwrap.dedent(code)]


class Exec:
    """`joulescale exec` in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.environment = {**os.environ, "PYTHONPATH": str(ROOT)}

    def start(self, *command: str, options: tuple[str, ...] = (), **how: Any) -> subprocess.Popen[str]:
        pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
        words = [*JOULESCALE, "exec", *options, "--", *command]
        return subprocess.Popen(words, cwd=self.folder, env=self.environment, text=True, **{**pipes, **how})

    def run(
        self, *command: str, options: tuple[str, ...] = (), stdin: str = ""
    ) -> subprocess.CompletedProcess[str]:
        process = self.start(*command, options=options)
        out, err = process.communicate(stdin, timeout=TIMEOUT_S)
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    @property
    def recorded(self) -> StoredRun:
        return open_run(self.folder / "runs", "latest")


@pytest.fixture
def exec_(tmp_path: Path) -> Exec:
    return Exec(tmp_path)


def wait_for(path: Path) -> str:
    """What a process wrote into a file, once it did."""
    give_up_s = time.monotonic() + TIMEOUT_S
    while not path.exists() or not path.read_text().endswith("\n"):
        assert time.monotonic() < give_up_s, f"{path} was never written"
        time.sleep(0.02)
    return path.read_text()


WITNESS = """
    import json, os, signal, sys
    masks = {}
    for thread in set(os.listdir(f"/proc/{os.getppid()}/task")) - {str(os.getppid())}:  # which waits for them
        status = open(f"/proc/{os.getppid()}/task/{thread}/status").read()
        masks[thread] = int(status.split("SigBlk:")[1].split()[0], 16)
    blocked = open("/proc/self/status").read().split("SigBlk:")[1].split()[0]
    print(json.dumps({
        "words": sys.argv[1:], "stdin": sys.stdin.read(), "masks": list(masks.values()),
        "blocked": int(blocked, 16),
        "groups": [os.getpgrp(), os.getpgid(os.getppid())],
    }))
    print("on stderr", file=sys.stderr)
    sys.exit(7)
"""
"""Says what it was given, and which signals each thread of its parent blocks."""


def test_the_command_gets_all_that_is_its_own_and_nothing_of_ours(exec_: Exec) -> None:
    words = ["--runs-dir", "elsewhere", "--quiet", "--", "--help", "", "ü\udce9"]
    program = python(WITNESS)
    # -c: the options that follow are the program's
    done = exec_.run(*program, *words, stdin="a line\n")
    said = json.loads(done.stdout)
    assert (done.returncode, said["words"], said["stdin"]) == (7, words, "a line\n")
    assert said["groups"][0] == said["groups"][1]
    ours, *more = done.stderr.splitlines()[::-1]
    assert more == ["on stderr"]
    assert ours.startswith("joulescale: ")
    assert f"joulescale show {exec_.recorded.run_id} --runs-dir runs" in ours

    taken = [signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, signal.SIGTSTP, signal.SIGUSR1]
    for mask in said["masks"]:
        assert all(mask >> (number - 1) & 1 for number in taken), "a thread of ours would take the signals"
    assert len(said["masks"]) >= 2  # the sampler's and the writer's
    assert said["blocked"] == 0


def test_what_is_stored_and_shown(exec_: Exec) -> None:
    secret = "hunter2"
    exec_.run("sh", "-c", f": {secret}; exit 3", options=("--name", "mine", "--country", "FRA", "--quiet"))
    run = exec_.recorded
    assert (run.run_id, run.status, run.manifest.workload) == ("mine", "finished", None)
    assert run.manifest.settings == {
        "program": "sh",
        "arguments": 2,
        "ending": {"exit_status": 3, "signal": None},
    }
    assert run.manifest.carbon["country"] == "FRA"
    stored = b"".join(p.read_bytes() for p in run.path.rglob("*") if p.is_file())
    assert secret.encode() not in stored
    (fit,) = run.processes[0].marks.to_dicts()
    assert fit["kind"] == "fit"
    assert fit["start_s"] < fit["end_s"]
    assert json.loads(fit["note"])["exit_status"] == 3

    summary = summarize(run)
    assert summary["steps"] == 0
    assert summary["duration_s"] == pytest.approx(fit["end_s"] - fit["start_s"])
    no_steps = "no steps: exec sees the command from outside"
    assert {
        summary["notes"][key] for key in ("loss", "tokens", "efficiency.mfu", "memory.peak_host_rss_bytes")
    } == {no_steps}
    assert summary["notes"]["command"].startswith(
        "sh with 2 arguments (not stored: they may hold secrets), exit status 3, "
    )
    for verb in ("show", "list"):
        shown = CliRunner().invoke(make_app(verb), [verb, "--runs-dir", str(exec_.folder / "runs")])
        assert (shown.exit_code, "mine" in shown.stdout) == (0, True)


def test_stored_arguments_lose_the_password_of_the_program_itself(exec_: Exec) -> None:
    fake = exec_.folder / "mysql"
    fake.write_text("#!/bin/sh\n")
    fake.chmod(0o755)
    exec_.run(str(fake), "-uroot", "-phunter2", "db", options=("--quiet", "--store-arguments"))
    assert exec_.recorded.manifest.settings["arguments"] == ["-uroot", "-p[redacted]", "db"]
    stored = b"".join(p.read_bytes() for p in exec_.recorded.path.rglob("*") if p.is_file())
    assert b"hunter2" not in stored


def test_one_argument_is_one(exec_: Exec) -> None:
    exec_.run("sh", "/dev/null", options=("--quiet",))
    assert summarize(exec_.recorded)["notes"]["command"].startswith("sh with 1 argument (not stored")


BURN = "import time; e = time.process_time() + {0}\nwhile time.process_time() < e: pass\n"


def test_cpu_time_of_reaped_and_orphaned_descendants_counts(exec_: Exec) -> None:
    """A shell reaps one child; another is left without a parent, and ends before the command does."""
    burn = [f"{sys.executable} -S -c '{BURN.format(seconds)}'" for seconds in (0.3, 0.5)]
    orphan = f"( ( {burn[1]}; echo done > orphan ) & )"
    command = f"{orphan}; {burn[0]}; while [ ! -e orphan ]; do sleep 0.05; done; sleep 0.1"
    done = exec_.run("sh", "-c", command)
    assert done.returncode == 0, done.stderr
    component = summarize(exec_.recorded)["energy"]["components"][0]
    meter = exec_.recorded.processes[0].facts.meters[0]
    assert meter["source"] == "estimated"
    cpu_s = json.loads(exec_.recorded.processes[0].marks["note"][0])["cpu_s"]
    assert 0.8 <= cpu_s < 3.0  # starting six interpreters and shells is in it
    assert component["energy_j"] == pytest.approx(cpu_s * meter["joules_per_cpu_s"], rel=0.1)


COUNTS = """
    import os, signal, sys, time
    got = []
    for name in {names}:
        signal.signal(getattr(signal, name), lambda number, frame: got.append(number))
    open("ready", "w").write("ready\\n")
    while len(got) < {wanted}: time.sleep(0.01)
    time.sleep(0.3)  # for one that comes twice
    print(*got, flush=True)
"""


def test_signals_sent_to_us_reach_the_command_once(exec_: Exec) -> None:
    names = ("SIGUSR1", "SIGUSR2", "SIGHUP", "SIGQUIT", "SIGINT", "SIGTERM")
    process = exec_.start(*python(COUNTS.format(names=names, wanted=len(names))))
    wait_for(exec_.folder / "ready")
    for name in names:
        os.kill(process.pid, getattr(signal, name))
        time.sleep(0.05)
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert sorted(map(int, out.split())) == sorted(getattr(signal, name) for name in names), err
    assert (process.returncode, exec_.recorded.status) == (0, "finished")


def test_a_command_that_a_signal_ended(exec_: Exec) -> None:
    process = exec_.start("sh", "-c", "echo ready > ready; exec sleep 60", options=("--quiet",))
    wait_for(exec_.folder / "ready")
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=TIMEOUT_S) == ("", "")
    assert process.returncode == 128 + signal.SIGTERM
    assert exec_.recorded.status == "interrupted"
    assert exec_.recorded.manifest.settings["ending"] == {"exit_status": 143, "signal": 15}


TERMINAL = """
    import os, signal, sys, time
    got = []
    signal.signal(signal.SIGINT, lambda number, frame: got.append(number))
    print(sys.stdin.isatty(), sys.stdout.isatty(), *os.get_terminal_size(), os.tcgetpgrp(0) == os.getpgrp(), flush=True)
    while not got: time.sleep(0.01)
    time.sleep(0.3)  # for one that comes twice
    print("interrupts", len(got), flush=True)
    os.kill(os.getpid(), signal.SIGINT) if len(got) > 1 else sys.exit(5)
"""


def test_ctrl_c_in_a_terminal_comes_once(exec_: Exec) -> None:
    """As the shell gives it: a terminal of 40 lines by 100, whose foreground is ours and the command's."""
    pid, master = pty.fork()
    if pid == 0:
        os.chdir(exec_.folder)
        os.execve(
            sys.executable, [*JOULESCALE, "exec", "--quiet", "--", *python(TERMINAL)], exec_.environment
        )
    import fcntl
    import struct
    import termios

    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
    said = read_until(master, "\n")
    os.write(master, b"\x03")
    said += read_until(master, "interrupts 1")
    _, status = os.waitpid(pid, 0)
    os.close(master)
    assert said.split() == ["True", "True", "100", "40", "True", "^Cinterrupts", "1"]
    assert os.waitstatus_to_exitcode(status) == 5


def read_until(terminal: int, wanted: str) -> str:
    text = ""
    while wanted not in text:
        text += os.read(terminal, 1024).decode()
    return text


def test_a_job_that_is_stopped_stops_and_goes_on(exec_: Exec) -> None:
    process = exec_.start(
        "sh", "-c", "echo ready > ready; while [ ! -e go ]; do sleep 0.05; done", process_group=0
    )
    wait_for(exec_.folder / "ready")
    os.kill(process.pid, signal.SIGTSTP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    (exec_.folder / "go").touch()
    os.kill(process.pid, signal.SIGCONT)  # ours alone: it is passed on
    assert process.communicate(timeout=TIMEOUT_S)[0] == ""
    assert process.returncode == 0


def test_killing_us_leaves_the_command_alone(exec_: Exec) -> None:
    code = """
        import sys, time, os
        open("ready", "w").write("ready\\n")
        while not os.path.exists("go"): time.sleep(0.02)
        print("still heard", flush=True)
        open("end", "w").write("end\\n")
    """
    process = exec_.start(*python(code))
    wait_for(exec_.folder / "ready")
    process.kill()
    process.wait(timeout=TIMEOUT_S)
    (exec_.folder / "go").touch()
    wait_for(exec_.folder / "end")
    assert process.communicate(timeout=TIMEOUT_S)[0] == "still heard\n"
    assert exec_.recorded.status == "lost"


def test_a_runs_folder_that_cannot_be_one_costs_the_record_only(exec_: Exec) -> None:
    """The command is a script without a first line: the shell's to read, as for execvp."""
    (exec_.folder / "runs").write_text("a file")
    script = exec_.folder / "script"
    script.write_text("echo $1 $0; grep SigIgn /proc/self/status; exit 4\n")
    script.chmod(0o755)
    done = exec_.run("./script", "word")
    words, ignored = done.stdout.splitlines()
    assert (done.returncode, words) == (4, "word ./script")
    assert not int(ignored.split()[1], 16) >> (signal.SIGPIPE - 1) & 1  # Python's, not to be inherited
    assert done.stderr == (
        f"joulescale: The runs folder {str(exec_.folder / 'runs')!r} is a file. Name a folder with --runs-dir. "
        "The command goes unrecorded.\n"
    )


@pytest.mark.parametrize(
    ("program", "status", "message"),
    [
        ("no-such-command-at-all", 127, "no-such-command-at-all: command not found"),
        ("./plain", 126, "./plain cannot be executed"),
        ("./missing", 127, "./missing: command not found"),
        ("/", 126, "/ cannot be executed"),
    ],
)
def test_what_cannot_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, status: int, message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").write_text("no program")
    with pytest.raises(CommandNotStarted, match=f"^{message}$") as refusal:
        check_program(program)
    assert refusal.value.status == status


def test_a_command_that_cannot_be_started_leaves_no_run(exec_: Exec) -> None:
    done = exec_.run("no-such-command-at-all")
    assert (done.returncode, done.stderr) == (127, "joulescale: no-such-command-at-all: command not found\n")
    assert not (exec_.folder / "runs").exists()


def usage(*words: str, folder: Path) -> tuple[int, str]:
    done = subprocess.run(
        [*JOULESCALE, "exec", *words],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
    )
    return done.returncode, done.stderr.decode()


def test_a_wrong_call_starts_nothing(tmp_path: Path) -> None:
    assert usage(folder=tmp_path) == (
        2,
        "joulescale: exec was given no command, so there is nothing to run. Write it as "
        "'joulescale exec -- python train.py'.\n",
    )
    status, said = usage("--name", "a/b", "--", "touch", "started", folder=tmp_path)
    assert (status, "cannot be a folder's name" in said) == (2, True)
    assert not (tmp_path / "started").exists()


def nvml(exec_: Exec, library: Path, script: str, **variables: str) -> None:
    exec_.environment = {
        **exec_.environment,
        **subprocess_env(library, exec_.folder / "gpus", script, **variables),
    }


def test_gpus_that_are_visible_are_measured(exec_: Exec, nvml_library: Path) -> None:
    script = """
        gpu GPU-aaaa NVIDIA H100 80GB HBM3
        power 0 0 400
        update 0 0.01
        gpu GPU-bbbb NVIDIA A100-SXM4-80GB
        power 1 0 100
        update 1 0.01
        gpu GPU-cccc NVIDIA A100-SXM4-80GB
        power 2 0 50
    """
    nvml(exec_, nvml_library, script, CUDA_VISIBLE_DEVICES="1,0")
    done = exec_.run("sleep", "1.5")
    assert (done.returncode, done.stdout) == (0, "")
    summary = summarize(exec_.recorded)
    found = {part["device"]: part for part in summary["energy"]["components"] if part["component"] == "gpu"}
    assert list(found) == ["GPU-bbbb", "GPU-aaaa"]
    for device, watts in (("GPU-aaaa", 400.0), ("GPU-bbbb", 100.0)):
        true_j = watts * summary["duration_s"]
        assert abs(found[device]["energy_j"] - true_j) <= found[device]["plus_minus_j"]
        assert found[device]["plus_minus_j"] < 0.15 * true_j
    assert summary["energy"]["headline"] == "measured"


def test_the_command_does_not_wait_for_a_slow_driver(exec_: Exec, nvml_library: Path) -> None:
    """It starts while the sensors are still being opened, and is recorded from then on; the rest is a gap."""
    slow = "gpu GPU-aaaa NVIDIA H100 80GB HBM3\npower 0 0 400\nhang nvmlDeviceGetCount_v2 2.3\n"
    nvml(exec_, nvml_library, slow, CUDA_VISIBLE_DEVICES="0")
    recording = "runs/*/attempt-1/*/process.json"
    done = exec_.run("sh", "-c", f"while ! ls {recording} 2> /dev/null; do sleep 0.05; done; sleep 5")
    assert done.returncode == 0, done.stderr
    run = exec_.recorded
    assert run.manifest.notes["start"].startswith("the sensors were open ")
    assert run.processes[0].marks["start_s"][0] < 0.0
    (gpu,) = (part for part in summarize(run)["energy"]["components"] if part["component"] == "gpu")
    assert gpu["coverage"] < 0.9
    assert abs(gpu["energy_j"] - 400.0 * summarize(run)["duration_s"]) <= gpu["plus_minus_j"]


def test_a_short_command_does_not_wait_for_a_driver_that_hangs(exec_: Exec, nvml_library: Path) -> None:
    nvml(exec_, nvml_library, "gpu GPU-aaaa NVIDIA H100 80GB HBM3\nhang nvmlInit 30\n")
    done = exec_.run("sh", "-c", "echo out; exit 9")
    assert (done.returncode, done.stdout) == (9, "out\n")
    assert done.stderr == (
        "joulescale: The sensors were still not open when the command had ended. The command goes unrecorded.\n"
    )


def test_what_is_loaded_before_the_command_is_light() -> None:
    """Nothing that starts a thread before signals are blocked, or that the command would wait for."""
    code = "from profiler.cli.main import make_app; import sys; make_app('exec'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"numpy", "polars", "pyarrow", "torch", "pynvml"} & set(done.stdout.split())


def test_a_recording_loads_no_torch() -> None:
    code = "import profiler.measure.command, sys; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "lightning", "codecarbon"} & set(done.stdout.split())


def test_being_told_to_end_before_the_command_started() -> None:
    """What was sent then reached no command, so none is started; what is ignored (nohup) does not count."""
    code = """
        import os, signal, sys
        from profiler.cli.child_process import asked_to_end, take_signals
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # whoever runs these tests in the background ignores it
        take_signals()
        for name in ("SIGHUP", "SIGUSR1"):
            os.kill(os.getpid(), getattr(signal, name))
        assert asked_to_end() is None
        os.kill(os.getpid(), signal.SIGINT)
        print(asked_to_end())
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout == "Ending(status=130, signal=2)\n"
