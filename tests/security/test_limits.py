"""What a client may have and do at once, and what becomes of those who do not read or do not send."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import grpc
import numpy as np
import pytest
from caligo_orchestrator.api.admission import Admission
from caligo_orchestrator.store.journal import Journal

from caligo import rpc
from caligo.client import CampaignClient, Noted
from caligo.errors import ResourceExhausted, Unreachable
from caligo.phases import Phase
from caligo.tokens import Role
from caligo.v1 import campaign_pb2 as pb
from caligo.waiting import WaitingRoom

Orchestrate = Callable[..., Any]
ROWS = 120_000


@contextlib.contextmanager
def refused(limit: str, value: int, *, waiting_helps: bool = True) -> Iterator[None]:
    """A call inside is refused because of a limit, in words and in fields."""
    with pytest.raises(ResourceExhausted) as caught, rpc.calling("here"):
        yield
    error = caught.value
    assert (error.limit, error.value) == (limit, value)
    assert str(error).startswith(f"{limit}: ") and f"{value:,}" in str(error)
    assert (error.retry_after_seconds is not None) == waiting_helps


# --- what a client may have -----------------------------------------------------------------------------------------


def test_unfinished_campaigns_are_counted_a_client(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(client_active_campaigns=2)
    alice, bob = orchestrator.client("alice"), orchestrator.client("bob")
    first = orchestrator.create(alice, request_id="one")
    orchestrator.create(alice)
    with refused("client_active_campaigns", 2):
        orchestrator.create(alice)
    assert orchestrator.create(alice, request_id="one") == first  # nothing new is asked for
    with refused("client_active_campaigns", 2):
        orchestrator.create(orchestrator.client("alice2", Role.SUBMIT, "alice"))
    orchestrator.create(bob)
    alice.CancelCampaign(pb.CancelCampaignRequest(name=first))
    orchestrator.create(alice)


def test_campaigns_are_counted_until_they_are_deleted(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(client_campaigns=2)
    alice = orchestrator.client("alice")
    for _ in range(2):
        name = orchestrator.create(alice)
        alice.CancelCampaign(pb.CancelCampaignRequest(name=name))
    with refused("client_campaigns", 2, waiting_helps=False):
        orchestrator.create(alice)
    alice.DeleteCampaign(pb.DeleteCampaignRequest(name=name))
    orchestrator.create(alice)


def test_rows_are_counted_as_specs_ask_for_them(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(client_active_rows=1000, client_rows=1500)
    alice = orchestrator.client("alice")

    def ask(samples: int, **phases: Any) -> str:
        spec = pb.CampaignSpec(lhs=pb.LhsSpec(samples=samples), active=pb.ActiveSpec(samples=100), **phases)
        return alice.CreateCampaign(pb.CreateCampaignRequest(spec=spec)).campaign.name

    name = ask(800)
    with refused("client_active_rows", 1000):
        ask(20)

    def update(samples: int) -> None:
        spec = pb.CampaignSpec(active=pb.ActiveSpec(samples=samples))
        request = pb.UpdateCampaignRequest(
            campaign=pb.Campaign(name=name, spec=spec), update_mask={"paths": ["spec.active.samples"]}
        )
        alice.UpdateCampaign(request)

    update(200)
    with refused("client_active_rows", 1000):
        update(201)
    update(50)
    alice.CancelCampaign(pb.CancelCampaignRequest(name=name))
    with refused("client_rows", 1500, waiting_helps=False):
        ask(800)


# --- what a client may do at once -----------------------------------------------------------------------------------


def test_streams_are_counted_and_never_take_the_last_threads(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(client_streams=2, max_streams=3)
    alice, bob = orchestrator.client("alice"), orchestrator.client("bob")
    names = {alice: orchestrator.create(alice), bob: orchestrator.create(bob)}

    def watch(stub: Any) -> Any:
        events = stub.WatchCampaign(pb.WatchCampaignRequest(name=names[stub]), timeout=60)
        next(events)
        return events

    with rpc.calling("here"):
        held = [watch(alice), watch(alice)]
        with refused("client_streams", 2):
            watch(alice)
        held.append(watch(bob))
        with refused("max_streams", 3):
            next(bob.StreamResults(pb.StreamResultsRequest(name=names[bob], phase=1, follow=True), timeout=60))
        for stub, name in names.items():
            assert stub.GetCampaign(pb.GetCampaignRequest(name=name), timeout=10).campaign.name == name
        held.pop(0).cancel()
        eventually(lambda: watch(alice))


def eventually(ask: Callable[[], Any]) -> Any:
    """The answer, once no limit stands in its way."""
    while True:  # the test's own timeout ends it
        try:
            return ask()
        except grpc.RpcError as error:
            # Cancelled: calls without a request were still coming, and this one had waited longest for its own.
            assert error.code() in (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED)
            time.sleep(0.02)


def unsent(orchestrator: Any, token: str, method: str = "GetCampaign") -> grpc.Future:
    """A call that is begun and whose request never comes."""
    wait = threading.Event()

    def nothing() -> Iterator[bytes]:
        wait.wait()
        yield from ()

    call = orchestrator.channel().stream_unary(f"/caligo.v1.CampaignService/{method}")
    future = call.future(nothing(), metadata=((rpc.TOKEN_HEADER, f"Bearer {token}"),), timeout=60)
    future.add_done_callback(lambda _: wait.set())
    return future


def test_calls_whose_request_does_not_come_give_way_to_others_of_their_client(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(client_calls=2, max_calls=3)
    alice, bob = orchestrator.token("alice", Role.SUBMIT), orchestrator.token("bob", Role.SUBMIT)
    first, second = orchestrator.stub(alice), orchestrator.stub(bob)
    others = [unsent(orchestrator, bob) for _ in range(2)]
    held = [unsent(orchestrator, alice) for _ in range(6)]
    while sum(not call.done() for call in held) > 2:  # the test's own timeout ends it
        time.sleep(0.01)
    for call in [call for call in held if call.done()]:
        assert call.code() in (grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)
    eventually(lambda: first.ListCampaigns(pb.ListCampaignsRequest(), timeout=10))
    eventually(lambda: second.ListCampaigns(pb.ListCampaignsRequest(), timeout=10))
    for call in held + others:
        call.cancel()


def test_calls_at_work_are_counted() -> None:
    """One that has its request gives way to nobody."""
    admission = Admission(WaitingRoom(60), max_calls=3, client_calls=2, max_streams=1, client_streams=1)
    with contextlib.ExitStack() as inside:
        for client in ("alice", "alice", "bob"):
            inside.enter_context(admission.call(client))
        for client, limit, value in (("alice", "client_calls", 2), ("bob", "max_calls", 3)):
            with pytest.raises(ResourceExhausted) as caught, admission.call(client):
                pass
            assert (caught.value.limit, caught.value.value) == (limit, value)
        inside.enter_context(admission.stream("alice"))
    with admission.call("alice"):
        pass


def test_without_a_token_nobody_can_hold_a_thread(orchestrate: Orchestrate) -> None:
    """More calls without a token, and without a request, than there are threads: all refused, nothing waits."""
    orchestrator = orchestrate(max_calls=2, max_streams=2)
    calls = [unsent(orchestrator, "caligo_wrong") for _ in range(3 * orchestrator.settings.threads)]
    for call in calls:
        assert call.code() is grpc.StatusCode.UNAUTHENTICATED
    alice = orchestrator.client("alice")
    assert not alice.ListCampaigns(pb.ListCampaignsRequest(), timeout=10).campaigns


def test_a_request_that_never_comes_is_cut_off(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(stall_seconds=0.2)
    call = unsent(orchestrator, orchestrator.token("alice", Role.READ))
    assert call.code() is grpc.StatusCode.CANCELLED


def test_a_request_larger_than_the_limit_is_refused(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(max_request_mib=1)
    alice = orchestrator.client("alice")
    with pytest.raises(ResourceExhausted, match="larger than max"), rpc.calling("here"):
        alice.GetCampaign(pb.GetCampaignRequest(name="x" * 2**20))
    with pytest.raises(grpc.RpcError) as caught:
        alice.GetCampaign(pb.GetCampaignRequest(name="x" * 2**19))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND and len(caught.value.details()) < 300


# --- readers that do not read ---------------------------------------------------------------------------------------


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Rows of each block that the orchestrator has read from the journal to send it."""
    seen: list[int] = []
    original = Journal.row_blocks

    def counting(self: Journal, *arguments: Any, **named: Any) -> Iterator[np.ndarray]:
        for block in original(self, *arguments, **named):
            seen.append(len(block))
            yield block

    monkeypatch.setattr(Journal, "row_blocks", counting)
    return seen


