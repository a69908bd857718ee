"""Makes what lies beside it, with release 0.1 of Caligo: `python make.py DIRECTORY`, its packages on PYTHONPATH.

A server's data directory whose campaigns are in every state that a campaign can be left in, and answers of that server
as they went over the wire.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import sys
import time
from pathlib import Path

import grpc

from caligo import __version__
from caligo.cli.embedded import embedded_services
from caligo.cli.interrupts import Interrupts
from caligo.client import CampaignClient, CampaignState
from caligo.seeds import Phase
from caligo.spec import CampaignSpec, to_proto, validate
from caligo.v1 import campaign_pb2 as pb


def spec(name: str, bound: str = "lupo2023", **changes: object) -> CampaignSpec:
    values = {
        "name": name,
        "seed": 12,
        "space": {"bounds": {"N": [3.2e4, 3e5], "F": [0.9, 1.0], "eta": [0.3, 1.0]}},
        "physics": {"bound": bound},
        "protocol": {"max_decoded_frames": 8},
        "surrogate": {"training_steps": 20},
        "lhs": {"samples": 16},
        "active": {"samples": 8, "batch_size": 4},
    }
    return validate(CampaignSpec, {**values, **changes})


def await_rows(client: CampaignClient, name: str, phase: Phase, rows: int) -> None:
    """Wait until a running campaign has so many rows of a phase, and still runs."""
    while sum(map(len, client.results(name, phase))) < rows:
        assert not client.get(name).state.is_final
        time.sleep(0.05)


def make_campaigns(client: CampaignClient) -> None:
    """One at a time, so that each stands where it is left."""
    client.wait(client.create(spec("lupo"), request_id="lupo-1").name)
    client.wait(client.create(spec("erven", "erven2014")).name)

    slow = {"active": {"samples": 16, "batch_size": 2, "lookahead": 0}, "surrogate": {"training_steps": 200}}
    client.create(spec("kww", "kww2012", **slow))
    await_rows(client, "kww", Phase.ACTIVE, 2)
    assert client.cancel("kww").state is CampaignState.CANCELLED

    client.create(spec("paused-active", **slow), request_id="paused-active-1", priority=200)
    await_rows(client, "paused-active", Phase.ACTIVE, 4)
    client.pause("paused-active")
    assert client.update("paused-active", samples=12).state is CampaignState.PAUSED

    client.create(spec("paused-lhs", lhs={"samples": 200}))
    await_rows(client, "paused-lhs", Phase.LHS, 8)
    assert client.pause("paused-lhs").state is CampaignState.PAUSED

    client.create(spec("running", lhs={"samples": 200}))
    await_rows(client, "running", Phase.LHS, 8)
    assert client.create(spec("queued", "kww2012"), request_id="queued-1").state is CampaignState.QUEUED


def record(client: CampaignClient, directory: Path) -> None:
    """Messages as they go over the wire: one a file, those of a stream numbered."""
    directory.mkdir()
    (directory / "create-request.bin").write_bytes(
        pb.CreateCampaignRequest(
            spec=to_proto(spec("asked-by-0-1"), pb.CampaignSpec), request_id="asked-by-0-1"
        ).SerializeToString()
    )
    names = [campaign.id for campaign in client.list()]
    requests = {
        "list": ("ListCampaigns", pb.ListCampaignsRequest()),
        **{f"get-{name}": ("GetCampaign", pb.GetCampaignRequest(name=f"campaigns/{name}")) for name in names},
        "results-lhs": ("StreamResults", pb.StreamResultsRequest(name="campaigns/lupo", phase=Phase.LHS)),
        "results-active": ("StreamResults", pb.StreamResultsRequest(name="campaigns/lupo", phase=Phase.ACTIVE)),
        "watch": ("WatchCampaign", pb.WatchCampaignRequest(name="campaigns/lupo")),
    }
    with grpc.insecure_channel(client.address) as channel:
        for file, (method, request) in requests.items():
            path, sent = f"/caligo.v1.CampaignService/{method}", request.SerializeToString()
            if method in ("StreamResults", "WatchCampaign"):
                for number, answer in enumerate(channel.unary_stream(path)(sent)):
                    (directory / f"{file}-{number}.bin").write_bytes(answer)
            else:
                (directory / f"{file}.bin").write_bytes(channel.unary_unary(path)(sent))


def main(directory: Path) -> None:
    assert __version__ == "0.1.0"
    os.environ["CALIGO_ORCHESTRATOR_RUNNING_CAMPAIGNS"] = "1"
    data = directory / "data"
    with embedded_services(data, Interrupts()) as services, CampaignClient(services.address) as client:
        make_campaigns(client)
        record(client, directory / "messages")
    shutil.rmtree(data / "logs")
    (data / "lock").unlink()
    with sqlite3.connect(data / "journal.sqlite3", isolation_level=None) as journal:
        for statement in ("PRAGMA wal_checkpoint(TRUNCATE)", "PRAGMA journal_mode=DELETE", "VACUUM"):
            journal.execute(statement)
    journal.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
