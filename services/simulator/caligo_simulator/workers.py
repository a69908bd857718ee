"""The worker processes that make quantum data, and the orchestrator that keeps them busy and alive.

A task travels to a worker as a message of a hundred bytes; the worker writes the segment straight into the arena slot
it was given and answers with the slot's reference. The thread that wants the segment talks to the worker itself, so a
hand-off wakes one process and is answered by it, with nobody in between. When a worker dies its slot is reclaimed and
the same task goes to the next one, while another is started in the background. What comes out is the same, since a
segment is a function of the task alone.

Workers are forked by a fork server that holds the compiled kernels already and never loads gRPC, so a new one is there
within milliseconds and inherits no lock of the service's.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import functools
import json
import multiprocessing
import os
import queue
import signal
import socket
import struct
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import wait
from types import TracebackType
from typing import Final, NamedTuple, Self, cast

from caligo import logs
from caligo.errors import InternalError, ResourceExhausted
from caligo.physics.detection import Convention
from caligo.physics.device import Device
from caligo_simulator.arena import Arena, SlotReference, StaleReferenceError
from caligo_simulator.epr.registry import make_source
from caligo_simulator.epr.source import TILE, BobBases, Link, Segment, segment_bytes

log = logs.get("workers")

MAX_DEATHS: Final = 3
"""Workers that may die over one segment before it is given up."""
PATIENCE_SECONDS: Final = 0.1
"""How long `SegmentRequest.result` waits, so that who waits looks at the clock now and then; and how long a worker may
go on with a segment that nobody waits for any more."""
_START_SECONDS: Final = 60.0
"""For a worker to say that it is ready; on the very first start the fork server compiles its kernels meanwhile."""


class WorkerLostError(InternalError):
    """Every worker that was given this segment died."""


class SourceError(InternalError):
    """What an EPR source raised in a worker, as text."""


@dataclass(frozen=True, slots=True)
class SegmentTask:
    """Rounds `start` to `start + pairs` of the sample with this key. start: a multiple of `TILE`."""

    source: str
    link: Link
    bob: BobBases
    key: int
    start: int
    pairs: int


class BatchedEPROrchestrator:
    """A pool of worker processes over an arena. Usable as a context manager that closes it."""

    def __init__(self, arena: Arena, workers: int, on_replaced: Callable[[], object] = lambda: None) -> None:
        """Start the processes and wait until they are ready. `on_replaced` is called for each that has to be replaced.

        Raises:
            InternalError: they do not start.
        """
        self.arena = arena
        self.workers = workers
        self._on_replaced = on_replaced
        self.segment_pairs = arena.slot_bytes // 4 // TILE * TILE
        """Most pairs of a segment."""
        self._lock = threading.Lock()
        self._closing = False
        self._idle: queue.SimpleQueue[_Worker] = queue.SimpleQueue()
        self._background = ThreadPoolExecutor(workers, thread_name_prefix="workers")
        self._members: list[_Worker] = []
        try:
            for number in range(workers):
                self._members.append(_Worker(number, arena))
            for worker in self._members:
                worker.await_ready()
                self._idle.put(worker)
        except (OSError, EOFError):
            self.close()
            raise InternalError("an EPR worker does not start; standard error says why") from None
        except BaseException:
            self.close()
            raise

    def generate(self, task: SegmentTask) -> SegmentRequest:
        """Have a segment made; the request is to be collected or discarded.

        Raises:
            InternalError: the pool is closed.
        """
        if task.start % TILE:
            raise ValueError(f"start must be a multiple of {TILE}")
        return SegmentRequest(self, task)

    def process_ids(self) -> list[int]:
        """Process ids of the workers, by number."""
        return [worker.process_id for worker in self._members]

    def close(self) -> None:
        """End the workers; segments under way are given up. Returns when all processes have ended."""
        with self._lock:
            self._closing = True
        for worker in self._members:
            worker.kill()  # they hold nothing that would need an orderly end
        self._background.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- for requests -----------------------------------------------------------------------------------------------

    def _take(self, seconds: float) -> _Hold | None:
        """An idle worker and a slot for it, or None where there are none within `seconds`."""
        if self._closing:
            raise InternalError("the workers have been told to end")
        try:
            worker = self._idle.get(timeout=seconds)
        except queue.Empty:
            return None
        try:
            return _Hold(worker, self.arena.lease(worker.number, seconds))
        except ResourceExhausted:
            self._idle.put(worker)
            return None

    def _replace(self, hold: _Hold) -> None:
        """End the worker, take its slot from it, and have another one started."""
        self._on_replaced()
        hold.worker.kill()  # the slot may go to somebody else only when nobody writes to it any more
        self.arena.free(hold.slot)
        self._in_background(self._start_another, hold.worker)

    def _abandon(self, hold: _Hold) -> None:
        """Nobody waits for this segment any more: free its slot as soon as nobody writes to it."""
        if not self._in_background(self._outlast, hold):
            self._replace(hold)

    def _in_background(self, work: Callable[..., None], *arguments: object) -> bool:
        with self._lock:
            if not self._closing:
                self._background.submit(contextvars.copy_context().run, work, *arguments)  # log lines name the row
            return not self._closing

    def _outlast(self, hold: _Hold) -> None:
        try:
            answered = hold.worker.answer() is not None
        except OSError:
            answered = False
        if answered:
            self.arena.free(hold.slot)
            self._idle.put(hold.worker)
        else:
            log.warning("EPR worker replaced over a segment that nobody waits for", worker=hold.worker.number)
            self._replace(hold)

    def _start_another(self, dead: _Worker) -> None:
        try:
            with self._lock:
                if self._closing:
                    return
                self._members[dead.number] = _Worker(dead.number, self.arena)
            self._members[dead.number].await_ready()
        except (OSError, EOFError):
            log.error("EPR worker does not start", worker=dead.number)
            self._members[dead.number].kill()
        self._idle.put(self._members[dead.number])  # whoever is given a dead one has it started again


class SegmentRequest:
    """A segment that has been asked for. Made by `BatchedEPROrchestrator.generate`, for one thread at a time."""

    def __init__(self, pool: BatchedEPROrchestrator, task: SegmentTask) -> None:
        self._pool = pool
        self._task = task
        self._hold: _Hold | None = None
        self._reference: SlotReference | None = None
        self._deaths = 0
        self._send(0.0)

    def result(self) -> SlotReference | None:
        """The segment's reference, to be read and freed by the caller; None if it is not there within
        `PATIENCE_SECONDS`.

        Raises:
            WorkerLostError: `MAX_DEATHS` workers have died over it.
            SourceError: the source raised something.
            InternalError: the pool is closed.
        """
        if self._hold is None and (self._reference is not None or not self._send(PATIENCE_SECONDS)):
            return self._reference
        hold = cast(_Hold, self._hold)
        try:
            answer = hold.worker.answer()
        except OSError:
            self._mourn(hold)
            return None
        if answer is None:
            return None
        self._hold = None
        self._pool._idle.put(hold.worker)
        if isinstance(answer, str):
            self._pool.arena.free(hold.slot)
            raise SourceError(answer)
        self._reference = answer
        return answer

    def discard(self) -> None:
        """Give the segment up: not made if nobody has begun, and its slot is freed unless the caller has done so."""
        if self._hold is not None:
            self._pool._abandon(self._hold)
            self._hold = None
        elif self._reference is not None:
            with contextlib.suppress(StaleReferenceError):
                self._pool.arena.free(self._reference)

    def _send(self, seconds: float) -> bool:
        hold = self._hold = self._pool._take(seconds)
        if hold is None:
            return False
        try:
            hold.worker.ask(self._task, hold.slot)
        except OSError:
            self._mourn(hold)
            return False
        return True

    def _mourn(self, hold: _Hold) -> None:
        self._hold = None
        self._deaths += 1
        if not self._pool._closing:
            log.warning("EPR worker died", worker=hold.worker.number, start=self._task.start)
        self._pool._replace(hold)
        if self._deaths == MAX_DEATHS:
            raise WorkerLostError(f"{MAX_DEATHS} EPR workers died over rounds {self._task.start} on")


class _Worker:
    """One process, from its start to its death, and this end of the socket between us."""

    def __init__(self, number: int, arena: Arena) -> None:
        self.number = number
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "caligo_simulator.epr.preload"])
        # Messages arrive whole or not at all, and the death of either side ends the other's waiting.
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            process = context.Process(
                target=_work,
                args=(theirs, arena.name, arena.slots, arena.slot_bytes, arena.checksums),
                name=f"epr-{number}",
                daemon=True,
            )
            process.start()
        self.process_id: int = process.pid or 0
        # Unlike the process id it is never another process's, and unlike the fork server it cannot die before us.
        self._handle = os.pidfd_open(self.process_id)
        weakref.finalize(self, os.close, self._handle)
        weakref.finalize(self, self._socket.close)

    def await_ready(self) -> None:
        """Raises OSError if the process ends first, or takes too long."""
        self._socket.settimeout(_START_SECONDS)
        if self._receive() is None:
            raise TimeoutError
        self._socket.settimeout(PATIENCE_SECONDS)

    def ask(self, task: SegmentTask, slot: SlotReference) -> None:
        """Give it a task. Raises OSError if it is dead."""
        self._socket.send(_encode(task, slot))

    def answer(self) -> SlotReference | str | None:
        """Its answer, or what its source raised; None if that takes more than `PATIENCE_SECONDS`.

        Raises OSError if it is dead.
        """
        message = self._receive()
        if message is None:
            return None
        if len(message) == _REFERENCE.size:
            return SlotReference(*_REFERENCE.unpack(message))
        return message.decode(errors="replace")

    def kill(self) -> None:
        """Returns when it is dead."""
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._handle, signal.SIGKILL)
        wait([self._handle])

    def _receive(self) -> bytes | None:
        try:
            message = self._socket.recv(_MESSAGE_BYTES)
        except TimeoutError:
            return None
        if not message:
            raise ConnectionResetError
        return message


class _Hold(NamedTuple):
    """A worker, and the slot that it was given for one segment."""

    worker: _Worker
    slot: SlotReference


# --- messages -------------------------------------------------------------------------------------------------------

_REFERENCE: Final = struct.Struct("=4q")
"""A worker's answer; one of another length is the text of an error."""
_TASK: Final = struct.Struct("=4q4d2qQ2q")
"""Slot, link, Bob's bases, key, start and pairs; the names of source and convention follow, and as JSON the device, if
there is one."""
_MESSAGE_BYTES: Final = 4096
_COIN: Final = 2
"""In the place of a basis that Bob does not have."""


