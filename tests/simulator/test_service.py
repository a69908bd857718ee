"""The stream of results, in the process and over a real gRPC server."""

from __future__ import annotations

import queue
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pytest
from caligo_simulator.harness import Setup
from caligo_simulator.server import NAME
from caligo_simulator.simulation import DesignRow, Simulator
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caligo import rpc, wire
from caligo.errors import CaligoError, InvalidArgument, Unreachable
from caligo.results import ROW_DTYPE, ProtocolOutcome, ResultRows
from caligo.seeds import Phase
from caligo.space import PRESETS, ExplorationSample, Space
from caligo.spec import PhysicsSpec, ProtocolSpec
from caligo.v1 import simulator_pb2, simulator_pb2_grpc, types_pb2

MakeSample = Callable[..., ExplorationSample]
AsRow = Callable[[ExplorationSample], DesignRow]


def by_index(rows: Iterator[ResultRows] | list[ResultRows]) -> ResultRows:
    """All rows in order, without the one column that may differ."""
    table = np.sort(np.concatenate(list(rows)), order="index")
    table["metrics"][:, -1] = 0
    return table


# --- the generator --------------------------------------------------------------------------------------------------


def test_results_arrive_incrementally(simulator: Simulator, setup: Setup, secure: MakeSample, as_row: AsRow) -> None:
    """The second row is only asked for after the first one's result is there."""
    first_result = threading.Event()

    def rows() -> Iterator[DesignRow]:
        yield as_row(secure(index=0))
        assert first_result.wait(30)
        yield as_row(secure(index=1))

    results = simulator.simulate(setup, rows())
    assert next(results)["index"] == [0]
    first_result.set()
    assert [int(row["index"][0]) for row in results] == [1]


def test_a_short_sample_overtakes_a_long_one(
    simulator: Simulator, setup: Setup, secure: MakeSample, as_row: AsRow
) -> None:
    samples = [secure(index=0, N=5 * 10**7), *(secure(index=j, N=20_000) for j in range(1, 4))]
    order = [int(row["index"][0]) for row in simulator.simulate(setup, map(as_row, samples))]
    assert sorted(order) == [0, 1, 2, 3]
    assert order[-1] == 0


def test_rows_in_flight_are_bounded(simulator: Simulator, setup: Setup, secure: MakeSample, as_row: AsRow) -> None:
    taken = 0

    def rows() -> Iterator[DesignRow]:
        nonlocal taken
        for index in range(10 * simulator.max_rows_in_flight):
            taken += 1
            yield as_row(secure(index=index, N=20_000))

    results = simulator.simulate(setup, rows())
    next(results)
    time.sleep(0.3)
    # One was given back by the result, and one is in the feeder's hand.
    assert simulator.max_rows_in_flight <= taken <= simulator.max_rows_in_flight + 2
    results.close()
    time.sleep(0.3)
    assert taken <= simulator.max_rows_in_flight + 2


def test_rows_are_float32_and_do_not_depend_on_order(
    simulator: Simulator, setup: Setup, secure: MakeSample, as_row: AsRow
) -> None:
    rows = [as_row(secure(index=j, N=20_000 + 5000 * j)) for j in range(12)]
    forward = by_index(simulator.simulate(setup, rows))
    backward = by_index(simulator.simulate(setup, reversed(rows)))
    assert forward.dtype == ROW_DTYPE
    assert forward.tobytes() == backward.tobytes()
    np.testing.assert_array_equal(forward["inputs"], np.stack([inputs for _, inputs in rows]))


def test_closing_the_generator_stops_what_is_under_way(
    simulator: Simulator, setup: Setup, secure: MakeSample, as_row: AsRow
) -> None:
    samples = [secure(index=0, N=20_000), *(secure(index=j, N=10**9) for j in range(1, 9))]
    results = simulator.simulate(setup, map(as_row, samples))
    next(results)
    results.close()
    deadline = time.monotonic() + 10
    while simulator.arena.free_slots() < simulator.arena.slots:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    # The threads are free again: nine times 10^9 pairs would have taken minutes.
    assert len(list(simulator.simulate(setup, [as_row(secure())]))) == 1


def test_a_row_outside_the_space_ends_the_stream(
    simulator: Simulator, setup: Setup, secure: MakeSample, as_row: AsRow
) -> None:
    with pytest.raises(InvalidArgument, match=r"inputs\[N\]"):
        list(simulator.simulate(setup, [as_row(secure(N=10**12))]))


