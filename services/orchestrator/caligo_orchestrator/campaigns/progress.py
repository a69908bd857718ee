"""Where a running campaign stands."""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import Final

from caligo import wire
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ResultRows
from caligo.v1 import campaign_pb2

_RATE_WINDOW_SECONDS: Final = 60.0


class ProgressBoard:
    """Where a running campaign stands; written by its threads, read by watchers."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget everything: the campaign begins anew from what the journal holds."""
        with self._lock:
            self._progress = campaign_pb2.Progress()
            self._recent: deque[tuple[float, int]] = deque()

    def enter(self, phase: Phase, done: int, total: int) -> None:
        with self._lock:
            self._progress.phase = wire.encode_phase(phase)
            self._progress.done, self._progress.total = done, total

    def step(self, done: int, total: int) -> None:
        """Progress within a phase that yields no rows."""
        with self._lock:
            self._progress.done, self._progress.total = done, total

    def count(self, rows: ResultRows, *, recovered: bool = False) -> None:
        """Add result rows; recovered ones say nothing about the present rate."""
        outcome = rows["outcome"]
        skipped = int((outcome >= ProtocolOutcome.SKIPPED_INFEASIBLE).sum())
        succeeded = int((outcome == ProtocolOutcome.SUCCESS).sum())
        simulated = len(rows) - skipped
        with self._lock:
            p = self._progress
            p.simulated += simulated
            p.succeeded += succeeded
            p.failed += simulated - succeeded
            p.skipped += skipped
            if not recovered:
                p.done += len(rows)
                self._recent.append((time.monotonic(), simulated))
                self._forget()

    def fitted(self, secure_fraction: float) -> None:
        with self._lock:
            self._progress.secure_fraction = secure_fraction

    def snapshot(self) -> campaign_pb2.Progress:
        with self._lock:
            self._forget()
            span = max(time.monotonic() - self._recent[0][0], 1.0) if self._recent else 1.0
            self._progress.rows_per_second = sum(n for _, n in self._recent) / span
            copy = campaign_pb2.Progress()
            copy.CopyFrom(self._progress)
            return copy

    def _forget(self) -> None:
        oldest = time.monotonic() - _RATE_WINDOW_SECONDS
        while self._recent and self._recent[0][0] < oldest:
            self._recent.popleft()
