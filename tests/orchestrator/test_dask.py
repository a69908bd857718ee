"""The farm on a real Dask cluster: worker processes with the real simulator, one of them killed in the middle."""

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
from caligo_orchestrator.farm import Job, open_farm
from caligo_orchestrator.farm.dask import DaskFarm
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_simulator.epr.source import installed_sources
from caligo_simulator.server import NAME, SimulatorService
from caligo_simulator.simulation import Simulator
from distributed import LocalCluster

from caligo import rpc
from caligo.errors import CaligoError, InvalidArgument, Unreachable
from caligo.results import ProtocolOutcome, ResultRows
from caligo.space import PRESETS, Space
from caligo.v1 import simulator_pb2, simulator_pb2_grpc, types_pb2


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


@pytest.fixture
def farm(cluster: LocalCluster) -> Iterator[DaskFarm]:
    farm = DaskFarm(cluster.scheduler_address, 60)
    yield farm
    farm.close()


def design(count: int, log_pairs: float = 5.7) -> tuple[np.ndarray, np.ndarray]:
    rows = Space(PRESETS["cliff"]).from_unit(np.random.default_rng(3).random((count, 9)))
    rows[:, 7] = log_pairs
    rows[:, 8] = np.arange(count) % 2
    return np.arange(count, dtype=np.int64), rows


def test_a_killed_worker_changes_no_row(cluster: LocalCluster, farm: DaskFarm, tmp_path) -> None:
    index, inputs = design(60)
    order = Order()
    farm.submit(order.job, index, inputs)
    deadline = time.monotonic() + 60
    while order.count() < 10:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    victim = next(iter(cluster.workers.values()))
    os.kill(victim.process.pid, signal.SIGKILL)
    assert order.count() < 60
    rows = order.rows(60)
    assert len(rows) == 60
    assert len(set(rows["outcome"])) > 1
    assert ProtocolOutcome.FAILURE_ERROR not in rows["outcome"]

    with Simulator(1, 2**20, f"dask-{secrets.token_hex(4)}") as simulator:
        register = simulator_pb2_grpc.add_SimulatorServiceServicer_to_server
        server = rpc.Server(f"unix:{tmp_path}/simulator", [rpc.Service(NAME, register, SimulatorService(simulator))])
        server.start()
        replicas, same = ReplicaFarm(server.address, 60), Order()
        replicas.submit(same.job, index, inputs)
        assert same.rows(60).tobytes() == rows.tobytes()
        replicas.close()
        server.stop(0)


@pytest.mark.skipif("netsquid" in installed_sources(), reason="NetSquid is installed")
def test_what_cannot_be_simulated_ends_its_job(farm: DaskFarm) -> None:
    index, inputs = design(2)
    order = Order(epr_source="netsquid")
    farm.submit(order.job, index, inputs)
    with pytest.raises(InvalidArgument, match=r"protocol\.epr_source"):
        order.rows(2)
    assert "statistical" in farm.epr_sources(30)


def test_a_cancelled_job_is_forgotten_and_others_go_on(farm: DaskFarm) -> None:
    first, second = Order(), Order()
    farm.submit(first.job, *design(200, 7.0))
    farm.submit(second.job, *design(4))
    farm.cancel(first.job)
    assert len(second.rows(4)) == 4
    assert farm.stats().waiting == farm.stats().in_flight == 0
    assert farm.room() >= 64


def test_no_scheduler_is_an_error_after_patience() -> None:
    farm = DaskFarm("tcp://127.0.0.1:1", 0.5)
    order = Order()
    farm.submit(order.job, *design(2))
    with pytest.raises(Unreachable, match="no worker answers"):
        order.rows(2)
    farm.close()


def test_the_settings_choose_the_engine(cluster: LocalCluster) -> None:
    with pytest.raises(InvalidArgument, match="scheduler"):
        open_farm(OrchestratorSettings(farm="dask"))
    farm = open_farm(OrchestratorSettings(farm="dask", scheduler=cluster.scheduler_address))
    assert isinstance(farm, DaskFarm)
    farm.close()
