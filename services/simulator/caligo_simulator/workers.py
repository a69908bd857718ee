"""The worker processes that make quantum data, and the orchestrator that keeps them busy and alive.

A task travels to a worker as a tiny message over a pipe; the worker writes the segment straight into the arena slot
it was given and answers with the slot's reference. Each worker is looked after by a thread of its own: when it dies
or overruns its time the thread starts another, reclaims the slot, and gives the same task to it. What comes out is
the same, since a segment is a function of the task alone.

Workers are forked by a fork server that is started before any gRPC thread exists and holds Numba already, so a new
worker is there in milliseconds and inherits no lock of the service's.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import queue
import signal
import threading
import time
import traceback
from concurrent.futures import Future
from dataclasses import dataclass
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Final, Self

import numpy as np

from caligo import logs
from caligo.errors import InternalError
from caligo_simulator.arena import Arena, SlotReference, StaleReferenceError
from caligo_simulator.epr.source import TILE, Link, Segment, make_source, segment_bytes

log = logs.get("workers")

MAX_DEATHS: Final = 3
"""Workers that may die over one segment before it is given up."""
_OVERTIME_SECONDS: Final = 2.0
"""A worker that is still not done so long after its task's deadline is replaced."""
_START_SECONDS: Final = 60.0
"""For a worker to say that it is ready; compiling its kernels takes part of it on the first start."""


class WorkerLostError(InternalError):
    """Every worker that was given this segment died."""


class SourceError(InternalError):
    """What an EPR source raised in a worker, as text."""


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """Rounds `start` to `start + pairs` of the sample with this key. start: a multiple of `TILE`."""

    source: str
    link: Link
    key: int
    start: int
    pairs: int


@dataclass(frozen=True, slots=True)
class _Job:
    task: SegmentTask
    deadline: float
    future: Future[SlotReference]


class BatchedEPROrchestrator:
    """A pool of worker processes over an arena. Usable as a context manager that closes it."""

    def __init__(self, arena: Arena, workers: int) -> None:
        """Start the processes and wait until they are ready.

        Raises:
            InternalError: they do not start.
        """
        self.arena = arena
        self.workers = workers
        self.segment_pairs = arena.slot_bytes // 4 // TILE * TILE
        """Most pairs of a segment."""
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._keepers = [_Keeper(number, arena, self._jobs, self._closing) for number in range(workers)]
        try:
            for keeper in self._keepers:
                keeper.await_ready()
        except EOFError:
            self.close()
            raise InternalError("an EPR worker does not start; standard error says why") from None
        except BaseException:
            self.close()
            raise
        for keeper in self._keepers:
            keeper.start()

    def generate(self, task: SegmentTask, deadline: float) -> Future[SlotReference]:
        """Have a segment made; the future holds its reference, to be read and freed by the caller.

        deadline: on the clock of `time.monotonic`.

        Raises:
            InternalError: the pool is closed.

        The future raises `WorkerLostError`, `TimeoutError` or `SourceError`.
        """
        if task.start % TILE:
            raise ValueError(f"start must be a multiple of {TILE}")
        future: Future[SlotReference] = Future()
        with self._lock:
            if self._closing.is_set():
                raise _closed()
            self._jobs.put(_Job(task, deadline, future))
        return future

    def discard(self, future: Future[SlotReference]) -> None:
        """Give up a segment that `generate` promised: not made if nobody has begun, freed when it is there."""

        def free(done: Future[SlotReference]) -> None:
            if not done.cancelled() and done.exception() is None:
                with contextlib.suppress(StaleReferenceError):
                    self.arena.free(done.result())

        future.cancel()
        future.add_done_callback(free)

    def process_ids(self) -> list[int]:
        """Process ids of the workers, by number."""
        return [keeper.process_id() for keeper in self._keepers]

    def close(self) -> None:
        """End the workers; segments under way are given up. Returns when all processes have ended."""
        with self._lock:
            self._closing.set()
        self.arena.wake()
        for _ in self._keepers:
            self._jobs.put(None)
        for keeper in self._keepers:
            keeper.stop()
        while not self._jobs.empty():
            job = self._jobs.get()
            if job is not None and job.future.set_running_or_notify_cancel():
                job.future.set_exception(_closed())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _closed() -> InternalError:
    return InternalError("the workers have been told to end")


