"""What is asked of a campaign comes about without waiting for anything else: another campaign, a surrogate, a disk."""

from __future__ import annotations

import contextlib
import shutil
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from caligo_orchestrator.phases import lhs
from caligo_orchestrator.store import dataset

from caligo import rpc
from caligo.errors import FailedPrecondition, InternalError, InvalidArgument, NotFound, Unreachable
from caligo.phases import Phase
from caligo.spec import CampaignSpec, to_proto, validate
from caligo.v1 import campaign_pb2 as pb
from tests.orchestrator.conftest import Farmhouse, Orchestrator

SECONDS = 20.0
"""Long enough on any machine: what would wait here would wait for ever."""


class Latch:
    """Holds whoever passes until it is opened, and tells when somebody has come."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def hold(self) -> None:
        self.reached.set()
        assert self.opened.wait(60), "nobody has opened the latch"

    def before(self, function: Callable) -> Callable:
        def held(*arguments: object, **named: object) -> object:
            self.hold()
            return function(*arguments, **named)

        return held


@contextlib.contextmanager
def latched(monkeypatch, owner: object, name: str) -> Iterator[Latch]:
    """Every call of a function is held inside the block, and all go on after it."""
    latch = Latch()
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, latch.before(getattr(owner, name)))
        try:
            yield latch
        finally:
            latch.opened.set()


def create(orchestrator: Orchestrator, spec: CampaignSpec, **fields: object) -> str:
    request = pb.CreateCampaignRequest(spec=to_proto(spec, pb.CampaignSpec), **fields)
    with rpc.calling(orchestrator.address):
        return orchestrator.stub.CreateCampaign(request, timeout=SECONDS).campaign.name


def ask(orchestrator: Orchestrator, what: str, name: str) -> pb.Campaign:
    """Pause, resume or cancel."""
    request = getattr(pb, f"{what}CampaignRequest")(name=name)
    with rpc.calling(orchestrator.address):
        return getattr(orchestrator.stub, f"{what}Campaign")(request, timeout=SECONDS).campaign


def get(orchestrator: Orchestrator, name: str) -> pb.Campaign:
    with rpc.calling(orchestrator.address):
        return orchestrator.stub.GetCampaign(pb.GetCampaignRequest(name=name), timeout=SECONDS).campaign


def finish(orchestrator: Orchestrator, name: str) -> pb.Campaign:
    for _ in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=60):
        pass
    return get(orchestrator, name)


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


# --- a surrogate that hangs -----------------------------------------------------------------------------------------

CALLS = ["CreateModel", "Observe", "FitModel", "ExportModel", "ImportModel", "ProposeBatch", "GetBoundary", "GetModel"]


@pytest.mark.parametrize("method", CALLS)
@pytest.mark.parametrize("what", ["Pause", "Cancel"])
def test_a_campaign_is_stopped_though_the_surrogate_hangs(
    start, spec, tmp_path, services: Farmhouse, monkeypatch, method, what
) -> None:
    orchestrator = start(tmp_path / "data")
    with latched(monkeypatch, services.surrogate, method) as latch:
        name = create(orchestrator, spec)
        assert latch.reached.wait(60)
        campaign = ask(orchestrator, what, name)
        wanted = {"Pause": pb.CAMPAIGN_STATE_PAUSED, "Cancel": pb.CAMPAIGN_STATE_CANCELLED}[what]
        assert (campaign.state, campaign.HasField("wanted")) == (wanted, False)
        assert not latch.opened.is_set()
    if what == "Pause":
        ask(orchestrator, "Resume", name)
        assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED


@pytest.mark.parametrize("method", ["FitModel", "ProposeBatch"])
def test_a_shutdown_does_not_wait_for_a_surrogate_that_hangs(
    start, spec, tmp_path, services: Farmhouse, monkeypatch, method
) -> None:
    orchestrator = start(tmp_path / "data")
    with latched(monkeypatch, services.surrogate, method) as latch:
        name = create(orchestrator, spec)
        assert latch.reached.wait(60)
        orchestrator.close()
        assert not latch.opened.is_set()
    orchestrator = start(tmp_path / "data")
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED


# --- the work of another campaign -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("owner", "function"), [(dataset.hdf5, "finalize"), (shutil, "rmtree")])
def test_nobody_waits_for_another_campaign_s_work(
    start, spec, tmp_path, services: Farmhouse, monkeypatch, owner, function
) -> None:
    """While the file of one is finished, or its directory removed, everything can be asked of the others."""
    services.simulator.delay_seconds = 0.05
    orchestrator = start(tmp_path / "data", running_campaigns=3)
    busy, running, other, queued = (create(orchestrator, spec) for _ in range(4))
    until(lambda: get(orchestrator, busy).progress.simulated > 3)
    if owner is shutil:
        ask(orchestrator, "Cancel", busy)
    with latched(monkeypatch, owner, function) as latch:
        if owner is shutil:
            call = orchestrator.stub.DeleteCampaign.future(pb.DeleteCampaignRequest(name=busy))
        else:
            call = orchestrator.stub.CancelCampaign.future(pb.CancelCampaignRequest(name=busy))
        assert latch.reached.wait(60)
        assert ask(orchestrator, "Pause", running).state == pb.CAMPAIGN_STATE_PAUSED
        assert ask(orchestrator, "Pause", queued).state == pb.CAMPAIGN_STATE_PAUSED
        assert ask(orchestrator, "Resume", running).state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING)
        assert create(orchestrator, spec)
        listed = orchestrator.stub.ListCampaigns(pb.ListCampaignsRequest(), timeout=SECONDS).campaigns
        assert {campaign.name for campaign in listed} >= {running, other, queued}
        assert get(orchestrator, other).state == pb.CAMPAIGN_STATE_RUNNING
        assert not call.done()
    call.result(timeout=60)


def test_a_call_that_would_wait_too_long_answers_how_things_stand(
    start, spec, tmp_path, services: Farmhouse, monkeypatch
) -> None:
    monkeypatch.setattr("caligo_orchestrator.campaigns.resource.WISH_SECONDS", 0.2)
    services.simulator.delay_seconds = 0.05
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec)
    until(lambda: get(orchestrator, name).progress.simulated > 3)
    with latched(monkeypatch, dataset.hdf5, "finalize") as latch:
        campaign = ask(orchestrator, "Cancel", name)
        assert latch.reached.wait(60)
        assert (campaign.state, campaign.wanted) == (pb.CAMPAIGN_STATE_RUNNING, pb.CAMPAIGN_WISH_CANCEL)
        with pytest.raises(FailedPrecondition, match="has not ended"), rpc.calling("x"):
            orchestrator.stub.DeleteCampaign(pb.DeleteCampaignRequest(name=name), timeout=SECONDS)
    campaign = finish(orchestrator, name)
    assert (campaign.state, campaign.HasField("wanted")) == (pb.CAMPAIGN_STATE_CANCELLED, False)


def test_the_last_wish_counts(start, spec, tmp_path, services: Farmhouse) -> None:
    services.simulator.delay_seconds = 0.02
    orchestrator = start(tmp_path / "data")
    name = create(orchestrator, spec)
    until(lambda: get(orchestrator, name).progress.simulated > 3)
    calls = []
    for what in ("Pause", "Resume", "Pause", "Resume", "Pause") * 3:
        request = getattr(pb, f"{what}CampaignRequest")(name=name)
        calls.append(getattr(orchestrator.stub, f"{what}Campaign").future(request))
    for call in calls:
        call.result(timeout=60)
    assert ask(orchestrator, "Pause", name).state == pb.CAMPAIGN_STATE_PAUSED
    services.simulator.delay_seconds = 0
    ask(orchestrator, "Resume", name)
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED


# --- what is in use -------------------------------------------------------------------------------------------------


def test_a_base_in_use_is_not_deleted(start, spec, tmp_path, services: Farmhouse) -> None:
    orchestrator = start(tmp_path / "data")
    base = create(orchestrator, spec)
    finish(orchestrator, base)
    values = {**spec.model_dump(), "name": "child", "base": "test", "lhs": {"samples": 40, "skip": True}}
    services.simulator.delay_seconds = 0.05
    child = create(orchestrator, validate(CampaignSpec, values))
    request = pb.DeleteCampaignRequest(name=base)
    with pytest.raises(FailedPrecondition, match="campaigns/child builds on it"), rpc.calling("x"):
        orchestrator.stub.DeleteCampaign(request, timeout=SECONDS)
    assert get(orchestrator, base).state == pb.CAMPAIGN_STATE_SUCCEEDED
    services.simulator.delay_seconds = 0
    assert finish(orchestrator, child).state == pb.CAMPAIGN_STATE_SUCCEEDED
    before = orchestrator.campaigns._journal.rows("test", Phase.LHS).tobytes()
    assert orchestrator.campaigns._journal.rows("child", Phase.LHS).tobytes() == before
    orchestrator.stub.DeleteCampaign(request, timeout=SECONDS)
    with pytest.raises(NotFound):
        get(orchestrator, base)
    with pytest.raises(InvalidArgument, match=r"base: there is no campaign 'test'"):
        create(orchestrator, validate(CampaignSpec, {**values, "name": "late"}))


# --- what is lost ---------------------------------------------------------------------------------------------------


def test_a_surrogate_that_is_away_for_a_while_pauses_nothing(
    start, spec, tmp_path, services: Farmhouse, monkeypatch, undisturbed
) -> None:
    """It listens and says UNAVAILABLE, as one behind a proxy does: more often than a campaign would begin anew."""
    propose, refused = services.surrogate.ProposeBatch, []

    def away(request: object, context: object) -> object:
        if len(refused) < 8:
            refused.append(request)
            raise Unreachable("away")
        return propose(request, context)

    monkeypatch.setattr(services.surrogate, "ProposeBatch", away)
    monkeypatch.setattr("caligo_orchestrator.campaigns.worker._LONGEST_WAIT_SECONDS", 0.2)
    orchestrator = start(tmp_path / "data", patience=30)
    name = create(orchestrator, spec)
    campaign = finish(orchestrator, name)
    assert campaign.state == pb.CAMPAIGN_STATE_SUCCEEDED, campaign.problem
    assert len(refused) == 8
    states = [
        event.changed.state
        for event in orchestrator.stub.WatchCampaign(pb.WatchCampaignRequest(name=name))
        if event.HasField("changed")
    ]
    assert states == [pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING, pb.CAMPAIGN_STATE_SUCCEEDED]


def test_one_that_stays_away_pauses_the_campaign_when_patience_ends(
    start, spec, tmp_path, services: Farmhouse, monkeypatch
) -> None:
    def away(*_: object) -> object:
        raise Unreachable("away")

    monkeypatch.setattr(services.surrogate, "ProposeBatch", away)
    orchestrator = start(tmp_path / "data", patience=0.5)
    name = create(orchestrator, spec)
    until(lambda: get(orchestrator, name).state == pb.CAMPAIGN_STATE_PAUSED)
    problem = get(orchestrator, name).problem
    assert (problem.code, "away" in problem.message) == ("UNAVAILABLE", True)


@pytest.mark.parametrize("fault", [RuntimeError("a bug of ours"), InternalError("a bug of theirs")])
def test_an_unknown_fault_pauses_a_campaign_and_does_not_end_it(
    start, spec, tmp_path, services: Farmhouse, monkeypatch, fault
) -> None:
    def fail(*_: object) -> object:
        raise fault

    orchestrator = start(tmp_path / "data")
    with monkeypatch.context() as patch:
        patch.setattr(lhs, "plan", fail)
        name = create(orchestrator, spec)
        until(lambda: get(orchestrator, name).state == pb.CAMPAIGN_STATE_PAUSED)
    problem = get(orchestrator, name).problem
    assert problem.code == "INTERNAL" and "a bug of" in problem.message
    ask(orchestrator, "Resume", name)
    assert finish(orchestrator, name).state == pb.CAMPAIGN_STATE_SUCCEEDED
