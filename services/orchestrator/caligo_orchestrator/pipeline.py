"""The way of candidates to durable results, for one campaign.

    submit -> [skipped at once | farm] -> recorder: journal, then HDF5 -> results

Results are handed on the moment they are durable, in the order in which they complete. The recorder is a thread of
its own, so results become durable while the campaign thinks.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
import structlog
from numpy.typing import NDArray

from caligo import tracing, wire
from caligo.closed_form import expect
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ProtocolResult, Reason, ResultRows, join_rows
from caligo.space import ExplorationSample
from caligo.spec import CampaignSpec, to_proto
from caligo.v1 import simulator_pb2, types_pb2
from caligo_orchestrator.farm import Farm, Job

GROUP_SECONDS: Final = 0.05
"""Results wait at most this long for others to share a commit with."""
GROUP_ROWS: Final = 1024
SUBMITTED_ROWS: Final = 8
"""Rows handed to the farm at a time."""

SIMULATE: Final = 0
"""Verdict on a candidate that is worth a simulation."""
AUDIT: Final = 255
"""Verdict on a candidate that the guardrail would skip and that is simulated all the same, to see who is right."""
SKIP_REASONS: Final = {
    ProtocolOutcome.SKIPPED_INFEASIBLE: Reason.CLOSED_FORM,
    ProtocolOutcome.SKIPPED_PREDICTED_FAILURE: Reason.GUARDRAIL,
}


class Stopped(Exception):
    """The campaign was told to pause, to cancel or to shut down."""


class Pipeline:
    """Evaluates candidates of one phase of one campaign.

    Args:
        record: makes result rows durable and visible; called from the recorder's thread alone.
        stop: set from outside to end the campaign's work; every wait in here ends with `Stopped` then.
        in_flight: candidates that may be submitted and not yet durable, or twice what the simulators have room for if
            that is more; `submit` yields results beyond.
    """

    def __init__(
        self,
        campaign: str,
        spec: CampaignSpec,
        phase: Phase,
        farm: Farm,
        record: Callable[[ResultRows], None],
        stop: threading.Event,
        in_flight: int = 64,
        source_version: str = "",
    ) -> None:
        self._spec = spec
        setup = simulator_pb2.SimulateSetup(
            campaign=campaign,
            seed=spec.seed,
            phase=wire.encode_phase(phase),
            physics=to_proto(spec.physics, types_pb2.PhysicsSpec),
            protocol=to_proto(spec.protocol, types_pb2.ProtocolSpec),
        )
        self._farm = farm
        self._record = record
        self._stop = stop
        self._least_bound = in_flight
        self._in_flight = 0
        # Each is written by one thread: the campaign's, the farm's, the recorder's.
        self._skipped = self._received = self._recorded = 0
        self._submitted: dict[int, int] = {}
        """When rows that are traced were submitted, nanoseconds since the epoch."""
        self._context = {"campaign": campaign, "phase": phase.name.lower()}
        self._computed: queue.SimpleQueue[ResultRows | None] = queue.SimpleQueue()
        self._durable: queue.SimpleQueue[ResultRows | Exception] = queue.SimpleQueue()
        self._job = Job(setup, self._receive, self._durable.put, source_version)
        self._recorder = threading.Thread(target=self._record_results, name=f"recorder-{campaign}", daemon=True)
        self._recorder.start()

    def __enter__(self) -> Pipeline:
        return self

    def __exit__(self, *exception: object) -> None:
        """Give up what the farm has not finished; what has come back is still made durable."""
        self._farm.cancel(self._job)
        self._computed.put(None)
        self._recorder.join()

    def submit(
        self, index: NDArray[np.int64], inputs: NDArray[np.float32], verdict: NDArray[np.uint8]
    ) -> Iterator[ResultRows]:
        """Hand in candidates; yields durable results while there is no room for more.

        `verdict` is `SIMULATE`, `AUDIT`, or the code of the outcome with which a candidate is skipped, uint8 [n].
        Skipped ones become rows at once: no simulator, no EPR source, no arena hears of them.
        """
        if tracing.active is not None:
            self._submitted.update(dict.fromkeys(index.tolist(), tracing.now()))
        for outcome in SKIP_REASONS:
            skipped = verdict == outcome
            if skipped.any():
                self._skipped += int(skipped.sum())
                self._in_flight += int(skipped.sum())
                self._computed.put(skipped_rows(index[skipped], inputs[skipped], outcome, self._spec))
        wanted = np.flatnonzero((verdict == SIMULATE) | (verdict == AUDIT))
        for start in range(0, len(wanted), SUBMITTED_ROWS):
            chosen = wanted[start : start + SUBMITTED_ROWS]
            while self._in_flight and self._in_flight + len(chosen) > max(self._least_bound, 2 * self._farm.room()):
                yield self.take()
            self._in_flight += len(chosen)
            self._farm.submit(self._job, index[chosen], inputs[chosen])

    def ready(self) -> Iterator[ResultRows]:
        """Results that are durable by now."""
        while not self._durable.empty():
            yield self.take()

    def drain(self) -> Iterator[ResultRows]:
        """Results of everything submitted, as they become durable."""
        while self._in_flight:
            yield self.take()

    def take(self) -> ResultRows:
        """The next durable results; waits for them.

        Raises:
            Stopped: the campaign was told to end its work.
            CaligoError: the simulators failed.
            OSError, JournalError: a result could not be recorded.
        """
        while True:
            self.raise_if_stopped()
            try:
                item = self._durable.get(timeout=0.2)
            except queue.Empty:
                continue
            if isinstance(item, Exception):
                raise item
            self._in_flight -= len(item)
            return item

    def raise_if_stopped(self) -> None:
        """Raise `Stopped` where the campaign was told to end its work."""
        if self._stop.is_set():
            raise Stopped

    @property
    def undurable(self) -> int:
        """Rows that have a result and are not durable yet."""
        return self._skipped + self._received - self._recorded

    def _receive(self, rows: ResultRows) -> None:
        self._received += len(rows)
        self._computed.put(rows)

    def _record_results(self) -> None:
        structlog.contextvars.bind_contextvars(**self._context)
        try:
            for rows in _grouped(self._computed):
                self._record(rows)
                self._recorded += len(rows)
                tracing.end_rows(rows["index"], rows["outcome"], self._submitted)
                self._durable.put(rows)
        except Exception as error:  # a full disk, say; the campaign's thread decides what it means
            self._durable.put(error)


def _grouped(computed: queue.SimpleQueue[ResultRows | None]) -> Iterator[ResultRows]:
    """Rows in groups that share a commit: at most GROUP_ROWS or what comes within GROUP_SECONDS. None ends it."""
    while (first := computed.get()) is not None:
        group, rows, ends = [first], len(first), time.monotonic() + GROUP_SECONDS
        last = False
        while rows < GROUP_ROWS:
            try:
                more = computed.get(timeout=max(0.0, ends - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                last = True
                break
            group.append(more)
            rows += len(more)
        yield join_rows(group)
        if last:
            return


def skipped_rows(
    index: NDArray[np.int64], inputs: NDArray[np.float32], outcome: ProtocolOutcome, spec: CampaignSpec
) -> ResultRows:
    """Result rows of candidates that are not simulated: efficiency 0, the closed form's margin, at most 0."""
    rows = []
    # A row without key has no positive margin, whatever the closed form hopes where the guardrail does not.
    margins = np.minimum(expect(inputs, spec.physics, spec.protocol).margin, 0.0)
    for i, row, margin in zip(index.tolist(), inputs, margins.tolist(), strict=True):
        sample = ExplorationSample.inflate(i, row)
        result = ProtocolResult(outcome=outcome, reason=SKIP_REASONS[outcome], margin=margin, pairs=sample.N)
        rows.append(result.to_row(i, row))
    return join_rows(rows)
