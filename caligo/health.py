"""`python -m caligo.health SERVICE`: whether the service that runs beside us, with the same settings, serves.

Exit codes: 0 it serves, 1 it does not, 2 its settings cannot be used. Made for health checks of containers.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from typing import Final

from grpc_health.v1 import health_pb2, health_pb2_grpc

from caligo import rpc
from caligo.errors import CaligoError, InvalidArgument, Unreachable
from caligo.settings import SECTIONS, ServiceSettings
from caligo.tls import Tls

_ANY: Final = ("0.0.0.0", "[::]")
"""Hosts that stand for every address of the machine."""


def check(settings: ServiceSettings, seconds: float) -> None:
    """Ask a service that listens where `settings` say, with its own certificate where there is one.

    Its certificate must be the one in the settings, and hold `localhost` where it listens on every address.

    Args:
        seconds: how long to wait for the answer.

    Raises:
        Unreachable: it does not serve, or nobody answers there.
        InvalidArgument: a file of the settings cannot be used.
    """
    address, tls = _own_address(settings.address), settings.tls()
    if tls is not None:  # whoever signs it, it is ours
        tls = Tls(tls.certificate, tls.certificate, tls.key, fields=tls.fields)
    with rpc.channel(address, tls) as channel, rpc.calling(address):
        request = health_pb2.HealthCheckRequest()
        response = health_pb2_grpc.HealthStub(channel).Check(request, timeout=seconds)
    if response.status != health_pb2.HealthCheckResponse.SERVING:
        raise Unreachable(f"{address}: {health_pb2.HealthCheckResponse.ServingStatus.Name(response.status)}")


def main(arguments: list[str] | None = None) -> int:
    """Entry point: one line on standard error says why a service does not serve. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m caligo.health", description="Ask whether a service serves.")
    parser.add_argument("service", choices=SECTIONS)
    parser.add_argument("--seconds", type=float, default=3, help="how long to wait for an answer (default: 3)")
    given = parser.parse_args(arguments)
    try:
        module = importlib.import_module(f"caligo_{given.service}.settings")
        settings_type: type[ServiceSettings] = getattr(module, f"{given.service.capitalize()}Settings")
        check(settings_type.from_command_line([]), given.seconds)
    except CaligoError as error:
        print(f"caligo {given.service}: {' '.join(str(error).split())}", file=sys.stderr)
        return 2 if isinstance(error, InvalidArgument) else 1
    return 0


def _own_address(address: str) -> str:
    host, separator, port = address.rpartition(":")
    return f"localhost:{port}" if separator and host in _ANY else address


if __name__ == "__main__":
    sys.exit(main())
