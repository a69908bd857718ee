"""What holds for the whole suite."""

from __future__ import annotations

import gc


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: later collections, two in each campaign, need not go through them again."""
    gc.collect()
    gc.freeze()
