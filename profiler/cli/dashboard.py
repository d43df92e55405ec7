"""`joulescale dashboard`: starts the Streamlit dashboard for this machine only."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer

from profiler.errors import InvalidValueError, UsageError
from profiler.store.folder import readable_runs_dir

HOST = "127.0.0.1"
_POLL_S = 0.2

_SAFETY: Mapping[str, str] = {
    "server.address": HOST,
    "browser.serverAddress": HOST,
    "server.headless": "true",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.enableStaticServing": "false",
    "server.maxUploadSize": "1",
    "server.fileWatcherType": "none",
    "server.runOnSave": "false",
    "runner.magicEnabled": "false",
    "browser.gatherUsageStats": "false",
    "client.showErrorDetails": "none",
    "client.showErrorLinks": "false",
    "client.toolbarMode": "minimal",
    "logger.hideWelcomeMessage": "true",
}

_LOOK: Mapping[str, str] = {
    "theme.baseRadius": "0.4rem",
    "theme.showWidgetBorder": "true",
    "theme.paddingTop": "2.5rem",
    "theme.metricValueFontSize": "1.6rem",
    "theme.light.primaryColor": "#1f7a63",
    "theme.light.backgroundColor": "#ffffff",
    "theme.light.secondaryBackgroundColor": "#f4f6f5",
    "theme.light.textColor": "#1f2726",
    "theme.dark.primaryColor": "#4fc3a1",
    "theme.dark.backgroundColor": "#101615",
    "theme.dark.secondaryBackgroundColor": "#1a2221",
    "theme.dark.textColor": "#e7edeb",
}


def dashboard(
    runs_dir: Annotated[Path, typer.Option(help="The runs folder to show.")] = Path("runs"),
    port: Annotated[int, typer.Option(help="The port on 127.0.0.1 to listen at.")] = 8501,
) -> None:
    """Show stored runs in the browser, on this machine only. Ctrl-C ends it."""
    if runs_dir.exists():
        readable_runs_dir(runs_dir)  # refuses a file and somebody else's folder
    else:
        typer.echo(
            f"joulescale: there is no runs folder {str(runs_dir)!r} yet; the page will say so.", err=True
        )
    server = _server_file()
    _check_streamlit()
    _check_port(port)
    print(f"joulescale dashboard of {runs_dir} at http://{HOST}:{port}  (Ctrl-C ends it)", flush=True)  # noqa: T201
    _serve(_command(server, port), _environment(server, runs_dir, port))


def _server_file() -> Path:
    """Where the dashboard is. It is found, not imported: the profiler does not depend on it."""
    found = importlib.util.find_spec("dashboard")
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [Path(folder) / "server.py" for folder in folders]
    if not any(file.is_file() for file in files):
        seen = f" Another package of that name comes first: {folders[0]}." if folders else ""
        raise UsageError(
            f"The package 'dashboard' of joulescale was not found.{seen} Install joulescale again."
        )
    return next(file for file in files if file.is_file())


def _check_streamlit() -> None:
    missing = [name for name in ("streamlit", "altair") if importlib.util.find_spec(name) is None]
    if missing:
        raise UsageError(
            f"The dashboard needs {' and '.join(missing)}, which is not installed."
            " Install it with: pip install 'joulescale[dashboard]'"
        )


def _check_port(port: int) -> None:
    if not 1 <= port <= 65_535:
        raise InvalidValueError(f"The port {port} is not within 1 to 65535. Give another with --port.")
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise UsageError(
                f"The dashboard cannot listen at {HOST}:{port}: {error.strerror}."
                " End what listens there, or choose another port:"
                f" joulescale dashboard --port {port % 65_535 + 1}"
            ) from error


def _command(server: Path, port: int) -> list[str]:
    """Streamlit's command line. `-P`: files in the current folder must not stand in for installed modules."""
    flags = {**_SAFETY, "server.port": str(port), **_LOOK}
    options = [f"--{name}={value}" for name, value in flags.items()]
    # a list is given by repeating the flag
    options += [f"--server.allowedHosts={host}" for host in (HOST, "localhost")]
    return [sys.executable, "-P", "-m", "streamlit", "run", str(server), *options]


def _environment(server: Path, runs_dir: Path, port: int) -> dict[str, str]:
    """The environment: which runs, which port, and the folder from which this very joulescale was loaded."""
    here = [str(server.parent.parent), str(Path(__file__).parents[2])]
    paths = [*dict.fromkeys(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "JOULESCALE_RUNS_DIR": str(runs_dir.absolute()),
        "JOULESCALE_DASHBOARD_PORT": str(port),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _serve(command: list[str], environment: Mapping[str, str]) -> None:
    """Run until Streamlit ends, or until Ctrl-C or SIGTERM: then end it too. Ctrl-C is no error.

    Streamlit is put in a process group of its own: it would answer Ctrl-C with "Aborted!" and status 1. Its end
    is polled for, because Polars installs a SIGINT handler that restarts system calls: Ctrl-C would not end a wait.
    """
    group = 0 if os.name == "posix" else None
    process = subprocess.Popen(command, env=environment, process_group=group)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while process.poll() is None:
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, before)
    raise UsageError(f"Streamlit ended with status {process.returncode}; its own message is above.")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server if it still runs; kill it if it does not end within ten seconds."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
