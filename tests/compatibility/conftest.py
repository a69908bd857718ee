"""What release 0.1 left behind (`tests/assets/release-0.1`), copied for each test, and today's orchestrator on it."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from caligo_orchestrator.api import access
from caligo_orchestrator.api.server import service
from caligo_orchestrator.campaigns.resource import Campaigns
from caligo_orchestrator.settings import OrchestratorSettings

from caligo import rpc
from caligo.client import CampaignClient

ASSETS = Path(__file__).parents[1] / "assets" / "release-0.1"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The originals; for reading."""
    return ASSETS


@pytest.fixture
def data_directory(tmp_path: Path, assets: Path) -> Path:
    """A copy of the server's data directory."""
    return Path(shutil.copytree(assets / "data", tmp_path / "data"))


@dataclasses.dataclass
class Server:
    """Today's orchestrator on a data directory; the services that it would call are not there."""

    address: str
    campaigns: Campaigns
    directory: Path

    def client(self) -> CampaignClient:
        return CampaignClient(self.address, patience_seconds=5)


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[Path], Server]]:
    """`serve(directory)` starts one; all are stopped at the end."""
    with contextlib.ExitStack() as stack:

        def start(directory: Path) -> Server:
            nobody = f"unix:{tmp_path}/nobody"
            settings = OrchestratorSettings(
                address=f"unix:{tmp_path}/orchestrator",
                data_directory=directory,
                sampler=nobody,
                simulator=nobody,
                surrogate=nobody,
                patience_seconds=60,
            )
            campaigns = stack.enter_context(contextlib.closing(Campaigns(settings)))
            guard = stack.enter_context(access.guard(settings))
            server = rpc.Server(settings.address, [service(campaigns)], interceptors=[guard], threads=settings.threads)
            campaigns.start()
            server.start()
            stack.callback(server.stop, 0)
            return Server(settings.address, campaigns, directory)

        yield start


@pytest.fixture
def upgraded(serve: Callable[[Path], Server], data_directory: Path) -> Server:
    """Today's orchestrator on the data directory of release 0.1."""
    return serve(data_directory)
