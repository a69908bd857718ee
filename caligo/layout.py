"""Where an orchestrator's data directory keeps what, and how it is kept from others."""

from __future__ import annotations

import fcntl
from pathlib import Path
from typing import IO, Final

JOURNAL_NAME: Final = "journal.sqlite3"
"""The orchestrator's database."""
CAMPAIGNS_DIRECTORY: Final = "campaigns"
"""The campaigns, a directory each, called after their ids."""
FILE_NAME: Final = "exploration_data.h5"
"""A campaign's file in its directory."""
RUN_LOCK: Final = "run.lock"
"""Held by the `caligo run` that works there."""


def hold(path: Path, mode: str = "a") -> IO[str]:
    """An open file that no other process can hold until it is closed.

    Raises:
        BlockingIOError: another process holds it.
        OSError: it cannot be opened, or its file system has no locks to give.
    """
    file = path.open(mode)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file
