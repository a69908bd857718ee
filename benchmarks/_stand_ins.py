"""Simulators and a surrogate that cost next to nothing, as processes: those of the orchestrator's tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any, Final

from caligo import rpc
from caligo.settings import ServiceSettings
from caligo.v1 import simulator_pb2_grpc, surrogate_pb2_grpc

_SOURCE: Final = Path(__file__).parents[1] / "tests/orchestrator/conftest.py"


def _load() -> Any:
    spec = importlib.util.spec_from_file_location("caligo_stand_ins", _SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


_stand_ins = _load()


class _Settings(ServiceSettings, section="stand_in"):
    """Only what every service can be told."""


def serve_simulator(address: str, delay_seconds: float) -> None:
    """Answer with the closed form after a delay that differs from row to row."""
    simulator = _stand_ins.StandInSimulator()
    simulator.delay_seconds = delay_seconds
    register = simulator_pb2_grpc.add_SimulatorServiceServicer_to_server
    rpc.run(_Settings(address=address), [rpc.Service("caligo.v1.SimulatorService", register, simulator)])


def serve_surrogate(address: str, think_seconds: float) -> None:
    """Propose rows that are a hash of all that was learned, and of the order of it."""
    surrogate = _stand_ins.StandInSurrogate()
    surrogate.think_seconds = think_seconds
    surrogate.skip_every, surrogate.audit_every = 7, 5
    register = surrogate_pb2_grpc.add_SurrogateServiceServicer_to_server
    rpc.run(_Settings(address=address), [rpc.Service("caligo.v1.SurrogateService", register, surrogate)])
