"""Whole campaigns through the public API: the same rows whatever happens on the way."""

from __future__ import annotations

import errno
import hashlib
import os
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from google.protobuf import field_mask_pb2, json_format

from caligo import rpc, statement, wire
from caligo.dataset import open_campaign
from caligo.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from caligo.results import ProtocolOutcome
from caligo.space import SYMBOLS
from caligo.spec import CampaignSpec, SpaceSpec, to_proto, validate
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
    assert found["surrogate/cliff_axes"].tolist() == [7, 6], "the most relevant parameters first"
    np.testing.assert_array_equal(found["surrogate/relevance"][:, 2], np.float32(0.1) * np.arange(9, dtype=np.float32))
    np.testing.assert_array_equal(found["surrogate/discrepancy"], np.float32([0.001, 0.95, 0.5, 0.05]))
    assert found["surrogate/discrepancy_rows"].tolist() == [40]
    assert found["surrogate/discrepancy_point"][3] == np.float32(0.9)
    assert found["surrogate/discrepancy_along"].shape == (9, 17, 3)
    # Infeasible and predicted rows never went to a simulator, and no row went twice.
    simulated, foretold = services.simulator.simulated, (lhs == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE).sum()
    assert len(simulated) == len(set(simulated)) == 40 - foretold + 20 - len(predicted) - len(infeasible)


def test_rows_do_not_depend_on_timing(start, spec, tmp_path, services) -> None:
    calm = run(start, spec, tmp_path / "calm")
    services.simulator.delay_seconds = 0.01
    services.surrogate.think_seconds = 0.03
    assert_same(calm, run(start, spec, tmp_path / "busy"))


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_a_batch_is_proposed_from_exactly_the_batches_before(start, spec, tmp_path, services, lookahead) -> None:
    services.simulator.delay_seconds = 0.005
    spec = spec.model_copy(update={"active": spec.active.model_copy(update={"lookahead": lookahead})})
    run(start, spec, tmp_path / "data")
    q = spec.active.batch_size
    learned = [max(0, batch - lookahead) for batch in range(20 // q)]
    assert services.surrogate.proposals == [
        (batch, q * n, q * max(0, n - 1), q * min(batch, lookahead)) for batch, n in enumerate(learned)
    ]


def test_a_proposal_does_not_wait_for_a_fit(start, spec, tmp_path, services) -> None:
    services.surrogate.think_seconds = 0.2
    run(start, spec, tmp_path / "data")
    # Every fit outlasts the simulations by far: from the third on each proposal is made while one is under way.
    assert services.surrogate.proposed_while_fitting == len(services.surrogate.proposals) - 2


@pytest.mark.parametrize(("every", "in_force"), [(2, [0, 0, 0, 2, 2, 4, 4]), (3, [0, 0, 0, 0, 3, 3, 3])])
def test_fits_are_as_far_apart_as_the_spec_says(start, spec, tmp_path, services, every, in_force) -> None:
    active = spec.active.model_copy(update={"lookahead": 0, "samples": 14, "batch_size": 2})
    spec = spec.model_copy(
        update={"active": active, "surrogate": spec.surrogate.model_copy(update={"refit_every": every})}
    )
    found = run(start, spec, tmp_path / "data")
    assert [fitted // 2 for _, _, fitted, _ in services.surrogate.proposals] == in_force
    fits = np.flatnonzero(np.isfinite(found["surrogate/history"][:, 0]))
    assert fits.tolist() == [0, *(batch for batch in range(1, 8) if batch % every == 0 or batch == 7)]


@pytest.mark.parametrize("every", [1, 2])
def test_a_stop_while_a_fit_is_under_way_changes_no_row(start, spec, tmp_path, services, every) -> None:
    spec = spec.model_copy(update={"surrogate": spec.surrogate.model_copy(update={"refit_every": every})})
    undisturbed = run(start, spec, tmp_path / "one")
    services.surrogate.think_seconds = 0.3
    directory = tmp_path / "two"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    stops = 0
    while stops < 4:
        while not (services.surrogate.fitting and get(orchestrator, name).progress.phase == 3):
            time.sleep(0.005)
        orchestrator.close()
        services.surrogate.models.clear()
        stops += 1
        services.surrogate.think_seconds *= 0.8  # so that it gets on
        orchestrator = start(directory)
    services.surrogate.think_seconds = 0
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
    orchestrator.close()
    assert_same(undisturbed, table(directory / "campaigns" / spec.name / "exploration_data.h5"))


def test_stopping_and_starting_again_changes_no_row(start, spec, tmp_path, services, undisturbed) -> None:
    services.simulator.delay_seconds = 0.01
    services.surrogate.think_seconds = 0.01
    directory = tmp_path / "two"
    orchestrator = start(directory)
    name = create(orchestrator, spec).name
    stops = 0
    while get(orchestrator, name).state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING):
        time.sleep(0.3)
        orchestrator.close()
        services.surrogate.models.clear()  # the surrogate has lost everything as well
        stops += 1
        orchestrator = start(directory)
        if stops > 8:
            services.simulator.delay_seconds = services.surrogate.think_seconds = 0
            finish(orchestrator, name)
    assert stops > 2
    assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
    orchestrator.close()
    assert_same(undisturbed, table(directory / "campaigns" / spec.name / "exploration_data.h5"))


def test_a_campaign_keeps_to_the_version_of_its_source(start, spec, tmp_path, services) -> None:
    """Begun with version 1, it waits where there is version 2 alone, says so, and goes on where 1 is back."""
    spec = validate(CampaignSpec, {**spec.model_dump(mode="json"), "protocol": {"epr_source": "mine"}})
    orchestrator = start(tmp_path / "one", patience=0.5)
    with pytest.raises(InvalidArgument, match=r"no simulator has mine; they have statistical"):
        create(orchestrator, spec)
    services.simulator.sources["mine"] = "1.0"
    services.simulator.delay_seconds = 0.05
    name = create(orchestrator, spec).name
    while len(services.simulator.simulated) < 4:  # the test's own timeout ends it
        time.sleep(0.01)
    orchestrator.close()
    services.simulator.sources["mine"] = "2.0"
    orchestrator = start(tmp_path / "one", patience=0.5)
    while get(orchestrator, name).state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING):
        time.sleep(0.05)
    paused = get(orchestrator, name)
    assert paused.state == pb.CAMPAIGN_STATE_PAUSED
    assert "no simulator has the EPR source mine==1.0; they have mine==2.0, statistical==0.2.0" in str(paused)
    orchestrator.close()  # its stream to the simulator with version 2
    services.simulator.sources["mine"] = "1.0"
    services.simulator.delay_seconds = 0.0
    orchestrator = start(tmp_path / "one")
    orchestrator.stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name))
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED


