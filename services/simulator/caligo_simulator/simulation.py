"""A stream of design rows through the harness: results as they complete, a bounded number under way."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from caligo import logs
from caligo.errors import Unreachable
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.space import ExplorationSample
from caligo.spec import PhysicsSpec, ProtocolSpec
from caligo_simulator import metrics
from caligo_simulator.arena import Arena, cleanup_shared_memory_orphans
from caligo_simulator.epr.registry import check_installed
from caligo_simulator.epr.source import segment_bytes
from caligo_simulator.harness import ProtocolHarness, SampleCancelledError, Setup
from caligo_simulator.workers import BatchedEPROrchestrator

log = logs.get("simulation")

_ROWS_PER_WORKER: Final = 8
"""Rows of a stream that are under way or waiting for a thread, so that none idles while the next rows travel."""
JANITOR_SECONDS: Final = 60.0
"""From one removal of orphaned segments to the next."""

DesignRow = tuple[int, NDArray[np.float32]]
"""A sample's index in its phase and its model coordinates, float32 [9]."""


@dataclass(frozen=True, slots=True, eq=False)
class Task:
    """A row to be simulated, of the stream's job with number `job`; to set `withdrawn` is to give it up."""

    setup: Setup
    row: DesignRow
    job: int = 0
    withdrawn: threading.Event = field(default_factory=threading.Event)


class Simulator:
    """Arena, workers and harness threads of one service. Usable as a context manager that closes it.

    There are as many harness threads as workers and two slots for each: one that is read, one that is written.
    """

    def __init__(self, workers: int, segment_pairs: int, namespace: str, *, verify_segments: bool = False) -> None:
        """Start.

        segment_pairs: most pairs of a segment, a multiple of `epr.source.TILE`. verify_segments: compare a checksum of
        every segment when it is read.

        Raises:
            InvalidArgument: /dev/shm has no room for the arena.
            InternalError: the workers do not start.
        """
        cleanup_shared_memory_orphans(namespace)
        self.namespace = namespace
        self.workers = workers
        self.max_rows_in_flight = _ROWS_PER_WORKER * workers
        self.arena = Arena.create(2 * workers, segment_bytes(segment_pairs), namespace, checksums=verify_segments)
        try:
            self.orchestrator = BatchedEPROrchestrator(self.arena, workers, metrics.WORKERS_REPLACED.inc)
        except BaseException:
            self.arena.close()
            raise
        self._harness = ProtocolHarness(self.orchestrator)
        metrics.WORKERS.set(workers)
        metrics.SLOTS.set(self.arena.slots)
        metrics.SLOT_BYTES.set(self.arena.slot_bytes)
        metrics.ROOM.set(self.max_rows_in_flight)
        metrics.SLOTS_IN_USE.set_function(lambda: self.arena.slots - self.arena.free_slots())
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
        """Result rows of one job, as `carry_out` yields them.

        Raises:
            InvalidArgument: the setup's EPR source cannot be used, or a row lies outside the parameter space.
            Unreachable: as `carry_out` does.
        """
        check_installed(setup.protocol.epr_source)
        tasks = (Task(setup, row) for row in rows)
        with contextlib.closing(self.carry_out(tasks, cancelled or threading.Event())) as results:
            for _, row in results:
                yield row

    def carry_out(
        self, tasks: Iterable[Task], cancelled: threading.Event, idle_seconds: float | None = None
    ) -> Generator[tuple[Task, ResultRows]]:
        """Tasks with their result rows, one at a time, in the order in which they complete.

        `tasks` is read in a thread of its own, and only while fewer than `max_rows_in_flight` of this stream are
        under way. Closing the generator, or setting `cancelled`, stops everything under way at its next stage.
        Whatever reading a task raises ends the stream.

        Args:
            idle_seconds: how long nothing may be under way before no more is read; None for ever.

        Raises:
            InvalidArgument: a row lies outside the parameter space.
            Unreachable: `drain` or `close` was called before all rows were done.
        """
        stream = _Stream(self._threads, self.max_rows_in_flight, cancelled, idle_seconds)
        with self._lock:
            self._streams.add(stream)
            if self._draining:
                stream.give_back()
        try:
            yield from stream.results(tasks, self.run)
        finally:
            with self._lock:
                self._streams.remove(stream)
        if self._draining and not stream.completed:
            raise Unreachable("the simulator is shutting down; the rows without a result may be sent again")

    def run(self, setup: Setup, row: DesignRow, cancelled: threading.Event) -> ResultRows:
        """One row through the harness, in the calling thread."""
        with metrics.IN_FLIGHT.track_inprogress():
            result = self._harness.run(ExplorationSample.inflate(*row), setup, cancelled=cancelled)
        metrics.SAMPLES.labels(result.outcome.name.lower()).inc()
        metrics.PAIRS.inc(result.pairs)
        return result.to_row(*row)

    def warm_up(self) -> None:
        """Run one secure sample of each strategy, so that no kernel is compiled while somebody waits."""
        setup = Setup("", 0, Phase.LHS, PhysicsSpec(memory_model="fixed"), ProtocolSpec())
        for strategy in (0, 1):
            for efficiency in (1.0, 0.1):
                pairs = 30_000 / efficiency
                inputs = [0.1, -1.0, 9.0, 0.995, np.log10(efficiency), 0.0, -8.0, np.log10(pairs), strategy]
                self._harness.run(ExplorationSample.inflate(0, np.array(inputs, np.float32)), setup)

    def drain(self) -> None:
        """Read no more rows from any stream and begin none; those begun are finished."""
        with self._lock:
            self._draining = True
            for stream in list(self._streams):
                stream.give_back()

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


