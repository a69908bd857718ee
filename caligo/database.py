"""The SQLite database of a data directory: the one way to open it, and the one rule for what SQLite says of it.

Journal and tokens are tables of the same file, and the same drives are lost under both.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from caligo.errors import ResourceExhausted

_BUSY_SECONDS: Final = 30.0
"""How long another process, `caligo token` say, may keep the database from being written."""


class JournalError(ResourceExhausted):
    """The journal cannot be written or read: the disk is full, read-only or gone. What it held it holds."""


@contextlib.contextmanager
def faults() -> Iterator[None]:
    """What SQLite says of the disk, as a `JournalError`; its word on our own mistakes stays as it is.

    Of a drive that was lost it may say anything: that its file is malformed, or is no database.
    """
    try:
        yield
    except (sqlite3.IntegrityError, sqlite3.ProgrammingError):
        raise
    except (sqlite3.Error, OSError) as error:
        raise JournalError(f"journal: {error}") from error


class Connection:
    """An open database. Safe to use from several threads, one at a time."""

    def __init__(self, path: Path) -> None:
        """Open the file at a path, made if need be.

        Raises:
            JournalError: it cannot be.
        """
        self._path = path
        with faults():
            self._db = sqlite3.connect(path, timeout=_BUSY_SECONDS, check_same_thread=False, isolation_level=None)
            try:
                self._db.execute("PRAGMA journal_mode=WAL")
                self._db.execute("PRAGMA synchronous=FULL")
                self._opened = path.stat()
            except BaseException:
                self.close()
                raise

    @property
    def db(self) -> sqlite3.Connection:
        """What is asked, inside `faults`."""
        return self._db

    def is_in_place(self) -> bool:
        """Whether the file that is open is the one at its path: not so where its drive was lost, or it was removed."""
        try:
            return os.path.samestat(self._opened, self._path.stat())
        except OSError:
            return False

    def is_replaced(self) -> bool:
        """Whether another file is at its path: its drive was lost and is back, say."""
        return not self.is_in_place() and self._path.exists()

    def close(self) -> None:
        """Close it, whatever has become of its drive."""
        with contextlib.suppress(sqlite3.Error):
            self._db.close()
