"""`python -m caligo_surrogate`: the surrogate service."""

from __future__ import annotations

import sys

from caligo import rpc
from caligo_surrogate.settings import SurrogateSettings


def serve(settings: SurrogateSettings) -> None:
    """Serve until told to stop."""
    # Torch takes seconds to load; wrong settings are reported before that.
    from caligo_surrogate import server

    server.serve(settings)


if __name__ == "__main__":
    sys.exit(rpc.main(SurrogateSettings, serve))
