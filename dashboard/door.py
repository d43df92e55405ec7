"""The door of the dashboard: who may ask, and what. Every request passes it, files and websockets too.

A page elsewhere can let its own name resolve to 127.0.0.1 and so reach a server here with a browser's help (DNS
rebinding), and on a shared machine every user reaches 127.0.0.1. So a request must name this server as its host, come
from no other page, only read, and show that it has the token: once in the address, from then on as a cookie.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

TOKEN_PARAMETER = "token"

NO_SUCH_HOST = "This dashboard answers to {hosts} only. Through a tunnel, use the same port at both ends."
OTHER_PAGE = "This dashboard answers to its own pages only."
READ_ONLY = "This dashboard only shows."
NO_TOKEN = "Open the address that 'joulescale dashboard' printed: it carries a token that this request lacks."

_CONTENT = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; worker-src 'self' blob:; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; font-src 'self' data:; object-src 'none'; "
    "connect-src 'self' data: blob: {sockets}; frame-ancestors 'none'; base-uri 'self'; form-action 'self'"
)
"""Where a page may load from: nowhere else, should a text of somebody's ever be taken for a picture or a script."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DoorRules:
    """Whom to let in.

    Attributes:
        hosts: What a request's Host header may be, with the port, in small letters.
        port: Where the server listens; cookies know no ports, so it is part of the cookie's name.
        token: What the first request must have in its address; None lets in everybody who reaches the port.

    Raises:
        ValueError: The token is empty.
    """

    hosts: frozenset[str]
    port: int
    token: str | None

    def __post_init__(self) -> None:
        if self.token == "":
            raise ValueError("an empty token would let in everybody")


class Door:
    """Lets requests through to `app`, or answers them with the reason why not."""

    def __init__(self, app: Application, rules: DoorRules) -> None:
        self._app, self._rules = app, rules
        self._origins = {f"http://{host}" for host in rules.hosts}
        self._cookie_name, self._cookie = f"joulescale-{rules.port}", secrets.token_urlsafe(32)
        sockets = " ".join(sorted(f"ws://{host}" for host in rules.hosts))
        self._headers = _encoded(
            {
                "content-security-policy": _CONTENT.format(sockets=sockets),
                "referrer-policy": "no-referrer",
                "x-content-type-options": "nosniff",
                "x-frame-options": "DENY",
            }
        )

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Handle one request or websocket, as ASGI defines it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif refusal := self._refusal(scope):
            await _refuse(scope, send, *refusal)
        elif self._knows(scope):
            await self._app(scope, receive, self._hardened(send))
        elif self._brings_token(scope):
            await self._welcome(scope, send)
        else:
            await _refuse(scope, send, 403, NO_TOKEN)

    def _refusal(self, scope: Message) -> tuple[int, str] | None:
        """Why a request is refused whatever token it has: status and sentence."""
        hosts = _headers(scope, b"host")
        if len(hosts) != 1 or hosts[0].lower() not in self._rules.hosts:
            return 403, NO_SUCH_HOST.format(hosts=", ".join(sorted(self._rules.hosts)))
        if any(origin.lower() not in self._origins for origin in _headers(scope, b"origin")):
            return 403, OTHER_PAGE
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            return 405, READ_ONLY
        return None

    def _knows(self, scope: Message) -> bool:
        """Whether the request needs no token, or has the cookie that one was given for the token."""
        if self._rules.token is None:
            return True
        cookies = (_cookie(line, self._cookie_name) for line in _headers(scope, b"cookie"))
        return any(_same(cookie, self._cookie) for cookie in cookies)

    def _brings_token(self, scope: Message) -> bool:
        if scope["type"] != "http" or self._rules.token is None:
            return False
        return any(
            _same(value, self._rules.token) for name, value in _query(scope) if name == TOKEN_PARAMETER
        )

    async def _welcome(self, scope: Message, send: Send) -> None:
        """Give the cookie, and go on without the token in the address, where others may see it.

        `Lax`, not `Strict`: a link in a terminal of the browser's own would else be refused at its redirection.
        """
        rest = urlencode([(name, value) for name, value in _query(scope) if name != TOKEN_PARAMETER])
        where = "/" + quote(scope["path"].lstrip("/\\")) + (f"?{rest}" if rest else "")
        cookie = f"{self._cookie_name}={self._cookie}; Path=/; HttpOnly; SameSite=Lax"
        headers = {"location": where, "set-cookie": cookie, "cache-control": "no-store"}
        await _answer(self._hardened(send), 303, headers, "")

    def _hardened(self, send: Send) -> Send:
        """`send` that adds the headers which every answer has."""

        async def add(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        return add


def _headers(scope: Message, name: bytes) -> list[str]:
    return [value.decode("latin-1") for key, value in scope["headers"] if key == name]


def _query(scope: Message) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _cookie(line: str, name: str) -> str:
    """One cookie of a Cookie header; others in it may be of any form."""
    parts = (part.strip().partition("=") for part in line.split(";"))
    return next((value for key, _, value in parts if key == name), "")


def _same(one: str, other: str) -> bool:
    """Whether two secrets are the same, in a time that does not tell how much of them is."""
    return hmac.compare_digest(one.encode(), other.encode())


async def _refuse(scope: Message, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})  # before it is accepted: HTTP 403
    else:
        await _answer(send, status, {"content-type": "text/plain"}, f"{sentence}\n")


async def _answer(send: Send, status: int, headers: MutableMapping[str, str], body: str) -> None:
    await send({"type": "http.response.start", "status": status, "headers": _encoded(headers)})
    await send({"type": "http.response.body", "body": body.encode()})


def _encoded(headers: MutableMapping[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in headers.items()]
