"""The `joulescale` command: one file a verb, and one place where errors become messages.

A person's mistake ends with one message on standard error and exit status 2, without a traceback.
"""

from __future__ import annotations

import sys

import typer

from profiler.cli.dashboard import dashboard
from profiler.cli.doctor import doctor
from profiler.cli.list import list_runs
from profiler.cli.run import run
from profiler.cli.scale import scale
from profiler.cli.show import show
from profiler.cli.sweep import sweep
from profiler.errors import JoulescaleError

app = typer.Typer(
    name="joulescale",
    help="How much work a training run gets out of every joule, and how that changes with scale.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("run")(run)
app.command("sweep")(sweep)
app.command("list")(list_runs)
app.command("show")(show)
app.command("scale")(scale)
app.command("doctor")(doctor)
app.command("dashboard")(dashboard)


def main() -> None:
    """Run the command line."""
    try:
        app()
    except JoulescaleError as error:
        typer.echo(f"joulescale: {error}", err=True)
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`| head`): nobody is left to tell
        sys.exit(0)


if __name__ == "__main__":
    main()
