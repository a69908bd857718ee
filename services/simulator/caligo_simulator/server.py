"""The simulator behind its contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import grpc
import numba

from caligo import logs, rpc, wire
from caligo.errors import InvalidArgument
from caligo.seeds import Phase
from caligo.spec import PhysicsSpec, ProtocolSpec, from_proto
from caligo.v1 import simulator_pb2, simulator_pb2_grpc
from caligo_simulator.epr.source import installed_sources
from caligo_simulator.harness import Setup
from caligo_simulator.settings import SimulatorSettings
from caligo_simulator.simulation import DesignRow, Simulator

log = logs.get("server")

NAME = simulator_pb2.DESCRIPTOR.services_by_name["SimulatorService"].full_name


class SimulatorService(simulator_pb2_grpc.SimulatorServiceServicer):
    """Streams of rows over one simulator."""

    def __init__(self, simulator: Simulator) -> None:
        self._simulator = simulator

    def Simulate(
        self, request_iterator: Iterator[simulator_pb2.SimulateRequest], context: grpc.ServicerContext
    ) -> Iterator[simulator_pb2.SimulateResponse]:
        setup = _setup(next(request_iterator, None))
        ended = threading.Event()
        if not context.add_callback(ended.set):  # it has ended already
            ended.set()
        for row in self._simulator.simulate(setup, _rows(request_iterator), ended):
            yield simulator_pb2.SimulateResponse(results=wire.encode_rows(row))

    def GetCapacity(
        self, request: simulator_pb2.GetCapacityRequest, context: grpc.ServicerContext
    ) -> simulator_pb2.GetCapacityResponse:
        simulator = self._simulator
        return simulator_pb2.GetCapacityResponse(
            workers=simulator.workers,
            slots=simulator.arena.slots,
            slot_bytes=simulator.arena.slot_bytes,
            max_rows_in_flight=simulator.max_rows_in_flight,
            epr_sources=installed_sources(),
        )


def _setup(request: simulator_pb2.SimulateRequest | None) -> Setup:
    if request is None or request.WhichOneof("payload") != "setup":
        raise InvalidArgument("setup", "must be the first message of the stream")
    setup = request.setup
    try:
        phase = Phase(setup.phase)
    except ValueError:
        raise InvalidArgument("setup.phase", "must name a phase") from None
    return Setup(
        campaign=setup.campaign,
        seed=setup.seed,
        phase=phase,
        physics=from_proto(setup.physics, PhysicsSpec, "setup.physics"),
        protocol=from_proto(setup.protocol, ProtocolSpec, "setup.protocol"),
    )


def _rows(requests: Iterator[simulator_pb2.SimulateRequest]) -> Iterator[DesignRow]:
    for request in requests:
        if request.WhichOneof("payload") != "rows":
            raise InvalidArgument("rows", "must be in every message but the first")
        index, inputs = wire.decode_design(request.rows)
        for i, row in zip(index, inputs, strict=True):
            yield int(i), row


def serve(settings: SimulatorSettings) -> None:
    """Run the service until it is told to stop. Nothing is answered before every kernel is compiled."""
    numba.set_num_threads(1)
    with Simulator(
        settings.workers, settings.segment_pairs, settings.namespace, verify_segments=settings.verify_segments
    ) as simulator:
        simulator.warm_up()
        log.info("ready", workers=settings.workers, arena=simulator.arena.name)
        service = rpc.Service(
            NAME, simulator_pb2_grpc.add_SimulatorServiceServicer_to_server, SimulatorService(simulator)
        )
        rpc.run(settings, [service], on_stop=simulator.drain)


def main() -> int:
    return rpc.main(SimulatorSettings, serve)