def test_pause_and_resume_change_no_row(start, spec, tmp_path, services, undisturbed) -> None:
    services.simulator.delay_seconds = 0.02
    orchestrator = start(tmp_path / "two")
    name = create(orchestrator, spec).name
    for _ in range(3):
        time.sleep(0.2)
        if get(orchestrator, name).state != pb.CAMPAIGN_STATE_SUCCEEDED:
            paused = orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=name)).campaign
            assert paused.state == pb.CAMPAIGN_STATE_PAUSED
            before = -1
            while before < len(services.simulator.simulated):  # a row under way may still end; it is not taken in
                before = len(services.simulator.simulated)
                time.sleep(0.3)
            assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_PAUSED
            assert before < 60  # of 40 + 20 feasible ones
            orchestrator.stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name))
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
    orchestrator.close()
    assert_same(undisturbed, table(tmp_path / "two" / "campaigns" / spec.name / "exploration_data.h5"))


def test_cancel_keeps_what_is_there(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.05
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    while get(orchestrator, name).progress.simulated < 5:
        time.sleep(0.01)
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


def test_followed_rows_of_a_phase_end_with_the_phase(start, spec, tmp_path, services) -> None:
    services.surrogate.think_seconds = 0.3
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    request = pb.StreamResultsRequest(name=name, phase=1, follow=True)
    rows = [wire.decode_rows(response.rows) for response in orchestrator.stub.StreamResults(request, timeout=30)]
    assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_RUNNING
    outcome = np.concatenate(rows)["outcome"]
    assert (outcome != ProtocolOutcome.SKIPPED_INFEASIBLE).sum() == spec.lhs.samples


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


def test_an_unwritable_data_directory_is_one_line(start, tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InvalidArgument, match="data_directory"):
        start(tmp_path / "file" / "data")


def test_shutting_down_starts_nothing_that_waits_in_the_queue(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.1
    orchestrator = start(tmp_path / "data", running_campaigns=1)
    names = [create(orchestrator, spec).name for _ in range(3)]
    orchestrator.close()
    assert len(services.simulator.simulated) < 40  # nor does the first one come to its end
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


def test_a_surrogate_that_forgets_is_told_again(start, spec, tmp_path, services, undisturbed) -> None:
    services.surrogate.think_seconds = 0.3
    orchestrator = start(tmp_path / "two")
    name = create(orchestrator, spec).name
    forgotten = 0
    while (campaign := get(orchestrator, name)).state != pb.CAMPAIGN_STATE_SUCCEEDED:
        assert campaign.state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING)
        if campaign.progress.phase == 3 and forgotten < 2:
            services.surrogate.models.clear()
            forgotten += 1
        time.sleep(0.1)
    assert forgotten
    orchestrator.close()
    assert_same(undisturbed, table(tmp_path / "two" / "campaigns" / spec.name / "exploration_data.h5"))


def test_a_data_directory_has_one_orchestrator(start, tmp_path) -> None:
    start(tmp_path / "data")
    with pytest.raises(FailedPrecondition, match="another orchestrator works on"):
        start(tmp_path / "data")


@pytest.mark.parametrize("reason", [errno.ENOLCK, errno.EACCES, errno.EIO])
def test_a_file_system_without_locks_is_not_another_orchestrator(start, tmp_path, monkeypatch, reason) -> None:
    def refuse(*_: object) -> None:
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr("caligo.layout.fcntl.flock", refuse)
    with pytest.raises(InvalidArgument, match=f"data_directory: .*: {os.strerror(reason)}"):
        start(tmp_path / "data")


def test_a_campaign_that_has_ended_stays_ended(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    with pytest.raises(FailedPrecondition, match="has ended: SUCCEEDED"), rpc.calling("x"):
        orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name))
    assert get(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED


def test_a_full_disk_pauses_and_resuming_goes_on(start, spec, tmp_path, services, undisturbed, monkeypatch) -> None:
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


# --- what the user learns of the surrogate --------------------------------------------------------------------------


def predict(orchestrator, name: str, rows: int = 3) -> np.ndarray:
    """The stand-in's answer: rows held, active rows in the fit in force, 0.5."""
    inputs = SpaceSpec().resolve().from_unit(np.zeros((rows, 9)))
    request = pb.PredictCampaignRequest(name=name, inputs=wire.encode(inputs, wire.INPUTS))
    with rpc.calling(orchestrator.address):
        return wire.decode(orchestrator.stub.PredictCampaign(request).prediction, wire.PREDICTION, rows, 3)


def test_an_ended_campaign_predicts_from_all_its_rows_and_its_last_fit(start, spec, tmp_path, services) -> None:
    orchestrator = start(tmp_path / "data")
    campaign = finish(orchestrator, create(orchestrator, spec).name)
    assert not services.surrogate.models  # the campaign has given back what it held
    held = campaign.findings.rows
    assert predict(orchestrator, campaign.name).tolist() == [[held, 20, 0.5]] * 3
    assert len(services.surrogate.models) == 1
    assert predict(orchestrator, campaign.name).tolist() == [[held, 20, 0.5]] * 3
    assert len(services.surrogate.models) == 1  # made once
    services.surrogate.models.clear()
    orchestrator.close()
    assert predict(start(tmp_path / "data"), campaign.name).tolist() == [[held, 20, 0.5]] * 3


def test_rows_outside_the_space_are_marked(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    campaign = finish(orchestrator, create(orchestrator, spec).name)
    inputs = np.repeat(SpaceSpec().resolve().from_unit(np.full((1, 9), 0.25)), 3, axis=0)
    inputs[1, SYMBOLS.index("F")] = 0.7
    request = pb.PredictCampaignRequest(name=campaign.name, inputs=wire.encode(inputs, wire.INPUTS))
    answer = orchestrator.stub.PredictCampaign(request)
    assert wire.decode(answer.outside, wire.CODE, 3).tolist() == [0, 1, 0]


def test_a_strategy_that_no_row_has_is_not_predicted(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    blind = spec.model_copy(update={"space": SpaceSpec(blind_fraction=1)})
    name = create(orchestrator, blind).name
    with pytest.raises(InvalidArgument, match="strategy: must be blind"):
        predict(orchestrator, name)


def test_a_running_and_a_paused_campaign_predict(start, spec, tmp_path, services) -> None:
    orchestrator = start(tmp_path / "data")
    services.simulator.delay_seconds = 0.05
    name = create(orchestrator, spec).name
    with pytest.raises(FailedPrecondition, match="has not been fitted yet"):
        predict(orchestrator, name)
    with pytest.raises(NotFound):
        predict(orchestrator, "campaigns/nowhere")
    while len(services.surrogate.proposals) < 4:
        time.sleep(0.01)
    made = len(services.surrogate.models)
    assert predict(orchestrator, name)[0, 1] in (0, 4, 8)
    assert len(services.surrogate.models) == made  # the one that the campaign works with
    orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=name))
    services.surrogate.models.clear()
    batch, _, fitted_to, _ = services.surrogate.proposals[-1]
    rows = sum(
        len(wire.decode_rows(response.rows))
        for phase in (1, 3)
        for response in orchestrator.stub.StreamResults(pb.StreamResultsRequest(name=name, phase=phase))
    )
    assert batch > 2
    assert predict(orchestrator, name)[0].tolist() == [rows, fitted_to, 0.5]
    services.simulator.delay_seconds = 0
    orchestrator.stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name))
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED


