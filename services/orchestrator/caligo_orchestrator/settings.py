"""Settings of the orchestrator."""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from caligo.settings import ServiceSettings


class OrchestratorSettings(ServiceSettings, section="orchestrator"):
    """Where campaigns are kept and where the other services are."""

    address: str = "127.0.0.1:50050"
    """Where to listen: `host:port` (port 0: any free one) or `unix:PATH`."""
    data_directory: Path = Path("caligo-data")
    """Journal and campaign files; made if it is not there."""
    sampler: str = "127.0.0.1:50051"
    """Address of the sampler."""
    simulator: str = "127.0.0.1:50052"
    """Address of the simulators; `dns:///name:port` for several replicas."""
    surrogate: str = "127.0.0.1:50053"
    """Address of the surrogate."""
    simulator_streams: int = Field(2, ge=1, le=1024)
    """Streams of rows open to the simulators at once; two a replica keep it busy."""
    running_campaigns: int = Field(2, ge=1, le=64)
    """Campaigns run at the same time; others wait in the queue."""
    patience_seconds: float = Field(120, gt=0)
    """How long a service may be unreachable before a campaign pauses."""
