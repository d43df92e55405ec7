"""Where the dashboard listens, under which names it may be asked for, and with which token."""

from __future__ import annotations

import ipaddress
import json
import secrets
import socket
from dataclasses import dataclass
from typing import final

import psutil

from profiler.errors import InvalidValueError, UsageError

LOOPBACK = "127.0.0.1"
_WILDCARDS = ("0.0.0.0", "::")


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where the dashboard listens and who gets in.

    Attributes:
        host: An address of this machine, or a name of it.
        port: TCP port.
        token: What the printed address carries; None lets in everybody who reaches the port.

    Raises:
        InvalidValueError: The port is none.
        UsageError: Other machines could see the runs without a token.
    """

    host: str
    port: int
    token: str | None

    def __post_init__(self) -> None:
        if not 1 <= self.port <= 65_535:
            raise InvalidValueError(
                f"The port {self.port} is not within 1 to 65535. Give another with --port."
            )
        if self.token is None and not self.is_loopback:
            raise UsageError(
                f"At {self.host} everybody who reaches this machine could see the runs without a token."
                " Leave out --no-token, or leave out --address."
            )

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host == "localhost"

    @property
    def names(self) -> tuple[str, ...]:
        """The names and addresses under which a browser may ask for it."""
        if self.host in _WILDCARDS:
            return tuple(dict.fromkeys([socket.gethostname(), *_own_addresses()]))
        return (self.host, "localhost") if self.is_loopback else (self.host,)

    @property
    def url(self) -> str:
        """What to open in a browser."""
        token = "" if self.token is None else f"/?token={self.token}"
        return f"http://{_bracketed(self.names[0])}:{self.port}{token}"

    def rules(self) -> str:
        """What the server must know of it, as a line of JSON; see `dashboard/door.py`."""
        ends = [f":{self.port}", *([""] if self.port == 80 else [])]
        hosts = [_bracketed(name).lower() + end for name in self.names for end in ends]
        return json.dumps({"hosts": hosts, "port": self.port, "token": self.token}) + "\n"

    def check_free(self) -> None:
        """Try to listen there.

        Raises:
            UsageError: Somebody else does, or this machine has no such address.
        """
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, self.port))
            except OSError as error:
                raise UsageError(
                    f"The dashboard cannot listen at {self.host}:{self.port}: {error.strerror}."
                    " End what listens there, or choose another port:"
                    f" joulescale dashboard --port {self.port % 65_535 + 1}"
                ) from error


def new_token() -> str:
    """A token that nobody guesses: 256 bits."""
    return secrets.token_urlsafe(32)


def _own_addresses() -> list[str]:
    found = [a for addresses in psutil.net_if_addrs().values() for a in addresses]
    kinds = (socket.AF_INET, socket.AF_INET6)
    return ["localhost", *(address.address.partition("%")[0] for address in found if address.family in kinds)]


def _bracketed(name: str) -> str:
    return f"[{name}]" if ":" in name else name
