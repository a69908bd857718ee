"""The farm over stand-in replicas: who is given rows, and what becomes of them when something breaks."""

from __future__ import annotations

import itertools
import queue
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator

import grpc
import numpy as np
import pytest
from caligo_orchestrator.farm import Job, replicas
from caligo_orchestrator.farm.fair import FairQueue
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.farm.suspects import MAX_DEATHS, Suspects
from caligo_orchestrator.pipeline import SIMULATE, Pipeline
from hypothesis import given
from hypothesis import strategies as st

from caligo import rpc, wire
from caligo.errors import CaligoError, InvalidArgument, ResourceExhausted, Unreachable
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ProtocolResult, Reason, ResultRows
from caligo.space import DIMENSIONS
from caligo.spec import CampaignSpec, SpaceSpec
from caligo.v1 import simulator_pb2, simulator_pb2_grpc, types_pb2

SERVICE = simulator_pb2.DESCRIPTOR.services_by_name["SimulatorService"].full_name
PATIENCE = 20.0


class Replica(simulator_pb2_grpc.SimulatorServiceServicer):
    """A simulator with one worker whose rows take `row_seconds`; listens on `address` from `start` to `stop`."""

    def __init__(self, address: str, row_seconds: float = 0.005, room: int = 4) -> None:
        self.address = address
        self.row_seconds = row_seconds
        self.room = room
        self.rows: list[tuple[str, int]] = []
        """(campaign, index) of every row begun."""
        self.withdrawn: list[int] = []
        self.refused = 0
        self.deaths = 0
        self.gate = threading.Event()
        """Rows wait for it to be set."""
        self.gate.set()
        self.sources = ["statistical", address]
        self.versions: list[str] = []
        """Of those, if it says them."""
        self.garbage: bytes | None = None
        """What it answers instead of results."""
        self.dies: Callable[[int], bool] = lambda index: False
        """Whether the simulator dies when it begins a row."""
        self._taken = threading.Lock()
        self._draining = threading.Event()

    def start(self) -> Replica:
        self._draining.clear()
        service = rpc.Service(SERVICE, register, self)
        self._server = rpc.Server(self.address, [service], options=(("grpc.max_connection_age_ms", 500),))
        self._server.start()
        return self

    def drain(self) -> None:
        """As on SIGTERM: the row under way is finished, the others are given back."""
        self._server.refuse()
        self._draining.set()

    def stop(self) -> None:
        """Every connection breaks."""
        self._server.stop(0)

    def GetCapacity(self, request, context):
        return self._capacity()

    def _capacity(self):
        return simulator_pb2.GetCapacityResponse(
            workers=1, max_rows_in_flight=self.room, epr_sources=self.sources, epr_source_versions=self.versions
        )

    def Simulate(self, request_iterator, context):
        if not self._taken.acquire(blocking=False):
            self.refused += 1
            raise ResourceExhausted("one stream at a time")
        if not context.add_callback(self._taken.release):
            self._taken.release()
        context.send_initial_metadata(((wire.CAPACITY_HEADER, self._capacity().SerializeToString()),))
        inbox: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._read, args=(request_iterator, inbox), daemon=True).start()
        while context.is_active():
            if self._draining.is_set():
                raise Unreachable("shutting down")
            try:
                item = inbox.get(timeout=0.02)
            except queue.Empty:
                continue
            if item is None:
                return
            if isinstance(item, Exception):
                raise item
            job, campaign, index, inputs, withdrawn = item
            if withdrawn.is_set():
                continue
            self.rows.append((campaign, index))
            if self.dies(index):
                self.deaths += 1
                context.abort(grpc.StatusCode.UNAVAILABLE, "Socket closed")  # as gRPC says it: no details
            time.sleep(self.row_seconds)
            while context.is_active() and not withdrawn.is_set() and not self.gate.wait(0.02):
                pass
            if not withdrawn.is_set() and self.garbage is not None:
                yield self.garbage
            elif not withdrawn.is_set():
                yield simulator_pb2.SimulateResponse(job=job, results=wire.encode_rows(result_of(index, inputs)))

    def _read(self, requests, inbox: queue.SimpleQueue) -> None:
        try:
            campaigns: dict[int, str] = {}
            under_way: dict[tuple[int, int], threading.Event] = {}
            for request in requests:
                if request.HasField("setup"):
                    campaigns[request.job] = request.setup.campaign
                elif request.HasField("rows"):
                    for index, inputs in zip(*wire.decode_design(request.rows), strict=True):
                        withdrawn = under_way[request.job, int(index)] = threading.Event()
                        inbox.put((request.job, campaigns[request.job], int(index), inputs, withdrawn))
                else:
                    for index in wire.decode(request.withdrawn, wire.INDEX, -1).tolist():
                        under_way[request.job, index].set()
                        self.withdrawn.append(index)
            inbox.put(None)
        except InvalidArgument as error:
            inbox.put(error)
        except grpc.RpcError:
            inbox.put(None)


