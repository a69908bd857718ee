"""Phase 3 ends when the boundary has converged; which batch that is depends on the rows alone."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from caligo import wire
from caligo.phases import Phase
from caligo.results import ResultRows
from caligo.spec import CampaignSpec, to_proto, validate
from caligo.v1 import campaign_pb2 as pb


def spec(**convergence: float) -> CampaignSpec:
    """A budget of 10 batches of 4; the stand-in's boundary moves with each of the first 3."""
    active = {"samples": 40, "batch_size": 4, "convergence": convergence}
    return validate(CampaignSpec, {"name": "test", "lhs": {"samples": 16}, "active": active})


def create(orchestrator, spec: CampaignSpec) -> str:
    request = pb.CreateCampaignRequest(spec=to_proto(spec, pb.CampaignSpec))
    return orchestrator.stub.CreateCampaign(request).campaign.name


def finish(orchestrator, name: str) -> tuple[pb.Findings, list[str], ResultRows]:
    """What was found, the notes on the way, and the rows of phase 3 without `wall_seconds`."""
    notes = [
        event.note
        for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=60)
        if event.HasField("note")
    ]
    campaign = orchestrator.stub.GetCampaign(pb.GetCampaignRequest(name=name)).campaign
    assert campaign.state == pb.CAMPAIGN_STATE_SUCCEEDED, campaign.problem
    request = pb.StreamResultsRequest(name=name, phase=wire.encode_phase(Phase.ACTIVE))
    rows = np.concatenate([wire.decode_rows(r.rows) for r in orchestrator.stub.StreamResults(request, timeout=30)])
    rows["metrics"][:, -1] = 0
    return campaign.findings, notes, rows


def run(start, directory: Path, spec: CampaignSpec) -> tuple[pb.Findings, list[str], ResultRows]:
    orchestrator = start(directory)
    found = finish(orchestrator, create(orchestrator, spec))
    orchestrator.close()
    return found


def test_without_a_rule_the_budget_is_spent(start, tmp_path) -> None:
    findings, notes, rows = run(start, tmp_path / "data", spec())
    assert len(rows) == 40
    assert not findings.convergence.converged
    assert findings.convergence.batches == 10
    assert findings.convergence.changed_share == np.float32(1 / 64), "between 2 batches and 10"
    assert findings.convergence.expected_brier == pytest.approx(0.2 / 41)
    assert not any("converged" in note for note in notes)


def test_too_few_batches_say_nothing_of_change(start, tmp_path) -> None:
    findings, _, _ = run(start, tmp_path / "data", spec(batches=11))
    assert not findings.convergence.HasField("changed_share")


def test_a_boundary_that_stands_still_ends_the_phase(start, tmp_path) -> None:
    findings, notes, rows = run(start, tmp_path / "ruled", spec(boundary_tolerance=0.001, batches=1))
    # Nothing has changed between 3 batches and 4; the fifth was under way by then.
    assert len(rows) == 20
    assert findings.convergence.converged
    assert findings.convergence.batches == 5
    assert findings.convergence.changed_share == 0
    assert any("converged" in note for note in notes)
    _, _, unruled = run(start, tmp_path / "unruled", spec())
    assert rows.tobytes() == unruled[:20].tobytes()


def test_a_tolerance_allows_some_change(start, tmp_path) -> None:
    _, _, rows = run(start, tmp_path / "data", spec(boundary_tolerance=1 / 64, batches=1))
    assert len(rows) == 12, "from 1 batch to 2 one point in 64 changed; the third was under way"


def test_an_expected_brier_score_ends_the_phase(start, tmp_path) -> None:
    findings, _, rows = run(start, tmp_path / "data", spec(brier_target=0.2 / 12))
    assert len(rows) == 16, "12 rows meet the target; the fourth batch was under way"
    assert findings.convergence.converged


def test_stops_change_nothing(start, tmp_path, services) -> None:
    """Before a batch is learned, after the second, the third, and the last one that moves the boundary."""
    rules = spec(boundary_tolerance=0.001, batches=1)
    _, _, calm = run(start, tmp_path / "calm", rules)
    services.simulator.delay_seconds = 0.01
    orchestrator = start(tmp_path / "stopped")
    name = create(orchestrator, rules)
    for rows_before_the_stop in (1, 9, 13, 17):
        while True:
            progress = orchestrator.stub.GetCampaign(pb.GetCampaignRequest(name=name)).campaign.progress
            if progress.phase == 3 and progress.done >= rows_before_the_stop:
                break
            time.sleep(0.005)
        orchestrator.close()
        orchestrator = start(tmp_path / "stopped")
    findings, _, rows = finish(orchestrator, name)
    assert findings.convergence.batches == 5
    assert rows.tobytes() == calm.tobytes()


def test_cross_validation_is_part_of_the_findings(start, tmp_path) -> None:
    findings, _, _ = run(start, tmp_path / "data", spec())
    assert findings.cross_validation.rows == 5, "the stand-in says how many folds it was asked for"
