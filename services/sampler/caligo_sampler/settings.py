"""Settings of the sampler (`CALIGO_SAMPLER_*`). Free of numba, so that `--help` answers at once."""

from __future__ import annotations

from caligo.settings import ServiceSettings


class SamplerSettings(ServiceSettings, section="sampler"):
    """What the sampler can be told: what every service can."""

    address: str = "127.0.0.1:50051"
    """Where to listen: `host:port` (port 0: any free one) or `unix:PATH`."""
