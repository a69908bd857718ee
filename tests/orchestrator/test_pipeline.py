"""Candidates in, durable rows out: incrementally, without the simulator for skipped ones, whatever breaks."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.pipeline import SIMULATE, Pipeline, Stopped

from caligo.errors import InvalidArgument, Unreachable
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, Reason, ResultRows, metric
from caligo.space import DIMENSIONS
from caligo.spec import CampaignSpec, SpaceSpec

PREDICTED = ProtocolOutcome.SKIPPED_PREDICTED_FAILURE


def candidates(n: int) -> tuple[np.ndarray, np.ndarray]:
    unit = np.random.default_rng(3).random((n, DIMENSIONS), dtype=np.float32)
    unit[:, -1] = unit[:, -1].round()
    return np.arange(n, dtype=np.int64), SpaceSpec().resolve().from_unit(unit)


class Desk:
    """A farm, a pipeline and what it has recorded."""

    def __init__(self, services, spec: CampaignSpec, **options) -> None:
        self.stop = threading.Event()
        self.recorded: list[ResultRows] = []
        self.farm = ReplicaFarm(services.simulator_address, options.pop("patience", 5))
        self.pipeline = Pipeline(
            "campaigns/test", spec, Phase.ACTIVE, self.farm, self.recorded.append, self.stop, **options
        )

    def __enter__(self) -> Pipeline:
        return self.pipeline

    def __exit__(self, *exception: object) -> None:
        self.pipeline.__exit__(*exception)
        self.farm.close()


def evaluate(pipeline: Pipeline, n: int, skip: np.ndarray) -> ResultRows:
    index, inputs = candidates(n)
    rows = [*pipeline.submit(index, inputs, np.where(skip, PREDICTED, SIMULATE)), *pipeline.drain()]
    return np.sort(np.concatenate(rows), order="index")


def test_pruned_rows_reach_neither_simulator_nor_epr_source(services, spec) -> None:
    """Design document 7.3, pipeline bypass: the stand-in behind the wire is not called at all."""
    with Desk(services, spec) as pipeline:
        rows = evaluate(pipeline, 10, np.ones(10, dtype=bool))
    assert services.simulator.simulated == []
    assert (rows["outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE).all()
    assert (rows["reason"] == Reason.GUARDRAIL).all()
    assert (metric(rows, "net_efficiency") == 0).all()
    assert np.isfinite(metric(rows, "margin")).all()
    assert rows["metrics"].dtype == np.float32


def test_only_pruned_rows_are_left_out(services, spec) -> None:
    skip = np.arange(20) % 3 == 0
    with Desk(services, spec) as pipeline:
        rows = evaluate(pipeline, 20, skip)
    assert sorted(i for _, i in services.simulator.simulated) == np.flatnonzero(~skip).tolist()
    assert rows["index"].tolist() == list(range(20))
    assert ((rows["outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE) == skip).all()


def test_results_arrive_incrementally(services, spec) -> None:
    """Design document 7.4: a result is yielded while later rows are still being simulated."""
    services.simulator.delay_seconds = 0.05
    with Desk(services, spec, in_flight=8) as pipeline:
        index, inputs = candidates(40)
        stream = pipeline.submit(index, inputs, np.full(40, SIMULATE))
        yielded = 0
        for rows in stream:
            assert len(services.simulator.simulated) <= yielded + len(rows) + 8
            yielded += len(rows)
        assert 0 < yielded < 40
        list(pipeline.drain())
    assert len(services.simulator.simulated) == 40


def test_what_is_yielded_is_recorded(services, spec) -> None:
    desk = Desk(services, spec)
    with desk as pipeline:
        index, inputs = candidates(30)
        for rows in (
            *pipeline.submit(index, inputs, np.full(30, SIMULATE)),
            *pipeline.drain(),
        ):
            recorded = np.concatenate(desk.recorded)["index"]
            assert np.isin(rows["index"], recorded).all()


def test_a_broken_stream_loses_and_doubles_nothing(services, spec) -> None:
    services.simulator.break_after = 5
    with Desk(services, spec) as pipeline:
        rows = evaluate(pipeline, 16, np.zeros(16, dtype=bool))
    assert rows["index"].tolist() == list(range(16))
    assert services.simulator.break_after is None  # it did break


def test_nobody_there_is_an_error_after_patience(services, spec) -> None:
    services.simulator_address = "127.0.0.1:1"
    with Desk(services, spec, patience=0.5) as pipeline, pytest.raises(Unreachable, match="no simulator answers"):
        evaluate(pipeline, 4, np.zeros(4, dtype=bool))


def test_a_refused_row_fails_the_campaign_and_names_the_field(services, spec) -> None:
    with Desk(services, spec) as pipeline:
        index, inputs = candidates(2)
        inputs[1, 3] = 7.0  # a fidelity
        with pytest.raises(InvalidArgument) as refused:
            list(pipeline.submit(index, inputs, np.full(2, SIMULATE)))
            list(pipeline.drain())
    assert [violation.field for violation in refused.value.violations] == ["rows.inputs[F]"]


def test_a_stop_ends_every_wait(services, spec) -> None:
    services.simulator.delay_seconds = 5
    desk = Desk(services, spec)
    begun = time.monotonic()
    with desk as pipeline:
        threading.Timer(0.2, desk.stop.set).start()
        with pytest.raises(Stopped):
            evaluate(pipeline, 8, np.zeros(8, dtype=bool))
    assert time.monotonic() - begun < 20  # the rows would take 40 s


def test_a_full_disk_ends_the_campaign_not_the_rows(services, spec) -> None:
    def full(rows: ResultRows) -> None:
        raise OSError(28, "No space left on device")

    farm = ReplicaFarm(services.simulator_address, 5)
    pipeline = Pipeline("campaigns/test", spec, Phase.ACTIVE, farm, full, threading.Event())
    with pipeline, pytest.raises(OSError, match="No space left"):
        evaluate(pipeline, 4, np.zeros(4, dtype=bool))
    farm.close()