class _Cancelled(threading.Event):
    """Set when any of some others is."""

    def __init__(self, *others: threading.Event) -> None:
        super().__init__()
        self._others = others

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._others)


class _Stream:
    """One call of `carry_out`: a feeder thread reads tasks, harness threads queue results, `results` hands them on."""

    def __init__(
        self, threads: ThreadPoolExecutor, credit: int, cancelled: threading.Event, idle_seconds: float | None
    ) -> None:
        self._threads = threads
        self._idle_seconds = idle_seconds
        self._credit = threading.Semaphore(credit)
        self._cancelled = cancelled
        self._done: queue.SimpleQueue[tuple[Task, ResultRows | Exception] | None] = queue.SimpleQueue()
        self._refusal: Exception | None = None
        """What was wrong with the rows that came in."""
        self._lock = threading.RLock()
        self._submitted = 0
        self._ended = 0
        self._reading = True
        self._giving_back = False
        self._exhausted = False
        self._given_back = False

    @property
    def completed(self) -> bool:
        """All rows have been read and have their results, or nobody waits for them."""
        return self._exhausted and self._ended == self._submitted and not self._given_back

    def results(
        self, tasks: Iterable[Task], work: Callable[[Setup, DesignRow, threading.Event], ResultRows]
    ) -> Iterator[tuple[Task, ResultRows]]:
        threading.Thread(target=self._feed, args=(tasks, work), name="feeder", daemon=True).start()
        try:
            while self._refusal is None and (self._reading or self._ended < self._submitted):
                try:
                    item = self._done.get(timeout=self._idle_seconds)
                except queue.Empty:
                    if self._ended == self._submitted:
                        self.stop_reading()
                    continue
                if item is None:
                    continue
                task, result = item
                if isinstance(result, SampleCancelledError):
                    if self._cancelled.is_set():
                        return
                elif isinstance(result, Exception):
                    raise result
                self._ended += 1
                self._credit.release()
                if not isinstance(result, Exception):
                    yield task, result
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

    def give_back(self) -> None:
        """Take no more rows, and begin none of those that wait."""
        self._giving_back = True
        self.stop_reading()

    def cancel(self) -> None:
        """Stop what is under way at its next stage."""
        self._cancelled.set()
        self.stop_reading()

    def _feed(self, tasks: Iterable[Task], work: Callable[[Setup, DesignRow, threading.Event], ResultRows]) -> None:
        try:
            for task in tasks:
                self._credit.acquire()
                with self._lock:
                    if not self._reading:
                        return
                    self._submitted += 1
                    self._threads.submit(self._work, work, task)
            self._exhausted = True
        except Exception as error:
            self._refusal = error
        self.stop_reading()

    def _work(self, work: Callable[[Setup, DesignRow, threading.Event], ResultRows], task: Task) -> None:
        result: ResultRows | Exception
        try:
            if self._giving_back:
                self._given_back = True
                raise SampleCancelledError
            result = work(task.setup, task.row, _Cancelled(self._cancelled, task.withdrawn))
        except Exception as error:
            result = error
        self._done.put((task, result))
