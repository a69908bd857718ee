"""`python -m caligo_surrogate`: the surrogate service."""

from __future__ import annotations

import sys

from caligo import rpc
from caligo.errors import InvalidArgument
from caligo_surrogate import keops
from caligo_surrogate.settings import SurrogateSettings


def serve(settings: SurrogateSettings) -> None:
    """Serve until told to stop."""
    # Torch takes seconds to load; wrong settings are reported before that.
    if settings.kernel == "keops" and (lack := keops.missing()):
        raise InvalidArgument("kernel", f"keops needs {lack}; use auto, dense or blocks")
    try:
        from caligo_surrogate import server
    except OSError as error:
        if error.filename is None:
            raise
        # What is written at import is KeOps' directory alone, where KeOps is installed.
        raise InvalidArgument("KEOPS_CACHE_FOLDER", f"{error.filename}: {error.strerror}") from None

    server.serve(settings)


if __name__ == "__main__":
    sys.exit(rpc.main(SurrogateSettings, serve))
