"""The simulation farm: rows go to whichever simulator has room, results come back as they complete.

A row's result does not depend on who computes it, so a chunk whose stream broke is simply sent again without the
rows that have come back.
"""

from __future__ import annotations

import contextlib
import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
from numpy.typing import NDArray

from caligo import logs, rpc, wire
from caligo.errors import CaligoError, InternalError, Unreachable
from caligo.results import ResultRows
from caligo.v1 import simulator_pb2, simulator_pb2_grpc

log = logs.get("dispatch")

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
_RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


class Cancellation:
    """Ends the calls of work that is given up."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._event = threading.Event()
        self._calls: set[grpc.Call] = set()

    def cancel(self) -> None:
        """End all calls, present and to come."""
        with self._lock:
            self._event.set()
            calls = list(self._calls)
        for call in calls:
            call.cancel()

    def is_cancelled(self) -> bool:
        return self._event.is_set()

    def wait(self, seconds: float) -> None:
        """Sleep, at most until cancelled."""
        self._event.wait(seconds)

    @contextlib.contextmanager
    def ending(self, call: grpc.Call) -> Iterator[None]:
        """The call ends with the block, or before, when work is cancelled."""
        with self._lock:
            self._calls.add(call)
        if self._event.is_set():
            call.cancel()
        try:
            yield
        finally:
            with self._lock:
                self._calls.discard(call)
            call.cancel()


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows that travel in one stream, and where their results and their failure go."""

    setup: simulator_pb2.SimulateSetup
    index: NDArray[np.int64]
    inputs: NDArray[np.float32]
    on_rows: Callable[[ResultRows], None]
    on_error: Callable[[CaligoError], None]
    cancellation: Cancellation


class SimulationFarm:
    """`streams` streams of rows to the simulators behind one address; shared by all campaigns."""

    def __init__(self, address: str, streams: int, patience_seconds: float) -> None:
        self._address = address
        self._patience_seconds = patience_seconds
        self._chunks: queue.SimpleQueue[Chunk | None] = queue.SimpleQueue()
        self._channel = rpc.channel(address)
        self._stub = simulator_pb2_grpc.SimulatorServiceStub(self._channel)
        self._threads = [threading.Thread(target=self._work, name=f"farm-{i}", daemon=True) for i in range(streams)]
        for thread in self._threads:
            thread.start()

    def submit(self, chunk: Chunk) -> None:
        """Queue a chunk; its results are handed to `on_rows` from a thread of the farm."""
        self._chunks.put(chunk)

    def capacity(self, seconds: float) -> simulator_pb2.GetCapacityResponse:
        """What one replica can do.

        Raises:
            Unreachable: none answers in time.
        """
        rpc.wait_ready(self._channel, self._address, seconds)
        with rpc.calling(self._address):
            return self._stub.GetCapacity(simulator_pb2.GetCapacityRequest(), timeout=seconds)

    def close(self) -> None:
        """End the threads; whoever has work under way has cancelled it."""
        for _ in self._threads:
            self._chunks.put(None)
        for thread in self._threads:
            thread.join()
        self._channel.close()

    def _work(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            try:
                self._simulate(chunk)
            except CaligoError as error:
                chunk.on_error(error)
            except Exception as error:
                log.exception("rows could not be dispatched", campaign=chunk.setup.campaign)
                chunk.on_error(InternalError(f"rows could not be dispatched: {error!r}"))

    def _simulate(self, chunk: Chunk) -> None:
        missing = np.ones(len(chunk.index), dtype=np.bool_)
        pause, patience_ends = _FIRST_PAUSE, time.monotonic() + self._patience_seconds
        while missing.any() and not chunk.cancellation.is_cancelled():
            status = grpc.StatusCode.OK
            try:
                for rows in self._stream(chunk, missing):
                    missing &= ~np.isin(chunk.index, rows["index"])
                    chunk.on_rows(rows)
                    pause, patience_ends = _FIRST_PAUSE, time.monotonic() + self._patience_seconds
            except grpc.RpcError as error:
                status = error.code()
                if status not in _RETRIED and not chunk.cancellation.is_cancelled():
                    raise rpc.from_rpc_error(error, self._address) from None
            if missing.any() and not chunk.cancellation.is_cancelled():
                if time.monotonic() > patience_ends:
                    raise Unreachable(f"{self._address}: no simulator answers")
                log.warning(
                    "simulator stream ended early, sending its rows again",
                    campaign=chunk.setup.campaign,
                    rows=int(missing.sum()),
                    status=status.name,
                )
                chunk.cancellation.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _stream(self, chunk: Chunk, missing: NDArray[np.bool_]) -> Iterator[ResultRows]:
        requests = iter(
            (
                simulator_pb2.SimulateRequest(setup=chunk.setup),
                simulator_pb2.SimulateRequest(rows=wire.encode_design(chunk.index[missing], chunk.inputs[missing])),
            )
        )
        call = self._stub.Simulate(requests)
        with chunk.cancellation.ending(call):
            for response in call:
                yield wire.decode_rows(response.results)