def test_forecasts_are_compared_with_what_came(start, spec, tmp_path) -> None:
    """The stand-in foretells margins half a unit too high with a standard deviation of one half."""
    orchestrator = start(tmp_path / "data")
    campaign = finish(orchestrator, create(orchestrator, spec).name)
    orchestrator.close()
    path = tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5"
    found = table(path)
    simulated = found["active_learning/outcome"] < ProtocolOutcome.SKIPPED_INFEASIBLE
    assert 0 < simulated.sum() < 20
    forecast, margin = found["surrogate/forecast"], found["active_learning/metrics"][:, 1]
    assert np.isfinite(forecast).all()
    z = ((margin - forecast[:, 0]) / forecast[:, 1])[simulated]
    calibration = campaign.findings.calibration
    assert calibration.rows == simulated.sum()
    assert calibration.mean_z == pytest.approx(z.mean(), abs=1e-5)
    assert calibration.mean_z == pytest.approx(-1, abs=0.1)
    for share, width in (
        (calibration.coverage50, 0.6745),
        (calibration.coverage90, 1.6449),
        (calibration.coverage95, 1.96),
    ):
        assert share == pytest.approx((np.abs(z) <= width).mean(), abs=1e-6)
    with open_campaign(path) as dataset:
        kept = dataset.surrogate
    with h5py.File(path) as file:
        said = dict(file.attrs)
    assert said.items() >= statement.attributes(spec).items()
    assert (said["claim"], said["claim_status"], said["partition"]) == ("individual", "own derivation", "alice")
    assert kept.calibration is not None
    assert (kept.calibration.rows, kept.calibration.mean_z) == (calibration.rows, pytest.approx(calibration.mean_z))