class _Keeper:
    """Looks after one worker process."""

    def __init__(
        self, number: int, arena: Arena, jobs: queue.SimpleQueue[_Job | None], closing: threading.Event
    ) -> None:
        self._number = number
        self._arena = arena
        self._jobs = jobs
        self._closing = closing
        self._thread = threading.Thread(target=self._run, name=f"keeper-{number}", daemon=True)
        self._spawn()

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._process.kill()  # it holds nothing that would need an orderly end
        if self._thread.ident is not None:
            self._thread.join()
        self._end_process()

    def process_id(self) -> int:
        return self._process.pid or 0

    def await_ready(self) -> None:
        """Raises EOFError if the process ends first, or takes too long."""
        if not self._connection.poll(_START_SECONDS):
            raise EOFError
        self._connection.recv()

    def _spawn(self) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "caligo_simulator.epr.statistical"])
        ours, theirs = context.Pipe()
        self._process = context.Process(
            target=_work,
            args=(theirs, self._arena.name, self._arena.slots, self._arena.slot_bytes),
            name=f"epr-{self._number}",
            daemon=True,
        )
        self._process.start()
        theirs.close()
        self._connection: Connection = ours

    def _end_process(self) -> None:
        self._process.kill()
        self._process.join()
        self._connection.close()

    def _replace_process(self) -> None:
        self._end_process()
        if self._closing.is_set():
            raise _closed()
        self._spawn()
        self.await_ready()

    def _run(self) -> None:
        while not self._closing.is_set():
            job = self._jobs.get()
            if job is None:
                return
            if not job.future.set_running_or_notify_cancel():
                continue
            try:
                job.future.set_result(self._make(job))
            except Exception as error:
                job.future.set_exception(error)

    def _make(self, job: _Job) -> SlotReference:
        for _ in range(MAX_DEATHS):
            try:
                if not self._process.is_alive():
                    self._replace_process()
                return self._ask(job)
            except TimeoutError:
                raise
            except (EOFError, OSError):
                log.warning("EPR worker died", worker=self._number, start=job.task.start)
        raise WorkerLostError(f"{MAX_DEATHS} EPR workers died over rounds {job.task.start} on")

    def _ask(self, job: _Job) -> SlotReference:
        """Have the process carry out a task. Raises EOFError or OSError if it dies, and frees the slot."""
        slot = self._arena.lease(self._number, self._closing)
        try:
            self._connection.send((job.task, slot))
            patience = job.deadline + _OVERTIME_SECONDS - time.monotonic()
            if not self._connection.poll(max(0.0, patience)):
                raise TimeoutError(f"rounds {job.task.start} on were not made in time")
            answer: SlotReference | str = self._connection.recv()
            if isinstance(answer, str):
                raise SourceError(answer)
        except (EOFError, OSError):
            self._end_process()  # the slot may go to somebody else only when nobody writes to it any more
            self._arena.free(slot)
            raise
        except SourceError:
            self._arena.free(slot)
            raise
        return answer


def _work(connection: Connection, arena_name: str, slots: int, slot_bytes: int) -> None:
    """Body of a worker process: fill segments until the service closes the pipe or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which decides when workers end
        signal.signal(number, signal.SIG_IGN)
    arena = Arena.attach(arena_name, slots, slot_bytes)
    source = make_source("statistical")
    for efficiency in (1.0, 1e-3):  # loads or compiles the kernels before anybody waits for them
        segment = Segment.over(np.empty(segment_bytes(64), np.uint8), 64)
        source.fill(segment, Link(1.0, efficiency, 0.0, 0.0, "fidelity"), 0, 0)
    with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
        connection.send(True)
        while True:
            task, slot = connection.recv()
            connection.send(_fill(arena, task, slot))


def _fill(arena: Arena, task: SegmentTask, slot: SlotReference) -> SlotReference | str:
    try:
        segment = Segment.over(arena.write(slot), task.pairs)
        make_source(task.source).fill(segment, task.link, task.key, task.start)
        return arena.commit(slot, segment_bytes(task.pairs))
    except Exception:
        return traceback.format_exc()
