"""The web application around the dashboard: it answers only to requests that were meant for this machine.

A web page elsewhere can let its own name resolve to 127.0.0.1 and so reach a server here with a browser's
help (DNS rebinding). Streamlit's `server.allowedHosts` covers its websocket; this covers every request, files too.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from pathlib import Path
from typing import Any

import altair  # noqa: F401 - loaded before the first visitor: two pages that import it at once break its import
import pandas  # noqa: F401 - likewise; Streamlit and Altair import it when they first draw
import streamlit as st
from starlette.middleware import Middleware

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

ALLOWED_HOSTS = ("127.0.0.1", "localhost")
PORT_VARIABLE = "JOULESCALE_DASHBOARD_PORT"


class OwnHostOnly:
    """Answers 403 to a request whose Host header names another machine or port."""

    def __init__(self, app: Application, port: str) -> None:
        self._app = app
        self._allowed = {
            host + end for host in ALLOWED_HOSTS for end in (f":{port}", *([""] if port == "80" else []))
        }

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request or websocket, as ASGI defines it."""
        if scope["type"] == "lifespan" or _host(scope) in self._allowed:
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
        else:
            await send(
                {"type": "http.response.start", "status": 403, "headers": [(b"content-type", b"text/plain")]}
            )
            await send({"type": "http.response.body", "body": b"This dashboard answers to 127.0.0.1 only.\n"})


def _host(scope: Message) -> str | None:
    """The Host header; None unless there is exactly one."""
    hosts = [value for name, value in scope["headers"] if name == b"host"]
    return hosts[0].decode("latin-1").lower() if len(hosts) == 1 else None


app = st.App(
    Path(__file__).with_name("app.py"),
    middleware=[Middleware(OwnHostOnly, port=os.environ.get(PORT_VARIABLE, "8501"))],
)
