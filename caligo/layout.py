"""Where an orchestrator's data directory keeps what."""

from __future__ import annotations

from typing import Final

JOURNAL_NAME: Final = "journal.sqlite3"
"""The orchestrator's database."""
CAMPAIGNS_DIRECTORY: Final = "campaigns"
"""The campaigns, a directory each, called after their ids."""
FILE_NAME: Final = "exploration_data.h5"
"""A campaign's file in its directory."""
