"""Rows of float32 through a stream: as the services send them, over a raw socket, and with Arrow Flight.

Each way has one server process and one client on the loopback interface, and sends the same rows: design rows of nine
float32, their index and their float32 margin, 48 bytes each, as `StreamDesign` carries them. What is counted is these
bytes, from the first request until the client holds every array.

* ours: the generated stub and a servicer that encodes each message from NumPy arrays, `caligo.rpc` with its limits and
  allocator settings; the client decodes each message to arrays.
* flight: a Flight server that makes a record batch of the same arrays for each message (pyarrow's own gRPC); the
  client takes the columns as arrays, without a copy.
* socket: `sendall` of the arrays and `recv_into` one buffer, which is what loopback can do at best with one thread a
  side.

Ways take turns; every figure is the median over the turns, and a ratio the median of the turns' ratios. The messages of
the other bulk paths (result rows to a client, result rows to the surrogate) are measured in the same way, with no peer.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

import grpc
import numpy as np
import pyarrow as pa
import pyarrow.flight as flight

from caligo import rpc, wire
from caligo.results import ROW_DTYPE
from caligo.space import DIMENSIONS, PRESETS, Space
from caligo.v1 import (
    campaign_pb2,
    campaign_pb2_grpc,
    sampler_pb2,
    sampler_pb2_grpc,
    surrogate_pb2,
    surrogate_pb2_grpc,
)

ROWS = 8192
"""In a message: 384 KiB of design rows; what the sampler sends where nobody asks for another number."""
RESULT_ROWS = 4096
"""In a message: 616 KiB of result rows; what the orchestrator reads from the journal and sends."""
AIM_GBS, AIM_RATIO = 0.8, 0.55
_RNG = np.random.default_rng(1)
INDEX = np.arange(ROWS, dtype=np.int64)
INPUTS = Space(PRESETS["cliff"]).from_unit(_RNG.random((ROWS, DIMENSIONS), dtype=np.float32))
MARGIN = _RNG.random(ROWS, dtype=np.float32)
RESULTS = np.zeros(RESULT_ROWS, dtype=ROW_DTYPE)
RESULTS["index"] = np.arange(RESULT_ROWS)
RESULTS["inputs"] = INPUTS[:RESULT_ROWS]
DESIGN_BYTES = INDEX.nbytes + INPUTS.nbytes + MARGIN.nbytes

Receive = Callable[[int], None]
"""Have so many messages sent and take them all."""


# --- ours -----------------------------------------------------------------------------------------------------------


class Sampler(sampler_pb2_grpc.SamplerServiceServicer):
    def StreamDesign(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for _ in range(request.count):
            yield sampler_pb2.StreamDesignResponse(
                rows=wire.encode_design(INDEX, INPUTS), feasibility_margin=wire.encode(MARGIN, wire.FEASIBILITY)
            )


class Orchestrator(campaign_pb2_grpc.CampaignServiceServicer):
    def StreamResults(self, request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        for _ in range(request.start_row):
            yield campaign_pb2.StreamResultsResponse(rows=wire.encode_rows(RESULTS), next_row=1)


class Surrogate(surrogate_pb2_grpc.SurrogateServiceServicer):
    def Observe(self, request_iterator: Any, context: grpc.ServicerContext) -> Any:
        held = sum(len(wire.decode_rows(request.rows)) for request in request_iterator)
        return surrogate_pb2.ObserveResponse(rows_held=held)


def serve_ours(ready: Connection) -> None:
    rpc._keep_freed_pages()
    server = rpc.Server(
        "127.0.0.1:0",
        [
            rpc.Service("caligo.v1.SamplerService", sampler_pb2_grpc.add_SamplerServiceServicer_to_server, Sampler()),
            rpc.Service(
                "caligo.v1.CampaignService",
                campaign_pb2_grpc.add_CampaignServiceServicer_to_server,
                Orchestrator(),
            ),
            rpc.Service(
                "caligo.v1.SurrogateService",
                surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server,
                Surrogate(),
            ),
        ],
    )
    server.start()
    ready.send(server.address)
    ready.recv()
    server.stop(0)


def design_client(channel: grpc.Channel) -> Receive:
    stub = sampler_pb2_grpc.SamplerServiceStub(channel)

    def receive(messages: int) -> None:
        rows = 0
        for response in stub.StreamDesign(sampler_pb2.StreamDesignRequest(count=messages)):
            index, inputs = wire.decode_design(response.rows)
            margin = wire.decode(response.feasibility_margin, wire.FEASIBILITY, len(index))
            rows += len(index)
        assert rows == messages * ROWS
        check(index, inputs, margin)

    return receive


def results_client(channel: grpc.Channel) -> Receive:
    stub = campaign_pb2_grpc.CampaignServiceStub(channel)

    def receive(messages: int) -> None:
        for response in stub.StreamResults(campaign_pb2.StreamResultsRequest(start_row=messages)):
            rows = wire.decode_rows(response.rows)
        assert rows.tobytes() == RESULTS.tobytes()

    return receive


def observe_client(channel: grpc.Channel) -> Receive:
    stub = surrogate_pb2_grpc.SurrogateServiceStub(channel)

    def send(messages: int) -> None:
        requests = (surrogate_pb2.ObserveRequest(rows=wire.encode_rows(RESULTS)) for _ in range(messages))
        assert stub.Observe(requests).rows_held == messages * RESULT_ROWS

    return send


def check(index: Any, inputs: Any, margin: Any) -> None:
    assert np.array_equal(index, INDEX) and np.array_equal(inputs, INPUTS) and np.array_equal(margin, MARGIN)


# --- peers ----------------------------------------------------------------------------------------------------------

SCHEMA = pa.schema([("index", pa.int64()), ("inputs", pa.list_(pa.float32(), DIMENSIONS)), ("margin", pa.float32())])


class FlightServer(flight.FlightServerBase):
    def do_get(self, context: Any, ticket: Any) -> Any:
        def batches() -> Iterator[pa.RecordBatch]:
            for _ in range(int(ticket.ticket)):
                inputs = pa.FixedSizeListArray.from_arrays(pa.array(INPUTS.ravel()), DIMENSIONS)
                yield pa.record_batch([pa.array(INDEX), inputs, pa.array(MARGIN)], schema=SCHEMA)

        return flight.GeneratorStream(SCHEMA, batches())


def serve_flight(ready: Connection) -> None:
    with FlightServer("grpc://127.0.0.1:0") as server:
        ready.send(f"grpc://127.0.0.1:{server.port}")
        ready.recv()


def flight_client(address: str) -> Receive:
    client = flight.connect(address)

    def receive(messages: int) -> None:
        rows = 0
        for chunk in client.do_get(flight.Ticket(str(messages).encode())):
            index, inputs, margin = chunk.data.columns
            arrays = (
                index.to_numpy(zero_copy_only=True),
                inputs.flatten().to_numpy(zero_copy_only=True).reshape(-1, DIMENSIONS),
                margin.to_numpy(zero_copy_only=True),
            )
            rows += len(arrays[0])
        assert rows == messages * ROWS
        check(*arrays)

    return receive


def serve_socket(ready: Connection) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        ready.send(listener.getsockname())
        connection, _ = listener.accept()
        with connection:
            while request := connection.recv(8):
                for _ in range(int.from_bytes(request, "big")):
                    for array in (INDEX, INPUTS, MARGIN):
                        connection.sendall(memoryview(array).cast("B"))


def socket_client(address: tuple[str, int]) -> Receive:
    connection = socket.create_connection(address)
    buffers = [np.empty_like(array) for array in (INDEX, INPUTS, MARGIN)]

    def receive(messages: int) -> None:
        connection.sendall(messages.to_bytes(8, "big"))
        for _ in range(messages):
            for buffer in buffers:
                view = memoryview(buffer).cast("B")
                while view:
                    view = view[connection.recv_into(view) :]
        check(*buffers)

    return receive


# --- measurement ----------------------------------------------------------------------------------------------------


@contextmanager
def served(serve: Callable[[Connection], None]) -> Iterator[Any]:
    """A server process; yields its address."""
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=serve, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        ours.send(None)
        process.join(10)
        process.kill()


def speed(receive: Receive, messages: int, bytes_each: int) -> float:
    """GB/s."""
    begin = time.perf_counter()
    receive(messages)
    return messages * bytes_each / (time.perf_counter() - begin) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--turns", type=int, default=9)
    parser.add_argument("--mib", type=int, default=256, help="sent a turn and way")
    arguments = parser.parse_args()
    rpc._keep_freed_pages()
    with (
        served(serve_ours) as ours,
        served(serve_flight) as theirs,
        served(serve_socket) as raw,
        rpc.channel(ours) as channel,
    ):
        ways: dict[str, tuple[Receive, int]] = {
            "ours": (design_client(channel), DESIGN_BYTES),
            "flight": (flight_client(theirs), DESIGN_BYTES),
            "socket": (socket_client(raw), DESIGN_BYTES),
            "StreamResults": (results_client(channel), RESULTS.nbytes),
            "Observe": (observe_client(channel), RESULTS.nbytes),
        }
        for receive, _ in ways.values():
            receive(16)
        turns = [
            {name: speed(receive, arguments.mib * 2**20 // size, size) for name, (receive, size) in ways.items()}
            for _ in range(arguments.turns)
        ]
    medians = {name: statistics.median(turn[name] for turn in turns) for name in ways}
    ratio = {name: statistics.median(turn["ours"] / turn[name] for turn in turns) for name in ("flight", "socket")}
    print(f"design rows, {DESIGN_BYTES / 2**10:.0f} KiB a message, loopback       GB/s   ours / it")
    for name in ("ours", "flight", "socket"):
        print(f"{name:50s} {medians[name]:8.2f}" + (f" {ratio[name]:11.2f}" if name in ratio else ""))
    print(f"result rows, {RESULTS.nbytes / 2**10:.0f} KiB a message")
    for name in ("StreamResults", "Observe"):
        print(f"{name:50s} {medians[name]:8.2f}")
    print(f"aims: {AIM_GBS} GB/s, and {AIM_RATIO} of Flight")
    if arguments.json:
        print(
            json.dumps(
                {
                    "name": "wire",
                    "value": medians["ours"],
                    "unit": "GB/s",
                    "peer": "Arrow Flight",
                    "peer_value": medians["flight"],
                    "ratio": ratio["flight"],
                    "socket": medians["socket"],
                    "stream_results": medians["StreamResults"],
                    "observe": medians["Observe"],
                }
            )
        )


if __name__ == "__main__":
    main()
