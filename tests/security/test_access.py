"""Who may do what: tokens, roles, owners."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from caligo_orchestrator.api import access
from caligo_orchestrator.settings import OrchestratorSettings
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from caligo import rpc, wire
from caligo.errors import NotFound, PermissionDenied, Unauthenticated
from caligo.space import PRESETS, Space
from caligo.tokens import Role, Tokens
from caligo.v1 import campaign_pb2 as pb
from caligo.v1 import campaign_pb2_grpc

Orchestrate = Callable[..., Any]
Stub = campaign_pb2_grpc.CampaignServiceStub
ROWS = wire.encode(Space(PRESETS["cliff"]).from_unit(np.full((1, 9), 0.5)), wire.INPUTS)
SPEC = pb.CampaignSpec(name="cliff")
METHODS: dict[str, tuple[Role, Callable[[str], object]]] = {
    "GetCampaign": (Role.READ, lambda name: pb.GetCampaignRequest(name=name)),
    "ListCampaigns": (Role.READ, lambda name: pb.ListCampaignsRequest()),
    "WatchCampaign": (Role.READ, lambda name: pb.WatchCampaignRequest(name=name)),
    "StreamResults": (Role.READ, lambda name: pb.StreamResultsRequest(name=name, phase=1)),
    "DownloadDataset": (Role.READ, lambda name: pb.DownloadDatasetRequest(name=name)),
    "PredictCampaign": (Role.READ, lambda name: pb.PredictCampaignRequest(name=name, inputs=ROWS)),
    "CreateCampaign": (Role.SUBMIT, lambda name: pb.CreateCampaignRequest(spec=SPEC)),
    "UpdateCampaign": (
        Role.SUBMIT,
        lambda name: pb.UpdateCampaignRequest(
            campaign=pb.Campaign(name=name, priority=7), update_mask={"paths": ["priority"]}
        ),
    ),
    "PauseCampaign": (Role.SUBMIT, lambda name: pb.PauseCampaignRequest(name=name)),
    "ResumeCampaign": (Role.SUBMIT, lambda name: pb.ResumeCampaignRequest(name=name)),
    "CancelCampaign": (Role.SUBMIT, lambda name: pb.CancelCampaignRequest(name=name)),
    "DeleteCampaign": (Role.SUBMIT, lambda name: pb.DeleteCampaignRequest(name=name)),
}
"""Every method with the least role that it takes, and a request about a campaign."""
REFUSED = (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.PERMISSION_DENIED)


def outcome(stub: Stub, method: str, name: str) -> grpc.StatusCode:
    """How a call ends; of a stream, its first message."""
    _, request = METHODS[method]
    call = getattr(stub, method)
    try:
        answer = call(request(name), timeout=10)
        if method in ("WatchCampaign", "StreamResults", "DownloadDataset"):
            next(answer, None)
            answer.cancel()
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


def test_every_method_of_the_contract_has_a_role() -> None:
    methods = {method.name for method in pb.DESCRIPTOR.services_by_name["CampaignService"].methods}
    assert set(access.ROLES) == set(METHODS) == methods


@pytest.mark.parametrize("role", Role)
def test_a_role_allows_what_it_says_and_no_more(orchestrate: Orchestrate, role: Role) -> None:
    orchestrator = orchestrate()
    name = orchestrator.create(orchestrator.client("owner", Role.SUBMIT, "alice"))
    mine = orchestrator.client("mine", role, "alice")
    for method, (least, _) in METHODS.items():
        assert (outcome(mine, method, name) is grpc.StatusCode.PERMISSION_DENIED) == (role < least), method


def test_without_a_valid_token_nothing_is_answered(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate()
    owner = orchestrator.client("alice")
    name = orchestrator.create(owner)
    revoked = orchestrator.token("old", Role.ADMIN)
    with Tokens(orchestrator.directory) as tokens:
        tokens.revoke("old")
    for token in ("", "caligo_wrong", revoked, "'; DROP TABLE tokens; --"):
        for method in METHODS:
            assert outcome(orchestrator.stub(token), method, name) is grpc.StatusCode.UNAUTHENTICATED, method
    assert owner.GetCampaign(pb.GetCampaignRequest(name=name)).campaign.owner == "alice"


@pytest.mark.parametrize("header", ["Basic YTpi", "Bearer", "Bearer ", "caligo_abc", ""])
def test_other_headers_are_no_token(orchestrate: Orchestrate, header: str) -> None:
    stub = Stub(orchestrate().channel())
    with pytest.raises(grpc.RpcError) as caught:
        stub.ListCampaigns(pb.ListCampaignsRequest(), metadata=((rpc.TOKEN_HEADER, header),), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_campaign_of_another_is_not_there(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate()
    alice, bob, admin = (orchestrator.client(n, r) for n, r in (("alice", 2), ("bob", 2), ("root", Role.ADMIN)))
    name = orchestrator.create(alice)
    texts = set()
    for method in METHODS:
        if method in ("CreateCampaign", "ListCampaigns"):
            continue
        assert outcome(bob, method, name) is grpc.StatusCode.NOT_FOUND, method
    for missing in (name, "campaigns/nothing"):
        with pytest.raises(grpc.RpcError) as caught:
            bob.GetCampaign(pb.GetCampaignRequest(name=missing))
        texts.add(caught.value.details().replace(missing, "X"))
    assert len(texts) == 1  # nobody learns from the answer which names are taken
    untouched = alice.GetCampaign(pb.GetCampaignRequest(name=name)).campaign
    assert untouched.state in (pb.CAMPAIGN_STATE_QUEUED, pb.CAMPAIGN_STATE_RUNNING) and untouched.priority == 100
    assert outcome(admin, "CancelCampaign", name) is grpc.StatusCode.OK


def test_lists_hold_what_is_the_callers(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate()
    made = {owner: orchestrator.create(orchestrator.client(owner), owner) for owner in ("alice", "bob")}

    def seen(name: str, role: Role, owner: str, **fields: object) -> list[str]:
        stub, names, token = orchestrator.client(name, role, owner), [], ""
        while True:
            page = stub.ListCampaigns(pb.ListCampaignsRequest(page_size=1, page_token=token, **fields))
            names += [campaign.name for campaign in page.campaigns]
            token = page.next_page_token
            if not token:
                return sorted(names)

    assert seen("a", Role.READ, "alice") == [made["alice"]]
    assert seen("a2", Role.SUBMIT, "alice", filter="name:alice") == [made["alice"]]
    assert seen("c", Role.SUBMIT, "carol") == []
    assert seen("r", Role.ADMIN, "root") == sorted(made.values())


def test_an_owner_in_a_filter_narrows_what_is_there(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate()
    made = {owner: orchestrator.create(orchestrator.client(owner), owner) for owner in ("alice", "bob")}

    def seen(by: str, role: Role, owner: str) -> list[str]:
        request = pb.ListCampaignsRequest(filter=f"owner={owner}")
        return [c.name for c in orchestrator.client(f"{by}-{owner}", role, by).ListCampaigns(request).campaigns]

    assert seen("bob", Role.SUBMIT, "alice") == []  # neither hers nor his own
    assert seen("bob", Role.SUBMIT, "bob") == [made["bob"]]
    assert seen("root", Role.ADMIN, "alice") == [made["alice"]]


def test_several_tokens_of_an_owner_share_campaigns(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate()
    name = orchestrator.create(orchestrator.client("laptop", Role.SUBMIT, "alice"))
    reader = orchestrator.client("dashboard", Role.READ, "alice")
    assert reader.GetCampaign(pb.GetCampaignRequest(name=name)).campaign.owner == "alice"


def test_request_ids_and_bases_do_not_reach_across_owners(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate()
    alice, bob = orchestrator.client("alice"), orchestrator.client("bob")
    name = orchestrator.create(alice, request_id="first")
    assert orchestrator.create(alice, request_id="first") == name
    other = orchestrator.create(bob, request_id="first")
    assert other != name and bob.GetCampaign(pb.GetCampaignRequest(name=other)).campaign.owner == "bob"
    spec = pb.CampaignSpec(name="next", base=name.removeprefix("campaigns/"))
    for check in (True, False):
        with pytest.raises(grpc.RpcError) as caught:
            bob.CreateCampaign(pb.CreateCampaignRequest(spec=spec, validate_only=check))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert alice.CreateCampaign(pb.CreateCampaignRequest(spec=spec, validate_only=True)).campaign.spec.name == "next"


def test_health_and_reflection_are_open(orchestrate: Orchestrate) -> None:
    channel = orchestrate().channel()
    assert health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10).status == 1
    assert access.SERVICE in ProtoReflectionDescriptorDatabase(channel).get_services()


def test_a_method_that_is_not_there_is_unimplemented(orchestrate: Orchestrate) -> None:
    channel = orchestrate().channel()
    with pytest.raises(grpc.RpcError) as caught:
        channel.unary_unary(f"/{access.SERVICE}/DropTables")(b"", timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_where_no_token_is_required_a_given_one_counts_all_the_same(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate(require_token=False)
    anyone, alice = orchestrator.stub(), orchestrator.client("alice")
    theirs, hers = orchestrator.create(anyone), orchestrator.create(alice)
    assert outcome(alice, "GetCampaign", theirs) is grpc.StatusCode.NOT_FOUND
    assert outcome(anyone, "GetCampaign", hers) is grpc.StatusCode.OK
    assert outcome(orchestrator.stub("caligo_wrong"), "GetCampaign", theirs) is grpc.StatusCode.UNAUTHENTICATED


def test_a_revoked_token_ends_its_streams(orchestrate: Orchestrate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_LOOK_SECONDS", 0.0)
    orchestrator = orchestrate()
    alice = orchestrator.client("alice")
    name = orchestrator.create(alice)
    events = alice.WatchCampaign(pb.WatchCampaignRequest(name=name), timeout=30)
    next(events)
    with Tokens(orchestrator.directory) as tokens:
        tokens.revoke("alice")
    orchestrator.client("root", Role.ADMIN).PauseCampaign(pb.PauseCampaignRequest(name=name))
    with pytest.raises(grpc.RpcError) as caught:
        list(events)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


def test_the_client_raises_what_the_server_means(orchestrate: Orchestrate) -> None:
    orchestrator = orchestrate()
    reader = orchestrator.client("reader", Role.READ)
    for kind, stub, method in (
        (Unauthenticated, orchestrator.stub(), "GetCampaign"),
        (PermissionDenied, reader, "PauseCampaign"),
        (NotFound, reader, "GetCampaign"),
    ):
        with pytest.raises(kind), rpc.calling("here"):
            getattr(stub, method)(METHODS[method][1]("campaigns/x"), timeout=10)


@pytest.mark.parametrize(
    ("address", "setting", "needed"),
    [
        ("127.0.0.1:0", None, False),
        ("localhost:0", None, False),
        ("[::1]:0", None, False),
        ("unix:/tmp/s", None, False),
        ("0.0.0.0:0", None, True),
        ("[::]:0", None, True),
        ("gpu-box:50050", None, True),
        ("127.0.0.1:0", True, True),
        ("0.0.0.0:0", False, False),
    ],
)
def test_a_token_is_required_where_others_can_reach(address: str, setting: bool | None, needed: bool) -> None:
    assert OrchestratorSettings(address=address, require_token=setting).needs_token is needed
    assert OrchestratorSettings(address=address, require_token=setting, insecure=True).needs_token is needed


def test_tokens_are_kept_as_hashes(tmp_path: Path) -> None:
    with Tokens(tmp_path) as tokens:
        made = [tokens.create(f"t{i}", Role.READ) for i in range(20)]
        assert len(set(made)) == 20 and all(len(token) > 43 for token in made)
        assert [record.last_four for record in tokens.records()] == [token[-4:] for token in made]
        assert tokens.find(made[3]).name == "t3"
    for file in tmp_path.iterdir():
        content = file.read_bytes()
        assert not any(token.encode() in content or token.removeprefix("caligo_").encode() in content for token in made)


def test_tokens_can_be_made_while_others_read(tmp_path: Path) -> None:
    """Two connections as of two processes, in turn and at once; nothing is lost or locked out."""
    with Tokens(tmp_path) as orchestrator, Tokens(tmp_path) as command:
        stop = threading.Event()

        def look() -> None:
            while not stop.is_set():
                orchestrator.find("caligo_nothing")

        reader = threading.Thread(target=look)
        reader.start()
        made = {f"t{i}": command.create(f"t{i}", Role.SUBMIT) for i in range(20)}
        stop.set()
        reader.join()
        assert all(orchestrator.find(token).name == name for name, token in made.items())
        command.revoke("t0")
        command.revoke("t0")
        assert orchestrator.find(made["t0"]) is None


def test_names_of_tokens_are_checked(tmp_path: Path) -> None:
    from caligo.errors import AlreadyExists, InvalidArgument

    with Tokens(tmp_path) as tokens:
        for name in ("", "-x", "a b", "x" * 64, "a/b", "ä", "a\n"):
            with pytest.raises(InvalidArgument, match="name"):
                tokens.create(name, Role.READ)
        with pytest.raises(InvalidArgument, match="owner"):
            tokens.create("a", Role.READ, "a/b")
        tokens.create("a", Role.READ)
        tokens.revoke("a")
        with pytest.raises(AlreadyExists):
            tokens.create("a", Role.READ)
        with pytest.raises(NotFound):
            tokens.revoke("b")
