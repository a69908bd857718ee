"""Names and texts in requests lead nowhere but to campaigns, and nothing in them is run."""

from __future__ import annotations

import ast
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import pytest

from caligo.v1 import campaign_pb2 as pb

Orchestrate = Callable[..., Any]
ROOT = Path(__file__).parents[2]
NAMES = [
    "campaigns/../secret",
    "campaigns/cliff/../../secret",
    "campaigns/../campaigns/cliff",
    "campaigns/./cliff",
    "campaigns/cliff/",
    "campaigns//cliff",
    "campaigns/cliff\0",
    "campaigns/CLIFF",
    "campaigns/cliff%2f..",
    "campaigns/%",
    "campaigns/_____",
    "campaigns/cliff' OR '1'='1",
    "/etc/passwd",
    "../campaigns/cliff",
    "cliff",
    "",
    "campaigns/",
    "campaigns/" + "x" * 100_000,
]


def files(directory: Path) -> set[str]:
    """What there is below a directory, but for SQLite's own."""
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if not path.name.startswith("journal")}


@pytest.mark.parametrize("name", NAMES)
def test_other_names_are_not_found(orchestrate: Orchestrate, name: str, tmp_path: Path) -> None:
    orchestrator = orchestrate()
    alice = orchestrator.client("alice")
    kept = orchestrator.create(alice)
    alice.CancelCampaign(pb.CancelCampaignRequest(name=kept))
    (tmp_path / "data" / "secret").mkdir()
    (tmp_path / "data" / "secret" / "exploration_data.h5").write_text("secret")
    before = files(tmp_path)
    for method, request in (
        ("GetCampaign", pb.GetCampaignRequest(name=name)),
        ("DeleteCampaign", pb.DeleteCampaignRequest(name=name)),
        ("DownloadDataset", pb.DownloadDatasetRequest(name=name)),
        ("StreamResults", pb.StreamResultsRequest(name=name, phase=1)),
        ("WatchCampaign", pb.WatchCampaignRequest(name=name)),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            list(answer) if hasattr(answer := getattr(alice, method)(request, timeout=10), "cancel") else None
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND, method
    assert files(tmp_path) == before
    assert alice.GetCampaign(pb.GetCampaignRequest(name=kept)).campaign.name == kept


@pytest.mark.parametrize("name", ["../x", "a/b", "a..b", ".", "A", "a b", "-a", "a\n", "ä", "x" * 64, "a\0b"])
@pytest.mark.parametrize("field", ["name", "base"])
def test_a_spec_cannot_name_a_path(orchestrate: Orchestrate, name: str, field: str, tmp_path: Path) -> None:
    alice = orchestrate().client("alice")
    before = files(tmp_path)
    with pytest.raises(grpc.RpcError) as caught:
        alice.CreateCampaign(pb.CreateCampaignRequest(spec=pb.CampaignSpec(**{field: name})))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert files(tmp_path) == before


@pytest.mark.parametrize("text", ["'; DROP TABLE campaigns; --", "$(touch here)", "{0.__class__}", "%n%n", "../../x"])
def test_free_texts_are_only_texts(orchestrate: Orchestrate, text: str, tmp_path: Path) -> None:
    orchestrator = orchestrate()
    alice = orchestrator.client("alice")
    before = files(tmp_path)
    name = orchestrator.create(alice, request_id=text)
    assert orchestrator.create(alice, request_id=text) == name
    for field in ("filter", "page_token"):
        with pytest.raises(grpc.RpcError) as caught:
            alice.ListCampaigns(pb.ListCampaignsRequest(**{field: text}))
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert files(tmp_path) - before <= {f"data/{name}"}  # the campaign's own directory
    assert [c.name for c in alice.ListCampaigns(pb.ListCampaignsRequest()).campaigns] == [name]


@pytest.mark.parametrize(
    ("offset", "length"),
    [(-1, 0), (0, -1), (2**63 - 1, 1), (-(2**63), 5), (0, -(2**63)), (10_001, 0), (9_990, 2**63 - 1)],
)
def test_a_range_cannot_leave_the_file(orchestrate: Orchestrate, offset: int, length: int, tmp_path: Path) -> None:
    orchestrator = orchestrate()
    alice = orchestrator.client("alice")
    name = orchestrator.create(alice)
    alice.CancelCampaign(pb.CancelCampaignRequest(name=name))
    directory = tmp_path / "data" / name
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "exploration_data.h5").write_bytes(b"x" * 10_000)
    with pytest.raises(grpc.RpcError) as caught:
        list(alice.DownloadDataset(pb.DownloadDatasetRequest(name=name, offset=offset, length=length)))
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_no_service_names_what_unpickles_evaluates_or_runs() -> None:
    """What could turn bytes into behaviour does not occur in what the services are made of.

    A library may do it under another name: `test_fuzz.py` sends every method what would show.
    """
    modules = {"pickle", "dill", "marshal", "shelve", "cloudpickle", "joblib", "subprocess", "pty", "runpy"}
    functions = {"eval", "exec", "__import__", "unsafe_load", "system", "popen"}
    ours = [path for path in (ROOT / "caligo").rglob("*.py") if path.parent.name != "cli"]
    sources = [*ours, *(ROOT / "services").glob("*/caligo_*/**/*.py")]
    assert len(sources) > 100
    found = set()
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            names = set()
            if isinstance(node, ast.Import):
                names = {alias.name.partition(".")[0] for alias in node.names} & modules
            elif isinstance(node, ast.ImportFrom):
                names = {(node.module or "").partition(".")[0]} & modules
                names |= {alias.name for alias in node.names} & functions
            elif isinstance(node, ast.Call):
                names = {getattr(node.func, "id", getattr(node.func, "attr", ""))} & functions
                names |= {keyword.arg for keyword in node.keywords} & {"allow_pickle", "weights_only", "shell"}
            found |= {(str(source.relative_to(ROOT)), name) for name in names}
    assert found == set()
