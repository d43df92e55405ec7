"""`joulescale dashboard`: starts the Streamlit dashboard, for this machine only and for whom has the token."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Annotated

import typer

from profiler.cli.dashboard_address import LOOPBACK, Address, new_token
from profiler.errors import UsageError
from profiler.store.folder import readable_runs_dir

_POLL_S = 0.2

_SAFETY: Mapping[str, str] = {
    "server.headless": "true",
    "server.enableCORS": "true",
    "server.enableXsrfProtection": "true",
    "server.enableStaticServing": "false",
    "server.enableAgentApi": "false",
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

_OPEN = (
    "{host} can be reached from other machines, and nothing is encrypted on the way: whoever can listen there can"
    " read the token and the runs. A tunnel is safer: ssh -L {port}:127.0.0.1:{port} THIS_MACHINE"
)

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
    port: Annotated[int, typer.Option(help="The port to listen at.")] = 8501,
    address: Annotated[
        str, typer.Option(help="An address of this machine that others reach; best left as it is.")
    ] = LOOPBACK,
    no_token: Annotated[
        bool, typer.Option("--no-token", help="Let in every user of this machine, without the token.")
    ] = False,
) -> None:
    """Show stored runs in the browser. Ctrl-C ends it.

    Only this machine reaches it, and only with the token in the printed address: others may have accounts here.
    """
    if runs_dir.exists():
        readable_runs_dir(runs_dir)  # refuses a file and somebody else's folder
    else:
        typer.echo(
            f"joulescale: there is no runs folder {str(runs_dir)!r} yet; the page will say so.", err=True
        )
    server = _server_file()
    _check_streamlit()
    where = Address(host=address, port=port, token=None if no_token else new_token())
    where.check_free()
    if not where.is_loopback:
        typer.echo(f"joulescale: {_OPEN.format(host=address, port=port)}", err=True)
    print(f"joulescale dashboard of {runs_dir} at {where.url}  (Ctrl-C ends it)", flush=True)  # noqa: T201
    _serve(_command(server, where), _environment(server, runs_dir), where.rules())


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


def _command(server: Path, where: Address) -> list[str]:
    """Streamlit's command line. `-P`: files in the current folder must not stand in for installed modules."""
    place = {
        "server.address": where.host,
        "browser.serverAddress": where.names[0],
        "server.port": str(where.port),
    }
    options = [f"--{name}={value}" for name, value in {**_SAFETY, **place, **_LOOK}.items()]
    # a list is given by repeating the flag
    options += [f"--server.allowedHosts={name}" for name in where.names]
    return [sys.executable, "-P", "-m", "streamlit", "run", str(server), *options]


def _environment(server: Path, runs_dir: Path) -> dict[str, str]:
    """The environment: which runs, and the folder from which this very joulescale was loaded."""
    here = [str(server.parent.parent), str(Path(__file__).parents[2])]
    paths = [*dict.fromkeys(here), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {
        **os.environ,
        "JOULESCALE_RUNS_DIR": str(runs_dir.absolute()),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _serve(command: list[str], environment: Mapping[str, str], rules: str) -> None:
    """Run until Streamlit ends, or until Ctrl-C or SIGTERM: then end it too. Ctrl-C is no error.

    The server reads the rules of its door from a pipe, where no other user can read the token.

    Streamlit is put in a process group of its own: it would answer Ctrl-C with "Aborted!" and status 1. Its end
    is polled for, because Polars installs a SIGINT handler that restarts system calls: Ctrl-C would not end a wait.
    """
    group = 0 if os.name == "posix" else None
    process = subprocess.Popen(command, env=environment, process_group=group, stdin=subprocess.PIPE)
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        _tell(process, rules)
        while process.poll() is None:
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return
    finally:
        _end(process)
        signal.signal(signal.SIGTERM, before)
    raise UsageError(f"Streamlit ended with status {process.returncode}; its own message is above.")


def _tell(process: subprocess.Popen[bytes], rules: str) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError), process.stdin as pipe:  # if it ended already, that is said elsewhere
        pipe.write(rules.encode())


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the server if it still runs; kill it if it does not end within ten seconds."""
    process.terminate()
    try:
        process.wait(timeout=10)
    except (subprocess.TimeoutExpired, KeyboardInterrupt):
        process.kill()
        process.wait()
