"""The `joulescale` command: one file a verb, and one place where errors become messages.

A person's mistake ends with one message on standard error and exit status 2, without a traceback.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import typer

from profiler.errors import JoulescaleError

COMMANDS = {
    "run": "profiler.cli.run:run",
    "sweep": "profiler.cli.sweep:sweep",
    "exec": "profiler.cli.exec:exec_command",
    "list": "profiler.cli.list:list_runs",
    "show": "profiler.cli.show:show",
    "scale": "profiler.cli.scale:scale",
    "recover": "profiler.cli.recover:recover",
    "doctor": "profiler.cli.doctor:doctor",
    "dashboard": "profiler.cli.dashboard:dashboard",
}
"""Where each verb is found, in the order of the help."""

_PARSING = {"exec": {"allow_interspersed_args": False}}
"""What follows the command of `exec` is the command's, even where it looks like an option of ours."""


def make_app(asked: str | None = None) -> typer.Typer:
    """The command line, with all verbs, or with the one that is asked for and only the libraries that it loads.

    Args:
        asked: The verb; anything that is none stands for all.
    """
    app = typer.Typer(
        name="joulescale",
        help="How much work a training run gets out of every joule, and how that changes with scale.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
    )
    app.callback()(lambda: None)  # a verb that is alone is still to be named
    for verb in [asked] if asked in COMMANDS else COMMANDS:
        module, _, function = COMMANDS[verb].partition(":")
        app.command(verb, context_settings=_PARSING.get(verb))(getattr(import_module(module), function))
    return app


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module 'profiler.cli.main' has no attribute {name!r}")
    return make_app()


def main() -> None:
    """Run the command line."""
    try:
        make_app(sys.argv[1] if len(sys.argv) > 1 else None)()
    except JoulescaleError as error:
        from profiler.report.visible import visible

        typer.echo(f"joulescale: {visible(str(error))}", err=True)  # it may name a run
        sys.exit(2)
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`| head`): nobody is left to tell
        sys.exit(0)


if __name__ == "__main__":
    main()
