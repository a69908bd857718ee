"""An orchestrator whose campaigns are never run: what is tested here is who may ask for what, and how much."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import numpy as np
import pytest
import trustme
from caligo_orchestrator.api import access
from caligo_orchestrator.api.server import service
from caligo_orchestrator.campaigns.resource import Campaigns
from caligo_orchestrator.settings import OrchestratorSettings
from caligo_orchestrator.store.journal import Journal

from caligo import rpc
from caligo.layout import JOURNAL_NAME
from caligo.phases import Phase
from caligo.results import ROW_DTYPE
from caligo.tls import Tls
from caligo.tokens import Role, Tokens
from caligo.v1 import campaign_pb2, campaign_pb2_grpc


@dataclasses.dataclass
class Orchestrator:
    """A listening orchestrator, and tokens for it."""

    settings: OrchestratorSettings
    _channels: contextlib.ExitStack

    @property
    def address(self) -> str:
        return self.settings.address

    @property
    def directory(self) -> Path:
        return self.settings.data_directory

    def token(self, name: str, role: Role, owner: str = "") -> str:
        with Tokens(self.directory) as tokens:
            return tokens.create(name, role, owner)

    def stub(self, token: str = "", **options: object) -> campaign_pb2_grpc.CampaignServiceStub:
        channel = self._channels.enter_context(rpc.channel(self.address, token=token, **options))
        return campaign_pb2_grpc.CampaignServiceStub(channel)

    def channel(self) -> grpc.Channel:
        return self._channels.enter_context(rpc.channel(self.address))

    def client(self, name: str, role: Role = Role.SUBMIT, owner: str = "") -> campaign_pb2_grpc.CampaignServiceStub:
        """A stub with a token of its own."""
        return self.stub(self.token(name, role, owner))

    def create(self, stub: campaign_pb2_grpc.CampaignServiceStub, name: str = "cliff", **fields: object) -> str:
        """Make a campaign; returns its resource name."""
        request = campaign_pb2.CreateCampaignRequest(spec=campaign_pb2.CampaignSpec(name=name), **fields)
        return stub.CreateCampaign(request, timeout=10).campaign.name

    @contextlib.contextmanager
    def journal(self) -> Iterator[Journal]:
        with contextlib.closing(Journal(self.directory / JOURNAL_NAME)) as journal:
            yield journal

    def fill(self, name: str, rows: int) -> None:
        """Put rows of phase 1 into the journal."""
        block = np.zeros(rows, dtype=ROW_DTYPE)
        block["index"] = np.arange(rows)
        with self.journal() as journal:
            journal.append_rows(name.removeprefix("campaigns/"), Phase.LHS, block)


@pytest.fixture
def orchestrate(tmp_path: Path) -> Iterator[Callable[..., Orchestrator]]:
    """`orchestrate(**settings)` starts one; tokens are required unless `require_token` says otherwise.

    Its campaigns wait for services that are not there.
    """
    with contextlib.ExitStack() as stack:

        def start(**changes: object) -> Orchestrator:
            nowhere = dict.fromkeys(("sampler", "simulator", "surrogate"), "127.0.0.1:1")
            given = {"data_directory": tmp_path / "data", "require_token": True, **nowhere, **changes}
            settings = OrchestratorSettings(address=f"unix:{tmp_path}/o", **given)
            campaigns = stack.enter_context(contextlib.closing(Campaigns(settings)))
            campaigns.start()
            guard = stack.enter_context(access.guard(settings))
            server = rpc.Server(
                settings.address,
                [service(campaigns)],
                interceptors=[guard],
                options=settings.server_options,
                threads=settings.threads,
                places=settings.places,
                stall_seconds=settings.stall_seconds,
            )
            server.start()
            stack.callback(server.stop, 0)
            channels = stack.enter_context(contextlib.ExitStack())
            return Orchestrator(settings, channels)

        yield start


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def issue(authority: trustme.CA, tmp_path: Path) -> Callable[..., Tls]:
    """`issue(name, ca=True)` writes a certificate for a name; with `ca`, the other side must show one as well."""

    def issue(*names: str, ca: bool = False, by: trustme.CA = authority) -> Tls:
        directory = tmp_path / "tls"
        directory.mkdir(exist_ok=True)
        leaf = by.issue_cert(*names)
        by.cert_pem.write_to_path(directory / "ca.pem")
        leaf.private_key_and_cert_chain_pem.write_to_path(directory / f"{names[0]}-both.pem")
        leaf.cert_chain_pems[0].write_to_path(directory / f"{names[0]}.pem")
        leaf.private_key_pem.write_to_path(directory / f"{names[0]}-key.pem")
        return Tls(
            directory / "ca.pem" if ca else None, directory / f"{names[0]}.pem", directory / f"{names[0]}-key.pem"
        )

    return issue
