"""What the orchestrator counts and times, and how its campaigns and its farm stand when somebody asks.

Nothing is labelled with a campaign: their number grows without bound, and what one of them does the API tells.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Final, Protocol

import numpy as np
import structlog
from prometheus_client import REGISTRY, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from caligo import tracing
from caligo.database import JournalError
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ResultRows, code_name
from caligo.telemetry import SECONDS
from caligo.v1 import campaign_pb2
from caligo_orchestrator.store.journal import Journal

if TYPE_CHECKING:
    from caligo_orchestrator.farm.base import Farm, Job

ROWS: Final = Counter("caligo_rows", "Rows that became durable.", ["phase", "outcome"])
CANDIDATES: Final = Counter(
    "caligo_candidates",
    "Candidates of the active phase, by what the closed form says: decided where a key, or none, is surer than 99 %.",
    ["closed_form"],
)
QUEUED: Final = Histogram(
    "caligo_row_queue_seconds", "From a row's submission to the farm to its sending.", buckets=SECONDS
)
AWAY: Final = Histogram("caligo_row_simulation_seconds", "From a row's sending to its result.", buckets=SECONDS)
COMMIT: Final = Histogram("caligo_journal_commit_seconds", "To make a group of rows durable.", buckets=SECONDS)
COMMITTED: Final = Histogram(
    "caligo_journal_commit_rows", "Rows that share a commit.", buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256)
)
WRITE: Final = Histogram(
    "caligo_hdf5_write_seconds",
    "To take a group of rows into the buffers and flush those that are full.",
    buckets=SECONDS,
)


def count_durable(phase: Phase, rows: ResultRows) -> None:
    """Rows have become durable."""
    COMMITTED.observe(len(rows))
    for outcome, number in zip(*np.unique(rows["outcome"], return_counts=True), strict=True):
        ROWS.labels(phase.name.lower(), code_name(ProtocolOutcome, outcome)).inc(int(number))


def row_came_back(job: Job, row: int, submitted: float, sent: float) -> None:
    """A simulator has answered for a row; times of `time.monotonic`."""
    now = time.monotonic()
    QUEUED.observe(sent - submitted)
    AWAY.observe(now - sent)
    if tracing.active is not None:
        epoch = tracing.now() - int(now * 1e9)
        with structlog.contextvars.bound_contextvars(**job.context):
            tracing.add_row_spans("queue", (row,), epoch + int(submitted * 1e9), epoch + int(sent * 1e9))
            tracing.add_row_spans("simulator", (row,), epoch + int(sent * 1e9))


class Running(Protocol):
    """A campaign that runs."""

    @property
    def undurable(self) -> int:
        """Rows with a result that the journal does not hold yet."""

    @property
    def unwritten(self) -> int:
        """Rows that the journal holds and the HDF5 file does not yet."""


class Standing(Collector):
    """How things stand, read when Prometheus asks."""

    def __init__(self, journal: Journal, farm: Farm, running: Callable[[], Sequence[Running]]) -> None:
        self._journal = journal
        self._farm = farm
        self._running = running

    def show(self) -> None:
        """From now on."""
        REGISTRY.register(self)

    def hide(self) -> None:
        """No longer; nothing happens where it was not shown."""
        with contextlib.suppress(KeyError):
            REGISTRY.unregister(self)

    def collect(self) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
        with contextlib.suppress(JournalError):  # a lost disk; the rest is worth knowing all the more
            numbers = self._journal.states()
            states = GaugeMetricFamily("caligo_campaigns", "Campaigns by state.", labels=["state"])
            for state, name in _STATES.items():
                states.add_metric([name], numbers.get(state, 0))
            yield states
        running = self._running()
        yield _gauge(
            "caligo_journal_lag_rows", "Rows with a result that are not durable yet.", sum(r.undurable for r in running)
        )
        yield _gauge(
            "caligo_hdf5_lag_rows",
            "Durable rows that are not in their HDF5 file yet.",
            sum(r.unwritten for r in running),
        )
        farm = self._farm.stats()
        yield _gauge("caligo_farm_simulators", "Simulators that take rows.", farm.simulators)
        yield _gauge("caligo_farm_room_rows", "Rows that keep all simulators busy.", farm.room)
        yield _gauge("caligo_farm_queue_rows", "Rows that wait for a simulator.", farm.waiting)
        yield _gauge("caligo_farm_in_flight_rows", "Rows that simulators have.", farm.in_flight)
        yield _gauge("caligo_farm_copied_rows", "Rows that a second simulator has as well.", farm.copies)
        yield CounterMetricFamily("caligo_farm_lost_simulators", "Simulators lost without a word.", farm.lost)
        yield CounterMetricFamily("caligo_farm_refused_streams", "Streams that simulators refused.", farm.refused)
        yield CounterMetricFamily("caligo_farm_poison_rows", "Rows given up as simulators die of them.", farm.poison)


_STATES: Final = {
    number: name.removeprefix("CAMPAIGN_STATE_").lower()
    for name, number in campaign_pb2.CampaignState.items()
    if number
}


def _gauge(name: str, text: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, text, value)
