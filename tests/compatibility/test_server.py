"""A server that is upgraded: the campaigns of release 0.1 are read, exported and removed, and none goes on."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
from caligo_orchestrator.store.journal import Journal

from caligo.client import Campaign, CampaignClient, CampaignState, Changed
from caligo.dataset import GROUPS, open_campaign
from caligo.errors import FailedPrecondition, InvalidArgument
from caligo.layout import CAMPAIGNS_DIRECTORY, FILE_NAME, JOURNAL_NAME
from caligo.phases import Phase
from caligo.results import ResultRows, join_rows
from caligo.spec import CampaignSpec, validate
from caligo.v1 import campaign_pb2

STATES = {
    "lupo": CampaignState.SUCCEEDED,
    "erven": CampaignState.SUCCEEDED,
    "kww": CampaignState.CANCELLED,
    "paused-active": CampaignState.PAUSED,
    "paused-lhs": CampaignState.PAUSED,
    "running": CampaignState.PAUSED,
    "queued": CampaignState.PAUSED,
}
UNFINISHED = [id for id, state in STATES.items() if not state.is_final]
REFUSED = r"made under the rules of release 0\.1 \(bound .*cannot go on"


def rows_of(client: CampaignClient, id: str, phase: Phase) -> ResultRows:
    return join_rows(client.results(id, phase))


def spec_as_asked() -> dict:
    """The values that the assets' campaigns were asked for with."""
    return {
        "seed": 12,
        "space": {"bounds": {"N": [3.2e4, 3e5], "F": [0.9, 1.0], "eta": [0.3, 1.0]}},
        "physics": {"bound": "lupo2023"},
        "protocol": {"max_decoded_frames": 8},
        "surrogate": {"training_steps": 20},
        "lhs": {"samples": 16},
        "active": {"samples": 8, "batch_size": 4},
    }


def test_every_campaign_is_listed_as_it_was_left(upgraded) -> None:
    with upgraded.client() as client:
        found = {campaign.id: campaign for campaign in client.list()}
        assert {id: campaign.state for id, campaign in found.items()} == STATES
        for id, campaign in found.items():
            assert client.get(id) == campaign
            assert campaign.spec.rules.startswith("made under the rules of release 0.1")
            assert (campaign.findings is not None) == (campaign.state is CampaignState.SUCCEEDED)
        assert found["queued"].spec.physics.claim == "release-0.1/kww2012"
        assert found["paused-active"].spec.active.samples == 12
        assert [c.id for c in client.list(CampaignState.CANCELLED)] == ["kww"]


def test_what_a_client_of_then_is_told_of_them_is_what_it_was_told_then(upgraded, assets: Path) -> None:
    """`bound` is there for it beside the claim and the device, which it does not know."""
    for id in STATES:
        then = campaign_pb2.GetCampaignResponse.FromString((assets / f"messages/get-{id}.bin").read_bytes()).campaign
        now = upgraded.campaigns.get(f"campaigns/{id}")
        assert now.spec.physics.bound == then.spec.physics.bound
        for field in ("claim", "device"):
            now.spec.physics.ClearField(field)
        for field in ("partition", "reconciliation_failure"):
            now.spec.protocol.ClearField(field)
        now.spec.surrogate.ClearField("prior")
        assert now.spec == then.spec
        assert now.findings == then.findings
        assert (now.priority, now.create_time) == (then.priority, then.create_time)


@pytest.mark.parametrize("id", STATES)
def test_rows_are_those_of_the_file(upgraded, assets: Path, id: str) -> None:
    path = assets / "data" / CAMPAIGNS_DIRECTORY / id / FILE_NAME
    with upgraded.client() as client:
        for phase in GROUPS:
            rows = rows_of(client, id, phase)
            if id == "queued":
                assert not len(rows)
                continue
            with open_campaign(path) as dataset:
                there = dataset.rows(phase)
                assert rows.tobytes() == there[np.argsort(there["index"])].tobytes()


def test_events_of_then_are_watched_to_the_end(upgraded) -> None:
    with upgraded.client() as client:
        events = list(client.watch("lupo"))
        states = [event.campaign.state.name for event in events if isinstance(event, Changed)]
        assert states == ["QUEUED", "RUNNING", "SUCCEEDED"]
        assert all(event.campaign.spec.rules for event in events if isinstance(event, Changed))
        with pytest.raises(StopIteration):
            next(client.watch("kww", after=10**6))


def test_a_download_is_the_file_of_then(upgraded, assets: Path, tmp_path: Path) -> None:
    with upgraded.client() as client:
        for id in ("lupo", "paused-active"):
            path = client.download(id, tmp_path / f"{id}.h5")
            assert path.read_bytes() == (assets / "data" / CAMPAIGNS_DIRECTORY / id / FILE_NAME).read_bytes()


@pytest.mark.parametrize("id", UNFINISHED)
def test_none_goes_on_and_all_say_why(upgraded, id: str) -> None:
    with upgraded.client() as client:
        before = [rows_of(client, id, phase) for phase in GROUPS]
        for attempt in (lambda: client.resume(id), lambda: client.update(id, samples=12, priority=300)):
            with pytest.raises(FailedPrecondition, match=REFUSED) as caught:
                attempt()
            assert "\n" not in str(caught.value)
        campaign = client.get(id)
        assert (campaign.state, campaign.priority) == (CampaignState.PAUSED, 200 if id == "paused-active" else 100)
        assert [rows_of(client, id, phase).tobytes() for phase in GROUPS] == [rows.tobytes() for rows in before]


