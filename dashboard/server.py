"""The web application around the dashboard, started by `joulescale dashboard`: the pages behind their door.

Whom to let in comes as one line of JSON on standard input: a command line and an environment can be read by others.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import altair  # noqa: F401 - loaded before the first visitor: two pages that import it at once break its import
import pandas  # noqa: F401 - likewise; Streamlit and Altair import it when they first draw
import streamlit as st
from starlette.middleware import Middleware

from dashboard.door import Door, DoorRules
from profiler.errors import UsageError


def rules_of(line: str) -> DoorRules:
    """The rules as `profiler.cli.dashboard` writes them.

    Raises:
        UsageError: The line holds none, so nobody can be let in.
    """
    try:
        said = json.loads(line)
        return DoorRules(hosts=frozenset(said["hosts"]), port=said["port"], token=said["token"])
    except (ValueError, KeyError, TypeError):
        raise UsageError(
            "Nobody said who may see the runs, so nobody may. Start the dashboard with 'joulescale dashboard'."
        ) from None


app = st.App(
    Path(__file__).with_name("app.py"),
    middleware=[Middleware(Door, rules=rules_of("" if sys.stdin.isatty() else sys.stdin.readline()))],
)
