"""What both farms promise, asked of each over the real simulator: the gRPC farm, and a Dask cluster."""

from __future__ import annotations

import os
import secrets
import signal
import threading
import time
from collections.abc import Iterator

import dask.config
import numpy as np
import pytest
from caligo_orchestrator.farm import Farm, Job, open_farm
from caligo_orchestrator.farm.dask import DaskFarm
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_simulator.epr.registry import installed_sources
from caligo_simulator.harness import Setup
from caligo_simulator.server import NAME, SimulatorService
from caligo_simulator.simulation import Simulator
from distributed import LocalCluster

from caligo import rpc
from caligo.errors import CaligoError, InvalidArgument, Unreachable
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ResultRows
from caligo.space import PRESETS, Space
from caligo.spec import PhysicsSpec, ProtocolSpec
from caligo.v1 import simulator_pb2, simulator_pb2_grpc, types_pb2

ROWS = 40
ENGINES = ("replicas", "dask")


class Order:
    """A job and what has come of it."""

    def __init__(self, epr_source: str = "statistical") -> None:
        setup = simulator_pb2.SimulateSetup(campaign="campaigns/dask", seed=4, phase=types_pb2.PHASE_LHS)
        setup.protocol.epr_source = epr_source
        self.job = Job(setup, self._take, self._fail)
        self._rows: list[ResultRows] = []
        self._error: CaligoError | None = None
        self._changed = threading.Condition()

    def rows(self, count: int, seconds: float = 120.0) -> ResultRows:
        """In order, without the one column that may differ."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.count() >= count or self._error, seconds)
        if self._error:
            raise self._error
        table = np.sort(np.concatenate(self._rows), order="index")
        table["metrics"][:, -1] = 0
        return table

    def count(self) -> int:
        return sum(map(len, self._rows))

    def _take(self, rows: ResultRows) -> None:
        with self._changed:
            self._rows.append(rows)
            self._changed.notify_all()

    def _fail(self, error: CaligoError) -> None:
        with self._changed:
            self._error = error
            self._changed.notify_all()


@pytest.fixture(scope="module")
def cluster() -> Iterator[LocalCluster]:
    """Two workers of one thread, each its own process under a nanny that starts it again."""
    with (
        dask.config.set({"distributed.worker.daemon": False}),
        LocalCluster(
            n_workers=2,
            threads_per_worker=1,
            dashboard_address=None,
            host="127.0.0.1",
            preload="caligo_simulator.dask_worker",
        ) as cluster,
    ):
        yield cluster


@pytest.fixture(scope="module")
def simulator() -> Iterator[Simulator]:
    with Simulator(1, 2**20, f"farms-{secrets.token_hex(4)}") as simulator:
        yield simulator


@pytest.fixture(scope="module")
def address(simulator: Simulator, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Of the simulator's service."""
    register = simulator_pb2_grpc.add_SimulatorServiceServicer_to_server
    socket = tmp_path_factory.mktemp("farms") / "simulator"
    server = rpc.Server(f"unix:{socket}", [rpc.Service(NAME, register, SimulatorService(simulator))])
    server.start()
    yield server.address
    server.stop(0)


@pytest.fixture(params=ENGINES)
def farm(request: pytest.FixtureRequest) -> Iterator[Farm]:
    if request.param == "dask":
        farm: Farm = DaskFarm(request.getfixturevalue("cluster").scheduler_address, 60)
    else:
        farm = ReplicaFarm(request.getfixturevalue("address"), 60)
    yield farm
    farm.close()


def design(count: int, log_pairs: float = 5.7) -> tuple[np.ndarray, np.ndarray]:
    rows = Space(PRESETS["cliff"]).from_unit(np.random.default_rng(3).random((count, 9)))
    rows[:, 7] = log_pairs
    rows[:, 8] = np.arange(count) % 2
    return np.arange(count, dtype=np.int64), rows


@pytest.fixture(scope="module")
def expected(simulator: Simulator) -> bytes:
    """What the rows of `design` are, from the simulator itself."""
    setup = Setup("campaigns/dask", 4, Phase.LHS, PhysicsSpec(), ProtocolSpec())
    index, inputs = design(ROWS)
    rows = list(simulator.simulate(setup, list(zip(index.tolist(), inputs, strict=True))))
    table = np.sort(np.concatenate(rows), order="index")
    table["metrics"][:, -1] = 0
    return table.tobytes()


# --- what both promise ------------------------------------------------------------------------------------------------


