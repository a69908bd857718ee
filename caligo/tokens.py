"""Tokens of the orchestrator's clients: a table beside its journal, shared with the `caligo token` command.

Only the SHA-256 of a token is kept. A slow hash protects what people choose and others can guess; a token is 256
random bits, which nobody finds by trying, and its hash is looked up at every call.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import re
import secrets
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any, Final, Self

from caligo.database import Connection, JournalError, faults
from caligo.errors import AlreadyExists, InvalidArgument, NotFound
from caligo.layout import JOURNAL_NAME

_PREFIX: Final = "caligo_"
"""Lets people and secret scanners see what it is."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,62}")
_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS tokens (
  name TEXT PRIMARY KEY,
  hash BLOB UNIQUE NOT NULL,
  owner TEXT NOT NULL,
  role INTEGER NOT NULL,
  last_four TEXT NOT NULL,
  create_time REAL NOT NULL,
  revoke_time REAL
);
"""


class Role(enum.IntEnum):
    """What a token allows; each role allows what those before it do."""

    READ = 1
    """See the owner's campaigns, their results and predictions."""
    SUBMIT = 2
    """Make, change and delete the owner's campaigns."""
    ADMIN = 3
    """Both, with everybody's campaigns."""


@dataclasses.dataclass(frozen=True)
class TokenRecord:
    """A token as it is kept; times in seconds since the epoch.

    Attributes:
        owner: whose campaigns it is for; several tokens may share an owner.
        last_four: the token's last characters, to tell it from others.
        revoke_time: None while it is valid.
    """

    name: str
    owner: str
    role: Role
    last_four: str
    create_time: float
    revoke_time: float | None


class Tokens:
    """The tokens of one data directory. Safe to use from several threads and processes, an orchestrator among them.

    A context manager; leaving it closes the database.

    Raises:
        JournalError: (any method) the database cannot be read or written: the disk is full, read-only or gone.
    """

    def __init__(self, data_directory: Path) -> None:
        """Open the database, made if it is not there.

        Raises:
            InvalidArgument: the data directory cannot be written.
        """
        self._path = data_directory / JOURNAL_NAME
        self._lock = threading.Lock()
        try:
            data_directory.mkdir(parents=True, exist_ok=True)
            self._connection = Connection(self._path)
            with faults():
                self._connection.db.executescript(_SCHEMA)
        except OSError as error:
            raise InvalidArgument("data_directory", f"{data_directory}: {error.strerror}") from None
        except JournalError as error:
            raise InvalidArgument("data_directory", f"{self._path}: {error}") from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    def create(self, name: str, role: Role, owner: str = "") -> str:
        """A new token, which can never be had again.

        Args:
            name: what it is called.
            owner: whose campaigns it is for; the name itself where none is given.

        Raises:
            InvalidArgument: a name is not allowed.
            AlreadyExists: there is, or was, a token of that name.
        """
        owner = owner or name
        for field, text in (("name", name), ("owner", owner)):
            if not _NAME.fullmatch(text):
                raise InvalidArgument(
                    field, "1 to 63 letters, digits, '.', '_', '@' and '-', the first a letter or digit"
                )
        token = _PREFIX + secrets.token_urlsafe(32)
        try:
            self._execute(
                "INSERT INTO tokens VALUES (?,?,?,?,?,?,NULL)",
                (name, _hash(token), owner, int(role), token[-4:], time.time()),
            )
        except sqlite3.IntegrityError:
            raise AlreadyExists(f"{name}: there is a token of that name, valid or revoked; choose another") from None
        return token

    def records(self) -> list[TokenRecord]:
        """All tokens, revoked ones too, oldest first."""
        return self._select("ORDER BY create_time, name")

    def revoke(self, name: str) -> None:
        """Make a token worthless from now on; again is harmless.

        Raises:
            NotFound: there is none of that name.
        """
        sql = "UPDATE tokens SET revoke_time=COALESCE(revoke_time, ?) WHERE name=? RETURNING name"
        if not self._execute(sql, (time.time(), name)):
            raise NotFound(f"{name}: no such token")

    def find(self, token: str) -> TokenRecord | None:
        """The record of a token that is valid; None for any other text."""
        found = self._select("WHERE hash=? AND revoke_time IS NULL", _hash(token))
        return found[0] if found else None

    def _execute(self, sql: str, values: tuple[object, ...]) -> list[Any]:
        """Rows that a statement gives."""
        with self._lock, faults():
            return self._connection.db.execute(sql, values).fetchall()

    def _select(self, rest: str, *values: object) -> list[TokenRecord]:
        columns = "name, owner, role, last_four, create_time, revoke_time"
        rows = self._execute(f"SELECT {columns} FROM tokens {rest}", values)
        return [TokenRecord(name, owner, Role(role), *others) for name, owner, role, *others in rows]


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode(errors="replace")).digest()