def _encode(task: SegmentTask, slot: SlotReference) -> bytes:
    link = task.link
    numbers = _TASK.pack(
        *slot,
        *(link.fidelity, link.efficiency, link.detector_error, link.dark_count_prob),
        *(_COIN if task.bob.basis is None else task.bob.basis, task.bob.slots),
        *(task.key, task.start, task.pairs),
    )
    device = "" if link.device is None else json.dumps({"rounds": link.rounds, **dataclasses.asdict(link.device)})
    return numbers + f"{task.source} {link.convention} {device}".encode()


def _decode(message: bytes) -> tuple[SegmentTask, SlotReference]:
    numbers = _TASK.unpack_from(message)
    basis, slots, key, start, pairs = numbers[8:]
    source, convention, device = message[_TASK.size :].decode().split(" ", 2)
    fidelity, efficiency, error, dark = numbers[4:8]
    link = Link(fidelity, efficiency, error, dark, cast(Convention, convention))
    if device:
        figures = json.loads(device)
        link = dataclasses.replace(link, rounds=figures.pop("rounds"), device=Device(**figures))
    bob = BobBases(None if basis == _COIN else basis, slots)
    return SegmentTask(source, link, bob, key, start, pairs), SlotReference(*numbers[:4])


# --- in the worker --------------------------------------------------------------------------------------------------


def _work(connection: socket.socket, arena_name: str, slots: int, slot_bytes: int, checksums: bool) -> None:
    """Body of a worker process: fill segments until the service closes the socket or is gone."""
    for number in (signal.SIGINT, signal.SIGTERM):  # meant for the service, which decides when workers end
        signal.signal(number, signal.SIG_IGN)
    arena = Arena.attach(arena_name, slots, slot_bytes, checksums)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.send(b"ready")
        while message := connection.recv(_MESSAGE_BYTES):
            connection.send(_fill(arena, *_decode(message)))


_source = functools.cache(make_source)


def _fill(arena: Arena, task: SegmentTask, slot: SlotReference) -> bytes:
    try:
        segment = Segment.over(arena.write(slot), task.pairs)
        _source(task.source).fill(segment, task.link, task.bob, task.key, task.start)
        return _REFERENCE.pack(*arena.commit(slot, segment_bytes(task.pairs)))
    except Exception:
        return traceback.format_exc().encode()[-_MESSAGE_BYTES:]