def test_audits_are_simulated_and_the_surrogate_is_told(start, spec, tmp_path, services) -> None:
    # The stand-in proposes at random, and much of the space has no hope: enough rows that some of each kind have.
    spec = spec.model_copy(update={"active": spec.active.model_copy(update={"samples": 80})})
    services.surrogate.skip_every, services.surrogate.audit_every = 2, 4
    services.simulator.delay_seconds = 0.01
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    told: set[int] = set()
    while len(services.surrogate.proposals) < 5:
        time.sleep(0.01)
    orchestrator.close()  # what is told again after a stop is told the same
    services.surrogate.models.clear()
    orchestrator = start(tmp_path / "data")
    while not (campaign := get(orchestrator, name)).HasField("findings"):
        for model in list(services.surrogate.models.values()):
            told |= model.audited
        time.sleep(0.005)
    orchestrator.close()
    found = table(tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5")
    outcome = found["active_learning/outcome"]
    feasible = np.flatnonzero(outcome != ProtocolOutcome.SKIPPED_INFEASIBLE)  # the closed form is asked first
    expected = {i for i in feasible.tolist() if i % 4 == 0}
    assert expected and told == expected
    assert (outcome[sorted(expected)] < ProtocolOutcome.SKIPPED_INFEASIBLE).all()
    skipped = {i for i in feasible.tolist() if i % 4 == 2}
    assert skipped and (outcome[sorted(skipped)] == ProtocolOutcome.SKIPPED_PREDICTED_FAILURE).all()
    assert campaign.findings.guardrail.audits == len(expected)
    assert campaign.findings.guardrail.false_skip_bound == 0.25
    with open_campaign(tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5") as dataset:
        guardrail = dataset.surrogate.guardrail
    assert guardrail is not None
    assert (guardrail.audits, guardrail.false_skip_bound) == (len(expected), 0.25)


# --- budget and priority ----------------------------------------------------------------------------------------------


def with_budget(spec: CampaignSpec, samples: int, **active) -> CampaignSpec:
    return spec.model_copy(update={"active": spec.active.model_copy(update={"samples": samples, **active})})


def update(orchestrator, name: str, *, mask: list[str] | None = None, samples: int = 0, priority: int = 0):
    """`mask` defaults to what is given."""
    campaign = pb.Campaign(name=name, priority=priority)
    if samples:
        campaign.spec.active.samples = samples
    given = [path for path, value in (("spec.active.samples", samples), ("priority", priority)) if value]
    request = pb.UpdateCampaignRequest(
        campaign=campaign, update_mask=field_mask_pb2.FieldMask(paths=given if mask is None else mask)
    )
    with rpc.calling(orchestrator.address):
        return orchestrator.stub.UpdateCampaign(request).campaign


def read_spec(path: Path) -> CampaignSpec:
    with open_campaign(path) as dataset:
        return dataset.spec


@pytest.mark.parametrize(
    ("first", "then", "proposals", "every"),
    [
        (8, 20, 1, 1),  # early on
        (14, 22, 4, 1),  # the last batch of the first budget is the head of a full one, and has been proposed
        (14, 21, 4, 3),  # the fit at the end of the first budget is none of the second
        (20, 18, 3, 1),  # less than was wanted, more than was handed out
        (20, 12, 2, 2),
    ],
)
def test_a_changed_budget_ends_in_the_file_of_a_campaign_made_with_it(
    start, spec, tmp_path, services, first, then, proposals, every
) -> None:
    spec = spec.model_copy(update={"surrogate": spec.surrogate.model_copy(update={"refit_every": every})})
    expected = run(start, with_budget(spec, then), tmp_path / "whole")
    services.surrogate.proposals.clear()
    services.surrogate.think_seconds = 0.05
    orchestrator = start(tmp_path / "grown")
    name = create(orchestrator, with_budget(spec, first), request_id="once").name
    while len(services.surrogate.proposals) < proposals:
        time.sleep(0.002)
    updated = update(orchestrator, name, samples=then)
    assert updated.spec.active.samples == then
    assert updated.state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING)
    services.surrogate.think_seconds = 0
    assert create(orchestrator, with_budget(spec, first), request_id="once").name == name  # still the same request
    campaign = finish(orchestrator, name)
    assert campaign.state == pb.CAMPAIGN_STATE_SUCCEEDED, campaign.problem
    orchestrator.close()
    path = tmp_path / "grown" / "campaigns" / spec.name / "exploration_data.h5"
    assert_same(expected, table(path))
    assert read_spec(path) == with_budget(spec, then)


def test_a_budget_is_changed_again_and_again_and_while_paused(start, spec, tmp_path, services) -> None:
    expected = run(start, with_budget(spec, 25), tmp_path / "whole")
    orchestrator = start(tmp_path / "grown")
    services.simulator.delay_seconds = 0.01
    name = create(orchestrator, with_budget(spec, 4)).name
    for samples in (9, 30, 13):
        update(orchestrator, name, samples=samples)
    orchestrator.stub.PauseCampaign(pb.PauseCampaignRequest(name=name))
    assert update(orchestrator, name, samples=25, priority=7).state == pb.CAMPAIGN_STATE_PAUSED
    orchestrator.stub.ResumeCampaign(pb.ResumeCampaignRequest(name=name))
    services.simulator.delay_seconds = 0
    campaign = finish(orchestrator, name)
    assert (campaign.state, campaign.priority) == (pb.CAMPAIGN_STATE_SUCCEEDED, 7)
    changes = [
        event.changed.spec.active.samples
        for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name))
        if event.HasField("changed")
    ]
    assert sorted(set(changes), key=changes.index) == [4, 9, 30, 13, 25]
    orchestrator.close()
    assert_same(expected, table(tmp_path / "grown" / "campaigns" / spec.name / "exploration_data.h5"))


