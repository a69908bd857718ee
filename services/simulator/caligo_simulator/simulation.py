"""A stream of design rows through the harness: results as they complete, a bounded number under way."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from caligo import logs
from caligo.errors import Unreachable
from caligo.results import ResultRows
from caligo.seeds import Phase
from caligo.space import ExplorationSample
from caligo.spec import PhysicsSpec, ProtocolSpec
from caligo_simulator.arena import Arena, cleanup_shared_memory_orphans
from caligo_simulator.epr.source import make_source, segment_bytes
from caligo_simulator.harness import ProtocolHarness, SampleCancelledError, Setup
from caligo_simulator.workers import BatchedEPROrchestrator

log = logs.get("simulation")

_ROWS_PER_WORKER: Final = 4
"""Rows of a stream that are under way or waiting for a thread, so that none idles while the next batch travels."""
JANITOR_SECONDS: Final = 60.0
"""From one removal of orphaned segments to the next."""

DesignRow = tuple[int, NDArray[np.float32]]
"""A sample's index in its phase and its model coordinates, float32 [9]."""


class Simulator:
    """Arena, workers and harness threads of one service. Usable as a context manager that closes it.

    There are as many harness threads as workers and two slots for each: one that is read, one that is written.
    """

    def __init__(self, workers: int, segment_pairs: int, namespace: str, *, verify_segments: bool = False) -> None:
        """Start.

        segment_pairs: most pairs of a segment, a multiple of `epr.source.TILE`. verify_segments: compare a checksum of
        every segment when it is read.

        Raises:
            ResourceExhausted: /dev/shm has no room for the arena.
            InternalError: the workers do not start.
        """
        cleanup_shared_memory_orphans(namespace)
        self.namespace = namespace
        self.workers = workers
        self.max_rows_in_flight = _ROWS_PER_WORKER * workers
        self.arena = Arena.create(2 * workers, segment_bytes(segment_pairs), namespace, checksums=verify_segments)
        try:
            self.orchestrator = BatchedEPROrchestrator(self.arena, workers)
        except BaseException:
            self.arena.close()
            raise
        self._harness = ProtocolHarness(self.orchestrator)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="harness")
        # Held again by the same thread where the garbage collector ends a forgotten stream.
        self._lock = threading.RLock()
        self._streams: set[_Stream] = set()
        self._draining = False
        self._closing = threading.Event()
        self._janitor = threading.Thread(target=self._keep_clean, name="janitor", daemon=True)
        self._janitor.start()

    def simulate(
        self, setup: Setup, rows: Iterable[DesignRow], cancelled: threading.Event | None = None
    ) -> Iterator[ResultRows]:
        """Result rows, one at a time, in the order in which they complete.

        `rows` is read in a thread of its own, and only while fewer than `max_rows_in_flight` of this stream are
        under way. Closing the generator, or setting `cancelled`, stops everything under way at its next stage.

        Raises:
            InvalidArgument: the setup's EPR source cannot be used, or a row lies outside the parameter space.
            Unreachable: `drain` or `close` was called before all rows were done.
        """
        make_source(setup.protocol.epr_source)
        cancelled = cancelled or threading.Event()
        stream = _Stream(self._threads, self.max_rows_in_flight, cancelled)
        with self._lock:
            self._streams.add(stream)
            if self._draining:
                stream.stop_reading()
        try:
            yield from stream.results(rows, lambda row: self.run(setup, row, cancelled))
        finally:
            with self._lock:
                self._streams.remove(stream)
        if self._draining and not stream.completed:
            raise Unreachable("the simulator is shutting down; the rows without a result may be sent again")

    def run(self, setup: Setup, row: DesignRow, cancelled: threading.Event) -> ResultRows:
        """One row through the harness, in the calling thread."""
        sample = ExplorationSample.inflate(*row)
        return self._harness.run(sample, setup, cancelled=cancelled).to_row(*row)

    def warm_up(self) -> None:
        """Run one secure sample of each strategy, so that no kernel is compiled while somebody waits."""
        setup = Setup("warm-up", 0, Phase.LHS, PhysicsSpec(memory_model="fixed"), ProtocolSpec())
        for strategy in (0, 1):
            for efficiency in (1.0, 0.1):
                pairs = 30_000 / efficiency
                inputs = [0.1, -1.0, 9.0, 0.995, np.log10(efficiency), 0.0, -8.0, np.log10(pairs), strategy]
                self.run(setup, (0, np.array(inputs, np.float32)), threading.Event())

    def drain(self) -> None:
        """Read no more rows from any stream; what is under way is finished."""
        with self._lock:
            self._draining = True
            for stream in list(self._streams):
                stream.stop_reading()

    def close(self) -> None:
        """End threads and workers and remove the arena; nothing of ours is left in /dev/shm."""
        self.drain()
        with self._lock:
            for stream in list(self._streams):
                stream.cancel()
        self._closing.set()
        self._janitor.join()
        self.orchestrator.close()
        self._threads.shutdown(wait=True)  # rows that wait see that they are cancelled
        self.arena.close()
        cleanup_shared_memory_orphans(self.namespace)

    def _keep_clean(self) -> None:
        while not self._closing.wait(JANITOR_SECONDS):
            try:
                cleanup_shared_memory_orphans(self.namespace)
            except OSError:
                log.exception("orphaned shared memory could not be removed")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Stream:
    """One call of `simulate`: a feeder thread reads rows, harness threads queue results, `results` hands them on."""

    def __init__(self, threads: ThreadPoolExecutor, credit: int, cancelled: threading.Event) -> None:
        self._threads = threads
        self._credit = threading.Semaphore(credit)
        self._cancelled = cancelled
        self._done: queue.SimpleQueue[ResultRows | Exception | None] = queue.SimpleQueue()
        self._refusal: Exception | None = None
        """What was wrong with the rows that came in."""
        self._lock = threading.RLock()
        self._submitted = 0
        self._reading = True
        self._exhausted = False
        self._completed = 0

    @property
    def completed(self) -> bool:
        """All rows have been read and have their results."""
        return self._exhausted and self._completed == self._submitted

    def results(self, rows: Iterable[DesignRow], work: Callable[[DesignRow], ResultRows]) -> Iterator[ResultRows]:
        threading.Thread(target=self._feed, args=(rows, work), name="feeder", daemon=True).start()
        try:
            while self._refusal is None and (self._reading or self._completed < self._submitted):
                item = self._done.get()
                if item is None:
                    continue
                if isinstance(item, SampleCancelledError):
                    return
                if isinstance(item, Exception):
                    raise item
                self._completed += 1
                self._credit.release()
                yield item
            if self._refusal is not None:
                raise self._refusal
        finally:
            self.cancel()
            self._credit.release()  # for the feeder, which may wait for it

    def stop_reading(self) -> None:
        """Take no more rows; those under way are finished."""
        with self._lock:
            self._reading = False
        self._done.put(None)

    def cancel(self) -> None:
        """Stop what is under way at its next stage."""
        self._cancelled.set()
        self.stop_reading()

    def _feed(self, rows: Iterable[DesignRow], work: Callable[[DesignRow], ResultRows]) -> None:
        try:
            for row in rows:
                self._credit.acquire()
                with self._lock:
                    if not self._reading:
                        return
                    self._submitted += 1
                    self._threads.submit(self._work, work, row)
            self._exhausted = True
        except Exception as error:
            self._refusal = error
        self.stop_reading()

    def _work(self, work: Callable[[DesignRow], ResultRows], row: DesignRow) -> None:
        try:
            self._done.put(work(row))
        except Exception as error:
            self._done.put(error)
