"""The simulator behind its contract."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Final

import grpc
import numba

from caligo import logs, rpc, wire
from caligo.errors import InvalidArgument, ResourceExhausted
from caligo.phases import Phase
from caligo.spec import PhysicsSpec, ProtocolSpec, from_proto
from caligo.v1 import simulator_pb2, simulator_pb2_grpc
from caligo_simulator.epr.registry import check_installed, installed_sources
from caligo_simulator.harness import Setup
from caligo_simulator.settings import SimulatorSettings
from caligo_simulator.simulation import Simulator, Task

log = logs.get("server")

NAME = simulator_pb2.DESCRIPTOR.services_by_name["SimulatorService"].full_name


_MAX_JOBS: Final = 256
_NO_SETUP: Final = ("setup", "must be the first message of a job")
_OPTIONS: Final = (
    # Whoever calls looks our name up again when a connection ends, and so finds new replicas; its streams go on.
    ("grpc.max_connection_age_ms", 3_000),
    # A caller that is gone without a word must not keep others from this replica.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 10_000),
)


class SimulatorService(simulator_pb2_grpc.SimulatorServiceServicer):
    """Streams of rows over one simulator, one at a time; one that has none under way for long is ended."""

    def __init__(self, simulator: Simulator, stall_seconds: float = rpc.STALL_SECONDS) -> None:
        self._simulator = simulator
        self._stall_seconds = stall_seconds
        self._is_taken = threading.Lock()

    def Simulate(
        self, request_iterator: Iterator[simulator_pb2.SimulateRequest], context: grpc.ServicerContext
    ) -> Iterator[simulator_pb2.SimulateResponse]:
        ended = threading.Event()
        if not self._is_taken.acquire(blocking=False):
            raise ResourceExhausted("this simulator has its stream of rows; ask another one, or again in a while")
        if not context.add_callback(lambda: self._release(ended)):  # it has ended already
            self._release(ended)
        context.send_initial_metadata(((wire.CAPACITY_HEADER, self._capacity().SerializeToString()),))
        requests = _Requests(request_iterator)
        for task, row in self._simulator.carry_out(requests.tasks(), ended, self._stall_seconds):
            requests.forget(task)
            yield simulator_pb2.SimulateResponse(job=task.job, results=wire.encode_rows(row))

    def GetCapacity(
        self, request: simulator_pb2.GetCapacityRequest, context: grpc.ServicerContext
    ) -> simulator_pb2.GetCapacityResponse:
        return self._capacity()

    def _capacity(self) -> simulator_pb2.GetCapacityResponse:
        simulator, sources = self._simulator, installed_sources()
        return simulator_pb2.GetCapacityResponse(
            workers=simulator.workers,
            slots=simulator.arena.slots,
            slot_bytes=simulator.arena.slot_bytes,
            max_rows_in_flight=simulator.max_rows_in_flight,
            epr_sources=list(sources),
            epr_source_versions=list(sources.values()),
        )

    def _release(self, ended: threading.Event) -> None:
        ended.set()
        self._is_taken.release()


class _Requests:
    """The messages of one stream, read as tasks."""

    def __init__(self, requests: Iterator[simulator_pb2.SimulateRequest]) -> None:
        self._requests = requests
        self._setups: dict[int, Setup] = {}
        self._under_way: dict[tuple[int, int], Task] = {}

    def tasks(self) -> Iterator[Task]:
        """Rows in the order in which they come; those withdrawn are told so.

        Raises:
            InvalidArgument: a message is not what the contract says.
        """
        for request in self._requests:
            payload, job = request.WhichOneof("payload"), request.job
            if payload == "setup":
                if job >= _MAX_JOBS:
                    raise InvalidArgument("job", f"0 to {_MAX_JOBS - 1}")
                if job in self._setups:
                    raise InvalidArgument("job", "must be another for another setup")
                self._setups[job] = to_setup(request.setup)
            elif job not in self._setups:
                raise InvalidArgument(*_NO_SETUP)
            elif payload == "rows":
                for index, row in zip(*wire.decode_design(request.rows), strict=True):
                    task = self._under_way[job, int(index)] = Task(self._setups[job], (int(index), row), job)
                    yield task
            elif payload == "withdrawn":
                for index in wire.decode(request.withdrawn, wire.INDEX, -1, field="withdrawn").tolist():
                    if (withdrawn := self._under_way.pop((job, index), None)) is not None:
                        withdrawn.withdrawn.set()
            else:
                raise InvalidArgument("payload", "setup, rows or withdrawn")
        if not self._setups:
            raise InvalidArgument(*_NO_SETUP)

    def forget(self, task: Task) -> None:
        """A task has its result."""
        self._under_way.pop((task.job, task.row[0]), None)


def to_setup(setup: simulator_pb2.SimulateSetup) -> Setup:
    """What the rows of a job have in common.

    Raises:
        InvalidArgument: a field holds something that is not allowed, or the EPR source cannot be used here.
    """
    try:
        phase = Phase(setup.phase)
    except ValueError:
        raise InvalidArgument("setup.phase", "must name a phase") from None
    protocol = from_proto(setup.protocol, ProtocolSpec, "setup.protocol")
    check_installed(protocol.epr_source)
    return Setup(
        campaign=setup.campaign,
        seed=setup.seed,
        phase=phase,
        physics=from_proto(setup.physics, PhysicsSpec, "setup.physics"),
        protocol=protocol,
    )


def service(simulator: Simulator) -> rpc.Service:
    """The service as `caligo.rpc` registers it. A stream of rows, the only one, may be silent while rows take long."""
    register = simulator_pb2_grpc.add_SimulatorServiceServicer_to_server
    return rpc.Service(NAME, register, SimulatorService(simulator), bounded=("Simulate",))


def serve(settings: SimulatorSettings) -> None:
    """Run the service until it is told to stop. Nothing is answered before every kernel is compiled."""
    numba.set_num_threads(1)
    with Simulator(
        settings.workers, settings.segment_pairs, settings.namespace, verify_segments=settings.verify_segments
    ) as simulator:
        simulator.warm_up()
        log.info("ready", workers=settings.workers, arena=simulator.arena.name)
        rpc.run(settings, [service(simulator)], options=_OPTIONS, on_stop=simulator.drain)


def main() -> int:
    return rpc.main(SimulatorSettings, serve)