def test_a_change_that_is_not_allowed_names_the_field_and_disturbs_nothing(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.02
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    while orchestrator.campaigns._journal.proposed_batches("test") < 3:
        time.sleep(0.01)
    with pytest.raises(FailedPrecondition, match=r"active\.samples: (12|16|20) rows have been handed out"):
        update(orchestrator, name, samples=11)
    for fields, field in (
        ({"samples": 2_000_000}, "active.samples"),
        ({"mask": ["spec.active.samples"]}, "active.samples"),
        ({"priority": 1001}, "campaign.priority"),
        ({"mask": ["priority"]}, "campaign.priority"),
        ({"mask": ["spec.seed"]}, "update_mask"),
        ({"mask": []}, "update_mask"),
    ):
        with pytest.raises(InvalidArgument, match=field):
            update(orchestrator, name, **fields)
    with pytest.raises(NotFound):
        update(orchestrator, "campaigns/nowhere", priority=3)
    services.simulator.delay_seconds = 0
    campaign = finish(orchestrator, name)
    assert (campaign.spec.active.samples, campaign.priority) == (20, 100)
    for change in ({"priority": 3}, {"samples": 19}):
        with pytest.raises(FailedPrecondition, match="has ended: SUCCEEDED"):
            update(orchestrator, name, **change)
    without = create(orchestrator, with_budget(spec, 20, skip=True)).name
    with pytest.raises(FailedPrecondition, match=r"leaves phase 3 out|has ended"):
        update(orchestrator, without, samples=40)


@pytest.mark.parametrize(("first", "then", "every"), [(8, 20, 1), (14, 22, 1), (14, 21, 3), (5, 40, 2)])
def test_a_campaign_that_has_ended_goes_on_with_a_larger_budget(start, spec, tmp_path, first, then, every) -> None:
    """To the file of one that was made with it."""
    spec = spec.model_copy(update={"surrogate": spec.surrogate.model_copy(update={"refit_every": every})})
    expected = run(start, with_budget(spec, then), tmp_path / "whole")
    orchestrator = start(tmp_path / "grown")
    name = create(orchestrator, with_budget(spec, first), request_id="once").name
    assert finish(orchestrator, name).findings.rows < len(expected["lhs_warmup/outcome"]) + then
    updated = update(orchestrator, name, samples=then)
    assert updated.spec.active.samples == then
    assert not updated.HasField("findings")  # they are of fewer rows
    campaign = finish(orchestrator, name)
    assert campaign.state == pb.CAMPAIGN_STATE_SUCCEEDED, campaign.problem
    assert campaign.findings.rows == len(expected["lhs_warmup/outcome"]) + then
    assert create(orchestrator, with_budget(spec, first), request_id="once").name == name  # still the same request
    orchestrator.close()
    path = tmp_path / "grown" / "campaigns" / spec.name / "exploration_data.h5"
    assert_same(expected, table(path))
    assert read_spec(path) == with_budget(spec, then)


def test_a_cancelled_campaign_goes_on_with_a_larger_budget_and_a_failed_one_does_not(
    start, spec, tmp_path, services
) -> None:
    expected = run(start, with_budget(spec, 24), tmp_path / "whole")
    services.surrogate.proposals.clear()
    services.simulator.delay_seconds = 0.05
    orchestrator = start(tmp_path / "grown")
    name = create(orchestrator, spec).name
    while len(services.surrogate.proposals) < 3:
        time.sleep(0.002)
    cancelled = orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name)).campaign
    assert cancelled.state == pb.CAMPAIGN_STATE_CANCELLED
    services.simulator.delay_seconds = 0
    update(orchestrator, name, samples=24)
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
    dead = validate(CampaignSpec, {"space": {"bounds": {"F": [0.5, 0.6], "nu": [0.9, 1.0]}}})
    failed = finish(orchestrator, create(orchestrator, dead).name).name
    with pytest.raises(FailedPrecondition, match="has ended: FAILED"):
        update(orchestrator, failed, samples=2000)
    orchestrator.close()
    assert_same(expected, table(tmp_path / "grown" / "campaigns" / spec.name / "exploration_data.h5"))