def test_a_reader_who_stops_is_cut_off_and_costs_no_memory(orchestrate: Orchestrate, blocks: list[int]) -> None:
    orchestrator = orchestrate(stall_seconds=0.5, client_streams=1)
    alice = orchestrator.client("alice")
    name = orchestrator.create(alice)
    orchestrator.fill(name, ROWS)
    stream = alice.StreamResults(pb.StreamResultsRequest(name=name, phase=1), timeout=60)
    position = next(stream).next_row
    eventually(lambda: next(alice.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=60)))  # its place is free
    assert sum(blocks) < ROWS / 2  # what was not read was not even looked up
    with pytest.raises(grpc.RpcError) as caught:
        for message in stream:
            position = message.next_row
    assert caught.value.code() is grpc.StatusCode.CANCELLED and position < ROWS
    with pytest.raises(Unreachable), rpc.calling("here"):
        raise caught.value


def test_a_reader_who_stops_delays_nobody(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(stall_seconds=600)
    alice = orchestrator.client("alice")
    name = orchestrator.create(alice)
    orchestrator.fill(name, ROWS)
    stalled = [alice.StreamResults(pb.StreamResultsRequest(name=name, phase=1), timeout=60) for _ in range(3)]
    for stream in stalled:
        next(stream)
    other = orchestrator.client("alice2", Role.READ, "alice")
    *_, last = other.StreamResults(pb.StreamResultsRequest(name=name, phase=1), timeout=60)
    assert last.next_row == ROWS
    orchestrator.create(alice)
    for stream in stalled:
        stream.cancel()


def test_the_client_goes_on_by_itself_after_a_long_pause(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(stall_seconds=0.3)
    token = orchestrator.token("alice", Role.SUBMIT)
    name = orchestrator.create(orchestrator.stub(token))
    orchestrator.fill(name, ROWS)
    received = []
    with CampaignClient(orchestrator.address, token=token) as client:
        for number, rows in enumerate(client.results(name, Phase.LHS)):
            if number == 0:
                time.sleep(1)
            received.append(rows["index"])
    assert np.array_equal(np.concatenate(received), np.arange(ROWS))


def test_a_watcher_goes_on_from_the_last_event_it_has_read(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(stall_seconds=0.3)
    token = orchestrator.token("alice", Role.SUBMIT)
    stub = orchestrator.stub(token)
    name = orchestrator.create(stub)
    with orchestrator.journal() as journal:
        for number in range(500):
            event = pb.WatchCampaignResponse(note=f"{number} " + 20_000 * "x")
            journal.append_event(name.removeprefix("campaigns/"), event)
    stub.CancelCampaign(pb.CancelCampaignRequest(name=name))
    notes = []
    with CampaignClient(orchestrator.address, token=token) as client:
        for event in client.watch(name):
            if isinstance(event, Noted):
                notes.append(int(event.text.split()[0]))
                if len(notes) == 3:
                    time.sleep(1)
    assert notes == list(range(500))
