"""`python -m caligo_orchestrator`, also reached by `caligo serve orchestrator`."""

import sys

from caligo import rpc
from caligo_orchestrator.api.server import serve
from caligo_orchestrator.settings import OrchestratorSettings

if __name__ == "__main__":
    sys.exit(rpc.main(OrchestratorSettings, serve))