def test_the_queue_goes_by_priority_and_then_by_age(start, spec, tmp_path, services) -> None:
    services.simulator.delay_seconds = 0.02
    orchestrator = start(tmp_path / "data", running_campaigns=1)
    running, old, young, urgent, raised = (
        create(orchestrator, spec, priority=priority).name for priority in (1, 100, 100, 500, 1)
    )
    assert update(orchestrator, raised, priority=1000).priority == 1000
    services.simulator.delay_seconds = 0
    for name in (running, old, young, urgent, raised):
        finish(orchestrator, name)
    begun = {
        name: next(
            event.time.ToNanoseconds()
            for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name))
            if event.changed.state == pb.CAMPAIGN_STATE_RUNNING
        )
        for name in (running, old, young, urgent, raised)
    }
    assert sorted(begun, key=begun.__getitem__) == [running, raised, urgent, old, young]


# --- lists, events, files ---------------------------------------------------------------------------------------------


def listed(orchestrator, **fields) -> list[str]:
    with rpc.calling(orchestrator.address):
        answer = orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest(**fields))
    return [campaign.name.removeprefix("campaigns/") for campaign in answer.campaigns]


def test_lists_are_filtered(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    for name in ("cliff", "cliff-deep", "other"):
        finish(orchestrator, create(orchestrator, spec.model_copy(update={"name": name})).name)
    assert listed(orchestrator) == ["other", "cliff-deep", "cliff"]
    assert listed(orchestrator, filter="name:cliff") == ["cliff-deep", "cliff"]
    assert listed(orchestrator, filter="state=SUCCEEDED AND name:cliff-") == ["cliff-deep"]
    assert listed(orchestrator, filter="state=PAUSED") == []
    assert listed(orchestrator, filter="owner=nobody") == []
    for wrong in ("state=DONE", "state", "name=cliff", "name:%", "state=PAUSED state=RUNNING", "owner= AND name:c"):
        with pytest.raises(InvalidArgument, match=r"filter: state=S with S one of QUEUED"):
            listed(orchestrator, filter=wrong)
    for wrong in ("2", "nan.cliff", "1.0.", "1.5.x'; DROP TABLE campaigns"):
        with pytest.raises(InvalidArgument, match="page_token"):
            listed(orchestrator, page_token=wrong)


def test_pages_stay_where_they_are_while_campaigns_come_and_go(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    names = [create(orchestrator, spec).name for _ in range(4)]
    page = orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest(page_size=2))
    create(orchestrator, spec)
    orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=names[2]))
    orchestrator.stub.DeleteCampaign(pb.DeleteCampaignRequest(name=names[2]))  # the last one of the first page
    rest = orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest(page_size=2, page_token=page.next_page_token))
    assert [campaign.name for campaign in rest.campaigns] == [names[1], names[0]]
    assert not rest.next_page_token


