"""Both clients against a server that keeps the contract."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from caligo.client import (
    AsyncCampaignClient,
    CampaignClient,
    CampaignState,
    Changed,
    Heartbeat,
    Noted,
    Progressed,
)
from caligo.closed_form import expect
from caligo.errors import (
    AlreadyExists,
    CampaignFailed,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    NotFound,
    Unimplemented,
    Unreachable,
)
from caligo.phases import Phase
from caligo.results import ROW_DTYPE
from caligo.spec import ActiveSpec, CampaignSpec, PhysicsSpec, ProtocolSpec, SpaceSpec, to_proto
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import types_pb2

SPEC = CampaignSpec(
    name="mine", seed=2**62 + 1, space=SpaceSpec(bounds={"F": [0.9, 0.99]}), active=ActiveSpec(samples=50)
)


class Blocking:
    """An `AsyncCampaignClient` that is used like a `CampaignClient`, on an event loop in a thread of its own."""

    def __init__(self, address: str, **options: Any) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def make() -> AsyncCampaignClient:
            return AsyncCampaignClient(address, **options)

        self._client = self._wait(make())

    def _wait(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self._loop).result()

    def __getattr__(self, name: str) -> Any:
        member = getattr(self._client, name)
        if not callable(member):
            return member

        def call(*args: Any, **options: Any) -> Any:
            answer = member(*args, **options)
            return self._iterate(answer) if inspect.isasyncgen(answer) else self._wait(answer)

        return call

    def _iterate(self, generator: Any) -> Iterator[Any]:
        try:
            while True:
                try:
                    yield self._wait(anext(generator))
                except StopAsyncIteration:
                    return
        finally:
            self._wait(generator.aclose())

    def __enter__(self) -> Blocking:
        return self

    def __exit__(self, *_: object) -> None:
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


@pytest.fixture(params=[CampaignClient, Blocking], ids=["sync", "asyncio"])
def connect(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Makes a client of either kind."""
    return request.param


@pytest.fixture
def client(serve: Any, orchestrator: Any, connect: Any) -> Iterator[Any]:
    with connect(serve(orchestrator).address, patience_seconds=5) as made:
        yield made


def test_both_clients_have_the_same_methods() -> None:
    def surface(kind: type) -> dict[str, Any]:
        public = {name: member for name, member in vars(kind).items() if not name.startswith("_")}
        return {name: inspect.signature(member).parameters for name, member in public.items()}

    assert surface(CampaignClient) == surface(AsyncCampaignClient)
    for name in surface(CampaignClient):
        assert getattr(AsyncCampaignClient, name).__doc__ == getattr(CampaignClient, name).__doc__
    assert inspect.signature(CampaignClient).parameters == inspect.signature(AsyncCampaignClient).parameters


def test_create_carries_the_spec_there_and_back(client: CampaignClient) -> None:
    campaign = client.create(SPEC, priority=7)
    assert (campaign.name, campaign.state, campaign.priority) == ("campaigns/c0", CampaignState.QUEUED, 7)
    assert campaign.spec == SPEC
    assert client.get(campaign.id) == client.get(campaign.name)


def test_create_again_with_one_request_id_is_one_campaign(client: CampaignClient, orchestrator: Any) -> None:
    names = {client.create(SPEC, request_id="once").name for _ in range(3)}
    assert len(names) == 1
    client.create(SPEC)
    assert len(orchestrator.campaigns) == 2


def test_validate_only_makes_nothing(client: CampaignClient, orchestrator: Any) -> None:
    assert client.create(SPEC, validate_only=True).spec == SPEC
    assert not orchestrator.campaigns


def test_a_spec_that_the_server_refuses_names_its_field(client: CampaignClient) -> None:
    bad = CampaignSpec.model_construct(**{**SPEC.__dict__, "name": "Not Allowed"})
    with pytest.raises(InvalidArgument) as caught:
        client.create(bad)
    assert [v.field for v in caught.value.violations] == ["spec.name"]


def test_list_goes_through_all_pages(client: CampaignClient, orchestrator: Any) -> None:
    for i in range(5):
        orchestrator.add(f"c{i}", pb.CAMPAIGN_STATE_RUNNING if i % 2 else pb.CAMPAIGN_STATE_FAILED)
    assert [c.id for c in client.list()] == [f"c{i}" for i in range(5)]
    assert [c.id for c in client.list(CampaignState.RUNNING)] == ["c1", "c3"]
    list(client.list(CampaignState.RUNNING, owner="ada", prefix="cliff"))
    assert orchestrator.filters[-1] == "state=RUNNING AND owner=ada AND name:cliff"


