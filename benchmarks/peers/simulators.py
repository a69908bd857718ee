"""Stand-ins for simulators: replicas of one worker each whose rows take a set time and cost next to nothing.

The worker's clock is its own: a row begins when it has come and the row before has ended, and takes its time from then,
however late the process gets round to saying so on a machine where too much runs.

`python -m benchmarks.peers.simulators SECONDS...` serves one replica for each number on a port of its own, prints the
ports as one line of JSON, and, when standard input closes, when each row began and ended (`time.monotonic`, which all
processes of a machine share) and what CPU time all of it took.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from caligo import wire
from caligo.results import ROW_DTYPE
from caligo.v1 import simulator_pb2, simulator_pb2_grpc

SERVICE = simulator_pb2.DESCRIPTOR.services_by_name["SimulatorService"].full_name
ROOM = 8
"""Rows that a replica takes in; a real one takes as many a worker."""


class StandIn(simulator_pb2_grpc.SimulatorServiceServicer):
    """One replica."""

    def __init__(self, row_seconds: float) -> None:
        self.row_seconds = row_seconds
        self.work: list[tuple[float, float]] = []
        """Begin and end of each row."""
        self._taken = False

    async def GetCapacity(self, request: Any, context: Any) -> simulator_pb2.GetCapacityResponse:
        return simulator_pb2.GetCapacityResponse(workers=1, max_rows_in_flight=ROOM, epr_sources=["statistical"])

    async def Simulate(
        self, request_iterator: AsyncIterator[simulator_pb2.SimulateRequest], context: Any
    ) -> AsyncIterator[simulator_pb2.SimulateResponse]:
        if self._taken:
            await context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "one stream at a time")
        self._taken = True
        capacity = await self.GetCapacity(None, context)
        await context.send_initial_metadata(((wire.CAPACITY_HEADER, capacity.SerializeToString()),))
        rows: asyncio.Queue[tuple[int, int, np.ndarray, float] | None] = asyncio.Queue()
        withdrawn: set[tuple[int, int]] = set()
        reader = asyncio.create_task(self._read(request_iterator, rows, withdrawn))
        try:
            free_at = 0.0
            while (row := await rows.get()) is not None:
                job, index, inputs, came_at = row
                begun = max(free_at, came_at)
                free_at = begun + self.row_seconds
                while (job, index) not in withdrawn and (left := free_at - time.monotonic()) > 0:
                    await asyncio.sleep(min(left, 0.05))
                if (job, index) in withdrawn:
                    withdrawn.discard((job, index))
                    free_at = max(begun, min(free_at, time.monotonic()))
                self.work.append((begun, free_at))
                if free_at < begun + self.row_seconds:
                    continue
                result = np.zeros(1, ROW_DTYPE)
                result["index"], result["inputs"] = index, inputs
                yield simulator_pb2.SimulateResponse(job=job, results=wire.encode_rows(result))
        finally:
            reader.cancel()
            self._taken = False

    async def _read(self, requests: Any, rows: asyncio.Queue, withdrawn: set[tuple[int, int]]) -> None:
        async for request in requests:
            if request.HasField("rows"):
                for index, inputs in zip(*wire.decode_design(request.rows), strict=True):
                    withdrawn.discard((request.job, int(index)))
                    rows.put_nowait((request.job, int(index), inputs, time.monotonic()))
            elif request.HasField("withdrawn"):
                indices = wire.decode(request.withdrawn, wire.INDEX, -1).tolist()
                withdrawn.update((request.job, index) for index in indices)
        rows.put_nowait(None)


async def _serve(seconds: list[float]) -> None:
    replicas = [StandIn(value) for value in seconds]
    servers, ports = [], []
    for replica in replicas:
        server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_connection_age_ms", 3_000)))
        simulator_pb2_grpc.add_SimulatorServiceServicer_to_server(replica, server)
        status = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(status, server)
        await status.set(SERVICE, health_pb2.HealthCheckResponse.SERVING)
        ports.append(server.add_insecure_port("127.0.0.1:0"))
        await server.start()
        servers.append(server)
    print(json.dumps(ports), flush=True)
    await asyncio.to_thread(sys.stdin.read)
    print(json.dumps({"work": [replica.work for replica in replicas], "cpu": time.process_time()}), flush=True)
    for server in servers:
        await server.stop(None)


@dataclass
class Replicas:
    """Running stand-ins; `work` and `cpu_seconds` are there when they have ended."""

    address: str
    work: list[np.ndarray]
    """Begin and end of each row of each replica, float64 [rows, 2]."""
    cpu_seconds: float = 0.0


@contextlib.contextmanager
def serving(row_seconds: list[float], processes: int = 1) -> Iterator[Replicas]:
    """Replicas with these row times, spread over processes."""
    parts = [row_seconds[j::processes] for j in range(processes)]
    children = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, *map(str, part)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for part in parts
    ]
    try:
        ports = [port for child in children if child.stdout for port in json.loads(child.stdout.readline())]
        running = Replicas("ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports), [])
        yield running
        for child in children:
            answer = json.loads(child.communicate()[0])
            running.work += [np.array(work, np.float64).reshape(-1, 2) for work in answer["work"]]
            running.cpu_seconds += answer["cpu"]
    finally:
        for child in children:
            child.kill()
            child.wait()


if __name__ == "__main__":
    asyncio.run(_serve([float(argument) for argument in sys.argv[1:]]))
