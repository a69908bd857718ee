"""Whole campaigns through the public API: the same rows whatever happens on the way."""

from __future__ import annotations

import hashlib
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf import json_format

from caligo import rpc, wire
from caligo.errors import FailedPrecondition, InvalidArgument, NotFound, Unimplemented
from caligo.results import ProtocolOutcome
from caligo.spec import CampaignSpec, to_proto, validate
from caligo.v1 import campaign_pb2 as pb


def create(orchestrator, spec: CampaignSpec, **fields) -> pb.Campaign:
    request = pb.CreateCampaignRequest(spec=to_proto(spec, pb.CampaignSpec), **fields)
    with rpc.calling(orchestrator.address):
        return orchestrator.stub.CreateCampaign(request).campaign


def get(orchestrator, name: str) -> pb.Campaign:
    return orchestrator.stub.GetCampaign(pb.GetCampaignRequest(name=name)).campaign


def finish(orchestrator, name: str, seconds: float = 60) -> pb.Campaign:
    for _ in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=seconds):
        pass
    return get(orchestrator, name)


def run(start, spec: CampaignSpec, directory: Path, **settings) -> dict[str, np.ndarray]:
    orchestrator = start(directory, **settings)
    campaign = finish(orchestrator, create(orchestrator, spec).name)
    orchestrator.close()
    assert campaign.state == pb.CAMPAIGN_STATE_SUCCEEDED, campaign.problem
    return table(directory / "campaigns" / spec.name / "exploration_data.h5")