def test_the_last_events_are_kept(start, spec, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("caligo_orchestrator.store.journal.KEPT_EVENTS", 4)
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    events = list(orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name)))
    last = events[-1].sequence
    assert [event.sequence for event in events] == list(range(last - 3, last + 1))
    assert events[-1].changed.state == pb.CAMPAIGN_STATE_SUCCEEDED


def test_a_slow_watcher_is_dropped_and_told_where_to_go_on(start, spec, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("caligo_orchestrator.api.streams.SLOW_SECONDS", 0.3)
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    for _ in range(200):  # more than a connection holds for one who does not read
        orchestrator.campaigns._journal.append_event("test", pb.WatchCampaignResponse(note="x" * 100_000))
    call = orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name))
    seen = [next(call).sequence]
    time.sleep(1)
    with pytest.raises(ResourceExhausted, match=r"after_sequence=\d+") as caught, rpc.calling("x"):
        for event in call:
            seen.append(event.sequence)  # noqa: PERF401 - what came before the end counts
    go_on = int(str(caught.value).rpartition("=")[2])
    assert go_on == seen[-1]
    later = orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name, after_sequence=go_on))
    assert next(later).sequence == go_on + 1


def test_watchers_ask_the_journal_only_when_there_is_news(start, spec, tmp_path, services, monkeypatch) -> None:
    monkeypatch.setattr("caligo_orchestrator.api.watching.PROGRESS_SECONDS", 0.05)
    services.simulator.delay_seconds = 0.2
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    asked: list[str] = []
    journal = orchestrator.campaigns._journal
    read = journal.events
    monkeypatch.setattr(journal, "events", lambda id, after: asked.append(id) or read(id, after))
    calls = [orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name)) for _ in range(20)]
    progress = [next(event for event in call if event.HasField("progress")) for call in calls]
    assert all(event.progress.total > 0 for event in progress)
    for _ in range(3):
        more = [next(event for event in call if event.HasField("progress")) for call in calls]
        assert all(new.progress != old.progress for new, old in zip(more, progress, strict=True))
        progress = more
    kept = journal.last_sequence(name.removeprefix("campaigns/"))
    assert len(asked) <= len(calls) * kept
    orchestrator.stub.CancelCampaign(pb.CancelCampaignRequest(name=name))
    for call in calls:
        assert [event for event in call if event.HasField("changed")][-1].changed.state == pb.CAMPAIGN_STATE_CANCELLED
    assert orchestrator.campaigns._watchers.watched() == []