def test_every_row_comes_once_and_is_what_the_simulator_makes_of_it(farm: Farm, expected: bytes) -> None:
    order = Order()
    index, inputs = design(ROWS)
    for part in np.array_split(np.arange(ROWS), 5):  # handed in bit by bit
        farm.submit(order.job, index[part], inputs[part])
    rows = order.rows(ROWS)
    assert len(set(rows["outcome"].tolist())) > 1
    assert rows.tobytes() == expected
    stats = farm.stats()
    assert (stats.waiting, stats.in_flight, stats.poison) == (0, 0, 0)
    assert stats.simulators >= 1
    assert farm.room() >= 1


@pytest.mark.skipif("netsquid" in installed_sources(), reason="NetSquid is installed")
def test_what_cannot_be_simulated_ends_its_job_and_no_other(farm: Farm) -> None:
    wrong, right = Order(epr_source="netsquid"), Order()
    farm.submit(wrong.job, *design(2))
    farm.submit(right.job, *design(4))
    with pytest.raises(InvalidArgument, match=r"protocol\.epr_source"):
        wrong.rows(2)
    assert len(right.rows(4)) == 4
    assert "statistical" in farm.epr_sources(30)


def test_a_cancelled_job_is_forgotten_and_others_go_on(farm: Farm) -> None:
    first, second = Order(), Order()
    farm.submit(first.job, *design(200, 7.0))
    farm.submit(second.job, *design(4))
    farm.cancel(first.job)
    assert len(second.rows(4)) == 4
    while farm.stats().waiting or farm.stats().in_flight:  # the test's own timeout ends it
        time.sleep(0.01)
    assert first.count() < 200
    farm.cancel(first.job)  # again is harmless


@pytest.mark.parametrize("engine", ENGINES)
def test_where_nobody_is_the_job_ends_after_patience(engine: str) -> None:
    farm: Farm = DaskFarm("tcp://127.0.0.1:1", 0.5) if engine == "dask" else ReplicaFarm("127.0.0.1:1", 0.5)
    order = Order()
    farm.submit(order.job, *design(2))
    with pytest.raises(Unreachable, match=r"no (worker|simulator) answers"):
        order.rows(2)
    with pytest.raises(Unreachable, match=r"no (worker|simulator) answers"):
        farm.epr_sources(0.5)
    farm.close()


@pytest.mark.parametrize("engine", ENGINES)
def test_what_is_closed_hands_nothing_on(engine: str, request: pytest.FixtureRequest) -> None:
    if engine == "dask":
        farm: Farm = DaskFarm(request.getfixturevalue("cluster").scheduler_address, 60)
    else:
        farm = ReplicaFarm(request.getfixturevalue("address"), 60)
    order = Order()
    farm.submit(order.job, *design(200, 7.0))
    farm.close()
    came = order.count()
    time.sleep(0.5)
    assert order.count() == came < 200


def test_the_settings_choose_the_engine(cluster: LocalCluster, address: str) -> None:
    with pytest.raises(InvalidArgument, match="scheduler"):
        open_farm(OrchestratorSettings(farm="dask"))
    for settings, kind in (
        (OrchestratorSettings(farm="dask", scheduler=cluster.scheduler_address), DaskFarm),
        (OrchestratorSettings(simulator=address), ReplicaFarm),
    ):
        farm = open_farm(settings)
        assert isinstance(farm, kind)
        farm.close()


# --- Dask's own -------------------------------------------------------------------------------------------------------


def test_a_killed_dask_worker_changes_no_row(cluster: LocalCluster, expected: bytes) -> None:
    farm = DaskFarm(cluster.scheduler_address, 60)
    order = Order()
    farm.submit(order.job, *design(ROWS))
    deadline = time.monotonic() + 60
    while order.count() < 8:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim = next(iter(cluster.workers.values()))
    os.kill(victim.process.pid, signal.SIGKILL)
    assert order.count() < ROWS
    rows = order.rows(ROWS)
    farm.close()
    assert ProtocolOutcome.FAILURE_ERROR not in rows["outcome"]
    assert rows.tobytes() == expected


def test_the_looker_goes_on_whatever_dask_says(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    farm = DaskFarm(cluster.scheduler_address, 60)
    connected, failed = farm._connected, []

    def fail(seconds: float) -> object:
        if len(failed) < 2:
            failed.append(seconds)
            raise RuntimeError("of a type that nobody expects")
        return connected(seconds)

    monkeypatch.setattr(farm, "_connected", fail)
    monkeypatch.setattr("caligo_orchestrator.farm.dask._LOOK_SECONDS", 0.05)
    order = Order()
    farm.submit(order.job, *design(2))
    assert len(order.rows(2)) == 2
    assert len(failed) == 2
    farm.close()