def table(path: Path) -> dict[str, np.ndarray]:
    """Every dataset of a campaign's file by name, wall_seconds blanked."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, node: found.__setitem__(name, node[...]) if hasattr(node, "dtype") else None)
    for name, array in found.items():
        if name.endswith("/metrics"):
            array[:, -1] = 0
    return found


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].tobytes() == other[name].tobytes(), name


def test_a_campaign_ends_with_every_row_in_its_file(start, spec, tmp_path, services) -> None:
    services.surrogate.skip_every = 5
    found = run(start, spec, tmp_path / "data")
    lhs, active = found["lhs_warmup/outcome"], found["active_learning/outcome"]
    assert (lhs != 255).all()
    assert (lhs != ProtocolOutcome.SKIPPED_INFEASIBLE).sum() == spec.lhs.samples
    assert lhs[-1] != ProtocolOutcome.SKIPPED_INFEASIBLE  # the warm-up ends with the last feasible row
    predicted = np.flatnonzero(active == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE)
    infeasible = np.flatnonzero(active == ProtocolOutcome.SKIPPED_INFEASIBLE)  # the closed form is asked first
    assert len(predicted) > 0
    assert set(predicted) == {0, 5, 10, 15} - set(infeasible)
    assert found["active_learning/index"].tolist() == list(range(20))
    assert np.isfinite(found["lhs_warmup/metrics"][:, 1]).all()
    for phase, outcome in (("lhs_warmup", lhs), ("active_learning", active)):
        assert ((found[f"{phase}/metrics"][:, 1] > 0) == (outcome == ProtocolOutcome.SUCCESS)).all()
    assert {str(array.dtype) for array in found.values()} == {"float32", "int64", "uint8"}
    # Infeasible and predicted rows never went to a simulator, and no row went twice.
    simulated = services.simulator.simulated
    assert len(simulated) == len(set(simulated)) == 40 + 20 - len(predicted) - len(infeasible)


def test_rows_do_not_depend_on_timing_or_streams(start, spec, tmp_path, services) -> None:
    calm = run(start, spec, tmp_path / "calm", simulator_streams=1)
    services.simulator.delay_seconds = 0.01
    services.surrogate.think_seconds = 0.03
    assert_same(calm, run(start, spec, tmp_path / "busy", simulator_streams=4))


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_batch_is_proposed_from_exactly_the_batches_before(start, spec, tmp_path, services, lookahead) -> None:
    services.simulator.delay_seconds = 0.005
    spec = spec.model_copy(update={"active": spec.active.model_copy(update={"lookahead": lookahead})})
    run(start, spec, tmp_path / "data")
    q = spec.active.batch_size
    expected = [(batch, q * max(0, batch - lookahead), q * min(batch, lookahead)) for batch in range(20 // q)]
    assert services.surrogate.proposals == expected


def test_stopping_and_starting_again_changes_no_row(start, spec, tmp_path, services) -> None:
    undisturbed = run(start, spec, tmp_path / "one")
    services.simulator.delay_seconds = 0.01
    services.surrogate.think_seconds = 0.01
    directory = tmp_path / "two"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    stops = 0
    while get(orchestrator, name).state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING):
        time.sleep(0.15)
        orchestrator.close()
        services.surrogate.models.clear()  # the surrogate has lost everything as well
        stops += 1
        orchestrator = start(directory)
        if stops > 15:
            services.simulator.delay_seconds = services.surrogate.think_seconds = 0
            finish(orchestrator, name)
    assert stops > 2
    assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
    orchestrator.close()
    assert_same(undisturbed, table(directory / "campaigns" / spec.name / "exploration_data.h5"))


def test_pause_and_resume_change_no_row(start, spec, tmp_path, services) -> None:
    undisturbed = run(start, spec, tmp_path / "one")
    services.simulator.delay_seconds = 0.02
    orchestrator = start(tmp_path / "two")
    name = create(orchestrator, spec).name
    for _ in range(3):
        time.sleep(0.2)
        if get(orchestrator, name).state != pb.CAMPAIGN_STATE_SUCCEEDED:
            paused = orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=name)).campaign
            assert paused.state == pb.CAMPAIGN_STATE_PAUSED
            time.sleep(0.3)  # a row under way may still end in the simulator; it is not taken in any more
            before = len(services.simulator.simulated)
            time.sleep(0.3)
            assert len(services.simulator.simulated) == before
            orchestrator.stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name))
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
    orchestrator.close()
    assert_same(undisturbed, table(tmp_path / "two" / "campaigns" / spec.name / "exploration_data.h5"))


def test_cancel_keeps_what_is_there(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.05
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    time.sleep(0.6)
    cancelled = orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name)).campaign
    assert cancelled.state == pb.CAMPAIGN_STATE_CANCELLED
    rows = [
        wire.decode_rows(response.rows)
        for response in orchestrator.stub.StreamResults(pb.StreamResultsRequest(name=name, phase=1), timeout=10)
    ]
    kept = sum(map(len, rows))
    assert 0 < kept < 100
    with pytest.raises(FailedPrecondition, match="has ended"), rpc.calling("x"):
        orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=name))
    orchestrator.stub.DeleteCampaign(pb.DeleteCampaignRequest(name=name))
    with pytest.raises(NotFound), rpc.calling("x"):
        orchestrator.stub.GetCampaign(pb.GetCampaignRequest(name=name))
    assert not (tmp_path / "data" / "campaigns" / "test").exists()


def test_a_lost_simulator_pauses_the_campaign_and_says_why(start, spec, tmp_path, services) -> None:
    services.simulator_address = "127.0.0.1:1"
    orchestrator = start(tmp_path / "data", patience=0.3)
    name = create(orchestrator, spec).name
    for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=30):
        if event.changed.state == pb.CAMPAIGN_STATE_PAUSED:
            break
    problem = get(orchestrator, name).problem
    assert problem.code == "UNAVAILABLE"
    assert "127.0.0.1:1" in problem.message


def test_watch_can_be_resumed_from_a_number(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    events = list(orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name)))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert events[0].changed.state == pb.CAMPAIGN_STATE_QUEUED
    assert events[-1].changed.state == pb.CAMPAIGN_STATE_SUCCEEDED
    assert events[-1].changed.findings.rows > 60
    assert get(orchestrator, name).progress.simulated == events[-1].changed.findings.simulated
    later = list(orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name, after_sequence=3)))
    assert later == events[3:]


def test_followed_results_are_complete_and_in_order(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.01
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    seen: list[int] = []
    for response in orchestrator.stub.StreamResults(
        pb.StreamResultsRequest(name=name, phase=3, start_row=2, follow=True), timeout=60
    ):
        seen += wire.decode_rows(response.rows)["index"].tolist()
        assert response.next_row == seen[-1] + 1
    assert seen == list(range(2, 20))


def test_download_is_the_file(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    original = (tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5").read_bytes()
    messages = list(orchestrator.stub.DownloadDataset(pb.DownloadDatasetRequest(name=name, offset=100)))
    assert b"".join(m.data for m in messages) == original[100:]
    assert messages[-1].sha256 == hashlib.sha256(original).digest()
    assert {m.total_bytes for m in messages} == {len(original)}
    with pytest.raises(InvalidArgument, match="offset"), rpc.calling("x"):
        list(orchestrator.stub.DownloadDataset(pb.DownloadDatasetRequest(name=name, offset=len(original) + 1)))


def test_create_is_idempotent_by_request_id(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    first = create(orchestrator, spec, request_id="abc")
    assert create(orchestrator, spec, request_id="abc").name == first.name
    assert create(orchestrator, spec).name == "campaigns/test-2"
    other = spec.model_copy(update={"seed": 99})
    with pytest.raises(InvalidArgument, match="request_id"):
        create(orchestrator, other, request_id="abc")


def test_pages_and_filter(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    names = [create(orchestrator, spec).name for _ in range(5)]
    listed, token = [], ""
    while True:
        page = orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest(page_size=2, page_token=token))
        listed += [campaign.name for campaign in page.campaigns]
        token = page.next_page_token
        if not token:
            break
    assert listed == names[::-1]
    for name in names:
        finish(orchestrator, name)
    done = orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest(filter="state=SUCCEEDED"))
    assert len(done.campaigns) == 5


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"seed": 2**63}, "seed"),
        ({"space": {"bounds": {"F": {"low": 1.0, "high": 0.9}}}}, "space.bounds.F"),
        ({"active": {"batch_size": 1000}}, "active.batch_size"),
        ({"physics": {"epsilon": "NaN"}}, "physics.epsilon"),
        ({"name": "../etc"}, "name"),
        ({"base": "../../x"}, "base"),
        ({"lhs": {"skip": True}}, "lhs.skip"),
        ({"base": "nowhere"}, "base"),
    ],
)
def test_a_bad_spec_names_the_field_and_makes_nothing(start, tmp_path, values, field) -> None:
    orchestrator = start(tmp_path / "data")
    message = json_format.ParseDict(values, pb.CampaignSpec())
    with pytest.raises(InvalidArgument, match=field), rpc.calling("x"):
        orchestrator.stub.CreateCampaign(pb.CreateCampaignRequest(spec=message))
    assert not orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest()).campaigns
    assert list((tmp_path / "data" / "campaigns").iterdir()) == []


def test_validate_only_makes_nothing(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    create(orchestrator, spec, validate_only=True)
    assert not orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest()).campaigns


def test_skipped_phases_use_the_base_and_a_missing_one_is_named(start, spec, tmp_path, services) -> None:
    orchestrator = start(tmp_path / "data")
    create(orchestrator, spec)
    finish(orchestrator, "campaigns/test")
    before = len(services.simulator.simulated)
    skipping = validate(
        CampaignSpec,
        {
            **spec.model_dump(),
            "name": "more",
            "base": "test",
            "lhs": {"samples": 40, "skip": True},
            "training": {"skip": True},
        },
    )
    campaign = finish(orchestrator, create(orchestrator, skipping).name)
    assert campaign.state == pb.CAMPAIGN_STATE_SUCCEEDED
    assert all(phase == 3 for phase, _ in services.simulator.simulated[before:])
    orchestrator.close()
    one = table(tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5")
    more = table(tmp_path / "data" / "campaigns" / "more" / "exploration_data.h5")
    assert one["lhs_warmup/metrics"].tobytes() == more["lhs_warmup/metrics"].tobytes()

    services.simulator.delay_seconds = 0.2
    orchestrator = start(tmp_path / "data")
    create(orchestrator, spec.model_copy(update={"name": "unfinished"}))
    with pytest.raises(FailedPrecondition, match=r"lhs\.skip: campaign 'unfinished' has no finished phase 1"):
        create(orchestrator, skipping.model_copy(update={"base": "unfinished"}))
    with pytest.raises(FailedPrecondition, match=r"training\.skip: campaign 'unfinished' has no trained surrogate"):
        only_training = skipping.model_copy(update={"base": "unfinished", "lhs": spec.lhs})
        create(orchestrator, only_training)


def test_a_dead_space_fails_at_once_and_says_so(start, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    dead = validate(CampaignSpec, {"space": {"bounds": {"F": [0.5, 0.6], "nu": [0.9, 1.0]}}})
    campaign = finish(orchestrator, create(orchestrator, dead).name)
    assert campaign.state == pb.CAMPAIGN_STATE_FAILED
    assert campaign.problem.message.startswith("space: 0 of 4096 probed rows are feasible")


def test_methods_of_later_releases_say_so(start, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    with pytest.raises(Unimplemented), rpc.calling("x"):
        orchestrator.stub.UpdateCampaign(pb.UpdateCampaignRequest())
    with pytest.raises(Unimplemented), rpc.calling("x"):
        orchestrator.stub.PredictCampaign(pb.PredictCampaignRequest())


def test_an_unwritable_data_directory_is_one_line(start, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="data_directory"):
        start(tmp_path / "file" / "data")


def test_shutting_down_starts_nothing_that_waits_in_the_queue(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.1
    orchestrator = start(tmp_path / "data", running_campaigns=1)
    names = [create(orchestrator, spec).name for _ in range(3)]
    begun = time.monotonic()
    orchestrator.close()
    assert time.monotonic() - begun < 5
    again = start(tmp_path / "data")
    services.simulator.delay_seconds = 0
    assert {finish(again, name).state for name in names} == {pb.CAMPAIGN_STATE_SUCCEEDED}


@pytest.mark.parametrize("service", ["sampler", "surrogate_address"])
def test_an_absent_service_pauses_the_campaign_and_can_be_cancelled(start, spec, tmp_path, services, service) -> None:
    setattr(services, service, "127.0.0.1:1")
    orchestrator = start(tmp_path / "data", patience=1)
    waiting, other = create(orchestrator, spec).name, create(orchestrator, spec).name
    cancelled = orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=other), timeout=10).campaign
    assert cancelled.state == pb.CAMPAIGN_STATE_CANCELLED
    for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=waiting), timeout=30):
        if event.changed.state == pb.CAMPAIGN_STATE_PAUSED:
            break
    assert get(orchestrator, waiting).problem.code == "UNAVAILABLE"


def test_a_surrogate_that_forgets_is_told_again(start, spec, tmp_path, services) -> None:
    undisturbed = run(start, spec, tmp_path / "one")
    services.surrogate.think_seconds = 0.05
    orchestrator = start(tmp_path / "two")
    name = create(orchestrator, spec).name
    forgotten = 0
    while get(orchestrator, name).state != pb.CAMPAIGN_STATE_SUCCEEDED:
        assert get(orchestrator, name).state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING)
        if get(orchestrator, name).progress.phase == 3 and forgotten < 2:
            services.surrogate.models.clear()
            forgotten += 1
        time.sleep(0.1)
    assert forgotten == 2
    orchestrator.close()
    assert_same(undisturbed, table(tmp_path / "two" / "campaigns" / spec.name / "exploration_data.h5"))


def test_a_data_directory_has_one_orchestrator(start, tmp_path) -> None:
    start(tmp_path / "data")
    with pytest.raises(FailedPrecondition, match="another orchestrator works on"):
        start(tmp_path / "data")


def test_a_campaign_that_has_ended_stays_ended(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    with pytest.raises(FailedPrecondition, match="has ended: SUCCEEDED"), rpc.calling("x"):
        orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name))
    assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED


def test_a_full_disk_pauses_and_resuming_goes_on(start, spec, tmp_path, services, monkeypatch) -> None:
    undisturbed = run(start, spec, tmp_path / "one")
    services.simulator.delay_seconds = 0.01
    orchestrator = start(tmp_path / "two")
    journal = orchestrator.campaigns._journal
    real = journal.append_rows
    monkeypatch.setattr(journal, "append_rows", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    name = create(orchestrator, spec).name
    for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=30):
        if event.changed.state == pb.CAMPAIGN_STATE_PAUSED:
            break
    assert "No space left" in get(orchestrator, name).problem.message
    monkeypatch.setattr(journal, "append_rows", real)
    orchestrator.stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name))
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
    orchestrator.close()
    assert_same(undisturbed, table(tmp_path / "two" / "campaigns" / spec.name / "exploration_data.h5"))


def test_a_base_of_another_space_is_refused(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    finish(orchestrator, create(orchestrator, spec).name)
    other = validate(
        CampaignSpec,
        {"name": "other", "base": "test", "space": {"preset": "qia2025"}, "lhs": {"samples": 40, "skip": True}},
    )
    with pytest.raises(InvalidArgument, match="base: campaign 'test' has another 'space'"):
        create(orchestrator, other)


def test_a_running_campaign_s_file_cannot_be_downloaded(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.1
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    with pytest.raises(FailedPrecondition, match="is not done"), rpc.calling("x"):
        list(orchestrator.stub.DownloadDataset(pb.DownloadDatasetRequest(name=name)))


def test_without_held_out_rows_there_are_no_scores(start, spec, tmp_path, services) -> None:
    services.surrogate.validates = False
    orchestrator = start(tmp_path / "data")
    campaign = finish(orchestrator, create(orchestrator, spec).name)
    assert campaign.state == pb.CAMPAIGN_STATE_SUCCEEDED, campaign.problem
    assert not campaign.findings.HasField("validation")
    orchestrator.close()
    history = table(tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5")["surrogate/history"]
    assert np.isnan(history[:, 1:5]).all()
    assert (history[:, 0] > 40).all()


def test_a_strategy_that_is_left_out_has_no_cliff(start, spec, tmp_path) -> None:
    spec = spec.model_copy(update={"space": spec.space.model_copy(update={"blind_fraction": 1.0})})
    found = run(start, spec, tmp_path / "data")
    assert np.isnan(found["surrogate/cliff_margin"][0]).all()
    assert np.isfinite(found["surrogate/cliff_margin"][1]).all()
