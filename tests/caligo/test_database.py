"""Journal and tokens are in one file: what SQLite says of it means the same from either."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from caligo_orchestrator.store.journal import Journal

from caligo import database
from caligo.database import JournalError
from caligo.layout import JOURNAL_NAME
from caligo.tokens import Role, Tokens

ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def journal(directory: Path) -> Iterator[Callable[[], object]]:
    with contextlib.closing(Journal(directory / JOURNAL_NAME)) as opened:
        opened.create_campaign("a", None, "{}", 1)
        yield lambda: opened.campaign("a")


@contextlib.contextmanager
def tokens(directory: Path) -> Iterator[Callable[[], object]]:
    with Tokens(directory) as opened:
        token = opened.create("alice", Role.READ)
        yield lambda: opened.find(token)


Store = Callable[[Path], contextlib.AbstractContextManager[Callable[[], object]]]


@pytest.fixture(params=[journal, tokens])
def store(request: pytest.FixtureRequest) -> Store:
    return request.param


class Saying:
    """Stands for a connection that gives the same answer to everything."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def execute(self, *_: object) -> None:
        raise self._error

    def close(self) -> None:
        raise self._error


LOST = (
    sqlite3.DatabaseError("database disk image is malformed"),
    sqlite3.DatabaseError("file is not a database"),
    sqlite3.OperationalError("disk I/O error"),
    sqlite3.OperationalError("database or disk is full"),
    sqlite3.OperationalError("attempt to write a readonly database"),
    sqlite3.InternalError("unable to open database file"),
    OSError(5, "Input/output error"),
)


@pytest.mark.parametrize("said", LOST, ids=str)
def test_what_is_said_of_a_lost_drive_is_of_one_type(
    store: Store, said: Exception, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store(tmp_path) as ask:
        assert ask()
        with monkeypatch.context() as patch:
            patch.setattr(database.Connection, "db", Saying(said))
            with pytest.raises(JournalError, match=str(said.args[-1])):
                ask()
        assert ask()


def test_a_mistake_of_ours_is_none_of_the_disk(store: Store, tmp_path: Path) -> None:
    with store(tmp_path) as ask:
        pass
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        ask()


def test_databases_are_opened_in_one_place() -> None:
    sources = [path for folder in ("caligo", "services") for path in (ROOT / folder).rglob("*.py")]
    assert len(sources) > 100
    assert [path.name for path in sources if "sqlite3.connect" in path.read_text()] == ["database.py"]