def register(replica: Replica, server: grpc.Server) -> None:
    """As the generated function does, but that a response may be bytes, which are sent as they are."""
    types = simulator_pb2

    def serialize(response: object) -> bytes:
        return response if isinstance(response, bytes) else response.SerializeToString()

    handlers = {
        "GetCapacity": grpc.unary_unary_rpc_method_handler(
            replica.GetCapacity, types.GetCapacityRequest.FromString, serialize
        ),
        "Simulate": grpc.stream_stream_rpc_method_handler(
            replica.Simulate, types.SimulateRequest.FromString, serialize
        ),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))


def result_of(index: int, inputs: np.ndarray) -> ResultRows:
    return ProtocolResult(ProtocolOutcome.SUCCESS, net_efficiency=index, margin=0.5).to_row(index, inputs)


def some_inputs(count: int) -> np.ndarray:
    unit = np.random.default_rng(1).random((count, DIMENSIONS), dtype=np.float32)
    unit[:, -1] = unit[:, -1].round()
    return SpaceSpec().resolve().from_unit(unit)


class Customer:
    """A job and what has come of it."""

    def __init__(
        self,
        farm: ReplicaFarm,
        campaign: str = "campaigns/test",
        rows: int = 0,
        seed: int = 1,
        source: str = "",
        version: str = "",
    ) -> None:
        setup = simulator_pb2.SimulateSetup(campaign=campaign, seed=seed, phase=types_pb2.PHASE_ACTIVE)
        if source:
            setup.protocol.epr_source = source
        self.job = Job(setup, self._take, self._fail, version)
        self.order: list[int] = []
        self.results: dict[int, ResultRows] = {}
        self.error: CaligoError | None = None
        self._farm = farm
        self._changed = threading.Condition()
        if rows:
            self.submit(np.arange(rows))

    def submit(self, index: np.ndarray) -> None:
        self._farm.submit(self.job, index.astype(np.int64), some_inputs(len(index)))

    def await_rows(self, count: int, seconds: float = 30.0) -> None:
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.order) >= count or self.error, seconds), len(self.order)
        if self.error:
            raise self.error

    def await_error(self) -> CaligoError:
        with self._changed:
            assert self._changed.wait_for(lambda: self.error, 30)
        assert self.error is not None
        return self.error

    def _take(self, rows: ResultRows) -> None:
        with self._changed:
            self.order += rows["index"].tolist()
            self.results.update({int(row["index"][0]): row for row in np.split(rows, len(rows))})
            self._changed.notify_all()

    def _fail(self, error: CaligoError) -> None:
        with self._changed:
            self.error = error
            self._changed.notify_all()

    def assert_complete(self, count: int) -> None:
        """Every row has come once, and is what it must be."""
        assert sorted(self.order) == list(range(count))
        for index, row in self.results.items():
            expected = result_of(index, row["inputs"][0])
            assert row.tobytes() == expected.tobytes()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def replicas_of(tmp_path) -> Iterator[Callable[..., list[Replica]]]:
    """`replicas_of(n, start=True, **options)` makes n of them on ports of this machine."""
    made: list[Replica] = []

    def make(count: int, start: bool = True, **options) -> list[Replica]:
        new = [Replica(f"127.0.0.1:{free_port()}", **options) for _ in range(count)]
        if start:
            for replica in new:
                replica.start()
        made.extend(new)
        return new

    yield make
    for replica in made:
        replica.gate.set()
        if hasattr(replica, "_server"):
            replica.stop()


@pytest.fixture
def farm_of() -> Iterator[Callable[..., ReplicaFarm]]:
    """`farm_of(replicas)` makes a farm over them; all are closed at the end."""
    farms: list[ReplicaFarm] = []

    def make(over: list[Replica], patience: float = PATIENCE) -> ReplicaFarm:
        address = "ipv4:" + ",".join(replica.address for replica in over)
        farms.append(ReplicaFarm(address, patience, quiet_seconds=0.05))
        return farms[-1]

    yield make
    for farm in farms:
        farm.close()