def test_closing_the_simulator_under_way(setup: Setup, secure: MakeSample, as_row: AsRow, namespace: str) -> None:
    simulator = Simulator(1, 2**20, namespace)
    results = simulator.simulate(setup, (as_row(secure(index=j, N=10**9)) for j in range(4)))
    outcome: queue.SimpleQueue[object] = queue.SimpleQueue()

    def consume() -> None:
        try:
            outcome.put(list(results))
        except Exception as error:
            outcome.put(error)

    thread = threading.Thread(target=consume)
    thread.start()
    time.sleep(0.3)
    simulator.close()
    thread.join(10)
    assert isinstance(outcome.get(timeout=1), Unreachable)
    assert not list(Path("/dev/shm").glob(f"*{simulator.arena.name}*"))


# --- the service ----------------------------------------------------------------------------------------------------


@dataclass
class Running:
    process: subprocess.Popen[bytes]
    address: str
    namespace: str
    channel: grpc.Channel

    @property
    def stub(self) -> simulator_pb2_grpc.SimulatorServiceStub:
        return simulator_pb2_grpc.SimulatorServiceStub(self.channel)

    def segments(self) -> list[Path]:
        return list(Path("/dev/shm").glob(f"caligo-{self.namespace}-*"))


def start(folder: Path) -> Running:
    namespace = f"service-{secrets.token_hex(4)}"
    address = f"unix:{folder}/simulator.sock"
    command = [sys.executable, "-m", "caligo_simulator", "--address", address, "--workers", "2",
               "--segment-pairs", str(2**18), "--namespace", namespace, "--lifeline"]  # fmt: skip
    process = subprocess.Popen(command, stdin=subprocess.PIPE)
    channel = rpc.channel(address)
    rpc.wait_ready(channel, address, 100)
    return Running(process, address, namespace, channel)


def stop(running: Running) -> None:
    running.channel.close()
    running.process.kill()
    running.process.wait()
    assert running.process.stdin is not None
    running.process.stdin.close()
    deadline = time.monotonic() + 10
    while running.segments() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert running.segments() == []


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    running = start(tmp_path_factory.mktemp("service"))
    yield running
    stop(running)


@pytest.fixture
def fresh_service(tmp_path: Path) -> Iterator[Running]:
    running = start(tmp_path)
    yield running
    stop(running)


def design(count: int, log_pairs: float) -> np.ndarray:
    rows = Space(PRESETS["cliff"]).from_unit(np.random.default_rng(3).random((count, 9)))
    rows[:, 7] = log_pairs
    rows[:, 8] = np.arange(count) % 2
    return rows


def setup_message(**changes: object) -> simulator_pb2.SimulateRequest:
    values = {"campaign": "campaigns/test", "seed": 9, "phase": types_pb2.PHASE_LHS, **changes}
    return simulator_pb2.SimulateRequest(setup=simulator_pb2.SimulateSetup(**values))


def rows_message(first: int, rows: np.ndarray) -> simulator_pb2.SimulateRequest:
    index = np.arange(first, first + len(rows), dtype=np.int64)
    return simulator_pb2.SimulateRequest(rows=wire.encode_design(index, rows))


def simulate(running: Running, *requests: simulator_pb2.SimulateRequest) -> list[ResultRows]:
    with rpc.calling(running.address):
        return [wire.decode_rows(answer.results) for answer in running.stub.Simulate(iter(requests))]


def test_simulate_over_grpc(service: Running, simulator: Simulator) -> None:
    """The rows are those of the generator, bit for bit."""
    rows = design(24, 5.0)
    served = by_index(simulate(service, setup_message(), rows_message(0, rows[:20]), rows_message(20, rows[20:])))
    np.testing.assert_array_equal(served["index"], np.arange(24))
    np.testing.assert_array_equal(served["inputs"], rows)
    assert len(set(served["outcome"])) > 1
    assert ProtocolOutcome.FAILURE_ERROR not in served["outcome"]
    setup = Setup("campaigns/test", 9, Phase.LHS, PhysicsSpec(), ProtocolSpec())
    own = by_index(simulator.simulate(setup, [(j, row) for j, row in enumerate(rows)]))
    assert own.tobytes() == served.tobytes()


