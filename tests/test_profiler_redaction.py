"""What is taken for a secret before it is stored, and what is not."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from profiler.measure.digest import mark_of
from profiler.measure.redaction import REDACTED, names_secret, redact, redact_notes, redact_text

SECRET = "Zk9vQ2hlZXNlMTIz"

TEXTS = [
    f"--password {SECRET}",
    f"--api-key={SECRET} --lr 0.1",
    f"env WANDB_API_KEY={SECRET} python train.py",
    f"failed: Authorization: Bearer {SECRET}",
    f"{{'Authorization': 'Basic {SECRET}'}}",
    f"no route to postgres://me:{SECRET}@db:5432/runs",
    f"https://{SECRET}@github.com/me/private",
    f"GET https://bucket/file?X-Amz-Algorithm=a&token={SECRET}&x=1 returned 403",
    f'{{"secret": "{SECRET}"}}',
    f"Namespace(lr=0.1, db_password='{SECRET} {SECRET}')",
    f'password="{SECRET} and no end',
    json.dumps(json.dumps({"password": f"{SECRET}, {SECRET}"})),
    f"401 for hf_{SECRET}",
    f"Incorrect API key provided: sk-proj-{SECRET}",
    f"remote: ghp_{SECRET} was revoked",
    f"glpat-{SECRET}",
    f"AKIA{SECRET.upper()}",
    f"xoxb-12345-{SECRET}",
    f"eyJhbGciOiJIUzI1NiJ9.{SECRET}.{SECRET}",
    f"-----BEGIN RSA PRIVATE KEY-----\n{SECRET}\n-----END RSA PRIVATE KEY-----",
    f"-----BEGIN PRIVATE KEY-----\n{SECRET}",
]


@pytest.mark.parametrize("text", TEXTS)
def test_texts_lose_their_secrets(text):
    found = redact_text(text)
    assert SECRET not in found
    assert SECRET.upper() not in found
    assert REDACTED in found
    assert redact_text(found) == found


NAMES = [
    "token", "hf_token", "HF_TOKEN", "apiKey", "--api-key", "wandb.key", "db_password", "client_secret",
    "aws_secret_access_key", "Authorization", "cookie", "sentry_dsn", "access_tokens", "ssh_key",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_what_goes_by_the_name_of_a_secret_is_one(name):
    assert names_secret(name)
    for value in (
        SECRET,
        [SECRET],
        {"a": SECRET},
        SECRET.encode(),
        12.5 if "token" not in name.lower() else SECRET,
    ):
        assert redact({"deep": [{name: value}]}) == {"deep": [{name: REDACTED}]}


@pytest.mark.parametrize(
    "name",
    ["tokens", "max_tokens", "pad_token", "energy_per_token", "tokenizer", "token_budgets", "author", "key",
     "monitor_key", "n_tokens", "keyboard", "secretary", "authority", "passes", "data_sha256"],
)  # fmt: skip
def test_other_names_keep_their_values(name):
    assert not names_secret(name)
    assert redact({name: "<pad> 12"}) == {name: "<pad> 12"}


@pytest.mark.parametrize(
    "text",
    [
        "tokens: counted from the batch, 3 of them",
        "energy_per_token is null: no tokens",
        "GPU-1f2e3d4c-0000-1111-2222-333344445555",
        "0123456789abcdef0123456789abcdef01234567",
        "http://localhost:8080/x?page=2",
        "file at 10:30, sk-learn-style-of-a-run-name",
        "pip install 'joulescale[dashboard]'",
    ],
)
def test_other_texts_stay_as_they_are(text):
    assert redact_text(text) == text


def test_a_command_line_keeps_all_but_its_secrets():
    argv = [
        "train.py",
        "--lr",
        "0.1",
        "--token",
        SECRET,
        f"--password={SECRET}",
        "--verbose",
        f"s3://k:{SECRET}@b",
    ]
    assert redact(argv) == [
        "train.py", "--lr", "0.1", "--token", REDACTED, f"--password={REDACTED}", "--verbose", f"s3://{REDACTED}@b",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (
            ["mysql", "-uroot", f"-p{SECRET}", "-P", "3306", "db"],
            ["mysql", "-uroot", "-p*", "-P", "3306", "db"],
        ),
        (["sudo", "/usr/bin/mysqldump", f"-p{SECRET}"], ["sudo", "/usr/bin/mysqldump", "-p*"]),
        (["mysql", "-p", "database"], ["mysql", "-p", "database"]),
        (["sshpass", "-p", SECRET, "ssh", "-p", "22"], ["sshpass", "-p", "*", "ssh", "-p", "*"]),
        (["sshpass", f"-p{SECRET}", "ssh", "a"], ["sshpass", "-p*", "ssh", "a"]),
        (["psql", f"-p{SECRET}"], ["psql", "-p*"]),
        (["redis-cli", "-a", SECRET], ["redis-cli", "-a", "*"]),
        (["curl", "-u", f"me:{SECRET}", "a.b"], ["curl", "-u", "*", "a.b"]),
        (["sh", "-c", f"cd x && mysql -u me -p{SECRET} db"], ["sh", "-c", "cd x && mysql -u me -p* db"]),
        (["sh", "-c", f"sshpass -p '{SECRET} 2' ssh a"], ["sh", "-c", "sshpass -p * ssh a"]),
        (
            ["python", "serve.py", "-p8080", "-p", "80", "-u"],
            ["python", "serve.py", "-p8080", "-p", "80", "-u"],
        ),
        (["mkdir", "-p", "mysql/data"], ["mkdir", "-p", "mysql/data"]),
    ],
)
def test_passwords_by_the_short_options_of_known_programs_go(argv, kept):
    assert redact(argv) == [word.replace("*", REDACTED) for word in kept]
    assert redact(redact(argv)) == redact(argv)


def test_numbers_flags_and_nothing_stay_under_any_name():
    assert redact({"token": 512, "use_auth": True, "password": None, "lr": 0.1}) == {
        "token": 512,
        "use_auth": True,
        "password": None,
        "lr": 0.1,
    }


def test_what_is_no_plain_data_is_looked_at_as_its_text():
    assert SECRET not in str(redact({"args": argparse.Namespace(api_key=SECRET), "path": Path("a/b")}))
    assert redact({"path": Path("a/b")}) == {"path": "a/b"}


def test_notes_keep_their_names():
    assert redact_notes({"tokens": "unknown", "token": "none"}) == {"tokens": "unknown", "token": "none"}


def test_marks_lose_their_secrets():
    mark = mark_of(
        0, "note", 0.0, None, {"text": f"failed with token={SECRET}", "hf_token": SECRET, "tokens": 5}
    )
    assert SECRET not in mark.note
    assert json.loads(mark.note)["tokens"] == 5


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=8,
)


@given(plain)
def test_redaction_never_fails_and_finds_nothing_twice(value):
    once = redact(value)
    json.dumps(once)
    assert redact(once) == once


@given(
    st.text(alphabet=st.characters(codec="ascii", categories=("L", "N")), min_size=8), st.text(max_size=30)
)
def test_a_password_in_an_address_never_stays(password, around):
    assert f":{password}@" not in redact_text(f"{around} mysql://user:{password}@host/{around}")
