"""The simulation farm: rows go to whichever simulator has room, results come back as they complete.

`open_farm` makes the engine that the settings ask for; the rest of the orchestrator knows only `Farm` and `Job`.
"""

from __future__ import annotations

from caligo.errors import InvalidArgument
from caligo_orchestrator.farm.base import Farm, FarmStats, Job
from caligo_orchestrator.farm.replicas import ReplicaFarm
from caligo_orchestrator.settings import OrchestratorSettings

__all__ = ["Farm", "FarmStats", "Job", "open_farm"]


def open_farm(settings: OrchestratorSettings) -> Farm:
    """The farm of these settings.

    Raises:
        InvalidArgument: `farm` is dask and `scheduler` is not set, or Dask is not installed.
    """
    if settings.farm == "dask":
        if not settings.scheduler:
            raise InvalidArgument("scheduler", "must be the address of a Dask scheduler, tcp://host:port")
        try:
            from caligo_orchestrator.farm.dask import DaskFarm
        except ModuleNotFoundError as error:
            raise InvalidArgument("farm", f"dask needs caligo-orchestrator[dask]: {error}") from None
        return DaskFarm(settings.scheduler, settings.patience_seconds)
    return ReplicaFarm(settings.simulator, settings.patience_seconds, settings.services_tls())
