"""The stream of results, in the process and over a real gRPC server."""

from __future__ import annotations

import contextlib
import os
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
from typing import Any

import grpc
import numpy as np
import pytest
from caligo_simulator import simulation
from caligo_simulator.arena import Arena
from caligo_simulator.epr.registry import installed_sources
from caligo_simulator.harness import Setup
from caligo_simulator.server import NAME, SimulatorService
from caligo_simulator.simulation import DesignRow, Simulator
from grpc_health.v1 import health_pb2, health_pb2_grpc

from caligo import __version__, rpc, wire
from caligo.errors import CaligoError, InvalidArgument, ResourceExhausted, Unreachable
from caligo.phases import Phase
from caligo.results import COUNT, ROW_DTYPE, ProtocolOutcome, ResultRows
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
    while taken < simulator.max_rows_in_flight:
        time.sleep(0.01)
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
    wait_for_work(simulator)
    simulator.close()
    assert isinstance(outcome.get(timeout=60), Unreachable)
    thread.join()
    assert not list(Path("/dev/shm").glob(f"*{simulator.arena.name}*"))


def test_orphans_are_removed_while_the_simulator_runs(
    namespace: str, segments_of: Callable[[str], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At its start, and again after every `JANITOR_SECONDS`; what is owned stays."""
    own = f"{namespace}-orphans"
    monkeypatch.setattr(simulation, "JANITOR_SECONDS", 0.05)
    code = f"from caligo_simulator.arena import Arena\nArena.create(1, 4096, {own!r})\nprint(flush=True)\ninput()"

    def orphan() -> None:
        owner = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
        )
        assert owner.stdout is not None
        owner.stdout.readline()
        os.killpg(owner.pid, signal.SIGKILL)  # with its resource tracker, which would clean up
        owner.communicate()

    orphan()
    assert len(segments_of(own)) == 1
    with Arena.create(1, 4096, own) as living, Simulator(1, 2**16, own) as simulator:
        for _ in range(2):
            assert sorted(segments_of(own)) == sorted([living.name, simulator.arena.name])
            orphan()
            deadline = time.monotonic() + 10
            while len(segments_of(own)) > 2:
                assert time.monotonic() < deadline
                time.sleep(0.01)
    assert segments_of(own) == []


def test_streams_that_are_dropped_leave_nothing_under_way(
    simulator: Simulator, setup: Setup, secure: MakeSample, as_row: AsRow
) -> None:
    def begin_and_drop() -> None:
        for _ in range(50):
            next(simulator.simulate(setup, (as_row(secure(index=j, N=20_000)) for j in range(10))))

    threads = [threading.Thread(target=begin_and_drop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    wait_for_free_slots(simulator)


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


def start(folder: Path, *flags: str) -> Running:
    namespace = f"service-{secrets.token_hex(4)}"
    address = f"unix:{folder}/simulator.sock"
    command = [sys.executable, "-m", "caligo_simulator", "--address", address, "--workers", "2",
               "--segment-pairs", str(2**18), "--namespace", namespace, "--lifeline", *flags]  # fmt: skip
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
    running = start(tmp_path_factory.mktemp("service"), "--verify-segments")
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
        ([setup_message(), setup_message()], "job"),
        ([setup_message(phase=0)], "setup.phase"),
        ([setup_message(), simulator_pb2.SimulateRequest()], "payload"),
        ([simulator_pb2.SimulateRequest(job=256, setup=setup_message().setup)], "job"),
        pytest.param(
            [setup_message(protocol={"epr_source": "netsquid"})],
            "protocol.epr_source",
            marks=pytest.mark.skipif("netsquid" in installed_sources(), reason="NetSquid is installed"),
        ),
        ([setup_message(physics={"epsilon": 2.0})], "setup.physics.epsilon"),
        ([setup_message(), rows_message(0, design(1, 15.0))], "rows.inputs[log10_N]"),
        ([setup_message(), rows_message(0, design(1, np.nan))], "rows.inputs"),
    ],
)
def test_bad_requests_name_the_field(
    service: Running, requests: list[simulator_pb2.SimulateRequest], field: str
) -> None:
    with pytest.raises(InvalidArgument) as error:
        simulate(service, *requests)
    assert error.value.violations[0].field == field


def test_caligo_check_finds_nothing(service: Running) -> None:
    """The command as the author of another simulator would run it; and one source that this one does not have."""
    command = [str(Path(sys.executable).parent / "caligo"), "check", "simulator", service.address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith("passes all 16 checks")
    done = subprocess.run([*command, "--source", "mine"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 5
    assert any(line.startswith("FAIL has the source") for line in done.stdout.splitlines())


class Careless(SimulatorService):
    """Loses some hundred clicks of each row, answers rows that were withdrawn, and takes any source for its own."""

    def Simulate(self, request_iterator: Any, context: Any) -> Iterator[simulator_pb2.SimulateResponse]:
        def lenient() -> Iterator[simulator_pb2.SimulateRequest]:
            for request in request_iterator:
                if request.HasField("setup"):
                    request.setup.protocol.epr_source = "statistical"
                    request.setup.protocol.time_limit_seconds = min(5, request.setup.protocol.time_limit_seconds)
                if not request.HasField("withdrawn"):
                    yield request

        for response in super().Simulate(lenient(), context):
            rows = wire.decode_rows(response.results)
            rows["counts"][:, COUNT["detected"]] -= 900
            response.results.CopyFrom(wire.encode_rows(rows))
            yield response


def test_caligo_check_says_what_a_careless_simulator_does(simulator: Simulator, tmp_path: Path) -> None:
    register = simulator_pb2_grpc.add_SimulatorServiceServicer_to_server
    server = rpc.Server(f"unix:{tmp_path}/careless", [rpc.Service(NAME, register, Careless(simulator))])
    server.start()
    command = [str(Path(sys.executable).parent / "caligo"), "check", "simulator", server.address]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    finally:
        server.stop(0)
    assert done.returncode == 5, done.stdout + done.stderr
    failed = {line.removeprefix("FAIL ").partition(":")[0] for line in done.stdout.splitlines() if "FAIL" in line}
    assert failed == {
        "detections are those of the closed form",
        "a wrong protocol.epr_source is refused by name",
        "a row that is withdrawn has no result, others have",
    }


def test_capacity_and_health(service: Running) -> None:
    capacity = service.stub.GetCapacity(simulator_pb2.GetCapacityRequest())
    assert (capacity.workers, capacity.slots, capacity.slot_bytes) == (2, 4, 2**20)
    assert capacity.max_rows_in_flight >= capacity.workers
    listed = dict(zip(capacity.epr_sources, capacity.epr_source_versions, strict=True))
    assert listed == installed_sources()
    assert listed["statistical"] == __version__
    health = health_pb2_grpc.HealthStub(service.channel)
    for name in ("", NAME):
        assert health.Check(health_pb2.HealthCheckRequest(service=name)).status == 1


@pytest.fixture
def stub(simulator: Simulator, tmp_path: Path) -> Iterator[simulator_pb2_grpc.SimulatorServiceStub]:
    """The service in this process, where the arena can be looked at."""
    register = simulator_pb2_grpc.add_SimulatorServiceServicer_to_server
    server = rpc.Server(f"unix:{tmp_path}/own.sock", [rpc.Service(NAME, register, SimulatorService(simulator))])
    server.start()
    with rpc.channel(server.address) as channel:
        yield simulator_pb2_grpc.SimulatorServiceStub(channel)
    server.stop(0)


def long_rows(count: int) -> np.ndarray:
    """Samples of 10^9 pairs, every one of which clicks: seconds each."""
    rows = design(count, 9.0)
    rows[:, 4] = 0.0
    return rows


def wait_for_work(simulator: Simulator) -> None:
    deadline = time.monotonic() + 60
    while simulator.arena.free_slots() == simulator.arena.slots:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def wait_for_free_slots(simulator: Simulator) -> None:
    deadline = time.monotonic() + 60
    while simulator.arena.free_slots() < simulator.arena.slots:
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_cancelling_frees_the_slots(stub: simulator_pb2_grpc.SimulatorServiceStub, simulator: Simulator) -> None:
    requests = iter([setup_message(), rows_message(0, design(1, 4.5)), rows_message(1, long_rows(8))])
    call = stub.Simulate(requests)
    next(call)
    wait_for_work(simulator)
    call.cancel()
    wait_for_free_slots(simulator)
    # And they stay free: nothing of the eight samples goes on.
    time.sleep(0.3)
    assert simulator.arena.free_slots() == simulator.arena.slots


def test_a_deadline_is_honoured(stub: simulator_pb2_grpc.SimulatorServiceStub, simulator: Simulator) -> None:
    with pytest.raises(CaligoError) as error, rpc.calling("own"):
        list(stub.Simulate(iter([setup_message(), rows_message(0, long_rows(8))]), timeout=0.5))
    assert error.value.status == "DEADLINE_EXCEEDED"
    wait_for_free_slots(simulator)
    time.sleep(0.3)
    assert simulator.arena.free_slots() == simulator.arena.slots


def test_rows_are_read_as_credit_comes_free(
    stub: simulator_pb2_grpc.SimulatorServiceStub, simulator: Simulator
) -> None:
    """A client that sends far ahead is not read far ahead: gRPC's own flow control holds it back."""
    sent = 0

    def requests() -> Iterator[simulator_pb2.SimulateRequest]:
        nonlocal sent
        yield setup_message()
        rows = np.repeat(long_rows(1), 50_000, axis=0)  # 2 MB a message
        for _ in range(100):
            sent += 1
            yield rows_message(0, rows)

    call = stub.Simulate(requests())
    wait_for_work(simulator)
    time.sleep(1.0)
    assert 1 <= sent < 20
    call.cancel()
    wait_for_free_slots(simulator)


def test_a_second_stream_is_refused_at_once(stub: simulator_pb2_grpc.SimulatorServiceStub) -> None:
    """Its capacity comes before any row is sent; only streams of rows are refused, and only while one is served."""
    never = threading.Event()

    def requests() -> Iterator[simulator_pb2.SimulateRequest]:
        yield setup_message()
        never.wait(60)

    first = stub.Simulate(requests())
    header = dict(first.initial_metadata())[wire.CAPACITY_HEADER]
    capacity = stub.GetCapacity(simulator_pb2.GetCapacityRequest(), timeout=10)
    assert simulator_pb2.GetCapacityResponse.FromString(header) == capacity
    asked = time.monotonic()
    with pytest.raises(ResourceExhausted, match="has its stream"), rpc.calling("own"):
        list(stub.Simulate(iter([setup_message()]), timeout=60))
    assert time.monotonic() - asked < 30
    first.cancel()
    never.set()
    deadline = time.monotonic() + 10
    while True:
        with contextlib.suppress(ResourceExhausted), rpc.calling("own"):
            assert len(list(stub.Simulate(iter([setup_message(), rows_message(0, design(1, 4.5))])))) == 1
            break
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_jobs_share_a_stream(stub: simulator_pb2_grpc.SimulatorServiceStub, simulator: Simulator) -> None:
    """Each row is that of its own job's setup, whatever else is in the stream."""
    rows = design(6, 4.7)
    requests = []
    for number, seed in ((0, 5), (7, 6)):
        setup = setup_message(seed=seed)
        setup.job = number
        requests.append(setup)
    for number in (7, 0):
        message = rows_message(0, rows)
        message.job = number
        requests.append(message)
    answers = list(stub.Simulate(iter(requests)))
    for number, seed in ((0, 5), (7, 6)):
        served = by_index([wire.decode_rows(answer.results) for answer in answers if answer.job == number])
        setup = Setup("campaigns/test", seed, Phase.LHS, PhysicsSpec(), ProtocolSpec())
        own = by_index(simulator.simulate(setup, [(j, row) for j, row in enumerate(rows)]))
        assert own.tobytes() == served.tobytes()


def test_withdrawn_rows_end_and_have_no_result(
    stub: simulator_pb2_grpc.SimulatorServiceStub, simulator: Simulator
) -> None:
    withdrawn = wire.encode(np.arange(6, dtype=np.int64), wire.INDEX)

    def requests() -> Iterator[simulator_pb2.SimulateRequest]:
        yield setup_message()
        yield rows_message(0, long_rows(6))
        wait_for_work(simulator)
        yield simulator_pb2.SimulateRequest(withdrawn=withdrawn)
        yield rows_message(6, design(2, 4.5))

    rows = by_index([wire.decode_rows(answer.results) for answer in stub.Simulate(requests(), timeout=60)])
    assert rows["index"].tolist() == [6, 7]
    wait_for_free_slots(simulator)


def test_processes_of_the_service_have_one_thread_and_no_grpc(service: Running) -> None:
    """The fork server and its workers: nothing that a fork could lose, and no pools of BLAS, OpenMP or Numba."""
    workers = _descendants(service.process.pid)
    forked = [pid for pid in workers if b"forkserver" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert len(forked) == 3
    for pid in forked:
        assert "Threads:\t1\n" in Path(f"/proc/{pid}/status").read_text()
        assert "cygrpc" not in Path(f"/proc/{pid}/maps").read_text()


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


def test_sigterm_drains(tmp_path: Path) -> None:
    """What is under way may use its grace, health says NOT_SERVING, new calls find nobody."""
    running = start(tmp_path, "--grace-seconds", "4")
    health = health_pb2_grpc.HealthStub(running.channel).Watch(health_pb2.HealthCheckRequest(service=NAME))
    assert next(health).status == health_pb2.HealthCheckResponse.SERVING
    call = running.stub.Simulate(iter([setup_message(), rows_message(0, long_rows(8))]))
    time.sleep(0.5)
    running.process.send_signal(signal.SIGTERM)
    told = time.monotonic()
    assert next(health).status == health_pb2.HealthCheckResponse.NOT_SERVING
    with pytest.raises(Unreachable), rpc.calling(running.address):
        while time.monotonic() < told + 3.5:  # well before the grace is over
            with rpc.channel(running.address) as channel:
                simulator_pb2_grpc.SimulatorServiceStub(channel).GetCapacity(simulator_pb2.GetCapacityRequest())
    with pytest.raises(grpc.RpcError) as ended:
        list(call)
    assert ended.value.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert running.process.wait(30) == 0
    assert time.monotonic() - told > 3.9
    assert running.segments() == []
    stop(running)


@pytest.mark.parametrize("samples", [2_000, pytest.param(20_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])])
def test_memory_is_constant(fresh_service: Running, samples: int) -> None:
    """Resident memory of the service and all its processes against samples done: a line without slope.

    The first fifth is left out: caches fill, and every page of the arena is touched once.
    """
    processes = [fresh_service.process.pid, *_descendants(fresh_service.process.pid)]
    rows = np.tile(design(100, 4.5), (samples // 100, 1))
    requests = [setup_message(), *(rows_message(first, rows[first : first + 100]) for first in range(0, samples, 100))]
    done, resident = 0, []
    for answer in fresh_service.stub.Simulate(iter(requests)):
        done += len(wire.decode_rows(answer.results))
        if done % (samples // 100) == 0:
            resident.append((done, sum(resident_bytes(pid) for pid in processes)))
    assert done == samples
    count, size = np.array(resident[20:], np.float64).T
    slope = np.polyfit(count, size, 1)[0]
    # One result row kept of each sample would be seen in the longer run, one segment in either.
    assert slope * samples < 5e6, f"{slope:.0f} bytes a sample"


def resident_bytes(pid: int) -> int:
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(status.split("VmRSS:")[1].split()[0])


def test_a_full_dev_shm_is_an_error_at_the_start(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "caligo_simulator", "--address", f"unix:{tmp_path}/simulator.sock",
               "--workers", "1024", "--segment-pairs", str(2**28), "--namespace", "full"]  # fmt: skip
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2
    needed = 1024 * 2 * 1024 + 1  # MiB: 2 slots a worker, a page of states
    assert f"/dev/shm: must have {needed} MiB free for the arena, 2048 slots of {2**30} bytes" in ended.stderr
    assert list(Path("/dev/shm").glob("caligo-full-*")) == []


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