@pytest.mark.parametrize("id", ["running", "queued"])
def test_one_that_was_under_way_is_paused_with_the_reason(upgraded, id: str) -> None:
    with upgraded.client() as client:
        campaign = client.get(id)
        assert campaign.problem.code == "FAILED_PRECONDITION"
        assert "cannot go on" in campaign.problem.message
        paused = next(
            event.campaign
            for event in client.watch(id)
            if isinstance(event, Changed) and event.campaign.state is CampaignState.PAUSED
        )
        assert paused.problem == campaign.problem


def test_a_restart_leaves_all_as_it_is(serve, data_directory: Path, tmp_path: Path) -> None:
    told = []
    for number in range(2):
        copy = Path(shutil.copytree(data_directory, tmp_path / f"copy{number}"))
        server = serve(copy)
        with server.client() as client:
            told.append([(c.id, c.state, c.problem and c.problem.message) for c in client.list()])
        server.campaigns.close()
        data_directory = copy
        (tmp_path / "orchestrator").unlink(missing_ok=True)
    assert told[0] == told[1]


@pytest.mark.parametrize("id", UNFINISHED)
def test_it_can_be_cancelled_and_deleted(upgraded, tmp_path: Path, id: str) -> None:
    with upgraded.client() as client:
        rows = {phase: rows_of(client, id, phase) for phase in GROUPS}
        assert client.cancel(id).state is CampaignState.CANCELLED
        if id != "queued":
            with open_campaign(client.download(id, tmp_path / "cancelled.h5")) as dataset:
                assert dataset.spec.rules.startswith("made under the rules of release 0.1")
                for phase in GROUPS:
                    assert dataset.rows(phase).tobytes() == rows[phase].tobytes()
        client.delete(id)
        assert id not in [campaign.id for campaign in client.list()]
        assert not (upgraded.directory / CAMPAIGNS_DIRECTORY / id).exists()


def test_a_new_campaign_does_not_build_on_one(upgraded) -> None:
    values = {**spec_as_asked(), "name": "next", "base": "lupo"}
    values["lhs"] = {"samples": 16, "skip": True}
    with upgraded.client() as client:
        with pytest.raises(InvalidArgument, match=r"^base: campaign 'lupo' was made under the rules of release 0\.1"):
            client.create(validate(CampaignSpec, values))
        assert len(list(client.list())) == len(STATES)


def test_a_new_campaign_is_made_beside_them(upgraded) -> None:
    with upgraded.client() as client:
        campaign = client.create(CampaignSpec(name="lupo"))
        assert (campaign.id, campaign.spec.rules) == ("lupo-2", None)
        assert client.cancel("lupo-2").state is CampaignState.CANCELLED


def test_a_request_that_is_repeated_across_the_upgrade_is_known(upgraded) -> None:
    """The same YAML, read by a client of today; the campaign is the one that was made, under the rules of then."""
    with upgraded.client() as client:
        asked = validate(CampaignSpec, {**spec_as_asked(), "name": "lupo"})
        assert client.create(asked, request_id="lupo-1") == client.get("lupo")
        values = {**spec_as_asked(), "name": "paused-active"}
        values |= {"active": {"samples": 16, "batch_size": 2, "lookahead": 0}, "surrogate": {"training_steps": 200}}
        again = client.create(validate(CampaignSpec, values), request_id="paused-active-1")
        assert (again.id, again.spec.active.samples) == ("paused-active", 12)
        with pytest.raises(InvalidArgument, match=r"^request_id: .*another spec"):
            client.create(CampaignSpec(name="lupo"), request_id="lupo-1")


def test_the_journal_is_read_in_place_and_closed_to_the_release_that_wrote_it(data_directory: Path) -> None:
    journal = Journal(data_directory / JOURNAL_NAME)
    assert len(journal.campaigns()) == len(STATES)
    assert len(journal.rows("erven", Phase.LHS)) == 135
    assert [len(block) for block in journal.row_blocks("erven", Phase.LHS, block=50)] == [50, 50, 35]
    assert journal.proposals("lupo")
    assert np.isfinite(journal.forecasts("lupo", 8)).all()
    assert journal._db.execute("PRAGMA user_version").fetchone() == (4,)
    journal.close()


def test_a_campaign_of_a_later_release_breaks_no_list(upgraded) -> None:
    """As after going back: what is not known is shown as far as it is."""
    journal = upgraded.campaigns._journal
    later = '{"name": "later", "physics": {"claim": "composable2031"}, "space": {"preset": "satellite"}, "new": 1}'
    journal.create_campaign("later", "later-1", later, 100)
    journal.set_state("later", campaign_pb2.CAMPAIGN_STATE_PAUSED)
    with upgraded.client() as client:
        found = {campaign.id: campaign for campaign in client.list()}
        assert len(found) == len(STATES) + 1
        assert found["later"].spec.space.preset == "satellite"
        with pytest.raises(FailedPrecondition, match="made under the claim 'composable2031'"):
            client.resume("later")
        known = '{"name": "other", "surrogate": {"acquisition": "oracle"}}'
        journal.create_campaign("other", None, known, 100)
        journal.set_state("other", campaign_pb2.CAMPAIGN_STATE_PAUSED)
        with pytest.raises(FailedPrecondition, match=r"of another release and cannot go on: surrogate\.acquisition"):
            client.resume("other")


def test_a_state_that_is_not_known_breaks_no_list(upgraded) -> None:
    message = upgraded.campaigns.get("campaigns/lupo")
    message.state = 42  # type: ignore[assignment]
    campaign = Campaign.from_message(message)
    assert (campaign.state, campaign.state.name, campaign.state.is_final) == (42, "CODE_42", False)
    assert CampaignState(4) is CampaignState.SUCCEEDED


def test_the_assets_files_are_in_the_format_of_then(assets: Path) -> None:
    with h5py.File(assets / "data" / CAMPAIGNS_DIRECTORY / "lupo" / FILE_NAME) as file:
        assert file.attrs["format"] == "caligo-campaign/1"
