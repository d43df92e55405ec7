"""Takes secrets out of whatever a user, a launcher or an exception says before it is stored with a run.

Four signs of a secret: the name that a value is given under (`--api-key`, `password=`), a place that holds nothing
else (`scheme://user:password@host`), a form that only tokens have (`hf_...`, `AKIA...`), and the short option by which
a known program is given its password (`profiler.measure.password_options`). What has none of them, such as a password
that stands alone as a word, is not found: argv is therefore stored only when asked for.
Text that is no secret may be lost; that is the cheaper mistake. Numbers under the name of a token are counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any

from profiler.measure.password_options import PASSWORD_OPTIONS

REDACTED = "[redacted]"

_NAME = re.compile(
    r"""(?:^|_)(?:
        password|passwd|passphrase|pwd|passcode|secrets?|credentials?|auth|authorization|bearer|cookies?|dsn
        |api_?keys?|(?:access|private|signing|encryption|account|ssh|license)_?keys?|connection_string|webhook
        |(?:wandb|hf|huggingface|openai|anthropic|aws|azure|gcp|google|comet|neptune|github|gitlab|slack)_key
        |(?:api|access|auth|refresh|id|session)_tokens
    )(?:_|$)""",
    re.VERBOSE,
)
_TOKENIZERS = re.compile(
    r"(?:^|_)(?:per|pad|eos|bos|unk|sep|cls|mask|start|end|stop|special|next|first|last|max|min|num|new|each|a)_token$"
)
"""What ends in `token` and is none to be kept secret, but a tokenizer's or a count: not `hf_token`."""

_VALUE = r"""(?:\[redacted\]|\\*"[^"]*"?|\\*'[^']*'?|[^\s,;&"']+)"""
_ASSIGNMENT = re.compile(rf"""(?P<head>(?P<name>[A-Za-z][\w.\-]*)[\\"']*\s*[=:]\s*){_VALUE}""")
_FLAG = re.compile(rf"(?P<head>(?<!\S)--?(?P<name>[A-Za-z][\w.\-]*)\s+){_VALUE}")

_FORMS = re.compile(
    r"""(?<![A-Za-z0-9])(?:
        hf_[A-Za-z0-9]{16,}                           # Hugging Face
        |sk-(?=[\w\-]*\d)[\w\-]{16,}                  # OpenAI, Anthropic and others
        |[sr]k_(?:live|test)_\w{10,}                  # Stripe
        |gh[opsur]_[A-Za-z0-9]{16,}|github_pat_\w{16,}
        |gl[a-z]{2,5}-[\w\-]{16,}                     # GitLab
        |A(?:KIA|SIA|BIA|CCA)[A-Z0-9]{12,}            # AWS
        |xox[a-z]-[\w\-]{8,}|xapp-[\w\-]{8,}          # Slack
        |AIza[\w\-]{30,}|ya29\.[\w\-.]{16,}           # Google
        |eyJ[\w\-]{8,}\.[\w\-]{4,}(?:\.[\w\-]*)?      # JSON web tokens
        |wandb_v\d_\w{16,}|nvapi-[\w\-]{16,}|gsk_\w{16,}|r8_\w{16,}|npm_\w{16,}|pypi-[\w\-]{16,}|dapi[0-9a-f]{32}
        |SG\.[\w\-]{10,}\.[\w\-]{10,}|AGE-SECRET-KEY-\w+
        |-----BEGIN[ ][A-Z ]*PRIVATE[ ]KEY-----(?:.*?-----END[ ][A-Z ]*PRIVATE[ ]KEY-----|.*)
    )""",
    re.VERBOSE | re.DOTALL,
)
_USER_IN_URL = re.compile(r"(?<=://)[^\s/?#]+@")
_AUTHORIZATION = re.compile(r"(?i)(?P<head>\b(?:authorization\s*[=:]\s*[\"']?\w+|bearer)\s+)[\w.~+/=\-]{6,}")


def redact(value: Any) -> Any:
    """The value without its secrets, however deep they lie; what is no plain data is replaced by its redacted text.

    >>> redact({"lr": 0.1, "hf_token": "abc", "pad_token": "<pad>", "argv": ["--password", "x", "-v"]})
    {'lr': 0.1, 'hf_token': '[redacted]', 'pad_token': '<pad>', 'argv': ['--password', '[redacted]', '-v']}
    """
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redact_text(str(key)): _under(str(key), item) for key, item in value.items()}
    if isinstance(value, Sequence | AbstractSet) and not isinstance(value, str | bytes):
        return _listed(value)
    return redact_text(value if isinstance(value, str) else str(value))


def redact_text(text: str) -> str:
    """The text without what looks like a secret in it.

    >>> redact_text("no route to postgres://me:pass@db:5432/x, API_KEY=abc")
    'no route to postgres://[redacted]@db:5432/x, API_KEY=[redacted]'
    """
    text = _USER_IN_URL.sub(f"{REDACTED}@", _FORMS.sub(REDACTED, text))
    text = _AUTHORIZATION.sub(rf"\g<head>{REDACTED}", text)
    for option in PASSWORD_OPTIONS:
        text = option.in_text.sub(rf"\g<head>{REDACTED}", text)
    return _FLAG.sub(_if_named, _ASSIGNMENT.sub(_if_named, text))


def redact_notes(notes: Mapping[str, str]) -> dict[str, str]:
    """Notes without secrets; their names are ours, and `tokens` is one of them."""
    return {redact_text(name): redact_text(note) for name, note in notes.items()}


def names_secret(name: str) -> bool:
    """Whether what goes by that name is a secret.

    >>> [name for name in ("apiKey", "--wandb-key", "max_tokens", "energy_per_token") if names_secret(name)]
    ['apiKey', '--wandb-key']
    """
    words = _words(name)
    return bool(_NAME.search(words)) or _names_token(words)


def _names_token(words: str) -> bool:
    return words.endswith("token") and not _TOKENIZERS.search(words)


def _words(name: str) -> str:
    """`apiKey`, `--api-key` and `API.KEY` as `api_key`."""
    spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", name)
    return re.sub(r"[^a-z0-9]+", "_", spaced.lower()).strip("_")


def _under(name: str, value: Any) -> Any:
    """A value that goes by a name."""
    if value is None or isinstance(value, bool) or not names_secret(name):
        return redact(value)
    is_count = isinstance(value, int | float) and _names_token(_words(name))
    return value if is_count else REDACTED


def _listed(values: Iterable[Any]) -> list[Any]:
    """Values in a row, which may be a command line: the word after `--token` is one, and `-pSECRET` after `mysql`."""
    found: list[Any] = []
    before, option = "", None
    for value in values:
        word = value if isinstance(value, str) else ""
        option = next((known for known in PASSWORD_OPTIONS if known.is_of(word)), option)
        is_named = before.startswith("-") and "=" not in before and names_secret(before)
        if word and (is_named or (option and option.is_followed_by_secret(before))):
            found.append(REDACTED)
        elif option and option.holds_secret(word):
            found.append(f"{option.option}{REDACTED}")
        else:
            found.append(redact(value))
        before = word
    return found


def _if_named(match: re.Match[str]) -> str:
    return match["head"] + REDACTED if names_secret(match["name"]) else match[0]
