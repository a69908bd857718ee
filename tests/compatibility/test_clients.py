"""The client of release 0.1 at today's server, and today's client at a server of release 0.1."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from google.protobuf.message import Message

from caligo import rpc
from caligo.cli.output import campaign_to_plain
from caligo.client import CampaignClient, CampaignState, Changed
from caligo.phases import Phase
from caligo.results import ProtocolOutcome, ProtocolResult
from caligo.spec import CampaignSpec
from caligo.v1 import campaign_pb2

OldCaligo = Callable[..., subprocess.CompletedProcess]


# --- a client of release 0.1 ------------------------------------------------------------------------------------------


@pytest.fixture(scope="session")
def old_library(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package `caligo` of release 0.1, installed into a directory of its own."""
    (wheel,) = (assets / "wheel").glob("*.whl")
    directory = tmp_path_factory.mktemp("release-0.1")
    shutil.unpack_archive(wheel, directory, "zip")
    return directory


@pytest.fixture
def old_caligo(old_library: Path, upgraded, tmp_path: Path) -> OldCaligo:
    """Runs the command of release 0.1 against today's server."""

    def run(*arguments: object) -> subprocess.CompletedProcess:
        code = (
            "import sys, caligo, caligo.cli as cli\n"
            f"assert caligo.__version__ == '0.1.0' and caligo.__file__.startswith({str(old_library)!r})\n"
            "sys.exit(cli.main())"
        )
        return subprocess.run(
            [sys.executable, "-c", code, *map(str, arguments)],
            env={**os.environ, "PYTHONPATH": str(old_library), "CALIGO_ADDRESS": upgraded.address},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    return run


@pytest.fixture
def new_campaign(upgraded) -> str:
    """A campaign of today with two rows, ended."""
    with upgraded.client() as client:
        id = client.create(CampaignSpec(name="new")).id
        rows = [
            ProtocolResult(ProtocolOutcome.SUCCESS, pairs=10, key_length=3, frames_decoded=1).to_row(
                index, np.zeros(9, dtype=np.float32)
            )
            for index in range(2)
        ]
        upgraded.campaigns._journal.append_rows(id, Phase.LHS, np.concatenate(rows))
        client.cancel(id)
        return id


def test_it_lists_shows_and_watches_campaigns_of_both_releases(old_caligo: OldCaligo, new_campaign: str) -> None:
    listed = [json.loads(line) for line in old_caligo("list", "--json").stdout.splitlines()]
    assert {"lupo", "queued", new_campaign} <= {campaign["name"].removeprefix("campaigns/") for campaign in listed}
    shown = json.loads(old_caligo("show", new_campaign, "--json").stdout)
    assert (shown["state"], shown["spec"]["name"]) == ("cancelled", "new")
    assert json.loads(old_caligo("show", "kww", "--json").stdout)["spec"]["physics"]["bound"] == "kww2012"
    watched = old_caligo("watch", new_campaign)
    assert (watched.returncode, "cancelled" in watched.stderr) == (0, True)
    table = old_caligo("list")
    assert (table.returncode, table.stderr) == (0, "")


@pytest.mark.parametrize("id", ["new", "lupo"])
def test_rows_of_today_are_refused_by_it_by_name(old_caligo: OldCaligo, new_campaign: str, id: str) -> None:
    """They mean something else than it believes; so do old rows with counts that it does not have."""
    refused = old_caligo("results", id, "--json")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert refused.stderr.splitlines() == [
        "caligo: rows.counts.schema: must be 'caligo.counts/1', not 'caligo.counts/2'"
    ]


def test_it_opens_files_of_its_own_release_and_refuses_those_of_today_by_name(old_caligo: OldCaligo, upgraded) -> None:
    assert old_caligo("download", "lupo", "--output", "lupo.h5").returncode == 0
    assert json.loads(old_caligo("dataset", "info", "lupo.h5", "--json").stdout)["phases"]["lhs"]["rows"] == 20
    with upgraded.client() as client:
        client.cancel("paused-lhs")  # which writes its file
    assert old_caligo("download", "paused-lhs", "--output", "new.h5").returncode == 0
    refused = old_caligo("dataset", "info", "new.h5")
    assert (refused.returncode, refused.stderr) == (
        2,
        "caligo: new.h5: must have the root attribute format='caligo-campaign/1'\n",
    )


def test_what_it_submits_is_carried_out_under_the_claim_of_that_name(old_caligo: OldCaligo, upgraded) -> None:
    for bound in ("lupo2023", "erven2014"):
        submitted = old_caligo("submit", write_spec(upgraded.directory, bound))
        assert (submitted.returncode, submitted.stdout) == (0, f"campaigns/by-{bound}\n")
        with upgraded.client() as client:
            spec = client.get(f"by-{bound}").spec
        assert (spec.physics.claim, spec.rules) == (bound, None)
        assert spec.protocol.partition == {"lupo2023": "alice", "erven2014": "bob"}[bound]
    refused = old_caligo("submit", write_spec(upgraded.directory, "kww2012"))
    assert refused.returncode == 2
    assert "spec.physics.claim: kww2012 is no claim on oblivious transfer" in refused.stderr


def write_spec(directory: Path, bound: str) -> Path:
    path = directory / f"{bound}.yaml"
    path.write_text(f"name: by-{bound}\nphysics: {{bound: {bound}}}\n")
    return path


# --- a server of release 0.1 ------------------------------------------------------------------------------------------


class Recorded(grpc.GenericRpcHandler):
    """Answers with the bytes that a server of release 0.1 sent."""

    def __init__(self, messages: Path) -> None:
        self._messages = messages
        self.changed: dict[str, bytes] = {}
        """What a test puts in the place of a message, by its name."""

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        pb = campaign_pb2
        match details.method.rpartition("/")[2]:
            case "ListCampaigns":
                return _unary(pb.ListCampaignsRequest, lambda request: self.read("list"))
            case "GetCampaign":
                return _unary(
                    pb.GetCampaignRequest, lambda request: self.read(f"get-{request.name.removeprefix('campaigns/')}")
                )
            case "StreamResults":
                return _stream(
                    pb.StreamResultsRequest,
                    lambda request: self._stream(f"results-{Phase(request.phase).name.lower()}"),
                )
            case "WatchCampaign":
                return _stream(pb.WatchCampaignRequest, lambda request: self._stream("watch"))
        return None

    def read(self, name: str) -> bytes:
        return self.changed.get(name) or (self._messages / f"{name}.bin").read_bytes()

    def _stream(self, name: str) -> Iterator[bytes]:
        for number in range(len(list(self._messages.glob(f"{name}-*.bin")))):
            yield self.read(f"{name}-{number}")


def _unary(request: type[Message], answer: Callable[[Any], bytes]) -> grpc.RpcMethodHandler:
    return grpc.unary_unary_rpc_method_handler(lambda asked, _: answer(asked), request.FromString, bytes)


def _stream(request: type[Message], answer: Callable[[Any], Iterator[bytes]]) -> grpc.RpcMethodHandler:
    return grpc.unary_stream_rpc_method_handler(lambda asked, _: answer(asked), request.FromString, bytes)


@pytest.fixture
def recorded(assets: Path) -> Recorded:
    return Recorded(assets / "messages")


@pytest.fixture
def client(recorded: Recorded, tmp_path: Path) -> Iterator[CampaignClient]:
    """Today's client at a server of release 0.1, as it was recorded."""

    def register(_: object, server: grpc.Server) -> None:
        server.add_generic_rpc_handlers((recorded,))

    name = campaign_pb2.DESCRIPTOR.services_by_name["CampaignService"].full_name
    server = rpc.Server(f"unix:{tmp_path}/old", [rpc.Service(name, register, None)])
    server.start()
    with CampaignClient(server.address, patience_seconds=5) as made:
        yield made
    server.stop(0)


def test_campaigns_are_listed_shown_and_watched(client: CampaignClient) -> None:
    campaigns = {campaign.id: campaign for campaign in client.list()}
    assert {id: campaign.state.name for id, campaign in campaigns.items()} == {
        "lupo": "SUCCEEDED", "erven": "SUCCEEDED", "kww": "CANCELLED", "paused-active": "PAUSED",
        "paused-lhs": "PAUSED", "running": "RUNNING", "queued": "QUEUED",
    }  # fmt: skip
    for id, campaign in campaigns.items():
        assert client.get(id).spec == campaign.spec
        assert campaign.spec.rules.startswith("made under the rules of release 0.1")
    *_, last = client.watch("lupo")
    assert isinstance(last, Changed)
    assert last.campaign.findings == client.get("lupo").findings
    assert client.wait("lupo").state is CampaignState.SUCCEEDED


def test_rows_are_read(client: CampaignClient) -> None:
    rows = {phase: list(client.results("lupo", phase)) for phase in (Phase.LHS, Phase.ACTIVE)}
    assert [len(block) for blocks in rows.values() for block in blocks] == [20, 8]
    assert not any(block["counts"][:, 9:].any() for blocks in rows.values() for block in blocks)


def test_a_state_or_a_choice_that_is_not_known_breaks_no_list(client: CampaignClient, recorded: Recorded) -> None:
    answer = campaign_pb2.ListCampaignsResponse.FromString(recorded.read("list"))
    answer.campaigns[0].state = 42  # type: ignore[assignment]
    answer.campaigns[0].progress.phase = 17  # type: ignore[assignment]
    answer.campaigns[1].spec.surrogate.acquisition = "oracle"
    answer.campaigns[2].spec.physics.claim = "composable2031"
    recorded.changed["list"] = answer.SerializeToString()
    first, second, third, *_ = client.list()
    assert (first.state.name, first.state.is_final) == ("CODE_42", False)
    assert campaign_to_plain(first)["progress"]["phase"] == "code_17"
    assert second.spec.surrogate.acquisition == "oracle"
    assert third.spec.rules == "made under the claim 'composable2031', which this release does not know"
