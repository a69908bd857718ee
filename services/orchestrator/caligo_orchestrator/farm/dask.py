"""The farm on a Dask cluster: each row a task, and Dask decides where it runs, and what becomes of it when that dies.

Which row is next is decided here, by weights; Dask is given as many as keep its threads busy, and enough that an
adaptive cluster with no worker at all is asked to grow. A row whose worker died, or whose result died with it, is made
again by Dask: it is a function of setup, index and inputs. One that Dask gives up, because the workers that had it
have died more often than `distributed.scheduler.allowed-failures`, is recorded as `failure_error`.

What Dask cannot do: a row that has begun runs to its end, also when nobody waits for it any more.

Tasks and results travel as pickles, so whoever reaches the scheduler can run code on every machine of the cluster: its
network must be trusted, or closed by Dask's TLS (`distributed.comm.tls` in Dask's own configuration).
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import pkgutil
import threading
import time
from collections.abc import Mapping
from typing import Any, Final

import numpy as np
from distributed import Client, Future, KilledWorker
from numpy.typing import NDArray

from caligo import logs, wire
from caligo.errors import CaligoError, InternalError, Unreachable
from caligo.v1 import types_pb2
from caligo_orchestrator import metrics
from caligo_orchestrator.farm.base import ALWAYS_THERE, FarmStats, Job, lost_row
from caligo_orchestrator.farm.fair import FairQueue

log = logs.get("farm")

_SIMULATE: Final = "caligo_simulator.dask_worker:simulate"
_SOURCES: Final = "caligo_simulator.epr.registry:installed_sources"
_LEAST: Final = 64
"""Rows given to Dask at once however few threads there are."""
_LOOK_SECONDS: Final = 1.0
_CONNECT_SECONDS: Final = 10.0


class _Named:
    """A function of a package that the workers have and we need not: pickled as its name, unpickled as the function."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *arguments: Any) -> Any:
        return pkgutil.resolve_name(self._name)(*arguments)

    def __reduce__(self) -> tuple[Any, ...]:
        return pkgutil.resolve_name, (self._name,)


class _Row:
    def __init__(self, job: Job, index: int, inputs: NDArray[np.float32]) -> None:
        self.job = job
        self.index = index
        self.inputs = inputs
        self.submitted = self.sent = time.monotonic()


