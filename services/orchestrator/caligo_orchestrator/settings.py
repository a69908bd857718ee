"""Settings of the orchestrator."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal

from pydantic import Field

from caligo.addresses import is_private
from caligo.errors import InvalidArgument
from caligo.settings import ServiceSettings
from caligo.tls import Tls
from caligo_orchestrator.api.quotas import Quotas

_SPARE_THREADS: Final = 32


class OrchestratorSettings(ServiceSettings, section="orchestrator"):
    """Where campaigns are kept and where the other services are."""

    address: str = "127.0.0.1:50050"
    """Where to listen: `host:port` (port 0: any free one) or `unix:PATH`."""
    data_directory: Path = Path("caligo-data")
    """Journal and campaign files; made if it is not there."""
    sampler: str = "127.0.0.1:50051"
    """Address of the sampler."""
    simulator: str = "127.0.0.1:50052"
    """Address of the simulators; `dns:///name:port` or `ipv4:A:P,B:P` for several replicas."""
    surrogate: str = "127.0.0.1:50053"
    """Address of the surrogate."""
    services_ca: Path | None = None
    """Certificates of the authorities of the three services (PEM); they are then called through TLS, but those on a
    Unix socket."""
    services_certificate: Path | None = None
    """Own certificate to show them (PEM), where they ask for one."""
    services_key: Path | None = None
    """Key of that certificate (PEM, without a password)."""
    services_name: str = ""
    """Name that their certificates hold, where it is not the one in their addresses."""
    farm: Literal["grpc", "dask"] = "grpc"
    """What runs the simulators: replicas of their service, or a Dask cluster."""
    scheduler: str = ""
    """With `farm` dask, address of its scheduler: `tcp://host:port`."""
    running_campaigns: int = Field(4, ge=1, le=64)
    """Campaigns run at once, sharing the simulators by priority; others wait for their turn, by priority and age."""
    patience_seconds: float = Field(120, gt=0)
    """How long a service may be unreachable before a campaign pauses."""
    require_token: bool | None = None
    """Whether clients need a token of `caligo token create`; by default where other machines can reach the address."""
    client_active_campaigns: int = Field(32, ge=1)
    """Campaigns that one client may have which have not ended. Without tokens all clients together are one."""
    client_campaigns: int = Field(2000, ge=1)
    """Campaigns that one client may have in all."""
    client_active_rows: int = Field(20_000_000, ge=1)
    """Rows that the specs of a client's unfinished campaigns may ask for together."""
    client_rows: int = Field(100_000_000, ge=1)
    """Rows that the specs of a client's campaigns may ask for in all."""
    client_calls: int = Field(16, ge=1)
    """Calls of one client under way at once, streams apart."""
    max_calls: int = Field(64, ge=1, le=1024)
    """Calls of all clients under way at once, streams apart; each has a thread."""
    client_streams: int = Field(32, ge=1)
    """Streams (watch, results, download) of one client open at once."""
    max_streams: int = Field(128, ge=1, le=1024)
    """Streams of all clients open at once; each has a thread."""
    stall_seconds: float = Field(60, gt=0)
    """A call is cut off when its client has not read, or not sent, what is due for so long."""
    max_request_mib: int = Field(4, ge=1, le=16)
    """Largest request; a prediction at 65,536 rows takes 2.3 MiB."""

    @property
    def needs_token(self) -> bool:
        """Whether a call without a token is refused."""
        return not is_private(self.address) if self.require_token is None else self.require_token

    @property
    def threads(self) -> int:
        """Of the server: one a call or stream that may be under way, and some for health and for what is refused."""
        return self.max_calls + self.max_streams + _SPARE_THREADS

    @property
    def places(self) -> int:
        """Of the server: threads, among the spare ones, for calls of health and reflection that do not move."""
        return _SPARE_THREADS // 2

    @property
    def server_options(self) -> tuple[tuple[str, int], ...]:
        """gRPC's."""
        return (("grpc.max_receive_message_length", self.max_request_mib * 2**20),)

    @property
    def quotas(self) -> Quotas:
        """What one client may have."""
        return Quotas(self.client_active_campaigns, self.client_campaigns, self.client_active_rows, self.client_rows)

    def services_tls(self) -> Tls | None:
        """How the three services are called; None: without encryption.

        Raises:
            InvalidArgument: a file cannot be used, or one is set without what it needs.
        """
        if self.services_ca is None:
            for field in ("services_certificate", "services_key", "services_name"):
                if getattr(self, field):
                    raise InvalidArgument(field, "needs services_ca")
            return None
        fields = ("services_ca", "services_certificate", "services_key")
        return Tls(self.services_ca, self.services_certificate, self.services_key, self.services_name, fields)