def test_update_names_what_changes_and_nothing_else(client: CampaignClient, orchestrator: Any) -> None:
    orchestrator.add("c").spec.active.batch_size = 4
    updated = client.update("c", samples=60)
    assert (updated.spec.active.samples, updated.spec.active.batch_size, updated.priority) == (60, 4, 100)
    assert client.update("c", priority=7).priority == 7
    client.update("c", samples=70, priority=8)
    assert [list(request.update_mask.paths) for request in orchestrator.updates] == [
        ["spec.active.samples"],
        ["priority"],
        ["spec.active.samples", "priority"],
    ]


def test_states_change(client: CampaignClient, orchestrator: Any) -> None:
    orchestrator.add("c")
    assert client.pause("c").state is CampaignState.PAUSED
    assert client.resume("c").state is CampaignState.RUNNING
    with pytest.raises(FailedPrecondition, match="cancel it first"):
        client.delete("c")
    assert client.cancel("campaigns/c").state is CampaignState.CANCELLED
    client.delete("c")
    with pytest.raises(NotFound, match="campaigns/c: no such campaign"):
        client.get("c")


def test_watch_gives_typed_events_to_the_end(client: CampaignClient, orchestrator: Any) -> None:
    campaign = orchestrator.add("c")
    orchestrator.emit(note="hello")
    orchestrator.emit(progress=pb.Progress(done=3, total=9, secure_fraction=0.5))
    orchestrator.finish(campaign, pb.CAMPAIGN_STATE_SUCCEEDED)
    note, progress, end = client.watch("c")
    assert isinstance(note, Noted) and note.text == "hello"
    assert isinstance(progress, Progressed) and (progress.progress.done, progress.progress.total) == (3, 9)
    assert isinstance(end, Changed) and end.campaign.state is CampaignState.SUCCEEDED
    assert [e.sequence for e in client.watch("c", after=2)] == [3]


