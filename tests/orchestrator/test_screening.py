"""Rows of phase 1 that the closed form gives up: skipped, journalled, audited, and the same whatever happens."""

from __future__ import annotations

import time

import numpy as np
import pytest

import caligo
from caligo import screening
from caligo.dataset import open_campaign
from caligo.results import ProtocolOutcome
from caligo.screening import THRESHOLDS, Table
from caligo.spec import CampaignSpec, validate
from tests.orchestrator.test_campaign import assert_same, create, finish, run, table

SAMPLES = 64


@pytest.fixture
def spec(spec) -> CampaignSpec:
    return spec.model_copy(update={"lhs": spec.lhs.model_copy(update={"samples": SAMPLES})})


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    """Makes the table that ships one of as many runs without a single key as are wanted."""

    def make(runs: int = 1000, source: str = "statistical"):
        rows = np.full((2, len(THRESHOLDS)), runs)
        cells = {("alice", claim, "markov"): (rows, np.zeros_like(rows)) for claim in ("individual", "lupo2023")}
        Table(caligo.__version__, source, cells).write(tmp_path / "table.json")
        monkeypatch.setattr(screening, "TABLE", tmp_path / "table.json")

    return make


def doomed(inputs, spec: CampaignSpec) -> np.ndarray:
    return screening.failure_log_odds(inputs, spec.physics, spec.protocol) > np.log(0.99 / 0.01)


def test_doomed_rows_are_skipped_and_count_as_samples(start, spec, tmp_path, services, evidence) -> None:
    evidence()
    found = run(start, spec, tmp_path / "data")
    outcome, inputs = found["lhs_warmup/outcome"], found["lhs_warmup/inputs"]
    feasible = outcome != ProtocolOutcome.SKIPPED_INFEASIBLE
    skipped = outcome == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    assert feasible.sum() == SAMPLES
    assert skipped.sum() > 5
    assert (skipped & ~doomed(inputs, spec)).sum() == 0
    audited = feasible & ~skipped & doomed(inputs, spec)
    assert audited.sum() <= 0.1 * SAMPLES
    simulated = {index for phase, index in services.simulator.simulated if phase == 1}
    assert simulated == set(np.flatnonzero(feasible & ~skipped).tolist())
    assert (found["lhs_warmup/metrics"][skipped, 1] <= 0).all()


def test_the_file_and_the_findings_say_what_was_saved(start, spec, tmp_path, evidence) -> None:
    evidence()
    orchestrator = start(tmp_path / "data")
    found = finish(orchestrator, create(orchestrator, spec).name).findings
    orchestrator.close()
    with open_campaign(tmp_path / "data" / "campaigns" / spec.name / "exploration_data.h5") as dataset:
        rows = dataset.rows()
    foretold = rows["outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE
    assert found.skipped_predicted == foretold.sum() > 5
    assert found.HasField("seconds_saved")
    assert found.seconds_saved >= 0


@pytest.mark.parametrize("stop_after", [0, 5, 20])
def test_stopping_and_going_on_changes_no_verdict(start, spec, tmp_path, services, evidence, stop_after) -> None:
    evidence()
    expected = run(start, spec, tmp_path / "whole")
    services.simulator.delay_seconds = 0.01
    orchestrator = start(tmp_path / "cut")
    name = create(orchestrator, spec).name
    before = len(services.simulator.simulated)
    while len(services.simulator.simulated) < before + stop_after:
        time.sleep(0.005)
    orchestrator.close()
    services.surrogate.models.clear()
    orchestrator = start(tmp_path / "cut")
    finish(orchestrator, name)
    orchestrator.close()
    assert_same(expected, table(tmp_path / "cut" / "campaigns" / spec.name / "exploration_data.h5"))


def test_without_evidence_every_row_is_simulated(start, spec, tmp_path, evidence) -> None:
    evidence(source="another")
    found = run(start, spec, tmp_path / "data")
    assert not (found["lhs_warmup/outcome"] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE).any()


def test_a_dead_space_is_simulated_a_little_all_the_same(start, spec, tmp_path, services, evidence) -> None:
    """What no simulation has borne out is not said."""
    evidence()
    space = {"preset": "cliff", "bounds": {"N": [31623, 60000], "eta": [0.01, 0.02]}}
    changed = spec.model_dump() | {"space": space}
    found = run(start, validate(CampaignSpec, changed), tmp_path / "data")
    outcome = found["lhs_warmup/outcome"]
    assert (outcome < ProtocolOutcome.SKIPPED_INFEASIBLE).sum() == 16
    assert (outcome == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE).sum() == SAMPLES - 16
