"""What holds for the whole suite."""

from __future__ import annotations

import gc
import signal

import pytest
from caligo_surrogate import keops


def pytest_configure() -> None:
    """A suite that is terminated takes its fixtures down, as an interrupted one does: they hold shared memory.

    A shell that runs it in the background has it ignore interrupts, and with it all that it starts; tests send some.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Modules and tests stay to the end: later collections, two in each campaign, need not go through them again."""
    gc.collect()
    gc.freeze()


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("keops") and (lack := keops.missing()):
        pytest.skip(f"KeOps needs {lack}")
