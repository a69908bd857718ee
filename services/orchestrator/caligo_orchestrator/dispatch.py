"""The simulation farm: rows go to whichever simulator has room, results come back as they complete.

A row's result does not depend on who computes it, so a chunk whose stream broke is simply sent again without the
rows that have come back.
"""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
from numpy.typing import NDArray

from caligo import logs, rpc, wire
from caligo.errors import CaligoError, Unreachable
from caligo.results import ResultRows
from caligo.v1 import simulator_pb2, simulator_pb2_grpc

log = logs.get("dispatch")

_FIRST_PAUSE = 0.25
_LONGEST_PAUSE = 5.0
_RETRIED = frozenset({grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED})


@dataclasses.dataclass(frozen=True)
class Chunk:
    """Rows that travel in one stream, and where their results and their failure go."""

    setup: simulator_pb2.SimulateSetup
    index: NDArray[np.int64]
    inputs: NDArray[np.float32]
    on_rows: Callable[[ResultRows], None]
    on_error: Callable[[CaligoError], None]
    cancelled: threading.Event


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

    def capacity(self) -> simulator_pb2.GetCapacityResponse:
        """What one replica can do."""
        with rpc.calling(self._address):
            return self._stub.GetCapacity(simulator_pb2.GetCapacityRequest(), wait_for_ready=True)

    def close(self) -> None:
        """Cancel what is under way and end the threads."""
        for _ in self._threads:
            self._chunks.put(None)
        self._channel.close()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (chunk := self._chunks.get()) is not None:
            try:
                self._simulate(chunk)
            except CaligoError as error:
                chunk.on_error(error)
            except ValueError:  # the channel was closed under us
                return

    def _simulate(self, chunk: Chunk) -> None:
        missing = np.ones(len(chunk.index), dtype=np.bool_)
        pause, patience_ends = _FIRST_PAUSE, time.monotonic() + self._patience_seconds
        while missing.any() and not chunk.cancelled.is_set():
            try:
                for rows in self._stream(chunk, missing):
                    missing &= ~np.isin(chunk.index, rows["index"])
                    chunk.on_rows(rows)
                    pause, patience_ends = _FIRST_PAUSE, time.monotonic() + self._patience_seconds
            except grpc.RpcError as error:
                if chunk.cancelled.is_set():
                    return
                if error.code() not in _RETRIED:
                    raise rpc.from_rpc_error(error, self._address) from None
                if time.monotonic() > patience_ends:
                    raise Unreachable(f"{self._address}: no simulator answers") from None
                log.warning(
                    "simulator stream broke, sending its rows again",
                    campaign=chunk.setup.campaign,
                    rows=int(missing.sum()),
                    status=error.code().name,
                )
                chunk.cancelled.wait(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)

    def _stream(self, chunk: Chunk, missing: NDArray[np.bool_]) -> Iterator[ResultRows]:
        requests = iter(
            (
                simulator_pb2.SimulateRequest(setup=chunk.setup),
                simulator_pb2.SimulateRequest(rows=wire.encode_design(chunk.index[missing], chunk.inputs[missing])),
            )
        )
        call = self._stub.Simulate(requests)
        watcher = threading.Thread(target=_cancel_when_set, args=(chunk.cancelled, call), daemon=True)
        watcher.start()
        try:
            for response in call:
                yield wire.decode_rows(response.results)
        finally:
            call.cancel()
            watcher.join()


def _cancel_when_set(cancelled: threading.Event, call: grpc.Call) -> None:
    while call.is_active():
        if cancelled.wait(0.2):
            call.cancel()
            return
