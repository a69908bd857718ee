"""Which row is it that simulators die of? Rows under suspicion, and what it takes to condemn one.

A simulator may die of a row, or for a reason of its own while it had the row: an operator's kill, a lost machine. A
row is given up only when it was the one and only row of each of `MAX_DEATHS` simulators that died, one after the
other, with no other simulator lost from the first of these deaths to the last, and when before each of the later ones
the farm has lived undisturbed `QUIET_FACTOR` times as long as the row took to kill.

So a row is never condemned for what it was not alone with. And simulators that are killed at random, at whatever rate
L, hit a harmless row that runs for a seconds three times in this way with probability (L a)^3 exp(-2 QUIET_FACTOR L a)
at most, which is below 3e-5 whatever L and a are, for a row that has been lost in company before.
"""

from __future__ import annotations

import collections
from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

Row = TypeVar("Row")

MAX_DEATHS: Final = 3
QUIET_FACTOR: Final = 20.0
QUIET_SECONDS: Final = 2.0
"""Shortest quiet that is asked for."""


class Suspects(Generic[Row]):
    """Rows that are to be sent alone, and the one that is accused. Times are seconds of one clock."""

    def __init__(self, quiet_seconds: float = QUIET_SECONDS) -> None:
        self._shortest_quiet = quiet_seconds
        self._rows: collections.deque[Row] = collections.deque()
        self._accused: Row | None = None
        """A simulator died of it alone: the others wait until it is condemned or acquitted."""
        self._deaths = 0
        self._quiet = 0.0
        self._calm_since = 0.0

    def __len__(self) -> int:
        return len(self._rows)

    def __iter__(self) -> Iterator[Row]:
        return iter(self._rows)

    def add(self, row: Row) -> None:
        """A row is under suspicion."""
        self._rows.append(row)

    def due(self, now: float) -> list[Row]:
        """Rows that may be sent now, each alone to a simulator."""
        if self._accused is None:
            return list(self._rows)
        return [self._accused] if self._accused in self._rows and now >= self.due_at() else []

    def due_at(self) -> float:
        """When the accused may be sent again."""
        return self._calm_since + self._quiet

    def sent(self, row: Row) -> None:
        """A row that was due is under way."""
        self._rows.remove(row)

    def acquit(self, row: Row) -> None:
        """A row has its result after all."""
        if row is self._accused:
            self._accused = None

    def remove(self, unwanted: Callable[[Row], bool]) -> None:
        """Nobody waits for some rows any more."""
        self._rows = collections.deque(row for row in self._rows if not unwanted(row))
        if self._accused is not None and unwanted(self._accused):
            self._accused = None

    def disturbed(self, now: float) -> None:
        """A simulator has come."""
        self._calm_since = now

    def simulator_lost(self, now: float, alone: Row | None = None, seconds: float = 0.0) -> bool:
        """A simulator has died: of `alone`, if it had that row alone, `seconds` after it had been sent.

        Returns whether the row is condemned; otherwise it is under suspicion again.
        """
        self._calm_since = now
        if self._accused is None and alone is not None:
            self._accused, self._deaths = alone, 0
        if alone is None or alone is not self._accused:
            self._deaths = 0  # they die without the accused too
        else:
            self._deaths += 1
            self._quiet = max(QUIET_FACTOR * seconds, self._shortest_quiet)
            if self._deaths == MAX_DEATHS:
                self._accused = None
                return True
        if alone is not None:
            self._rows.appendleft(alone)
        return False
