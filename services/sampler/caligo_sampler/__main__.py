"""`python -m caligo_sampler`: the sampler service."""

from __future__ import annotations

import sys

from caligo import rpc
from caligo_sampler.settings import SamplerSettings


def serve(settings: SamplerSettings) -> None:
    """Serve until told to stop."""
    from caligo_sampler import server  # kernels are compiled here; wrong settings are reported before that

    server.serve(settings)


if __name__ == "__main__":
    sys.exit(rpc.main(SamplerSettings, serve))