class DaskFarm:
    """The workers of a Dask cluster.

    Args:
        scheduler: its address, `tcp://host:port` or `tls://host:port`.
        patience_seconds: how long there may be no worker before the jobs end with Unreachable.
    """

    def __init__(self, scheduler: str, patience_seconds: float) -> None:
        self._scheduler = scheduler
        self._patience_seconds = patience_seconds
        self._lock = threading.RLock()
        self._waiting: FairQueue[_Row] = FairQueue()
        self._in_flight: dict[_Row, Future] = {}
        self._threads = 0
        self._workers = 0
        self._counts = collections.Counter[str]()
        self._numbers = itertools.count()
        self._client: Client | None = None
        self._closing = threading.Event()
        self._work = threading.Event()
        self._looker = threading.Thread(target=self._look, name="farm", daemon=True)
        self._looker.start()

    # --- the farm's interface ---------------------------------------------------------------------------------------

    def submit(self, job: Job, index: NDArray[np.int64], inputs: NDArray[np.float32]) -> None:
        with self._lock:
            rows = [_Row(job, i, row) for i, row in zip(index.tolist(), inputs, strict=True)]
            self._waiting.push(job.setup.campaign, rows)
            self._send()
        self._work.set()

    def cancel(self, job: Job) -> None:
        with self._lock:
            self._waiting.remove(job.setup.campaign, lambda row: row.job is job)
            futures = [self._in_flight.pop(row) for row in [row for row in self._in_flight if row.job is job]]
            self._send()
        for future in futures:
            with contextlib.suppress(Exception):  # the scheduler is gone, and they with it
                future.cancel()

    def set_weight(self, campaign: str, weight: int) -> None:
        with self._lock:
            self._waiting.set_weight(campaign, weight)

    def room(self) -> int:
        return max(_LEAST, 2 * self._threads)

    def epr_sources(self, seconds: float, wanted: str = ALWAYS_THERE) -> Mapping[str, str]:
        try:
            client = self._connected(seconds)
            return dict(client.submit(_Named(_SOURCES), pure=False).result(timeout=seconds))
        except (OSError, TimeoutError):
            raise Unreachable(f"{self._scheduler}: no worker answers") from None

    def stats(self) -> FarmStats:
        with self._lock:
            return FarmStats(
                simulators=self._workers,
                room=self.room(),
                waiting=len(self._waiting),
                in_flight=len(self._in_flight),
                copies=0,
                lost=self._counts["lost"],
                refused=0,
                poison=self._counts["poison"],
            )

    def close(self) -> None:
        self._closing.set()
        self._work.set()
        self._looker.join()
        with self._lock:
            self._in_flight.clear()
        if self._client is not None:
            self._client.close(timeout=_CONNECT_SECONDS)

    # --- rows go out and come back ----------------------------------------------------------------------------------

    def _send(self) -> None:
        """Give Dask rows, as many as it needs; with the lock held."""
        while self._client is not None and self._waiting and len(self._in_flight) < self.room():
            row = self._waiting.pop()
            future = self._client.submit(
                _Named(_SIMULATE),
                row.job.setup.SerializeToString(deterministic=True),
                row.index,
                row.inputs.tobytes(),
                key=f"caligo-row-{row.index}-{next(self._numbers)}-{id(self):x}",
                pure=False,
            )
            self._in_flight[row] = future
            row.sent = time.monotonic()
            future.add_done_callback(lambda future, row=row: self._done(row, future))

    def _done(self, row: _Row, future: Future) -> None:
        """A task has come to an end; in a thread of Dask's."""
        if self._in_flight.get(row) is not future:
            return
        try:
            rows, error = self._outcome(row, future), None
        except CaligoError as raised:
            rows, error = None, raised
        except Exception as raised:
            log.exception("a row failed on its Dask worker", row=row.index, **row.job.context)
            rows, error = None, InternalError(f"row {row.index} failed on its Dask worker: {raised!r}")
        with self._lock:
            if self._in_flight.get(row) is not future:  # cancelled meanwhile
                return
            del self._in_flight[row]
            if rows is None and error is None:
                self._waiting.push_back(row.job.setup.campaign, [row])
                self._counts["lost"] += 1
            self._send()
        if rows is not None:
            metrics.row_came_back(row.job, row.index, row.submitted, row.sent)
            row.job.on_rows(rows)
        if error is not None:
            self.cancel(row.job)
            row.job.on_error(error)

    def _outcome(self, row: _Row, future: Future) -> Any:
        """Result rows of a task; None where Dask lost it and it is to be made again."""
        if future.status == "error":
            try:
                future.result()
            except KilledWorker:
                log.error("row given up: workers die of it", row=row.index, **row.job.context)
                self._counts["poison"] += 1
                return lost_row(row.index, row.inputs)
        if future.status != "finished":
            return None
        return wire.decode_rows(types_pb2.ResultBatch.FromString(future.result()))

    # --- the cluster ------------------------------------------------------------------------------------------------

    def _connected(self, seconds: float) -> Client:
        """The client, connected anew where the scheduler had gone.

        Raises:
            OSError: there is no scheduler.
        """
        with self._lock:
            client = self._client
        if client is not None and client.status == "running":
            return client
        fresh = Client(
            self._scheduler,
            timeout=min(seconds, self._patience_seconds),
            name="caligo-orchestrator",
            set_as_default=False,
        )
        with self._lock:
            self._client = fresh
            for row in self._in_flight:  # their futures went with the old scheduler
                self._waiting.push_back(row.job.setup.campaign, [row])
            self._in_flight.clear()
        if client is not None:
            client.close(timeout=0)
        return fresh

    def _look(self) -> None:
        """Connect when there is work, and see how many threads there are; end the jobs when there is nobody."""
        none_since = time.monotonic()
        while not self._closing.is_set():
            if not (self._waiting or self._in_flight):
                self._work.clear()
                if not (self._waiting or self._in_flight or self._closing.is_set()):
                    self._work.wait()
                none_since = time.monotonic()
                continue
            threads: dict[str, int] = {}
            try:
                threads = self._connected(_CONNECT_SECONDS).nthreads()
                with self._lock:
                    self._threads, self._workers = sum(threads.values()), len(threads)
                    self._send()
            except Exception as error:  # Dask's own of many types: whatever it is, this thread goes on looking
                log.warning("the Dask cluster cannot be asked", scheduler=self._scheduler, problem=repr(error))
            if threads:
                none_since = time.monotonic()
            elif time.monotonic() - none_since > self._patience_seconds:
                self._fail_all(Unreachable(f"{self._scheduler}: no worker answers"))
            self._closing.wait(_LOOK_SECONDS)

    def _fail_all(self, error: CaligoError) -> None:
        with self._lock:
            jobs = {row.job for row in (*self._waiting, *self._in_flight)}
        for job in jobs:
            self.cancel(job)
            job.on_error(error)
