"""Who is let in at the dashboard's door, told by its messages, and where the command lets it listen."""

from __future__ import annotations

import asyncio
import json
import socket

import pytest

pytest.importorskip("streamlit")

from hypothesis import given
from hypothesis import strategies as st

from dashboard.door import Door, DoorRules
from profiler.cli.dashboard_address import Address, new_token
from profiler.errors import InvalidValueError, UsageError

TOKEN = "the-token"
HERE = (("host", "127.0.0.1:8501"),)


def rules_at(host="127.0.0.1", port=8501, token=TOKEN):
    said = json.loads(Address(host=host, port=port, token=token).rules())
    return DoorRules(hosts=frozenset(said["hosts"]), port=said["port"], token=said["token"])


def door(rules=None):
    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200, "headers": []})

    return Door(app, rules or rules_at())


def ask(door, *headers, kind="http", method="GET", path="/", query=""):
    """The first message of the answer."""
    sent = []

    async def send(message):
        sent.append(message)

    scope = {
        "type": kind,
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in headers],
    }
    asyncio.run(door(scope, None, send))
    return sent[0]


def header(message, name):
    return next((value.decode() for key, value in message["headers"] if key == name.encode()), None)


def cookie_of(door):
    given = header(ask(door, *HERE, query=f"token={TOKEN}"), "set-cookie")
    return ("cookie", given.partition(";")[0])


def test_the_token_is_exchanged_for_a_cookie_that_lets_in():
    at = door()
    welcome = ask(at, *HERE, path="/run", query=f"run=a%20b&token={TOKEN}&x=")
    assert (welcome["status"], header(welcome, "location")) == (303, "/run?run=a+b&x=")
    cookie = header(welcome, "set-cookie")
    assert TOKEN not in cookie
    assert cookie.endswith("; Path=/; HttpOnly; SameSite=Lax")
    known = ("cookie", f"other=1; {cookie.partition(';')[0]}; more=2")
    assert ask(at, *HERE, known)["status"] == 200
    assert ask(door(), *HERE, known)["status"] == 403, "each server has a cookie of its own"


@pytest.mark.parametrize(
    "query", ["", "token=", "token=wrong", "token=THE-TOKEN", "tokens=the-token", "token=%ff"]
)
def test_without_the_right_token_nobody_is_let_in(query):
    assert ask(door(), *HERE, query=query)["status"] == 403
    assert ask(door(), *HERE, query=query, kind="websocket")["type"] == "websocket.close"


@given(path=st.text(max_size=20), name=st.text(max_size=5))
def test_the_welcome_leads_nowhere_else(path, name):
    """Neither to another host nor into another header, whatever path is asked for."""
    at = door()
    where = header(ask(at, *HERE, path=path, query=f"token={TOKEN}"), "location")
    assert where.startswith("/")
    assert not where.startswith(("//", "/\\"))
    assert not set(where) & set("\r\n\\")


@pytest.mark.parametrize("host", ["127.0.0.1:8501", "localhost:8501", "LOCALHOST:8501"])
def test_own_hosts_are_let_through(host):
    at = door()
    assert ask(at, ("host", host), cookie_of(at))["status"] == 200


@pytest.mark.parametrize(
    "hosts",
    [["evil.example"], ["evil.example:8501"], ["127.0.0.1:8502"], ["127.0.0.1"], [], ["127.0.0.1:8501"] * 2],
)
def test_foreign_hosts_are_refused_whatever_they_know(hosts):
    at = door()
    headers = [("host", host) for host in hosts]
    for extra in ({}, {"query": f"token={TOKEN}"}):
        answer = ask(at, *headers, cookie_of(at), **extra)
        assert (answer["status"], header(answer, "set-cookie")) == (403, None)
    assert ask(at, *headers, cookie_of(at), kind="websocket")["type"] == "websocket.close"


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://127.0.0.1:9999", "https://127.0.0.1:8501"]
)
def test_other_pages_are_refused_whatever_they_know(origin):
    at = door()
    assert ask(at, *HERE, ("origin", origin), cookie_of(at))["status"] == 403
    assert ask(at, *HERE, ("origin", origin), cookie_of(at), kind="websocket")["type"] == "websocket.close"
    assert ask(at, *HERE, ("origin", "http://127.0.0.1:8501"), cookie_of(at))["status"] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS"])
def test_it_only_shows(method):
    at = door()
    assert ask(at, *HERE, cookie_of(at), method=method)["status"] == 405


def test_without_a_token_every_user_of_the_machine_is_let_in_but_no_other_page():
    at = door(rules_at(token=None))
    assert ask(at, *HERE)["status"] == 200
    assert ask(at, ("host", "evil.example"))["status"] == 403


def test_pages_may_load_from_nowhere_else():
    at = door()
    answer = ask(at, *HERE, cookie_of(at))
    assert "default-src 'self'" in header(answer, "content-security-policy")
    assert header(answer, "x-frame-options") == "DENY"


def test_other_machines_need_a_token():
    with pytest.raises(
        UsageError, match=r"At 192.0.2.1 everybody who reaches this machine.*Leave out --no-token"
    ):
        Address(host="192.0.2.1", port=8501, token=None)
    assert Address(host="127.0.0.1", port=8501, token=None).url == "http://127.0.0.1:8501"


def test_all_interfaces_are_asked_for_by_the_names_of_this_machine():
    everywhere = Address(host="0.0.0.0", port=8501, token=TOKEN)
    hosts = json.loads(everywhere.rules())["hosts"]
    assert {f"{socket.gethostname().lower()}:8501", "127.0.0.1:8501", "localhost:8501"} <= set(hosts)
    assert "0.0.0.0:8501" not in hosts
    assert everywhere.url == f"http://{socket.gethostname()}:8501/?token={TOKEN}"


def test_an_address_of_the_newer_kind_is_in_brackets():
    where = Address(host="::1", port=80, token=TOKEN)
    assert where.url == f"http://[::1]:80/?token={TOKEN}"
    assert {"[::1]:80", "[::1]", "localhost"} <= set(json.loads(where.rules())["hosts"])


def test_an_address_that_is_not_this_machines_is_refused():
    with pytest.raises(UsageError, match=r"cannot listen at 192.0.2.1:8501"):
        Address(host="192.0.2.1", port=8501, token=TOKEN).check_free()


def test_tokens_are_long_and_never_the_same():
    tokens = {new_token() for _ in range(100)}
    assert len(tokens) == 100
    assert min(map(len, tokens)) >= 43


def test_a_server_that_nobody_told_whom_to_let_in_does_not_start(monkeypatch):
    import io

    monkeypatch.setattr("sys.stdin", io.StringIO(f'{{"hosts": [], "port": 1, "token": "{TOKEN}"}}\n'))
    from dashboard import server

    assert server.rules_of('{"hosts": ["a:1"], "port": 1, "token": null}').token is None
    for line in (
        "",
        "{}",
        "[]",
        "null",
        '{"hosts": ["a:1"], "port": 1}',
        '{"hosts": ["a:1"], "port": 1, "token": ""}',
    ):
        with pytest.raises(UsageError, match="Start the dashboard with 'joulescale dashboard'"):
            server.rules_of(line)


def test_a_port_that_is_none_is_refused():
    with pytest.raises(InvalidValueError, match="is not within 1 to 65535"):
        Address(host="127.0.0.1", port=0, token=None)