def test_results_come_before_the_stream_of_rows_ends(service: Running) -> None:
    requests: queue.SimpleQueue[simulator_pb2.SimulateRequest | None] = queue.SimpleQueue()
    requests.put(setup_message())
    requests.put(rows_message(0, design(1, 4.5)))
    answers = service.stub.Simulate(iter(requests.get, None), timeout=60)
    assert len(wire.decode_rows(next(answers).results)) == 1
    requests.put(rows_message(1, design(1, 4.5)))
    assert wire.decode_rows(next(answers).results)["index"] == [1]
    requests.put(None)
    assert list(answers) == []


@pytest.mark.parametrize(
    ("requests", "field"),
    [
        ([], "setup"),
        ([rows_message(0, design(1, 4.5))], "setup"),
        ([setup_message(), setup_message()], "rows"),
        ([setup_message(phase=0)], "setup.phase"),
        ([setup_message(protocol={"epr_source": "netsquid"})], "protocol.epr_source"),
        ([setup_message(physics={"epsilon": 2.0})], "setup.physics.epsilon"),
        ([setup_message(), rows_message(0, design(1, 15.0))], "inputs[N]"),
        ([setup_message(), rows_message(0, design(1, np.nan))], "rows.inputs"),
    ],
)
def test_bad_requests_name_the_field(
    service: Running, requests: list[simulator_pb2.SimulateRequest], field: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        simulate(service, *requests)
    assert error.value.violations[0].field == field


def test_capacity_and_health(service: Running) -> None:
    capacity = service.stub.GetCapacity(simulator_pb2.GetCapacityRequest())
    assert (capacity.workers, capacity.slots, capacity.slot_bytes) == (2, 4, 2**20)
    assert capacity.max_rows_in_flight >= capacity.workers
    assert list(capacity.epr_sources) == ["statistical"]
    health = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", NAME):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1


def test_cancelling_frees_the_simulator(service: Running) -> None:
    rows = design(8, 9.0)
    rows[:, 4] = 0.0
    requests = iter([setup_message(), rows_message(0, design(1, 4.5)), rows_message(1, rows)])
    call = service.stub.Simulate(requests)
    next(call)
    call.cancel()
    # Eight samples of 10^9 pairs are under way; they must make room at once.
    assert len(simulate(service, setup_message(), rows_message(0, design(2, 4.5)))) == 2


def test_a_deadline_is_honoured(service: Running) -> None:
    rows = design(2, 9.0)
    rows[:, 4] = 0.0
    with pytest.raises(CaligoError) as error, rpc.calling(service.address):
        list(service.stub.Simulate(iter([setup_message(), rows_message(0, rows)]), timeout=0.5))
    assert error.value.status is grpc.StatusCode.DEADLINE_EXCEEDED
    assert len(simulate(service, setup_message(), rows_message(0, design(2, 4.5)))) == 2


def test_sigterm_finishes_what_is_under_way_and_leaves_nothing(fresh_service: Running) -> None:
    rows = design(500, 4.7)
    call = fresh_service.stub.Simulate(iter([setup_message(), rows_message(0, rows)]))
    answered = len(wire.decode_rows(next(call).results))
    assert len(fresh_service.segments()) == 1
    fresh_service.process.send_signal(signal.SIGTERM)
    with pytest.raises(grpc.RpcError) as error:
        for answer in call:
            answered += len(wire.decode_rows(answer.results))
    assert error.value.code() is grpc.StatusCode.UNAVAILABLE
    assert 1 <= answered < 500
    assert fresh_service.process.wait(30) == 0
    assert fresh_service.segments() == []


def test_the_service_ends_with_its_lifeline(fresh_service: Running) -> None:
    workers = _descendants(fresh_service.process.pid)
    assert len(workers) >= 3  # fork server and two workers
    assert fresh_service.process.stdin is not None
    fresh_service.process.stdin.close()
    assert fresh_service.process.wait(30) == 0
    assert fresh_service.segments() == []
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_a_killed_service_leaves_no_process_and_no_memory(fresh_service: Running) -> None:
    workers = _descendants(fresh_service.process.pid)
    fresh_service.process.kill()
    fresh_service.process.wait()
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) or fresh_service.segments():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _descendants(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += [int(child), *_descendants(int(child))]
    return found
