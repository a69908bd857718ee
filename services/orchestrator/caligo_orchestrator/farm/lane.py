"""One stream to one simulator, open as long as there is work: rows out, results in.

A simulator serves one stream, so what is under way in a lane is all that its simulator has.
"""

from __future__ import annotations

import asyncio
import collections
import math
import time
from collections.abc import AsyncIterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from caligo import wire
from caligo.errors import FailedPrecondition
from caligo.v1 import simulator_pb2
from caligo_orchestrator import metrics
from caligo_orchestrator.farm.base import ALWAYS_THERE, Job, named

_LEAD_SECONDS: Final = 0.1
"""Work that waits at a simulator while the next rows travel; one row a worker at least."""
_SMOOTHING: Final = 0.2
_MAX_JOBS: Final = 256
"""In one stream, by contract."""


class Row:
    """A row on its way to its result."""

    __slots__ = ("index", "inputs", "job", "lanes", "losses", "submitted")

    def __init__(self, job: Job, index: int, inputs: NDArray[np.float32]) -> None:
        self.job = job
        self.index = index
        self.inputs = inputs
        self.submitted = time.monotonic()
        self.lanes: dict[Lane, float] = {}
        """Where it is under way, and since when: one lane, or two when it has been copied."""
        self.losses = 0
        """Simulators lost with it."""


class Lane:
    """A stream of rows to a simulator. Times are those of `time.monotonic`."""

    def __init__(self, stub: Any) -> None:
        self.rows: dict[tuple[int, int], Row] = {}
        """Rows under way by (job number, index), in the order in which they were sent."""
        self.alone: Row | None = None
        """The row that has the simulator for itself."""
        self.workers = 1
        self.sources = frozenset({ALWAYS_THERE})
        """EPR sources that the simulator has, by name, and by name and version (`named`)."""
        self.row_seconds: float | None = None
        """What a row takes on one worker of this simulator; None before the first result."""
        self.ending = False
        """No more rows come; the simulator ends the stream when it has answered the last."""
        self._most = 1
        self._jobs: dict[Job, int] = {}
        self._known = 0
        """Jobs whose setups have been sent."""
        self._last_result = 0.0
        self._unsent: dict[Job, list[Row]] = {}
        self._withdrawn: collections.defaultdict[int, list[int]] = collections.defaultdict(list)
        self._outbox: asyncio.Queue[simulator_pb2.SimulateRequest | None] = asyncio.Queue()
        self._call = stub.Simulate(self._requests())

    async def open(self) -> None:
        """Wait until the simulator has taken the stream.

        Raises:
            grpc.aio.AioRpcError: it has not.
            FailedPrecondition: something else than a simulator answers.
        """
        metadata = await self._call.initial_metadata()
        header = metadata.get(wire.CAPACITY_HEADER) if metadata else None
        if header is None:
            async for _ in self._call:  # raises why
                break
            raise FailedPrecondition("simulator: does not say what it can do; is it of this version?")
        capacity = simulator_pb2.GetCapacityResponse.FromString(header)
        self.workers = max(1, capacity.workers)
        self.sources |= set(capacity.epr_sources)
        self.sources |= set(map(named, capacity.epr_sources, capacity.epr_source_versions))
        self._most = max(self.workers, capacity.max_rows_in_flight)

    def results(self) -> AsyncIterator[simulator_pb2.SimulateResponse]:
        """Results as they come, until the simulator ends the stream.

        Raises:
            grpc.aio.AioRpcError: the stream has broken.
        """
        return self._call.__aiter__()

    def end(self) -> None:
        """Send no more rows."""
        self.ending = True
        self.flush()

    def close(self) -> None:
        """End the stream at once."""
        self._call.cancel()
        self._outbox.put_nowait(None)  # gRPC waits for requests even when the call is over

    # --- rows -----------------------------------------------------------------------------------------------------

    @property
    def room(self) -> int:
        """Rows that the simulator should have, so that no worker waits and none has more than it must."""
        waiting = 1 if not self.row_seconds else math.ceil(_LEAD_SECONDS / self.row_seconds)
        return min(self._most, self.workers * (1 + waiting))

    def can_simulate(self, row: Row) -> bool:
        """Whether the simulator has the EPR source of a row."""
        return row.job.source in self.sources

    def has_room(self) -> bool:
        return self.is_common() and len(self.rows) < self.room

    def wants_rows(self) -> bool:
        """Whether it is time to fill the room: not after each result, for rows that travel together cost less."""
        room = self.room
        return self.is_common() and len(self.rows) <= room - max(1, (room - self.workers) // 2)

    def idle_workers(self) -> int:
        return self.workers - len(self.rows) if self.is_common() else 0

    def is_common(self) -> bool:
        """Whether rows of any kind may be sent."""
        return self.alone is None and not self.ending

    def expected_seconds(self) -> tuple[float, float]:
        """When a row that was sent now would be done, and how long the queue is; less is better."""
        queue = (len(self.rows) + 1) / self.workers
        return queue * (self.row_seconds or 0.0), queue

    def add(self, row: Row) -> None:
        """Send a row with the next `flush`."""
        number = self._jobs.setdefault(row.job, len(self._jobs))
        self.rows[number, row.index] = row
        row.lanes[self] = time.monotonic()
        self._unsent.setdefault(row.job, []).append(row)
        self.ending |= len(self._jobs) == _MAX_JOBS

    def withdraw(self, row: Row) -> None:
        """Nobody waits for this row's result any more; said with the next `flush`."""
        number = self._jobs[row.job]
        del self.rows[number, row.index]
        del row.lanes[self]
        if self.alone is row:
            self.alone = None
        unsent = self._unsent.get(row.job, [])
        if row in unsent:
            unsent.remove(row)
        else:
            self._withdrawn[number].append(row.index)

    def flush(self) -> None:
        """Send what has been added and withdrawn."""
        for number, indices in self._withdrawn.items():
            withdrawn = wire.encode(np.array(indices, np.int64), wire.INDEX)
            self._outbox.put_nowait(simulator_pb2.SimulateRequest(job=number, withdrawn=withdrawn))
        self._withdrawn.clear()
        for job, rows in self._unsent.items():
            number = self._jobs[job]
            if number == self._known:
                self._outbox.put_nowait(simulator_pb2.SimulateRequest(job=number, setup=job.setup))
                self._known += 1
            if rows:
                index = np.array([row.index for row in rows], np.int64)
                batch = wire.encode_design(index, np.stack([row.inputs for row in rows]))
                self._outbox.put_nowait(simulator_pb2.SimulateRequest(job=number, rows=batch))
        self._unsent.clear()
        if self.ending:
            self._outbox.put_nowait(None)

    def finish(self, number: int, index: int) -> Row | None:
        """A result has come: the row, or None where it was withdrawn."""
        row = self.rows.get((number, index))
        if row is None:
            return None
        now = time.monotonic()
        took = (now - max(self._last_result, row.lanes[self])) * min(self.workers, len(self.rows))
        self.row_seconds = (
            took if self.row_seconds is None else self.row_seconds + _SMOOTHING * (took - self.row_seconds)
        )
        self._last_result = now
        metrics.row_came_back(row.job, index, row.submitted, row.lanes[self])
        del self.rows[number, index]
        del row.lanes[self]
        if self.alone is row:
            self.alone = None
        return row

    async def _requests(self) -> AsyncIterator[simulator_pb2.SimulateRequest]:
        while (request := await self._outbox.get()) is not None:
            yield request