def test_any_range_of_a_file_can_be_had_and_its_checksum_is_made_once(start, spec, tmp_path, monkeypatch) -> None:
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    original = (tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5").read_bytes()
    made: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        "caligo_orchestrator.api.downloads.hashlib.file_digest", lambda f, kind: made.append(kind) or digest(f, kind)
    )
    total = len(original)
    for offset, length in ((0, 1), (10, 1000), (total - 1, 1), (total, 0), (5, total - 5), (100, 0)):
        request = pb.DownloadDatasetRequest(name=name, offset=offset, length=length)
        messages = list(orchestrator.stub.DownloadDataset(request))
        assert b"".join(m.data for m in messages) == original[offset : offset + length if length else total]
        assert messages[-1].sha256 == hashlib.sha256(original).digest()
    assert made == ["sha256"]
    for offset, length, field in ((0, total + 1, "length"), (total, 1, "length"), (-1, 0, "offset"), (0, -1, "length")):
        with pytest.raises(InvalidArgument, match=field), rpc.calling("x"):
            list(orchestrator.stub.DownloadDataset(pb.DownloadDatasetRequest(name=name, offset=offset, length=length)))


def test_a_file_that_changes_while_it_is_sent_is_not_passed_off_as_whole(start, spec, tmp_path) -> None:
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec).name
    finish(orchestrator, name)
    path = tmp_path / "data" / "campaigns" / "test" / "exploration_data.h5"
    messages = orchestrator.campaigns.file(name, 0, 0)
    next(messages)
    with path.open("r+b") as file:
        file.write(b"changed")
    with pytest.raises(FailedPrecondition, match="changed while it was read"):
        list(messages)
