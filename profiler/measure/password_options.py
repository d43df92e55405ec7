"""Programs that take a password by a short option, whose letter says nothing by itself: `-p` is a port elsewhere."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property
from typing import final


@final
@dataclass(frozen=True, kw_only=True)
class PasswordOption:
    """The option of some programs.

    Attributes:
        programs: Pattern of their names, without folders.
        option: Such as `-p`.
        apart: Whether the secret may also be the next word; else it only stands in the same one, as in `-pSECRET`.
    """

    programs: str
    option: str
    apart: bool = True

    def is_of(self, word: str) -> bool:
        """Whether a word is one of the programs."""
        return re.fullmatch(self.programs, word.rpartition("/")[2]) is not None

    def holds_secret(self, word: str) -> bool:
        """Whether a word is the option and the secret."""
        return word.startswith(self.option) and len(word) > len(self.option)

    def is_followed_by_secret(self, word: str) -> bool:
        """Whether the word after this one is the secret."""
        return self.apart and word == self.option

    @cached_property
    def in_text(self) -> re.Pattern[str]:
        """The secret within a sentence, such as what follows `sh -c`, after a group `head`."""
        between = r"\s*" if self.apart else ""
        value = r"""(?:\\*"[^"]*"?|\\*'[^']*'?|[^\s"';|&]+)"""
        return re.compile(
            rf"(?P<head>(?<![\w.-])(?:{self.programs})(?![\w.])[^\n;|&]{{0,1000}}?\s{self.option}{between})(?!\s){value}"
        )


PASSWORD_OPTIONS = (
    PasswordOption(programs=r"(?:mysql|mariadb)[\w-]*|psql|7z\w?|(?:un)?rar", option="-p", apart=False),
    PasswordOption(programs=r"sshpass|mongo\w*", option="-p"),
    PasswordOption(programs=r"zip|unzip|sqlcmd|bcp", option="-P"),
    PasswordOption(programs=r"redis-cli", option="-a"),
    PasswordOption(programs=r"curl", option="-u"),
    PasswordOption(programs=r"ldap\w+", option="-w"),
)
"""By the programs' own manuals. `psql` has no such option: its `-p` is a port, and mistaken for that of `mysql`."""