def await_that(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


# --- replicas -------------------------------------------------------------------------------------------------------


def test_all_replicas_work_and_none_is_flooded(replicas_of, farm_of) -> None:
    over = replicas_of(4)
    over[0].gate.clear()
    farm = farm_of(over)
    customer = Customer(farm, rows=500)
    customer.await_rows(400)
    assert all(len(replica.rows) > 20 for replica in over[1:])
    assert len(over[0].rows) == 1  # it never had more than its room of 4, and has begun one
    over[0].gate.set()
    customer.await_rows(500)
    customer.assert_complete(500)
    assert farm.stats().simulators == 4
    assert farm.room() == farm.stats().room >= 4


@pytest.mark.parametrize("garbage", [b"\xff\xff", b"\n\x00"])  # no message at all; one whose tensors are missing
def test_a_simulator_whose_answers_cannot_be_read_is_left_alone(replicas_of, farm_of, garbage) -> None:
    """As one of another release: the others do the work, and every campaign goes on."""
    good, bad = replicas_of(2)
    bad.garbage = garbage
    farm = farm_of([good, bad])
    customers = [Customer(farm, f"campaigns/{name}", rows=40) for name in "ab"]
    for customer in customers:
        customer.await_rows(40)
        customer.assert_complete(40)
    assert bad.rows


def test_where_no_simulator_can_be_read_the_jobs_end_and_say_so(replicas_of, farm_of) -> None:
    (bad,) = replicas_of(1)
    bad.garbage = b"\xff\xff"
    error = Customer(farm_of([bad]), rows=4).await_error()
    assert isinstance(error, Unreachable)
    assert "cannot be read" in str(error)


def test_the_farm_says_what_sources_there_are(replicas_of, farm_of) -> None:
    over = replicas_of(1)
    assert farm_of(over).epr_sources(10) == {"statistical": "", over[0].address: ""}
    with pytest.raises(Unreachable, match="no simulator answers"):
        farm_of(replicas_of(1, start=False)).epr_sources(0.3)


def test_a_source_that_one_of_many_has_is_found(replicas_of, farm_of) -> None:
    over = replicas_of(4)
    farm = farm_of(over)
    for replica in over:
        assert replica.address in farm.epr_sources(10, replica.address)
    everything = farm.epr_sources(10, "nowhere")
    assert sorted(everything) == sorted(["statistical", *(replica.address for replica in over)])


def test_rows_go_where_their_source_is(replicas_of, farm_of) -> None:
    """Three campaigns over two simulators, each of which lacks the source of one; a third comes and takes part."""
    over = replicas_of(3, start=False)
    over[0].sources, over[1].sources, over[2].sources = ["statistical", "a"], ["statistical", "b"], ["statistical", "b"]
    for replica in over[:2]:
        replica.start()
    farm = farm_of(over)
    names = {"campaigns/a": "a", "campaigns/b": "b", "campaigns/any": ""}
    customers = [Customer(farm, campaign, rows=60, source=source) for campaign, source in names.items()]
    customers[1].await_rows(5)
    over[2].start()
    for customer in customers:
        customer.await_rows(60)
        customer.assert_complete(60)
    for replica in over:
        assert {names[campaign] for campaign, _ in replica.rows} <= {"", *replica.sources}


def test_rows_go_where_their_version_of_a_source_is(replicas_of, farm_of) -> None:
    over = replicas_of(3, start=False)
    for replica, version in zip(over, ("1.0", "2.0", "2.0"), strict=True):
        replica.sources, replica.versions = ["statistical", "a"], ["0.2", version]
        replica.start()
    farm = farm_of(over)
    old = Customer(farm, "campaigns/old", rows=30, source="a", version="1.0")
    new = Customer(farm, "campaigns/new", rows=30, source="a", version="2.0")
    for customer in (old, new):
        customer.await_rows(30)
        customer.assert_complete(30)
    assert {campaign for campaign, _ in over[0].rows} == {"campaigns/old"}
    assert {campaign for replica in over[1:] for campaign, _ in replica.rows} == {"campaigns/new"}
    assert farm.epr_sources(10, "a")["a"] in ("1.0", "2.0")


def test_rows_whose_source_is_gone_wait_for_it_and_others_pass_them(replicas_of, farm_of) -> None:
    over = replicas_of(2, start=False)
    over[0].sources, over[1].sources = ["statistical"], ["statistical", "rare"]
    over[0].start()
    farm = farm_of(over)
    rare, common = Customer(farm, "campaigns/rare", rows=10, source="rare"), Customer(farm, "campaigns/c", rows=30)
    common.await_rows(30)
    assert not rare.order and rare.error is None
    over[1].start()
    rare.await_rows(10)
    rare.assert_complete(10)


def test_a_source_that_nobody_has_ends_its_jobs_by_name(replicas_of) -> None:
    (replica,) = replicas_of(1)
    farm = ReplicaFarm(replica.address, 0.3)
    try:
        rare, common = Customer(farm, "campaigns/rare", rows=3, source="rare"), Customer(farm, "campaigns/c", rows=30)
        common.await_rows(30)
        error = rare.await_error()
        assert isinstance(error, Unreachable)  # so the campaign pauses, and can be resumed when the source is back
        assert "no simulator has the EPR source rare; they have " in str(error)
    finally:
        farm.close()


def test_rows_of_a_lost_replica_are_simulated_elsewhere(replicas_of, farm_of) -> None:
    over = replicas_of(2)
    farm = farm_of(over)
    customer = Customer(farm, rows=100)
    customer.await_rows(20)
    over[0].gate.clear()
    await_that(lambda: len(over[0].rows) > 0)
    over[0].stop()
    customer.await_rows(100)
    customer.assert_complete(100)
    assert farm.stats().lost >= 1
    assert farm.stats().poison == 0


def test_a_draining_replica_finishes_what_it_has_begun_and_is_given_no_more(replicas_of, farm_of) -> None:
    over = replicas_of(2, row_seconds=0.01)
    farm = farm_of(over)
    customer = Customer(farm, rows=120)
    await_that(lambda: len(over[0].rows) > 5)
    over[0].drain()
    time.sleep(0.2)
    begun = len(over[0].rows)
    customer.await_rows(120)
    customer.assert_complete(120)
    assert len(over[0].rows) == begun
    assert len(over[0].rows) + len(over[1].rows) == 120  # nothing was lost, nothing done twice
    assert farm.stats().lost == 0


def test_a_replica_that_comes_back_is_used_again(replicas_of, farm_of) -> None:
    first, second = replicas_of(1) + replicas_of(1, start=False)
    customer = Customer(farm_of([first, second]), rows=2000)
    customer.await_rows(10)
    second.start()
    await_that(lambda: len(second.rows) > 10)
    first.stop()
    customer.await_rows(len(customer.order) + 50)
    begun = len(first.rows)
    first.start()
    await_that(lambda: len(first.rows) > begun + 10)


class NameServer:
    """A DNS server on loopback that knows one name: it has the addresses in `answers`."""

    def __init__(self) -> None:
        self.answers: list[str] = []
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(512)
            if not query:
                return
            end = query.index(b"\0", 12) + 5
            is_a = query[end - 4 : end - 2] == b"\0\1"
            answers = list(self.answers) if is_a else []  # there are no IPv6 addresses
            self.asked += is_a
            head = query[:2] + b"\x84\0\0\1" + len(answers).to_bytes(2, "big") + b"\0\0\0\0"
            records = [b"\xc0\x0c\0\1\0\1\0\0\0\0\0\4" + socket.inet_aton(address) for address in answers]
            self._socket.sendto(head + query[12:end] + b"".join(records), client)

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
            last.sendto(b"", ("127.0.0.1", self.port))


def test_a_replica_that_the_name_gains_is_used_within_seconds(replicas_of, farm_of) -> None:
    """gRPC asks a name server of ours: first for one replica, and again when that one ends a connection."""
    (first,) = replicas_of(1)
    port = int(first.address.rpartition(":")[2])
    second = Replica(f"127.0.0.2:{port}")
    names = NameServer()
    names.answers = ["127.0.0.1"]
    farm = ReplicaFarm(f"dns://127.0.0.1:{names.port}/simulators.test:{port}", PATIENCE)
    try:
        customer = Customer(farm, rows=5000)
        customer.await_rows(50)
        second.start()
        names.answers.append("127.0.0.2")
        await_that(lambda: len(second.rows) > 10)
        assert names.asked > 1
    finally:
        farm.close()
        names.close()
        if hasattr(second, "_server"):
            second.stop()


def test_no_replica_is_an_error_after_patience_and_not_before(replicas_of, farm_of) -> None:
    (replica,) = replicas_of(1, start=False)
    farm = farm_of([replica], patience=1.0)
    begun = time.monotonic()
    customer = Customer(farm, rows=5)
    assert isinstance(customer.await_error(), Unreachable)
    assert "no simulator answers" in str(customer.error)
    assert time.monotonic() - begun >= 1.0
    replica.start()
    again = Customer(farm, rows=5)
    again.await_rows(5)
    again.assert_complete(5)


def test_a_replica_serves_one_farm_at_a_time(replicas_of, farm_of, monkeypatch) -> None:
    monkeypatch.setattr(replicas, "_IDLE_SECONDS", 0.2)
    over = replicas_of(1)
    over[0].gate.clear()
    first = Customer(farm_of(over), rows=10)
    await_that(lambda: len(over[0].rows) == 1)
    turned_away = Customer(farm_of(over, patience=0.5), rows=5)
    assert "no simulator has room" in str(turned_away.await_error())
    over[0].gate.set()
    first.await_rows(10)
    second = Customer(farm_of(over), rows=5)  # has it when the first farm has been idle for a while
    second.await_rows(5)
    assert over[0].refused > 0


def test_a_stream_carries_more_jobs_than_its_numbers(replicas_of, farm_of) -> None:
    """Jobs are numbered within a stream, and there are 256 numbers: then comes another stream."""
    farm = farm_of(replicas_of(1, row_seconds=0.0))
    customers = [Customer(farm, campaign=f"campaigns/{j}", rows=2) for j in range(300)]
    for customer in customers:
        customer.await_rows(2)
        customer.assert_complete(2)


# --- rows -----------------------------------------------------------------------------------------------------------


def test_a_row_refused_by_the_simulator_ends_its_job_and_no_other(replicas_of, farm_of) -> None:
    over = replicas_of(1)
    farm = farm_of(over)
    good = Customer(farm, campaign="campaigns/good", rows=40)
    bad = Customer(farm, campaign="campaigns/bad")
    bad._farm.submit(bad.job, np.arange(1), np.full((1, DIMENSIONS), np.nan, dtype=np.float32))
    error = bad.await_error()
    assert isinstance(error, InvalidArgument)
    assert error.violations[0].field == "rows.inputs"
    good.await_rows(40)
    good.assert_complete(40)


def test_stragglers_are_copied_to_idle_replicas_and_withdrawn_from_the_slow_one(replicas_of, farm_of) -> None:
    over = replicas_of(3)
    farm = farm_of(over)
    customer = Customer(farm, rows=60)
    customer.await_rows(20)
    over[0].gate.clear()
    customer.await_rows(60)  # though the slow one never answers
    customer.assert_complete(60)
    await_that(lambda: len(over[0].withdrawn) >= 1)
    assert farm.stats().in_flight == 0
    over[0].gate.set()
    later = Customer(farm, campaign="campaigns/later", rows=30)
    later.await_rows(30)
    later.assert_complete(30)


def test_copies_give_way_to_rows_that_wait(replicas_of, farm_of) -> None:
    over = replicas_of(2)
    farm = farm_of(over)
    customer = Customer(farm, rows=20)
    customer.await_rows(20)
    for replica in over:
        replica.gate.clear()
    customer.submit(np.arange(20, 21))
    await_that(lambda: farm.stats().copies == 1)  # both have it, and hold it
    urgent = Customer(farm, campaign="campaigns/urgent", rows=20)  # more than there is room for: the copy must go
    await_that(lambda: farm.stats().copies == 0 and 20 in over[0].withdrawn + over[1].withdrawn)
    assert farm.stats().waiting > 0
    for replica in over:
        replica.gate.set()
    urgent.await_rows(20)
    customer.await_rows(21)
    customer.assert_complete(21)
    urgent.assert_complete(20)


def test_a_cancelled_job_ends_at_once(replicas_of, farm_of) -> None:
    over = replicas_of(1)
    farm = farm_of(over)
    over[0].gate.clear()
    customer, other = Customer(farm, rows=100), Customer(farm, campaign="campaigns/other", rows=10)
    await_that(lambda: len(over[0].rows) == 1)
    farm.cancel(customer.job)
    await_that(lambda: farm.stats().waiting + farm.stats().in_flight == 10)
    over[0].gate.set()
    other.await_rows(10)
    other.assert_complete(10)
    assert customer.order == []
    assert len([campaign for campaign, _ in over[0].rows if campaign == "campaigns/test"]) <= 4


def test_close_ends_whatever_is_under_way(replicas_of, farm_of) -> None:
    over = replicas_of(2)
    for replica in over:
        replica.gate.clear()
    farm = farm_of(over)
    customer = Customer(farm, rows=50)
    await_that(lambda: farm.stats().in_flight > 0)
    farm.close()
    assert customer.order == []
    assert customer.error is None
    customer.submit(np.arange(3))  # in vain, but no error
    farm.close()


def test_a_stalled_reader_stalls_the_simulators(replicas_of, farm_of, spec: CampaignSpec) -> None:
    """Rows are simulated no further ahead than the pipeline's bound when nobody takes the results."""
    over = replicas_of(2, row_seconds=0.0)
    farm = farm_of(over)
    inputs = some_inputs(500)
    pipeline = Pipeline("campaigns/test", spec, Phase.ACTIVE, farm, lambda rows: None, threading.Event(), in_flight=32)
    with pipeline:
        results = pipeline.submit(np.arange(500), inputs, np.full(500, SIMULATE))
        taken = len(next(results))
        time.sleep(0.5)
        simulated = sum(len(replica.rows) for replica in over)
        assert simulated <= 32 + taken
        taken += sum(map(len, results)) + sum(map(len, pipeline.drain()))
    assert taken == 500


# --- poison ---------------------------------------------------------------------------------------------------------


def test_a_poison_row_is_given_up_and_all_others_are_simulated(replicas_of, farm_of) -> None:
    over = replicas_of(2)
    for replica in over:
        replica.dies = lambda index: index == 17
    farm = farm_of(over)
    customer = Customer(farm, rows=60)
    customer.await_rows(60)
    lost = customer.results.pop(17)
    assert lost["outcome"] == ProtocolOutcome.FAILURE_ERROR
    assert lost["reason"] == Reason.WORKER_LOST
    customer.order.remove(17)
    assert sorted([*customer.order, 17]) == list(range(60))
    assert {int(row["outcome"][0]) for row in customer.results.values()} == {ProtocolOutcome.SUCCESS}
    assert sum(replica.deaths for replica in over) == 2 + MAX_DEATHS
    assert farm.stats().poison == 1
    customer.submit(np.arange(60, 90))  # and it is not sent again
    customer.await_rows(89)
    assert sum(replica.deaths for replica in over) == 2 + MAX_DEATHS


def test_two_poison_rows_are_told_apart(replicas_of, farm_of) -> None:
    over = replicas_of(2)
    for replica in over:
        replica.dies = lambda index: index in (3, 4)
    customer = Customer(farm_of(over), rows=30)
    customer.await_rows(30)
    failed = [i for i, row in customer.results.items() if row["outcome"] == ProtocolOutcome.FAILURE_ERROR]
    assert sorted(failed) == [3, 4]


def test_simulators_that_die_at_random_condemn_no_row(replicas_of, farm_of) -> None:
    over = replicas_of(3)
    dice = random.Random(5)
    for replica in over:
        replica.dies = lambda index: dice.random() < 0.1
    customer = Customer(farm_of(over), rows=400)
    customer.await_rows(400, 60)
    customer.assert_complete(400)
    assert sum(replica.deaths for replica in over) > 20


def test_where_simulators_die_of_everything_the_rows_are_not_to_blame(replicas_of, farm_of) -> None:
    over = replicas_of(1)
    over[0].dies = lambda index: True
    customer = Customer(farm_of(over), rows=20)
    error = customer.await_error()
    assert isinstance(error, Unreachable)
    assert "whatever row" in str(error)


@given(st.data())
def test_only_deaths_in_a_row_and_alone_condemn(data: st.DataObject) -> None:
    """Against a model: the last `MAX_DEATHS` losses were all of this one row alone, after quiet before each."""
    suspects: Suspects[str] = Suspects(2.0)
    now, losses = 0.0, []
    for name in "abc":
        suspects.add(name)
    for _ in range(data.draw(st.integers(0, 30))):
        now += data.draw(st.sampled_from([0.5, 2.5, 700.0]))
        due = suspects.due(now)
        event = data.draw(st.sampled_from(["alone", "other", "result"]))
        if event == "other":
            assert not suspects.simulator_lost(now)
            losses.append((None, now))
        elif due:
            row = data.draw(st.sampled_from(due))
            suspects.sent(row)
            now += 1.0
            if event == "result":
                suspects.acquit(row)
                losses.append((None, now))  # it lives: nothing before counts against it
                continue
            condemned = suspects.simulator_lost(now, row, 1.0)
            losses.append((row, now))
            last = losses[-MAX_DEATHS:]
            same = len(last) == MAX_DEATHS and all(who == row for who, _ in last)
            if condemned:
                assert same
                assert all(later - earlier >= 20.0 for (_, earlier), (_, later) in itertools.pairwise(last))
                losses.clear()


# --- fair shares ----------------------------------------------------------------------------------------------------


def taken(shares: FairQueue[str], count: int) -> str:
    return "".join(shares.pop() for _ in range(count))


def test_shares_are_exact() -> None:
    shares: FairQueue[str] = FairQueue()
    for flow, weight in (("a", 300), ("b", 200), ("c", 100)):
        shares.set_weight(flow, weight)
        shares.push(flow, flow * 100)
    assert taken(shares, 12) == "abcabaabcaba"
    counts = taken(shares, 48)
    assert [counts.count(flow) for flow in "abc"] == [24, 16, 8]


def test_a_small_urgent_campaign_does_not_wait_behind_a_huge_one() -> None:
    shares: FairQueue[str] = FairQueue()
    shares.push("huge", "h" * 100_000)
    taken(shares, 5000)
    shares.set_weight("urgent", 1000)
    shares.push("urgent", "u" * 50)
    assert taken(shares, 55).count("u") == 50  # ten to one, from the first row on


def test_a_flow_that_was_idle_has_nothing_in_hand() -> None:
    shares: FairQueue[str] = FairQueue()
    shares.push("a", "a" * 100)
    shares.push("b", "b")
    taken(shares, 51)
    shares.push("b", "b" * 100)
    assert taken(shares, 10).count("b") == 5


def test_a_new_weight_counts_from_the_next_row() -> None:
    shares: FairQueue[str] = FairQueue()
    for flow in "ab":
        shares.push(flow, flow * 1000)
    assert taken(shares, 100).count("a") == 50
    shares.set_weight("a", 300)
    assert taken(shares, 100).count("a") == pytest.approx(75, abs=1)


def test_rows_that_come_back_are_first_of_their_flow() -> None:
    shares: FairQueue[int] = FairQueue()
    shares.push("a", range(5))
    first, second = shares.pop(), shares.pop()
    shares.push_back("a", [first, second])
    shares.remove("a", lambda row: row == 3)
    assert [shares.pop() for _ in range(len(shares))] == [0, 1, 2, 4]
    assert not shares
    with pytest.raises(IndexError):
        shares.pop()


@given(st.lists(st.integers(1, 1000), min_size=2, max_size=6), st.integers(1, 300))
def test_no_flow_is_ever_off_its_share_by_more_than_a_row(weights: list[int], count: int) -> None:
    shares: FairQueue[int] = FairQueue()
    for flow, weight in enumerate(weights):
        shares.set_weight(str(flow), weight)
        shares.push(str(flow), [flow] * count)
    numbers = [0] * len(weights)
    for _ in range(count):
        numbers[shares.pop()] += 1
    served = [n / w for n, w in zip(numbers, weights, strict=True)]
    for (a, wa), (b, wb) in itertools.combinations(zip(served, weights, strict=True), 2):
        assert abs(a - b) <= 1 / wa + 1 / wb + 1e-9


def test_campaigns_share_the_simulators_by_weight(replicas_of, farm_of) -> None:
    (replica,) = replicas_of(1, start=False, row_seconds=0.0)
    farm = farm_of([replica])
    farm.set_weight("campaigns/light", 100)
    farm.set_weight("campaigns/heavy", 300)
    light, heavy = Customer(farm, campaign="campaigns/light"), Customer(farm, campaign="campaigns/heavy")
    light.submit(np.arange(100))
    heavy.submit(np.arange(100))
    replica.start()
    heavy.await_rows(100)
    light.await_rows(100)
    first = [campaign for campaign, _ in replica.rows[:80]]
    assert first.count("campaigns/heavy") == pytest.approx(60, abs=1)
    heavy.assert_complete(100)
    light.assert_complete(100)