def test_watch_goes_on_where_the_connection_broke(client: CampaignClient, orchestrator: Any) -> None:
    campaign = orchestrator.add("c")
    for i in range(6):
        orchestrator.emit(note=str(i))
    orchestrator.finish(campaign, pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.breaks = 3
    assert [e.sequence for e in client.watch("c")] == [1, 2, 3, 4, 5, 6, 7]
    assert orchestrator.opened == [0, 2, 4, 6]


def test_watch_outlives_a_restart_of_the_server(serve: Any, orchestrator: Any, connect: Any) -> None:
    campaign = orchestrator.add("c")
    orchestrator.emit(note="before")
    server = serve(orchestrator)
    with connect(server.address) as client:
        events = (e for e in client.watch("c") if not isinstance(e, Heartbeat))
        assert next(events).sequence == 1
        server.stop(0)
        orchestrator.emit(note="meanwhile")
        serve(orchestrator)
        orchestrator.finish(campaign, pb.CAMPAIGN_STATE_SUCCEEDED)
        assert [e.sequence for e in events] == [2, 3]


def test_watch_gives_up_after_its_patience(serve: Any, orchestrator: Any, connect: Any) -> None:
    orchestrator.add("c")
    orchestrator.emit(note="before")
    server = serve(orchestrator)
    with connect(server.address, patience_seconds=0.3) as client:
        events = client.watch("c")
        next(events)
        server.stop(0)
        with pytest.raises(Unreachable, match="nobody answers"):
            list(events)


def test_watch_of_nothing_and_of_nobody(client: CampaignClient, tmp_path: Path, connect: Any) -> None:
    with pytest.raises(NotFound):
        next(client.watch("c"))
    with (
        connect(f"unix:{tmp_path}/nobody") as lonely,
        pytest.raises(Unreachable, match="nobody: nobody answers"),
    ):
        next(lonely.watch("c"))


def test_wait_returns_at_the_end_and_raises_on_failure(client: CampaignClient, orchestrator: Any) -> None:
    good, bad = orchestrator.add("good"), orchestrator.add("bad")
    threading.Timer(0.2, orchestrator.finish, (good, pb.CAMPAIGN_STATE_SUCCEEDED)).start()
    assert client.wait("good").state is CampaignState.SUCCEEDED
    bad.problem.message = "the disk is full"
    orchestrator.events.clear()
    orchestrator.finish(bad, pb.CAMPAIGN_STATE_FAILED)
    with pytest.raises(CampaignFailed, match="campaigns/bad: failed: the disk is full"):
        client.wait("bad")


def test_a_dropped_stream_goes_on(client: CampaignClient, orchestrator: Any) -> None:
    """A server drops watchers that are too slow; when they come back there may be no room at first."""
    campaign = orchestrator.add("c")
    for i in range(5):
        orchestrator.emit(note=str(i))
    orchestrator.finish(campaign, pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.breaks, orchestrator.break_code = 2, grpc.StatusCode.RESOURCE_EXHAUSTED
    assert [e.sequence for e in client.watch("c")] == [1, 2, 3, 4, 5, 6]


def test_calls_outlive_a_restart_of_the_server(serve: Any, orchestrator: Any, connect: Any) -> None:
    server = serve(orchestrator)
    with connect(server.address) as client:
        made = client.create(SPEC)
        for call in (
            lambda: client.get(made.name),
            lambda: client.create(SPEC, request_id="once"),
            lambda: client.update(made.name, priority=3),
            lambda: client.pause(made.name),
            lambda: list(client.list()),
        ):
            server.stop(0)
            restarted: list[Any] = []
            timer = threading.Timer(0.1, lambda: restarted.append(serve(orchestrator)))  # noqa: B023
            timer.start()
            assert call()
            timer.join()
            (server,) = restarted
        assert len(orchestrator.campaigns) == 2  # the second `create` made one, however often it was sent
        server.stop(0)
        with pytest.raises(Unreachable, match="nobody answers"):
            client.delete(made.name)  # whether it arrived nobody knows, and twice it says something else


def test_what_the_service_says_of_another_service_is_an_answer(client: CampaignClient, orchestrator: Any) -> None:
    orchestrator.add("c")
    client.get("c")
    orchestrator.surrogate_is_gone = True
    with pytest.raises(Unreachable, match=r"10\.0\.0\.7:50053: nobody answers"):
        client.predict("c", SpaceSpec().resolve().from_unit(np.zeros((1, 9))))
    assert orchestrator.predictions == 1


@pytest.fixture
def rows() -> np.ndarray:
    made = np.zeros(23, dtype=ROW_DTYPE)
    made["index"] = np.arange(23)
    made["inputs"] = np.random.default_rng(1).normal(size=(23, 9))
    made["counts"][:, 0] = 10**12
    made["outcome"] = 1
    return made


@pytest.mark.parametrize("breaks", [0, 2])
def test_results_come_whole_and_in_order(
    client: CampaignClient, orchestrator: Any, rows: np.ndarray, breaks: int
) -> None:
    orchestrator.add("c")
    orchestrator.rows, orchestrator.breaks = rows, breaks
    np.testing.assert_array_equal(np.concatenate(list(client.results("c", Phase.LHS))), rows)
    np.testing.assert_array_equal(np.concatenate(list(client.results("c", Phase.LHS, 7))), rows[7:])


@pytest.mark.parametrize("breaks", [0, 3])
def test_download_is_byte_exact(client: CampaignClient, orchestrator: Any, tmp_path: Path, breaks: int) -> None:
    orchestrator.add("c")
    orchestrator.file, orchestrator.breaks = np.random.default_rng(2).bytes(12_345), breaks
    path = client.download("c", tmp_path / "c.h5")
    assert path.read_bytes() == orchestrator.file


def test_download_leaves_nothing_when_the_checksum_is_wrong(
    client: CampaignClient, orchestrator: Any, tmp_path: Path
) -> None:
    orchestrator.add("c")
    orchestrator.file, orchestrator.wrong_checksum = bytes(5000), True
    target = tmp_path / "downloads"
    target.mkdir()
    with pytest.raises(InternalError, match="checksum is wrong"):
        client.download("c", target / "c.h5")
    with pytest.raises(NotFound):
        client.download("other", target / "c.h5")
    assert not list(target.iterdir())


def test_an_interrupted_download_goes_on_later(client: CampaignClient, orchestrator: Any, tmp_path: Path) -> None:
    orchestrator.add("c")
    orchestrator.file = np.random.default_rng(3).bytes(5_500)
    path, part = tmp_path / "c.h5", tmp_path / "c.h5.part"

    def interrupt(done: int, total: int) -> None:
        assert total == 5_500
        if done >= 3_000:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        client.download("c", path, on_progress=interrupt)
    assert not path.exists()
    assert part.read_bytes() == orchestrator.file[:3_000]
    told: list[tuple[int, int]] = []
    assert client.download("c", path, on_progress=lambda *progress: told.append(progress)) == path
    assert path.read_bytes() == orchestrator.file
    assert orchestrator.opened == [0, 3_000]
    assert told == [(4_000, 5_500), (5_000, 5_500), (5_500, 5_500), (5_500, 5_500)]
    assert not part.exists()


@pytest.mark.parametrize("left", [b"of another file", bytes(5_500), bytes(9_000)])
def test_a_part_of_another_file_is_not_gone_on_with(
    client: CampaignClient, orchestrator: Any, tmp_path: Path, left: bytes
) -> None:
    orchestrator.add("c")
    orchestrator.file = np.random.default_rng(4).bytes(5_500)
    (tmp_path / "c.h5.part").write_bytes(left)
    client.download("c", tmp_path / "c.h5")
    assert (tmp_path / "c.h5").read_bytes() == orchestrator.file
    assert [path.name for path in tmp_path.glob("c.h5*")] == ["c.h5"]


@pytest.mark.parametrize("breaks", [0, 2])
def test_any_range_of_a_file_can_be_read(client: CampaignClient, orchestrator: Any, breaks: int) -> None:
    orchestrator.add("c")
    orchestrator.file = np.random.default_rng(5).bytes(7_777)
    for offset, length in ((0, 0), (10, 5_000), (7_000, 777), (7_776, 1), (7_777, 0)):
        orchestrator.breaks = breaks
        data = b"".join(client.read("c", offset, length))
        assert data == orchestrator.file[offset : offset + length if length else None]
    with pytest.raises(InvalidArgument, match="offset"):
        list(client.read("c", 7_778))


def test_download_overwrites_only_when_told(client: CampaignClient, orchestrator: Any, tmp_path: Path) -> None:
    orchestrator.add("c")
    orchestrator.file = b"new"
    path = tmp_path / "c.h5"
    path.write_bytes(b"old")
    with pytest.raises(AlreadyExists, match="not overwritten"):
        client.download("c", path)
    assert path.read_bytes() == b"old"
    client.download("c", path, overwrite=True)
    assert path.read_bytes() == b"new"
    with pytest.raises(InvalidArgument, match="No such file or directory"):
        client.download("c", tmp_path / "no" / "c.h5")


def test_predict(client: CampaignClient, orchestrator: Any) -> None:
    campaign = orchestrator.add("c")
    inputs = SpaceSpec().resolve().from_unit(np.random.default_rng(3).random((4, 9)))
    with pytest.raises(Unimplemented):
        client.predict("c", inputs)
    campaign.state = pb.CAMPAIGN_STATE_SUCCEEDED
    answer = client.predict("c", inputs)
    assert answer.dtype == np.float32
    np.testing.assert_array_equal(answer[:, 0], inputs[:, 3])
    expected = expect(inputs, PhysicsSpec(), ProtocolSpec())
    theory = np.stack([expected.margin, expected.sd, expected.key], axis=1).astype(np.float32)
    np.testing.assert_array_equal(answer[:, 3:], theory)
    campaign.spec.physics.claim = "release-0.1/lupo2023"
    answer = client.predict("c", inputs)
    np.testing.assert_array_equal(answer[:, 0], inputs[:, 3])
    assert np.isnan(answer[:, 3:]).all(), "rules of release 0.1 have no closed form"
    with pytest.raises(TypeError, match="float64"):
        client.predict("c", inputs.astype(np.float64))


def test_threshold(client: CampaignClient, orchestrator: Any) -> None:
    orchestrator.add("c", pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.key = lambda inputs: 1 / (1 + np.exp(50 * (inputs[:, 0] - 0.8)))
    found = client.threshold("c", "r", at={"F": 0.97})
    assert [(t.strategy.name, t.level) for t in found] == [
        (name, level) for name in ("BASELINE", "BLIND") for level in (0.5, 0.95)
    ]
    assert found[0].crossings[0].value == pytest.approx(0.8, abs=1e-4)
    assert found[1].crossings[0].value == pytest.approx(0.8 - np.log(19) / 50, abs=1e-4)
    for refused, field in (
        ({"parameter": "R"}, r"parameter: must be one of .* not 'R' \(did you mean r\?\)"),
        ({"at": {"r": 0.5}}, "r: is what is asked for"),
        ({"at": {"F": 0.6}}, "F: 0.6 is outside the campaign's space"),
        ({"levels": (1.0,)}, "levels: must lie between 0 and 1"),
    ):
        with pytest.raises(InvalidArgument, match=field):
            client.threshold("c", **{"parameter": "r", **refused})
    fixed = orchestrator.add("fixed", pb.CAMPAIGN_STATE_SUCCEEDED)
    fixed.spec.space.bounds["r"].CopyFrom(types_pb2.Bounds(low=0.7, high=0.7))
    with pytest.raises(InvalidArgument, match=r"r: is fixed at 0\.7 in the campaign"):
        client.threshold("fixed", "r")


def test_require(client: CampaignClient, orchestrator: Any) -> None:
    """A key where F exceeds 0.98: from 0.95 that takes k = ln p / ln p' of the weights p = (4F - 1)/3."""
    orchestrator.add("c", pb.CAMPAIGN_STATE_SUCCEEDED)
    orchestrator.key = lambda inputs: 1 / (1 + np.exp(-5000 * (inputs[:, 3] - 0.98)))
    for found in client.require("c", {"F": 0.95, "eta": 0.1}, free=("F", "eta"), confidence=0.5, weights={"F": 2.0}):
        k = np.log((4 * 0.95 - 1) / 3) / np.log((4 * 0.98 - 1) / 3)
        assert found.factors == pytest.approx({"F": k, "eta": 1.0}, rel=2e-3)
        assert found.cost == pytest.approx(2.0 * k + 1.0, rel=2e-3)
        assert found.values["F"] == pytest.approx(0.98, abs=1e-4) and found.values["eta"] == pytest.approx(0.1)
        assert found.key == pytest.approx(0.5, abs=0.1)
    for refused, field in (
        ({"free": ("r",)}, "free: must be among F, eta, e_det, P_dark"),
        ({"baseline": {"F": 0.6}}, "F: 0.6 is outside the campaign's space"),
        ({"confidence": 1.0}, "confidence: must lie between 0 and 1"),
        ({"weights": {"F": -1.0}}, "weights: F: must be above 0"),
    ):
        with pytest.raises(InvalidArgument, match=field):
            client.require("c", **{"baseline": {"F": 0.95}, **refused})


def test_what_a_campaign_knows_nothing_of_is_not_predicted(client: CampaignClient, orchestrator: Any) -> None:
    campaign = orchestrator.add("c", pb.CAMPAIGN_STATE_SUCCEEDED)
    campaign.spec.space.blind_fraction = 1.0
    space = SpaceSpec(blind_fraction=1).resolve()
    inputs = np.concatenate([space.from_unit(np.full((1, 9), edge)) for edge in (0.0, 1.0)])
    inputs[:, 8] = 1
    assert client.predict("c", inputs).shape == (2, 6)  # the edges belong to it
    beyond = inputs.copy()
    beyond[1, 4] = -2.5
    with pytest.raises(InvalidArgument, match=r"eta: 0\.00316.* is outside the campaign's space, \[0\.01, 1\]"):
        client.predict("c", beyond)
    assert client.predict("c", beyond, extrapolate=True).shape == (2, 6)
    with pytest.raises(InvalidArgument, match="eta"):
        client.slice("c", "F", "N", at=beyond[1])
    inputs[0, 8] = 0
    for extrapolate in (False, True):
        with pytest.raises(InvalidArgument, match="strategy: must be blind: the campaign has no others"):
            client.predict("c", inputs, extrapolate=extrapolate)
    assert client.slice("c", "F", "N", at=inputs[0], points=2).mean.shape == (2, 2, 2)


def test_spec_message_keeps_every_field() -> None:
    assert to_proto(SPEC, pb.CampaignSpec).seed == SPEC.seed
